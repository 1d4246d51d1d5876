"""Tuning: what a site is, and which form of it is kept.  Times are given, except in one test."""

import io
import itertools
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from cases import (
    Case,
    chain_model,
    conv_transpose_model,
    graph_model,
    if_model,
    model,
    nodes_of,
    tensor,
    value,
)
from onnx import helper
from sessions import agree, run_converted, run_stock

from ort_tconv.conversion import convert as conversion
from ort_tconv.converters import (
    Model,
    convert,
    convert_with_report,
    convolution,
    model_io,
)
from ort_tconv.converters.rewrite import DOMAIN, OP_TYPE
from ort_tconv.tuning import METADATA_KEY, ModelTiming, SiteTiming, Tuning, trials, tune
from ort_tconv.tuning.results import MARGIN
from ort_tconv.tuning.sites import find_sites
from ort_tconv.tuning.timing import interleaved

SHAPES = {"x0": (1, 4, 5, 6)}
AGAIN = (2.0, 1.0)  # what a new process says, unless a test has it say something else


@pytest.fixture
def times(monkeypatch):
    """Times that the next measurements give: stock's and ours, or those of forms of the model."""
    given: list[tuple[float, ...]] = []

    def measure(runs):
        for run in runs:
            run()
        assert len(given[0]) == len(runs)
        return given.pop(0)

    monkeypatch.setattr(tune, "interleaved", measure)
    monkeypatch.setattr(trials, "in_new_process", lambda *_: AGAIN)
    yield given
    assert not given, "fewer measurements were made than expected"


# ---- measuring ---------------------------------------------------------------------------------


