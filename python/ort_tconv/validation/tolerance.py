"""How much rounding error a model may have, from its types and the lengths of its sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import TensorProto

from ..converters.external_data import Extent, is_external
from ..models.shapes import ValueInfo, constants, declared_values

#: Largest relative error of rounding to each type, half a unit in the last place.
UNIT_ROUNDOFF = {
    TensorProto.FLOAT: 2.0**-24,
    TensorProto.DOUBLE: 2.0**-53,
    TensorProto.FLOAT16: 2.0**-11,
    TensorProto.BFLOAT16: 2.0**-8,
}
TF32_ROUNDOFF = 2.0**-11
#: The same by the operator's attribute ``weights``.  That of int8 is for weights whose values are
#: not known: :func:`int8_roundoff` where the largest is seven times the typical one.
WEIGHT_ROUNDOFF = {
    "float16": UNIT_ROUNDOFF[TensorProto.FLOAT16],
    "bfloat16": UNIT_ROUNDOFF[TensorProto.BFLOAT16],
    "int8": 2.0**-6,
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
    2^-11 or 2^-8 for weights that the operator keeps as float16 or bfloat16,
    :func:`int8_roundoff` for those that it keeps as int8, else 0.

    The error of a sum of K products is at most :math:`\gamma_K \sum |x||w|`,
    :math:`\gamma_K = K u / (1 - K u)` (Higham, Accuracy and Stability of Numerical Algorithms,
    2nd ed., section 3.1).  Rounding errors behave as if they were independent, so the one to expect
    grows with :math:`\sqrt K u` (Higham and Mary, A New Approach to Probabilistic Rounding Error
    Analysis, SIAM J. Sci. Comput. 41(5), 2019), and those of several nodes add in quadrature.  16
    and 4 cover the largest error of many, both sides of the comparison having one.  Weights rounded
    to 16 bits change each product by up to :math:`w`, independently: the sum by about :math:`w`
    times its own typical size, two or three times that where transformed weights are rounded;
    those rounded to 8 bits change it by :math:`w` times that as they are defined.

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


def int8_roundoff(w: np.ndarray, group: int = 1, scales: Sequence[float] = ()) -> float:
    r"""What rounding to int8 does to weights [C, M/group, k1, ..., kd].

    .. math:: \max_m \| w_m - s_m q_m \| / \max_m \| w_m \|

    over the output channels :math:`m`, Euclidean norms, where :math:`q` is :math:`w / s` rounded,
    and the scales :math:`s` are those given or else :math:`\max |w_m| / 127`.  Each weight is off
    by half a scale at most.  0 for weights without a finite size.
    """
    (inputs, outputs), taps = w.shape[:2], math.prod(w.shape[2:])
    rows = w.astype(np.float64).reshape(group, inputs // group, outputs, taps).swapaxes(1, 2)
    rows = rows.reshape(group * outputs, inputs // group * taps)
    largest = np.abs(rows).max(axis=1, initial=0)
    step = np.broadcast_to(np.asarray(scales, np.float64), len(rows)) if scales else largest / 127
    step = np.where(step == 0, 1, step)[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.linalg.norm(rows - np.rint(rows / step) * step, axis=1).max(initial=0)
        size = np.linalg.norm(rows, axis=1).max(initial=0)
    return float(errors / size) if 0 < size < np.inf else 0.0


# ---- finding the reductions of a model ---------------------------------------------------------

_UNKNOWN: ValueInfo = (TensorProto.UNDEFINED, None)


def reductions_by_node(
    model: onnx.ModelProto,
    input_shapes: Mapping[str, Sequence[int]],
    folder: Path | None = None,
) -> list[list[Reduction]]:
    """The reductions in each node of the main graph, bodies and called functions included.

    External data is looked for in ``folder``.
    """
    functions = {(f.domain, f.name): f for f in model.functions}
    seen = _Constants({}, folder).within(model.graph.node, model.graph.initializer)
    scope = declared_values(model.graph)
    for name, shape in input_shapes.items():
        scope[name] = (scope.get(name, _UNKNOWN)[0], shape)
    return [list(_of_node(node, scope, functions, seen)) for node in model.graph.node]


@dataclass(frozen=True)
class _Constants:
    """What is known of weights, by name where a node stands."""

    tensors: Mapping[str, onnx.TensorProto]
    folder: Path | None

    def within(
        self, nodes: Iterable[onnx.NodeProto], initializers: Iterable[onnx.TensorProto] = ()
    ) -> _Constants:
        """Those that nodes see in a graph of this one."""
        found = {tensor.name: tensor for tensor in initializers}
        for node in nodes:
            if node.op_type == "Constant":
                found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        return _Constants({**self.tensors, **found}, self.folder)

    def roundoff(
        self, node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]
    ) -> float:
        """What keeping a node's weights in fewer bits does to them."""
        kept = attributes["weights"].s.decode() if "weights" in attributes else ""
        w = self._array(node.input[1]) if kept == "int8" else None
        if w is not None and w.ndim >= 2:
            group = max(1, attributes["group"].i) if "group" in attributes else 1
            given = attributes.get("weight_scales")
            scales = [] if given is None else list(given.floats)
            if len(w) % group == 0 and len(scales) in (0, 1, w.shape[1] * group):
                return int8_roundoff(w, group, scales)
        return WEIGHT_ROUNDOFF.get(kept, 0.0)

    def _array(self, name: str) -> np.ndarray | None:
        tensor = self.tensors.get(name)
        if tensor is None:
            return None
        if not is_external(tensor):
            return onnx.numpy_helper.to_array(tensor)
        if self.folder is None or tensor.data_type != TensorProto.FLOAT:
            return None
        return np.frombuffer(Extent.of(tensor, self.folder).read(), "<f4").reshape(tensor.dims)


def _of_node(
    node: onnx.NodeProto,
    scope: Mapping[str, ValueInfo],
    functions: Mapping[tuple[str, str], onnx.FunctionProto],
    seen: _Constants,
) -> Iterator[Reduction]:
    inputs = [scope.get(name, _UNKNOWN) for name in node.input]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if (node.domain, node.op_type) in functions:
        function = functions[node.domain, node.op_type]
        body = dict(zip(function.input, inputs, strict=False))
        body.update(constants(function.node))
        own = _Constants({}, seen.folder).within(function.node)
        for inner in function.node:
            yield from _of_node(inner, body, functions, own)
    elif node.op_type in _LENGTHS and len(inputs) >= 2:
        _, shape = inputs[1]
        length = _UNKNOWN_LENGTH
        if shape is not None and len(shape) >= 2:
            length = max(1, _LENGTHS[node.op_type](shape, attributes))
        kept = seen.roundoff(node, attributes)
        yield Reduction(length, inputs[1][0] or inputs[0][0], kept)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inner_scope = {**scope, **declared_values(graph)}
            inner_seen = seen.within(graph.node, graph.initializer)
            for inner in graph.node:
                yield from _of_node(inner, inner_scope, functions, inner_seen)


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
