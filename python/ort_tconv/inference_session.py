"""``onnxruntime.InferenceSession`` with the conversion built in."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from ._library import import_onnxruntime
from .converters import Model, Report, convert_with_report
from .converters.model_io import is_ort_format, read_model
from .session import available_providers, external_folder, for_session, register

ort = import_onnxruntime()


class InferenceSession(ort.InferenceSession):
    """Drop-in replacement for ``onnxruntime.InferenceSession`` that converts the model it loads.

    Args:
        path_or_bytes: Path, bytes or ``onnx.ModelProto``.  A model in ORT format is loaded as it
            is.  External data is that beside the file, or, of bytes and objects, in the folder that
            ``session.model_external_initializers_file_folder_path`` names in the options; never in
            the current directory.  It is mapped from where it lies; with ``sess_options`` it is
            loaded, or, beyond 128 MiB, copied to a temporary folder that lasts as long as the
            session.
        sess_options: As for onnxruntime.  The operator is registered with these options, which are
            not changed otherwise: they may be used for other sessions, in other threads as well.
        providers: As for onnxruntime; by default :func:`ort_tconv.available_providers`.
        provider_options: As for onnxruntime.
        extensions: Also register the operators of onnxruntime-extensions.
        kwargs: Passed on to onnxruntime.

    Attributes:
        conversion: :class:`ort_tconv.converters.Report` on what was rewritten; None for a model in
            ORT format.

    Raises:
        ort_tconv.ConversionError: The model cannot be read or converted.
        RuntimeError: The operator is registered with ``sess_options`` in another way as well.
    """

    conversion: Report | None

    def __init__(
        self,
        path_or_bytes: str | os.PathLike | bytes | onnx.ModelProto,
        sess_options: ort.SessionOptions | None = None,
        providers: Sequence[str | tuple[str, dict[Any, Any]]] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
        *,
        extensions: bool = False,
        **kwargs: Any,
    ) -> None:
        owned = sess_options is None
        options = register(ort.SessionOptions() if owned else sess_options, extensions)
        if providers is None and not getattr(options, "has_providers", lambda: False)():
            providers = available_providers()
        with ExitStack() as files:
            content: Any = path_or_bytes
            self.conversion = None
            if not _holds_ort_format(path_or_bytes):
                model, self.conversion = _converted(path_or_bytes, options)
                content = files.enter_context(for_session(model, options, owned=owned))
            self._load(content, options, providers, provider_options, **kwargs)
            # onnxruntime loads the model again when the providers are changed.
            weakref.finalize(self, files.pop_all().close)

    def _load(self, content: str | bytes, options: ort.SessionOptions, *args, **kwargs) -> None:
        try:
            super().__init__(content, options, *args, **kwargs)
        except Exception as error:
            if "Domain already set in registry" not in str(error):
                raise
            raise RuntimeError(
                "sess_options: a custom operator library was added to these options twice; add "
                "ort_tconv's with ort_tconv.register(), which does it once, and not with "
                "register_custom_ops_library()"
            ) from error


def _converted(
    path_or_bytes: str | os.PathLike | bytes | onnx.ModelProto, options: ort.SessionOptions
) -> tuple[Model, Report]:
    source = read_model(path_or_bytes)
    if source.folder is None:
        source = replace(source, folder=external_folder(options))
    result = convert_with_report(source, load_external_data=False)
    return source.derive(result.model), result.report


def _holds_ort_format(model: object) -> bool:
    if isinstance(model, bytes):
        return is_ort_format(model)
    return isinstance(model, str | os.PathLike) and Path(model).suffix == ".ort"
