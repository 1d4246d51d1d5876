"""What is known of a model's values before it runs: constants, shapes, and arithmetic on shapes.

Exporters compute sizes from shapes (``Shape``, ``Gather``, ``Mul``, ``Concat`` ...).  With static
shapes all of that is constant; with open ones each size is a product of integers and of dimensions
of some value, and two sizes are equal for every input if their products are.

What other tools find is taken from them: shapes that are known come from ONNX's inference, with its
propagation of data (``value_types.annotate``), and nodes on constants are evaluated by ONNX's own
reference.  Here is what they leave:

- Products and quotients of open dimensions.  ONNX's inference has no value for a ``Mul`` of one,
  nor has onnxscript's folding, which asks for a newer onnx-ir than this package besides.  onnx-ir
  computes with names since 0.2 only, by sympy, which takes longer to import than the rest of a
  conversion, and only where a rule for each operator puts the names in.
- Answers that change nothing: a folding pass replaces the nodes that it folds, whereas what no
  rewrite needs has to stay as it is in the model.  They hold while passes rewrite other nodes.
- Constants that are too large to look at: weights are copied, cast and rearranged when they are
  needed, and those in files that are not there still have shapes.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import onnx
import onnx_ir as ir

from .external_data import is_there
from .nodes import FLOATS, attribute, input_of, is_operator, own_op

#: Elements of a tensor that counts as a shape, or as part of one.
_MOST_CONTENT = 64
#: Elements of tensors that are evaluated to find constants (pads, scales, indices).
_MOST_FOLDED = 4096
# What reading a node raises whose inputs or attributes are not those of its operator: nothing is
# known of such a node.
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Size:
    """A rational number times a product of unknown dimensions.

    ``dims`` maps each of them, sorted, to its exponent.
    """

    factor: Fraction
    dims: tuple[tuple[tuple[int, int], int], ...] = ()

    @classmethod
    def of(cls, number: float | int) -> Size:
        return cls(Fraction(number))

    @property
    def number(self) -> int | None:
        """The size itself if it is a known integer."""
        known = not self.dims and self.factor.denominator == 1
        return self.factor.numerator if known else None

    @property
    def integral(self) -> bool:
        """Whether it is an integer whatever the dimensions are."""
        return self.factor.denominator == 1 and all(power > 0 for _, power in self.dims)

    def _combine(self, other: Size, sign: int) -> tuple[tuple[tuple[int, int], int], ...]:
        powers = Counter(dict(self.dims))
        for dim, power in other.dims:
            powers[dim] += sign * power
        return tuple(sorted((dim, power) for dim, power in powers.items() if power))

    def __mul__(self, other: Size) -> Size:
        if self.factor == 0 or other.factor == 0:
            return Size.of(0)
        return Size(self.factor * other.factor, self._combine(other, 1))

    def __truediv__(self, other: Size) -> Size | None:
        if other.factor == 0:
            return None
        return Size(self.factor / other.factor, self._combine(other, -1))

    def __add__(self, other: Size) -> Size | None:
        if self.factor == 0 or other.factor == 0:
            return other if self.factor == 0 else self
        return Size(self.factor + other.factor, self.dims) if self.dims == other.dims else None


@dataclass(frozen=True)
class _Content:
    """Elements of a tensor of rank 0 or 1; None where one is not known."""

    sizes: tuple[Size | None, ...]
    floating: bool


def product(sizes: Iterable[Size]) -> Size:
    result = Size.of(1)
    for size in sizes:
        result = result * size
    return result


# Operators whose (first) output has the shape of their first input.
_SAME_SHAPE = frozenset(
    """
    Abs BatchNormalization Cast CastLike Celu Clip Cos DequantizeLinear Dropout Elu Erf Exp Gelu
    GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LRN LayerNormalization
    LeakyRelu Log LogSoftmax Mish Neg PRelu QuantizeLinear Reciprocal Relu Selu Sigmoid Sign Sin
    Softmax Softplus Softsign Sqrt Swish Tanh ThresholdedRelu
    """.split()  # noqa: SIM905
)
_ARITHMETIC = frozenset(("Add", "Sub", "Mul", "Div"))
# Operators that are evaluated on constants.
_FOLDED = frozenset(
    """
    Cast Ceil Concat ConstantOfShape Equal Expand Flatten Floor Gather Identity Max Min Neg Pad Pow
    Range Reciprocal ReduceProd Reshape Round ScatterND Shape Size Slice Split Sqrt Squeeze Tile
    Transpose Unsqueeze Where
    """.split()  # noqa: SIM905
).union(_ARITHMETIC)


class Facts:
    """Constants and shapes of a model's values; they stay true while nodes are rewritten."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self._tensors: dict[ir.Value, ir.TensorProtocol | None] = {}
        self._arrays: dict[ir.Value, np.ndarray | None] = {}
        self._dims: dict[ir.Value, tuple[Size, ...] | None] = {}
        self._ids: dict[ir.Value, int] = {}
        self._names: set[str] | None = None
        #: Constants that were computed here, as float64, so that folding again rounds only once.
        self.exact: dict[ir.Value, Callable[[], np.ndarray]] = {}
        self._imports: dict[ir.Graph, dict[str, int]] = {model.graph: model.graph.opset_imports}
        for owner in (model.graph, *model.functions.values()):
            for node in ir.traversal.RecursiveGraphIterator(owner):
                self._imports.setdefault(node.graph, owner.opset_imports)
                for value in node.outputs:
                    self.dims(value)  # in this order no question leads far back

    # ---- names -------------------------------------------------------------------------------

    def fresh_name(self, wanted: str) -> str:
        """``wanted``, or the same with a number if a value of the model has that name."""
        if self._names is None:
            self._names = set()
            for graph in self._imports:
                self._names.update(v.name for v in (*graph.inputs, *graph.initializers.values()))
                for node in graph:
                    self._names.update(value.name for value in node.outputs)
                    self._names.update(value.name for value in node.inputs if value is not None)
        names = (f"{wanted}{number}" for number in ("", *range(1, len(self._names) + 2)))
        name = next(name for name in names if name not in self._names)
        self._names.add(name)
        return name

    # ---- constants ---------------------------------------------------------------------------

    def tensor(self, value: ir.Value | None) -> ir.TensorProtocol | None:
        """The tensor behind an initializer that no caller may replace, or a ``Constant`` node; also
        if it comes through nodes that only copy, cast or rearrange it."""
        if value is None:
            return None
        if value.is_initializer():
            # Before IR version 4 every initializer was an input too, and none could be replaced.
            overridable = value.is_graph_input() and (self.model.ir_version or 0) >= 4
            return None if overridable else value.const_value
        node = value.producer()
        if own_op(node, "Constant"):
            return ir.convenience.get_const_tensor(value)
        if not own_op(node, *_PASSED):
            return None
        if value not in self._tensors:
            self._tensors[value] = None
            with contextlib.suppress(*_MALFORMED):
                source = self.tensor(node.inputs[0])
                if source is not None:
                    self._tensors[value] = _PASSED[node.op_type](self, node, source)
        return self._tensors[value]

    def array(self, value: ir.Value | None) -> np.ndarray | None:
        """Values of a constant, also of one that is computed from constants; None if it is not."""
        if value is None:
            return None
        if value not in self._arrays:
            tensor = self.tensor(value)
            small = tensor is not None and tensor.size <= _MOST_FOLDED
            if tensor is None:
                array = self._fold(value)
            else:
                array = tensor.numpy() if is_there(tensor) else None
            if array is not None and not small:
                return array  # the cache keeps no weights
            self._arrays[value] = array
        return self._arrays[value]

    def float64(self, value: ir.Value) -> Callable[[], np.ndarray] | None:
        """What gives the values of a constant as float64 when they are needed."""
        if value in self.exact:
            return self.exact[value]
        tensor = self.tensor(value)
        return None if tensor is None else lambda: tensor.numpy().astype(np.float64)

    def _fold(self, value: ir.Value) -> np.ndarray | None:
        node = value.producer()
        if not own_op(node) or node.op_type not in _FOLDED or len(node.outputs) != 1:
            return None
        if any(a.is_ref() for a in node.attributes.values()):
            return None
        if node.op_type == "Shape":
            content = self._content(value)
            numbers = [None] if content is None else [s and s.number for s in content.sizes]
            return None if None in numbers else np.array(numbers, np.int64)
        arrays = [None if v is None else self.array(v) for v in node.inputs]
        if any(a is None and v is not None for a, v in zip(arrays, node.inputs, strict=True)):
            return None
        given = [a for a in arrays if a is not None]
        if any(a.size > _MOST_FOLDED for a in given):
            return None
        if node.op_type == "ConstantOfShape" and math.prod(given[0].tolist()) > _MOST_FOLDED:
            return None
        return _evaluate(node, arrays, self.opset_of(node))

    def opset_of(self, node: ir.Node) -> int:
        """Version of ONNX's own operators where ``node`` lives."""
        imports = self._imports[node.graph]
        return imports.get("", imports.get("ai.onnx", 1))

    # ---- shapes ------------------------------------------------------------------------------

    def dims(self, value: ir.Value | None) -> tuple[Size, ...] | None:
        """Shape of a value; None if not even its rank is known."""
        if value is None:
            return None
        if value not in self._dims:
            self._dims[value] = None
            with contextlib.suppress(*_MALFORMED):
                self._dims[value] = self._derive(value)
        return self._dims[value]

    def static(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Shape of a value, if all of it is known."""
        dims = self.dims(value)
        if dims is None:
            return None
        numbers = tuple(size.number for size in dims)
        return None if None in numbers else numbers  # type: ignore[return-value]

    def _derive(self, value: ir.Value) -> tuple[Size, ...] | None:
        tensor = self.tensor(value)
        if tensor is not None:
            return tuple(Size.of(int(n)) for n in tensor.shape)
        declared = None if value.shape is None else list(value.shape)
        derived = None
        if declared is None or not all(isinstance(dim, int) for dim in declared):
            derived = self._of_producer(value)
        if derived is None:
            if declared is None:
                return None
            derived = [None] * len(declared)
        if declared is not None and len(declared) == len(derived):
            derived = [
                Size.of(dim) if isinstance(dim, int) else size
                for dim, size in zip(declared, derived, strict=True)
            ]
        return tuple(
            self._unknown(value, axis) if size is None else size
            for axis, size in enumerate(derived)
        )

    def _unknown(self, value: ir.Value, axis: int) -> Size:
        number = self._ids.setdefault(value, len(self._ids))
        return Size(Fraction(1), (((number, axis), 1),))

    def _of_producer(self, value: ir.Value) -> Sequence[Size | None] | None:
        node = value.producer()
        if is_operator(node):
            return self._of_convolution(node, transposed=True)
        if not own_op(node) or value is not node.outputs[0]:
            return None
        if node.op_type in _SAME_SHAPE:
            return self.dims(input_of(node, 0))
        if node.op_type in ("Conv", "ConvTranspose"):
            return self._of_convolution(node, node.op_type == "ConvTranspose")
        if node.op_type in _ARITHMETIC:
            return _broadcast(*map(self.dims, node.inputs))
        rule = _SHAPE_RULES.get(node.op_type)
        return None if rule is None else rule(self, node)

    def _of_convolution(self, node: ir.Node, transposed: bool) -> Sequence[Size | None] | None:
        x, w = self.dims(input_of(node, 0)), self.dims(input_of(node, 1))
        if w is None or len(w) < 3:
            return None
        axes = len(w) - 2
        group = attribute(node, "group", 1)
        channels = None
        if group is not None:
            channels = w[1] * Size.of(group) if transposed else w[0]
        growth = self.growth(node)
        result: list[Size | None] = [x[0] if x else None, channels]
        for axis in range(axes):
            known = x is not None and growth is not None and growth[axis] is not None
            factor, change = growth[axis] if known else (1, 0)
            result.append(x[2 + axis] * Size.of(factor) + Size.of(change) if known else None)
        return result

    def growth(self, node: ir.Node) -> list[tuple[int, int] | None] | None:
        """How the output side of each spatial axis of a convolution of stride 1, or of a transposed
        one, follows from the input's: times the first number, plus the second."""
        w = self.dims(input_of(node, 1))
        if w is None or len(w) < 3 or "output_shape" in node.attributes:
            return None
        transposed = not own_op(node, "Conv")
        axes = len(w) - 2
        ones, zeros = [1] * axes, [0] * axes
        strides = attribute(node, "strides", ones)
        dilations = attribute(node, "dilations", ones)
        pads = attribute(node, "pads", zeros * 2)
        extra = attribute(node, "output_padding", zeros)
        mode = attribute(node, "auto_pad", "NOTSET")
        if None in (strides, dilations, pads, extra, mode):
            return None
        if mode not in ("NOTSET", "VALID", ""):
            return None if transposed or set(strides) != {1} else [(1, 0)] * axes
        result: list[tuple[int, int] | None] = []
        for i in range(axes):
            taps = w[2 + i].number
            if taps is None or (not transposed and strides[i] != 1):
                result.append(None)
                continue
            reach = (taps - 1) * dilations[i]
            padded = pads[i] + pads[axes + i]
            if transposed:
                result.append((strides[i], extra[i] + reach + 1 - strides[i] - padded))
            else:
                result.append((1, padded - reach))
        return result

    # ---- contents ----------------------------------------------------------------------------

    def content(self, value: ir.Value | None) -> tuple[Size | None, ...] | None:
        """Elements of a tensor of rank 0 or 1 that holds sizes or ratios of sizes."""
        content = None if value is None else self._content(value)
        return None if content is None else content.sizes

    def _content(self, value: ir.Value) -> _Content | None:
        node = value.producer()
        if own_op(node) and node.op_type in _CONTENT_RULES:
            found = None
            with contextlib.suppress(*_MALFORMED):
                found = _CONTENT_RULES[node.op_type](self, node)
            if found is not None and len(found.sizes) <= _MOST_CONTENT:
                return found
        if own_op(node, "Shape"):
            return None
        array = self.array(value)
        if array is None or array.ndim > 1 or array.size > _MOST_CONTENT:
            return None
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            return None
        sizes = tuple(Size.of(number) for number in array.reshape(-1).tolist())
        return _Content(sizes, array.dtype.kind == "f")

    def resolve_reshape(self, node: ir.Node) -> list[Size | None] | None:
        """Shape that a ``Reshape`` gives, with its 0 and -1 filled in."""
        target = self.content(input_of(node, 1))
        if target is None and "shape" in node.attributes:  # before opset 5
            target = tuple(Size.of(n) for n in attribute(node, "shape") or ())
        if target is None:
            return None
        source = self.dims(input_of(node, 0))
        result: list[Size | None] = list(target)
        zero, free = Size.of(0), Size.of(-1)
        if not attribute(node, "allowzero", 0):
            for axis, size in enumerate(result):
                if size == zero:
                    result[axis] = source[axis] if source and axis < len(source) else None
        if free in result:
            axis = result.index(free)
            others = [size for i, size in enumerate(result) if i != axis]
            result[axis] = None
            if source is not None and None not in others:
                result[axis] = product(source) / product(others)  # type: ignore[arg-type]
        return result


def _evaluate(node: ir.Node, arrays: list[np.ndarray | None], opset: int) -> np.ndarray | None:
    """One node, by onnx's reference."""
    from onnx.reference import ReferenceEvaluator

    names = ["" if array is None else f"x{i}" for i, array in enumerate(arrays)]
    given = {name: array for name, array in zip(names, arrays, strict=True) if name}
    proto = onnx.helper.make_node(node.op_type, names, ["y"])
    proto.attribute.extend(ir.to_proto(a) for a in node.attributes.values())
    graph = onnx.helper.make_graph(
        [proto],
        "constant",
        [onnx.ValueInfoProto(name=name) for name in given],
        [onnx.ValueInfoProto(name="y")],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    try:
        evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports))
        return np.asarray(evaluator.run(None, given)[0])
    except Exception:  # the reference raises whatever numpy does; the value is then not known
        return None


