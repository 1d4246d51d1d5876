"""Packed weights: one copy for all that hold the same constant, freed with the last of them."""

import gc

import numpy as np
import pytest
from sessions import concurrently

from ort_tconv import _core

X = [1, 8, 9, 9]
ATTRIBUTES = {"strides": [2, 2], "pads": [1, 1, 1, 1]}


def weights(seed: int = 0, dtype="float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((8, 6, 4, 4)).astype(dtype)


@pytest.fixture(autouse=True)
def empty_cache():
    gc.collect()
    assert _core.weight_cache() == (0, 0)
    yield
    gc.collect()
    assert _core.weight_cache() == (0, 0)


def test_equal_weights_are_packed_once():
    first = _core.pack(X, weights(), **ATTRIBUTES)
    second = _core.pack(X, weights(), **ATTRIBUTES)
    assert first is second
    assert _core.weight_cache() == (1, first.nbytes)


def test_another_image_size_takes_the_same_weights():
    options = {"algorithm": "direct", **ATTRIBUTES}
    assert _core.pack(X, weights(), **options) is _core.pack([2, 8, 30, 17], weights(), **options)


def test_the_last_owner_frees():
    first = _core.pack(X, weights(), **ATTRIBUTES)
    second = _core.pack(X, weights(), **ATTRIBUTES)
    del first
    assert _core.weight_cache() == (1, second.nbytes)
    del second
    assert _core.weight_cache() == (0, 0)


@pytest.mark.parametrize(
    "other",
    [
        {"w": weights(1)},
        {"w": weights(0, "float64")},
        {"w": weights().reshape(8, 6, 2, 8)},
        {"algorithm": "narrow"},
        {"isa": "baseline"},
        {"pads": [0, 0, 0, 0]},
        {"group": 2},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_differs_is_not_shared(other):
    options = {"w": weights(), "algorithm": "direct", **ATTRIBUTES}
    first = _core.pack(X, **options)
    second = _core.pack(X, **{**options, **other})
    assert first is not second
    assert _core.weight_cache() == (2, first.nbytes + second.nbytes)


def test_one_bit_makes_a_difference():
    w = weights()
    first = _core.pack(X, w, **ATTRIBUTES)
    for at in (0, w.size // 2, w.size - 1):
        changed = w.copy()
        changed.reshape(-1).view(np.uint32)[at] ^= 1
        assert _core.pack(X, changed, **ATTRIBUTES) is not first


def test_many_threads_at_once():
    held = []

    def pack(_):
        held.extend(_core.pack(X, weights(seed % 3), **ATTRIBUTES) for seed in range(30))

    concurrently(pack, 8)
    assert len({id(packed) for packed in held}) == 3
    assert _core.weight_cache()[0] == 3
