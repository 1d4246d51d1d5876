"""Conv and pixel shuffle: the forms that are rewritten, and what stays."""

import math

import numpy as np
import onnx
import pytest
from cases import graph_model, nodes_of, value
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from sessions import agree

from ort_tconv.converters import convert_with_report, subpixel_conv

OP = "SegregatedConvTranspose"
RNG = np.random.default_rng(3)


@pytest.fixture
def free(monkeypatch):
    """Rewrites whatever it costs: these tests are about what is computed."""
    monkeypatch.setattr(subpixel_conv, "check_gain", lambda *args, **options: None)


def shuffle(form, m, factors, sides):
    """Nodes from z [N, m * prod(factors), ...] to y, and their constants."""
    s = factors[0]
    if form in ("DCR", "CRD"):
        return [helper.make_node("DepthToSpace", ["z"], ["y"], "d2s", blocksize=s, mode=form)], {}
    axes = len(factors)
    if form == "unsqueeze":  # the exporter's for open sizes before DepthToSpace was used
        constants = {
            "split": [0, -1, s, s, 0, 0],
            "high": [0, 0, -1, 1, 0, 0],
            "wide": [0, 0, 0, 0, -1, 1],
        }
        nodes = [
            helper.make_node("Unsqueeze", ["z", "two"], ["z1"]),
            helper.make_node("Unsqueeze", ["z1", "three"], ["z2"]),
            helper.make_node("Reshape", ["z2", "split"], ["z3"]),
            helper.make_node("Transpose", ["z3"], ["z4"], perm=[0, 1, 4, 2, 5, 3]),
            helper.make_node("Reshape", ["z4", "high"], ["z5"]),
            helper.make_node("Reshape", ["z5", "wide"], ["z6"]),
            helper.make_node("Squeeze", ["z6", "both"], ["y"], "last"),
        ]
        constants |= {"two": [2], "three": [3], "both": [3, 5]}
    else:
        split, perm = {
            "reshape": (
                [m, *factors],
                [0, 1, *(v for i in range(axes) for v in (2 + axes + i, 2 + i))],
            ),
            "reshape, channels last": (
                [*factors, m],
                [0, 1 + axes, *(v for i in range(axes) for v in (2 + axes + i, 1 + i))],
            ),
        }[form]  # fmt: skip
        grown = [d * f for d, f in zip(sides, factors)]
        constants = {"split": [-1, *split, *sides], "merge": [0, m, *grown]}
        nodes = [
            helper.make_node("Reshape", ["z", "split"], ["z1"]),
            helper.make_node("Transpose", ["z1"], ["z2"], perm=perm),
            helper.make_node("Reshape", ["z2", "merge"], ["y"], "last"),
        ]
    return nodes, {name: np.array(v, np.int64) for name, v in constants.items()}


