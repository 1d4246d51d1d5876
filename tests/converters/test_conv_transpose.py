"""What the ConvTranspose pass rewrites, and what it leaves alone and why."""

import numpy as np
import onnx
import pytest
from cases import CORNERS, Case, conv_transpose_model, function_model, nodes_of
from onnx import AttributeProto, helper
from sessions import run_converted, run_stock

from ort_tconv import _core
from ort_tconv.converters import convert_with_report

CASE = Case((4, 3), (3, 3), strides=(2, 2), pads=(1, 0, 1, 0))
OP = "SegregatedConvTranspose"


def refusal(model: onnx.ModelProto) -> str:
    """The reason for which the one candidate was left alone."""
    result = convert_with_report(model)
    assert not result.changes
    assert result.model == model
    (skip,) = result.skips
    return skip.reason


def edited(edit, model: onnx.ModelProto | None = None) -> onnx.ModelProto:
    model = model or conv_transpose_model(CASE)
    edit(nodes_of(model, "ConvTranspose")[0])
    return model


# ---- rewritten ---------------------------------------------------------------------------------


@pytest.mark.parametrize("corner", CORNERS)
def test_node_is_carried_over_as_it_is(corner):
    original = conv_transpose_model(CORNERS[corner])
    before = original.graph.node[0]
    before.doc_string = "made by hand"
    before.metadata_props.add(key="origin", value="test")
    result = convert_with_report(original)
    (after,) = result.model.graph.node
    assert (after.domain, after.op_type) == ("ort_tconv", OP)
    assert (after.name, after.doc_string) == ("up", "made by hand")
    assert list(after.metadata_props) == list(before.metadata_props)
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)
    assert sorted(a.SerializeToString() for a in after.attribute) == sorted(
        a.SerializeToString() for a in before.attribute
    )
    (change,) = result.changes
    assert (change.node, change.op_type, change.where) == ("up", "ConvTranspose", "graph")


@pytest.mark.parametrize("algorithm", _core.algorithms())
def test_algorithm_is_stored(algorithm):
    original = conv_transpose_model(CASE)
    model = convert_with_report(original, algorithm=algorithm).model
    (node,) = nodes_of(model, OP)
    (stored,) = [a for a in node.attribute if a.name == "algorithm"]
    assert stored.s.decode() == algorithm


def test_unknown_algorithm():
    with pytest.raises(ValueError, match=r"algorithm = 'fast': must be one of auto, direct"):
        convert_with_report(conv_transpose_model(CASE), algorithm="fast")


@pytest.mark.parametrize("opset", [1, 2, 9, 10, 11, 13, 17, 21, onnx.defs.onnx_opset_version()])
def test_opsets(opset):
    result = convert_with_report(conv_transpose_model(CASE, opset=opset))
    assert len(result.changes) == 1
    assert {i.domain: i.version for i in result.model.opset_import} == {"": opset, "ort_tconv": 1}


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_both_spellings_of_onnx(domain):
    original = conv_transpose_model(CASE)
    original.opset_import[0].domain = domain
    original.graph.node[0].domain = domain
    assert len(convert_with_report(original).changes) == 1


@pytest.mark.parametrize("weights", ["initializer", "constant", "input"])
def test_skipped_bias_is_dropped(weights):
    case = Case((4, 3), (3, 3), bias=False)
    original = conv_transpose_model(case, weights=weights)
    nodes_of(original, "ConvTranspose")[0].input.append("")
    converted = convert_with_report(original).model
    assert list(nodes_of(converted, OP)[0].input) == ["x", "w"]


def test_node_without_a_name_goes_by_its_output():
    result = convert_with_report(edited(lambda node: node.ClearField("name")))
    assert result.changes[0].node == "y"
    assert nodes_of(result.model, OP)[0].name == ""


def test_local_function():
    result = convert_with_report(function_model())
    assert result.changes[0].where == "function local::Upsample"
    (function,) = result.model.functions
    assert {i.domain: i.version for i in function.opset_import} == {"": 17, "ort_tconv": 1}
    assert "ort_tconv" in [i.domain for i in result.model.opset_import]


