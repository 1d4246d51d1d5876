"""A model repository as Triton reads it: parsed by its schema, and run as its backend would."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import ort_tconv
from ort_tconv.conversion.triton import export_triton

schema = pytest.importorskip(
    "tritonclient.grpc.model_config_pb2",
    reason="Triton's schema: pip install 'tritonclient[grpc]'",
    exc_type=(ImportError, RuntimeError),
)
text_format = pytest.importorskip("google.protobuf.text_format")


def make_model(x=("n", 4, 5, 3), y=("n", 2, 10, 6), name="x", **graph) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((4, 2, 4, 4), dtype=np.float32)
    parts = {
        "nodes": [
            helper.make_node("ConvTranspose", [name, "w"], ["t"], strides=[2, 2], pads=[1] * 4),
            helper.make_node("Mul", ["t", "scale"], ["y"]),
        ],
        "name": "upsampler",
        "inputs": [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, x),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 2, 4, 4]),
        ],
        "outputs": [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        "initializer": [numpy_helper.from_array(weights, "w")],
    } | graph
    return helper.make_model(
        helper.make_graph(**parts), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def read_config(folder: Path):
    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def test_what_is_written_is_what_triton_reads(tmp_path):
    folder = export_triton(make_model(), tmp_path / "models", instances=3)
    assert folder == tmp_path / "models/upsampler"
    config = read_config(folder)
    assert (config.name, config.backend, config.max_batch_size) == ("upsampler", "onnxruntime", 0)
    # An initializer that callers may override is no input that a request must bring.
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("x", schema.TYPE_FP32, [-1, 4, 5, 3]),
        ("scale", schema.TYPE_FP32, [1]),
    ]
    # A tensor without dimensions, which Triton does not have, loses the one that Triton asks for.
    assert config.input[1].HasField("reshape") and not config.input[1].reshape.shape
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("y", schema.TYPE_FP32, [-1, 2, 10, 6])
    ]
    (group,) = config.instance_group
    assert group.kind == schema.ModelInstanceGroup.KIND_CPU and group.count == 3
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert not config.HasField("dynamic_batching")


def test_it_runs_as_the_backend_runs_it(tmp_path):
    """From the files alone: the configuration's library and threads, the model of version 1."""
    model = make_model()
    folder = export_triton(model, tmp_path, threads=2)
    config = read_config(folder)
    options = ort.SessionOptions()
    for library in config.model_operations.op_library_filename:
        assert Path(library).is_absolute()
        options.register_custom_ops_library(library)
    options.intra_op_num_threads = int(config.parameters["intra_op_thread_count"].string_value)
    path = folder / "1/model.onnx"
    nodes = onnx.load(path).graph.node
    assert "SegregatedConvTranspose" in [node.op_type for node in nodes]
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {"x": np.ones((2, 4, 5, 3), np.float32), "scale": np.array(0.5, np.float32)}
    (y,) = session.run([config.output[0].name], feeds)
    stock = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(y, stock.run(None, feeds)[0], rtol=1e-4, atol=1e-5)


def test_batching(tmp_path):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 5, 3])]
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1] * 4)]
    config = read_config(
        export_triton(make_model(nodes=nodes, inputs=inputs), tmp_path, max_batch=8)
    )
    assert config.max_batch_size == 8 and config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [4, 5, 3] and list(config.output[0].dims) == [2, 10, 6]


def test_a_server_that_sees_the_repository_elsewhere(tmp_path):
    folder = export_triton(
        make_model(),
        tmp_path,
        name="a",
        server_repository="/models",
        provider="CUDAExecutionProvider",
    )
    config = read_config(folder)
    assert list(config.model_operations.op_library_filename) == ["/models/a/libort_tconv.so"]
    assert (folder / "libort_tconv.so").is_file()
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert config.parameters["intra_op_thread_count"].string_value == "0"


@pytest.mark.parametrize("name", ['a "quoted" name', "back\\slash", "größe", "tab\there"])
def test_names_survive_the_text_format(name, tmp_path):
    assert read_config(export_triton(make_model(name=name), tmp_path)).input[0].name == name


def test_external_data_comes_along(tmp_path):
    onnx.save(
        make_model(),
        tmp_path / "big.onnx",
        save_as_external_data=True,
        size_threshold=0,
        location="weights.bin",
    )
    folder = export_triton(tmp_path / "big.onnx", tmp_path / "models")
    assert folder.name == "big"
    written = {path.name for path in folder.rglob("*") if path.is_file()}
    assert written == {"config.pbtxt", "libort_tconv.so", "model.onnx", "model.onnx.data"}
    options = ort_tconv.register(ort.SessionOptions())
    ort.InferenceSession(folder / "1/model.onnx", options, providers=["CPUExecutionProvider"])


def sequence(model: onnx.ModelProto) -> onnx.ModelProto:
    made = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    model.graph.output[0].CopyFrom(made)
    return model


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (make_model(), {"instances": 0}, "instances = 0: must be at least 1"),
        (make_model(), {"threads": -1}, "threads = -1: must be 0"),
        (make_model(), {"max_batch": -1}, "max_batch = -1: must be 0"),
        (make_model(), {"max_batch": 4}, r"input 'scale' has shape \[\], whose first dimension"),
        (make_model(x=(1, 4, 5, 3)), {"max_batch": 4}, r"input 'x' has shape \[1, 4, 5, 3\]"),
        (make_model(), {"name": "a/b"}, "name 'a/b': must be the name of a folder"),
        (make_model(), {"provider": "Other"}, "provider 'Other': must be one of CPU"),
        (make_model(), {"server_repository": "models"}, "'models': must be an absolute path"),
        (make_model(x=None), {}, "input 'x' is declared without a shape"),
        (sequence(make_model()), {}, "output 'y' is of type sequence_type"),
    ],
)
def test_refusals_name_the_argument_and_write_nothing(model, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_triton(model, tmp_path / "models", **arguments)
    assert not (tmp_path / "models").exists()


def test_what_is_there_is_not_replaced(tmp_path):
    export_triton(make_model(), tmp_path)
    with pytest.raises(FileExistsError, match="is there already"):
        export_triton(make_model(), tmp_path)


def test_a_failure_leaves_no_half_a_model(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="no space left"):
        export_triton(make_model(), tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_the_example_is_what_the_command_writes(tmp_path):
    """The configuration in examples/triton-server, for the generator of docs/make_cli.py."""
    root = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location("make_cli", root / "docs/make_cli.py")
    make_cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_cli)
    onnx.save(make_cli.generator(), tmp_path / "generator.onnx")
    (line,) = re.findall(
        "^ort-tconv .*", (root / "examples/triton-server/README.md").read_text(), re.M
    )
    command = [Path(sys.executable).parent / "ort-tconv", *line.split()[1:]]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    written, shown = (
        (folder / "models/generator/config.pbtxt").read_text()
        for folder in (tmp_path, root / "examples/triton-server")
    )
    assert written == shown


def test_command(tmp_path):
    onnx.save(make_model(), tmp_path / "net.onnx")
    program = Path(sys.executable).parent / "ort-tconv"
    command = [program, "export-triton", "net.onnx", "models", "--instances", "2", "--threads", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"models/net/{name}" for name in ("1/model.onnx", "config.pbtxt", "libort_tconv.so")
    ]
    config = read_config(tmp_path / "models/net")
    assert config.instance_group[0].count == 2
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode == 2 and "is there already" in again.stderr