def subpixel_model(
    form="CRD", factors=(2, 2), kernel=(3, 3), pads=None, channels=(32, 4), group=1, dilations=None,
    sides=(5, 4), bias="different", dtype="float32", opset=17, shape=None, between=(), batch=2,
    conv=None,
):  # fmt: skip
    """x -> Conv ("conv") [-> ``between``] -> shuffle -> y."""
    c, m = channels
    filters = m * math.prod(factors)
    pads = [k // 2 for k in kernel] * 2 if pads is None else pads
    reach = [(k - 1) * d for k, d in zip(kernel, dilations or [1] * len(kernel))]
    inner = [n + a + b - r for n, a, b, r in zip(sides, pads, pads[len(kernel) :], reach)]
    nodes, constants = shuffle(form, m, factors, inner)
    weights = {"w": RNG.standard_normal((filters, c // group, *kernel)) * 0.1}
    if bias:
        weights["b"] = np.full(filters, 0.75) if bias == "same" else RNG.standard_normal(filters)
    inits = {name: array.astype(dtype) for name, array in weights.items()} | constants
    attributes = {"pads": pads, "group": group, "dilations": dilations} | (conv or {})
    first = helper.make_node(
        "Conv", ["x", *weights], ["v" if between else "z"], "conv",
        **{k: v for k, v in attributes.items() if v is not None},
    )  # fmt: skip
    shape = [batch, c, *sides] if shape is None else shape
    return graph_model([first, *between, *nodes], inits, {"x": shape}, dtype=dtype, opset=opset)


def rewritten(model: onnx.ModelProto, **feeds) -> list[onnx.NodeProto]:
    """The nodes of the converted model, after it was found to compute the same."""
    result = convert_with_report(model)
    assert [c.rewrite for c in result.changes] == ["subpixel_conv"], str(result.report)
    agree(model, result.model, **feeds)
    nodes = list(result.model.graph.node)
    assert nodes[-1].op_type == OP and nodes[-1].name == "conv"
    assert {n.op_type for n in nodes} <= {OP, "Pad", "Constant"}
    return nodes


def refusal(model: onnx.ModelProto) -> str:
    result = convert_with_report(model, disable=["unit_stride_conv"])
    assert not result.changes
    assert result.model == model
    (skip,) = result.skips
    assert (skip.rewrite, skip.node) == ("subpixel_conv", "conv")
    return skip.reason


# ---- rewritten ---------------------------------------------------------------------------------

FORMS = ["DCR", "CRD", "reshape", "reshape, channels last", "unsqueeze"]


@pytest.mark.parametrize("bias", ["different", "same", None])
@pytest.mark.parametrize("form", FORMS)
def test_forms(free, form, bias):
    nodes = rewritten(subpixel_model(form, bias=bias))
    assert [n.op_type for n in nodes if n.op_type != "Constant"] == (
        ["Pad", OP] if bias == "different" else [OP]
    )


@pytest.mark.parametrize(
    "options",
    [
        {"factors": (3, 3), "kernel": (5, 5)},
        {"form": "reshape", "factors": (2, 3), "kernel": (3, 5)},
        {"form": "reshape", "factors": (4,), "kernel": (5,), "sides": (9,)},
        {
            "form": "reshape, channels last",
            "factors": (2, 2, 2),
            "kernel": (3, 3, 3),
            "sides": (3, 2, 4),
        },
        {"kernel": (3, 3), "pads": [0, 1, 2, 1]},
        {"kernel": (4, 4), "pads": [1, 1, 2, 2]},
        {"kernel": (1, 1)},
        {"pads": [0, 0, 0, 0]},
        {"channels": (32, 8), "group": 4, "bias": "same"},
        {"channels": (32, 8), "group": 4, "bias": None, "form": "reshape"},
        {"dtype": "float16"},
        {"form": "reshape", "batch": 1},
        {"form": "reshape", "batch": 1, "channels": (32, 1)},
        {"shape": ["n", 32, "h", "w"]},
        {"shape": ["n", 32, "h", "w"], "form": "unsqueeze"},
        {"shape": ["n", 32, 5, 4], "form": "reshape"},
        {"conv": {"auto_pad": "SAME_UPPER", "pads": None}, "kernel": (4, 4), "pads": [1, 1, 2, 2]},
    ],
    ids=str,
)  # fmt: skip
def test_fires(free, options):
    options = {"form": "CRD"} | options
    shape = (
        options.get("batch", 2),
        options.get("channels", (32, 4))[0],
        *options.get("sides", (5, 4)),
    )
    rewritten(subpixel_model(**options), x=shape)


@pytest.mark.parametrize("opset", [9, 10, 11, 13, 16, 21, 22])
def test_opsets(free, opset):
    model = subpixel_model("DCR", opset=opset)
    if opset < 11:
        (node,) = nodes_of(model, "DepthToSpace")
        node.attribute.remove(next(a for a in node.attribute if a.name == "mode"))
    rewritten(model)


def test_dilated(free):
    rewritten(subpixel_model(dilations=[2, 3], pads=[2, 3] * 2))


@pytest.mark.parametrize(
    ("between", "activation"),
    [
        ([helper.make_node("Relu", ["v"], ["z"], "act")], b"Relu"),
        ([helper.make_node("LeakyRelu", ["v"], ["z"], "act", alpha=0.2)], b"LeakyRelu"),
        (
            [
                helper.make_node("Sigmoid", ["v"], ["s"], "act"),
                helper.make_node("Mul", ["v", "s"], ["z"], "gate"),
            ],
            b"Silu",
        ),
    ],
    ids=["Relu", "LeakyRelu", "Silu"],
)
def test_activation_before_the_shuffle(free, between, activation):
    nodes = rewritten(subpixel_model(between=between))
    assert [a.s for a in nodes[-1].attribute if a.name == "activation"] == [activation]


def with_constants(model: onnx.ModelProto, **arrays) -> onnx.ModelProto:
    dtype = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    for name, array in arrays.items():
        constant = onnx.numpy_helper.from_array(np.asarray(array, dtype), name)
        model.graph.initializer.append(constant)
    return model


NORMALIZATION = helper.make_node(
    "BatchNormalization", ["v", "gamma", "beta", "mean", "var"], ["n"], "bn", epsilon=1e-3
)
SHIFT = [NORMALIZATION, helper.make_node("Sub", ["one", "n"], ["z"], "sub")]


@pytest.mark.parametrize("bias", ["different", "same", None])
@pytest.mark.parametrize(
    ("between", "activation"),
    [
        (SHIFT, False),
        ([helper.make_node("Div", ["v", "k"], ["z"], "div")], False),
        ([helper.make_node("Add", ["k", "v"], ["z"], "add")], False),
        ([NORMALIZATION, helper.make_node("Relu", ["n"], ["z"], "act")], True),
        (
            [
                helper.make_node("Mul", ["v", "k"], ["n"], "mul"),
                helper.make_node("Sigmoid", ["n"], ["s"], "act"),
                helper.make_node("Mul", ["n", "s"], ["z"], "gate"),
            ],
            True,
        ),
    ],
    ids=["BatchNormalization, Sub", "Div", "Add", "BatchNormalization, Relu", "Mul, Silu"],
)
def test_constants_before_the_shuffle(free, between, activation, bias):
    constants = {name: RNG.standard_normal(16) for name in ("gamma", "beta", "mean")}
    constants |= {"var": RNG.random(16) + 0.5, "one": 1.0, "k": RNG.random((16, 1, 1)) + 0.5}
    read = {name for node in between for name in node.input}
    model = with_constants(
        subpixel_model(between=between, bias=bias),
        **{name: array for name, array in constants.items() if name in read},
    )
    *_, node = rewritten(model)
    assert ("activation" in {a.name for a in node.attribute}) == activation
    (change,) = convert_with_report(model).changes
    assert change.nodes == ("conv", *(n.name for n in between), "d2s")


def test_groups_are_scaled(free):
    between = [helper.make_node("Mul", ["v", "k"], ["z"], "mul")]
    model = subpixel_model(between=between, channels=(32, 8), group=4, bias=None)
    rewritten(with_constants(model, k=RNG.random((1, 32, 1, 1)) + 0.5))


def test_constants_that_are_not_one_for_each_channel():
    between = [helper.make_node("Mul", ["v", "k"], ["z"], "mul")]
    for shape in ((5, 4), (2, 16, 1, 1)):
        model = with_constants(subpixel_model(between=between), k=RNG.random(shape))
        assert "'mul' (Mul) stands between it and the shuffle" in refusal(model)
    model = with_constants(subpixel_model(between=between), k=RNG.random((3, 1, 1, 1, 1)))
    assert not convert_with_report(model).report.sites


def test_folded_biases_beyond_the_range():
    between = [helper.make_node("Mul", ["v", "k"], ["z"], "mul")]
    model = subpixel_model(between=between, dtype="float16", bias="same")
    model = with_constants(model, k=np.full((16, 1, 1), 60000.0))
    for initializer in model.graph.initializer:
        if initializer.name == "b":
            initializer.CopyFrom(onnx.numpy_helper.from_array(np.full(16, 2.0, np.float16), "b"))
    assert refusal(model) == "the folded biases exceed the range of FLOAT16"


def test_activation_after_the_shuffle(free):
    model = subpixel_model("CRD")
    nodes_of(model, "DepthToSpace")[0].output[0] = "t"
    model.graph.node.append(helper.make_node("Tanh", ["t"], ["y"], "act"))
    result = convert_with_report(model)
    assert [c.rewrite for c in result.changes] == ["subpixel_conv", "epilogue"]
    agree(model, result.model)


def test_sizes_computed_from_the_convolution(free):
    model = subpixel_model("reshape", shape=["n", 32, "h", "w"])
    split, merge = (i for i in model.graph.initializer if i.name in ("split", "merge"))
    for old in (split, merge):
        model.graph.initializer.remove(old)
    arrays = {"a0": [0], "a2": [2], "a9": [99], "parts": [4, 2, 2], "m": [4]}
    for name, array in arrays.items():
        model.graph.initializer.append(
            helper.make_tensor(name, onnx.TensorProto.INT64, [len(array)], array)
        )
    first, *rest = model.graph.node
    sizes = [
        helper.make_node("Shape", ["z"], ["shape"]),
        helper.make_node("Slice", ["shape", "a0", "a2"], ["nc"]),
        helper.make_node("Slice", ["nc", "a0", "one"], ["n"]),
        helper.make_node("Slice", ["shape", "a2", "a9"], ["hw"]),
        helper.make_node("Concat", ["n", "parts", "hw"], ["split"], axis=0),
        helper.make_node("Mul", ["hw", "a2"], ["grown"]),
        helper.make_node("Concat", ["n", "m", "grown"], ["merge"], axis=0),
    ]
    model.graph.initializer.append(helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1]))
    del model.graph.node[:]
    model.graph.node.extend([first, *sizes, *rest])
    rewritten(model, x=(2, 32, 5, 3))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_geometry(free, data):
    axes = data.draw(st.integers(1, 2))
    draw = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, dilations = draw(1, 3), draw(1, 2)
    reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
    pads = [data.draw(st.integers(0, r)) for r in reach * 2]
    factors, sides = draw(1, 3), draw(4, 6)
    assume(max(factors) > 1)
    group = data.draw(st.integers(1, 2))
    model = subpixel_model(
        data.draw(st.sampled_from(["reshape", "reshape, channels last"])), factors, kernel, pads,
        (8 * group, 4 * group), group, dilations, sides,
        bias=data.draw(st.sampled_from(["different", "same", None])),
    )  # fmt: skip
    result = convert_with_report(model)
    agree(model, result.model)
    (site,) = result.report.sites
    if site in result.skips:
        assert "biases differ" in site.reason or "groups do not become groups" in site.reason


# ---- left alone --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"conv": {"strides": [1, 2]}}, "attribute 'strides' = [1, 2]"),
        ({"pads": [3, 1, 1, 1]}, "3 zeros at the begin of spatial axis 0 exceed the kernel"),
        ({"group": 4, "form": "DCR", "channels": (32, 8)}, "its 4 groups do not become groups"),
        ({"group": 4, "channels": (32, 8)}, "its biases differ among the channels of a pixel"),
        ({"pads": [2, 2, 2, 2], "kernel": (3, 3)}, "no tap meets the image from every output"),
        ({"dilations": [3, 3], "pads": [3] * 4, "shape": [2, 32, 40, 40], "sides": (40, 40)},
         "would not be faster"),
    ],
    ids=str,
)  # fmt: skip
def test_refusals(options, reason):
    assert reason in refusal(subpixel_model(**{"form": "CRD"} | options))