class Clock:
    """Time that passes only when someone works or sleeps."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.log.append("sleep")
        self.now += seconds

    def work(self, name: str, *seconds: float):
        """A function whose calls take the times given, over and over."""
        times = itertools.cycle(seconds)

        def run():
            self.log.append(name)
            self.now += next(times)

        return run

    def measure(self, *runs) -> list[float]:
        return interleaved(runs, clock=self, sleep=self.sleep)

    def turns(self) -> list[list[str]]:
        groups = itertools.groupby(self.log, "sleep".__eq__)
        return [list(group) for is_sleep, group in groups if not is_sleep]


def test_medians_of_functions_in_turn():
    clock = Clock()
    # One call in five takes ten times as long; a median does not see it.
    outlier = [0.0005] * 4 + [0.005]
    assert clock.measure(clock.work("a", *outlier), clock.work("b", 0.001)) == pytest.approx(
        [0.5, 1]
    )
    turns = [set(turn) for turn in clock.turns()]
    assert all(len(turn) == 1 for turn in turns)  # each is followed by a pause
    rounds = [(*a, *b) for a, b in zip(turns[::2], turns[1::2])]
    assert set(rounds) == {("a", "b"), ("b", "a")}
    assert clock.now >= 1.0


def test_a_turn_begins_with_calls_that_are_not_timed():
    clock = Clock()
    # Two calls wake the threads up, eight are timed, in each turn.
    slow_at_first = [0.0015, 0.0012] + [0.001] * 8
    assert clock.measure(clock.work("a", *slow_at_first)) == pytest.approx([1.0])
    assert {len(turn) for turn in clock.turns()} == {10}


def test_slow_functions_have_a_few_turns():
    clock = Clock()
    assert clock.measure(clock.work("a", 90.0, 60.0, 50.0, 70.0)) == pytest.approx([60000.0])
    assert clock.turns() == [["a"]] * 6


# ---- decisions ---------------------------------------------------------------------------------


def test_stock_is_kept_where_it_wins(times):
    times += [(2.0, 1.0), (1.0, 1.5), (3.0, 1.0), (6.0, 3.5)]
    result = convert_with_report(chain_model(), tune=True, shapes=SHAPES, threads=1)
    assert [node.op_type for node in result.model.graph.node if node.op_type != "LeakyRelu"] == [
        OP_TYPE,
        "ConvTranspose",
        OP_TYPE,
    ]
    (skip,) = result.skips
    assert skip.reason == "tuned: stock takes 1.000 ms, rewritten 1.500 ms"
    assert [(site.nodes, site.kept) for site in result.tuning.sites] == [
        (("up_y0", "act0"), "rewritten"),
        (("up_y1", "act1"), "stock"),
        (("up_y2", "act2"), "rewritten"),
    ]
    assert result.tuning.model == ModelTiming(
        {"stock": 6.0, "rewritten": 3.5}, "rewritten", {"rewritten": AGAIN}
    )
    x = np.random.default_rng(0).standard_normal((1, 4, 5, 6), dtype=np.float32)
    (expected,), (actual,) = (
        run(m, {"x0": x}) for run, m in ((run_stock, chain_model()), (run_converted, result.model))
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("ours", "kept"), [(0.969, "rewritten"), (0.971, "stock"), (1.0, "stock")])
def test_a_gain_within_the_margin_is_none(times, ours, kept):
    assert MARGIN == 0.03
    times.append((1.0, ours))
    if kept == "rewritten":
        times.append((1.0, 0.9))
    result = convert_with_report(chain_model(1), tune=True, shapes=SHAPES)
    assert result.tuning.sites[0].kept == kept


def test_nothing_rewritten_is_the_model_as_it_was(times):
    times.append((1.0, 2.0))
    result = convert_with_report(chain_model(1), tune=True, shapes=SHAPES)
    assert result.tuning.model is None
    del result.model.metadata_props[:]
    assert result.model == chain_model(1)


def test_the_whole_model_has_the_last_word(times):
    times += [(2.0, 1.0), (1.0, 2.0), (4.0, 4.1)]
    result = convert_with_report(chain_model(2), tune=True, shapes=SHAPES)
    assert not nodes_of(result.model, OP_TYPE) and not result.changes
    assert result.tuning.model.kept == "stock"
    assert [skip.reason for skip in result.skips] == [
        "the whole model is faster without: tuned: stock takes 4.000 ms, rewritten 4.100 ms",
        "tuned: stock takes 1.000 ms, rewritten 2.000 ms",
    ]


@pytest.mark.parametrize(("ours", "kept"), [(0.979, "rewritten"), (0.981, "stock")])
def test_what_wins_here_has_to_win_in_a_new_process(times, monkeypatch, ours, kept):
    monkeypatch.setattr(trials, "in_new_process", lambda *_: (1.0, ours))
    times += [(2.0, 1.0), (4.0, 2.0)]
    result = convert_with_report(chain_model(1), tune=True, shapes=SHAPES)
    assert result.tuning.model.kept == kept
    assert result.tuning.model.again == {"rewritten": (1.0, ours)}
    assert len(nodes_of(result.model, OP_TYPE)) == (kept == "rewritten")
    if kept == "stock":
        assert "in a new process" in result.skips[0].reason


def test_a_new_process_times_both_models():
    model = chain_model(1)
    source = Model(model)
    machine = trials.Machine(source, 1, ("CPUExecutionProvider",))
    feeds = {"x0": np.ones((1, 4, 5, 6), np.float32)}
    both = [source, source.derive(convert(model))]
    assert all(ms > 0 for ms in trials.in_new_process(machine, both, feeds))


def test_where_no_process_can_be_started_the_first_measurement_decides(times, monkeypatch):
    def fail(*_):
        raise OSError("no processes here")

    monkeypatch.setattr(trials, "in_new_process", fail)
    times += [(2.0, 1.0), (4.0, 2.0)]
    result = convert_with_report(chain_model(1), tune=True, shapes=SHAPES)
    assert result.tuning.model.kept == "rewritten"
    assert "no processes here" in result.tuning.notes[0]


def test_decisions_are_stored_in_the_model(times, tmp_path):
    times += [(2.0, 1.0), (1.0, 1.5), (3.0, 2.5)]
    original = chain_model(2)
    original.metadata_props.add(key="author", value="someone")
    original.metadata_props.add(key=METADATA_KEY, value="of an earlier model")
    result = convert_with_report(
        original, tmp_path / "out.onnx", tune=True, shapes=SHAPES, threads=2
    )
    written = onnx.load(tmp_path / "out.onnx")
    assert {p.key for p in written.metadata_props} == {
        "author",
        conversion.METADATA_KEY,
        METADATA_KEY,
    }
    assert Tuning.from_model(written) == result.tuning
    (text,) = [p.value for p in written.metadata_props if p.key == METADATA_KEY]
    data = json.loads(text)
    assert data["threads"] == 2 and data["onnxruntime"] and data["isa"]
    assert data["shapes"] == {"x0": [1, 4, 5, 6]}
    assert data["sites"][1] == {
        "nodes": ["up_y1", "act1"],
        "stock_ms": 1.0,
        "our_ms": 1.5,
        "kept": "stock",
    }
    assert data["model"] == {
        "ms": {"stock": 3.0, "rewritten": 2.5},
        "kept": "rewritten",
        "again": {"rewritten": list(AGAIN)},
    }
    assert Tuning.from_model(original.__class__()) is None


def test_the_same_times_give_the_same_model(times):
    models = []
    for _ in range(2):
        times += [(2.0, 1.0), (1.0, 1.5), (3.0, 2.5)]
        models.append(convert(chain_model(2), tune=True, shapes=SHAPES))
    assert models[0].SerializeToString(deterministic=True) == models[1].SerializeToString(
        deterministic=True
    )


@pytest.fixture
def costly(monkeypatch):
    """The estimate expects no gain, whatever it is on this machine."""
    monkeypatch.setattr(convolution, "cost_without_winograd", lambda *_, **__: 1e3)
    monkeypatch.setattr(convolution, "engine_cost", lambda *_, **__: 1e9)


def costly_model(nested: bool = False) -> onnx.ModelProto:
    """Upsampling and a dilated Conv; ``nested`` in the branches of an If."""
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["u"], "up", mode="nearest"),
        helper.make_node("Conv", ["u", "w"], ["y"], "conv", dilations=[4, 4], pads=[4] * 4),
    ]
    shape = (1, 32, 8, 8)
    weights = {"w": random(32, 32, 3, 3), "scales": np.array([1, 1, 2, 2], np.float32)}
    flat = graph_model(nodes, weights, {"x": shape})
    if not nested:
        return flat
    branches = {}
    for branch in ("then_branch", "else_branch"):
        graph = helper.make_graph([*nodes], branch, [], [value("y", "float32", None)])
        for inner in graph.node:
            inner.output[0] = f"{branch}_{inner.output[0]}"
        graph.node[1].input[0] = graph.node[0].output[0]
        graph.output[0].name = graph.node[1].output[0]
        branches[branch] = graph
    return graph_model(
        [helper.make_node("If", ["flag"], ["y"], "if", **branches)],
        weights | {"flag": np.array(True)},
        {"x": shape},
    )


def test_the_clock_overrides_the_estimate(times, costly):
    (skip,) = convert_with_report(costly_model()).skips
    assert "would not be faster" in skip.reason
    times += [(2.0, 1.0), (2.0, 1.5)]
    result = convert_with_report(costly_model(), tune=True)
    assert [change.rewrite for change in result.changes] == ["upsample_conv"]
    agree(costly_model(), result.model)
    times += [(1.0, 2.0)]
    result = convert_with_report(costly_model(), tune=True)
    assert [skip.reason for skip in result.skips] == [
        "tuned: stock takes 1.000 ms, rewritten 2.000 ms"
    ]


def test_the_estimate_decides_where_nothing_is_timed(times, costly):
    # Sites in subgraphs are not timed by themselves;
    result = convert_with_report(costly_model(nested=True), tune=True)
    assert not result.changes and len(result.skips) == 2
    assert all("would not be faster" in skip.reason for skip in result.skips)
    # nor is a model that stock does not run.
    model = costly_model()
    double = helper.make_node("ConvTranspose", ["d", "dw"], ["dy"], "double")
    model.graph.node.append(double)
    model.graph.input.append(value("d", "float64", [1, 1, 2, 2]))
    model.graph.initializer.append(tensor(np.ones((1, 1, 2, 2)), "dw"))
    model.graph.output.append(value("dy", "float64", [1, 1, 3, 3]))
    result = convert_with_report(model, tune=True)
    assert "stock onnxruntime cannot run the model" in result.tuning.notes[0]
    assert [change.node for change in result.changes] == ["double"]
    assert [skip.node for skip in result.skips] == ["conv"]


# ---- plain Convs -------------------------------------------------------------------------------


def plain_model(*kernels: int, up: bool = True) -> onnx.ModelProto:
    """[ConvTranspose "up" and] a Conv "conv0", "conv1", ... for each kernel, on 4 channels."""
    nodes, weights, last = [], {}, "x"
    if up:
        nodes.append(helper.make_node("ConvTranspose", ["x", "w"], ["u"], "up", strides=[2, 2]))
        weights["w"], last = random(4, 4, 2, 2), "u"
    for i, k in enumerate(kernels):
        conv = helper.make_node("Conv", [last, f"w{i}"], [f"y{i}"], f"conv{i}", pads=[k // 2] * 4)
        nodes.append(conv)
        weights[f"w{i}"], last = random(4, 4, k, k) + np.float32(i), f"y{i}"
    return graph_model(nodes, weights, {"x": (1, 4, 6, 5)}, [last])


ALL, LARGE, NONE = (
    "rewritten",
    "rewritten, unit_stride_conv from 1.5x",
    "rewritten, no unit_stride_conv",
)


@pytest.mark.parametrize(
    ("ms", "kept", "nodes"),
    [
        ((5.0, 1.0, 2.0, 3.0), ALL, {"up", "conv0", "conv1"}),
        ((5.0, 2.0, 1.0, 3.0), LARGE, {"up", "conv0"}),
        ((5.0, 2.0, 3.0, 1.0), NONE, {"up"}),
        ((1.0, 2.0, 3.0, 4.0), "stock", set()),
        ((1.03, 1.0, 1.0, 1.0), ALL, {"up", "conv0", "conv1"}),
        ((1.0, 0.99, 0.99, 0.99), "stock", set()),
    ],
)
def test_the_fastest_form_of_the_whole_model_is_kept(times, ms, kept, nodes):
    times += [(2.0, 1.0), (3.0, 2.0), (2.9, 2.0), ms]
    model = plain_model(3, 5)
    result = convert_with_report(model, tune=True)
    assert [site.kept for site in result.tuning.sites] == ["rewritten"] * 3
    again = {kept: AGAIN} if kept != "stock" else {}
    forms = dict(zip(("stock", ALL, LARGE, NONE), ms))
    assert result.tuning.model == ModelTiming(forms, kept, again)
    assert {node.name for node in nodes_of(result.model, OP_TYPE)} == nodes
    assert {change.node for change in result.changes} == nodes
    least = dict(zip(("stock", ALL, LARGE, NONE), ms))[kept]
    times_text = f"{kept} takes {least:.3f} ms, rewritten {ms[1]:.3f} ms"
    assert {(skip.node, skip.reason) for skip in result.skips} == {
        (name, f"the whole model is faster without: tuned: {times_text}")
        for name in {"up", "conv0", "conv1"} - nodes
    }
    assert Tuning.from_model(result.model) == result.tuning
    agree(model, result.model)


@pytest.mark.parametrize(
    ("up", "sites", "forms"),
    [
        (True, [(2.0, 1.0), (2.0, 1.0), (2.0, 3.0)], ["stock", ALL, NONE]),
        (True, [(2.0, 1.0), (2.0, 1.8), (2.0, 1.8)], ["stock", ALL, LARGE]),
        (True, [(2.0, 3.0), (2.0, 1.0), (2.0, 1.8)], ["stock", ALL, LARGE]),
        (True, [(2.0, 1.0), (2.0, 3.0), (2.0, 3.0)], ["stock", ALL]),
        (False, [(2.0, 1.0), (2.0, 1.0)], ["stock", ALL]),
        (False, [(2.0, 1.8), (2.0, 1.8)], ["stock", ALL]),
    ],
)
def test_a_form_is_timed_once(times, up, sites, forms):
    times += [*sites, (9.0, 1.0, 2.0)[: len(forms)]]
    result = convert_with_report(plain_model(3, 5, up=up), tune=True)
    assert list(result.tuning.model.ms) == forms


def test_a_plain_conv_that_loses_is_put_back(times):
    times += [(2.0, 1.98)]
    result = convert_with_report(plain_model(3, up=False), tune=True)
    assert result.tuning.model is None and result.tuning.sites[0].kept == "stock"
    (skip,) = result.skips
    assert (skip.rewrite, skip.node) == ("unit_stride_conv", "conv0")
    assert skip.reason == "tuned: stock takes 2.000 ms, rewritten 1.980 ms"


# ---- sites that are alike ----------------------------------------------------------------------


def test_sites_that_are_alike_share_a_decision(times):
    times += [(2.0, 1.0), (2.0, 3.0), (4.0, 3.0)]
    result = convert_with_report(plain_model(3, 5, 3, 5, 3, up=False), tune=True)
    assert [(site.nodes, site.our_ms) for site in result.tuning.sites] == [
        (("conv0",), 1.0),
        (("conv1",), 3.0),
        (("conv2",), 1.0),
        (("conv3",), 3.0),
        (("conv4",), 1.0),
    ]
    assert {change.node for change in result.changes} == {"conv0", "conv2", "conv4"}


def test_values_are_fetched_a_few_at_a_time(times, monkeypatch):
    """A run that kept all of them to its end would need the memory for all."""
    fetched = []
    session = trials.Machine.session

    def count(machine, model):
        fetched.append({output.name for output in model.graph.output} & {"y0", "y1", "y2"})
        return session(machine, model)

    monkeypatch.setattr(trials.Machine, "session", count)
    monkeypatch.setattr(trials, "_MOST_FETCHED", 2)
    times += [(2.0, 1.0), (2.0, 3.0), (4.0, 3.0)]
    convert_with_report(plain_model(3, 5, 3, 5, up=False), tune=True)
    assert fetched[:2] == [{"y0", "y1"}, {"y2"}]


def branches_model(first: dict, second: dict) -> onnx.ModelProto:
    """Two branches of one input; each is Resize, Conv and, if there is one, an activation."""
    nodes, weights = [], {}
    for i, options in enumerate((first, second)):
        weights[f"scales{i}"] = np.array([1, 1, *options.get("scales", (2, 2))], np.float32)
        weights[f"w{i}"] = random(*options.get("w", (4, 16, 3, 3))) + np.float32(i)
        weights[f"b{i}"] = random(options.get("w", (4,))[0]) + np.float32(i)
        source, act = options.get("x", "x"), options.get("activation")
        nodes += [
            helper.make_node("Resize", [source, "", f"scales{i}"], [f"u{i}"], f"up{i}"),
            helper.make_node(
                "Conv",
                [f"u{i}", f"w{i}", f"b{i}"],
                [f"c{i}" if act else f"y{i}"],
                f"conv{i}",
                pads=[1] * 4,
            ),
        ]
        if act:
            nodes.append(helper.make_node(act, [f"c{i}"], [f"y{i}"], **options.get("params", {})))
    shapes = {"x": (1, 16, 6, 5), "z": (1, 16, 5, 6)}
    return graph_model(nodes, weights, shapes, ["y0", "y1"])


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        ({}, {}, 1),
        ({"activation": "Relu"}, {"activation": "Relu"}, 1),
        ({}, {"activation": "Relu"}, 2),
        ({"activation": "LeakyRelu"}, {"activation": "LeakyRelu", "params": {"alpha": 0.5}}, 2),
        ({}, {"w": (9, 16, 3, 3)}, 2),
        ({}, {"scales": (2, 3)}, 2),
        ({}, {"x": "z"}, 2),
    ],
    ids=str,
)
def test_what_makes_sites_alike(times, first, second, count):
    times += [(2.0, 1.0)] * (count + 1)
    result = convert_with_report(branches_model(first, second), tune=True)
    assert len(result.tuning.sites) == 2


def test_selection_holds(times):
    times += [(2.0, 1.0), (3.0, 2.5)]
    result = convert_with_report(chain_model(2), tune=True, shapes=SHAPES, exclude="up_y0")
    assert [site.nodes for site in result.tuning.sites] == [("up_y1", "act1")]
    assert "excluded" in result.skips[0].reason


def test_a_converted_model_has_nothing_to_time(times):
    result = convert_with_report(convert(chain_model(2)), tune=True, shapes=SHAPES)
    assert result.tuning.sites == [] and result.tuning.model is None


def test_what_stock_cannot_run_stays_rewritten(times):
    case = Case((5, 4), (3, 3), strides=(2, 2), dtype="float64")
    result = convert_with_report(conv_transpose_model(case), tune=True)
    assert len(result.changes) == 1 and result.tuning.sites == []
    (note,) = result.tuning.notes
    assert "stock onnxruntime cannot run the model" in note and "ConvTranspose" in note


@pytest.mark.parametrize(("ours", "rewritten"), [(0.9, 2), (1.1, 0)])
def test_sites_of_subgraphs_are_timed_with_the_whole_model(times, ours, rewritten):
    times.append((1.0, ours))
    result = convert_with_report(if_model(), tune=True)
    assert len(result.changes) == rewritten and result.tuning.sites == []
    assert len(result.tuning.notes) == 2
    assert all("not timed by itself" in note for note in result.tuning.notes)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="threads = -1"):
        convert(chain_model(), tune=True, threads=-1)
    with pytest.raises(ValueError, match="no input 'image'"):
        convert(chain_model(), tune=True, shapes={"image": (1,)})


def test_times_are_real():
    result = convert_with_report(chain_model(1), tune=True, shapes=SHAPES, threads=1)
    (site,) = result.tuning.sites
    assert site.stock_ms > 0 and site.our_ms > 0


def test_table():
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    site = SiteTiming(2.0, 1.0, "rewritten", ("up", "relu"))
    ms = {"stock": 4.0, "rewritten": 4.5, "rewritten, no unit_stride_conv": 2.0}
    whole = ModelTiming(ms, "rewritten, no unit_stride_conv")
    console.print(Tuning("1.31", "avx2", 2, (), {}, sites=[site], model=whole, notes=["[a note]"]))
    text = console.export_text()
    for words in (
        "up + 1",
        "2.00",
        "whole model  ",
        "0.89",
        "whole model, no unit_stride_conv",
        "[a note]",
        "2 threads",
    ):
        assert words in text


# ---- sites -------------------------------------------------------------------------------------


def parts_agree(original: onnx.ModelProto, converted: onnx.ModelProto, site, feeds) -> None:
    """Both forms of the site give the same outputs."""
    results = [
        run(part.model(whole, feeds), {name: feeds[name] for name in part.inputs})
        for run, part, whole in (
            (run_stock, site.stock, original),
            (run_converted, site.ours, converted),
        )
    ]
    for expected, actual in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("weights", ["initializer", "constant", "input", "overridable"])
def test_a_site_has_its_weights_with_it(weights):
    case = Case((5, 4), (3, 3), strides=(2, 2))
    original = conv_transpose_model(case, weights=weights)
    converted = convert(original)
    (site,) = find_sites(original, converted, {"up"})
    constant = weights in ("initializer", "constant")
    assert site.inputs == (["x"] if constant else ["b", "w", "x"]) or set(site.inputs) == set("xwb")
    parts_agree(original, converted, site, case.arrays())


def test_overridable_weights_are_timed(times):
    times += [(2.0, 1.0), (2.0, 1.0)]
    original = conv_transpose_model(Case((5, 4), (3, 3), strides=(2, 2)), weights="overridable")
    assert len(convert_with_report(original, tune=True).tuning.sites) == 1


def upsampling_models() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Nearest upsampling to the size of another value, then Conv and Relu, and what they become.
    The upsampled image is an output as well."""
    w = random(3, 2, 1, 1)
    ours = np.ascontiguousarray(np.tile(w.transpose(1, 0, 2, 3), (1, 1, 2, 2)))
    shared = [
        helper.make_node("Relu", ["deep"], ["other"]),  # may be costly: no part of the site
        helper.make_node("Shape", ["other"], ["shape"]),
        helper.make_node("Slice", ["shape", "two", "four"], ["side"]),
        helper.make_node("Concat", ["nc", "side"], ["sizes"], axis=0),
        helper.make_node("Relu", ["x"], ["before"]),
        helper.make_node(
            "Resize",
            ["before", "", "", "sizes"],
            ["large"],
            "resize",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ]
    stock = [
        helper.make_node("Conv", ["large", "w"], ["conv"], "conv"),
        helper.make_node("Relu", ["conv"], ["y"], "relu"),
    ]
    fused = helper.make_node(
        OP_TYPE, ["before", "w2"], ["y"], "conv", domain=DOMAIN, strides=[2, 2], activation="Relu"
    )
    constants = [tensor(np.array([n]), name) for n, name in ((2, "two"), (4, "four"))] + [
        tensor(np.array([1, 2]), "nc")
    ]

    def graph(nodes, weight):
        return helper.make_graph(
            [*shared, *nodes],
            "g",
            [value("x", "float32", [1, 2, 5, 4]), value("deep", "float32", [1, 7, "h", "w"])],
            [value("y", "float32", [1, 3, 10, 8]), value("large", "float32", None)],
            [*constants, weight],
        )

    return (
        model(graph(stock, tensor(w, "w"))),
        model(graph([fused], tensor(ours, "w2")), custom=True),
    )


def test_bounds_of_a_site_of_several_nodes():
    original, converted = upsampling_models()
    (site,) = find_sites(original, converted, {"conv", "relu"})
    assert site.nodes == ("conv", "relu")
    # Cut where only the shape of a value is read, and not where it is computed.
    assert set(site.inputs) == {"before", "other"}
    # The upsampled image is wanted anyhow, so that both forms compute it.
    assert site.stock.outputs == site.ours.outputs == ["y", "large"]
    assert [n.op_type for n in site.ours.nodes].count("Resize") == 1
    feeds = {"before": np.maximum(random(1, 2, 5, 4), 0), "other": random(1, 7, 10, 8)}
    parts_agree(original, converted, site, feeds)


def test_a_value_that_nobody_else_reads_is_not_computed():
    original, converted = upsampling_models()
    for m in (original, converted):
        del m.graph.output[1]
    del converted.graph.node[:4], converted.graph.node[1]
    (site,) = find_sites(original, converted, {"conv"})
    assert site.ours.outputs == ["y"] and len(site.ours.nodes) == 1
    assert [n.op_type for n in site.stock.nodes] == [
        "Shape",
        "Slice",
        "Concat",
        "Resize",
        "Conv",
        "Relu",
    ]


def test_weights_of_other_sites_stay_behind():
    original = chain_model(3)
    sites = list(find_sites(original, convert(original), {f"up_y{i}" for i in range(3)}))
    assert [[w.name for w in site.stock.weights] for site in sites] == [["w0"], ["w1"], ["w2"]]


# ---- models in files ---------------------------------------------------------------------------


def test_external_data(times, tmp_path):
    times += [(2.0, 1.0), (3.0, 2.0)]
    path = tmp_path / "model.onnx"
    onnx.save(chain_model(1), path, save_as_external_data=True, size_threshold=0)
    result = convert_with_report(path, tune=True, shapes=SHAPES, load_external_data=False)
    assert len(result.tuning.sites) == 1
    assert Model(result.model).external


def test_models_too_large_for_protobuf_are_timed(times, monkeypatch):
    """The limit is lowered; the real one takes 2 GiB of weights."""
    times += [(2.0, 1.0), (3.0, 2.0)]
    case = replace(Case((4, 4), (4, 4), strides=(2, 2)), group_in=16, group_out=8)
    original = conv_transpose_model(case)
    monkeypatch.setattr(model_io, "_MAX_WEIGHT_BYTES", 4000)
    result = convert_with_report(original, tune=True)
    assert len(result.tuning.sites) == 1
    assert original == conv_transpose_model(case)
