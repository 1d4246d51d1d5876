"""The workload layers with 8-bit inputs, weights and outputs, as quantisers write them.

    python benchmarks/bench_int8.py [--layers REGEX] [--threads N] [--quick] [--json FILE]

``stock`` runs DequantizeLinear, ConvTranspose, QuantizeLinear as they are, ``ours`` the converted
model, one QLinearSegregatedConvTranspose, ``openvino``, where it is installed, the model as it is,
and ``float32`` our operator on the same layer in float32. Weights have a scale for each output
channel, and are constants. OpenVINO computes in 8 bits only if the zero point of x is 0, and in
float32 otherwise: ``openvino_zero`` is the same layer with that zero point. Results of ours must
agree with stock's within a step; another engine whose results do not agree has no time. Method and
result files are those of bench_session.py.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import measure as timing
import numpy as np
import report
from bench_session import HERE, Layer, load_layers
from engines import Unsupported, start, versions
from onnx import ModelProto, TensorProto, helper, numpy_helper

import ort_tconv
from ort_tconv import _core

X_SCALE, X_ZERO = np.float32(0.02), np.uint8(117)
ENGINES = ("stock", "ours", "openvino")
MOST_APART = 1e-3  # of the values, by more than a step


def models(layer: Layer, x_zero: np.uint8 = X_ZERO) -> tuple[ModelProto, ModelProto]:
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
        "x_zero": x_zero,
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

    def convolution(x: str, y: str):
        return helper.make_node(
            "ConvTranspose", [x, "w_float", "b_float"], [y], "up", **layer.attributes
        )

    nodes = [
        dequantize("x"),
        dequantize("w", axis=1),
        dequantize("b", axis=0),
        convolution("x_float", "y_float"),
        helper.make_node("QuantizeLinear", ["y_float", "y_scale", "y_zero"], ["y"]),
    ]
    floats = {
        "w_float": w * scales.reshape(1, -1, *[1] * (w.ndim - 2)),
        "b_float": b * units,
    }
    return (
        _model(layer, nodes, constants, TensorProto.UINT8),
        _model(layer, [convolution("x", "y")], floats, TensorProto.FLOAT),
    )


def _model(layer: Layer, nodes, constants: dict, dtype: int) -> ModelProto:
    """From "x" to "y", both of one type."""

    def stored(array: np.ndarray) -> np.ndarray:
        return array.astype(np.float32) if array.dtype == np.float64 else array

    graph = helper.make_graph(
        nodes,
        layer.name,
        [helper.make_tensor_value_info("x", dtype, layer.x)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(stored(np.asarray(a)), name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def disagreement(reference: np.ndarray, y: np.ndarray) -> str | None:
    """None if the quantised outputs agree: all values but very few within a step."""
    if reference.shape != y.shape:
        return f"shape {y.shape}, expected {reference.shape}"
    apart = np.mean(np.abs(reference.astype(np.int32) - y.astype(np.int32)) > 1)
    if apart <= MOST_APART:
        return None
    return f"{apart:.1%} of its values differ from stock's by more than a step"


def measure(layer: Layer, engines, repeat: int, seconds: float) -> dict:
    """One layer on all engines; the first is stock."""
    quantized, in_float = models(layer)
    x = np.random.default_rng(1).integers(0, 256, layer.x, dtype=np.uint8)
    check = ort_tconv.validate(quantized, inputs={"x": x})
    if not check.ok:
        raise SystemExit(f"{layer.name}: the converted model computes something else\n{check}")
    by_name = {engine.name: engine for engine in engines}
    stock, ours, openvino = (by_name.get(name) for name in ENGINES)
    prepared, unsupported = {}, {}

    def prepare(model: ModelProto, **names) -> None:
        reference = stock.session(stock.file(model)).run(None, {"x": x})[0]
        for name, engine in names.items():
            try:
                run, output = engine.prepare(layer, model, x, None)
                run()
                if problem := disagreement(reference, output()):
                    raise Unsupported(problem)
                prepared[name] = run
            except Unsupported as reason:
                unsupported[name] = str(reason)

    prepare(quantized, **by_name)
    if openvino:
        prepare(models(layer, np.uint8(0))[0], openvino_zero=openvino)
    if "ours" in unsupported:
        raise SystemExit(f"{layer.name}: {unsupported['ours']}")
    real = (x.astype(np.float32) - X_ZERO) * X_SCALE
    prepared["float32"] = ours.prepare(layer, in_float, real, None)[0]

    settle = max(engine.settle for engine in engines)
    times = timing.in_turns(list(prepared.values()), repeat, seconds, settle)
    rows = {name: timing.spread(t) for name, t in zip(prepared, times)}
    return {
        "group": layer.group_name,
        "layer": layer.name,
        "engines": rows,
        "ratio": report.ratios(rows),
        "unsupported": unsupported,
        "equal": check.outputs[0].equal,
        "largest_difference": check.outputs[0].max_abs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="", metavar="REGEX", help="only matching group/name")
    timing.add_threads_option(parser)
    timing.add_run_options(parser, "layer", 15, 0.5, "few runs")
    timing.add_json_option(parser)
    args = parser.parse_args()
    args.json = timing.json_file(args, "quantized", args.threads)
    if args.quick:
        args.repeat, args.seconds = 1, 0.0
    layers = [
        replace(layer, computed=False)  # in 8 bits all weights are constants
        for layer in load_layers(HERE / "workloads.json", args.layers)
    ]
    if not layers:
        parser.error(f"--layers {args.layers!r} matches no layer")
    engines, missing = start(ENGINES, args.threads)
    machine = timing.machine_info(args.threads) | versions(engines)
    machine["quantized_isa"] = _core.quantized_isa()
    results = [measure(layer, engines, args.repeat, args.seconds) for layer in layers]
    data = {"machine": machine, "missing": missing, "results": results}
    tables = {"Layers in 8 bits": report.quantized_table(data)}
    report.print_results(report.make_console(), machine, tables, report.quantized_notes(data))
    report.write_json(data, args.json)


if __name__ == "__main__":
    sys.exit(main())
