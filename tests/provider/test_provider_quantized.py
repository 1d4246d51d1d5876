"""Quantised layers through the execution provider.  The tests of the converter's pass compare both
ways for many more of them (tests/quantized)."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from both_ways import compare, difference
from cases import Case, drawn_cases, model
from hypothesis import given
from onnx import TensorProto, helper, numpy_helper
from qdq import Layer
from quantities import Quantized, ways_to_quantize
from sessions import options, our_session, run_stock
from sites import SEVERAL_GRAPHS, provider_session, run_in_threads, run_provider, same_bits

import ort_tconv
from ort_tconv.cli import main
from ort_tconv.converters.model_io import read_model
from ort_tconv.sessions.provider_report import open_with_report

USUAL = Case((6, 5), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1), group_in=8, group_out=6)
DEPTHWISE = Case((6, 5), (4, 4), strides=(2, 2), group=6, group_in=1, group_out=1)
BASIC = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
NONE = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def report_of(source: onnx.ModelProto, level=None, **settings):
    session_options = ort_tconv.add_provider(options(), **settings)
    if level is not None:
        session_options.graph_optimization_level = level
    return open_with_report(read_model(source), session_options)[1]


def patterns(report) -> list[str]:
    return sorted(site.pattern for site in report.sites if site.claimed)


def close_to_stock(found: np.ndarray, source: onnx.ModelProto, feeds) -> None:
    (stock,) = run_stock(source, feeds)
    assert found.dtype == stock.dtype and found.shape == stock.shape
    if found.dtype == np.float32:
        np.testing.assert_allclose(found, stock, rtol=1e-5, atol=1e-5 * np.abs(stock).max())
    else:
        assert np.abs(found.astype(int) - stock.astype(int)).max(initial=0) <= 1


def replace_constant(source: onnx.ModelProto, name: str, array: np.ndarray) -> None:
    (place,) = [item for item in source.graph.initializer if item.name == name]
    place.CopyFrom(numpy_helper.from_array(np.asarray(array), name))


def test_a_layer_is_one_node():
    report = report_of(Layer(USUAL, Quantized(activation="Relu")).model(), NONE)
    (site,) = report.sites
    assert site.claimed and site.pattern == "quantized" and site.node == "up"
    assert site.nodes == ("dq_x", "dq_w", "b_float", "up", "act", "q_y")


@pytest.mark.parametrize("zero_points", [True, False])
@pytest.mark.parametrize("opset", [9, 17])
def test_nodes_of_onnxruntimes_own_domain(opset, zero_points):
    layer = Layer(USUAL, zero_points=zero_points, domain="com.microsoft", opset=opset)
    source = layer.model()
    assert patterns(report_of(source, NONE)) == ["quantized"]
    assert difference(source) is None
    (expected,) = our_session(ort_tconv.convert(source)).run(None, layer.feeds())
    assert same_bits(run_provider(source, layer.feeds())[0], expected)


@pytest.mark.parametrize("level", [NONE, BASIC, ort.GraphOptimizationLevel.ORT_ENABLE_ALL])
@pytest.mark.parametrize("quantize", [True, False])
def test_levels_of_optimisation(level, quantize):
    layer = Layer(USUAL, quantize=quantize)
    source = layer.model()
    session_options = ort_tconv.add_provider(options(), strict=True)
    session_options.graph_optimization_level = level
    session, report = open_with_report(read_model(source), session_options)
    assert patterns(report) == ["quantized"]
    (expected,) = our_session(ort_tconv.convert(source)).run(None, layer.feeds())
    assert same_bits(session.run(None, layer.feeds())[0], expected)


def two_readers(*, output: bool = False) -> tuple[onnx.ModelProto, dict]:
    """Two layers that read the same dequantised input, and the same weights."""
    layer = Layer(USUAL, bias="")
    source = layer.model()
    up, quantize = (next(n for n in source.graph.node if n.name == name) for name in ("up", "q_y"))
    for node, out, name in ((up, "c", "up2"), (quantize, "y", "q_y2")):
        twin = source.graph.node.add()
        twin.CopyFrom(node)
        twin.name, twin.output[0] = name, out + "2"
        twin.input[0] = node.input[0] + ("2" if node.input[0] == "c" else "")
    source.graph.output.append(helper.make_tensor_value_info("y2", TensorProto.UINT8, None))
    if output:
        source.graph.output.append(
            helper.make_tensor_value_info("x_float", TensorProto.FLOAT, None)
        )
    return source, layer.feeds()


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("level", [NONE, BASIC])
def test_a_dequantised_input_with_several_readers(level, output):
    """onnxruntime gives each reader one of its own, whatever the level of its optimisations."""
    source, feeds = two_readers(output=output)
    assert patterns(report_of(source, level)) == ["quantized"] * 2
    found, converted = run_provider(source, feeds), our_session(ort_tconv.convert(source))
    for ours, theirs in zip(found, converted.run(None, feeds), strict=True):
        assert same_bits(ours, theirs)


@pytest.mark.parametrize("quantize", [True, False])
def test_a_result_that_others_read(quantize):
    source = Layer(USUAL, quantize=quantize).model()
    if quantize:
        source.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    (site,) = report_of(source, NONE).sites
    assert site.nodes == ("dq_x", "dq_w", "b_float", "up")
    assert difference(source) is None


@given(case=drawn_cases(most_axes=3), how=ways_to_quantize())
def test_any_case(case, how):
    """The converted model's bits, or an error where that has one, too."""
    bias = {"": "", "int32": "units", "float32": "other units"}[how.bias]
    scales = "of a group" if how.scales == "each" else how.scales  # as the standard has it
    layer = Layer(case, replace(how, scales=scales), bias=bias, quantize=how.y != "float32")
    source, feeds = layer.model(), layer.feeds()
    converted = outcome(lambda: our_session(ort_tconv.convert(source)).run(None, feeds))
    found = outcome(lambda: run_provider(source, feeds))
    if isinstance(converted, str):
        assert isinstance(found, str), converted
    else:
        assert not isinstance(found, str), found
        assert same_bits(found, converted)


