"""Tables and the chart of recorded results.

    python benchmarks/report.py

writes what benchmarks/results has recorded into README.md, docs/performance.md and the chart
beside it, and docs/quantization.md. A file there is called DATE-PROCESSOR[-runN]-KIND.json, where
KIND is layers, models, rewrites or quantized: files of one processor, one number of threads and one
date are runs of the same thing, and the newest date counts.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import rich.table
from measure import RESULTS
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs/figures"))

from drawing import COLORS, INK, LINE, MUTED, PAGE, Drawing  # noqa: E402

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
MEAN, SUM, MOST = "geometric mean", "sum", "greatest"
OF_GROUPS = (MEAN, SUM, MOST)  # how rows begin that stand for a group
ALL = "all layers"
OURS = ("ours", "tuned", "provider", "float32")  # engines that are ours, in one form or another

Table = tuple[list[str], list[list[str]]]  # the header and the rows


# ---- numbers -----------------------------------------------------------------------------------


def add_ratios(row: dict) -> None:
    """How many times faster ours is than stock, and than the fastest of all others."""
    ms = {name: engine["median_ms"] for name, engine in row["engines"].items()}
    ours = ms.pop("ours")
    row["best_peer"] = min(ms, key=ms.get)
    row["ratio"] = {"stock": ms["stock"] / ours, "best_peer": ms[row["best_peer"]] / ours}


def ratios(engines: dict) -> dict[str, float]:
    """How many times as fast as each of the others ours is."""
    ms = {name: engine["median_ms"] for name, engine in engines.items()}
    return {name: value / ms["ours"] for name, value in ms.items() if name != "ours"}


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
            "stock": statistics.geometric_mean(row["ratio"]["stock"] for row in rows),
            "best_peer": statistics.geometric_mean(row["ratio"]["best_peer"] for row in rows),
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


def created_cells(engines: dict, names: Sequence[str] = ("stock", "ours")) -> list[str]:
    keys = ("creation_ms", "first_run_ms")
    return [milliseconds(engines[name][key]) for key in keys for name in names]


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
    """Whole models: stock, all sites rewritten, those that won when the model was tuned, and the
    execution provider, where all of the results have it."""
    results = data["results"]
    names = ["stock", "ours", "tuned"]
    if all("provider" in row["engines"] for row in results):
        names.append("provider")
    measured = ["stock", "ours", *names[3:]]
    header = [
        "model",
        "sites",
        *(f"{name} sites" for name in names[2:]),
        *(f"{name} ms" for name in names),
        *(f"stock / {name}" for name in names[1:]),
        *(f"{name} peak memory" for name in measured),
        *(f"{name} creation ms" for name in measured),
        *(f"{name} first run ms" for name in measured),
    ]
    kept = ["stock", *names[2:]]  # as "ratio" calls them
    rows = [
        [
            row["layer"],
            *(str(row["sites"][name]) for name in names[1:]),
            *(milliseconds(row["engines"][name]["median_ms"]) for name in names),
            *(f"{row['ratio'][name]:.2f}" for name in kept),
            *(peak_cell(row["engines"][name]) for name in measured),
            *created_cells(row["engines"], measured),
        ]
        for row in results
    ]
    means = [statistics.geometric_mean([row["ratio"][name] for row in results]) for name in kept]
    before, after = 2 * len(names) - 1, 3 * len(measured)
    rows.append([MEAN, *[""] * before, *(f"{mean:.2f}" for mean in means), *[""] * after])
    if any("commit" in row for row in results):  # taken in pieces
        header.append("commit")
        for cells, row in zip(rows, [*results, {}]):
            cells.append(row.get("commit", ""))
    return header, rows


def peak_cell(engine: dict) -> str:
    return size(engine["peak_bytes"]) if engine.get("peak_bytes") else "-"


def rewrite_table(data: dict) -> Table:
    """Sites of several nodes that become one."""
    header = ["site", "stock ms", "ours ms", "stock / ours", "rewritten"]
    rows = []
    for group, members in groups(data["results"]).items():
        for row in members:
            ms = (milliseconds(row["engines"][name]["median_ms"]) for name in ("stock", "ours"))
            kept = "yes" if row["rewritten"] else "no"
            rows.append([row["layer"], *ms, f"{row['ratio']['stock']:.2f}", kept])
        mean = statistics.geometric_mean(row["ratio"]["stock"] for row in members)
        rows.append([f"{MEAN}, {group}", "", "", f"{mean:.2f}", ""])
    return header, rows


QUANTIZED = (
    "stock",
    "openvino",
    "openvino_zero",
    "float32",
)  # what ours is compared with, in 8 bits


def quantized_table(data: dict) -> Table:
    """Layers in 8 bits."""
    results = data["results"]
    others = [n for n in QUANTIZED if any(n in row["engines"] for row in results)]
    names = [others[0], "ours", *others[1:]]
    header = ["layer", *(f"{n} ms" for n in names), *(f"{n} / ours" for n in others), "equal"]
    rows = []
    for row in results:
        engines, ratio = row["engines"], ratios(row["engines"])
        rows.append(
            [
                f"{row['group']}/{row['layer']}",
                *(milliseconds(engines[n]["median_ms"]) if n in engines else "-" for n in names),
                *(f"{ratio[n]:.2f}" if n in ratio else "-" for n in others),
                f"{row['equal']:.3%}",
            ]
        )
    means = (f"{statistics.geometric_mean(quantized_ratios(data, n)):.2f}" for n in others)
    rows.append([MEAN, *[""] * len(names), *means, ""])
    return header, rows


def quantized_ratios(data: dict, name: str) -> list[float]:
    """Of the layers that this engine has a time for."""
    every = (ratios(row["engines"]) for row in data["results"])
    return [ratio[name] for ratio in every if name in ratio]


def quantized_notes(data: dict) -> list[str]:
    lines = [
        *left_out(data),
        "Medians. A ratio above 1: ours is faster. float32: our operator on the layer in float32.",
        "equal: outputs of ours that are stock's; the others differ by one step.",
    ]
    if any("openvino_zero" in row["engines"] for row in data["results"]):
        lines.append(
            "openvino_zero: with an x_zero_point of 0, without which OpenVINO computes in float32."
        )
    return lines


def machine_lines(machine: dict) -> list[str]:
    def text(value):
        return f"{value:.1f}" if isinstance(value, float) else value

    return [f"{key.replace('_', ' '):16} {text(value)}" for key, value in machine.items()]


def left_out(data: dict) -> list[str]:
    """Engines without a time, one line for each reason."""
    lines = [f"not run: {name}, {why}" for name, why in data["missing"].items()]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in data["results"]:
        for name, why in row["unsupported"].items():
            reasons.setdefault((name, why), []).append(row["layer"])
    lines += [
        f"{name} has no time for {', '.join(layers)}: {why}"
        for (name, why), layers in reasons.items()
    ]
    return lines


def notes(data: dict) -> list[str]:
    """What the numbers leave out, one line each."""
    last = "Medians. A ratio above 1: ours is faster. best: the fastest engine but ours."
    return [*left_out(data), last]


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


# ---- recorded results --------------------------------------------------------------------------


@dataclass
class Record:
    """Runs of one kind on one processor, with one number of threads."""

    processor: str
    threads: int
    runs: list[dict]

    @property
    def name(self) -> str:
        return f"{self.processor}, {threads_text(self.threads)}"

    @property
    def machine(self) -> dict:
        return self.runs[0]["machine"]

    def over_runs(self, value: Callable[[dict], float]) -> list[float]:
        return [value(run) for run in self.runs]


def threads_text(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


RESULT = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)-(?P<processor>.+?)(-run\d+)?-(?P<kind>[a-z]+)\.json"
)
WORDS = {"epyc": "EPYC", "avx2": "AVX2", "amd": "AMD"}


def processor_name(slug: str) -> str:
    """As in the names of files: epyc-milan-2-cores is EPYC Milan."""
    words = re.sub(r"-\d+-(core|thread)s?", "", slug).split("-")
    return " ".join(WORDS.get(word, word.capitalize()) for word in words)


def records(kind: str, directory: Path | None = None) -> list[Record]:
    """The newest of each processor and number of threads."""
    found: dict[tuple[str, int], dict[str, list[dict]]] = {}
    for path in sorted((directory or RESULTS).glob(f"*-{kind}.json")):
        name = RESULT.fullmatch(path.name)
        if not name or name["kind"] != kind:
            raise SystemExit(f"{path.name}: not called DATE-PROCESSOR[-runN]-{kind}.json")
        data = json.loads(path.read_text())
        key = processor_name(name["processor"]), data["machine"]["threads"]
        found.setdefault(key, {}).setdefault(name["date"], []).append(data)
    if not found:
        raise SystemExit(f"{directory or RESULTS} has no *-{kind}.json")
    return [Record(*key, dates[max(dates)]) for key, dates in sorted(found.items())]


def newest(kind: str) -> Path:
    """Result files begin with their date."""
    files = sorted(RESULTS.glob(f"*-{kind}.json"))
    if not files:
        raise SystemExit(f"{RESULTS} has no *-{kind}.json")
    return files[-1]


def middle_of(record: Record) -> dict:
    """The runs as one: the median of each engine's medians, and `over_runs`, how far the ratio to
    stock's time ranges."""
    data = copy.deepcopy(record.runs[-1])
    for row in data["results"]:
        same = [
            other
            for run in record.runs
            for other in run["results"]
            if (other["group"], other["layer"]) == (row["group"], row["layer"])
        ]
        for name, engine in row["engines"].items():
            times = [r["engines"][name]["median_ms"] for r in same if name in r["engines"]]
            middle = statistics.median(times)
            if "gflops" in engine:
                engine["gflops"] *= engine["median_ms"] / middle
            engine["median_ms"] = middle
        ms = {name: engine["median_ms"] for name, engine in row["engines"].items()}
        row["ratio"] = {
            "stock": ms["stock"] / ms["ours"],
            **{name: ms["stock"] / ms[name] for name in ("tuned", "provider") if name in ms},
        }
        others = {name: value for name, value in ms.items() if name not in OURS}
        row["best_peer"] = min(others, key=others.get)
        row["ratio"]["best_peer"] = others[row["best_peer"]] / ms["ours"]
        ratios = [r["ratio"]["stock"] for r in same]
        row["over_runs"] = min(ratios), max(ratios)
    if "means" in data:
        data["means"] = means(data["results"])
    return data


