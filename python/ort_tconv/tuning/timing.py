"""Medians of functions that are timed in turns."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence

SETTLE = 0.06  # seconds after which onnxruntime's idle threads have ceased to spin; measured: 0.04
_LEAST_ROUNDS = 6  # the first of which is not counted
_SECONDS = 0.5  # for each form of a site, and of the whole model
_WAKE_UP = 2e-3  # seconds of calls until threads are awake and the processor is at speed
_BURST = 8  # calls that are timed in a turn,
_LONG = 0.05  # unless they take longer than so many seconds


def interleaved(
    runs: Sequence[Callable[[], object]],
    *,
    seconds: float = _SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> list[float]:
    """Median milliseconds of each function, measured for so many ``seconds`` each.

    In every round each function has one turn, in an order drawn anew, so that whatever else the
    machine does hits all of them alike: calls in a row, as in a model layer follows layer, the
    first of which only wake the threads up.  The pause after a turn lets the session's threads
    come to rest, which would otherwise spin on the cores that the next turn needs.
    """
    times: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    draw = random.Random(0)
    start = clock()
    rounds = 0
    while rounds < _LEAST_ROUNDS or clock() - start < seconds * len(runs):
        draw.shuffle(order)
        for i in order:
            taken = turn(runs[i], clock)
            if rounds > 0:
                times[i] += taken
            sleep(SETTLE)
        rounds += 1
    return [1e3 * statistics.median(taken) for taken in times]


def turn(run: Callable[[], object], clock: Callable[[], float]) -> list[float]:
    """Seconds of each timed call: some in a row, once the threads are awake."""

    def call() -> float:
        start = clock()
        run()
        return clock() - start

    first = awake = call()
    if first > _LONG:  # no time is lost in waking up that would count
        return [first]
    while awake < _WAKE_UP:
        awake += call()
    times: list[float] = []
    while len(times) < _BURST and sum(times) < _LONG:
        times.append(call())
    return times