def both_as_stock(source: onnx.ModelProto, feeds) -> None:
    """Provider and converted model give what stock does as it runs the nodes as they are."""
    session_options = options()
    session_options.graph_optimization_level = NONE
    stock = ort.InferenceSession(source.SerializeToString(), session_options)
    (expected,) = stock.run(None, feeds)
    ours = ort_tconv.add_provider(options(), strict=True)
    ours.graph_optimization_level = NONE
    provider = ort.InferenceSession(source.SerializeToString(), ours, enable_fallback=0)
    for session in (provider, our_session(ort_tconv.convert(source))):
        (found,) = session.run(None, feeds)
        assert found.dtype == expected.dtype and found.shape == expected.shape
        if found.dtype == np.float32:
            np.testing.assert_allclose(found, expected, rtol=1e-4)
        else:
            assert np.abs(found.astype(int) - expected.astype(int)).max(initial=0) <= 1


@pytest.mark.parametrize("quantize", [True, False])
def test_a_bias_at_the_ends_of_int32(quantize):
    """Integers with which a sum would wrap are added in float32."""
    layer = Layer(USUAL, quantize=quantize)
    source = layer.model()
    limits = np.iinfo(np.int32)
    replace_constant(source, "b", np.array([limits.min, limits.max] * 3, np.int32))
    assert patterns(report_of(source, NONE)) == ["quantized"]
    assert difference(source) is None
    both_as_stock(source, layer.feeds())


@pytest.mark.parametrize("quantize", [True, False])
def test_a_clip_whose_bounds_are_out_of_order(quantize):
    layer = Layer(USUAL, Quantized(activation="Clip", params=(0.5, -0.25)), quantize=quantize)
    assert patterns(report_of(layer.model(), NONE)) == ["quantized"]
    both_as_stock(layer.model(), layer.feeds())


