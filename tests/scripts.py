"""Runs the scripts of ``benchmarks/`` as a user does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def output_of(script: str, *arguments: object) -> str:
    """What it prints; it has to succeed."""
    result = run(script, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
