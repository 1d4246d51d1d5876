"""DequantizeLinear, ConvTranspose, QuantizeLinear become one node that computes the same."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import CORNERS, Case, drawn_cases, nodes_of
from hypothesis import given
from onnx import helper
from qdq import Layer
from quantities import BYTES, Quantized, expected, ways_to_quantize
from sessions import our_session, run_stock

import ort_tconv
from ort_tconv.converters import convert_with_report

OP = "QLinearSegregatedConvTranspose"
USUAL = Case((6, 5), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1), group_in=8, group_out=6)
GROUPS = Case((6, 5), (4, 4), strides=(2, 2), group=3, group_in=2, group_out=4)
DEPTHWISE = Case((6, 5), (4, 4), strides=(2, 2), group=6, group_in=1, group_out=1)


def agrees(original: onnx.ModelProto, converted: onnx.ModelProto, feeds) -> None:
    """With stock: at most one step, and nearly always none; floats up to rounding."""
    (ours,) = our_session(converted).run(None, feeds)
    (stock,) = run_stock(original, feeds)
    assert ours.dtype == stock.dtype
    assert ours.shape == stock.shape
    if stock.dtype == np.float32:
        scale = np.abs(stock).max(initial=1.0)
        np.testing.assert_allclose(ours, stock, rtol=0, atol=1e-5 * scale)
        return
    steps = np.abs(ours.astype(int) - stock.astype(int))
    assert steps.max(initial=0) <= 1
    assert (steps > 0).sum() <= max(1, 1e-3 * steps.size)


def check(layer: Layer, wanted: str | None = OP, stock: bool = True) -> onnx.ModelProto:
    """Converts a layer; ``wanted`` is the operator it becomes, or a part of the reason why not."""
    original = layer.model()
    result = convert_with_report(original)
    found = Counter(node.op_type for node in result.model.graph.node)
    if wanted == OP:
        assert found[OP] == 1, result.report
        for op_type in ("ConvTranspose", "SegregatedConvTranspose", "Relu", "Clip"):
            assert not found[op_type], found
        if layer.bias in ("", "units") and layer.axis == 1 and not found["Tanh"]:
            (actual,) = our_session(result.model).run(None, layer.feeds())
            inputs = layer.inputs()
            if not layer.bias:
                inputs.pop("b", None)
            how = replace(layer.how, bias="int32" if layer.bias else "")
            how = how if layer.quantize else replace(how, y="float32")
            if not layer.quantize:
                zero = {"y_scale": np.float32(1), "y_zero_point": np.zeros((), np.float32)}
                inputs |= zero
            np.testing.assert_array_equal(actual, expected(layer.case, how, inputs))
    else:
        assert not found[OP]
        reasons = [s.reason for s in result.skips] + [c.became for c in result.changes]
        assert any(wanted in reason for reason in reasons), reasons
    if stock:
        agrees(original, result.model, layer.feeds())
    return result.model


@pytest.mark.parametrize("corner", CORNERS)
def test_corners(corner):
    # Some of them stock refuses, or has no scales for; the definition serves all.
    check(Layer(CORNERS[corner], Quantized(scales="of a group")), stock=False)


@pytest.mark.parametrize("y", BYTES)
@pytest.mark.parametrize("w", BYTES)
@pytest.mark.parametrize("x", BYTES)
def test_types(x, w, y):
    for scales in ("one", "each"):
        for w_zeros in (False, True):
            converted = check(Layer(USUAL, Quantized(x, w, y, scales, w_zeros)))
            assert [n.op_type for n in converted.graph.node] == [OP]
            # The bias is in units of the products: it stays an integer.
            assert converted.graph.node[0].input[8] == "b"


@given(case=drawn_cases(most_axes=3), how=ways_to_quantize())
def test_any_case(case, how):
    bias = {"": "", "int32": "units", "float32": ""}[how.bias]
    scales = "of a group" if how.scales == "each" else how.scales  # as the standard has it
    layer = Layer(case, replace(how, scales=scales), bias=bias)
    layer.quantize = how.y != "float32"
    check(layer, stock=False)


@pytest.mark.parametrize("constants", ["initializer", "node"])
@pytest.mark.parametrize("zero_points", [True, False])
def test_constants_and_zero_points(zero_points, constants):
    layer = Layer(USUAL, Quantized(y="uint8"), zero_points, constants=constants)
    check(layer)


@pytest.mark.parametrize("opset", [9, 17, 21])
@pytest.mark.parametrize("bias", ["", "units", "other units", "float32"])
@pytest.mark.parametrize("zero_points", [True, False])
def test_nodes_of_onnxruntimes_own_domain(zero_points, bias, opset):
    """They mean the same, and are there before ONNX's own, which came with opset 10."""
    domain = "com.microsoft"
    for how in (Quantized(), Quantized("uint8", "uint8", "int8", "one", True, "int32", "Relu")):
        layer = Layer(USUAL, how, zero_points, bias=bias, domain=domain, opset=opset)
        layer.quantize = zero_points or how.y == "uint8"
        # Stock rounds a float32 bias with a Round that opset 9 does not have, and fails.
        converted = check(layer, stock=(opset, bias) != (9, "float32"))
        assert {n.op_type for n in converted.graph.node} <= {OP, "DequantizeLinear"}
    mixed = Layer(USUAL, domain=domain).model()
    for node in mixed.graph.node:
        node.domain = "" if node.name == "dq_x" else node.domain
    result = ort_tconv.convert(mixed)
    assert nodes_of(result, OP)
    agrees(mixed, result, Layer(USUAL).feeds())


