"""Writes model repositories for NVIDIA's Triton Inference Server.

Triton's ONNX Runtime backend loads operator libraries that a model's ``config.pbtxt`` names, so
that a converted model is served like any other.  Only text is written here: neither Triton nor its
client is needed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import onnx

from ..base.library import get_library_path
from ..converters.external_data import ConversionError
from ..converters.model_io import ModelLike, read_model
from ..converters.output import written_whole
from .convert import convert

LIBRARY = "libort_tconv.so"

#: How an instance group of Triton runs the sessions of each execution provider.
KINDS = {"CPUExecutionProvider": "KIND_CPU", "CUDAExecutionProvider": "KIND_GPU"}

_Type = onnx.TensorProto
_TYPES = {
    _Type.BOOL: "TYPE_BOOL",
    _Type.UINT8: "TYPE_UINT8",
    _Type.UINT16: "TYPE_UINT16",
    _Type.UINT32: "TYPE_UINT32",
    _Type.UINT64: "TYPE_UINT64",
    _Type.INT8: "TYPE_INT8",
    _Type.INT16: "TYPE_INT16",
    _Type.INT32: "TYPE_INT32",
    _Type.INT64: "TYPE_INT64",
    _Type.FLOAT16: "TYPE_FP16",
    _Type.FLOAT: "TYPE_FP32",
    _Type.DOUBLE: "TYPE_FP64",
    _Type.BFLOAT16: "TYPE_BF16",
    _Type.STRING: "TYPE_STRING",
}


def export_triton(
    model: ModelLike,
    repository: str | os.PathLike,
    *,
    name: str | None = None,
    server_repository: str | os.PathLike | None = None,
    instances: int = 1,
    threads: int | None = None,
    provider: str = "CPUExecutionProvider",
    max_batch: int = 0,
) -> Path:
    """Convert a model and write it as a model of a Triton repository.

    The result is ``repository/name`` with ``config.pbtxt``, ``1/model.onnx``, its external data,
    and a copy of the operator library, which the configuration names by its absolute path on the
    server.

    Args:
        model: As for :func:`ort_tconv.convert`; a converted model is kept as it is.
        repository: Folder of the model repository, made if need be.
        name: Name of the model in Triton; by default the model file's, without its suffix.
        server_repository: Absolute path of the repository where the server sees it, such as
            ``/models`` in a container; by default ``repository`` itself.
        instances: Sessions that run requests side by side.  They share packed weights.
        threads: Threads of each session: by default all cores for one instance, which Triton writes
            as 0, and one thread for each of several, so that they do not compete for the cores.
        provider: One of :data:`KINDS`.
        max_batch: Largest batch that Triton may gather, for models whose inputs and outputs all
            begin with a free dimension; 0 for requests that are run as they come.

    Returns:
        The model's folder.

    Raises:
        ConversionError: The model cannot be converted, or has inputs or outputs that Triton has no
            type for.
        FileExistsError: The model's folder is there already.
        ValueError: An argument is out of its range, or ``max_batch`` is given for a model that does
            not allow it.
    """
    source = read_model(model)
    if name is None:
        name = source.path.stem if source.path else source.proto.graph.name
    if not name or PurePosixPath(name).name != name:
        raise ValueError(f"name '{name}': must be the name of a folder")
    if instances < 1:
        raise ValueError(f"instances = {instances}: must be at least 1")
    if threads is None:
        threads = 0 if instances == 1 else 1
    if threads < 0:
        raise ValueError(f"threads = {threads}: must be 0, for all cores, or more")
    if max_batch < 0:
        raise ValueError(f"max_batch = {max_batch}: must be 0, for none, or more")
    if provider not in KINDS:
        raise ValueError(f"provider '{provider}': must be one of {', '.join(KINDS)}")
    on_server = PurePosixPath(server_repository or Path(repository).absolute())
    if not on_server.is_absolute():
        raise ValueError(f"server_repository '{server_repository}': must be an absolute path")
    folder = Path(repository) / name
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; remove it, or give another name")

    library = get_library_path()
    # What is refused, is refused before anything is written.
    config = "\n".join(
        _config(
            source.proto,
            name=name,
            library=str(on_server / name / LIBRARY),
            instances=instances,
            threads=threads,
            kind=KINDS[provider],
            max_batch=max_batch,
        )
    )
    (folder / "1").mkdir(parents=True)
    try:
        convert(source, folder / "1" / "model.onnx", load_external_data=False)
        shutil.copyfile(library, folder / LIBRARY)
        with written_whole(folder / "config.pbtxt") as part:
            part.write_text(config + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder


def _config(
    model: onnx.ModelProto,
    *,
    name: str,
    library: str,
    instances: int,
    threads: int,
    kind: str,
    max_batch: int,
) -> Iterator[str]:
    """The lines of a ``ModelConfig`` in protobuf's text format."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    yield f"name: {_text(name)}"
    yield 'backend: "onnxruntime"'
    yield f"max_batch_size: {max_batch}"
    for field, values in (("input", inputs), ("output", model.graph.output)):
        for value in values:
            yield f"{field} {{"
            yield from (f"  {line}" for line in _tensor(field, value, max_batch))
            yield "}"
    yield f"instance_group {{ count: {instances} kind: {kind} }}"
    yield f"model_operations {{ op_library_filename: {_text(library)} }}"
    yield f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{threads}" }} }}'
    if max_batch > 1:
        yield "dynamic_batching { }"


def _tensor(field: str, value: onnx.ValueInfoProto, max_batch: int) -> Iterator[str]:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type not in _TYPES:
        what = onnx.TensorProto.DataType.Name(tensor.elem_type) if kind == "tensor_type" else kind
        raise ConversionError(
            f"{field} '{value.name}' is of type {what}, which Triton does not have"
        )
    if not tensor.HasField("shape"):
        raise ConversionError(
            f"{field} '{value.name}' is declared without a shape; Triton needs its rank"
        )
    sides = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    if max_batch:
        if not sides or sides[0] != -1:
            raise ValueError(
                f"max_batch = {max_batch}: {field} '{value.name}' has shape {sides}, whose first "
                "dimension is not free, so that Triton cannot batch requests"
            )
        sides = sides[1:]
    yield f"name: {_text(value.name)}"
    yield f"data_type: {_TYPES[tensor.elem_type]}"
    yield f"dims: {_list(sides or [1])}"
    if not sides:  # Triton has no tensors without dimensions; it drops this one
        yield "reshape { shape: [ ] }"


def _list(values: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, values))} ]"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