def mean_ratio(data: dict, ratio: str, group: str | None = None) -> float:
    rows = [row for row in data["results"] if group in (None, row["group"])]
    return statistics.geometric_mean(row["ratio"][ratio] for row in rows)


def times(values: Iterable[float], digits: int = 2) -> str:
    """ "1.70x", or "1.70 to 1.76x" where runs differ."""
    values = list(values)
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return f"{low}x" if low == high else f"{low} to {high}x"


# ---- chart -------------------------------------------------------------------------------------


def chart(layers: Sequence[Record]) -> Drawing:
    """For each group of layers a bar for each record: the geometric mean of the speed relative to
    stock's, with the slowest and the fastest layer, and the best of the other engines."""
    data = [middle_of(record) for record in layers]
    names = list(dict.fromkeys(row["group"] for d in data for row in d["results"]))
    bar, gap, left, right, top = 17, 14, 176, 600, 46 + 18 * len(layers)
    height = top + (len(names) + 1) * (bar * len(layers) + gap) + 62
    d = Drawing(720, height, "Speed relative to stock ONNX Runtime, by groups of layers")
    ratios = [row["ratio"]["stock"] for part in data for row in part["results"]]
    low, high = min(0.8, *ratios) * 0.95, max(2.0, *ratios) * 1.05

    def x(speed: float) -> float:
        scaled = math.log(speed / low) / math.log(high / low)
        return round(left + (right - left) * min(max(scaled, 0.0), 1.0), 1)

    bottom = height - 50
    for tick in (0.25, 0.5, 1, 2, 5, 10, 20, 50):
        if low <= tick <= high:
            d.line(x(tick), top - 8, x(tick), bottom, INK if tick == 1 else LINE, 1)
            d.text(x(tick), bottom + 15, f"{tick:g}×", fill=MUTED)
    d.text(
        20,
        bottom + 36,
        "Speed relative to stock ONNX Runtime; 1× is equal, to the right is faster.",
        anchor="start",
        fill=MUTED,
    )
    for index, record in enumerate(layers):
        y = 20 + 18 * index
        d.rect(20, y, 24, 12, COLORS[index % len(COLORS)])
        text = f"{chr(ord('a') + index)}  {record.name}, {record.machine['isa']}"
        d.text(52, y + 10, text, anchor="start")
    d.rect(382, 20, 12, 12, PAGE, INK, 1.5)
    d.text(402, 30, "best of the other engines", anchor="start")
    d.line(376, 44, 400, 44, INK, 1.5)
    d.text(406, 48, "slowest to fastest layer", anchor="start")

    y = top
    for group in [*names, None]:
        title = ALL if group is None else WORKLOADS.get(group, group)
        rows = [[r for r in part["results"] if group in (None, r["group"])] for part in data]
        words = textwrap.fill(title, 18)
        weight = "bold" if group is None else None
        line = 1.3 * 12 * words.count("\n")
        d.text(20, y + (bar * len(layers) - line) / 2 + 4, words, 12, "start", weight)
        for index, own in enumerate(rows):
            if not own:
                y += bar
                continue
            speeds = [row["ratio"]["stock"] for row in own]
            mean = statistics.geometric_mean(speeds)
            best = mean / statistics.geometric_mean(row["ratio"]["best_peer"] for row in own)
            start, end = sorted((x(1), x(mean)))
            color = COLORS[index % len(COLORS)]
            slowest = min(own, key=lambda row: row["ratio"]["stock"])
            fastest = max(own, key=lambda row: row["ratio"]["stock"])
            note = (
                f"{title}, {layers[index].name}: {mean:.2f}x; {slowest['layer']} "
                f"{min(speeds):.2f}x, {fastest['layer']} {max(speeds):.2f}x"
            )
            if end - start >= 2:  # less would be hidden by the line at 1
                d.rect(start, y + 2, end - start, bar - 4, color, title=note)
            middle = y + bar / 2
            for stroke, width in ((PAGE, 4.5), (INK, 1.5)):
                d.line(x(min(speeds)), middle, x(max(speeds)), middle, stroke, width)
            d.rect(x(best) - 5, middle - 5, 10, 10, PAGE, INK, 1.5)
            d.text(right + 28, middle + 4, chr(ord("a") + index), 11, fill=MUTED)
            d.text(700, middle + 4, f"{mean:.2f}×", 12, "end", "bold")
            y += bar
        y += gap
    return d


