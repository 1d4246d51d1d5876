"""``onnxruntime.InferenceSession`` with the conversion built in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from ._library import import_onnxruntime
from .converters import Report, convert_with_report
from .converters.model_io import external_tensors, is_ort_format, read_model
from .session import EXTERNAL_FOLDER, available_providers, register

ort = import_onnxruntime()


class InferenceSession(ort.InferenceSession):
    """Drop-in replacement for ``onnxruntime.InferenceSession`` that converts the model it loads.

    Args:
        path_or_bytes: Path, bytes or ``onnx.ModelProto``.  External data is mapped from where it
            lies.  A model in ORT format is loaded as it is.
        sess_options: As for onnxruntime.  The operator is registered with these options (and, for
            a model with external data, its folder is set in them); they may be used for other
            sessions as well.
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
        options = register(
            ort.SessionOptions() if sess_options is None else sess_options, extensions
        )
        if providers is None and not getattr(options, "has_providers", lambda: False)():
            providers = available_providers()
        if _holds_ort_format(path_or_bytes):
            self.conversion = None
            model = path_or_bytes
        else:
            source = read_model(path_or_bytes)
            result = convert_with_report(source.proto)
            self.conversion = result.report
            if source.folder is not None and external_tensors(result.model):
                options.add_session_config_entry(EXTERNAL_FOLDER, str(source.folder))
            model = result.model.SerializeToString()
        try:
            super().__init__(model, options, providers, provider_options, **kwargs)
        except Exception as error:
            if "Domain already set in registry" not in str(error):
                raise
            raise RuntimeError(
                "sess_options: a custom operator library was added to these options twice; add "
                "ort_tconv's with ort_tconv.register(), which does it once, and not with "
                "register_custom_ops_library()"
            ) from error


def _holds_ort_format(model: object) -> bool:
    if isinstance(model, bytes):
        return is_ort_format(model)
    return isinstance(model, str | os.PathLike) and Path(model).suffix == ".ort"
