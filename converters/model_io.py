"""Reading and writing models, with weights in the file or beside it.

Weights beside the file ("external data") are named by a path relative to the model's folder.  They
are copied from file to file and never pass through a second model in memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

# Protobuf serialises 2 GiB at most. Models with more weights than this, which leaves some room for
# the graph, have their tensors of at least _EXTERNAL_THRESHOLD bytes written beside the file.
_MAX_WEIGHT_BYTES = 2**31 - 2**26
_EXTERNAL_THRESHOLD = 1024
_ALIGNMENT = 4096  # lets the runtime map a tensor's pages instead of copying them
_COPY_BYTES = 1 << 24
_MOST_LINKS = 40  # that Linux follows


class ConversionError(ValueError):
    """The model cannot be read, converted or written; the message says what is wrong with it."""


@dataclass(frozen=True)
class Model:
    """A model and the folder of its external data, which belong together from file to session.

    ``folder`` is absolute: what the current directory is does not matter once a model is read.  It
    is None of a model that was given without one; its external data is then out of reach, and
    whatever needs it raises ConversionError.
    """

    proto: (
        onnx.ModelProto
    )  #: maybe the caller's own object: only :meth:`load` and ``write`` change it
    folder: Path | None = None
    path: Path | None = None

    @property
    def name(self) -> str:
        """How messages and reports call it."""
        return str(self.path) if self.path else self.proto.graph.name or "model"

    @property
    def external(self) -> list[onnx.TensorProto]:
        """The tensors whose values are in other files."""
        return [tensor for tensor in all_tensors(self.proto) if is_external(tensor)]

    def external_bytes(self) -> int:
        """Size of the values in other files."""
        return sum(map(_tensor_bytes, self.external))

    def fits_protobuf(self, loaded: bool = False) -> bool:
        """Whether the model is small enough to be serialised, as it is or with all data loaded."""
        tensors = (t for t in all_tensors(self.proto) if loaded or not is_external(t))
        return sum(map(_tensor_bytes, tensors)) <= _MAX_WEIGHT_BYTES

    def derive(self, proto: onnx.ModelProto) -> Model:
        """A model made from this one, with references to the same files."""
        return replace(self, proto=proto)

    def copy(self) -> Model:
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        return self.derive(proto)

    def extents(self) -> list[tuple[onnx.TensorProto, Extent]]:
        """The external tensors and where their values are.

        Raises ConversionError if that is not known, or not there.
        """
        return [(tensor, Extent.of(tensor, self.folder)) for tensor in self.external]

    def check_references(self) -> None:
        """Raise ConversionError if a reference to external data cannot be right.

        Files may be out of reach: what needs their values will say so.
        """
        for tensor in self.external:
            if self.is_readable(tensor):
                Extent.of(tensor, self.folder)
            else:
                _reference(tensor)

    def load(self) -> Model:
        """Move external data into the model itself; raises ConversionError as ``extents`` does."""
        for tensor, extent in self.extents():
            _embed(tensor, extent.read())
        return self

    def write(self, output: str | os.PathLike) -> Model:
        """Write the model to ``output``, and return it as it stands there.

        What is external stays external: it is copied to ``<output>.data``, and the references
        follow.  Of a model that protobuf cannot hold, the large tensors are moved there too.
        """
        output = Path(output)
        if not output.parent.is_dir():
            raise FileNotFoundError(f"{output.parent} is not a folder to write {output.name} to")
        sources: list[_Content] = [*self.extents()]
        if not self.fits_protobuf():
            sources += [
                (tensor, tensor.raw_data)
                for tensor in all_tensors(self.proto)
                if tensor.HasField("raw_data") and _tensor_bytes(tensor) >= _EXTERNAL_THRESHOLD
            ]
        if sources:
            _write_data(_free_data_path(output, sources), sources)
        _replace(output, [self.proto.SerializeToString()])
        return Model(self.proto, output.absolute().parent.resolve(), output)

    def serialize(self) -> tuple[bytes, Path | None]:
        """The model as bytes, and the folder that their references are relative to, if any.

        Links are followed here, for a runtime that refuses those which leave the folder: the
        references are those of the files themselves, relative to a folder that they share.
        """
        copy = self.copy()
        large = []
        for tensor, extent in copy.extents():
            if extent.length > _EXTERNAL_THRESHOLD:
                large.append((tensor, extent))
            else:  # maybe a shape, which onnxruntime wants to have in the model
                _embed(tensor, extent.read())
        folder = None
        if large:
            folder = Path(os.path.commonpath([extent.path.parent for _, extent in large]))
        for tensor, extent in large:
            location = extent.path.relative_to(folder).as_posix()
            _refer(tensor, location, extent.offset, extent.length)
        return copy.proto.SerializeToString(), folder

    def skeleton(self) -> onnx.ModelProto:
        """The model without its weights, for onnx's own tools, which stop at 2 GB.

        Large initializers of the main graph become inputs of the same type and shape.  Small ones,
        among them those that decide on shapes, are there wherever they are stored.
        """
        result = onnx.ModelProto()
        for field, value in self.proto.ListFields():
            if field.name != "graph":
                _copy_field(result, field, value)
        for field, value in self.proto.graph.ListFields():
            if field.name != "initializer":
                _copy_field(result.graph, field, value)
        inputs = {value.name for value in self.proto.graph.input}
        for tensor in self.proto.graph.initializer:
            if _tensor_bytes(tensor) <= _EXTERNAL_THRESHOLD and self.is_readable(tensor):
                result.graph.initializer.add().CopyFrom(tensor)
            elif tensor.name not in inputs:
                result.graph.input.add().CopyFrom(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
        for tensor in self.derive(result).external:
            if _tensor_bytes(tensor) > _EXTERNAL_THRESHOLD:
                _embed(tensor, bytes(_tensor_bytes(tensor)))
            elif self.is_readable(tensor):
                _embed(tensor, Extent.of(tensor, self.folder).read())
        return result

    def is_readable(self, tensor: onnx.TensorProto) -> bool:
        """Whether the tensor's values are in the model, or in a file that is there."""
        if not is_external(tensor):
            return True
        return self.folder is not None and (self.folder / _location(tensor)).is_file()


