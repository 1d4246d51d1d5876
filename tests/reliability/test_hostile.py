"""Hostile models take neither the process nor its memory nor its time."""

import pytest
from hostile import HOSTILE, MOST_BYTES, MOST_SECONDS, collect


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
