"""Super-resolution networks put an activation between the convolution and the pixel shuffle."""

import numpy as np
import onnx
import pytest
from cases import nodes_of
from onnx import TensorProto, helper, numpy_helper
from sessions import agree

import ort_tconv
from ort_tconv.converters import convert_with_report

RNG = np.random.default_rng(0)


def model(op_type: str, *constants: np.ndarray, mode="CRD", **attributes) -> onnx.ModelProto:
    """Conv, the operator with these constants, DepthToSpace."""
    names = [f"k{i}" for i in range(len(constants))]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node(op_type, ["c", *names], ["a"], name="act", **attributes),
        helper.make_node("DepthToSpace", ["a"], ["y"], name="shuffle", blocksize=2, mode=mode),
    ]
    arrays = {
        "w": RNG.standard_normal((16, 8, 3, 3)),
        "b": np.repeat(RNG.standard_normal(4), 4),
        **dict(zip(names, constants, strict=True)),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 32, 24])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_one_slope_for_each_channel_of_the_output():
    slopes = np.repeat([0.1, 0.2, 0.3, 0.4], 4).reshape(16, 1, 1)
    original = model("PRelu", slopes)
    converted = ort_tconv.convert(original)
    assert nodes_of(converted, "SegregatedConvTranspose") and not nodes_of(converted, "PRelu")
    agree(original, converted)


def test_slopes_that_differ_within_a_pixel():
    (skip,) = convert_with_report(model("PRelu", RNG.random((16, 1, 1)))).skips
    assert skip.node == "conv"
    assert skip.reason == "PRelu's slopes differ among the channels of a pixel"


def test_a_clip_of_as_many_bounds_as_channels_is_no_prelu():
    original = model("Clip", np.array(-0.5), np.array(0.5))
    agree(original, ort_tconv.convert(original))


@pytest.mark.parametrize("op_type", ["Mish", "Softsign", "Exp", "Selu"])
def test_what_cannot_be_taken_in_is_named(op_type):
    (skip,) = convert_with_report(model(op_type)).skips
    assert (skip.node, skip.op_type) == ("conv", "Conv")
    assert f"'act' ({op_type}) stands between it and the shuffle" in skip.reason


def test_an_activation_that_cannot_be_read_says_why():
    (skip,) = convert_with_report(model("PRelu", RNG.random((16, 16, 12)))).skips
    assert skip.reason.startswith("'act' (PRelu): its slopes have shape [16, 16, 12]")
