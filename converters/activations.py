"""Recognises activations: single operators, and the sub-graphs by which exporters write them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .facts import Facts
from .nodes import attribute, input_of, own_op, readers
from .rewrite import Refusal

Params = tuple[float, ...]


@dataclass(frozen=True)
class Activation:
    """Name and parameters as the operator has them."""

    name: str
    params: Params = ()

    def attributes(self) -> list[ir.Attr]:
        result = [ir.AttrString("activation", self.name)]
        if self.params:
            result.append(ir.AttrFloat32s("activation_params", self.params))
        return result


# ---- single operators --------------------------------------------------------------------------


def _plain(name: str) -> Callable[..., Activation]:
    return lambda node, facts, channels, rank: Activation(name)


def _with_attributes(name: str, **defaults: float) -> Callable[..., Activation]:
    def read(node: ir.Node, facts: Facts, channels: int | None, rank: int) -> Activation:
        values = [attribute(node, key, default) for key, default in defaults.items()]
        if None in values:
            raise Refusal("one of its attributes refers to an attribute of the enclosing function")
        return Activation(name, tuple(float(np.float32(value)) for value in values))

    return read


def _clip(node: ir.Node, facts: Facts, channels: int | None, rank: int) -> Activation:
    bounds = []
    for index, (key, default) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        value = input_of(node, index)
        bound = attribute(node, key, default)
        if value is not None:
            array = facts.array(value)
            bound = None if array is None or array.size != 1 else float(array.reshape(-1)[0])
        if bound is None:
            raise Refusal(f"its {key} is not a constant")
        if math.isnan(bound):
            raise Refusal(f"its {key} is not a number")
        bounds.append(float(bound))
    low, high = bounds
    return Activation("Clip", (min(low, high), high))  # out of order, the upper one wins


def _prelu(node: ir.Node, facts: Facts, channels: int | None, rank: int) -> Activation:
    array = facts.array(input_of(node, 1))
    if array is None:
        raise Refusal("its slopes are not a constant")
    slopes = per_channel(array, channels, rank)
    if slopes is None:
        raise Refusal(f"its slopes have shape {list(array.shape)}: not one for each channel")
    return Activation("PRelu", tuple(slopes.tolist()))


def _gelu(node: ir.Node, facts: Facts, channels: int | None, rank: int) -> Activation:
    form = attribute(node, "approximate", "none")
    if form not in ("none", "tanh"):
        raise Refusal(f"its attribute 'approximate' = '{form}' is not none or tanh")
    return Activation("Gelu" if form == "none" else "GeluTanh")


def _swish(default: float) -> Callable[..., Activation]:
    def read(node: ir.Node, facts: Facts, channels: int | None, rank: int) -> Activation:
        alpha = attribute(node, "alpha", default)
        if alpha != 1:
            raise Refusal(f"its attribute 'alpha' = {alpha}: only x * sigmoid(x) can be fused")
        return Activation("Silu")

    return read


_SINGLE: dict[tuple[str, str], Callable[..., Activation]] = {
    ("", "Clip"): _clip,
    ("", "Elu"): _with_attributes("Elu", alpha=1.0),
    ("", "Gelu"): _gelu,
    ("", "HardSigmoid"): _with_attributes("HardSigmoid", alpha=0.2, beta=0.5),
    ("", "LeakyRelu"): _with_attributes("LeakyRelu", alpha=0.01),
    ("", "PRelu"): _prelu,
    ("", "Swish"): _swish(1.0),
    ("com.microsoft", "FastGelu"): _plain("GeluTanh"),
    ("com.microsoft", "Gelu"): _plain("Gelu"),
    ("com.microsoft", "QuickGelu"): _swish(1.702),
    **{("", name): _plain(name) for name in ("HardSwish", "Relu", "Sigmoid", "Softplus", "Tanh")},
}


def single(node: ir.Node, facts: Facts, channels: int | None, rank: int) -> Activation | None:
    """The activation that ``node`` is; None if it is none, Refusal if it cannot be fused."""
    domain = "" if own_op(node) else node.domain
    read = _SINGLE.get((domain, node.op_type))
    if read is None:
        return None
    if node.op_type == "FastGelu" and len(node.inputs) > 1:
        raise Refusal("it adds a bias")
    return read(node, facts, channels, rank)


def per_channel(array: np.ndarray, channels: int | None, rank: int) -> np.ndarray | None:
    """A constant that is broadcast along all axes but 1, as 1 or ``channels`` values."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    return array.reshape(-1) if shape[1] in (1, channels) else None


