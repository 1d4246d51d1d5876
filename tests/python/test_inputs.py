"""Inputs given and made up."""

import numpy as np
import onnx
import pytest
from cases import Case, conv_transpose_model, model, tensor, value
from onnx import TensorProto, helper

from ort_tconv.inputs import describe, make_inputs


def reading(*inputs: onnx.ValueInfoProto, nodes=(), initializers=()) -> onnx.ModelProto:
    """A model with these inputs; what it does with them does not matter."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), [], list(initializers))
    return model(graph)


def shape_of(*dims, nodes=(), initializers=(), **options) -> tuple[int, ...]:
    made = make_inputs(
        reading(value("x", "float32", list(dims)), nodes=nodes, initializers=initializers),
        **options,
    )
    return made["x"].shape


def test_fixed_shapes():
    assert shape_of(2, 3, 4) == (2, 3, 4)
    assert shape_of() == ()


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        (("n", 4), (1, 4)),
        (("n", 3, "l"), (1, 3, 256)),
        (("n", 3, "h", "w"), (1, 3, 64, 64)),
        ((None, 3, None, 20), (1, 3, 64, 20)),
        (("n", 3, "d", "h", "w"), (1, 3, 16, 16, 16)),
    ],
)
def test_guesses(dims, shape):
    assert shape_of(*dims) == shape


@pytest.mark.parametrize(
    ("op", "weight", "channels"), [("Conv", (8, 3, 5, 5), 6), ("ConvTranspose", (5, 3, 4, 4), 5)]
)
def test_channels_are_those_of_the_convolution(op, weight, channels):
    node = helper.make_node(op, ["x", "w"], ["y"], group=2 if op == "Conv" else 1)
    shape = shape_of(
        "n", "c", "h", "w", nodes=[node], initializers=[tensor(np.zeros(weight, np.float32), "w")]
    )
    assert shape == (1, channels, 64, 64)


def test_what_cannot_be_guessed_is_an_error():
    with pytest.raises(ValueError, match=r"dimension 1 of input 'x' \[n, c, h\] cannot be guessed"):
        shape_of("n", "c", "h")
    with pytest.raises(ValueError, match="input 'x' has no shape"):
        make_inputs(reading(value("x", "float32", None)))


def test_shapes_settle_open_dimensions():
    assert shape_of("n", "c", "h", shapes={"x": (2, 5, 7)}) == (2, 5, 7)
    two = reading(value("a", "float32", ["n", "c"]), value("b", "float32", ["c", "n", 3]))
    made = make_inputs(two, shapes={"b": (4, 2, 3)})
    assert made["a"].shape == (2, 4) and made["b"].shape == (4, 2, 3)
    assert make_inputs(two, {"a": np.zeros((6, 5), np.float32)})["b"].shape == (5, 6, 3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 5), r"dimension 1 of 'x' is 4 in \[1, 4, 5\]; the model takes \[n, 3, h\]"),
        ((1, 3), r"'x' has 2 dimensions \[1, 3\]; the model takes 3, \[n, 3, h\]"),
        ((1, 3, -2), "dimension 2 of 'x' is -2"),
    ],
)
def test_shapes_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=f"shapes: .*{message}"):
        shape_of("n", 3, "h", shapes={"x": shape})
    if min(shape) >= 0:
        with pytest.raises(ValueError, match=f"inputs: .*{message}"):
            shape_of("n", 3, "h", given={"x": np.zeros(shape, np.float32)})


def test_one_name_is_one_size():
    two = reading(value("a", "float32", ["n", 1]), value("b", "float32", ["n", 1]))
    with pytest.raises(ValueError, match="n is 2"):
        make_inputs(two, shapes={"a": (2, 1), "b": (3, 1)})


def test_unknown_names():
    for options in ({"given": {"z": 1}}, {"shapes": {"z": (1,)}}):
        with pytest.raises(ValueError, match="the model has no input 'z'; it has 'x'"):
            shape_of(1, **options)


def test_given_arrays_are_used():
    array = np.arange(6.0).reshape(2, 3)
    made = make_inputs(reading(value("x", "float32", [2, 3])), {"x": array})
    assert made["x"].dtype == np.float32
    np.testing.assert_array_equal(made["x"], array)
    integers = reading(helper.make_tensor_value_info("x", TensorProto.INT64, [1]))
    with pytest.raises(ValueError, match="'x' has type float64; the model takes int64"):
        make_inputs(integers, {"x": np.zeros(1)})


def test_initializers_need_no_input():
    case = Case((4,), (3,))
    assert set(make_inputs(conv_transpose_model(case, weights="overridable"))) == {"x"}
    assert set(make_inputs(conv_transpose_model(case, weights="input"))) == {"x", "w", "b"}


@pytest.mark.parametrize(
    ("element_type", "least", "most"),
    [
        (TensorProto.UINT8, 0, 255),
        (TensorProto.INT64, 0, 1),
        (TensorProto.BOOL, 0, 1),
    ],
)
def test_integers(element_type, least, most):
    info = helper.make_tensor_value_info("x", element_type, [4, 1000])
    array = make_inputs(reading(info))["x"]
    assert (array.min(), array.max()) == (least, most)


def test_seeds():
    source = reading(value("x", "float16", [50]))
    first, again, other = (make_inputs(source, seed=seed)["x"] for seed in (1, 1, 2))
    assert first.dtype == np.float16
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_other_inputs_are_refused():
    strings = helper.make_tensor_value_info("x", TensorProto.STRING, [1])
    with pytest.raises(ValueError, match=r"input 'x'.*give inputs="):
        make_inputs(reading(strings))
    assert make_inputs(reading(strings), {"x": np.array(["a"], object)})["x"][0] == "a"
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    with pytest.raises(ValueError, match="input 'x' is a sequence, not a tensor"):
        make_inputs(reading(sequence))


def test_description():
    assert describe(np.zeros((1, 3), np.float16)) == "float16 [1×3]"
