"""Sub-pixel convolution, a Conv whose channels are shuffled into pixels, becomes the operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from .activations import Activation, single, subgraph
from .affine import Affine, read_affine
from .convolution import (
    Convolution,
    Equivalent,
    add_constant,
    check_gain,
    check_range,
    check_scale,
    constant_tensor,
    has_quantized_weights,
    read_convolution,
    rounded,
    swap_channels,
    write_operator,
)
from .facts import Facts, Size, product
from .nodes import attribute, node_label, only_reader, readers
from .padding import insert_pad
from .rewrite import Refusal, Rewrite, Scope, Site
from .shape_readers import ShapeRule, is_live_shape, release_shapes

MOST_NODES = 8  # between a Conv and its pixels


class SubpixelConvRewrite(Rewrite):
    r"""``Conv``, (constants per channel,) (activation,) ``DepthToSpace`` -> the operator.

    Channel :math:`\chi(m, r)` of the convolution, :math:`0 \le r < s` along each axis, is output
    :math:`y_{m, si + r}`.  Along one axis, with k taps, dilation d and p zeros in front,

    .. math:: y_{m, si + r} = \sum_t w_{\chi(m, r), t} x_{i + td - p}.

    A transposed convolution of stride s sends input :math:`j = i + td - p` with weight
    :math:`h_n` to output :math:`sj + n - P`, which is :math:`si + r` for
    :math:`n = r + P - s(td - p)`.  With :math:`P = s((k - 1)d - p)` that is

    .. math:: h_{r + sd(k - 1 - t)} = w_{\chi(m, r), t},

    a kernel of :math:`s((k - 1)d + 1)` taps; the same at the end, :math:`P' = s((k - 1)d - p')`.
    Borders are exact.  The multiply-adds stay as many, and the shuffle disappears.

    The operator has one bias for all r.  Where they differ, x gets a channel of ones, whose weights
    are the biases at a tap that meets the image from everywhere.

    The shuffle is a ``DepthToSpace`` of either mode or any chain of ``Reshape``, ``Transpose``,
    ``Squeeze`` and ``Unsqueeze`` that deals channels out to the spatial axes, in 1-D to n-D.
    Activations in between act on values one by one, so they come after it as well.  A
    ``BatchNormalization``, or arithmetic with constants per channel, goes into weights and biases
    before they are shuffled.

    What only asks for the shape of the convolution gets it from that of its input.

    Left alone: a convolution, or a step of the shuffle, that others read or that is an output; what
    stands between it and the shuffle and is not affine nor an activation of the operator;
    strides; weights that are not constant; groups that the shuffle tears apart; and what would not
    be faster.
    """

    name = "subpixel_conv"

    def matches(self, node: ir.Node, scope: Scope) -> bool:
        if not scope.own(node, "Conv") or has_quantized_weights(node, scope):
            return False
        return _trace(node, scope) is not None

    def plan(self, node: ir.Node, scope: Scope) -> Site:
        trace: _Trace = _trace(node, scope)  # type: ignore[assignment]
        conv = replace(read_convolution(node, scope), scale=trace.affine[0])
        if trace.reason:
            raise Refusal(trace.reason)
        index = trace.index
        check_dealt(conv, index)
        biases = _biases(conv, index, trace.affine, scope.facts)
        at = None if biases is None or biases.uniform else _tap_inside(conv)
        extra = 0 if at is None else 1

        form = dealt_form(
            conv, index, lambda w: w if at is None else _append(w, biases.values, at), extra
        )
        check_scale(conv.scale, lambda: conv.tensor.numpy().astype(np.float64), conv.dtype)
        check_range(conv, form)
        check_gain(
            conv,
            form,
            [1] * conv.axes,
            scope,
            [node, *trace.nodes],
            shuffled=2 * conv.shape[0],
            added=2 * conv.channels * extra,
        )

        def apply() -> list[ir.Node]:
            target, added, bias = trace.nodes[-1], [], None
            padded = zip(conv.begins, conv.ends, conv.reach)
            offsets = (0, conv.shape[0], *(b + e - r for b, e, r in padded))
            rule = ShapeRule(conv.x, (1, 0, *[1] * conv.axes), offsets)
            values = (node.outputs[0], *(each.outputs[0] for each in trace.before))
            release_shapes(values, rule, {node, *trace.nodes}, scope.facts)
            moved = form
            if at is not None:
                ends = [0, 1, *[0] * conv.axes]
                ones = insert_pad(
                    target, conv.x, [0] * len(ends), ends, scope, value=1.0, dtype=conv.dtype
                )
                added, moved = [ones], replace(form, x=ones.outputs[0])
            elif biases is not None:
                name = f"{(conv.bias or node.outputs[0]).name}_shuffled"
                first = index.reshape(index.shape[0], -1)[:, 0]
                bias = add_constant(
                    target, name, conv.dtype, first.shape, lambda: biases.values[first], scope
                )
            attributes = [*self.algorithm_attribute(), *_activation_attributes(trace.activation)]
            return [*added, write_operator(target, conv, moved, attributes, scope, bias)]

        return Site([node, *trace.nodes], apply)


def check_dealt(conv: Convolution, index: np.ndarray) -> None:
    """Raise Refusal unless ``index`` [M, s1, ..., sd] deals out all channels, within groups, and
    the pads are those of a transposed convolution."""
    conv.transposed_pads()
    if index.size != conv.shape[0] or index.ndim != conv.axes + 1:
        raise Refusal(f"the shuffle deals out {index.size} of {conv.shape[0]} channels")
    owner = index // (conv.shape[0] // conv.group)
    if (
        len(index) % conv.group
        or (owner.reshape(conv.group, -1) != np.arange(conv.group)[:, None]).any()
    ):
        raise Refusal(f"its {conv.group} groups do not become groups of the output's channels")


def dealt_form(
    conv: Convolution,
    index: np.ndarray,
    appended: Callable[[np.ndarray], np.ndarray] = lambda w: w,
    extra: int = 0,
) -> Equivalent:
    """The transposed convolution that gives channel ``index`` [M, s1, ..., sd] of ``conv`` at each
    place; ``appended`` gives the Conv's weights ``extra`` input channels more."""
    m, *factors = index.shape
    begins, ends = conv.transposed_pads()
    return Equivalent(
        conv.x,
        (
            conv.channels + extra,
            m // conv.group,
            *(s * (reach + 1) for s, reach in zip(factors, conv.reach)),
        ),
        lambda w: _interleave(appended(w), conv, index),
        tuple(factors),
        tuple(s * pad for s, pad in zip(factors, begins)),
        tuple(s * pad for s, pad in zip(factors, ends)),
        group=conv.group,
    )


