"""Stock ONNX Runtime against ort-tconv, layer by layer, through InferenceSession.

    python benchmarks/bench_session.py [--layers REGEX] [--quick] [--json out.json]

Each layer of workloads.json becomes a model of one ConvTranspose node. All engines are timed in
turns within one process, so that whatever else the machine does hits all of them alike, and only
after their outputs were found to agree. See README.md for the method.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

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

    @property
    def group(self) -> int:
        return self.attributes.get("group", 1)

    @property
    def w(self) -> tuple[int, ...]:
        return (self.x[1], self.m // self.group, *self.attributes["kernel_shape"])

    @property
    def flops(self) -> int:
        """Of the direct method, without a single multiplication by an inserted zero."""
        n, _, *spatial = self.x
        return 2 * n * math.prod(self.w) * math.prod(spatial)

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
            layer = Layer(group_name, entry["name"], tuple(entry["x"]), entry["m"], attributes)
            if re.search(pattern, f"{group_name}/{layer.name}"):
                layers.append(layer)
    return layers


def make_model(layer: Layer, w: np.ndarray) -> ModelProto:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **layer.attributes)
    graph = helper.make_graph(
        [node],
        layer.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(layer.x))],
        [numpy_helper.from_array(w, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# ---- the engines -------------------------------------------------------------------------------


class StockOrt:
    """ONNX Runtime's own ConvTranspose, CPU."""

    name = "stock"

    def __init__(self, threads: int):
        self.threads = threads

    def options(self):
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # A session's idle threads spin for a while in the hope of more work; in turns with another
        # engine that work is not theirs, and they would hold the cores the other one needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def model(self, model: ModelProto) -> ModelProto:
        return model

    def prepare(self, model: ModelProto, x: np.ndarray) -> tuple[Callable[[], None], np.ndarray]:
        """A function that computes the layer once, and the array that it writes to."""
        import onnxruntime as ort

        file = self.model(model).SerializeToString()
        session = ort.InferenceSession(file, self.options(), providers=["CPUExecutionProvider"])
        # Input and output stay where they are: the time measured is the operator's, not numpy's.
        y = ort.OrtValue.ortvalue_from_numpy(session.run(None, {"x": x})[0])
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output("y", y)
        return lambda: session.run_with_iobinding(binding), y


class OrtTconv(StockOrt):
    """The same session with the converted model and our library registered."""

    name = "ours"

    def options(self):
        import ort_tconv

        return ort_tconv.register(super().options())

    def model(self, model: ModelProto) -> ModelProto:
        import ort_tconv

        converted = ort_tconv.convert(model)
        # A refusal would make this a comparison of stock with itself.
        assert not any(n.op_type == "ConvTranspose" for n in converted.graph.node)
        return converted


# Another engine is one more class with name, __init__(threads) and prepare(model, x). The first
# is the reference for both results and ratios.
ENGINES = (StockOrt, OrtTconv)


# ---- measuring ---------------------------------------------------------------------------------


def disagreement(layer: Layer, reference: np.ndarray, y: np.ndarray) -> str | None:
    """None if the outputs agree. Two sums of K rounded products in different order differ by about
    sqrt(K) rounding errors of a typical output; the factor covers the worst of millions."""
    if reference.shape != y.shape:
        return f"shape {y.shape}, expected {reference.shape}"
    bound = 16 * np.finfo(np.float32).eps * math.sqrt(layer.reduction) * np.abs(reference).max()
    worst = np.abs(reference - y).max()
    return None if worst <= bound else f"differs by {worst:.3g}, allowed are {bound:.3g}"


