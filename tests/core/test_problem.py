"""Shapes, pads and refusals (custom_op/core/problem.h), by hand and against stock ONNX Runtime."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import cases
import numpy as np
import pytest
from cases import CORNERS, Case, assert_within, conv_transpose_model
from hypothesis import given, settings
from hypothesis import strategies as st

from ort_tconv import _core


def shape_and_pads(case: Case) -> tuple[list[int], list[int]]:
    """Spatial output sizes and the pads in effect."""
    shape, pads = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)
    assert shape[:2] == [case.batch, case.out_channels]
    return shape[2:], pads


# ---- output sizes and pads, worked by hand -------------------------------------------------------

SAME = ("SAME_UPPER", "SAME_LOWER")

#: Case, spatial output sizes, pads in effect (beginnings, then ends).
SHAPES: dict[str, tuple[Case, list[int], list[int]]] = {
    "no attribute": (Case((3, 4), (3, 2)), [5, 5], [0, 0, 0, 0]),
    "strides": (Case((3, 3), (3, 3), strides=(3, 2)), [9, 7], [0, 0, 0, 0]),
    "dilations": (Case((3, 3), (2, 2), dilations=(2, 3)), [5, 6], [0, 0, 0, 0]),
    "pads": (Case((3, 3), (3, 3), strides=(3, 2), pads=(1, 2, 1, 2)), [7, 3], [1, 2, 1, 2]),
    "asymmetric pads": (Case((4,), (4,), strides=(2,), pads=(0, 3)), [7], [0, 3]),
    "pads leave one output": (Case((2,), (3,), pads=(2, 1)), [1], [2, 1]),
    "output_padding": (
        Case((3, 3), (3, 3), strides=(3, 2), output_padding=(2, 1)),
        [11, 8],
        [0, 0, 0, 0],
    ),
    "output_padding below the dilation": (
        Case((3,), (2,), dilations=(3,), output_padding=(2,)),
        [8],
        [0, 0],
    ),
    "1 x 1": (Case((1,), (1,)), [1], [0, 0]),
    "3-D": (Case((2, 3, 4), (2, 2, 2), strides=(2, 2, 2)), [4, 6, 8], [0] * 6),
    "eight axes": (Case((1, 2) * 4, (2, 1) * 4), [2, 2] * 4, [0] * 16),
    "VALID is no pads": (
        Case((3,), (3,), strides=(2,), auto_pad="VALID"),
        [7],
        [0, 0],
    ),
    # Full size 7, target 3 * 2 = 6: one element too many.
    "SAME_UPPER, odd": (Case((3,), (3,), strides=(2,), auto_pad="SAME_UPPER"), [6], [0, 1]),
    "SAME_LOWER, odd": (Case((3,), (3,), strides=(2,), auto_pad="SAME_LOWER"), [6], [1, 0]),
    "SAME_UPPER, even": (Case((3,), (4,), strides=(2,), auto_pad="SAME_UPPER"), [6], [1, 1]),
    "SAME_UPPER, three": (Case((3,), (5,), strides=(2,), auto_pad="SAME_UPPER"), [6], [1, 2]),
    "SAME_LOWER, three": (Case((3,), (5,), strides=(2,), auto_pad="SAME_LOWER"), [6], [2, 1]),
    # Full size 9 is smaller than the target 12: nothing to cut, and nothing is added.
    "SAME_UPPER, kernel < stride": (
        Case((3,), (1,), strides=(4,), auto_pad="SAME_UPPER"),
        [9],
        [0, 0],
    ),
    "SAME_LOWER, kernel < stride": (
        Case((3,), (1,), strides=(4,), auto_pad="SAME_LOWER"),
        [9],
        [0, 0],
    ),
    "SAME_UPPER, output_padding": (
        Case((3,), (3,), strides=(2,), output_padding=(1,), auto_pad="SAME_UPPER"),
        [6],
        [1, 1],
    ),
    "auto_pad and pads of 0": (
        Case((3,), (3,), strides=(2,), pads=(0, 0), auto_pad="SAME_LOWER"),
        [6],
        [1, 0],
    ),
    # Full size 7, output 4: three elements too many, the odd one at the beginning ...
    "output_shape": (Case((3,), (3,), strides=(2,), output_shape=(4,)), [4], [2, 1]),
    "output_shape, VALID": (
        Case((3,), (3,), strides=(2,), output_shape=(4,), auto_pad="VALID"),
        [4],
        [2, 1],
    ),
    "output_shape, SAME_LOWER": (
        Case((3,), (3,), strides=(2,), output_shape=(4,), auto_pad="SAME_LOWER"),
        [4],
        [2, 1],
    ),
    # ... but for SAME_UPPER at the end.
    "output_shape, SAME_UPPER": (
        Case((3,), (3,), strides=(2,), output_shape=(4,), auto_pad="SAME_UPPER"),
        [4],
        [1, 2],
    ),
    "output_shape voids pads": (
        Case((3,), (3,), strides=(2,), pads=(0, 3), output_shape=(4,)),
        [4],
        [2, 1],
    ),
    "output_shape is the full size": (
        Case((3,), (3,), strides=(2,), output_shape=(7,)),
        [7],
        [0, 0],
    ),
    "output_shape exceeds the full size": (
        Case((3,), (3,), strides=(2,), output_shape=(8,)),
        [8],
        [0, 0],
    ),
    "output_shape far beyond the input": (Case((2,), (2,), output_shape=(50,)), [50], [0, 0]),
    # output_padding counts to the full size before the padding is derived: 8 - 4.
    "output_shape and output_padding": (
        Case((3,), (3,), strides=(2,), output_padding=(1,), output_shape=(4,)),
        [4],
        [2, 2],
    ),
    "axes differ": (
        Case((3, 3), (3, 3), strides=(3, 2), output_shape=(10, 5)),
        [10, 5],
        [0, 1, 0, 1],
    ),
    "empty batch": (Case((3,), (3,), batch=0, strides=(2,)), [7], [0, 0]),
    "no input channel": (Case((3,), (3,), group_in=0), [5], [0, 0]),
    "no output channel": (Case((3,), (3,), group_out=0), [5], [0, 0]),
    "empty input axis": (Case((0, 2), (4, 4), strides=(2, 2)), [2, 6], [0, 0, 0, 0]),
}


@pytest.mark.parametrize("case, out, pads", SHAPES.values(), ids=SHAPES.keys())
def test_shape_and_pads(case: Case, out: list[int], pads: list[int]) -> None:
    assert shape_and_pads(case) == (out, pads)


def test_lists_not_given_and_empty_are_the_same() -> None:
    lists = ("strides", "pads", "dilations", "output_padding", "output_shape", "kernel_shape")
    names = (*lists, "auto_pad", "group")
    plain = _core.output_shape([1, 2, 3, 4], [2, 3, 3, 2])
    assert _core.output_shape([1, 2, 3, 4], [2, 3, 3, 2], **dict.fromkeys(names)) == plain
    empty = {name: [] for name in lists} | {"auto_pad": ""}
    assert _core.output_shape([1, 2, 3, 4], [2, 3, 3, 2], **empty) == plain


def test_output_shape_may_name_batch_and_channels() -> None:
    """Stock ONNX Runtime's kernel reads the last entries only, so the whole shape of Y serves."""
    spatial = _core.output_shape([2, 4, 5], [4, 3, 3], output_shape=[6])
    assert _core.output_shape([2, 4, 5], [4, 3, 3], output_shape=[2, 3, 6]) == spatial


