"""External tensors that say where they begin in a file, but not where they end."""

import numpy as np
import onnx
import pytest
from exports import FEEDS, check, expected, export, stock

import ort_tconv
from ort_tconv.converters import ConversionError


def rewrite_entries(path, change, name: str = "") -> None:
    """``change`` the entries of each external tensor, a dictionary, or of the one named."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        is_external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if is_external and name in ("", tensor.name):
            entries = {entry.key: entry.value for entry in tensor.external_data}
            change(entries)
            del tensor.external_data[:]
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())


@pytest.fixture
def path(tmp_path):
    """A model whose data is followed by something else."""
    path = export(tmp_path / "A", 2.0)
    with path.with_name("model.onnx.data").open("ab") as data:
        data.write(b"x" * 5000)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries.pop("length"),
        lambda entries: entries.update(length=0),
        lambda entries: entries.update(checksum="0" * 40),
    ],
    ids=["none", "zero", "a checksum"],
)
def test_the_tensors_size_counts(path, change, tmp_path):
    rewrite_entries(path, change)
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "out.onnx"
    returned = ort_tconv.convert(path, output)
    kept_out = onnx.load(output, load_external_data=False)
    assert any(t.data_location == onnx.TensorProto.EXTERNAL for t in kept_out.graph.initializer)
    for model in (path, output, returned):
        check(ort_tconv.InferenceSession(model), 2.0)
    assert ort_tconv.validate(path, output).ok
    onnx.checker.check_model(returned)


def test_neither_offset_nor_length(tmp_path):
    path = export(tmp_path / "A", 2.0)
    folder = path.parent
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=False,
              size_threshold=100)  # fmt: skip
    for file in folder.iterdir():
        if file.suffix != ".onnx":
            file.write_bytes(file.read_bytes() + b"more")
    rewrite_entries(path, lambda entries: [entries.pop(k, None) for k in ("offset", "length")])
    check(stock(path), 2.0)
    check(ort_tconv.InferenceSession(path), 2.0)
    check(ort_tconv.InferenceSession(ort_tconv.convert(path)), 2.0)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"length": 12}, r"tensor 'up'.* length 12.*\[1, 64, 2, 2\].*FLOAT.* 1024 bytes"),
        ({"length": 1 << 40}, r"tensor 'up'.* length 1099511627776"),
        ({"length": -256}, r"tensor 'up'.* length '-256'.*whole number"),
        ({"offset": "1e3"}, r"tensor 'up'.* offset '1e3'.*whole number"),
        ({"offset": 1 << 40}, r"tensor 'up'.*does not lie within"),
    ],
)
def test_what_contradicts_the_tensor_is_an_error(path, entries, message, tmp_path):
    rewrite_entries(path, lambda known: known.update(entries), "up")
    output = tmp_path / "out.onnx"
    for use in (
        lambda: ort_tconv.convert(path),
        lambda: ort_tconv.convert(path, output),
        lambda: ort_tconv.InferenceSession(path),
        lambda: ort_tconv.validate(path),
    ):
        with pytest.raises(ConversionError, match=message):
            use()
    assert not output.exists() and not output.with_name("out.onnx.data").exists()


def test_weights_of_four_bits(tmp_path):
    """Two values share a byte: seven of them have four bytes."""
    values = np.arange(7, dtype=np.uint8)
    packed = bytes(int(a) | int(b) << 4 for a, b in ((0, 1), (2, 3), (4, 5), (6, 0)))
    data = onnx.TensorProto(name="q", data_type=onnx.TensorProto.UINT4, dims=[7])
    data.data_location = onnx.TensorProto.EXTERNAL
    data.external_data.add(key="location", value="q.bin")
    (tmp_path / "q.bin").write_bytes(packed + b"and more")
    path = export(tmp_path / "A", 2.0)
    model = onnx.load(path)
    model.graph.initializer.append(data)
    model.opset_import[0].version, model.ir_version = 21, 10
    source = tmp_path / "model.onnx"
    source.write_bytes(model.SerializeToString())
    loaded = ort_tconv.convert(source).graph.initializer
    (q,) = (tensor for tensor in loaded if tensor.name == "q")
    assert q.raw_data == packed
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(q).astype(np.uint8), values)


def test_the_output_of_the_original(path):
    (y,) = stock(path).run(None, FEEDS)
    assert y.flat[0] == expected(2.0)
