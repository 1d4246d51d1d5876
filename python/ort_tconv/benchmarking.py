"""Times a converted model against the original one, as a whole and node by node."""

from __future__ import annotations

import bisect
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx

from . import machine, text
from ._apart import run_apart
from ._library import import_onnxruntime
from .converters import analyze
from .converters.model_io import Model, ModelLike
from .inputs import describe, has_strings, make_inputs
from .inspection import dtype_name, plan_of
from .provider import add_provider, provider_report
from .session import EXTERNAL_FOLDER, register
from .shapes import TypedNode, typed_nodes
from .tuning import SETTLE, turn
from .validation import (
    Inputs,
    ValidationReport,
    chosen_providers,
    compare_models,
    guessed_sizes,
    inline_functions,
    input_sets,
    read_pair,
    read_unconverted,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

STOCK, OURS = "stock", "converted"
#: Most runs in ORT's profiler, which keeps every event in memory.
_PROFILED_RUNS = 30
#: These runs come in so many turns.
_PROFILED_BURSTS = 3
_STARTS = 3


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the timed runs of one model, and what else it took.

    ``peak_bytes`` is resident memory above that of the process before it created the session, until
    the end of the second run, in a process of its own; ``session_bytes`` until the session was
    created.  None if not measured.
    """

    median_ms: float
    quartiles_ms: tuple[float, float]
    min_ms: float
    max_ms: float
    p90_ms: float  #: nine of ten runs took no longer
    p99_ms: float  #: likewise ninety-nine of a hundred; of fewer runs about the longest
    runs: int
    runs_per_second: float  #: one after the other
    creation_ms: float  #: of a session, the least of three
    first_run_ms: float  #: of such a session, the least of three
    session_bytes: int | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class NodeTiming:
    """Median milliseconds a run spends in a node, from onnxruntime's profiler.

    A node of the operator stands beside all that it replaces: ``covers`` names the nodes of the
    original, with those that onnxruntime fuses into one kernel with them.  A side is None where the
    model has no such node: it was taken into another one.  A node in a loop's body counts all
    iterations, and so does the Loop that it is in.
    """

    node: str
    stock_op: str | None
    stock_ms: float | None
    converted_op: str | None
    converted_ms: float | None
    plan: str | None = None  #: the algorithm that runs a node of the operator
    covers: tuple[str, ...] = ()
    is_site: bool = False  #: whether it holds a node of the operator

    @property
    def ratio(self) -> float | None:
        """Stock time over converted time."""
        return self.stock_ms / self.converted_ms if self.stock_ms and self.converted_ms else None


@dataclass
class Benchmark:
    """Result of :func:`benchmark`."""

    model: str
    inputs: dict[str, str]  #: type and shape of each input
    precision: str  #: of the transposed convolutions
    providers: list[str]
    threads: int
    warm_up: int
    stock: Timing
    converted: Timing
    nodes: list[NodeTiming]  #: the operator's, then all others
    validation: ValidationReport
    notes: list[str] = field(default_factory=list)
    packed_bytes: int | None = None  #: of the operator's weights; None on a GPU
    #: Dimensions of inputs whose sizes are guesses, as the model leaves them open.
    guessed: dict[str, tuple[int, ...]] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=machine.facts)

    @property
    def speedup(self) -> float:
        """Median time of stock onnxruntime over that of the converted model."""
        return self.stock.median_ms / self.converted.median_ms

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers, strings, lists and dictionaries, for JSON."""
        return {
            "model": self.model,
            "inputs": self.inputs,
            "guessed": {name: list(axes) for name, axes in self.guessed.items()},
            "precision": self.precision,
            "providers": self.providers,
            "threads": self.threads,
            "warm_up": self.warm_up,
            "speedup": self.speedup,
            "stock": asdict(self.stock),
            "converted": asdict(self.converted),
            "nodes": [asdict(node) | {"ratio": node.ratio} for node in self.nodes],
            "outputs_agree": self.validation.ok,
            "packed_bytes": self.packed_bytes,
            "notes": self.notes,
            "machine": self.machine,
        }

    def plot(self, path: str | os.PathLike) -> None:
        """Draw bars for each of the operator's nodes, and for the whole run, to an image file.

        Raises ImportError if matplotlib is not installed, ValueError for an unknown file type.
        """
        from .benchmark_plot import plot

        plot(self, path)

    def __str__(self) -> str:
        lines = [
            f"{self.model}: stock {self.stock.median_ms:.3g} ms, converted "
            f"{self.converted.median_ms:.3g} ms, {self.speedup:.2f}x ({self.precision}, "
            f"{', '.join(self.providers)}, {self.threads} threads)"
        ]
        lines += [
            f"  {node.node}: {_ms(node.stock_ms)} -> {_ms(node.converted_ms)} ms"
            for node in self.nodes
            if node.is_site
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        facts = self.machine
        yield escape(
            f"{facts['processor']}, {facts['isa']}, {self.threads} of {facts['cores']} cores; "
            f"onnxruntime {facts['onnxruntime']}, ort-tconv {facts['ort_tconv']}; "
            f"{self.precision} on {', '.join(self.providers)}"
        )
        for name, kind in self.inputs.items():
            yield escape(f"input {name}: {kind}{text.guesses(self.guessed.get(name, ()))}")
        whole = Table(title=escape(self.model), title_justify="left")
        for column in ("", STOCK, OURS, "ratio"):
            whole.add_column(column, justify="right" if column else "left")
        stock, ours = self.stock, self.converted
        for name, one, other in (
            ("median (p50)", stock.median_ms, ours.median_ms),
            ("p90", stock.p90_ms, ours.p90_ms),
            ("p99", stock.p99_ms, ours.p99_ms),
            ("least", stock.min_ms, ours.min_ms),
            ("session", stock.creation_ms, ours.creation_ms),
            ("first run", stock.first_run_ms, ours.first_run_ms),
        ):
            whole.add_row(name, f"{one:.3g} ms", f"{other:.3g} ms", f"{one / other:.2f}x")
            if name.startswith("median"):
                spread = (f"{low:.3g} to {high:.3g}" for low, high in _quartiles(stock, ours))
                whole.add_row("quartiles", *spread, "")
            if name == "least":
                rates = [timing.runs_per_second for timing in (stock, ours)]
                shown = (f"{rate:.3g}" for rate in rates)
                whole.add_row("runs a second", *shown, f"{rates[1] / rates[0]:.2f}x")
        if stock.peak_bytes is not None and ours.peak_bytes is not None:
            sizes = map(text.size, (stock.peak_bytes, ours.peak_bytes))
            whole.add_row(
                "peak memory", *sizes, f"{stock.peak_bytes / max(1, ours.peak_bytes):.2f}x"
            )
        if self.packed_bytes:
            whole.add_row("packed weights", "", text.size(self.packed_bytes), "")
        yield whole
        yield (
            f"[dim]{stock.runs} and {ours.runs} runs, in turns. ratio: how many times as fast, or "
            "as small. p90, p99: what nine of ten runs, and ninety-nine of a hundred, do not "
            "exceed. session, first run: the least of three.[/]"
        )
        if self.nodes:
            yield _node_table(self.nodes)
        for note in self.notes:
            yield f"[yellow]note:[/] {escape(note)}"


def _quartiles(*timings: Timing) -> Iterator[tuple[float, float]]:
    return (timing.quartiles_ms for timing in timings)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _node_table(nodes: Sequence[NodeTiming]):
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="nodes, median ms a run", title_justify="left")
    table.add_column("node")
    for column in (STOCK, OURS, "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("plan")
    for node in (node for node in nodes if node.is_site):
        ratio = f"{node.ratio:.2f}x" if node.ratio else ""
        cells = (_ms(node.stock_ms), _ms(node.converted_ms), ratio, node.plan or "")
        table.add_row(text.Cell(node.node), *cells)
    groups: dict[str, list[NodeTiming]] = defaultdict(list)
    for node in nodes:
        if not node.is_site:
            groups[node.stock_op or node.converted_op or "?"].append(node)
    table.add_section()
    for op, members in sorted(groups.items(), key=lambda item: -(_total(item[1], "stock_ms") or 0)):
        before, after = (_total(members, side) for side in ("stock_ms", "converted_ms"))
        ratio = f"{before / after:.2f}x" if before and after else ""
        table.add_row(f"{len(members)} {escape(op)}", _ms(before), _ms(after), ratio, "")
    return table


def _total(nodes: Sequence[NodeTiming], side: str) -> float | None:
    times = [ms for node in nodes if (ms := getattr(node, side)) is not None]
    return sum(times) if times else None


# ---- making one --------------------------------------------------------------------------------


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
        STOCK: _job(source, feeds, stock_providers, threads, custom=False),
        OURS: _job(target, feeds, our_providers, threads, custom=True),
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
            nodes = _profile(jobs, warm_up, min(repeat, _PROFILED_RUNS), source, target, feeds)
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
        packed_bytes=_packed_bytes(target, feeds) if _on_cpu(ran_on) else None,
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


# ---- running -----------------------------------------------------------------------------------


@dataclass
class Job:
    """What it takes to run a model, in this process or another."""

    model: bytes
    feeds: dict[str, np.ndarray]
    providers: list[Any] | None  #: None: our execution provider
    threads: int
    custom: bool  #: whether the operator is registered
    folder: str | None  #: of external data

    def import_all(self) -> None:
        import_onnxruntime()
        if self.custom:
            from . import _core  # noqa: F401

    def open(self, profile_prefix: str | None = None) -> _Runner:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        if self.folder is not None:
            options.add_session_config_entry(EXTERNAL_FOLDER, self.folder)
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        if self.custom:
            register(options)
        if self.providers is None:
            add_provider(options)
        session = ort.InferenceSession(self.model, options, self.providers, enable_fallback=0)
        return _Runner(session, self.feeds)


class _Runner:
    """A session and its inputs, as values that onnxruntime need not convert, but for strings."""

    def __init__(self, session: Any, feeds: Mapping[str, np.ndarray]) -> None:
        self.session = session
        names = [value.name for value in session.get_outputs()]
        if has_strings(feeds):  # which no OrtValue can be made of
            self.run = lambda: session.run(names, dict(feeds))
            return
        ort = import_onnxruntime()
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                np.ascontiguousarray(value).view(np.uint16), onnx.TensorProto.BFLOAT16
            )
            if value.dtype == ml_dtypes.bfloat16
            else ort.OrtValue.ortvalue_from_numpy(value)
            for name, value in feeds.items()
        }
        self.run = lambda: session.run_with_ort_values(names, values)


