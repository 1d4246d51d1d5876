"""``onnxruntime.InferenceSession`` with the conversion built in."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import onnx

from ._library import import_onnxruntime
from .converters import Model, Report, convert_with_report
from .converters.model_io import is_ort_format, read_model
from .provider import add_provider, unavailable
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
        mode: ``"convert"``; ``"provider"``, which leaves the model as it is and adds the execution
            provider to the options (see :func:`ort_tconv.add_provider`), so that no conversion
            comes first; or ``"auto"``, the provider where there is one and no ``providers`` are
            asked for.
        kwargs: Passed on to onnxruntime.

    Attributes:
        conversion: :class:`ort_tconv.converters.Report` on what was rewritten; None for a model
            that was not converted: one in ORT format, or for the execution provider.

    Raises:
        ort_tconv.ConversionError: The model cannot be read or converted.
        RuntimeError: The operator is registered with ``sess_options`` in another way as well; or
            ``mode="provider"`` where there is none.
        ValueError: ``mode`` is something else, or ``"provider"`` with ``providers``.
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
        mode: Literal["convert", "provider", "auto"] = "convert",
        **kwargs: Any,
    ) -> None:
        if mode not in ("convert", "provider", "auto"):
            raise ValueError(f"mode = {mode!r}: must be 'convert', 'provider' or 'auto'")
        owned = sess_options is None
        options = register(ort.SessionOptions() if owned else sess_options, extensions)
        chosen = providers is not None or getattr(options, "has_providers", lambda: False)()
        unmodified = mode == "provider" or (mode == "auto" and not chosen and unavailable() is None)
        if unmodified:
            if providers is not None:
                raise ValueError("mode='provider' takes no providers: add others to sess_options")
            add_provider(options)
            kwargs.setdefault("enable_fallback", 0)  # which would leave the provider out
        elif not chosen:
            providers = available_providers()
        with ExitStack() as files:
            content: Any = path_or_bytes
            self.conversion = None
            if unmodified and not isinstance(path_or_bytes, onnx.ModelProto):
                pass  # onnxruntime reads it, and nobody else
            elif not _holds_ort_format(path_or_bytes):
                if unmodified:
                    model = _read(path_or_bytes, options)
                else:
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
    source = _read(path_or_bytes, options)
    result = convert_with_report(source, load_external_data=False)
    return source.derive(result.model), result.report


def _read(
    path_or_bytes: str | os.PathLike | bytes | onnx.ModelProto, options: ort.SessionOptions
) -> Model:
    source = read_model(path_or_bytes)
    return source if source.folder else replace(source, folder=external_folder(options))


def _holds_ort_format(model: object) -> bool:
    if isinstance(model, bytes):
        return is_ort_format(model)
    return isinstance(model, str | os.PathLike) and Path(model).suffix == ".ort"
