"""Makes onnxruntime sessions know the operator."""

from __future__ import annotations

import functools
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.library import get_library_path, import_onnxruntime
from ..converters.external_data import ConversionError
from ..converters.model_io import Model
from ..converters.nodes import DOMAIN, OP_TYPE, OP_VERSION
from ..converters.output import Output

if TYPE_CHECKING:
    import onnxruntime

#: Session option that says where a model given as bytes has its external data.
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"

# onnxruntime refuses, when a session is created, options to which a library was added twice.
_registered: weakref.WeakKeyDictionary[onnxruntime.SessionOptions, set[str]]
_registered = weakref.WeakKeyDictionary()
_registering = threading.Lock()

# Bytes of external data that are put into the model, where they cannot be referred to.
_MOST_EMBEDDED = 1 << 27
_COPY = "model.onnx"


def register(
    session_options: onnxruntime.SessionOptions, extensions: bool = False
) -> onnxruntime.SessionOptions:
    """Add the operator to ``session_options`` and return them.

    Calling it again for the same options does nothing, nor does it if the library was added to them
    by ``register_custom_ops_library`` before; threads may do so at the same time.

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
        done = _registered.get(session_options)
        if done is None:
            done = {libraries[0]} if _has_operator(session_options) else set()
            _registered[session_options] = done
        for library in libraries:
            if library not in done:
                session_options.register_custom_ops_library(library)
                done.add(library)
    return session_options


def _has_operator(session_options: onnxruntime.SessionOptions) -> bool:
    """Whether the operator was added to the options by ``register_custom_ops_library`` itself.

    Only onnxruntime can tell: it loads a model of one node, which takes a millisecond.
    """
    if session_options.enable_profiling:  # a session would begin a file
        return False
    from onnxruntime.capi import _pybind_state

    try:
        _pybind_state.InferenceSession(session_options, _one_node(), False, False)
    except Exception:  # onnxruntime's exceptions share no base; the operator is not known
        return False
    return True


@functools.cache
def _one_node() -> bytes:
    import onnx
    from onnx import helper

    names = ("x", "w", "y")
    x, w, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    node = helper.make_node(OP_TYPE, ["x", "w"], ["y"], domain=DOMAIN)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, OP_VERSION)]
    graph = helper.make_graph([node], "one node", [x, w], [y])
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def available_providers() -> list[str]:
    """The execution providers of the installed onnxruntime for which the operator has kernels.

    In onnxruntime's order of priority, to be passed on as ``providers=``: always
    ``CPUExecutionProvider``, before it ``CUDAExecutionProvider`` if both onnxruntime and ort_tconv
    were built with CUDA.
    """
    from .._core import built_with_cuda

    ours = {"CPUExecutionProvider"}
    if built_with_cuda:
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
    content, temporary = for_session(model, session_options, owned=True)
    providers = None if providers is None else list(providers)
    try:
        return ort.InferenceSession(content, session_options, providers, enable_fallback=0)
    finally:
        if temporary is not None:
            temporary.cleanup()


def for_session(
    model: Model, session_options: onnxruntime.SessionOptions, *, owned: bool
) -> tuple[bytes | str, tempfile.TemporaryDirectory | None]:
    """What ``onnxruntime.InferenceSession`` is to load: bytes, or the path of a copy in a folder.

    onnxruntime looks for the external data of bytes in a folder that is set in the options.  It is
    set if they are ``owned`` by this session.  A caller's, who uses them for other models, maybe at
    the same time, are not touched: then data of moderate size goes into the bytes, and more is
    copied, with the model, to a folder that the session needs as long as it may be loaded again.

    Raises ConversionError if external data is out of reach.
    """
    if owned and model.fits_protobuf():
        data, folder = model.serialize()
        if folder is not None:
            session_options.add_session_config_entry(EXTERNAL_FOLDER, str(folder))
        return data, None

    def embedded() -> bytes:
        loaded = model.copy().load() if model.external else model
        return loaded.proto.SerializeToString()

    fits = model.fits_protobuf(loaded=True)
    # onnxruntime prefers the folder in the options to that of the file.
    elsewhere = external_folder(session_options) is not None
    if fits and (elsewhere or model.external_bytes() <= _MOST_EMBEDDED):
        return embedded(), None
    if elsewhere:
        raise ConversionError(
            f"{model.name}: its weights exceed 2 GB, and sess_options set {EXTERNAL_FOLDER}, which "
            "onnxruntime prefers to a model's own folder; use other options for this model"
        )
    try:
        temporary = _copied(model)
    except OSError as error:  # no place, or no room
        if fits:
            return embedded(), None
        raise OSError(
            f"{model.name}: no copy can be made for options that other models use ({error.strerror}"
            "); let TMPDIR name a place with room, or pass no sess_options"
        ) from error
    return str(Path(temporary.name) / _COPY), temporary


def _copied(model: Model) -> tempfile.TemporaryDirectory:
    """A folder with the model, as the file ``_COPY``, and its data."""
    temporary = tempfile.TemporaryDirectory(prefix="ort_tconv-")
    try:
        path = Path(temporary.name) / _COPY
        Output.check(path, model).write(model.copy())
    except BaseException:
        temporary.cleanup()
        raise
    return temporary


def external_folder(session_options: onnxruntime.SessionOptions) -> Path | None:
    """The folder of external data that is set in the options, None if there is none."""
    try:
        folder = session_options.get_session_config_entry(EXTERNAL_FOLDER)
    except RuntimeError:  # not set
        return None
    return Path(folder).absolute() if folder else None
