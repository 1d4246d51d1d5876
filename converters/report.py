"""What a conversion did: one line per candidate node, and the operators before and after."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True)
class Cost:
    """Multiply-adds, and bytes of the tensors that nodes read and write; None if not known.

    Multiply-adds are those of the direct method, each tap of the kernel counted for each input (of
    a transposed convolution) or output (of a convolution) pixel.  An unknown batch counts as 1.
    """

    macs: int | None
    bytes: int | None


@dataclass(frozen=True)
class Change:
    """A node that was rewritten."""

    node: str  #: the node's name, or that of its first output if it has none
    op_type: str  #: operator before, e.g. ``ConvTranspose``
    where: str  #: ``"graph"``, ``"subgraph <name>"`` or ``"function <domain>::<name>"``
    rewrite: str  #: name of the pass
    became: str  #: operator after, e.g. ``ort_tconv::SegregatedConvTranspose``
    before: Cost  #: of all nodes that the rewrite does away with or changes
    after: Cost  #: of what stands for them
    nodes: tuple[str, ...]  #: names of the nodes before, ``node`` among them


@dataclass(frozen=True)
class Skip:
    """A candidate node that was left alone."""

    node: str
    op_type: str
    where: str
    rewrite: str
    reason: str  #: one sentence that names the attribute, input or option responsible
    before: Cost  #: of the node


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

    def skip(self, skip: Skip) -> None:
        """Record a node, unless another pass has left it alone for the same reason."""
        line = (skip.node, skip.where, skip.reason)
        if all((known.node, known.where, known.reason) != line for known in self.skips):
            self.skips.append(skip)

    @property
    def sites(self) -> list[Change | Skip]:
        return [*self.changes, *self.skips]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON holds it; sizes that are not known are null."""
        before, after = self.operators
        return {
            "changes": [asdict(change) for change in self.changes],
            "skips": [asdict(skip) for skip in self.skips],
            "notes": list(self.notes),
            "operators": {"before": dict(before), "after": dict(after)},
        }

    @property
    def summary(self) -> str:
        """How many candidates were rewritten, into how many nodes, and how many were left alone."""
        text = f"{len(self.changes)} rewritten, {len(self.skips)} left alone"
        fused = sum(change.rewrite == "epilogue" for change in self.changes)
        if not fused:
            return text
        nodes = len(self.changes) - fused
        return f"{text} ({nodes} nodes of the operator, {fused} fused into them)"

    def __str__(self) -> str:
        lines = [self.summary]
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

        if self.sites:
            table = Table(title="candidates", title_justify="left")
            table.add_column("node", overflow="fold")
            table.add_column("result", overflow="fold")
            table.add_column("MACs", justify="right")
            table.add_column("bytes", justify="right")
            for site in self.sites:
                if isinstance(site, Change):
                    result = f"{site.op_type} -> [green]{site.became}[/] ({site.rewrite})"
                    costs = (site.before, site.after)
                else:
                    result = f"[yellow]{site.op_type} kept[/] ({site.rewrite}):\n"
                    result += escape(site.reason)
                    costs = (site.before,)
                where = "" if site.where == "graph" else f"\n[dim]{escape(site.where)}[/]"
                table.add_row(
                    escape(site.node) + where,
                    result,
                    _before_and_after([cost.macs for cost in costs]),
                    _before_and_after([cost.bytes for cost in costs]),
                )
            yield table
            yield f"[dim]{_EXPLANATION}[/]"
        else:
            yield "no candidate was found"
        for note in self.notes:
            yield f"[yellow]note:[/] {escape(note)}"


_EXPLANATION = (
    "MACs: multiply-adds by the direct method, every tap counted, of one image where the batch is "
    "open; Winograd, of which `ort-tconv inspect` tells, needs fewer. bytes: of the tensors that "
    "are read and written. open: known only when the model runs."
)


def _before_and_after(numbers: list[int | None]) -> str:
    if all(number is None for number in numbers):
        return "open"
    return "\n-> ".join("open" if number is None else quantity(number) for number in numbers)


def quantity(number: int | None) -> str:
    """A number in three digits and a decimal prefix; ``?`` if it is not known."""
    if number is None:
        return "?"
    value, prefix = float(number), ""
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5 or prefix == "T":
            break
        value /= 1000
    return f"{value:.3g}{prefix}"


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
