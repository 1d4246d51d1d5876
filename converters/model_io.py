"""Reading and writing models, with weights in the file or beside it.

Weights beside the file ("external data") are named by a path relative to the model's folder.  They
are copied from file to file and never pass through a second model in memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

# Protobuf serialises 2 GiB at most. Models with more weights than this, which leaves some room for
# the graph, have their tensors of at least _EXTERNAL_THRESHOLD bytes written beside the file.
_MAX_WEIGHT_BYTES = 2**31 - 2**26
_EXTERNAL_THRESHOLD = 1024
_ALIGNMENT = 4096  # lets the runtime map a tensor's pages instead of copying them
_COPY_BYTES = 1 << 24

ModelLike = str | os.PathLike | bytes | onnx.ModelProto | ir.Model


class ConversionError(ValueError):
    """The model cannot be read, converted or written; the message says what is wrong with it."""


@dataclass(frozen=True)
class Source:
    """A model as it was given.

    ``folder`` is what its external data is relative to, None if there is nothing to go by.
    ``proto`` may be the caller's own object: it is only read.
    """

    proto: onnx.ModelProto
    folder: Path | None
    path: Path | None = None


def read_model(model: ModelLike) -> Source:
    """Model from a path (``.onnx``, or a text format that onnx knows), bytes or an object.

    Raises ConversionError if it is no ONNX model, FileNotFoundError if there is no such file and
    TypeError if ``model`` is something else.  External data is not loaded.
    """
    if isinstance(model, onnx.ModelProto):
        source = Source(model, None)
    elif isinstance(model, ir.Model):
        source = Source(ir.to_proto(model), _folder_of(model))
    elif isinstance(model, bytes | bytearray | memoryview):
        source = Source(_parse(bytes(model), "the given bytes"), None)
    elif isinstance(model, str | os.PathLike):
        path = Path(model)
        if path.suffix in ("", ".onnx", ".ort", ".pb"):
            proto = _parse(path.read_bytes(), str(path))
        else:
            proto = onnx.load(path, load_external_data=False)
        source = Source(proto, path.resolve().parent, path)
    else:
        raise TypeError(
            f"model is a {type(model).__name__}; a path, bytes, onnx.ModelProto or onnx_ir.Model "
            "is needed"
        )
    if not source.proto.HasField("graph"):
        raise ConversionError(f"{source.path or 'the model'} holds no graph")
    return source


def is_ort_format(data: bytes) -> bool:
    """Whether ``data`` begins a model in ONNX Runtime's own format, which no ONNX tool reads."""
    return data[4:8] == b"ORTM"


def _parse(data: bytes, origin: str) -> onnx.ModelProto:
    if is_ort_format(data):
        raise ConversionError(
            f"{origin}: a model in ORT format cannot be converted; convert the ONNX model it was "
            "made from"
        )
    try:
        return onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise ConversionError(f"{origin}: not an ONNX model ({error})") from None


def _folder_of(model: ir.Model) -> Path | None:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                return Path(value.const_value.base_dir).resolve()
    return None


