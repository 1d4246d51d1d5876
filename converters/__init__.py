"""Rewrites ONNX models to use ``ort_tconv.SegregatedConvTranspose``.

:func:`convert` takes a model and returns the rewritten one; :func:`convert_with_report` also says,
for every candidate node, what it became or why it was left alone, and :func:`analyze` says so
without converting.  ``DEFAULT_PASSES`` are the
passes in the order in which they run; each is one small class that states its algebra, checks its
conditions and names its refusals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.names_on_demand import names_on_demand
from . import onnx_ir_without_sympy  # noqa: F401  (before anything that imports onnx_ir)

if TYPE_CHECKING:
    from ..conversion.convert import ConversionResult, convert, convert_with_report
    from .external_data import ConversionError
    from .model_io import Model
    from .pipeline import DEFAULT_PASSES, analyze
    from .report import Change, Cost, Report, Skip

_HOMES = {
    "DEFAULT_PASSES": ".pipeline",
    "Change": ".report",
    "ConversionError": ".external_data",
    "ConversionResult": "..conversion.convert",
    "Cost": ".report",
    "Model": ".model_io",
    "Report": ".report",
    "Skip": ".report",
    "analyze": ".pipeline",
    "convert": "..conversion.convert",
    "convert_with_report": "..conversion.convert",
}

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
__getattr__ = names_on_demand(__name__, _HOMES)
