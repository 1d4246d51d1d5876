"""What the passes that start from a ``Conv`` share: reading it, and writing the operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from .blocked_layout import BlockedLayout, around
from .cost import cost_without_winograd, engine_cost, least_conv_cost, moving_cost, nominal_sides
from .external_data import is_there
from .facts import Facts
from .nodes import FLOATS, become_operator, input_of, prune
from .rewrite import Refusal, Scope

_CONV_ATTRIBUTES = {
    "auto_pad": ir.AttributeType.STRING,
    "dilations": ir.AttributeType.INTS,
    "group": ir.AttributeType.INT,
    "kernel_shape": ir.AttributeType.INTS,
    "pads": ir.AttributeType.INTS,
    "strides": ir.AttributeType.INTS,
}


@dataclass(frozen=True)
class Convolution:
    """A ``Conv`` with stride 1 and constant weights ``w`` [M, C/group, k1, ..., kd].

    ``scale`` is a factor, or one for each of the M output channels, that follows it.
    """

    node: ir.Node
    tensor: ir.TensorProtocol  # the weights
    group: int
    dilations: tuple[int, ...]
    begins: tuple[int, ...]  # pads
    ends: tuple[int, ...]
    scale: np.ndarray | float = 1.0

    @property
    def dtype(self) -> ir.DataType:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.tensor.shape)

    @property
    def axes(self) -> int:
        return len(self.kernel)

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def channels(self) -> int:
        return self.shape[1] * self.group

    @property
    def reach(self) -> tuple[int, ...]:
        """Distance of the last tap from the first, (k - 1) * dilation."""
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilations))

    @property
    def x(self) -> ir.Value:
        return self.node.inputs[0]  # type: ignore[return-value]

    @property
    def bias(self) -> ir.Value | None:
        return input_of(self.node, 2)

    def transposed_pads(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the transposed convolution of stride 1 crops; raises Refusal if that is negative."""
        for name, side in (("begin", self.begins), ("end", self.ends)):
            for axis, (pad, reach) in enumerate(zip(side, self.reach)):
                if pad > reach:
                    raise Refusal(
                        f"{pad} zeros at the {name} of spatial axis {axis} exceed the kernel's "
                        f"reach, (kernel - 1) * dilation = {reach}"
                    )
        begins, ends = (
            tuple(r - p for r, p in zip(self.reach, side)) for side in (self.begins, self.ends)
        )
        return begins, ends

    def weights(self) -> np.ndarray:
        """[M, C/group, k1, ..., kd] in float64."""
        weights = self.tensor.numpy().astype(np.float64)
        return weights * np.reshape(self.scale, (-1, *[1] * (weights.ndim - 1)))


