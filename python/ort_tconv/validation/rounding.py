"""Tells rounding errors that a model enlarges from wrong results.

Two models that compute the same up to rounding may differ by much more where a model makes a step
of a difference (``Round``, a ``Cast`` to integers, ``ArgMax``, a quantisation) or enlarges it (a
division by what is nearly 0, a sum that cancels).  No tolerance of the outputs tells this from an
error.  So the rewrite is checked piece by piece, with stock's values at every seam:

- each node of the operator, given the values that stock has at its inputs, agrees with stock's
  result within the rounding error of its own sums, which scales with :math:`\\sum |x| |w|`;
- the rest of the model, given stock's results in place of these nodes, computes the outputs that
  the rest of the original computes from them.

If both hold, nothing is left that could differ but rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from ..converters.nodes import DOMAIN, OP_TYPE
from ..models.graphs import Graph, Part, reads
from .tolerance import absolute_floor, reductions_by_node, relative_tolerance

#: Operators whose result is a step in their input, ``Cast`` to integers aside.
_STEPS = frozenset(
    """
    And ArgMax ArgMin Bernoulli BitShift Ceil Compress DequantizeLinear DynamicQuantizeLinear Equal
    Floor Greater GreaterOrEqual Hardmax IsInf IsNaN Less LessOrEqual Mod Multinomial
    NonMaxSuppression NonZero Not Or QuantizeLinear Round Shrink Sign ThresholdedRelu TopK Unique
    Where Xor
    """.split()  # noqa: SIM905
)
#: Operators with an attribute ``seed``, of these types; without one each session draws for itself.
_RANDOM = {
    "Bernoulli": onnx.AttributeProto.FLOAT,
    "Dropout": onnx.AttributeProto.INT,
    "Multinomial": onnx.AttributeProto.FLOAT,
    "RandomNormal": onnx.AttributeProto.FLOAT,
    "RandomNormalLike": onnx.AttributeProto.FLOAT,
    "RandomUniform": onnx.AttributeProto.FLOAT,
    "RandomUniformLike": onnx.AttributeProto.FLOAT,
}
_SEEDED_DROPOUT = 12  # the opset since which Dropout is random outside of training programs
# The largest slope of the operator's activations, but for parameters.
_STEEPEST = 1.5


def is_step(node: onnx.NodeProto) -> bool:
    """Whether the result of ``node`` jumps where its input changes a little."""
    if node.op_type == "Cast":
        to = next((item.i for item in node.attribute if item.name == "to"), 0)
        return not np.issubdtype(helper.tensor_dtype_to_np_dtype(to), np.floating) if to else False
    return node.op_type in _STEPS or node.op_type.startswith("QLinear")


# ---- random operators --------------------------------------------------------------------------


def seeded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model with a seed in every random node that has none, and these nodes; the model itself
    if there is none."""
    if not any(_unseeded(model)):
        return model, []
    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = []
    for node in _unseeded(result):
        kind = _RANDOM[node.op_type]
        value = {"f": 0.5} if kind == onnx.AttributeProto.FLOAT else {"i": 1}
        node.attribute.add(name="seed", type=kind, **value)
        names.append(f"{node.op_type} '{node.name or node.output[0]}'")
    return result, names


