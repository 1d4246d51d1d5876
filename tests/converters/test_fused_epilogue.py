"""What follows the operator becomes a part of it, or stays, with the reason."""

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cases import graph_model, nodes_of, tensor, value
from onnx import TensorProto, helper
from sessions import agree

from ort_tconv.converters import convert_with_report

OP = "SegregatedConvTranspose"
RNG = np.random.default_rng(2)
C, M = 4, 6
Y = [2, M, 8, 10]  # shape of the ConvTranspose's output


def make(
    *nodes, bias=True, group=1, dtype="float32", opset=17, inputs=None, outputs=("y",), **inits
):
    """x -> ConvTranspose ("up") -> v, and ``nodes`` from v to y; ``inits`` are their constants."""
    weights = {"w": RNG.standard_normal((C, M // group, 4, 4)) * 0.3}
    if bias:
        weights["b"] = RNG.standard_normal(M)
    arrays = {
        name: array if isinstance(array, np.ndarray) and array.dtype.kind == "i"
        else np.asarray(array, dtype)
        for name, array in {**weights, **inits}.items()
    }  # fmt: skip
    up = helper.make_node(
        "ConvTranspose", ["x", *weights], ["v"], "up", strides=[2, 2], pads=[1] * 4, group=group
    )
    return graph_model(
        [up, *nodes], arrays, {"x": [2, C, 4, 5], **(inputs or {})}, outputs, dtype, opset
    )


def node(op_type, *names, out="y", domain="", **attributes):
    return helper.make_node(op_type, list(names), [out], f"n_{out}", domain=domain, **attributes)


def fused(model: onnx.ModelProto, count: int = 1, **feeds) -> onnx.NodeProto:
    """The operator's node, after all others are gone and the result was found to be the same."""
    result = convert_with_report(model)
    assert len([c for c in result.changes if c.rewrite == "epilogue"]) == count, str(result.report)
    agree(model, result.model, **feeds)
    (only,) = result.model.graph.node
    assert (only.op_type, only.name) == (OP, "up")
    assert not convert_with_report(result.model).report.sites
    return only


def attributes(found: onnx.NodeProto) -> dict:
    return {a.name: helper.get_attribute_value(a) for a in found.attribute}


def refusal(model: onnx.ModelProto) -> str:
    result = convert_with_report(model)
    (skip,) = (s for s in result.skips if s.rewrite == "epilogue")
    assert not [c for c in result.changes if c.rewrite == "epilogue"]
    agree(model, result.model)
    return skip.reason


def untouched(model: onnx.ModelProto) -> None:
    """Nothing that concerns the pass."""
    result = convert_with_report(model)
    assert not [s for s in result.report.sites if s.rewrite == "epilogue"]
    agree(model, result.model)


# ---- constants ---------------------------------------------------------------------------------

VECTOR = RNG.standard_normal((M, 1, 1)) + 2.0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("order", ["v k", "k v"])
@pytest.mark.parametrize(("op", "k"), [
    ("Add", VECTOR), ("Sub", VECTOR), ("Mul", VECTOR), ("Div", VECTOR),
    ("Add", 0.5), ("Mul", VECTOR[None]), ("Sub", [3.0]),
])  # fmt: skip
def test_constants(op, k, order, group, bias):
    model = make(node(op, *order.split()), k=k, group=group, bias=bias)
    if (op, order) == ("Div", "k v"):
        assert len(convert_with_report(model).report.sites) == 1  # the ConvTranspose
    else:
        fused(model)


def normalization(source="v", out="y", **attributes):
    return node("BatchNormalization", source, "gamma", "beta", "mean", "var", out=out, **attributes)


def statistics(m=M):
    draw = RNG.standard_normal((3, m))
    return dict(zip(("gamma", "beta", "mean"), draw)) | {"var": RNG.uniform(0.1, 2, m)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("opset", [7, 9, 13, 15, 22])
def test_batch_normalization(opset, bias):
    fused(make(normalization(epsilon=1e-3), **statistics(), opset=opset, bias=bias))


def test_a_chain_is_rounded_once():
    model = make(
        node("Mul", "v", "third", out="t"), node("Mul", "t", "three"), third=1 / 3, three=3.0
    )
    converted = convert_with_report(model).model
    weights = {i.name: ir.from_proto(i).numpy() for i in converted.graph.initializer}
    (after,) = (array for name, array in weights.items() if array.ndim == 4)
    (before,) = (ir.from_proto(i).numpy() for i in model.graph.initializer if i.name == "w")
    exact = before.astype(np.float64) * np.float32(1 / 3).astype(np.float64) * 3
    np.testing.assert_array_equal(after, exact.astype(np.float32))


def test_everything_at_once():
    residual = {"z": Y}
    model = make(
        node("Mul", "v", "k", out="a"), normalization("a", "b1"), node("Add", "b1", "z", out="c"),
        node("Add", "one", "c", out="d"), node("PRelu", "d", "slopes"),
        k=VECTOR, one=1.0, slopes=RNG.standard_normal((M, 1, 1)), inputs=residual, **statistics(),
    )  # fmt: skip
    found = fused(model, 5)
    assert attributes(found)["activation"] == b"PRelu"
    assert len(found.input) == 4 and found.input[3] == "z"


def test_float16_and_double():
    fused(make(normalization(), **statistics(), dtype="float16"))
    fused(make(normalization(out="t"), node("Relu", "t"), **statistics(), dtype="float64"), 2)


def test_a_converted_upsampling_takes_its_epilogue():
    model = graph_model(
        [
            helper.make_node("Resize", ["x", "", "scales"], ["u"], mode="nearest"),
            helper.make_node("Conv", ["u", "w"], ["v"], "up", pads=[1] * 4),
            normalization(out="t"),
            node("Mul", "t", "s", out="y"),
            node("Sigmoid", "t", out="s"),
        ],
        {"w": RNG.standard_normal((M, C, 3, 3)).astype(np.float32),
         "scales": np.array([1, 1, 2, 2], np.float32),
         **{k: v.astype(np.float32) for k, v in statistics().items()}},
        {"x": ["n", C, "h", "w_"]},
    )  # fmt: skip
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:3], nodes[4], nodes[3]])
    result = convert_with_report(model)
    assert [c.rewrite for c in result.changes] == ["upsample_conv", "epilogue", "epilogue"]
    (only,) = result.model.graph.node
    assert attributes(only)["activation"] == b"Silu"
    agree(model, result.model, x=(1, C, 5, 4))


# ---- residual ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("order", ["v z", "z v"])
def test_residual(order, bias):
    found = fused(make(node("Add", *order.split()), inputs={"z": Y}, bias=bias))
    assert len(found.input) == 4 and "" not in found.input


def test_residual_of_open_shape():
    """Both sides come from x, through operators that keep or double its sides."""
    nodes = [
        node("Relu", "x", out="r"),
        helper.make_node("ConvTranspose", ["r", "w2"], ["z"], "skip", strides=[2, 2]),
    ]
    model = make(*nodes, node("Add", "v", "z"), w2=RNG.standard_normal((C, M, 2, 2)))
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim, "nchw"):
        if name != "c":
            dim.dim_param = name
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].CopyFrom(value("y", "float32", ["a", M, "b", "c"]))
    result = convert_with_report(model)
    assert [c.became for c in result.changes][-1].startswith("residual of")
    agree(model, result.model, x=(2, C, 3, 5))


