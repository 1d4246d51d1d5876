"""Inputs to run a model with: those given, checked, and the others made up."""

from __future__ import annotations

import operator
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from .shapes import declared_values

#: Size given to free spatial dimensions, by their number.
_SPATIAL = {1: 256, 2: 64, 3: 16}
_SPATIAL_OTHERWISE = 8


#: Random numbers that :func:`make_inputs` can draw, with their two parameters' names and defaults.
DISTRIBUTIONS = {
    "normal": {"mean": 0.0, "deviation": 1.0},
    "uniform": {"low": 0.0, "high": 1.0},
    "integers": {"low": -8.0, "high": 8.0},
}


def is_float(dtype: np.dtype) -> bool:
    """Whether numbers of this type are rounded, ml_dtypes' included."""
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16 or dtype.name.startswith("float")


def make_inputs(
    model: onnx.ModelProto,
    given: Mapping[str, Any] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    distribution: str = "normal",
) -> dict[str, np.ndarray]:
    """An array for every input that has no default: ``given``, or random.

    See :func:`ort_tconv.validate` for the arguments.  Dimensions of one name get one size.

    Raises ValueError that names the input if a name is unknown, an array or shape does not fit, or
    a dimension cannot be guessed; or that names the distribution if there is none of that name.
    """
    draw = _distribution(distribution)
    given = dict(given or {})
    declared = {value.name: value for value in model.graph.input}
    check_names("inputs", given, declared)
    feeds = {name: _fit(declared[name], value) for name, value in given.items()}
    random = np.random.default_rng(seed)
    for name, shape in input_shapes(model, shapes, arrays=feeds).items():
        if name not in feeds:
            feeds[name] = _random(random, name, _dtype(declared[name]), shape, draw)
    return feeds


