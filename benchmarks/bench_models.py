"""Whole models: stock ONNX Runtime with the original against ort-tconv with the converted one.

    python benchmarks/bench_models.py [--models REGEX] [--quick] [--json FILE]

The models are those of models.py, at batch 1. They are validated first, then timed in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

import measure as timing
import models
import numpy as np
import report
from bench_session import print_tables
from engines import OrtTconv, StockOrt, versions
from onnx import ModelProto
from rich.console import Console

import ort_tconv


def measure(name: str, model: ModelProto, engines, repeat: int, seconds: float) -> dict:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(1).standard_normal(shape, dtype=np.float32)}
    check = ort_tconv.validate(model, ort_tconv.convert(model), inputs=feeds)
    if not check.ok:
        raise SystemExit(f"{name}: the converted model computes something else\n{check}")

    files = [engine.file(model) for engine in engines]
    created = timing.creation(engines, files, feeds, min(repeat, 5))
    runs = [e.bind(e.session(file), feeds)[0] for e, file in zip(engines, files)]
    settle = max(engine.settle for engine in engines)
    times = timing.in_turns(runs, repeat, seconds, settle)
    row = {
        "group": "models",
        "layer": name,
        "nodes": sum(n.op_type == "ConvTranspose" for n in model.graph.node),
        "engines": {e.name: timing.spread(t) | c for e, t, c in zip(engines, times, created)},
    }
    report.add_ratios(row)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="", metavar="REGEX", help="only matching names")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: every core"
    )
    parser.add_argument("--repeat", type=int, default=15, help="timed runs at least (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="per model at least (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one run a model: does it work at all?"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    args = parser.parse_args()
    if args.quick:
        args.repeat, args.seconds = 1, 0.0
    builders = [b for b in models.MODELS if re.search(args.models, b.__name__)]
    if not builders:
        parser.error(f"--models {args.models!r} matches no model")

    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    engines = [StockOrt(args.threads), OrtTconv(args.threads)]
    machine = timing.machine_info(args.threads) | versions(engines)
    results = []
    with console.status("") as status:
        for build in builders:
            status.update(build.__name__)
            results.append(measure(build.__name__, build(), engines, args.repeat, args.seconds))
    data = {"machine": machine, "results": results}
    for line in report.machine_lines(machine):
        console.print(line, highlight=False)
    print_tables(console, {"Whole models": report.model_table(data)})
    console.print("Medians. nodes: ConvTranspose nodes of the model.", highlight=False)
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
