"""A benchmark as tables for a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..base import text
from .results import OURS, STOCK, BenchmarkData, NodeTiming, Timing, milliseconds

if TYPE_CHECKING:
    from rich.console import RenderResult


def tables(benchmark: BenchmarkData) -> RenderResult:
    """The machine, both models, their nodes, and notes."""
    from rich.markup import escape
    from rich.table import Table

    facts = benchmark.machine
    yield escape(
        f"{facts['processor']}, {facts['isa']}, {benchmark.threads} of {facts['cores']} cores; "
        f"onnxruntime {facts['onnxruntime']}, ort-tconv {facts['ort_tconv']}; "
        f"{benchmark.precision} on {', '.join(benchmark.providers)}"
    )
    for name, kind in benchmark.inputs.items():
        yield escape(f"input {name}: {kind}{text.guesses(benchmark.guessed.get(name, ()))}")
    whole = Table(title=escape(benchmark.model), title_justify="left")
    for column in ("", STOCK, OURS, "ratio"):
        whole.add_column(column, justify="right" if column else "left")
    stock, ours = benchmark.stock, benchmark.converted
    for name, one, other in (
        ("median (p50)", stock.median_ms, ours.median_ms),
        ("p90", stock.p90_ms, ours.p90_ms),
        ("p99", stock.p99_ms, ours.p99_ms),
        ("least", stock.min_ms, ours.min_ms),
        ("session", stock.creation_ms, ours.creation_ms),
        ("first run", stock.first_run_ms, ours.first_run_ms),
    ):
        whole.add_row(name, f"{one:.3g} ms", f"{other:.3g} ms", f"{one / other:.2f}x")
        if name.startswith("median"):
            spread = (f"{low:.3g} to {high:.3g}" for low, high in _quartiles(stock, ours))
            whole.add_row("quartiles", *spread, "")
        if name == "least":
            rates = [timing.runs_per_second for timing in (stock, ours)]
            shown = (f"{rate:.3g}" for rate in rates)
            whole.add_row("runs a second", *shown, f"{rates[1] / rates[0]:.2f}x")
    if stock.peak_bytes is not None and ours.peak_bytes is not None:
        sizes = map(text.size, (stock.peak_bytes, ours.peak_bytes))
        whole.add_row("peak memory", *sizes, f"{stock.peak_bytes / max(1, ours.peak_bytes):.2f}x")
    if benchmark.packed_bytes:
        whole.add_row("packed weights", "", text.size(benchmark.packed_bytes), "")
    yield whole
    yield (
        f"[dim]{stock.runs} and {ours.runs} runs, in turns. ratio: how many times as fast, or "
        "as small. p90, p99: what nine of ten runs, and ninety-nine of a hundred, do not "
        "exceed. session, first run: the least of three.[/]"
    )
    if benchmark.nodes:
        yield _node_table(benchmark.nodes)
    for note in benchmark.notes:
        yield f"[yellow]note:[/] {escape(note)}"


def _quartiles(*timings: Timing) -> Iterator[tuple[float, float]]:
    return (timing.quartiles_ms for timing in timings)


def _node_table(nodes: Sequence[NodeTiming]):
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="nodes, median ms a run", title_justify="left")
    table.add_column("node")
    for column in (STOCK, OURS, "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("plan")
    for node in (node for node in nodes if node.is_site):
        ratio = f"{node.ratio:.2f}x" if node.ratio else ""
        cells = (
            milliseconds(node.stock_ms),
            milliseconds(node.converted_ms),
            ratio,
            node.plan or "",
        )
        table.add_row(text.Cell(node.node), *cells)
    groups: dict[str, list[NodeTiming]] = defaultdict(list)
    for node in nodes:
        if not node.is_site:
            groups[node.stock_op or node.converted_op or "?"].append(node)
    table.add_section()
    for op, members in sorted(groups.items(), key=lambda item: -(_total(item[1], "stock_ms") or 0)):
        before, after = (_total(members, side) for side in ("stock_ms", "converted_ms"))
        ratio = f"{before / after:.2f}x" if before and after else ""
        table.add_row(
            f"{len(members)} {escape(op)}", milliseconds(before), milliseconds(after), ratio, ""
        )
    return table


def _total(nodes: Sequence[NodeTiming], side: str) -> float | None:
    times = [ms for node in nodes if (ms := getattr(node, side)) is not None]
    return sum(times) if times else None