def test_explicit_kernel_shape() -> None:
    assert _core.output_shape([1, 2, 3, 4], [2, 3, 3, 2], kernel_shape=[3, 2])[0] == [1, 3, 5, 5]


# ---- stock ONNX Runtime decides ------------------------------------------------------------------


def compare_with_stock(case: Case) -> None:
    """Shape, and through the values the pads, of stock ONNX Runtime's CPU provider."""
    pytest.importorskip("onnxruntime", reason="onnxruntime, the other side, is not installed")
    from sessions import run_stock

    arrays = case.arrays()
    (stock,) = run_stock(conv_transpose_model(case, arrays), {"x": arrays["x"]})
    assert list(stock.shape[2:]) == shape_and_pads(case)[0]
    assert_within(stock, case.expected(arrays), case.bound(arrays))


def stock_refuses(case: Case) -> bool:
    """Valid models that stock ONNX Runtime does not run: an input axis of size 0, output a whole
    stride beyond what the input reaches, an output_padding that only the dilation allows, or pads,
    be they 0, beside auto_pad."""
    if case.pads and case.auto_pad not in ("", "NOTSET"):
        return True
    out, pads = shape_and_pads(case)
    axes = len(out)
    strides, dilations = case.strides or (1,) * axes, case.dilations or (1,) * axes
    for i in range(axes):
        reach = (case.kernel[i] - 1) * dilations[i] + 1
        positions = (out[i] + pads[i] + pads[axes + i] - reach) // strides[i] + 1
        padding = case.output_padding[i] if case.output_padding else 0
        if positions != case.spatial[i] or padding >= strides[i]:
            return True
    return 0 in (case.group_in, case.group_out, *case.spatial) or axes > 3


