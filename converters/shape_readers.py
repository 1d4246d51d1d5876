"""``Shape`` nodes that read a value which a rewrite does away with.

They do not need the value: its shape follows from that of the rewrite's input.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .facts import Facts
from .nodes import attribute, own_op, take_over
from .rewrite import Refusal

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


@dataclass(frozen=True)
class ShapeRule:
    """The shape of a value: that of ``x`` times ``factors`` plus ``offsets``, axis by axis."""

    x: ir.Value
    factors: Sequence[int]
    offsets: Sequence[int]


def convolution_rule(node: ir.Node, facts: Facts) -> ShapeRule | None:
    """Of the result of a convolution of stride 1, or of a transposed one; None if not known."""
    dims, growth = facts.dims(node.outputs[0]), facts.growth(node)
    if dims is None or dims[1].number is None or growth is None or None in growth:
        return None
    factors, offsets = zip(*growth, strict=True)
    return ShapeRule(node.inputs[0], (1, 0, *factors), (0, dims[1].number, *offsets))


def check_released(
    values: Iterable[ir.Value], rule: ShapeRule | None, chain: Container[ir.Node]
) -> None:
    """Raise Refusal if :func:`release_shapes` could not do its work."""
    for value in values:
        if rule is None and any(is_live_shape(user, chain) for user, _ in value.uses()):
            raise Refusal(f"the shape of '{value.name}' is read, and only computing it would tell")


def release_shapes(
    values: Iterable[ir.Value], rule: ShapeRule | None, chain: Container[ir.Node], facts: Facts
) -> None:
    """Let every ``Shape`` of ``values`` outside ``chain``, which all have the shape that ``rule``
    gives, be computed without them; what nothing needs is removed."""
    for value in values:
        for node in _shapes(value, chain):
            if _is_live(node, chain):
                _derive(node, rule, facts)  # type: ignore[arg-type]
            else:
                _remove_dead(node)


def _shapes(value: ir.Value, chain: Container[ir.Node]) -> list[ir.Node]:
    return [user for user, _ in value.uses() if own_op(user, "Shape") and user not in chain]


def is_live_shape(node: ir.Node, chain: Container[ir.Node]) -> bool:
    """Whether ``node`` asks for a shape on which something outside ``chain`` depends."""
    return own_op(node, "Shape") and _is_live(node, chain)


def _is_live(node: ir.Node, chain: Container[ir.Node]) -> bool:
    """Whether something outside ``chain`` depends on ``node`` in the end."""
    if node in chain:
        return False
    if any(item.type in _GRAPHS for item in node.attributes.values()):  # may have effects
        return True
    return any(
        value.is_graph_output() or any(_is_live(user, chain) for user, _ in value.uses())
        for value in node.outputs
    )


def _remove_dead(node: ir.Node) -> None:
    for value in node.outputs:
        for user, _ in list(value.uses()):
            if user.graph is not None and not any(v.is_graph_output() for v in user.outputs):
                _remove_dead(user)
    if node.graph is not None and not any(value.uses() for value in node.outputs):
        node.graph.remove(node, safe=True)


def _derive(node: ir.Node, rule: ShapeRule, facts: Facts) -> None:
    """Compute from the shape of the rule's input what the ``Shape`` ``node`` gives."""
    old, graph = node.outputs[0], node.graph
    part = slice(attribute(node, "start", 0), attribute(node, "end"))

    def constant(numbers: Sequence[int]) -> ir.Value:
        tensor = ir.tensor(np.array(numbers[part], np.int64))
        return insert("Constant", [], [ir.AttrTensor("value", tensor)])

    def insert(op_type: str, inputs: Sequence[ir.Value], attributes: Sequence[ir.Attr] = ()):
        name = facts.fresh_name(f"{old.name}_derived")
        made = ir.Node("", op_type, inputs, attributes, name=name)
        made.outputs[0].name = name
        graph.insert_before(node, made)
        return made.outputs[0]

    shape = insert("Shape", [rule.x], list(node.attributes.values()))
    scaled = insert("Mul", [shape, constant(rule.factors)])
    take_over(old, insert("Add", [scaled, constant(rule.offsets)]))
    graph.remove(node, safe=True)
