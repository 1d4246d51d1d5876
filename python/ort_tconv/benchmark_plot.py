"""Draws a benchmark: bars for the whole run and for each of the operator's nodes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .benchmarking import Benchmark, NodeTiming

#: Most nodes drawn, those that take longest in stock onnxruntime.
_MOST_NODES = 30


def check(path: str | os.PathLike) -> None:
    """Raise what :func:`plot` would raise: ImportError without matplotlib, ValueError for a file
    type that it cannot write."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise ImportError(
            f"a plot needs matplotlib ({error}): run `pip install matplotlib`"
        ) from error
    types = FigureCanvasAgg.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in types:
        raise ValueError(f"plot: {path} must end in one of .{', .'.join(sorted(types))}")


def plot(benchmark: Benchmark, path: str | os.PathLike) -> None:
    """Write the figure to ``path``; see :meth:`ort_tconv.Benchmark.plot`."""
    check(path)
    from matplotlib.figure import Figure

    drawn = _drawn(benchmark)
    count = len(drawn)
    figure = Figure(figsize=(8, 2.2 + 0.42 * count), layout="constrained")
    tops = figure.subplots(2, 1, height_ratios=[1.2, max(1.0, 0.42 * count)])
    labels = ["whole run"]
    stock, ours = benchmark.stock.median_ms, benchmark.converted.median_ms
    _bars(tops[0], labels, [stock], [ours])
    low, high = benchmark.stock.quartiles_ms
    other_low, other_high = benchmark.converted.quartiles_ms
    tops[0].errorbar(
        [stock, ours],
        [-0.2, 0.2],
        xerr=[
            [max(0.0, stock - low), max(0.0, ours - other_low)],
            [max(0.0, high - stock), max(0.0, other_high - ours)],
        ],
        fmt="none",
        ecolor="black",
        capsize=3,
    )
    tops[0].set_title(f"{Path(benchmark.model).name}: {benchmark.speedup:.2f}x", loc="left")
    if drawn:
        _bars(
            tops[1],
            [_shortened(node.node) for node in drawn],
            [node.stock_ms or 0.0 for node in drawn],
            [node.converted_ms or 0.0 for node in drawn],
        )
    else:
        tops[1].text(0.5, 0.5, "no node was timed", ha="center", va="center")
        tops[1].set_axis_off()
    tops[1].set_xlabel("median ms a run")
    tops[0].legend(["stock", "converted"], loc="lower right")
    facts = benchmark.machine
    figure.supxlabel(
        f"{facts['processor']}, {facts['isa']}, {benchmark.threads} thread(s), "
        f"onnxruntime {facts['onnxruntime']}, {benchmark.precision}, "
        f"{', '.join(benchmark.providers)}",
        fontsize="small",
        color="gray",
    )
    figure.savefig(path, dpi=150)


def _drawn(benchmark: Benchmark) -> list[NodeTiming]:
    ours = [node for node in benchmark.nodes if node.is_site]
    longest = sorted(ours, key=lambda node: -(node.stock_ms or node.converted_ms or 0.0))
    kept = {node.node for node in longest[:_MOST_NODES]}
    return [node for node in ours if node.node in kept]


def _bars(axes, labels: list[str], stock: list[float], ours: list[float]) -> None:
    places = range(len(labels))
    for offset, values, colour in ((-0.2, stock, "#c96f3b"), (0.2, ours, "#3b7dd8")):
        axes.barh([p + offset for p in places], values, height=0.38, color=colour)
    axes.set_yticks(list(places), labels)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    for place, one, other in zip(places, stock, ours):
        if one and other:
            axes.annotate(
                f" {one / other:.2f}x", (max(one, other), place), va="center", fontsize="small"
            )


def _shortened(name: str, most: int = 40) -> str:
    # A dollar sign would begin a formula.
    name = name.replace("$", r"\$")
    return name if len(name) <= most else f"...{name[3 - most :]}"