def _job(
    source: Model,
    feeds: dict[str, np.ndarray],
    providers: list[Any] | None,
    threads: int,
    custom: bool,
) -> Job:
    model = source.copy()
    for container in (model.proto.graph, *model.proto.functions):
        _name_nodes(container.node)
    if not model.fits_protobuf():
        raise ValueError(
            "the model holds more than 2 GB of weights: save them beside it and pass its path"
        )
    data, folder = model.serialize()
    return Job(data, feeds, providers, threads, custom, folder and str(folder))


def _name_nodes(nodes) -> None:
    """Give nodes without a name that of their first output: the profiler knows no other."""
    for node in nodes:
        node.name = _node_name(node)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _name_nodes(graph.node)


def _node_name(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), "")


def _start_all(
    jobs: Mapping[str, Job],
) -> tuple[dict[str, _Runner], dict[str, tuple[float, float]]]:
    """Sessions, and the least milliseconds of three creations and first runs.

    A model's sessions do not overlap: they would share what they make of the weights.
    """
    sessions: dict[str, _Runner] = {}
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


def _start(name: str, job: Job) -> tuple[_Runner, tuple[float, float]]:
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
        return run_apart("_peak_memory", vars(job))
    except subprocess.CalledProcessError as error:
        why = error.stderr.decode(errors="replace")
        raise RuntimeError(f"measuring memory failed: {why}") from error


