"""How the operator's nodes keep their weights: what `weights=` stores, and what it does."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import Case, conv_transpose_model, model, nodes_of, tensor, value
from onnx import TensorProto, helper
from sessions import our_session

import ort_tconv
from ort_tconv import _core
from ort_tconv.converters import convert_with_report

CASE = Case((6, 5), (4, 4), group_in=40, group_out=24, strides=(2, 2), pads=(1, 1, 1, 1))
OP = "SegregatedConvTranspose"


def stored(model: onnx.ModelProto) -> list[str]:
    attributes = [a for node in nodes_of(model, OP) for a in node.attribute]
    return [a.s.decode() for a in attributes if a.name == "weights"]


@pytest.mark.parametrize("weights", ["float16", "bfloat16", "int8", "float32"])
def test_weights_are_stored_and_validated(weights):
    original = conv_transpose_model(CASE)
    result = convert_with_report(original, weights=weights)
    assert stored(result.model) == ([] if weights == "float32" else [weights])
    assert f"weights kept as {weights}" in result.report.notes[0]
    report = ort_tconv.validate(original, result.model)
    assert report.ok
    # The weights really are rounded, and the bound is that of their rounding, not of float32's.
    (output,) = report.outputs
    if weights != "float32":
        assert 2.0**-20 < output.max_abs <= output.tolerance


def test_a_converted_model_can_be_changed():
    once = ort_tconv.convert(conv_transpose_model(CASE))
    assert stored(once) == []
    kept = ort_tconv.convert(once, weights="bfloat16")
    assert stored(kept) == ["bfloat16"]
    assert stored(ort_tconv.convert(kept)) == ["bfloat16"]
    assert stored(ort_tconv.convert(kept, weights="float32")) == ["float32"]
    assert stored(ort_tconv.convert(kept, weights="int8")) == ["int8"]


def test_nodes_that_are_left_alone():
    original = conv_transpose_model(CASE)
    assert stored(ort_tconv.convert(original, weights="float16", exclude="up")) == []
    open_weights = conv_transpose_model(CASE, weights="input")
    assert stored(ort_tconv.convert(open_weights, weights="float16")) == []
    double = conv_transpose_model(Case((4, 3), (3, 3), strides=(2, 2), dtype="float64"))
    assert stored(ort_tconv.convert(double, weights="float16")) == []


def test_unknown_form():
    with pytest.raises(ValueError, match=r"weights = 'int4': must be one of .*bfloat16, int8$"):
        ort_tconv.convert(conv_transpose_model(CASE), weights="int4")


def test_weights_that_do_not_fit_are_refused_by_name():
    original = conv_transpose_model(CASE)
    w = next(t for t in original.graph.initializer if t.name == "w")
    w.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(w) * np.float32(1e6), "w"))
    model = ort_tconv.convert(original, weights="float16")
    options = ort_tconv.register(ort.SessionOptions())
    with pytest.raises(Exception, match=r"input W has values too large .* weights = 'float16'"):
        session = ort.InferenceSession(model.SerializeToString(), options)
        session.run(None, {"x": np.zeros(CASE.x_shape, np.float32)})


# ---- of models whose weights alone are quantised -------------------------------------------------


def quantised_weights(
    case: Case,
    integers: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray | None = None,
    axis: int = 1,
    tail: tuple[onnx.NodeProto, ...] = (),
    opset: int = 21,
    kind: int | None = None,
    constants: tuple[onnx.TensorProto, ...] = (),
) -> onnx.ModelProto:
    """x -> ConvTranspose with dequantised W -> ``tail``, from "c" to "y"."""
    given = {"w_int": integers, "zero": zero}
    weights = [
        helper.make_tensor(name, kind, array.shape, array.flatten().tolist())
        if kind is not None
        else tensor(array, name)
        for name, array in given.items()
        if array is not None
    ]
    names = ["w_int", "scale", *([] if zero is None else ["zero"])]
    nodes = [
        helper.make_node("DequantizeLinear", names, ["w"], name="dq", axis=axis),
        helper.make_node(
            "ConvTranspose", ["x", "w"], ["c" if tail else "y"], name="up", **case.attributes
        ),
        *tail,
    ]
    graph = helper.make_graph(
        nodes,
        "weights",
        [value("x", "float32", case.x_shape)],
        [value("y", "float32", [None] * len(case.x_shape))],
        [*weights, tensor(scale, "scale"), *constants],
    )
    return model(graph, opset)


def scales_of(result: onnx.ModelProto) -> list[list[float]]:
    attributes = [a for node in nodes_of(result, OP) for a in node.attribute]
    return [list(a.floats) for a in attributes if a.name == "weight_scales"]


GROUPS = Case((6, 5), (4, 4), group=2, group_in=20, group_out=24, strides=(2, 2), pads=(1, 1, 1, 1))
DEPTHWISE = Case((6, 5), (3, 3), group=24, group_in=1, group_out=2, strides=(2, 2))
LINE = Case((40,), (6,), group_in=40, group_out=24, strides=(3,))
VOLUME = Case((3, 4, 2), (2, 3, 2), group_in=17, group_out=24, strides=(2, 2, 2))


def drawn(case: Case, low: int, high: int, dtype: str = "int8") -> np.ndarray:
    return np.random.default_rng(5).integers(low, high, case.w_shape).astype(dtype)


def scale_for(n: int) -> np.ndarray:
    return np.random.default_rng(6).uniform(1e-3, 0.1, n).astype(np.float32)


KEPT = {
    "one scale": (CASE, drawn(CASE, -128, 128), scale_for(1)[0]),
    "a list of one scale": (CASE, drawn(CASE, -128, 128), scale_for(1)),
    "output channels": (CASE, drawn(CASE, -128, 128), scale_for(24)),
    "few integers": (CASE, drawn(CASE, -3, 4), scale_for(24)),
    "uint8": (CASE, drawn(CASE, 0, 256, "uint8"), scale_for(24), np.full(24, 128, np.uint8)),
    "uint8, half of it": (CASE, drawn(CASE, 40, 168, "uint8"), scale_for(1)[0], np.uint8(40)),
    "a zero point each": (
        CASE,
        drawn(CASE, -50, 51),
        scale_for(24),
        np.arange(24, dtype=np.int8) - 12,
    ),
    "groups": (GROUPS, drawn(GROUPS, -128, 128), scale_for(24)),
    "depthwise": (DEPTHWISE, drawn(DEPTHWISE, -128, 128), scale_for(2)),
    "depthwise, input channels": (DEPTHWISE, drawn(DEPTHWISE, -128, 128), scale_for(24), None, 0),
    "axis -3": (CASE, drawn(CASE, -128, 128), scale_for(24), None, -3),
    "equal scales of input channels": (
        CASE,
        drawn(CASE, -128, 128),
        np.full(40, 0.01, np.float32),
        None,
        0,
    ),
    "1-D": (LINE, drawn(LINE, -128, 128), scale_for(24)),
    "3-D": (VOLUME, drawn(VOLUME, -128, 128), scale_for(24)),
    "scales of 0": (CASE, drawn(CASE, -128, 128), np.zeros(24, np.float32)),
    "negative scales": (CASE, drawn(CASE, -128, 128), -scale_for(24)),
}


@pytest.mark.parametrize("made", KEPT.values(), ids=KEPT.keys())
def test_quantised_weights_are_kept_as_they_are(made):
    """Within float32's tolerance of the model, whatever their largest integer is."""
    case, original = made[0], quantised_weights(*made)
    result = ort_tconv.convert(original, weights="int8")
    assert stored(result) == ["int8"]
    (scales,) = scales_of(result)
    assert len(scales) == case.out_channels
    report = ort_tconv.validate(original, result)
    assert report.ok
    (output,) = report.outputs
    (float32,) = ort_tconv.validate(original, ort_tconv.convert(original)).outputs
    assert output.tolerance <= 1.01 * float32.tolerance
    assert stored(ort_tconv.convert(original)) == []
    again = ort_tconv.convert(result, weights="float32")
    assert stored(again) == ["float32"] and scales_of(again) == []


