"""Types and shapes of values that only ONNX's own operators would tell.

ONNX's inference, and every tool built on it, knows nothing of an operator of another domain: what
follows a rewritten node would have no type.  In graphs it is written down.  Local functions have no
place for it that ONNX Runtime reads, and it infers their calls without custom operators: there a
``Cast`` to the type that the value has already tells it, which ONNX Runtime drops once it has
inlined the function.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from .facts import Facts
from .model_io import Model
from .nodes import FLOATS, input_of, is_operator, is_quantized_operator, take_over
from .rewrite import Scope

_CAST_LIKE_OPSET = 15
_RESULT_ZERO_POINT = 7  # among the inputs of the operator for 8-bit tensors


def _is_ours(node: ir.Node) -> bool:
    return is_operator(node) or is_quantized_operator(node)


def annotate(model: ir.Model, original: Model) -> None:
    """Add the types and shapes that onnx infers for ``original`` and the model leaves out."""
    try:
        inferred = onnx.shape_inference.infer_shapes(original.skeleton(), data_prop=True)
    except Exception:  # onnx's tools raise what they like, and do without what they cannot infer
        return
    _annotate_graph(model.graph, inferred.graph)


def _annotate_graph(graph: ir.Graph, inferred: onnx.GraphProto) -> None:
    infos = {info.name: info for info in inferred.value_info}
    for node, proto in zip(graph, inferred.node, strict=True):
        for value in node.outputs:
            known = value.shape is not None and value.dtype is not None
            if value.name in infos and not known and not value.is_graph_output():
                ir.serde.deserialize_value_info_proto(infos[value.name], value)
        for attribute in proto.attribute:
            if attribute.HasField("g"):
                _annotate_graph(node.attributes[attribute.name].as_graph(), attribute.g)


def describe_results(model: ir.Model, facts: Facts) -> set[str]:
    """Give the operator's results in graphs their types and shapes, as far as they are known.

    Returns the names of the values of the main graph that ONNX's inference needs them of: these,
    and the results of functions that the operator is in.
    """
    names: set[str] = set()
    inside = _functions_with_operator(model)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if _is_ours(node):
            _describe(node, model, facts)
        elif node.op_identifier() not in inside:
            continue
        if node.graph is model.graph:
            names.update(
                value.name
                for value in node.outputs
                if value.dtype is not None and not value.is_graph_output()
            )
    return names


def _describe(node: ir.Node, model: ir.Model, facts: Facts) -> None:
    y, x = node.outputs[0], node.inputs[0]
    if y.is_graph_output():
        return
    dtype = operator_type(node, model)
    if y.type is None and dtype is not None:
        y.type = ir.TensorType(dtype)
    dims = facts.dims(y)
    if y.shape is None and dims is not None:
        sizes: list[int | ir.SymbolicDim | None] = [size.number for size in dims]
        if sizes[0] is None and x.shape is not None:
            sizes[0] = x.shape[0]
        y.shape = ir.Shape(sizes)


def _functions_with_operator(model: ir.Model) -> set[ir.OperatorIdentifier]:
    """The local functions in which the operator is, or a call of such a function."""
    nodes = {
        identifier: list(ir.traversal.RecursiveGraphIterator(function))
        for identifier, function in model.functions.items()
    }
    found: set[ir.OperatorIdentifier] = set()
    count = -1
    while count < len(found):
        count = len(found)
        for identifier, inner in nodes.items():
            if any(_is_ours(node) or node.op_identifier() in found for node in inner):
                found.add(identifier)
    return found


def cast_in_functions(model: ir.Model, facts: Facts) -> None:
    """Let a ``Cast``, or ``CastLike``, follow the operator wherever it is in a local function."""
    for function in model.functions.values():
        for node in list(ir.traversal.RecursiveGraphIterator(function)):
            if _is_ours(node) and not _is_cast(node.outputs[0]):
                _insert_cast(node, model, facts)


def _is_cast(value: ir.Value) -> bool:
    uses = list(value.uses())
    return bool(uses) and all(user.op_type in ("Cast", "CastLike") for user, _ in uses)


def _insert_cast(node: ir.Node, model: ir.Model, facts: Facts) -> None:
    y, graph = node.outputs[0], node.graph
    dtype, name = operator_type(node, model), f"{node.name or y.name}_type"
    if dtype is None:
        like = node.inputs[_RESULT_ZERO_POINT if is_quantized_operator(node) else 1]
        cast = ir.Node("", "CastLike", [y, like], name=name)
    else:
        cast = ir.Node("", "Cast", [y], [ir.AttrInt64("to", dtype.value)], name=name)
    graph.insert_after(node, cast)
    typed = cast.outputs[0]
    typed.name = facts.fresh_name(f"{y.name}_typed")
    typed.shape, typed.type = y.shape, y.type
    take_over(y, typed, keep=[cast])


def can_tell_type(node: ir.Node, scope: Scope) -> bool:
    """Whether :func:`cast_in_functions` will be able to tell the type of what ``node`` becomes."""
    return (scope.onnx_opset or 0) >= _CAST_LIKE_OPSET or operator_type(
        node, scope.model
    ) is not None


def operator_type(node: ir.Node, model: ir.Model) -> ir.DataType | None:
    """Element type of the result of a (transposed) convolution; None if it is not known.

    All its tensors have the same, but for 8-bit ones: there the zero point of the result tells it,
    and without one the result is float32.
    """
    if is_quantized_operator(node):
        zero = input_of(node, _RESULT_ZERO_POINT)
        return ir.DataType.FLOAT if zero is None else _type_of(zero, model)
    known = (_type_of(value, model) for value in (*node.inputs[:2], *node.outputs))
    return next((dtype for dtype in known if dtype in FLOATS), None)


def _type_of(
    value: ir.Value | None, model: ir.Model, asked: tuple[ir.Value, ...] = ()
) -> ir.DataType | None:
    """Of an input of a function, the type that all its calls agree on."""
    if value is None or value.dtype is not None:
        return None if value is None else value.dtype
    if value.producer() is not None or value.is_initializer():
        constant = ir.convenience.get_const_tensor(value)
        return None if constant is None else constant.dtype
    for identifier, function in model.functions.items():
        inputs = list(function.inputs)
        if value not in inputs or value in asked:
            continue
        index = inputs.index(value)
        types = {
            _type_of(input_of(node, index), model, (*asked, value))
            for owner in (model.graph, *model.functions.values())
            for node in ir.traversal.RecursiveGraphIterator(owner)
            if node.op_identifier() == identifier
        }
        return types.pop() if len(types) == 1 else None
    return None