def test_a_float_bias_that_int32_only_just_holds():
    layer = Layer(USUAL, bias="float32")
    source, inputs = layer.model(), layer.inputs()
    unit = inputs["x_scale"] * inputs["w_scale"]
    signs = np.array([-1, 1] * 3, np.float32)
    replace_constant(source, "b_float", signs * unit * np.float32(2.0**31 - 512))
    both_as_stock(source, layer.feeds())


@pytest.mark.parametrize("length, stays", [(33025, False), (33026, True)])
def test_sums_that_may_wrap_stay_float(length, stays):
    case = Case((2,), (3,), strides=(3,), group_in=length, group_out=1, bias=False)
    layer = Layer(case, Quantized("uint8", "uint8", scales="one"), bias="", quantize=False)
    source = layer.model()
    replace_constant(source, "x_zero_point", np.uint8(0))
    replace_constant(source, "w_zero_point", np.uint8(0))
    replace_constant(source, "w", np.full(case.w_shape, 255, np.uint8))
    report = report_of(source, NONE)
    assert patterns(report) == ["quantized_weights" if stays else "quantized"]
    reasons = [site.reason for site in report.sites if not site.claimed]
    assert (
        reasons
        == ["the sums of its products may reach 2147515650, more than 32 bits hold"][: int(stays)]
    )
    both_as_stock(source, {"x": np.full(case.x_shape, 255, np.uint8)})


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"b_float": [1, 2, 3, 4, 5, np.nan]}, "the value nan of B is not finite"),
        ({"b_float": [1, 2, 3, 4, 5, np.inf]}, "the value inf of B is not finite"),
        ({"b_float": [1e38] * 6, "y_scale": 1e-3}, "the value 1e+38 of B is not finite"),
        ({"w_scale": [3e38] * 6, "x_scale": 100}, "overflow together"),
        ({"y_scale": 1e-44}, "overflow together"),
    ],
)
def test_constants_that_the_operator_does_not_take_stay_float(changes, reason):
    """What is known beforehand is no error of a run."""
    layer = Layer(USUAL, bias="float32")
    source = layer.model()
    for name, change in changes.items():
        replace_constant(source, name, np.array(change, np.float32))
    report = report_of(source, NONE)
    assert patterns(report) == ["quantized_weights"]
    assert any(reason in site.reason for site in report.sites)
    assert difference(source) is None
    both_as_stock(source, layer.feeds())


# ---- weights alone -----------------------------------------------------------------------------


def weights_alone(dtype: str = "int8", bias: str = "units", opset: int = 21) -> onnx.ModelProto:
    """x -> ConvTranspose with dequantised W and B -> Relu."""
    relu = [helper.make_node("Relu", ["c"], ["r"], name="act")]
    source = Layer(USUAL, quantize=False, tail=relu, bias=bias, opset=opset).model()
    del source.graph.node[0]
    next(n for n in source.graph.node if n.name == "up").input[0] = "x"
    source.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    if dtype != "int8":
        kind = getattr(TensorProto, dtype.upper())
        rng = np.random.default_rng(0)
        low, high = {"int4": (-8, 8), "uint4": (0, 16), "int16": (-999, 999)}[dtype]
        shapes = {"w": USUAL.w_shape, "w_zero_point": (6,)}
        for place in source.graph.initializer:
            if place.name in shapes:
                values = rng.integers(low, high, shapes[place.name])
                made = helper.make_tensor(place.name, kind, values.shape, values.flatten())
                place.CopyFrom(made)
    return source


