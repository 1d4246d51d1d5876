"""Runs ``ort-tconv`` as a user does: in a process of its own, with pipes or in a terminal."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

_ENVIRONMENT = os.environ | {"COLUMNS": "80", "TERM": "dumb"}


def run(*arguments: object, code: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess:
    """``python -m ort_tconv`` with pipes, or the same after ``code`` has run."""
    start = ["-m", "ort_tconv"]
    if code:
        start = ["-c", f"{code}\nimport sys\nfrom ort_tconv.cli import main\nsys.exit(main())"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=_ENVIRONMENT,
    )


def run_here(*arguments: object) -> subprocess.CompletedProcess:
    """The same in this process, which is faster."""
    from ort_tconv.cli import main

    words = list(map(str, arguments))
    out, err = io.StringIO(), io.StringIO()
    before = os.environ.copy()
    os.environ.update(_ENVIRONMENT)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = main(words)
    except SystemExit as stop:
        status = stop.code
    finally:
        os.environ.clear()
        os.environ.update(before)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


class Terminal:
    """``python -m ort_tconv`` in a terminal of 80 columns."""

    def __init__(self, *arguments: object, cwd: Path | None = None) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ort_tconv", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=_ENVIRONMENT | {"TERM": "xterm", "LINES": "50"},
            start_new_session=True,
            # The terminal becomes the new session's own, so that ctrl-C in it is a signal.
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
        os.close(slave)
        self.shown = ""

    def wait_for(self, text: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline and self._read(), f"no {text!r} in {self.shown!r}"

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def finish(self, seconds: float = 60) -> int:
        """Everything shown is in ``shown``; returns the exit status."""
        deadline = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < deadline, f"still running: {self.shown!r}"
        os.close(self._master)
        return self._process.wait(timeout=10)

    def _read(self) -> bool:
        """Read a little; False at the end."""
        ready, _, _ = select.select([self._master], [], [], 0.1)
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # what Linux reports when the last program in a terminal has ended
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)