def test_weights_of_onnxruntimes_own_domain_alone():
    layer = Layer(USUAL, quantize=False, domain="com.microsoft", bias="")
    original = layer.model()
    del original.graph.node[0]
    original.graph.node[-1].input[0] = "x"
    original.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    result = convert_with_report(original, weights="int8")
    assert [node.op_type for node in result.model.graph.node] == ["SegregatedConvTranspose"]
    assert "its input X is not quantised" in result.changes[0].became
    report = ort_tconv.validate(original, result.model)
    assert report.ok
    layer.w_scale = np.full(6, 0.01, np.float16)
    half = convert_with_report(layer.model())
    (skip,) = (skip for skip in half.skips if skip.node == "up")
    assert "W is not dequantised to float32" in skip.reason


def test_a_function_of_that_name_is_none_of_them():
    original = Layer(USUAL, domain="com.microsoft").model()
    opset = helper.make_opsetid("", 17)
    body = [helper.make_node("Cast", ["a"], ["b"], to=onnx.TensorProto.FLOAT)]
    original.functions.append(
        helper.make_function(
            "com.microsoft", "DequantizeLinear", ["a", "s", "z"], ["b"], body, [opset]
        )
    )
    assert not nodes_of(ort_tconv.convert(original), OP)


def test_activations_become_bounds():
    for activation in (("Relu", ()), ("Clip", (-0.5, 0.75)), ("Clip", (0.0, 6.0))):
        for y in BYTES:
            how = Quantized("uint8", "int8", y, "each", False, "int32", *activation)
            converted = check(Layer(USUAL, how))
            assert [n.op_type for n in converted.graph.node] == [OP]


def test_a_result_that_stays_float():
    converted = check(Layer(USUAL, quantize=False))
    assert [n.op_type for n in converted.graph.node] == [OP]
    check(Layer(USUAL, Quantized(activation="Relu"), quantize=False))
    tanh = [helper.make_node("Tanh", ["c"], ["r"], name="act")]
    converted = check(Layer(USUAL, tail=tanh))
    assert [n.op_type for n in converted.graph.node] == [OP, "Tanh", "QuantizeLinear"]


