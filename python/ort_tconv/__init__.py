"""Fast transposed convolution for ONNX Runtime.

    model = ort_tconv.convert("generator.onnx")
    options = ort_tconv.register(onnxruntime.SessionOptions())
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=ort_tconv.available_providers()
    )
    report = ort_tconv.validate("generator.onnx", model)

or all at once, ``ort_tconv.InferenceSession("generator.onnx")``.

Importing the package loads nothing else: each name brings in what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._library import get_library_path
    from .converters import ConversionError, convert
    from .inference_session import InferenceSession
    from .session import available_providers, register
    from .validation import ValidationReport, validate

    __version__: str

_HOMES = {
    "ConversionError": ".converters",
    "InferenceSession": ".inference_session",
    "ValidationReport": ".validation",
    "available_providers": ".session",
    "convert": ".converters",
    "get_library_path": "._library",
    "register": ".session",
    "validate": ".validation",
}

__all__ = [
    "ConversionError",
    "InferenceSession",
    "ValidationReport",
    "available_providers",
    "convert",
    "get_library_path",
    "register",
    "validate",
]


def __getattr__(name: str):
    if name == "__version__":
        from importlib.metadata import version

        value = version("ort-tconv")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
