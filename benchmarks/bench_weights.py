"""How fast layers read their weights, beside how fast the same number of bytes can be read at all.

    python benchmarks/bench_weights.py [--layers REGEX] [--weights TYPES] [--json FILE]

For layers whose time is their weights: many channels, few pixels. Each is timed warm, its weights
being what the caches hold of them, and cold, in a model of so many such layers that no cache holds
the weights of one until the next run; stock ONNX Runtime likewise. The rate to compare with is that
of plain loops that read as many bytes, one part a thread, as warm or as cold.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import statistics
import sys
import tempfile
from pathlib import Path

import engines as all_engines
import measure as timing
import numpy as np
import report
from bench_session import HERE, load_layers
from onnx import ModelProto, TensorProto, helper, numpy_helper
from paper import compile_loops
from rich.table import Table

from ort_tconv import convert

LAYERS = r"gan/(dcgan_4x4x1024|dcgan_8x8x512|ebgan_4x4x2048|ebgan_8x8x1024)$"
COLD_BYTES = 256 << 20  # of weights: more than the caches that one core can use hold
FORMS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}  # bytes of a weight


class Kept(all_engines.OrtTconv):
    """Ours, with weights kept in one of the forms."""

    def __init__(self, threads: int, form: str):
        super().__init__(threads)
        self.form = self.name = form

    def file(self, model, shapes=None) -> bytes:
        return convert(model, weights=self.form).SerializeToString()


def reading(library: ctypes.CDLL, threads: int, copies: list[np.ndarray]):
    """A function that reads all of the copies, a part of each on each thread."""
    read = library.read_all
    read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]
    read.restype = ctypes.c_float
    addresses = (ctypes.c_void_p * len(copies))(*(copy.ctypes.data for copy in copies))
    return lambda: read(addresses, len(copies), copies[0].size, threads)


def copies_of(size: int) -> int:
    """How many arrays of so many bytes no cache holds a part of, one after the other."""
    return max(2, math.ceil(COLD_BYTES / size))


def layers_in_turn(layer, weights: list[np.ndarray]) -> ModelProto:
    """One model, so that the engine's threads are those of one session: a node for each array."""
    nodes, outputs = [], []
    for i in range(len(weights)):
        inputs, output = ["x", f"w{i}"], f"y{i}"
        nodes.append(helper.make_node("ConvTranspose", inputs, [output], **layer.attributes))
        shape = [None] * len(layer.x)
        outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    constants = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.x)
    graph = helper.make_graph(nodes, layer.name, [x], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(layer, engines, library, threads: int, repeat: int, seconds: float) -> dict:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(layer.x, dtype=np.float32)
    size = 4 * math.prod(layer.w)
    rows = {}
    for state, count in (("warm", 1), ("cold", copies_of(size))):
        weights = [rng.standard_normal(layer.w, dtype=np.float32) for _ in range(count)]
        model = layers_in_turn(layer, weights)
        runs = {engine.name: engine.prepare(layer, model, x, None)[0] for engine in engines}
        runs["read"] = reading(library, threads, weights)
        settle = max(engine.settle for engine in engines)
        times = timing.in_turns(list(runs.values()), repeat, seconds, settle)
        rows[state] = {name: statistics.median(t) / count for name, t in zip(runs, times)}
    return {"layer": layer.name, "bytes": size, "median_ms": rows}


def table(results: list[dict], forms: list[str]) -> Table:
    grid = Table(title="Weights", title_justify="left")
    for column in ("layer", "state", "stock ms", "read ms", "read GB/s"):
        grid.add_column(column, justify="left" if column in ("layer", "state") else "right")
    for form in forms:
        grid.add_column(f"{form} ms", justify="right")
        grid.add_column("stock /", justify="right")
        grid.add_column("of read", justify="right")
    for row in results:
        for state, ms in row["median_ms"].items():
            cells = [row["layer"], state, f"{ms['stock']:.3f}", f"{ms['read']:.3f}"]
            cells.append(f"{row['bytes'] / ms['read'] / 1e6:.1f}")
            for form in forms:
                share = ms["read"] / ms[form] * FORMS[form] / 4
                cells += [f"{ms[form]:.3f}", f"{ms['stock'] / ms[form]:.2f}", f"{share:.0%}"]
            grid.add_row(*cells)
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default=LAYERS, metavar="REGEX", help="matching group/name")
    parser.add_argument("--weights", default=",".join(FORMS), metavar="TYPES", help="(%(default)s)")
    timing.add_threads_option(parser)
    timing.add_run_options(parser, "layer", 15, 2.0, "3 runs a layer")
    timing.add_json_option(parser)
    args = parser.parse_args()
    args.json = timing.json_file(args, "weights", args.threads)
    if args.quick:
        args.repeat, args.seconds = 3, 0.0
    forms = args.weights.split(",")
    if unknown := set(forms) - set(FORMS):
        parser.error(f"--weights {sorted(unknown)}: there are {', '.join(FORMS)}")

    console = report.make_console()
    engines = [all_engines.StockOrt(args.threads), *(Kept(args.threads, form) for form in forms)]
    machine = timing.machine_info(args.threads) | all_engines.versions(engines[:1])
    with tempfile.TemporaryDirectory() as folder:
        library, _ = compile_loops(Path(folder))
        results = [
            measure(layer, engines, library, args.threads, args.repeat, args.seconds)
            for layer in load_layers(HERE / "workloads.json", args.layers)
        ]
    data = {"machine": machine, "results": results}
    console.print(table(results, forms))
    report.write_json(data, args.json)


if __name__ == "__main__":
    sys.exit(main())
