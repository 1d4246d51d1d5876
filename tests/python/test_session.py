"""register() and available_providers()."""

import gc
import weakref

import onnxruntime as ort
import pytest
from cases import CORNERS, conv_transpose_model
from sessions import options

import ort_tconv
from ort_tconv import _core

CASE = CORNERS["the usual 4x4, stride 2"]
DIRECT = conv_transpose_model(CASE, op="ort_tconv").SerializeToString()


def create(session_options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(DIRECT, session_options, providers=ort_tconv.available_providers())


def test_register_returns_its_argument():
    session_options = options()
    assert ort_tconv.register(session_options) is session_options
    assert create(session_options)


@pytest.mark.parametrize("wrong", [None, "options", ort.RunOptions()])
def test_only_session_options_will_do(wrong):
    with pytest.raises(TypeError, match=f"session_options is a {type(wrong).__name__}"):
        ort_tconv.register(wrong)


def test_without_it_the_operator_is_unknown():
    with pytest.raises(Exception, match="ort_tconv"):
        create(options())


@pytest.mark.parametrize("extensions", [(False, False), (False, True), (True, False), (True, True)])
def test_registering_twice_is_harmless(extensions):
    if any(extensions):
        pytest.importorskip("onnxruntime_extensions")
    session_options = options()
    for with_extensions in extensions:
        ort_tconv.register(session_options, extensions=with_extensions)
    assert create(session_options)


def test_options_serve_several_sessions():
    session_options = ort_tconv.register(options())
    first, second = create(session_options), create(session_options)
    x = CASE.arrays()["x"]
    del first
    assert second.run(None, {"x": x})[0].shape[1] == CASE.out_channels


def test_options_are_not_kept_alive():
    session_options = ort_tconv.register(options())
    alive = weakref.ref(session_options)
    del session_options
    gc.collect()
    assert alive() is None


def test_session_outlives_its_options():
    session = create(ort_tconv.register(options()))
    gc.collect()
    assert session.run(None, {"x": CASE.arrays()["x"]})


def test_missing_extensions_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime_extensions", None)
    with pytest.raises(ImportError, match="pip install onnxruntime-extensions"):
        ort_tconv.register(options(), extensions=True)
    assert ort_tconv.register(options())


def test_available_providers(monkeypatch):
    assert ort_tconv.available_providers()[-1] == "CPUExecutionProvider"
    everything = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: everything)
    for built_with_cuda in (False, True):
        monkeypatch.setattr(_core, "built_with_cuda", built_with_cuda)
        assert ort_tconv.available_providers() == everything[1 if built_with_cuda else 2 :]
