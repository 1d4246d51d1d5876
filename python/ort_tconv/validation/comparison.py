"""Compares arrays and says where they differ most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..models.inputs import is_float


@dataclass(frozen=True)
class Comparison:
    """One output of the converted model against the original's.

    ``max_abs`` is the largest absolute difference, ``max_rel`` the largest one relative to
    ``max(|expected|, rms(expected))``; each comes with the index where it is found.  ``rms`` is the
    root of the mean squared difference, ``cosine`` that of the angle between the two as vectors,
    and ``psnr`` is 20 log10(peak / rms) in dB, the peak being the largest expected magnitude; it is
    infinite if nothing differs.  Only elements that are finite in both count, and a figure that
    they do not define is None.

    The output is ``ok`` if ``max_abs <= tolerance``, shapes and types agree, and NaN and infinity
    stand in the same places; if not, ``reason`` says why.  Outputs that are not of a floating-point
    type must be equal.  Where the model itself enlarges rounding errors, an output may be ``ok``
    all the same, and ``note`` says why.

    An output behind quantised nodes may differ by one step of its scale, ``step`` (1 for integers),
    in ``differing`` of its values; ``equal`` is the share of those that agree up to rounding.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    tolerance: float = 0.0
    max_abs: float = 0.0
    max_abs_at: tuple[int, ...] | None = None
    max_rel: float = 0.0
    max_rel_at: tuple[int, ...] | None = None
    rms: float | None = None
    cosine: float | None = None
    psnr: float | None = None
    reason: str | None = None
    note: str | None = None  #: why it is ok although it differs by more than the tolerance
    step: float | None = None
    equal: float | None = None

    @property
    def ok(self) -> bool:
        return self.reason is None

    @property
    def badness(self) -> tuple[bool, float]:
        """Orders comparisons of one output; the largest is the one to show."""
        return (not self.ok, self.max_abs)

    def __str__(self) -> str:
        where = f" at {list(self.max_abs_at)}" if self.max_abs_at is not None else ""
        return (
            f"{self.name}: {self.dtype} {list(self.shape)}: max abs {self.max_abs:.3g}{where}, "
            f"max rel {self.max_rel:.3g}, tolerance {self.tolerance:.3g}{self._steps}: "
            f"{self.verdict}"
        )

    @property
    def _steps(self) -> str:
        return (
            "" if self.equal is None else f" or a step of {self.step:.3g}, {self.equal:.4%} equal"
        )

    @property
    def verdict(self) -> str:
        return self.reason or ("ok" if self.note is None else f"ok: {self.note}")

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: the ``psnr`` of equal outputs is None there."""
        return asdict(self) | {
            "ok": self.ok,
            "psnr": None if self.psnr is None or math.isinf(self.psnr) else self.psnr,
        }


@dataclass(frozen=True)
class Limit:
    """What an output may differ by: ``rounding`` gives the tolerance for its expected value, and
    in a share ``differing`` of its values it may be one ``step`` more."""

    rounding: Callable[[np.ndarray], float]
    step: float | None = None
    differing: float = 0.0

    def too_many(self, count: int, size: int) -> bool:
        """Whether ``count`` of ``size`` values are more than may differ; one always may."""
        return count > max(1, self.differing * size)


def compare(name: str, expected: Any, actual: Any, limit: Limit) -> Iterator[Comparison]:
    """Compare two values of a model; sequences and maps are taken apart, one by one."""
    if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
        yield _compare_arrays(name, expected, actual, limit)
    elif type(expected) is not type(actual):
        yield Comparison(
            name, type(actual).__name__, (), reason=f"expected a {type(expected).__name__}"
        )
    elif isinstance(expected, list) and len(expected) == len(actual):
        for i, (one, other) in enumerate(zip(expected, actual, strict=True)):
            yield from compare(f"{name}[{i}]", one, other, limit)
    elif isinstance(expected, dict) and expected.keys() == actual.keys():
        for key in expected:
            yield from compare(f"{name}[{key!r}]", expected[key], actual[key], limit)
    elif isinstance(expected, float):
        yield _compare_arrays(name, np.asarray(expected), np.asarray(actual), limit)
    else:
        reason = None if expected == actual else "the values differ"
        yield Comparison(name, type(expected).__name__, (), reason=reason)


def _compare_arrays(
    name: str, expected: np.ndarray, actual: np.ndarray, limit: Limit
) -> Comparison:
    facts = {"name": name, "dtype": str(actual.dtype), "shape": actual.shape}
    if expected.shape != actual.shape:
        return Comparison(**facts, reason=f"expected shape {list(expected.shape)}")
    if expected.dtype != actual.dtype:
        return Comparison(**facts, reason=f"expected type {expected.dtype}")
    if not is_float(expected.dtype):
        return _compare_exactly(facts, expected, actual, limit)

    facts["tolerance"] = limit.rounding(expected)
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(expected)
    misplaced = np.where(finite, ~np.isfinite(actual), ~_same(expected, actual))
    both = finite & ~misplaced
    error = np.zeros_like(expected)
    np.subtract(actual, expected, out=error, where=both)
    np.abs(error, out=error)
    if not error.size:
        return Comparison(**facts)

    largest = _argmax(error)
    magnitude = np.where(both, np.abs(expected), 0.0)
    relative = error / np.maximum(magnitude, _rms(magnitude) or 1.0)
    worst = _argmax(relative)
    facts |= {
        "max_abs": float(error[largest]),
        "max_abs_at": largest,
        "max_rel": float(relative[worst]),
        "max_rel_at": worst,
        **_overall(np.where(both, expected, 0.0), np.where(both, actual, 0.0), error, both.sum()),
    }
    if misplaced.any():
        at = _argmax(misplaced)
        facts["reason"] = f"{actual[at]} instead of {expected[at]} at {list(at)}"
    elif error[largest] > facts["tolerance"] + (limit.step or 0.0):
        facts["reason"] = "exceeds the tolerance"
    if limit.step is not None:
        _count_steps(facts, int((error > facts["tolerance"]).sum()), error.size, limit)
    return Comparison(**facts)


def _count_steps(facts: dict, count: int, size: int, limit: Limit) -> None:
    facts |= {"step": limit.step, "equal": 1 - count / size}
    if limit.too_many(count, size):
        facts.setdefault("reason", f"{count} of {size} values differ by a step")


def _compare_exactly(
    facts: dict, expected: np.ndarray, actual: np.ndarray, limit: Limit
) -> Comparison:
    different = np.asarray(expected != actual)
    steps = limit.step is not None and expected.dtype.kind in "iu"
    if steps and different.size:
        _count_steps(facts, int(different.sum()), different.size, limit)
    if not different.any():
        return Comparison(**facts)
    at = _argmax(different)
    reason = f"{different.sum()} values differ, the first at {list(at)}"
    if expected.dtype.kind not in "iu":
        return Comparison(**facts, reason=reason)
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    at = _argmax(error)
    if not steps or error[at] > limit.step:
        facts["reason"] = reason
    return Comparison(**facts, max_abs=float(error[at]), max_abs_at=at)


def _overall(
    expected: np.ndarray, actual: np.ndarray, error: np.ndarray, count: int
) -> dict[str, float | None]:
    """RMS, cosine and PSNR over ``count`` elements; the others are 0 in all three arrays."""
    if not count:
        return {}
    rms = _rms(error) * math.sqrt(error.size / count)
    peak, other = (float(np.abs(values).max()) for values in (expected, actual))
    cosine = psnr = None
    if peak and other:
        a, b = expected.ravel() / peak, actual.ravel() / other
        cosine = min(1.0, float(a @ b / math.sqrt((a @ a) * (b @ b))))
    if peak:
        psnr = 20 * math.log10(peak / rms) if rms else math.inf
    return {"rms": rms, "cosine": cosine, "psnr": psnr}


def _rms(values: np.ndarray) -> float:
    largest = float(values.max())  # taken out, so that no square overflows
    return largest and largest * float(np.sqrt(np.mean(np.square(values / largest))))


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b) | (np.isnan(a) & np.isnan(b))


def _argmax(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(np.argmax(values), values.shape))