# ---- the documents -----------------------------------------------------------------------------


def details(summary: str, lines: Iterable[str]) -> list[str]:
    """Folded away, on the site as on GitHub."""
    opening = f'<details markdown="1"><summary>{summary}</summary>'
    return [opening, "", *lines, "", "</details>", ""]


def of_machine(record: Record) -> list[str]:
    count = len(record.runs)
    runs = ["", f"Medians of {count} runs; ranges are those of the runs."] if count > 1 else []
    return ["```", *machine_lines(record.machine), "```", *runs]


def group_table(layers: Sequence[Record]) -> Table:
    """Speed-ups over stock by groups, one column a record: the mean, and how far layers range."""
    header = ["layers", "of them", *(record.name for record in layers)]
    names = dict.fromkeys(row["group"] for record in layers for row in record.runs[0]["results"])
    rows = []
    for group in [*names, None]:
        cells = []
        for record in layers:
            own = [
                row
                for run in record.runs
                for row in run["results"]
                if group in (None, row["group"])
            ]
            if not own:
                cells.append("")
                continue
            mean = times(record.over_runs(lambda run, g=group: mean_ratio(run, "stock", g)))
            speeds = [row["ratio"]["stock"] for row in own]
            cells.append(f"{mean} ({min(speeds):.2f} to {max(speeds):.2f})")
        count = max(
            sum(group in (None, row["group"]) for row in record.runs[0]["results"])
            for record in layers
        )
        title = ALL if group is None else WORKLOADS.get(group, group)
        cells = [title, str(count), *cells]
        rows.append([f"**{cell}**" for cell in cells] if group is None else cells)
    return header, rows


