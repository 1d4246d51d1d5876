"""Times a converted model against the original one, as a whole and node by node."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import machine
from ..base.new_process import run_in_new_process
from ..converters.model_io import Model, ModelLike
from ..models.inputs import describe, make_inputs
from ..models.plans import dtype_name, plan_of
from ..tuning.timing import SETTLE, turn
from ..validation.runners import inline_functions
from ..validation.validate import (
    Inputs,
    chosen_providers,
    compare_models,
    guessed_sizes,
    input_sets,
    read_pair,
    read_unconverted,
)
from .job import Job, Runner, make_job
from .plot import plot
from .profile import on_cpu, our_nodes, profile
from .results import OURS, STOCK, BenchmarkData, Timing
from .table import tables

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

#: Most runs in ORT's profiler, which keeps every event in memory.
_PROFILED_RUNS = 30
_STARTS = 3


class Benchmark(BenchmarkData):
    """Result of :func:`benchmark`, which a terminal shows as tables, by rich."""

    def plot(self, path: str | os.PathLike) -> None:
        """Draw bars for each of the operator's nodes, and for the whole run, to an image file.

        Raises ImportError if matplotlib is not installed, ValueError for an unknown file type.
        """
        plot(self, path)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return tables(self)


def benchmark(
    original: ModelLike,
    converted: ModelLike | None = None,
    inputs: Inputs = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    distribution: str = "normal",
    threads: int | None = None,
    warm_up: int = 3,
    repeat: int = 15,
    seconds: float = 2.0,
    providers: Sequence[Any] | None = None,
    per_node: bool = True,
    memory: bool = True,
    progress: bool = False,
    provider: bool = False,
) -> Benchmark:
    """Time a model in stock onnxruntime and as converted.

    Both models run in one process, in turns of a few calls and in an order drawn anew each round,
    so that whatever else the machine does hits both alike; before, their outputs are compared.
    Times of nodes come
    from sessions of their own with onnxruntime's profiler, which slows them down a little; memory
    from a process for each model (see :class:`Timing`; Linux only).

    Args:
        original: As for :func:`ort_tconv.validate`.
        converted: Likewise.
        inputs: Likewise.
        shapes: Likewise.
        seed: Likewise.
        distribution: Likewise.
        threads: Of each session; by default the cores this process may use.
        warm_up: Rounds that are not timed.
        repeat: Rounds at least that are timed, and runs with the profiler (30 at most).
        seconds: Seconds at least that the timed rounds take in all.
        providers: Execution providers for both models, by default
            :func:`ort_tconv.available_providers`.
        per_node: Whether to run the profiler.
        memory: Whether to measure memory.
        progress: Whether to show a progress bar on standard error if it is a terminal.
        provider: Time ``original`` as the execution provider runs it, instead of a converted model;
            see :func:`ort_tconv.add_provider`.

    Raises:
        RuntimeError: ``provider`` where there is none.
        ValueError: ``provider`` with ``converted`` or ``providers``; a number is out of range, the
            inputs do not fit, a provider is not available, or onnxruntime without the operator
            cannot run the original, so that nothing is there to compare with.
        ConversionError: One of the models cannot be read.
    """
    for name, value, least in (
        ("threads", threads, 1),
        ("warm_up", warm_up, 0),
        ("repeat", repeat, 1),
        ("seconds", seconds, 0),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    threads = threads or machine.usable_cores()
    if provider:
        source = target = inline_functions(read_unconverted(original, converted, providers))
        stock_providers, our_providers = ["CPUExecutionProvider"], None
    else:
        stock_providers = our_providers = chosen_providers(providers)
        source, target = map(inline_functions, read_pair(original, converted))
    given = input_sets(inputs, source.proto)[0]
    feeds = make_inputs(source.proto, given, shapes=shapes, seed=seed, distribution=distribution)

    jobs = {
        STOCK: make_job(source, feeds, stock_providers, threads, custom=False),
        OURS: make_job(target, feeds, our_providers, threads, custom=True),
    }
    with _progress(progress) as advance:
        advance("comparing outputs", 0.0)
        validation = compare_models(source, target, [feeds], our_providers)
        advance("creating sessions", 0.05)
        sessions, starts = _start_all(jobs)
        times = _in_turns(
            {name: session.run for name, session in sessions.items()},
            warm_up,
            repeat,
            seconds,
            lambda done: advance("timing", 0.1 + 0.5 * done),
        )
        ran_on = list(sessions[OURS].session.get_providers())
        del sessions
        nodes, notes = [], []
        if per_node:
            advance("profiling nodes", 0.6)
            nodes = profile(jobs, warm_up, min(repeat, _PROFILED_RUNS), source, target, feeds)
        peaks: dict[str, dict[str, int]] = {name: {} for name in jobs}
        if memory and sys.platform == "linux":
            for i, (name, job) in enumerate(jobs.items()):
                advance("measuring memory", 0.8 + 0.1 * i)
                peaks[name] = _peak_memory(job)
    if not validation.ok:
        notes.append(f"the outputs differ: {'; '.join(map(str, validation.outputs))}")
    if not validation.rewritten:
        notes.append("nothing was rewritten: both models are the same")
    if provider:
        notes.append(
            "the model as it is, with the execution provider, in the converted one's place"
        )
    timings = {name: _timing(times[name], starts[name], peaks[name]) for name in jobs}
    return Benchmark(
        model=source.name,
        inputs={name: describe(value) for name, value in feeds.items()},
        precision=_precision(target, feeds),
        providers=ran_on,
        threads=threads,
        warm_up=warm_up,
        stock=timings[STOCK],
        converted=timings[OURS],
        nodes=nodes,
        validation=validation,
        notes=notes,
        packed_bytes=_packed_bytes(target, feeds) if on_cpu(ran_on) else None,
        guessed=guessed_sizes(source.proto, given, shapes),
    )


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[str, float], None]]:
    if not shown:
        yield lambda step, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:18}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda step, done: bar.update(task, description=step, completed=done)


def _start_all(
    jobs: Mapping[str, Job],
) -> tuple[dict[str, Runner], dict[str, tuple[float, float]]]:
    """Sessions, and the least milliseconds of three creations and first runs.

    A model's sessions do not overlap: they would share what they make of the weights.
    """
    sessions: dict[str, Runner] = {}
    starts: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for _ in range(_STARTS):
        for name, job in jobs.items():
            sessions.pop(name, None)
            sessions[name], times = _start(name, job)
            starts[name].append(times)
    return sessions, {
        name: (min(created for created, _ in times), min(first for _, first in times))
        for name, times in starts.items()
    }


def _start(name: str, job: Job) -> tuple[Runner, tuple[float, float]]:
    """The session, and the milliseconds of its creation and of its first run."""
    start = time.perf_counter()
    try:
        session = job.open()
        created = time.perf_counter()
        session.run()
    except Exception as error:  # onnxruntime's exceptions share no other base
        if name == OURS:
            raise
        why = str(error).strip().partition("\n")[0]
        raise ValueError(f"stock onnxruntime cannot run the original: {why}") from error
    return session, (1e3 * (created - start), 1e3 * (time.perf_counter() - created))


def _in_turns(
    runs: Mapping[str, Callable[[], None]],
    warm_up: int,
    repeat: int,
    seconds: float,
    advance: Callable[[float], None],
    settle: float = SETTLE,
) -> dict[str, list[float]]:
    """Milliseconds of each timed call: one turn each a round, in an order drawn anew.

    A turn is some calls in a row.  ``settle`` seconds after it the session's idle threads have
    ceased to spin, on cores that the other one's turn needs.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, draw = list(runs), random.Random(0)
    start = time.perf_counter()
    rounds = 0
    while rounds < warm_up + repeat or time.perf_counter() - start < seconds:
        draw.shuffle(order)
        for name in order:
            taken = turn(runs[name], time.perf_counter)
            if rounds >= warm_up:
                times[name] += [1e3 * seconds_taken for seconds_taken in taken]
            time.sleep(settle)
        rounds += 1
        if rounds == warm_up:
            start = time.perf_counter()
        by_time = (time.perf_counter() - start) / seconds if seconds else 1.0
        advance(min(1.0, by_time, rounds / (warm_up + repeat)))
    return times