# ---- rules: constants --------------------------------------------------------------------------


def _cast_tensor(facts: Facts, node: ir.Node, source: ir.TensorProtocol):
    dtype = ir.DataType(attribute(node, "to"))
    if source.dtype not in FLOATS or dtype not in FLOATS:
        return None
    return _lazy(source, lambda array: array.astype(dtype.numpy()), source.shape, dtype)


def _transposed_tensor(facts: Facts, node: ir.Node, source: ir.TensorProtocol):
    axes = range(len(source.shape))
    perm = attribute(node, "perm", axes[::-1])
    if sorted(perm) != list(axes):
        return None
    shape = [source.shape[axis] for axis in perm]
    return _lazy(source, lambda array: array.transpose(perm), shape)


def _reshaped_tensor(facts: Facts, node: ir.Node, source: ir.TensorProtocol):
    shape = [size.number for size in _SHAPE_RULES[node.op_type](facts, node)]
    if None in shape or math.prod(shape) != source.size:
        return None
    return _lazy(source, lambda array: array.reshape(shape), shape)


def _lazy(
    source: ir.TensorProtocol,
    change: Callable[[np.ndarray], np.ndarray],
    shape: Iterable[int],
    dtype: ir.DataType | None = None,
) -> ir.TensorProtocol | None:
    """``source`` changed, when it is needed; None if its values are in a file that is not there."""
    if not is_there(source):
        return None
    dtype = source.dtype if dtype is None else dtype

    def tensor() -> ir.Tensor:
        with np.errstate(over="ignore"):
            return ir.Tensor(np.ascontiguousarray(change(source.numpy())), dtype=dtype)

    return ir.LazyTensor(tensor, dtype=dtype, shape=ir.Shape(shape))