def _embed(tensor: onnx.TensorProto, values: bytes) -> None:
    tensor.raw_data = values
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def read_model(model: ModelLike) -> Model:
    """Model from a path (``.onnx``, or a text format that onnx knows), bytes or an object.

    Raises ConversionError if it is no ONNX model, FileNotFoundError if there is no such file and
    TypeError if ``model`` is something else.  External data is not loaded.
    """
    if isinstance(model, Model):
        result = model
    elif isinstance(model, onnx.ModelProto):
        result = Model(model)
    elif isinstance(model, ir.Model):
        result = Model(ir.to_proto(model), _folder_of(model))
    elif isinstance(model, bytes | bytearray | memoryview):
        result = Model(_parse(bytes(model), "the given bytes"))
    elif isinstance(model, str | os.PathLike):
        path = Path(model)
        if path.suffix in ("", ".onnx", ".ort", ".pb"):
            proto = _parse(path.read_bytes(), str(path))
        else:
            proto = onnx.load(path, load_external_data=False)
        result = Model(proto, _folder_of_file(path, proto), path)
    else:
        raise TypeError(
            f"model is a {type(model).__name__}; a path, bytes, onnx.ModelProto or onnx_ir.Model "
            "is needed"
        )
    if not result.proto.HasField("graph"):
        raise ConversionError(f"{result.path or 'the model'} holds no graph")
    return result


ModelLike = str | os.PathLike | bytes | onnx.ModelProto | ir.Model | Model


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


