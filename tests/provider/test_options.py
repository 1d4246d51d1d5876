"""add_provider() and the provider's options."""

import gc
import weakref
from dataclasses import replace

import onnxruntime as ort
import pytest
from cases import CORNERS, chain_model, conv_transpose_model
from sessions import options, our_session
from sites import RECORDS, claimed, provider_session, same_bits

import ort_tconv
from ort_tconv import _core
from ort_tconv.converters.schema import WEIGHTS
from ort_tconv.sessions import provider

MODEL = conv_transpose_model(CORNERS["the usual 4x4, stride 2"])


def test_it_returns_its_argument_and_twice_is_harmless():
    session_options = options()
    for _ in range(2):
        assert ort_tconv.add_provider(session_options, strict=True) is session_options
    assert ort.InferenceSession(MODEL.SerializeToString(), session_options, enable_fallback=0)


def test_two_settings_for_one_object_are_an_error():
    session_options = ort_tconv.add_provider(options())
    with pytest.raises(ValueError, match="have the provider already"):
        ort_tconv.add_provider(session_options, strict=True)


@pytest.mark.parametrize("wrong", [None, "options"])
def test_only_session_options_will_do(wrong):
    with pytest.raises(TypeError, match=f"session_options is a {type(wrong).__name__}"):
        ort_tconv.add_provider(wrong)


def test_options_are_not_kept_alive():
    session_options = ort_tconv.add_provider(options())
    alive = weakref.ref(session_options)
    del session_options
    gc.collect()
    assert alive() is None


def test_an_old_onnxruntime_is_an_error_that_names_convert(monkeypatch):
    monkeypatch.setattr(ort, "__version__", "1.22.1")
    with pytest.raises(RuntimeError, match=r"1\.23 or newer, and this is 1\.22\.1.*convert\(\)"):
        ort_tconv.add_provider(options())


def test_a_build_without_it_is_an_error_that_names_convert(monkeypatch):
    monkeypatch.setattr(_core, "built_with_provider", False)
    with pytest.raises(RuntimeError, match=r"built without the execution provider.*convert\(\)"):
        ort_tconv.add_provider(options())


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"algorithm": "fast"}, "option algorithm = 'fast': must be one of auto, direct"),
        ({"strict": "maybe"}, "option strict = 'maybe': must be 0 or 1"),
        (
            {"weights": "int4"},
            "option weights = 'int4': must be one of float32, float16, bfloat16, int8",
        ),
        ({"speed": "11"}, "there is no option 'speed'"),
    ],
)
def test_wrong_options_are_errors(settings, words):
    session_options = options()
    session_options.add_provider_for_devices(provider._devices(provider.PROVIDER), settings)
    with pytest.raises(Exception, match=words):
        ort.InferenceSession(MODEL.SerializeToString(), session_options, enable_fallback=0)


def test_a_pattern_with_a_semicolon_is_an_error():
    with pytest.raises(ValueError, match="semicolon"):
        ort_tconv.add_provider(options(), exclude=["a", "b;c"])


@pytest.mark.skipif(not RECORDS, reason="this onnxruntime does not tell which nodes went where")
def test_excluded_nodes_are_left_to_others():
    session = provider_session(chain_model(3), exclude=["up_y0", "*[2-9]"])
    assert [group[0] for group in claimed(session)] == ["up_y1"]


@pytest.mark.parametrize("algorithm", _core.algorithms())
def test_the_algorithm_is_taken_as_given(algorithm):
    case = CORNERS["the usual 4x4, stride 2"]
    converted = ort_tconv.convert(MODEL, algorithm=algorithm)
    feeds = {"x": case.arrays()["x"]}
    (expected,) = our_session(converted).run(None, feeds)
    (found,) = provider_session(MODEL, algorithm=algorithm, strict=True).run(None, feeds)
    assert same_bits(expected, found)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_in_fewer_bits(weights):
    """As the converter's option of this name."""
    case = CORNERS["many channels"]
    model, feeds = conv_transpose_model(case), {"x": case.arrays()["x"]}
    (expected,) = our_session(ort_tconv.convert(model, weights=weights)).run(None, feeds)
    (found,) = provider_session(model, weights=weights, strict=True).run(None, feeds)
    (exact,) = provider_session(model, strict=True).run(None, feeds)
    assert same_bits(expected, found)
    assert same_bits(found, exact) == (weights == "float32")


def test_weights_of_other_types_stay():
    case = replace(CORNERS["many channels"], dtype="float64")
    model, feeds = conv_transpose_model(case), {"x": case.arrays()["x"]}
    (found,) = provider_session(model, weights="float16", strict=True).run(None, feeds)
    (exact,) = provider_session(model, strict=True).run(None, feeds)
    assert same_bits(found, exact)
