"""Runs the tests on other versions of ONNX Runtime and Python, each Python with its own wheel.

    python tests/reliability/compat.py                     # all that can be had
    python tests/reliability/compat.py --python 3.12 --ort 1.23 tests/ort

Each Python runs the whole suite with the newest ONNX Runtime, and with the others the tests that
make models and sessions.  Prints a table; exit status 1 if a combination fails.  A Python that is
not on this machine, or for which ONNX Runtime has no wheel, is named and left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "compat"
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
#: Requirements of pip; the last is the newest of each package.
ORTS = {
    "1.21": "onnxruntime==1.21.*",
    "1.23": "onnxruntime==1.23.*",
    "1.26": "onnxruntime==1.26.*",
    "1.29": "onnxruntime==1.29.*",
    "newest": "onnxruntime",
    "gpu": "onnxruntime-gpu",
}
#: The others know of no ONNX Runtime.
SESSIONS = [
    *(f"tests/{name}" for name in ("ort", "converters", "python", "cli")),
    *(f"tests/reliability/test_{name}.py" for name in ("hostile", "lifetime")),
]


def interpreter(version: str) -> str | None:
    """A Python of this version: the running one, on PATH, or pyenv's."""
    candidates = [sys.executable, shutil.which(f"python{version}") or ""]
    candidates += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
    for candidate in filter(None, candidates):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        told = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        if told.stdout.strip() == version:
            return candidate
    return None


def call(*command: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


def environment(python: str, name: str) -> Path:
    """The interpreter of a new virtual environment: not every Python has pip itself."""
    call(python, "-m", "venv", "--clear", WORK / name)
    return WORK / name / "bin" / "python"


def wheel(python: str, version: str) -> Path:
    folder = WORK / f"wheel-{version}"
    shutil.rmtree(folder, ignore_errors=True)
    builder = environment(python, f"{version}-build")
    make = (builder, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder)
    built = call(*make, "--config-settings", "cmake.define.ORT_TCONV_CUDA=OFF", ROOT)
    if built.returncode:
        sys.exit(built.stdout + built.stderr)
    return next(folder.glob("*.whl"))


def combination(
    python: str, version: str, built: Path, ort: str, tests: list[str]
) -> tuple[str, str]:
    """What pip chose, and the last line of pytest, empty if there is no such wheel."""
    bin_python = environment(python, f"{version}-{ort}")
    pip = (bin_python, "-m", "pip", "--disable-pip-version-check", "-q", "install")
    runtime = call(*pip, "--only-binary", "onnxruntime,onnxruntime-gpu", ORTS[ort])
    if runtime.returncode and "No matching distribution" in runtime.stderr:
        return "no wheel", ""
    if runtime.returncode:
        return "not installed", runtime.stderr.strip().splitlines()[-1]
    done = call(*pip, f"{built}[test]")
    if done.returncode:
        return "not installed", done.stderr.strip().splitlines()[-1]
    chosen = call(bin_python, "-c", "import onnxruntime; print(onnxruntime.__version__)").stdout
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = call(
        bin_python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *tests,
        cwd=ROOT,
        env=variables,
    )
    (WORK / f"{version}-{ort}.log").write_text(done.stdout + done.stderr)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:]
    shutil.rmtree(bin_python.parents[1])
    return chosen.strip(), ("" if done.returncode == 0 else "FAILED: ") + last.strip("= ")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", choices=PYTHONS, action="append")
    parser.add_argument("--ort", choices=ORTS, action="append")
    parser.add_argument("tests", nargs="*", help="of pytest, instead of the above")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    failed = False
    print("| Python | ONNX Runtime | result | seconds |\n|---|---|---|---|", flush=True)
    for version in arguments.python or PYTHONS:
        python = interpreter(version)
        if python is None:
            print(f"| {version} | | no such interpreter on this machine | |", flush=True)
            continue
        built = wheel(python, version)
        for ort in arguments.ort or ORTS:
            start = time.monotonic()
            tests = arguments.tests or ([] if ort == "newest" else SESSIONS)
            chosen, result = combination(python, version, built, ort, tests)
            failed = failed or "FAILED" in result or chosen == "not installed"
            seconds = f"{time.monotonic() - start:.0f}"
            name = "onnxruntime-gpu" if ort == "gpu" else "onnxruntime"
            said = result or f"none for this Python ({ORTS[ort]})"
            print(f"| {version} | {name} {chosen} | {said} | {seconds} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
