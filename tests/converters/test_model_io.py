"""Files: sizes that protobuf cannot hold, names, and what is left after a failure."""

import os

import numpy as np
import onnx
import pytest
from cases import Case, chain_model, conv_transpose_model
from onnx import TensorProto
from sessions import agree

from ort_tconv.converters import convert, model_io

CASE = Case((4, 4), (4, 4), group_in=16, group_out=8, strides=(2, 2))


def test_models_too_large_for_protobuf_get_external_data(tmp_path, monkeypatch):
    """The limit is lowered; the real one takes 2 GiB of weights."""
    monkeypatch.setattr(model_io, "_MAX_WEIGHT_BYTES", 4000)
    original = conv_transpose_model(CASE)
    output = tmp_path / "out.onnx"
    returned = convert(original, output)
    weights = [
        t.data_location for t in onnx.load(output, load_external_data=False).graph.initializer
    ]
    assert weights == [TensorProto.EXTERNAL, TensorProto.DEFAULT]  # the bias is small
    for model in (returned, onnx.load(output)):
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(model.graph.initializer[0]), CASE.arrays()["w"]
        )
    kept_out = convert(original, output, load_external_data=False)
    assert kept_out.graph.initializer[0].data_location == TensorProto.EXTERNAL


def test_attributes_may_be_external_too(tmp_path):
    original = conv_transpose_model(CASE, weights="constant")
    path = tmp_path / "model.onnx"
    onnx.save(
        original,
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    assert len(model_io.read_model(path).external) == 2
    (tmp_path / "out").mkdir()
    convert(path, tmp_path / "out" / "out.onnx")
    (tmp_path / "weights.bin").unlink()
    written = onnx.load(tmp_path / "out" / "out.onnx", load_external_data=False)
    assert len(model_io.Model(written).external) == 2
    written = model_io.Model(written, tmp_path / "out").load().proto
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(written.graph.node[0].attribute[0].t), CASE.arrays()["w"]
    )


def test_several_files_become_one(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(
        chain_model(),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
    )
    (tmp_path / "out").mkdir()
    returned = convert(path, tmp_path / "out" / "out.onnx")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["out.onnx", "out.onnx.data"]
    assert returned == convert(chain_model())
    assert convert(tmp_path / "out" / "out.onnx") == returned


def test_an_existing_file_is_replaced(tmp_path):
    output = tmp_path / "out.onnx"
    output.write_bytes(b"something older and longer" * 1000)
    with pytest.raises(FileExistsError, match="ort-tconv did not write it"):
        convert(chain_model(), output)
    convert(chain_model(), output, force=True)
    assert onnx.load(output) == convert(chain_model())
    convert(chain_model(), output)  # the package's own


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "out.onnx"
    link.symlink_to(tmp_path / "there" / "real.onnx")
    convert(chain_model(), link)
    assert link.is_symlink()
    assert onnx.load(tmp_path / "there" / "real.onnx") == convert(chain_model())


def test_devices_are_written_to(tmp_path):
    convert(chain_model(), "/dev/null")
    assert not os.path.isfile("/dev/null")


def test_a_failing_write_leaves_nothing_new(tmp_path, monkeypatch):
    output = tmp_path / "out.onnx"
    output.write_bytes(b"before")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        convert(chain_model(), output, force=True)
    assert output.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_skeleton_has_no_weights():
    model = conv_transpose_model(CASE)
    skeleton = model_io.Model(model).skeleton()
    assert [t.name for t in skeleton.graph.initializer] == ["b"]
    assert [v.name for v in skeleton.graph.input] == ["x", "w"]
    assert skeleton.opset_import == model.opset_import
    assert skeleton.graph.node == model.graph.node
    onnx.checker.check_model(skeleton, full_check=True)


# ---- large weights -------------------------------------------------------------------------------

LARGE = Case((2, 2), (4, 4), group_in=512, group_out=256, strides=(2, 2))  # 8 MB of weights


def locations(path):
    model = onnx.load(path, load_external_data=False)
    return {t.name: t.data_location for t in model.graph.initializer}


def test_large_weights_of_the_operator_are_written_beside_the_model(tmp_path):
    output = tmp_path / "out.onnx"
    returned = convert(conv_transpose_model(LARGE), output)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert locations(output) == {"w": TensorProto.EXTERNAL, "b": TensorProto.DEFAULT}
    for model in (returned, onnx.load(output)):
        weights = onnx.numpy_helper.to_array(model.graph.initializer[0])
        np.testing.assert_array_equal(weights, LARGE.arrays()["w"])
    agree(conv_transpose_model(LARGE), output)


@pytest.mark.parametrize(
    "model, options",
    [
        (conv_transpose_model(LARGE), {"one_file": True}),
        (conv_transpose_model(LARGE), {"exclude": "*"}),
        (conv_transpose_model(LARGE, weights="overridable"), {"exclude": "*"}),
        (conv_transpose_model(CASE), {}),
    ],
    ids=["one file", "not rewritten", "an input", "small"],
)
def test_other_weights_stay_in_the_model(tmp_path, model, options):
    convert(model, tmp_path / "out.onnx", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_weights_that_others_read_stay_in_the_model(tmp_path):
    model = conv_transpose_model(LARGE)
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["w"], ["sum"], keepdims=0))
    model.graph.output.append(onnx.helper.make_tensor_value_info("sum", TensorProto.FLOAT, []))
    convert(model, tmp_path / "out.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
