"""Models of more than 2 GB: what conversion takes of memory, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import model, value
from onnx import TensorProto, helper

COUNT, SHAPE = 9, (64, 1024, 1024)
BYTES = COUNT * 4 * np.prod(SHAPE)
MIB = 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units there")


@pytest.fixture
def large(tmp_path) -> Path:
    """Nine tables beside a ConvTranspose, 2.25 GiB in a file that takes no room on the disk."""
    w = np.random.default_rng(0).standard_normal((4, 4, 4, 4), dtype=np.float32)
    places = [("w", w.shape, 0)]
    places += [(f"table{i}", SHAPE, 4096 + i * 4 * int(np.prod(SHAPE))) for i in range(COUNT)]
    with (tmp_path / "weights.bin").open("wb") as file:
        file.write(w.tobytes())
        file.truncate(4096 + BYTES)
    tensors = []
    for name, shape, offset in places:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": "weights.bin", "offset": offset, "length": 4 * int(np.prod(shape))}
        for key, entry in place.items():
            tensor.external_data.add(key=key, value=str(entry))
        tensors.append(tensor)
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", strides=[2, 2])]
    outputs = [value("y", "float32", None)]
    for i in range(COUNT):
        nodes.append(helper.make_node("Gather", [f"table{i}", "index"], [f"row{i}"]))
        outputs.append(value(f"row{i}", "float32", None))
    index = helper.make_tensor_value_info("index", TensorProto.INT64, [1])
    inputs = [value("x", "float32", [1, 4, 5, 6]), index]
    path = tmp_path / "model.onnx"
    onnx.save(model(helper.make_graph(nodes, "large", inputs, outputs, tensors)), path)
    return path


def growth(path: Path, arguments: str) -> int:
    """By how many bytes the process grew at most while it converted the model."""
    return _growth(f"""
from ort_tconv.converters import convert_with_report
before = peak()
result = convert_with_report({str(path)!r}, {arguments})
assert len(result.changes) == 1
""")


def _growth(code: str) -> int:
    """By how many bytes a process grows from ``before`` on."""
    code = f"""
import resource
peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{code}
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_weights_stay_in_their_file(large):
    assert growth(large, "load_external_data=False") < 128 * MIB


@pytest.mark.slow
def test_weights_are_copied_from_file_to_file(large, tmp_path):
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "out.onnx"
    assert growth(large, f"{str(output)!r}, load_external_data=False") < 192 * MIB
    written = onnx.load(output, load_external_data=False)
    assert (tmp_path / "out" / "out.onnx.data").stat().st_size >= BYTES
    before, after = (
        onnx.numpy_helper.to_array(t, base_dir=str(folder))
        for t, folder in (
            (onnx.load(large, load_external_data=False).graph.initializer[0], tmp_path),
            (written.graph.initializer[0], output.parent),
        )
    )
    np.testing.assert_array_equal(before, after)
    (tmp_path / "out" / "out.onnx.data").unlink()  # pytest keeps the folder


@pytest.mark.slow
def test_weights_are_loaded_once(large):
    # The system may drop pages of a file before all are read.
    assert 0.5 * BYTES < growth(large, "") < 1.3 * BYTES


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["", "ort.SessionOptions()"], ids=["own", "the caller's"])
def test_sessions_map_the_weights(large, arguments):
    """From where they lie, or from a copy; neither is in memory."""
    assert (
        _growth(f"""
import numpy as np
import onnxruntime as ort
import ort_tconv
ort_tconv.InferenceSession  # which imports onnx
before = peak()
session = ort_tconv.InferenceSession({str(large)!r}, {arguments})
y = session.run(["y"], {{"x": np.ones((1, 4, 5, 6), np.float32), "index": np.array([0])}})
""")
        < 512 * MIB
    )