@pytest.mark.parametrize("dtype", ["int8", "int4", "uint4", "int16"])
@pytest.mark.parametrize("bias", ["units", "float32", ""])
def test_weights_alone_are_quantised(dtype, bias):
    source = weights_alone(dtype, bias)
    assert patterns(report_of(source, NONE)) == ["quantized_weights"]
    assert compare(read_model(source), NONE, {}) is None
    assert compare(read_model(source), BASIC, {}) is None
    x = np.random.default_rng(0).standard_normal(USUAL.x_shape).astype(np.float32)
    close_to_stock(run_provider(source, {"x": x})[0], source, {"x": x})


def test_weights_of_other_widths_beside_a_quantised_input():
    """They become constants in float32, and the quantised input stays as it is."""
    source = weights_alone("int16")
    nodes, layer = source.graph.node, Layer(USUAL)
    nodes.insert(0, helper.make_node("DequantizeLinear", ["q", "s"], ["x"], name="dq_x"))
    source.graph.input[0].name = "q"
    source.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    source.graph.initializer.append(numpy_helper.from_array(np.float32(0.02), "s"))
    report = report_of(source, NONE)
    assert patterns(report) == ["quantized_weights"]
    (reason,) = [site.reason for site in report.sites if not site.claimed]
    assert "the quantised W is not of type uint8 or int8" in reason
    assert difference(source) is None
    close_to_stock(
        run_provider(source, {"q": layer.feeds()["x"]})[0], source, {"q": layer.feeds()["x"]}
    )


def test_sixteen_bit_weights_of_a_quantised_constant():
    source = weights_alone()
    feeds = {"x": np.random.default_rng(0).standard_normal(USUAL.x_shape).astype(np.float32)}
    converted = ort_tconv.convert(source, weights="float16")
    (expected,) = our_session(converted).run(None, feeds)
    assert same_bits(run_provider(source, feeds, weights="float16")[0], expected)


@pytest.mark.parametrize("dtype", ["int8", "int4", "uint4", "int16"])
@pytest.mark.parametrize("scaled", [False, True])
def test_eight_bit_weights_of_a_quantised_constant(dtype, scaled):
    """As the converter keeps them: as they are, if 8 bits hold them, and else in float32."""
    source = weights_alone(dtype)
    if scaled:
        nodes = source.graph.node
        act = next(node for node in nodes if node.name == "act")
        act.input[0] = "d"
        nodes.insert(len(nodes) - 1, helper.make_node("Mul", ["c", "f"], ["d"], name="mul"))
        factors = np.linspace(-2, 3, 6).astype(np.float32).reshape(6, 1, 1)
        source.graph.initializer.append(numpy_helper.from_array(factors, "f"))
    feeds = {"x": np.random.default_rng(0).standard_normal(USUAL.x_shape).astype(np.float32)}
    converted = ort_tconv.convert(source, weights="int8")
    (expected,) = our_session(converted).run(None, feeds)
    (found,) = run_provider(source, feeds, weights="int8")
    assert same_bits(found, expected)
    close_to_stock(found, source, feeds)


# ---- options and reports -----------------------------------------------------------------------


def test_each_layer_is_reported_once_however_the_nodes_are_ordered():
    """Of a model with functions, onnxruntime shows the graph before it is changed, too."""
    source = Layer(
        USUAL, Quantized(activation="Clip", params=(0.0, 6.0)), bias="", quantize=False
    ).model()
    for name in ("dq_w", "up"):
        twin = onnx.NodeProto()
        twin.CopyFrom(next(node for node in source.graph.node if node.name == name))
        twin.name, twin.output[0] = twin.name + "2", twin.output[0] + "2"
        if name == "up":
            twin.input[1] += "2"
        source.graph.node.append(twin)
    for name in ("x_float", "c2"):
        source.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    opset = helper.make_opsetid("", 17)
    relu = helper.make_node("Relu", ["a"], ["b"])
    source.functions.append(helper.make_function("local", "F", ["a"], ["b"], [relu], [opset]))
    source.opset_import.append(helper.make_opsetid("local", 1))
    report = report_of(source, NONE)
    assert not report.errors
    assert sorted((site.node, site.pattern, site.claimed) for site in report.sites) == [
        ("up", "quantized", True),
        ("up2", "quantized", True),
    ]


