"""Stock ONNX Runtime, ort-tconv and other engines, layer by layer.

    python benchmarks/bench_session.py [--layers REGEX] [--engines NAMES] [--quick] [--json FILE]

Each layer of workloads.json becomes a model of one ConvTranspose node. All engines are timed in
turns within one process, so that whatever else the machine does hits all of them alike, and only
after their outputs were found to agree. See README.md for the method.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import engines as all_engines
import measure as timing
import numpy as np
import report
from onnx import ModelProto, helper

from ort_tconv import _core

HERE = Path(__file__).resolve().parent


# ---- the layers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One ConvTranspose: input shape N, C, D1.. and the attributes as ONNX names them."""

    group_name: str
    name: str
    x: tuple[int, ...]
    m: int
    attributes: dict
    computed: bool = False  # W is an input of the model, and may change from run to run

    @property
    def group(self) -> int:
        return self.attributes.get("group", 1)

    @property
    def w(self) -> tuple[int, ...]:
        return (self.x[1], self.m // self.group, *self.attributes["kernel_shape"])

    @property
    def y(self) -> tuple[int, ...]:
        return tuple(_core.output_shape(self.x, self.w, **self.attributes)[0])

    @property
    def flops(self) -> int:
        """Of the direct method, without a single multiplication by an inserted zero."""
        n, _, *spatial = self.x
        return 2 * n * math.prod(self.w) * math.prod(spatial)

    @property
    def column_buffer_bytes(self) -> int:
        """What stock ONNX Runtime's matrix product writes before col2im: one image, one group."""
        return 4 * math.prod(self.w[1:]) * math.prod(self.x[2:])

    @property
    def reduction(self) -> int:
        """The largest number of products summed in one output."""
        taps = (
            math.ceil(k / (s // math.gcd(s, d)))
            for k, s, d in zip(
                self.attributes["kernel_shape"],
                self.attributes["strides"],
                self.attributes.get("dilations", [1] * (len(self.x) - 2)),
            )
        )
        return self.x[1] // self.group * math.prod(taps)


def load_layers(path: Path, pattern: str) -> list[Layer]:
    names = {"kernel": "kernel_shape", "output_padding": "output_padding", "strides": "strides"}
    names |= {n: n for n in ("pads", "group", "dilations", "auto_pad", "output_shape")}
    layers = []
    for group_name, entries in json.loads(path.read_text()).items():
        if group_name == "note":
            continue
        for entry in entries:
            attributes = {names[k]: v for k, v in entry.items() if k in names}
            shape, computed = tuple(entry["x"]), entry.get("computed", False)
            layer = Layer(group_name, entry["name"], shape, entry["m"], attributes, computed)
            if re.search(pattern, f"{group_name}/{layer.name}"):
                layers.append(layer)
    return layers


def make_model(layer: Layer, w: np.ndarray) -> ModelProto:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **layer.attributes)
    y, inputs = [None] * len(layer.x), {"w": layer.w} if layer.computed else {}
    constants = {} if layer.computed else {"w": w}
    return timing.make_model(layer.name, [node], layer.x, y, constants, inputs)


def feeds_of(layer: Layer, x: np.ndarray, w: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": x, "w": w} if layer.computed else {"x": x}


# ---- measuring ---------------------------------------------------------------------------------


def disagreement(layer: Layer, reference: np.ndarray, y: np.ndarray) -> str | None:
    """None if the outputs agree. Two sums of K rounded products in different order differ by about
    sqrt(K) rounding errors of a typical output; the factor covers the worst of millions."""
    if reference.shape != y.shape:
        return f"shape {y.shape}, expected {reference.shape}"
    bound = 16 * np.finfo(np.float32).eps * math.sqrt(layer.reduction) * np.abs(reference).max()
    worst = np.abs(reference - y).max()
    return None if worst <= bound else f"differs by {worst:.3g}, allowed are {bound:.3g}"


def measure(layer: Layer, engines, repeat: int, seconds: float, creations: int) -> dict:
    """One layer on all engines; the first is stock."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(layer.x, dtype=np.float32)
    w = rng.standard_normal(layer.w, dtype=np.float32)
    model = make_model(layer, w)

    # Before any session that stays: sessions may share what they make of the weights.
    ort_engines = [e for e in engines if isinstance(e, all_engines.StockOrt) and e.whole]
    files = [engine.file(model) for engine in ort_engines]
    created = timing.creation(ort_engines, files, feeds_of(layer, x, w), creations)

    prepared, unsupported = {}, {}
    for engine in engines:
        try:
            prepared[engine.name] = engine.prepare(layer, model, x, w)
        except all_engines.Unsupported as reason:
            unsupported[engine.name] = str(reason)
    for run, _ in prepared.values():
        run()
    reference = prepared[engines[0].name][1]()
    for name, (_, output) in prepared.items():
        problem = disagreement(layer, reference, output())
        if problem:
            raise SystemExit(f"{layer.name}: {name} {problem}")

    settle = max(engine.settle for engine in engines)
    times = timing.in_turns([run for run, _ in prepared.values()], repeat, seconds, settle)
    rows = {name: timing.spread(t) for name, t in zip(prepared, times)}
    for row in rows.values():
        row["gflops"] = layer.flops / row["median_ms"] / 1e6
    for engine, row in zip(ort_engines, created):
        rows[engine.name] |= row
    return {
        "group": layer.group_name,
        "layer": layer.name,
        "flops": layer.flops,
        # Each of x, w and y moved once: no engine can do with less.
        "bytes": x.nbytes + w.nbytes + reference.nbytes,
        "column_buffer_bytes": layer.column_buffer_bytes,
        "engines": rows,
        "unsupported": unsupported,
    }


def plan(layer: Layer, threads: int) -> dict:
    """The plan of ours, in short."""
    constant = not layer.computed
    full = _core.plan(
        layer.x, layer.w, threads=threads, constant_weights=constant, **layer.attributes
    )
    return {key: full[key] for key in ("algorithm", "scratch_bytes", "packed_bytes", "text")}


def add_shares(row: dict, machine: dict) -> None:
    """How much of what the machine can do ours does."""
    seconds = row["engines"]["ours"]["median_ms"] / 1e3
    row["gemm_share"] = row["flops"] / seconds / 1e9 / machine["gemm_gflops"]
    row["memory_share"] = row["bytes"] / seconds / 1e9 / machine["memory_gbs"]


# ---- running -----------------------------------------------------------------------------------


def engine_names(text: str) -> list[str]:
    """Those to run of a list with commas; stock and ours always."""
    known = [engine.name for engine in all_engines.ENGINES]
    names = {"stock", "ours", *filter(None, text.split(","))}
    if unknown := names - set(known):
        raise argparse.ArgumentTypeError(f"{sorted(unknown)}; there are {', '.join(known)}")
    return [name for name in known if name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", type=Path, default=HERE / "workloads.json")
    parser.add_argument("--layers", default="", metavar="REGEX", help="only matching group/name")
    parser.add_argument(
        "--engines",
        type=engine_names,
        default=",".join(engine.name for engine in all_engines.ENGINES),
        metavar="NAMES",
        help="with commas between; stock and ours always run (%(default)s)",
    )
    timing.add_threads_option(parser)
    timing.add_run_options(parser, "layer", 15, 2.0, "3 runs a layer")
    timing.add_json_option(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw them, as SVG")
    args = parser.parse_args()
    args.json = timing.json_file(args, "layers", args.threads)
    creations = 5
    if args.quick:
        args.repeat, args.seconds, creations = 3, 0.0, 1

    layers = load_layers(args.workloads, args.layers)
    if not layers:
        parser.error(f"--layers {args.layers!r} matches no layer of {args.workloads}")

    console = report.make_console()
    engines, missing = all_engines.start(args.engines, args.threads)
    machine = timing.machine_info(args.threads) | all_engines.versions(engines)
    results = []
    with console.status("") as status:
        status.update("the machine")
        limits = timing.machine_limits(engines[0], args.quick)
        for layer in layers:
            status.update(f"{layer.group_name}/{layer.name}")
            row = measure(layer, engines, args.repeat, args.seconds, creations)
            row["plan"] = plan(layer, args.threads)
            report.add_ratios(row)
            results.append(row)
        # Once more: a machine is not equally fast all the time.
        status.update("the machine")
        for key, value in timing.machine_limits(engines[0], args.quick).items():
            machine[key] = max(limits[key], value)
    for row in results:
        add_shares(row, machine)
    data = {
        "machine": machine,
        "missing": missing,
        "means": report.means(results),
        "results": results,
    }

    report.print_results(console, machine, report.layer_tables(data), report.notes(data))
    report.write_json(data, args.json)
    if args.plot:
        record = report.Record(machine["cpu"], args.threads, [data])
        args.plot.write_text(str(report.chart([record])))


if __name__ == "__main__":
    sys.exit(main())
