"""QLinearSegregatedConvTranspose in sessions, against its definition."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from cases import CORNERS, Case, drawn_cases, model, tensor
from hypothesis import given
from onnx import helper
from quantities import BYTES, OUTPUTS, Quantized, expected, ways_to_quantize
from sessions import concurrently, our_session

from ort_tconv import _core
from ort_tconv.converters.rewrite import DOMAIN

USUAL = Case((6, 5), (4, 4), strides=(2, 2), pads=(1, 1, 1, 1), group_in=5, group_out=6)
OP = "QLinearSegregatedConvTranspose"
NAMES = {"b": "B"}


def quantized_model(
    case: Case,
    how: Quantized,
    inputs: dict,
    *,
    given: tuple[str, ...] = ("x",),
    attributes: dict | None = None,
    open_shapes: bool = False,
) -> onnx.ModelProto:
    """One node called ``up``; ``given`` names its inputs that are the model's."""
    infos = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype),
            None if open_shapes else np.shape(value),
        )
        for name, value in inputs.items()
        if name in given
    ]
    constants = [
        tensor(np.asarray(value), name) for name, value in inputs.items() if name not in given
    ]
    attributes = {**case.attributes, **how.attributes} if attributes is None else attributes
    node = helper.make_node(OP, list(inputs), ["y"], name="up", domain=DOMAIN, **attributes)
    output = helper.make_tensor_value_info(
        "y", helper.np_dtype_to_tensor_dtype(np.dtype(OUTPUTS[how.y])), None
    )
    graph = helper.make_graph([node], "quantized", infos, [output], constants)
    return model(graph, custom=True)


def check(case: Case, how: Quantized, inputs: dict, given=("x",), session=None) -> None:
    session = session or our_session(quantized_model(case, how, inputs, given=given))
    feeds = {name: np.asarray(value) for name, value in inputs.items() if name in given}
    (y,) = session.run(None, feeds)
    assert y.dtype == OUTPUTS[how.y]
    np.testing.assert_array_equal(y, expected(case, how, inputs))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("corner", CORNERS)
def test_corners(corner, constant):
    case, how = CORNERS[corner], Quantized()
    inputs = how.inputs(case)
    check(case, how, inputs, ("x",) if constant else tuple(inputs))


@pytest.mark.parametrize("bias", ["", "int32", "float32"])
@pytest.mark.parametrize("y", OUTPUTS)
@pytest.mark.parametrize("w", BYTES)
@pytest.mark.parametrize("x", BYTES)
def test_types(x, w, y, bias):
    how = Quantized(x, w, y, bias=bias)
    check(USUAL, how, how.inputs(USUAL))


@given(case=drawn_cases(most_axes=3), how=ways_to_quantize())
def test_any_case(case, how):
    inputs = how.inputs(case)
    check(case, how, inputs)
    check(case, how, inputs, tuple(inputs))


def test_parameters_change_between_runs():
    how = Quantized(w_zeros=True)
    session = our_session(
        quantized_model(USUAL, how, how.inputs(USUAL), given=tuple(how.inputs(USUAL)))
    )
    for seed in range(4):
        inputs = how.inputs(USUAL, seed)
        check(USUAL, how, inputs, tuple(inputs), session)


def test_shapes_change_between_runs():
    how = Quantized()
    constants = how.inputs(USUAL)
    session = our_session(quantized_model(USUAL, how, constants, open_shapes=True))
    for seed, (batch, *spatial) in enumerate(
        [(1, 6, 5), (3, 2, 9), (0, 4, 4), (1, 1, 1), (2, 40, 33)]
    ):
        case = replace(USUAL, batch=batch, spatial=tuple(spatial))
        check(case, how, constants | {"x": how.inputs(case, seed)["x"]}, ("x",), session)


def test_concurrent_runs_of_one_session():
    how = Quantized()
    constants = how.inputs(USUAL)
    session = our_session(quantized_model(USUAL, how, constants, open_shapes=True))

    def work(seed):
        for i in range(10):
            case = replace(USUAL, batch=1 + (seed + i) % 3, spatial=(3 + seed, 4 + i % 4))
            inputs = constants | {"x": how.inputs(case, seed)["x"]}
            check(case, how, inputs, ("x",), session)

    concurrently(work)


@pytest.mark.parametrize("y", OUTPUTS)
def test_shape_and_type_are_inferred(y):
    how = Quantized(y=y)
    inputs = how.inputs(USUAL)
    direct = quantized_model(USUAL, how, inputs)
    # Through a node that takes any type, so that the model itself does not tell.
    direct.graph.node[0].output[0] = "inner"
    direct.graph.node.append(helper.make_node("Identity", ["inner"], ["y"]))
    session = our_session(direct)
    (output,) = session.get_outputs()
    assert output.shape == list(
        _core.output_shape(USUAL.x_shape, USUAL.w_shape, **USUAL.attributes)[0]
    )
    check(USUAL, how, inputs, session=session)