@pytest.mark.parametrize(
    "shape", [[1, M, 8, 10], [2, M, 1, 1], [M, 8, 10], None, ["n", M, "h", "v"]]
)
def test_residual_that_may_be_broadcast(shape):
    model = make(node("Add", "v", "z"), inputs={"z": shape})
    result = convert_with_report(model)
    (skip,) = result.skips
    assert skip.reason == "the shape of 'z' is not known to be that of 'v'"
    agree(model, result.model, z=np.ones([d if isinstance(d, int) else 1 for d in shape or Y], "f"))


def test_second_residual():
    model = make(node("Add", "v", "z", out="t"), node("Add", "t", "u"), inputs={"z": Y, "u": Y})
    result = convert_with_report(model)
    assert [s.reason for s in result.skips] == ["there is a residual already"]
    agree(model, result.model)


def test_scale_after_a_residual():
    model = make(node("Add", "v", "z", out="t"), node("Mul", "t", "k"), k=VECTOR, inputs={"z": Y})
    result = convert_with_report(model)
    assert [s.reason for s in result.skips] == ["it scales a sum with a residual"]
    agree(model, result.model)


@pytest.mark.parametrize("activation", [None, "Relu"])
@pytest.mark.parametrize("order", [["u", "s"], ["s", "u"]])
def test_residual_around_the_operator(order, activation):
    """Both summands come from the operator; the one that others read as well is the residual."""
    second = helper.make_node("ConvTranspose", ["u", "square"], ["s"], "second", pads=[1] * 4)
    model = make(
        node(activation or "Identity", "v", out="u"),
        second,
        node("Add", *order),
        square=RNG.standard_normal((M, M, 3, 3)),
    )
    if activation is None:
        del model.graph.node[1]
        model.graph.node[0].output[0] = "u"
    result = convert_with_report(model)
    agree(model, result.model)
    (_, found) = result.model.graph.node
    assert (found.name, found.input[3], found.output[0]) == ("second", "u", "y")


