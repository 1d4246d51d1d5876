"""Control flow laid out: the nodes that ran within If and Loop, as nodes of the main graph.

What runs within a body cannot be looked at, as a value of the main graph can.  Which branch an If
takes, and how often a Loop runs, is known for given inputs once the original has run; the model
that is left has no body, gives the same outputs for these inputs, and its values have the same
names in the original and the converted model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Iterations of a Loop that are laid out at most.
MOST_ITERATIONS = 64
_MOST_PASSES = 16  # bodies within bodies

#: Values of the main graph of a model, by their names.
Probe = Callable[[onnx.ModelProto, list[str]], Mapping[str, Any]]


def flattened(
    original: onnx.ModelProto, converted: onnx.ModelProto, probe: Probe
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Both models with what ran within If and Loop in their main graphs.

    ``probe`` runs the original.  Bodies of other operators, and of Loops that run for longer than
    :data:`MOST_ITERATIONS` times or not at all, stay where they are; see :func:`bodies`.
    """
    models = []
    for model in (original, converted):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        models.append(copy)
    left: set[str] = set()
    for _ in range(_MOST_PASSES):
        nodes = [n for n in models[0].graph.node if n.op_type in ("If", "Loop")]
        nodes = [node for node in nodes if node.output[0] not in left]
        if not nodes:
            break
        ran = _ran(models[0], nodes, probe)
        left |= {name for name, times in ran.items() if times is None}
        for model in models:
            _lay_out(model, ran)
    return models[0], models[1]


def bodies(model: onnx.ModelProto) -> list[str]:
    """The nodes of the main graph that have bodies, as messages name them."""
    return [
        f"{node.op_type} '{_label(node)}'"
        for node in model.graph.node
        if any(attribute.HasField("g") for attribute in node.attribute)
    ]


def _ran(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], probe: Probe
) -> dict[str, int | None]:
    """By the name of the first output: whether an If takes its first branch, how often a Loop runs;
    None for a Loop that is not laid out."""
    counting = onnx.ModelProto()
    counting.CopyFrom(model)
    asked: dict[str, str] = {}
    for node in counting.graph.node:
        if node.op_type == "If":
            asked[node.output[0]] = node.input[0]
        elif node.op_type == "Loop":
            asked[node.output[0]] = _count(node)
    wanted = {node.output[0]: asked[node.output[0]] for node in nodes}
    values = probe(counting, sorted(set(wanted.values())))
    result: dict[str, int | None] = {}
    for node in nodes:
        value = values[wanted[node.output[0]]]
        if node.op_type == "If":
            result[node.output[0]] = int(np.asarray(value).reshape(-1)[0])
        else:
            times = len(value)
            result[node.output[0]] = times if 0 < times <= MOST_ITERATIONS else None
    return result


def _count(loop: onnx.NodeProto) -> str:
    """Make the Loop give the numbers of its iterations too; returns the value's name."""
    body = _body(loop, "body")
    name = f"{loop.output[0]}/iterations"
    body.node.append(helper.make_node("Identity", [body.input[0].name], [name]))
    body.output.append(helper.make_tensor_value_info(name, TensorProto.INT64, []))
    loop.output.append(name)
    return name


def _body(node: onnx.NodeProto, name: str) -> onnx.GraphProto:
    return next(a.g for a in node.attribute if a.name == name)