def input_shapes(
    model: onnx.ModelProto,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Shape of every input without a default: that in ``arrays`` or ``shapes``, or a guess.

    Raises ValueError like :func:`make_inputs`.
    """
    arrays, shapes = dict(arrays or {}), checked_shapes(shapes)
    defaults = {tensor.name for tensor in model.graph.initializer}
    declared = {value.name: value for value in model.graph.input}
    check_names("shapes", shapes, declared)
    sizes: dict[str, int] = {}  # of dimensions that have a name
    result: dict[str, tuple[int, ...]] = {}
    for argument, known in (
        ("inputs", {name: array.shape for name, array in arrays.items()}),
        ("shapes", shapes),
    ):
        for name, shape in known.items():
            _settle(declared[name], shape, sizes, argument)
            result.setdefault(name, tuple(shape))
    for name, value in declared.items():
        if name not in result and name not in defaults:
            _dtype(value)  # refuses what is no tensor
            result[name] = _guess(model, value, sizes)
    return {name: result[name] for name in declared if name in result}


def guessed(
    model: onnx.ModelProto, known: Mapping[str, Sequence[int]] | None = None
) -> dict[str, tuple[int, ...]]:
    """Of each input whose size is a guess, the dimensions that are, if ``known`` are the shapes
    that were given."""
    known = dict(known or {})
    defaults = {tensor.name for tensor in model.graph.initializer}
    dims = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    settled = {dim.dim_param for name in known for dim in dims.get(name, ()) if dim.dim_param}
    result = {
        name: tuple(
            axis
            for axis, dim in enumerate(own)
            if not dim.HasField("dim_value") and dim.dim_param not in settled
        )
        for name, own in dims.items()
        if name not in known and name not in defaults
    }
    return {name: axes for name, axes in result.items() if axes}


def checked_shapes(shapes: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    """Shapes by input name; raises TypeError that says what is something else."""
    if shapes is not None and not isinstance(shapes, Mapping):
        raise TypeError(
            f"shapes is a {type(shapes).__name__}; shapes by input name are needed, as in "
            "{'image': (1, 3, 224, 224)}"
        )
    result = {}
    for name, shape in (shapes or {}).items():
        try:
            if isinstance(shape, str):
                raise TypeError
            result[name] = tuple(operator.index(size) for size in shape)
        except TypeError:
            raise TypeError(
                f"shapes: '{name}' is {shape!r}; whole numbers are needed, as in (1, 3, 224, 224)"
            ) from None
    return result


def check_names(argument: str, names: Iterable[str], declared: Iterable[str]) -> None:
    """Raise ValueError if one of the names is none of the model's inputs."""
    for name in names:
        if name not in declared:
            raise ValueError(
                f"{argument}: the model has no input '{name}'; it has "
                + ", ".join(f"'{known}'" for known in declared)
            )


# ---- files -------------------------------------------------------------------------------------


def load_inputs(path: str | os.PathLike, model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    """Sets of arrays by input name.

    ``path`` is an ``.npz`` file with an array an input, a folder with files ``input_0.pb``,
    ``input_1.pb``, ... (ONNX's test data: serialised TensorProtos, in the order of the model's
    inputs without a default), or a folder with folders ``test_data_set_0``, ... of that kind.

    Raises ValueError that names the file if it is something else, FileNotFoundError if there is
    none.
    """
    path = Path(path)
    if not path.is_dir():
        return [_load_npz(path)]
    folders = sorted(path.glob("test_data_set_*"), key=_number_at_end) or [path]
    return [_load_test_data(folder, model) for folder in folders]


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise ValueError(
                f"inputs: {path}: a single array; an .npz file with named ones is needed"
            )
        with content as arrays:
            return dict(arrays)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        if str(error).startswith("inputs: "):
            raise
        raise ValueError(f"inputs: {path}: not an .npz file ({error})") from None


def _load_test_data(folder: Path, model: onnx.ModelProto) -> dict[str, np.ndarray]:
    defaults = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in defaults]
    files = sorted(folder.glob("input_*.pb"), key=_number_at_end)
    if not files:
        raise ValueError(
            f"inputs: {folder} holds neither input_0.pb nor a folder test_data_set_0; give an .npz "
            "file, or a folder of ONNX test data"
        )
    if len(files) > len(names):
        raise ValueError(
            f"inputs: {folder} holds {len(files)} inputs and the model takes {len(names)}: "
            + ", ".join(f"'{name}'" for name in names)
        )
    return {name: _load_tensor(file) for name, file in zip(names, files, strict=False)}


def _load_tensor(path: Path) -> np.ndarray:
    try:
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        # onnx-ir and not onnx.numpy_helper: the same bfloat16 as in the rest of this package.
        return np.array(ir.tensor(tensor).numpy())
    except (DecodeError, TypeError, ValueError) as error:
        raise ValueError(f"inputs: {path}: not a serialised tensor ({error})") from None


def _number_at_end(path: Path) -> tuple[int, str]:
    digits = re.search(r"\d+$", path.stem)
    return (int(digits[0]) if digits else -1, path.name)


# ---- parts -------------------------------------------------------------------------------------


def has_strings(feeds: Mapping[str, np.ndarray]) -> bool:
    """Whether one of the arrays holds strings."""
    return any(array.dtype.kind in "OUS" for array in feeds.values())


def describe(array: np.ndarray) -> str:
    return f"{array.dtype} [{'×'.join(map(str, array.shape))}]"


def _dtype(value: onnx.ValueInfoProto) -> np.dtype:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "value of unknown type"
        raise ValueError(
            f"input '{value.name}' is of type {kind.removesuffix('_type')}, not a tensor; only "
            "models with tensors as inputs can be validated"
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


_Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _distribution(text: str) -> _Draw:
    """What draws numbers, from a name and perhaps two parameters, as in ``uniform:-1,1``."""
    name, _, numbers = text.partition(":")
    if name not in DISTRIBUTIONS:
        raise ValueError(
            f"distribution: there is no '{name}'; there are {', '.join(DISTRIBUTIONS)}"
        )
    defaults = DISTRIBUTIONS[name]
    try:
        first, second = map(float, numbers.split(",")) if numbers else defaults.values()
    except ValueError:
        example = ",".join(f"{value:g}" for value in defaults.values())
        raise ValueError(
            f"distribution: '{text}': two numbers are needed after the colon, "
            f"{' and '.join(defaults)}, as in {name}:{example}"
        ) from None
    if second < (0 if name == "normal" else first):
        raise ValueError(f"distribution: '{text}': {' and '.join(defaults)} do not fit together")
    if name == "normal":
        return lambda random, shape: first + second * random.standard_normal(shape)
    if name == "uniform":
        return lambda random, shape: random.uniform(first, second, shape)
    return lambda random, shape: random.integers(int(first), int(second), shape, endpoint=True)


def _random(
    random: np.random.Generator, name: str, dtype: np.dtype, shape: tuple[int, ...], draw: _Draw
) -> np.ndarray:
    if is_float(dtype):
        return np.asarray(draw(random, shape)).astype(dtype)
    if dtype == np.uint8:
        return random.integers(0, 256, shape, dtype)
    if dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(dtype)
    raise ValueError(f"input '{name}' has type {dtype}; it cannot be made up, give inputs=")