def _folder_of_file(path: Path, proto: onnx.ModelProto) -> Path:
    """The folder of a model's external data: that of its file.

    If the file is a link, the data may lie beside the link, as the system sees it, or beside what
    the link leads to: the first folder on the way that holds all of it.
    """
    folders = [path.absolute().parent.resolve()]
    while path.is_symlink() and len(folders) < _MOST_LINKS:
        path = path.absolute().parent / os.readlink(path)
        folders.append(path.parent.resolve())
    locations = {_location(tensor) for tensor in Model(proto).external}
    complete = (f for f in folders if all((f / location).is_file() for location in locations))
    return next(complete, folders[0])


def _folder_of(model: ir.Model) -> Path | None:
    """The folder of an object's external data; raises ConversionError if there are several."""
    tensors = [t for _, t in _external_places(model) if os.fspath(t.base_dir)]
    folders = {Path(tensor.base_dir).resolve() for tensor in tensors}
    if len(folders) > 1:
        named = " and ".join(sorted(f"'{folder}'" for folder in folders))
        raise ConversionError(f"the model's external data lies in several folders: {named}")
    return next(iter(folders), None)


def _external_places(
    model: ir.Model,
) -> Iterator[tuple[Callable[[ir.ExternalTensor], None], ir.ExternalTensor]]:
    """The external tensors of an object, each with what puts another one in its place."""
    for graph in model.graphs():
        for value in list(graph.initializers.values()):
            if isinstance(value.const_value, ir.ExternalTensor):
                yield partial(setattr, value, "const_value"), value.const_value
    for owner in (model.graph, *model.functions.values()):
        for node in ir.traversal.RecursiveGraphIterator(owner):
            for name, attribute in list(node.attributes.items()):
                if isinstance(attribute.value, ir.ExternalTensor):

                    def put(tensor: ir.ExternalTensor, node=node, name=name) -> None:
                        node.attributes[name] = ir.AttrTensor(name, tensor)

                    yield put, attribute.value


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


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _location(tensor: onnx.TensorProto) -> str:
    return _entries(tensor).get("location", "")


def _refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Make the tensor's values those at a place in a file."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = onnx.TensorProto.EXTERNAL


@dataclass(frozen=True)
class Extent:
    """The bytes of one tensor in a file."""

    path: Path  #: of the file itself, links followed
    offset: int
    length: int

    @classmethod
    def of(cls, tensor: onnx.TensorProto, folder: Path | None) -> Extent:
        """Where the values of an external tensor are.

        Raises ConversionError if they are not there, or if there is no folder.
        """
        what = f"tensor '{tensor.name}': external data"
        location, offset, length = _reference(tensor)
        if folder is None:
            raise ConversionError(
                f"{what} is in the file '{location}', and the model was given without its folder; "
                "pass the model's path, or load the data first, as onnx.load does"
            )
        path = folder / location
        if not path.is_file():
            raise ConversionError(
                f"{what} file {path} is missing; it belongs beside the model, under this name"
            )
        size = path.stat().st_size
        if offset + length > size:
            raise ConversionError(
                f"{what} of {length} bytes at {offset} does not lie within {path}, which has "
                f"{size} bytes"
            )
        return cls(path.resolve(), offset, length)

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

    def read(self) -> bytes:
        return b"".join(self.chunks())