# ---- sub-graphs --------------------------------------------------------------------------------
#
# What a chain of operators computes from x is written as a polynomial in x and in functions of
# polynomials: {((atom, power), ...): coefficient}, where an atom is "x" or (function, polynomial).
# However an exporter orders and groups the factors, the polynomial is the same.

Polynomial = dict[tuple, float]
_X: Polynomial = {(("x", 1),): 1.0}
_MOST_NODES = 12
_MOST_TERMS = 8


def _constant(number: float) -> Polynomial:
    return {(): number}


def _add(a: Polynomial, b: Polynomial, sign: float = 1.0) -> Polynomial:
    result = dict(a)
    for term, coefficient in b.items():
        result[term] = result.get(term, 0.0) + sign * coefficient
    return {term: coefficient for term, coefficient in result.items() if coefficient}


def _multiply(a: Polynomial, b: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for (p, c), (q, d) in itertools.product(a.items(), b.items()):
        powers = Counter(dict(p))
        powers.update(dict(q))
        term = tuple(sorted(powers.items(), key=repr))
        result[term] = result.get(term, 0.0) + c * d
    return result


def _call(function: str, argument: Polynomial) -> Polynomial:
    atom = (function, tuple(sorted(argument.items(), key=repr)))
    return {((atom, 1),): 1.0}


def _scaled(a: Polynomial, factor: float) -> Polynomial:
    return {term: coefficient * factor for term, coefficient in a.items()}


def _clip_polynomial(a: Polynomial, low: float, high: float) -> Polynomial | None:
    """Clip(a, 0, h) = h Clip(a / h, 0, 1), so that there is one form of it."""
    if low != 0 or not 0 < high < math.inf:
        return None
    return _scaled(_call("Clip", _scaled(a, 1 / high)), high)


_ROOT = math.sqrt(2 / math.pi)
_GATED = {
    "Gelu": _call("Erf", _scaled(_X, math.sqrt(0.5))),
    "GeluTanh": _call("Tanh", {(("x", 1),): _ROOT, (("x", 3),): 0.044715 * _ROOT}),
}
_FORMS: dict[str, Polynomial] = {
    "HardSwish": _multiply(_X, _call("Clip", {(("x", 1),): 1 / 6, (): 0.5})),
    "Silu": _multiply(_X, _call("Sigmoid", _X)),
    **{
        name: _scaled(_multiply(_X, _add(_constant(1.0), gate)), 0.5)
        for name, gate in _GATED.items()
    },
}
# Constants are rounded to the model's type, and multiplied with each other.
_TOLERANCE = {
    ir.DataType.DOUBLE: 1e-12,
    ir.DataType.FLOAT16: 2.0**-10,
    ir.DataType.BFLOAT16: 2.0**-7,
}


def subgraph(
    value: ir.Value, facts: Facts, rank: int, dtype: ir.DataType | None
) -> tuple[Activation, list[ir.Node]] | None:
    """An activation of ``value`` written out, and its nodes; the last one gives the result.

    Nothing but these nodes reads ``value`` or what they compute on the way, save for its shape.
    """
    tolerance = _TOLERANCE.get(dtype, 1e-6)  # type: ignore[arg-type]
    known: dict[ir.Value, Polynomial] = {value: _X}
    nodes: list[ir.Node] = []
    waiting = [node for node, _ in value.uses()]
    while waiting and len(nodes) < _MOST_NODES:
        node = waiting.pop(0)
        if node in nodes or len(node.outputs) != 1 or node.graph is not value.graph:
            continue
        result = _express(node, known, facts, rank)
        if result is None or len(result) > _MOST_TERMS:
            continue  # another of its inputs may become known later, and bring it back
        nodes.append(node)
        output = node.outputs[0]
        known[output] = result
        for name, form in _FORMS.items():
            if _close(result, form, tolerance):
                used = _leading_to(node, value, nodes)
                if used is not None:
                    return Activation(name), used
        waiting += [consumer for consumer, _ in output.uses()]
    return None


def _leading_to(last: ir.Node, value: ir.Value, nodes: Sequence[ir.Node]) -> list[ir.Node] | None:
    """Those of ``nodes`` that ``last`` needs, in order; None if others read their results."""
    needed, stack = {last}, [last]
    while stack:
        for source in stack.pop().inputs:
            producer = None if source is None else source.producer()
            if producer in nodes and producer not in needed:
                needed.add(producer)
                stack.append(producer)
    inner = [value, *(node.outputs[0] for node in needed if node is not last)]
    for each in inner:
        if each.is_graph_output() or any(user not in needed for user in readers(each)):
            return None
    return [node for node in nodes if node in needed and node is not last] + [last]


def _express(
    node: ir.Node, known: dict[ir.Value, Polynomial], facts: Facts, rank: int
) -> Polynomial | None:
    if not own_op(node):
        return None

    def operand(index: int) -> Polynomial | None:
        source = input_of(node, index)
        if source in known:
            return known[source]
        array = facts.array(source)
        if array is None or array.size != 1 or array.ndim > rank or array.dtype.kind == "b":
            return None
        return _constant(float(array.reshape(-1)[0]))

    a = operand(0)
    if a is None:
        return None
    if node.op_type in ("Erf", "Sigmoid", "Tanh"):
        return _call(node.op_type, a)
    if node.op_type == "Neg":
        return _scaled(a, -1.0)
    if node.op_type == "HardSigmoid":
        alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        if alpha is None or beta is None:
            return None
        return _call("Clip", _add(_scaled(a, alpha), _constant(beta)))
    if node.op_type == "Clip":
        try:
            return _clip_polynomial(a, *_clip(node, facts, None, rank).params)
        except Refusal:
            return None
    if node.op_type not in ("Add", "Sub", "Mul", "Div", "Pow"):
        return None
    b = operand(1)
    if b is None:
        return None
    if node.op_type in ("Add", "Sub"):
        return _add(a, b, 1.0 if node.op_type == "Add" else -1.0)
    if node.op_type == "Mul":
        return _multiply(a, b)
    if set(b) != {()}:
        return None
    number = b[()]
    if node.op_type == "Div":
        return _scaled(a, 1 / number) if number else None
    if number not in (2.0, 3.0):
        return None
    return _multiply(a, a) if number == 2 else _multiply(a, _multiply(a, a))


def _close(a: Polynomial, b: Polynomial, tolerance: float) -> bool:
    """Whether the polynomials are the same but for the rounding of coefficients."""
    if len(a) != len(b):
        return False
    left = list(b.items())
    for term, coefficient in a.items():
        match = next(
            (
                other
                for other in left
                if math.isclose(coefficient, other[1], rel_tol=tolerance)
                and _same_term(term, other[0], tolerance)
            ),
            None,
        )
        if match is None:
            return False
        left.remove(match)
    return True


def _same_term(a: tuple, b: tuple, tolerance: float) -> bool:
    if len(a) != len(b):
        return False
    return any(
        all(p == q and _same_atom(x, y, tolerance) for (x, p), (y, q) in zip(a, order, strict=True))
        for order in itertools.permutations(b)
    )


def _same_atom(a, b, tolerance: float) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return a[0] == b[0] and _close(dict(a[1]), dict(b[1]), tolerance)
