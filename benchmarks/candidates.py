"""Times every plan that the operator could run a layer by, to fit and test the choice among them.

    python benchmarks/candidates.py [--json FILE] [--minutes M]

writes a recording: for each layer of workloads.json and of the further shapes below, on one thread
and on all, the microseconds of each candidate (ort_tconv._core.candidates). One file is one
processor. What the file holds already is not timed again, so that a recording can be taken in
pieces; those of another build of the kernels want --again.

A candidate has four numbers: twice with the weights of the call before, twice with weights that no
cache holds, as those of a model whose other layers ran since. The two of a pair come from different
rounds: how far apart they are says how well the machine keeps time. Candidates that are far behind
have one for each, or only the first.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ort_tconv import _core
from ort_tconv.base import machine

HERE = Path(__file__).resolve().parent
RECORDINGS = HERE / "recordings"
MIB = 1 << 20

ARENA = 288 * MIB  # of weights: no core finds in a cache what it last read that many bytes ago
TURN = 2e-3  # seconds at least
CALLS = 1, 20  # least and most of a turn
BEHIND = 1.6, 1.25  # times the best: candidates left out after one call, and after the first rounds
LOST = 0.02  # seconds for which a thread may lose its processor
FIRST_ROUNDS = 3
ROUNDS = 7, 24  # least and most
SECONDS = 0.5  # for a layer: no further round begins


@dataclass(frozen=True)
class Layer:
    name: str
    x: list[int]
    m: int
    kernel: list[int]
    strides: list[int]
    pads: list[int]
    dilations: list[int]
    output_padding: list[int]
    group: int = 1

    @property
    def w(self) -> list[int]:
        return [self.x[1], self.m // self.group, *self.kernel]

    @property
    def attributes(self) -> dict[str, Any]:
        names = ("strides", "pads", "dilations", "output_padding", "group")
        return {name: getattr(self, name) for name in names}


def layer(name: str, x: list[int], m: int, kernel: list[int], **attributes: Any) -> Layer:
    axes = len(kernel)
    full: dict[str, Any] = {
        "strides": [1] * axes,
        "pads": [0] * 2 * axes,
        "dilations": [1] * axes,
        "output_padding": [0] * axes,
        **attributes,
    }
    return Layer(name, x, m, kernel, **full)


def square(n: int, c: int, side: int, m: int, k: int, s: int, p: int = 0, axes: int = 2, **more):
    """A layer whose axes are alike, named by its numbers."""
    extra = "".join(f"_{key[0]}{value}" for key, value in more.items())
    name = f"{n}x{c}x{side}^{axes}_to_{m}_k{k}_s{s}{extra}"
    attributes: dict[str, Any] = {"strides": [s] * axes, "pads": [p] * 2 * axes}
    if "dilation" in more:
        attributes["dilations"] = [more["dilation"]] * axes
    if "group" in more:
        attributes["group"] = more["group"]
    return layer(name, [n, c, *[side] * axes], m, [k] * axes, **attributes)


#: What published layers leave out: few and many channels, one to three axes, batches, kernels
#: shorter than the stride and as long, dilations, groups.
FURTHER = [
    # few channels in or out
    square(1, 3, 64, 16, 4, 2, 1),
    square(1, 1, 200, 1, 3, 2, 1),
    square(1, 4, 96, 4, 4, 2, 1),
    square(1, 8, 64, 8, 4, 2, 1),
    square(1, 12, 64, 12, 3, 2, 1),
    square(1, 16, 64, 3, 4, 2, 1),
    square(1, 32, 64, 1, 3, 2, 1),
    square(1, 48, 48, 12, 4, 2, 1),
    square(1, 64, 48, 6, 5, 2, 2),
    square(1, 128, 16, 20, 4, 2, 1),
    # small in every way
    square(1, 4, 6, 4, 4, 2, 1),
    square(1, 16, 8, 16, 4, 2, 1),
    square(1, 64, 4, 32, 3, 2, 1),
    square(1, 8, 40, 8, 4, 2, 1, axes=1),
    # many channels
    square(1, 128, 32, 64, 3, 2, 1),
    square(1, 192, 24, 96, 4, 2, 1),
    square(1, 256, 16, 256, 3, 2, 1),
    square(1, 512, 8, 512, 3, 2, 1),
    square(1, 384, 14, 192, 2, 2),
    square(1, 768, 7, 384, 2, 2),
    square(1, 320, 4, 320, 4, 2, 1),
    square(1, 1024, 2, 512, 4, 2, 1),
    square(1, 100, 1, 512, 4, 1),
    square(1, 256, 6, 256, 6, 2, 2),
    square(1, 96, 20, 96, 5, 2, 2),
    square(1, 40, 40, 40, 4, 2, 1),
    square(1, 72, 33, 24, 4, 2, 1),
    square(1, 64, 24, 64, 8, 4, 2),
    square(1, 64, 20, 32, 6, 3, 1),
    square(1, 128, 12, 128, 9, 3, 3),
    # stride 1
    square(1, 64, 32, 64, 3, 1, 1),
    square(1, 256, 10, 256, 3, 1, 1),
    square(1, 16, 96, 16, 3, 1, 1),
    square(1, 64, 56, 64, 3, 1, 1),
    square(1, 128, 28, 128, 3, 1, 1),
    square(1, 512, 8, 512, 3, 1, 1),
    square(1, 64, 48, 3, 7, 1, 3),
    square(1, 24, 48, 24, 5, 1, 2),
    square(1, 256, 16, 128, 1, 1),
    # kernels as long as the stride, and shorter
    square(1, 64, 32, 64, 3, 3),
    square(1, 64, 16, 32, 4, 4),
    square(1, 96, 16, 3, 8, 8),
    square(1, 64, 24, 64, 2, 3),
    square(1, 128, 24, 128, 1, 2),
    # batches
    square(4, 128, 8, 64, 4, 2, 1),
    square(8, 64, 8, 64, 3, 2, 1),
    square(32, 128, 4, 64, 4, 2, 1),
    square(16, 32, 12, 8, 4, 2, 1),
    square(2, 16, 64, 3, 4, 2, 1),
    square(64, 100, 1, 64, 4, 1),
    # dilations
    square(1, 64, 24, 64, 3, 1, 2, dilation=2),
    square(1, 32, 32, 32, 3, 2, 1, dilation=3),
    square(1, 64, 600, 64, 7, 1, 27, axes=1, dilation=9),
    # groups
    square(1, 64, 32, 64, 4, 2, 1, group=64),
    square(1, 128, 24, 128, 4, 2, 1, group=4),
    square(1, 96, 24, 48, 3, 2, 1, group=2),
    square(1, 256, 16, 256, 3, 2, 1, group=32),
    square(1, 64, 1000, 64, 12, 6, 3, axes=1, group=64),
    # one axis
    square(1, 192, 64, 96, 20, 10, 5, axes=1),
    square(1, 256, 32, 128, 12, 6, 3, axes=1),
    square(1, 512, 50, 256, 10, 5, 2, axes=1),
    square(1, 32, 4000, 16, 4, 2, 1, axes=1),
    square(1, 16, 4000, 1, 16, 8, 4, axes=1),
    square(1, 96, 500, 48, 7, 3, 2, axes=1),
    square(1, 64, 500, 64, 2, 4, axes=1),
    square(1, 512, 8, 256, 16, 8, 4, axes=1),
    square(1, 513, 100, 1, 256, 64, axes=1),
    square(1, 128, 800, 128, 3, 1, 1, axes=1),
    # three axes
    square(1, 32, 8, 32, 4, 2, 1, axes=3),
    square(1, 64, 8, 32, 2, 2, axes=3),
    square(1, 32, 16, 32, 3, 1, 1, axes=3),
    square(1, 16, 16, 8, 3, 2, 1, axes=3),
    square(1, 128, 4, 64, 3, 2, 1, axes=3),
    square(1, 8, 20, 1, 4, 2, 1, axes=3),
]


def workloads() -> list[Layer]:
    result = []
    for rows in json.loads((HERE / "workloads.json").read_text()).values():
        for row in rows if isinstance(rows, list) else []:
            names = ("strides", "pads", "output_padding", "dilations", "group")
            attributes = {name: row[name] for name in names if name in row}
            result.append(layer(row["name"], row["x"], row["m"], row["kernel"], **attributes))
    return result


# ---- recordings --------------------------------------------------------------------------------


def numbers(*seconds: float) -> list[float]:
    """Microseconds to four digits."""
    return [float(f"{1e6 * s:.4g}") for s in seconds]


class Timing:
    """The candidates of one layer, timed in rounds.

    A machine that others share, or that turbo clocks drive, changes its speed from second to
    second. So all candidates have a turn in each round, which is short, and what counts of a turn
    is its time over the mean of that round's.
    """

    def __init__(self, layer: Layer, arena: _core.WeightArena, threads: int) -> None:
        self.timer = _core.CandidateTimer(
            layer.x, layer.w, arena, threads=threads, **layer.attributes
        )
        # More weights than the arena has are more than anyone wants to keep.
        self.kinds = {
            i: plan["kind"]
            for i, plan in enumerate(self.timer.candidates)
            if plan["packed_bytes"] <= ARENA
        }
        self.order = random.Random(0)

    def turn(self, index: int, cold: bool, guess: float) -> float:
        least, most = CALLS
        calls = min(max(least, math.ceil(TURN / guess)), most)
        return min(self.timer.time(index, cold, calls))

    def round(self, left: list[int], guess: dict[int, float]) -> dict[int, list[float]]:
        """Seconds with warm and with cold weights."""
        order = list(left)
        self.order.shuffle(order)
        return {i: [self.turn(i, cold, guess[i]) for cold in (False, True)] for i in order}

    def times(self) -> dict[str, list[float]]:
        # A thread that has lost its processor for a while is no slow candidate: the best of several
        # passes counts, each relative to the best of its time.
        once = {i: min(self.timer.time(i, False, 1)) for i in self.kinds}
        for _ in range(2):
            for i, seconds in once.items():
                if seconds <= max(LOST, BEHIND[0] * min(once.values())):
                    once[i] = min(seconds, *self.timer.time(i, False, 1))
        left = within(BEHIND[0], once)
        rounds = [self.round(left, once) for _ in range(FIRST_ROUNDS)]
        sums = [{i: sum(times) for i, times in r.items()} for r in rounds]
        left = within(BEHIND[1], {i: min(r[i] / min(r.values()) for r in sums) for i in left})
        deadline = time.perf_counter() + SECONDS
        while len(rounds) < ROUNDS[0] or (
            len(rounds) < ROUNDS[1] and time.perf_counter() < deadline
        ):
            rounds.append(self.round(left, once))

        def relative(i: int, cold: bool, among: list[dict[int, list[float]]]) -> float:
            return statistics.median(
                r[i][cold] / statistics.geometric_mean(r[j][cold] for j in left)
                for r in among
                if i in r
            )

        scale = [
            min(statistics.geometric_mean(r[j][cold] for j in left) for r in rounds)
            for cold in (False, True)
        ]
        result = {}
        for i, kind in self.kinds.items():
            parts = [rounds[::2], rounds[1::2]] if i in left else [rounds]
            result[kind] = numbers(
                *(scale[cold] * relative(i, cold, p) for cold in (False, True) for p in parts)
                if i in rounds[0]
                else [once[i]]
            )
        return result


def within(factor: float, times: dict[int, float]) -> list[int]:
    return [i for i, t in times.items() if t <= factor * min(times.values())]


def describe() -> dict[str, Any]:
    """The machine as the library sees it, and what it concludes that from."""
    return {
        "processor": machine.processor()[0],
        "isa": _core.isa(),
        "machine": _core.machine(),
        "answers": _core.machine_answers(),
        "ort_tconv": _core.version,
    }


def threads_of(recording: dict[str, Any]) -> list[int]:
    return sorted({1, recording["machine"]["threads"]})


def everything(recording: dict[str, Any]) -> Iterator[tuple[Layer, int]]:
    for each in workloads() + FURTHER:
        for threads in threads_of(recording):
            yield each, threads


def missing(recording: dict[str, Any]) -> Iterator[tuple[Layer, int]]:
    done = {(row["name"], int(threads)) for row in recording["layers"] for threads in row["us"]}
    for each, threads in everything(recording):
        if (each.name, threads) not in done:
            yield each, threads


def add(recording: dict[str, Any], layer: Layer, threads: int, times: dict) -> None:
    rows = {row["name"]: row for row in recording["layers"]}
    row = rows.get(layer.name)
    if row is None:
        row = {**asdict(layer), "us": {}}
        recording["layers"].append(row)
    known = row["us"].get(str(threads))
    row["us"][str(threads)] = quieter(known, times) if known else times


def disputed(recording: dict[str, Any], loss: float) -> set[tuple[str, int]]:
    """Names and threads of the layers whose plan took more than `loss` times the best's time."""
    from fit_costs import problems

    return {
        (problem.name, problem.threads)
        for problem in problems(recording)
        if problem.loss(problem.chosen()) > loss
    }


