"""Plain convolutions of stride 1: rewritten where they are timed, exactly, and only there."""

import numpy as np
import onnx
import pytest
from cases import graph_model, nodes_of, value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from sessions import agree

from ort_tconv.converters import analyze, convert_with_report
from ort_tconv.tuning import trials, tune

OP = "SegregatedConvTranspose"
RNG = np.random.default_rng(2)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Every rewritten form takes half as long as stock's."""

    def measure(runs):
        for run in runs:
            run()
        return [2.0] + [1.0] * (len(runs) - 1)

    monkeypatch.setattr(tune, "interleaved", measure)
    monkeypatch.setattr(trials, "in_new_process", lambda *_: (2.0, 1.0))


def conv_model(
    kernel=(3, 3),
    channels=(4, 6),
    group=1,
    sides=None,
    bias=True,
    dtype="float32",
    opset=17,
    before=(),
    after=(),
    ir_version=8,
    batch=2,
    outputs=("y",),
    **attributes,
) -> onnx.ModelProto:
    """x [-> before] -> Conv ("conv") [-> after] -> y."""
    c, m = channels
    weights = {"w": RNG.standard_normal((m, c // group, *kernel))}
    if bias:
        weights["b"] = RNG.standard_normal(m)
    attributes = {"pads": [k // 2 for k in kernel] * 2, "group": group} | attributes
    conv = helper.make_node(
        "Conv",
        ["p" if before else "x", *weights],
        ["c" if after else "y"],
        "conv",
        **{name: given for name, given in attributes.items() if given is not None},
    )
    return graph_model(
        [*before, conv, *after],
        {name: array.astype(dtype) for name, array in weights.items()},
        {"x": (batch, c, *(sides or [9] * len(kernel)))},
        outputs,
        dtype=dtype,
        opset=opset,
        ir_version=ir_version,
    )


def rewritten(model: onnx.ModelProto, **options) -> onnx.ModelProto:
    """The tuned model, after it was found to compute the same."""
    result = convert_with_report(model, tune=True, **options)
    assert "unit_stride_conv" in [c.rewrite for c in result.changes], str(result.report)
    agree(model, result.model)
    assert len(nodes_of(result.model, OP)) == 1
    assert not nodes_of(result.model, "Conv")
    return result.model


def refusal(model: onnx.ModelProto) -> str:
    result = convert_with_report(model, tune=True)
    assert not result.changes
    (skip,) = result.skips
    assert (skip.rewrite, skip.node) == ("unit_stride_conv", "conv")
    return skip.reason


def test_node_and_weights():
    model = conv_model(kernel=(3, 5), dilations=[1, 2], pads=[1, 3, 2, 0])
    model.graph.node[0].doc_string = "made by hand"
    (node,) = rewritten(model).graph.node
    assert (node.name, node.doc_string) == ("conv", "made by hand")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {
        "strides": [1, 1],
        "pads": [1, 5, 0, 8],
        "dilations": [1, 2],
        "kernel_shape": [3, 5],
        "group": 1,
    }


@st.composite
def models(draw) -> onnx.ModelProto:
    axes = draw(st.integers(1, 3))

    def each(least: int, most: int) -> list[int]:
        return [draw(st.integers(least, most)) for _ in range(axes)]

    kernel, dilations = each(1, 5 if axes < 3 else 3), each(1, 3)
    kernel[0] = max(2, kernel[0])
    group = draw(st.integers(1, 3))
    reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
    mode = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    pads = [draw(st.integers(0, r)) for r in (*reach, *reach)]
    if mode.startswith("SAME"):
        dilations = [1] * axes  # which onnxruntime ignores when it works out the pads
    return conv_model(
        tuple(kernel),
        (group * draw(st.integers(2, 4)), group * draw(st.integers(1, 4))),
        group,
        [r + draw(st.integers(1, 4)) for r in reach],
        draw(st.booleans()),
        pads=pads if mode == "NOTSET" else None,
        dilations=dilations if max(dilations) > 1 or draw(st.booleans()) else None,
        auto_pad=mode if mode != "NOTSET" or draw(st.booleans()) else None,
        opset=draw(st.sampled_from([9, 11, 17, 22])),
        batch=draw(st.integers(1, 2)),
    )


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(models())
def test_algebra(model):
    rewritten(model)


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 15, 18, 21, 22])
def test_opsets(opset):
    rewritten(conv_model(opset=opset))


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float16"},
        {"channels": (1, 3)},
        {"channels": (16, 16), "kernel": (11,), "sides": (40,), "dilations": [3]},
        {"channels": (8, 8), "kernel": (3, 3, 3), "sides": (5, 6, 7), "group": 2},
        {"pads": [2, 2, 2, 2]},
        {"auto_pad": "SAME_LOWER", "pads": None, "kernel": (4, 2)},
        {"before": [helper.make_node("Pad", ["x", "amounts"], ["p"], mode="reflect")]},
        {"after": [helper.make_node("Relu", ["c"], ["y"])]},
    ],
    ids=str,
)
def test_fires(options):
    model = conv_model(**options)
    if "before" in options:
        amounts = np.array([0, 0, 1, 1, 0, 0, 1, 1])
        model.graph.node.insert(
            0,
            helper.make_node(
                "Constant", [], ["amounts"], value=onnx.numpy_helper.from_array(amounts)
            ),
        )
    rewritten(model)


@pytest.mark.parametrize(
    "options, taken",
    [
        ({}, True),
        ({"algorithm": "auto"}, True),
        ({"algorithm": "winograd"}, True),
        ({"weights": "float32"}, True),
        ({"algorithm": "direct"}, False),
        ({"algorithm": "narrow"}, False),
        ({"weights": "int8"}, False),
    ],
    ids=str,
)
def test_the_estimate_is_of_what_the_user_asks_for(options, taken):
    """What is sure to gain by Winograd does not without it, and weights of 8 bits have none."""
    model = conv_model(channels=(128, 128), sides=(28, 28), batch=1)
    assert len(convert_with_report(model, **options).changes) == taken


def test_what_follows_is_fused():
    after = [
        helper.make_node("Add", ["c", "x"], ["s"], "add"),
        helper.make_node("Relu", ["s"], ["y"], "relu"),
    ]
    model = conv_model(channels=(4, 4), after=after)
    (node,) = rewritten(model).graph.node
    assert list(node.input)[3:] == ["x"]
    result = convert_with_report(model, tune=True)
    assert [site.nodes for site in result.tuning.sites] == [("conv", "add", "relu")]


def test_the_other_passes_come_first():
    after = [helper.make_node("DepthToSpace", ["c"], ["y"], "shuffle", blocksize=2, mode="CRD")]
    before = [helper.make_node("Upsample", ["x"], ["p"], "up", scales=[1.0, 1.0, 2.0, 2.0])]
    for name, options in (
        ("subpixel_conv", {"channels": (16, 16), "after": after, "bias": False}),
        ("upsample_conv", {"before": before, "opset": 8}),
    ):
        result = convert_with_report(conv_model(**options), tune=True)
        assert [change.rewrite for change in result.changes] == [name]


def test_a_site_of_another_pass_that_lost_is_reported_once(monkeypatch):
    monkeypatch.setattr(tune, "interleaved", lambda runs: [1.0, 2.0])
    before = [helper.make_node("Upsample", ["x"], ["p"], "up", scales=[1.0, 1.0, 2.0, 2.0])]
    result = convert_with_report(conv_model(before=before, opset=8), tune=True)
    (skip,) = result.skips
    assert skip.rewrite == "upsample_conv" and skip.reason.startswith("tuned:")


def test_shared_weights():
    model = conv_model(channels=(4, 4))
    model.graph.node.append(
        helper.make_node("Conv", ["y", "w"], ["z"], "second", pads=[1] * 4, strides=[2, 2])
    )
    model.graph.output.append(value("z", "float32", None))
    result = convert_with_report(model, tune=True)
    agree(model, result.model)
    assert {"w", "w_transposed"} <= {i.name for i in result.model.graph.initializer}


@pytest.mark.parametrize("disable", [(), "unit_stride_conv"])
def test_without_a_clock_there_is_nothing_to_see(disable):
    model = conv_model()
    result = convert_with_report(model, disable=disable)
    assert result.model == model and not result.report.sites
    assert not analyze(model, disable=disable).sites


def test_switched_off():
    result = convert_with_report(conv_model(), tune=True, disable="unit_stride_conv")
    assert not result.report.sites and not result.tuning.sites


@pytest.mark.parametrize("op_type", ["If", "function"])
def test_only_nodes_of_the_main_graph_are_timed(op_type):
    model = conv_model(bias=False)
    nodes, (weights,) = list(model.graph.node), model.graph.initializer
    constant = helper.make_node("Constant", [], ["w"], value=weights)
    if op_type == "function":
        imports = [helper.make_opsetid("", 17)]
        function = helper.make_function("local", "F", ["x"], ["y"], [constant, *nodes], imports)
        call = helper.make_node("F", ["x"], ["y"], "call", domain="local")
        model = graph_model([call], {}, {"x": (2, 4, 9, 9)}, functions=[function])
    else:
        branches = {}
        for branch in ("then_branch", "else_branch"):
            node = onnx.NodeProto.FromString(nodes[0].SerializeToString())
            node.output[0] = f"y_{branch}"
            output = value(node.output[0], "float32", None)
            branches[branch] = helper.make_graph([constant, node], branch, [], [output])
        choice = helper.make_node("If", ["flag"], ["y"], "if", **branches)
        model = graph_model([choice], {"flag": np.array(True)}, {"x": (2, 4, 9, 9)})
    result = convert_with_report(model, tune=True)
    assert not result.report.sites and not result.tuning.sites


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"strides": [1, 2]}, "attribute 'strides' = [1, 2]"),
        ({"pads": [1, 1, 1, 3]}, "3 zeros at the end of spatial axis 1 exceed"),
        ({"auto_pad": "VALID"}, "it has attributes 'auto_pad' = 'VALID' and 'pads', which"),
        ({"kernel": (1, 1)}, "its kernel has one tap"),
        ({"group": 4, "channels": (4, 8)}, "it is depthwise"),
    ],
)
def test_refusals(options, reason):
    assert refusal(conv_model(**options)).startswith(reason)


def test_dynamic_weights():
    model = conv_model()
    model.graph.input.append(value("w", "float32", [6, 4, 3, 3]))
    assert refusal(model) == "its input W is not a constant"


def test_weights_for_other_channels():
    """Stock's error stays stock's; of a Conv that no pass starts from, nothing is said."""
    model = conv_model((3, 3, 3), (128, 64), sides=[12] * 3)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64
    result = convert_with_report(model)
    assert result.model == model and not result.report.sites
    up = helper.make_node("Upsample", ["x"], ["p"], "up", scales=[1.0, 1.0, 2.0, 2.0])
    model = conv_model(before=[up], opset=8)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    (skip,) = convert_with_report(model).skips
    assert skip.rewrite == "upsample_conv"
    assert skip.reason == "its input has 5 channels, its weights are for 4"
