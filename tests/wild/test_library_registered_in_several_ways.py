"""Options to which the library was added by hand, from a copy, or that come from a session."""

import shutil

import numpy as np
import onnxruntime as ort
import pytest
from cases import CORNERS, conv_transpose_model
from exports import check, model
from sessions import options

import ort_tconv

CASE = CORNERS["the usual 4x4, stride 2"]


def create(session_options: ort.SessionOptions) -> ort.InferenceSession:
    converted = conv_transpose_model(CASE, op="ort_tconv").SerializeToString()
    return ort.InferenceSession(converted, session_options, ["CPUExecutionProvider"])


@pytest.mark.parametrize("copied", [False, True], ids=["by hand", "from a copy"])
def test_before_ours(copied, tmp_path):
    library = ort_tconv.get_library_path()
    if copied:
        library = shutil.copy(library, tmp_path / "copied.so")
    session_options = options()
    session_options.register_custom_ops_library(str(library))
    check(ort_tconv.InferenceSession(model(2.0), session_options), 2.0)
    assert create(ort_tconv.register(session_options))


def test_options_of_a_session():
    """They are a copy, without the libraries."""
    session = ort_tconv.InferenceSession(model(2.0))
    again = ort_tconv.register(session.get_session_options())
    assert create(again)
    check(ort_tconv.InferenceSession(model(2.0), again), 2.0)


def test_options_with_a_profile(tmp_path):
    """Nothing is written but the profile of the session itself."""
    session_options = options()
    session_options.enable_profiling = True
    session_options.profile_file_prefix = str(tmp_path / "profile")
    session_options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort_tconv.register(session_options)
    assert not list(tmp_path.iterdir())
    session = ort_tconv.InferenceSession(model(2.0), session_options)
    session.end_profiling()
    assert len(list(tmp_path.iterdir())) == 2
    session_options = options()
    session_options.optimized_model_filepath = str(tmp_path / "again.onnx")
    ort_tconv.register(session_options)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_model_converted_by_a_newer_version():
    newer = ort_tconv.convert(conv_transpose_model(CASE))
    newer.graph.node[0].op_type = "SegregatedConvTransposeOfTomorrow"
    with pytest.raises(RuntimeError, match=r"converted by a newer ort-tconv.*onnxruntime says"):
        ort_tconv.InferenceSession(newer, options())


@pytest.mark.parametrize("copied", [False, True], ids=["by hand", "from a copy"])
def test_after_ours(copied, tmp_path):
    """onnxruntime refuses it when a session is created; the message says what to do."""
    library = ort_tconv.get_library_path()
    if copied:
        library = shutil.copy(library, tmp_path / "copied.so")
    session_options = ort_tconv.register(options())
    session_options.register_custom_ops_library(str(library))
    with pytest.raises(RuntimeError, match=r"added to these options twice.*ort_tconv\.register"):
        ort_tconv.InferenceSession(model(2.0), session_options)


def test_two_sessions_with_the_library_under_two_paths(tmp_path):
    """A program and a plug-in of it, each with a copy."""
    copied = shutil.copy(ort_tconv.get_library_path(), tmp_path / "copied.so")
    first, second = options(), options()
    first.register_custom_ops_library(str(copied))
    sessions = [create(first), create(ort_tconv.register(second)), create(first)]
    results = [session.run(None, {"x": CASE.arrays()["x"]})[0] for session in sessions]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_a_model_optimised_on_another_machine(monkeypatch):
    """Its blocked layout has no kernels here, as onnxruntime then says."""

    def refuse(*_, **__):
        raise RuntimeError(
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for "
            "com.microsoft.nchwc.Conv(1) node with name 'c_nchwc'"
        )

    converted = ort_tconv.convert(model(2.0))
    monkeypatch.setattr(ort.InferenceSession, "__init__", refuse)
    with pytest.raises(RuntimeError, match=r"optimised by onnxruntime for another processor; load"):
        ort_tconv.InferenceSession(converted)
