"""What the tests of the CPU engines share: what can be forced, and how far a result may be off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from cases import STORE_ROUNDOFF, SUM_ROUNDOFF, Case, assert_within
from instruction_sets import isa_parameters

from ort_tconv import _core

Arrays = Mapping[str, np.ndarray]


ALGORITHMS = _core.algorithms()
#: What an axis may enlarge rounding errors by, see allowed(): as it is, in small, in large tiles.
ENLARGED = 1, 6, 19


each_isa = pytest.mark.parametrize(
    "isa",
    isa_parameters(_core.compiled_isas(), _core.supported_isas(), _core.emulated_isas()),
)
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
each_choice = pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])


@dataclass(frozen=True)
class Epilogue:
    activation: str = ""
    params: tuple[float, ...] = ()

    @property
    def attributes(self) -> dict:
        return {"activation": self.activation, "activation_params": list(self.params)}

    @property
    def slope(self) -> float:
        """The activation's greatest: HardSwish has 1.5, Gelu 1.13, unless a parameter is one."""
        exact = self.activation in ("", "Relu", "Clip")
        return 1.0 if exact else max(1.5, *map(abs, self.params), 0)


PLAIN = Epilogue()


def run(case: Case, arrays: Arrays, epilogue: Epilogue = PLAIN, **options) -> np.ndarray:
    inputs = [arrays.get(name) for name in "xwbz"]
    return _core.run(*inputs, **case.attributes, **epilogue.attributes, **options)


def reference(case: Case, arrays: Arrays, epilogue: Epilogue = PLAIN) -> np.ndarray:
    inputs = [arrays[name].astype(np.float64) if name in arrays else None for name in "xwbz"]
    return _core.reference(*inputs, **case.attributes, **epilogue.attributes)


def with_residual(case: Case, arrays: Arrays) -> dict[str, np.ndarray]:
    shape = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)[0]
    z = np.random.default_rng(99).standard_normal(shape)
    return {**arrays, "z": z.astype(arrays["x"].dtype)}


def plan(case: Case, algorithm: str, **options) -> dict:
    attributes = case.attributes | {"dtype": case.dtype, "algorithm": algorithm}
    return _core.plan(case.x_shape, case.w_shape, **attributes, **options)


def transforms(case: Case, algorithm: str, **options) -> list[int]:
    """How Winograd's method transforms each spatial axis: not (0), in small (1) or large (2) tiles;
    [] where another method runs."""
    return plan(case, algorithm, **options)["transform"][1:]


def method(case: Case, algorithm: str, **options) -> str:
    """What decides the order of sums: the algorithm, the axes it transforms, and the pixels and
    channels that one product takes, which may be left with few. The number of threads may decide
    all of these."""
    chosen = plan(case, algorithm, **options)
    return str([chosen[key] for key in ("algorithm", "aligned", "transform", "tile", "block")])


def allowed(
    case: Case,
    arrays: Arrays,
    epilogue: Epilogue = PLAIN,
    transformed: Sequence[int] = (),
) -> np.ndarray:
    r"""Largest error of each output that rounding explains.

    With unit roundoff u of the arithmetic, :math:`\gamma_n = n u / (1 - n u)` and v the value
    before the activation:

    *Direct sums.*  v is a sum of K products, the bias and the residual.  In any order, with or
    without fused multiply-adds, no term passes through more than K + 2 roundings (Higham, Accuracy
    and Stability of Numerical Algorithms, 2nd ed., section 3.1):

    .. math:: |\hat v - v| \le \gamma_{K+2} \left( \sum |x||w| + |b| + |z| \right)

    *Winograd's sums.*  Inputs and weights of a window are summed first, so the bound is in their
    sizes rather than term by term.  An output is :math:`\sum_p A^T_{jp} (G h)_p (B^T d)_p`, so that
    an axis enlarges it by at most :math:`e = \max_j \sum_p |A^T_{jp}| \|B^T_p\|_1 \max_t |G_{pt}|`:
    6 in small tiles (points 0, 1, -1, infinity), 10 in F(4,2) and 19 in F(4,3), 1 if it keeps its
    taps.  A term passes through at most K multiply-adds and, per axis, 4 + 3 + 4 roundings of the
    transforms:

    .. math:: |\hat v - v| \le \gamma_{K+11d+2} \left(
        \prod_i e_i \sum_c \max |x_c| \sum_t |w_{ct}| + |b| + |z| \right)

    *Activation* f.  It multiplies an error by at most its slope, and is itself computed within
    16 u (|v| + 1); copying and comparing are exact.

    *Storage* rounds once more, by half a unit in the last place; below the smallest normal number
    by half of the smallest subnormal one.
    """
    u = SUM_ROUNDOFF[case.dtype]
    magnitude = {name: np.abs(value).astype(np.float64) for name, value in arrays.items()}
    roundings = case.group_in * _most_taps(case) + 2
    if transformed:
        roundings += 11 * len(case.spatial)
        size = window_sizes(case, magnitude, transformed)
    else:
        size = reference(case, magnitude)
    assert roundings * u < 0.1, "the bound says nothing"
    error = roundings * u / (1 - roundings * u) * size
    if epilogue.activation:
        error = epilogue.slope * error
        if epilogue.activation not in ("Relu", "Clip"):
            error += epilogue.slope * 16 * u * (np.abs(reference(case, arrays)) + 1)
    stored = np.abs(reference(case, arrays, epilogue)) + error
    return error + STORE_ROUNDOFF[case.dtype] * stored + _half_subnormal(case.dtype)


def _half_subnormal(dtype: str) -> float:
    return {"float16": 2.0**-25, "bfloat16": 2.0**-134, "float32": 2.0**-150}.get(dtype, 5e-324)


def _most_taps(case: Case) -> int:
    """Taps of the longest sub-kernel."""
    axes = _core.residue_classes(case.x_shape, case.w_shape, **case.attributes)
    longest = [max((len(one["taps"]) for one in axis["classes"]), default=0) for axis in axes]
    return math.prod(longest)


def window_sizes(case: Case, magnitude: Arrays, transformed: Sequence[int]) -> np.ndarray:
    """The bracket of the transformed bound, an upper bound of every output of a channel."""
    axes = len(case.spatial)
    shape = _core.output_shape(case.x_shape, case.w_shape, **case.attributes)[0]
    spatial = tuple(range(2, 2 + axes))
    x = magnitude["x"].max(axis=spatial, initial=0).reshape(case.batch, case.group, case.group_in)
    w = magnitude["w"].sum(axis=spatial).reshape(case.group, case.group_in, case.group_out)
    enlarged = math.prod(ENLARGED[axis] for axis in transformed)
    sums = enlarged * np.einsum("ngc,gcm->ngm", x, w)
    ones = (1,) * axes
    size = np.broadcast_to(sums.reshape(case.batch, case.out_channels, *ones), shape).copy()
    if "b" in magnitude:
        size += magnitude["b"].reshape(1, -1, *ones)
    return size + magnitude["z"] if "z" in magnitude else size


def check(
    case: Case,
    arrays: Arrays,
    algorithm: str,
    epilogue: Epilogue = PLAIN,
    **options,
) -> np.ndarray:
    """Runs the engine and compares it with the reference; returns its result."""
    y = run(case, arrays, epilogue, algorithm=algorithm, **options)
    transformed = transforms(case, algorithm, **options)
    expected = reference(case, arrays, epilogue)
    assert_within(y, expected, allowed(case, arrays, epilogue, transformed))
    return y


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
