"""ConvTranspose between DequantizeLinear and QuantizeLinear becomes one node on 8-bit tensors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .activations import single
from .conv_transpose import check_attributes, check_inputs
from .convolution import add_constant, centred, check_opset, constant_tensor, is_linear
from .facts import Facts
from .nodes import (
    DOMAIN,
    QUANTIZED_OP_TYPE,
    attribute,
    become_operator,
    input_of,
    only_consumer,
    own_op,
    prune,
)
from .rewrite import Refusal, Rewrite, Scope, Site
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
_MOST = 2**31 - 1  # what sums and biases hold


class QuantizedRewrite(Rewrite):
    r"""``ConvTranspose`` of 8-bit tensors -> ``QLinearSegregatedConvTranspose``.

    A quantised model holds the layer as float, between nodes that turn integers into floats and
    back:

    .. math:: q_y = Q_{s_y,z_y}\left( f\left( \sum s_x (q_x - z_x) \, s_w (q_w - z_w) + b
        \right) \right),

    where Q rounds half to even and saturates, and f is nothing, Relu or Clip.  The scales leave the
    sum: :math:`s_x s_w \sum (q_x - z_x)(q_w - z_w)` is a sum of integers, which the operator forms
    exactly; what is left is one product in float32 and the same rounding.  Both sides so agree but
    where float32 sums are rounded across the middle between two steps of :math:`s_y`.

    - The input comes through a ``DequantizeLinear`` of one scale, the weights through one with one
      scale or one for each output channel (axis 1 of W, the M/group of each group repeated; of a
      group with one input channel, axis 0 tells output channels apart as well).
    - A constant bias through a ``DequantizeLinear`` whose scale is :math:`s_x s_w` stays an
      integer; one in float32 becomes one before a ``QuantizeLinear``, as it does in stock
      onnxruntime; any other one is added in float32, and so is one with which sums might overflow.
    - Relu and Clip keep the order of values, so they become bounds of the rounded result.
    - Without a ``QuantizeLinear`` behind it the operator gives float32.

    Where this cannot be, but weights (and bias) are constants, those are computed once and stored
    as float32, so that the layer is packed when a session is created, instead of in every run.
    """

    name = "quantized"

    def matches(self, node: ir.Node, scope: Scope) -> bool:
        if not scope.own(node, "ConvTranspose"):
            return False
        return is_linear(_producer(input_of(node, 1)), "DequantizeLinear", scope)

    def plan(self, node: ir.Node, scope: Scope) -> Site:
        check_opset("ConvTranspose", (1, 11, 22), scope)
        check_inputs(node)
        check_attributes(node, scope)
        try:
            return self._integers(node, scope)
        except Refusal as refusal:
            return self._floats(node, scope, refusal)

    def _integers(self, node: ir.Node, scope: Scope) -> Site:
        if not is_linear(_producer(node.inputs[0]), "DequantizeLinear", scope):
            raise Refusal("its input X is not quantised")
        x = _Dequantized.read(node.inputs[0], "X", scope)
        w = _Dequantized.read(node.inputs[1], "W", scope)
        x.check_single(scope.facts)
        _check_scale(x.scale, "X", scope.facts)
        _check_scale(w.scale, "W", scope.facts, positive=False)
        weights = _weight_scales(node, w, scope.facts)
        tail = _Tail.read(node, scope)
        largest = _largest_sum(node, w, scope.facts)
        if largest is not None and largest > _MOST:
            raise Refusal(f"the sums of its products may reach {largest}, more than 32 bits hold")
        bias = _bias(node, x, w, largest, scope)
        _check_together(node, bias, x, weights[0] if weights else w.scale, tail, scope)
        rounded = None if tail.scale is None else _rounded_bias(bias, x, w, largest, scope.facts)
        algorithm = self.selection.algorithm
        if algorithm == "winograd":
            raise Refusal("algorithm = 'winograd': products of 8-bit transforms are not exact")

        def apply() -> list[ir.Node]:
            last = tail.nodes[-1] if tail.nodes else node
            if weights is None:
                scale, zero = w.scale, w.zero_or_new(last, scope)
            else:
                names = (f"{w.values.name}_scale", f"{w.values.name}_zero_point")
                scale, zero = (
                    _constant(last, name, array, scope) for name, array in zip(names, weights)
                )
            b = bias
            if rounded is not None:
                b = _constant(last, f"{bias.name}_quantized", rounded, scope)
            inputs = [
                x.values,
                x.scale,
                x.zero_or_new(last, scope),
                w.values,
                scale,
                zero,
                *tail.quantization(last, scope),
                *([] if b is None else [b]),
            ]
            attributes = [
                *node.attributes.values(),
                *tail.attributes,
                *self.algorithm_attribute(),
            ]
            old = [value for each in (last, node) for value in each.inputs]
            become_operator(last, node, inputs, attributes, QUANTIZED_OP_TYPE)
            prune([*old, *(value for each in tail.nodes for value in each.inputs)])
            return [last]

        read = [value for value in node.inputs if value is not bias]
        nodes = [*_dequantizing(read, scope), node, *tail.nodes]
        return Site(nodes, apply, f"{DOMAIN}::{QUANTIZED_OP_TYPE}")

    def _floats(self, node: ir.Node, scope: Scope, refusal: Refusal) -> Site:
        """Constants in place of the nodes that compute them."""
        constants, integers = [], None
        for index, name in ((1, "W"), (2, "B")):
            if is_linear(_producer(input_of(node, index)), "DequantizeLinear", scope):
                read = _Dequantized.read(node.inputs[index], name, scope, any_integer=True)
                array = read.constant(scope.facts)
                if array is not None:
                    constants.append((index, array))
                    if index == 1 and self.selection.weights == "int8":
                        integers = read.integers(attribute(node, "group", 1), scope.facts)
        if not constants:
            raise refusal

        def apply() -> list[ir.Node]:
            for index, array in constants:
                old = node.inputs[index]
                shape = scope.facts.static(old) or scope.facts.static(old.producer().inputs[0])
                value = add_constant(node, old.name, ir.DataType.FLOAT, shape, array, scope)
                node.replace_input_with(index, value)
                prune([old])
                if index == 1 and integers is not None:
                    integers.note(value)
            return [node]

        nodes = [*_dequantizing([node.inputs[index] for index, _ in constants], scope), node]
        return Site(nodes, apply, f"ConvTranspose with weights as constants: {refusal}")


# ---- reading -----------------------------------------------------------------------------------


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _check_version(node: ir.Node, scope: Scope) -> None:
    """Refuse a version of QuantizeLinear or DequantizeLinear that is not known here."""
    if scope.own(node):
        check_opset(node.op_type, _LINEAR_VERSIONS, scope)


def _is_float32(scale: ir.Value, node: ir.Node) -> bool:
    """Whether the scale of ``node`` is; where it is not known, ONNX's own have given it a type."""
    return scale.dtype == ir.DataType.FLOAT or (scale.dtype is None and own_op(node))


