"""How the operator's nodes keep their weights: what `weights=` stores, and what it does."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import Case, conv_transpose_model, nodes_of

import ort_tconv
from ort_tconv.converters import convert_with_report

CASE = Case((6, 5), (4, 4), group_in=40, group_out=24, strides=(2, 2), pads=(1, 1, 1, 1))
OP = "SegregatedConvTranspose"


def stored(model: onnx.ModelProto) -> list[str]:
    attributes = [a for node in nodes_of(model, OP) for a in node.attribute]
    return [a.s.decode() for a in attributes if a.name == "weights"]


@pytest.mark.parametrize("weights", ["float16", "bfloat16", "float32"])
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


def test_nodes_that_are_left_alone():
    original = conv_transpose_model(CASE)
    assert stored(ort_tconv.convert(original, weights="float16", exclude="up")) == []
    open_weights = conv_transpose_model(CASE, weights="input")
    assert stored(ort_tconv.convert(open_weights, weights="float16")) == []
    double = conv_transpose_model(Case((4, 3), (3, 3), strides=(2, 2), dtype="float64"))
    assert stored(ort_tconv.convert(double, weights="float16")) == []


def test_unknown_form():
    with pytest.raises(ValueError, match=r"weights = 'int4': must be one of float32, float16"):
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
