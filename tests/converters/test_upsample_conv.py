"""Nearest upsampling and Conv: what is rewritten, exactly at the borders too, and what is not."""

import numpy as np
import onnx
import pytest
from cases import graph_model, nodes_of, tensor
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from sessions import agree

from ort_tconv.converters import convert_with_report, upsample_conv
from ort_tconv.converters.upsample_conv import repeats

OP = "SegregatedConvTranspose"
RNG = np.random.default_rng(1)


def upsample_model(
    factors=(2, 2),
    kernel=(3, 3),
    pads=None,
    channels=(16, 8),
    group=1,
    dilations=None,
    opset=17,
    dtype="float32",
    sides=(5, 4),
    pad=None,
    bias=True,
    by="scales",
    conv=None,
    shape=None,
    ir_version=8,
    **resize,
) -> onnx.ModelProto:
    """x -> Resize ("up") [-> Pad, mode and amounts in ``pad``] -> Conv ("conv") -> y."""
    c, m = channels
    pads = [k // 2 for k in kernel] * 2 if pads is None else pads
    weights = {"w": RNG.standard_normal((m, c // group, *kernel)) * 0.1}
    if bias:
        weights["b"] = RNG.standard_normal(m)
    inits = {name: array.astype(dtype) for name, array in weights.items()}
    shape = (2, c, *sides) if shape is None else shape
    nodes = []
    if opset >= 11:
        resize = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} | resize
    if opset < 9:
        nodes.append(helper.make_node("Upsample", ["x"], ["u"], "up", scales=[1.0, 1.0, *factors]))
    elif by == "scales":
        inits["scales"] = np.array([1, 1, *factors], np.float32)
        roi = "roi" if opset == 11 else ""  # optional since 13, which onnxruntime takes literally
        if roi:
            inits[roi] = np.array([], np.float32)
        inputs = ["x", roi, "scales"] if opset > 10 else ["x", "scales"]
        nodes.append(
            helper.make_node("Upsample" if opset == 9 else "Resize", inputs, ["u"], "up", **resize)
        )
    elif by == "sizes":
        sizes = [shape[0], c, *(d * s for d, s in zip(shape[2:], factors))]
        inits["sizes"] = np.array(sizes, np.int64)
        nodes.append(helper.make_node("Resize", ["x", "", "", "sizes"], ["u"], "up", **resize))
    else:  # the sizes are computed from the shape of x
        inits |= {"two": np.array([0, 0], np.int64)[:1] + 2, "zero": np.array([0], np.int64)}
        inits |= {"end": np.array([99], np.int64), "factors": np.array(factors, np.int64)}
        nodes += [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Slice", ["shape", "zero", "two"], ["outer"]),
            helper.make_node("Slice", ["shape", "two", "end"], ["inner"]),
            helper.make_node("Mul", ["inner", "factors"], ["grown"]),
            helper.make_node("Concat", ["outer", "grown"], ["sizes"], axis=0),
            helper.make_node("Resize", ["x", "", "", "sizes"], ["u"], "up", **resize),
        ]
    source = "u"
    if pad is not None:
        mode, amounts = pad
        source = "padded"
        if opset >= 11:
            inits["amounts"] = np.array(amounts, np.int64)
            nodes.append(helper.make_node("Pad", ["u", "amounts"], [source], "pad", mode=mode))
        else:
            nodes.append(helper.make_node("Pad", ["u"], [source], "pad", mode=mode, pads=amounts))
    given_attributes = {"pads": pads, "group": group, "dilations": dilations} | (conv or {})
    nodes.append(
        helper.make_node(
            "Conv",
            [source, *(name for name in ("w", "b") if name in inits)],
            ["y"],
            "conv",
            **{k: v for k, v in given_attributes.items() if v is not None},
        )
    )
    return graph_model(nodes, inits, {"x": shape}, dtype=dtype, opset=opset, ir_version=ir_version)


def rewritten(model: onnx.ModelProto, **feeds) -> onnx.ModelProto:
    """The converted model, after it was found to compute the same."""
    result = convert_with_report(model)
    assert [c.rewrite for c in result.changes] == ["upsample_conv"], str(result.report)
    agree(model, result.model, **feeds)
    assert len(nodes_of(result.model, OP)) == 1
    assert not nodes_of(result.model, "Conv")
    return result.model


def refusal(model: onnx.ModelProto) -> str:
    result = convert_with_report(model, disable=["unit_stride_conv"])
    assert not result.changes
    assert result.model == model
    (skip,) = result.skips
    assert (skip.rewrite, skip.node) == ("upsample_conv", "conv")
    return skip.reason


# ---- rewritten ---------------------------------------------------------------------------------


def test_node_and_weights():
    model = upsample_model()
    model.graph.node[1].doc_string = "made by hand"
    model.graph.node[1].metadata_props.add(key="origin", value="test")
    converted = rewritten(model)
    (node,) = converted.graph.node
    assert (node.name, node.doc_string) == ("conv", "made by hand")
    assert [p.value for p in node.metadata_props] == ["test"]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {
        "strides": [2, 2],
        "pads": [1, 1, 1, 1],
        "kernel_shape": [4, 4],
        "group": 1,
    }
    shapes = {i.name: list(i.dims) for i in converted.graph.initializer}
    assert shapes == {"w_transposed": [16, 8, 4, 4], "b": [8]}


@pytest.mark.parametrize(
    "options",
    [
        {"factors": (3, 2), "sides": (3, 4)},
        {"factors": (2, 1)},
        {"factors": (1, 4), "kernel": (3, 5)},
        {"kernel": (5, 5), "pads": [2, 1, 0, 4]},
        {"kernel": (3, 4), "pads": [0, 0, 2, 3]},
        {"pads": [0, 0, 0, 0]},
        {"group": 4, "channels": (32, 32)},
        {"bias": False},
        {"factors": (2,), "kernel": (7,), "sides": (9,)},
        {"factors": (2, 2, 2), "kernel": (3, 3, 3), "sides": (3, 2, 4)},
        {"kernel": (5, 5), "dilations": [2, 1], "pads": [3, 2, 4, 2], "factors": (4, 4)},
        {"conv": {"auto_pad": "SAME_UPPER", "pads": None}, "kernel": (4, 3)},
        {"conv": {"auto_pad": "SAME_LOWER", "pads": None}, "kernel": (4, 3)},
        {"conv": {"auto_pad": "VALID", "pads": None}},
        {"by": "sizes"},
        {"by": "shape"},
        {"by": "shape", "shape": ("n", 16, "h", "w")},
        {"shape": ("n", 16, "h", "w")},
        {"shape": ("n", 16, "h", "w"), "sides": (1, 1)},
        {"dtype": "float16"},
        {"pad": ("constant", [0, 0, 1, 1, 0, 0, 1, 1]), "pads": [0] * 4},
        {"pad": ("constant", [0, 0, 1, 0, 0, 0, 0, 1]), "pads": [1, 1, 1, 1]},
        {"pad": ("constant", [0, 0, 1, 1, 0, 0, 1, 1]), "pads": [0] * 4, "opset": 10},
    ],
    ids=str,
)
def test_fires(options):
    sides = options.get("sides", (5, 4))
    rewritten(upsample_model(**options), x=(2, options.get("channels", (16, 8))[0], *sides))


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 13, 18, 19, 21, 22])
def test_opsets(opset):
    rewritten(upsample_model(opset=opset))


def test_newest_opset_is_converted():
    model = upsample_model(opset=onnx.defs.onnx_opset_version())
    assert len(convert_with_report(model).changes) == 1


def test_model_before_initializers_were_separate():
    model = upsample_model(opset=8, ir_version=3)
    for initializer in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(initializer.name, 1, initializer.dims)
        )
    converted = convert_with_report(model).model
    assert [v.name for v in converted.graph.input] == ["x", "w", "b"]
    agree(model, converted)


