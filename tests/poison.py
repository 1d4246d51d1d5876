"""Memory that holds NaN, for tests of what engines read and write."""

import ctypes

import pytest

M_PERTURB = -6
#: glibc fills new memory with the complement of the low byte: 0xFF, a NaN of every type.
FILL_WITH_NAN = 0x100


@pytest.fixture(autouse=True, scope="module")
def poisoned_memory():
    """New memory holds NaN, so that no result can depend on what was not written."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield False
        return
    mallopt(M_PERTURB, FILL_WITH_NAN)
    yield True
    mallopt(M_PERTURB, 0)