@pytest.mark.skipif(
    tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 24),
    reason="onnxruntime before 1.24 keeps some of these biases in float32",
)
@pytest.mark.parametrize("scales", ["one", "each"])
@pytest.mark.parametrize("activation", ["", "Relu"])
def test_float_biases_are_rounded_as_stock_rounds_them(scales, activation):
    """Of few channels, whose sums are coarse: an unrounded bias would show in some per cent."""
    coarse = Case((60, 50), (2, 2), strides=(2, 2), group_in=1, group_out=6)
    layer = Layer(coarse, Quantized(scales=scales, activation=activation), bias="float32")
    original = layer.model()
    for constant in original.graph.initializer:
        if constant.name == "b_float":
            bias = onnx.numpy_helper.to_array(constant)
            unit = layer.inputs()["x_scale"] * layer.inputs()["w_scale"]
            moved = (bias + np.float32(0.4) * unit).astype(np.float32)
            constant.CopyFrom(onnx.numpy_helper.from_array(moved, "b_float"))
    converted = ort_tconv.convert(original)
    (node,) = nodes_of(converted, OP)
    (b,) = [c for c in converted.graph.initializer if c.name == node.input[8]]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(b), layer.inputs()["b"])
    agrees(original, converted, layer.feeds())


def test_a_float_bias_before_a_float_result_stays():
    converted = check(Layer(USUAL, bias="float32", quantize=False))
    assert nodes_of(converted, OP)[0].input[8] == "b_float"


def test_biases():
    for bias in ("units", "other units", "float32", ""):
        check(Layer(USUAL, bias=bias))
    converted = check(Layer(USUAL, bias="other units"))
    assert "DequantizeLinear" in [n.op_type for n in converted.graph.node]


@pytest.mark.parametrize("name", ["w", "w_scale", "w_zero_point", "x_scale", "y_scale"])
def test_parameters_that_are_inputs(name):
    check(Layer(USUAL, given=("x", name)))


def test_groups_take_a_scale_for_each_channel_of_a_group():
    check(Layer(GROUPS, Quantized(scales="of a group")))
    check(Layer(DEPTHWISE, Quantized(scales="of a group")))


def test_scales_of_input_channels():
    """Axis 0 of W, as TensorRT wants them: only where a group has one of them."""
    rng = np.random.default_rng(3)
    each = rng.uniform(0.004, 0.008, 6).astype(np.float32)
    check(Layer(DEPTHWISE, axis=0, w_scale=each, bias="float32"))
    check(Layer(USUAL, axis=0, w_scale=np.full(8, 0.005, np.float32), bias="float32"))
    each = rng.uniform(0.004, 0.008, 8).astype(np.float32)
    check(Layer(USUAL, axis=0, w_scale=each, bias="float32"), "input channel (axis 0)")


def test_weights_alone_are_quantised():
    layer = Layer(USUAL, quantize=False)
    original = layer.model()
    del original.graph.node[0]
    node = next(n for n in original.graph.node if n.name == "up")
    node.input[0] = "x"
    original.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    result = convert_with_report(original)
    assert [n.op_type for n in result.model.graph.node] == ["SegregatedConvTranspose"]
    (change, *_) = result.changes
    assert "its input X is not quantised" in change.became
    feeds = {"x": np.random.default_rng(0).standard_normal(USUAL.x_shape).astype(np.float32)}
    agrees(original, result.model, feeds)


def test_weights_in_eight_bit_floats_stay():
    """They are no integers: nothing is folded that is not known to be exact."""
    layer = Layer(USUAL, quantize=False, zero_points=False, bias="", opset=21)
    original = layer.model()
    for i, constant in enumerate(original.graph.initializer):
        if constant.name == "w":
            values = np.random.default_rng(0).standard_normal(USUAL.w_shape)
            kind = onnx.TensorProto.FLOAT8E4M3FN
            narrow = helper.make_tensor("w", kind, values.shape, values.flatten())
            original.graph.initializer[i].CopyFrom(narrow)
    result = convert_with_report(original)
    assert nodes_of(result.model, "DequantizeLinear")
    assert any("FLOAT8E4M3FN" in skip.reason for skip in result.skips), result.report


@pytest.mark.parametrize("name", ["x_scale", "w_scale", "y_scale"])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_scales_that_the_operator_does_not_take(name, scale):
    """They stay what they are to stock."""
    original = Layer(USUAL, Quantized(scales="one")).model()
    for constant in original.graph.initializer:
        if constant.name == name:
            constant.CopyFrom(onnx.numpy_helper.from_array(np.float32(scale), name))
    result = convert_with_report(original)
    assert not nodes_of(result.model, OP)
    reasons = [change.became for change in result.changes]
    assert any(f"the scale {scale}" in reason for reason in reasons), reasons


