"""Whole models: stock ONNX Runtime, ort-tconv, and ort-tconv with tuned models.

    python benchmarks/bench_models.py [--models REGEX] [--quick] [--json FILE]

The models, at batch 1, are the networks of examples/architectures, exported with PyTorch, and the
text detector that RapidOCR ships, where it is installed. They are validated first, then timed in
turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

import measure as timing
import numpy as np
import onnx
import report
from engines import OrtTconv, OrtTconvTuned, StockOrt, versions

import ort_tconv
from ort_tconv.converters.report import count_operators

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
    for engine, file in zip(engines[1:], files[1:]):
        check = ort_tconv.validate(model, file, inputs=feeds)
        if not check.ok:
            raise SystemExit(f"{name}, {engine.name}: the model computes something else\n{check}")

    created = timing.creation(engines, files, feeds, min(repeat, 2))
    runs = [e.bind(e.session(file), feeds)[0] for e, file in zip(engines, files)]
    settle = max(engine.settle for engine in engines)
    times = timing.in_turns(runs, repeat, seconds, settle)
    counts = [count_operators(onnx.load_from_string(file)) for file in files]
    row = {
        "group": "models",
        "layer": name,
        "sites": {e.name: count[OPERATOR] for e, count in zip(engines[1:], counts[1:])},
        "engines": {e.name: timing.spread(t) | c for e, t, c in zip(engines, times, created)},
    }
    stock, *others = (row["engines"][e.name]["median_ms"] for e in engines)
    row["ratio"] = {"stock": stock / others[0], "tuned": stock / others[1]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="", metavar="REGEX", help="only matching names")
    timing.add_threads_option(parser)
    timing.add_run_options(parser, "model", 5, 3.0, "small models, one run of each")
    timing.add_json_option(parser)
    args = parser.parse_args()
    if args.quick:
        args.repeat, args.seconds = 1, 0.0
    makers = networks(small=args.quick)
    chosen = [name for name in makers if re.search(args.models, name)]
    if not chosen:
        parser.error(f"--models {args.models!r} matches no model; there are {', '.join(makers)}")

    console = report.make_console()
    engines = [make(args.threads) for make in (StockOrt, OrtTconv, OrtTconvTuned)]
    machine = timing.machine_info(args.threads) | versions(engines)
    results = []
    for name in chosen:
        console.print(name, end="\r")
        model, shape = makers[name]()
        results.append(measure(name, model, shape, engines, args.repeat, args.seconds))
    data = {"machine": machine, "results": results}
    report.print_results(console, machine, {"Whole models": report.model_table(data)}, NOTES)
    report.write_json(data, args.json)


if __name__ == "__main__":
    sys.exit(main())
