"""Reading DequantizeLinear and QuantizeLinear around a convolution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .activations import single
from .convolution import add_constant, centred, check_opset, constant_tensor, is_linear
from .facts import Facts
from .nodes import (
    QUANTIZED_OP_TYPE,
    attribute,
    become_operator,
    input_of,
    only_consumer,
    own_op,
    prune,
)
from .rewrite import Refusal, Scope
from .weights import Integers

BYTES = (ir.DataType.UINT8, ir.DataType.INT8)
_INTEGERS = (
    *BYTES,
    ir.DataType.INT4,
    ir.DataType.UINT4,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.INT32,
)
#: Versions of DequantizeLinear and QuantizeLinear whose inputs and attributes are known here.
_LINEAR_VERSIONS = (10, 13, 19, 21, 23, 24, 25)
# Two products of the same float32 scales, each rounded once or twice.
_SAME_SCALE = 4 * 2.0**-24
MOST = 2**31 - 1  # what sums and biases hold


def producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _check_version(node: ir.Node, scope: Scope) -> None:
    """Refuse a version of QuantizeLinear or DequantizeLinear that is not known here."""
    if scope.own(node):
        check_opset(node.op_type, _LINEAR_VERSIONS, scope)


def _is_float32(scale: ir.Value, node: ir.Node) -> bool:
    """Whether the scale of ``node`` is; where it is not known, ONNX's own have given it a type."""
    return scale.dtype == ir.DataType.FLOAT or (scale.dtype is None and own_op(node))


def dequantizing(values: Iterable[ir.Value | None], scope: Scope) -> list[ir.Node]:
    """The ``DequantizeLinear`` nodes that are there for one reader of these alone."""
    nodes = dict.fromkeys(producer(v) for v in values if v is not None and only_consumer(v))
    return [node for node in nodes if is_linear(node, "DequantizeLinear", scope)]


def check_scale(scale: ir.Value, of: str, facts: Facts, positive: bool = True) -> None:
    """Refuse constant scales that the operator does not take."""
    array = facts.array(scale)
    for value in () if array is None else array.reshape(-1):
        if not np.isfinite(value) or (positive and value <= 0):
            rule = "positive and finite" if positive else "finite"
            raise Refusal(f"the scale {value} of {of} is not {rule}")