def measure(layer: Layer, engines, repeat: int, seconds: float) -> dict:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(layer.x, dtype=np.float32)
    w = rng.standard_normal(layer.w, dtype=np.float32)
    model = make_model(layer, w)

    runs, outputs = zip(*(engine.prepare(model, x) for engine in engines))
    for run in runs:
        run()
    reference = outputs[0].numpy()
    for engine, output in zip(engines[1:], outputs[1:]):
        problem = disagreement(layer, reference, output.numpy())
        if problem:
            raise SystemExit(f"{layer.name}: {engine.name} {problem}")

    times: list[list[float]] = [[] for _ in engines]
    warm_up = 3
    deadline = None
    i = 0
    while i < warm_up + repeat or time.perf_counter() < deadline:
        if i == warm_up:
            deadline = time.perf_counter() + seconds
        # Forwards and backwards in turns: no engine always follows the same one.
        order = range(len(engines)) if i % 2 == 0 else reversed(range(len(engines)))
        for e in order:
            start = time.perf_counter()
            runs[e]()
            elapsed = time.perf_counter() - start
            if i >= warm_up:
                times[e].append(1e3 * elapsed)
        i += 1

    result = {"group": layer.group_name, "layer": layer.name, "flops": layer.flops}
    for engine, t in zip(engines, times):
        median = statistics.median(t)
        result[engine.name] = {
            "median_ms": median,
            "min_ms": min(t),
            "max_ms": max(t),
            "runs": len(t),
            "gflops": layer.flops / median / 1e6,
        }
    for engine in engines[1:]:
        result[engine.name]["ratio"] = (
            result[engines[0].name]["median_ms"] / result[engine.name]["median_ms"]
        )
    return result


def geometric_mean(values) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


# ---- reporting ---------------------------------------------------------------------------------


def machine_info(threads: int) -> dict:
    import onnxruntime as ort

    import ort_tconv
    from ort_tconv import _core

    cpu = platform.processor()
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
        cpu = re.search(r"^model name\s*: (.*)$", cpuinfo, re.M)[1]
    except (OSError, TypeError):
        pass  # not Linux, or no name given, as on most ARM systems
    info = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "logical_cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "os": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "ort_tconv": ort_tconv.__version__,
        "isa": _core.isa(),
    }
    try:
        import psutil

        info["physical_cores"] = psutil.cpu_count(logical=False)
    except ImportError:
        pass
    return info


def print_table(console: Console, engines, results: list[dict]) -> None:
    table = Table()
    table.add_column("layer", no_wrap=True)
    for engine in engines:
        table.add_column(f"{engine.name}\nms", justify="right")
    for engine in engines[1:]:
        table.add_column(f"{engines[0].name} /\n{engine.name}", justify="right")
    for engine in engines:
        table.add_column(f"{engine.name}\nGFLOP/s", justify="right")

    def add_mean(name, rows):
        means = [f"{geometric_mean(r[e.name]['ratio'] for r in rows):.2f}" for e in engines[1:]]
        cells = [*([""] * len(engines)), *means]
        table.add_row(f"{name}: geometric mean", *cells, style="bold", end_section=True)

    for group in dict.fromkeys(r["group"] for r in results):
        rows = [r for r in results if r["group"] == group]
        for r in rows:
            table.add_row(
                r["layer"],
                *(f"{r[e.name]['median_ms']:.3f}" for e in engines),
                *(f"{r[e.name]['ratio']:.2f}" for e in engines[1:]),
                *(f"{r[e.name]['gflops']:.1f}" for e in engines),
            )
        add_mean(group, rows)
    add_mean("all layers", results)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", type=Path, default=HERE / "workloads.json")
    parser.add_argument("--layers", default="", metavar="REGEX", help="only matching group/name")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: every core"
    )
    parser.add_argument("--repeat", type=int, default=15, help="timed runs at least (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="per layer at least (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="3 runs a layer: does it work at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    args = parser.parse_args()
    if args.quick:
        args.repeat, args.seconds = 3, 0.0

    layers = load_layers(args.workloads, args.layers)
    if not layers:
        parser.error(f"--layers {args.layers!r} matches no layer of {args.workloads}")

    console = Console()
    info = machine_info(args.threads)
    for key, value in info.items():
        console.print(f"{key.replace('_', ' '):14} {value}", highlight=False)
    engines = [engine(args.threads) for engine in ENGINES]
    results = []
    with console.status("") as status:
        for layer in layers:
            status.update(f"{layer.group_name}/{layer.name}")
            results.append(measure(layer, engines, args.repeat, args.seconds))
    print_table(console, engines, results)
    console.print("Medians. stock / ours above 1: ours is faster.", highlight=False)
    if args.json:
        args.json.write_text(json.dumps({"machine": info, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
