"""Types and shapes of every node, wherever it is."""

import onnx
import pytest
from cases import (
    CORNERS,
    chain_model,
    conv_transpose_model,
    function_model,
    if_model,
    loop_model,
    scan_model,
)
from onnx import AttributeProto, helper

import ort_tconv
from ort_tconv import _core
from ort_tconv.converters import Model
from ort_tconv.models.inputs import make_inputs
from ort_tconv.models.shapes import typed_nodes


def transposed(model: onnx.ModelProto, **shapes) -> list:
    shapes = shapes or {name: array.shape for name, array in make_inputs(model).items()}
    names = ("ConvTranspose", "SegregatedConvTranspose")
    return [node for node in typed_nodes(Model(model), shapes) if node.op_type in names]


@pytest.mark.parametrize("name", CORNERS)
def test_shapes_of_a_node(name):
    """Where ONNX's inference and onnxruntime agree; inspect() asks the operator for Y's shape."""
    case = CORNERS[name]
    (node,) = transposed(conv_transpose_model(case, dynamic=True), x=case.x_shape)
    assert node.inputs[0].shape == case.x_shape and node.inputs[1].shape == case.w_shape
    if not case.output_shape and not case.auto_pad.startswith("SAME"):
        y_shape, _ = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)
        assert node.outputs[0].shape == tuple(y_shape)


@pytest.mark.parametrize("convert", [False, True], ids=["original", "converted"])
def test_places(convert):
    def of(model: onnx.ModelProto) -> list:
        nodes = transposed(ort_tconv.convert(model) if convert else model)
        assert [node.is_ours for node in nodes] == [convert] * len(nodes)
        return [(node.label, node.where, node.outputs[0].shape) for node in nodes]

    assert of(chain_model(2, dynamic=False)) == [
        ("up_y0", "graph", (1, 4, 10, 12)),
        ("up_y1", "graph", (1, 4, 20, 24)),
    ]
    assert set(of(if_model())) == {
        ("up_then_y", "subgraph then_graph", (1, 3, 10, 10)),
        ("up_else_y", "subgraph else_graph", (1, 3, 10, 10)),
    }
    assert of(scan_model()) == [("up_image_out", "subgraph body", (1, 2, 6, 6))]
    # The carried image grows from iteration to iteration.
    assert of(loop_model()) == [("up_x_out", "subgraph body", None)]


@pytest.mark.parametrize("convert", [False, True], ids=["original", "converted"])
def test_each_call_of_a_function_has_its_own_shapes_and_attributes(convert):
    model = function_model(
        {"strides": ("s", AttributeProto.INTS)}, defaults={"s": [2, 2]}, given={"s": [3, 1]}
    )
    second = helper.make_node("Upsample", ["y", "v"], ["z"], name="again", domain="local")
    model.graph.node.append(second)
    model.graph.initializer.append(
        helper.make_tensor("v", onnx.TensorProto.FLOAT, [3, 1, 2, 2], [0.5] * 12)
    )
    model.graph.output[0].name = "z"
    nodes = transposed(ort_tconv.convert(model) if convert else model)
    assert [(n.label, n.inputs[0].shape, n.outputs[0].shape) for n in nodes] == [
        ("call/inner", (1, 2, 4, 5), (1, 3, 12, 7)),
        ("again/inner", (1, 3, 12, 7), (1, 1, 24, 14)),
    ]
    assert [n.attributes["strides"] for n in nodes] == [[3, 1], [2, 2]]
    assert {n.where for n in nodes} == {"function local::Upsample"}


def test_declared_shapes_that_contradict_the_inputs_do_not_count():
    model = chain_model(1)
    model.graph.value_info.append(
        helper.make_tensor_value_info("y0", onnx.TensorProto.FLOAT, [7, 4, 1, 1])
    )
    (node,) = transposed(model, x0=(2, 4, 3, 3))
    assert node.outputs[0].shape == (2, 4, 6, 6)


def test_declared_shapes_help_past_unknown_operators():
    model = chain_model(1, dynamic=False)
    model.graph.node.insert(
        0, helper.make_node("Mystery", ["x0"], ["hidden"], domain="com.example")
    )
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.node[1].input[0] = "hidden"
    assert transposed(model)[0].inputs[0].shape is None
    model.graph.value_info.append(
        helper.make_tensor_value_info("hidden", onnx.TensorProto.FLOAT, [1, 4, 9, 9])
    )
    assert transposed(model)[0].outputs[0].shape == (1, 4, 18, 18)


def test_the_model_is_not_changed():
    model = ort_tconv.convert(function_model())
    before = model.SerializeToString(deterministic=True)
    transposed(model)
    assert model.SerializeToString(deterministic=True) == before
