"""Every node of a model with the types and shapes of its values, bodies and local functions too.

The shapes are those of ONNX's inference.  What is done here is to ask it the right questions, which
onnx-ir's passes do not (seen with onnx-ir 1.1).  Its inference takes for granted what a model
declares of its values, which may have been written for other inputs, and finds nothing of values in
local functions, whose shapes are other ones in each call.  Its inlining of functions gives their
nodes new names and does not keep which call they came from, by which reports name them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper

from ..converters.model_io import Model
from ..converters.nodes import DOMAIN, OP_TYPE, QUANTIZED_OP_TYPE
from ..converters.schema import CONV_TRANSPOSE_ATTRIBUTES


@dataclass(frozen=True)
class Value:
    """What is known of a tensor: its element type (0 if unknown), and its shape or None."""

    elem_type: int = TensorProto.UNDEFINED
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TypedNode:
    """A node where it runs: one in a function's body appears once for each call."""

    name: str  #: as reports name it: its own name, or that of its first output
    where: str  #: "graph", "subgraph <name>" or "function <domain>::<name>"
    calls: tuple[str, ...]  #: names of the calls that lead to it, outermost first
    domain: str
    op_type: str
    attributes: Mapping[str, Any] = field(repr=False)
    input_names: tuple[str, ...] = ()  #: "" for an input left out
    output_names: tuple[str, ...] = ()
    inputs: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()

    @property
    def label(self) -> str:
        return "/".join((*self.calls, self.name))

    @property
    def is_ours(self) -> bool:
        return self.domain == DOMAIN and self.op_type in (OP_TYPE, QUANTIZED_OP_TYPE)

    @property
    def is_quantized(self) -> bool:
        return (self.domain, self.op_type) == (DOMAIN, QUANTIZED_OP_TYPE)


def typed_nodes(model: Model, input_shapes: Mapping[str, Sequence[int]]) -> list[TypedNode]:
    """Nodes of the main graph, in order, each followed by those of its bodies and function.

    Shapes are those that ONNX's shape inference finds when the model's inputs have
    ``input_shapes``; the operator of this package counts as the ConvTranspose it computes.  A call
    of a local function stands before the nodes of its body.  Nothing is run.
    """
    shadow = model.skeleton()
    for value in shadow.graph.input:
        if value.name in input_shapes and value.type.HasField("tensor_type"):
            _set_shape(value, input_shapes[value.name])
    for value in shadow.graph.output:  # may declare another size under the same name
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    return list(_of_model(shadow, ()))


def _of_model(shadow: onnx.ModelProto, calls: tuple[str, ...], where: str = "graph"):
    original = onnx.ModelProto()
    original.CopyFrom(shadow)
    _as_stock(shadow.graph.node, _constant_types(shadow.graph))
    for function in shadow.functions:
        _as_stock(function.node, {})
    yield from _Walk(original, where, calls).graph(original.graph, _infer(shadow), {})


def _infer(model: onnx.ModelProto) -> onnx.GraphProto:
    """The graph with all types and shapes that follow from its inputs'.

    What the model declares of its values counts only where nothing follows, behind operators that
    ONNX does not know: it may have been written for other inputs.
    """
    declared = list(model.graph.value_info)
    del model.graph.value_info[:]
    inferred = _inferred(model)
    known = {v.name for v in inferred.value_info if _value(v).shape is not None}
    missing = [v for v in declared if v.name not in known and _value(v).shape is not None]
    if missing:
        model.graph.value_info.extend(missing)
        inferred = _inferred(model)
    return inferred


def _inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # of several types; what the model declares is left
        return model.graph


@dataclass
class _Walk:
    model: onnx.ModelProto
    where: str
    calls: tuple[str, ...]

    def graph(
        self, original: onnx.GraphProto, inferred: onnx.GraphProto, outer: Mapping[str, Value]
    ) -> Iterator[TypedNode]:
        scope = dict(outer)
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            known = _value(value)
            if known.shape is not None or value.name not in scope:
                scope[value.name] = known
        for tensor in inferred.initializer:
            scope[tensor.name] = Value(tensor.data_type, tuple(tensor.dims))
        seen_nodes = [node for node in inferred.node if node.doc_string != _ADDED]
        for node, seen in zip(original.node, seen_nodes, strict=True):
            yield from self.node(node, seen, scope)

    def node(
        self, node: onnx.NodeProto, seen: onnx.NodeProto, scope: Mapping[str, Value]
    ) -> Iterator[TypedNode]:
        typed = TypedNode(
            name=node.name or next((name for name in node.output if name), "") or "?",
            where=self.where,
            calls=self.calls,
            domain="" if node.domain == "ai.onnx" else node.domain,
            op_type=node.op_type,
            attributes={a.name: _plain(a) for a in node.attribute},
            input_names=tuple(node.input),
            output_names=tuple(node.output),
            inputs=tuple(scope.get(name, Value()) for name in node.input),
            outputs=tuple(scope.get(name, Value()) for name in node.output),
        )
        yield typed
        for function in self.model.functions:
            if (function.domain, function.name, function.overload) == (
                node.domain,
                node.op_type,
                node.overload,
            ):
                yield from self.call(node, typed, function)
        for body, twin in zip(_bodies(node), _bodies(seen), strict=True):
            inner = _Walk(self.model, f"subgraph {body.name}", self.calls)
            yield from inner.graph(body, twin, scope)

    def call(
        self, node: onnx.NodeProto, typed: TypedNode, function: onnx.FunctionProto
    ) -> Iterator[TypedNode]:
        """The nodes of a function's body, with the shapes and attributes of this call."""
        body = onnx.ModelProto(ir_version=self.model.ir_version)
        body.opset_import.extend(function.opset_import)
        body.functions.extend(self.model.functions)
        body.graph.name = function.name
        for name, value in zip(function.input, typed.inputs):
            known = body.graph.input.add(name=name)
            if value.elem_type:
                known.type.tensor_type.elem_type = value.elem_type
                if value.shape is not None:
                    _set_shape(known, value.shape)
        body.graph.output.extend(onnx.ValueInfoProto(name=name) for name in function.output)
        given = {a.name: a for a in (*function.attribute_proto, *node.attribute)}
        body.graph.node.extend(function.node)
        _resolve(body.graph.node, given)
        where = f"function {function.domain}::{function.name}"
        yield from _of_model(body, (*self.calls, typed.name), where)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [
        graph
        for attribute in node.attribute
        for graph in (attribute.g, *attribute.graphs)
        if graph.node
    ]


