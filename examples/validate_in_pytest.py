"""What belongs into the tests of an application that ships a converted model.

MODEL=model.onnx pytest examples/validate_in_pytest.py
"""

import os

import pytest

import ort_tconv
from ort_tconv.testing import assert_models_close

MODEL = os.environ.get("MODEL", "generator.onnx")


@pytest.fixture(scope="module")
def converted():
    return ort_tconv.convert(MODEL)


def test_outputs_are_those_of_stock_onnxruntime(converted):
    """On three sets of generated inputs; fails, too, if no node was rewritten."""
    assert_models_close(MODEL, converted, runs=3)


def test_outputs_are_close_enough_for_us(converted):
    """With bounds of one's own beside the one that follows from the model."""
    report = assert_models_close(MODEL, converted)
    assert all(output.psnr > 90 for output in report.outputs)  # dB


def test_without_winograd(converted):
    assert_models_close(MODEL, ort_tconv.convert(MODEL, algorithm="direct"))
