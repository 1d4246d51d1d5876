"""The tolerance formula, and how the reductions of a model are found."""

import math

import numpy as np
import onnx
import pytest
from cases import (
    DTYPES,
    Case,
    chain_model,
    conv_transpose_model,
    function_model,
    if_model,
    model,
    tensor,
    value,
)
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, external_data_helper, helper

import ort_tconv
from ort_tconv import _core
from ort_tconv.validation.tolerance import (
    Reduction,
    absolute_floor,
    int8_roundoff,
    reductions_by_node,
    relative_tolerance,
)


def lengths(model, shapes=None):
    return [[r.length for r in node] for node in reductions_by_node(model, shapes or {})]


@given(
    kernel=st.integers(1, 9),
    stride=st.integers(1, 5),
    dilation=st.integers(1, 5),
    group=st.integers(1, 3),
)
def test_length_of_a_transposed_convolution(kernel, stride, dilation, group):
    """It is the number of taps of the largest residue class, times the channels of a group."""
    case = Case((20,), (kernel,), strides=(stride,), dilations=(dilation,), group=group)
    (axis,) = _core.residue_classes(case.x_shape, case.w_shape, **case.attributes)
    taps = max(len(residue["taps"]) for residue in axis["classes"])
    assert lengths(conv_transpose_model(case)) == [[case.group_in * taps]]


@pytest.mark.parametrize("weights", ["initializer", "constant", "input", "overridable"])
@pytest.mark.parametrize("op", ["onnx", "ort_tconv"])
def test_weights_wherever_they_are(weights, op):
    case = Case((4, 4), (4, 4), group_in=5, strides=(2, 2))
    found = [n for n in lengths(conv_transpose_model(case, weights=weights, op=op)) if n]
    assert found == [[5 * 2 * 2]]


def test_shapes_of_inputs_count():
    case = Case((4, 4), (4, 4), group_in=5, strides=(2, 2))
    open_model = conv_transpose_model(case, weights="input", dynamic=True)
    assert lengths(open_model) == [[4096]]  # not known
    assert lengths(open_model, {"w": case.w_shape}) == [[20]]


def test_other_reductions():
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "conv"], ["a"], group=2),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MatMul", ["b", "matrix"], ["c"]),
            helper.make_node("Gemm", ["c", "matrix"], ["d"]),
            helper.make_node("Gemm", ["d", "matrix"], ["y"], transB=1),
        ],
        "g",
        [value("x", "float32", None)],
        [value("y", "float32", None)],
        [
            tensor(np.zeros((4, 3, 5, 2), np.float32), "conv"),
            tensor(np.zeros((7, 11), np.float32), "matrix"),
        ],
    )
    assert lengths(model(graph)) == [[30], [], [7], [7], [11]]


