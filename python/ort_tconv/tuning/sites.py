"""The sites of a model: the operator's nodes, each with the stock nodes that it stands for."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from ..converters.nodes import DOMAIN
from ..models.graphs import Graph, Part


@dataclass(frozen=True)
class Site:
    """A node of ours, and what it stands for."""

    nodes: tuple[str, ...]  #: the candidates of the report among the stock nodes
    stock: Part
    ours: Part

    @property
    def inputs(self) -> list[str]:
        return list(dict.fromkeys((*self.stock.inputs, *self.ours.inputs)))

    def signature(self, observed: Mapping[str, Observed]) -> Hashable:
        """What the times of both forms depend on: not on names, nor on the values of weights."""
        names: dict[str, str] = {"": ""}
        parts = (self.stock.signature(names), self.ours.signature(names))
        return *parts, *((names.get(name), observed[name].signature) for name in self.inputs)


def find_sites(
    original: onnx.ModelProto, converted: onnx.ModelProto, candidates: set[str]
) -> Iterator[Site]:
    """The sites of the main graph, in its order.

    Values keep their names when a model is converted.  So the inputs and the output of a node of
    ours, or what it is computed from if that is new, bound the stock nodes in the original graph.
    """
    before, after = Graph(original.graph), Graph(converted.graph)
    for node in converted.graph.node:
        output = node.output[0] if node.output else ""
        known = before.producer.get(output)
        if node.domain != DOMAIN or known is None or known.domain == DOMAIN:
            continue
        ours = after.part([output], before.values)
        stock = before.part([output], ours.inputs)
        names = tuple(label for label in map(_label, stock.nodes) if label in candidates)
        # What others read of the stock nodes has to be computed in both forms.
        shared = [
            name
            for inner in stock.nodes
            for name in inner.output
            if name != output and name in after.values and before.is_read_outside(name, stock)
        ]
        if shared:
            ours = after.part([output, *shared], ours.inputs)
        if names:
            yield Site(names, replace(stock, outputs=ours.outputs), ours)


def _label(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), "?")


@dataclass(frozen=True)
class Observed:
    """A value at a site's bounds.  ``array`` is None for large floats, which are made up again."""

    dtype: np.dtype
    shape: tuple[int, ...]
    array: np.ndarray | None

    @property
    def signature(self) -> Hashable:
        values = None if self.array is None or self.dtype.kind == "f" else self.array.tobytes()
        return self.dtype.str, self.shape, values

    @classmethod
    def of(cls, array: np.ndarray) -> Observed:
        made_up = array.dtype.kind == "f" and array.nbytes > 1024
        return cls(array.dtype, array.shape, None if made_up else array)

    def get(self) -> np.ndarray:
        if self.array is not None:
            return self.array
        return np.random.default_rng(0).standard_normal(self.shape, np.float32).astype(self.dtype)
