"""ConvTranspose through the execution provider: the bits of the converted model."""

import gc
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import (
    CORNERS,
    DTYPES,
    Case,
    chain_model,
    conv_transpose_model,
    drawn_cases,
    function_model,
    if_model,
    loop_model,
    save_external,
    scan_model,
)
from hypothesis import given
from sessions import concurrently, options, run_converted
from sites import (
    RECORDS,
    SEVERAL_GRAPHS,
    claimed,
    provider_session,
    run_in_threads,
    run_provider,
    same_bits,
)

import ort_tconv
from ort_tconv.converters.model_io import read_model
from ort_tconv.sessions.provider_report import open_with_report

USUAL = Case((6, 5), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1))


def feeds_of(case: Case, arrays, names: str) -> dict[str, np.ndarray]:
    feeds = {name: arrays[name] for name in names if name in arrays}
    if case.dtype == "bfloat16":
        feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    return feeds


def check(case: Case, names: str = "x", **kwargs) -> None:
    arrays = case.arrays()
    model = conv_transpose_model(case, arrays, float32_io=case.dtype == "bfloat16", **kwargs)
    feeds = feeds_of(case, arrays, names)
    (expected,), (found,) = run_converted(model, feeds), run_provider(model, feeds)
    assert same_bits(expected, found)


@pytest.mark.parametrize("weights", ["initializer", "constant", "input", "overridable"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("corner", CORNERS)
def test_corners(corner, dtype, weights):
    case = replace(CORNERS[corner], dtype=dtype)
    check(case, "xwb" if weights == "input" else "x", weights=weights)


@given(case=drawn_cases(dtypes=tuple(DTYPES), most_axes=3))
def test_every_type_and_rank(case):
    check(case)


@given(case=drawn_cases(dtypes=("float32",), most_axes=2))
def test_open_shapes(case):
    check(case, dynamic=True)


def test_overridable_weights_are_read_each_time():
    arrays = USUAL.arrays()
    model = conv_transpose_model(USUAL, arrays, weights="overridable")
    session = provider_session(model, strict=True)
    for factor in (1, -2):
        feeds = {"x": arrays["x"], "w": factor * arrays["w"]}
        assert same_bits(session.run(None, feeds)[0], run_converted(model, feeds)[0])


@pytest.mark.parametrize("weights", ["initializer", "input"])
def test_shapes_change_between_runs(weights):
    model = conv_transpose_model(USUAL, weights=weights, dynamic=True)
    session = provider_session(model, strict=True)
    shapes = [(1, 6, 5), (3, 2, 9), (1, 6, 5), (0, 4, 4), (1, 1, 1), (2, 40, 33), (3, 2, 9)]
    for seed, (batch, *spatial) in enumerate(shapes):
        case = replace(USUAL, batch=batch, spatial=tuple(spatial))
        arrays = USUAL.arrays() | {"x": case.arrays(seed)["x"]}
        feeds = feeds_of(USUAL, arrays, "xwb" if weights == "input" else "x")
        assert same_bits(session.run(None, feeds)[0], run_converted(model, feeds)[0])


# ---- other graphs ------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [True, False])
def test_several_nodes(dynamic):
    model = chain_model(3, dynamic)
    x = np.random.default_rng(0).standard_normal((1, 4, 5, 6), np.float32)
    session = provider_session(model, strict=True)
    if RECORDS:
        assert sum(any("up_" in name for name in group) for group in claimed(session)) == 3
    assert same_bits(session.run(None, {"x0": x})[0], run_converted(model, {"x0": x})[0])


@pytest.mark.parametrize("flag", [True, False])
def test_branches(flag):
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 5), np.float32)
    feeds = {"flag": np.array(flag), "x": x}
    (expected,), (found,) = run_converted(if_model(), feeds), run_provider(if_model(), feeds)
    if SEVERAL_GRAPHS:
        assert same_bits(found, expected)
    else:  # one of the branches is onnxruntime's own
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_sites_in_several_graphs_of_a_model():
    """Old versions of onnxruntime would refuse a session that has more than one graph with some."""
    model = if_model()
    model.graph.node.append(onnx.helper.make_node("ConvTranspose", ["x", "w"], ["v"], "main"))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("v"))
    session, report = open_with_report(read_model(model), ort_tconv.add_provider(options()))
    left = [site.reason for site in report.sites if not site.claimed]
    assert len(report.sites) == 3 and len(left) == (0 if SEVERAL_GRAPHS else 2), str(report)
    assert all("before 1.24.4 takes fused nodes in one graph" in reason for reason in left)
    feeds = {"flag": np.array(True), "x": np.ones((1, 2, 5, 5), np.float32)}
    for found, expected in zip(session.run(None, feeds), run_converted(model, feeds)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_body_of_a_loop():
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 2, 3, 3), np.float32)}
    assert same_bits(run_provider(loop_model(), feeds)[0], run_converted(loop_model(), feeds)[0])


