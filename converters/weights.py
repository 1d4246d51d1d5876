"""How the operator's nodes keep their constant weights: the attribute ``weights``."""

from __future__ import annotations

import onnx_ir as ir

from .facts import Facts
from .nodes import attribute, is_operator, node_label
from .report import Report
from .rewrite import Refusal, Selection, visit


def keep_weights(model: ir.Model, facts: Facts, selection: Selection, report: Report) -> bool:
    """Store ``selection.weights`` in the operator's nodes, those that were there before included.

    Returns whether a node changed.  Left alone are nodes that the selection excludes and those
    whose weights are not float32 constants, which are read as they come.
    """
    if selection.weights is None:
        return False
    changed = 0
    for node, _ in visit(model, facts):
        if not is_operator(node) or attribute(node, "weights", "float32") == selection.weights:
            continue
        try:
            selection.refuse(node_label(node))
        except Refusal:
            continue
        tensor = facts.tensor(node.inputs[1])
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        node.attributes["weights"] = ir.AttrString("weights", selection.weights)
        changed += 1
    report.notes.append(f"weights kept as {selection.weights}: {changed} nodes")
    return changed > 0