def section(layers: Sequence[Record], image: str) -> str:
    """The measured part of the document that is about layers."""
    lines = [
        "Speed relative to stock ONNX Runtime, as geometric means; in brackets the slowest and the",
        "fastest layer of any run.",
        "",
        *markdown(group_table(layers)),
        "",
        f"![Speed relative to stock ONNX Runtime, by groups of layers]({image})",
        "",
    ]
    for record in layers:
        data = middle_of(record)
        tables = [
            line
            for title, table in layer_tables(data).items()
            for line in ("", f"**{title}**", "", *markdown(table))
        ]
        notes_ = ["", *(f"- {line}" for line in notes(data))]
        name = f"Every layer: {record.name}, {record.machine['date']}"
        lines += details(name, [*of_machine(record), *tables, *notes_])
    return "\n".join(lines).rstrip()


def models_section(models: Sequence[Record], rewrites: Sequence[Record]) -> str:
    """Whole models and the sites that are no ConvTranspose."""
    lines = []
    for title, parts, table in (
        ("Whole models", models, model_table),
        ("Rewritten sites", rewrites, rewrite_table),
    ):
        lines += [f"### {title}", ""]
        for record in parts:
            body = [*of_machine(record), "", *markdown(table(middle_of(record)))]
            lines += details(f"{record.name}, {record.machine['date']}", body)
    return "\n".join(lines).rstrip()