def test_bodies_and_functions_count():
    assert lengths(if_model()) == [[2 * 2 * 2] * 2]
    assert lengths(ort_tconv.convert(if_model())) == [[2 * 2 * 2] * 2]
    strided = function_model({"strides": ("s", AttributeProto.INTS)}, given={"s": [3, 3]})
    assert lengths(function_model()) == [[2 * 2 * 2]]
    # A reference is taken for stride 1, the longest sum.
    assert lengths(strided) == [[2 * 3 * 3]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_element_types_are_found(dtype):
    case = Case((4,), (3,), dtype=dtype)
    (reduction,) = reductions_by_node(conv_transpose_model(case), {})[0]
    assert reduction == Reduction(
        6, helper.make_tensor_value_info("x", reduction.dtype, []).type.tensor_type.elem_type
    )
    assert reduction.dtype == conv_transpose_model(case).graph.input[0].type.tensor_type.elem_type


def test_formula():
    u, v = 2.0**-24, 2.0**-11
    mixed = [Reduction(100, TensorProto.FLOAT), Reduction(50, TensorProto.FLOAT16)]
    expected = math.sqrt(
        (4 * u) ** 2 + (16 * u) ** 2 * 100 + (4 * u) ** 2 + (16 * u) ** 2 * 50 + (4 * v) ** 2
    )
    assert relative_tolerance(mixed, TensorProto.FLOAT) == pytest.approx(expected)
    assert relative_tolerance([], TensorProto.BFLOAT16) == 4 * 2.0**-8
    assert relative_tolerance([], TensorProto.INT64) == 0


def test_order_of_types():
    by_type = [
        relative_tolerance([Reduction(512, t)], t)
        for t in (
            TensorProto.DOUBLE,
            TensorProto.FLOAT,
            TensorProto.FLOAT16,
            TensorProto.BFLOAT16,
        )
    ]
    assert by_type == sorted(by_type)
    tf32 = relative_tolerance([Reduction(512, TensorProto.FLOAT)], TensorProto.FLOAT, tf32=True)
    assert 100 * by_type[1] < tf32


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("channels", [1, 16, 256])
def test_rounding_passes_and_a_missing_tap_does_not(dtype, channels):
    case = Case((6, 6), (4, 4), group_in=channels, strides=(2, 2), dtype=dtype, bias=False)
    arrays = case.arrays()
    expected = case.expected(arrays)
    limit = (
        relative_tolerance(
            reductions_by_node(conv_transpose_model(case), {})[0],
            conv_transpose_model(case).graph.input[0].type.tensor_type.elem_type,
        )
        * np.abs(expected).max()
    )
    rounded = _core.run(arrays["x"], arrays["w"], **case.attributes).astype(np.float64)
    assert np.abs(rounded - expected).max() < limit
    arrays["w"][0, 0, 1, 2] = 0
    assert np.abs(case.expected(arrays) - expected).max() > limit


def test_a_chain_adds_up():
    nodes = reductions_by_node(chain_model(3), {})
    assert [[r.length for r in node] for node in nodes] == [[16], [], [16], [], [16], []]


def test_functions_into_the_unit_interval_have_an_absolute_floor() -> None:
    relu, sigmoid = (helper.make_node(name, ["x"], ["y"]) for name in ("Relu", "Sigmoid"))
    assert absolute_floor([relu]) == 0
    assert absolute_floor([relu, sigmoid]) == 4 * 2.0**-24
    assert absolute_floor([sigmoid], TensorProto.DOUBLE) == 4 * 2.0**-53
    assert absolute_floor([sigmoid], TensorProto.FLOAT16) == 4 * 2.0**-24


# ---- weights in 8 bits ---------------------------------------------------------------------------


def test_what_rounding_to_8_bits_does():
    w = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32)
    rows = w.reshape(2, 3, 4, -1).swapaxes(1, 2).reshape(8, -1).astype(np.float64)
    errors = []
    for row in rows:
        scale = np.abs(row).max() / 127
        errors.append(np.linalg.norm(row - np.rint(row / scale) * scale))
    expected = max(errors) / np.linalg.norm(rows, axis=1).max()
    assert int8_roundoff(w, 2) == pytest.approx(expected)
    assert 2.0**-9 < expected < 2.0**-6
    assert int8_roundoff(np.rint(w * 20) * np.float32(0.5), 2, [0.5]) < 1e-7
    assert int8_roundoff(np.zeros((2, 3, 4)), 1) == 0
    assert int8_roundoff(np.zeros((0, 3, 4)), 1) == 0


def test_a_large_weight_coarsens_its_channel():
    """The tolerance follows from the weights: what is kept worse may differ by more."""
    case = Case((5, 4), (4, 4), group_in=40, group_out=8, strides=(2, 2), pads=(1, 1, 1, 1))
    tolerances = []
    for largest in (1.0, 30.0):
        arrays = case.arrays()
        arrays["w"][:, :, 0, 0] = 0
        arrays["w"][0, :, 0, 0] = largest
        original = conv_transpose_model(case, arrays)
        kept = ort_tconv.convert(original, weights="int8")
        report = ort_tconv.validate(original, kept)
        assert report.ok
        (output,) = report.outputs
        assert output.max_abs > output.tolerance / 100
        tolerances.append(relative_tolerance(reductions_by_node(kept, {})[0]))
    assert tolerances[1] > 3 * tolerances[0]


def test_weights_in_8_bits_whose_values_are_not_known(tmp_path):
    case = Case((5, 4), (4, 4), group_in=5, strides=(2, 2))
    kept = ort_tconv.convert(conv_transpose_model(case), weights="int8")
    (known,) = reductions_by_node(kept, {})[0]
    assert 0 < known.weights < 2.0**-6
    external_data_helper.convert_model_to_external_data(kept, location="w.data", size_threshold=0)
    onnx.save(kept, tmp_path / "model.onnx")
    outside = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    (node,) = reductions_by_node(outside, {})
    assert [r.weights for r in node] == [2.0**-6]
    (node,) = reductions_by_node(outside, {}, tmp_path)
    assert [r.weights for r in node] == [known.weights]
    assert ort_tconv.validate(conv_transpose_model(case), tmp_path / "model.onnx").ok
