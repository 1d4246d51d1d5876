"""Assertions for the test suites of those who ship converted models.

from ort_tconv.testing import assert_models_close

def test_generator():
    assert_models_close("generator.onnx")
    assert_models_close("generator.onnx", "fast.onnx", shapes={"z": (4, 100, 1, 1)}, runs=3)
"""

from __future__ import annotations

from typing import Any

from .converters.model_io import ModelLike
from .validation.comparison import Comparison
from .validation.validate import Inputs, ValidationReport, validate

__all__ = ["assert_models_close"]


def assert_models_close(
    original: ModelLike,
    converted: ModelLike | None = None,
    inputs: Inputs = None,
    *,
    min_rewritten: int = 1,
    **options: Any,
) -> ValidationReport:
    """Assert that a converted model computes what the original computes in stock onnxruntime.

    Args:
        original: Path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model``.
        converted: The same; ``None`` converts ``original``.
        inputs: Arrays by input name, several sets of them, a path to such, or None for generated
            ones.
        min_rewritten: Least number of the operator's nodes in the converted model: a model in which
            nothing was rewritten agrees with itself and shows nothing.
        options: Those of :func:`ort_tconv.validate`: ``shapes``, ``seed``, ``distribution``,
            ``runs``, ``providers``, ``rtol``, ``atol``.

    Returns:
        The report, for further assertions.

    Raises:
        AssertionError: An output differs by more than its tolerance, or too few nodes were
            rewritten; the message shows each output that differs, how far, where, and the first
            node at fault.
        ValueError, ConversionError: As for :func:`ort_tconv.validate`.
    """
    __tracebackhide__ = True  # pytest shows the line that calls, not this one
    report = validate(original, converted, inputs, **options)
    if report.rewritten < min_rewritten:
        raise AssertionError(
            f"the converted model has {report.rewritten} of the operator's nodes; "
            f"at least {min_rewritten} are expected"
        )
    if not report.ok:
        raise AssertionError(_failure(report))
    return report


def _failure(report: ValidationReport) -> str:
    wrong = [output for output in report.outputs if not output.ok]
    lines = [f"{len(wrong)} of {len(report.outputs)} outputs differ from {report.baseline}"]
    for output in wrong:
        lines += [f"output '{output.name}' ({output.dtype} {list(output.shape)}): {output.reason}"]
        lines += _figures(output)
    if report.first_difference:
        first = report.first_difference
        lines.append(f"first node that differs: {first.op_type} '{first.node}'")
        if first.plan:
            lines.append(f"    its plan: {first.plan}")
        lines += _figures(first.comparison)
    else:
        lines += report.notes
    lines += [f"input '{name}': {text}" for name, text in report.inputs.items()]
    return "\n".join(lines)


def _figures(comparison: Comparison) -> list[str]:
    if comparison.max_abs_at is None:
        return []
    lines = [
        f"    max abs {comparison.max_abs:.3g} at {list(comparison.max_abs_at)}, "
        f"{comparison.tolerance:.3g} allowed"
    ]
    if comparison.max_rel_at is not None:
        lines.append(f"    max rel {comparison.max_rel:.3g} at {list(comparison.max_rel_at)}")
    figures = (("RMS", comparison.rms, ""), ("cosine", comparison.cosine, ""))
    figures = (*figures, ("PSNR", comparison.psnr, " dB"))
    known = [f"{name} {value:.6g}{unit}" for name, value, unit in figures if value is not None]
    return lines + ([f"    {', '.join(known)}"] if known else [])
