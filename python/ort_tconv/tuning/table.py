"""Tuning as tables for a terminal."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from ..base import text
from .results import OURS, STOCK, SiteTiming, Timing, TuningData

if TYPE_CHECKING:
    from rich.console import RenderResult


def tables(tuning: TuningData) -> RenderResult:
    """What was decided, what was timed, and notes."""
    from rich.markup import escape
    from rich.table import Table

    yield escape(tuning.verdict)
    for name, shape in tuning.shapes.items():
        guess = text.guesses(tuning.guessed.get(name, ()))
        yield escape(f"input {name}: {text.dims(shape)}{guess}")
    threads = f"{tuning.threads} threads" if tuning.threads else "onnxruntime's number of threads"
    title = f"tuned with onnxruntime {tuning.onnxruntime}, {tuning.isa}, {threads}"
    table = Table(title=title, title_justify="left")
    table.add_column("site")
    for column in ("stock\nms", "rewritten\nms", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("faster")
    rows, sections = _rows(tuning), [SiteTiming, Timing]
    for row, (names, timing) in enumerate(rows, start=1):
        table.add_row(
            text.Cell(*names),
            f"{timing.stock_ms:.3f}",
            f"{timing.our_ms:.3f}",
            f"{timing.stock_ms / timing.our_ms:.2f}x",
            text.Cell((_kept(timing), "" if timing.kept == STOCK else "green")),
            end_section=[type(other) for _, other in rows[row - 1 : row + 1]] == sections,
        )
    yield table
    if tuning.sites:
        yield f"[dim]{_EXPLANATION}[/]"
    for note in tuning.notes:
        yield f"[yellow]note:[/] {escape(note)}"


def _rows(tuning: TuningData) -> list[tuple[list[str], Timing]]:
    """Names and times of the table: sites that are alike, and were timed once, share a row."""
    alike: dict[Hashable, list[SiteTiming]] = {}
    for site in tuning.sites:
        alike.setdefault((site.stock_ms, site.our_ms, site.algorithm), []).append(site)
    rows: list[tuple[list[str], Timing]] = []
    for sites in alike.values():
        first, *others = sites[0].nodes
        names = [f"{first} + {len(others)}" if others else first]
        names += [f"and {len(sites) - 1} alike"] if len(sites) > 1 else []
        rows.append((names, sites[0]))
    if tuning.model is not None:
        stock_ms, kept = tuning.model.ms[STOCK], tuning.model.kept
        for form, ms in tuning.model.ms.items():
            if form != STOCK:
                name = f"whole model{form.removeprefix(OURS)}"
                timing = Timing(stock_ms, ms, OURS if form == kept else STOCK)
                rows.append(([name], timing))
    return rows


_EXPLANATION = (
    "A site is a node of the operator with all that it stands for: the candidate that is named, "
    "and as many others as are added. Times are medians of a call; faster is by itself, and the "
    "whole model decides."
)


def _kept(timing: Timing) -> str:
    algorithm = getattr(timing, "algorithm", "auto")
    return timing.kept if algorithm == "auto" else f"{timing.kept}, {algorithm}"