#: What becomes of a constant in nodes that copy, cast or rearrange it.
_PASSED: dict[str, Callable] = {
    "Cast": _cast_tensor,
    "Identity": lambda facts, node, source: source,
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze"), _reshaped_tensor),
    "Transpose": _transposed_tensor,
}


# ---- rules: shapes -----------------------------------------------------------------------------


def _broadcast(
    first: Sequence[Size | None] | None, second: Sequence[Size | None] | None
) -> list[Size | None] | None:
    if first is None or second is None:
        return None
    rank, one = max(len(first), len(second)), Size.of(1)
    a, b = ((one,) * (rank - len(s)) + tuple(s) for s in (first, second))
    return [p if p == q or q == one else q if p == one else None for p, q in zip(a, b)]


def _transpose_dims(facts: Facts, node: ir.Node):
    dims, perm = facts.dims(node.inputs[0]), attribute(node, "perm")
    if dims is None or (perm is None and "perm" in node.attributes):
        return None
    perm = range(len(dims))[::-1] if perm is None else perm
    return [dims[axis] for axis in perm] if len(perm) == len(dims) else None


def _depth_to_space_dims(facts: Facts, node: ir.Node):
    dims, size = facts.dims(node.inputs[0]), attribute(node, "blocksize")
    if dims is None or len(dims) != 4 or not size:
        return None
    n, c, h, w = dims
    return [n, c / Size.of(size * size), h * Size.of(size), w * Size.of(size)]