def read_convolution(
    node: ir.Node, scope: Scope, integers: ir.TensorProtocol | None = None
) -> Convolution:
    """The convolution that ``node`` is, if its weights are quantised with these ``integers`` for
    weights; raises Refusal for what the passes cannot treat."""
    check_opset("Conv", (1, 11, 22), scope)
    if not 2 <= len(node.inputs) <= 3 or None in node.inputs[:2] or len(node.outputs) != 1:
        raise Refusal("it does not have Conv's inputs X, W and optionally B, and one output")
    for name, found in node.attributes.items():
        expected = _CONV_ATTRIBUTES.get(name)
        if expected is None:
            raise Refusal(f"attribute '{name}' is not one of Conv's")
        if found.is_ref():
            raise Refusal(f"attribute '{name}' refers to an attribute of the enclosing function")
        if found.type != expected:
            raise Refusal(f"attribute '{name}' has type {found.type.name}")
    if integers is None and has_quantized_weights(node, scope):
        raise Refusal("its weights are quantised")
    tensor = integers
    if tensor is None:
        tensor = constant_tensor(node.inputs[1], "W", scope.facts)
    shape = tuple(int(n) for n in tensor.shape)
    axes = len(shape) - 2
    if axes < 1 or 0 in shape:
        raise Refusal(f"its weights have shape {list(shape)}")
    if integers is None and tensor.dtype not in FLOATS:
        raise Refusal(f"its weights have type {tensor.dtype}, which is not a float type")

    def ints(name: str, default: Sequence[int]) -> tuple[int, ...]:
        values = node.attributes[name].as_ints() if name in node.attributes else default
        if len(values) != len(default):
            raise Refusal(
                f"attribute '{name}' = {list(values)} does not fit weights of shape {list(shape)}"
            )
        return tuple(values)

    strides, dilations = ints("strides", [1] * axes), ints("dilations", [1] * axes)
    if any(stride != 1 for stride in strides):
        raise Refusal(f"attribute 'strides' = {list(strides)}: only stride 1 is equivalent")
    if min(dilations) < 1 or ints("kernel_shape", shape[2:]) != shape[2:]:
        raise Refusal("attribute 'dilations' or 'kernel_shape' is not valid")
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    if group < 1 or shape[0] % group:
        raise Refusal(f"attribute 'group' = {group} does not divide {shape[0]} output channels")
    sizes = scope.facts.dims(node.inputs[0]) or ()
    given = sizes[1].number if len(sizes) > 1 else None
    if given not in (None, shape[1] * group):
        raise Refusal(f"its input has {given} channels, its weights are for {shape[1] * group}")
    pads = ints("pads", [0] * (2 * axes))
    mode = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    reach = [(k - 1) * d for k, d in zip(shape[2:], dilations)]
    if mode in ("NOTSET", ""):
        begins, ends = pads[:axes], pads[axes:]
    elif mode == "VALID":
        begins = ends = (0,) * axes
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        smaller, larger = tuple(r // 2 for r in reach), tuple(r - r // 2 for r in reach)
        begins, ends = (smaller, larger) if mode == "SAME_UPPER" else (larger, smaller)
    else:
        raise Refusal(f"attribute 'auto_pad' = '{mode}' is not valid")
    if mode not in ("NOTSET", "") and "pads" in node.attributes:
        raise Refusal(
            f"it has attributes 'auto_pad' = '{mode}' and 'pads', which exclude each other"
        )
    if min(*begins, *ends) < 0:
        raise Refusal(f"attribute 'pads' = {list(pads)} has a negative entry")
    return Convolution(node, tensor, group, dilations, tuple(begins), tuple(ends))


def check_opset(op_type: str, versions: Sequence[int], scope: Scope) -> None:
    """Refuse versions of an operator that this converter does not know."""
    opset = scope.onnx_opset
    if opset is None:
        raise Refusal("no version of ONNX's own operators is imported")
    try:
        since = onnx.defs.get_schema(op_type, opset).since_version
    except onnx.defs.SchemaError:
        raise Refusal(f"opset {opset} has no {op_type}") from None
    if since not in versions or opset > onnx.defs.onnx_opset_version():
        raise Refusal(
            f"opset {opset} is newer than the installed onnx knows "
            f"({onnx.defs.onnx_opset_version()}), or its {op_type} (version {since}) "
            f"newer than this converter knows ({versions[-1]})"
        )


# ---- quantised ---------------------------------------------------------------------------------


def is_linear(node: ir.Node | None, op_type: str, scope: Scope) -> bool:
    """Whether it is ONNX's QuantizeLinear or DequantizeLinear, or onnxruntime's, which means the
    same; that has another domain, for types that ONNX did not have at first."""
    if scope.own(node, op_type):
        return True
    return (
        node is not None
        and (node.domain, node.op_type) == ("com.microsoft", op_type)
        and node.op_identifier() not in scope.model.functions
    )


def has_quantized_weights(node: ir.Node, scope: Scope) -> bool:
    """Whether the weights of a convolution come through a DequantizeLinear."""
    weights = input_of(node, 1)
    return weights is not None and is_linear(weights.producer(), "DequantizeLinear", scope)


def centred(tensor: ir.TensorProtocol, zero: np.ndarray, axis: int) -> np.ndarray:
    """Integers less their zero points, one or one along the axis."""
    integers = tensor.numpy().astype(np.int32)
    shape = [1] * integers.ndim
    if zero.size > 1:
        shape[axis] = zero.size
    return integers - zero.astype(np.int32).reshape(shape)


# ---- constants ---------------------------------------------------------------------------------


def constant_tensor(value: ir.Value | None, name: str, facts: Facts) -> ir.TensorProtocol:
    """The constant behind an input; raises Refusal if it is not one or cannot be read."""
    tensor = facts.tensor(value)
    if tensor is None:
        raise Refusal(f"its input {name} is not a constant")
    if not is_there(tensor):
        raise Refusal(f"the file with the values of its input {name} is not known")
    return tensor


def rounded(values: np.ndarray, dtype: ir.DataType, what: str) -> np.ndarray:
    """float64 values in ``dtype``; raises Refusal if its range does not hold them."""
    with np.errstate(over="ignore"):
        result = values.astype(dtype.numpy())
    if not np.isfinite(result.astype(np.float64)).all() and np.isfinite(values).all():
        raise Refusal(f"the folded {what} exceed the range of {dtype}")
    return result


# Weights of a channel are not folded to less than this: their products with the input would be
# subnormal, on which processors are many times slower, or the weights themselves lose digits.
_LEAST_WEIGHTS = {
    ir.DataType.FLOAT: 2.0**-100,
    ir.DataType.BFLOAT16: 2.0**-100,
    ir.DataType.DOUBLE: 2.0**-968,
    ir.DataType.FLOAT16: 2.0**-14,
}
_MILD_SCALE = 2.0**-10  # what weights of usual magnitudes bear


def check_scale(
    scale: np.ndarray | float, weights: Callable[[], np.ndarray], dtype: ir.DataType
) -> None:
    """Raise Refusal if ``scale``, one factor for each of M channels or one for all, leaves too
    little of the weights [M, ...] that it is folded into; these are computed if need be."""
    scale = np.abs(np.asarray(scale, np.float64))
    if not ((scale > 0) & (scale < _MILD_SCALE)).any():
        return
    values = weights()
    largest = np.abs(values).reshape(len(values), -1).max(axis=1, initial=0.0)
    least = _LEAST_WEIGHTS.get(dtype, 0.0)
    small = (scale * largest > 0) & (scale * largest < least) & (largest >= least)
    if small.any():
        channel = int(np.argmax(small))
        left = float((scale * largest)[channel])
        raise Refusal(
            f"folded into the weights it would make those of channel {channel} as small as "
            f"{left:.1e}, which {dtype} computes slowly or not exactly"
        )


def add_constant(
    node: ir.Node,
    name: str,
    dtype: ir.DataType,
    shape: Sequence[int],
    values: Callable[[], np.ndarray],
    scope: Scope,
) -> ir.Value:
    """A new constant for ``node``: ``values`` in float64, which are computed when they are needed.

    Functions hold no initializers, and in models before IR version 4 an initializer is an input as
    well: there it is the output of a ``Constant`` node.
    """
    name = scope.facts.fresh_name(name)
    tensor = ir.LazyTensor(
        lambda: ir.Tensor(rounded(values(), dtype, "constants"), dtype=dtype, name=name),
        dtype=dtype,
        shape=ir.Shape(list(shape)),
        name=name,
    )
    in_function = scope.function is not None and node.graph is scope.function.graph
    if in_function or (scope.model.ir_version or 0) < 4:
        constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], name=name)
        constant.outputs[0].name = name
        node.graph.insert_before(node, constant)
        result = constant.outputs[0]
    else:
        result = ir.Value(name=name, const_value=tensor)
        node.graph.initializers[name] = result
    result.shape, result.type = tensor.shape, ir.TensorType(dtype)
    scope.facts.exact[result] = values
    return result


