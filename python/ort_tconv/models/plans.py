"""Plans and predicted costs of nodes, from the cost model that a session uses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto

from ..base import machine
from ..converters.schema import CONV_TRANSPOSE_ATTRIBUTES
from .shapes import TypedNode, Value

_FLOATS = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}
_BYTES = {TensorProto.UINT8: "uint8", TensorProto.INT8: "int8"}


def dtype_name(node: TypedNode) -> str | None:
    """Name of the type that the operator computes a node in, None if it is not known."""
    element = next((value.elem_type for value in node.inputs[:2] if value.elem_type), 0)
    return (_BYTES if node.is_quantized else _FLOATS).get(element)


def itemsize(dtype: str) -> int:
    """Bytes of a value, by the name that :func:`dtype_name` gives."""
    # Without the operator quantised values are turned into float32.
    return {"float64": 8, "float32": 4, "uint8": 4, "int8": 4}.get(dtype, 2)


@dataclass(frozen=True)
class Problem:
    """What the plan of a transposed convolution depends on; None where it is not known."""

    x_shape: tuple[int, ...] | None
    w_shape: tuple[int, ...] | None
    dtype: str | None
    attributes: dict[str, Any]  #: those that ConvTranspose has, too
    where: str
    algorithm: str = ""
    weights: str = ""
    quantized: bool = False

    @classmethod
    def of(cls, node: TypedNode) -> Problem:
        operands = [0, 3 if node.is_quantized else 1]
        given = [node.inputs[index] for index in operands if index < len(node.inputs)]
        x, w = (*given, Value(), Value())[:2]
        attributes = {
            name: value
            for name, value in node.attributes.items()
            if name in CONV_TRANSPOSE_ATTRIBUTES and value is not None
        }
        own = (node.attributes.get(name) or "" for name in ("algorithm", "weights"))
        dtype, where = dtype_name(node), node.where
        return cls(x.shape, w.shape, dtype, attributes, where, *own, node.is_quantized)


class Planner:
    """Plans and costs for one machine: an instruction set, "" for the one in use, and threads."""

    def __init__(self, isa: str, threads: int) -> None:
        self._isa, self._threads = isa, threads

    def solve(self, problem: Problem) -> tuple[dict[str, Any], tuple[int, ...]]:
        """The plan, as ``_core.plan`` gives it, and the shape of Y.

        Raises ValueError that says what is missing, or wrong.
        """
        from .._core import output_shape

        x, w, dtype = problem.x_shape, problem.w_shape, problem.dtype
        if x is None or w is None or dtype is None:
            missing = "type of X" if x and w else f"shape of {'W' if x else 'X'}"
            hint = "; it may differ from run to run of its body"
            hint = hint if "subgraph" in problem.where else ""
            raise ValueError(f"the {missing} is not known{hint}")
        try:
            plan = self._plan_of(problem, x, w, dtype)
            y, _ = output_shape(x, w, **problem.attributes)
        except (TypeError, RuntimeError) as error:  # a node that the operator refuses, too
            raise ValueError(str(error)) from error
        return plan, tuple(y)

    def _plan_of(
        self, problem: Problem, x: Sequence[int], w: Sequence[int], dtype: str
    ) -> dict[str, Any]:
        if not problem.quantized:
            return self._plan(x, w, dtype, problem.attributes, problem.algorithm, problem.weights)
        from .._core import quantized_plan

        return quantized_plan(
            x,
            w,
            isa=self._isa,
            algorithm=problem.algorithm,
            threads=self._threads,
            **problem.attributes,
        )

    def _plan(
        self,
        x: Sequence[int],
        w: Sequence[int],
        dtype: str,
        attributes: Mapping[str, Any],
        algorithm: str,
        weights: str = "",
    ) -> dict[str, Any]:
        from .._core import plan

        return plan(
            x,
            w,
            dtype=dtype,
            isa=self._isa,
            threads=self._threads,
            algorithm=algorithm,
            weights=weights,
            **attributes,
        )

    def cost_of_sums(self, node: TypedNode) -> float:
        """Predicted cost of a convolution or matrix product, 0 for other nodes.

        Each is a stride-1 convolution of the same sums, and that is a transposed one with the
        kernel flipped: the cost model need not know anything else.
        """
        problem = _as_stride_one(node)
        if problem is None:
            return 0.0
        x, w, group = problem
        dtype = _FLOATS.get(node.outputs[0].elem_type, "float32")
        attributes = {"group": group, "auto_pad": "SAME_UPPER"}
        try:
            return self._plan(x, w, dtype, attributes, "direct")["cost"]
        except ValueError:  # more axes than the operator has, say
            return 0.0


def plan_of(node: TypedNode) -> dict[str, Any]:
    """The plan with which this machine runs a node of the operator, as ``_core.plan`` gives it.

    Raises ValueError that says what is missing, or wrong with the node.
    """
    return Planner("", machine.usable_cores()).solve(Problem.of(node))[0]


def _as_stride_one(
    node: TypedNode,
) -> tuple[tuple[int, ...], tuple[int, ...], int] | None:
    """Shapes of X and W and the group of a stride-1 transposed convolution with the same sums."""
    if len(node.inputs) < 2 or not node.outputs or node.domain not in ("", "com.microsoft"):
        return None
    a, b, y = node.inputs[0].shape, node.inputs[1].shape, node.outputs[0].shape
    if not a or not b or not y or min(*a, *b, *y) < 1:
        return None
    if node.op_type in ("Conv", "FusedConv") and len(b) == len(y) > 2:
        group = node.attributes.get("group", 1)
        return (y[0], b[1] * group, *y[2:]), (b[1] * group, b[0] // group, *b[2:]), group
    if node.op_type in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm") and len(y) >= 2:
        transposed = node.op_type == "Gemm" and node.attributes.get("transA", 0)
        depth = a[0] if transposed else a[-1]
        return (1, depth, math.prod(y[:-1])), (depth, y[-1], 1), 1
    return None
