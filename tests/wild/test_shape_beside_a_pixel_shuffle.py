"""Exports of pixel shuffles in which a Shape, used or not, reads the convolution as well."""

import numpy as np
import onnx
import pytest
from cases import nodes_of
from onnx import TensorProto, helper, numpy_helper
from sessions import agree

import ort_tconv

RNG = np.random.default_rng(0)
CHANNELS = 4


def _constant(name, numbers):
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def model(nodes, constants=(), outputs=(), shape=(1, CHANNELS, 6, 7), pads=1) -> onnx.ModelProto:
    """``nodes`` make y of c, a convolution of x."""
    conv = helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[pads] * 4)
    weights = RNG.standard_normal((16, CHANNELS, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [conv, *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4),
            *(helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in outputs),
        ],
        [
            numpy_helper.from_array(weights, "w"),
            *(_constant(name, numbers) for name, numbers in constants),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check(original: onnx.ModelProto, **feeds) -> onnx.ModelProto:
    """The site is rewritten, nothing is left of the convolution, and all is as before."""
    converted = ort_tconv.convert(original)
    assert len(nodes_of(converted, "SegregatedConvTranspose")) == 1
    assert not nodes_of(converted, "Conv") and not nodes_of(converted, "DepthToSpace")
    names = [node.name for node in converted.graph.node if node.name]
    assert len(set(names)) == len(names)
    agree(original, converted, **feeds)
    return converted


def _shuffle(value="c"):
    return helper.make_node("DepthToSpace", [value], ["y"], name="shuffle", blocksize=2)


def _shape(value="c"):
    return helper.make_node("Shape", [value], ["s"], name="shape")


GATHER = helper.make_node("Gather", ["s", "two"], ["g"], name="gather")
RELU = helper.make_node("Relu", ["c"], ["r"], name="relu")


@pytest.mark.parametrize("gather", [[], [GATHER]], ids=["Shape", "Shape and Gather"])
@pytest.mark.parametrize("read", ["c", "r"])
def test_a_shape_that_nothing_reads(gather, read):
    nodes = [RELU, _shape(read), *gather, _shuffle("r")]
    converted = check(model(nodes, [("two", 2)]))
    assert not nodes_of(converted, "Shape") and not nodes_of(converted, "Gather")


@pytest.mark.parametrize("shape", [(2, CHANNELS, 9, 8), ("n", CHANNELS, "h", "w")])
@pytest.mark.parametrize("pads", [0, 1])
@pytest.mark.parametrize("read", ["c", "r"])
def test_a_shape_that_is_an_output(shape, pads, read):
    check(
        model([RELU, _shape(read), _shuffle("r")], outputs=["s"], shape=shape, pads=pads),
        x=(2, CHANNELS, 9, 8),
    )


def test_a_part_of_the_shape_decides_on_what_follows():
    """As dynamo exports it with open sizes: a Reshape before the shuffle, and one after it."""
    nodes = [
        helper.make_node("Shape", ["c"], ["rest"], start=1),
        helper.make_node("Concat", ["minus", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["c", "flat"], ["f"]),
        helper.make_node("DepthToSpace", ["f"], ["d"], name="shuffle", blocksize=2),
        helper.make_node("Shape", ["d"], ["after"], start=1),
        helper.make_node("Shape", ["c"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "after"], ["whole"], axis=0),
        helper.make_node("Reshape", ["d", "whole"], ["y"]),
    ]
    original = model(nodes, [("minus", [-1])], shape=("n", CHANNELS, "h", "w"))
    check(original, x=(2, CHANNELS, 9, 8))


def test_channels_dealt_out_by_a_reshape_to_pieces_of_the_shape():
    nodes = [
        _shape(),
        *(
            helper.make_node("Slice", ["s", str(i), str(i + 1)], [f"s{i}"], name=f"slice{i}")
            for i in (0, 2, 3)
        ),
        helper.make_node("Concat", ["s0", "four", "two", "two", "s2", "s3"], ["six"], axis=0),
        helper.make_node("Reshape", ["c", "six"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 1, 4, 2, 5, 3]),
        *(helper.make_node("Mul", [f"s{i}", "two"], [f"t{i}"]) for i in (2, 3)),
        helper.make_node("Concat", ["s0", "four", "t2", "t3"], ["out"], axis=0),
        helper.make_node("Reshape", ["b", "out"], ["y"]),
    ]
    constants = [("four", [4]), ("two", [2]), *((str(i), [i]) for i in range(5))]
    original = model(nodes, constants, shape=("n", CHANNELS, "h", "w"))
    check(original, x=(2, CHANNELS, 9, 8))


def test_a_shape_of_an_upsampled_image():
    nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    resize = helper.make_node("Resize", ["x", "", "scales"], ["c"], name="up", **nearest)
    conv = helper.make_node("Conv", ["c", "w"], ["y"], name="conv", pads=[1] * 4)
    original = model([resize, conv, _shape()], outputs=["s"], shape=("n", CHANNELS, "h", "w"))
    del original.graph.node[0]
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    original.graph.initializer.append(scales)
    converted = ort_tconv.convert(original)
    assert not nodes_of(converted, "Resize") and not nodes_of(converted, "Conv")
    agree(original, converted, x=(2, CHANNELS, 9, 8))


@pytest.mark.parametrize("shape", [(2, CHANNELS, 9, 8), ("n", CHANNELS, "h", "w")])
def test_a_shape_between_a_transposed_convolution_and_its_activation(shape):
    transposed = helper.make_node(
        "ConvTranspose", ["x", "v"], ["c"], name="up", strides=[2, 3], pads=[1, 0, 1, 2]
    )
    original = model([transposed, _shape(), RELU], outputs=["s"], shape=shape)
    del original.graph.node[0]
    original.graph.node[-1].output[0] = "y"
    weights = RNG.standard_normal((CHANNELS, 8, 4, 3)).astype(np.float32)
    original.graph.initializer.append(numpy_helper.from_array(weights, "v"))
    converted = ort_tconv.convert(original)
    assert not nodes_of(converted, "Relu")
    agree(original, converted, x=(2, CHANNELS, 9, 8))
