"""A model with the folder of its external data, and reading it from whatever holds one.

Messages are kept as protobuf has them, because what no pass rewrites has to come back as it was;
the passes work on onnx-ir's objects, which ``pipeline`` makes.  ``ir.load`` and ``ir.save``,
which go through such objects, do not do what this module and ``output`` are for (seen with onnx-ir
1.1):

- A model that is loaded and saved unchanged comes back as other bytes, and without its sparse
  initializers.
- ``ir.load`` looks for external data beside the path that it is given.  It refuses data that is a
  link to another folder, as in the cache of a model hub, and does not find data beside the file
  that the path is a link to; of an object without a folder, data is read from the current
  directory.
- A file that is no model ends in protobuf's "wire format was corrupt", whatever it is.
- ``ir.save`` writes over data that another model refers to, and leaves tensors of attributes in the
  model, which then may exceed the 2 GB that protobuf holds.
- The pass that infers shapes hands onnx the weights of bodies, which may exceed 2 GB as well, where
  ``Model.skeleton`` leaves them out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from ..base.text import printable
from .external_data import (
    ConversionError,
    Extent,
    all_tensors,
    embed,
    external_places,
    is_external,
    location_of,
    refer,
    reference_of,
    tensor_bytes,
)
from .nodes import DOMAIN, OP_TYPE

# Protobuf serialises 2 GiB at most. Models with more weights than this, which leaves some room for
# the graph, have their tensors of at least EXTERNAL_THRESHOLD bytes written beside the file.
_MAX_WEIGHT_BYTES = 2**31 - 2**26
EXTERNAL_THRESHOLD = 1024
_MAX_FILE_BYTES = 2**31
# Weights that sessions hold packed, and no longer as they are in the model, are written beside the
# file where there are a few MB of them: pages of a file can be dropped from memory.
_LARGE_WEIGHTS, _MANY_WEIGHTS = 1 << 20, 1 << 22
_MOST_LINKS = 40  # that Linux follows


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
        return sum(map(tensor_bytes, self.external))

    def fits_protobuf(self, loaded: bool = False) -> bool:
        """Whether the model is small enough to be serialised, as it is or with all data loaded."""
        tensors = (t for t in all_tensors(self.proto) if loaded or not is_external(t))
        return sum(map(tensor_bytes, tensors)) <= _MAX_WEIGHT_BYTES

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
                reference_of(tensor)

    def load(self) -> Model:
        """Move external data into the model itself; raises ConversionError as ``extents`` does."""
        for tensor, extent in self.extents():
            embed(tensor, extent.read())
        return self

    def packed_weights(self) -> list[onnx.TensorProto]:
        """Large initializers that only the operator reads, as W, of models that have a few MB of
        them."""
        readers: dict[str, bool] = {}
        for node in self.proto.graph.node:
            ours = node.domain == DOMAIN and node.op_type == OP_TYPE
            for i, name in enumerate(node.input):
                readers[name] = readers.get(name, True) and ours and i == 1
        outputs = {value.name for value in self.proto.graph.output}
        weights = [
            tensor
            for tensor in self.proto.graph.initializer
            if readers.get(tensor.name)
            and tensor.name not in outputs
            and tensor_bytes(tensor) >= _LARGE_WEIGHTS
        ]
        return weights if sum(map(tensor_bytes, weights)) >= _MANY_WEIGHTS else []

    def serialize(self) -> tuple[bytes, Path | None]:
        """The model as bytes, and the folder that their references are relative to, if any.

        Links are followed here, for a runtime that refuses those which leave the folder: the
        references are those of the files themselves, relative to a folder that they share.
        """
        copy = self.copy()
        large = []
        for tensor, extent in copy.extents():
            if extent.length > EXTERNAL_THRESHOLD:
                large.append((tensor, extent))
            else:  # maybe a shape, which onnxruntime wants to have in the model
                embed(tensor, extent.read())
        folder = None
        if large:
            folder = Path(os.path.commonpath([extent.path.parent for _, extent in large]))
        for tensor, extent in large:
            location = extent.path.relative_to(folder).as_posix()
            refer(tensor, location, extent.offset, extent.length)
        return copy.proto.SerializeToString(), folder

    def skeleton(self) -> onnx.ModelProto:
        """The model without its weights, for onnx's own tools, which stop at 2 GB.

        Large initializers of the main graph become inputs of the same type and shape, and so do
        sparse ones, over which onnx 1.19 crashes; those of bodies become dense.  Small ones, among
        them those that decide on shapes, are there wherever they are stored.
        """
        result = onnx.ModelProto()
        for field, value in self.proto.ListFields():
            if field.name != "graph":
                _copy_field(result, field, value)
        for field, value in self.proto.graph.ListFields():
            if field.name not in ("initializer", "sparse_initializer"):
                _copy_field(result.graph, field, value)
        result.graph.input.extend(sparse_values(self.proto.graph))
        inputs = {value.name for value in self.proto.graph.input}
        for tensor in self.proto.graph.initializer:
            if tensor_bytes(tensor) <= EXTERNAL_THRESHOLD and self.is_readable(tensor):
                result.graph.initializer.add().CopyFrom(tensor)
            elif tensor.name not in inputs:
                result.graph.input.add().CopyFrom(
                    onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                )
        for tensor in self.derive(result).external:
            if tensor_bytes(tensor) > EXTERNAL_THRESHOLD:
                embed(tensor, bytes(tensor_bytes(tensor)))
            elif self.is_readable(tensor):
                embed(tensor, Extent.of(tensor, self.folder).read())
        fill_sparse(result)
        return result

    def is_readable(self, tensor: onnx.TensorProto) -> bool:
        """Whether the tensor's values are in the model, or in a file that is there."""
        if not is_external(tensor):
            return True
        return self.folder is not None and (self.folder / location_of(tensor)).is_file()


