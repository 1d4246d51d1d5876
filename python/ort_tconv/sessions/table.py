"""What the execution provider says of a session, as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .results import ProviderData

if TYPE_CHECKING:
    from rich.console import RenderResult


def tables(report: ProviderData) -> RenderResult:
    """A row for each site, and what went wrong."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("node", "result", title="what the provider runs", title_justify="left")
    for site in report.sites:
        nodes = escape(", ".join(site.nodes))
        result = f"[green]claimed[/] ({site.pattern}): {nodes}"
        if not site.claimed:
            reason = escape(site.reason)
            result = f"[yellow]{site.op_type} left[/] ({site.pattern}):\n{reason}"
        where = "" if site.where == "graph" else f"\n[dim]{escape(site.where)}[/]"
        table.add_row(escape(site.node) + where, result)
    yield table if report.sites else "the model has none of the operators that concern it"
    for error in report.errors:
        yield f"[red]error:[/] {escape(error)}"
