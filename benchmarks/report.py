"""Tables and plot of result files.

    python benchmarks/report.py [layers.json] [--models models.json --rewrites rewrites.json]
                                [--document docs/performance.md]

replaces the text between the markers of the document, and the plot beside it.

    python benchmarks/report.py --readme

replaces the README's table by a summary of the newest files in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import rich.table
from measure import geometric_mean
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
MEAN, SUM, MOST = "geometric mean", "sum", "greatest"
OF_GROUPS = (MEAN, SUM, MOST)  # how rows begin that stand for a group
ALL = "all layers"

Table = tuple[list[str], list[list[str]]]  # the header and the rows


# ---- numbers -----------------------------------------------------------------------------------


def add_ratios(row: dict) -> None:
    """How many times faster ours is than stock, and than the fastest of all others."""
    ms = {name: engine["median_ms"] for name, engine in row["engines"].items()}
    ours = ms.pop("ours")
    row["best_peer"] = min(ms, key=ms.get)
    row["ratio"] = {"stock": ms["stock"] / ours, "best_peer": ms[row["best_peer"]] / ours}


def groups(results: list[dict]) -> dict[str, list[dict]]:
    by_name: dict[str, list[dict]] = {}
    for row in results:
        by_name.setdefault(row["group"], []).append(row)
    return by_name


def means(results: list[dict]) -> dict:
    """Geometric means of both ratios, and sums of the times to create sessions, of each group."""
    result = {}
    for name, rows in {**groups(results), ALL: results}.items():
        result[name] = {
            "stock": geometric_mean(row["ratio"]["stock"] for row in rows),
            "best_peer": geometric_mean(row["ratio"]["best_peer"] for row in rows),
        }
        for engine in ("stock", "ours"):
            for key in ("creation_ms", "first_run_ms"):
                result[name][f"{engine}_{key}"] = sum(r["engines"][engine][key] for r in rows)
    return result


# ---- tables ------------------------------------------------------------------------------------


def milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"


def layer_tables(data: dict) -> dict[str, Table]:
    names = list(dict.fromkeys(name for row in data["results"] for name in row["engines"]))
    speed: Table = (
        [
            "layer",
            *(f"{name} ms" for name in names),
            "stock / ours",
            "best / ours",
            "best",
            "GFLOP/s",
        ],
        [],
    )
    resources: Table = (
        [
            "layer",
            "plan",
            "of GEMM peak",
            "of bandwidth",
            "scratch a thread",
            "packed weights",
            "stock's columns",
            "stock creation ms",
            "ours creation ms",
            "stock first run ms",
            "ours first run ms",
        ],
        [],
    )
    for group, rows in groups(data["results"]).items():
        for row in rows:
            engines = row["engines"]
            speed[1].append(
                [
                    row["layer"],
                    *(
                        milliseconds(engines[n]["median_ms"]) if n in engines else "-"
                        for n in names
                    ),
                    f"{row['ratio']['stock']:.2f}",
                    f"{row['ratio']['best_peer']:.2f}",
                    row["best_peer"],
                    f"{engines['ours']['gflops']:.1f}",
                ]
            )
            resources[1].append(
                [
                    row["layer"],
                    row["plan"]["algorithm"],
                    f"{row['gemm_share']:.0%}",
                    f"{row['memory_share']:.0%}",
                    size(row["plan"]["scratch_bytes"]),
                    size(row["plan"]["packed_bytes"]),
                    size(row["column_buffer_bytes"]),
                    *created_cells(engines),
                ]
            )
        add_mean(speed, resources, group, data["means"][group])
    add_mean(speed, resources, ALL, data["means"][ALL])
    return {"Time": speed, "Plan, memory and creation of a session": resources}


def created_cells(engines: dict) -> list[str]:
    keys = ("creation_ms", "first_run_ms")
    return [milliseconds(engines[name][key]) for key in keys for name in ("stock", "ours")]


def add_mean(speed: Table, resources: Table, name: str, mean: dict) -> None:
    header, rows = speed
    blank = [""] * (len(header) - 5)
    ratios = [f"{mean['stock']:.2f}", f"{mean['best_peer']:.2f}"]
    rows.append([f"{MEAN}, {name}", *blank, *ratios, "", ""])
    sums = {engine: {} for engine in ("stock", "ours")}
    for engine, values in sums.items():
        for key in ("creation_ms", "first_run_ms"):
            values[key] = mean[f"{engine}_{key}"]
    header, rows = resources
    rows.append([f"{SUM}, {name}", *[""] * (len(header) - 5), *created_cells(sums)])


def model_table(data: dict) -> Table:
    """Whole models: stock, all sites rewritten, and those that won when the model was tuned."""
    names = ("stock", "ours", "tuned")
    header = [
        "model",
        "sites",
        "tuned sites",
        *(f"{name} ms" for name in names),
        "stock / ours",
        "stock / tuned",
        "stock creation ms",
        "ours creation ms",
        "stock first run ms",
        "ours first run ms",
    ]
    rows = [
        [
            row["layer"],
            *(str(row["sites"][name]) for name in names[1:]),
            *(milliseconds(row["engines"][name]["median_ms"]) for name in names),
            *(f"{row['ratio'][name]:.2f}" for name in ("stock", "tuned")),
            *created_cells(row["engines"]),
        ]
        for row in data["results"]
    ]
    ratios = ([row["ratio"][name] for row in data["results"]] for name in ("stock", "tuned"))
    means = [geometric_mean(ratio) for ratio in ratios]
    blank = [""] * 4
    rows.append([MEAN, "", *blank, *(f"{mean:.2f}" for mean in means), *blank])
    return header, rows


def rewrite_table(data: dict) -> Table:
    """Sites of several nodes that become one."""
    header = ["site", "stock ms", "ours ms", "stock / ours", "rewritten"]
    rows = []
    for group, members in groups(data["results"]).items():
        for row in members:
            ms = (milliseconds(row["engines"][name]["median_ms"]) for name in ("stock", "ours"))
            kept = "yes" if row["rewritten"] else "no"
            rows.append([row["layer"], *ms, f"{row['ratio']['stock']:.2f}", kept])
        mean = geometric_mean(row["ratio"]["stock"] for row in members)
        rows.append([f"{MEAN}, {group}", "", "", f"{mean:.2f}", ""])
    return header, rows


def machine_lines(machine: dict) -> list[str]:
    def text(value):
        return f"{value:.1f}" if isinstance(value, float) else value

    return [f"{key.replace('_', ' '):16} {text(value)}" for key, value in machine.items()]


def notes(data: dict) -> list[str]:
    """What the numbers leave out, one line each."""
    lines = [f"not run: {name}, {why}" for name, why in data["missing"].items()]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in data["results"]:
        for name, why in row["unsupported"].items():
            reasons.setdefault((name, why), []).append(row["layer"])
    lines += [
        f"{name} cannot express {', '.join(layers)}: {why}"
        for (name, why), layers in reasons.items()
    ]
    lines.append("Medians. A ratio above 1: ours is faster. best: the fastest engine but ours.")
    return lines


def markdown(table: Table) -> list[str]:
    header, rows = table
    lines = [f"| {' | '.join(header)} |", "|---|" + "--:|" * (len(header) - 1)]
    for cells in rows:
        if cells[0].startswith(OF_GROUPS):
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


# ---- output ------------------------------------------------------------------------------------


def make_console() -> Console:
    """A terminal has a width; a file has none that the tables would have to fit."""
    console = Console()
    return console if console.is_terminal else Console(width=220)


def print_tables(console: Console, tables: dict[str, Table]) -> None:
    """By title."""
    for title, (header, rows) in tables.items():
        table = rich.table.Table(title=title, title_justify="left")
        for i, column in enumerate(header):
            table.add_column(column, no_wrap=i == 0, justify="right" if i else "left")
        for cells in rows:
            of_group = cells[0].startswith(OF_GROUPS)
            table.add_row(*cells, style="bold" if of_group else None, end_section=of_group)
        console.print(table)


def print_results(
    console: Console, machine: dict, tables: dict[str, Table], notes: Sequence[str]
) -> None:
    """The machine, the tables, and lines below them."""
    for line in machine_lines(machine):
        console.print(line, highlight=False)
    print_tables(console, tables)
    for line in notes:
        console.print(line, highlight=False)


def write_json(data: dict, path: Path | None) -> None:
    """Where the option --json says, if it was given."""
    if path:
        path.write_text(json.dumps(data, indent=1) + "\n")


# ---- plot --------------------------------------------------------------------------------------


def plot(data: dict, path: Path) -> None:
    """Speed relative to stock: a bar for ours, a mark for every other engine."""
    import matplotlib

    matplotlib.use("Agg")
    # The same data give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "ort-tconv"
    from matplotlib import pyplot, ticker

    results = data["results"]
    positions, labels, y = [], [], 0.0
    for rows in groups(results).values():
        for row in rows:
            positions.append(y)
            labels.append(row["layer"])
            y += 1
        y += 0.7  # a gap between groups
    figure, axes = pyplot.subplots(figsize=(8, 1.6 + 0.24 * y), layout="constrained")

    def speeds(name):
        return [
            row["engines"]["stock"]["median_ms"] / row["engines"][name]["median_ms"]
            if name in row["engines"]
            else float("nan")
            for row in results
        ]

    ours = speeds("ours")
    axes.barh(positions, [s - 1 for s in ours], left=1, height=0.7, color="#4c9a6a", label="ours")
    for position, speed in zip(positions, ours):
        axes.annotate(
            f"{speed:.2f}×",
            (1.01, position),
            xycoords=axes.get_yaxis_transform(),
            color="#2c6e49",
            fontsize=8,
            va="center",
        )
    axes.axvline(1, color="black", linewidth=1, label="stock")
    others = dict.fromkeys(name for row in results for name in row["engines"])
    others = [name for name in others if name not in ("stock", "ours")]
    for name, marker in zip(others, "oDs^vPX"):
        axes.plot(speeds(name), positions, marker, markersize=4, alpha=0.8, label=name)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.margins(x=0.1, y=0.01)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_yticks(positions, labels, fontsize=8)
    axes.invert_yaxis()
    machine = data["machine"]
    axes.set_xlabel("speed relative to stock ONNX Runtime; to the right is faster")
    axes.set_title(f"{machine['cpu']}, {machine['threads']} threads, {machine['isa']}", fontsize=9)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=150, metadata=metadata)
    pyplot.close(figure)


# ---- the document ------------------------------------------------------------------------------


def section(layers: dict, image: str | None) -> str:
    """The measured part of the document."""
    lines = ["```", *machine_lines(layers["machine"]), "```", ""]
    if image:
        lines += [f"![Speed of each layer relative to stock ONNX Runtime]({image})", ""]
    for title, table in layer_tables(layers).items():
        lines += [f"### {title}", "", *markdown(table), ""]
    lines += [f"- {line}" for line in notes(layers)]
    return "\n".join(lines)


def models_section(models: dict, rewrites: dict) -> str:
    """Whole models and the sites that are no ConvTranspose."""
    lines = ["```", *machine_lines(models["machine"]), "```"]
    for title, table in (
        ("Whole models", model_table(models)),
        ("Rewritten sites", rewrite_table(rewrites)),
    ):
        lines += ["", f"### {title}", "", *markdown(table)]
    return "\n".join(lines)


WORKLOADS = {
    "gan": "GAN generators",
    "images": "224x224x3 images",
    "decoder": "decoders: segmentation, OCR, super-resolution",
    "audio": "audio, 1-D",
    "volume": "volumes, 3-D",
    "batch": "GAN generators, batch 16",
}


def readme_section(layers: dict, models: dict) -> str:
    """The README's table: a row a group of layers, then whole models; the worst layer included."""
    machine = layers["machine"]
    peers = dict.fromkeys(name for row in layers["results"] for name in row["engines"])
    names = {"torch": "PyTorch", "openvino": "OpenVINO", "litert": "LiteRT"}
    others = [title for name, title in names.items() if name in peers]
    header = ["layers", "of them", "vs stock", "slowest", "fastest", "vs best of all others"]
    rows = []
    for group, entries in {**groups(layers["results"]), ALL: layers["results"]}.items():
        ratios = [row["ratio"]["stock"] for row in entries]
        best = geometric_mean(row["ratio"]["best_peer"] for row in entries)
        mean = geometric_mean(ratios)
        cells = [f"{mean:.2f}x", f"{min(ratios):.2f}x", f"{max(ratios):.2f}x", f"{best:.2f}x"]
        title = WORKLOADS.get(group, group)
        rows.append([f"**{title}**" if group == ALL else title, str(len(entries)), *cells])
    best_first = sorted(models["results"], key=lambda row: -row["ratio"]["tuned"])
    whole = ", ".join(
        f"{row['layer']} {row['ratio']['stock']:.2f}x / {row['ratio']['tuned']:.2f}x"
        for row in best_first
    )
    means = " / ".join(
        f"{geometric_mean(row['ratio'][kind] for row in best_first):.2f}x"
        for kind in ("stock", "tuned")
    )
    text = (
        f"Speed-ups, geometric means, float32: {machine['cpu']}, {machine['threads']} threads, "
        f"{machine['isa']}, ONNX Runtime {machine['onnxruntime']}. All others: "
        f"{', '.join(['stock', *others])}. Whole models, converted / with `--tune`: {whole}; "
        f"mean {means}."
    )
    return "\n".join([*markdown((header, rows)), "", *textwrap.wrap(text, 112)])


