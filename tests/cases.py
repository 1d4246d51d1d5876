"""Shapes, arrays and models for the tests; every model that a test runs is built here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ort_tconv import _core
from ort_tconv.converters.rewrite import DOMAIN, OP_TYPE

DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
#: Unit roundoff of a stored value, and of the sums behind it (16-bit types add in float32).
STORE_ROUNDOFF = {"float32": 2**-24, "float64": 2**-53, "float16": 2**-11, "bfloat16": 2**-8}
SUM_ROUNDOFF = {"float32": 2**-24, "float64": 2**-53, "float16": 2**-24, "bfloat16": 2**-24}

Weights = Literal["initializer", "constant", "input", "overridable"]


@dataclass(frozen=True)
class Case:
    """One transposed convolution.  An empty list is an attribute that is not given."""

    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    batch: int = 1
    group: int = 1
    group_in: int = 2
    group_out: int = 3
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    auto_pad: str = ""
    bias: bool = True
    dtype: str = "float32"

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, self.group * self.group_in, *self.spatial)

    @property
    def w_shape(self) -> tuple[int, ...]:
        return (self.group * self.group_in, self.group_out, *self.kernel)

    @property
    def out_channels(self) -> int:
        return self.group * self.group_out

    @property
    def attributes(self) -> dict[str, Any]:
        names = ("strides", "dilations", "pads", "output_padding", "output_shape", "auto_pad")
        values = {name: getattr(self, name) for name in names} | {"group": self.group}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value not in ((), "") and (name, value) != ("group", 1)
        }

    def arrays(self, seed: int = 0) -> dict[str, np.ndarray]:
        """X, W and, if there is one, B, in the case's dtype."""
        rng = np.random.default_rng(seed)
        shapes = {"x": self.x_shape, "w": self.w_shape}
        if self.bias:
            shapes["b"] = (self.out_channels,)
        return {
            name: rng.standard_normal(shape).astype(DTYPES[self.dtype])
            for name, shape in shapes.items()
        }

    def expected(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """The result in float64, of the arrays as they were rounded to the case's dtype."""
        return _core.reference(*_float64(arrays), **self.attributes)

    def bound(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        r"""Largest error allowed for each element of the result.

        .. math:: 8 \gamma_{K+1} \left( \sum |x||w| + |b| \right) + v |y|,

        with :math:`\gamma_n = n u / (1 - n u)`: any order of summation stays within
        :math:`\gamma_{K+1}` (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
        section 3.1); 8 leaves room for Winograd's transforms, and storing y adds :math:`v |y|`.
        Both are doubled in comparisons of two computed results.
        """
        length = self.group_in * math.prod(self.kernel) + 1
        unit = length * SUM_ROUNDOFF[self.dtype]
        magnitudes = {name: np.abs(value.astype(np.float64)) for name, value in arrays.items()}
        total = _core.reference(*_float64(magnitudes), **self.attributes)
        stored = STORE_ROUNDOFF[self.dtype] * np.abs(self.expected(arrays))
        # float16 also rounds results below its smallest normal number, by half the spacing there.
        spacing = 2.0**-25 if self.dtype == "float16" else 0.0
        return 8 * unit / (1 - unit) * total + stored + spacing


def _float64(arrays: dict[str, np.ndarray]) -> list[np.ndarray | None]:
    operands = (arrays.get(name) for name in "xwb")
    return [None if value is None else value.astype(np.float64) for value in operands]


def assert_within(actual: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    """Each element within its bound; says which is worst."""
    assert actual.shape == expected.shape
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    excess = error - bound
    if excess.size and not excess.max() <= 0:
        at = np.unravel_index(
            np.nanargmax(np.where(np.isnan(excess), np.inf, excess)), excess.shape
        )
        raise AssertionError(
            f"{actual[at]} instead of {expected[at]} at {tuple(map(int, at))}: off by {error[at]}, "
            f"{bound[at]} is allowed"
        )


# ---- named cases -------------------------------------------------------------------------------

#: Corners of the geometry, each with the reason why it is one.
CORNERS = {
    "the usual 4x4, stride 2": Case((5, 4), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1)),
    "1-D": Case((7,), (5,), strides=(3,), pads=(1, 2)),
    "3-D": Case((3, 2, 4), (3, 2, 4), strides=(2, 1, 2), pads=(1, 0, 1, 0, 1, 2)),
    "4-D": Case((2, 3, 2, 2), (2, 1, 3, 2), strides=(2, 1, 1, 2)),
    "no attribute at all": Case((3, 4), (3, 2)),
    "one pixel": Case((1, 1), (4, 3), batch=2),
    "kernel not divisible by stride": Case((4, 5), (5, 5), strides=(2, 2), pads=(2, 2, 2, 2)),
    "odd output": Case((4, 4), (4, 4), strides=(2, 2), pads=(1, 1, 2, 2)),
    "kernel smaller than stride": Case((3, 4), (2, 1), strides=(3, 4)),
    "residue classes without taps": Case((3, 3), (2, 3), strides=(4, 2), dilations=(2, 2)),
    "gcd(dilation, stride) > 1": Case((4, 4), (3, 3), strides=(4, 6), dilations=(6, 4)),
    "dilation coprime to stride": Case((4, 4), (3, 2), strides=(2, 3), dilations=(3, 2)),
    "asymmetric pads": Case((5, 5), (4, 3), strides=(2, 2), pads=(0, 1, 3, 0)),
    "pads wider than the kernel": Case((9, 9), (3, 3), strides=(2, 2), pads=(5, 4, 4, 5)),
    "output padding": Case((3, 4), (3, 3), strides=(2, 3), output_padding=(1, 2)),
    "output padding up to the dilation": Case(
        (4, 3), (3, 2), strides=(1, 2), dilations=(3, 2), output_padding=(2, 1)
    ),
    "groups": Case((4, 3), (4, 4), group=3, strides=(2, 2), pads=(1, 1, 1, 1)),
    "depthwise": Case((4, 5), (3, 3), group=4, group_in=1, group_out=1, strides=(2, 2)),
    "one input and output channel": Case((6, 6), (5, 5), group_in=1, group_out=1, strides=(2, 2)),
    "VALID": Case((4, 4), (3, 3), strides=(2, 2), auto_pad="VALID"),
    "SAME_UPPER, odd padding": Case((4, 3), (3, 4), strides=(2, 3), auto_pad="SAME_UPPER"),
    "SAME_LOWER, odd padding": Case((4, 3), (3, 4), strides=(2, 3), auto_pad="SAME_LOWER"),
    "SAME_UPPER, kernel < stride": Case((3, 3), (1, 2), strides=(3, 4), auto_pad="SAME_UPPER"),
    "SAME_LOWER, output padding": Case(
        (3, 4), (3, 3), strides=(2, 2), output_padding=(1, 1), auto_pad="SAME_LOWER"
    ),
    "output_shape, odd padding": Case((4, 4), (4, 3), strides=(2, 2), output_shape=(7, 6)),
    "output_shape, SAME_UPPER": Case(
        (4, 4), (4, 3), strides=(2, 2), output_shape=(7, 6), auto_pad="SAME_UPPER"
    ),
    "output_shape, SAME_LOWER": Case(
        (4, 4), (4, 3), strides=(2, 2), output_shape=(7, 6), auto_pad="SAME_LOWER"
    ),
    "output_shape, VALID": Case(
        (4, 4), (4, 3), strides=(2, 2), output_shape=(7, 6), auto_pad="VALID"
    ),
    "output_shape larger than the full size": Case(
        (3, 3), (3, 3), strides=(2, 2), output_shape=(9, 8)
    ),
    "no bias": Case((4, 4), (4, 4), strides=(2, 2), bias=False),
    "many channels": Case((5, 5), (4, 4), group_in=37, group_out=19, strides=(2, 2)),
    "a generator's layer": Case(
        (12, 13), (4, 4), group_in=48, group_out=40, strides=(2, 2), pads=(1, 1, 1, 1)
    ),
    "5x5, many channels": Case(
        (9, 11), (5, 5), group_in=24, group_out=33, strides=(2, 2), pads=(2, 2, 2, 2)
    ),
    "3x3, two images": Case((8, 7), (3, 3), batch=2, group_in=20, group_out=18, strides=(2, 2)),
    "3-D, many channels": Case((4, 5, 3), (2, 2, 2), group_in=16, group_out=20, strides=(2, 2, 2)),
    "1-D, long kernel": Case((30,), (16,), group_in=32, group_out=16, strides=(8,), pads=(4, 4)),
    "empty batch": Case((3, 3), (3, 3), batch=0, strides=(2, 2)),
}


@st.composite
def drawn_cases(draw, dtypes: Sequence[str] = ("float32",), most_axes: int = 3) -> Case:
    """Valid cases of every combination of attributes, small enough to be evaluated naively."""
    axes = draw(st.integers(1, most_axes))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(axes))

    strides, dilations = each(1, 4), each(1, 3)
    case = Case(
        spatial=each(1, 6 if axes < 3 else 4),
        kernel=each(1, 5 if axes < 3 else 3),
        batch=draw(st.integers(0, 2)),
        group=draw(st.integers(1, 3)),
        group_in=draw(st.integers(1, 3)),
        group_out=draw(st.integers(1, 3)),
        strides=strides if draw(st.booleans()) or max(strides) > 1 else (),
        dilations=dilations if draw(st.booleans()) else (),
        bias=draw(st.booleans()),
        dtype=draw(st.sampled_from(dtypes)),
        auto_pad=draw(st.sampled_from(["", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])),
    )
    if draw(st.booleans()):
        room = zip(strides, case.dilations or (1,) * axes, strict=True)
        padding = tuple(draw(st.integers(0, max(pair) - 1)) for pair in room)
        case = replace(case, output_padding=padding)
    full = _core.output_shape(
        case.x_shape, case.w_shape, **case.attributes | {"auto_pad": "NOTSET"}
    )[0][2:]
    if draw(st.booleans()):
        shape = tuple(draw(st.integers(1, size + 2)) for size in full)
        case = replace(case, output_shape=shape)
    if case.auto_pad in ("", "NOTSET") and draw(st.booleans()):  # no effect beside output_shape
        most = [size - 1 for size in full]
        begins = tuple(draw(st.integers(0, pad)) for pad in most)
        ends = tuple(draw(st.integers(0, pad - b)) for pad, b in zip(most, begins, strict=True))
        case = replace(case, pads=begins + ends)
    return case


# ---- models ------------------------------------------------------------------------------------

_ELEMENT = {name: ir.DataType.from_numpy(dtype) for name, dtype in DTYPES.items()}


def opset_for(dtype: str) -> int:
    """An opset in which ConvTranspose takes ``dtype``."""
    return 22 if dtype == "bfloat16" else 17


def tensor(array: np.ndarray, name: str) -> onnx.TensorProto:
    return ir.to_proto(ir.tensor(array, name=name))


def value(name: str, dtype: str, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _ELEMENT[dtype], shape)


def conv_transpose_model(
    case: Case,
    arrays: dict[str, np.ndarray] | None = None,
    *,
    weights: Weights = "initializer",
    dynamic: bool = False,
    float32_io: bool = False,
    opset: int | None = None,
    ir_version: int = 8,
    attributes: dict[str, Any] | None = None,
    op: Literal["onnx", "ort_tconv"] = "onnx",
) -> onnx.ModelProto:
    """``y = ConvTranspose(x, w, b)``, the node being called ``up``.

    ``dynamic`` leaves the sizes of x open, ``float32_io`` casts inputs and outputs (onnxruntime's
    Python has no bfloat16 arrays), ``attributes`` replace the case's, and ``op`` builds the
    operator itself instead of ONNX's.
    """
    arrays = case.arrays() if arrays is None else arrays
    attributes = case.attributes if attributes is None else attributes
    outer = "float32" if float32_io else case.dtype
    nodes, inputs, initializers, names = [], [], [], []
    for name, array in arrays.items():
        is_input = name == "x" or weights in ("input", "overridable")
        shape: Sequence[int | str] = array.shape
        if dynamic and is_input:
            shape = [f"{name}{axis}" for axis in range(array.ndim)]
        if is_input:
            inputs.append(value(name, outer, shape))
        if name != "x" and weights in ("initializer", "overridable"):
            stored = array.astype(np.float32) if float32_io and is_input else array
            initializers.append(tensor(stored, name))
        if name != "x" and weights == "constant":
            nodes.append(helper.make_node("Constant", [], [name], value=tensor(array, name)))
        if float32_io and is_input:
            nodes.append(helper.make_node("Cast", [name], [f"{name}_"], to=_ELEMENT[case.dtype]))
            names.append(f"{name}_")
        else:
            names.append(name)
    if op == "onnx":
        node = helper.make_node("ConvTranspose", names, ["y"], name="up", **attributes)
    else:
        node = helper.make_node(OP_TYPE, names, ["y"], name="up", domain=DOMAIN, **attributes)
    nodes.append(node)
    rank = len(case.x_shape)
    output = value("y", case.dtype, [f"y{axis}" for axis in range(rank)])
    if float32_io:
        nodes.append(helper.make_node("Cast", ["y"], ["y_"], to=TensorProto.FLOAT))
        output = value("y_", "float32", [f"y{axis}" for axis in range(rank)])
    graph = helper.make_graph(nodes, "model", inputs, [output], initializers)
    return model(graph, opset or opset_for(case.dtype), ir_version, custom=op == "ort_tconv")


def model(
    graph: onnx.GraphProto,
    opset: int = 17,
    ir_version: int = 8,
    *,
    custom: bool = False,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: dict[str, int] | None = None,
) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", opset)]
    if custom:
        imports.append(helper.make_opsetid(DOMAIN, 1))
    imports += [helper.make_opsetid(name, version) for name, version in (domains or {}).items()]
    result = helper.make_model(
        graph, opset_imports=imports, ir_version=ir_version, functions=list(functions)
    )
    result.producer_name = "tests"
    return result


def graph_model(
    nodes: Sequence[onnx.NodeProto],
    initializers: dict[str, np.ndarray],
    inputs: dict[str, Sequence[int | str] | None],
    outputs: Sequence[str] = ("y",),
    dtype: str = "float32",
    opset: int = 17,
    ir_version: int = 8,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Nodes as a model; outputs have the shape that onnx infers, if it infers one."""
    graph = helper.make_graph(
        nodes,
        "model",
        [value(name, dtype, shape) for name, shape in inputs.items()],
        [value(name, dtype, None) for name in outputs],
        [tensor(array, name) for name, array in initializers.items()],
    )
    result = model(
        graph, opset, ir_version, functions=functions, domains={"local": 1} if functions else None
    )
    try:
        inferred = onnx.shape_inference.infer_shapes(result).graph.output
    except Exception:  # an opset that onnx does not know
        inferred = []
    for output, known in zip(result.graph.output, inferred):
        output.CopyFrom(known)
    return result


def _weights(name: str, *shape: int) -> onnx.TensorProto:
    rng = np.random.default_rng(len(name) + sum(shape))
    return tensor(rng.standard_normal(shape).astype(np.float32), name)


def _up(x: str, w: str, y: str, **attributes: Any) -> onnx.NodeProto:
    attributes = {"strides": [2, 2], "pads": [1, 1, 1, 1]} | attributes
    return helper.make_node("ConvTranspose", [x, w], [y], name=f"up_{y}", **attributes)


def chain_model(length: int = 3, dynamic: bool = True) -> onnx.ModelProto:
    """``length`` times ConvTranspose (4 channels, doubling the sides) and LeakyRelu."""
    nodes = []
    for i in range(length):
        nodes.append(_up(f"x{i}", f"w{i}", f"y{i}"))
        nodes.append(helper.make_node("LeakyRelu", [f"y{i}"], [f"x{i + 1}"], name=f"act{i}"))
    dims = ["n", 4, "h", "w"] if dynamic else [1, 4, 5, 6]
    graph = helper.make_graph(
        nodes,
        "chain",
        [value("x0", "float32", dims)],
        [value(f"x{length}", "float32", ["n", 4, "h_out", "w_out"])],
        [_weights(f"w{i}", 4, 4, 4, 4) for i in range(length)],
    )
    return model(graph)


def if_model() -> onnx.ModelProto:
    """One branch has a ConvTranspose with its own weights, the other one captures weights."""
    branches = {}
    for branch in ("then", "else"):
        own = branch == "then"
        branches[f"{branch}_branch"] = helper.make_graph(
            [_up("x", "w_own" if own else "w", f"{branch}_y")],
            f"{branch}_graph",
            [],
            [value(f"{branch}_y", "float32", ["n", 3, "h", "v"])],
            [_weights("w_own", 2, 3, 4, 4)] if own else [],
        )
    graph = helper.make_graph(
        [helper.make_node("If", ["flag"], ["y"], name="if", **branches)],
        "outer",
        [
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
            value("x", "float32", [1, 2, 5, 5]),
        ],
        [value("y", "float32", ["n", 3, "h", "v"])],
        [_weights("w", 2, 3, 4, 4)],
    )
    return model(graph)


def loop_model(trips: int = 2) -> onnx.ModelProto:
    """The loop's body doubles the carried image each time."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["cond"], ["cond_out"]),
            _up("x_in", "w", "x_out"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
            value("x_in", "float32", None),
        ],
        [
            helper.make_tensor_value_info("cond_out", TensorProto.BOOL, []),
            value("x_out", "float32", None),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["trips", "", "x"], ["y"], name="loop", body=body)],
        "outer",
        [value("x", "float32", [1, 2, 3, 3])],
        [value("y", "float32", ["n", "c", "h", "v"])],
        [_weights("w", 2, 2, 4, 4), tensor(np.array(trips, np.int64), "trips")],
    )
    return model(graph)


