"""Two exports whose files have the same names, used from inside the folder of the wrong one."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from exports import FEEDS, check, expected, export
from sessions import options
from terminal import run

import ort_tconv
from ort_tconv.converters import ConversionError, analyze, convert_with_report
from ort_tconv.sessions.session import EXTERNAL_FOLDER


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A model, while the current folder is that of another."""
    right = export(tmp_path / "A", 2.0)
    export(tmp_path / "B", 5.0)
    monkeypatch.chdir(tmp_path / "B")
    return right


@pytest.fixture(params=["own options", "options of the caller"])
def arguments(request):
    return () if request.param == "own options" else (options(),)


def test_a_session_by_path(path, arguments):
    session = ort_tconv.InferenceSession(path, *arguments)
    assert len(session.conversion.changes) == 2
    check(session, 2.0)


def test_a_session_by_relative_path(path, arguments, monkeypatch):
    monkeypatch.chdir(path.parent.parent)
    check(ort_tconv.InferenceSession("A/model.onnx", *arguments), 2.0)


def test_the_providers_are_changed_later(path, arguments, monkeypatch):
    """onnxruntime then loads the model once more."""
    session = ort_tconv.InferenceSession(path, *arguments)
    session.set_providers(["CPUExecutionProvider"])
    check(session, 2.0)


def test_bytes_whose_folder_is_in_the_options(path):
    session_options = options()
    session_options.add_session_config_entry(EXTERNAL_FOLDER, str(path.parent))
    check(ort_tconv.InferenceSession(path.read_bytes(), session_options), 2.0)


def test_a_path_counts_more_than_a_folder_in_the_options(path):
    session_options = options()
    session_options.add_session_config_entry(EXTERNAL_FOLDER, str(path.parents[1] / "B"))
    check(ort_tconv.InferenceSession(path, session_options), 2.0)


@pytest.mark.parametrize("kind", ["bytes", "ModelProto"])
def test_a_model_without_its_folder_is_refused(path, kind, arguments):
    model = path.read_bytes() if kind == "bytes" else onnx.load(path, load_external_data=False)
    with pytest.raises(ConversionError, match=r"'model\.onnx\.data'.*without its folder.*path"):
        ort_tconv.InferenceSession(model, *arguments)
    with pytest.raises(ConversionError, match="without its folder"):
        ort_tconv.validate(model)
    with pytest.raises(ConversionError, match="without its folder"):
        ort_tconv.benchmark(model)


def test_what_needs_values_is_left_alone_without_a_folder(path):
    proto = onnx.load(path, load_external_data=False)
    for report in (analyze(proto), convert_with_report(proto).report):
        assert [change.rewrite for change in report.changes] == ["conv_transpose"]
        assert "without its folder" in report.notes[0]
    assert ort_tconv.convert(proto).graph.initializer == proto.graph.initializer
    with pytest.raises(ConversionError, match="without its folder"):
        ort_tconv.convert(proto, path.parents[1] / "out.onnx")
    assert not (path.parents[1] / "out.onnx").exists()


def test_all_else_that_takes_a_path(path, tmp_path):
    assert ort_tconv.validate(path).ok
    assert len(analyze(path).changes) == 2
    (site,) = ort_tconv.inspect(path).sites
    assert site.plan and site.state == "rewritable"
    benchmark = ort_tconv.benchmark(path, repeat=1, warm_up=0, seconds=0, memory=False)
    assert benchmark.validation.ok and benchmark.validation.rewritten == 1
    tuned = convert_with_report(path, tune=True).tuning
    assert len(tuned.sites) == 1 and not tuned.notes
    converted = ort_tconv.convert(path, tmp_path / "out.onnx")
    check(ort_tconv.InferenceSession(converted), 2.0)
    check(ort_tconv.InferenceSession(tmp_path / "out.onnx"), 2.0)


def test_the_same_report_from_anywhere(path, monkeypatch):
    here = analyze(path).to_dict()
    monkeypatch.chdir("/")
    assert analyze(path).to_dict() == here


def test_an_onnx_ir_model(path):
    assert len(analyze(ir.load(path)).changes) == 2
    check(ort_tconv.InferenceSession(ort_tconv.convert(ir.load(path))), 2.0)
    rootless = ir.from_proto(onnx.load(path, load_external_data=False))
    assert "without its folder" in analyze(rootless).notes[0]


def test_the_command_line(path, tmp_path):
    done = run("convert", path, tmp_path / "out.onnx", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "outputs agree" in done.stdout
    done = run("convert", "../A/model.onnx", "../relative.onnx")
    assert done.returncode == 0, done.stderr
    for name in ("out.onnx", "relative.onnx"):
        (y,) = ort_tconv.InferenceSession(tmp_path / name).run(None, FEEDS)
        assert np.allclose(y, expected(2.0))
