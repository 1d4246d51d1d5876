"""Whole models: stock ONNX Runtime, ort-tconv with converted and with tuned models, and as an
execution provider of the models as they are.

    python benchmarks/bench_models.py [--models REGEX] [--quick] [--json FILE [--merge]]

The models, at batch 1, are the networks of examples/architectures, exported with PyTorch, and the
text detector that RapidOCR ships, where it is installed. They are validated first, then timed in
turns; stock and the tuned model once more in a new process. FILE is written after every model.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import measure as timing
import numpy as np
import onnx
import report
from engines import OrtTconv, OrtTconvProvider, OrtTconvTuned, StockOrt, versions

import ort_tconv
from ort_tconv.converters.model_io import Model
from ort_tconv.converters.report import count_operators
from ort_tconv.tuning import trials

NOTES = [
    "Medians. sites: rewritten ones, without and with tuning. A ratio above 1: ours is faster."
]
OPERATOR = "ort_tconv::SegregatedConvTranspose"


def networks(small: bool) -> dict[str, Callable[[], tuple[onnx.ModelProto, tuple[int, ...]]]]:
    """By name: what makes the model, and the shape of its input."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    try:
        from architectures import ARCHITECTURES, export
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{error}: install the extra 'models', or run 'make bench-models'"
        ) from None

    def exported(architecture):
        shape = architecture.small_input if small else architecture.input
        return lambda: (export(architecture, small=small), shape)

    result = {name: exported(architecture) for name, architecture in ARCHITECTURES.items()}
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    if package is not None:
        path = Path(package.origin).parent / "models" / "ch_PP-OCRv4_det_infer.onnx"
        result["ppocr_det"] = lambda: (
            onnx.load(path),
            (1, 3, *((64, 96) if small else (640, 960))),
        )
    return result


def measure(name: str, model: onnx.ModelProto, shape, engines, repeat: int, seconds: float) -> dict:
    (x,) = (value.name for value in model.graph.input)
    feeds = {x: np.random.default_rng(1).standard_normal(shape, dtype=np.float32)}
    files = [engine.file(model, {x: shape}) for engine in engines]
    peaks = {}
    for engine, file in zip(engines[1:], files[1:]):
        # Compares the outputs, and measures memory in processes of their own.
        once = {"threads": engine.threads, "warm_up": 0, "repeat": 1, "seconds": 0.0}
        way = {"provider": True} if engine.name == "provider" else {"converted": file}
        done = ort_tconv.benchmark(model, inputs=feeds, per_node=False, **once, **way)
        if not done.validation.ok:
            raise SystemExit(
                f"{name}, {engine.name}: the model computes something else\n{done.validation}"
            )
        rewritten = done.validation.rewritten  # of the last: the provider
        peaks |= {"stock": done.stock.peak_bytes, engine.name: done.converted.peak_bytes}

    created = timing.creation(engines, files, feeds, min(repeat, 2))
    runs = [e.bind(e.session(file), feeds)[0] for e, file in zip(engines, files)]
    settle = max(engine.settle for engine in engines)
    times = timing.in_turns(runs, repeat, seconds, settle)
    counts = [count_operators(onnx.load_from_string(file)) for file in files]
    row = {
        "group": "models",
        "layer": name,
        "sites": {e.name: count[OPERATOR] for e, count in zip(engines[1:], counts[1:])}
        | {"provider": rewritten},
        "engines": {
            e.name: timing.spread(t) | c | {"peak_bytes": peaks[e.name]}
            for e, t, c in zip(engines, times, created)
        },
    }
    stock, ours, tuned, provider = (row["engines"][e.name]["median_ms"] for e in engines)
    row["ratio"] = {"stock": stock / ours, "tuned": stock / tuned, "provider": stock / provider}
    # What tuning promises is for processes that it did not see.
    del runs
    models = [Model(onnx.load_from_string(file)) for file in (files[0], files[2])]
    machine = trials.Machine(models[0], engines[0].threads, ("CPUExecutionProvider",))
    stock, tuned = trials.in_new_process(machine, models, feeds)
    row["new_process"] = {"stock_ms": stock, "tuned_ms": tuned, "ratio": stock / tuned}
    return row


def progress(row: dict) -> str:
    """The row of the table to come, on one line."""
    header, (cells, _) = report.model_table({"results": [row]})
    return ", ".join(f"{column} {cell}" for column, cell in zip(header, cells))


def earlier(path: Path, machine: dict) -> dict[str, dict]:
    """Rows by model of a file that a machine like this one wrote; none if it is not there yet."""
    if not path.exists():
        return {}
    data = json.loads(path.read_text())
    if differences := timing.differences(data["machine"], machine):
        raise SystemExit("\n".join([f"{path} cannot be added to:", *differences]))
    return {row["layer"]: row for row in data["results"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="", metavar="REGEX", help="only matching names")
    timing.add_threads_option(parser)
    timing.add_run_options(parser, "model", 5, 3.0, "small models, one run of each")
    timing.add_json_option(parser)
    parser.add_argument("--merge", action="store_true", help="keep FILE's results of other models")
    args = parser.parse_args()
    args.json = timing.json_file(args, "models", args.threads)
    if args.quick:
        args.repeat, args.seconds = 1, 0.0
    if args.merge and not args.json:
        parser.error("--merge goes with --json")
    makers = networks(small=args.quick)
    chosen = [name for name in makers if re.search(args.models, name)]
    if not chosen:
        parser.error(f"--models {args.models!r} matches no model; there are {', '.join(makers)}")

    console = report.make_console()
    engines = [make(args.threads) for make in (StockOrt, OrtTconv, OrtTconvTuned, OrtTconvProvider)]
    machine = timing.machine_info(args.threads) | versions(engines)
    rows = earlier(args.json, machine) if args.merge else {}
    for name in chosen:
        console.print(f"{name} ...", end="\r" if console.is_terminal else "\n", highlight=False)
        model, shape = makers[name]()
        row = measure(name, model, shape, engines, args.repeat, args.seconds)
        console.print(progress(row), highlight=False)
        rows[name] = row | {"commit": machine["commit"]}
        order = dict.fromkeys([*makers, *rows])
        data = {"machine": machine, "results": [rows[n] for n in order if n in rows]}
        report.write_json(data, args.json)
    report.print_results(console, machine, {"Whole models": report.model_table(data)}, NOTES)


if __name__ == "__main__":
    sys.exit(main())
