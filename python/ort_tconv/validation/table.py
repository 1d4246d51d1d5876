"""A validation as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import text
from ..converters.report import nodes_of_the_operator
from .results import ValidationData

if TYPE_CHECKING:
    from rich.console import RenderResult


def tables(report: ValidationData) -> RenderResult:
    """What was compared, the outputs, and notes."""
    from rich.markup import escape
    from rich.table import Table

    yield f"expected: {escape(report.baseline)}"
    tested = nodes_of_the_operator(report.rewritten)
    yield f"tested:   {tested} on {', '.join(report.providers)}"
    for name, kind in report.inputs.items():
        guess = text.guesses(report.guessed.get(name, ()))
        yield escape(f"input:    {name}: {kind}{guess}")
    table = Table()
    table.add_column("output")
    for column in ("max abs\nmax rel", "RMS\ntolerance", "cosine\nPSNR"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("result")
    for output in report.outputs:
        table.add_row(
            text.Cell(output.name, f"{output.dtype} [{'×'.join(map(str, output.shape))}]"),
            _number(output.max_abs, output.max_abs_at)
            + "\n"
            + _number(output.max_rel, output.max_rel_at),
            f"{_figure(output.rms)}\n{output.tolerance:.2e}",
            f"{_figure(output.cosine, '.7f')}\n{_figure(output.psnr, '.1f', ' dB')}",
            text.Cell((output.verdict, "green" if output.ok else "red")),
            end_section=True,
        )
    yield table
    yield f"[dim]{_EXPLANATION}[/]"
    if report.first_difference:
        yield f"[red]first difference:[/] {escape(str(report.first_difference))}"
    for note in report.notes:
        yield f"[yellow]note:[/] {escape(note)}"


_EXPLANATION = (
    "max abs: the largest difference, of which the tolerance is the limit. max rel: the largest "
    "one relative to the expected value, or to the RMS of all where that is larger. RMS: of the "
    "differences. cosine: of the angle between both as vectors. PSNR: of the largest expected "
    "value to the RMS of the differences."
)


def _number(value: float, at: tuple[int, ...] | None) -> str:
    return f"{value:.2e}" + (f" at {','.join(map(str, at))}" if at else "")


def _figure(value: float | None, form: str = ".2e", unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"
