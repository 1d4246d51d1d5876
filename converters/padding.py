"""``Pad`` nodes around a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .convolution import check_opset
from .nodes import attribute, input_of
from .rewrite import Refusal, Scope


@dataclass(frozen=True)
class Padding:
    """What a ``Pad`` adds to the spatial axes."""

    mode: str  # constant (zeros), edge or reflect
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def none(cls, axes: int) -> Padding:
        return cls("constant", (0,) * axes, (0,) * axes)

    @property
    def any(self) -> bool:
        return any((*self.begins, *self.ends))


def pad_amounts(node: ir.Node, scope: Scope) -> tuple[str, list[int], list[int]]:
    """Mode of a ``Pad``, and what it adds before and after each axis.

    Raises Refusal if that is not known, if it removes values, or adds a constant other than zero.
    """
    check_opset("Pad", (1, 2, 11, 13, 18, 19, 21, 23, 24, 25), scope)
    mode = attribute(node, "mode", "constant")
    if mode not in ("constant", "edge", "reflect"):
        raise Refusal(f"Pad's mode '{mode}' is not constant, edge or reflect")
    if len(node.inputs) > 1:
        content = scope.facts.content(node.inputs[1])
        amounts = [None] if content is None else [size and size.number for size in content]
        value = 0.0
        if input_of(node, 2) is not None:
            array = scope.facts.array(node.inputs[2])
            value = None if array is None else float(array.reshape(-1)[0])
    else:
        amounts = attribute(node, "pads", attribute(node, "paddings", [None])) or [None]
        value = attribute(node, "value", 0.0)
    if None in amounts:
        raise Refusal("what Pad adds is not known before it runs")
    if mode == "constant" and value != 0:
        raise Refusal(f"Pad adds {'an unknown value' if value is None else value}, not zeros")
    if min(amounts, default=0) < 0:
        raise Refusal(f"Pad's pads {list(amounts)} remove values")
    count = len(amounts) // 2
    begins, ends = list(amounts[:count]), list(amounts[count:])
    if input_of(node, 3) is None:
        return mode, begins, ends
    axes, dims = scope.facts.array(node.inputs[3]), scope.facts.dims(node.inputs[0])
    if axes is None or dims is None or axes.size != count:
        raise Refusal("the axes that Pad extends are not known before it runs")
    all_begins, all_ends = [0] * len(dims), [0] * len(dims)
    for axis, begin, end in zip(axes.reshape(-1).tolist(), begins, ends):
        all_begins[axis], all_ends[axis] = begin, end
    return mode, all_begins, all_ends


def read_padding(node: ir.Node, axes: int, scope: Scope) -> Padding:
    """What ``node`` adds to the spatial axes; raises Refusal if that is not known or not all."""
    mode, begins, ends = pad_amounts(node, scope)
    if len(begins) != axes + 2 or any((*begins[:2], *ends[:2])):
        raise Refusal("Pad extends other than the spatial axes")
    return Padding(mode, tuple(begins[2:]), tuple(ends[2:]))


def insert_pad(
    before: ir.Node,
    x: ir.Value,
    begins: Sequence[int],
    ends: Sequence[int],
    scope: Scope,
    mode: str = "constant",
    value: float = 0.0,
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> ir.Node:
    """A new ``Pad`` of ``x`` [``dtype``], with an amount for each axis, in front of a node."""
    name = scope.facts.fresh_name(f"{x.name}_padded")
    attributes = [ir.AttrString("mode", mode)]
    inputs: list[ir.Value] = [x]
    pads = [*begins, *ends]
    if scope.onnx_opset < 11:  # type: ignore[operator]
        attributes += [ir.AttrInt64s("pads", pads), ir.AttrFloat32("value", value)]
    else:
        tensors = [ir.tensor(np.array(pads, np.int64))]
        if value:
            tensors.append(ir.tensor(np.array(value, dtype.numpy())))
        for tensor in tensors:
            constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)])
            constant.name = constant.outputs[0].name = scope.facts.fresh_name(f"{name}_amounts")
            before.graph.insert_before(before, constant)
            inputs.append(constant.outputs[0])
    node = ir.Node("", "Pad", inputs, attributes, name=name)
    node.outputs[0].name = name
    node.outputs[0].type = x.type
    before.graph.insert_before(before, node)
    return node


def edge_pad(
    before: ir.Node, x: ir.Value, copies: Sequence[Sequence[int]], scope: Scope
) -> ir.Node:
    """A ``Pad`` that repeats the edge of the spatial axes, ``copies`` times at begin and end."""
    begins, ends = ([0, 0, *side] for side in copies)
    return insert_pad(before, x, begins, ends, scope, mode="edge")
