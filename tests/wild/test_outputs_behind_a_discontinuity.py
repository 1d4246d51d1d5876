"""Models whose ends make steps of rounding errors: images as bytes, labels, quantised layers."""

import numpy as np
import onnx
import pytest
from cases import scan_model
from onnx import TensorProto, helper, numpy_helper

import ort_tconv
from ort_tconv.testing import assert_models_close

RNG = np.random.default_rng(0)
CHANNELS = 8


def model(tail, output=TensorProto.FLOAT, constants=None, side=48, weights=None) -> onnx.ModelProto:
    """A transposed convolution u, and ``tail``, which makes y of it."""
    if weights is None:
        weights = RNG.standard_normal((CHANNELS, 3, 4, 4))
    nodes = [
        helper.make_node(
            "ConvTranspose", ["x", "w"], ["u"], name="up", strides=[2, 2], pads=[1] * 4
        ),
        *tail,
    ]
    arrays = {"w": np.asarray(weights, np.float32), **(constants or {})}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, side, side])],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op_type, *inputs, output, **attributes):
    return helper.make_node(op_type, list(inputs), [output], name=op_type.lower(), **attributes)


def steps(scale=1e6) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Rounded to whole numbers so fine that rounding errors cross the boundaries between them."""
    nodes = [
        helper.make_node("Relu", ["u"], ["r"], name="relu"),
        helper.make_node("Mul", ["r", "scale"], ["m"], name="mul"),
    ]
    return nodes, {"scale": np.float32(scale)}


SCALED, SCALE = steps()
TAILS = {
    "Round": ([*SCALED, node("Round", "m", output="y")], TensorProto.FLOAT, SCALE),
    "Cast to an integer": (
        [*SCALED, node("Cast", "m", output="y", to=TensorProto.INT32)],
        TensorProto.INT32,
        SCALE,
    ),
    "Round, Clip and Cast to bytes": (
        [
            *steps()[0],
            node("Round", "m", output="o"),
            node("Mod", "o", "modulus", output="d", fmod=1),
            node("Clip", "d", "low", "high", output="c"),
            node("Cast", "c", output="y", to=TensorProto.UINT8),
        ],
        TensorProto.UINT8,
        {**SCALE, "modulus": np.float32(256), "low": np.float32(0), "high": np.float32(255)},
    ),
    "quantised and back": (
        [
            node("QuantizeLinear", "u", "step", "zero", output="q"),
            node("DequantizeLinear", "q", "step", "zero", output="y"),
        ],
        TensorProto.FLOAT,
        {"step": np.float32(3e-2), "zero": np.int8(0)},
    ),
    "a comparison": (
        [
            node("Round", "u", output="o"),
            node("Sub", "u", "o", output="s"),
            node("Greater", "s", "s2", output="y"),
        ],
        TensorProto.BOOL,
        {"s2": np.float32(0.25)},
    ),
    "ArgMax": (
        [node("Floor", "u", output="o"), node("ArgMax", "o", output="y", axis=1)],
        TensorProto.INT64,
        {},
    ),
    "TopK": (
        [helper.make_node("Flatten", ["u"], ["f"]),
         helper.make_node("TopK", ["f", "k"], ["values", "y"], name="topk")],
        TensorProto.INT64,
        {"k": np.array([5000])},
    ),
    "a phase": (
        [
            node("Reciprocal", "u", output="q"),
            node("Atan", "q", output="a"),
            node("Mul", "q", "a", output="y"),
        ],
        TensorProto.FLOAT,
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAILS)
def test_rounding_that_the_model_enlarges_is_no_error(name):
    tail, output, constants = TAILS[name]
    original = model(tail, output, constants)
    report = ort_tconv.validate(original)
    assert report.ok, str(report)
    assert report.rewritten == 1
    assert_models_close(original)


def test_it_is_said_where_the_model_does_so():
    tail, output, constants = TAILS["Cast to an integer"]
    (comparison,) = ort_tconv.validate(model(tail, output, constants)).outputs
    assert comparison.ok and comparison.max_abs >= 1
    assert "values differ" in comparison.note and "'cast' (Cast) makes steps" in comparison.note
    assert "the values before it agree" in str(comparison)


def with_a_wrong_weight(original):
    """The model converted, one weight of the operator changed."""
    wrong = ort_tconv.convert(original)
    for tensor in wrong.graph.initializer:
        if tensor.name == "w":
            w = numpy_helper.to_array(tensor).copy()
            w[0, 0, 1, 1] += 0.5
            tensor.CopyFrom(numpy_helper.from_array(w, "w"))
    return wrong


@pytest.mark.parametrize("name", TAILS)
def test_a_wrong_weight_is_still_an_error_and_the_operator_is_named(name):
    tail, output, constants = TAILS[name]
    original = model(tail, output, constants)
    report = ort_tconv.validate(original, with_a_wrong_weight(original))
    assert not report.ok
    assert report.first_difference.node == "up"
    assert report.first_difference.op_type == "SegregatedConvTranspose"


def test_a_wrong_rest_is_still_an_error():
    tail, output, constants = TAILS["Cast to an integer"]
    original = model(tail, output, constants)
    wrong = ort_tconv.convert(original)
    for tensor in wrong.graph.initializer:
        if tensor.name == "scale":
            tensor.CopyFrom(numpy_helper.from_array(np.float32(1.001e6), "scale"))
    report = ort_tconv.validate(original, wrong)
    assert not report.ok
    assert report.first_difference.node == "mul"


def test_an_absolute_tolerance_counts_for_integers():
    tail, output, constants = TAILS["Cast to an integer"]
    original = model(tail, output, constants)
    (comparison,) = ort_tconv.validate(original, atol=1e3).outputs
    assert comparison.ok and comparison.note is None and comparison.tolerance == 1e3


def test_sums_that_cancel():
    """Every output is the small difference of large sums."""
    half = RNG.standard_normal((CHANNELS // 2, 3, 4, 4)).astype(np.float32)
    small = 1e-7 * RNG.standard_normal(half.shape)
    original = model(
        [node("Identity", "u", output="y")], weights=np.concatenate([half, small - half])
    )
    x = RNG.standard_normal((1, CHANNELS // 2, 48, 48)).astype(np.float32)
    report = ort_tconv.validate(original, inputs={"x": np.concatenate([x, x], axis=1)})
    assert report.ok, str(report)


# ---- in bodies ---------------------------------------------------------------------------------


def in_if(original: onnx.ModelProto, condition: bool = True) -> onnx.ModelProto:
    """All nodes of a model in a branch of an If; the other one is never taken."""
    result = onnx.ModelProto()
    result.CopyFrom(original)
    element = original.graph.output[0].type.tensor_type.elem_type
    other = helper.make_graph(
        [helper.make_node("Cast", ["flag"], ["other"], to=element)],
        "other",
        [],
        [onnx.ValueInfoProto(name="other")],
    )
    body = helper.make_graph(
        list(original.graph.node), "body", [], [onnx.ValueInfoProto(name="in_y")]
    )
    for node in body.node:
        for i, name in enumerate(node.output):
            node.output[i] = "in_y" if name == "y" else name
    branches = (body, other) if condition else (other, body)
    names = ("then_branch", "else_branch")
    del result.graph.node[:]
    result.graph.node.append(
        helper.make_node("If", ["flag"], ["y"], name="body", **dict(zip(names, branches)))
    )
    result.graph.initializer.append(numpy_helper.from_array(np.array(condition), "flag"))
    return result


def in_two_ifs(original: onnx.ModelProto) -> onnx.ModelProto:
    inner = in_if(original)
    del inner.graph.initializer[-1]  # both read one condition
    return in_if(inner)


def in_loop(original: onnx.ModelProto) -> onnx.ModelProto:
    """Every iteration gives a result of its own, of the input times a growing number."""
    result = onnx.ModelProto()
    result.CopyFrom(original)
    nodes = [
        helper.make_node("Identity", ["go"], ["goes"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Exp", ["f"], ["e"]),
        helper.make_node("Mul", ["x", "e"], ["xe"]),
        *original.graph.node,
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            onnx.ValueInfoProto(name="in_y"),
        ],
    )
    for node in body.node:
        for field, names in ((node.input, {"x": "xe"}), (node.output, {"y": "in_y"})):
            for i, name in enumerate(field):
                field[i] = names.get(name, name) if node.op_type != "Mul" or name != "x" else name
    del result.graph.node[:]
    result.graph.node.append(helper.make_node("Loop", ["trips", ""], ["y"], name="body", body=body))
    trips = numpy_helper.from_array(np.array(3, np.int64), "trips")
    result.graph.initializer.append(trips)
    return result


BODIES = {
    "If": in_if,
    "If, the other branch": lambda original: in_if(original, False),
    "If in an If": in_two_ifs,
    "Loop": in_loop,
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("name", ["Round", "Cast to an integer", "ArgMax"])
def test_in_a_body_as_well(name, body):
    tail, output, constants = TAILS[name]
    original = BODIES[body](model(tail, output, constants, side=16))
    report = ort_tconv.validate(original)
    assert report.ok, str(report)
    assert report.rewritten == 1


@pytest.mark.parametrize("body", BODIES)
def test_a_wrong_weight_in_a_body_is_found(body):
    tail, output, constants = TAILS["Cast to an integer"]
    original = BODIES[body](model(tail, output, constants, side=16))
    report = ort_tconv.validate(original, with_a_wrong_weight(original))
    assert not report.ok
    assert report.first_difference.op_type == "SegregatedConvTranspose"
    assert report.first_difference.node.startswith("body/")
    assert report.first_difference.node.endswith("/up")


def test_what_is_judged_as_a_whole_is_named():
    original = scan_model()
    wrong = ort_tconv.convert(original)
    for tensor in wrong.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    report = ort_tconv.validate(original, wrong)
    assert not report.ok and report.first_difference.node == "scan"
    assert "judged as a whole, with all that is in their bodies: Scan 'scan'" in report.notes
