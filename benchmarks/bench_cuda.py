"""Stock ONNX Runtime's CUDA provider, PyTorch with cuDNN, and ort-tconv on a GPU, layer by layer.

    python benchmarks/bench_cuda.py [--layers REGEX] [--batches 1 16 64] [--json FILE]

A model holds several copies of a layer, with weights of their own, and is captured as a CUDA
graph; what is timed are replays, so that launches and the host do not count. All engines run at
one precision:

    float32  exact: TensorFloat-32 is off on all sides
    tf32     float32 tensors, rounded to TensorFloat-32 by the tensor cores on all sides
    float16  float16 tensors, float32 sums

PyTorch lets cuDNN try its algorithms (``cudnn.benchmark``), with channels first and last; without
PyTorch it is left out, and so are the measured ceilings.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import measure
import numpy as np
import onnxruntime as ort
import report
from bench_session import HERE, Layer, load_layers
from engines import Unsupported
from onnx import TensorProto, helper, numpy_helper
from rich.table import Table

import ort_tconv
from ort_tconv.converters.rewrite import DOMAIN, OP_TYPE

try:
    import torch
except ImportError:
    torch = None

PRECISIONS = ("float32", "tf32", "float16")
#: Relative to the largest output, for sums of K terms: this times sqrt(K).
ROUNDING = {"float32": 2**-23, "tf32": 2**-10, "float16": 2**-10}
MOST_BYTES = 2 << 30  # of all copies of a layer


@dataclass
class Timed:
    """A prepared engine: ``replay(n)`` enqueues n rounds of all copies and waits for the last."""

    replay: Callable[[int], None]
    output: Callable[[], np.ndarray]
    copies: int


def dtype_of(precision: str) -> np.dtype:
    return np.dtype(np.float16 if precision == "float16" else np.float32)


def copies_of(layer: Layer, precision: str) -> int:
    """As many that a replay outlasts what the host does for it, if they fit into memory."""
    size = dtype_of(precision).itemsize
    return max(1, min(16, MOST_BYTES // (size * (math.prod(layer.y) + math.prod(layer.w)))))


def bytes_moved(layer: Layer, precision: str) -> int:
    return dtype_of(precision).itemsize * sum(map(math.prod, (layer.x, layer.w, layer.y)))


# ---- engines -------------------------------------------------------------------------------------


def ort_engine(layer: Layer, precision: str, x, w, *, own: bool) -> Timed:
    copies = copies_of(layer, precision)
    element = TensorProto.FLOAT16 if precision == "float16" else TensorProto.FLOAT
    attributes = dict(layer.attributes)
    if own:
        attributes |= {"domain": DOMAIN, "allow_tf32": int(precision != "float32")}
    nodes, outputs, weights = [], [], []
    for i in range(copies):
        # Equal weights would let ONNX Runtime merge the nodes.
        weights.append(numpy_helper.from_array(w if i == 0 else np.roll(w, i), f"w{i}"))
        kind = OP_TYPE if own else "ConvTranspose"
        nodes.append(helper.make_node(kind, ["x", f"w{i}"], [f"y{i}"], **attributes))
        outputs.append(helper.make_tensor_value_info(f"y{i}", element, [None] * len(layer.x)))
    x_info = helper.make_tensor_value_info("x", element, layer.x)
    graph = helper.make_graph(nodes, layer.name, [x_info], outputs, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)

    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.log_severity_level = 4
    if own:
        ort_tconv.register(options)
    provider = {"enable_cuda_graph": "1", "use_tf32": str(int(precision != "float32"))}
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=[("CUDAExecutionProvider", provider)]
        )
    except Exception as error:
        raise Unsupported(str(error).splitlines()[0]) from error
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x, "cuda", 0))
    empty = ort.OrtValue.ortvalue_from_shape_and_type
    results = [empty(layer.y, x.dtype, "cuda", 0) for _ in nodes]
    for i, result in enumerate(results):
        binding.bind_ortvalue_output(f"y{i}", result)
    # Replays follow each other without waiting; the last is waited for.
    asynchronous = ort.RunOptions()
    asynchronous.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def replay(n: int) -> None:
        for _ in range(n - 1):
            session.run_with_iobinding(binding, asynchronous)
        session.run_with_iobinding(binding)

    return Timed(replay, lambda: results[0].numpy(), copies)


def torch_engine(layer: Layer, precision: str, x, w, *, channels_last: bool) -> Timed:
    if torch is None:
        raise Unsupported("PyTorch is not installed")
    axes = len(layer.x) - 2
    attributes = layer.attributes
    pads = attributes.get("pads", [0] * 2 * axes)
    begin, end = pads[:axes], pads[axes:]
    if begin != end or "auto_pad" in attributes or "output_shape" in attributes:
        raise Unsupported("PyTorch takes symmetric pads only")
    if channels_last and axes == 1:
        raise Unsupported("PyTorch has no channels-last in one dimension")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    layout = torch.contiguous_format
    if channels_last:
        layout = {2: torch.channels_last, 3: torch.channels_last_3d}[axes]
    copies = copies_of(layer, precision)
    data = torch.from_numpy(x).cuda().contiguous(memory_format=layout)
    weights = [
        torch.from_numpy(np.roll(w, i)).cuda().contiguous(memory_format=layout)
        for i in range(copies)
    ]
    function = (
        torch.nn.functional.conv_transpose1d,
        torch.nn.functional.conv_transpose2d,
        torch.nn.functional.conv_transpose3d,
    )[axes - 1]

    def forward() -> list:
        return [
            function(
                data,
                weight,
                None,
                attributes.get("strides", [1] * axes),
                begin,
                attributes.get("output_padding", [0] * axes),
                layer.group,
                attributes.get("dilations", [1] * axes),
            )
            for weight in weights
        ]

    with torch.inference_mode():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # cuDNN's trials
                forward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = forward()

    # A graph knows addresses: what it reads has to live as long as it does.
    read = (data, weights)

    def replay(n: int, read=read) -> None:
        for _ in range(n):
            graph.replay()
        torch.cuda.synchronize()

    return Timed(replay, lambda: results[0].cpu().numpy(), copies)


ENGINES: dict[str, Callable[..., Timed]] = {
    "stock": lambda *a: ort_engine(*a, own=False),
    "ours": lambda *a: ort_engine(*a, own=True),
    "torch": lambda *a: torch_engine(*a, channels_last=False),
    "torch_last": lambda *a: torch_engine(*a, channels_last=True),
}


# ---- measuring -----------------------------------------------------------------------------------


def time_in_turns(engines: dict[str, Timed], rounds: int, seconds: float) -> dict[str, float]:
    """Microseconds of a layer: the median over rounds, in each of which every engine has a turn."""
    counts = {}
    for name, engine in engines.items():
        engine.replay(5)  # two runs before ONNX Runtime captures, and clocks
        start = time.perf_counter()
        engine.replay(10)
        once = (time.perf_counter() - start) / 10
        counts[name] = max(3, math.ceil(seconds / max(once, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.replay(counts[name])
            elapsed = time.perf_counter() - start
            times[name].append(elapsed / counts[name] / engine.copies * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def measure_layer(layer: Layer, precision: str, rounds: int, seconds: float) -> dict:
    rng = np.random.default_rng(0)
    dtype = dtype_of(precision)
    x = rng.standard_normal(layer.x, dtype=np.float32).astype(dtype)
    w = rng.standard_normal(layer.w, dtype=np.float32).astype(dtype)
    engines, left_out, outputs = {}, {}, {}
    for name, prepare in ENGINES.items():
        try:
            engines[name] = prepare(layer, precision, x, w)
        except Unsupported as reason:
            left_out[name] = str(reason)
            continue
        engines[name].replay(4)
        outputs[name] = engines[name].output().astype(np.float32)
    disagreements = {}
    ours = outputs["ours"]
    for name, output in outputs.items():
        scale = ROUNDING[precision] * math.sqrt(layer.reduction) * np.abs(ours).max()
        worst = float(np.abs(output - ours).max())
        if not worst <= 8 * scale:
            disagreements[name] = f"differs by {worst:.3g}, allowed are {8 * scale:.3g}"
    row = {
        "group": layer.group_name,
        "name": layer.name,
        "x": layer.x,
        "precision": precision,
        "flops": layer.flops,
        "bytes": bytes_moved(layer, precision),
        "microseconds": time_in_turns(engines, rounds, seconds),
        "left_out": left_out,
    }
    if disagreements:
        row["disagreements"] = disagreements
    return row


def ceilings() -> dict[str, float]:
    """Measured on this device: TFLOP/s of a large matrix product, GB/s of a copy."""
    if torch is None:
        return {}
    result = {}

    def best(run: Callable[[], object]) -> float:
        times = []
        for _ in range(20):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e-3)
        return min(times)

    n = 8192
    for precision in PRECISIONS:
        torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
        dtype = torch.float16 if precision == "float16" else torch.float32
        a = torch.randn(n, n, device="cuda", dtype=dtype)
        out = torch.empty_like(a)
        result[f"{precision}_tflops"] = (
            2e-12 * n**3 / best(lambda a=a, out=out: torch.mm(a, a, out=out))
        )
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    result["copy_gb_per_s"] = 2e-9 * source.nbytes / best(lambda: target.copy_(source))
    return result


# ---- report --------------------------------------------------------------------------------------


def best_torch(row: dict) -> float | None:
    times = [t for name, t in row["microseconds"].items() if name.startswith("torch")]
    return min(times, default=None)


def ratio(row: dict, other: float | None) -> str:
    return "-" if other is None else f"{other / row['microseconds']['ours']:.2f}"


def table(rows: list[dict], precision: str, batch: int) -> Table:
    result = Table(title=f"{precision}, batch {batch}; microseconds")
    for column in ("layer", "stock", "torch", "torch last", "ours", "stock/ours", "cuDNN/ours"):
        result.add_column(column, justify="left" if column == "layer" else "right")
    result.add_column("TFLOP/s", justify="right")
    result.add_column("GB/s", justify="right")
    for row in rows:
        times = row["microseconds"]
        cells = (f"{times[name]:.1f}" if name in times else "-" for name in ENGINES)
        stock, ours, plain, last = cells
        seconds = times["ours"] * 1e-6
        result.add_row(
            row["name"] + (" (outputs differ)" if "disagreements" in row else ""),
            *(
                stock,
                plain,
                last,
                ours,
                ratio(row, times.get("stock")),
                ratio(row, best_torch(row)),
            ),
            f"{row['flops'] / seconds * 1e-12:.2f}",
            f"{row['bytes'] / seconds * 1e-9:.0f}",
        )
    means = []
    for label, other in (
        ("stock", lambda row: row["microseconds"].get("stock")),
        ("the better of cuDNN's two", best_torch),
    ):
        ratios = [other(row) / row["microseconds"]["ours"] for row in rows if other(row)]
        if ratios:
            means.append(f"{statistics.geometric_mean(ratios):.2f}x against {label}")
    result.caption = "geometric means: " + ", ".join(means)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", default="", help="regular expression for group/name")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.02, help="of each engine's turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    options = parser.parse_args()
    console = report.make_console()
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        console.print("This onnxruntime has no CUDA provider: pip install onnxruntime-gpu")
        return 1
    limits = ceilings()
    device = torch.cuda.get_device_name() if torch else "unknown"
    console.print(f"{device}; measured ceilings: " + json.dumps(limits))
    rows, differ = [], False
    for precision in options.precisions:
        for batch in options.batches:
            part = []
            for layer in load_layers(HERE / "workloads.json", options.layers):
                sized = replace(layer, x=(batch * layer.x[0], *layer.x[1:]))
                part.append(measure_layer(sized, precision, options.rounds, options.seconds))
            console.print(table(part, precision, batch))
            rows += [{"batch": batch} | row for row in part]
    for row in rows:
        for name, text in row.get("disagreements", {}).items():
            differ = True
            console.print(f"{row['name']}, {row['precision']}, {name}: {text}", style="red")
    versions = {"onnxruntime": ort.__version__, "torch": torch.__version__ if torch else None}
    data = {
        "device": device,
        "ceilings": limits,
        "versions": versions,
        "commit": measure.commit(),
        "layers": rows,
    }
    report.write_json(data, options.json)
    return 1 if differ else 0


if __name__ == "__main__":
    raise SystemExit(main())