@dataclass(frozen=True)
class Dequantized:
    """A ``DequantizeLinear``: ``(values - zero) * scale``, one scale or one along ``axis``."""

    name: str  # of the convolution's input it is
    values: ir.Value
    scale: ir.Value
    zero: ir.Value | None
    axis: int
    dtype: ir.DataType

    @classmethod
    def read(
        cls, value: ir.Value, name: str, scope: Scope, any_integer: bool = False
    ) -> Dequantized:
        node = value.producer()
        _check_version(node, scope)
        values, scale, zero = (input_of(node, i) for i in range(3))
        if values is None or scale is None:
            raise Refusal(f"the DequantizeLinear of {name} lacks an input")
        axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
        if not isinstance(axis, int) or not isinstance(block, int):
            raise Refusal(
                f"the DequantizeLinear of {name} has attributes that are no integers, or are "
                "those of a function"
            )
        if block:
            raise Refusal(f"the DequantizeLinear of {name} has one scale for each block of values")
        known = (values, zero, scope.facts.tensor(values))
        dtype = next((each.dtype for each in known if each is not None and each.dtype), None)
        if dtype is None:
            raise Refusal(f"the type of the quantised {name} is not known")
        if dtype not in BYTES and not any_integer:
            raise Refusal(f"the quantised {name} has type {dtype}, which is not uint8 or int8")
        if dtype not in _INTEGERS:
            raise Refusal(f"the quantised {name} has type {dtype}, which is not one of integers")
        if zero is not None and zero.dtype not in (None, dtype):
            raise Refusal(f"{name} has type {dtype}, and its zero point {zero.dtype}")
        if not _is_float32(scale, node) or value.dtype not in (None, ir.DataType.FLOAT):
            raise Refusal(f"{name} is not dequantised to float32")
        return cls(name, values, scale, zero, axis, dtype)

    def single(self, facts: Facts) -> bool:
        """Whether it is known to have one scale."""
        dims = facts.dims(self.scale)
        return dims is not None and (len(dims) == 0 or (len(dims) == 1 and dims[0].number == 1))

    def check_single(self, facts: Facts) -> None:
        if not self.single(facts):
            raise Refusal(f"the scale of {self.name} is not known to be a single one")

    def zero_or_new(self, node: ir.Node, scope: Scope) -> ir.Value:
        if self.zero is not None:
            return self.zero
        shape = () if self.single(scope.facts) else scope.facts.static(self.scale)
        zeros = np.zeros(shape, self.dtype.numpy())
        return new_constant(node, f"{self.values.name}_zero_point", zeros, scope)

    def constant(self, facts: Facts):
        """What gives its values if they are constants: float32 products, as stock's."""
        if facts.tensor(self.values) is None:
            return None
        tensor, scale = constant_tensor(self.values, self.name, facts), facts.array(self.scale)
        zero = np.zeros(()) if self.zero is None else facts.array(self.zero)
        if scale is None or zero is None or scale.ndim > 1:
            return None
        shape = [1] * len(tensor.shape)
        if scale.size != 1:
            if not -len(shape) <= self.axis < len(shape):
                return None
            if tensor.shape[self.axis] != scale.size:
                raise Refusal(
                    f"the scales of {self.name} have shape {list(scale.shape)}, "
                    f"and {self.name} has {list(tensor.shape)}"
                )
            shape[self.axis] = scale.size
        if zero.size not in (1, scale.size):
            raise Refusal(f"{self.name} has {scale.size} scales and {zero.size} zero points")

        def array() -> np.ndarray:
            with np.errstate(invalid="ignore", over="ignore"):  # scales may be anything
                floats = centred(tensor, zero, self.axis).astype(np.float32)
                floats *= scale.reshape(shape)
            return floats.astype(np.float64)

        return array

    def integers(self, group: int | None, facts: Facts) -> Integers:
        """What a constant W is as multiples of a scale of each output channel."""
        scale = facts.array(self.scale).reshape(-1)
        zero = np.zeros(()) if self.zero is None else facts.array(self.zero)
        integers = centred(facts.tensor(self.values), zero, self.axis)
        if integers.ndim < 2 or not group:
            return Integers(None, "its number of output channels is not known")
        inputs, outputs = integers.shape[:2]
        if scale.size and (scale == scale[0]).all():
            scale = np.full(outputs * group, scale[0])
        elif self.axis % integers.ndim == 1:
            scale = np.tile(scale, group)
        elif self.axis % integers.ndim == 0 and inputs == group:
            scale = np.repeat(scale, outputs)
        else:
            return Integers(
                None,
                f"they have a scale for each position of axis {self.axis % integers.ndim}, not for "
                "each output channel",
            )
        least, most = integers.min(initial=0), integers.max(initial=0)
        if least < -128 or most > 127:
            return Integers(
                None, f"less their zero points they reach from {least} to {most}, beyond int8"
            )
        return Integers.with_scales(scale)


