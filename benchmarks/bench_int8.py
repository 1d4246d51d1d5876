"""The workload layers with 8-bit inputs, weights and outputs, as quantisers write them.

    python benchmarks/bench_int8.py [--layers REGEX] [--threads N] [--quick] [--json FILE]

Three sessions of each layer: ``stock`` runs DequantizeLinear, ConvTranspose, QuantizeLinear as they
are, ``ours`` the converted model, one QLinearSegregatedConvTranspose, and ``float32`` our operator
on the same layer in float32. Weights have a scale for each output channel, and are constants.
Results must agree with stock's within a step. Method and result files are those of
bench_session.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import measure as timing
import numpy as np
import report
from bench_session import HERE, Layer, load_layers
from engines import OrtTconv, StockOrt, versions
from onnx import ModelProto, TensorProto, helper, numpy_helper

import ort_tconv
from ort_tconv import _core

X_SCALE, X_ZERO = np.float32(0.02), np.uint8(117)


def models(layer: Layer) -> tuple[ModelProto, ModelProto]:
    """The layer as a quantiser writes it, and in float32."""
    rng = np.random.default_rng(0)
    m, groups = layer.m, layer.group
    w = rng.integers(-127, 128, layer.w, dtype=np.int8)
    scales = rng.uniform(0.001, 0.01, m // groups).astype(np.float32)
    units = X_SCALE * np.resize(scales, m)
    spread = 74 * 73 * np.sqrt(w[:, 0].size / groups / np.prod(layer.attributes["strides"]))
    b = rng.integers(-spread, spread, m).astype(np.int32)
    constants = {
        "x_scale": X_SCALE,
        "x_zero": X_ZERO,
        "w": w,
        "w_scale": scales,
        "w_zero": np.zeros(m // groups, np.int8),
        "b": b,
        "b_scale": units,
        "b_zero": np.zeros(m, np.int32),
        "y_scale": np.float32(X_SCALE * 0.005 * spread / 40),
        "y_zero": np.uint8(120),
    }

    def dequantize(name: str, **axis: int):
        inputs = [name, f"{name}_scale", f"{name}_zero"]
        return helper.make_node("DequantizeLinear", inputs, [f"{name}_float"], **axis)

    convolution = helper.make_node(
        "ConvTranspose",
        ["x_float", "w_float", "b_float"],
        ["y_float"],
        "up",
        **layer.attributes,
    )
    nodes = [
        dequantize("x"),
        dequantize("w", axis=1),
        dequantize("b", axis=0),
        convolution,
        helper.make_node("QuantizeLinear", ["y_float", "y_scale", "y_zero"], ["y"]),
    ]
    floats = {
        "w_float": w * scales.reshape(1, -1, *[1] * (w.ndim - 2)),
        "b_float": b * units,
    }
    return (
        _model(layer, nodes, constants, "x", TensorProto.UINT8, "y"),
        _model(layer, [convolution], floats, "x_float", TensorProto.FLOAT, "y_float"),
    )


def _model(layer: Layer, nodes, constants: dict, x: str, dtype: int, y: str) -> ModelProto:
    def stored(array: np.ndarray) -> np.ndarray:
        return array.astype(np.float32) if array.dtype == np.float64 else array

    graph = helper.make_graph(
        nodes,
        layer.name,
        [helper.make_tensor_value_info(x, dtype, layer.x)],
        [helper.make_tensor_value_info(y, dtype, None)],
        [numpy_helper.from_array(stored(np.asarray(a)), name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(layer: Layer, threads: int, repeat: int, seconds: float) -> dict:
    quantized, in_float = models(layer)
    x = np.random.default_rng(1).integers(0, 256, layer.x, dtype=np.uint8)
    check = ort_tconv.validate(quantized, inputs={"x": x})
    if not check.ok:
        raise SystemExit(f"{layer.name}: the converted model computes something else\n{check}")
    stock, ours = StockOrt(threads), OrtTconv(threads)
    floats = {"x_float": (x.astype(np.float32) - X_ZERO) * X_SCALE}
    runs = [
        engine.bind(engine.session(engine.file(model)), feeds)[0]
        for engine, model, feeds in (
            (stock, quantized, {"x": x}),
            (ours, quantized, {"x": x}),
            (ours, in_float, floats),
        )
    ]
    times = timing.in_turns(runs, repeat, seconds, stock.settle)
    names = ("stock", "ours", "float32")
    row = {
        "group": layer.group_name,
        "layer": layer.name,
        "engines": {name: timing.spread(t) for name, t in zip(names, times)},
        "equal": check.outputs[0].equal,
        "largest_difference": check.outputs[0].max_abs,
    }
    median = {name: row["engines"][name]["median_ms"] for name in names}
    row["vs_stock"] = median["stock"] / median["ours"]
    row["vs_float32"] = median["float32"] / median["ours"]
    return row


def table(results: list[dict]) -> report.Table:
    header = ["layer", "stock ms", "ours ms", "float32 ms", "vs stock", "vs float32", "equal"]
    rows = []
    for row in results:
        cells = [report.milliseconds(e["median_ms"]) for e in row["engines"].values()]
        ratios = [f"{row['vs_stock']:.2f}", f"{row['vs_float32']:.2f}", f"{row['equal']:.3%}"]
        rows.append([f"{row['group']}/{row['layer']}", *cells, *ratios])
    means = [
        f"{statistics.geometric_mean(row[ratio] for row in results):.2f}"
        for ratio in ("vs_stock", "vs_float32")
    ]
    rows.append([report.MEAN, "", "", "", *means, ""])
    return header, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="", metavar="REGEX", help="only matching group/name")
    timing.add_threads_option(parser)
    timing.add_run_options(parser, "layer", 15, 0.5, "few runs")
    timing.add_json_option(parser)
    args = parser.parse_args()
    if args.quick:
        args.repeat, args.seconds = 1, 0.0
    layers = load_layers(HERE / "workloads.json", args.layers)
    if not layers:
        parser.error(f"--layers {args.layers!r} matches no layer")
    machine = timing.machine_info(args.threads) | versions([StockOrt(args.threads)])
    machine["quantized_isa"] = _core.quantized_isa()
    results = [measure(layer, args.threads, args.repeat, args.seconds) for layer in layers]
    data = {"machine": machine, "results": results}
    notes = [
        f"Medians. A ratio above 1: ours is faster. Kernels: {machine['quantized_isa']}.",
        "equal: outputs that are stock's; the others differ by one step.",
    ]
    tables = {"Layers in 8 bits": table(results)}
    report.print_results(report.make_console(), machine, tables, notes)
    report.write_json(data, args.json)


if __name__ == "__main__":
    sys.exit(main())
