"""Hostile models take neither the process nor its memory nor its time."""

import pytest
from hostile import HOSTILE, MOST_BYTES, MOST_SECONDS, collect

from ort_tconv.sessions.provider import unavailable


@pytest.fixture(scope="module")
def results():
    return collect()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name, results):
    by_name, end = results
    assert name in by_name, end
    outcome, case = by_name[name], HOSTILE[name]
    if case.word is None:
        assert outcome["error"] is None
    else:
        assert outcome["error"] is not None, f"ran: {outcome['shape']}"
        assert case.word in outcome["error"]
    assert outcome["seconds"] < MOST_SECONDS
    assert outcome["bytes"] < MOST_BYTES, outcome
    assert outcome["good_after"]


def test_the_process_survives(results):
    by_name, end = results
    assert len(by_name) == len(HOSTILE), end
    assert end.startswith("exit 0"), end


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_the_same_through_the_execution_provider():
    """onnxruntime's shape inference refuses some of them first, in its own words."""
    by_name, end = collect("--provider")
    assert list(by_name) == list(HOSTILE) and end.startswith("exit 0"), end
    for name, case in HOSTILE.items():
        outcome = by_name[name]
        assert (outcome["error"] is None) == (case.word is None), outcome
        assert outcome["seconds"] < MOST_SECONDS and outcome["bytes"] < MOST_BYTES, outcome
        assert outcome["good_after"], outcome