def largest_sum(
    dims: Sequence[int] | None, group: int, strides: Sequence[int], dilations: Sequence[int]
) -> int | None:
    """No sum of the integers of a transposed convolution with weights of shape ``dims`` is larger;
    None if that is not known.  Strides and dilations that are not given are 1."""
    if dims is None or len(dims) < 3:
        return None

    def entry(values: Sequence[int], axis: int) -> int:
        return values[axis] if axis < len(values) and values[axis] > 0 else 1

    products = dims[0] // max(group, 1)
    for axis, taps in enumerate(dims[2:]):
        stride = entry(strides, axis)
        # Of the taps of an axis, those that meet in one pixel are this far apart.
        step = stride // math.gcd(stride, entry(dilations, axis))
        products *= -(-taps // step)
    return products * 255 * 255


def check_sum(largest: int | None) -> None:
    if largest is not None and largest > MOST:
        raise Refusal(f"the sums of its products may reach {largest}, more than 32 bits hold")


def integer_bias(
    node: ir.Node, x: Dequantized, w_scales: np.ndarray | None, largest: int | None, scope: Scope
) -> ir.Value | None:
    """The integers if they are in units of the products and fit into sums, or else the floats.

    ``w_scales`` are those of all weights or of output channels; None if they are not known.
    """
    bias, facts = input_of(node, 2), scope.facts
    if bias is None or not is_linear(producer(bias), "DequantizeLinear", scope):
        if bias is not None and bias.dtype not in (None, ir.DataType.FLOAT):
            raise Refusal(f"its input B has type {bias.dtype}")
        return bias
    b = Dequantized.read(bias, "B", scope, any_integer=True)
    check_scale(b.scale, "B", facts, positive=False)
    scales = [facts.array(b.scale), facts.array(x.scale), w_scales]
    zero = np.zeros(1) if b.zero is None else facts.array(b.zero)
    if b.dtype != ir.DataType.INT32 or zero is None or zero.any() or any(s is None for s in scales):
        return bias
    integers = facts.array(b.values)
    if integers is None or largest is None:
        return bias
    if np.abs(integers.astype(np.float64)).max(initial=0) > MOST - largest:
        return bias
    with np.errstate(over="ignore"):
        unit, expected = scales[0], scales[1].reshape(()) * scales[2].reshape(-1)
    channels = facts.static(b.values)
    if channels is None or channels[0] % expected.size or unit.size not in (1, channels[0]):
        return bias
    expected = np.resize(expected, channels[0])
    same = np.abs(unit.reshape(-1) - expected) <= _SAME_SCALE * np.abs(expected)
    return b.values if bool(same.all()) else bias


def check_together(
    node: ir.Node,
    bias: ir.Value | None,
    x: Dequantized,
    w_scale: ir.Value | np.ndarray,
    tail: Tail,
    scope: Scope,
) -> None:
    """Refuse constants that the operator does not take together, although it takes each."""

    def numbers(scale: ir.Value | np.ndarray) -> np.ndarray:
        array = scale if isinstance(scale, np.ndarray) else scope.facts.array(scale)
        return np.zeros(0, np.float32) if array is None else array.reshape(-1)

    y_scales = np.ones(1, np.float32) if tail.scale is None else numbers(tail.scale)
    with np.errstate(all="ignore"):
        for a, b, y in itertools.product(numbers(x.scale), numbers(w_scale), y_scales):
            if not np.isfinite(a * b / y):
                raise Refusal(
                    f"the scales {a} of X, {b} of W and {y} of the result overflow together"
                )
        for b, y in itertools.product(float_bias(node, bias, scope), y_scales):
            if not np.isfinite(b / y):
                raise Refusal(
                    f"the value {b} of B is not finite in units of the result's scale, {y}"
                )


def float_bias(node: ir.Node, bias: ir.Value | None, scope: Scope) -> np.ndarray:
    """The values of a bias that is added in float32; none if it is no constant."""
    none = np.zeros(0, np.float32)
    if bias is None or bias is not input_of(node, 2):
        return none
    array = scope.facts.array(bias)
    if array is None and is_linear(producer(bias), "DequantizeLinear", scope):
        values = Dequantized.read(bias, "B", scope, any_integer=True).constant(scope.facts)
        array = None if values is None else values()
    return none if array is None else array.reshape(-1).astype(np.float32)


def rounded_bias(
    bias: ir.Value | None,
    x: Dequantized,
    w_scales: np.ndarray | None,
    largest: int | None,
    facts: Facts,
) -> np.ndarray | None:
    """A constant bias in float32 as integers in units of the products, before a QuantizeLinear.

    So does onnxruntime as soon as it loads the model, with one scale for all weights or, since
    1.24, one for each output channel; and sums that differ in the bias, however little, are rounded
    to other results too often.
    """
    if bias is None or bias.dtype == ir.DataType.INT32 or largest is None:
        return None
    values, x_scale = facts.array(bias), facts.array(x.scale)
    if values is None or values.ndim != 1 or x_scale is None or w_scales is None:
        return None
    if w_scales.size not in (1, values.size):
        return None
    with np.errstate(all="ignore"):
        units = np.rint(values / (x_scale.reshape(()) * w_scales.reshape(-1)))
    fits = np.isfinite(units) & (np.abs(units) <= MOST - largest)
    return units.astype(np.int32) if bool(fits.all()) else None


@dataclass(frozen=True)
class Tail:
    """What follows the convolution: an activation, and the ``QuantizeLinear`` if there is one."""

    nodes: Sequence[ir.Node]
    attributes: Sequence[ir.Attr]
    scale: ir.Value | None  # None: the result stays float32
    zero: ir.Value | None
    dtype: ir.DataType
    label: str

    @classmethod
    def read(
        cls,
        value: ir.Value,
        scope: Scope,
        activation: bool = True,
        by: ir.Node | None = None,
    ) -> Tail:
        """What follows ``value``, without an activation if none may be taken in any more; or that
        part of it which is ``by``, its QuantizeLinear."""
        nodes, attributes = [], []
        following = by or only_consumer(value)
        if activation and scope.own(following, "Relu", "Clip"):
            found = _activation(following, scope)
            if found is not None:
                nodes.append(following)
                attributes = found
                value = following.outputs[0]
                following = only_consumer(value)
        label = value.name
        quantized = is_linear(following, "QuantizeLinear", scope)
        if not quantized or following.inputs[0] is not value:
            if value.dtype not in (None, ir.DataType.FLOAT):
                raise Refusal(f"its result has type {value.dtype}")
            return cls(nodes, attributes, None, None, ir.DataType.FLOAT, label)
        _check_version(following, scope)
        scale, zero = input_of(following, 1), input_of(following, 2)
        dims = scope.facts.dims(scale)
        if scale is None or dims is None or len(dims) > 1 or (dims and dims[0].number != 1):
            raise Refusal("the scale of the QuantizeLinear behind it is not known to be one")
        dtype = ir.DataType.UINT8
        declared = attribute(following, "output_dtype", 0)
        if zero is not None:
            known = (zero.dtype, following.outputs[0].dtype)
            dtype = next((each for each in known if each is not None), None)
        elif declared:
            dtype = ir.DataType(declared)
        if dtype not in BYTES:
            raise Refusal(f"the QuantizeLinear behind it gives {dtype}, not uint8 or int8")
        if attribute(following, "block_size", 0) or not _is_float32(scale, following):
            raise Refusal("the QuantizeLinear behind it is not one of float32 with one scale")
        check_scale(scale, "the QuantizeLinear behind it", scope.facts)
        return cls([*nodes, following], attributes, scale, zero, dtype, label)

    def quantization(self, node: ir.Node, scope: Scope) -> tuple[ir.Value, ir.Value]:
        scale, zero = self.scale, self.zero
        if scale is None:
            scale = new_constant(node, f"{self.label}_scale", np.ones((), np.float32), scope)
        if zero is None:
            zeros = np.zeros((), self.dtype.numpy())
            zero = new_constant(node, f"{self.label}_zero_point", zeros, scope)
        return scale, zero


def _activation(node: ir.Node, scope: Scope) -> list[ir.Attr] | None:
    """Attributes of the operator for a ``Relu`` or a ``Clip``; None if it is not a constant one."""
    try:
        found = single(node, scope.facts, None, 0)
    except Refusal:
        return None
    return None if found is None else found.attributes()


def new_constant(node: ir.Node, name: str, array: np.ndarray, scope: Scope) -> ir.Value:
    """A new constant for ``node``, in the type of ``array``."""
    array = np.asarray(array)
    dtype = ir.DataType.from_numpy(array.dtype)
    return add_constant(node, name, dtype, array.shape, lambda: array, scope)


def same_quantization(a: Dequantized | Tail, b: Dequantized | Tail, facts: Facts) -> bool:
    """Whether both are known to have one scale and zero point, the same ones, and one type."""
    if a.dtype != b.dtype or a.scale is None or b.scale is None:
        return False

    def same(one: ir.Value | None, other: ir.Value | None) -> bool:
        if one is other:
            return True
        arrays = [np.zeros(1) if v is None else facts.array(v) for v in (one, other)]
        return all(v is not None and v.size == 1 for v in arrays) and arrays[0] == arrays[1]

    return same(a.scale, b.scale) and same(a.zero, b.zero)


# ---- writing -----------------------------------------------------------------------------------


def write_quantized(
    target: ir.Node,
    node: ir.Node,
    x: Dequantized,
    weights: Sequence[ir.Value],
    tail: Tail,
    bias: ir.Value | None,
    attributes: Iterable[ir.Attr],
    scope: Scope,
) -> None:
    """Turn ``target`` into the operator, under the name of the convolution ``node``.

    ``weights`` are W, its scale and its zero point.
    """
    inputs = [
        x.values,
        x.scale,
        x.zero_or_new(target, scope),
        *weights,
        *tail.quantization(target, scope),
        *([] if bias is None else [bias]),
    ]
    old = [value for each in (target, node, *tail.nodes) for value in each.inputs]
    become_operator(target, node, inputs, [*attributes, *tail.attributes], QUANTIZED_OP_TYPE)
    prune(old)
