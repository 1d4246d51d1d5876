"""benchmark(): what is timed, how nodes are matched, and the reports.  Nothing depends on speed."""

import dataclasses
import itertools
import json
import re

import matplotlib
import numpy as np
import onnx
import pytest
from cases import (
    Case,
    chain_model,
    conv_transpose_model,
    function_model,
    loop_model,
    model,
    save_external,
    tensor,
    value,
)
from contrast import MARK, TEXT, contrast
from matplotlib.backends.backend_agg import FigureCanvasAgg
from onnx import helper
from rich.console import Console

import ort_tconv
from ort_tconv import _core
from ort_tconv.benchmarking import benchmark as benchmarking
from ort_tconv.benchmarking import plot
from ort_tconv.benchmarking.profile import node_times

QUICK = {"warm_up": 1, "repeat": 2, "seconds": 0.0, "memory": False}
CASE = Case((5, 4), (4, 4), group_in=8, strides=(2, 2), pads=(1, 1, 1, 1))


def event(name: str, ts: float, dur: float, op: str = "", cat: str = "Node") -> dict:
    return {"cat": cat, "name": name, "ts": ts, "dur": dur, "args": {"op_name": op}}


def test_node_times():
    """Sums a run, medians over runs; runs at the beginning are left out."""
    events = [{"name": "process_name", "ph": "M"}, event("session_init", 0, 50, cat="Session")]
    for i, run in enumerate((900, 4, 8, 6)):
        events += [
            event("a_kernel_time", 100 * i + 101, run * 1000, "Conv"),
            event("a_fence_before", 100 * i + 102, 5, "Conv"),
            event("b_kernel_time", 100 * i + 110, 1000, "Relu"),
            event("b_kernel_time", 100 * i + 120, 2000, "Relu"),  # second iteration of a loop
            event("model_run", 100 * i + 100, 99, cat="Session"),  # written when the run ends
        ]
    assert node_times(events, skip=1) == {"a": ("Conv", 6.0), "b": ("Relu", 3.0)}
    assert node_times(events)["a"] == ("Conv", 7.0)


def test_chain():
    result = ort_tconv.benchmark(
        chain_model(), shapes={"x0": (1, 4, 5, 6)}, threads=1, **QUICK | {"memory": True}
    )
    assert result.validation.ok and result.notes == []
    assert result.inputs == {"x0": "float32 [1×4×5×6]"} and result.precision == "float32"
    assert (result.threads, result.providers) == (1, ["CPUExecutionProvider"])
    for timing in (result.stock, result.converted):
        assert timing.runs >= 2
        low, high = timing.quartiles_ms
        assert 0 < timing.min_ms <= timing.median_ms <= timing.max_ms
        assert low <= timing.median_ms <= high
        assert timing.creation_ms > 0 and timing.first_run_ms > 0
        # No session fits into less than some KB, and this model needs no GB.
        assert 1e4 < timing.session_bytes <= timing.peak_bytes < 1e9
    assert result.speedup == result.stock.median_ms / result.converted.median_ms
    sites = [node for node in result.nodes if node.is_site]
    assert [node.node for node in sites] == ["up_y0", "up_y1", "up_y2"]
    for node in sites:
        assert node.stock_op.startswith("ConvTranspose")
        assert node.converted_op.startswith("SegregatedConvTranspose")
        assert node.stock_ms >= 0 and node.converted_ms >= 0 and node.plan in _core.algorithms()


def test_memory_tells_a_large_model_from_a_small_one():
    def peak(channels: int) -> int:
        case = Case((2, 2), (4, 4), group_in=channels, group_out=channels, strides=(2, 2))
        result = ort_tconv.benchmark(
            conv_transpose_model(case), per_node=False, **QUICK | {"memory": True}
        )
        return result.stock.peak_bytes

    assert peak(512) - peak(8) > 512 * 512 * 16 * 4 * 0.9  # the weights