def newest(kind: str) -> Path:
    """Result files begin with their date."""
    files = sorted((ROOT / "benchmarks/results").glob(f"*-{kind}.json"))
    if not files:
        raise SystemExit(f"benchmarks/results has no *-{kind}.json")
    return files[-1]


def replace_section(document: str, text: str, name: str = "results") -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        raise SystemExit(f"the document lacks {begin} or {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def fill(document: Path, text: str, name: str = "results") -> None:
    document.write_text(replace_section(document.read_text(), text, name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layers", type=Path, nargs="?", help="from bench_session.py --json")
    parser.add_argument("--models", type=Path, help="from bench_models.py --json")
    parser.add_argument("--rewrites", type=Path, help="from bench_rewrites.py --json")
    parser.add_argument("--document", type=Path, default=ROOT / "docs/performance.md")
    parser.add_argument("--no-plot", action="store_true", help="leave the plot as it is")
    parser.add_argument("--readme", action="store_true", help="the README's table instead")
    args = parser.parse_args()
    if args.readme:
        layers, models = (json.loads(newest(kind).read_text()) for kind in ("layers", "models"))
        fill(ROOT / "README.md", readme_section(layers, models))
        return
    if bool(args.models) != bool(args.rewrites):
        parser.error("--models and --rewrites go together")
    if not args.layers and not args.models:
        parser.error("a file from bench_session.py --json is needed, or --models and --rewrites")
    if args.models:
        models, rewrites = (json.loads(p.read_text()) for p in (args.models, args.rewrites))
        fill(args.document, models_section(models, rewrites), "models")
    if not args.layers:
        return
    layers = json.loads(args.layers.read_text())
    image = args.document.with_suffix(".svg")
    if not args.no_plot:
        plot(layers, image)
    fill(args.document, section(layers, image.name if image.exists() else None))


if __name__ == "__main__":
    sys.exit(main())
