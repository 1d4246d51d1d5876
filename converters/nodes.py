"""Looking at nodes, and turning them into the operator."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import onnx_ir as ir

DOMAIN = "ort_tconv"
OP_TYPE = "SegregatedConvTranspose"
QUANTIZED_OP_TYPE = "QLinearSegregatedConvTranspose"
OP_VERSION = 1

#: Types of the operator's tensors.
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def own_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether ``node`` is one of ONNX's own operators (of these types)."""
    return (
        node is not None
        and node.domain in ("", "ai.onnx")
        and (not op_types or node.op_type in op_types)
    )


def is_operator(node: ir.Node | None) -> bool:
    """Whether ``node`` is ours."""
    return node is not None and node.domain == DOMAIN and node.op_type == OP_TYPE


def is_quantized_operator(node: ir.Node | None) -> bool:
    """Whether ``node`` is ours for 8-bit tensors."""
    return node is not None and node.domain == DOMAIN and node.op_type == QUANTIZED_OP_TYPE


def node_label(node: ir.Node) -> str:
    """The node's name, or that of its first output if it has none."""
    return node.name or next((value.name for value in node.outputs if value.name), "") or "?"


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Value of an attribute; None if it refers to a function's attribute."""
    found = node.attributes.get(name)
    if found is None:
        return default
    if found.is_ref():
        return None
    return found.as_string() if found.type == ir.AttributeType.STRING else found.value


def readers(value: ir.Value) -> list[ir.Node]:
    """The node of each use of ``value``, but for those that only ask for its shape."""
    return [user for user, _ in value.uses() if not own_op(user, "Shape")]


def only_reader(value: ir.Value) -> ir.Node | None:
    """:func:`only_consumer`, where nodes that only ask for the shape do not count."""
    return _alone(value, readers(value))


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The node that alone reads ``value``, in the same graph; None if the value has other uses."""
    return _alone(value, [user for user, _ in value.uses()])


def _alone(value: ir.Value, users: list[ir.Node]) -> ir.Node | None:
    if len(users) != 1 or value.is_graph_output():
        return None
    consumer, producer = users[0], value.producer()
    same_graph = producer is not None and consumer.graph is producer.graph
    return consumer if same_graph else None


def take_over(old: ir.Value, new: ir.Value, keep: Container[ir.Node] = ()) -> None:
    """Let ``new`` be read instead of ``old``, by all nodes but ``keep``, and be the output that
    ``old`` is; an output keeps its name."""
    for user, index in list(old.uses()):
        if user not in keep:
            user.replace_input_with(index, new)
    graph = old.producer().graph  # type: ignore[union-attr]
    for index, value in enumerate(graph.outputs):
        if value is old:
            new.type, new.shape = old.type, old.shape
            graph.outputs[index] = new
            old.name, new.name = new.name, old.name


def set_inputs(node: ir.Node, inputs: Sequence[ir.Value]) -> None:
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)


def become_operator(
    node: ir.Node,
    template: ir.Node,
    inputs: Sequence[ir.Value],
    attributes: Iterable[ir.Attr],
    op_type: str = OP_TYPE,
) -> None:
    """Turn ``node`` into the operator (``op_type``), keeping its place and its output.

    It takes the name, the description and the metadata of ``template``.
    """
    attributes = list(attributes)
    metadata = dict(template.metadata_props)
    set_inputs(node, inputs)
    node.attributes.clear()
    for item in attributes:
        node.attributes.add(item)
    node.domain, node.op_type, node.overload, node.version = DOMAIN, op_type, "", None
    if node is not template:
        node.name, node.doc_string = template.name, template.doc_string
        node.metadata_props.clear()
        node.metadata_props.update(metadata)


def prune(values: Iterable[ir.Value | None]) -> None:
    """Remove what nothing reads any more: initializers, and nodes with all that led to them."""
    waiting = [value for value in values if value is not None]
    while waiting:
        value = waiting.pop()
        if value.is_graph_output() or value.is_graph_input() or value.uses():
            continue
        node = value.producer()
        if node is None:
            if value.is_initializer():
                value.graph.initializers.pop(value.name)
            continue
        graph = node.graph
        if graph is None or any(v.uses() or v.is_graph_output() for v in node.outputs):
            continue
        waiting += [v for v in node.inputs if v is not None]
        graph.remove(node, safe=True)
