"""Builds what is published and tests it as a user gets it.

    python tests/reliability/wheel.py          # the wheel without CUDA, which everybody gets
    python tests/reliability/wheel.py --cuda   # the wheel with the CUDA kernels; needs nvcc

Source distribution, wheel from that source distribution, repaired by auditwheel, installed in an
environment of its own with onnxruntime from PyPI, and used there: a model is converted, validated
and run.  Prints the platform tag that auditwheel gives.  The build takes nothing from PyPI but the
versions and hashes of tests/packaging/release.txt.

The wheel with CUDA is of the same name and version, and has a build tag.  pip prefers it to the
other where it sees both: it belongs on an index, or a release page, of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "release"
TOOLS = ROOT / "tests" / "packaging" / "release.txt"

#: Of the wheel with CUDA; it has to begin with a digit.
BUILD_TAG = "1cuda"
#: The minor version of the oldest C library, glibc 2.x, that a release runs with.
OLDEST_GLIBC = 34

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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuda", action="store_true", help="with the CUDA kernels; needs nvcc")
    parser.add_argument(
        "--architectures",
        default="75-real;80-real;86-real;89-real;90-real;100-real;120",
        help="what --cuda compiles for, as CMAKE_CUDA_ARCHITECTURES (%(default)s)",
    )
    options = parser.parse_args()
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
    make = (tools / "python", "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    settings = ["cmake.define.ORT_TCONV_CUDA=OFF"]
    if options.cuda:
        architectures = "cmake.define.CMAKE_CUDA_ARCHITECTURES=" + options.architectures
        settings = ["cmake.define.ORT_TCONV_CUDA=ON", architectures, f"wheel.build-tag={BUILD_TAG}"]
    settings = [word for setting in settings for word in ("--config-settings", setting)]
    call(*make, "-w", WORK / "built", *settings, sdist, path=tools)
    built = next((WORK / "built").glob("*.whl"))
    call(tools / "auditwheel", "repair", built, "-w", WORK / "repaired", path=tools)
    repaired = next((WORK / "repaired").glob("*.whl"))
    print("wheel:", repaired.name, f"({repaired.stat().st_size >> 10} KiB)")
    print(call(tools / "auditwheel", "show", repaired).strip().replace("\n\n", "\n"))
    # Nothing of the checkout is in reach: another folder, isolated from the user's packages.
    clean = environment("clean", f"{repaired}[cpu]")
    print(call(clean / "python", "-I", "-c", USE, cwd=WORK).strip())
    code = "from ort_tconv import _core; print(_core.built_with_cuda)"
    with_cuda = call(clean / "python", "-I", "-c", code, cwd=WORK).strip() == "True"
    if with_cuda != options.cuda:
        sys.exit(f"the wheel was built with{'' if with_cuda else 'out'} CUDA")
    needed = int(re.search(r"manylinux_2_(\d+)_", repaired.name)[1])
    if needed > OLDEST_GLIBC:
        sys.exit(
            f"{repaired.name} needs a C library newer than 2.{OLDEST_GLIBC}, "
            "which leaves out systems that docs/releasing.md promises"
        )


if __name__ == "__main__":
    main()
