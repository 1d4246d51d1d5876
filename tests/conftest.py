import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# Runs repeat exactly, and no test depends on how fast the machine is.
settings.register_profile(
    "default",
    derandomize=True,
    deadline=None,
    max_examples=int(os.environ.get("ORT_TCONV_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")


# A shell ignores the signal in what it starts in the background, and so would every program that a
# test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked as slow, too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run by 'make test-models', or with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