def test_sum_with_itself_is_no_residual():
    untouched(make(node("Add", "v", "v")))


# ---- activations: operators --------------------------------------------------------------------

ONE_NODE = {
    "Relu": (node("Relu", "v"), "Relu", []),
    "LeakyRelu": (node("LeakyRelu", "v", alpha=0.2), "LeakyRelu", [0.2]),
    "LeakyRelu, default": (node("LeakyRelu", "v"), "LeakyRelu", [0.01]),
    "Clip": (node("Clip", "v", "low", "high"), "Clip", [-0.5, 0.75]),
    "Clip above": (node("Clip", "v", "", "high"), "Clip", [-math.inf, 0.75]),
    "Clip below": (node("Clip", "v", "low"), "Clip", [-0.5, math.inf]),
    "Sigmoid": (node("Sigmoid", "v"), "Sigmoid", []),
    "Tanh": (node("Tanh", "v"), "Tanh", []),
    "HardSigmoid": (node("HardSigmoid", "v", alpha=0.3), "HardSigmoid", [0.3, 0.5]),
    "HardSwish": (node("HardSwish", "v"), "HardSwish", []),
    "Elu": (node("Elu", "v", alpha=0.7), "Elu", [0.7]),
    "Softplus": (node("Softplus", "v"), "Softplus", []),
    "PRelu, one slope": (node("PRelu", "v", "slope"), "PRelu", [0.25]),
    "Gelu, contrib": (node("Gelu", "v", domain="com.microsoft"), "Gelu", []),
    "FastGelu": (node("FastGelu", "v", domain="com.microsoft"), "GeluTanh", []),
    "QuickGelu": (node("QuickGelu", "v", domain="com.microsoft", alpha=1.0), "Silu", []),
}


@pytest.mark.parametrize("name", ONE_NODE)
def test_activations(name):
    last, expected, params = ONE_NODE[name]
    model = make(last, low=-0.5, high=0.75, slope=[0.25])
    if last.domain:
        model.opset_import.append(helper.make_opsetid(last.domain, 1))
    found = attributes(fused(model))
    assert found["activation"] == expected.encode()
    np.testing.assert_array_equal(found.get("activation_params", []), np.float32(params))


def test_prelu_per_channel():
    slopes = RNG.standard_normal((M, 1, 1))
    found = attributes(fused(make(node("PRelu", "v", "slopes"), slopes=slopes)))
    np.testing.assert_array_equal(found["activation_params"], np.float32(slopes.ravel()))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_operator(approximate):
    model = make(node("Gelu", "v", approximate=approximate), opset=20)
    assert (
        attributes(fused(model))["activation"]
        == {"none": b"Gelu", "tanh": b"GeluTanh"}[approximate]
    )


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 22])
def test_opsets(opset):
    bounds = {"min": -0.5, "max": 0.75} if opset < 11 else {}
    inputs = [] if opset < 11 else ["low", "high"]
    fused(make(node("Clip", "v", *inputs, **bounds), opset=opset, low=-0.5, high=0.75))


def test_a_clip_whose_bounds_are_out_of_order():
    """The upper one is every result, as in stock onnxruntime."""
    model = make(node("Clip", "v", "low", "high"), low=0.75, high=-0.5)
    np.testing.assert_array_equal(attributes(fused(model))["activation_params"], [-0.5, -0.5])


def test_a_bound_that_is_not_a_number():
    model = make(node("Clip", "v", "low", "high"), low=math.nan, high=0.75)
    assert "its min is not a number" in refusal(model)


# ---- activations: sub-graphs -------------------------------------------------------------------

