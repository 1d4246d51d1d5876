"""Nodes that ConvTranspose's own rules refuse: hand-made or damaged models."""

import numpy as np
import pytest
from cases import Case, conv_transpose_model, nodes_of

import ort_tconv
from ort_tconv.converters import convert_with_report

GOOD = Case((4, 4), (3, 3), group_in=4, group_out=3, strides=(2, 2))
REFUSED = {
    "bias too long": ({"b": (5,)}, {}, "input B has shape [5]: must be [3]"),
    "bias too short": ({"b": (2,)}, {}, "input B has shape [2]: must be [3]"),
    "one bias for all": ({"b": (1,)}, {}, "input B has shape [1]: must be [3]"),
    "bias of rank 2": ({"b": (1, 3)}, {}, "input B has shape [1, 3]: must be [3]"),
    "channels that W does not have": ({"w": (6, 3, 3, 3)}, {}, "the number of channels of X, 4"),
    "kernel_shape that is not W's": ({}, {"kernel_shape": [5, 5]}, "kernel_shape = [5, 5]"),
    "group 0": ({}, {"group": 0}, "group = 0"),
    "group that divides nothing": ({}, {"group": 3}, "group = 3"),
    "stride 0": ({}, {"strides": [2, 0]}, "strides = [2, 0]"),
    "pads for one axis": ({}, {"pads": [1, 1]}, "pads = [1, 1]"),
    "pads beside auto_pad": (
        {},
        {"pads": [1] * 4, "auto_pad": "SAME_UPPER"},
        "auto_pad = 'SAME_UPPER' and pads = [1, 1, 1, 1]",
    ),
    "output_shape 0": ({}, {"output_shape": [0, 9]}, "output_shape = [0, 9]"),
    "pads that take everything": ({}, {"pads": [5, 0, 4, 0]}, "axis 0 would be 0"),
    "pads that take more": ({}, {"pads": [5, 0, 6, 0]}, "axis 0 would be -2"),
}


def malformed(shapes, attributes):
    arrays = {
        name: np.ones(shapes.get(name, array.shape), np.float32)
        for name, array in GOOD.arrays().items()
    }
    return conv_transpose_model(GOOD, arrays, attributes=GOOD.attributes | attributes)


@pytest.mark.parametrize(("shapes", "attributes", "reason"), REFUSED.values(), ids=REFUSED)
def test_it_is_left_alone_with_the_reason(shapes, attributes, reason):
    result = convert_with_report(malformed(shapes, attributes))
    assert not nodes_of(result.model, "SegregatedConvTranspose")
    (skip,) = result.skips
    assert skip.reason.startswith("ConvTranspose does not allow it: ") and reason in skip.reason


def test_open_sizes_are_taken_to_fit():
    model = malformed({}, {"pads": [5, 0, 6, 0]})
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.Clear()
    assert nodes_of(ort_tconv.convert(model), "SegregatedConvTranspose")


@pytest.mark.parametrize(("shapes", "attributes", "reason"), REFUSED.values(), ids=REFUSED)
def test_validation_says_that_stock_refuses_it_too(shapes, attributes, reason):
    with pytest.raises(ValueError, match="stock onnxruntime refuses it, too") as caught:
        ort_tconv.validate(malformed(shapes, attributes))
    assert "node 'up'" in str(caught.value) and reason in str(caught.value)
