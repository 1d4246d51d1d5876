"""The operator in sessions, against its definition in float64."""

from dataclasses import replace

import numpy as np
import pytest
from cases import (
    CORNERS,
    DTYPES,
    Case,
    assert_within,
    chain_model,
    conv_transpose_model,
    drawn_cases,
    model,
    value,
)
from hypothesis import given
from onnx import TensorProto, helper
from sessions import concurrently, our_session, run_converted, run_stock

import ort_tconv
from ort_tconv import _core

USUAL = Case((6, 5), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1))


def check(case, session, arrays, names=("x",)):
    """Run a session whose inputs and output are those of a ``float32_io`` model if it needs one."""
    feeds = {name: arrays[name] for name in names if name in arrays}
    if case.dtype == "bfloat16":
        feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    (y,) = session.run(None, feeds)
    assert_within(y, case.expected(arrays), case.bound(arrays))


@pytest.mark.parametrize("weights", ["initializer", "constant", "input", "overridable"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("corner", CORNERS)
def test_corners(corner, dtype, weights):
    case = replace(CORNERS[corner], dtype=dtype)
    arrays = case.arrays()
    converted = ort_tconv.convert(
        conv_transpose_model(case, arrays, weights=weights, float32_io=dtype == "bfloat16")
    )
    session = our_session(converted)
    assert [node.op_type for node in converted.graph.node].count("SegregatedConvTranspose") == 1
    check(case, session, arrays, "xwb" if weights == "input" else "x")


@given(case=drawn_cases(dtypes=tuple(DTYPES), most_axes=3))
def test_every_type_and_rank(case):
    arrays = case.arrays()
    converted = ort_tconv.convert(
        conv_transpose_model(case, arrays, float32_io=case.dtype == "bfloat16")
    )
    check(case, our_session(converted), arrays)


@pytest.mark.parametrize("weights", ["initializer", "input"])
def test_shapes_change_between_runs(weights):
    session = our_session(
        ort_tconv.convert(conv_transpose_model(USUAL, weights=weights, dynamic=True))
    )
    shapes = [(1, 6, 5), (3, 2, 9), (1, 6, 5), (0, 4, 4), (1, 1, 1), (2, 40, 33), (3, 2, 9)]
    for seed, (batch, *spatial) in enumerate(shapes):
        case = replace(USUAL, batch=batch, spatial=tuple(spatial))
        arrays = USUAL.arrays() | {"x": case.arrays(seed)["x"]}
        check(case, session, arrays, "xwb" if weights == "input" else "x")


def test_more_shapes_than_a_node_remembers():
    session = our_session(ort_tconv.convert(conv_transpose_model(USUAL, dynamic=True)))
    for _ in range(2):
        for side in range(1, 25):
            case = replace(USUAL, spatial=(side, 3))
            check(case, session, USUAL.arrays() | {"x": case.arrays()["x"]})


@pytest.mark.parametrize("typed", [True, False])
def test_a_chain_with_open_sizes(typed):
    original = chain_model(4)
    converted = ort_tconv.convert(original)
    if not typed:
        del converted.graph.value_info[:]  # then the operator's own shape inference counts
    session = our_session(converted)
    for shape in [(1, 4, 3, 5), (2, 4, 7, 2)]:
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        (expected,) = run_stock(original, {"x0": x})
        (actual,) = session.run(None, {"x0": x})
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_weights_change_between_runs():
    session = our_session(ort_tconv.convert(conv_transpose_model(USUAL, weights="input")))
    for seed in range(3):
        check(USUAL, session, USUAL.arrays(seed), "xwb")


def test_overridden_initializers_count():
    arrays = USUAL.arrays()
    session = our_session(
        ort_tconv.convert(conv_transpose_model(USUAL, arrays, weights="overridable"))
    )
    check(USUAL, session, arrays)
    check(USUAL, session, USUAL.arrays(1), "xwb")
    check(USUAL, session, arrays)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads(threads):
    case = Case((31, 29), (4, 4), batch=3, group_in=17, group_out=9, strides=(2, 2))
    arrays = case.arrays()
    check(case, our_session(ort_tconv.convert(conv_transpose_model(case)), threads), arrays)


def test_concurrent_runs_of_one_session():
    session = our_session(ort_tconv.convert(conv_transpose_model(USUAL, dynamic=True)))

    def work(seed):
        for i in range(10):
            case = replace(USUAL, batch=1 + (seed + i) % 3, spatial=(3 + seed, 4 + i % 4))
            check(case, session, USUAL.arrays() | {"x": case.arrays(seed)["x"]})

    concurrently(work)


def test_nan_and_infinity_spread_as_in_stock():
    original = conv_transpose_model(USUAL)
    x = USUAL.arrays()["x"]
    x[0, 0, 2, 2], x[0, 1, 4, 4] = np.nan, np.inf
    (expected,) = run_stock(original, {"x": x})
    (actual,) = run_converted(original, {"x": x})
    assert np.isnan(expected).any() and np.isfinite(expected).any()
    np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(expected))


def test_several_types_in_one_session():
    nodes, inputs, outputs, feeds, cases = [], [], [], {}, {}
    for dtype in ("float32", "float16", "float64"):
        case = replace(USUAL, dtype=dtype)
        cases[dtype] = case
        names = [f"{name}_{dtype}" for name in "xwb"]
        for name, array in zip(names, case.arrays().values(), strict=True):
            inputs.append(value(name, dtype, array.shape))
            feeds[name] = array
        nodes.append(
            helper.make_node("ConvTranspose", names, [f"y_{dtype}"], name=dtype, **case.attributes)
        )
        outputs.append(value(f"y_{dtype}", dtype, ["n", "c", "h", "v"]))
    graph = helper.make_graph(nodes, "types", inputs, outputs)
    results = run_converted(model(graph), feeds)
    for case, result in zip(cases.values(), results, strict=True):
        assert_within(result, case.expected(case.arrays()), case.bound(case.arrays()))


@pytest.mark.parametrize(
    ("case", "inferred"),
    [
        (Case((5, 4), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1)), [1, 3, 10, 8]),
        (Case((5, 4), (4, 4), strides=(2, 2), auto_pad="SAME_UPPER"), [1, 3, 10, 8]),
        (Case((5, 4), (4, 4), strides=(2, 2), output_shape=(11, 7)), [1, 3, 11, 7]),
    ],
)
def test_shape_inference_agrees_with_the_run(case, inferred):
    direct = conv_transpose_model(case, op="ort_tconv")
    del direct.graph.output[0].type.tensor_type.shape.dim[:]
    direct.graph.output[0].type.tensor_type.ClearField("shape")
    session = our_session(direct)
    assert session.get_outputs()[0].shape == inferred
    assert list(session.run(None, {"x": case.arrays()["x"]})[0].shape) == inferred