# ---- nodes -------------------------------------------------------------------------------------


def _profile(
    jobs: Mapping[str, Job],
    warm_up: int,
    repeat: int,
    source: Model,
    target: Model,
    feeds: Mapping[str, np.ndarray],
) -> list[NodeTiming]:
    """Times of both models' kernels, those of the operator beside what they replace."""
    times = {}
    with tempfile.TemporaryDirectory(prefix="ort_tconv-") as folder:
        runners = {
            name: job.open(str(Path(folder) / f"{i}-{name}"))
            for i, (name, job) in enumerate(jobs.items())
        }
        for runner in runners.values():
            for _ in range(warm_up):
                runner.run()
        for burst in range(_PROFILED_BURSTS):
            for runner in runners.values():
                for _ in range(burst, repeat, _PROFILED_BURSTS):
                    runner.run()
                time.sleep(SETTLE)
        for name, runner in runners.items():
            file = Path(runner.session.end_profiling())
            times[name] = node_times(json.loads(file.read_text()), skip=warm_up)
        fused = {}
        if jobs[OURS].providers is None:
            sites = provider_report(runners[OURS].session).sites
            fused = {site.kernel: site for site in sites if site.claimed}
        plans = _plans(target, feeds) if _on_cpu(runners[OURS].session.get_providers()) else {}

    origins = {name: origin.nodes for (_, name), origin in analyze(source).origins().items()}
    ours = {node.name: origins.get(node.name, [node.name]) for node in _ours(target, feeds)}
    ours |= {kernel: list(site.nodes) for kernel, site in fused.items()}
    stock = _Kernels(source.proto.graph, times[STOCK])
    converted = _Kernels(target.proto.graph, times[OURS])
    nodes = []
    for name, group in ours.items():
        covered = stock.take(group)
        also = converted.take((name, *covered))
        label = fused[name].node if name in fused else name
        nodes.append(
            NodeTiming(
                label, *stock.sum(covered), *converted.sum(also), plans.get(name), covered, True
            )
        )
    rest = (stock.left(), converted.left())
    for name in {**rest[1], **rest[0]}:
        sides = (side.get(name, (None, None)) for side in rest)
        nodes.append(NodeTiming(name, *next(sides), *next(sides), covers=(name,)))
    return nodes


