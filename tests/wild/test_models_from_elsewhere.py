"""Models that arrive in other ways than as a file, under odd names, or are written to such."""

import io
import logging
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import CORNERS, conv_transpose_model, graph_model, nodes_of
from exports import check, export, model
from onnx import TensorProto, helper, numpy_helper
from sessions import agree, options
from terminal import run_here as run

import ort_tconv
from ort_tconv.converters import ConversionError, convert_with_report

RNG = np.random.default_rng(0)


def up(x: str = "x", y: str = "y") -> onnx.NodeProto:
    return helper.make_node("ConvTranspose", [x, "w"], [y], "up", strides=[2, 2])


def upsampling(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    weights = {"w": RNG.standard_normal((4, 3, 4, 4)).astype(np.float32)}
    return graph_model(list(nodes) or [up()], weights | constants, {"x": (1, 4, 6, 6)})


def test_an_open_file(tmp_path):
    with export(tmp_path / "A", 2.0).open("rb") as file:
        for source in (file, io.BytesIO(model(2.0).SerializeToString())):
            for use in (ort_tconv.convert, ort_tconv.InferenceSession, ort_tconv.inspect):
                with pytest.raises(TypeError, match=r"pass what its read\(\) returns"):
                    use(source)


def test_a_pipe(tmp_path):
    content = model(2.0).SerializeToString()
    for verb in (["convert", "-", tmp_path / "out.onnx"], ["inspect", "-"], ["validate", "-"]):
        done = subprocess.run(
            [sys.executable, "-m", "ort_tconv", *map(str, verb)],
            input=content,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    check(ort_tconv.InferenceSession(tmp_path / "out.onnx"), 2.0)


def test_spaces_and_other_alphabets_in_paths(tmp_path):
    folder = tmp_path / "my models" / "模型 ü 😀"
    folder.parent.mkdir()
    path = export(folder, 2.0)
    path = path.rename(folder / "mo dèl.onnx")
    output = folder / "ausgabe ñ.onnx"
    for arguments in ((), (options(),)):
        check(ort_tconv.InferenceSession(path, *arguments), 2.0)
    done = run("convert", path, output, "--check")
    assert done.returncode == 0, done.stderr
    check(ort_tconv.InferenceSession(str(output)), 2.0)
    timed = ort_tconv.benchmark(path, output, repeat=1, warm_up=0, seconds=0)
    assert timed.validation.ok


def test_data_in_folders_below(tmp_path):
    original = onnx.load(export(tmp_path / "A", 2.0))
    (tmp_path / "B" / "weights" / "part").mkdir(parents=True)
    path = tmp_path / "B" / "model.onnx"
    onnx.save(
        original,
        path,
        save_as_external_data=True,
        location="weights/part/data.bin",
        size_threshold=100,
    )
    for arguments in ((), (options(),)):
        check(ort_tconv.InferenceSession(path, *arguments), 2.0)
    ort_tconv.convert(path, tmp_path / "out.onnx")
    check(ort_tconv.InferenceSession(tmp_path / "out.onnx"), 2.0)


@pytest.mark.parametrize("suffix", [".textproto", ".json", ".onnxtxt", ".ort"])
def test_suffixes_of_other_formats_are_refused(suffix, tmp_path):
    """What is written would not be what a reader takes it for."""
    output = tmp_path / f"out{suffix}"
    with pytest.raises(ConversionError, match=r"binary format.*name it out\.onnx"):
        ort_tconv.convert(model(2.0), output)
    assert not output.exists()


def test_strings_as_inputs():
    """Labels that only pass through."""
    original = upsampling(up(), helper.make_node("Identity", ["s"], ["t"]))
    for values, name in ((original.graph.input, "s"), (original.graph.output, "t")):
        values.append(helper.make_tensor_value_info(name, TensorProto.STRING, [2]))
    feeds = {"s": np.array(["a", "b"], object)}
    report = ort_tconv.validate(original, inputs=feeds)
    assert report.ok and len(report.outputs) == 2
    timed = ort_tconv.benchmark(original, inputs=feeds, repeat=1, warm_up=0, seconds=0)
    assert timed.validation.ok and timed.stock.runs
    with pytest.raises(ValueError, match=r"input 's'.*give inputs="):
        ort_tconv.validate(original)


def test_sequences_as_outputs():
    original = upsampling(up(), helper.make_node("SequenceConstruct", ["y", "y"], ["both"]))
    del original.graph.output[:]
    original.graph.output.append(
        helper.make_tensor_sequence_value_info("both", TensorProto.FLOAT, None)
    )
    assert ort_tconv.validate(original).ok
    assert ort_tconv.benchmark(original, repeat=1, warm_up=0, seconds=0).validation.ok


@pytest.mark.parametrize("name", ["w", "k"])
def test_sparse_initializers(name, caplog):
    """No alarm, and the same result."""
    original = upsampling(
        up(y="u"), helper.make_node("Mul", ["u", "k"], ["y"]), k=np.ones((3, 1, 1), np.float32)
    )
    (dense,) = (tensor for tensor in original.graph.initializer if tensor.name == name)
    sparse = onnx.SparseTensorProto(dims=dense.dims)
    numbers = np.array([1, 2], np.float32)
    sparse.values.CopyFrom(numpy_helper.from_array(numbers, name))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0, 2]), f"{name}_at"))
    original.graph.initializer.remove(dense)
    original.graph.sparse_initializer.append(sparse)
    with caplog.at_level(logging.WARNING):
        converted = ort_tconv.convert(original)
    assert not [record for record in caplog.records if record.name.startswith("onnx_ir")]
    assert nodes_of(converted, "SegregatedConvTranspose")
    assert [value.name for value in converted.graph.input] == ["x"]
    agree(original, converted)
    assert ort_tconv.validate(original, converted).ok
    assert [site.node for site in ort_tconv.inspect(original).sites] == ["up"]