ACTIVATIONS = [
    ("Relu", [], lambda v: np.maximum(v, 0)),
    ("LeakyRelu", [0.2], lambda v: np.where(v > 0, v, np.float32(0.2) * v)),
    ("Clip", [-0.5, 2.0], lambda v: np.clip(v, -0.5, 2.0)),
    ("Sigmoid", [], lambda v: 1 / (1 + np.exp(-v))),
    ("Tanh", [], np.tanh),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(("activation", "params", "function"), ACTIVATIONS)
def test_residual_and_activation(activation, params, function, dtype):
    """Y = activation(convolution + B + Z), as the operator's contract has it."""
    case = replace(USUAL, dtype=dtype)
    arrays = case.arrays()
    shape = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)[0]
    z = np.random.default_rng(9).standard_normal(shape).astype(DTYPES[dtype])
    attributes = case.attributes | {"activation": activation}
    if params:
        attributes["activation_params"] = params
    direct = conv_transpose_model(
        case, arrays, weights="input", attributes=attributes, op="ort_tconv"
    )
    direct.graph.input.append(value("z", dtype, shape))
    direct.graph.node[0].input.append("z")
    (y,) = our_session(direct).run(None, arrays | {"z": z})
    expected = function(case.expected(arrays) + z.astype(np.float64))
    # No activation here is steeper than 1; evaluating it and adding z each round once more.
    unit = {"float32": 2.0**-22, "float64": 2.0**-51, "float16": 2.0**-11}[dtype]
    assert_within(y, expected, case.bound(arrays) + unit * (np.abs(expected) + np.abs(z) + 1))


@pytest.mark.parametrize("ir_version", [3, 4, 8])
def test_ir_versions(ir_version):
    weights = "overridable" if ir_version < 4 else "initializer"
    original = conv_transpose_model(USUAL, weights=weights, ir_version=ir_version, opset=8)
    converted = ort_tconv.convert(original)
    assert converted.ir_version == ir_version
    check(USUAL, our_session(converted), USUAL.arrays())


def test_element_type_without_a_kernel_is_refused():
    direct = conv_transpose_model(USUAL, op="ort_tconv", weights="input")
    for info in (*direct.graph.input, *direct.graph.output):
        info.type.tensor_type.elem_type = TensorProto.INT32
    with pytest.raises(Exception, match=r"SegregatedConvTranspose"):
        our_session(direct)
