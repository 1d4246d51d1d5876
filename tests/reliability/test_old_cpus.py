"""Older processors, emulated: the library as it is built never meets an instruction they lack."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ort_tconv

CODE = """
from ort_tconv import _core
import numpy as np
rng = np.random.default_rng(0)
x, w = rng.integers(-4, 5, (1, 9, 7, 6)), rng.integers(-4, 5, (9, 10, 4, 4))
expected = _core.reference(x, w, strides=[2, 2], pads=[1, 1, 1, 1])
for isa in _core.supported_isas():
    for algorithm in _core.algorithms():
        # Sums of these are exact, but for what Winograd's large tiles divide by.
        for dtype, off in ("float32", 1e-6), ("float64", 1e-14), ("float16", 1e-3):
            plan = _core.plan(x.shape, w.shape, strides=[2, 2], pads=[1, 1, 1, 1],
                              isa=isa, algorithm=algorithm, dtype=dtype)
            y = _core.run(x.astype(dtype), w.astype(dtype), strides=[2, 2], pads=[1, 1, 1, 1],
                          isa=isa, algorithm=algorithm)
            if _core.LARGE_TILES in plan["transform"]:
                error = np.abs(y - expected).max() / np.abs(expected).max()
                assert error < off, (isa, algorithm, dtype, error)
            else:
                assert np.array_equal(y, expected), (isa, algorithm, dtype)
print(*_core.supported_isas())
"""

#: Of x86-64: without AVX, with AVX but not AVX2, with AVX2.
PROCESSORS = {"Nehalem": "baseline", "IvyBridge": "baseline", "Haswell": "avx2 baseline"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates x86-64")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_processor(processor):
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("needs qemu-x86_64-static (Debian: qemu-user-static)")
    path = f"PYTHONPATH={Path(ort_tconv.__file__).parents[1]}"
    # numpy's OpenBLAS takes an emulated Nehalem for a Haswell.
    variables = ["-E", path, "-E", "OPENBLAS_CORETYPE=Prescott"]
    command = [emulator, "-cpu", processor, *variables, sys.executable, "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == PROCESSORS[processor].split()
