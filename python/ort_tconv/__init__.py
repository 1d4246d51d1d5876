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

from typing import TYPE_CHECKING

from .base.names_on_demand import names_on_demand

if TYPE_CHECKING:
    from . import converters, testing
    from .base.library import get_cmake_dir, get_library_path
    from .benchmarking.benchmark import Benchmark, benchmark
    from .conversion.convert import convert
    from .conversion.inference_session import InferenceSession
    from .converters.external_data import ConversionError
    from .inspection.inspect import Inspection, inspect
    from .sessions.provider import add_provider
    from .sessions.provider_report import provider_report
    from .sessions.session import available_providers, register
    from .validation.validate import ValidationReport, validate

    __version__: str

_HOMES = {
    "Benchmark": ".benchmarking.benchmark",
    "ConversionError": ".converters.external_data",
    "InferenceSession": ".conversion.inference_session",
    "Inspection": ".inspection.inspect",
    "ValidationReport": ".validation.validate",
    "add_provider": ".sessions.provider",
    "available_providers": ".sessions.session",
    "benchmark": ".benchmarking.benchmark",
    "convert": ".conversion.convert",
    "converters": ".converters",
    "get_cmake_dir": ".base.library",
    "get_library_path": ".base.library",
    "inspect": ".inspection.inspect",
    "provider_report": ".sessions.provider_report",
    "register": ".sessions.session",
    "testing": ".testing",
    "validate": ".validation.validate",
}
_find = names_on_demand(__name__, _HOMES)

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
    if name != "__version__":
        return _find(name)
    from importlib.metadata import version

    globals()[name] = version("ort-tconv")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
