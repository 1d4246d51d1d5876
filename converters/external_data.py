"""Tensors in files beside the model ("external data"): where they are, and reading them.

They are named by a path relative to the model's folder.  Links are followed as the system follows
them, and nothing is looked for in the current directory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ..base.text import printable

_COPY_BYTES = 1 << 24


class ConversionError(ValueError):
    """The model cannot be read, converted or written; the message says what is wrong with it."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))  # names in models hold what they like


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


def location_of(tensor: onnx.TensorProto) -> str:
    return _entries(tensor).get("location", "")


def refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
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
        location, offset, length = reference_of(tensor)
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


def reference_of(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """What an external tensor says of its place: location, offset and length.

    Raises ConversionError if that makes no sense, whatever the file holds.
    """
    what = f"tensor '{tensor.name}': external data"
    entries = {"offset": "0", "length": "0"} | _entries(tensor)
    location = os.path.normpath(location_of(tensor))
    if location == "." or os.path.isabs(location) or location.split(os.sep)[0] == "..":
        raise ConversionError(
            f"{what} location '{location_of(tensor)}' is not a path below the model's folder"
        )
    for key in ("offset", "length"):
        if not (entries[key].isascii() and entries[key].isdigit()):
            raise ConversionError(f"{what} has {key} '{entries[key]}', which is no whole number")
    dtype = onnx.TensorProto.DataType.Name(tensor.data_type)
    if tensor.data_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        raise ConversionError(f"{what}: values of type {dtype} cannot be in a file")
    needed = tensor_bytes(tensor)
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
    for put, tensor in list(external_places(model)):
        put(FileTensor(tensor, folder))


def external_places(
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


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Size of the tensor's values (at least: strings count as one byte)."""
    dtype = ir.DataType(tensor.data_type)
    if dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return math.prod(tensor.dims)
    return math.ceil(math.prod(tensor.dims) * dtype.itemsize)


def embed(tensor: onnx.TensorProto, values: bytes) -> None:
    tensor.raw_data = values
    tensor.ClearField("data_location")
    del tensor.external_data[:]