def test_body_of_a_scan():
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 1, 2, 3, 3), np.float32)}
    assert same_bits(run_provider(scan_model(), feeds)[0], run_converted(scan_model(), feeds)[0])


def test_local_function():
    model = function_model(references={"strides": ("steps", 7)}, given={"steps": [3, 2]})
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 2, 4, 5), np.float32)}
    assert same_bits(run_provider(model, feeds)[0], run_converted(model, feeds)[0])


@pytest.mark.parametrize("dynamic", [True, False])
def test_external_weights(tmp_path, dynamic):
    model = conv_transpose_model(USUAL, dynamic=dynamic)
    feeds = {"x": USUAL.arrays()["x"]}
    (expected,) = run_converted(model, feeds)
    save_external(model, tmp_path / "model.onnx")
    session = ort.InferenceSession(
        tmp_path / "model.onnx", ort_tconv.add_provider(options(), strict=True), enable_fallback=0
    )
    assert same_bits(session.run(None, feeds)[0], expected)


# ---- sessions ----------------------------------------------------------------------------------


def test_threads_create_and_run_sessions():
    model = chain_model(2)
    x = np.random.default_rng(0).standard_normal((1, 4, 5, 6), np.float32)
    (expected,) = run_converted(model, {"x0": x})

    def work(_):
        for _ in range(5):
            session = provider_session(model, strict=True)
            for _ in range(3):
                assert same_bits(session.run(None, {"x0": x})[0], expected)

    concurrently(work, 8)


def test_threads_run_one_session():
    session = provider_session(conv_transpose_model(USUAL, dynamic=True), strict=True)
    cases = [replace(USUAL, spatial=(n, 3 + n)) for n in range(1, 7)]
    images = [case.arrays()["x"] for case in cases]
    run_in_threads(session, images)


def test_a_session_outlives_its_options_and_the_registration():
    from ort_tconv.sessions.provider import PROVIDER

    model, x = chain_model(1), np.ones((1, 4, 5, 6), np.float32)
    session = provider_session(model, strict=True)
    (expected,) = session.run(None, {"x0": x})
    gc.collect()
    ort.unregister_execution_provider_library(PROVIDER)
    assert same_bits(session.run(None, {"x0": x})[0], expected)
    del session
    gc.collect()
    assert same_bits(provider_session(model, strict=True).run(None, {"x0": x})[0], expected)


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes, words",
    [
        ({"strides": [0, 2]}, "attribute strides = [0, 2]"),
        ({"group": 0}, "attribute group = 0"),
        ({"output_padding": [2, 0], "strides": [2, 2]}, "attribute output_padding = [2, 0]"),
        ({"dilations": [1, 1, 1], "strides": [1, 1]}, "attribute dilations = [1, 1, 1]"),
        ({"auto_pad": "SOME"}, "attribute auto_pad = 'SOME'"),
    ],
)
def test_a_refusal_names_node_attribute_and_value(attributes, words):
    model = conv_transpose_model(USUAL, attributes=attributes, weights="input")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")  # or onnxruntime's shape inference refuses first
    with pytest.raises(Exception) as caught:
        provider_session(model)
    message = str(caught.value)
    assert "TConvExecutionProvider" in message and "'up'" in message and words in message


def test_a_wrong_input_names_node_and_shapes():
    session = provider_session(conv_transpose_model(USUAL, dynamic=True), strict=True)
    with pytest.raises(Exception, match=r"TConvExecutionProvider 'up'.*input W has shape"):
        session.run(None, {"x": np.zeros((1, 7, 4, 4), np.float32)})


def test_strict_is_an_error_where_nothing_is_taken():
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"], name="relu")],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [2])],
        [onnx.helper.make_tensor_value_info("y", 1, [2])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    feeds = {"x": np.ones(2, np.float32)}
    assert provider_session(model).run(None, feeds)[0].sum() == 2

    def fails(model: onnx.ModelProto, feeds, words: str, **settings) -> None:
        """The session's creation, or in old versions the first run, which tell no main graph."""
        with pytest.raises(Exception, match=words):
            session = provider_session(model, strict=True, **settings)
            assert not SEVERAL_GRAPHS
            session.run(None, feeds)

    fails(model, feeds, r"strict is set.*none of the operators")
    words = r"(?s)strict is set.*'up': excluded by 'u.'"
    fails(conv_transpose_model(USUAL), {"x": USUAL.arrays()["x"]}, words, exclude="u?")


def test_strict_looks_at_all_graphs():
    """Bodies without a site come first."""
    model = if_model()
    for branch in model.graph.node[0].attribute:
        for node in branch.g.node:
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.attribute[:]
    model.graph.node.append(onnx.helper.make_node("ConvTranspose", ["x", "w"], ["v"], "main"))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("v"))
    feeds = {"flag": np.array(True), "x": np.ones((1, 2, 5, 5), np.float32)}
    run_provider(model, feeds)
