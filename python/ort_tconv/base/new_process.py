"""Measuring in a process that has done nothing before."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_in_new_process(module: str, job: dict[str, Any]) -> Any:
    """What a module of this package, run as a program, prints as JSON for a pickled job.

    ``module`` is its whole name.

    Raises OSError or subprocess.CalledProcessError, with what it wrote to standard error.
    """
    path = os.pathsep.join(
        filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")))
    )
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=pickle.dumps(job),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": path},
        check=True,
    )
    return json.loads(done.stdout)