# ---- tensors -----------------------------------------------------------------------------------


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model: initializers and attributes, wherever they are."""

    def of_nodes(nodes) -> Iterator[onnx.TensorProto]:
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                if attribute.HasField("sparse_tensor"):
                    yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
                if attribute.HasField("g"):
                    yield from of_graph(attribute.g)
                for graph in attribute.graphs:
                    yield from of_graph(graph)

    def of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from of_nodes(graph.node)

    yield from of_graph(model.graph)
    for function in model.functions:
        yield from of_nodes(function.node)


def is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def external_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in all_tensors(model) if is_external(tensor)]


@dataclass(frozen=True)
class _Extent:
    """The bytes of one tensor in a file."""

    path: Path
    offset: int
    length: int

    @classmethod
    def of(cls, tensor: onnx.TensorProto, folder: Path) -> _Extent:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = os.path.normpath(entries.get("location", ""))
        if location == "." or os.path.isabs(location) or location.split(os.sep)[0] == "..":
            raise ConversionError(
                f"tensor '{tensor.name}': external data location "
                f"'{entries.get('location', '')}' is not a path below the model's folder"
            )
        path = folder / location
        if not path.is_file():
            raise ConversionError(f"tensor '{tensor.name}': external data file {path} is missing")
        size = path.stat().st_size
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", size - offset))
        if offset < 0 or length < 0 or offset + length > size:
            raise ConversionError(
                f"tensor '{tensor.name}': external data of {length} bytes at {offset} does not "
                f"lie within {path}, which has {size} bytes"
            )
        return cls(path, offset, length)

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            left = self.length
            while left:
                chunk = file.read(min(left, _COPY_BYTES))
                if not chunk:
                    raise ConversionError(f"{self.path} became shorter while it was read")
                left -= len(chunk)
                yield chunk


def load_external_data(model: onnx.ModelProto, folder: Path) -> None:
    """Move external data into ``model`` itself."""
    for tensor in external_tensors(model):
        tensor.raw_data = b"".join(_Extent.of(tensor, folder).chunks())
        tensor.ClearField("data_location")
        del tensor.external_data[:]


#: A tensor and where its values are now.
_Content = tuple[onnx.TensorProto, _Extent | bytes]


# ---- writing -----------------------------------------------------------------------------------


def write_model(
    model: onnx.ModelProto, output: str | os.PathLike, folder: Path | None
) -> Path | None:
    """Write ``model`` to ``output``, leave it as it stands there, and return its folder.

    What is external, relative to ``folder``, stays external: it is copied to ``<output>.data``, and
    the references in ``model`` follow.  Without a folder they are written as they are, and there is
    none to return.  Of a model that protobuf cannot hold, the large tensors are moved there too.
    """
    output = Path(output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output.parent} is not a folder to write {output.name} to")
    sources: list[_Content] = []
    if folder is not None:
        sources += [(tensor, _Extent.of(tensor, folder)) for tensor in external_tensors(model)]
    if not fits_protobuf(model):
        sources += [
            (tensor, tensor.raw_data)
            for tensor in all_tensors(model)
            if tensor.HasField("raw_data") and _tensor_bytes(tensor) >= _EXTERNAL_THRESHOLD
        ]
    if sources:
        _write_data(_free_data_path(output, sources), sources)
    _replace(output, [model.SerializeToString()])
    return output.resolve().parent if sources else folder


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Size of the tensor's values (at least: strings count as one byte)."""
    dtype = ir.DataType(tensor.data_type)
    if dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return math.prod(tensor.dims)
    return math.ceil(math.prod(tensor.dims) * dtype.itemsize)


def fits_protobuf(model: onnx.ModelProto) -> bool:
    """Whether the weights within the model leave it small enough to be serialised."""
    embedded = (tensor for tensor in all_tensors(model) if not is_external(tensor))
    return sum(map(_tensor_bytes, embedded)) <= _MAX_WEIGHT_BYTES


def _free_data_path(output: Path, sources: list[_Content]) -> Path:
    """``<output>.data``, or the first ``<output>.N.data`` that is not read from."""
    read = {source.path.resolve() for _, source in sources if isinstance(source, _Extent)}
    numbers = ("", *(f".{n}" for n in range(1, len(read) + 1)))
    paths = (output.with_name(f"{output.name}{number}.data") for number in numbers)
    return next(path for path in paths if path.resolve() not in read)


def _write_data(path: Path, sources: list[_Content]) -> None:
    """Write all tensors to one file and make each refer to its place there."""
    places: list[tuple[int, int]] = []

    def chunks() -> Iterator[bytes]:
        position = 0
        for _, source in sources:
            padding = -position % _ALIGNMENT
            yield bytes(padding)
            position += padding
            length = source.length if isinstance(source, _Extent) else len(source)
            places.append((position, length))
            yield from source.chunks() if isinstance(source, _Extent) else (source,)
            position += length

    _replace(path, chunks())
    for (tensor, _), (offset, length) in zip(sources, places, strict=True):
        tensor.ClearField("raw_data")
        del tensor.external_data[:]
        place = {"location": path.name, "offset": str(offset), "length": str(length)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        tensor.data_location = onnx.TensorProto.EXTERNAL


def _replace(path: Path, chunks: Iterable[bytes]) -> None:
    with written_whole(path) as part, part.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to; its file appears as ``path`` only when the block ends without error."""
    if path.exists() and not path.is_file():  # a pipe or a device
        yield path
        return
    path = path.resolve()  # replace what a link points to, not the link
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its weights, for onnx's own tools, which stop at 2 GB.

    Large and external initializers of the main graph become inputs of the same type and shape.
    """
    result = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(result, field, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy_field(result.graph, field, value)
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if not is_external(tensor) and _tensor_bytes(tensor) <= _EXTERNAL_THRESHOLD:
            result.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in inputs:
            result.graph.input.add().CopyFrom(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return result


def _copy_field(message, field, value) -> None:
    if isinstance(value, Message):
        getattr(message, field.name).CopyFrom(value)
    elif isinstance(value, str | bytes | int | float):
        setattr(message, field.name, value)
    else:
        getattr(message, field.name).extend(value)
