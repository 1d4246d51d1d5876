"""The package's logger: silent until a program sets up :mod:`logging`."""

import logging

log = logging.getLogger("ort_tconv")
log.addHandler(logging.NullHandler())