def test_sparse_initializers_of_a_branch():
    """In either way of writing indices: the same result, and the original is left as it was."""
    weights = np.zeros((4, 3, 2, 2), np.float32)
    branches = {}
    for branch in ("then_branch", "else_branch"):
        made = helper.make_tensor_value_info(branch, TensorProto.FLOAT, (1, 3, 12, 12))
        node = helper.make_node("ConvTranspose", ["x", "w"], [branch], "up", strides=[2, 2])
        dense = numpy_helper.from_array(weights, "w")
        branches[branch] = helper.make_graph([node], branch, [], [made], [dense])
    choice = helper.make_node("If", ["flag"], ["y"], "if", **branches)
    flag = {"flag": np.array(True)}
    original = graph_model([choice], flag, {"x": (1, 4, 6, 6)})
    for attribute, places in zip(
        original.graph.node[0].attribute, ([5, 9], [[0, 1, 0, 1], [3, 2, 1, 0]])
    ):
        body = attribute.g
        del body.initializer[:]
        sparse = body.sparse_initializer.add(dims=weights.shape)
        sparse.values.CopyFrom(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.array(places), "w_at"))
    for taken in (True, False):
        original.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(taken), "flag"))
        before = original.SerializeToString(deterministic=True)
        converted = ort_tconv.convert(original)
        assert len(nodes_of(converted, "SegregatedConvTranspose")) == 2
        agree(original, converted)
        assert len(ort_tconv.inspect(original).sites) == 2
        assert original.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", range(1, 26))
def test_any_opset(opset):
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"onnx {onnx.__version__} does not know it")
    original = conv_transpose_model(CORNERS["the usual 4x4, stride 2"], opset=opset)
    converted = ort_tconv.convert(original)
    assert nodes_of(converted, "SegregatedConvTranspose")
    try:
        ort.InferenceSession(original.SerializeToString(), providers=["CPUExecutionProvider"])
    except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
        assert "opset" in str(error).lower()
        pytest.skip(f"onnxruntime {ort.__version__} does not load it")
    agree(original, converted)


def test_inputs_of_ir_version_3_that_are_weights():
    case = CORNERS["the usual 4x4, stride 2"]
    original = conv_transpose_model(case, weights="overridable", opset=8, ir_version=3)
    converted = ort_tconv.convert(original)
    assert nodes_of(converted, "SegregatedConvTranspose")
    agree(original, converted)


def test_nodes_without_names():
    original = upsampling(up(y="u"), helper.make_node("Relu", ["u"], ["y"]))
    for node in original.graph.node:
        node.name = ""
    original.graph.name = ""
    result = convert_with_report(original, tune=True, threads=1)
    agree(original, result.model)
    assert ort_tconv.benchmark(original, repeat=1, warm_up=0, seconds=0, memory=False).nodes


def test_declared_shapes_that_are_wrong():
    """Left behind by a tool that changed the model."""
    original = upsampling(up(y="u"), helper.make_node("Relu", ["u"], ["y"]))
    original.graph.value_info.append(helper.make_tensor_value_info("u", 1, [1, 3, 99, 99]))
    original.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [1, 3, 77, 77]))
    converted = ort_tconv.convert(original)
    assert nodes_of(converted, "SegregatedConvTranspose")
    assert ort_tconv.validate(original, converted).ok
    (site,) = ort_tconv.inspect(original).sites
    assert site.y_shape == (1, 3, 14, 14)


@pytest.mark.parametrize(
    "make",
    [
        lambda: helper.make_node("Constant", [], ["w"], value_floats=[0.5] * 192),
        lambda: helper.make_node("DequantizeLinear", ["q", "step"], ["w"]),
        lambda: helper.make_node(
            "ConstantOfShape",
            ["shape"],
            ["w"],
            value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5]),
        ),
    ],
    ids=["Constant and Reshape", "DequantizeLinear", "ConstantOfShape"],
)
def test_weights_that_nodes_compute(make):
    node = make()
    nodes = [node, up()]
    if node.op_type == "Constant":
        node.output[0] = "flat"
        nodes.insert(1, helper.make_node("Reshape", ["flat", "shape"], ["w"]))
    constants = {
        "shape": np.array([4, 3, 4, 4]),
        "q": RNG.integers(-127, 128, (4, 3, 4, 4)).astype(np.int8),
        "step": np.float32(0.01),
    }
    read = {name for each in nodes for name in each.input}
    original = graph_model(
        nodes,
        {name: array for name, array in constants.items() if name in read},
        {"x": (1, 4, 6, 6)},
    )
    converted = ort_tconv.convert(original)
    assert nodes_of(converted, "SegregatedConvTranspose")
    agree(original, converted)


def test_one_provider_by_its_name():
    """A string, where onnxruntime wants a list."""
    provider = "CPUExecutionProvider"
    session = ort_tconv.InferenceSession(model(2.0), providers=provider)
    assert session.get_providers() == [provider]
    assert ort_tconv.validate(model(2.0), providers=provider).providers == [provider]
    with pytest.raises(ValueError, match="provider 'CPU' is not available"):
        ort_tconv.validate(model(2.0), providers="CPU")
