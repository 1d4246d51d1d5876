"""Exports of pixel shuffles in which a Shape, used or not, reads the convolution as well."""

import numpy as np
import onnx
import pytest
from cases import nodes_of
from onnx import TensorProto, helper, numpy_helper
from sessions import agree

import ort_tconv

RNG = np.random.default_rng(0)


def _initializer(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def model(
    extra=(), initializers=(), activation=False, outputs=("y",), sides=(6, 7), shuffle="d2s"
) -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1])]
    if activation:
        nodes.append(helper.make_node("Relu", ["c"], ["r"], name="relu"))
    nodes += extra
    if shuffle == "d2s":
        nodes.append(
            helper.make_node(
                "DepthToSpace", ["r" if activation else "c"], ["y"], name="shuffle", blocksize=2
            )
        )
    weights = _initializer("w", RNG.standard_normal((16, 4, 3, 3)).astype(np.float32))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, *sides])],
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT if name == "y" else TensorProto.INT64, None
            )
            for name in outputs
        ],
        [weights, *initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


GATHER = helper.make_node("Gather", ["s", "two"], ["g"], name="gather")
TWO = _initializer("two", np.array(2))


def _shape(value: str) -> onnx.NodeProto:
    return helper.make_node("Shape", [value], ["s"], name="shape")


def _node_names(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.name]


@pytest.mark.parametrize("activation", [False, True])
@pytest.mark.parametrize("gather", [[], [GATHER]], ids=["Shape", "Shape and Gather"])
def test_a_shape_that_nothing_reads(gather, activation):
    original = model([_shape("r" if activation else "c"), *gather], [TWO], activation)
    converted = ort_tconv.convert(original)
    assert len(nodes_of(converted, "SegregatedConvTranspose")) == 1
    assert len(set(_node_names(converted))) == len(_node_names(converted))
    agree(original, converted)