def test_exclude_and_strict():
    source = Layer(USUAL).model()
    (site,) = report_of(source, exclude="u?").sites
    assert not site.claimed and site.reason == "excluded by 'u?'"
    with pytest.raises(Exception, match=r"(?s)strict is set.*'up': excluded by 'up'"):
        provider_session(source, strict=True, exclude="up").run(None, Layer(USUAL).feeds())


def test_algorithms():
    layer = Layer(USUAL)
    source, feeds = layer.model(), layer.feeds()
    for algorithm in ("direct", "stacked", "narrow", "winograd"):
        report = report_of(source, algorithm=algorithm)
        assert patterns(report) == ["quantized"]
        close_to_stock(run_provider(source, feeds, algorithm=algorithm)[0], source, feeds)


def test_inspect_session_and_validate(tmp_path, capsys):
    path = tmp_path / "model.onnx"
    onnx.save(Layer(USUAL).model(), path)
    assert main(["inspect", "--session", str(path), "--json"]) == 0
    (site,) = json.loads(capsys.readouterr().out)["sites"]
    assert site["claimed"] and site["pattern"] == "quantized" and site["kernel"]
    report = ort_tconv.validate(path, provider=True)
    assert report.ok and report.rewritten == 1
    (output,) = report.outputs
    assert output.step == 1 and output.equal >= 0.999


@pytest.mark.skipif(
    not hasattr(ort.InferenceSession, "set_ep_dynamic_options"),
    reason="sessions of this onnxruntime cannot be asked",
)
def test_benchmark_covers_the_nodes():
    result = ort_tconv.benchmark(
        Layer(USUAL).model(), provider=True, seconds=0, repeat=2, memory=False
    )
    (site,) = [node for node in result.nodes if node.is_site]
    assert site.node == "up" and {"dq_x", "dq_w", "up", "q_y"} <= set(site.covers)
    assert site.stock_ms and site.converted_ms


# ---- sessions ----------------------------------------------------------------------------------


def open_layer(case: Case = USUAL) -> onnx.ModelProto:
    source = Layer(case).model()
    for index, size in ((0, "n"), (2, "h"), (3, "w")):
        source.graph.input[0].type.tensor_type.shape.dim[index].dim_param = size
    return source


def test_shapes_change_between_runs():
    source = open_layer()
    session, converted = (
        provider_session(source, strict=True),
        our_session(ort_tconv.convert(source)),
    )
    for seed, (batch, *spatial) in enumerate(
        [(1, 6, 5), (3, 2, 9), (0, 4, 4), (1, 1, 1), (2, 40, 33), (1, 6, 5)]
    ):
        case = replace(USUAL, batch=batch, spatial=tuple(spatial))
        feeds = {"x": Quantized().inputs(case, seed)["x"]}
        assert same_bits(session.run(None, feeds)[0], converted.run(None, feeds)[0])


def test_threads_run_one_session():
    session = provider_session(open_layer(), strict=True)
    cases = [replace(USUAL, spatial=(n, 3 + n)) for n in range(1, 7)]
    images = [Quantized().inputs(case, 1)["x"] for case in cases]
    run_in_threads(session, images)


@pytest.mark.parametrize("names", [("x", "w"), ("x", "w_scale"), ("x", "x_zero_point", "b")])
def test_parameters_that_are_inputs(names):
    layer = Layer(USUAL, given=names)
    source = layer.model()
    assert patterns(report_of(source)) == ["quantized"]
    assert difference(source) is None
    assert same_bits(
        run_provider(source, layer.feeds())[0],
        our_session(ort_tconv.convert(source)).run(None, layer.feeds())[0],
    )