def quieter(old: dict[str, list[float]], new: dict[str, list[float]]) -> dict[str, list[float]]:
    """Of two recordings of one layer that with less time in all: what disturbs only adds to it."""
    both = old.keys() & new.keys()
    least = [sum(min(times[kind]) for kind in both) for times in (old, new)]
    return old if least[0] < least[1] else new


def text_of(recording: dict[str, Any]) -> str:
    """JSON with a line for each candidate's numbers."""
    head = json.dumps({k: v for k, v in recording.items() if k != "layers"}, indent=1)
    rows = []
    for row in recording["layers"]:
        facts = json.dumps({k: v for k, v in row.items() if k != "us"})[:-1]
        by_threads = []
        for threads, times in row["us"].items():
            lines = ",\n".join(
                f"  {json.dumps(kind)}: {json.dumps(t)}" for kind, t in times.items()
            )
            by_threads.append(f' "{threads}": {{\n{lines}}}')
        rows.append(facts + ', "us": {\n' + ",\n".join(by_threads) + "}}")
    return head[:-2] + ',\n "layers": [\n' + ",\n".join(rows) + "\n]}\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: named by the processor")
    parser.add_argument(
        "--minutes",
        type=float,
        default=60,
        help="stop after these; another run goes on (%(default)s)",
    )
    parser.add_argument("--again", action="store_true", help="forget what the file holds")
    parser.add_argument(
        "--disputed",
        type=float,
        metavar="LOSS",
        help="time again, and keep what is less disturbed, where the plan's choice took more than"
        " so many times the best one's time",
    )
    options = parser.parse_args(argv)

    recording: dict[str, Any] = {**describe(), "layers": []}
    words = re.findall(r"[a-z0-9]+", f"{recording['processor']} {recording['isa']}".lower())
    file = options.json or RECORDINGS / f"{'-'.join(words)}.json"
    if file.exists() and not options.again:
        found = json.loads(file.read_text())
        for key in ("processor", "isa", "machine"):
            if found[key] != recording[key]:
                parser.error(
                    f"{file}: {key} is {found[key]}, here {recording[key]}: use another file"
                )
        recording = found
    file.parent.mkdir(parents=True, exist_ok=True)

    weights = _core.WeightArena(ARENA)
    todo = list(missing(recording))
    if options.disputed:
        again = disputed(recording, options.disputed)
        todo = [(each, n) for each, n in everything(recording) if (each.name, n) in again]
    deadline = time.monotonic() + 60 * options.minutes
    for count, (each, threads) in enumerate(todo):
        if time.monotonic() > deadline:
            print(f"{len(todo) - count} of {len(todo)} left: run the same command again")
            return 3
        add(recording, each, threads, Timing(each, weights, threads).times())
        file.write_text(text_of(recording))
        print(f"{each.name}, {threads} threads", flush=True)
    print(f"{file}: complete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