def scan_model() -> onnx.ModelProto:
    """The body transforms one image of the sequence at a time."""
    body = helper.make_graph(
        [_up("image", "w", "image_out")],
        "body",
        [value("image", "float32", [1, 2, 3, 3])],
        [value("image_out", "float32", [1, 2, 6, 6])],
    )
    graph = helper.make_graph(
        [helper.make_node("Scan", ["x"], ["y"], name="scan", body=body, num_scan_inputs=1)],
        "outer",
        [value("x", "float32", [4, 1, 2, 3, 3])],
        [value("y", "float32", [4, 1, 2, 6, 6])],
        [_weights("w", 2, 2, 4, 4)],
    )
    return model(graph)


def function_model(
    references: dict[str, tuple[str, int]] | None = None,
    defaults: dict[str, Any] | None = None,
    given: dict[str, Any] | None = None,
    declared: Sequence[str] | None = None,
    ir_version: int = 8,
) -> onnx.ModelProto:
    """A local function ``local::Upsample`` around a ConvTranspose, called once.

    ``references`` maps attributes of the ConvTranspose to the function's attribute and the type
    they refer to it by, ``defaults`` are the function's default values, ``given`` the attributes of
    the call, and ``declared`` the function's attributes without default (those referred to).
    """
    references, defaults, given = references or {}, defaults or {}, given or {}
    node = helper.make_node("ConvTranspose", ["fx", "fw"], ["fy"], name="inner", strides=[2, 2])
    for name, (target, kind) in references.items():
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.add(name=name, ref_attr_name=target, type=kind)
    if declared is None:
        declared = [target for target, _ in references.values() if target not in defaults]
    function = helper.make_function(
        "local",
        "Upsample",
        ["fx", "fw"],
        ["fy"],
        [node],
        [helper.make_opsetid("", 17)],
        declared,
        [helper.make_attribute(name, value) for name, value in defaults.items()],
    )
    graph = helper.make_graph(
        [helper.make_node("Upsample", ["x", "w"], ["y"], name="call", domain="local", **given)],
        "outer",
        [value("x", "float32", [1, 2, 4, 5])],
        [value("y", "float32", [1, 3, "h", "v"])],
        [_weights("w", 2, 3, 3, 3)],
    )
    return model(graph, ir_version=ir_version, functions=[function], domains={"local": 1})


def save_external(model: onnx.ModelProto, path: Path, location: str = "weights.bin") -> None:
    """All weights lie beside the model, in a file of this name."""
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)


def nodes_of(model: onnx.ModelProto, op_type: str) -> list[onnx.NodeProto]:
    """Nodes of one operator anywhere in the model."""

    def walk(nodes) -> list[onnx.NodeProto]:
        found = []
        for node in nodes:
            found += [node] if node.op_type == op_type else []
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    found += walk(graph.node)
        return found

    return [n for owner in (model.graph, *model.functions) for n in walk(owner.node)]
