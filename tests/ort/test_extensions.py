"""The operator and those of onnxruntime-extensions in one model."""

import numpy as np
import pytest
from cases import Case, conv_transpose_model
from onnx import helper, numpy_helper
from sessions import options

import ort_tconv

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxruntime_extensions")

CASE = Case((3, 3), (4, 4), group_in=1, group_out=1, strides=(2, 2), pads=(1, 1, 1, 1), bias=False)


def model_with_both():
    """y = Inverse(ConvTranspose(x)), the result being one 6x6 matrix."""
    result = conv_transpose_model(CASE)
    result.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    result.graph.initializer.append(numpy_helper.from_array(np.array([6, 6]), "side"))
    result.graph.node.append(helper.make_node("Reshape", ["y", "side"], ["matrix"]))
    result.graph.node.append(
        helper.make_node("Inverse", ["matrix"], ["inverse"], domain="ai.onnx.contrib")
    )
    del result.graph.output[:]
    result.graph.output.append(helper.make_tensor_value_info("inverse", 1, [6, 6]))
    return result


def test_both_libraries_in_one_session():
    original = model_with_both()
    session = ort.InferenceSession(
        ort_tconv.convert(original).SerializeToString(),
        ort_tconv.register(options(), extensions=True),
        providers=ort_tconv.available_providers(),
    )
    arrays = CASE.arrays()
    (inverse,) = session.run(None, {"x": arrays["x"]})
    matrix = CASE.expected(arrays)[0, 0]
    np.testing.assert_allclose(inverse @ matrix, np.eye(6), atol=1e-4 * np.linalg.cond(matrix))


def test_in_one_call():
    session = ort_tconv.InferenceSession(model_with_both(), options(), extensions=True)
    assert len(session.conversion.changes) == 1
    assert session.run(None, {"x": CASE.arrays()["x"]})[0].shape == (6, 6)


def test_without_them_the_message_is_onnxruntimes():
    with pytest.raises(Exception, match="Inverse"):
        ort_tconv.InferenceSession(model_with_both(), options())
