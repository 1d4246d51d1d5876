"""The oracle (custom_op/core/reference.h) against a second formulation that shares nothing with it.

The oracle scatters every input through every tap.  Here a transposed convolution is the ordinary
correlation of the zero-inserted, padded input with the flipped, dilated kernel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import CORNERS, Case, drawn_cases
from hypothesis import given, settings

from ort_tconv import _core


def insert_zeros(array: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    """``steps[i] - 1`` zeros between neighbours along spatial axis i; they are the last axes."""
    axes = len(steps)
    lead, sides = array.shape[:-axes], array.shape[-axes:]
    result = np.zeros((*lead, *((side - 1) * step + 1 for side, step in zip(sides, steps))))
    result[(..., *(slice(None, None, step) for step in steps))] = array
    return result


def zero_insertion(case: Case, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    axes = len(case.spatial)
    ones = (1,) * axes
    shape, pads = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)
    x = insert_zeros(x, case.strides or ones)
    w = insert_zeros(w, case.dilations or ones)
    # Enough zeros around the input for every output; the pads then cut the first outputs off.
    out = shape[2:]
    around = [(reach - 1, max(0, out[i] + pads[i])) for i, reach in enumerate(w.shape[2:])]
    x = np.pad(x, [(0, 0), (0, 0), *around])
    cut = [slice(pads[i], None) for i in range(axes)]
    x = x[(..., *cut)]
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=range(2, 2 + axes))
    windows = windows[(..., *(slice(side) for side in out), *(slice(None),) * axes)]
    windows = windows.reshape(case.batch, case.group, case.group_in, *windows.shape[2:])
    flipped = np.flip(w, range(2, 2 + axes)).reshape(case.group, case.group_in, *w.shape[1:])
    o, t = "opqr"[:axes], "tuvw"[:axes]
    y = np.einsum(f"ngc{o}{t},gcm{t}->ngm{o}", windows, flipped).reshape(shape)
    return y if b is None else y + b.reshape(1, -1, *ones)


def compare(case: Case) -> None:
    arrays = case.arrays()
    actual = case.expected(arrays)
    expected = zero_insertion(case, arrays["x"], arrays["w"], arrays.get("b"))
    assert actual.shape == expected.shape
    # Two float64 sums of at most 1000 terms of ordinary size.
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


FLOAT64 = {name: Case(**vars(case) | {"dtype": "float64"}) for name, case in CORNERS.items()}


@pytest.mark.parametrize("case", FLOAT64.values(), ids=FLOAT64.keys())
def test_corner(case: Case) -> None:
    compare(case)


@settings(max_examples=150)
@given(case=drawn_cases(dtypes=["float64"], most_axes=4))
def test_any_case(case: Case) -> None:
    compare(case)


def test_worked_by_hand() -> None:
    """x = [1, 2], w = [10, 20, 30], stride 2: 10 20 30+20 40 60, less one pad at each end."""
    x, w = np.array([[[1.0, 2.0]]]), np.array([[[10.0, 20.0, 30.0]]])
    assert _core.reference(x, w, strides=[2]).tolist() == [[[10, 20, 50, 40, 60]]]
    assert _core.reference(x, w, strides=[2], pads=[1, 1]).tolist() == [[[20, 50, 40]]]
    assert _core.reference(x, w, [0.5], strides=[2], pads=[2, 2]).tolist() == [[[50.5]]]


def test_groups_use_their_own_channels() -> None:
    x = np.array([[[1.0], [10.0], [100.0], [1000.0]]])
    w = np.array([[[1.0], [2.0]], [[3.0], [4.0]], [[5.0], [6.0]], [[7.0], [8.0]]])
    y = _core.reference(x, w, group=2)
    assert y.ravel().tolist() == [31, 42, 7500, 8600]


def test_integers_and_any_layout_are_taken() -> None:
    x = np.arange(24).reshape(4, 3, 2).T[:, :, ::2]
    w = np.arange(12, dtype=np.float32).reshape(2, 3, 2).transpose(1, 0, 2)
    expected = _core.reference(np.ascontiguousarray(x, float), np.ascontiguousarray(w, float))
    assert np.array_equal(_core.reference(x, w), expected)


# ---- epilogue ------------------------------------------------------------------------------------


def f32(value: float) -> float:
    """Attributes are float32."""
    return float(np.float32(value))


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v)) if v > 0 else math.exp(v) / (1 + math.exp(v))


#: Name, parameters, closed form.
ACTIVATIONS: list[tuple[str, list[float], Any]] = [
    ("Relu", [], lambda v: max(v, 0)),
    ("LeakyRelu", [], lambda v: v if v > 0 else f32(0.01) * v),
    ("LeakyRelu", [0.3], lambda v: v if v > 0 else f32(0.3) * v),
    ("LeakyRelu", [-2.0], lambda v: v if v > 0 else -2 * v),
    ("PRelu", [0.25], lambda v: v if v > 0 else 0.25 * v),
    ("Clip", [-1.5, 2.0], lambda v: min(max(v, -1.5), 2.0)),
    ("Sigmoid", [], sigmoid),
    ("Tanh", [], math.tanh),
    ("HardSigmoid", [], lambda v: min(max(f32(0.2) * v + 0.5, 0), 1)),
    ("HardSigmoid", [0.5], lambda v: min(max(0.5 * v + 0.5, 0), 1)),
    ("HardSigmoid", [0.5, 0.25], lambda v: min(max(0.5 * v + 0.25, 0), 1)),
    ("HardSwish", [], lambda v: v * min(max(v / 6 + 0.5, 0), 1)),
    ("Silu", [], lambda v: v * sigmoid(v)),
    ("Elu", [], lambda v: v if v > 0 else math.expm1(v)),
    ("Elu", [0.5], lambda v: v if v > 0 else 0.5 * math.expm1(v)),
    ("Softplus", [], lambda v: max(v, 0) + math.log1p(math.exp(-abs(v)))),
    ("Gelu", [], lambda v: v * math.erfc(-v / math.sqrt(2)) / 2),
    (
        "GeluTanh",
        [],
        lambda v: v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2,
    ),
]
VALUES = [0.0, 1e-12, 1e-3, 0.4, 0.5, 1.0, 2.0, 2.5, 3.0, 6.0, 10.0, 30.0]
VALUES += [-v for v in VALUES]


def test_every_activation_has_a_closed_form_here() -> None:
    with pytest.raises(_core.Error) as caught:
        _core.output_shape([1, 1, 1], [1, 1, 1], activation="?")
    known = str(caught.value).rpartition("one of ")[2].split(", ")
    assert set(known) == {name for name, _, _ in ACTIVATIONS}


@pytest.mark.parametrize("name, params, f", ACTIVATIONS)
def test_activation(name: str, params: list[float], f) -> None:
    x = np.array(VALUES).reshape(1, 1, -1)
    y = _core.reference(x, [[[1.0]]], activation=name, activation_params=params)
    np.testing.assert_allclose(y.ravel(), [f(v) for v in VALUES], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name, params, _", ACTIVATIONS)
def test_activation_of_nan_is_nan(name: str, params: list[float], _) -> None:
    y = _core.reference([[[np.nan]]], [[[1.0]]], activation=name, activation_params=params)
    assert np.isnan(y).all()


def test_prelu_has_a_slope_for_each_output_channel() -> None:
    y = _core.reference(
        -np.ones((1, 2, 1)),
        np.ones((2, 2, 1)),
        group=2,
        activation="PRelu",
        activation_params=[0.5, 0.25, 2.0, 4.0],
    )
    assert y.ravel().tolist() == [-0.5, -0.25, -2, -4]


def test_bias_and_residual_come_before_the_activation() -> None:
    x, w = np.array([[[1.0, -1.0, -1.0]]]), np.array([[[2.0]]])
    z = np.array([[[0.0, 0.0, 4.0]]])
    y = _core.reference(x, w, [-0.5], z, activation="Relu")
    assert y.ravel().tolist() == [1.5, 0.0, 1.5]
    assert _core.reference(x, w, None, z).ravel().tolist() == [2, -2, 2]


def test_outputs_without_input_are_the_activated_bias() -> None:
    y = _core.reference([[[1.0]]], [[[1.0]]], [-2.0], output_shape=[3], activation="Elu")
    assert y.ravel().tolist() == [math.expm1(-1), math.expm1(-2), math.expm1(-2)]