def test_a_scale_that_may_be_several_stays():
    """onnxruntime tells providers of a scalar what it tells of an unknown rank."""
    layer = Layer(USUAL, given=("x", "x_scale"))
    source = layer.model()
    report = report_of(source)
    assert patterns(report) == ["quantized_weights"]
    (reason,) = [site.reason for site in report.sites if not site.claimed]
    assert reason == "the scale of X is not known to be a single one"
    close_to_stock(run_provider(source, layer.feeds())[0], source, layer.feeds())


def test_body_of_a_branch():
    layer = Layer(USUAL)
    inner = layer.model().graph
    branches = {}
    for name in ("then_branch", "else_branch"):
        body = onnx.GraphProto()
        body.CopyFrom(inner)
        body.name = name
        del body.input[:], body.initializer[:]
        for node in body.node:
            node.name = f"{name}_{node.name}"
        body.output[0].name = body.node[-1].output[0] = f"y_{name}"
        branches[name] = body
    choose = helper.make_node("If", ["flag"], ["y"], name="if", **branches)
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    output = helper.make_tensor_value_info("y", TensorProto.UINT8, None)
    graph = helper.make_graph(
        [choose], "outer", [flag, *inner.input], [output], list(inner.initializer)
    )
    source = model(graph, 17)
    feeds = layer.feeds() | {"flag": np.array(True)}
    close_to_stock(run_provider(source, feeds)[0], source, feeds)
    assert patterns(report_of(source)) == ["quantized"] * (2 if SEVERAL_GRAPHS else 1)


# ---- hostile models ----------------------------------------------------------------------------

F = np.float32
HOSTILE = {
    "x_scale 0": {"x_scale": F(0)},
    "x_scale negative": {"x_scale": F(-0.01)},
    "x_scale not a number": {"x_scale": F(np.nan)},
    "x_scale infinite": {"x_scale": F(np.inf)},
    "x_scale of two": {"x_scale": np.full(2, 0.01, F)},
    "x_scale of each channel": {
        "x_scale": np.full(8, 0.01, F),
        "x_zero_point": np.full(8, 3, np.uint8),
    },
    "x_zero_point of another type": {"x_zero_point": np.int8(3)},
    "x_zero_point of five": {"x_zero_point": np.zeros(5, np.uint8)},
    "w_scale 0": {"w_scale": np.zeros(6, F)},
    "w_scale negative": {"w_scale": np.full(6, -0.005, F)},
    "w_scale not a number": {"w_scale": np.array([0.005] * 5 + [np.nan], F)},
    "w_scale infinite": {"w_scale": np.full(6, np.inf, F)},
    "w_scale too short": {"w_scale": np.full(4, 0.005, F)},
    "w_scale too long": {"w_scale": np.full(7, 0.005, F)},
    "w_scale empty": {"w_scale": np.zeros(0, F), "w_zero_point": np.zeros(0, np.int8)},
    "w_scale of rank 2": {"w_scale": np.full((1, 6), 0.005, F)},
    "w_zero_point too long": {"w_zero_point": np.zeros(7, np.int8)},
    "w_zero_point of another type": {"w_zero_point": np.zeros(6, np.uint8)},
    "scales that overflow": {"w_scale": np.full(6, 3e38, F), "x_scale": F(100)},
    "y_scale 0": {"y_scale": F(0)},
    "y_scale negative": {"y_scale": F(-1)},
    "y_scale not a number": {"y_scale": F(np.nan)},
    "y_scale of two": {"y_scale": np.full(2, 0.5, F)},
    "y_zero_point of three": {"y_zero_point": np.zeros(3, np.uint8)},
    "b_scale too short": {"b_scale": np.full(2, 0.5, F)},
    "b_scale not a number": {"b_scale": np.full(6, np.nan, F)},
    "axis 2": {"axis": 2},
    "axis 2 with as many scales": {
        "axis": 2,
        "w_scale": np.full(4, 0.005, F),
        "w_zero_point": np.zeros(4, np.int8),
    },
    "axis 9": {"axis": 9},
    "axis -9": {"axis": -9},
    "axis -3, which is 1": {"axis": -3},
    "axis of the wrong type": {"axis": 1.0},
    "no zero point but a scale for each": {"without": "w_zero_point"},
    "w of another number of channels": {"w": np.zeros((7, 6, 4, 4), np.int8)},
    "no scale": {"without": "w_scale"},
}


