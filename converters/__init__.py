"""Rewrites ONNX models to use ``ort_tconv.SegregatedConvTranspose``.

:func:`convert` takes a model and returns the rewritten one; :func:`convert_with_report` also says,
for every candidate node, what it became or why it was left alone, and :func:`analyze` says so
without converting.  ``DEFAULT_PASSES`` are the
passes in the order in which they run; each is one small class that states its algebra, checks its
conditions and names its refusals.
"""

from . import on_demand  # noqa: F401  (before anything that imports onnx_ir)
from .model_io import Model
from .pipeline import (
    DEFAULT_PASSES,
    ConversionError,
    ConversionResult,
    analyze,
    convert,
    convert_with_report,
)
from .report import Change, Cost, Report, Skip

__all__ = [
    "DEFAULT_PASSES",
    "Change",
    "ConversionError",
    "ConversionResult",
    "Cost",
    "Model",
    "Report",
    "Skip",
    "analyze",
    "convert",
    "convert_with_report",
]
