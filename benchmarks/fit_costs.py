"""Fits the constants of the cost model (custom_op/core/cost.h) to recordings of candidates.py.

    python benchmarks/fit_costs.py RECORDING... [--steps N]

prints, for each recording, what its constants lose against the best candidates, and constants that
lose less, for cost.cc. A candidate's time is the mean of that with warm and with cold weights:
which of them a layer meets depends on the model around it, and a plan is made for either. Nothing
is timed here.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ort_tconv import _core

#: Weight of misjudged times, as squares of logarithms, beside what choices lose: times of plans
#: that are not chosen here are for others to choose by.
FAITHFUL = 0.3
#: How sharply the cost decides, where a choice by the least cost alone would give no direction.
SHARP = 30
#: Greatest change of a constant's logarithm in the first round, and the least that ends the search.
STEPS = 0.5, 0.01
#: Microseconds by which ONNX Runtime's own part of a call differs from call to call: plans that
#: differ by less are equally good.
CALL = 2.0
#: No constant leaves what a processor of any kind could have. What memory is worth is no matter of
#: measurement, and not fitted.
BOUNDS = {
    "stall": (0.1, 4),
    "weight_load": (0.001, 3),
    "sum": (0.1, 60),
    "task": (10, 100000),
    "wake": (100, 100000),
    "copy": (0.5, 60),
    "transform": (1, 60),
    "transform_back": (0.5, 60),
    "store": (0.5, 60),
    "row": (0.7, 3),
    "row_load": (0.05, 3),
    "row_copy": (0.1, 40),
    "row_store": (0.5, 60),
    "outgrown": (0.001, 2),
    "row_outgrown": (0.001, 2),
    "near_byte": (0.001, 0.3),
    "far_byte": (0.005, 0.4),
    "memory_byte": (0.05, 1.5),
    "shared_byte": (0.03, 1),
    "exposed": (0.02, 1),
}


@dataclass(frozen=True)
class Measured:
    """A candidate's microseconds, and between which values they lie."""

    us: float
    least: float
    most: float

    @classmethod
    def of(cls, numbers: list[float]) -> Measured:
        half = len(numbers) // 2
        pairs = (numbers[:half], numbers[half:]) if half else (numbers,)
        return cls(
            statistics.mean(numbers),
            statistics.mean(map(min, pairs)),
            statistics.mean(map(max, pairs)),
        )


@dataclass(frozen=True)
class Problem:
    """A layer of a recording, on some threads: its candidates' times and costs."""

    name: str
    threads: int
    kinds: list[str]
    times: dict[str, Measured]
    costs: _core.CandidateCosts

    @property
    def best(self) -> str:
        return min(self.times, key=lambda kind: self.times[kind].us)

    def chosen(self, constants: dict[str, float] | None = None) -> str:
        costs = self.costs(constants or {})
        return self.kinds[costs.index(min(costs))]

    @property
    def noise(self) -> float:
        """How far apart two measurements of the same candidate are, of those near the best."""
        best = self.times[self.best].us
        near = [t.most / t.least for t in self.times.values() if t.us <= 1.25 * best]
        return statistics.median(near)

    def loss(self, kind: str) -> float:
        """Time of a candidate over that of the best; 1 where they differ by less than measurements
        of one candidate do: this one's, the best one's, or most of those near the best; or by less
        than ``CALL``. Raises ``KeyError`` if the candidate was not recorded."""
        time, best = self.times[kind], self.times[self.best]
        alike = time.least <= best.most or time.us <= max(self.noise * best.us, best.us + CALL)
        return 1 if alike else time.us / best.us


