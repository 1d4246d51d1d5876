"""A conversion's report as tables for a terminal."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from ..base import text
from ..base.text import Cell
from .nodes import DOMAIN
from .report import Change, Cost, Origin, Report, Skip

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class PrintableReport(Report):
    """A report that a terminal shows as tables, by rich."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return tables(self)


def tables(report: Report, but: Container[str] = ()) -> RenderResult:
    """Operators before and after, candidates ``but`` those named, and notes, for rich."""
    from rich.markup import escape
    from rich.table import Table

    before, after = report.operators
    counts = Table("operator", title="before and after", title_justify="left")
    counts.add_column("before", justify="right")
    counts.add_column("after", justify="right")
    for op in sorted(before.keys() | after.keys()):
        if before[op] != after[op]:
            counts.add_row(op, str(before[op]), str(after[op]))
    counts.add_section()
    counts.add_row("all nodes", str(before.total()), str(after.total()))
    yield counts

    table = Table(title="candidates", title_justify="left")
    table.add_column("node")
    table.add_column("result")
    table.add_column("MACs", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    origins = {id(origin): origin for origin in report.origins().values()}
    for origin in origins.values():
        if origin.changes[0].node not in but:
            table.add_row(*_rewritten(origin))
    for skip in report.skips:
        if skip.node not in but:
            table.add_row(*_kept(skip))
    if table.row_count:
        yield table
        yield f"[dim]{_EXPLANATION}[/]"
    elif not report.sites:
        yield "no candidate was found"
    for note in report.notes:
        yield f"[yellow]note:[/] {escape(note)}"


def _name(site: Change | Skip) -> Cell:
    return Cell(site.node, *([] if site.where == "graph" else [(site.where, "dim")]))


def _rewritten(origin: Origin) -> tuple[Cell, ...]:
    first = origin.changes[0]
    lines = [" + ".join(change.op_type for change in origin.changes)]
    if not first.became.startswith(f"{DOMAIN}::"):
        lines.append(f"-> {first.became}")
    return (
        _name(first),
        Cell((f"rewritten ({', '.join(origin.rewrites)})", "green"), *lines),
        *_costs(origin.before, origin.after),
    )


def _kept(skip: Skip) -> tuple[Cell, ...]:
    result = Cell((f"kept ({skip.rewrite})", "yellow"), f"{skip.op_type}: {skip.reason}")
    return _name(skip), result, *_costs(skip.before)


_EXPLANATION = (
    "A row is a node of the operator with all that it stands for, or a node that is kept. MACs: "
    "multiply-adds by the direct method, every tap counted, of one image where the batch is open; "
    "Winograd, of which `ort-tconv inspect` tells, needs fewer. bytes: of the tensors that are "
    "read and written. open: known only when the model runs."
)


def _costs(*costs: Cost) -> tuple[Cell, Cell]:
    return tuple(
        _before_and_after([getattr(cost, name) for cost in costs]) for name in ("macs", "bytes")
    )


def _before_and_after(numbers: list[int | None]) -> Cell:
    if all(number is None for number in numbers):
        return Cell("open")
    first, *rest = ("open" if number is None else text.count(number) for number in numbers)
    return Cell(first, *(f"-> {number}" for number in rest))
