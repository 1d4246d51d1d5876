"""Quantised Conv behind a nearest Resize, or before its channels become pixels, as one operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from .convolution import (
    Convolution,
    Equivalent,
    centred,
    constant_tensor,
    is_linear,
    read_convolution,
)
from .cost import nominal_sides, quantized_cost
from .linear import (
    BYTES,
    Dequantized,
    Tail,
    check_scale,
    check_sum,
    check_together,
    dequantizing,
    float_bias,
    integer_bias,
    largest_sum,
    new_constant,
    rounded_bias,
    same_quantization,
    write_quantized,
)
from .nodes import (
    DOMAIN,
    QUANTIZED_OP_TYPE,
    input_of,
    node_label,
    only_consumer,
    only_reader,
    prune,
)
from .rewrite import Refusal, Scope, Site
from .shape_readers import ShapeRule, release_shapes
from .subpixel_conv import MOST_NODES, check_dealt, dealt_form, shared, shuffle
from .upsample_conv import upsampling

_BECAME = f"{DOMAIN}::{QUANTIZED_OP_TYPE}"


# ---- what both have in common ------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """A ``Conv`` of a quantised X and constant quantised weights.

    ``conv`` has the weights as integers less their zero points; ``scales`` is one, or one for each
    output channel.
    """

    conv: Convolution
    x: Dequantized
    w: Dequantized
    scales: np.ndarray

    @classmethod
    def read(cls, node: ir.Node, x: Dequantized, scope: Scope) -> _Layer:
        facts = scope.facts
        w = Dequantized.read(node.inputs[1], "W", scope)
        x.check_single(facts)
        check_scale(x.scale, "X", facts)
        check_scale(w.scale, "W", facts, positive=False)
        tensor, scales = constant_tensor(w.values, "W", facts), facts.array(w.scale)
        zero = np.zeros(1, np.int32) if w.zero is None else facts.array(w.zero)
        if scales is None or zero is None:
            raise Refusal("the scales or zero points of W are not constants")
        shape = tuple(int(n) for n in tensor.shape)
        axis = w.axis + len(shape) if w.axis < 0 else w.axis
        if scales.size != 1 and (axis != 0 or scales.shape != shape[:1]):
            raise Refusal(
                f"the scales of W have shape {list(scales.shape)} along axis {w.axis}, and not one "
                f"entry for each output channel of {list(shape)}"
            )
        if zero.size not in (1, scales.size):
            raise Refusal(f"W has {scales.size} scales and {zero.size} zero points")
        integers = ir.Tensor(centred(tensor, zero, 0))
        return cls(read_convolution(node, scope, integers), x, w, scales.reshape(-1))

    def weights(self, form: Equivalent, why: str) -> tuple[np.ndarray, np.ndarray]:
        """The operator's, in 8 bits, and their zero point."""
        integers = form.kernel(self.conv.weights())
        least, most = int(integers.min(initial=0)), int(integers.max(initial=0))
        if least >= -128 and most <= 127:
            return integers.astype(np.int8), np.zeros((), np.int8)
        zero = max(0, -least)
        if zero > 255 or most + zero > 255:
            raise Refusal(
                f"its weights are quantised, and {why} reach from {least} to {most}, further than "
                "8 bits do"
            )
        return (integers + zero).astype(np.uint8), np.array(zero, np.uint8)

    def bias(self, form: Equivalent, tail: Tail, scope: Scope) -> ir.Value | np.ndarray | None:
        """The Conv's, as it is or as the integers that are to be made of it."""
        node = self.conv.node
        largest = largest_sum(form.weight_shape, form.group, form.strides, form.dilations)
        check_sum(largest)
        bias = integer_bias(node, self.x, self.scales, largest, scope)
        check_together(node, bias, self.x, self.scales, tail, scope)
        if tail.scale is None:
            return bias
        rounded = rounded_bias(bias, self.x, self.scales, largest, scope.facts)
        return bias if rounded is None else rounded

    def write(
        self,
        target: ir.Node,
        form: Equivalent,
        weights: tuple[np.ndarray, np.ndarray],
        scales: np.ndarray,
        tail: Tail,
        bias: ir.Value | np.ndarray | None,
        extra: Sequence[ir.Attr],
        scope: Scope,
    ) -> None:
        """Turn ``target`` into the operator ``form``."""
        name, (integers, zero) = self.w.values.name, weights
        scales = scales.astype(np.float32)
        constants = (
            (f"{name}_transposed", integers),
            (f"{name}_scale", scales),
            (f"{name}_zero_point", np.full(scales.shape, zero)),
        )
        values = [new_constant(target, *each, scope) for each in constants]
        if isinstance(bias, np.ndarray):
            bias = new_constant(target, f"{name}_bias", bias, scope)
        attributes = [ir.convenience.convert_attribute(k, v) for k, v in form.attributes().items()]
        node = self.conv.node
        write_quantized(target, node, self.x, values, tail, bias, [*attributes, *extra], scope)


