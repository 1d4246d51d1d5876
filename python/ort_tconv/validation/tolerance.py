"""How much rounding error a model may have, from its types and the lengths of its sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from ..models.shapes import ValueInfo, constants, declared_values

#: Largest relative error of rounding to each type, half a unit in the last place.
UNIT_ROUNDOFF = {
    TensorProto.FLOAT: 2.0**-24,
    TensorProto.DOUBLE: 2.0**-53,
    TensorProto.FLOAT16: 2.0**-11,
    TensorProto.BFLOAT16: 2.0**-8,
}
TF32_ROUNDOFF = 2.0**-11
#: The same by the operator's attribute ``weights``.
WEIGHT_ROUNDOFF = {
    "float16": UNIT_ROUNDOFF[TensorProto.FLOAT16],
    "bfloat16": UNIT_ROUNDOFF[TensorProto.BFLOAT16],
}

# The largest of many errors is about 5 standard deviations, both sides of a comparison have one,
# and Winograd's transforms add to ours.
_SUM_FACTOR = 16.0
# A stored result is off by at most one roundoff; again both sides, and the largest of many.
_STORE_FACTOR = 4.0
# Functions into [-1, 1] are computed to a roundoff of 1, not of a result that may be next to 0:
# stock ONNX Runtime's Sigmoid of -15 is off by six percent, that of -20 is 0.
_SATURATING = {"Erf", "HardSigmoid", "Sigmoid", "Softmax", "Tanh"}
# Assumed where a weight's shape is only known when the model runs.
_UNKNOWN_LENGTH = 4096


@dataclass(frozen=True)
class Reduction:
    """A convolution or matrix product: sums of ``length`` products, rounded to ``dtype``; its
    weights are kept with the unit roundoff ``weights``."""

    length: int
    dtype: int  # TensorProto.DataType
    weights: float = 0.0

    def variance(self, tf32: bool) -> float:
        store = UNIT_ROUNDOFF.get(self.dtype, UNIT_ROUNDOFF[TensorProto.FLOAT])
        add = min(store, UNIT_ROUNDOFF[TensorProto.FLOAT])  # 16-bit types accumulate in float32
        if tf32 and self.dtype == TensorProto.FLOAT:
            add = TF32_ROUNDOFF
        kept = (_STORE_FACTOR * self.weights) ** 2
        return (_SUM_FACTOR * add) ** 2 * self.length + (_STORE_FACTOR * store) ** 2 + kept


def relative_tolerance(
    reductions: Iterable[Reduction], dtype: int = TensorProto.FLOAT, tf32: bool = False
) -> float:
    r"""Error allowed in an output of type ``dtype``, relative to its largest magnitude.

    .. math:: \sqrt{(4 v)^2 + \sum_i \left[ (16 u_i)^2 K_i + (4 v_i)^2 + (4 w_i)^2 \right]}

    over the model's reductions (convolutions and matrix products) :math:`i`, sums of :math:`K_i`
    products each, accumulated with unit roundoff :math:`u_i` (2^-53 for float64, else 2^-24, or
    2^-11 for float32 with ``tf32``) and stored with unit roundoff :math:`v_i` (2^-53, 2^-24, 2^-11,
    2^-8 for float64, float32, float16, bfloat16); :math:`v` is that of the output, and :math:`w_i`
    2^-11 or 2^-8 for weights that the operator keeps as float16 or bfloat16, else 0.

    The error of a sum of K products is at most :math:`\gamma_K \sum |x||w|`,
    :math:`\gamma_K = K u / (1 - K u)` (Higham, Accuracy and Stability of Numerical Algorithms,
    2nd ed., section 3.1).  Rounding errors behave as if they were independent, so the one to expect
    grows with :math:`\sqrt K u` (Higham and Mary, A New Approach to Probabilistic Rounding Error
    Analysis, SIAM J. Sci. Comput. 41(5), 2019), and those of several nodes add in quadrature.  16
    and 4 cover the largest error of many, both sides of the comparison having one.  Weights rounded
    to 16 bits change each product by up to :math:`w`, independently: the sum by about :math:`w`
    times its own typical size, two or three times that where transformed weights are rounded.

    In float32 and float64 this lies orders of magnitude below what one missing tap changes, about
    :math:`K^{-1/2}` of the output.  A model that amplifies rounding errors, by dividing by small
    differences say, may exceed it without being wrong.
    """
    store = UNIT_ROUNDOFF.get(dtype, 0.0)
    variance = (_STORE_FACTOR * store) ** 2
    return math.sqrt(variance + sum(reduction.variance(tf32) for reduction in reductions))


def absolute_floor(nodes: Iterable[onnx.NodeProto], dtype: int = TensorProto.FLOAT) -> float:
    """Error allowed in an output of type ``dtype`` whatever its magnitude: 4 roundoffs of 1, those
    of float32 for 16-bit types, if one of ``nodes``, those up to the output, is a function into
    [-1, 1]; else 0."""
    if not any(node.op_type in _SATURATING for node in nodes):
        return 0.0
    return _STORE_FACTOR * min(UNIT_ROUNDOFF.get(dtype, 0.0), UNIT_ROUNDOFF[TensorProto.FLOAT])


# ---- finding the reductions of a model ---------------------------------------------------------

_UNKNOWN: ValueInfo = (TensorProto.UNDEFINED, None)


def reductions_by_node(
    model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]]
) -> list[list[Reduction]]:
    """The reductions in each node of the main graph, bodies and called functions included."""
    functions = {(f.domain, f.name): f for f in model.functions}
    scope = declared_values(model.graph)
    for name, shape in input_shapes.items():
        scope[name] = (scope.get(name, _UNKNOWN)[0], shape)
    return [list(_of_node(node, scope, functions)) for node in model.graph.node]


def _of_node(
    node: onnx.NodeProto,
    scope: Mapping[str, ValueInfo],
    functions: Mapping[tuple[str, str], onnx.FunctionProto],
) -> Iterator[Reduction]:
    inputs = [scope.get(name, _UNKNOWN) for name in node.input]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if (node.domain, node.op_type) in functions:
        function = functions[node.domain, node.op_type]
        body = dict(zip(function.input, inputs, strict=False))
        body.update(constants(function.node))
        for inner in function.node:
            yield from _of_node(inner, body, functions)
    elif node.op_type in _LENGTHS and len(inputs) >= 2:
        _, shape = inputs[1]
        length = _UNKNOWN_LENGTH
        if shape is not None and len(shape) >= 2:
            length = max(1, _LENGTHS[node.op_type](shape, attributes))
        kept = attributes["weights"].s.decode() if "weights" in attributes else ""
        yield Reduction(length, inputs[1][0] or inputs[0][0], WEIGHT_ROUNDOFF.get(kept, 0.0))
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inner_scope = {**scope, **declared_values(graph)}
            for inner in graph.node:
                yield from _of_node(inner, inner_scope, functions)


def _conv_length(shape, attributes) -> int:
    return math.prod(shape[1:])


def _conv_transpose_length(shape, attributes) -> int:
    """Channels of a group times the taps that can meet one output.

    An output meets the taps t with t * dilation = r (mod stride) for one r: every
    (stride / gcd(stride, dilation))-th tap of each axis.
    """
    group = max(1, attributes["group"].i) if "group" in attributes else 1
    ones = [1] * (len(shape) - 2)
    strides = attributes["strides"].ints if "strides" in attributes else ones
    dilations = attributes["dilations"].ints if "dilations" in attributes else ones
    length = shape[0] // group
    for taps, stride, dilation in zip(shape[2:], strides or ones, dilations or ones, strict=False):
        step = max(1, stride // max(1, math.gcd(stride, dilation)))
        length *= -(-taps // step)
    return length


def _matmul_length(shape, attributes) -> int:
    return shape[-2]


def _gemm_length(shape, attributes) -> int:
    return shape[1 if "transB" in attributes and attributes["transB"].i else 0]


_LENGTHS = {
    "Conv": _conv_length,
    "FusedConv": _conv_length,
    "ConvTranspose": _conv_transpose_length,
    "SegregatedConvTranspose": _conv_transpose_length,
    "MatMul": _matmul_length,
    "Gemm": _gemm_length,
}