def test_subnormal_scales_lose_less_than_subnormal_weights_do():
    """The sum is formed before it is scaled, so that it is rounded once to a subnormal number."""
    scale, integers = np.full(24, 3e-45, np.float32), drawn(CASE, -128, 128)
    result = ort_tconv.convert(quantised_weights(CASE, integers, scale), weights="int8")
    x = CASE.arrays()["x"]
    (found,) = our_session(result).run(None, {"x": x})
    w = integers.astype(np.float64) * np.float64(scale[0])
    expected = _core.reference(x.astype(np.float64), w, **CASE.attributes)
    assert np.abs(found - expected).max() <= 1e-45
    assert np.abs(expected).max() > 100e-45


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
def test_four_bits_are_kept_in_eight(kind):
    low = -8 if kind == TensorProto.INT4 else 0
    made = quantised_weights(CASE, drawn(CASE, low, low + 16), scale_for(24), kind=kind)
    result = ort_tconv.convert(made, weights="int8")
    assert stored(result) == ["int8"] and len(scales_of(result)[0]) == 24


def test_scales_are_those_of_what_is_folded_into_the_weights():
    factors, shift = np.linspace(-2, 3, 24), np.linspace(0, 1, 24)
    tail = (
        helper.make_node("Mul", ["c", "factor"], ["d"]),
        helper.make_node("Add", ["d", "shift"], ["e"]),
        helper.make_node("Relu", ["e"], ["y"]),
    )
    constants = [
        tensor(a.astype(np.float32).reshape(24, 1, 1), n)
        for a, n in ((factors, "factor"), (shift, "shift"))
    ]
    scale = scale_for(24)
    original = quantised_weights(
        CASE, drawn(CASE, -100, 20), scale, tail=tail, constants=tuple(constants)
    )
    result = ort_tconv.convert(original, weights="int8")
    (found,) = scales_of(result)
    np.testing.assert_allclose(found, scale * factors, rtol=1e-6)
    report = ort_tconv.validate(original, result)
    assert report.ok
    (float32,) = ort_tconv.validate(original, ort_tconv.convert(original)).outputs
    assert report.outputs[0].tolerance <= 1.01 * float32.tolerance


