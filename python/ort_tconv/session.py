"""Makes onnxruntime sessions know the operator."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._library import get_library_path, import_onnxruntime
from .converters.model_io import ConversionError

if TYPE_CHECKING:
    import onnxruntime

    from .converters import Model

#: Session option that says where a model given as bytes has its external data.
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"

# onnxruntime refuses, when a session is created, options to which a library was added twice.
_registered: weakref.WeakKeyDictionary[onnxruntime.SessionOptions, set[str]]
_registered = weakref.WeakKeyDictionary()
_registering = threading.Lock()

# Bytes of external data that are put into the model, where they cannot be referred to.
_MOST_EMBEDDED = 1 << 27


def register(
    session_options: onnxruntime.SessionOptions, extensions: bool = False
) -> onnxruntime.SessionOptions:
    """Add the operator to ``session_options`` and return them.

    Calling it again for the same options does nothing; threads may do so at the same time.

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
    with _registering:
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
    model: Model, session_options: onnxruntime.SessionOptions, providers: Sequence[Any] | None
) -> onnxruntime.InferenceSession:
    """A session of a model, with options made for it alone: they are changed.

    Without ``providers`` it has those of the options.

    Raises ConversionError if the model's external data is out of reach.
    """
    ort = import_onnxruntime()
    with for_session(model, session_options, owned=True) as content:
        providers = None if providers is None else list(providers)
        return ort.InferenceSession(content, session_options, providers, enable_fallback=0)


@contextmanager
def for_session(
    model: Model, session_options: onnxruntime.SessionOptions, *, owned: bool
) -> Iterator[bytes | str]:
    """What ``onnxruntime.InferenceSession`` is to load: bytes, or the path of a temporary copy.

    onnxruntime looks for the external data of bytes in a folder that is set in the options.  It is
    set if they are ``owned`` by this session.  A caller's, who uses them for other models, maybe at
    the same time, are not touched: then data of moderate size goes into the bytes, and more is
    copied, with the model, to a folder that exists as long as the block runs.

    Raises ConversionError if external data is out of reach.
    """
    if owned and model.fits_protobuf():
        data, folder = model.serialize()
        if folder is not None:
            session_options.add_session_config_entry(EXTERNAL_FOLDER, str(folder))
        yield data
        return
    # onnxruntime prefers the folder in the options to that of the file.
    elsewhere = external_folder(session_options) is not None
    external = model.external_bytes()
    if model.fits_protobuf(loaded=True) and (external <= _MOST_EMBEDDED or elsewhere):
        loaded = model.copy().load() if external else model
        yield loaded.proto.SerializeToString()
    elif elsewhere:
        raise ConversionError(
            f"{model.name}: its weights exceed 2 GB, and sess_options set {EXTERNAL_FOLDER}, which "
            "onnxruntime prefers to a model's own folder; use other options for this model"
        )
    else:
        with tempfile.TemporaryDirectory(prefix="ort_tconv-") as temporary:
            path = Path(temporary) / "model.onnx"
            model.copy().write(path)
            yield str(path)


def external_folder(session_options: onnxruntime.SessionOptions) -> Path | None:
    """The folder of external data that is set in the options, None if there is none."""
    try:
        folder = session_options.get_session_config_entry(EXTERNAL_FOLDER)
    except RuntimeError:  # not set
        return None
    return Path(folder).absolute() if folder else None
