"""How the operator's nodes keep their constant weights: the attribute ``weights``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .facts import Facts
from .nodes import attribute, is_operator, node_label
from .report import Report
from .rewrite import Refusal, Selection, visit

_KEY = "ort_tconv.integers"


@dataclass(frozen=True)
class Integers:
    """What weights are that a model holds as integers: multiples, from -128 to 127, of a scale of
    each output channel; or, without ``scales``, why they are not."""

    scales: np.ndarray | None  #: [M], float32
    reason: str = ""

    @classmethod
    def of(cls, value: ir.Value) -> Integers | None:
        return value.meta.get(_KEY)

    def note(self, value: ir.Value) -> None:
        """Remember it of the constant ``value``."""
        value.meta[_KEY] = self

    def times(self, factors: np.ndarray) -> Integers:
        """The same of weights that are multiplied by a factor for each output channel."""
        if self.scales is None:
            return self
        with np.errstate(over="ignore"):
            return Integers.with_scales(self.scales * factors)

    @classmethod
    def with_scales(cls, scales: np.ndarray) -> Integers:
        with np.errstate(over="ignore"):
            scales = scales.astype(np.float32)
        if not np.isfinite(scales).all():
            return cls(None, "not all of their scales are finite")
        return cls(scales)


def keep_weights(model: ir.Model, facts: Facts, selection: Selection, report: Report) -> bool:
    """Store ``selection.weights`` in the operator's nodes, those that were there before included.

    Returns whether a node changed.  Left alone are nodes that the selection excludes and those
    whose weights are not float32 constants, which are read as they come; of int8 also those whose
    weights were integers that it does not hold, with a note.
    """
    if selection.weights is None:
        return False
    changed = 0
    for node, _ in visit(model, facts):
        if not is_operator(node) or attribute(node, "weights", "float32") == selection.weights:
            continue
        label = node_label(node)
        try:
            selection.refuse(label)
        except Refusal:
            continue
        weights = node.inputs[1]
        tensor = facts.tensor(weights)
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        node.attributes.pop("weight_scales", None)
        integers = Integers.of(weights) if selection.weights == "int8" else None
        if integers is not None and integers.scales is None:
            report.notes.append(f"weights of '{label}' stay float32: {integers.reason}")
            continue
        if integers is not None:
            scales = [float(scale) for scale in integers.scales]
            node.attributes["weight_scales"] = ir.AttrFloat32s("weight_scales", scales)
        node.attributes["weights"] = ir.AttrString("weights", selection.weights)
        changed += 1
    report.notes.append(f"weights kept as {selection.weights}: {changed} nodes")
    return changed > 0
