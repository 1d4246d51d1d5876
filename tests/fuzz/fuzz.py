"""Fuzzes the engines against the reference, and ONNX Runtime with malformed models of the operator.

    python tests/fuzz/fuzz.py --seconds 30          # each target, after its seeds
    python tests/fuzz/fuzz.py --target model --runs 100000
    python tests/fuzz/fuzz.py --seconds 20 --checks # then what 'make sanitize' runs of this build
    python tests/fuzz/fuzz.py --pack                # corpora of build/fuzz become the seeds

Needs clang with libFuzzer (Debian: clang-19 libclang-rt-19-dev, or another version of both), cmake
and the package onnxruntime.  Exit status 1, and the input that shows it, if there is a finding.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "fuzz"
SEEDS = Path(__file__).parent / "seeds"
TARGETS = ("engine", "quantized", "model")
CHECKS = ("engine_check", "stress", "engine_faults", "session_stress", "session_faults")
ENVIRONMENT = {
    # A tensor too large is an allocation that fails, as it is in production.
    "ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=32:malloc_context_size=8"
}


def compiler() -> str:
    """A clang++ that can link libFuzzer."""
    names = [os.environ.get("CXX", ""), "clang++", *(f"clang++-{n}" for n in range(25, 13, -1))]
    source = 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }'
    command = ["-fsanitize=fuzzer,address,undefined", "-x", "c++", "-", "-o", os.devnull]
    for name in names:
        if name and shutil.which(name):
            tried = subprocess.run([name, *command], input=source, text=True, capture_output=True)
            if tried.returncode == 0:
                return name
    sys.exit(
        "no clang++ with libFuzzer: install clang-19 and libclang-rt-19-dev, or name it in CXX"
    )


def ort_library() -> Path:
    import onnxruntime

    return next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*"))


def build(*programs: str) -> None:
    options = {
        "CMAKE_CXX_COMPILER": compiler(),
        "ORT_TCONV_BUILD_PYTHON": "OFF",
        "ORT_TCONV_CUDA": "OFF",
        "ORT_TCONV_BUILD_CHECKS": "ON",
        "ORT_TCONV_SANITIZE": "address,undefined",
        "ORT_TCONV_FUZZER": "ON",
        "ORT_TCONV_ORT_LIBRARY": ort_library(),
    }
    defines = [f"-D{name}={value}" for name, value in options.items()]
    for command in (
        ["cmake", "-S", ROOT, "-B", BUILD, *defines],
        ["cmake", "--build", BUILD, "-j", str(os.cpu_count()), "--target", *programs],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout[-3000:] + done.stderr[-3000:])


def unpack(folder: Path) -> None:
    """Each line of seeds/TARGET.txt becomes a file."""
    for target in TARGETS:
        (folder / target).mkdir(parents=True, exist_ok=True)
        for i, line in enumerate((SEEDS / f"{target}.txt").read_text().split()):
            (folder / target / f"seed{i:04}").write_bytes(base64.b64decode(line))


def run(target: str, seconds: int, runs: int) -> bool:
    corpus, program = BUILD / "corpus" / target, BUILD / "tests" / f"fuzz_{target}"
    artifacts = BUILD / f"found-{target}-"
    command = [program, corpus, f"-artifact_prefix={artifacts}", "-max_len=96", "-len_control=0"]
    # Leaks are looked for every thousand models by the target itself; after each it takes long.
    command += ["-timeout=60", "-rss_limit_mb=3000", "-print_funcs=0", "-detect_leaks=0"]
    command += [f"-max_total_time={seconds}"] if seconds else []
    command += [f"-runs={runs}"] if runs else []
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ENVIRONMENT)
    counts = re.findall(rf"^fuzz_{target}: .*$", done.stderr, re.MULTILINE)
    coverage = re.findall(r"cov: (\d+)", done.stderr)
    print(*(counts or ["ended early"]), f"- {coverage[-1] if coverage else 0} edges covered")
    if done.returncode:
        print(done.stderr[-6000:])
    return done.returncode == 0


def check(name: str) -> bool:
    done = subprocess.run([BUILD / "tests" / name], capture_output=True, text=True)
    print(done.stdout.strip().splitlines()[-1] if done.stdout else f"{name}: ended early")
    if done.returncode:
        print(done.stdout + done.stderr[-6000:])
    return done.returncode == 0


def pack() -> None:
    for target in TARGETS:
        corpus, small = BUILD / "corpus" / target, BUILD / "packed" / target
        shutil.rmtree(small, ignore_errors=True)
        small.mkdir(parents=True)
        program = BUILD / "tests" / f"fuzz_{target}"
        command = [program, "-set_cover_merge=1", "-max_len=96", "-detect_leaks=0"]
        command += ["-use_counters=0", small, corpus]  # what is reached, not how often
        subprocess.run(command, check=True, capture_output=True, env=os.environ | ENVIRONMENT)
        lines = sorted(base64.b64encode(one.read_bytes()).decode() for one in small.iterdir())
        SEEDS.mkdir(exist_ok=True)
        (SEEDS / f"{target}.txt").write_text("\n".join(filter(None, lines)) + "\n")
        print(f"{len(lines)} seeds for {target}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    parser.add_argument("--seconds", type=int, default=0, help="for each target")
    parser.add_argument("--runs", type=int, default=0, help="inputs for each target")
    parser.add_argument("--checks", action="store_true", help="run the other programs, too")
    parser.add_argument("--pack", action="store_true", help="make the corpora the seeds")
    parser.add_argument("--compiler", action="store_true", help="name the clang found, and stop")
    parser.add_argument("--unpack", type=Path, help="write the seeds to this folder, and stop")
    arguments = parser.parse_args()
    if arguments.compiler:
        print(compiler())
        return 0
    if arguments.unpack:
        unpack(arguments.unpack)
        return 0
    checks = CHECKS if arguments.checks else ()
    build(*(f"fuzz_{target}" for target in TARGETS), *checks)
    if arguments.pack:
        pack()
        return 0
    unpack(BUILD / "corpus")
    seconds = arguments.seconds or (0 if arguments.runs else 30)
    results = [run(target, seconds, arguments.runs) for target in arguments.target or TARGETS]
    results += map(check, checks)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
