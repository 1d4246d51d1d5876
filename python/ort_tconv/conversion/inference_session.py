"""``onnxruntime.InferenceSession`` with the conversion built in."""

from __future__ import annotations

import difflib
import inspect
import os
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import onnx

from ..base.library import import_onnxruntime
from ..converters.model_io import is_ort_format, read_file, read_model
from ..converters.report import Report
from ..sessions.provider import add_provider, unavailable
from ..sessions.session import available_providers, external_folder, for_session, register
from .convert import convert, convert_with_report

ort = import_onnxruntime()

_CONVERT = tuple(
    name
    for name, parameter in inspect.signature(convert).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "load_external_data"
)
#: What onnxruntime's own class looks for among its keywords; it ignores all others.
_ONNXRUNTIME = ("disabled_optimizers", "enable_fallback", "read_config_from_model")

#: What to do about errors of onnxruntime that have all of these parts.
_ADVICE = (
    (
        ("Domain already set in registry",),
        "sess_options: a custom operator library was added to these options twice; add ort_tconv's "
        "with ort_tconv.register(), which does it once, and not with "
        "register_custom_ops_library() after it",
    ),
    (
        ("NOT_IMPLEMENTED", "nchwc"),
        "the model was optimised by onnxruntime for another processor; load the one it was made "
        "from",
    ),
    (
        ("ort_tconv:", "is not a registered function/op"),
        "the model was converted by a newer ort-tconv; upgrade this one, or convert the original "
        "here",
    ),
)


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
            comes first; or ``"auto"``, the provider where there is one, unless ``providers`` or
            keywords of ``convert`` are given.
        kwargs: Keywords of :func:`ort_tconv.convert`, such as ``exclude`` or ``tune``; others are
            passed on to onnxruntime.

    Attributes:
        conversion: :class:`ort_tconv.converters.Report` on what was rewritten; None for a model
            that was not converted: one in ORT format, or for the execution provider.

    Raises:
        ort_tconv.ConversionError: The model cannot be read or converted, or its external data is
            out of reach.
        RuntimeError: The operator is registered with ``sess_options`` in another way as well; or
            ``mode="provider"`` where there is none.
        TypeError: There is no such keyword.
        ValueError: Keywords of ``convert`` are given for a model in ORT format; ``mode`` is
            something else, or ``"provider"`` with ``providers`` or keywords of ``convert``.
    """

    conversion: Report | None

    def __init__(
        self,
        path_or_bytes: str | os.PathLike | bytes | bytearray | memoryview | onnx.ModelProto,
        sess_options: ort.SessionOptions | None = None,
        providers: Sequence[str | tuple[str, dict[Any, Any]]] | None = None,
        provider_options: Sequence[dict[Any, Any]] | None = None,
        *,
        extensions: bool = False,
        mode: Literal["convert", "provider", "auto"] = "convert",
        **kwargs: Any,
    ) -> None:
        _check_keywords(kwargs)
        conversion = {name: kwargs.pop(name) for name in _CONVERT if name in kwargs}
        if mode not in ("convert", "provider", "auto"):
            raise ValueError(f"mode = {mode!r}: must be 'convert', 'provider' or 'auto'")
        if mode == "provider" and conversion:
            raise ValueError(
                f"mode='provider' converts nothing, and takes no {', '.join(conversion)}"
            )
        if isinstance(providers, str):  # onnxruntime would take its letters for names
            providers = [providers]
        owned = sess_options is None
        options = register(ort.SessionOptions() if owned else sess_options, extensions)
        chosen = providers is not None or getattr(options, "has_providers", lambda: False)()
        free = not (chosen or conversion)
        unmodified = mode == "provider" or (mode == "auto" and free and unavailable() is None)
        if unmodified:
            if providers is not None:
                raise ValueError("mode='provider' takes no providers: add others to sess_options")
            add_provider(options)
            kwargs.setdefault("enable_fallback", 0)  # which would leave the provider out
        elif not chosen:
            providers = available_providers()
        content: Any = _in_ort_format(path_or_bytes)
        self.conversion = None
        temporary = None
        if unmodified and not isinstance(path_or_bytes, onnx.ModelProto):
            content = path_or_bytes  # onnxruntime reads it, and nobody else
        elif content is None:
            source = read_model(path_or_bytes)
            if source.folder is None:
                source = replace(source, folder=external_folder(options))
            if not unmodified:
                names = [one if isinstance(one, str) else one[0] for one in providers or ()]
                # Options do not tell which providers they hold: hardly the CPU's alone.
                elsewhere = providers is None or "CUDAExecutionProvider" in names
                if elsewhere and not conversion.get("tune"):
                    # The estimate that finds a plain Conv slower than the operator is of a CPU.
                    conversion.setdefault("disable", ("unit_stride_conv",))
                result = convert_with_report(source, load_external_data=False, **conversion)
                self.conversion, source = result.report, result.converted
                del result
            content, temporary = for_session(source, options, owned=owned)
            del source  # the session has the weights from now on
        elif conversion:
            raise ValueError(
                f"{', '.join(conversion)}: a model in ORT format is loaded as it is, and is not "
                "converted"
            )
        if temporary is not None:  # onnxruntime loads it again when the providers are changed
            weakref.finalize(self, temporary.cleanup)
        self._open(content, options, providers, provider_options, **kwargs)

    def _open(self, content: str | bytes, options: ort.SessionOptions, *args, **kwargs) -> None:
        try:
            super().__init__(content, options, *args, **kwargs)
        except Exception as error:
            for parts, advice in _ADVICE:
                if all(part in str(error) for part in parts):
                    raise RuntimeError(f"{advice}; onnxruntime says: {error}") from error
            raise


def _check_keywords(names: Iterable[str]) -> None:
    for name in names:
        if name not in (*_CONVERT, *_ONNXRUNTIME):
            near = difflib.get_close_matches(
                name, (*_CONVERT, *_ONNXRUNTIME, "extensions", "mode"), 1
            )
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise TypeError(f"InferenceSession() has no keyword argument '{name}'{hint}")


def _in_ort_format(model: object) -> str | bytes | None:
    """A model in ORT format, as onnxruntime recognises it whatever its file is called; or None."""
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model) if is_ort_format(model) else None
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        if is_ort_format(read_file(path, 8)):
            return str(path) if path.suffix == ".ort" else read_file(path)
    return None
