"""assert_models_close: silent where models agree, readable where they do not."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from cases import Case, chain_model, conv_transpose_model, tensor
from onnx import numpy_helper

import ort_tconv
from ort_tconv.testing import assert_models_close

CASE = Case((5, 4), (4, 4), group_in=8, strides=(2, 2), pads=(1, 1, 1, 1))


def without_a_tap(original: onnx.ModelProto, name: str) -> onnx.ModelProto:
    result = ort_tconv.convert(original)
    weight = next(t for t in result.graph.initializer if t.name == name)
    array = numpy_helper.to_array(weight).copy()
    array[1, 2, 3, 0] = 0
    weight.CopyFrom(tensor(array, name))
    return result


def test_models_that_agree():
    original = chain_model()
    assert assert_models_close(original).rewritten == 3
    report = ort_tconv.testing.assert_models_close(
        original, ort_tconv.convert(original), shapes={"x0": (1, 4, 3, 3)}, runs=2, seed=1
    )
    assert report.ok and report.runs == 2
    assert_models_close(original, inputs={"x0": np.zeros((1, 4, 2, 2), np.float32)})


def test_failure_says_where_and_how_much():
    original = chain_model()
    with pytest.raises(AssertionError) as caught:
        assert_models_close(original, without_a_tap(original, "w1"), shapes={"x0": (1, 4, 3, 3)})
    text = str(caught.value)
    for part in (
        "1 of 1 outputs differ from stock onnxruntime on the CPU",
        "output 'x3' (float32 [1, 4, 24, 24]): exceeds the tolerance",
        "max abs",
        "allowed",
        "RMS",
        "cosine 0.",
        "PSNR",
        "first node that differs: SegregatedConvTranspose 'up_y1'",
        "its plan: ",
        "input 'x0': float32 [1×4×3×3]",
    ):
        assert part in text


def test_nothing_rewritten_fails():
    original = chain_model()
    with pytest.raises(AssertionError, match="has 0 of the operator's nodes; at least 1"):
        assert_models_close(original, original)
    with pytest.raises(AssertionError, match="has 3 of the operator's nodes; at least 4"):
        assert_models_close(original, min_rewritten=4)
    assert assert_models_close(original, original, min_rewritten=0).ok


def test_wrong_shapes_fail():
    original = conv_transpose_model(CASE)
    other = conv_transpose_model(Case((5, 4), (4, 4), group_in=8, strides=(2, 2)))
    with pytest.raises(AssertionError, match=r"expected shape \[1, 3, 10, 8\]"):
        assert_models_close(original, ort_tconv.convert(other))


def test_wrong_use_is_no_failed_assertion():
    with pytest.raises(ValueError, match="no input 'z'"):
        assert_models_close(chain_model(), shapes={"z": (1,)})


def test_in_a_suite_of_a_user(tmp_path):
    """pytest shows the user's line and the message, and no line of ours."""
    onnx.save(chain_model(), tmp_path / "original.onnx")
    onnx.save(without_a_tap(chain_model(), "w1"), tmp_path / "converted.onnx")
    (tmp_path / "test_user.py").write_text(
        "from ort_tconv.testing import assert_models_close\n"
        "def test_model():\n"
        "    assert_models_close('original.onnx', 'converted.onnx')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "test_user.py:3: AssertionError" in done.stdout
    assert "first node that differs: SegregatedConvTranspose 'up_y1'" in done.stdout
    assert "testing.py" not in done.stdout