# ---- bias --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Biases:
    values: np.ndarray  # of the Conv's channels, in float64
    uniform: bool  # over the channels that become one


def _biases(conv: Convolution, index: np.ndarray, affine: Affine, facts: Facts) -> _Biases | None:
    (scale, shift), values = affine, np.zeros(conv.shape[0])
    if conv.bias is not None:
        values = constant_tensor(conv.bias, "B", facts).numpy().astype(np.float64)
        if values.shape != (conv.shape[0],):
            raise Refusal(f"its input B has shape {list(values.shape)}")
    elif not np.any(shift):
        return None
    values = scale * values + shift
    rounded(values, conv.dtype, "biases")
    rows = values[index].reshape(index.shape[0], -1)
    return _Biases(values, bool((rows == rows[:, :1]).all()))


def _tap_inside(conv: Convolution) -> tuple[int, ...]:
    """A tap that every output finds within the image: p <= t d <= (k - 1) d - p' on each axis."""
    if conv.group != 1:
        raise Refusal("its biases differ among the channels of a pixel, and it has groups")
    taps = []
    for begin, end, reach, dilation in zip(conv.begins, conv.ends, conv.reach, conv.dilations):
        tap = -(-begin // dilation)
        if tap * dilation > reach - end:
            raise Refusal(
                "its biases differ among the channels of a pixel, and with these pads no tap meets "
                "the image from every output"
            )
        taps.append(tap)
    return tuple(taps)


def _append(w: np.ndarray, biases: np.ndarray, at: tuple[int, ...]) -> np.ndarray:
    """Weights of one more input channel, all ones, that add the biases."""
    channel = np.zeros((w.shape[0], 1, *w.shape[2:]))
    channel[(slice(None), 0, *at)] = biases
    return np.concatenate([w, channel], axis=1)


def _interleave(w: np.ndarray, conv: Convolution, index: np.ndarray) -> np.ndarray:
    """h at r + s d (k - 1 - t) is w of channel index[m, r] at tap t."""
    m, *factors = index.shape
    axes = len(factors)
    reach = conv.reach
    spread = np.zeros((*w.shape[:2], *(r + 1 for r in reach)))  # taps d apart, flipped
    spread[(..., *(slice(None, None, d) for d in conv.dilations))] = np.flip(
        w, axis=tuple(range(2, 2 + axes))
    )
    dealt = spread[index]  # [M, s1, ..., C/group, u1, ...]
    order = [0, 1 + axes]
    for axis in range(axes):
        order += [2 + axes + axis, 1 + axis]
    shape = [m, w.shape[1], *((r + 1) * s for r, s in zip(reach, factors))]
    return np.ascontiguousarray(swap_channels(dealt.transpose(order).reshape(shape), conv.group))


def _activation_attributes(activation: Activation | None) -> list[ir.Attr]:
    return [] if activation is None else activation.attributes()


# ---- the shuffle -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trace:
    """What follows a Conv: constants, an activation and the shuffle, whose last node gives the
    result."""

    before: list[ir.Node]  # of the shuffle; all have the shape of the convolution
    shuffle: list[ir.Node]
    index: np.ndarray  # [M, s1, ..., sd]: the Conv's channel for each channel and place
    affine: Affine  # of the Conv's channels
    activation: Activation | None
    reason: str = ""  # why it is left alone all the same

    @property
    def nodes(self) -> list[ir.Node]:
        return [*self.before, *self.shuffle]


def _trace(node: ir.Node, scope: Scope) -> _Trace | None:
    value = node.outputs[0]
    dims = scope.facts.dims(value)
    if dims is None or len(dims) < 3 or dims[1].number is None:
        return None
    before, affine = _folded(value, dims, scope)
    value = before[-1].outputs[0] if before else value
    activation, nodes, reason = _activation(value, dims, scope)
    before += nodes
    found = shuffle(before[-1].outputs[0] if before else value, dims, scope)
    while found is None and len(before) < MOST_NODES:
        between = only_reader(before[-1].outputs[0] if before else value)
        if between is None or scope.facts.dims(between.outputs[0]) != dims:
            return None
        reason = reason or (
            f"'{node_label(between)}' ({between.op_type}) stands between it and the shuffle, and "
            "cannot be taken in"
        )
        before.append(between)
        found = shuffle(between.outputs[0], dims, scope)
    if found is None:
        return None
    nodes, index = found
    if activation is not None and activation.name == "PRelu" and len(activation.params) > 1:
        slopes = np.array(activation.params)[index].reshape(index.shape[0], -1)
        if (slopes != slopes[:, :1]).any():
            reason = "PRelu's slopes differ among the channels of a pixel"
        activation = replace(activation, params=tuple(slopes[:, 0].tolist()))
    reason = shared(node, before, nodes) or reason
    return _Trace(before, nodes, index, affine, activation, reason)


def shared(node: ir.Node, before: Sequence[ir.Node], shuffle: Sequence[ir.Node]) -> str:
    """Why a convolution, and the nodes between it and the end of the ``shuffle``, are not there for
    each other alone; "" if they are."""
    chain, reason = {*before, *shuffle}, ""
    for each in (node, *before, *shuffle[:-1]):
        value = each.outputs[0]
        others = [user for user in readers(value) if user not in chain]
        if each in shuffle:  # its shape is not that of the convolution
            others += [user for user, _ in value.uses() if is_live_shape(user, chain)]
        if value.is_graph_output():
            reason = f"'{value.name}' is an output of the graph"
        elif others:
            reason = f"'{value.name}' has other readers"
    return reason


def _activation(
    value: ir.Value, dims: tuple[Size, ...], scope: Scope
) -> tuple[Activation | None, list[ir.Node], str]:
    """The activation of a value, its nodes, and why it cannot be taken in if it cannot."""
    if len(readers(value)) > 1:
        found = subgraph(value, scope.facts, len(dims), value.dtype)
        return (None, [], "") if found is None else (*found, "")
    consumer = only_reader(value)
    if consumer is None or consumer.inputs[0] is not value:
        return None, [], ""
    try:
        known = single(consumer, scope.facts, dims[1].number, len(dims))
    except Refusal as refusal:
        return None, [consumer], f"'{node_label(consumer)}' ({consumer.op_type}): {refusal}"
    return known, [] if known is None else [consumer], ""


def _folded(value: ir.Value, dims: tuple[Size, ...], scope: Scope) -> tuple[list[ir.Node], Affine]:
    """Nodes that do something affine to each channel, and all of it."""
    nodes: list[ir.Node] = []
    affine: Affine = (1.0, 0.0)
    while (node := only_reader(value)) is not None and len(nodes) < MOST_NODES:
        try:
            found = read_affine(node, value, dims[1].number, len(dims), scope)
        except Refusal:
            break
        if found is None or scope.facts.dims(node.outputs[0]) != dims:
            break
        scale, shift = found
        affine, value = (scale * affine[0], scale * affine[1] + shift), node.outputs[0]
        nodes.append(node)
    return nodes, affine


@dataclass(frozen=True)
class _Digit:
    """A part of an axis: all of an old one, or, of the channels, every ``step``-th of them."""

    axis: int
    size: Size
    step: int = 1


_Layout = list[list[_Digit]]  # the digits of each axis, outermost first; none for size 1


def shuffle(
    value: ir.Value, dims: tuple[Size, ...], scope: Scope
) -> tuple[list[ir.Node], np.ndarray] | None:
    """Nodes that deal out channels to the spatial axes, and which one gets where."""
    layout = [[_Digit(axis, size)] if size.number != 1 else [] for axis, size in enumerate(dims)]
    nodes: list[ir.Node] = []
    for _ in range(MOST_NODES):
        users = {user for user, _ in value.uses()}
        steps = [user for user in users if scope.own(user, *_STEPS)]
        if len(steps) != 1 or steps[0].graph is not value.graph:
            return None
        moved = _STEPS[steps[0].op_type](layout, steps[0], scope.facts)
        if moved is None:
            return None
        layout, value = moved, steps[0].outputs[0]
        nodes.append(steps[0])
        index = _dealt(layout, dims)
        if index is not None:
            return nodes, index
    return None


def _dealt(layout: _Layout, dims: tuple[Size, ...]) -> np.ndarray | None:
    """Channel index [M, s1, ..., sd] if these are pixels that some channels have gone to."""
    if len(layout) != len(dims):
        return None
    parts: list[list[_Digit]] = []
    for axis, digits in enumerate(layout):
        if axis != 1 and dims[axis].number != 1:  # of size 1 there is no digit
            if not digits or digits[0].axis != axis:
                return None
            digits = digits[1:]
        if any(digit.axis != 1 for digit in digits) or (axis == 0 and digits):
            return None
        parts.append(digits)
    if not any(parts[2:]):
        return None
    index = np.zeros((), np.int64)
    for digits in (parts[1], *parts[2:]):
        places = np.zeros(1, np.int64)
        for digit in digits:
            steps = np.arange(digit.size.number) * digit.step
            places = (places[:, None] + steps).reshape(-1)
        index = index[..., None] + places
    return index


def _regroup(
    layout: list[list[_Digit]], target: Iterable[Size | None]
) -> list[list[_Digit]] | None:
    """The digits in the same order, in axes of other sizes; channels are split where need be."""
    digits = [digit for axis in layout for digit in axis]
    result: _Layout = []
    for wanted in target:
        if wanted is None:
            return None
        axis: list[_Digit] = []
        left = wanted
        while left.number != 1:
            if not digits:
                return None
            first = digits.pop(0)
            rest = left / first.size
            if rest is None:
                return None
            if not rest.integral:  # take the outer part of the digit
                inner = first.size / left
                if first.axis != 1 or inner is None or inner.number is None or not left.number:
                    return None
                digits.insert(0, replace(first, size=inner))
                first = replace(first, size=left, step=first.step * inner.number)
                rest = Size.of(1)
            axis.append(first)
            left = rest
        result.append(axis)
    return None if digits else result


def _reshape(layout, node: ir.Node, facts: Facts):
    target = facts.resolve_reshape(node)
    return None if target is None else _regroup(layout, target)


def _squeeze(layout, node: ir.Node, facts: Facts):
    target = facts.dims(node.outputs[0])
    if target is None or product(target) != product(d.size for axis in layout for d in axis):
        return None
    return _regroup(layout, target)


def _transpose(layout, node: ir.Node, facts: Facts):
    perm = attribute(node, "perm")
    if perm is None or sorted(perm) != list(range(len(layout))):
        return None
    return [layout[axis] for axis in perm]


def _depth_to_space(layout, node: ir.Node, facts: Facts):
    b, mode = attribute(node, "blocksize"), attribute(node, "mode", "DCR")
    if len(layout) != 4 or not b or mode not in ("DCR", "CRD"):
        return None
    n, c, h, w = layout
    channels = product(digit.size for digit in c).number
    if channels is None or channels % (b * b):
        return None
    block, rest = Size.of(b), Size.of(channels // (b * b))
    crd = mode == "CRD"
    split = _regroup([c], [rest, block, block] if crd else [block, block, rest])
    if split is None:
        return None
    m, rows, columns = split if crd else (split[2], split[0], split[1])
    return [n, m, h + rows, w + columns]


_STEPS = {
    "DepthToSpace": _depth_to_space,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _squeeze,
}
