"""Builds what is published and tests it as a user gets it.

    python tests/reliability/wheel.py          # the wheel without CUDA, which everybody gets
    python tests/reliability/wheel.py --cuda   # the wheel with the CUDA kernels; needs nvcc
    python tests/reliability/wheel.py --aarch64  # the wheel for aarch64, made on x86-64

Source distribution, wheel from that source distribution, repaired by auditwheel, installed in an
environment of its own with onnxruntime from PyPI, and used there: a model is converted, validated
and run.  Prints the platform tag that auditwheel gives.  The build takes nothing from PyPI but the
versions and hashes of tests/packaging/release.txt.

The wheel with CUDA is of the same name and version, and has a build tag.  pip prefers it to the
other where it sees both: it belongs on an index, or a release page, of its own.

The wheel for aarch64 is cross-compiled, for the Python of the Debian release that this runs on, and
used in an emulator with that release's Python, which apt downloads from the mirror that the machine
uses.  It needs Debian's packages g++-aarch64-linux-gnu and qemu-user-static.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "release"
TOOLS = ROOT / "tests" / "packaging" / "release.txt"

#: Of the wheel with CUDA; it has to begin with a digit.
BUILD_TAG = "1cuda"
#: The minor version of the oldest C library, glibc 2.x, that a release runs with.
OLDEST_GLIBC = 34
#: One that Debian 12's emulator runs: 1.29.0 and newer crash in it when they are imported.
EMULATED_ONNXRUNTIME = "onnxruntime==1.27.0"

CROSS = """
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CXX_FLAGS_INIT "-idirafter {root}/usr/include")
set(PYTHON_MODULE_EXTENSION {suffix})
"""

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


def call(*command: object, cwd: Path = ROOT, path: Path | None = None, **variables: str) -> str:
    """What the command prints; `path` is searched for programs before PATH."""
    env = os.environ | variables | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
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


def installed(wheel: Path) -> Callable[[str], str]:
    """Installs the wheel where nothing of the checkout is in reach; returns what runs code."""
    clean = environment("clean", f"{wheel}[cpu]")
    return lambda code: call(clean / "python", "-I", "-c", code, cwd=WORK)


def debian_root() -> Path:
    """A folder with Python and its headers for aarch64, of the Debian release that this runs on."""
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64-static"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing (Debian: g++-aarch64-linux-gnu, qemu-user-static)")
    root, suite = WORK / "root", platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    packages = ("python3", "libpython3-dev", "libstdc++6")
    call("sh", ROOT / "cmake/debian_packages.sh", "--root", "arm64", root, suite, *packages)
    headers = root / f"usr/include/python{sys.version_info[0]}.{sys.version_info[1]}"
    if not headers.is_dir():
        sys.exit(f"Debian's {suite} has no Python {headers.name[6:]} to build for: use its own one")
    return root


def cross_compilation(root: Path) -> tuple[list[str], dict[str, str]]:
    """Settings of the build, and environment variables, that make it one for aarch64."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    suffix = f".cpython-{python.replace('.', '')}-aarch64-linux-gnu.so"
    toolchain = WORK / "aarch64.cmake"
    toolchain.write_text(CROSS.format(root=root, suffix=suffix))
    settings = [
        f"cmake.define.CMAKE_TOOLCHAIN_FILE={toolchain}",
        f"cmake.define.Python_INCLUDE_DIR={root}/usr/include/python{python}",
    ]
    return settings, {"_PYTHON_HOST_PLATFORM": "linux-aarch64", "SETUPTOOLS_EXT_SUFFIX": suffix}


def emulated(wheel: Path, root: Path) -> Callable[[str], str]:
    """Installs the wheel beside an emulated Python; returns what runs code there."""
    tags = [f"manylinux_2_{minor}_aarch64" for minor in range(17, OLDEST_GLIBC + 1)]
    platforms = [word for tag in ("manylinux2014_aarch64", *tags) for word in ("--platform", tag)]
    site = WORK / "site"
    call(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install"),
        *("--only-binary=:all:", *platforms, "--target", site, wheel, EMULATED_ONNXRUNTIME),
    )
    python = root / f"usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    run = ("qemu-aarch64-static", "-L", root, python, "-s", "-P", "-c")
    return lambda code: call(*run, code, cwd=WORK, PYTHONPATH=str(site))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuda", action="store_true", help="with the CUDA kernels; needs nvcc")
    parser.add_argument(
        "--architectures",
        default="75-real;80-real;86-real;89-real;90-real;100-real;120",
        help="what --cuda compiles for, as CMAKE_CUDA_ARCHITECTURES (%(default)s)",
    )
    parser.add_argument("--aarch64", action="store_true", help="for aarch64, cross-compiled")
    options = parser.parse_args()
    if options.aarch64 and options.cuda:
        parser.error("--aarch64 and --cuda: no CUDA compiler for aarch64 is known here")
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
    settings, variables = ["cmake.define.ORT_TCONV_CUDA=OFF"], {}
    if options.aarch64:
        root = debian_root()
        more, variables = cross_compilation(root)
        settings += more
    if options.cuda:
        architectures = "cmake.define.CMAKE_CUDA_ARCHITECTURES=" + options.architectures
        settings = ["cmake.define.ORT_TCONV_CUDA=ON", architectures, f"wheel.build-tag={BUILD_TAG}"]
    settings = [word for setting in settings for word in ("--config-settings", setting)]
    call(*make, "-w", WORK / "built", *settings, sdist, path=tools, **variables)
    built = next((WORK / "built").glob("*.whl"))
    call(tools / "auditwheel", "repair", built, "-w", WORK / "repaired", path=tools)
    repaired = next((WORK / "repaired").glob("*.whl"))
    print("wheel:", repaired.name, f"({repaired.stat().st_size >> 10} KiB)")
    print(call(tools / "auditwheel", "show", repaired).strip().replace("\n\n", "\n"))
    use = emulated(repaired, root) if options.aarch64 else installed(repaired)
    print(use(USE).strip())
    isas = use("from ort_tconv import _core; print(*_core.supported_isas())").strip()
    print("instruction sets:", isas)
    if options.aarch64 and "neon" not in isas.split():
        sys.exit("the wheel has no kernels for NEON")
    code = "from ort_tconv import _core; print(_core.built_with_cuda)"
    with_cuda = use(code).strip() == "True"
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
