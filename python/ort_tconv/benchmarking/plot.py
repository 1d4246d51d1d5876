"""Draws a benchmark: bars for the whole run and for each of the operator's nodes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .results import BenchmarkData, NodeTiming, Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Most nodes drawn, those that take longest in stock onnxruntime.
_MOST_NODES = 30

_PAGE, _INK, _MUTED, _STOCK, _OURS = "#ffffff", "#1f2328", "#57606a", "#b3440e", "#1f5fae"
#: What replaces them in SVG files where dark pages are preferred.
_DARK = {
    _PAGE: "#161b22",
    _INK: "#e6edf3",
    _MUTED: "#9aa7b4",
    _STOCK: "#f49a62",
    _OURS: "#79b0f2",
}
_STYLE = {
    "figure.facecolor": _PAGE,
    "axes.facecolor": _PAGE,
    "savefig.facecolor": _PAGE,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
}


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


def plot(benchmark: BenchmarkData, path: str | os.PathLike) -> None:
    """Write the figure to ``path``; see :meth:`ort_tconv.Benchmark.plot`."""
    check(path)
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        figure = _figure(benchmark)
        if Path(path).suffix.lower() != ".svg":
            figure.savefig(path, dpi=150)
            return
        text = io.StringIO()
        figure.savefig(text, format="svg")
        Path(path).write_text(_with_dark_colors(text.getvalue()))


def _figure(benchmark: BenchmarkData) -> Figure:
    from matplotlib.figure import Figure

    drawn = _drawn(benchmark)
    count = max(1, len(drawn))
    figure = Figure(figsize=(7.2, 2.3 + 0.42 * count), layout="constrained")
    tops = figure.subplots(2, 1, height_ratios=[1.2, max(1.0, 0.42 * count)])
    stock, ours = benchmark.stock.median_ms, benchmark.converted.median_ms
    bars = _bars(tops[0], ["whole run"], [stock], [ours], benchmark.stock, benchmark.converted)
    name = _shortened(Path(benchmark.model).name)
    title = f"{name}: {benchmark.speedup:.2f}x"
    figure.suptitle(title, x=0.01, ha="left", fontsize="large", fontweight="bold")
    figure.legend(bars, ["stock", "converted"], loc="outside upper right", ncols=2, frameon=False)
    if drawn:
        stock_ms = [node.stock_ms or 0.0 for node in drawn]
        converted_ms = [node.converted_ms or 0.0 for node in drawn]
        _bars(tops[1], [_shortened(node.node) for node in drawn], stock_ms, converted_ms)
    else:
        tops[1].text(0.5, 0.5, "no node was timed", ha="center", va="center")
        tops[1].set_axis_off()
    tops[1].set_xlabel("median ms a run")
    facts = benchmark.machine
    figure.supxlabel(
        f"{facts['processor']}, {facts['isa']}, {benchmark.threads} thread(s), "
        f"onnxruntime {facts['onnxruntime']}, {benchmark.precision}, "
        f"{', '.join(benchmark.providers)}",
        fontsize="small",
        color=_MUTED,
    )
    return figure


def _with_dark_colors(svg: str) -> str:
    """The SVG file with a style sheet for readers who prefer dark pages."""
    rules = "".join(
        f'[style*="{name}: {light}"]{{{name}:{dark} !important}}'
        for light, dark in _DARK.items()
        for name in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"
    head, tag, rest = svg.partition(" <defs>")
    return f"{head} {style}\n{tag}{rest}"


def _drawn(benchmark: BenchmarkData) -> list[NodeTiming]:
    ours = [node for node in benchmark.nodes if node.is_site]
    longest = sorted(ours, key=lambda node: -(node.stock_ms or node.converted_ms or 0.0))
    kept = {node.node for node in longest[:_MOST_NODES]}
    return [node for node in ours if node.node in kept]


def _bars(
    axes: Axes, labels: list[str], stock: list[float], ours: list[float], *timings: Timing
) -> list:
    """Bars by label, with the quartiles of ``timings`` where those of both models are given."""
    places = range(len(labels))
    bars = []
    for index, (values, color) in enumerate(((stock, _STOCK), (ours, _OURS))):
        shifted = [place + 0.4 * index - 0.2 for place in places]
        bars.append(axes.barh(shifted, values, height=0.38, color=color))
        if timings:
            (value,), (low, high) = values, timings[index].quartiles_ms
            error = [[max(0.0, value - low)], [max(0.0, high - value)]]
            # Pale around dark: it is seen on the bar as well as beside it.
            for width, ink in ((3.6, _PAGE), (1.4, _INK)):
                style = {
                    "color": ink,
                    "ecolor": ink,
                    "elinewidth": width,
                    "capsize": 3,
                    "capthick": width,
                }
                axes.errorbar(values, shifted, xerr=error, fmt="none", **style)
    axes.set_yticks(list(places), labels)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    right = max((t.quartiles_ms[1] for t in timings), default=0.0)
    for place, one, other in zip(places, stock, ours):
        if one and other:
            at = max(one, other, right), place
            axes.annotate(
                f"{one / other:.2f}x",
                at,
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
    # Room for those labels.
    axes.set_xlim(0, 1.12 * max(*stock, *ours, right) or 1.0)
    return bars


def _shortened(name: str, most: int = 28) -> str:
    # A dollar sign would begin a formula.
    name = name if len(name) <= most else f"...{name[3 - most :]}"
    return name.replace("$", r"\$")