def _check_gain(
    layer: _Layer, form: Equivalent, growth: Sequence[int], integers: bool, scope: Scope
) -> None:
    """Raise Refusal unless the operator is sure to be faster than the Conv.

    Where stock computes the Conv in ``integers``, that is, where it stands between DequantizeLinear
    and QuantizeLinear, the operator has to save an instruction for each value of its result, for
    what else it does with that.  On AVX2 stock's instruction multiplies 32 pairs of bytes, but may
    saturate, and the operator's multiplies 16, exactly.
    """
    conv = layer.conv
    if not integers or scope.is_timed(conv.node):
        return
    if math.prod(growth) == 1:
        raise Refusal(
            "ONNX Runtime has an integer kernel for it, and the operator would hardly multiply less"
        )
    batch, sides = nominal_sides(layer.x.values, conv.axes, scope.facts)
    if 0 in (batch, *sides):
        return
    x = [batch, conv.channels, *sides]
    isa, ours, outputs = quantized_cost(x, form.weight_shape, **form.attributes())
    if isa != "avx2":
        raise Refusal(
            "ONNX Runtime has an integer kernel for it, which was not compared with the operator's "
            f"for {isa}; tuning compares them"
        )
    of_group = conv.shape[0] // conv.group
    columns = of_group if conv.group > 1 else -(-of_group // 16) * 16
    pixels = outputs / conv.shape[0]
    stock = pixels * conv.group * columns * conv.shape[1] * math.prod(conv.kernel) / 32
    if stock - ours < outputs:
        raise Refusal(
            "ONNX Runtime has an integer kernel for it, and the operator would save "
            f"{(stock - ours) / outputs:.2f} instructions for each value of its result, less than 1"
        )


# ---- Resize before the Conv --------------------------------------------------------------------


def resized(node: ir.Node, scope: Scope) -> list[ir.Node] | None:
    """The nodes from a Conv back to the ``Resize`` or ``Upsample`` before it, which may be a
    ``Pad`` and those that quantise and dequantise; None if there are others."""
    chain: list[ir.Node] = []
    value = input_of(node, 0)
    while value is not None and len(chain) < MOST_NODES:
        before = value.producer()
        if before is None or input_of(before, 0) is None:
            return None
        chain.append(before)
        if scope.own(before, "Resize", "Upsample"):
            return chain
        if not (scope.own(before, "Pad") or _is_quantizing(before, scope)):
            return None
        value = before.inputs[0]
    return None


def _is_quantizing(node: ir.Node, scope: Scope) -> bool:
    return any(is_linear(node, kind, scope) for kind in ("QuantizeLinear", "DequantizeLinear"))


def plan_resized(node: ir.Node, extra: Sequence[ir.Attr], scope: Scope) -> Site:
    """As :class:`UpsampleConvRewrite`, in integers: a node that quantises what was dequantised with
    the same scale and zero point changes nothing, and nor does a Resize before either instead of
    between them.  The weights become sums of weights, which 8 bits have to hold."""
    chain: list[ir.Node] = resized(node, scope)  # type: ignore[assignment]
    resize, pads = chain[-1], [each for each in chain if scope.own(each, "Pad")]
    x = _quantized_before(resize, chain, scope)
    layer = _Layer.read(node, x, scope)
    if len(pads) > 1:
        raise Refusal(f"{len(pads)} Pads stand between {resize.op_type} and it")
    found = upsampling(layer.conv, pads[0] if pads else None, resize, scope)
    if found.repeated is not None:
        raise Refusal("its input is quantised, and a Pad repeats the edge")
    form = found.form
    weights = layer.weights(form, f"the sums of them that stand for the {resize.op_type}")
    tail = Tail.read(node.outputs[0], scope)
    bias = layer.bias(form, tail, scope)
    integers = is_linear(chain[0], "DequantizeLinear", scope) and tail.scale is not None
    _check_gain(layer, form, found.factors, integers, scope)
    gone = [node]
    for before in chain:
        alone = only_reader if before is resize else only_consumer
        if alone(before.outputs[0]) is not gone[0]:
            break
        gone.insert(0, before)

    def apply() -> list[ir.Node]:
        if resize in gone:
            rule = ShapeRule(x.values, (1, 1, *found.factors), (0, 0, *[0] * layer.conv.axes))
            release_shapes([resize.outputs[0]], rule, gone, scope.facts)
        target = tail.nodes[-1] if tail.nodes else node
        layer.write(target, form, weights, layer.scales, tail, bias, extra, scope)
        return [target]

    first = [resize.inputs[0]] if gone[0] is resize else []
    return Site(
        [*dequantizing([*first, node.inputs[1]], scope), *gone, *tail.nodes], apply, _BECAME
    )


def _quantized_before(resize: ir.Node, chain: Sequence[ir.Node], scope: Scope) -> Dequantized:
    """The integers that a Resize enlarges, be it before or after they are dequantised."""
    source, quantizing = resize.inputs[0], [n for n in chain if _is_quantizing(n, scope)]
    if is_linear(source.producer(), "DequantizeLinear", scope):
        x = Dequantized.read(source, "X", scope)
    elif source.dtype in BYTES and quantizing:
        x = replace(Dequantized.read(quantizing[-1].outputs[0], "X", scope), values=source)
        if any(scope.own(each, "Pad") for each in chain[chain.index(quantizing[-1]) :]):
            raise Refusal("a Pad of integers stands before it")
    else:
        raise Refusal("its input X is not quantised")
    for each in quantizing:
        if is_linear(each, "DequantizeLinear", scope):
            same = Dequantized.read(each.outputs[0], "X", scope)
        else:
            same = Tail.read(each.inputs[0], scope, activation=False, by=each)
        if not same_quantization(x, same, scope.facts):
            raise Refusal(
                f"'{node_label(each)}' ({each.op_type}) between {resize.op_type} and it "
                "has another scale or zero point than the input"
            )
    return x


# ---- channels that become pixels behind it -----------------------------------------------------


@dataclass(frozen=True)
class _Shuffled:
    """What follows a Conv: an activation, nodes that quantise and dequantise, and the shuffle."""

    before: list[ir.Node]
    shuffle: list[ir.Node]
    index: np.ndarray  # [M, s1, ..., sd]: the Conv's channel for each channel and place


def shuffled(node: ir.Node, scope: Scope) -> _Shuffled | None:
    value = node.outputs[0]
    dims = scope.facts.dims(value)
    if dims is None or len(dims) < 3 or dims[1].number is None:
        return None
    before: list[ir.Node] = []
    while len(before) < MOST_NODES:
        found = shuffle(value, dims, scope)
        if found is not None:
            return _Shuffled(before, *found)
        following = only_reader(value)
        if following is None or following.inputs[0] is not value:
            return None
        if not (scope.own(following, "Relu", "Clip") or _is_quantizing(following, scope)):
            return None
        before.append(following)
        value = following.outputs[0]
    return None


def plan_shuffled(node: ir.Node, extra: Sequence[ir.Attr], scope: Scope) -> Site:
    """As :class:`SubpixelConvRewrite`, in integers: weights and results change places only.  So the
    channels that form a pixel must have one scale and one bias."""
    trace: _Shuffled = shuffled(node, scope)  # type: ignore[assignment]
    source = node.inputs[0]
    if not is_linear(source.producer(), "DequantizeLinear", scope):
        raise Refusal("its input X is not quantised")
    layer = _Layer.read(node, Dequantized.read(source, "X", scope), scope)
    tail = _tail(node, trace, scope)
    integers = bool(trace.before) and _is_quantizing(trace.before[-1], scope)
    reason = shared(node, trace.before, trace.shuffle)
    if reason:
        raise Refusal(reason)
    conv, index = layer.conv, trace.index
    check_dealt(conv, index)
    form = dealt_form(conv, index)
    weights = layer.weights(form, "they")
    scales = layer.scales
    if scales.size > 1:
        scales = _of_pixels(scales, index, "the scales of its weights")
    bias = layer.bias(form, tail, scope)
    if isinstance(bias, ir.Value):
        array = scope.facts.array(bias)
        bias = float_bias(node, bias, scope) if array is None else array
        if bias.shape != conv.shape[:1]:
            raise Refusal("its input B is not a constant with an entry for each output channel")
    if bias is not None:
        bias = _of_pixels(bias, index, "its biases")
    _check_gain(layer, form, [1] * conv.axes, integers, scope)

    def apply() -> list[ir.Node]:
        target = tail.nodes[-1] if tail.nodes else trace.shuffle[-1]
        chain = {node, *trace.before, *trace.shuffle}
        padded = zip(conv.begins, conv.ends, conv.reach)
        offsets = (0, conv.shape[0], *(b + e - r for b, e, r in padded))
        rule = ShapeRule(layer.x.values, (1, 0, *[1] * conv.axes), offsets)
        release_shapes(
            [each.outputs[0] for each in (node, *trace.before)], rule, chain, scope.facts
        )
        old = [value for each in chain for value in each.inputs]
        layer.write(target, form, weights, scales, tail, bias, extra, scope)
        prune(old)
        return [target]

    nodes = [node, *trace.before, *trace.shuffle, *(n for n in tail.nodes if n not in trace.before)]
    return Site([*dequantizing(node.inputs[:2], scope), *nodes], apply, _BECAME)


def _tail(node: ir.Node, trace: _Shuffled, scope: Scope) -> Tail:
    """What follows, with the shuffle at its end moved to its beginning."""
    tail = Tail.read(node.outputs[0], scope)
    left = trace.before[len(tail.nodes) :]
    if tail.scale is not None and left and is_linear(left[0], "DequantizeLinear", scope):
        between, left = Dequantized.read(left[0].outputs[0], "the result", scope), left[1:]
        last = Tail.read(trace.shuffle[-1].outputs[0], scope, activation=False)
        if not (
            same_quantization(tail, between, scope.facts)
            and same_quantization(tail, last, scope.facts)
        ):
            raise Refusal(
                "what its channels become is not quantised with the scale and zero point of the "
                "channels"
            )
        tail = replace(last, attributes=tail.attributes)
    elif not left:
        last = Tail.read(trace.shuffle[-1].outputs[0], scope, activation=not tail.attributes)
        tail = replace(last, attributes=[*tail.attributes, *last.attributes])
    if left:
        raise Refusal(
            f"'{node_label(left[0])}' ({left[0].op_type}) stands between it and the shuffle, and "
            "cannot be taken in"
        )
    return tail


def _of_pixels(values: np.ndarray, index: np.ndarray, what: str) -> np.ndarray:
    """The entries of the channels that form pixels, one for each of the new channels."""
    rows = values[index].reshape(index.shape[0], -1)
    if (rows != rows[:, :1]).any():
        raise Refusal(f"{what} differ among the channels of a pixel")
    return np.ascontiguousarray(rows[:, 0])