@pytest.mark.parametrize(
    "model",
    [
        function_model({"strides": ("s", AttributeProto.INTS)}, given={"s": [3, 1]}),
        function_model({"strides": ("s", AttributeProto.INTS)}),
        function_model(
            {"strides": ("s", AttributeProto.INTS), "auto_pad": ("mode", AttributeProto.STRING)},
            defaults={"s": [3, 1], "mode": "SAME_UPPER"},
            ir_version=9,
        ),
        function_model(
            {"strides": ("s", AttributeProto.INTS), "group": ("g", AttributeProto.INT)},
            defaults={"s": [3, 1], "g": 1},
            given={"s": [2, 3]},
            ir_version=9,
        ),
    ],
    ids=["given", "not given", "default", "default overridden"],
)
def test_attribute_references_stay_references(model):
    converted = convert_with_report(model).model
    (before,), (after,) = nodes_of(model, "ConvTranspose"), nodes_of(converted, OP)
    assert {a.name: a.ref_attr_name for a in after.attribute} == {
        a.name: a.ref_attr_name for a in before.attribute
    }
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(
        run_converted(model, {"x": x})[0], run_stock(model, {"x": x})[0], atol=1e-5
    )


# ---- left alone --------------------------------------------------------------------------------


def test_attribute_reference_of_another_type():
    model = function_model({"strides": ("s", AttributeProto.INT)}, declared=["s"])
    assert refusal(model) == "attribute 'strides' has type INT, and ConvTranspose's is INTS"


def test_attribute_reference_to_a_default_of_another_type():
    model = function_model({"strides": ("s", AttributeProto.INTS)}, defaults={"s": 2}, ir_version=9)
    assert refusal(model) == (
        "attribute 'strides' refers to 's', whose default has type INT and not INTS"
    )


def test_attribute_reference_to_nothing():
    model = function_model({"strides": ("s", AttributeProto.INTS)}, declared=[])
    assert refusal(model) == "attribute 'strides' refers to 's', which no enclosing function has"


def test_attribute_reference_outside_functions():
    def refer(node):
        node.attribute.add(name="group", ref_attr_name="g", type=AttributeProto.INT)

    assert "'group' refers to 'g'" in refusal(edited(refer))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (
            lambda n: n.attribute.append(helper.make_attribute("dilations", 2)),
            "attribute 'dilations' has type INT, and ConvTranspose's is INTS",
        ),
        (
            lambda n: n.attribute.append(helper.make_attribute("mode", "fast")),
            "attribute 'mode' is not one of ConvTranspose's",
        ),
        (lambda n: n.input.pop(), None),
        (
            lambda n: n.input.extend(["b"]),
            "it has 4 inputs; ConvTranspose takes X, W and optionally B",
        ),
        (lambda n: n.output.append("z"), "it has 2 outputs; ConvTranspose has one"),
        (lambda n: n.input.__setitem__(1, ""), "its input W is missing"),
    ],
)
def test_malformed_nodes(edit, reason):
    if reason is None:  # without its bias the node is fine
        assert convert_with_report(edited(edit)).changes
    else:
        assert refusal(edited(edit)) == reason


@pytest.mark.parametrize(
    ("element_type", "shape", "reason"),
    [
        (onnx.TensorProto.INT32, None, "its input X has type INT32, which is not a float type"),
        (onnx.TensorProto.FLOAT, [1, 4], "its input X has rank 2; 3 is the least"),
    ],
)
def test_inputs_that_do_not_fit(element_type, shape, reason):
    model = conv_transpose_model(CASE)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", element_type, shape))
    assert refusal(model) == reason


def test_future_opset():
    model = conv_transpose_model(CASE, opset=999)
    assert "opset 999 is newer" in refusal(model)


def test_no_onnx_opset():
    model = conv_transpose_model(CASE)
    model.opset_import[0].domain = "elsewhere"
    assert refusal(model) == "no version of ONNX's own operators is imported"


def test_another_version_of_the_domain():
    model = conv_transpose_model(CASE)
    model.opset_import.append(helper.make_opsetid("ort_tconv", 7))
    model.graph.node.append(helper.make_node("Other", ["x"], ["other"], domain="ort_tconv"))
    assert refusal(model) == (
        "the model imports domain 'ort_tconv' version 7, and this converter writes version 1"
    )


def test_operators_of_other_domains_are_no_candidates():
    def move(node):
        node.domain = "com.example"

    result = convert_with_report(edited(move))
    assert not result.changes and not result.skips


def test_function_of_that_name_is_no_candidate():
    model = conv_transpose_model(CASE)
    model.functions.append(
        helper.make_function(
            "",
            "ConvTranspose",
            ["a", "b", "c"],
            ["y"],
            [helper.make_node("Identity", ["a"], ["y"])],
            [helper.make_opsetid("", 17)],
        )
    )
    result = convert_with_report(model)
    assert not result.changes and not result.skips