@pytest.mark.parametrize("inner", ["v", "z"])
def test_other_readers(inner):
    between = [helper.make_node("Relu", ["v"], ["z"], "act")]
    model = subpixel_model(between=between)
    model.graph.node.append(helper.make_node("Neg", [inner], ["n"]))
    model.graph.output.append(value("n", "float32", [2, 16, 5, 4]))
    result = convert_with_report(model)
    assert not result.changes
    model = subpixel_model(between=between)
    model.graph.output.append(value(inner, "float32", [2, 16, 5, 4]))
    result = convert_with_report(model)
    assert [s.reason for s in result.skips] == ["'z' is an output of the graph"] * (inner == "z")


def test_weights_and_biases_that_callers_may_override():
    for name, shape in (("w", [16, 32, 3, 3]), ("b", [16])):
        model = subpixel_model()
        model.graph.input.append(value(name, "float32", shape))
        assert refusal(model) == f"its input {name.upper()} is not a constant"


@pytest.mark.parametrize(
    ("perm", "merge"),
    [
        ([0, 4, 1, 2, 5, 3], None),
        ([0, 1, 2, 4, 5, 3], None),  # the block's row before the image's
        ([0, 1, 4, 2, 5, 3], [2, 4, 5, 16]),
    ],
)
def test_other_reshapes_are_no_candidates(perm, merge):
    model = subpixel_model("reshape")
    (transpose,) = nodes_of(model, "Transpose")
    transpose.attribute[0].ints[:] = perm
    if merge:
        (target,) = (i for i in model.graph.initializer if i.name == "merge")
        target.raw_data = np.array(merge, np.int64).tobytes()
    result = convert_with_report(model)
    assert not result.report.sites


def test_costs(free):
    (change,) = convert_with_report(subpixel_model(bias="same")).changes
    assert change.before.macs == 2 * 32 * 16 * 9 * 20
    assert change.after.macs == 2 * 32 * 4 * 36 * 20
    assert change.nodes == ("conv", "d2s")
    x, z = 2 * 32 * 20, 2 * 16 * 20
    assert change.before.bytes == 4 * (x + 16 * 32 * 9 + 16 + 3 * z)
    assert change.after.bytes == 4 * (x + 32 * 4 * 36 + 4 + z)