def _concat_dims(facts: Facts, node: ir.Node):
    shapes, axis = [facts.dims(value) for value in node.inputs], attribute(node, "axis")
    if None in shapes or axis is None or len(set(map(len, shapes))) != 1:
        return None
    result = list(shapes[0])
    for other in shapes[1:]:
        result[axis] = None if result[axis] is None else result[axis] + other[axis]
    return result


def _resize_dims(facts: Facts, node: ir.Node):
    dims, factors = facts.dims(node.inputs[0]), enlargement(node, facts)
    if dims is None or factors is None or len(factors) != len(dims):
        return None
    grown = [None if f is None else dim * f for dim, f in zip(dims, factors)]
    return [size if size is None or size.integral else None for size in grown]


def _pad_dims(facts: Facts, node: ir.Node):
    dims, amounts = facts.dims(node.inputs[0]), facts.content(input_of(node, 1))
    if amounts is None:
        amounts = tuple(Size.of(n) for n in attribute(node, "pads") or ())
    if dims is None or len(amounts) != 2 * len(dims) or None in amounts:
        return None
    added = [b + e for b, e in zip(amounts[: len(dims)], amounts[len(dims) :])]
    return [None if a is None else dim + a for dim, a in zip(dims, added)]


def _unsqueeze_dims(facts: Facts, node: ir.Node):
    dims, axes = facts.dims(node.inputs[0]), _axes(facts, node)
    if dims is None or axes is None:
        return None
    rank = len(dims) + len(axes)
    inserted = {axis % rank for axis in axes}
    rest = iter(dims)
    return [Size.of(1) if axis in inserted else next(rest) for axis in range(rank)]