@pytest.mark.parametrize("mode", ["edge", "reflect"])
def test_padding_that_repeats_the_edge(mode):
    model = upsample_model(pad=(mode, [0, 0, 1, 1, 0, 0, 1, 1]), pads=[0] * 4)
    converted = rewritten(model)
    assert {n.op_type for n in converted.graph.node} >= {"Pad", OP}


def test_wide_edge_padding():
    rewritten(upsample_model(pad=("edge", [0, 0, 3, 1, 0, 0, 4, 2]), pads=[0] * 4, factors=(2, 3)))
    rewritten(upsample_model(pad=("edge", [0, 0, 3, 1, 0, 0, 4, 2]), pads=[0] * 4, opset=10))


def test_other_consumers_keep_the_upsampled_image():
    model = upsample_model()
    model.graph.node.append(helper.make_node("Relu", ["u"], ["also"]))
    model.graph.output.append(helper.make_tensor_value_info("also", 1, [2, 16, 10, 8]))
    result = convert_with_report(model)
    agree(model, result.model)
    assert [n.op_type for n in result.model.graph.node] == ["Resize", OP, "Relu"]


def test_upsampled_image_that_is_an_output():
    model = upsample_model()
    model.graph.output.append(helper.make_tensor_value_info("u", 1, [2, 16, 10, 8]))
    result = convert_with_report(model)
    agree(model, result.model)
    assert [n.op_type for n in result.model.graph.node] == ["Resize", OP]


