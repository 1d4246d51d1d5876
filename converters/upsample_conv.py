"""Nearest upsampling followed by a convolution becomes one transposed convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from .convolution import (
    Convolution,
    Equivalent,
    check_gain,
    check_opset,
    check_range,
    has_quantized_weights,
    read_convolution,
    swap_channels,
    write_operator,
)
from .facts import Size, enlargement
from .nodes import attribute, input_of, only_consumer, only_reader
from .padding import Padding, edge_pad, read_padding
from .rewrite import Refusal, Rewrite, Scope, Site
from .shape_readers import ShapeRule, release_shapes


class UpsampleConvRewrite(Rewrite):
    r"""Nearest ``Resize`` or ``Upsample`` by integers s, (``Pad``,) ``Conv`` -> the operator.

    Along one axis let :math:`u_q = x_{\lfloor q / s \rfloor}`, zero outside :math:`0 \le q < sD`,
    be convolved with a kernel of k taps, dilation d and p zeros in front:

    .. math:: y_o = \sum_t w_t u_{o + td - p}.

    Input i stands at :math:`q = si + r`, :math:`0 \le r < s`, so it meets output
    :math:`o = si + r + p - td`.  A transposed convolution of stride s sends it with weight
    :math:`h_j` to :math:`o = si + j - P`.  With :math:`P = (k - 1)d - p` both agree for
    :math:`j = r + (k - 1 - t)d`, hence

    .. math:: h_j = \sum_{t, r:\ r + (k - 1 - t)d = j} w_t,

    a kernel of :math:`(k - 1)d + s` taps: the flipped kernel convolved with a box of s ones.  The
    same at the end, :math:`P' = (k - 1)d - p'`.  Nothing is assumed of the border: it is exact
    wherever the pads are not larger than :math:`(k - 1)d`.  3x3 after 2x costs 4 multiply-adds an
    output instead of 9.

    A ``Pad`` in between that repeats the edge, or reflects at most s - 1 values (which are copies
    of the edge), is the same as repeating the edge of x: it moves before the operator, where it
    touches fewer values.

    Left alone: scales or sizes that are not known or not integers; index formulas that do not
    repeat each value s times; modes other than nearest, since interpolation repeats the edge where
    the Conv pads with zeros; strides; weights that are not constant; and what would not be faster.
    An upsampled image that others read, too, stays for them.
    """

    name = "upsample_conv"

    def matches(self, node: ir.Node, scope: Scope) -> bool:
        if not scope.own(node, "Conv") or has_quantized_weights(node, scope):
            return False
        return _trace(node, scope) is not None

    def plan(self, node: ir.Node, scope: Scope) -> Site:
        pad, resize = _trace(node, scope)  # type: ignore[misc]
        found = upsampling(read_convolution(node, scope), pad, resize, scope)
        conv, form, factors, repeated = found.conv, found.form, found.factors, found.repeated
        x = form.x
        check_range(conv, form)
        gone = _gone(node, pad, resize)
        passed = 2 * conv.channels * math.prod(factors)
        check_gain(
            conv,
            form,
            factors,
            scope,
            gone,
            saved=passed * (len(gone) - 1),
            added=0 if repeated is None else 2 * conv.channels,
        )

        def apply() -> list[ir.Node]:
            rule = ShapeRule(x, (1, 1, *factors), (0, 0, *[0] * conv.axes))
            if resize in gone:
                release_shapes([resize.outputs[0]], rule, gone, scope.facts)
            if repeated is None:
                return [
                    write_operator(node, conv, form, self.algorithm_attribute(), scope, conv.bias)
                ]
            first = edge_pad(node, x, repeated, scope)
            moved = replace(form, x=first.outputs[0])
            extra = self.algorithm_attribute()
            return [first, write_operator(node, conv, moved, extra, scope, conv.bias)]

        return Site(gone, apply)


@dataclass(frozen=True)
class Upsampling:
    """A Conv of an enlarged image as a transposed convolution of the image."""

    conv: Convolution
    form: Equivalent
    factors: tuple[int, ...]  # of the spatial axes
    repeated: tuple[tuple[int, ...], ...] | None  # the image's edge, before its begins and ends


def upsampling(conv: Convolution, pad: ir.Node | None, resize: ir.Node, scope: Scope) -> Upsampling:
    """What Resize, Pad and Conv are together; raises Refusal where that is no single operator."""
    factors = integer_repeats(resize, scope)
    if len(factors) != conv.axes + 2 or factors[:2] != (1, 1):
        raise Refusal(f"{resize.op_type} enlarges by {list(factors)}; batch and channels must stay")
    factors = factors[2:]
    if max(factors) == 1:
        raise Refusal(f"{resize.op_type} enlarges no axis")
    padding = read_padding(pad, conv.axes, scope) if pad else Padding.none(conv.axes)
    begins, ends, repeated = _borders(conv, padding, factors)
    padded = replace(conv, begins=begins, ends=ends)
    begins, ends = padded.transposed_pads()
    form = Equivalent(
        resize.inputs[0],  # type: ignore[arg-type]
        (
            conv.channels,
            conv.shape[0] // conv.group,
            *(r + s for r, s in zip(conv.reach, factors)),
        ),
        lambda w: spread(swap_channels(w, conv.group), factors, conv.dilations),
        factors,
        begins,
        ends,
        group=conv.group,
    )
    return Upsampling(padded if repeated is None else conv, form, factors, repeated)


def _trace(node: ir.Node, scope: Scope) -> tuple[ir.Node | None, ir.Node] | None:
    """The Pad, if any, and the Resize before a Conv."""
    source = input_of(node, 0)
    before = None if source is None else source.producer()
    pad = None
    if scope.own(before, "Pad"):
        pad, source = before, input_of(before, 0)
        before = None if source is None else source.producer()
    if not scope.own(before, "Resize", "Upsample") or before.inputs[0] is None:
        return None
    return pad, before


def _gone(node: ir.Node, pad: ir.Node | None, resize: ir.Node) -> list[ir.Node]:
    """The nodes that nothing else needs."""
    chain = [node]
    for before in (pad, resize):
        if before is None:
            continue
        alone = only_reader if before is resize else only_consumer
        if alone(before.outputs[0]) is not chain[0]:
            break
        chain.insert(0, before)
    return chain


def _borders(conv, padding: Padding, factors: Sequence[int]):
    """Zeros before and after the upsampled image, and the edge to be repeated around x."""
    if not padding.any:
        begins, ends, repeated = conv.begins, conv.ends, None
    elif padding.mode == "constant":
        begins = tuple(a + b for a, b in zip(conv.begins, padding.begins))
        ends = tuple(a + b for a, b in zip(conv.ends, padding.ends))
        repeated = None
    else:
        if any((*conv.begins, *conv.ends)):
            raise Refusal(f"Pad's mode '{padding.mode}' is followed by Conv's own zeros")
        for amount, s in zip((*padding.begins, *padding.ends), (*factors, *factors)):
            if padding.mode == "reflect" and amount >= s:
                raise Refusal(f"Pad reflects {amount} values, and only {s - 1} repeat the edge")
        repeated = tuple(
            tuple(-(-amount // s) for amount, s in zip(side, factors))
            for side in (padding.begins, padding.ends)
        )
        # Of the copies that are too many, the operator crops what Pad did not add.
        begins, ends = (
            tuple(amount - s * copies for amount, s, copies in zip(side, factors, counts))
            for side, counts in zip((padding.begins, padding.ends), repeated)
        )
    return begins, ends, repeated


def spread(w: np.ndarray, factors: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """h_j, the sum of w_t over r + (k - 1 - t) d = j with 0 <= r < s, along each spatial axis."""
    for axis, (s, d) in enumerate(zip(factors, dilations), start=2):
        flipped = np.moveaxis(w, axis, 0)[::-1]
        h = np.zeros(((len(flipped) - 1) * d + s, *flipped.shape[1:]), w.dtype)
        for t, tap in enumerate(flipped):
            h[t * d : t * d + s] += tap
        w = np.moveaxis(h, 0, axis)
    return np.ascontiguousarray(w)


# ---- Resize ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sampling:
    coordinates: str
    nearest: str


def integer_repeats(node: ir.Node, scope: Scope) -> tuple[int, ...]:
    """Factors, one an axis, by which ``node`` repeats values; raises Refusal if it does not."""
    check_opset(node.op_type, (10, 11, 13, 18, 19) if node.op_type == "Resize" else (7, 9), scope)
    for name, found in node.attributes.items():
        if found.is_ref():
            raise Refusal(f"attribute '{name}' of {node.op_type} refers to a function's attribute")
    mode = attribute(node, "mode", "nearest")
    if mode != "nearest":
        raise Refusal(
            f"{node.op_type}'s mode '{mode}' is not 'nearest': next to the border it repeats the "
            "edge where the Conv's padding has zeros, so no transposed convolution equals it"
        )
    if attribute(node, "antialias", 0):
        raise Refusal("attribute 'antialias' of Resize is set")
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refusal("attribute 'keep_aspect_ratio_policy' of Resize is not 'stretch'")
    sampling = _Sampling("asymmetric", "floor")
    if node.op_type == "Resize" and scope.onnx_opset > 10:  # type: ignore[operator]
        sampling = _Sampling(
            attribute(node, "coordinate_transformation_mode", "half_pixel"),
            attribute(node, "nearest_mode", "round_prefer_floor"),
        )
    ratios = enlargement(node, scope.facts)
    if ratios is None or None in ratios:
        raise Refusal(f"the scales or sizes of {node.op_type} are not known before it runs")
    factors = []
    for axis, ratio in enumerate(ratios):
        if ratio.dims:
            raise Refusal(
                f"{node.op_type} enlarges axis {axis} to a size that is not a multiple of the "
                "input's as far as is known before it runs, such as that of another value"
            )
        if ratio.number is None or ratio.number < 1:
            raise Refusal(
                f"{node.op_type} enlarges axis {axis} by {_decimal(ratio)}, which is not an integer"
            )
        factors.append(ratio.number)
    dims = scope.facts.dims(node.inputs[0])
    for axis, s in enumerate(factors):
        size = None if dims is None or len(dims) != len(factors) else dims[axis].number
        if s > 1 and not repeats(s, size, sampling.coordinates, sampling.nearest):
            raise Refusal(
                f"coordinate_transformation_mode '{sampling.coordinates}' with nearest_mode "
                f"'{sampling.nearest}' does not repeat each value of axis {axis} {s} times"
            )
    return tuple(factors)


def _decimal(ratio: Size) -> str:
    """The ratio as exactly as it takes to tell it from an integer."""
    number = np.float32(ratio.factor)
    return str(number if Fraction(float(number)) == ratio.factor else float(ratio.factor))


def repeats(s: int, size: int | None, coordinates: str, nearest: str) -> bool:
    """Whether Resize by the integer ``s`` reads value o // s for output o.

    The index formula is evaluated, in float32 as ONNX Runtime does, for every output of ``size``
    values.  Of an unknown size three values tell: in all modes but ``align_corners`` the index
    grows by 1 from o to o + s, so the one in the middle stands for all that have two neighbours.
    """
    if size is None and coordinates == "align_corners":
        return False
    size = 3 if size is None else size
    outputs = np.arange(s * size)
    o, scale, half = outputs.astype(np.float32), np.float32(s), np.float32(0.5)
    if coordinates == "asymmetric":
        at = o / scale
    elif coordinates in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"):
        at = (o + half) / scale - half
    elif coordinates == "tf_half_pixel_for_nn":
        at = (o + half) / scale
    elif coordinates == "align_corners":
        at = o * np.float32(size - 1) / np.float32(max(1, s * size - 1))
    else:  # tf_crop_and_resize
        return False
    if nearest == "round_prefer_floor":
        index = np.ceil(at - half)
    elif nearest == "round_prefer_ceil":
        index = np.floor(at + half)
    elif nearest in ("floor", "ceil"):
        index = getattr(np, nearest)(at)
    else:
        return False
    return bool((np.clip(index, 0, size - 1) == outputs // s).all())
