"""Every plan that a problem could run by (custom_op/core/candidates.h) against the reference."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
from cases import Case, assert_within

from ort_tconv import _core

CASES = {
    "4x4, stride 2": Case(
        (17, 14), (4, 4), group_in=40, group_out=24, strides=(2, 2), pads=(1, 1, 1, 1)
    ),
    "3x3, groups, batch": Case((9, 11), (3, 3), 2, 2, 12, 20, strides=(2, 2)),
    "few channels": Case((40, 50), (5, 5), group_in=3, group_out=2, strides=(2, 2)),
    "1-D": Case((300,), (16,), group_in=24, group_out=33, strides=(8,), pads=(4, 4)),
    "3-D": Case((5, 6, 7), (4, 3, 2), group_in=16, group_out=9, strides=(2, 2, 2)),
    "dilated": Case((31, 20), (3, 3), group_in=16, group_out=16, dilations=(3, 2)),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@each_case
@pytest.mark.parametrize("threads", [1, 3])
def test_every_candidate_computes_the_same(case: Case, threads: int) -> None:
    arrays = case.arrays()
    expected, bound = case.expected(arrays), case.bound(arrays)
    plans = _core.candidates(case.x_shape, case.w_shape, threads=threads, **case.attributes)
    for i in range(len(plans)):
        y = _core.run(**arrays, candidate=i, threads=threads, **case.attributes)
        assert_within(y, expected, bound)


@each_case
def test_kinds_tell_candidates_apart(case: Case) -> None:
    for threads in (1, 2):
        plans = _core.candidates(case.x_shape, case.w_shape, threads=threads, **case.attributes)
        assert len({plan["kind"] for plan in plans}) == len(plans)
        assert {"direct", "narrow"} <= {plan["kind"] for plan in plans}
        assert any("by channels" in plan["kind"] for plan in plans) == (threads > 1)


@each_case
@pytest.mark.parametrize("isa", _core.compiled_isas())
def test_plan_is_the_candidate_of_least_cost(case: Case, isa: str) -> None:
    for threads in (1, 2, 16):
        options = {"threads": threads, "isa": isa, **case.attributes}
        plans = _core.session_candidates(case.x_shape, case.w_shape, **options)
        plan = _core.plan(case.x_shape, case.w_shape, **options)
        assert plan["cost"] == min(p["cost"] for p in plans)
        if threads == 1:
            alone = _core.candidates(case.x_shape, case.w_shape, **options)
            assert plan["cost"] == pytest.approx(min(p["cost"] for p in alone), rel=1e-12)


@each_case
def test_a_plan_serves_sessions_of_every_size(case: Case) -> None:
    """Costs of each size are those of the plan in such a session, and none is sacrificed."""
    options = {"isa": "avx2" if "avx2" in _core.compiled_isas() else "baseline", **case.attributes}
    for threads, sizes in ((1, [1]), (2, [2, 1]), (8, [8, 2, 1]), (64, [64, 16, 4, 1])):
        plans = _core.session_candidates(case.x_shape, case.w_shape, threads=threads, **options)
        least = {}
        for size in sizes:
            alone = _core.candidates(case.x_shape, case.w_shape, threads=size, **options)
            costs = {work(p): p["cost"] for p in alone}
            least[size] = min(costs.values())
            if size == threads:
                assert set(costs) <= {work(p) for p in plans}
                fewest = min(p["tasks"] for p in alone)
            for plan in plans:
                assert plan["costs"][size] == costs.get(work(plan), plan["costs"][size])
        for plan in plans:
            assert list(plan["costs"]) == sizes
            assert plan["tasks"] >= min(fewest, threads)
            mean = statistics.geometric_mean(plan["costs"].values())
            assert plan["cost"] == pytest.approx(mean, rel=1e-12)
        best = min(plans, key=lambda plan: plan["cost"])
        # Of a problem this small, that is hardly worth sharing out, half of what the best would be.
        assert best["cost"] <= 2 * statistics.geometric_mean(least.values())


def work(plan: dict[str, Any]) -> tuple:
    """What tells plans apart that compute a problem in different tasks."""
    keys = ("aligned", "transform", "tile", "blocks_per_task")
    return plan["algorithm"], *(str(plan[key]) for key in keys)


def test_work_is_counted_once() -> None:
    """Multiply-adds of the direct method: each pair of an output and a tap, in vectors."""
    case = CASES["4x4, stride 2"]
    direct, *_ = _core.candidates(case.x_shape, case.w_shape, isa="baseline", **case.attributes)
    pairs = math.prod(case.spatial) * math.prod(case.kernel)
    vectors = math.ceil(case.group_out / 4)
    # Outputs at the border that pads cut off are not computed.
    assert 0.8 * pairs < direct["work"]["multiply_adds"] / (vectors * case.group_in) <= pairs
    assert direct["work"]["weight_bytes"] == direct["packed_bytes"] * math.prod(direct["tiles"])


def test_no_such_candidate() -> None:
    x, w = np.zeros((1, 2, 3), np.float32), np.zeros((2, 2, 3), np.float32)
    with pytest.raises(_core.Error, match="candidate = 99: there are"):
        _core.run(x, w, candidate=99)


# ---- cost ----------------------------------------------------------------------------------------


def costs(constants: dict[str, float], **machine: int) -> dict[str, float]:
    x, w = [1, 512, 8, 8], [512, 256, 4, 4]
    options = {"strides": [2, 2], "pads": [1] * 4, "machine": machine, "threads": 2}
    kinds = [plan["kind"] for plan in _core.candidates(x, w, **options)]
    return dict(zip(kinds, _core.CandidateCosts(x, w, **options)(constants)))


@pytest.mark.parametrize("name", _core.cost_constants(_core.isa()))
def test_no_constant_makes_anything_cheaper(name: str) -> None:
    values = _core.cost_constants(_core.isa())
    before, after = costs({}), costs({name: 2 * values[name] + 1})
    assert all(after[kind] >= before[kind] * (1 - 1e-12) for kind in before)


def test_weights_are_never_free() -> None:
    """Not even where the last level holds them all."""
    held = {"l2_bytes": 2 << 20, "l3_bytes": 260 << 20, "l3_sharers": 128}
    free = {name: 0.0 for name in ("near_byte", "far_byte", "memory_byte", "shared_byte")}
    paid, unpaid = costs({}, **held), costs(free, **held)
    for kind in paid:
        assert paid[kind] > 1.001 * unpaid[kind], kind