def quantized_section(records: Sequence[Record]) -> str:
    """Layers in 8 bits, a row and a table for each record."""
    header = ["processor, threads", "layers", *(f"against {COMPARED[n]}" for n in QUANTIZED)]
    rows = []
    for record in records:
        cells = [f"{record.name} ({record.machine['quantized_isa']})"]
        cells.append(str(max(len(run["results"]) for run in record.runs)))
        for name in QUANTIZED:
            each = [found for run in record.runs if (found := quantized_ratios(run, name))]
            if not each:
                cells.append("-")
                continue
            mean = times(statistics.geometric_mean(one) for one in each)
            every = [ratio for one in each for ratio in one]
            cells.append(f"{mean} ({min(every):.2f} to {max(every):.2f})")
        rows.append(cells)
    lines = [
        "How many times as fast as each the 8-bit node is, as geometric means; in brackets the",
        "slowest and the fastest layer of any run. A dash means not measured.",
        "",
        *markdown((header, rows)),
        "",
    ]
    for record in records:
        data = middle_of(record)
        body = [*of_machine(record), "", *markdown(quantized_table(data)), ""]
        body += [f"- {line}" for line in quantized_notes(data)]
        lines += details(f"Every layer: {record.name}, {record.machine['date']}", body)
    return "\n".join(lines).rstrip()


COMPARED = {
    "stock": "stock, same model",
    "openvino": "OpenVINO, same model",
    "openvino_zero": "OpenVINO, x_zero_point 0",
    "float32": "our operator in float32",
}
WORKLOADS = {
    "gan": "GAN generators",
    "images": "224x224x3 images",
    "decoder": "decoders: segmentation, OCR, super-resolution",
    "audio": "audio, 1-D",
    "volume": "volumes, 3-D",
    "batch": "GAN generators, batch 16",
    "computed": "weights computed in the model",
    "istft": "inverse STFT",
}


