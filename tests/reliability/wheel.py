"""Builds what is published and tests it as a user gets it.

Source distribution, wheel from that source distribution, repaired by auditwheel, installed in an
environment of its own with onnxruntime from PyPI, and used there: a model is converted, validated
and run.  Prints the platform tag that auditwheel gives.  The build takes nothing from PyPI but the
versions and hashes of tests/packaging/release.txt.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "release"
TOOLS = ROOT / "tests" / "packaging" / "release.txt"

USE = """
import numpy as np, onnx, onnxruntime, ort_tconv
from onnx import helper, numpy_helper
rng = np.random.default_rng(0)
w = numpy_helper.from_array(rng.standard_normal((16, 12, 4, 4)).astype(np.float32), "w")
node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
x = helper.make_tensor_value_info("x", 1, [1, 16, 9, 7])
y = helper.make_tensor_value_info("y", 1, [1, 12, 18, 14])
graph = helper.make_graph([node], "g", [x], [y], [w])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
converted = ort_tconv.convert(model)
assert [n.op_type for n in converted.graph.node] == ["SegregatedConvTranspose"]
report = ort_tconv.validate(model, converted)
assert report.ok, report
print("converted, run and validated with onnxruntime", onnxruntime.__version__)
"""


def call(*command: object, cwd: Path = ROOT, path: Path | None = None) -> str:
    """What the command prints; `path` is searched for programs before PATH."""
    env = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def environment(name: str, *packages: object) -> Path:
    """A new virtual environment's folder of programs."""
    call(sys.executable, "-m", "venv", "--clear", WORK / name)
    python = WORK / name / "bin" / "python"
    call(python, "-m", "pip", "--disable-pip-version-check", "-q", "install", *packages)
    return python.parent


def main() -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    tools = environment("tools", "--require-hashes", "-r", TOOLS)
    call(
        tools / "python",
        "-m",
        "build",
        "--no-isolation",
        "--sdist",
        "--outdir",
        WORK,
        ROOT,
        path=tools,
    )
    sdist = next(WORK.glob("*.tar.gz"))
    print("source distribution:", sdist.name)
    # What is built does not depend on whether this machine has nvcc.
    make = (tools / "python", "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    call(
        *make,
        "-w",
        WORK / "built",
        "--config-settings",
        "cmake.define.ORT_TCONV_CUDA=OFF",
        sdist,
        path=tools,
    )
    built = next((WORK / "built").glob("*.whl"))
    call(tools / "auditwheel", "repair", built, "-w", WORK / "repaired", path=tools)
    repaired = next((WORK / "repaired").glob("*.whl"))
    print("wheel:", repaired.name, f"({repaired.stat().st_size >> 10} KiB)")
    print(call(tools / "auditwheel", "show", repaired).strip().replace("\n\n", "\n"))
    # Nothing of the checkout is in reach: another folder, isolated from the user's packages.
    clean = environment("clean", f"{repaired}[cpu]")
    print(call(clean / "python", "-I", "-c", USE, cwd=WORK).strip())


if __name__ == "__main__":
    main()