def _squeeze_dims(facts: Facts, node: ir.Node):
    dims, axes = facts.dims(node.inputs[0]), _axes(facts, node)
    if dims is None or axes is None:
        return None
    removed = {axis % len(dims) for axis in axes}
    return [size for axis, size in enumerate(dims) if axis not in removed]


def _axes(facts: Facts, node: ir.Node) -> list[int] | None:
    """Axes of a Squeeze or Unsqueeze: an input, or before opset 13 an attribute."""
    if input_of(node, 1) is not None:
        return _constant_list(facts, node.inputs[1])
    return attribute(node, "axes")


_SHAPE_RULES: dict[str, Callable] = {
    "Concat": _concat_dims,
    "DepthToSpace": _depth_to_space_dims,
    "Expand": lambda f, n: _broadcast(f.dims(n.inputs[0]), f.content(n.inputs[1])),
    "Pad": _pad_dims,
    "Reshape": lambda facts, node: facts.resolve_reshape(node),
    "Resize": _resize_dims,
    "Squeeze": _squeeze_dims,
    "Transpose": _transpose_dims,
    "Unsqueeze": _unsqueeze_dims,
    "Upsample": _resize_dims,
}


def enlargement(node: ir.Node, facts: Facts) -> list[Size | None] | None:
    """Output size over input size of each axis of a ``Resize`` or ``Upsample``.

    None where the ratio of an axis, or the number of axes, is not known.
    """
    dims = facts.dims(input_of(node, 0))
    if node.op_type == "Upsample":
        scales, sizes = input_of(node, 1), None
        if scales is None:
            given = attribute(node, "scales")
            return None if given is None else [Size.of(float(s)) for s in given]
    else:
        first = 1 if len(node.inputs) == 2 and facts.opset_of(node) == 10 else 2
        scales, sizes = input_of(node, first), input_of(node, first + 1)
    if sizes is not None:
        wanted, ratios = facts.content(sizes), False
    else:
        wanted, ratios = facts.content(scales), True
    if wanted is None:
        return None
    axes = attribute(node, "axes")
    if axes is None and "axes" in node.attributes:
        return None
    if axes is not None:
        if dims is None or len(axes) != len(wanted):
            return None
        by_axis = {axis % len(dims): size for axis, size in zip(axes, wanted, strict=True)}
    else:
        if not ratios and (dims is None or len(dims) != len(wanted)):
            return None
        by_axis = dict(enumerate(wanted))
    if ratios:
        return [by_axis.get(i, Size.of(1)) for i in range(len(dims or wanted))]
    return [
        Size.of(1) if i not in by_axis else by_axis[i] and by_axis[i] / dims[i]
        for i in range(len(dims))
    ]


