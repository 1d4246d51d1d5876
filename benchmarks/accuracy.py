"""How far each algorithm is from exact, layer by layer.

    python benchmarks/accuracy.py [--layers REGEX] [--quick] [--json FILE] [--document FILE]
    python benchmarks/accuracy.py --results FILE [FILE ...] --document docs/accuracy.md

The greatest error of an output, divided by the greatest output, against the direct algorithm in
float64, which is the definition up to errors that are a billion times smaller. Inputs and weights
are standard normal; for 16-bit types they are rounded first, so that what is shown is the error of
the computation alone. An algorithm that cannot run a layer (another stands in) has no entry.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import engines as all_engines
import measure as timing
import ml_dtypes
import numpy as np
import report
from bench_session import HERE, Layer, load_layers, make_model

from ort_tconv import _core

TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# Larger layers are left out of --quick.
QUICK_FLOPS = 1e8


def relative_error(y: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(y.astype(np.float64) - exact).max() / np.abs(exact).max())


def stock_output(layer: Layer, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    stock = all_engines.StockOrt(1)
    run, output = stock.prepare(layer, make_model(layer, w), x, w)
    run()
    return output().copy()  # what it shows belongs to the session


def exact_output(layer: Layer, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    options = {"algorithm": "direct", "threads": os.cpu_count(), **layer.attributes}
    return _core.run(x.astype(np.float64), w.astype(np.float64), **options)


def errors(layer: Layer, isa: str) -> dict[str, float]:
    """By column: stock and each algorithm in float32, then the plan's choice in 16-bit types."""
    rng = np.random.default_rng(0)
    x64, w64 = rng.standard_normal(layer.x), rng.standard_normal(layer.w)
    result = {}
    for name, dtype in TYPES.items():
        x, w = x64.astype(dtype), w64.astype(dtype)
        exact = exact_output(layer, x, w)
        runs = {name: ""}
        if name == "float32":
            result["stock"] = relative_error(stock_output(layer, x, w), exact)
            runs = {algorithm: algorithm for algorithm in _core.algorithms()}
        for column, algorithm in runs.items():
            options = {"isa": isa, "algorithm": algorithm, **layer.attributes}
            plan = _core.plan(layer.x, layer.w, dtype=name, **options)
            if algorithm in ("", plan["algorithm"]):
                result[column] = relative_error(_core.run(x, w, **options), exact)
    return result


def table(data: dict) -> report.Table:
    columns = list(dict.fromkeys(name for row in data["results"] for name in row["errors"]))
    rows = []
    for group, entries in report.groups(data["results"]).items():
        for row in entries:
            values = (row["errors"].get(name) for name in columns)
            rows.append([row["layer"], *(f"{v:.1e}" if v is not None else "-" for v in values)])
        worst = [
            max((r["errors"][name] for r in entries if name in r["errors"]), default=None)
            for name in columns
        ]
        cells = [f"{v:.1e}" if v is not None else "-" for v in worst]
        rows.append([f"{report.MOST}, {group}", *cells])
    return ["layer", *columns], rows


def section(data: dict) -> str:
    lines = [
        "```",
        *report.machine_lines(data["machine"]),
        "```",
        "",
        *report.markdown(table(data)),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="", metavar="REGEX", help="only matching group/name")
    parser.add_argument("--isa", default="", help="instruction set (this processor's best)")
    parser.add_argument("--quick", action="store_true", help="the smaller layers only")
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="run nothing")
    timing.add_json_option(parser)
    parser.add_argument("--document", type=Path, metavar="FILE", help="replace its results")
    args = parser.parse_args()
    args.json = timing.json_file(args, "accuracy", 1)
    layers = load_layers(HERE / "workloads.json", args.layers)
    if args.quick:
        layers = [layer for layer in layers if layer.flops < QUICK_FLOPS]
    if not layers:
        parser.error(f"--layers {args.layers!r} matches no layer")
    console = report.make_console()
    if args.results:
        parts = [json.loads(path.read_text()) for path in args.results]
        rows = [row for part in parts for row in part["results"]]
        data = {"machine": parts[0]["machine"], "results": rows}
    else:
        results = []
        with console.status("") as status:
            for layer in layers:
                status.update(layer.name)
                row = {"group": layer.group_name, "layer": layer.name}
                results.append(row | {"errors": errors(layer, args.isa)})
        machine = timing.machine_info(1) | all_engines.versions([all_engines.StockOrt])
        machine["isa"] = args.isa or machine["isa"]
        data = {"machine": machine, "results": results}
    report.print_tables(console, {"Greatest error / greatest output": table(data)})
    report.write_json(data, args.json)
    if args.document:
        report.fill(args.document, section(data))


if __name__ == "__main__":
    sys.exit(main())
