"""What people pass instead of a model, under any name, and models under odd names."""

import io
import pickle
import zipfile

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import CORNERS, conv_transpose_model
from exports import check, export, model
from sessions import options
from terminal import run_here as run

import ort_tconv
from ort_tconv.converters import ConversionError, analyze

CASE = CORNERS["the usual 4x4, stride 2"]


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (zipped(), r"torch\.onnx\.export"),
        (pickle.dumps({"weights": 1}), r"torch\.onnx\.export"),
        (b"\x1c\0\0\0TFL3" + bytes(40), "tf2onnx"),
        (b"\x1f\x8b\x08" + bytes(40), "gunzip"),
        (b"<!DOCTYPE html><html>404</html>", "download it again"),
        (b'{"error": "not authorised"}', "download it again"),
        (b'\x10\0\0\0\0\0\0\0{"__metadata__":{}}', "safetensors"),
        (conv_transpose_model(CASE).SerializeToString()[:-40], "cut short"),
        (np.arange(1000, dtype=np.float32).tobytes(), "not an ONNX model"),
        (b"\x1b]0;owned\x07\x1b[31m" * 3, "not an ONNX model"),
    ],
)
@pytest.mark.parametrize("name", ["m.onnx", "m.bin", "m"])
def test_the_message_names_the_file_and_what_to_do(content, advice, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    for use in (
        ort_tconv.InferenceSession,
        ort_tconv.convert,
        ort_tconv.validate,
        ort_tconv.inspect,
    ):
        with pytest.raises(ConversionError, match=advice) as raised:
            use(path)
        assert str(path) in str(raised.value)
        assert "\x1b" not in str(raised.value) and "Decode" not in str(raised.value)


def test_the_command_line_says_it_too(tmp_path):
    path = tmp_path / "esc\x1b[31m.onnx"
    path.write_bytes(b"\x1b[2J")
    for verb in ("inspect", "validate"):
        done = run(verb, path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and "\\x1b[31m.onnx: not an ONNX model" in done.stderr
        assert "\x1b" not in done.stderr


@pytest.mark.parametrize("form", ["textproto", "json", "onnxtxt"])
def test_text_formats(form, tmp_path):
    path = tmp_path / f"m.{form}"
    onnx.save(conv_transpose_model(CASE), path)
    assert len(analyze(path).changes) == 1
    path.write_text("\x1b[31m nonsense")
    with pytest.raises(ConversionError, match=f"not an ONNX model in the format {form}") as raised:
        analyze(path)
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("name", ["model", "model.onnx.bak", "model.v2", "model.bin", "model.ort"])
def test_the_content_counts_and_not_the_name(name, tmp_path):
    path = export(tmp_path / "A", 2.0)
    renamed = path.rename(path.with_name(name))
    check(ort_tconv.InferenceSession(renamed), 2.0)
    assert ort_tconv.validate(renamed).ok


def ort_format(path):
    saving = ort_tconv.register(options())
    saving.optimized_model_filepath = str(path)
    saving.add_session_config_entry("session.save_model_format", "ORT")
    converted = ort_tconv.convert(model(2.0))
    ort.InferenceSession(converted.SerializeToString(), saving, ["CPUExecutionProvider"])
    return path


@pytest.mark.parametrize("name", ["model.ort", "model.onnx", "model.bin", "model"])
def test_ort_format_by_content(name, tmp_path):
    path = ort_format(tmp_path / name)
    content = path.read_bytes()
    for source in (path, str(path), content, bytearray(content), memoryview(content)):
        session = ort_tconv.InferenceSession(source)
        assert session.conversion is None
        check(session, 2.0)
    with pytest.raises(ValueError, match="exclude: a model in ORT format"):
        ort_tconv.InferenceSession(path, exclude="*")
    for use in (ort_tconv.convert, ort_tconv.validate, ort_tconv.inspect):
        with pytest.raises(ConversionError, match=r"ORT format.*the ONNX model it was made from"):
            use(path)


def test_bytes_of_any_kind():
    content = model(2.0).SerializeToString()
    for source in (content, bytearray(content), memoryview(content)):
        check(ort_tconv.InferenceSession(source), 2.0)
        assert ort_tconv.validate(source).ok


def test_paths_that_lead_to_no_file(tmp_path):
    onnx.save(model(2.0), tmp_path / "generator.onnx")
    for path, error, advice in (
        (tmp_path / "absent.onnx", FileNotFoundError, "there is no file"),
        (tmp_path, IsADirectoryError, r"is a folder.*generator\.onnx"),
        ("", IsADirectoryError, "is a folder"),
        ("a\0b", ConversionError, "no path"),
    ):
        for use in (ort_tconv.InferenceSession, ort_tconv.convert, ort_tconv.inspect):
            with pytest.raises(error, match=advice) as raised:
                use(path)
            assert "Errno" not in str(raised.value)


def test_names_in_a_model_do_not_reach_the_terminal(tmp_path):
    hostile = conv_transpose_model(CASE)
    hostile.graph.node[0].name = "\x1b[2J\x1b]0;title\x07up"
    hostile.graph.node[0].attribute.append(onnx.helper.make_attribute("\x1b[31mx", 1))
    path = tmp_path / "m.onnx"
    path.write_bytes(hostile.SerializeToString())
    for arguments in (("inspect", path), ("convert", path, tmp_path / "out.onnx")):
        done = run(*arguments)
        assert "\x1b" not in done.stdout + done.stderr