# ---- rules: contents ---------------------------------------------------------------------------


def _shape_content(facts: Facts, node: ir.Node):
    dims = facts.dims(node.inputs[0])
    start, end = attribute(node, "start", 0), attribute(node, "end")
    if dims is None or start is None or (end is None and "end" in node.attributes):
        return None
    return _Content(dims[start:end], False)


def _constant_list(facts: Facts, value: ir.Value | None) -> list[int] | None:
    array = facts.array(value)
    return None if array is None else array.reshape(-1).tolist()


def _gather_content(facts: Facts, node: ir.Node):
    content, indices = facts._content(node.inputs[0]), _constant_list(facts, node.inputs[1])
    if content is None or indices is None or attribute(node, "axis", 0) != 0:
        return None
    count = len(content.sizes)
    if not all(-count <= i < count for i in indices):
        return None
    return _Content(tuple(content.sizes[i] for i in indices), content.floating)


def _slice_content(facts: Facts, node: ir.Node):
    content = facts._content(node.inputs[0])
    if len(node.inputs) > 1:
        starts, ends = (_constant_list(facts, input_of(node, i)) for i in (1, 2))
        steps = _constant_list(facts, input_of(node, 4)) if input_of(node, 4) else [1]
    else:
        starts, ends, steps = attribute(node, "starts"), attribute(node, "ends"), [1]
    if content is None or not all(v is not None and len(v) == 1 for v in (starts, ends, steps)):
        return None
    start, end, step = starts[0], ends[0], steps[0]
    if step < 0:
        return None
    return _Content(content.sizes[start:end:step], content.floating)