STOCK = {
    name: case
    for name, case in (CORNERS | {name: row[0] for name, row in SHAPES.items()}).items()
    if not stock_refuses(case)
}


@pytest.mark.parametrize("case", STOCK.values(), ids=STOCK.keys())
def test_stock_agrees(case: Case) -> None:
    compare_with_stock(case)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", *SAME])
def test_stock_agrees_on_every_output_size(auto_pad: str) -> None:
    """Every size from 1 to the greatest that stock takes, with and without overlap; one axis of a
    model is dilated, the other is not."""
    compared = 0
    for size, kernel, stride, padding in itertools.product((1, 3), (1, 2, 5), (1, 2, 4), (0, 1)):
        if padding >= stride:
            continue
        axes = Case(
            (size, size),
            (kernel, kernel),
            strides=(stride, stride),
            dilations=(1, 3),
            output_padding=(padding, padding),
            auto_pad=auto_pad,
        )
        full = shape_and_pads(dataclasses.replace(axes, auto_pad="VALID"))[0]
        room = stride - 1 - padding
        for cut in range(-room, max(full)):
            shape = tuple(max(1, side - cut) for side in full)
            case = dataclasses.replace(axes, output_shape=shape)
            assert not stock_refuses(case), "the sizes are chosen so that stock takes them"
            compare_with_stock(case)
            compared += 1
    assert compared > 100


@st.composite
def stock_cases(draw) -> Case:
    """Cases that stock ONNX Runtime takes, by construction."""
    axes = draw(st.integers(1, 2))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(axes))

    strides = each(1, 5)
    case = Case(
        spatial=each(1, 5),
        kernel=each(1, 5),
        strides=strides,
        dilations=each(1, 3),
        output_padding=tuple(draw(st.integers(0, s - 1)) for s in strides),
        auto_pad=draw(st.sampled_from(["", "NOTSET", "VALID", *SAME])),
        bias=draw(st.booleans()),
    )
    if case.auto_pad in ("", "NOTSET") and draw(st.booleans()):
        full = shape_and_pads(case)[0]
        begin = tuple(draw(st.integers(0, side - 1)) for side in full)
        end = tuple(draw(st.integers(0, side - 1 - b)) for side, b in zip(full, begin))
        return dataclasses.replace(case, pads=begin + end)
    return case


@settings(max_examples=150)
@given(case=stock_cases())
def test_stock_agrees_on_any_case(case: Case) -> None:
    assert not stock_refuses(case), "the cases are chosen so that stock takes them"
    compare_with_stock(case)


