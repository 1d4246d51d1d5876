"""What follows a transposed convolution becomes a part of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .activations import Activation, per_channel, single, subgraph
from .affine import ARITHMETIC, read_affine
from .convolution import add_constant, check_scale, constant_tensor, rounded
from .facts import Facts
from .nodes import (
    FLOATS,
    attribute,
    become_operator,
    input_of,
    is_operator,
    only_reader,
    prune,
    readers,
)
from .report import EPILOGUE
from .rewrite import Refusal, Rewrite, Scope, Site
from .shape_readers import check_released, convolution_rule, release_shapes
from .weights import Integers


class EpilogueRewrite(Rewrite):
    r"""What follows the operator, up to the first activation, becomes its epilogue.

    The operator computes, for each output channel m,

    .. math:: y_m = f\left( \sum_c x_c * w_{cm} + b_m + z_m \right).

    - Constants per channel, ``Add``, ``Sub``, ``Mul``, ``Div`` and ``BatchNormalization``
      (inference), are affine: :math:`\alpha_m y_m + \beta_m` is the operator with weights
      :math:`\alpha_m w_{cm}` and bias :math:`\alpha_m b_m + \beta_m`, where for a batch
      normalisation :math:`\alpha = \gamma / \sqrt{\sigma^2 + \epsilon}` and
      :math:`\beta = \beta' - \alpha \mu`.  A chain of them is computed in float64 and rounded once.
    - ``Add`` of another tensor of the same shape is the residual z.
    - An activation is f; it is the last step.  ``Gelu``, ``Silu`` and ``HardSwish`` are recognised
      in the sub-graphs by which exporters write them, too.

    What only asks for the shape of a result that disappears gets it from that of the input.

    Left alone: a result that others read as well, that is an output of the model, or that a
    sub-graph captures; constants that are not one for each channel, or that callers may override; a
    scale after a residual, or where the weights are not constant; a residual whose shape is not
    known to be that of the output, since it may be broadcast; normalisation in training mode; and
    in float64, parameters of an activation that float32, the attribute's type, does not hold.
    """

    name = EPILOGUE

    def anchor(self, node: ir.Node) -> ir.Node:
        return _operator_before(node) or node

    def matches(self, node: ir.Node, scope: Scope) -> bool:
        operator = _operator_before(node)
        if operator is None or (scope.onnx_opset or 0) < 7:  # broadcasting was different before
            return False
        if not scope.own(node) and node.domain != "com.microsoft":
            return False
        try:
            return _step(node, operator, scope) is not None
        except Refusal:
            return True

    def plan(self, node: ir.Node, scope: Scope) -> Site:
        operator = _operator_before(node)
        step = _step(node, operator, scope)  # type: ignore[arg-type]
        *inner, last = step.nodes  # type: ignore[union-attr]
        rule = convolution_rule(operator, scope.facts)
        values = [each.outputs[0] for each in (operator, *inner)]
        chain = {operator, *inner, last}
        check_released(values, rule, chain)

        def apply() -> list[ir.Node]:
            release_shapes(values, rule, chain, scope.facts)
            inputs = step.inputs(last)
            attributes = [*operator.attributes.values(), *step.attributes]
            old = [value for each in (last, operator) for value in each.inputs]
            become_operator(last, operator, inputs, attributes)
            prune(old)
            return [last]

        return Site([operator, *inner, last], apply, f"{step.what} of {operator.name or '?'}")


@dataclass(frozen=True)
class _Step:
    """Nodes that one rewrite takes in; the last one becomes the operator with these inputs."""

    what: str
    nodes: list[ir.Node]
    inputs: Callable[[ir.Node], list[ir.Value]]
    attributes: tuple[ir.Attr, ...] = ()


@dataclass(frozen=True)
class _Operator:
    """The operator's node, and the shape of its weights [C, M/group, k1, ..., kd]."""

    node: ir.Node
    rank: int
    channels: int | None  # M
    group: int
    dtype: ir.DataType | None

    @classmethod
    def read(cls, node: ir.Node, facts: Facts) -> _Operator | None:
        dims, group = facts.dims(node.inputs[1]), attribute(node, "group", 1)
        if dims is None or group is None:
            return None
        channels = None if dims[1].number is None else dims[1].number * group
        known = (value.dtype for value in (*node.inputs, *node.outputs) if value is not None)
        return cls(node, len(dims), channels, group, next((d for d in known if d), None))

    @property
    def bias(self) -> ir.Value | None:
        return input_of(self.node, 2)

    @property
    def residual(self) -> ir.Value | None:
        return input_of(self.node, 3)


def _operator_before(node: ir.Node) -> ir.Node | None:
    """The operator whose result ``node`` reads, in the same graph and without an activation; of
    two, rather one whose result nothing else reads."""
    found = None
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if not is_operator(producer) or producer.graph is not node.graph:
            continue
        if "activation" in producer.attributes:
            continue
        if only_reader(value) is node:
            return producer
        found = found or producer
    return found


