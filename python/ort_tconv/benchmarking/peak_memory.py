"""Run by :mod:`ort_tconv.benchmarking.benchmark` in a process of its own: a model's memory.

Reads a pickled job from standard input and writes JSON to standard output.  The peak is that of
resident memory (VmHWM in /proc/self/status) from before the session is created, when the model's
bytes and its inputs are already there, until the last run is over.
"""

from __future__ import annotations

import gc
import json
import pickle
import re
import sys
from pathlib import Path

from .job import Job


def resident(field: str) -> int:
    """Bytes: VmRSS, now, or VmHWM, the most so far."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{field}:\s*(\d+) kB", status, re.M)[1])


def main() -> None:
    job = pickle.load(sys.stdin.buffer)
    runner = Job(**job)
    runner.import_all()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    session = runner.open()
    runner.model = b""  # the session has a copy of its own
    created = resident("VmHWM")
    for _ in range(2):
        session.run()
    print(
        json.dumps(
            {
                "session_bytes": max(0, created - before),
                "peak_bytes": max(0, resident("VmHWM") - before),
            }
        )
    )


if __name__ == "__main__":
    main()
