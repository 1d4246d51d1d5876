"""ConvTranspose between DequantizeLinear and QuantizeLinear becomes one node on 8-bit tensors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .conv_transpose import check_attributes, check_inputs
from .convolution import add_constant, check_opset, has_quantized_weights, is_linear
from .facts import Facts
from .linear import (
    Dequantized,
    Tail,
    check_scale,
    check_sum,
    check_together,
    dequantizing,
    integer_bias,
    largest_sum,
    new_constant,
    producer,
    rounded_bias,
    write_quantized,
)
from .nodes import DOMAIN, QUANTIZED_OP_TYPE, attribute, input_of, prune
from .quantized_conv import plan_resized, plan_shuffled, resized, shuffled
from .rewrite import Refusal, Rewrite, Scope, Site


class QuantizedRewrite(Rewrite):
    r"""Layers of 8-bit tensors -> ``QLinearSegregatedConvTranspose``.

    A ``ConvTranspose``, and a ``Conv`` with a nearest ``Resize`` before it or a shuffle of channels
    into pixels behind it.

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

    A Conv needs constant weights: :func:`plan_resized` and :func:`plan_shuffled` have the rest.
    """

    name = "quantized"

    def matches(self, node: ir.Node, scope: Scope) -> bool:
        if not has_quantized_weights(node, scope):
            return False
        if scope.own(node, "Conv"):
            return any(found(node, scope) is not None for found in (resized, shuffled))
        return scope.own(node, "ConvTranspose")

    def plan(self, node: ir.Node, scope: Scope) -> Site:
        if node.op_type == "Conv":
            plan = plan_shuffled if resized(node, scope) is None else plan_resized
            return plan(node, self.algorithm_attribute(), scope)
        check_opset("ConvTranspose", (1, 11, 22), scope)
        check_inputs(node)
        check_attributes(node, scope)
        try:
            return self._integers(node, scope)
        except Refusal as refusal:
            return self._floats(node, scope, refusal)

    def _integers(self, node: ir.Node, scope: Scope) -> Site:
        if not is_linear(producer(node.inputs[0]), "DequantizeLinear", scope):
            raise Refusal("its input X is not quantised")
        x = Dequantized.read(node.inputs[0], "X", scope)
        w = Dequantized.read(node.inputs[1], "W", scope)
        x.check_single(scope.facts)
        check_scale(x.scale, "X", scope.facts)
        check_scale(w.scale, "W", scope.facts, positive=False)
        weights = _weight_scales(node, w, scope.facts)
        tail = Tail.read(node.outputs[0], scope)
        group, strides, dilations = (
            attribute(node, name) or default
            for name, default in (("group", 1), ("strides", ()), ("dilations", ()))
        )
        largest = largest_sum(scope.facts.static(w.values), group, strides, dilations)
        check_sum(largest)
        of_outputs = w.axis == 1 or w.single(scope.facts)
        w_scales = scope.facts.array(w.scale) if of_outputs else None
        bias = integer_bias(node, x, w_scales, largest, scope)
        check_together(node, bias, x, weights[0] if weights else w.scale, tail, scope)
        rounded = None
        if tail.scale is not None:
            rounded = rounded_bias(bias, x, w_scales, largest, scope.facts)

        def apply() -> list[ir.Node]:
            last = tail.nodes[-1] if tail.nodes else node
            if weights is None:
                scale, zero = w.scale, w.zero_or_new(last, scope)
            else:
                names = (f"{w.values.name}_scale", f"{w.values.name}_zero_point")
                scale, zero = (
                    new_constant(last, name, array, scope) for name, array in zip(names, weights)
                )
            b = bias
            if rounded is not None:
                b = new_constant(last, f"{bias.name}_quantized", rounded, scope)
            attributes = [*node.attributes.values(), *self.algorithm_attribute()]
            write_quantized(last, node, x, (w.values, scale, zero), tail, b, attributes, scope)
            return [last]

        read = [value for value in node.inputs if value is not bias]
        nodes = [*dequantizing(read, scope), node, *tail.nodes]
        return Site(nodes, apply, f"{DOMAIN}::{QUANTIZED_OP_TYPE}")

    def _floats(self, node: ir.Node, scope: Scope, refusal: Refusal) -> Site:
        """Constants in place of the nodes that compute them."""
        constants, integers = [], None
        for index, name in ((1, "W"), (2, "B")):
            if is_linear(producer(input_of(node, index)), "DequantizeLinear", scope):
                read = Dequantized.read(node.inputs[index], name, scope, any_integer=True)
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

        nodes = [*dequantizing([node.inputs[index] for index, _ in constants], scope), node]
        return Site(nodes, apply, f"ConvTranspose with weights as constants: {refusal}")


def _weight_scales(
    node: ir.Node, w: Dequantized, facts: Facts
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