# ---- the operator ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equivalent:
    """A transposed convolution that equals a convolution and what surrounds it.

    ``kernel`` maps the Conv's weights [M, C/group, k1, ..., kd], in float64, to the operator's.
    """

    x: ir.Value
    weight_shape: tuple[int, ...]
    kernel: Callable[[np.ndarray], np.ndarray]
    strides: tuple[int, ...]
    begins: tuple[int, ...]  # pads
    ends: tuple[int, ...]
    dilations: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    group: int = 1

    def attributes(self) -> dict[str, list[int] | int]:
        given = {
            "dilations": self.dilations if max(self.dilations, default=1) > 1 else (),
            "group": self.group,
            "kernel_shape": self.weight_shape[2:],
            "output_padding": self.output_padding if any(self.output_padding) else (),
            "pads": (*self.begins, *self.ends),
            "strides": self.strides,
        }
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items() if v != ()}


def check_range(conv: Convolution, form: Equivalent) -> None:
    """Raise Refusal if new weights exceed float16's range, the only narrow one."""
    if conv.dtype == ir.DataType.FLOAT16:
        rounded(form.kernel(conv.weights()), conv.dtype, "weights")


def check_gain(
    conv: Convolution,
    form: Equivalent,
    growth: Sequence[int],
    scope: Scope,
    gone: Sequence[ir.Node],
    saved: int = 0,
    shuffled: int = 0,
    added: int = 0,
    sure: float = 1.0,
) -> None:
    """Raise Refusal if the operator's plan, as the user wants it, costs more than the estimate for
    the nodes it replaces, ``gone``, of which the last one gives the result; or more than the share
    ``sure`` of it.

    The Conv counts as the operator's own engines but Winograd would run it (it is a transposed
    convolution of stride 1, too), on an image ``growth`` times as large as the operator's input;
    where ``sure`` is below 1, with no more than it cannot do without: see :func:`least_conv_cost`.
    To this come the values, for each pixel of the operator's input, which the nodes around the Conv
    move to and from memory: ``saved`` and, out of order, ``shuffled`` without the rewrite,
    ``added`` with it.

    What is copied between ONNX Runtime's blocked layout and the plain one counts for each side.
    Where the site is timed, nothing is estimated.
    """
    from .._core import Error

    if scope.is_timed(conv.node):
        return
    batch, sides = nominal_sides(form.x, conv.axes, scope.facts)
    if 0 in (batch, *sides):
        return
    dtype = str(conv.dtype.numpy())
    channels = form.weight_shape[0]
    image = [side * factor for side, factor in zip(sides, growth)]
    pads = [r - p for p, r in zip((*conv.begins, *conv.ends), conv.reach * 2)]
    pixels = batch * math.prod(sides)
    stock = moving_cost(pixels * saved, dtype)
    stock += moving_cost(pixels * shuffled, dtype, shuffled=True)
    layout = BlockedLayout(scope.facts)
    shapes = (
        [batch, conv.channels, *image],
        [conv.channels, conv.shape[0] // conv.group, *conv.kernel],
    )
    attributes = {
        "group": conv.group,
        "dilations": list(conv.dilations),
        "pads": [max(0, pad) for pad in pads],
    }
    try:
        if sure < 1:
            columns = not layout.is_blocked(conv.node.outputs[0])
            stock += least_conv_cost(dtype, *shapes, columns=columns, **attributes)
        else:
            stock += cost_without_winograd(dtype, *shapes, **attributes)
        asked = scope.selection.plan_options(dtype)
        ours = moving_cost(pixels * added, dtype) + engine_cost(
            dtype, [batch, channels, *sides], form.weight_shape, **form.attributes(), **asked
        )
    except Error as error:  # a kernel beyond the image, or sizes that no computer holds
        raise Refusal(str(error)) from error
    values = around(gone, [form.x])
    stock += layout.cost(values)
    ours += BlockedLayout(scope.facts, gone, [form.x]).cost(values)
    if ours >= sure * stock:
        raise Refusal(
            f"it would not be faster: its cost is {ours / stock:.2f} times the estimate for "
            "the nodes as they are"
        )


def write_operator(
    target: ir.Node,
    conv: Convolution,
    form: Equivalent,
    extra: Sequence[ir.Attr],
    scope: Scope,
    bias: ir.Value | None,
) -> ir.Node:
    """Turn ``target`` into the operator ``form``, under the Conv's name."""
    old = [conv.x, *conv.node.inputs[1:], *target.inputs]
    weight = add_constant(
        target,
        f"{conv.node.inputs[1].name}_transposed",
        conv.dtype,
        form.weight_shape,
        lambda: form.kernel(conv.weights()),
        scope,
    )
    attributes = [ir.convenience.convert_attribute(k, v) for k, v in form.attributes().items()]
    inputs = [form.x, weight] + ([] if bias is None else [bias])
    become_operator(target, conv.node, inputs, [*attributes, *extra])
    prune(old)
    return target


def swap_channels(w: np.ndarray, group: int) -> np.ndarray:
    """[M, C/group, ...] -> [C, M/group, ...], the order of a transposed convolution."""
    m, c = w.shape[:2]
    split = w.reshape(group, m // group, c, *w.shape[2:]).swapaxes(1, 2)
    return split.reshape(group * c, m // group, *w.shape[2:])


def flip(w: np.ndarray, group: int) -> np.ndarray:
    """Weights [M, C/group, ...] of a convolution as those of a transposed one, [C, M/group, ...]:
    channels swapped, taps in reverse along each axis."""
    return np.ascontiguousarray(np.flip(swap_channels(w, group), tuple(range(2, w.ndim))))
