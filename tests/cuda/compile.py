"""Compiles the CUDA kernels, warnings being errors, and prints what each takes of a multiprocessor.

    python tests/cuda/compile.py [--architectures 80 90]

Needs nvcc, but no GPU.  Fails if a matrix kernel spills registers.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "custom_op"

FLAGS = ("-std=c++17", "-O3", f"-I{SOURCES}", "--Werror=all-warnings", "-Xptxas=-v")


@dataclass(frozen=True)
class Usage:
    """Of one kernel: registers of a thread, bytes of static shared memory and of spills."""

    kernel: str
    registers: int
    shared: int
    spills: int


def compile_one(nvcc: str, source: Path, architecture: str, folder: Path) -> list[Usage]:
    """Raises RuntimeError with the compiler's messages."""
    output = folder / f"{source.stem}_{architecture}.cubin"
    command = [nvcc, *FLAGS, f"-arch=sm_{architecture}", "--cubin", str(source), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return usages(done.stdout + done.stderr)


def usages(log: str) -> list[Usage]:
    """Kernels in the assembler's log (``-Xptxas=-v``)."""
    result = []
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part.split("'", 1)[0]
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        shared = re.search(r"(\d+) bytes smem", part)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        result.append(
            Usage(
                demangled(name),
                registers,
                int(shared[1]) if shared else 0,
                int(spills[1]) + int(spills[2]),
            )
        )
    return result


def demangled(name: str) -> str:
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if tool:
        name = subprocess.run([tool, name], capture_output=True, text=True).stdout.strip()
    name = re.sub(r"ort_tconv::cuda::|^void |\(int\)", "", name)
    return re.sub(r"\(\w*Params\)$", "", name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--architectures", nargs="+", default=["80", "90"])
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        print("make cuda-build needs nvcc, the CUDA compiler, which was not found")
        return 1
    sources = sorted((SOURCES / "cuda").glob("*.cu"))
    table: dict[str, dict[str, Usage]] = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        jobs = {
            (source, architecture): pool.submit(
                compile_one, nvcc, source, architecture, Path(folder)
            )
            for source in sources
            for architecture in options.architectures
        }
        for (_, architecture), job in jobs.items():
            try:
                for usage in job.result():
                    table.setdefault(usage.kernel, {})[architecture] = usage
            except RuntimeError as error:
                pool.shutdown(cancel_futures=True)
                print(error)
                return 1
    width = max(map(len, table))
    head = "".join(f"{f'registers, spills ({a})':>24}" for a in options.architectures)
    print(f"{'kernel':{width}}{head}{'static shared':>16}")
    for kernel, by_architecture in sorted(table.items()):
        cells = "".join(
            f"{f'{u.registers}, {u.spills}':>24}"
            for u in (by_architecture[a] for a in options.architectures)
        )
        print(f"{kernel:{width}}{cells}{max(u.shared for u in by_architecture.values()):>16}")
    print("Shared memory of gemm_kernel is dynamic: plan.cc, GemmShared.")
    spilling = sorted(
        kernel
        for kernel, by_architecture in table.items()
        if kernel.startswith("gemm_kernel") and any(u.spills for u in by_architecture.values())
    )
    for kernel in spilling:
        print(f"{kernel} spills registers")
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