def _timing(times: Sequence[float], start: tuple[float, float], peaks: Mapping[str, int]) -> Timing:
    low, median, high, p90, p99 = map(float, np.percentile(times, (25, 50, 75, 90, 99)))
    return Timing(
        median_ms=median,
        quartiles_ms=(low, high),
        min_ms=min(times),
        max_ms=max(times),
        p90_ms=p90,
        p99_ms=p99,
        runs=len(times),
        runs_per_second=1e3 * len(times) / sum(times),
        creation_ms=start[0],
        first_run_ms=start[1],
        **peaks,
    )


def _peak_memory(job: Job) -> dict[str, int]:
    """As :class:`Timing` has them, from a process of its own."""
    try:
        return run_in_new_process(f"{__package__}.peak_memory", vars(job))
    except subprocess.CalledProcessError as error:
        why = error.stderr.decode(errors="replace")
        raise RuntimeError(f"measuring memory failed: {why}") from error


def _packed_bytes(model: Model, feeds: Mapping[str, np.ndarray]) -> int:
    """Of the weights of all nodes of the operator whose shapes are known."""
    total = 0
    for node in our_nodes(model, feeds):
        with suppress(ValueError):
            total += plan_of(node)["packed_bytes"]
    return total


def _precision(model: Model, feeds: Mapping[str, np.ndarray]) -> str:
    """Types of the operator's nodes, or of the model's inputs where it has none."""
    names = {dtype_name(node) for node in our_nodes(model, feeds)} - {None}
    return ", ".join(sorted(names)) or ", ".join(sorted({str(v.dtype) for v in feeds.values()}))
