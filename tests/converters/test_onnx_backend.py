"""The ONNX project's own node tests for ConvTranspose, through the converter."""

import numpy as np
import pytest
from onnx.backend.test.case import node
from onnx.backend.test.case.node import convtranspose  # noqa: F401  importing it makes its tests
from sessions import our_session

from ort_tconv.converters import convert_with_report

# The public way to get them, load_model_tests(), computes the tests of all operators first.
TESTS = {test.name: test for test in node._NodeTestCases if "convtranspose" in test.name}


def test_there_are_tests():
    assert len(TESTS) >= 9


@pytest.mark.parametrize("name", TESTS)
def test_onnx_backend(name):
    test = TESTS[name]
    result = convert_with_report(test.model)
    assert len(result.changes) == 1, result.report
    session = our_session(result.model)
    assert test.data_sets
    for inputs, expected in test.data_sets:
        names = [value.name for value in session.get_inputs()]
        actual = session.run(None, dict(zip(names, inputs, strict=True)))
        for one, other in zip(actual, expected, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=test.rtol, atol=test.atol)
