"""Zeros put between the pixels, then a Conv: the conventional transposed convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .convolution import (
    Equivalent,
    check_gain,
    flip,
    read_convolution,
    write_operator,
)
from .nodes import input_of, only_consumer
from .padding import Padding, pad_amounts, read_padding
from .rewrite import Refusal, Rewrite, Scope, Site
from .upsample_conv import integer_repeats


class ZeroInsertionRewrite(Rewrite):
    r"""Zero insertion, (``Pad``,) ``Conv`` -> the operator.

    Along one axis let :math:`u_{sj + a} = x_j`, :math:`0 \le j < D`, and u be zero elsewhere, with
    :math:`0 \le a < s` and sD values in all, convolved with k taps, dilation d and p zeros in
    front.  Then :math:`y_o = \sum_t w_t u_{o + td - p}`: input j meets output
    :math:`o = sj + a + p - td`.  A transposed convolution with stride s, dilation d and the flipped
    kernel :math:`h_n = w_{k - 1 - n}` sends it to :math:`sj + nd - P`, the same output for

    .. math:: P = (k - 1)d - p - a.

    The output has :math:`sD + p + p' - (k - 1)d` values where the transposed convolution gives
    :math:`s(D - 1) + (k - 1)d + 1 - P - P' + e`, hence
    :math:`P' - e = (k - 1)d - p' + a + 1 - s`: a pad :math:`P'`, or an output padding e if it is
    negative.  Borders are exact.

    The zeros are inserted in one of two ways that are found in practice:

    - ``Reshape`` to [N, C, D1, 1, D2, 1, ...], ``Pad`` of the new axes, ``Reshape`` back: upfirdn2d
      of StyleGAN2 and what derives from it;
    - nearest ``Resize`` and ``Mul`` with a constant mask of ones and zeros, one each s values.

    Left alone: shapes that are not known; zeros that the operator cannot leave out, because the
    pads are larger than P allows; weights that are not constant; strides; what would not be faster.
    """

    name = "zero_insertion"

    def matches(self, node: ir.Node, scope: Scope) -> bool:
        if not scope.own(node, "Conv"):
            return False
        try:
            return _trace(node, scope) is not None
        except Refusal:
            return True

    def plan(self, node: ir.Node, scope: Scope) -> Site:
        trace: _Trace = _trace(node, scope)  # type: ignore[assignment]
        conv = read_convolution(node, scope)
        if len(trace.strides) != conv.axes:
            raise Refusal(f"zeros are inserted in {len(trace.strides)} of {conv.axes} axes")
        padding = Padding.none(conv.axes)
        if trace.pad is not None:
            padding = read_padding(trace.pad, conv.axes, scope)
        if padding.any and padding.mode != "constant":
            raise Refusal(f"Pad's mode is '{padding.mode}'")
        begins, ends, extra = [], [], []
        for axis, (s, a, d, reach) in enumerate(
            zip(trace.strides, trace.offsets, conv.dilations, conv.reach)
        ):
            begin = reach - conv.begins[axis] - padding.begins[axis] - a
            end = reach - conv.ends[axis] - padding.ends[axis] + a + 1 - s
            if begin < 0 or -end >= max(s, d):
                raise Refusal(
                    f"the zeros around spatial axis {axis} exceed the kernel's reach, "
                    f"(kernel - 1) * dilation = {reach}"
                )
            begins.append(begin)
            ends.append(max(0, end))
            extra.append(max(0, -end))
        form = Equivalent(
            trace.x,
            (conv.channels, conv.shape[0] // conv.group, *conv.kernel),
            lambda w: flip(w, conv.group),
            trace.strides,
            tuple(begins),
            tuple(ends),
            conv.dilations,
            tuple(extra),
            conv.group,
        )
        gone = [node]
        for before in reversed(trace.nodes):
            if only_consumer(before.outputs[0]) is not gone[0]:
                break
            gone.insert(0, before)
        passes = len(gone) - 1
        passed = 2 * conv.channels * math.prod(trace.strides) * passes
        check_gain(conv, form, trace.strides, scope, gone, saved=passed)

        def apply() -> list[ir.Node]:
            extra = self.algorithm_attribute()
            return [write_operator(node, conv, form, extra, scope, conv.bias)]

        return Site(gone, apply)


@dataclass(frozen=True)
class _Trace:
    """u with s D values an axis, x_j at s j + a; ``pad`` adds zeros around it."""

    x: ir.Value
    strides: tuple[int, ...]
    offsets: tuple[int, ...]
    nodes: list[ir.Node]
    pad: ir.Node | None


def _producer(node: ir.Node, index: int = 0) -> ir.Node | None:
    source = input_of(node, index)
    return None if source is None else source.producer()


def _trace(node: ir.Node, scope: Scope) -> _Trace | None:
    before, pad = _producer(node), None
    if scope.own(before, "Pad"):
        pad, before = before, _producer(before)
    found = None
    if scope.own(before, "Reshape"):
        found = _reshaped(before, scope)
    elif scope.own(before, "Mul"):
        found = _masked(before, scope)
    if found is None:
        return None
    x, strides, offsets, nodes = found
    return _Trace(x, strides, offsets, [*nodes, *([] if pad is None else [pad])], pad)


_Found = tuple[ir.Value, tuple[int, ...], tuple[int, ...], list[ir.Node]]


def _reshaped(last: ir.Node, scope: Scope) -> _Found | None:
    """Reshape, Pad, Reshape: [N, C, D, 1, ...] -> [N, C, D, s, ...] -> [N, C, s D, ...]."""
    pad = _producer(last)
    first = _producer(pad) if scope.own(pad, "Pad") else None
    if not scope.own(first, "Reshape", "Unsqueeze") or first.inputs[0] is None:
        return None
    facts, x = scope.facts, first.inputs[0]
    dims, split, merged = facts.dims(x), facts.dims(first.outputs[0]), facts.dims(last.outputs[0])
    if dims is None or split is None or merged is None:
        return None
    axes = len(dims) - 2
    if axes < 1 or len(split) != 2 + 2 * axes or len(merged) != len(dims):
        return None
    if split[:2] != dims[:2] or split[2::2] != dims[2:]:
        return None
    if any(size.number != 1 for size in split[3::2]):
        return None
    mode, begins, ends = pad_amounts(pad, scope)
    if len(begins) != len(split) or mode != "constant":
        return None
    between = [b + e for b, e in zip(begins, ends)]
    if any(between[:2]) or any(between[2::2]):
        return None
    strides = tuple(1 + amount for amount in between[3::2])
    grown = tuple(size * type(size).of(s) for size, s in zip(dims[2:], strides))
    if max(strides) == 1 or merged != (*dims[:2], *grown):
        return None
    return x, strides, tuple(begins[3::2]), [first, pad, last]


def _masked(mul: ir.Node, scope: Scope) -> _Found | None:
    """Resize, Mul with a mask that keeps one of each s values."""
    for index in (0, 1):
        resize, mask = _producer(mul, index), scope.facts.array(input_of(mul, 1 - index))
        if scope.own(resize, "Resize", "Upsample") and mask is not None:
            break
    else:
        return None
    sides = scope.facts.static(mul.outputs[0])
    if sides is None or mask.ndim > len(sides) or not np.isin(mask, (0, 1)).all():
        return None
    mask = np.broadcast_to(mask, sides)
    plane = mask[0, 0] if mask.size else mask
    if mask.size == 0 or (mask != plane).any():
        return None
    strides = integer_repeats(resize, scope)
    if strides[:2] != (1, 1) or max(strides) == 1:
        return None
    strides = strides[2:]
    kept = np.argwhere(plane)
    if not len(kept):
        return None
    offsets = tuple(int(i) for i in kept[0])
    if any(a >= s for a, s in zip(offsets, strides)):
        return None
    expected = np.zeros_like(plane)
    expected[tuple(slice(a, None, s) for a, s in zip(offsets, strides))] = 1
    if (expected != plane).any():
        return None
    return resize.inputs[0], strides, offsets, [resize, mul]