def _step(node: ir.Node, before: ir.Node, scope: Scope) -> _Step | None:
    """What ``node`` begins; None if it is nothing that could be fused."""
    facts, value = scope.facts, before.outputs[0]
    operator = _Operator.read(before, facts)
    if operator is None or len(node.outputs) < 1 or node.inputs[0] is None:
        return None
    uses = readers(value)
    if len(uses) > 1:
        found = subgraph(value, facts, operator.rank, operator.dtype)
        if found is not None:
            return _activation_step(operator, *found)
    if node.op_type in ARITHMETIC:
        if len(uses) > 1 or value.is_graph_output():
            return None
        return _arithmetic_step(operator, node, scope)
    affine = scope.own(node, "BatchNormalization")
    activation = None
    if not affine:
        if node.inputs[0] is not value:
            return None
        activation = single(node, facts, operator.channels, operator.rank)
        if activation is None:
            return None
    if value.is_graph_output():
        raise Refusal("its input is an output of the graph")
    if len(uses) > 1:
        raise Refusal(f"its input has {len(uses)} readers")
    if affine:
        return _affine_step(operator, node, scope)
    return _activation_step(operator, activation, [node])


def _activation_step(operator: _Operator, activation: Activation, nodes: list[ir.Node]) -> _Step:
    params = [float(np.float32(p)) for p in activation.params]
    if operator.dtype == ir.DataType.DOUBLE and params != list(activation.params):
        raise Refusal("its parameters are not float32 numbers, as activation_params holds them")
    return _Step(
        f"activation {activation.name}",
        nodes,
        lambda _: list(operator.node.inputs),  # type: ignore[arg-type]
        tuple(activation.attributes()),
    )


# ---- constants ---------------------------------------------------------------------------------


def _arithmetic_step(operator: _Operator, node: ir.Node, scope: Scope) -> _Step | None:
    value, facts = operator.node.outputs[0], scope.facts
    other = node.inputs[1 if node.inputs[0] is value else 0]
    if other is None:
        return None
    if node.op_type == "Add":
        array = facts.array(other)
        same = facts.dims(other) == facts.dims(node.outputs[0])
        if array is None or (same and per_channel(array, operator.channels, operator.rank) is None):
            return _residual_step(operator, node, other, scope)
    return _affine_step(operator, node, scope)


def _affine_step(operator: _Operator, node: ir.Node, scope: Scope) -> _Step | None:
    """alpha y + beta: in the weights and the bias."""
    facts, bias, m = scope.facts, operator.bias, operator.channels
    found = read_affine(node, operator.node.outputs[0], m, operator.rank, scope)
    if found is None:
        return None
    if m is None:
        raise Refusal("the number of output channels is not known")
    alpha, beta = (np.broadcast_to(np.asarray(v, np.float64), (m,)) for v in found)
    scaled, shifted = bool((alpha != 1).any()), bool((beta != 0).any())
    if scaled and operator.residual is not None:
        raise Refusal("it scales a sum with a residual")
    weight = operator.node.inputs[1]
    if scaled:
        constant_tensor(weight, "W of the transposed convolution", facts)
    dtype = operator.dtype if operator.dtype in FLOATS else None
    if bias is not None and (scaled or shifted):
        dtype = constant_tensor(bias, "B of the transposed convolution", facts).dtype
    if dtype is None:
        raise Refusal("the type of its input is not known")

    old_weights, old_bias = facts.float64(weight), bias and facts.float64(bias)

    def new_weights() -> np.ndarray:
        w = old_weights()
        rows = alpha.reshape(operator.group, 1, -1).repeat(w.shape[0] // operator.group, axis=1)
        return w * rows.reshape(w.shape[:2] + (1,) * (w.ndim - 2))

    def new_bias() -> np.ndarray:
        return beta if bias is None else alpha * old_bias() + beta

    if scaled:

        def by_channel() -> np.ndarray:
            w, group = old_weights(), operator.group
            return w.reshape(group, len(w) // group, w.shape[1], -1).swapaxes(1, 2).reshape(m, -1)

        check_scale(alpha, by_channel, dtype)
    if scaled and dtype == ir.DataType.FLOAT16:
        rounded(new_weights(), dtype, "weights")
    if shifted or bias is not None:
        rounded(new_bias(), dtype, "bias")

    def inputs(last: ir.Node) -> list[ir.Value]:
        x, w, *rest = operator.node.inputs
        if scaled:
            shape = facts.static(weight)
            w = add_constant(last, f"{weight.name}_scaled", dtype, shape, new_weights, scope)
            integers = Integers.of(weight)
            if integers is not None:
                integers.times(alpha).note(w)
        if shifted or (scaled and bias is not None):
            name = (
                f"{operator.node.outputs[0].name}_bias" if bias is None else f"{bias.name}_folded"
            )
            rest = [add_constant(last, name, dtype, (m,), new_bias, scope), *rest[1:]]
        return [x, w, *rest]

    return _Step("constants", [node], inputs)


# ---- residual ----------------------------------------------------------------------------------


def _residual_step(operator: _Operator, node: ir.Node, z: ir.Value, scope: Scope) -> _Step:
    facts, y = scope.facts, operator.node.outputs[0]
    if operator.residual is not None:
        raise Refusal("there is a residual already")
    shape = facts.dims(y)
    if shape is None or facts.dims(z) != shape:
        raise Refusal(f"the shape of '{z.name}' is not known to be that of '{y.name}'")
    dtype, m = operator.dtype, operator.channels
    if operator.bias is None and (m is None or dtype not in FLOATS):
        raise Refusal("the number of output channels, or their type, is not known")

    def inputs(last: ir.Node) -> list[ir.Value]:
        x, w, *rest = operator.node.inputs
        if not rest:  # onnxruntime before 1.31 crashes if an input before Z is left out
            rest = [add_constant(last, f"{y.name}_bias", dtype, (m,), lambda: np.zeros(m), scope)]
        return [x, w, *rest, z]

    return _Step("residual", [node], inputs)
