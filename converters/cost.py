"""What nodes compute and move, and whether a rewrite can win."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from .facts import Facts
from .nodes import input_of, is_operator, is_quantized_operator, own_op
from .report import Cost


def cost_of(nodes: Iterable[ir.Node], facts: Facts) -> Cost:
    """Cost of nodes that run one after the other."""
    macs, moved = 0, 0
    for node in nodes:
        macs = _plus(macs, _macs(node, facts))
        moved = _plus(moved, _bytes(node, facts))
    return Cost(macs, moved)


def _plus(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def _macs(node: ir.Node, facts: Facts) -> int | None:
    quantized = is_quantized_operator(node)
    transposed = quantized or is_operator(node) or own_op(node, "ConvTranspose")
    if not transposed and not own_op(node, "Conv"):
        return 0
    weights = facts.static(input_of(node, 3 if quantized else 1))
    pixels = _elements(input_of(node, 0) if transposed else node.outputs[0], facts, axes=2)
    return None if weights is None or pixels is None else pixels * math.prod(weights)


def _elements(value: ir.Value | None, facts: Facts, axes: int = 0) -> int | None:
    """Elements of a value; with ``axes`` = 2, of one channel."""
    dims = facts.dims(value)
    if not dims:
        return None if dims is None else 1
    numbers = [size.number for size in dims]
    if len(numbers) > 2 and numbers[0] is None:
        numbers[0] = 1
    if axes:
        numbers[1] = 1
    return None if None in numbers else math.prod(numbers)  # type: ignore[arg-type]


def _bytes(node: ir.Node, facts: Facts) -> int | None:
    total: int | None = 0
    width = next((v.dtype.itemsize for v in (*node.outputs, *node.inputs) if v and v.dtype), None)
    for value in dict.fromkeys((*node.inputs, *node.outputs)):
        if value is not None:
            count = _elements(value, facts)
            size = width if value.dtype is None else value.dtype.itemsize
            total = None if None in (total, count, size) else total + math.ceil(count * size)
    return total


# ---- the static rule ---------------------------------------------------------------------------


def nominal_sides(x: ir.Value, axes: int, facts: Facts) -> tuple[int, list[int]]:
    """Batch and sides of ``x``, assumed where they are not known."""
    from .._core import nominal_side

    dims = facts.dims(x)
    known = [None] * (axes + 2) if dims is None or len(dims) != axes + 2 else dims
    numbers = [None if size is None else size.number for size in known]
    sides = [nominal_side(axes) if n is None else n for n in numbers[2:]]
    return (1 if numbers[0] is None else numbers[0]), sides


def nominal_elements(value: ir.Value, facts: Facts) -> float:
    """Elements of an image [N, C, D1, ...], each unknown side of which is assumed."""
    from .._core import nominal_side

    dims = facts.dims(value) or ()
    side = nominal_side(max(1, len(dims) - 2))
    return math.prod(
        float(size.factor) * (1 if axis == 0 and size.dims else side ** len(size.dims))
        for axis, size in enumerate(dims)
    )


def engine_cost(dtype: str, x: Sequence[int], w: Sequence[int], **attributes) -> float:
    """Cost by the operator's plan, in vector multiply-adds."""
    from .._core import plan

    return plan(x, w, dtype=dtype, **attributes)["cost"]


def cost_without_winograd(dtype: str, x: Sequence[int], w: Sequence[int], **attributes) -> float:
    """Cost by the best of the operator's plans that sum products as they are."""
    from .._core import algorithms

    names = [name for name in algorithms() if name != "winograd"]
    return min(engine_cost(dtype, x, w, algorithm=name, **attributes) for name in names)


def quantized_cost(x: Sequence[int], w: Sequence[int], **attributes) -> tuple[str, float, int]:
    """The set of kernels in use for 8 bits, multiply-adds of its vectors in the operator on an
    input of shape ``x`` and weights of shape ``w``, and elements of the result.

    Winograd's are as many as without it: it saves some, and transforms instead.
    """
    from .._core import output_shape, quantized_plan

    plan = quantized_plan(x, w, **attributes)
    if plan["algorithm"] == "winograd":
        plan = quantized_plan(x, w, algorithm="direct", **attributes)
    y, _ = output_shape(x, w, **attributes)
    return plan["isa"], plan["work"]["multiply_adds"], math.prod(y)


def least_conv_cost(
    dtype: str, x: Sequence[int], w: Sequence[int], *, columns: bool, **attributes
) -> float:
    """Cost of what no direct Conv can do without, given as a transposed one of stride 1.

    These are its multiply-adds, of channels that fill whole vectors, and input, weights and output
    moved once; and where ONNX Runtime unfolds its input into ``columns``, a value for each tap,
    those written and read.
    """
    from .._core import least_conv_cost as cost

    return cost(x, w, dtype, columns, **attributes)


def moving_cost(elements: float, dtype: str, *, shuffled: bool = False) -> float:
    """Cost of reading or writing so many values, in order or not."""
    from .._core import moving_cost as cost

    return cost(elements, dtype, shuffled)


def relayout_cost(elements: float) -> float:
    """Cost of copying so many values between ONNX Runtime's blocked layout and the plain one."""
    from .._core import relayout_cost as cost

    return cost(elements)