def _lay_out(model: onnx.ModelProto, ran: Mapping[str, int | None]) -> None:
    """Put what ran in place of the If and Loop nodes of the main graph."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        times = ran.get(node.output[0]) if node.output else None
        if times is None or node.op_type not in ("If", "Loop"):
            nodes.append(node)
        elif node.op_type == "If":
            body = _body(node, "then_branch" if times else "else_branch")
            part = _Part(model, body, f"{node.output[0]}/", f"{_label(node)}/", {})
            part.add_weights(f"{node.output[0]}/")
            nodes += part.nodes()
            nodes += _identities(part.results(), node.output)
        else:
            nodes += _unrolled(model, node, times)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _unrolled(model: onnx.ModelProto, loop: onnx.NodeProto, times: int) -> Iterator[onnx.NodeProto]:
    body, name = _body(loop, "body"), loop.output[0]
    carried = [*loop.input[1:]]
    if not carried[0]:  # the condition is left out
        carried[0] = _constant(model, f"{name}/start", np.array(True))
    scanned: list[list[str]] = []
    for i in range(times):
        number = _constant(model, f"{name}/{i}/number", np.array(i, np.int64))
        given = dict(zip((value.name for value in body.input), (number, *carried), strict=False))
        part = _Part(model, body, f"{name}/{i}/", f"{_label(loop)}/{i}/", given)
        part.add_weights(f"{name}/", once=i == 0)
        yield from part.nodes()
        results = part.results()
        carried = results[: len(carried)]
        scanned.append(results[len(carried) :])
    yield from _identities(carried[1:], loop.output)
    for output, parts in zip(loop.output[len(carried) - 1 :], zip(*scanned), strict=False):
        if output:
            sequence = f"{output}/parts"
            yield helper.make_node("SequenceConstruct", parts, [sequence])
            yield helper.make_node("ConcatFromSequence", [sequence], [output], axis=0, new_axis=1)


def _constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def _identities(results: list[str], outputs) -> Iterator[onnx.NodeProto]:
    for result, output in zip(results, outputs, strict=False):
        if output:
            yield helper.make_node("Identity", [result], [output], name=output)


class _Part:
    """A body that runs once: its values get names with a ``prefix``, its nodes ones with a
    ``label``, and ``given`` are its inputs."""

    def __init__(
        self,
        model: onnx.ModelProto,
        body: onnx.GraphProto,
        prefix: str,
        label: str,
        given: dict[str, str],
    ) -> None:
        self._model, self._body, self._label = model, body, label
        self._names = dict(given)
        for node in body.node:
            self._names |= {name: f"{prefix}{name}" for name in node.output if name}

    def add_weights(self, prefix: str, once: bool = True) -> None:
        """Its initializers become the model's, under names that its other runs share."""
        for kind in ("initializer", "sparse_initializer"):
            for tensor in getattr(self._body, kind):
                named = tensor.values if kind == "sparse_initializer" else tensor
                self._names[named.name] = f"{prefix}{named.name}"
                if once:
                    copy = getattr(self._model.graph, kind).add()
                    copy.CopyFrom(tensor)
                    (copy.values if kind == "sparse_initializer" else copy).name = self._names[
                        named.name
                    ]

    def nodes(self) -> list[onnx.NodeProto]:
        described = {}
        for value in (*self._body.value_info, *self._body.output):
            # Sizes may differ from run to run; the type of what another operator gives is needed.
            element = value.type.tensor_type.elem_type
            if element and value.name in self._names:
                described[self._names[value.name]] = element
        made = {self._names[name] for node in self._body.node for name in node.output if name}
        self._model.graph.value_info.extend(
            helper.make_tensor_value_info(name, element, None)
            for name, element in described.items()
            if name in made
        )
        return [_renamed(node, self._names, self._label) for node in self._body.node]

    def results(self) -> list[str]:
        return [self._names.get(value.name, value.name) for value in self._body.output]


def _label(node: onnx.NodeProto) -> str:
    return node.name or next(filter(None, node.output), "?")


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], label: str = "") -> onnx.NodeProto:
    result = onnx.NodeProto()
    result.CopyFrom(node)
    for field in (result.input, result.output):
        for i, name in enumerate(field):
            field[i] = names.get(name, name)
    if label:
        result.name = f"{label}{_label(node)}"
    for attribute in result.attribute:
        if attribute.HasField("g"):
            graph = attribute.g
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own |= {name for inner in graph.node for name in inner.output}
            outer = {old: new for old, new in names.items() if old not in own}
            inner_nodes = [_renamed(inner, outer) for inner in graph.node]
            del graph.node[:]
            graph.node.extend(inner_nodes)
            for value in graph.output:
                value.name = outer.get(value.name, value.name)
    return result