def readme_table(layers: Sequence[Record], models: Sequence[Record]) -> Table:
    """One row a processor and number of threads, with ranges over runs where there are several."""
    header = [
        "processor, threads",
        "single layers",
        "against the best other engine",
        "whole models",
        "with `--tune`",
        "peak memory",
    ]
    of_models = {record.name: record for record in models}
    rows = []
    for record in layers:
        speeds = [row["ratio"]["stock"] for run in record.runs for row in run["results"]]
        mean = times(record.over_runs(lambda run: mean_ratio(run, "stock")))
        whole = of_models.get(record.name)
        cells = ["-"] * 3
        if whole:
            has_tuned = all("tuned" in row["ratio"] for run in whole.runs for row in run["results"])
            for index, kind in enumerate(("stock", "tuned")[: 1 + has_tuned]):
                ratios = [r["ratio"][kind] for run in whole.runs for r in run["results"]]
                of_kind = times(whole.over_runs(lambda run, k=kind: mean_ratio(run, k)))
                cells[index] = f"{of_kind} ({min(ratios):.2f} to {max(ratios):.2f})"
            if peaks := [p for run in whole.runs if (p := memory_ratio(run["results"]))]:
                cells[2] = times(peaks)
        rows.append(
            [
                f"{record.name} ({record.machine['isa']})",
                f"{mean} ({min(speeds):.2f} to {max(speeds):.2f})",
                best_of_others(record),
                *cells,
            ]
        )
    return header, rows


def best_of_others(record: Record) -> str:
    """A dash if no engine ran beside stock that computes every kind of layer."""
    names = {name for row in record.runs[0]["results"] for name in row["engines"]}
    if names <= {"stock", "ours", "overlap_add"}:
        return "-"
    return times(record.over_runs(lambda run: mean_ratio(run, "best_peer")))


def memory_ratio(results: list[dict]) -> float | None:
    """Peak memory over stock's, the geometric mean over models; None where it was not measured."""
    pairs = [
        [row["engines"][name].get("peak_bytes") for name in ("ours", "stock")] for row in results
    ]
    if not all(all(pair) for pair in pairs):
        return None
    return statistics.geometric_mean(ours / stock for ours, stock in pairs)


def readme_section(layers: Sequence[Record], models: Sequence[Record]) -> str:
    others = dict.fromkeys(
        name for r in layers for row in r.runs[0]["results"] for name in row["engines"]
    )
    others = [PEERS.get(name, name) for name in others if name not in ("stock", "ours")]
    versions = ", ".join(sorted({record.machine["onnxruntime"] for record in layers}))
    counts = sorted({len(record.runs[0]["results"]) for record in layers})
    count = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    text = (
        f"Speed relative to stock ONNX Runtime {versions}, in float32: geometric means over "
        f"{count} layers of published networks, and over whole networks, which spend only a part "
        "of their time in transposed convolutions. The slowest and the fastest are in brackets; a "
        "range before them is over several runs. The other engines are stock, "
        f"{', '.join(dict.fromkeys(others))}. Peak memory is relative to stock's. A dash means not "
        "measured."
    )
    return "\n".join([*markdown(readme_table(layers, models)), "", *textwrap.wrap(text, 118)])


PEERS = {
    "overlap_add": "overlap-add of inverse STFTs",
    "torch": "PyTorch",
    "torch_packed": "PyTorch",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
}


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
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder (%(default)s)")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the documents (%(default)s)")
    args = parser.parse_args()
    layers, models, rewrites, quantized = (
        records(kind, args.results) for kind in ("layers", "models", "rewrites", "quantized")
    )
    performance = args.root / "docs/performance.md"
    performance.with_suffix(".svg").write_text(str(chart(layers)))
    fill(performance, section(layers, "performance.svg"))
    fill(performance, models_section(models, rewrites), "models")
    fill(args.root / "docs/quantization.md", quantized_section(quantized))
    fill(args.root / "README.md", readme_section(layers, models))


if __name__ == "__main__":
    sys.exit(main())
