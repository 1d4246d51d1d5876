"""What a conversion did: one line per candidate node, and the operators before and after."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True)
class Change:
    """A node that was rewritten."""

    node: str  #: the node's name, or that of its first output if it has none
    op_type: str  #: operator before, e.g. ``ConvTranspose``
    where: str  #: ``"graph"``, ``"subgraph <name>"`` or ``"function <domain>::<name>"``
    rewrite: str  #: name of the pass
    became: str  #: operator after, e.g. ``ort_tconv::SegregatedConvTranspose``


@dataclass(frozen=True)
class Skip:
    """A candidate node that was left alone."""

    node: str
    op_type: str
    where: str
    rewrite: str
    reason: str  #: one sentence that names the attribute, input or option responsible


@dataclass
class Report:
    """Everything a conversion has to say.

    ``operators`` holds two counts of operators (``domain::op_type``, no domain for ONNX's own),
    before and after.  ``notes`` are remarks on the model as a whole.
    """

    changes: list[Change] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    operators: tuple[Counter[str], Counter[str]] = field(
        default_factory=lambda: (Counter(), Counter())
    )

    def __str__(self) -> str:
        lines = [f"{len(self.changes)} rewritten, {len(self.skips)} left alone"]
        lines += [f"  {c.node} ({c.where}): {c.op_type} -> {c.became}" for c in self.changes]
        lines += [f"  {s.node} ({s.where}): {s.op_type} kept: {s.reason}" for s in self.skips]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        before, after = self.operators
        counts = Table("operator", title="before and after", title_justify="left")
        counts.add_column("before", justify="right")
        counts.add_column("after", justify="right")
        for op in sorted(before.keys() | after.keys()):
            if before[op] != after[op]:
                counts.add_row(op, str(before[op]), str(after[op]))
        counts.add_section()
        counts.add_row("all nodes", str(before.total()), str(after.total()))
        yield counts

        if self.changes or self.skips:
            sites = Table("node", "in", "result", title="candidates", title_justify="left")
            for c in self.changes:
                sites.add_row(escape(c.node), escape(c.where), f"[green]{c.became}[/]")
            for s in self.skips:
                sites.add_row(
                    escape(s.node),
                    escape(s.where),
                    f"[yellow]{s.op_type} kept:[/] {escape(s.reason)}",
                )
            yield sites
        else:
            yield "no ConvTranspose node was found"
        for note in self.notes:
            yield f"[yellow]note:[/] {escape(note)}"


def count_operators(model: onnx.ModelProto) -> Counter[str]:
    """Number of nodes of each operator, those of subgraphs and local functions included."""

    def nodes(container: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
        for node in container.node:
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield from nodes(attribute.g)
                for graph in attribute.graphs:
                    yield from nodes(graph)

    counts: Counter[str] = Counter()
    for container in (model.graph, *model.functions):
        for node in nodes(container):
            onnx_own = node.domain in ("", "ai.onnx")
            counts[node.op_type if onnx_own else f"{node.domain}::{node.op_type}"] += 1
    return counts
