"""Graphs as ONNX has them: who makes and who reads a value, and parts cut out of a model."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from ..converters.nodes import OP_TYPE

_CONVOLUTIONS = ("Conv", "ConvTranspose", OP_TYPE)
_MOST_SCALES = 8  # floats in a tensor whose values may decide on shapes
_FLOAT_TYPES = frozenset(
    getattr(onnx.TensorProto, name) for name in ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16")
)


@dataclass(frozen=True)
class Part:
    """Nodes of a graph in its order, the values and weights that they need, and what they make."""

    nodes: list[onnx.NodeProto]
    inputs: list[str]
    weights: list[onnx.TensorProto]
    outputs: list[str]

    def model(self, whole: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> onnx.ModelProto:
        """As a model of its own, for inputs like ``feeds``; ``whole`` is what it is a part of."""
        result = onnx.ModelProto(ir_version=whole.ir_version)
        result.opset_import.extend(whole.opset_import)
        result.functions.extend(whole.functions)
        result.graph.name = "site"
        result.graph.node.extend(self.nodes)
        result.graph.initializer.extend(self.weights)
        for name in self.inputs:
            dtype = onnx.helper.np_dtype_to_tensor_dtype(feeds[name].dtype)
            value = onnx.helper.make_tensor_value_info(name, dtype, feeds[name].shape)
            result.graph.input.append(value)
        result.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.outputs)
        return result

    def signature(self, names: dict[str, str]) -> bytes:
        """The nodes with their attributes and the shapes of weights; ``names`` collects those of
        values with what stands for them."""

        def number(name: str) -> str:
            return names.setdefault(name, str(len(names)))

        convolutions = (node for node in self.nodes if node.op_type in _CONVOLUTIONS)
        weights = {name for node in convolutions for name in node.input[1:3]}
        graph = onnx.GraphProto()
        for node in self.nodes:
            plain = graph.node.add(op_type=node.op_type, domain=node.domain, overload=node.overload)
            plain.input.extend(map(number, node.input))
            plain.output.extend(map(number, node.output))
            plain.attribute.extend(sorted(node.attribute, key=lambda a: a.name))
            for attribute in plain.attribute:
                if attribute.HasField("t"):
                    attribute.t.CopyFrom(_outline(attribute.t, node.output[0] in weights))
        for weight in self.weights:
            outline = _outline(weight, weight.name in weights)
            outline.name = number(weight.name)
            graph.initializer.append(outline)
        graph.output.extend(onnx.ValueInfoProto(name=number(name)) for name in self.outputs)
        return graph.SerializeToString(deterministic=True)


def _outline(tensor: onnx.TensorProto, is_weight: bool) -> onnx.TensorProto:
    """A tensor without its name and, unless these may be shapes, scales or pads, its values."""
    result = onnx.TensorProto()
    large = tensor.data_type in _FLOAT_TYPES and math.prod(tensor.dims) > _MOST_SCALES
    if is_weight or large:
        result.dims.extend(tensor.dims)
        result.data_type = tensor.data_type
    else:
        result.CopyFrom(tensor)
        result.ClearField("name")
    return result


class Graph:
    """Who makes and who reads each value of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        inputs = {value.name for value in graph.input}
        self.graph = graph
        self.weights = {t.name: t for t in graph.initializer if t.name not in inputs}
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self.values = self.producer.keys() | inputs
        self.outputs = {value.name for value in graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        self.constant = set(self.weights)
        for node in graph.node:  # in order of computation
            names = list(reads(node))
            for name in names:
                self.readers.setdefault(name, []).append(node)
            if not is_random(node) and all(name in self.constant for name in names):
                self.constant.update(node.output)

    def is_read_outside(self, name: str, part: Part) -> bool:
        inside = {id(node) for node in part.nodes}
        readers = self.readers.get(name, ())
        return name in self.outputs or any(id(reader) not in inside for reader in readers)

    def part(self, outputs: list[str], bounds: Container[str]) -> Part:
        """What computes ``outputs``, back to values among ``bounds``.

        Constants are followed to their origin.  Of a value whose shape alone is read, the value
        itself is an input: its computation may be most of the model.
        """
        wanted: set[int] = set()
        weights: dict[str, onnx.TensorProto] = {}
        inputs: dict[str, None] = {}
        queue = list(outputs)
        while queue:
            name = queue.pop()
            is_bound = name in bounds and name not in self.constant and name not in outputs
            if name in self.weights:
                weights[name] = self.weights[name]
            elif name not in self.producer or is_bound:
                inputs[name] = None
            elif id(node := self.producer[name]) not in wanted:
                wanted.add(id(node))
                if node.op_type == "Shape" and name not in self.constant:
                    inputs[node.input[0]] = None
                else:
                    queue.extend(reads(node))
        nodes = [node for node in self.graph.node if id(node) in wanted]
        made = {name for node in nodes for name in node.output}
        inner = [name for name in inputs if name not in made]
        return Part(nodes, inner, list(weights.values()), outputs)


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its subgraphs take from outside included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            own = {v.name for v in (*graph.input, *graph.initializer)}
            for inner in graph.node:
                yield from (name for name in reads(inner) if name not in own)
                own.update(inner.output)


def is_random(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")