def problems(recording: dict[str, Any]) -> list[Problem]:
    result = []
    names = ("strides", "pads", "dilations", "output_padding", "group")
    for row in recording["layers"]:
        x, w = row["x"], [row["x"][1], row["m"] // row["group"], *row["kernel"]]
        options = {name: row[name] for name in names}
        options.update(isa=recording["isa"], machine=recording["machine"])
        for threads, us in row["us"].items():
            kinds = [p["kind"] for p in _core.candidates(x, w, threads=int(threads), **options)]
            times = {kind: Measured.of(numbers) for kind, numbers in us.items()}
            costs = _core.CandidateCosts(x, w, threads=int(threads), **options)
            result.append(Problem(row["name"], int(threads), kinds, times, costs))
    return result


def losses(measured: Iterable[Problem], constants: dict[str, float] | None = None) -> list[float]:
    return [p.loss(p.chosen(constants)) for p in measured]


def objective(measured: list[Problem], constants: dict[str, float]) -> float:
    lost, errors = [], []
    for p in measured:
        known = [
            (cost, p.times[kind])
            for cost, kind in zip(p.costs(constants), p.kinds)
            if kind in p.times
        ]
        least, best = min(cost for cost, _ in known), p.times[p.best].us
        weights = [(least / cost) ** SHARP for cost, _ in known]
        worth = sum(w * math.log(t.us / best) for w, (_, t) in zip(weights, known)) / sum(weights)
        # Squares too, so that one bad choice weighs more than many indifferent ones.
        lost.append(worth + 4 * worth**2)
        errors.extend((math.log(cost / p.threads / t.us), (best / t.us) ** 2) for cost, t in known)
    total = sum(w for _, w in errors)
    scale = sum(w * e for e, w in errors) / total
    spread = sum(w * (e - scale) ** 2 for e, w in errors) / total
    return statistics.fmean(lost) + FAITHFUL * spread


def fit(measured: list[Problem], start: dict[str, float], steps: int) -> dict[str, float]:
    """Pattern search over the constants' logarithms, one at a time."""
    found = dict(start)
    for name, (low, high) in BOUNDS.items():
        found[name] = min(max(start[name], low), high)
    value, step = objective(measured, found), STEPS[0]
    for _ in range(steps):
        before = value
        for name, (low, high) in BOUNDS.items():
            for factor in (math.exp(step), math.exp(-step)):
                moved = {**found, name: min(max(found[name] * factor, low), high)}
                if (other := objective(measured, moved)) < value:
                    found, value = moved, other
                    break
        if value > before - 1e-5:
            step /= 2
        if step < STEPS[1]:
            break
    return {name: float(f"{v:.3g}") for name, v in found.items()}


def report(title: str, measured: list[Problem], constants: dict[str, float], worst: int) -> None:
    lost = losses(measured, constants)
    exact = [p.times[p.chosen(constants)].us / p.times[p.best].us for p in measured]
    means = [statistics.geometric_mean(values) for values in (lost, exact)]
    print(
        f"{title}: {means[0]:.4f} times the best in geometric mean, {max(lost):.3f} at worst "
        f"({means[1]:.4f} and {max(exact):.3f} without regard to noise)"
    )
    for loss, p in sorted(zip(lost, measured), key=lambda pair: -pair[0])[:worst]:
        chosen = p.chosen(constants)
        print(
            f"  {loss:.3f} {p.name}, {p.threads} threads: {chosen} {p.times[chosen].us:.0f} us, "
            f"{p.best} {p.times[p.best].us:.0f} us"
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", nargs="+", type=Path, metavar="RECORDING")
    parser.add_argument("--steps", type=int, default=60, help="0: only replay (%(default)s)")
    parser.add_argument("--worst", type=int, default=8, help="layers to name (%(default)s)")
    options = parser.parse_args(argv)
    for file in options.recordings:
        recording = json.loads(file.read_text())
        measured = problems(recording)
        constants = _core.cost_constants(recording["isa"])
        print(f"{file}: {len(measured)} problems")
        report("in use", measured, constants, options.worst)
        if options.steps:
            fitted = fit(measured, constants, options.steps)
            report("fitted", measured, fitted, options.worst)
            print("\n".join(f"  k.{name} = {value};" for name, value in fitted.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
