"""Storage types and activations (custom_op/cpu/kernel_impl.h), value by value.

A 1-tap kernel of one channel computes one product for each output, so results are known exactly.
"""

from __future__ import annotations

import numpy as np
import pytest
from cases import DTYPES, STORE_ROUNDOFF, SUM_ROUNDOFF
from forced import each_choice, each_isa, same_bits

from ort_tconv import _core

HALVES = ("float16", "bfloat16")
each_half = pytest.mark.parametrize("dtype", HALVES)


def every_pattern(dtype: str) -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype])


def one_tap(x: np.ndarray, w: np.ndarray, *optional: np.ndarray, **options) -> np.ndarray:
    """x [rows, length] times each w [channels] -> [rows, channels, length]."""
    return _core.run(x[:, None, :], w[None, :, None], *optional, **options)


# ---- 16-bit storage ------------------------------------------------------------------------------


@each_isa
@each_choice
@each_half
@pytest.mark.parametrize("length", [1 << 16, 13, 1])
def test_every_value_survives(isa: str, algorithm: str, dtype: str, length: int) -> None:
    """Times 1, in long rows and in rows shorter than a vector."""
    x = np.resize(every_pattern(dtype), (-(-(1 << 16) // length), length))
    y = one_tap(x, np.ones(1, DTYPES[dtype]), isa=isa, algorithm=algorithm)[:, 0]
    # -0 becomes 0 + -0 = 0; a NaN remains one, of whatever payload.
    nan, zero = np.isnan(x.astype(np.float32)), x.astype(np.float32) == 0
    assert np.isnan(y[nan].astype(np.float32)).all()
    assert (y[zero].view(np.uint16) == 0).all()
    ordinary = ~(nan | zero)
    assert same_bits(y[ordinary], x[ordinary])


def factors(dtype: str) -> np.ndarray:
    """Products with them fall between representable values, on ties, below and above the range."""
    steps = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    small = {"float16": 2.0**-12, "bfloat16": 2.0**-70}[dtype]
    values = [1 + steps, 1 + 3 * steps, 1.5, 0.75, 3, -0.5, 1.25, 1 - steps, 2 - steps]
    values += [value * small for value in (1, 1.5, 1 + steps, -1.25)]
    values += [value / small for value in (1, 1 + steps, -1.5)]
    return np.array(values).astype(DTYPES[dtype])


@each_isa
@each_choice
@each_half
def test_every_product_is_rounded_to_nearest_even(isa: str, algorithm: str, dtype: str) -> None:
    """Products of two 16-bit values are exact in float32, so numpy rounds the same numbers."""
    x, w = every_pattern(dtype), factors(dtype)
    y = one_tap(x[None], w, isa=isa, algorithm=algorithm)[0]
    with np.errstate(all="ignore"):
        exact = x.astype(np.float32) * w.astype(np.float32)[:, None]
        expected = exact.astype(DTYPES[dtype])
    nan, zero = np.isnan(exact), exact == 0
    assert np.array_equal(np.isnan(y.astype(np.float32)), nan)
    assert (y[zero].astype(np.float32) == 0).all()
    ordinary = ~(nan | zero)
    assert same_bits(y[ordinary], expected[ordinary])


@each_half
def test_the_products_reach_every_kind_of_rounding(dtype: str) -> None:
    """The test above would be empty without ties, subnormal results, underflow and overflow."""
    with np.errstate(all="ignore"):
        exact = every_pattern(dtype).astype(np.float32)
        exact = exact * factors(dtype).astype(np.float32)[:, None]
        rounded = exact.astype(DTYPES[dtype]).astype(np.float32)
    finite = np.isfinite(exact) & (exact != 0)
    dropped = {"float16": 13, "bfloat16": 16}[dtype]
    smallest = {"float16": 2.0**-14, "bfloat16": 2.0**-126}[dtype]
    low = exact.view(np.uint32) & ((1 << dropped) - 1)
    normal = finite & (np.abs(exact) >= smallest) & np.isfinite(rounded)
    ties = normal & (low == 1 << (dropped - 1))
    assert (ties & (np.abs(rounded) > np.abs(exact))).sum() > 1000
    assert (ties & (np.abs(rounded) < np.abs(exact))).sum() > 1000
    assert (normal & (low != 0) & ~ties).sum() > 1000
    assert (finite & (np.abs(exact) < smallest) & (rounded != 0) & (rounded != exact)).sum() > 100
    assert (finite & (rounded == 0)).sum() > 100
    assert (finite & np.isinf(rounded)).any()


@each_isa
@each_choice
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_product_bias_and_residual_bit_by_bit(isa: str, algorithm: str, dtype: str) -> None:
    """(x w + b) + z, each step rounded in the arithmetic's type, the last one stored."""
    rng = np.random.default_rng(7)
    x, w, b, z = (
        rng.standard_normal(shape).astype(DTYPES[dtype])
        for shape in ((3, 1001), 5, 5, (3, 5, 1001))
    )
    y = one_tap(x, w, b, z, isa=isa, algorithm=algorithm, threads=2)
    t = np.float64 if dtype == "float64" else np.float32
    xt, wt, bt, zt = (value.astype(t) for value in (x, w, b, z))
    expected = (xt[:, None] * wt[None, :, None] + bt[None, :, None] + zt).astype(DTYPES[dtype])
    assert same_bits(y, expected)


@each_isa
@each_half
@pytest.mark.parametrize("name", ["b", "z"])
def test_every_bias_and_residual_survives(isa: str, dtype: str, name: str) -> None:
    """Added to a product of zero."""
    values = every_pattern(dtype)
    values = values[np.isfinite(values.astype(np.float32))]
    x = np.zeros((1, 1 if name == "b" else values.size), DTYPES[dtype])
    w = np.ones(values.size if name == "b" else 1, DTYPES[dtype])
    optional = (values,) if name == "b" else (None, values[None, None])
    y = one_tap(x, w, *optional, isa=isa).reshape(-1)
    assert np.array_equal(y.astype(np.float32), values.astype(np.float32))


def test_bfloat16_as_uint16() -> None:
    """Arrays of processes without ml_dtypes' bfloat16 are told apart by the argument."""
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal((2, 3, 5)).astype(DTYPES["bfloat16"]) for _ in range(2))
    w = w.transpose(1, 0, 2).copy()
    y = _core.run(x.view(np.uint16), w.view(np.uint16), dtype="bfloat16")
    assert y.dtype == np.uint16
    assert same_bits(y, _core.run(x, w).view(np.uint16))


# ---- activations ---------------------------------------------------------------------------------

ACTIVATIONS = {
    "Relu": [],
    "LeakyRelu": [0.3],
    "PRelu": [0.25],
    "Clip": [-1.5, 2.0],
    "Sigmoid": [],
    "Tanh": [],
    "HardSigmoid": [0.3, 0.4],
    "HardSwish": [],
    "Silu": [],
    "Elu": [0.7],
    "Softplus": [],
    "Gelu": [],
    "GeluTanh": [],
}
#: Formulas that add terms of the size of v (or 1) which may cancel: HardSigmoid's a v + b near its
#: ends, and 1 + tanh(v).
CANCEL = ("HardSigmoid", "HardSwish", "GeluTanh")


def activation_inputs(dtype: str) -> np.ndarray:
    exponents = np.linspace(-30, 30 if dtype in ("float32", "float64") else 4, 4001)
    positive = np.concatenate([10**exponents, np.linspace(0, 20, 4001), np.linspace(80, 110, 301)])
    edges = [0.0, 0.5, 0.625, 1.5, 2.0, 3.0, 87.5, 88.0, 88.8, 103.9, 104.0, 745.0]
    values = np.concatenate([positive, edges])
    return np.concatenate([values, -values]).astype(DTYPES[dtype])


@each_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_accurate(isa: str, dtype: str, name: str) -> None:
    """Within 8 units in the last place over the whole range, plus what cancellation costs."""
    x = activation_inputs(dtype)
    attributes = {"activation": name, "activation_params": ACTIVATIONS[name]}
    y = one_tap(x[None], np.ones(1, DTYPES[dtype]), isa=isa, **attributes).reshape(-1)
    v = x.astype(np.float64)
    expected = _core.reference(v[None, None], [[[1.0]]], **attributes).reshape(-1)
    u = SUM_ROUNDOFF[dtype]
    # Results below the normal numbers of float32 may be flushed to zero, those of exp just above.
    floor = 5e-324 if dtype == "float64" else 1e-36
    computed = 16 * u * np.abs(expected) + floor
    if name in CANCEL:
        computed += 4 * u * (np.abs(v) + 1)
    half_subnormal = 2.0**-25 if dtype == "float16" else 0
    bound = computed + STORE_ROUNDOFF[dtype] * (np.abs(expected) + computed) + half_subnormal
    error = np.abs(y.astype(np.float64) - expected)
    worst = int(np.argmax(error / bound))
    assert error[worst] <= bound[worst], f"{name}({v[worst]}) = {y[worst]}, not {expected[worst]}"


@each_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_of_special_values(isa: str, dtype: str, name: str) -> None:
    """NaN, Inf and zero as the definition has them, also beside ordinary values."""
    special = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0])
    x = np.tile(special, 11).astype(DTYPES[dtype])
    attributes = {"activation": name, "activation_params": ACTIVATIONS[name]}
    y = one_tap(x[None], np.ones(1, DTYPES[dtype]), isa=isa, **attributes)
    y = y.astype(np.float64).reshape(-1, special.size)
    expected = _core.reference(special[None, None], [[[1.0]]], **attributes).reshape(-1)
    assert np.array_equal(np.isnan(y), np.broadcast_to(np.isnan(expected), y.shape))
    known = ~np.isnan(expected)
    tolerance = STORE_ROUNDOFF[dtype] + 8 * SUM_ROUNDOFF[dtype]
    np.testing.assert_allclose(y[:, known], np.tile(expected[known], (11, 1)), rtol=tolerance)
