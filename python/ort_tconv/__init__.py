"""Fast transposed convolution for ONNX Runtime.

    model = ort_tconv.convert("generator.onnx")
    options = ort_tconv.register(onnxruntime.SessionOptions())
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=ort_tconv.available_providers()
    )
    report = ort_tconv.validate("generator.onnx", model)

or the first two at once, ``ort_tconv.InferenceSession("generator.onnx")``.  ``inspect`` shows what
there is to gain, ``benchmark`` what was gained, and ``testing`` has an assertion for test suites.

Importing the package loads nothing else: each name brings in what it needs when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import converters, testing
    from ._library import get_cmake_dir, get_library_path
    from .benchmarking import Benchmark, benchmark
    from .converters import ConversionError, convert
    from .inference_session import InferenceSession
    from .inspection import Inspection, inspect
    from .provider import add_provider, provider_report
    from .session import available_providers, register
    from .validation import ValidationReport, validate

    __version__: str

_HOMES = {
    "Benchmark": ".benchmarking",
    "ConversionError": ".converters",
    "InferenceSession": ".inference_session",
    "Inspection": ".inspection",
    "ValidationReport": ".validation",
    "add_provider": ".provider",
    "available_providers": ".session",
    "benchmark": ".benchmarking",
    "convert": ".converters",
    "get_cmake_dir": "._library",
    "get_library_path": "._library",
    "inspect": ".inspection",
    "provider_report": ".provider",
    "register": ".session",
    "validate": ".validation",
}
_MODULES = ("converters", "testing")

__all__ = [
    "Benchmark",
    "ConversionError",
    "InferenceSession",
    "Inspection",
    "ValidationReport",
    "add_provider",
    "available_providers",
    "benchmark",
    "convert",
    "converters",
    "get_cmake_dir",
    "get_library_path",
    "inspect",
    "provider_report",
    "register",
    "testing",
    "validate",
]


def __getattr__(name: str):
    if name == "__version__":
        from importlib.metadata import version

        value = version("ort-tconv")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