def _concat_content(facts: Facts, node: ir.Node):
    parts = [facts._content(value) for value in node.inputs]
    if any(part is None for part in parts):
        return None
    return _Content(tuple(s for part in parts for s in part.sizes), parts[0].floating)


def _same_content(facts: Facts, node: ir.Node):
    content, dims = facts._content(node.inputs[0]), facts.dims(node.outputs[0])
    return content if dims is None or len(dims) <= 1 else None


def _cast_content(facts: Facts, node: ir.Node):
    content, target = facts._content(node.inputs[0]), attribute(node, "to")
    if content is None or target is None:
        return None
    floating = ir.DataType(target).is_floating_point()
    if floating:
        return _Content(content.sizes, True)
    return _rounded(content, math.trunc, False)


def _rounded(content: _Content, function: Callable, floating: bool) -> _Content:
    def one(size: Size | None) -> Size | None:
        if size is None or size.integral:
            return size
        return None if size.dims else Size.of(function(size.factor))

    return _Content(tuple(map(one, content.sizes)), floating)


def _arithmetic_content(facts: Facts, node: ir.Node):
    a, b = (facts._content(value) for value in node.inputs)
    if a is None or b is None:
        return None
    count = max(len(a.sizes), len(b.sizes))
    if not {len(a.sizes), len(b.sizes)} <= {1, count}:
        return None
    floating = a.floating or b.floating
    pairs = zip(a.sizes * (count // len(a.sizes)), b.sizes * (count // len(b.sizes)))
    return _Content(tuple(_apply(node.op_type, p, q, floating) for p, q in pairs), floating)


def _apply(op_type: str, a: Size | None, b: Size | None, floating: bool) -> Size | None:
    if a is None or b is None:
        return None
    if op_type == "Mul":
        return a * b
    if op_type == "Add":
        return a + b
    if op_type == "Sub":
        return a + b * Size.of(-1)
    quotient = a / b
    if quotient is None or floating or quotient.integral:
        return quotient
    if a.number is None or b.number is None:
        return None
    return Size.of(math.trunc(quotient.factor))  # as integers are divided


_CONTENT_RULES: dict[str, Callable] = {
    **dict.fromkeys(_ARITHMETIC, _arithmetic_content),
    **dict.fromkeys(("Identity", "Squeeze", "Unsqueeze", "Reshape"), _same_content),
    "Cast": _cast_content,
    "Ceil": lambda f, n: (c := f._content(n.inputs[0])) and _rounded(c, math.ceil, True),
    "Concat": _concat_content,
    "Floor": lambda f, n: (c := f._content(n.inputs[0])) and _rounded(c, math.floor, True),
    "Gather": _gather_content,
    "Shape": _shape_content,
    "Slice": _slice_content,
}