def _unseeded(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    def of(nodes, opset: int) -> Iterator[onnx.NodeProto]:
        for node in nodes:
            random = node.op_type in _RANDOM and node.domain in ("", "ai.onnx")
            random = random and (node.op_type != "Dropout" or opset >= _SEEDED_DROPOUT)
            if random and all(item.name != "seed" for item in node.attribute):
                yield node
            for item in node.attribute:
                for graph in (*([item.g] if item.HasField("g") else ()), *item.graphs):
                    yield from of(graph.node, opset)

    for owner, nodes in ((model, model.graph.node), *((f, f.node) for f in model.functions)):
        versions = (item.version for item in owner.opset_import if item.domain in ("", "ai.onnx"))
        yield from of(nodes, next(versions, 0))


# ---- sites -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A node of the operator, and the value of the original that it, or a Cast of it, gives."""

    node: onnx.NodeProto
    result: str
    part: Part

    def proto(self, whole: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
        """A model of the site alone, which takes ``values`` and gives its result."""
        return self.part.model(whole, values)

    def magnitudes(
        self, whole: onnx.ModelProto, values: Mapping[str, np.ndarray]
    ) -> onnx.ModelProto:
        """A model of the sums of magnitudes that lie behind the site's result, in float32."""
        result = self.part.model(whole, values)
        nodes = list(result.graph.node)
        index = next(i for i, node in enumerate(nodes) if node.output == self.node.output)
        del result.graph.node[index:]
        sums = onnx.NodeProto(op_type=OP_TYPE, domain=DOMAIN, output=["magnitudes"])
        for i, name in enumerate(self.node.input):
            cast = helper.make_node("Cast", [name], [f"magnitudes_{i}"], to=onnx.TensorProto.FLOAT)
            absolute = helper.make_node("Abs", [f"magnitudes_{i}"], [f"magnitudes_{i}_abs"])
            result.graph.node.extend((cast, absolute))
            sums.input.append(f"magnitudes_{i}_abs")
        left_out = ("activation", "activation_params", "algorithm", "weights", "weight_scales")
        sums.attribute.extend(a for a in self.node.attribute if a.name not in left_out)
        sums.attribute.append(helper.make_attribute("algorithm", "direct"))
        result.graph.node.append(sums)
        del result.graph.output[:]
        result.graph.output.append(onnx.ValueInfoProto(name="magnitudes"))
        return result

    def tolerance(
        self, proto: onnx.ModelProto, magnitudes: np.ndarray, dtype: int, tf32: bool
    ) -> float:
        """Rounding error allowed in the site's result, a tensor of type ``dtype``."""
        shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in proto.graph.input
        }
        lengths = [r for one in reductions_by_node(proto, shapes) for r in one]
        finite = magnitudes[np.isfinite(magnitudes)]
        given = (a.floats for a in self.node.attribute if a.name == "activation_params")
        slopes = [abs(slope) for floats in given for slope in floats]
        steepest = max([_STEEPEST, *(slope for slope in slopes if np.isfinite(slope))])
        relative = relative_tolerance(lengths, dtype, tf32)
        # What an activation gives may be less exact than its input.
        floor = absolute_floor([onnx.NodeProto(op_type="Sigmoid")], dtype)
        activated = any(a.name == "activation" for a in self.node.attribute)
        return relative * steepest * float(finite.max(initial=0.0)) + floor * activated


def find_sites(original: onnx.ModelProto, converted: onnx.ModelProto) -> list[Site] | None:
    """The sites of the main graph; None if there are others, or one that cannot be told."""
    before, after = Graph(original.graph), Graph(converted.graph)
    sites = []
    for node in converted.graph.node:
        if node.domain != DOMAIN or node.op_type != OP_TYPE:
            continue
        result = node.output[0]
        readers = after.readers.get(result, [])
        if result not in before.values and len(readers) == 1 and readers[0].op_type == "Cast":
            result = readers[0].output[0]
        if result not in before.values:
            return None
        part = after.part([result], before.values)
        if not set(part.inputs) <= before.values | before.constant:
            return None
        sites.append(Site(node, result, part))
    return sites


def without(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """What is left of a model if ``values`` are its inputs, and not computed by it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    wanted = {value.name for value in graph.output} - values.keys()
    kept = []
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        wanted |= set(reads(node)) - values.keys()
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(kept)
    outputs = [value for value in graph.output if value.name not in values]
    del graph.output[:]
    graph.output.extend(outputs)
    inputs = {value.name for value in graph.input}
    read = {name for node in kept for name in reads(node)}
    for name, array in values.items():
        if name in read and name not in inputs:
            dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(helper.make_tensor_value_info(name, dtype, array.shape))
    described = [value for value in graph.value_info if value.name not in values]
    del graph.value_info[:]
    graph.value_info.extend(described)
    return result
