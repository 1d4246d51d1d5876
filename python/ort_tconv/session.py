"""Makes onnxruntime sessions know the operator."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._library import get_library_path, import_onnxruntime

if TYPE_CHECKING:
    import onnx
    import onnxruntime

#: Session option that says where a model given as bytes has its external data.
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"

# onnxruntime refuses, when a session is created, options to which a library was added twice.
_registered: weakref.WeakKeyDictionary[onnxruntime.SessionOptions, set[str]]
_registered = weakref.WeakKeyDictionary()


def register(
    session_options: onnxruntime.SessionOptions, extensions: bool = False
) -> onnxruntime.SessionOptions:
    """Add the operator to ``session_options`` and return them.

    Calling it again for the same options does nothing.

    Args:
        session_options: Options for any number of sessions.
        extensions: Also add the operators of the package onnxruntime-extensions.

    Raises:
        ImportError: onnxruntime, or onnxruntime-extensions if asked for, is not installed.
        TypeError: ``session_options`` is something else.
    """
    ort = import_onnxruntime()
    if not isinstance(session_options, ort.SessionOptions):
        raise TypeError(
            f"session_options is a {type(session_options).__name__}, not a SessionOptions"
        )
    libraries = [get_library_path()]
    if extensions:
        try:
            import onnxruntime_extensions
        except ImportError as error:
            raise ImportError(
                f"extensions=True needs onnxruntime-extensions ({error}): "
                "run `pip install onnxruntime-extensions`"
            ) from error
        libraries.append(onnxruntime_extensions.get_library_path())
    done = _registered.setdefault(session_options, set())
    for library in libraries:
        if library not in done:
            session_options.register_custom_ops_library(library)
            done.add(library)
    return session_options


def available_providers() -> list[str]:
    """The execution providers of the installed onnxruntime for which the operator has kernels.

    In onnxruntime's order of priority, to be passed on as ``providers=``: always
    ``CPUExecutionProvider``, before it ``CUDAExecutionProvider`` if both onnxruntime and ort_tconv
    were built with CUDA.
    """
    from . import _core

    ours = {"CPUExecutionProvider"}
    if _core.built_with_cuda:
        ours.add("CUDAExecutionProvider")
    return [name for name in import_onnxruntime().get_available_providers() if name in ours]


def open_session(
    model: onnx.ModelProto,
    folder: Path | None,
    session_options: onnxruntime.SessionOptions,
    providers: Sequence[Any],
) -> onnxruntime.InferenceSession:
    """A session of a model in memory, whose external data is relative to ``folder``.

    A model that protobuf cannot serialise goes through a temporary file.  ``session_options`` are
    changed where the model has external data.
    """
    import onnx

    from .converters import model_io

    ort = import_onnxruntime()
    if model_io.fits_protobuf(model):
        if folder is not None and model_io.external_tensors(model):
            session_options.add_session_config_entry(EXTERNAL_FOLDER, str(folder))
        data = model.SerializeToString()
        return ort.InferenceSession(data, session_options, list(providers), enable_fallback=0)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        model_io.write_model(copy, path, folder)
        return ort.InferenceSession(path, session_options, list(providers), enable_fallback=0)