def test_sessions_share_packed_weights():
    how = Quantized()
    inputs = how.inputs(USUAL)
    sessions = [our_session(quantized_model(USUAL, how, inputs)) for _ in range(3)]
    for session in sessions:
        check(USUAL, how, inputs, session=session)


# ---- what is wrong -----------------------------------------------------------------------------

MALFORMED = {
    "x_scale 0": ({"x_scale": np.float32(0)}, ["x_scale", "0", "positive"]),
    "x_scale infinite": ({"x_scale": np.float32(np.inf)}, ["x_scale", "inf", "finite"]),
    "x_scale a list": ({"x_scale": np.ones(2, np.float32)}, ["x_scale", "[2]", "scalar"]),
    "y_scale negative": ({"y_scale": np.float32(-1)}, ["y_scale", "-1", "positive"]),
    "y_scale not a number": ({"y_scale": np.float32(np.nan)}, ["y_scale", "nan"]),
    "w_scale too short": ({"w_scale": np.ones(4, np.float32)}, ["w_scale", "4", "6"]),
    "w_scale of rank 2": ({"w_scale": np.ones((1, 6), np.float32)}, ["w_scale", "[1, 6]"]),
    "w_scale infinite": ({"w_scale": np.full(6, np.inf, np.float32)}, ["w_scale", "inf"]),
    "scales that overflow": (
        {"w_scale": np.full(6, 3e38, np.float32), "x_scale": np.float32(100)},
        ["w_scale", "overflows"],
    ),
    "w_zero_point too long": ({"w_zero_point": np.zeros(7, np.int8)}, ["w_zero_point", "7", "6"]),
    "x_zero_point a list": ({"x_zero_point": np.zeros(5, np.uint8)}, ["x_zero_point", "[5]"]),
    "y_zero_point a list": ({"y_zero_point": np.zeros(5, np.uint8)}, ["y_zero_point", "[5]"]),
    "B too short": ({"b": np.zeros(2, np.int32)}, ["B", "[2]", "6"]),
    "B not finite": ({"b": np.full(6, np.nan, np.float32)}, ["B", "nan", "finite"]),
    "channels that w does not have": (
        {"x": np.zeros((1, 4, 6, 5), np.uint8)},
        ["W", "channels", "4"],
    ),
    "group": ({"group": 3}, ["group", "3"]),
    "Tanh": ({"activation": "Tanh"}, ["activation", "Relu", "Clip"]),
    "Clip upside down": (
        {"activation": "Clip", "activation_params": [1.0, -1.0]},
        ["activation_params", "Clip"],
    ),
    "algorithm": ({"algorithm": "guess"}, ["algorithm", "guess", "direct"]),
    "strides": ({"strides": [0, 2]}, ["strides", "0"]),
}


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name, constant):
    changes, words = MALFORMED[name]
    how = Quantized()
    inputs = how.inputs(USUAL)
    attributes = {key: value for key, value in changes.items() if key not in inputs}
    inputs |= {key: value for key, value in changes.items() if key in inputs}
    given_inputs = ("x",) if constant else tuple(inputs)
    direct = quantized_model(
        USUAL,
        how,
        inputs,
        given=given_inputs,
        attributes=USUAL.attributes | attributes,
        open_shapes=True,
    )
    feeds = {key: np.asarray(value) for key, value in inputs.items() if key in given_inputs}
    with pytest.raises(Exception, match=OP) as caught:
        our_session(direct).run(None, feeds)
    message = str(caught.value)
    assert "'up'" in message
    for word in words:
        assert word in message, message


def test_float_outputs_take_no_scale():
    how = Quantized(y="float32")
    for change in ({"y_scale": np.float32(0.5)}, {"y_zero_point": np.float32(3)}):
        inputs = how.inputs(USUAL) | change
        with pytest.raises(Exception, match="float32 output"):
            our_session(quantized_model(USUAL, how, inputs)).run(None, {"x": inputs["x"]})


@pytest.mark.parametrize(
    "change",
    [
        {"x_zero_point": np.int8(0)},
        {"w_zero_point": np.zeros(6, np.uint8)},
        {"w": np.zeros(USUAL.w_shape, np.float32)},
        {"x_scale": np.float64(1)},
    ],
)
def test_types_that_do_not_go_together_are_refused(change):
    how = Quantized()
    with pytest.raises(Exception, match=OP):
        our_session(quantized_model(USUAL, how, how.inputs(USUAL) | change))


def test_missing_inputs_are_refused():
    how = Quantized()
    direct = quantized_model(USUAL, how, how.inputs(USUAL))
    del direct.graph.node[0].input[7:]
    with pytest.raises(Exception, match=OP):
        our_session(direct)