def test_shared_weights_stay_for_the_other_node():
    model = upsample_model(channels=(8, 8))
    model.graph.node.append(helper.make_node("Conv", ["y", "w"], ["z"], "second"))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, [2, 8, 8, 6]))
    result = convert_with_report(model)
    agree(model, result.model)
    assert {"w", "w_transposed"} <= {i.name for i in result.model.graph.initializer}


def test_conv_in_a_branch_reads_the_image_from_outside():
    flat = upsample_model()
    resize, conv = flat.graph.node
    branches = {
        f"{name}_branch": helper.make_graph(
            [onnx.NodeProto.FromString(conv.SerializeToString())]
            if name == "then"
            else [helper.make_node("Conv", ["u", "w"], ["y"], "plain", pads=[1] * 4)],
            name,
            [],
            [helper.make_tensor_value_info("y", 1, None)],
        )
        for name in ("then", "else")
    }
    for branch in branches.values():
        branch.node[0].output[0] = branch.output[0].name = f"y_{branch.name}"
    del flat.graph.node[:]
    flat.graph.node.extend([resize, helper.make_node("If", ["flag"], ["y"], **branches)])
    flat.graph.input.append(helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []))
    result = convert_with_report(flat)
    assert {c.where for c in result.changes} == {"subgraph then", "subgraph else"}
    assert not nodes_of(result.model, "Resize")
    for flag in (True, False):
        agree(flat, result.model, flag=np.array(flag))


def test_weights_in_a_function():
    flat = upsample_model()
    constants = [
        helper.make_node("Constant", [], [i.name], value=i) for i in flat.graph.initializer
    ]
    function = helper.make_function(
        "local", "Up", ["x"], ["y"], [*constants, *flat.graph.node], [helper.make_opsetid("", 17)]
    )
    model = graph_model(
        [helper.make_node("Up", ["x"], ["y"], "call", domain="local")],
        {},
        {"x": (2, 16, 5, 4)},
        functions=[function],
    )
    result = convert_with_report(model)
    assert result.changes[0].where == "function local::Up"
    agree(model, result.model)


def test_costs():
    (change,) = convert_with_report(upsample_model()).changes
    # 2 images, 16 to 8 channels, 5x4 to 10x8 pixels; 3x3 taps an output against 4x4 an input
    assert change.before.macs == 2 * 16 * 8 * 80 * 9
    assert change.after.macs == 2 * 16 * 8 * 20 * 16
    assert change.nodes == ("up", "conv")
    x, u, y = 2 * 16 * 20, 2 * 16 * 80, 2 * 8 * 80
    assert change.before.bytes == 4 * (x + 4 + u) + 4 * (u + 16 * 8 * 9 + 8 + y)
    assert change.after.bytes == 4 * (x + 16 * 8 * 16 + 8 + y)


# ---- exact repeats -----------------------------------------------------------------------------

MODES = [
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "align_corners",
]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