WIDE = {
    "uint8 beyond": (
        (CASE, drawn(CASE, 0, 256, "uint8"), scale_for(24), np.full(24, 100, np.uint8)),
        "less their zero points they reach from -100 to 155, beyond int8",
    ),
    "int16": (
        (CASE, drawn(CASE, -999, 999, "int16"), scale_for(24)),
        "less their zero points they reach from -999 to 998, beyond int8",
    ),
    "scales of input channels": (
        (CASE, drawn(CASE, -128, 128), scale_for(40), None, 0),
        "they have a scale for each position of axis 0, not for each output channel",
    ),
    "scales of taps": (
        (CASE, drawn(CASE, -128, 128), scale_for(4), None, 2),
        "they have a scale for each position of axis 2, not for each output channel",
    ),
}


@pytest.mark.parametrize("made, reason", WIDE.values(), ids=WIDE.keys())
def test_quantised_weights_that_int8_does_not_hold_stay_float32(made, reason):
    original = quantised_weights(*made)
    result = convert_with_report(original, weights="int8")
    assert stored(result.model) == []
    assert result.report.notes == [
        f"weights of 'up' stay float32: {reason}",
        "weights kept as int8: 0 nodes",
    ]
    assert ort_tconv.validate(original, result.model).ok


@pytest.mark.parametrize("scale", [np.nan, np.inf, 3e38])
def test_scales_that_are_not_finite_or_make_weights_so(scale):
    case = replace(CASE, group_in=3)
    integers = drawn(case, -128, 128)
    original = quantised_weights(case, integers, np.full(24, scale, np.float32))
    result = convert_with_report(original, weights="int8")
    if not np.isfinite(scale):
        assert "not all of their scales are finite" in result.report.notes[0]
    feeds = {"x": np.abs(case.arrays()["x"]) + np.float32(1)}
    (expected,) = our_session(ort_tconv.convert(original)).run(None, feeds)
    (found,) = our_session(result.model).run(None, feeds)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