def sparse_values(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Types and shapes of the sparse initializers that are no inputs as well."""
    inputs = {value.name for value in graph.input}
    return [
        onnx.helper.make_tensor_value_info(each.values.name, each.values.data_type, each.dims)
        for each in graph.sparse_initializer
        if each.values.name not in inputs
    ]


def sparse_bodies(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The bodies of nodes that have sparse initializers."""

    def within(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
        for node in nodes:
            for attribute in node.attribute:
                own = (attribute.g,) if attribute.HasField("g") else ()
                for body in (*own, *attribute.graphs):
                    if body.sparse_initializer:
                        yield body
                    yield from within(body.node)

    return [body for holder in (model.graph, *model.functions) for body in within(holder.node)]


def fill_sparse(model: onnx.ModelProto) -> None:
    """Put dense initializers in place of the sparse ones of bodies, which onnx-ir does not keep."""
    for body in sparse_bodies(model):
        body.initializer.extend(map(_dense, body.sparse_initializer))
        del body.sparse_initializer[:]


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """Indices are places in the flat array, or one for each axis."""
    if is_external(sparse.values) or is_external(sparse.indices):
        raise ConversionError(
            f"sparse initializer '{sparse.values.name}' of a body is stored in another file: load "
            "the model's external data first"
        )
    values, places = map(onnx.numpy_helper.to_array, (sparse.values, sparse.indices))
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    dense[np.unravel_index(places, dense.shape) if places.ndim == 1 else tuple(places.T)] = values
    return onnx.numpy_helper.from_array(dense, sparse.values.name)


def _copy_field(message, field, value) -> None:
    if isinstance(value, Message):
        getattr(message, field.name).CopyFrom(value)
    elif isinstance(value, str | bytes | int | float):
        setattr(message, field.name, value)
    else:
        getattr(message, field.name).extend(value)


ModelLike = str | os.PathLike | bytes | bytearray | memoryview | onnx.ModelProto | ir.Model | Model


def read_model(model: ModelLike) -> Model:
    """Model from a path (of a file in ONNX's format, whatever its name, or in a text format that
    onnx knows by its suffix), bytes or an object.

    Raises ConversionError if it is no ONNX model, FileNotFoundError or another OSError if there is
    no such file or it cannot be read, and TypeError if ``model`` is something else.  External data
    is not loaded.
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
        data = read_file(path)
        text = onnx.serialization.registry.get_format_from_file_extension(path.suffix)
        if text in (None, "protobuf"):
            proto = _parse(data, str(path))
        else:
            proto = _parse_text(data, path, text)
        result = Model(proto, _folder_of_file(path, proto), path)
    else:
        hint = "; pass what its read() returns" if hasattr(model, "read") else ""
        raise TypeError(
            f"model is a {type(model).__name__}; a path, bytes, onnx.ModelProto or onnx_ir.Model "
            f"is needed{hint}"
        )
    if not result.proto.HasField("graph"):
        raise ConversionError(f"{result.path or 'the model'}: an ONNX model without a graph")
    return result


def is_ort_format(data: bytes | bytearray | memoryview) -> bool:
    """Whether ``data`` begins a model in ONNX Runtime's own format, which no ONNX tool reads."""
    return bytes(data[4:8]) == b"ORTM"


def read_file(path: Path, most: int = -1) -> bytes:
    """The file's bytes, or as many of them; raises OSErrors that say what is wrong in words."""
    shown = printable(str(path))
    try:
        with path.open("rb") as file:
            if most < 0 and os.fstat(file.fileno()).st_size > _MAX_FILE_BYTES:
                raise ConversionError(
                    f"{shown}: too large for an ONNX model, which has 2 GB at most with the rest "
                    "of its weights in other files; is this one of those?"
                )
            return file.read(most)
    except FileNotFoundError:
        if path.is_symlink():
            target = printable(os.readlink(path))
            raise FileNotFoundError(f"{shown} is a link to {target}, which is not there") from None
        raise FileNotFoundError(f"there is no file {shown}") from None
    except IsADirectoryError:
        models = sorted(printable(file.name) for file in path.glob("*.onnx"))[:3]
        such_as = f", such as {', '.join(models)}" if models else ""
        raise IsADirectoryError(f"{shown} is a folder; pass a model in it{such_as}") from None
    except PermissionError:
        raise PermissionError(f"{shown} cannot be read: no permission") from None
    except OSError as error:
        raise OSError(f"{shown} cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"{shown!r} is no path") from None  # a null character


def _parse(data: bytes, origin: str) -> onnx.ModelProto:
    if is_ort_format(data):
        raise ConversionError(
            f"{origin}: a model in ORT format cannot be converted; convert the ONNX model it was "
            "made from"
        )
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        model = None
    # What is something else may pass for a message with unknown fields.
    if model is None or not model.HasField("graph"):
        raise ConversionError(f"{origin}: not an ONNX model, but {_kind(data)}")
    return model


def _parse_text(data: bytes, path: Path, form: str) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(data, format=form)
    except Exception as error:  # each format has its own
        why = str(error).strip().partition("\n")[0]
        raise ConversionError(f"{path}: not an ONNX model in the format {form}: {why}") from None


#: What people take for a model: how it begins, at which byte, and what to do.
_KINDS = (
    (0, b"version https://git-lfs", "a pointer of Git LFS to it: run `git lfs pull`"),
    (0, b"PK\x03\x04", "a zip archive, as PyTorch's .pt and .pth are: export the model with "
     "torch.onnx.export, or unpack it if it is in there"),
    (0, b"\x80", "a pickle, as old PyTorch checkpoints are: export the model with "
     "torch.onnx.export"),
    (4, b"TFL3", "a TensorFlow Lite model: convert it with tf2onnx"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes: convert it with tf2onnx"),
    (0, b"\x1f\x8b", "compressed: unpack it with gunzip"),
    (0, b"BZh", "compressed: unpack it with bunzip2"),
    (0, b"\xfd7zXZ", "compressed: unpack it with unxz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed: unpack it with unzstd"),
    (8, b'{"', "weights in the safetensors format: export the model that they belong to"),
    (0, b"GGUF", "a GGUF file: export the model that it was made from"),
)  # fmt: skip


def _kind(data: bytes) -> str:
    """What the bytes are if they are no model, and what to do."""
    if not data:
        return "empty: export or download it again"
    for start, magic, kind in _KINDS:
        if data.startswith(magic, start):
            return kind
    if data.lstrip()[:1] in (b"<", b"{"):
        return "text, such as a web page or a message of a failed download: download it again"
    return "something else, or damaged or cut short: export or download it again"


def _folder_of_file(path: Path, proto: onnx.ModelProto) -> Path:
    """The folder of a model's external data: that of its file.

    If the file is a link, the data may lie beside the link, as the system sees it, or beside what
    the link leads to: the first folder on the way that holds all of it.
    """
    folders = [path.absolute().parent.resolve()]
    while path.is_symlink() and len(folders) < _MOST_LINKS:
        path = path.absolute().parent / os.readlink(path)
        folders.append(path.parent.resolve())
    locations = {location_of(tensor) for tensor in Model(proto).external}
    complete = (f for f in folders if all((f / location).is_file() for location in locations))
    return next(complete, folders[0])


def _folder_of(model: ir.Model) -> Path | None:
    """The folder of an object's external data; raises ConversionError if there are several."""
    tensors = [t for _, t in external_places(model) if os.fspath(t.base_dir)]
    folders = {Path(tensor.base_dir).resolve() for tensor in tensors}
    if len(folders) > 1:
        named = " and ".join(sorted(f"'{folder}'" for folder in folders))
        raise ConversionError(f"the model's external data lies in several folders: {named}")
    return next(iter(folders), None)
