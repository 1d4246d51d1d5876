"""The CUDA kernels (custom_op/cuda/) under the host emulation, against the float64 reference.

The emulation itself refuses accesses out of bounds, reads of what was never written, missing
barriers and waits, and outputs written twice or not at all (emulation/emulation.cc).
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from cases import DTYPES, Case, assert_within
from engine import Device, Engine, Pointers, poisoned
from forced import PLAIN, Epilogue, allowed, reference, with_residual
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import CHOSEN, EPILOGUES, engine_cases, integers, workload

TILES = ("128x128", "64x64", "16x128", "128x16")
#: Arithmetic: element type, and whether float32 may be rounded to TensorFloat-32.
MODES = {
    "float32": ("float32", False),
    "tf32": ("float32", True),
    "float64": ("float64", False),
    "float16": ("float16", False),
    "bfloat16": ("bfloat16", False),
}
each_mode = pytest.mark.parametrize("mode", MODES)
#: A plan is what is tested, not a processor: few multiprocessors, or many, change tiles and splits.
DEVICES = {
    "7.5": Device(75, 40, 64 * 1024),
    "8.0": Device(80, 108, 163 * 1024),
    "8.6": Device(86, 28, 99 * 1024),
    "9.0": Device(90, 132, 227 * 1024),
    "one multiprocessor": Device(90, 1, 227 * 1024),
}


def with_dtype(case: Case, dtype: str) -> Case:
    return dataclasses.replace(case, dtype=dtype)


def rounded_to_tf32(case: Case, arrays: dict[str, np.ndarray], epilogue: Epilogue) -> np.ndarray:
    """What rounding x and w to 11 bits may change: 2^-11 each, relative to the sum of |x w|."""
    sizes = {name: np.abs(arrays[name]).astype(np.float64) for name in "xw"}
    return epilogue.slope * (2 * 2**-11 + 2**-22) * reference(case, sizes)


def check(
    engine: Engine,
    case: Case,
    mode: str,
    epilogue: Epilogue = PLAIN,
    arrays: dict[str, np.ndarray] | None = None,
    **options,
) -> str:
    """Runs the case and compares; returns the plan in words."""
    dtype, allow_tf32 = MODES[mode]
    assert case.dtype == dtype
    arrays = case.arrays() if arrays is None else arrays
    y, plan = engine.run(
        case,
        arrays,
        activation=epilogue.activation,
        parameters=epilogue.params,
        allow_tf32=allow_tf32,
        **options,
    )
    bound = allowed(case, arrays, epilogue)
    if allow_tf32:
        bound = bound + rounded_to_tf32(case, arrays, epilogue)
    assert_within(y, reference(case, arrays, epilogue), bound)
    return plan


def tiles(dtype: str) -> tuple[str, ...]:
    return TILES[1:] if dtype == "float64" else TILES


# ---- chosen cases --------------------------------------------------------------------------------

THREE_AXES = {name: case for name, case in CHOSEN.items() if len(case.spatial) <= 3}
#: Two of the tiles and a number of splits each, so that all combinations occur over the cases.
ROTATION = {name: i for i, name in enumerate(THREE_AXES)}


@each_mode
@pytest.mark.parametrize("name", THREE_AXES)
def test_matrix_kernel(engine: Engine, name: str, mode: str) -> None:
    case, turn = with_dtype(THREE_AXES[name], MODES[mode][0]), ROTATION[name]
    choices = tiles(case.dtype)
    for i in (turn, turn + 1 + turn // len(choices) % 2):
        options = {"tile": choices[i % len(choices)], "splits": (i + turn) % 3}
        plan = check(engine, case, mode, kernel="gemm", **options)
        assert options["tile"] in plan or "grid 0x0" in plan, "an empty batch launches nothing"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CHOSEN.values(), ids=CHOSEN.keys())
def test_direct_kernel(engine: Engine, case: Case, dtype: str) -> None:
    check(engine, with_dtype(case, dtype), dtype, kernel="direct")


@each_mode
@pytest.mark.parametrize("device", DEVICES)
def test_workload(engine: Engine, mode: str, device: str) -> None:
    """The kernel, tile and splits that the plan chooses."""
    for name, case in workload(MODES[mode][0]).items():
        try:
            check(engine, case, mode, device=DEVICES[device])
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"{name}: {error}") from error


@each_mode
@pytest.mark.parametrize("tile", TILES)
def test_integers_are_exact(engine: Engine, mode: str, tile: str) -> None:
    """Sums and products of small integers are exact in every type but the stored one."""
    dtype = MODES[mode][0]
    if tile not in tiles(dtype):
        pytest.skip("float64 accumulators of this tile exceed the registers")
    for name in ("a generator's layer", "5x5, many channels", "3-D, many channels", "1-D"):
        case = with_dtype(CHOSEN[name], dtype)
        arrays = integers(case)
        for splits in (1, 2):
            y, _ = engine.run(
                case, arrays, kernel="gemm", tile=tile, splits=splits, allow_tf32=MODES[mode][1]
            )
            expected = reference(case, arrays).astype(y.dtype)
            assert np.array_equal(y.astype(np.float64), expected.astype(np.float64)), name


# ---- any case ------------------------------------------------------------------------------------


@each_mode
@settings(max_examples=25)
@given(data=st.data(), epilogue=st.sampled_from(EPILOGUES), residual=st.booleans())
def test_any_case(engine: Engine, mode: str, data, epilogue: Epilogue, residual: bool) -> None:
    case = with_dtype(data.draw(engine_cases()), MODES[mode][0])
    kernel = data.draw(st.sampled_from(["", "gemm", "direct"]))
    if kernel == "gemm" and len(case.spatial) > 3:
        kernel = ""
    options = {"kernel": kernel, "device": DEVICES[data.draw(st.sampled_from(list(DEVICES)))]}
    if kernel == "gemm":
        options |= {
            "tile": data.draw(st.sampled_from(tiles(case.dtype))),
            "splits": data.draw(st.integers(0, 3)),
            "device": DEVICES["9.0"],
        }
    if epilogue.activation == "PRelu" and not epilogue.params:
        epilogue = Epilogue("PRelu", tuple(np.linspace(-0.5, 1.5, case.out_channels).tolist()))
    arrays = case.arrays()
    if residual:
        arrays = with_residual(case, arrays)
    check(engine, case, mode, epilogue, arrays, **options)


# ---- epilogue ------------------------------------------------------------------------------------

EPILOGUE_PATHS = {
    "matrix": {"kernel": "gemm", "splits": 1},
    "split": {"kernel": "gemm", "splits": 2},
    "direct": {"kernel": "direct"},
}


@each_mode
@pytest.mark.parametrize("path", EPILOGUE_PATHS)
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=lambda e: f"{e.activation}{len(e.params)}")
def test_epilogue(engine: Engine, mode: str, path: str, epilogue: Epilogue) -> None:
    case = Case((5, 6), (4, 4), group_in=40, group_out=5, strides=(2, 2), pads=(1, 1, 1, 1))
    case = with_dtype(case, MODES[mode][0])
    if epilogue.activation == "PRelu" and not epilogue.params:
        epilogue = Epilogue("PRelu", tuple(np.linspace(-0.5, 1.5, case.out_channels).tolist()))
    arrays = with_residual(case, case.arrays())
    check(engine, case, mode, epilogue, arrays, **EPILOGUE_PATHS[path])


@pytest.mark.parametrize("moved", ["y", "z", "yz", "x", "b"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_at_odd_addresses(engine: Engine, dtype: str, moved: str) -> None:
    """Views start anywhere; vectors of 16 bytes must not."""
    case = with_dtype(Case((5, 9), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1)), dtype)
    arrays = with_residual(case, case.arrays())
    shape = arrays["z"].shape
    views = {}
    for name in "xwbzy":
        shape = arrays["z" if name == "y" else name].shape
        count = int(np.prod(shape))
        whole = poisoned((count + 1,), DTYPES[dtype])
        views[name] = whole[1:] if name in moved else whole[:-1]
        if name != "y":
            views[name][:] = arrays[name].ravel()
    for options in EPILOGUE_PATHS.values():
        views["y"].view(np.uint8)[:] = 0xFF
        engine.call(case, Pointers(**{name: v.ctypes.data for name, v in views.items()}), **options)
        y = views["y"].reshape(arrays["z"].shape)
        assert_within(y, reference(case, arrays), allowed(case, arrays))


# ---- plans ---------------------------------------------------------------------------------------


def planned(engine: Engine, case: Case, **options) -> str:
    arrays = case.arrays()
    return engine.run(case, arrays, **options)[1]


def test_small_images_with_many_channels_are_split(emulation: Engine) -> None:
    case = Case((4, 4), (4, 4), group_in=512, group_out=32, strides=(2, 2), pads=(1, 1, 1, 1))
    plan = planned(emulation, case)
    assert int(re.search(r"in (\d+) splits", plan)[1]) > 1
    assert "in 1 splits" in planned(
        emulation, dataclasses.replace(case, group_in=32), device=DEVICES["one multiprocessor"]
    )


def test_depthwise_is_direct(emulation: Engine) -> None:
    case = Case((9, 9), (4, 4), group=8, group_in=1, group_out=1, strides=(2, 2))
    assert planned(emulation, case).startswith("direct")


def test_few_output_channels_share_row_tiles(emulation: Engine) -> None:
    """4 classes of 3 channels are 12 rows of one tile; of 16 channels, a tile each."""
    case = Case((7, 7), (4, 4), group_in=32, strides=(2, 2), pads=(1, 1, 1, 1))
    options = {"kernel": "gemm", "tile": "16x128", "splits": 1}
    few = planned(emulation, case, **options)
    many = planned(emulation, dataclasses.replace(case, group_out=16), **options)
    assert "folded" in few
    assert "grid 1x1x1" in few
    assert "folded" not in many
    assert "grid 1x4x1" in many


def test_missing_taps_cost_no_products(emulation: Engine) -> None:
    """k = 3, s = 2 has 2 + 1 taps an axis: 9 products instead of 16."""
    products = {}
    for kernel in (3, 4):
        case = Case(
            (7, 7), (kernel, kernel), group_in=16, group_out=16, strides=(2, 2), dtype="float16"
        )
        plan = planned(emulation, case, kernel="gemm", tile="64x64", splits=1)
        products[kernel] = int(re.search(r"(\d+) products", plan)[1])
    assert products[3] * 16 == products[4] * 9


@pytest.mark.parametrize("capability, tensor_cores", [(70, False), (75, False), (80, True)])
def test_tensor_cores_of_the_device(emulation: Engine, capability: int, tensor_cores: bool) -> None:
    """TensorFloat-32 and bfloat16 since 8.0, float16 since 7.5."""
    device = Device(capability, 40, 64 * 1024)
    case = Case((6, 6), (4, 4), group_in=32, group_out=16, strides=(2, 2))
    plan = planned(emulation, case, kernel="gemm", allow_tf32=True, device=device)
    assert plan.startswith("tensor cores" if tensor_cores else "CUDA cores")
    for dtype, since in (("float16", 75), ("bfloat16", 80)):
        options = {"kernel": "gemm", "device": device}
        if capability >= since:
            plan = planned(emulation, with_dtype(case, dtype), **options)
            assert plan.startswith("tensor cores")
        else:
            with pytest.raises(RuntimeError, match="'gemm' does not take"):
                planned(emulation, with_dtype(case, dtype), **options)
            assert planned(emulation, with_dtype(case, dtype), device=device).startswith("direct")


def test_exact_float32_uses_no_tensor_cores(emulation: Engine) -> None:
    case = Case((6, 6), (4, 4), group_in=32, group_out=16, strides=(2, 2))
    plan = planned(emulation, case, kernel="gemm", allow_tf32=False)
    assert plan.startswith("CUDA cores")
    assert "; 0 products" in plan


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kernel": "winograd"}, "kernel 'winograd'"),
        ({"tile": "1x1"}, "tile '1x1'"),
    ],
)
def test_unknown_choice(emulation: Engine, options: dict, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        planned(emulation, CHOSEN["1-D"], **options)


def test_four_axes_are_direct(emulation: Engine) -> None:
    with pytest.raises(RuntimeError, match="'gemm' does not take"):
        planned(emulation, CHOSEN["4-D"], kernel="gemm")
    assert planned(emulation, CHOSEN["4-D"]).startswith("direct")