def upsampling() -> onnx.ModelProto:
    """Conv, Relu, Resize, Conv, Relu, with channels that onnxruntime takes into blocked layout."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["c0"], name="first"),
        helper.make_node("Relu", ["c0"], ["r0"], name="relu0"),
        helper.make_node(
            "Resize",
            ["r0", "", "scales"],
            ["u"],
            name="resize",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("Conv", ["u", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    weights = [
        tensor(rng.standard_normal((32, 32, side, side)).astype(np.float32), name)
        for name, side in (("v", 1), ("w", 3))
    ]
    scales = tensor(np.array([1, 1, 2, 2], np.float32), "scales")
    dims = [1, 32, 16, 16]
    graph = helper.make_graph(
        nodes,
        "upsampling",
        [value("x", "float32", dims)],
        [value("y", "float32", [1, 32, 32, 32])],
        [*weights, scales],
    )
    return model(graph)


def test_what_one_node_replaces_is_timed_together():
    """The site stands beside Resize, Conv and the Relu that onnxruntime fuses with the Conv."""
    result = ort_tconv.benchmark(upsampling(), **QUICK)
    (site,) = (node for node in result.nodes if node.is_site)
    assert site.node == "conv"
    assert set(site.covers) == {"resize", "conv", "relu"}
    assert site.stock_ms > 0 and site.converted_ms > 0
    # Nothing is counted twice, or lost.
    kernels = [node.stock_op for node in result.nodes if node.stock_op]
    assert sum(op.count("Conv") for op in kernels) == 2
    assert "SegregatedConvTranspose" in site.converted_op
    others = [node for node in result.nodes if not node.is_site]
    assert all("Segregated" not in (node.converted_op or "") for node in others)


def test_inspect_of_the_same():
    (site,) = ort_tconv.inspect(upsampling()).sites
    assert site.op_type == "Resize + Conv + Relu"
    assert site.rewrites == ("upsample_conv", "epilogue")
    assert site.macs.conventional == 32 * 32 * 9 * 32 * 32
    assert site.macs.direct == 32 * 32 * 16 * 16 * 16
    assert site.bytes.intermediate == 32 * 32 * 32 * 4 and site.bytes.column_buffer == 0


@pytest.mark.parametrize(
    ("source", "nodes"),
    [(loop_model(), {"up_x_out"}), (function_model(), {"inner__1"})],
    ids=["Loop", "function"],
)
def test_nodes_within_nodes(source, nodes):
    result = ort_tconv.benchmark(source, **QUICK)
    sites = [node for node in result.nodes if node.is_site]
    assert {node.node for node in sites} == nodes
    assert all(node.stock_op == "ConvTranspose" for node in sites)


def test_nodes_without_names():
    source = chain_model(2)
    for node in source.graph.node:
        node.name = ""
    result = ort_tconv.benchmark(source, **QUICK)
    sites = [node for node in result.nodes if node.is_site]
    assert [node.covers for node in sites] == [("y0", "x1"), ("y1", "x2")]
    assert all(node.stock_ms and node.converted_ms for node in sites)


def test_external_data(tmp_path):
    path = tmp_path / "model.onnx"
    save_external(conv_transpose_model(CASE), path)
    result = ort_tconv.benchmark(path, **QUICK | {"memory": True})
    assert result.validation.ok and result.model == str(path)
    assert result.converted.peak_bytes > 0


def test_float16_inputs_and_precision():
    case = Case((5, 4), (4, 4), strides=(2, 2), dtype="float16")
    result = ort_tconv.benchmark(conv_transpose_model(case), **QUICK)
    assert result.precision == "float16"


def test_stock_that_cannot_run():
    case = Case((5, 4), (4, 4), strides=(2, 2), dtype="float64")
    with pytest.raises(ValueError, match=r"stock onnxruntime cannot run the original.*ConvTransp"):
        ort_tconv.benchmark(conv_transpose_model(case), **QUICK)


def test_different_outputs_and_unconverted_models_are_noted():
    original = conv_transpose_model(CASE)
    other = ort_tconv.convert(conv_transpose_model(CASE, CASE.arrays(seed=1)))
    result = ort_tconv.benchmark(original, other, **QUICK)
    assert not result.validation.ok and result.notes[0].startswith("the outputs differ")
    result = ort_tconv.benchmark(original, original, **QUICK)
    assert result.notes == ["nothing was rewritten: both models are the same"]
    assert [node for node in result.nodes if node.is_site] == []


def test_arguments_are_not_changed():
    original = function_model()
    converted = ort_tconv.convert(original)
    before = [m.SerializeToString(deterministic=True) for m in (original, converted)]
    ort_tconv.benchmark(original, converted, **QUICK)
    assert before == [m.SerializeToString(deterministic=True) for m in (original, converted)]


def test_turns():
    """Each function has one turn a round; the first rounds are not timed; the order changes."""
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    done: list[float] = []
    times = benchmarking._in_turns(runs, 2, 20, 0.0, done.append, settle=0.0)
    # Two turns of one function follow each other where the order changes, and look like one.
    assert 22 < len([*itertools.groupby(calls)]) < 44
    assert len(times["a"]) == len(times["b"]) and len(times["a"]) % 20 == 0
    assert done == sorted(done) and done[-1] == 1.0


def test_turns_fill_the_seconds_asked_for(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(benchmarking.time, "perf_counter", lambda: 1e-3 * next(ticks))
    rounds: list[float] = []
    benchmarking._in_turns({"a": lambda: None}, 0, 1, 1.0, rounds.append, settle=0.0)
    assert len(rounds) > 10 and next(ticks) >= 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeat": 0}, "repeat is 0; it must be at least 1"),
        ({"warm_up": -1}, "warm_up is -1"),
        ({"seconds": -1.0}, "seconds is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"providers": ["NoExecutionProvider"]}, "'NoExecutionProvider' is not available"),
        ({"shapes": {"z": (1,)}}, "no input 'z'"),
    ],
)
def test_wrong_use(options, message):
    with pytest.raises(ValueError, match=message):
        ort_tconv.benchmark(chain_model(), **QUICK | options)


def test_reports():
    result = ort_tconv.benchmark(chain_model(), **QUICK)
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["speedup"] == result.speedup and content["outputs_agree"]
    assert {"processor", "isa", "onnxruntime", "ort_tconv"} <= content["machine"].keys()
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(result)
    shown = console.export_text()
    plan = next(node.plan for node in result.nodes if node.is_site)
    for part in ("median", "quartiles", "up_y2", plan, "float32", result.machine["isa"]):
        assert part in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "chain: stock" in str(result)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(suffix, tmp_path):
    source = chain_model(2)
    source.graph.node[0].name = "a $name$ of _some_ ^length^ " + "x" * 60
    result = ort_tconv.benchmark(source, **QUICK)
    path = tmp_path / f"out.{suffix}"
    result.plot(path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") if suffix == "png" else b"up_y1" in content
    with pytest.raises(ValueError, match=r"out\.onnx must end in one of .*\.png"):
        result.plot(tmp_path / "out.onnx")
    nothing = ort_tconv.benchmark(source, source, **QUICK | {"per_node": False})
    nothing.plot(path)


def test_labels_of_a_plot_are_inside_and_apart():
    result = ort_tconv.benchmark(chain_model(2), **QUICK)
    result = dataclasses.replace(result, model="a_model_with_quite_a_long_name_for_a_title.onnx")
    with matplotlib.rc_context(plot._STYLE):
        figure = plot._figure(result)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    tops = [figure._suptitle, *figure.legends]
    labels = [text for axes in figure.axes for text in axes.texts]
    assert len(labels) == 3 and all(text.get_text().endswith("x") for text in labels)
    page = figure.bbox
    for artist in [*tops, *labels]:
        box = artist.get_window_extent(canvas.get_renderer())
        assert page.x0 <= box.x0 and box.x1 <= page.x1, artist
        assert page.y0 <= box.y0 and box.y1 <= page.y1, artist
    title, legend = (top.get_window_extent(canvas.get_renderer()) for top in tops)
    assert not title.overlaps(legend)


def test_a_plot_has_colours_for_dark_pages(tmp_path):
    ort_tconv.benchmark(chain_model(2), **QUICK).plot(tmp_path / "out.svg")
    content = (tmp_path / "out.svg").read_text()
    used = {*re.findall(r"(?:fill|stroke): (#\w+)", content)}
    assert used == plot._DARK.keys()
    for light, dark in plot._DARK.items():
        assert content.count(f"fill:{dark} !important") == 1, light


def test_a_plot_can_be_read_on_light_and_dark_pages():
    for colors in ({light: light for light in plot._DARK}, plot._DARK):
        page, ink = colors[plot._PAGE], colors[plot._INK]
        for text in (ink, colors[plot._MUTED]):
            assert contrast(text, page) >= TEXT
        for bar in (colors[plot._STOCK], colors[plot._OURS]):
            assert contrast(bar, page) >= MARK
            # A range is dark around pale, so that one of the two is seen on the bar.
            assert max(contrast(ink, bar), contrast(page, bar)) >= MARK