# ---- refusals ------------------------------------------------------------------------------------

X, W = [2, 4, 5, 6], [4, 3, 3, 2]  # one group: 3 output channels, Y is [2, 3, 7, 7]
HUGE = 2**62

#: Attributes that do not fit X and W, and what the message must say: name, value and rule.
ATTRIBUTES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "stride 0": ({"strides": [0, 1]}, ["strides = [0, 1]", "entry 0 is 0", "at least 1"]),
    "stride -1": ({"strides": [1, -1]}, ["strides = [1, -1]", "entry 1 is -1", "at least 1"]),
    "one stride": ({"strides": [2]}, ["strides = [2]", "1 entries", "must have 2"]),
    "three strides": ({"strides": [1, 2, 3]}, ["strides = [1, 2, 3]", "must have 2"]),
    "dilation 0": ({"dilations": [1, 0]}, ["dilations = [1, 0]", "entry 1 is 0", "at least 1"]),
    "dilation -3": ({"dilations": [-3, 1]}, ["dilations = [-3, 1]", "is -3", "at least 1"]),
    "one dilation": ({"dilations": [2]}, ["dilations = [2]", "must have 2"]),
    "pad -1": ({"pads": [0, 0, -1, 0]}, ["pads = [0, 0, -1, 0]", "entry 2 is -1", "at least 0"]),
    "two pads": ({"pads": [1, 1]}, ["pads = [1, 1]", "has 2 entries", "must have 4"]),
    "three pads": ({"pads": [1, 1, 1]}, ["pads = [1, 1, 1]", "has 3 entries", "two for each"]),
    "output_padding -1": (
        {"strides": [2, 2], "output_padding": [0, -1]},
        ["output_padding = [0, -1]", "entry 1 is -1", "at least 0"],
    ),
    "output_padding is the stride": (
        {"strides": [2, 3], "output_padding": [1, 3]},
        ["output_padding = [1, 3]", "entry 1 is 3", "smaller than max(stride, dilation) = 3"],
    ),
    "output_padding without stride": (
        {"output_padding": [1, 0]},
        ["output_padding = [1, 0]", "entry 0 is 1", "smaller than max(stride, dilation) = 1"],
    ),
    "output_padding is the dilation": (
        {"dilations": [1, 4], "output_padding": [0, 4]},
        ["output_padding = [0, 4]", "entry 1 is 4", "smaller than max(stride, dilation) = 4"],
    ),
    "three output_paddings": ({"output_padding": [0, 0, 0]}, ["output_padding = [0, 0, 0]", "2"]),
    "output_shape -1": ({"output_shape": [5, -1]}, ["output_shape = [5, -1]", "is -1", "0"]),
    "one output size": ({"output_shape": [5]}, ["output_shape = [5]", "must have 2"]),
    "three output sizes": ({"output_shape": [5, 5, 5]}, ["output_shape = [5, 5, 5]", "2"]),
    "other kernel_shape": (
        {"kernel_shape": [3, 3]},
        ["kernel_shape = [3, 3]", "spatial shape of W", "[3, 2]"],
    ),
    "kernel_shape 0": ({"kernel_shape": [0, 2]}, ["kernel_shape = [0, 2]", "is 0", "at least 1"]),
    "one kernel size": ({"kernel_shape": [3]}, ["kernel_shape = [3]", "must have 2"]),
    "auto_pad": ({"auto_pad": "SAME"}, ["auto_pad = 'SAME'", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    "lower-case auto_pad": ({"auto_pad": "valid"}, ["auto_pad = 'valid'", "NOTSET"]),
    "allow_tf32 2": ({"allow_tf32": 2}, ["allow_tf32 = 2", "0 or 1"]),
    "group 0": ({"group": 0}, ["group = 0", "at least 1"]),
    "group -4": ({"group": -4}, ["group = -4", "at least 1"]),
    "group does not divide": ({"group": 3}, ["group = 3", "divide", "channels of X", "4"]),
    "unknown activation": ({"activation": "relu"}, ["activation = 'relu'", "Relu", "GeluTanh"]),
    "Clip without bounds": ({"activation": "Clip"}, ["activation_params", "0 entries", "Clip"]),
    "Clip with one bound": (
        {"activation": "Clip", "activation_params": [1.0]},
        ["activation_params", "1 entries", "Clip", "2"],
    ),
    "Relu with a parameter": (
        {"activation": "Relu", "activation_params": [1.0]},
        ["activation_params", "1 entries", "Relu", "0"],
    ),
    "Elu with two": (
        {"activation": "Elu", "activation_params": [1.0, 2.0]},
        ["activation_params", "2 entries", "Elu", "1"],
    ),
    "parameters without activation": (
        {"activation_params": [1.0]},
        ["activation_params", "1 entries", "activation is not given"],
    ),
    "PRelu without slope": ({"activation": "PRelu"}, ["activation_params", "0 entries", "PRelu"]),
    "PRelu with two slopes of three": (
        {"activation": "PRelu", "activation_params": [0.1, 0.2]},
        ["activation_params", "2 entries", "PRelu", "3 output channels"],
    ),
    "pads larger than the output": (
        {"pads": [3, 0, 5, 0]},
        ["output size", "axis 0", "-1", "pads 3 and 5", "at least 1"],
    ),
    "pads as large as the output": (
        {"pads": [3, 0, 4, 0]},
        ["output size", "axis 0", "would be 0", "pads 3 and 4", "at least 1"],
    ),
    "pads beside SAME_UPPER": (
        {"auto_pad": "SAME_UPPER", "pads": [0, 1, 0, 0]},
        ["auto_pad = 'SAME_UPPER'", "pads = [0, 1, 0, 0]", "NOTSET"],
    ),
    "pads beside VALID": (
        {"auto_pad": "VALID", "pads": [1, 1, 1, 1]},
        ["auto_pad = 'VALID'", "pads = [1, 1, 1, 1]", "NOTSET"],
    ),
    "output_shape 0": (
        {"output_shape": [7, 0]},
        ["output_shape = [7, 0]", "axis 1 is 0", "at least 1"],
    ),
    "whole output_shape with a 0": (
        {"output_shape": [2, 3, 0, 7]},
        ["output_shape = [2, 3, 0, 7]", "axis 0 is 0", "at least 1"],
    ),
    "stride overflows": ({"strides": [HUGE, 1]}, ["stride", f"4 * {HUGE}", "overflows"]),
    "dilation overflows": ({"dilations": [HUGE, 1]}, ["dilation", f"2 * {HUGE}", "overflows"]),
    "pads overflow": (
        {"pads": [2**63 - 1, 0, 1, 0]},
        ["pads", f"{2**63 - 1} + 1", "overflows"],
    ),
    "output overflows": (
        {"strides": [2**32, 2**32]},
        ["output size", "overflows"],
    ),
    "output_shape overflows": (
        {"output_shape": [2**31, 2**31]},
        ["output size", f"{2**31}", "overflows"],
    ),
    "output bytes overflow": (
        {"output_shape": [2**30, 2**29]},
        ["output size in bytes", "* 8", "overflows"],
    ),
}


def message_of(call, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(_core.Error) as caught:
        call(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("attributes, parts", ATTRIBUTES.values(), ids=ATTRIBUTES.keys())
def test_bad_attribute(attributes: dict[str, Any], parts: list[str]) -> None:
    message = message_of(_core.output_shape, X, W, **attributes)
    assert [part for part in parts if part not in message] == [], message


#: Shapes that do not fit each other.
INPUTS: dict[str, tuple[list[int], list[int], dict[str, Any], list[str]]] = {
    "no spatial axis": ([2, 4], [4, 3], {}, ["X", "[2, 4]", "rank 3 or more"]),
    "scalars": ([], [], {}, ["X", "[]", "rank 3 or more"]),
    "nine spatial axes": ([1] * 11, [1] * 11, {}, ["X", "at most 8", "spatial axes"]),
    "rank of W": ([2, 4, 5], [4, 3, 3, 2], {}, ["W", "[4, 3, 3, 2]", "rank 4", "rank of X", "3"]),
    "channels of W": (X, [5, 3, 3, 2], {}, ["W", "[5, 3, 3, 2]", "channels of X", "4"]),
    "kernel 0": (X, [4, 3, 3, 0], {}, ["W", "[4, 3, 3, 0]", "kernel", "at least 1"]),
    "too many output channels": (
        X,
        [4, HUGE, 1, 1],
        {"group": 4},
        ["output channels", f"{HUGE} * 4", "overflows"],
    ),
    "input overflows": (
        [1, 1, HUGE],
        [1, 1, 3],
        {"strides": [4]},
        ["input size", f"{HUGE - 1} * 4", "overflows"],
    ),
    "output side overflows": ([1, 1, 2**63 - 1], [1, 1, 3], {}, ["output size", "overflows"]),
    "batch overflows": ([HUGE, 1, 5], [1, 1, 1], {}, ["output size", "overflows"]),
}


@pytest.mark.parametrize("x, w, attributes, parts", INPUTS.values(), ids=INPUTS.keys())
def test_bad_shapes(
    x: list[int], w: list[int], attributes: dict[str, Any], parts: list[str]
) -> None:
    message = message_of(_core.output_shape, x, w, **attributes)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("call", [_core.reference, _core.run], ids=["reference", "run"])
@pytest.mark.parametrize(
    "optional, parts",
    [
        ({"b": (2,)}, ["B", "[2]", "[3]"]),
        ({"b": (1, 3)}, ["B", "[1, 3]", "[3]"]),
        ({"b": ()}, ["B", "[]", "[3]"]),
        ({"z": (2, 3, 7, 6)}, ["Z", "[2, 3, 7, 6]", "[2, 3, 7, 7]"]),
        ({"z": (3, 7, 7)}, ["Z", "[3, 7, 7]", "[2, 3, 7, 7]"]),
        # One broadcast over the other is refused, too.
        ({"z": (1, 3, 7, 7)}, ["Z", "[1, 3, 7, 7]", "[2, 3, 7, 7]"]),
    ],
)
def test_bad_bias_or_residual(call, optional: dict[str, tuple[int, ...]], parts: list[str]) -> None:
    arrays = {name: np.zeros(shape) for name, shape in optional.items()}
    message = message_of(call, np.zeros(X), np.zeros(W), **arrays)
    assert message.startswith(f"input {parts[0]} ")
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("name", ["w", "b", "z"])
def test_other_dtype(name: str) -> None:
    arrays = {"x": np.zeros(X), "w": np.zeros(W), "b": np.zeros(3), "z": np.zeros([2, 3, 7, 7])}
    arrays[name] = arrays[name].astype(np.float32)
    message = message_of(_core.run, **arrays)
    assert f"input {name.upper()} has dtype float32" in message
    assert "float64" in message


def test_unsupported_dtype() -> None:
    message = message_of(_core.run, np.zeros(X, np.int32), np.zeros(W, np.int32))
    assert all(part in message for part in ("'int32'", *cases.DTYPES)), message


def test_unknown_attribute_name() -> None:
    with pytest.raises(TypeError, match="'stride'"):
        _core.output_shape(X, W, stride=[1, 1])


def test_errors_are_value_errors() -> None:
    assert issubclass(_core.Error, ValueError)


def test_a_refusal_leaves_nothing_behind() -> None:
    before = _core.output_shape(X, W)
    message_of(_core.output_shape, X, W, strides=[0, 1])
    assert _core.output_shape(X, W) == before
