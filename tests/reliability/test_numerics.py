"""Values at the edges of the formats: not a number, infinite, tiny, huge, nearly cancelling."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from cases import DTYPES, SUM_ROUNDOFF, Case, conv_transpose_model
from forced import allowed, each_choice, each_isa, reference, run, same_bits, transforms
from hypothesis import given
from hypothesis import strategies as st
from sessions import our_session

each_dtype = pytest.mark.parametrize("dtype", DTYPES)

USUAL = Case((9, 10), (4, 4), group_in=5, group_out=9, strides=(2, 2), pads=(1, 1, 1, 1))
LAYERS = {
    "4x4, stride 2": USUAL,
    "5x5, stride 2": Case((9, 10), (5, 5), strides=(2, 2), pads=(2, 2, 2, 2)),
    "3x3, dilated, groups": Case((5, 6), (3, 3), group=2, strides=(2, 1), dilations=(1, 2)),
    "8, stride 4": Case((50,), (8,), strides=(4,), pads=(2, 2)),
    "one row": Case((4, 60), (4, 4), group_out=1, strides=(2, 2), pads=(1, 1, 1, 1)),
    "3-D": Case((3, 4, 5), (2, 3, 2), strides=(2, 2, 1), pads=(0, 1, 0, 0, 1, 0)),
}
each_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)


@each_isa
@each_choice
@each_dtype
@each_layer
def test_non_finite_weights_stay_where_they_belong(isa, algorithm, dtype, case):
    """NaN and Inf exactly where the definition has them: zeros around the input meet no weight."""
    case = dataclasses.replace(case, dtype=dtype)
    for seed, special in enumerate((np.nan, np.inf, -np.inf)):
        arrays = case.arrays(seed)
        arrays["w"].reshape(-1)[np.random.default_rng(seed).integers(arrays["w"].size)] = special
        with np.errstate(invalid="ignore"):
            expected = reference(case, arrays)
        y = run(case, arrays, algorithm=algorithm, isa=isa).astype(np.float64)
        finite = np.isfinite(expected)
        assert 0 < finite.sum() < finite.size
        np.testing.assert_array_equal(y[~finite], expected[~finite])
        tame = {
            name: np.where(np.isfinite(value), value, value.dtype.type(0))
            for name, value in arrays.items()
        }
        assert (np.abs(y[finite] - expected[finite]) <= allowed(case, tame)[finite]).all()


@each_isa
@each_choice
@each_dtype
@pytest.mark.parametrize("where", ["inputs", "weights", "both"])
def test_tiny_values(isa, algorithm, dtype, where):
    """Subnormal numbers count, and products that underflow err by their own roundings alone."""
    case = dataclasses.replace(USUAL, dtype=dtype, bias=False)
    least = float(np.ldexp(1.0, {"float64": -1022, "float16": -14}.get(dtype, -126)))
    arrays = case.arrays()
    for name in {"inputs": "x", "weights": "w", "both": "xw"}[where]:
        arrays[name] = (arrays[name].astype(np.float64) * least / 4).astype(arrays[name].dtype)
        assert arrays[name].any()
    y = run(case, arrays, algorithm=algorithm, isa=isa).astype(np.float64)
    # Sums and transforms add and multiply at most this often; each may lose half of the smallest.
    terms = case.group_in * math.prod(case.kernel) * 6 ** len(case.spatial)
    quantum = {"float64": 5e-324}.get(dtype, 2.0**-149)
    bound = allowed(case, arrays, transformed=transforms(case, algorithm, isa=isa))
    assert (np.abs(y - reference(case, arrays)) <= bound + terms * quantum).all()
    if where != "both":
        assert np.count_nonzero(y) > y.size / 2


@each_isa
@each_choice
@each_dtype
def test_huge_values(isa, algorithm, dtype):
    """Sums that end within the format's range do not overflow on the way, and others become Inf."""
    case = dataclasses.replace(USUAL, dtype=dtype, bias=False)
    most = float(np.finfo(np.float64).max) if dtype == "float64" else 3.0e38
    if dtype == "float16":
        most = 65504.0
    terms = case.group_in * math.prod(-(-k // s) for k, s in zip(case.kernel, case.strides))
    arrays = {name: np.ones_like(value) for name, value in case.arrays().items()}
    arrays["x"][:] = arrays["x"].dtype.type(most / terms / 2)
    y = run(case, arrays, algorithm=algorithm, isa=isa).astype(np.float64)
    assert np.isfinite(y).all()
    assert (np.abs(y - reference(case, arrays)) <= 0.02 * most).all()
    arrays["x"][:] = arrays["x"].dtype.type(most / 2)
    y = run(case, arrays, algorithm=algorithm, isa=isa).astype(np.float64)
    interior = y[:, :, 1:-1, 1:-1]
    assert (interior == np.inf).all()


@each_isa
@each_choice
@pytest.mark.parametrize("size", [1e33, 1e20, 1e11, 10])
@each_layer
def test_huge_products(isa, algorithm, size, case):
    """Of one value of the input, and weights as large as the results' range lets them be."""
    case = dataclasses.replace(case, bias=False)
    arrays = case.arrays()
    arrays["x"][:] = 0
    arrays["x"].reshape(-1)[arrays["x"].size // 2] = size
    arrays["w"] *= np.float32(2e38 / size / np.abs(arrays["w"]).max())
    y = run(case, arrays, algorithm=algorithm, isa=isa).astype(np.float64)
    expected = reference(case, arrays)
    assert np.isfinite(expected.astype(np.float32)).all()
    assert (np.abs(y - expected) <= 1e-5 * np.abs(expected).max()).all()


@each_isa
@each_choice
@pytest.mark.parametrize("value", [5e3, -1e9, 1e20])
@pytest.mark.parametrize(
    "region",
    [np.s_[:, :, 4:5, 3:4], np.s_[:, :, 5:, :], np.s_[:, :, 2:, :]],
    ids=["one", "half", "most"],
)
@pytest.mark.parametrize("kernel", [3, 4, 5, 6])
def test_masked_region(isa, algorithm, kernel, region, value):
    """Values far larger than others leave no trace in outputs that read the others alone."""
    strides = (1, 1) if kernel == 3 else (2, 2)
    case = dataclasses.replace(USUAL, kernel=(kernel, kernel), strides=strides, bias=False)
    arrays = case.arrays()
    mask = {name: np.zeros_like(array) for name, array in arrays.items()}
    mask["x"][region], mask["w"][:] = 1, 1
    untouched = reference(case, mask) == 0
    assert 0 < untouched.sum() < untouched.size
    bound = allowed(case, arrays, transformed=transforms(case, algorithm, isa=isa))
    expected = reference(case, arrays)
    arrays["x"][region] = value
    y = run(case, arrays, algorithm=algorithm, isa=isa).astype(np.float64)
    assert (np.abs(y - expected) <= bound)[untouched].all()


@each_isa
@each_choice
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(seed=st.integers(0, 2**16))
def test_cancellation(isa, algorithm, dtype, seed):
    """What two channels of opposite sign leave errs by the rounding of their large terms."""
    case = dataclasses.replace(USUAL, dtype=dtype, group_in=2, bias=False)
    arrays = case.arrays(seed)
    scale = 1e6
    arrays["x"][:, 0] *= scale
    arrays["x"][:, 1] = -arrays["x"][:, 0]
    arrays["w"][1] = arrays["w"][0] + arrays["w"][1] / arrays["w"].dtype.type(scale)
    y = run(case, arrays, algorithm=algorithm, isa=isa).astype(np.float64)
    expected = reference(case, arrays)
    bound = allowed(case, arrays, transformed=transforms(case, algorithm, isa=isa))
    assert (np.abs(y - expected) <= bound).all()
    assert np.abs(expected).max() < 1e-4 * scale  # they do cancel


@each_isa
@each_choice
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exact_cancellation(isa, algorithm, dtype):
    """The same channel twice, once with each sign, leaves nothing but the order's roundings."""
    case = dataclasses.replace(USUAL, dtype=dtype, group_in=2, bias=False)
    arrays = case.arrays()
    arrays["x"][:, 1] = -arrays["x"][:, 0]
    arrays["w"][1] = arrays["w"][0]
    y = run(case, arrays, algorithm=algorithm, isa=isa).astype(np.float64)
    transformed = transforms(case, algorithm, isa=isa)
    assert np.abs(y).max() <= (
        SUM_ROUNDOFF[dtype] * 500 if transformed else SUM_ROUNDOFF[dtype] * 64
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS)
def test_same_bits_for_any_number_of_threads(dtype, case):
    """Of the session: what a node computes does not depend on who computes it, or how often."""
    case = dataclasses.replace(case, dtype=dtype, batch=3)
    arrays = case.arrays()
    model = conv_transpose_model(case, arrays, op="ort_tconv")
    first = our_session(model, 1).run(None, {"x": arrays["x"]})[0]
    for threads in (1, 2, 3, 7, 16):
        session = our_session(model, threads)
        for _ in range(3):
            assert same_bits(session.run(None, {"x": arrays["x"]})[0], first)
