"""Pruned or badly scaled channels: constants after the convolution that weights cannot bear."""

import numpy as np
import onnx
import pytest
from cases import nodes_of
from onnx import helper, numpy_helper
from sessions import agree, our_session, run_stock

import ort_tconv
from ort_tconv import _core
from ort_tconv.converters import convert_with_report

RNG = np.random.default_rng(0)
CHANNELS = 8


def model(op_type: str, constants: list[np.ndarray], dtype=np.float32) -> onnx.ModelProto:
    """ConvTranspose, and an operator with these constants."""
    names = [f"k{i}" for i in range(len(constants))]
    arrays = {
        "w": RNG.standard_normal((CHANNELS, CHANNELS, 4, 4)),
        **dict(zip(names, constants, strict=True)),
    }
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node("ConvTranspose", ["x", "w"], ["c"], name="up", strides=[2, 2]),
            helper.make_node(op_type, ["c", *names], ["y"], name="scale"),
        ],
        "g",
        [helper.make_tensor_value_info("x", element, [1, CHANNELS, 8, 8])],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(array.astype(dtype), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _scale(number: float, channels: int) -> np.ndarray:
    scale = np.ones(CHANNELS)
    scale[:channels] = number
    return scale


@pytest.mark.parametrize(("number", "channels"), [(1e-36, 2), (1e-39, CHANNELS), (1e-33, 1)])
@pytest.mark.parametrize("op_type", ["Mul", "Div", "BatchNormalization"])
def test_the_constant_stays_where_it_is(op_type, number, channels):
    scale = _scale(number, channels)
    if op_type == "BatchNormalization":
        constants = [scale, np.zeros(CHANNELS), np.zeros(CHANNELS), np.ones(CHANNELS)]
    elif op_type == "Mul":
        constants = [scale.reshape(CHANNELS, 1, 1)]
    else:
        constants = [1 / np.maximum(scale, 1e-38).reshape(CHANNELS, 1, 1)]
    original = model(op_type, constants)
    result = convert_with_report(original)
    assert nodes_of(result.model, op_type) and nodes_of(result.model, "SegregatedConvTranspose")
    (skip,) = result.skips
    assert skip.node == "scale" and "would make those of channel 0 as small as" in skip.reason
    agree(original, result.model)


@pytest.mark.parametrize("number", [1e-6, 1e-20, 0.0])
def test_a_constant_that_weights_bear_is_folded(number):
    original = model("Mul", [_scale(number, 3).reshape(CHANNELS, 1, 1)])
    converted = ort_tconv.convert(original)
    assert not nodes_of(converted, "Mul")
    agree(original, converted)


def test_weights_of_16_bits_keep_their_digits():
    result = convert_with_report(
        model("Mul", [_scale(1e-5, 1).reshape(CHANNELS, 1, 1)], np.float16)
    )
    assert nodes_of(result.model, "Mul")


@pytest.mark.parametrize("number", [1e-38, 3e-39, 1e-36])
def test_tiny_weights_beside_usual_ones_do_not_count(number):
    """A transform of weights may make subnormal numbers of some that are not."""
    w = RNG.standard_normal((CHANNELS, CHANNELS, 4, 4)).astype(np.float32)
    w[RNG.random(w.shape) < 0.3] = number
    x = RNG.standard_normal((1, CHANNELS, 16, 16)).astype(np.float32)
    sides = {"strides": [2, 2], "pads": [1] * 4}
    expected = _core.reference(x.astype(np.float64), w.astype(np.float64), **sides)
    y = _core.run(x, w, algorithm="winograd", **sides)
    assert np.abs(y - expected).max() < 1e-4


def test_weights_that_are_all_tiny_are_computed():
    w = (RNG.standard_normal((CHANNELS, CHANNELS, 4, 4)) * 1e-35).astype(np.float32)
    x = RNG.standard_normal((1, CHANNELS, 16, 16)).astype(np.float32)
    sides = {"strides": [2, 2], "pads": [1] * 4}
    expected = _core.reference(x.astype(np.float64), w.astype(np.float64), **sides)
    y = _core.run(x, w, algorithm="winograd", **sides)
    assert np.abs(y - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("scale", [1e-36, 1e-38, 1e-39, 1e-41])
@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd", "stacked", "narrow"])
def test_weights_that_are_all_subnormal_from_the_start(scale, algorithm):
    """They are kept, as stock keeps them: up to the last digits that such numbers have."""
    original = model("Identity", [])
    weights = (scale * RNG.standard_normal((CHANNELS, CHANNELS, 4, 4))).astype(np.float32)
    original.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    x = {"x": RNG.standard_normal((1, CHANNELS, 8, 8)).astype(np.float32)}
    (expected,) = run_stock(original, x)
    (y,) = our_session(ort_tconv.convert(original, algorithm=algorithm)).run(None, x)
    smallest = np.finfo(np.float32).smallest_subnormal
    products = 4 * CHANNELS
    bound = products * (np.finfo(np.float32).eps * np.abs(expected).max() + 16 * smallest)
    assert np.abs(expected).max() > scale
    assert np.abs(y.astype(np.float64) - expected).max() <= bound