class _Kernels:
    """Which of the kernels that onnxruntime ran computed which nodes of a model.

    Kernels go by their node's name, or, where onnxruntime has brought it into its blocked layout,
    by that of its output.  One that computes a chain of nodes goes by the last one's output.
    """

    def __init__(self, graph: onnx.GraphProto, times: Mapping[str, tuple[str, float]]) -> None:
        self._times = times
        self._taken: dict[str, str | None] = {}  # kernel of each node that was asked for
        self._nodes = {_node_name(node): node for node in graph.node}
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)

    def take(self, names: Sequence[str]) -> tuple[str, ...]:
        """The nodes named, and those that are in one kernel with them."""
        covered: dict[str, None] = {}
        for name in names:
            chain, kernel = self._trace(name)
            for passed in chain:
                covered[passed] = None
                self._taken[passed] = kernel
        return tuple(covered)

    def _trace(self, name: str) -> tuple[list[str], str | None]:
        if name in self._times:  # also in a body, which has nodes of its own
            return [name], name
        chain: list[str] = []
        node = self._nodes.get(name)
        while node is not None and len(chain) < 8:
            chain.append(_node_name(node))
            for kernel in (chain[-1], *(f"{output}_nchwc" for output in node.output)):
                if kernel in self._times:
                    return chain, kernel
            readers = self._readers[node.output[0]]
            node = readers[0] if len(readers) == 1 else None
        return [name], None

    def sum(self, names: Sequence[str]) -> tuple[str | None, float | None]:
        """Operators and milliseconds of the kernels that compute these nodes."""
        kernels = dict.fromkeys(self._taken.get(name) for name in names)
        found = [self._times[kernel] for kernel in kernels if kernel is not None]
        if not found:
            return None, None
        return " + ".join(op for op, _ in found), sum(ms for _, ms in found)

    def left(self) -> dict[str, tuple[str, float]]:
        """The kernels of no node that was asked for."""
        taken = set(self._taken.values())
        return {name: time for name, time in self._times.items() if name not in taken}


def node_times(events: Sequence[Mapping[str, Any]], skip: int = 0) -> dict[str, tuple[str, float]]:
    """Operator and median milliseconds a run of each node, from onnxruntime's profile.

    ``events`` are those of its file (Chrome's trace format), ``skip`` the number of runs at the
    beginning that do not count.
    """
    starts = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    totals: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    ops: dict[str, str] = {}
    suffix = "_kernel_time"
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(suffix):
            continue
        run = bisect.bisect_right(starts, event["ts"]) - 1
        if run >= skip:
            name = event["name"].removesuffix(suffix)
            totals[name][run] += event["dur"] / 1e3
            ops[name] = event["args"]["op_name"]
    return {name: (ops[name], statistics.median(runs.values())) for name, runs in totals.items()}


def _on_cpu(providers: Sequence[str]) -> bool:
    return providers[0] == "CPUExecutionProvider"


def _packed_bytes(model: Model, feeds: Mapping[str, np.ndarray]) -> int:
    """Of the weights of all nodes of the operator whose shapes are known."""
    total = 0
    for node in _ours(model, feeds):
        with suppress(ValueError):
            total += plan_of(node)["packed_bytes"]
    return total


def _plans(model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The algorithm that runs each of the operator's nodes whose shapes are known."""
    plans = {}
    for node in _ours(model, feeds):
        try:
            plans[node.name] = plan_of(node)["algorithm"]
        except ValueError:
            continue
    return plans


def _ours(model: Model, feeds: Mapping[str, np.ndarray]) -> list[TypedNode]:
    nodes = typed_nodes(model, {name: value.shape for name, value in feeds.items()})
    return [node for node in nodes if node.is_ours]


def _precision(model: Model, feeds: Mapping[str, np.ndarray]) -> str:
    """Types of the operator's nodes, or of the model's inputs where it has none."""
    names = {dtype_name(node) for node in _ours(model, feeds)} - {None}
    return ", ".join(sorted(names)) or ", ".join(sorted({str(v.dtype) for v in feeds.values()}))
