"""Inputs given and made up."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from cases import Case, conv_transpose_model, model, tensor, value
from onnx import TensorProto, helper

from ort_tconv.models.inputs import describe, load_inputs, make_inputs


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
    with pytest.raises(ValueError, match="input 'x' is of type sequence, not a tensor"):
        make_inputs(reading(sequence))


def test_description():
    assert describe(np.zeros((1, 3), np.float16)) == "float16 [1×3]"


# ---- distributions and files -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "least", "mean", "most"),
    [
        ("normal", -6, 0, 6),
        ("normal:5,0.1", 4, 5, 6),
        ("uniform", 0, 0.5, 1),
        ("uniform:-3,1", -3, -1, 1),
        ("integers", -8, 0, 8),
        ("integers:0,2", 0, 1, 2),
    ],
)
def test_distributions(text, least, mean, most):
    source = reading(value("x", "float32", [4000]))
    array = make_inputs(source, distribution=text)["x"]
    assert array.dtype == np.float32
    assert least <= array.min() and array.max() <= most
    assert abs(array.mean() - mean) < 0.05 * (most - least)
    if text.startswith("integers"):
        assert (array == np.rint(array)).all() and {array.min(), array.max()} == {least, most}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cauchy", "there is no 'cauchy'; there are normal, uniform, integers"),
        ("uniform:1", "two numbers are needed after the colon, low and high, as in uniform:0,1"),
        ("normal:0,wide", "mean and deviation, as in normal:0,1"),
        ("uniform:2,1", "low and high do not fit together"),
        ("normal:0,-1", "mean and deviation do not fit together"),
    ],
)
def test_distributions_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        make_inputs(reading(value("x", "float32", [1])), distribution=text)


def two_inputs() -> onnx.ModelProto:
    """Inputs a and b, and one between them that has a default."""
    inputs = [value(name, "float32", [2]) for name in ("a", "w", "b")]
    return reading(*inputs, initializers=[tensor(np.zeros(2, np.float32), "w")])


def test_npz(tmp_path):
    arrays = {"a": np.arange(2.0), "b": np.ones(2)}
    np.savez(tmp_path / "inputs.npz", **arrays)
    (loaded,) = load_inputs(tmp_path / "inputs.npz", two_inputs())
    assert loaded.keys() == arrays.keys()
    np.testing.assert_array_equal(loaded["a"], arrays["a"])


def test_test_data(tmp_path):
    """Files are in the order of the inputs without a default; folders in that of their numbers."""
    for number in (0, 2, 10):
        folder = tmp_path / f"test_data_set_{number}"
        folder.mkdir()
        for i in range(2):
            array = np.full(2, 100 * number + i, np.float32)
            (folder / f"input_{i}.pb").write_bytes(tensor(array, "?").SerializeToString())
    loaded = load_inputs(tmp_path, two_inputs())
    assert [[int(arrays[name][0]) for name in "ab"] for arrays in loaded] == [
        [0, 1],
        [200, 201],
        [1000, 1001],
    ]
    (single,) = load_inputs(tmp_path / "test_data_set_2", two_inputs())
    assert int(single["a"][0]) == 200


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int64"])
def test_types_of_test_data(dtype, tmp_path):
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    array = np.array([1, 2, 3]).astype(dtype)
    (tmp_path / "input_0.pb").write_bytes(tensor(array, "x").SerializeToString())
    (loaded,) = load_inputs(tmp_path, two_inputs())
    assert loaded["a"].dtype == dtype
    np.testing.assert_array_equal(loaded["a"], array)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_inputs(tmp_path / "absent.npz", two_inputs())
    with pytest.raises(ValueError, match=r"holds neither input_0\.pb nor a folder test_data_set_0"):
        load_inputs(tmp_path, two_inputs())
    np.save(tmp_path / "one.npy", np.zeros(1))
    (tmp_path / "text").write_text("no array")
    (tmp_path / "empty").write_text("")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not much of an archive")
    with pytest.raises(ValueError, match=r"a single array; an \.npz file with named ones"):
        load_inputs(tmp_path / "one.npy", two_inputs())
    for name in ("text", "empty", "broken.npz"):
        with pytest.raises(ValueError, match=rf"inputs: .*{name}: not an \.npz file"):
            load_inputs(tmp_path / name, two_inputs())
    (tmp_path / "input_0.pb").write_bytes(b"\xff\xff no tensor")
    with pytest.raises(ValueError, match=r"input_0\.pb: not a serialised tensor"):
        load_inputs(tmp_path, two_inputs())
    data = tensor(np.zeros(1, np.float32), "x").SerializeToString()
    for i in range(3):
        (tmp_path / f"input_{i}.pb").write_bytes(data)
    with pytest.raises(ValueError, match="holds 3 inputs and the model takes 2: 'a', 'b'"):
        load_inputs(tmp_path, two_inputs())