def test_sixteen_bit_activations_stay_float():
    layer = Layer(USUAL, opset=21)
    original = layer.model()
    for name in ("x", "x_zero_point"):
        for info in original.graph.input:
            if info.name == name:
                info.type.tensor_type.elem_type = onnx.TensorProto.UINT16
    for i, constant in enumerate(original.graph.initializer):
        if constant.name == "x_zero_point":
            wide = onnx.numpy_helper.from_array(np.array(1000, np.uint16), "x_zero_point")
            original.graph.initializer[i].CopyFrom(wide)
    result = convert_with_report(original)
    assert nodes_of(result.model, "SegregatedConvTranspose")
    assert any("UINT16" in change.became for change in result.changes), result.report
    agrees(original, result.model, {"x": layer.feeds()["x"].astype(np.uint16) * 200})


def test_a_result_that_others_read_stays_float():
    layer = Layer(USUAL)
    original = layer.model()
    original.graph.output.append(helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, None))
    converted = ort_tconv.convert(original)
    assert [n.op_type for n in converted.graph.node] == [OP, "QuantizeLinear"]
    for stock, ours in zip(
        run_stock(original, layer.feeds()), our_session(converted).run(None, layer.feeds())
    ):
        np.testing.assert_allclose(ours.astype(float), stock.astype(float), atol=1.01)


def test_the_pass_can_be_disabled():
    converted = ort_tconv.convert(Layer(USUAL).model(), disable="quantized")
    assert not nodes_of(converted, OP)
    assert nodes_of(converted, "SegregatedConvTranspose")


def test_an_algorithm_is_stored():
    for algorithm in ("direct", "winograd"):
        converted = ort_tconv.convert(Layer(USUAL).model(), algorithm=algorithm)
        (node,) = nodes_of(converted, OP)
        assert {a.name: a.s for a in node.attribute}["algorithm"] == algorithm.encode()


def test_a_converted_model_stays_as_it_is():
    converted = ort_tconv.convert(Layer(USUAL).model())
    assert ort_tconv.convert(converted) == converted


# ---- validation --------------------------------------------------------------------------------


def test_validation_allows_a_step_in_a_thousand():
    original = Layer(USUAL).model()
    converted = ort_tconv.convert(original)
    report = ort_tconv.validate(original, converted)
    assert report.ok, report
    assert report.rewritten == 1
    (output,) = report.outputs
    assert output.step == 1
    assert output.equal >= 0.999
    assert "equal" in str(output)


def change_weights(converted: onnx.ModelProto, by: int, count: int) -> None:
    for constant in converted.graph.initializer:
        if constant.name == "w":
            w = onnx.numpy_helper.to_array(constant).copy()
            w.reshape(-1)[:count] = np.clip(w.reshape(-1)[:count].astype(int) + by, -128, 127)
            constant.CopyFrom(onnx.numpy_helper.from_array(w, "w"))


@pytest.mark.parametrize("quantize", [True, False])
def test_validation_finds_wrong_weights(quantize):
    original = Layer(USUAL, quantize=quantize).model()
    converted = ort_tconv.convert(original)
    change_weights(converted, 60, 48)
    report = ort_tconv.validate(original, converted)
    assert not report.ok
    assert report.first_difference.op_type == OP


def test_validation_finds_many_small_differences():
    """All of them by one step: too many of them."""
    original = Layer(USUAL).model()
    converted = ort_tconv.convert(original)
    for constant in converted.graph.initializer:
        if constant.name == "y_zero_point":
            zero = onnx.numpy_helper.to_array(constant)
            constant.CopyFrom(onnx.numpy_helper.from_array(np.uint8(int(zero) ^ 1), constant.name))
    report = ort_tconv.validate(original, converted)
    assert not report.ok
    assert "differ by a step" in report.outputs[0].reason
