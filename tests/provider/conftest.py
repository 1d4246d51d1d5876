import pytest

from ort_tconv.sessions.provider import unavailable


@pytest.fixture(autouse=True)
def needs_provider():
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
