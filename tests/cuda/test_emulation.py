"""What the emulation is for: kernels broken on purpose are found out, each by its symptom."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cases import Case, assert_within
from engine import Engine
from forced import allowed, reference

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "custom_op" / "cuda" / "gemm.cuh"

#: What is replaced in gemm.cuh, and what the emulation or the comparison then says.
MUTATIONS = {
    "a window one position off": (
        "first_position[i] + p.axis[i].first_offset +",
        "first_position[i] + 1 + p.axis[i].first_offset +",
        r"instead of",
    ),
    "fragments of the wrong rows": ("8 * (reg & 1)", "8 * (reg & 2) / 2", r"instead of"),
    "an image one position too wide": (
        "inside = inside && at >= 0 && at < p.axis[i].in;",
        "inside = inside && at >= 0 && at <= p.axis[i].in;",
        r"out of bounds|instead of",
    ),
    "channels beyond the last": (
        "offset >= 0 && first + e < p.group_in ?",
        "offset >= 0 ?",
        r"bytes read out of bounds",
    ),
    "the last output of a row": ("ox >= ax.out ||", "ox >= ax.out - 1 ||", r"were never written"),
    "an output beyond the row": ("ox >= ax.out ||", "ox >= ax.out + 1 ||", r"out of bounds|twice"),
    "no barrier in the pipeline": (
        "have done with the stage before.\n        sync_threads();",
        "have done with the stage before.\n",
        r"without a barrier|never written",
    ),
    "a wait too short": (
        "cp_async_wait<kStages - 2>();",
        "cp_async_wait<kStages - 1>();",
        r"before the asynchronous copy to it was awaited",
    ),
    "no barrier before the epilogue": (
        "void write_outputs() const {\n    sync_threads();",
        "void write_outputs() const {",
        r"without a barrier|is under way",
    ),
}


@pytest.fixture(scope="module")
def compiler(emulation_folder: Path) -> list[str]:
    cache = (emulation_folder / "CMakeCache.txt").read_text()
    return [re.search(r"^CMAKE_CXX_COMPILER:\w+=(.*)$", cache, re.MULTILINE)[1]]


def build_mutant(folder: Path, before: str, after: str, compiler: list[str], objects: Path) -> Path:
    """The emulated library with one kernel file compiled from an altered copy."""
    source = KERNELS.read_text()
    assert source.count(before) == 1, f"{before!r} occurs {source.count(before)} times"
    shutil.copytree(ROOT / "custom_op" / "cuda", folder / "cuda")
    (folder / "cuda" / "gemm.cuh").write_text(source.replace(before, after))
    library = folder / "libmutant.so"
    others = [str(o) for o in objects.rglob("*.o") if not o.name.startswith("gemm_f16")]
    assert others
    flags = ["-std=c++17", "-O0", "-fPIC", "-shared", "-fvisibility=hidden", "-DORT_TCONV_EMULATE"]
    includes = [f"-I{folder}", f"-I{ROOT / 'custom_op'}", f"-I{ROOT / 'tests'}"]
    subprocess.run(
        [
            *compiler,
            *flags,
            *includes,
            *("-x", "c++", str(folder / "cuda" / "gemm_f16.cu"), "-x", "none"),
            *others,
            *("-o", str(library)),
        ],
        check=True,
    )
    return library


def attempt(engine: Engine) -> None:
    # Two chunks of channels, ragged classes, several tiles.
    case = Case((6, 9), (3, 3), group_in=70, group_out=20, strides=(2, 2), dtype="float16")
    arrays = case.arrays()
    y, plan = engine.run(case, arrays, kernel="gemm", tile="64x64", splits=1)
    assert plan.startswith("tensor cores")
    assert np.isfinite(y).all()
    assert_within(y, reference(case, arrays), allowed(case, arrays))


def test_unbroken_kernel_passes(emulation: Engine) -> None:
    attempt(emulation)


@pytest.mark.parametrize("before, after, symptom", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_broken_kernel_fails(
    tmp_path: Path,
    emulation_folder: Path,
    compiler: list[str],
    before: str,
    after: str,
    symptom: str,
) -> None:
    engine = Engine(build_mutant(tmp_path, before, after, compiler, emulation_folder))
    with pytest.raises((AssertionError, RuntimeError), match=symptom):
        attempt(engine)