def _resolve(nodes, given: Mapping[str, AttributeProto]) -> None:
    """Put the values of a call in place of references to the function's attributes."""
    for node in nodes:
        attributes = list(node.attribute)
        del node.attribute[:]
        for attribute in attributes:
            if not attribute.ref_attr_name:
                node.attribute.append(attribute)
            elif attribute.ref_attr_name in given:  # one without a value counts as left out
                node.attribute.append(given[attribute.ref_attr_name])
                node.attribute[-1].name = attribute.name
        for graph in _bodies(node):
            _resolve(graph.node, given)


# Marks nodes that are not the model's.
_ADDED = "added for shape inference"


def _as_stock(nodes, types: Mapping[str, int]) -> None:
    """Make each of the operator's nodes the ConvTranspose it computes, which ONNX knows.

    ``types`` are those of constants by name: what a quantised one gives has the type of a constant,
    and its input gets that type first.
    """
    for index, node in reversed(list(enumerate(nodes))):
        if (node.domain, node.op_type) == (DOMAIN, QUANTIZED_OP_TYPE) and len(node.input) >= 8:
            x, w, zero = (node.input[i] for i in (0, 3, 7))
            cast = f"{node.output[0]}_{_ADDED}"
            del node.input[:]
            node.input.extend([cast, w])
            node.op_type = OP_TYPE
            added = helper.make_node(
                "Cast", [x], [cast], to=types.get(zero, TensorProto.UINT8), doc_string=_ADDED
            )
            nodes.insert(index, added)
        for graph in _bodies(node):
            _as_stock(graph.node, {**types, **_constant_types(graph)})
    for node in nodes:
        if (node.domain, node.op_type) == (DOMAIN, OP_TYPE):
            node.domain, node.op_type = "", "ConvTranspose"
            del node.input[3:]  # the residual
            kept = [a for a in node.attribute if a.name in CONV_TRANSPOSE_ATTRIBUTES]
            del node.attribute[:]
            node.attribute.extend(kept)


def _constant_types(graph: onnx.GraphProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in graph.initializer}


def _plain(attribute: AttributeProto) -> Any:
    """The attribute's value; of tensors and graphs, which reports have no use for, None."""
    if attribute.ref_attr_name or attribute.type in (
        AttributeProto.TENSOR,
        AttributeProto.TENSORS,
        AttributeProto.GRAPH,
        AttributeProto.GRAPHS,
        AttributeProto.SPARSE_TENSOR,
        AttributeProto.SPARSE_TENSORS,
        AttributeProto.TYPE_PROTO,
        AttributeProto.TYPE_PROTOS,
    ):
        return None
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, int | float | str) else list(value)


def _value(info: onnx.ValueInfoProto) -> Value:
    tensor = info.type.tensor_type
    known = tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim)
    shape = tuple(d.dim_value for d in tensor.shape.dim) if known else None
    return Value(tensor.elem_type, shape)


def _set_shape(info: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    dims = info.type.tensor_type.shape.dim
    del dims[:]
    info.type.tensor_type.shape.SetInParent()
    for size in shape:
        dims.add(dim_value=size)


# ---- as declared -------------------------------------------------------------------------------

ValueInfo = tuple[int, Sequence[int] | None]  # element type, and shape if it is known entirely


def declared_values(graph: onnx.GraphProto) -> dict[str, ValueInfo]:
    """What the graph says of its inputs, intermediate values and constants."""
    scope: dict[str, ValueInfo] = {}
    for info in (*graph.input, *graph.value_info):
        value = _value(info)
        scope[info.name] = (value.elem_type, value.shape)
    for tensor in graph.initializer:
        scope[tensor.name] = (tensor.data_type, tensor.dims)
    scope.update(constants(graph.node))
    return scope


def constants(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, ValueInfo]]:
    for node in nodes:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], (attribute.t.data_type, attribute.t.dims)
