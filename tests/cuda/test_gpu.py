"""The operator in ONNX Runtime's CUDA provider, on a GPU.  The kernels alone: test_kernels.py."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import gpu
import numpy as np
import onnxruntime as ort
import pytest
from cases import CORNERS, DTYPES, Case, assert_within, conv_transpose_model
from forced import Epilogue, allowed, reference
from sessions import options
from test_kernels import rounded_to_tf32

import ort_tconv
from ort_tconv import _core


def missing() -> str:
    if reason := gpu.missing():
        return reason
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this onnxruntime has no CUDA provider (pip install onnxruntime-gpu)"
    return "" if _core.built_with_cuda else "ort_tconv was built without CUDA"


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]


def cuda_session(model, **provider_options: str) -> ort.InferenceSession:
    """A session that fails to be created if a node would run elsewhere."""
    config = ort_tconv.register(options())
    config.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return ort.InferenceSession(
        model.SerializeToString(),
        config,
        providers=[("CUDAExecutionProvider", provider_options)],
    )


def own_model(case: Case, arrays, *, exact: bool = True, epilogue: dict | None = None, **how):
    attributes = case.attributes | {"allow_tf32": 0 if exact else 1} | (epilogue or {})
    how = {"float32_io": case.dtype == "bfloat16"} | how
    return conv_transpose_model(case, arrays, attributes=attributes, op="ort_tconv", **how)


def feeds(case: Case, arrays, *names: str) -> dict[str, np.ndarray]:
    dtype = np.float32 if case.dtype == "bfloat16" else DTYPES[case.dtype]
    return {name: arrays[name].astype(dtype) for name in names if name in arrays}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", ["initializer", "input"])
@pytest.mark.parametrize("case", CORNERS.values(), ids=CORNERS.keys())
def test_case(case: Case, weights, dtype: str) -> None:
    case = dataclasses.replace(case, dtype=dtype)
    arrays = case.arrays()
    session = cuda_session(own_model(case, arrays, weights=weights))
    names = "xwb" if weights == "input" else "x"
    y = session.run(None, feeds(case, arrays, *names))[0]
    assert_within(y, reference(case, arrays), allowed(case, arrays))


LAYER = Case((12, 13), (4, 4), group_in=48, group_out=40, strides=(2, 2), pads=(1, 1, 1, 1))


def test_tf32() -> None:
    arrays = LAYER.arrays()
    results = {}
    for exact in (True, False):
        session = cuda_session(own_model(LAYER, arrays, exact=exact))
        results[exact] = session.run(None, feeds(LAYER, arrays, "x"))[0]
    bound = allowed(LAYER, arrays)
    assert_within(results[True], reference(LAYER, arrays), bound)
    rounding = rounded_to_tf32(LAYER, arrays, Epilogue())
    assert_within(results[False], reference(LAYER, arrays), bound + rounding)
    assert not np.array_equal(results[True], results[False])


def test_shapes_change_from_run_to_run() -> None:
    sizes = [(12, 13), (3, 4), (40, 5), (1, 1), (12, 13), (2, 60)]
    weights = LAYER.arrays()
    session = cuda_session(own_model(LAYER, weights, dynamic=True))
    for i, size in enumerate(sizes * 2):
        case = dataclasses.replace(LAYER, spatial=size, batch=1 + i % 3)
        arrays = {**weights, "x": case.arrays(i)["x"]}
        y = session.run(None, feeds(case, arrays, "x"))[0]
        assert_within(y, reference(case, arrays), allowed(case, arrays))


@pytest.mark.parametrize("case", [LAYER, dataclasses.replace(LAYER, spatial=(2, 2), group_in=512)])
def test_cuda_graph(case: Case) -> None:
    """Captured once, replayed with other inputs; the second case uses split-K's scratch memory."""
    arrays = case.arrays()
    session = cuda_session(own_model(case, arrays), enable_cuda_graph="1")
    x = ort.OrtValue.ortvalue_from_numpy(arrays["x"], "cuda", 0)
    shape = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)[0]
    y = ort.OrtValue.ortvalue_from_numpy(np.full(shape, np.nan, np.float32), "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", x)
    binding.bind_ortvalue_output("y", y)
    for seed in range(6):
        arrays["x"] = case.arrays(seed)["x"]
        x.update_inplace(arrays["x"])
        session.run_with_iobinding(binding)
        assert_within(y.numpy(), reference(case, arrays), allowed(case, arrays))


def test_runs_at_once() -> None:
    arrays = LAYER.arrays()
    session = cuda_session(own_model(LAYER, arrays))
    expected = session.run(None, feeds(LAYER, arrays, "x"))[0]
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(session.run, None, feeds(LAYER, arrays, "x")) for _ in range(64)]
        assert all(np.array_equal(run.result()[0], expected) for run in runs)


def test_slopes_of_each_channel() -> None:
    case = dataclasses.replace(LAYER, group_out=7)
    epilogue = Epilogue("PRelu", tuple(np.linspace(-0.5, 1.5, 7).tolist()))
    arrays = case.arrays()
    session = cuda_session(own_model(case, arrays, epilogue=epilogue.attributes))
    y = session.run(None, feeds(case, arrays, "x"))[0]
    assert_within(y, reference(case, arrays, epilogue), allowed(case, arrays, epilogue))
