"""Zeros between pixels and Conv: the forms that are rewritten, and what stays."""

import numpy as np
import onnx
import pytest
from cases import graph_model, nodes_of, value
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from sessions import agree

from ort_tconv.converters import convert_with_report, zero_insertion

OP = "SegregatedConvTranspose"
RNG = np.random.default_rng(4)


@pytest.fixture
def free(monkeypatch):
    """Rewrites whatever it costs: these tests are about what is computed."""
    monkeypatch.setattr(zero_insertion, "check_gain", lambda *args, **options: None)


def inserted_model(
    form="reshape", strides=(2, 2), offsets=None, kernel=(3, 3), pads=None, channels=(8, 4),
    group=1, dilations=None, sides=(4, 5), pad=None, dtype="float32", opset=17, shape=None,
    conv=None,
):  # fmt: skip
    """x -> zero insertion -> u [-> Pad] -> Conv ("conv") -> y."""
    axes, (c, m) = len(strides), channels
    offsets = [0] * axes if offsets is None else offsets
    pads = [k // 2 for k in kernel] * 2 if pads is None else pads
    grown = [s * n for s, n in zip(strides, sides)]
    inits = {
        "w": (RNG.standard_normal((m, c // group, *kernel)) * 0.2).astype(dtype),
        "b": RNG.standard_normal(m).astype(dtype),
    }
    if form == "reshape":
        begins, ends = [0, 0], [0, 0]
        for s, a in zip(strides, offsets):
            begins += [0, a]
            ends += [0, s - 1 - a]
        inits["split"] = np.array([-1, c, *(v for n in sides for v in (n, 1))], np.int64)
        inits["amounts"] = np.array(begins + ends, np.int64)
        inits["merge"] = np.array([-1, c, *grown], np.int64)
        nodes = [
            helper.make_node("Reshape", ["x", "split"], ["u1"], "split"),
            helper.make_node("Pad", ["u1", "amounts"], ["u2"], "between"),
            helper.make_node("Reshape", ["u2", "merge"], ["u"], "merge"),
        ]
    else:
        mask = np.zeros((1, 1, *grown), dtype)
        mask[(..., *(slice(a, None, s) for a, s in zip(offsets, strides)))] = 1
        inits |= {"mask": mask, "scales": np.array([1, 1, *strides], np.float32)}
        nodes = [
            helper.make_node("Resize", ["x", "", "scales"], ["u1"], "up"),
            helper.make_node("Mul", ["u1", "mask"], ["u"], "masked"),
        ]
    source = "u"
    if pad is not None:
        inits["around"] = np.array(pad, np.int64)
        source = "padded"
        nodes.append(helper.make_node("Pad", ["u", "around"], ["padded"], "pad"))
    attributes = {"pads": pads, "group": group, "dilations": dilations} | (conv or {})
    nodes.append(
        helper.make_node(
            "Conv", [source, "w", "b"], ["y"], "conv",
            **{k: v for k, v in attributes.items() if v is not None},
        )
    )  # fmt: skip
    shape = [2, c, *sides] if shape is None else shape
    return graph_model(nodes, inits, {"x": shape}, dtype=dtype, opset=opset)


def rewritten(model: onnx.ModelProto, **feeds) -> None:
    result = convert_with_report(model)
    assert [c.rewrite for c in result.changes] == ["zero_insertion"], str(result.report)
    agree(model, result.model, **feeds)
    (node,) = result.model.graph.node
    assert (node.op_type, node.name) == (OP, "conv")


def refusal(model: onnx.ModelProto) -> str:
    result = convert_with_report(model, disable=["unit_stride_conv"])
    assert result.model == model
    (skip,) = (s for s in result.skips if s.rewrite == "zero_insertion")
    assert skip.node == "conv"
    return skip.reason


@pytest.mark.parametrize("form", ["reshape", "mask"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": (3, 2), "offsets": (1, 0), "kernel": (5, 4), "pads": [1, 2, 3, 0]},
        {"kernel": (4, 4), "pads": [2, 2, 1, 1]},
        {"pads": [0] * 4, "pad": [0, 0, 2, 1, 0, 0, 1, 2]},
        {"strides": (4,), "kernel": (9,), "sides": (7,)},
        {"strides": (2, 2, 2), "kernel": (3, 3, 3), "sides": (3, 2, 4)},
        {"channels": (8, 8), "group": 8},
        {"dilations": [2, 3], "pads": [2, 3] * 2},
        {"dtype": "float16"},
        {"conv": {"auto_pad": "SAME_LOWER", "pads": None}, "kernel": (4, 4)},
    ],
    ids=str,
)
def test_fires(free, form, options):
    rewritten(inserted_model(form, **options))


def test_open_batch(free):
    rewritten(inserted_model(shape=["n", 8, 4, 5]), x=(2, 8, 4, 5))


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_opsets(free, opset):
    rewritten(inserted_model(opset=opset))


def test_it_pays():
    """A quarter of the multiply-adds, and no zeros to write: the static rule lets it pass."""
    rewritten(inserted_model(channels=(64, 64), sides=(16, 16), kernel=(4, 4), pads=[2, 2, 1, 1]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_geometry(free, data):
    axes = data.draw(st.integers(1, 2))
    draw = lambda low, high: [data.draw(st.integers(low, high)) for _ in range(axes)]  # noqa: E731
    kernel, dilations, strides, sides = draw(1, 4), draw(1, 2), draw(1, 3), draw(4, 6)
    assume(max(strides) > 1)
    reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
    model = inserted_model(
        data.draw(st.sampled_from(["reshape", "mask"])), tuple(strides),
        [data.draw(st.integers(0, s - 1)) for s in strides], tuple(kernel),
        [data.draw(st.integers(0, r)) for r in reach * 2], dilations=dilations, sides=tuple(sides),
    )  # fmt: skip
    result = convert_with_report(model)
    agree(model, result.model)
    if not result.changes:
        assert any("exceed the kernel's reach" in skip.reason for skip in result.skips)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pads": [3, 1, 1, 1]}, "the zeros around spatial axis 0 exceed the kernel's reach"),
        ({"conv": {"strides": [2, 1]}}, "attribute 'strides' = [2, 1]"),
    ],
)
def test_refusals(options, reason):
    assert reason in refusal(inserted_model(**options))


def test_weights_that_callers_may_override():
    model = inserted_model()
    model.graph.input.append(value("w", "float32", [4, 8, 3, 3]))
    assert refusal(model) == "its input W is not a constant"


def test_amounts_that_are_an_input():
    model = inserted_model()
    model.graph.input.append(helper.make_tensor_value_info("amounts", 7, [12]))
    assert not convert_with_report(model).changes


@pytest.mark.parametrize("edit", ["value", "place", "plane"])
def test_another_mask(free, edit):
    model = inserted_model("mask")
    (mask,) = (i for i in model.graph.initializer if i.name == "mask")
    array = onnx.numpy_helper.to_array(mask).copy()
    if edit == "value":
        array[..., 0, 0] = 2
    elif edit == "place":
        array[..., 1, 1] = 1
    else:
        array = np.repeat(array, 8, axis=1)
        array[0, 3] = 0
    mask.CopyFrom(onnx.numpy_helper.from_array(array, "mask"))
    result = convert_with_report(model)
    assert not nodes_of(result.model, OP)


def test_other_readers_keep_the_zeros(free):
    model = inserted_model()
    model.graph.node.append(helper.make_node("Neg", ["u"], ["n"]))
    model.graph.output.append(value("n", "float32", [2, 8, 8, 10]))
    result = convert_with_report(model)
    assert len(result.changes) == 1
    agree(model, result.model)
