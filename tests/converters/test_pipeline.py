"""convert(): what it takes, what it keeps, what it reports."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cases import (
    CORNERS,
    Case,
    chain_model,
    conv_transpose_model,
    function_model,
    if_model,
    loop_model,
    nodes_of,
    save_external,
    scan_model,
)
from onnx import TensorProto, helper, numpy_helper
from sessions import run_converted, run_stock

import ort_tconv
from ort_tconv.converters import ConversionError, convert, convert_with_report

OP = "SegregatedConvTranspose"
CASE = Case((4, 3), (3, 3), strides=(2, 2))
MODELS = {
    "plain": lambda: conv_transpose_model(CASE),
    "chain": chain_model,
    "Constant weights": lambda: conv_transpose_model(CASE, weights="constant"),
    "run-time weights": lambda: conv_transpose_model(CASE, weights="input"),
    "overridable weights": lambda: conv_transpose_model(CASE, weights="overridable"),
    "IR version 3": lambda: conv_transpose_model(
        CASE, weights="overridable", opset=8, ir_version=3
    ),
    "If": if_model,
    "Loop": loop_model,
    "Scan": scan_model,
    "function": function_model,
}


@pytest.fixture(params=MODELS)
def original(request) -> onnx.ModelProto:
    return MODELS[request.param]()


# ---- contract ----------------------------------------------------------------------------------


def test_argument_is_never_changed(original):
    before = original.SerializeToString(deterministic=True)
    convert(original)
    assert original.SerializeToString(deterministic=True) == before


def test_every_node_is_converted_and_the_result_is_valid(original):
    candidates = len(nodes_of(original, "ConvTranspose"))
    result = convert_with_report(original)
    rewritten = [change for change in result.changes if change.rewrite == "conv_transpose"]
    assert len(rewritten) == candidates > 0
    assert len(nodes_of(result.model, OP)) == candidates
    assert not nodes_of(result.model, "ConvTranspose")
    onnx.checker.check_model(result.model, full_check=True)


def test_converting_twice_changes_nothing(original):
    once = convert(original)
    result = convert_with_report(once)
    assert result.model == once
    assert result.model is not once
    assert not result.changes and not result.skips


def test_interface_is_kept(original):
    converted = convert(original)
    for field in ("input", "output", "initializer"):
        assert list(getattr(converted.graph, field)) == list(getattr(original.graph, field))
    assert converted.ir_version == original.ir_version
    assert converted.graph.name == original.graph.name
    names = [[node.name for node in model.graph.node] for model in (original, converted)]
    fused = [node.name for node in nodes_of(original, "LeakyRelu")]
    assert [name for name in names[0] if name not in fused] == names[1]
    rewritten = {name for node in nodes_of(converted, OP) for name in node.output}
    assert {value.name for value in converted.graph.value_info} <= rewritten


def test_description_is_kept():
    original = conv_transpose_model(CASE)
    original.producer_name, original.producer_version = "exporter", "1.2"
    original.domain, original.model_version = "com.example", 7
    original.doc_string = original.graph.doc_string = "a model"
    original.metadata_props.add(key="stride", value="2")
    original.metadata_props.add(key="author", value="somebody")
    original.graph.quantization_annotation.add(tensor_name="x").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="b"
    )
    converted = convert(original)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(converted, field) == getattr(original, field)
    assert converted.graph.doc_string == "a model"
    assert converted.graph.quantization_annotation == original.graph.quantization_annotation
    kept, metadata = (
        {item.key: item.value for item in model.metadata_props} for model in (original, converted)
    )
    conversion = json.loads(metadata.pop("ort_tconv.conversion"))
    assert metadata == kept
    assert conversion["version"] == ort_tconv.__version__
    assert conversion["options"] == {}


def test_options_are_recorded():
    converted = convert(chain_model(), exclude=["nothing*"], algorithm="direct")
    (text,) = (p.value for p in converted.metadata_props if p.key == "ort_tconv.conversion")
    options = json.loads(text)["options"]
    assert options == {"exclude": ["nothing*"], "algorithm": "direct"}


def test_types_only_the_standard_operator_tells_are_written_down():
    converted = convert(chain_model(), disable="epilogue")
    shapes = {v.name: v.type.tensor_type for v in converted.graph.value_info}
    for i in range(3):
        assert shapes[f"y{i}"].elem_type == TensorProto.FLOAT
        assert [d.dim_param or d.dim_value for d in shapes[f"y{i}"].shape.dim][:2] == ["n", 4]


def _image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "feeds"),
    [
        ("plain", {"x": CASE.arrays()["x"]}),
        ("chain", {"x0": _image(2, 4, 3, 5)}),
        ("Constant weights", {"x": CASE.arrays()["x"]}),
        ("run-time weights", CASE.arrays(1)),
        ("overridable weights", {"x": CASE.arrays()["x"]}),
        ("overridable weights", CASE.arrays(1)),
        ("IR version 3", {"x": CASE.arrays()["x"]}),
        ("If", {"x": _image(1, 2, 5, 5), "flag": np.array(True)}),
        ("If", {"x": _image(1, 2, 5, 5), "flag": np.array(False)}),
        ("Loop", {"x": _image(1, 2, 3, 3)}),
        ("Scan", {"x": _image(4, 1, 2, 3, 3)}),
        ("function", {"x": _image(1, 2, 4, 5)}),
    ],
)
def test_results_are_the_same(name, feeds):
    original = MODELS[name]()
    (expected,) = run_stock(original, feeds)
    (actual,) = run_converted(original, feeds)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_model_without_candidates_comes_back_equal():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "none",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 1, [1])],
    )
    original = helper.make_model(graph)
    result = convert_with_report(original)
    assert result.model == original and result.model is not original
    assert str(result.report) == "0 rewritten, 0 left alone"


# ---- what onnx-ir does not keep ----------------------------------------------------------------


def test_sparse_initializers_and_training_info_are_kept():
    original = conv_transpose_model(CASE)
    values = numpy_helper.from_array(np.array([1.0], np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([3]), "sparse_indices")
    original.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))
    original.training_info.add().algorithm.name = "adam"
    converted = convert(original)
    assert converted.graph.sparse_initializer == original.graph.sparse_initializer
    assert converted.training_info == original.training_info
    assert nodes_of(converted, OP)


def test_map_outputs_are_kept():
    original = conv_transpose_model(CASE)
    map_type = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    original.graph.output.append(
        helper.make_value_info("scores", helper.make_sequence_type_proto(map_type))
    )
    original.graph.node.append(
        helper.make_node("ZipMap", ["y"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=[0])
    )
    original.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    before = original.SerializeToString(deterministic=True)
    converted = convert(original)
    assert list(converted.graph.output) == list(original.graph.output)
    assert nodes_of(converted, OP)
    assert original.SerializeToString(deterministic=True) == before


def test_what_onnx_ir_cannot_represent_is_refused_by_name():
    original = conv_transpose_model(CASE)
    node = original.graph.node.add(op_type="Constant", output=["c"])
    values = numpy_helper.from_array(np.array([1.0], np.float32), "v")
    indices = numpy_helper.from_array(np.array([3]), "i")
    node.attribute.append(
        helper.make_attribute("sparse_value", helper.make_sparse_tensor(values, indices, [9]))
    )
    with pytest.raises(ConversionError, match=r"(?i)sparse"):
        convert(original)


# ---- arguments ---------------------------------------------------------------------------------


def test_sources(tmp_path):
    original = chain_model()
    path = tmp_path / "model.onnx"
    onnx.save(original, path)
    text = tmp_path / "model.textproto"
    onnx.save(original, text)
    expected = convert(original)
    for source in (
        path,
        str(path),
        text,
        original.SerializeToString(),
        bytearray(original.SerializeToString()),
    ):
        assert convert(source) == expected
    from_ir = convert(ir.from_proto(original))
    assert from_ir.graph.node == expected.graph.node
    assert from_ir.graph.initializer == expected.graph.initializer


def test_an_ir_model_is_not_changed():
    original = ir.from_proto(chain_model())
    convert(original)
    assert [node.op_type for node in original.graph].count("ConvTranspose") == 3


@pytest.mark.parametrize("source", [None, 3, [], io.BytesIO(b"")])
def test_other_types_are_refused(source):
    with pytest.raises(TypeError, match=f"model is a {type(source).__name__}"):
        convert(source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a model at all", "not an ONNX model"),
        (b"", "empty: export or download it again"),
        (b"\x00\x00\x00\x00ORTM rest", "ORT format"),
        (conv_transpose_model(CASE).SerializeToString()[:-40], "not an ONNX model"),
    ],
)
def test_files_that_are_no_models(tmp_path, content, message):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(ConversionError, match=message):
            convert(source)
    with pytest.raises(ConversionError, match=r"broken\.onnx"):
        convert(path)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.onnx"):
        convert("nowhere.onnx")


def test_output_is_written(tmp_path):
    path = tmp_path / "out.onnx"
    returned = convert(chain_model(), path)
    assert onnx.load(path) == returned
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize(
    ("options", "converted"),
    [
        ({}, ["up_y0", "up_y1", "up_y2"]),
        ({"include": "up_y1"}, ["up_y1"]),
        ({"include": ["*y0", "*y2"]}, ["up_y0", "up_y2"]),
        ({"exclude": "*y[01]"}, ["up_y2"]),
        ({"include": "up_*", "exclude": ("up_y1", "up_y2")}, ["up_y0"]),
        ({"disable": "conv_transpose"}, []),
    ],
)
def test_selection(options, converted):
    result = convert_with_report(chain_model(), **options)
    assert [node.name for node in nodes_of(result.model, OP)] == converted
    changed = [c.node for c in result.changes if c.rewrite == "conv_transpose"]
    assert changed == converted
    fused = [c.node for c in result.changes if c.rewrite == "epilogue"]
    assert fused == [name.replace("up_y", "act") for name in converted]
    if "disable" not in options:
        skipped = {"up_y0", "up_y1", "up_y2"} - set(converted)
        assert {skip.node for skip in result.skips} == skipped
        assert all("clude" in skip.reason for skip in result.skips)


def test_pattern_that_matches_nothing_is_noted():
    result = convert_with_report(chain_model(), include=["up_y0", "down*"])
    assert result.report.notes == ["include: no candidate's name matches 'down*'"]


def test_unknown_pass():
    with pytest.raises(ValueError, match=r"'winograd'.*conv_transpose"):
        convert(chain_model(), disable="winograd")


# ---- report ------------------------------------------------------------------------------------


def test_report_counts_operators_everywhere():
    before, after = convert_with_report(if_model()).report.operators
    assert before == {"If": 1, "ConvTranspose": 2}
    assert after == {"If": 1, f"ort_tconv::{OP}": 2}


def test_report_says_where():
    assert {c.where for c in convert_with_report(if_model()).changes} == {
        "subgraph then_graph",
        "subgraph else_graph",
    }


def test_model_that_was_invalid_before_is_noted():
    original = chain_model()
    original.graph.output[0].type.tensor_type.ClearField("shape")  # onnxruntime does not mind
    result = convert_with_report(original)
    assert len(nodes_of(result.model, OP)) == 3
    (note,) = result.report.notes
    assert note.startswith("onnx.checker rejects the original model too")


def test_nodes_may_share_a_name():
    original = if_model()
    for attribute in original.graph.node[0].attribute:
        for node in attribute.g.node:
            node.name = "same"
    result = convert_with_report(original)
    assert [change.node for change in result.changes] == ["same", "same"]


# ---- external data -----------------------------------------------------------------------------

BIG = Case((4, 4), (4, 4), group_in=16, group_out=8, strides=(2, 2))


@pytest.fixture
def external(tmp_path) -> Path:
    """A model whose weights lie beside it, in a folder of its own."""
    folder = tmp_path / "source"
    folder.mkdir()
    path = folder / "big.onnx"
    save_external(conv_transpose_model(BIG), path)
    assert (folder / "weights.bin").stat().st_size >= 16 * 8 * 16 * 4
    return path


def locations(model: onnx.ModelProto) -> set[str]:
    return {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def check_run(model: onnx.ModelProto) -> None:
    import onnxruntime as ort

    session = ort.InferenceSession(
        model if isinstance(model, str) else model.SerializeToString(),
        ort_tconv.register(ort.SessionOptions()),
        providers=["CPUExecutionProvider"],
    )
    arrays = BIG.arrays()
    (y,) = session.run(None, {"x": arrays["x"]})
    np.testing.assert_allclose(y, BIG.expected(arrays), atol=1e-4)


def test_external_data_is_in_the_returned_model(external):
    converted = convert(external)
    assert not locations(converted)
    check_run(converted)


def test_external_data_is_written_beside_the_output(external, tmp_path):
    output = tmp_path / "elsewhere" / "out.onnx"
    output.parent.mkdir()
    returned = convert(external, output)
    written = onnx.load(output, load_external_data=False)
    assert locations(written) == {"out.onnx.data"}
    assert output.stat().st_size < 2000
    for name in ("big.onnx", "weights.bin"):
        (external.parent / name).unlink()  # the result does not need them
    check_run(str(output))
    check_run(returned)


def test_external_data_can_stay_external(external, tmp_path):
    assert locations(convert(external, load_external_data=False)) == {"weights.bin"}
    output = tmp_path / "out.onnx"
    assert locations(convert(external, output, load_external_data=False)) == {"out.onnx.data"}


def test_external_data_survives_converting_in_place(external):
    """It stays where it is; so nothing else that reads it is disturbed."""
    before = (external.parent / "weights.bin").read_bytes()
    for _ in range(2):
        convert(external, external, force=True)
        assert locations(onnx.load(external, load_external_data=False)) == {"weights.bin"}
        assert {file.name for file in external.parent.iterdir()} == {"big.onnx", "weights.bin"}
        check_run(str(external))
    assert (external.parent / "weights.bin").read_bytes() == before


def test_external_data_of_the_source_is_not_overwritten(external):
    """Writing ``weights.onnx`` beside a source whose data is called ``weights.onnx.data``."""
    source = onnx.load(external)
    save_external(source, external, "out.onnx.data")
    before = (external.parent / "out.onnx.data").read_bytes()
    output = external.parent / "out.onnx"
    convert(external, output)
    assert (external.parent / "out.onnx.data").read_bytes() == before
    check_run(str(output))


def test_external_references_of_a_proto_are_kept(external):
    proto = onnx.load(external, load_external_data=False)
    assert locations(convert(proto)) == {"weights.bin"}


def test_missing_external_data(external):
    (external.parent / "weights.bin").unlink()
    with pytest.raises(ConversionError, match=r"tensor 'w'.*weights\.bin is missing"):
        convert(external)


def test_truncated_external_data(external):
    data = external.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ConversionError, match=r"tensor '\w'.*bytes at.*100 bytes"):
        convert(external)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../b", ""])
def test_external_data_outside_the_folder_is_refused(external, location):
    model = onnx.load(external, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    external.write_bytes(model.SerializeToString())
    with pytest.raises(ConversionError, match="not a path below the model's folder"):
        convert(external)


def test_no_partial_output_is_left(external, tmp_path):
    (external.parent / "weights.bin").unlink()
    output = tmp_path / "out.onnx"
    with pytest.raises(ConversionError):
        convert(external, output)
    assert not list(tmp_path.glob("*.onnx*"))


def test_output_folder_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        convert(chain_model(), tmp_path / "absent" / "out.onnx")


def test_all_corner_models_are_valid():
    for case in CORNERS.values():
        onnx.checker.check_model(convert(conv_transpose_model(case)), full_check=True)
