"""Threads, processes and lifetimes: the scenarios of lifetime.py in their short form."""

import subprocess
import sys

import lifetime
import pytest


@pytest.mark.parametrize("name", lifetime.SCENARIOS)
def test_scenario(name):
    done = subprocess.run(
        [sys.executable, lifetime.__file__, name], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), "did nothing"