N = node
SUBGRAPHS = {
    "Silu": ("Silu", [N("Sigmoid", "v", out="s"), N("Mul", "v", "s")], {}),
    "Silu, turned": ("Silu", [N("Sigmoid", "v", out="s"), N("Mul", "s", "v")], {}),
    "HardSwish": (
        "HardSwish", [N("HardSigmoid", "v", alpha=1 / 6, out="s"), N("Mul", "v", "s")], {},
    ),
    "HardSwish, Clip": (
        "HardSwish",
        [N("Add", "v", "three", out="a"), N("Clip", "a", "zero", "six", out="c"),
         N("Mul", "v", "c", out="m"), N("Div", "m", "six")],
        {"three": 3.0, "zero": 0.0, "six": 6.0},
    ),
    "HardSwish, Clip divided first": (
        "HardSwish",
        [N("Add", "three", "v", out="a"), N("Clip", "a", "zero", "six", out="c"),
         N("Div", "c", "six", out="m"), N("Mul", "m", "v")],
        {"three": 3.0, "zero": 0.0, "six": 6.0},
    ),
    "Gelu": (
        "Gelu",
        [N("Div", "v", "root", out="d"), N("Erf", "d", out="e"), N("Add", "e", "one", out="a"),
         N("Mul", "v", "a", out="m"), N("Mul", "m", "half")],
        {"root": math.sqrt(2), "one": 1.0, "half": 0.5},
    ),
    "Gelu, half first": (
        "Gelu",
        [N("Mul", "v", "half", out="h"), N("Mul", "v", "root", out="d"), N("Erf", "d", out="e"),
         N("Add", "one", "e", out="a"), N("Mul", "h", "a")],
        {"root": math.sqrt(0.5), "one": 1.0, "half": 0.5},
    ),
    "Gelu, tanh": (
        "GeluTanh",
        [N("Pow", "v", "three", out="p"), N("Mul", "p", "k", out="q"), N("Add", "v", "q", out="r"),
         N("Mul", "r", "root", out="t"), N("Tanh", "t", out="u"), N("Add", "u", "one", out="a"),
         N("Mul", "v", "half", out="h"), N("Mul", "h", "a")],
        {"three": 3.0, "k": 0.044715, "root": math.sqrt(2 / math.pi), "one": 1.0, "half": 0.5},
    ),
    "Gelu, tanh of products": (
        "GeluTanh",
        [N("Mul", "v", "v", out="p"), N("Mul", "p", "k", out="q"), N("Add", "q", "one", out="r"),
         N("Mul", "v", "r", out="r2"), N("Mul", "root", "r2", out="t"), N("Tanh", "t", out="u"),
         N("Add", "u", "one", out="a"), N("Mul", "v", "a", out="h"), N("Mul", "h", "half")],
        {"k": 0.044715, "root": math.sqrt(2 / math.pi), "one": 1.0, "half": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("form", SUBGRAPHS)
def test_subgraphs(form, dtype):
    expected, nodes, constants = SUBGRAPHS[form]
    opset = 14
    found = fused(make(*nodes, **constants, dtype=dtype, opset=opset))
    assert attributes(found)["activation"] == expected.encode()


@pytest.mark.parametrize("form", ["Silu", "Gelu", "HardSwish, Clip"])
def test_subgraph_with_another_reader_stays(form):
    _, nodes, constants = SUBGRAPHS[form]
    inner = nodes[0].output[0]
    model = make(*nodes, **constants, outputs=("y", inner))
    result = convert_with_report(model)
    assert not [c for c in result.changes if c.rewrite == "epilogue"]
    agree(model, result.model)


@pytest.mark.parametrize(("name", "other"), [("root", 1.4), ("half", 0.25), ("one", 1.1)])
def test_gelu_with_other_constants_stays(name, other):
    _, nodes, constants = SUBGRAPHS["Gelu"]
    untouched(make(*nodes, **constants | {name: other}))


# ---- left alone --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "inits", "reason"),
    [
        ([N("Mul", "v", "k")], {"k": np.ones(10) * 2}, "its constant has shape [10]: not one"),
        (
            [N("Mul", "v", "k")],
            {"k": np.ones((2, 1, 1, 1)) * 2},
            "its constant has shape [2, 1, 1, 1]",
        ),
        ([N("Mul", "v", "k")], {"k": np.ones((1, 1, M, 1, 1))}, "its constant has shape"),
        ([N("PRelu", "v", "k")], {"k": np.ones((8, 10))}, "its slopes have shape [8, 10]"),
        ([N("Div", "v", "k")], {"k": VECTOR * [[[0.0]]]}, "it divides by zero"),
    ],
)
def test_constants_that_do_not_fit(nodes, inits, reason):
    assert reason in refusal(make(*nodes, **inits))


def test_widening_constant():
    """One channel times six is six channels."""
    model = graph_model(
        [helper.make_node("ConvTranspose", ["x", "w"], ["v"], "up"), node("Mul", "v", "k")],
        {"w": np.ones((2, 1, 2, 2), np.float32), "k": np.ones((1, M, 1, 1), np.float32)},
        {"x": [1, 2, 3, 3]},
    )
    assert "its constant has shape [1, 6, 1, 1]" in refusal(model)


def test_several_readers():
    model = make(node("Relu", "v", out="r"), node("Tanh", "v"), outputs=("y", "r"))
    result = convert_with_report(model)
    assert [s.reason for s in result.skips] == ["its input has 2 readers"] * 2
    agree(model, result.model)


def test_result_that_is_an_output():
    assert refusal(make(node("Relu", "v"), outputs=("y", "v"))) == (
        "its input is an output of the graph"
    )


def test_result_that_a_subgraph_captures():
    branch = helper.make_graph(
        [helper.make_node("Relu", ["v"], ["inner"])],
        "branch",
        [],
        [value("inner", "float32", None)],
    )
    other = helper.make_graph(
        [helper.make_node("Tanh", ["x"], ["inner2"])],
        "other",
        [],
        [value("inner2", "float32", None)],
    )
    model = make(node("If", "flag", then_branch=branch, else_branch=other))
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    model.graph.output[0].CopyFrom(value("y", "float32", ["a", "b", "c", "d"]))
    result = convert_with_report(model)
    assert [c.rewrite for c in result.changes] == ["conv_transpose"]
    agree(model, result.model, flag=np.array(True))


def test_overridable_constants():
    model = make(node("Mul", "v", "k"), k=VECTOR)
    model.graph.input.append(value("k", "float32", [M, 1, 1]))
    untouched(model)
    model = make(node("Mul", "v", "k"), k=VECTOR)
    model.graph.input.append(value("w", "float32", [C, M, 4, 4]))
    assert "W of the transposed convolution is not a constant" in refusal(model)
    model = make(node("Add", "v", "k"), k=VECTOR)
    model.graph.input.append(value("b", "float32", [M]))
    assert "B of the transposed convolution is not a constant" in refusal(model)


def test_shared_weights_stay_for_the_other_node():
    second = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y2"], "second")
    model = make(node("Mul", "v", "k"), second, k=VECTOR, outputs=("y", "y2"))
    result = convert_with_report(model)
    assert {"w", "b"} < {i.name for i in result.model.graph.initializer}
    agree(model, result.model)


def test_normalization_in_training_mode():
    model = make(
        helper.make_node(
            "BatchNormalization", ["v", "gamma", "beta", "mean", "var"], ["y", "m2", "v2"], "bn",
            training_mode=1,
        ),
        **statistics(), opset=15,
    )  # fmt: skip
    result = convert_with_report(model)
    assert [s.reason for s in result.skips] == ["it is in training mode"]


def test_quick_gelu():
    model = make(node("QuickGelu", "v", domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "'alpha' = 1.702" in refusal(model)


def test_parameters_that_float32_does_not_hold():
    model = make(node("Clip", "v", "low", "high"), low=-0.1, high=0.1, dtype="float64", opset=13)
    assert "its parameters are not float32 numbers" in refusal(model)


def test_scale_beyond_float16():
    model = make(node("Mul", "v", "k"), k=6e4, dtype="float16")
    (w,) = (i for i in model.graph.initializer if i.name == "w")
    w.CopyFrom(tensor(np.full(w.dims, 100, np.float16), "w"))
    result = convert_with_report(model)
    assert [s.reason for s in result.skips] == ["the folded weights exceed the range of FLOAT16"]


def test_what_follows_an_activation_stays():
    model = make(node("Relu", "v", out="r"), node("Mul", "r", "k"), k=VECTOR)
    converted = convert_with_report(model).model
    assert [n.op_type for n in converted.graph.node] == [OP, "Mul"]
    agree(model, converted)


def test_selection():
    model = make(node("Relu", "v"))
    for options, left in (
        ({"exclude": "n_y"}, ["epilogue"]),
        ({"exclude": "up"}, ["conv_transpose"]),
        ({"include": "other"}, ["conv_transpose"]),
        ({"disable": "epilogue"}, []),
        ({"include": "up"}, []),
    ):
        result = convert_with_report(model, **options)
        assert [s.rewrite for s in result.skips] == left, options
        assert len(nodes_of(result.model, "Relu")) == (options != {"include": "up"})


def test_costs():
    first, second = convert_with_report(make(node("Relu", "v"))).changes
    y = 4 * math.prod(Y)
    assert first.before == first.after == second.after
    assert second.before.macs == second.after.macs == 2 * 20 * C * M * 16
    assert second.before.bytes == second.after.bytes + 2 * y
    assert second.nodes == ("up", "n_y")
