"""An inspection as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import text
from .results import CONVERTED, InspectionData, Site

if TYPE_CHECKING:
    from rich.console import RenderResult


def tables(inspection: InspectionData) -> RenderResult:
    """Sites, their sums, and notes."""
    from rich.markup import escape
    from rich.table import Table

    plans = f"plans for {inspection.isa}, {inspection.threads} thread(s)"
    yield f"[bold]{escape(inspection.model)}[/]: {plans}"
    for name, shape in inspection.inputs.items():
        guess = text.guesses(inspection.guessed.get(name, ()))
        yield escape(f"input {name}: {text.dims(shape)}{guess}")
    if not inspection.sites:
        yield "no transposed convolution was found"
    else:
        table = Table()
        table.add_column("node", overflow="fold", ratio=4)
        table.add_column("shape", overflow="fold", ratio=4)
        table.add_column("MACs conv.\ndirect\nplan", justify="right", no_wrap=True)
        table.add_column("never built\nbetween\ncolumns\npacked", justify="right", no_wrap=True)
        table.add_column("plan\nshare of time", overflow="fold", ratio=3)
        for site in inspection.sites:
            table.add_row(*(text.Cell(cell) for cell in _cells(site)), end_section=True)
        yield table
        if any(site.macs for site in inspection.sites):
            yield escape(inspection.summary)
            yield f"[dim]{_EXPLANATION}[/]"
    for note in inspection.notes:
        yield f"[yellow]note:[/] {escape(note)}"


_EXPLANATION = (
    "MACs: multiply-adds by the conventional method, by the direct one, and as the plan executes "
    "them. never built: values between the nodes that are replaced or with zeros inserted, and "
    "the column buffer of stock onnxruntime's matrix product. packed: the operator's weights, once "
    "for a session. share of time: predicted, of the model's convolutions and matrix products."
)


def _cells(site: Site) -> tuple[str, ...]:
    lines = [site.node] + ([] if site.where == "graph" else [f"in {site.where}"])
    lines += [site.op_type, site.state] if site.state != CONVERTED else [site.state]
    name = "\n".join(lines)
    if site.macs is None:
        shape = "" if site.x_shape is None else text.dims(site.x_shape)
        return name, shape, "", "", site.reason or ""
    return (
        name,
        f"{text.dims(site.x_shape)}\n→ {text.dims(site.y_shape)}\n"
        f"{text.kernel(site.attributes, site.w_shape)}\n{site.dtype}",
        "\n".join(map(text.count, (site.macs.conventional, site.macs.direct, site.macs.plan))),
        f"\n{text.size(site.bytes.intermediate)}\n{text.size(site.bytes.column_buffer)}\n"
        f"{text.size(site.bytes.packed_weights)}",
        f"{text.planned(site.plan)}\n{text.percent(site.share)}"
        + (f"\n{site.reason}" if site.reason else ""),
    )