def _reference(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """What an external tensor says of its place: location, offset and length.

    Raises ConversionError if that makes no sense, whatever the file holds.
    """
    what = f"tensor '{tensor.name}': external data"
    entries = {"offset": "0", "length": "0"} | _entries(tensor)
    location = os.path.normpath(_location(tensor))
    if location == "." or os.path.isabs(location) or location.split(os.sep)[0] == "..":
        raise ConversionError(
            f"{what} location '{_location(tensor)}' is not a path below the model's folder"
        )
    for key in ("offset", "length"):
        if not (entries[key].isascii() and entries[key].isdigit()):
            raise ConversionError(f"{what} has {key} '{entries[key]}', which is no whole number")
    dtype = onnx.TensorProto.DataType.Name(tensor.data_type)
    if tensor.data_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        raise ConversionError(f"{what}: values of type {dtype} cannot be in a file")
    needed = _tensor_bytes(tensor)
    length = int(entries["length"]) or needed  # 0 means that it is not given
    if length != needed:
        raise ConversionError(
            f"{what} has length {length}, and values of shape {list(tensor.dims)} and type {dtype} "
            f"have {needed} bytes"
        )
    return location, int(entries["offset"]), length


class FileTensor(ir.ExternalTensor):
    """A tensor in a file, read by the rules of :class:`Model`.

    onnx-ir's own tensor is read from the current directory if it has no folder, and refuses links.
    """

    def __init__(self, tensor: ir.ExternalTensor, folder: Path | None) -> None:
        super().__init__(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=tensor.metadata_props,
            base_dir=folder or "",
        )
        self._folder = folder

    @property
    def is_there(self) -> bool:
        """Whether there is a file to read."""
        return self._folder is not None and (self._folder / self.location).is_file()

    @property
    def _extent(self) -> Extent:
        return Extent.of(ir.serde.serialize_tensor(self), self._folder)

    def numpy(self) -> np.ndarray:
        """The values, mapped; raises ConversionError if they are out of reach."""
        extent, dtype = self._extent, self.dtype.numpy()
        if self.dtype.bitwidth < 8:  # several in a byte
            proto = onnx.TensorProto(data_type=self.dtype.value, raw_data=extent.read())
            proto.dims.extend(self.shape.numpy())
            return ir.serde.deserialize_tensor(proto).numpy()
        if not extent.length:
            return np.empty(self.shape.numpy(), dtype)
        little = np.dtype(dtype).newbyteorder("<")
        mapped = np.memmap(extent.path, little, "r", extent.offset, (self.size,))
        return np.asarray(mapped).reshape(self.shape.numpy())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype) if copy else np.asarray(self.numpy(), dtype)

    def tobytes(self) -> bytes:
        return self._extent.read()

    def tofile(self, file: Any) -> None:
        for chunk in self._extent.chunks():
            file.write(chunk)


def is_there(tensor: ir.TensorProtocol) -> bool:
    """Whether the values of a constant can be read."""
    return not isinstance(tensor, FileTensor) or tensor.is_there


def use_file_tensors(model: ir.Model, folder: Path | None) -> None:
    """Make the external tensors of an object ones that are read by the rules above."""
    for put, tensor in list(_external_places(model)):
        put(FileTensor(tensor, folder))


#: A tensor and where its values are now.
_Content = tuple[onnx.TensorProto, Extent | bytes]


# ---- writing -----------------------------------------------------------------------------------


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Size of the tensor's values (at least: strings count as one byte)."""
    dtype = ir.DataType(tensor.data_type)
    if dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return math.prod(tensor.dims)
    return math.ceil(math.prod(tensor.dims) * dtype.itemsize)


def _free_data_path(output: Path, sources: list[_Content]) -> Path:
    """``<output>.data``, or the first ``<output>.N.data`` that is not read from."""
    read = {source.path.resolve() for _, source in sources if isinstance(source, Extent)}
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
            length = source.length if isinstance(source, Extent) else len(source)
            places.append((position, length))
            yield from source.chunks() if isinstance(source, Extent) else (source,)
            position += length

    _replace(path, chunks())
    for (tensor, _), (offset, length) in zip(sources, places, strict=True):
        _refer(tensor, path.name, offset, length)


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


def _copy_field(message, field, value) -> None:
    if isinstance(value, Message):
        getattr(message, field.name).CopyFrom(value)
    elif isinstance(value, str | bytes | int | float):
        setattr(message, field.name, value)
    else:
        getattr(message, field.name).extend(value)