def _dequantizing(values: Iterable[ir.Value | None], scope: Scope) -> list[ir.Node]:
    """The ``DequantizeLinear`` nodes that are there for one reader of these alone."""
    nodes = dict.fromkeys(_producer(v) for v in values if v is not None and only_consumer(v))
    return [node for node in nodes if is_linear(node, "DequantizeLinear", scope)]


def _check_scale(scale: ir.Value, of: str, facts: Facts, positive: bool = True) -> None:
    """Refuse constant scales that the operator does not take."""
    array = facts.array(scale)
    for value in () if array is None else array.reshape(-1):
        if not np.isfinite(value) or (positive and value <= 0):
            rule = "positive and finite" if positive else "finite"
            raise Refusal(f"the scale {value} of {of} is not {rule}")


@dataclass(frozen=True)
class _Dequantized:
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
    ) -> _Dequantized:
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
        return _constant(node, f"{self.values.name}_zero_point", zeros, scope)

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


def _weight_scales(
    node: ir.Node, w: _Dequantized, facts: Facts
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and zero point of W as the operator wants them; None if those of the node are such."""
    if w.single(facts):
        return None
    group = attribute(node, "group", 1)
    scale_dims, dims = facts.static(w.scale), facts.static(w.values)
    if scale_dims is None or dims is None or group is None:
        raise Refusal("the shapes of W and of its scales are not known")
    axis = w.axis + len(dims) if w.axis < 0 else w.axis
    if len(scale_dims) != 1 or not 0 <= axis < len(dims) or scale_dims[0] != dims[axis]:
        raise Refusal(f"the scales of W have shape {list(scale_dims)}, and W has {list(dims)}")
    if axis == 1:
        return None
    if axis != 0:
        raise Refusal(f"W has a scale for each position of its axis {axis}")
    scale = facts.array(w.scale)
    zero = np.zeros(1, w.dtype.numpy()) if w.zero is None else facts.array(w.zero)
    if scale is None or zero is None:
        raise Refusal("W has a scale for each input channel (axis 0), which is not a constant")
    if zero.size not in (1, scale.size):
        raise Refusal(f"W has {scale.size} scales and {zero.size} zero points")
    if group == dims[0]:  # one input channel a group: its scale is that of all the group's outputs
        return np.repeat(scale, dims[1]), np.repeat(np.resize(zero, dims[0]), dims[1])
    if (scale != scale[0]).any() or (zero != zero.flat[0]).any():
        raise Refusal(
            "W has a scale or zero point for each input channel (axis 0), which a sum over input "
            "channels cannot apply at its end; quantise along axis 1"
        )
    return scale[:1], zero.reshape(-1)[:1]


def _largest_sum(node: ir.Node, w: _Dequantized, facts: Facts) -> int | None:
    """No sum of the integers is larger; None if the shape of W is not known."""
    dims = facts.static(w.values)
    if dims is None or len(dims) < 3:
        return None

    def entry(name: str, axis: int) -> int:
        values = attribute(node, name) or ()
        return values[axis] if axis < len(values) and values[axis] > 0 else 1

    products = dims[0] // max(attribute(node, "group", 1) or 1, 1)
    for axis, taps in enumerate(dims[2:]):
        stride = entry("strides", axis)
        # Of the taps of an axis, those that meet in one pixel are this far apart.
        step = stride // math.gcd(stride, entry("dilations", axis))
        products *= -(-taps // step)
    return products * 255 * 255


def _bias(
    node: ir.Node, x: _Dequantized, w: _Dequantized, largest: int | None, scope: Scope
) -> ir.Value | None:
    """The integers if they are in units of the products and fit into sums, or else the floats."""
    bias, facts = input_of(node, 2), scope.facts
    if bias is None or not is_linear(_producer(bias), "DequantizeLinear", scope):
        if bias is not None and bias.dtype not in (None, ir.DataType.FLOAT):
            raise Refusal(f"its input B has type {bias.dtype}")
        return bias
    b = _Dequantized.read(bias, "B", scope, any_integer=True)
    _check_scale(b.scale, "B", facts, positive=False)
    scales = [facts.array(each.scale) for each in (b, x, w)]
    zero = np.zeros(1) if b.zero is None else facts.array(b.zero)
    if b.dtype != ir.DataType.INT32 or zero is None or zero.any() or any(s is None for s in scales):
        return bias
    if w.axis != 1 and not w.single(facts):
        return bias
    integers = facts.array(b.values)
    if integers is None or largest is None:
        return bias
    if np.abs(integers.astype(np.float64)).max(initial=0) > _MOST - largest:
        return bias
    with np.errstate(over="ignore"):
        unit, expected = scales[0], scales[1].reshape(()) * scales[2].reshape(-1)
    channels = facts.static(b.values)
    if channels is None or channels[0] % expected.size or unit.size not in (1, channels[0]):
        return bias
    expected = np.resize(expected, channels[0])
    same = np.abs(unit.reshape(-1) - expected) <= _SAME_SCALE * np.abs(expected)
    return b.values if bool(same.all()) else bias


def _check_together(
    node: ir.Node,
    bias: ir.Value | None,
    x: _Dequantized,
    w_scale: ir.Value | np.ndarray,
    tail: _Tail,
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
        for b, y in itertools.product(_float_bias(node, bias, scope), y_scales):
            if not np.isfinite(b / y):
                raise Refusal(
                    f"the value {b} of B is not finite in units of the result's scale, {y}"
                )


def _float_bias(node: ir.Node, bias: ir.Value | None, scope: Scope) -> np.ndarray:
    """The values of a bias that is added in float32; none if it is no constant."""
    none = np.zeros(0, np.float32)
    if bias is None or bias is not input_of(node, 2):
        return none
    array = scope.facts.array(bias)
    if array is None and is_linear(_producer(bias), "DequantizeLinear", scope):
        values = _Dequantized.read(bias, "B", scope, any_integer=True).constant(scope.facts)
        array = None if values is None else values()
    return none if array is None else array.reshape(-1).astype(np.float32)


def _rounded_bias(
    bias: ir.Value | None,
    x: _Dequantized,
    w: _Dequantized,
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
    values, *scales = (facts.array(each) for each in (bias, x.scale, w.scale))
    if values is None or values.ndim != 1 or any(scale is None for scale in scales):
        return None
    if not w.single(facts) and (w.axis != 1 or scales[1].size != values.size):
        return None
    with np.errstate(all="ignore"):
        units = np.rint(values / (scales[0].reshape(()) * scales[1].reshape(-1)))
    fits = np.isfinite(units) & (np.abs(units) <= _MOST - largest)
    return units.astype(np.int32) if bool(fits.all()) else None


@dataclass(frozen=True)
class _Tail:
    """What follows the convolution: an activation, and the ``QuantizeLinear`` if there is one."""

    nodes: Sequence[ir.Node]
    attributes: Sequence[ir.Attr]
    scale: ir.Value | None  # None: the result stays float32
    zero: ir.Value | None
    dtype: ir.DataType
    label: str

    @classmethod
    def read(cls, node: ir.Node, scope: Scope) -> _Tail:
        nodes, attributes = [], []
        value = node.outputs[0]
        following = only_consumer(value)
        if scope.own(following, "Relu", "Clip"):
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
        _check_scale(scale, "the QuantizeLinear behind it", scope.facts)
        return cls([*nodes, following], attributes, scale, zero, dtype, label)

    def quantization(self, node: ir.Node, scope: Scope) -> tuple[ir.Value, ir.Value]:
        scale, zero = self.scale, self.zero
        if scale is None:
            scale = _constant(node, f"{self.label}_scale", np.ones((), np.float32), scope)
        if zero is None:
            zeros = np.zeros((), self.dtype.numpy())
            zero = _constant(node, f"{self.label}_zero_point", zeros, scope)
        return scale, zero


def _activation(node: ir.Node, scope: Scope) -> list[ir.Attr] | None:
    """Attributes of the operator for a ``Relu`` or a ``Clip``; None if it is not a constant one."""
    try:
        found = single(node, scope.facts, None, 0)
    except Refusal:
        return None
    return None if found is None else found.attributes()


def _constant(node: ir.Node, name: str, array: np.ndarray, scope: Scope) -> ir.Value:
    """A new constant for ``node``, in the type of ``array``."""
    array = np.asarray(array)
    dtype = ir.DataType.from_numpy(array.dtype)
    return add_constant(node, name, dtype, array.shape, lambda: array, scope)
