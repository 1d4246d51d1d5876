"""Inputs to run a model with: those given, checked, and the others made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from .comparison import is_float
from .tolerance import declared_values

#: Size given to free spatial dimensions, by their number.
_SPATIAL = {1: 256, 2: 64, 3: 16}
_SPATIAL_OTHERWISE = 8


def make_inputs(
    model: onnx.ModelProto,
    given: Mapping[str, Any] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """An array for every input that has no default: ``given``, or random.

    See :func:`ort_tconv.validate` for the arguments.  Dimensions of one name get one size.

    Raises ValueError that names the input if a name is unknown, an array or shape does not fit, or
    a dimension cannot be guessed.
    """
    given, shapes = dict(given or {}), dict(shapes or {})
    defaults = {tensor.name for tensor in model.graph.initializer}
    declared = {value.name: value for value in model.graph.input}
    for argument, names in (("inputs", given), ("shapes", shapes)):
        for name in names:
            if name not in declared:
                raise ValueError(
                    f"{argument}: the model has no input '{name}'; it has "
                    + ", ".join(f"'{known}'" for known in declared)
                )

    sizes: dict[str, int] = {}  # of dimensions that have a name
    feeds: dict[str, np.ndarray] = {}
    for name, value in given.items():
        feeds[name] = _fit(declared[name], value)
        _settle(declared[name], feeds[name].shape, sizes, "inputs")
    for name, shape in shapes.items():
        _settle(declared[name], shape, sizes, "shapes")
    random = np.random.default_rng(seed)
    for name, value in declared.items():
        if name not in feeds and name not in defaults:
            dtype = _dtype(value)
            shape = shapes[name] if name in shapes else _guess(model, value, sizes)
            feeds[name] = _random(random, name, dtype, tuple(shape))
    return feeds


def describe(array: np.ndarray) -> str:
    return f"{array.dtype} [{'×'.join(map(str, array.shape))}]"


def _dtype(value: onnx.ValueInfoProto) -> np.dtype:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "value of unknown type"
        raise ValueError(
            f"input '{value.name}' is a {kind.removesuffix('_type')}, not a tensor; only models "
            "with tensors as inputs can be validated"
        )
    return ir.DataType(value.type.tensor_type.elem_type).numpy()


def _fit(declared: onnx.ValueInfoProto, value: Any) -> np.ndarray:
    """``value`` as an array of the input's type."""
    array, dtype = np.asarray(value), _dtype(declared)
    if array.dtype == dtype or dtype.kind == "O":  # strings are objects
        return array
    both_floats = is_float(dtype) and is_float(array.dtype)
    if both_floats or np.can_cast(array.dtype, dtype, "same_kind"):
        return array.astype(dtype)
    raise ValueError(f"inputs: '{declared.name}' has type {array.dtype}; the model takes {dtype}")


def _settle(
    declared: onnx.ValueInfoProto, shape: Sequence[int], sizes: dict[str, int], argument: str
) -> None:
    """Check ``shape`` against the declared one, and note the sizes of named dimensions."""
    tensor = declared.type.tensor_type
    if not tensor.HasField("shape"):
        return
    dims = tensor.shape.dim
    if len(shape) != len(dims):
        raise ValueError(
            f"{argument}: '{declared.name}' has {len(shape)} dimensions {list(shape)}; the model "
            f"takes {len(dims)}, {_dims(dims)}"
        )
    for axis, (size, dim) in enumerate(zip(shape, dims, strict=True)):
        fixed = dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param, size)
        if size != fixed or size < 0:
            raise ValueError(
                f"{argument}: dimension {axis} of '{declared.name}' is {size} in {list(shape)}; "
                f"the model takes {_dims(dims)}"
                + (f", and {dim.dim_param} is {fixed}" if dim.dim_param else "")
            )
        if dim.dim_param:
            sizes[dim.dim_param] = size


def _dims(dims) -> str:
    known = (d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
    return f"[{', '.join(map(str, known))}]"


def _guess(
    model: onnx.ModelProto, value: onnx.ValueInfoProto, sizes: dict[str, int]
) -> tuple[int, ...]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ValueError(
            f"input '{value.name}' has no shape in the model; give one, as in "
            f"shapes={{'{value.name}': (1, 3, 224, 224)}}"
        )
    dims = tensor.shape.dim
    shape: list[int] = []
    for axis, dim in enumerate(dims):
        if dim.HasField("dim_value"):
            size = dim.dim_value
        elif dim.dim_param in sizes:
            size = sizes[dim.dim_param]
        elif axis == 0:
            size = 1
        elif axis == 1 and (channels := _channels(model, value.name)):
            size = channels
        elif axis >= 2:
            size = _SPATIAL.get(len(dims) - 2, _SPATIAL_OTHERWISE)
        else:
            raise ValueError(
                f"dimension {axis} of input '{value.name}' {_dims(dims)} cannot be guessed; give "
                f"its shape, as in shapes={{'{value.name}': (...)}}"
            )
        if dim.dim_param:
            sizes[dim.dim_param] = size
        shape.append(size)
    return tuple(shape)


def _channels(model: onnx.ModelProto, name: str) -> int | None:
    """Channels that a convolution expects of the value it reads."""
    values = declared_values(model.graph)
    for node in model.graph.node:
        if len(node.input) < 2 or node.input[0] != name:
            continue
        _, shape = values.get(node.input[1], (0, None))
        if shape and node.op_type == "Conv":
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            return shape[1] * group
        if shape and node.op_type in ("ConvTranspose", "SegregatedConvTranspose"):
            return shape[0]
    return None


def _random(
    random: np.random.Generator, name: str, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    if is_float(dtype):
        return random.standard_normal(shape).astype(dtype)
    if dtype == np.uint8:
        return random.integers(0, 256, shape, dtype)
    if dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(dtype)
    raise ValueError(f"input '{name}' has type {dtype}; it cannot be made up, give inputs=")
