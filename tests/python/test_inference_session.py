"""The drop-in replacement of onnxruntime.InferenceSession."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import (
    CORNERS,
    Case,
    chain_model,
    conv_transpose_model,
    graph_model,
    save_external,
)
from onnx import helper
from sessions import options, stock_session

import ort_tconv
from ort_tconv.converters import unit_stride_conv

CASE = CORNERS["the usual 4x4, stride 2"]
MODEL = conv_transpose_model(CASE)
X = CASE.arrays()["x"]


def check(session: ort.InferenceSession, case: Case = CASE) -> None:
    arrays = case.arrays()
    (y,) = session.run(None, {"x": arrays["x"]})
    np.testing.assert_allclose(y, case.expected(arrays), atol=1e-4)


def test_it_is_an_onnxruntime_session():
    session = ort_tconv.InferenceSession(MODEL)
    assert isinstance(session, ort.InferenceSession)
    check(session)
    assert session.get_providers() == ort_tconv.available_providers()
    assert [change.node for change in session.conversion.changes] == ["up"]


def test_inputs_and_outputs_are_those_of_stock():
    ours, stock = ort_tconv.InferenceSession(chain_model()), stock_session(chain_model())
    for kind in ("get_inputs", "get_outputs"):
        facts = [
            [(value.name, value.type, value.shape) for value in getattr(session, kind)()]
            for session in (ours, stock)
        ]
        assert facts[0] == facts[1]


def test_sources(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(MODEL, path)
    for source in (path, str(path), MODEL.SerializeToString(), MODEL, ort_tconv.convert(MODEL)):
        check(ort_tconv.InferenceSession(source))


def test_positional_arguments_as_onnxruntimes():
    session_options = options()
    session_options.add_free_dimension_override_by_name("n", 2)
    session = ort_tconv.InferenceSession(
        chain_model(), session_options, ["CPUExecutionProvider"], [{}]
    )
    assert session.get_inputs()[0].shape[0] == 2
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_options_may_be_used_again():
    session_options = options()
    for _ in range(2):
        check(ort_tconv.InferenceSession(MODEL, session_options))
    check(ort.InferenceSession(MODEL.SerializeToString(), session_options))
    ort_tconv.register(session_options)
    check(ort_tconv.InferenceSession(MODEL, session_options))


def test_plain_convolutions_stay_where_options_hold_providers(monkeypatch):
    """Which ones they do not tell; the estimate for these convolutions is of a CPU."""
    if not all(
        hasattr(ort.SessionOptions, n) for n in ("has_providers", "add_provider_for_devices")
    ):
        pytest.skip("options of this onnxruntime do not tell whether they hold providers")
    monkeypatch.setattr(unit_stride_conv, "check_gain", lambda *_, **__: None)  # it promises much
    weights = {"w": np.zeros((6, 4, 3, 3), np.float32)}
    model = graph_model(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")], weights, {"x": (1, 4, 9, 9)}
    )
    held = options()
    held.add_provider_for_devices(
        [device for device in ort.get_ep_devices() if device.ep_name == "CPUExecutionProvider"], {}
    )
    sites = [ort_tconv.InferenceSession(model, one).conversion.sites for one in (options(), held)]
    assert [[site.rewrite for site in each] for each in sites] == [["unit_stride_conv"], []]


def test_options_that_have_the_library_already():
    session_options = options()
    session_options.register_custom_ops_library(ort_tconv.get_library_path())
    check(ort_tconv.InferenceSession(MODEL, session_options))
    assert ort_tconv.register(session_options) is session_options
    check(ort_tconv.InferenceSession(MODEL, session_options))


def test_options_that_get_the_library_once_more():
    session_options = ort_tconv.register(options())
    session_options.register_custom_ops_library(ort_tconv.get_library_path())
    with pytest.raises(RuntimeError, match=r"ort_tconv\.register\(\).*Domain already set"):
        ort_tconv.InferenceSession(MODEL, session_options)


def test_external_data(tmp_path):
    case = Case((4, 4), (4, 4), group_in=8, group_out=8, strides=(2, 2))
    path = tmp_path / "big.onnx"
    save_external(conv_transpose_model(case), path)
    check(ort_tconv.InferenceSession(path), case)


def test_models_in_ort_format_are_loaded_as_they_are(tmp_path):
    path = tmp_path / "model.ort"
    saving = ort_tconv.register(options())
    saving.optimized_model_filepath = str(path)
    saving.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(
        ort_tconv.convert(MODEL).SerializeToString(), saving, providers=["CPUExecutionProvider"]
    )
    for source in (path, path.read_bytes()):
        session = ort_tconv.InferenceSession(source, options())
        assert session.conversion is None
        check(session)


def test_unusable_models(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx"):
        ort_tconv.InferenceSession(tmp_path / "absent.onnx")
    with pytest.raises(ort_tconv.ConversionError, match="not an ONNX model"):
        ort_tconv.InferenceSession(b"something else")
    with pytest.raises(TypeError, match="NoneType"):
        ort_tconv.InferenceSession(None)