@pytest.mark.parametrize("mode", MODES)
def test_repeats_agrees_with_onnxruntime(mode):
    """For every nearest mode, factors 2 to 4 and 1 to 5 values."""
    import onnxruntime as ort

    for nearest in NEAREST:
        for s in range(2, 5):
            node = helper.make_node(
                "Resize",
                ["x", "", "scales"],
                ["y"],
                coordinate_transformation_mode=mode,
                nearest_mode=nearest,
                mode="nearest",
            )
            model = graph_model(
                [node], {"scales": np.array([1, 1, s], np.float32)}, {"x": (1, 1, "n")}, opset=19
            )
            session = ort.InferenceSession(
                model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            known = []
            for n in range(1, 6):
                x = np.arange(n, dtype=np.float32).reshape(1, 1, n)
                (y,) = session.run(None, {"x": x})
                known.append(bool((y == np.repeat(x, s, axis=2)).all()))
                assert repeats(s, n, mode, nearest) == known[-1], (nearest, s, n)
            if repeats(s, None, mode, nearest):
                assert all(known), (nearest, s)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_geometry(monkeypatch, data):
    monkeypatch.setattr(upsample_conv, "check_gain", lambda *args, **options: None)
    axes = data.draw(st.integers(1, 2))
    draw = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, dilations = draw(1, 4), draw(1, 2)
    reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
    pads = [data.draw(st.integers(0, r)) for r in reach * 2]
    factors, sides = draw(1, 4), draw(3, 5)
    assume(all(s * n > r for s, n, r in zip(factors, sides, reach)))
    group = data.draw(st.integers(1, 2))
    model = upsample_model(
        factors,
        kernel,
        pads,
        (2 * group, 3 * group),
        group,
        dilations,
        sides=sides,
        bias=data.draw(st.booleans()),
    )
    result = convert_with_report(model)
    if not result.changes:
        assert max(factors) == 1
        return
    agree(model, result.model)


# ---- left alone --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "linear"}, "Resize's mode 'linear' is not 'nearest'"),
        ({"factors": (1, 1)}, "Resize enlarges no axis"),
        ({"factors": (2, 1.5), "sides": (4, 4)}, "axis 3 by 1.5, which is not an integer"),
        ({"nearest_mode": "ceil"}, "does not repeat each value of axis 2 2 times"),
        (
            {"coordinate_transformation_mode": "align_corners", "shape": ("n", 16, "h", "w")},
            "'align_corners' with nearest_mode 'floor' does not repeat",
        ),
        ({"conv": {"strides": [2, 2]}}, "attribute 'strides' = [2, 2]: only stride 1"),
        (
            {"pads": [3, 1, 1, 1]},
            "3 zeros at the begin of spatial axis 0 exceed the kernel's reach",
        ),
        ({"pad": ("reflect", [0, 0, 2, 1, 0, 0, 1, 1]), "pads": [0] * 4}, "Pad reflects 2 values"),
        ({"pad": ("edge", [0, 0, 1, 1, 0, 0, 1, 1])}, "followed by Conv's own zeros"),
        (
            {
                "pad": ("constant", [0, 1, 1, 1, 0, 0, 1, 1]),
                "channels": (17, 8),
                "shape": (2, 16, 5, 4),
            },
            "Pad extends other than the spatial axes",
        ),
        (
            {"dilations": [4, 4], "pads": [4] * 4, "channels": (64, 64), "sides": (32, 32)},
            "would not be faster",
        ),
    ],
    ids=str,
)
def test_refusals(options, reason):
    assert reason in refusal(upsample_model(**options))


def test_pad_that_adds_ones():
    model = upsample_model(pad=("constant", [0, 0, 1, 1, 0, 0, 1, 1]), pads=[0] * 4)
    model.graph.initializer.append(tensor(np.array(1, np.float32), "one"))
    nodes_of(model, "Pad")[0].input.append("one")
    assert refusal(model) == "Pad adds 1.0, not zeros"


def test_scales_that_are_an_input():
    model = upsample_model()
    (scales,) = [i for i in model.graph.initializer if i.name == "scales"]
    model.graph.input.append(helper.make_tensor_value_info("scales", 1, [4]))
    assert (
        refusal(model) == "the scales or sizes of Resize are not known before it runs"
    )  # overridable
    model.graph.initializer.remove(scales)
    assert refusal(model) == "the scales or sizes of Resize are not known before it runs"


def test_weights_that_are_an_input():
    model = upsample_model()
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [8, 16, 3, 3]))
    assert refusal(model) == "its input W is not a constant"


def test_sizes_of_another_tensor():
    model = upsample_model(by="shape", shape=("n", 16, "h", "w"))
    model.graph.input.append(helper.make_tensor_value_info("z", 1, ["n", 16, "h", "w"]))
    nodes_of(model, "Shape")[0].input[0] = "z"
    assert "to a size that is not a multiple of the input's as far as is known" in refusal(model)


def test_weights_beyond_float16():
    model = upsample_model(dtype="float16")
    (w,) = [i for i in model.graph.initializer if i.name == "w"]
    w.CopyFrom(tensor(np.full(w.dims, 6e4, np.float16), "w"))
    assert refusal(model) == "the folded weights exceed the range of FLOAT16"


def test_future_opset():
    assert "opset 999 is newer" in refusal(upsample_model(opset=999))


def test_options():
    model = upsample_model()
    assert not convert_with_report(model, disable="upsample_conv").report.sites
    assert not convert_with_report(model, exclude="co*").changes
    assert convert_with_report(model, include="conv").changes
    (change,) = convert_with_report(model, algorithm="direct").changes
    assert change.node == "conv"
