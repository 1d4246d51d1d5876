"""What counts as equal, and what is reported when it is not."""

import math

import ml_dtypes
import numpy as np
import pytest

from ort_tconv.validation.comparison import Comparison, Limit, compare


def one(expected, actual, limit=1e-3):
    (comparison,) = compare("y", np.asarray(expected), np.asarray(actual), Limit(lambda _: limit))
    return comparison


def test_worst_errors_and_where_they_are():
    expected = np.array([[4.0, -2.0, 0.0], [1.0, 1.0, 1.0]])
    actual = np.add(expected, [[0.5, 0, 0], [0, 0, -0.2]])
    result = one(expected, actual, limit=1.0)
    assert result.ok
    assert (result.max_abs, result.max_abs_at) == (0.5, (0, 0))
    rms = np.sqrt(np.mean(expected**2))
    assert result.max_rel == pytest.approx(0.5 / 4.0)
    assert result.max_rel_at == (0, 0)
    smaller = one(expected, np.add(expected, [[0, 0, 0.1], [0, 0, 0]]), limit=1.0)
    assert smaller.max_rel == pytest.approx(0.1 / rms)  # not 0.1 / 0


def test_tolerance_decides():
    assert one([1.0, 2.0], [1.0, 2.0009]).ok
    worse = one([1.0, 2.0], [1.0, 2.0011])
    assert not worse.ok and worse.reason == "exceeds the tolerance"
    assert worse.tolerance == 1e-3
    assert not one([1.0], [1.0 + 1e-12], limit=0.0).ok
    assert one([1.0], [1.0], limit=0.0).ok


@pytest.mark.parametrize(
    ("expected", "actual", "ok"),
    [
        ([np.nan, 1], [np.nan, 1], True),
        ([np.inf, -np.inf], [np.inf, -np.inf], True),
        ([np.nan, 1], [1, 1], False),
        ([1, 1], [1, np.nan], False),
        ([np.inf, 1], [-np.inf, 1], False),
        ([np.inf, 1], [np.nan, 1], False),
        ([np.inf, 1], [1e300, 1], False),
        ([1, 1], [np.inf, 1], False),
    ],
)
def test_nan_and_infinity_stand_in_the_same_places(expected, actual, ok):
    result = one(np.array(expected, float), np.array(actual, float))
    assert result.ok == ok
    assert np.isfinite(result.max_abs) and np.isfinite(result.max_rel)
    if not ok:
        assert " instead of " in result.reason


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_float_types(dtype):
    a = np.array([1, 2], dtype)
    assert one(a, a).ok
    assert not one(a, np.array([1, 4], dtype)).ok


def test_shapes_and_types_must_agree():
    assert one(np.zeros((2, 3)), np.zeros((3, 2))).reason == "expected shape [2, 3]"
    assert one(np.zeros(2), np.zeros(2, np.float32)).reason == "expected type float64"
    assert one(np.zeros((0, 3)), np.zeros((0, 3))).ok
    assert one(np.zeros((0, 3)), np.zeros((0, 2))).reason == "expected shape [0, 3]"


def test_other_types_must_be_equal():
    assert one([1, 2], [1, 2]).ok
    different = one([1, 2, 7], [1, 3, 2], limit=100.0)
    assert different.reason == "2 values differ, the first at [1]"
    assert (different.max_abs, different.max_abs_at) == (5.0, (2,))
    assert not one([True], [False]).ok
    assert one(np.array(["a"], object), np.array(["a"], object)).ok
    assert not one(np.array(["a"], object), np.array(["b"], object)).ok


def test_sequences_and_maps_are_taken_apart():
    expected = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}]
    actual = [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.5}]
    results = {c.name: c for c in compare("y", expected, actual, Limit(lambda _: 1e-3))}
    assert [name for name, c in results.items() if not c.ok] == ["y[1]['b']"]
    for other in ([{}], expected[:1], np.zeros(2), None):
        assert not all(c.ok for c in compare("y", expected, other, Limit(lambda _: 1e-3)))


# ---- figures over all elements -----------------------------------------------------------------


def only(expected, actual) -> Comparison:
    (result,) = compare("y", np.asarray(expected), np.asarray(actual), Limit(lambda _: 1e9))
    return result


def test_rms_cosine_and_psnr():
    expected, actual = np.array([3.0, 4.0, 0.0]), np.array([3.0, 0.0, 4.0])
    result = only(expected, actual)
    assert result.rms == pytest.approx(math.sqrt(32 / 3))
    assert result.cosine == pytest.approx(9 / 25)
    assert result.psnr == pytest.approx(20 * math.log10(4 / math.sqrt(32 / 3)))


def test_figures_of_equal_outputs():
    result = only([1.0, -2.0], [1.0, -2.0])
    assert (result.rms, result.psnr) == (0.0, math.inf) and result.cosine == pytest.approx(1.0)
    assert result.to_dict()["psnr"] is None and result.to_dict()["ok"]


def test_figures_that_are_not_defined():
    zero = only([0.0, 0.0], [0.0, 1.0])
    assert (zero.cosine, zero.psnr) == (None, None) and zero.rms == pytest.approx(math.sqrt(0.5))
    integers = only(np.array([1, 2]), np.array([1, 3]))
    assert (integers.rms, integers.cosine, integers.psnr) == (None, None, None)
    assert only(np.zeros((0, 3)), np.zeros((0, 3))).rms is None


def test_figures_count_what_is_finite():
    expected = np.array([1.0, np.inf, np.nan, 2.0])
    result = only(expected, np.array([1.0, np.inf, np.nan, 3.0]))
    assert result.ok and result.rms == pytest.approx(math.sqrt(1 / 2))
    assert result.cosine == pytest.approx(7 / math.sqrt(5 * 10))
    assert only([np.nan], [np.nan]).rms is None


def test_figures_neither_overflow_nor_vanish():
    for scale in (1e-300, 1e300):
        result = only([scale, 2 * scale], [scale, 3 * scale])
        assert result.rms == pytest.approx(scale / math.sqrt(2))
        assert result.cosine == pytest.approx(7 / math.sqrt(50))


def test_one_value_in_a_thousand_may_differ_by_a_step():
    for dtype, step in ((np.float32, 0.5), (np.uint8, 1)):
        limit = Limit(lambda _: 1e-6, step, 1e-3)
        expected = np.full(5000, 100, dtype)
        for count, by, ok in ((0, 1, True), (5, 1, True), (6, 1, False), (1, 2, False)):
            actual = expected.copy()
            actual[:count] += np.array(by * step, dtype)
            (result,) = compare("y", expected, actual, limit)
            assert result.ok is ok, result
            assert result.step == step
            assert result.equal == 1 - count / 5000