def hostile(changes: dict) -> tuple[onnx.ModelProto, dict]:
    layer = Layer(USUAL)
    source = layer.model()
    for name, change in changes.items():
        dequantize = next(n for n in source.graph.node if n.name == "dq_w")
        if name == "axis":
            del dequantize.attribute[:]
            dequantize.attribute.append(helper.make_attribute("axis", change))
        elif name == "without":
            del dequantize.input[list(dequantize.input).index(change) :]
        else:
            replace_constant(source, name, change)
    return source, layer.feeds()


def outcome(run) -> np.ndarray | str:
    try:
        return run()[0]
    except Exception as error:
        return str(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name, alone",
    [
        (name, alone)
        for name, changes in HOSTILE.items()
        for alone in (False, True)
        if not (alone and changes.keys() & {"x_scale", "x_zero_point", "y_scale", "y_zero_point"})
    ],
)
def test_hostile_models(name, alone):
    """Stock's behaviour or an error that says what is wrong, both ways."""
    source, feeds = hostile(HOSTILE[name])
    if alone:  # weights alone: X and Y in float32
        nodes = {node.name: node for node in source.graph.node}
        nodes["up"].input[0], source.graph.output[0].name = "x", "c"
        source.graph.node.remove(nodes["dq_x"])
        source.graph.node.remove(nodes["q_y"])
        source.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
        source.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
        feeds = {"x": feeds["x"].astype(np.float32)}
    stock = outcome(lambda: run_stock(source, feeds))
    by_provider = outcome(lambda: run_provider(source, feeds))
    result = ort_tconv.convert(source)
    converted = outcome(lambda: our_session(result).run(None, feeds))
    for found in (by_provider, converted):
        if isinstance(found, str):
            assert isinstance(stock, str) or "input " in found, found
        elif not isinstance(stock, str):
            assert found.shape == stock.shape and found.dtype == stock.dtype
            if found.dtype == np.uint8:
                assert np.abs(found.astype(int) - stock.astype(int)).max() <= 1
            else:
                np.testing.assert_allclose(found, stock, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("w_scale", np.full(6, np.nan, F), ["w_scale", "nan", "finite"]),
        ("w_scale", np.full(4, 0.005, F), ["w_scale", "4 values", "6"]),
        ("w_zero_point", np.zeros(7, np.int8), ["w_zero_point", "7 values", "6"]),
        ("x_zero_point", np.zeros(5, np.uint8), ["x_zero_point", "[5]", "scalar"]),
        ("w", np.zeros((7, 6, 4, 4), np.int8), ["W", "[7, 6, 4, 4]"]),
    ],
)
def test_hostile_values_that_come_with_a_run(name, value, words):
    layer = Layer(USUAL, given=("x", name))
    source = layer.model()
    shape = source.graph.input[1].type.tensor_type.shape
    for size in shape.dim:
        size.dim_param = size.dim_param or f"{name}_{len(words)}"
    if name == "w_scale":  # of a known number, or the provider could not tell an axis
        shape.dim[0].dim_value = 6
    session = provider_session(source)
    with pytest.raises(Exception) as caught:
        session.run(None, layer.feeds() | {name: value})
    message = str(caught.value)
    if "TConvExecutionProvider" in message:
        for word in words:
            assert word in message, message
    else:  # onnxruntime itself compares it with what the model declares
        assert "invalid dimensions" in message, message
