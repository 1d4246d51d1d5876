"""Writing models: over nothing that others wrote, and whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import onnx

from ..base.text import printable
from .external_data import ConversionError, Extent, all_tensors, location_of, refer, tensor_bytes
from .model_io import EXTERNAL_THRESHOLD, Model, read_model
from .nodes import DOMAIN
from .report import count_operators

_ALIGNMENT = 4096  # lets the runtime map a tensor's pages instead of copying them

#: A tensor and where its values are now.
_Content = tuple[onnx.TensorProto, Extent | bytes]


@dataclass(frozen=True)
class Output:
    """A place to write a converted model to, checked before there is one."""

    path: Path
    source: Model  #: what is converted
    in_place: bool  #: whether it is written over its source
    data: Path  #: where external data goes
    replaced: frozenset[Path]  #: data that goes with the file that is written over
    one_file: bool = False  #: whether weights stay in the model that might as well be data

    @classmethod
    def check(
        cls,
        output: str | os.PathLike,
        source: Model,
        force: bool = False,
        one_file: bool = False,
    ) -> Output:
        """Raises FileExistsError if a file would be lost that this package did not write.

        ``force`` allows to replace ``output`` itself, also if it is the source; data of other
        models is never touched.  Raises FileNotFoundError if there is no folder to write to.
        """
        path = Path(output)
        shown = printable(str(path))
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"{printable(str(path.parent))} is not a folder to write {printable(path.name)} to"
            )
        if path.is_dir():
            raise IsADirectoryError(f"{shown} is a folder; name a file in it to write to")
        form = onnx.serialization.registry.get_format_from_file_extension(path.suffix)
        if path.suffix == ".ort" or form not in (None, "protobuf"):
            raise ConversionError(
                f"{shown}: models are written in ONNX's binary format, and a file with the suffix "
                f"{path.suffix} is read as something else; name it {printable(path.stem)}.onnx"
            )
        is_special = path.exists() and not path.is_file()  # a pipe or a device
        if not is_special and not os.access(path.parent, os.W_OK):
            raise PermissionError(
                f"{printable(str(path.parent))} is a folder that you may not write to"
            )
        read = _files(source)
        if path.resolve() in read:
            raise FileExistsError(f"{shown} holds data of the model to convert; write elsewhere")
        exists = path.is_file() and path.stat().st_size > 0
        is_source = exists and source.path is not None and path.samefile(source.path)
        # Another name of the source's file gets a file of its own.
        in_place = is_source and path.resolve() == source.path.resolve()
        if is_source and not force:
            raise FileExistsError(
                f"{shown} is the model to convert, which would be lost: write to another file, or "
                "add --force (force=True in Python)"
            )
        before = source if in_place else _model_at(path) if exists else None
        if exists and not force and not (before and _is_ours(before, source)):
            raise FileExistsError(
                f"{shown} exists, and ort-tconv did not write it: write to another file, or add "
                "--force (force=True in Python)"
            )
        folder = source.folder if in_place and source.folder else path.parent
        names = (f"{path.name}{number}.data" for number in ("", *(f".{n}" for n in range(1, 1000))))
        data = [folder / name for name in names]
        replaced = frozenset(
            place
            for place in data
            if before and place.resolve() in _files(before) and not place.is_symlink()
        )
        free = (
            place
            for place in data
            if not os.path.lexists(place) or (place in replaced and place.resolve() not in read)
        )
        chosen = next(free)
        first = data[0]
        foreign = chosen != first and first not in replaced and first.resolve() not in read
        if foreign and not force and not in_place and (source.external or _too_large(source)):
            raise FileExistsError(
                f"{printable(str(first))} exists and belongs to something else: write the model to "
                "another file, or add --force (force=True in Python), which gives its data another "
                "name"
            )
        return cls(path, source, in_place, chosen, replaced, one_file or chosen != first)

    def write(self, model: Model) -> Model:
        """Write ``model``, made from the source, and return it as it stands there.

        What is external stays external: it is copied to one file beside the output, and the
        references follow.  Large weights that the operator packs are moved there too, unless
        ``one_file``: a session maps them, and lets go of them when they are packed.  Of a model
        that protobuf cannot hold, all large tensors are moved.  References of a model that takes
        its source's place stay as they are.
        """
        sources: list[_Content] = [*model.extents()]
        if self.path.exists() and not self.path.is_file():  # a pipe or a device
            _write(self.path, [model.load().proto.SerializeToString()])
            return model
        if self.in_place:
            sources = []
        moved: list[onnx.TensorProto] = []
        if _too_large(model):
            moved = [t for t in all_tensors(model.proto) if tensor_bytes(t) >= EXTERNAL_THRESHOLD]
        elif not self.one_file and not self.in_place:
            moved = model.packed_weights()
        sources += [(tensor, tensor.raw_data) for tensor in moved if tensor.HasField("raw_data")]
        with written_whole(self.path) as part:
            if sources:
                with written_whole(self.data) as data:
                    _write_data(data, self.data.name, sources)
                    _write(part, [model.proto.SerializeToString()])
            else:
                _write(part, [model.proto.SerializeToString()])
        result = Model(model.proto, self.data.parent.resolve(), self.path)
        self._remove_orphans(result)
        return result

    def _remove_orphans(self, written: Model) -> None:
        """Remove the data of the file that was replaced, unless a model refers to it."""
        orphans = self.replaced - {self.data.parent / location_of(t) for t in written.external}
        orphans = {place for place in orphans if place.is_file()}
        if not orphans:
            return
        used = set() if self.in_place else _files(self.source)
        for file in self.data.parent.glob("*.onnx"):
            other = _model_at(file)
            used |= _files(other) if other else set()
        for place in orphans:
            if place.resolve() not in used:
                place.unlink()


def _files(model: Model) -> set[Path]:
    """The files of a model's external data, links followed."""
    if model.folder is None:
        return set()
    return {(model.folder / location_of(tensor)).resolve() for tensor in model.external}


def _model_at(path: Path) -> Model | None:
    with suppress(ConversionError, OSError):
        return read_model(path)
    return None


def _is_ours(found: Model, source: Model) -> bool:
    """Whether this package wrote a file, or nothing would be lost with it."""
    operators = count_operators(found.proto)
    # A tuned model may have kept stock everywhere.
    recorded = any(item.key.startswith(f"{DOMAIN}.") for item in found.proto.metadata_props)
    ours = recorded or any(op.startswith(f"{DOMAIN}::") for op in operators)
    return ours or found.proto == source.proto


def _too_large(model: Model) -> bool:
    return not model.fits_protobuf()


def _write_data(path: Path, location: str, sources: list[_Content]) -> None:
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

    _write(path, chunks())
    for (tensor, _), (offset, length) in zip(sources, places, strict=True):
        refer(tensor, location, offset, length)


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to; its file appears as ``path`` only when the block ends without error."""
    if path.exists() and not path.is_file():  # a pipe or a device
        yield path
        return
    path = path.resolve()  # replace what a link points to, not the link
    unique = f"{os.getpid()}-{threading.get_ident()}"
    part = path.with_name(f".{path.stem}.{unique}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
