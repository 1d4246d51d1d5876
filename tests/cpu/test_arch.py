"""Which instruction set is used (custom_op/cpu/arch.h): the argument, the environment, the best."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forced import each_isa

import ort_tconv
from ort_tconv import _core

COMPILED, SUPPORTED = _core.compiled_isas(), _core.supported_isas()
MISSING = [isa for isa in COMPILED if isa not in SUPPORTED]

X = np.random.default_rng(0).standard_normal((1, 8, 9)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((8, 40, 4)).astype(np.float32)


def python(code: str, isa: str | None) -> subprocess.CompletedProcess[str]:
    """Runs code after ``from ort_tconv import _core`` with ORT_TCONV_ISA set, or not."""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_TCONV_ISA"}
    if isa is not None:
        environment["ORT_TCONV_ISA"] = isa
    package = str(Path(ort_tconv.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(
        [package, *filter(None, [environment.get("PYTHONPATH")])]
    )
    return subprocess.run(
        [sys.executable, "-c", f"from ort_tconv import _core\n{code}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def printed(code: str, isa: str | None) -> str:
    result = python(code, isa)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("isa", dict.fromkeys(("avx512", "avx2", "neon", *COMPILED)))
def test_instruction_set_is_tested_here(isa: str) -> None:
    """One visible line for each that this run says nothing about."""
    if isa not in COMPILED:
        pytest.skip(f"{isa} is not built for this architecture: untested")
    if isa not in SUPPORTED:
        pytest.skip(f"this processor lacks {isa}: its kernels are untested")
    assert np.isfinite(_core.run(X, W, isa=isa)).all()


def test_baseline_is_always_there_and_last() -> None:
    assert COMPILED[-1] == SUPPORTED[-1] == "baseline"
    assert [isa for isa in COMPILED if isa in SUPPORTED] == SUPPORTED


def test_best_is_the_default() -> None:
    assert printed("print(_core.isa())", None) == SUPPORTED[0]


def test_empty_variable_is_none() -> None:
    assert printed("print(_core.isa())", "") == SUPPORTED[0]


@each_isa
def test_variable_is_honoured(isa: str) -> None:
    assert printed("print(_core.isa(), _core.plan([1, 8, 9], [8, 40, 4])['text'])", isa) == (
        f"{isa} {_core.plan([1, 8, 9], [8, 40, 4], isa=isa)['text']}"
    )


RUN = f"""
import numpy as np
x = np.random.default_rng(0).standard_normal({X.shape}).astype(np.float32)
w = np.random.default_rng(1).standard_normal({W.shape}).astype(np.float32)
print(_core.run(x, w, algorithm="direct", isa=ISA).tobytes().hex())
"""


def bits(isa: str) -> str:
    """Instruction sets add in different orders or roundings; the bits tell which one ran."""
    return _core.run(X, W, isa=isa, algorithm="direct").tobytes().hex()


@each_isa
def test_variable_decides_what_runs(isa: str) -> None:
    assert printed(RUN.replace("ISA", "''"), isa) == bits(isa)


@pytest.mark.skipif(len(SUPPORTED) < 2, reason="this processor has one instruction set only")
def test_argument_goes_before_the_variable() -> None:
    best, baseline = SUPPORTED[0], SUPPORTED[-1]
    assert bits(best) != bits(baseline), "what this test and the one above rest on"
    assert printed(RUN.replace("ISA", repr(best)), baseline) == bits(best)
    assert printed(RUN.replace("ISA", repr(baseline)), best) == bits(baseline)


@pytest.mark.parametrize("call", ["_core.isa()", "_core.plan([1, 8, 9], [8, 40, 4])"])
def test_unknown_variable(call: str) -> None:
    result = python(call, "sse9")
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert "Error: " in message
    assert all(part in message for part in ("'sse9'", "must be one of", *COMPILED)), message


@pytest.mark.parametrize("isa", ["sse9", "AVX2", "avx2 ", "avx"])
def test_unknown_argument(isa: str) -> None:
    with pytest.raises(_core.Error) as caught:
        _core.run(X, W, isa=isa)
    message = str(caught.value)
    assert all(part in message for part in (f"'{isa}'", "must be one of", *COMPILED)), message


@pytest.mark.skipif(not MISSING, reason="this processor has every instruction set that is built in")
def test_instruction_set_that_the_processor_lacks() -> None:
    for isa in MISSING:
        with pytest.raises(_core.Error) as caught:
            _core.run(X, W, isa=isa)
        message = str(caught.value)
        assert f"'{isa}'" in message
        assert f"this processor has only {', '.join(SUPPORTED)}" in message
        # Planning for it needs no such processor.
        assert _core.plan(X.shape, W.shape, isa=isa)["tasks"] >= 1


@pytest.mark.skipif(not MISSING, reason="this processor has every instruction set that is built in")
def test_variable_that_the_processor_lacks() -> None:
    result = python("_core.isa()", MISSING[0])
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    parts = (f"'{MISSING[0]}'", "ORT_TCONV_ISA", "this processor has only", *SUPPORTED)
    assert all(part in message for part in parts), message
