"""Times the rewritten sites of a model against stock onnxruntime, and keeps stock where it wins.

A site is a node of our operator together with the stock nodes that it stands for. Both are cut out
of their models at the same values and timed in isolation, in turns. What is rewritten where stock
is faster is put back; the decisions are stored in the model's metadata under :data:`METADATA_KEY`.
In the end the whole model is timed as well, for what no isolated site shows: ONNX Runtime keeps
chains of its own convolutions in a blocked layout, which a node of ours among them interrupts.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx

from ._library import import_onnxruntime
from .converters import model_io
from .converters.rewrite import DOMAIN
from .inputs import make_inputs
from .session import open_session, register

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from .converters.report import Report

#: Key of the model's metadata that holds the decisions, as JSON.
METADATA_KEY = "ort_tconv.tuning"

#: A rewrite has to save this share of stock's time, so that noise alone does not decide for it.
MARGIN = 0.03

_STOCK, _OURS = "stock", "rewritten"
_LEAST_ROUNDS = 6  # the first of which is not counted
_SECONDS = 1.0  # per site, and for the whole model
_WAKE_UP = 2e-3  # seconds of calls until threads are awake and the processor is at speed
_BURST = 8  # calls that are timed in a turn,
_LONG = 0.05  # unless they take longer than so many seconds
SETTLE = 0.06  # seconds after which onnxruntime's idle threads have ceased to spin; measured: 0.04


class Rewriter(Protocol):
    """Converts a model but for the candidates named in ``reasons``, which gives what to report.

    ``timed`` tries what may or may not win, because it will be timed; otherwise estimates decide.
    """

    def __call__(
        self, reasons: Mapping[str, str] = ..., *, timed: bool = ...
    ) -> tuple[onnx.ModelProto, Report]: ...


#: Median milliseconds of each function, for functions that all do the same work.
Measure = Callable[[Sequence[Callable[[], object]]], Sequence[float]]


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of both forms, and which was kept."""

    stock_ms: float
    our_ms: float
    kept: str  #: ``"stock"`` or ``"rewritten"``


@dataclass(frozen=True)
class SiteTiming(Timing):
    """A site; ``nodes`` are the candidates of the conversion's report that it is made of."""

    nodes: tuple[str, ...]


@dataclass
class Tuning:
    """What was timed, where, and what was decided.

    A rewrite is kept if it takes at most ``1 - margin`` of stock's time.  ``model`` is the whole
    model with these decisions against stock; None if it was not timed because nothing is left to
    time.  ``notes`` say which sites were not timed, and why.
    """

    onnxruntime: str
    isa: str
    threads: int  #: intra-op threads; 0: onnxruntime's default
    providers: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]  #: of the model's inputs
    margin: float = MARGIN
    sites: list[SiteTiming] = field(default_factory=list)
    model: Timing | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_model(cls, model: onnx.ModelProto) -> Tuning | None:
        """The decisions that a tuned model carries, None if it was not tuned."""
        text = next((p.value for p in model.metadata_props if p.key == METADATA_KEY), None)
        if text is None:
            return None
        data = json.loads(text)
        sites = [site | {"nodes": tuple(site["nodes"])} for site in data["sites"]]
        data["sites"] = [SiteTiming(**site) for site in sites]
        data["model"] = data["model"] and Timing(**data["model"])
        data["providers"] = tuple(data["providers"])
        data["shapes"] = {name: tuple(shape) for name, shape in data["shapes"].items()}
        return cls(**data)

    def store(self, model: onnx.ModelProto) -> None:
        others = [p for p in model.metadata_props if p.key != METADATA_KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(others)
        model.metadata_props.add(key=METADATA_KEY, value=self.to_json())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        threads = self.threads or "default"
        title = f"tuned with onnxruntime {self.onnxruntime}, {self.isa}, {threads} threads"
        table = Table(title=title, title_justify="left")
        table.add_column("site", overflow="fold")
        for column in ("stock ms", "rewritten ms", "stock / rewritten"):
            table.add_column(column, justify="right")
        table.add_column("kept")
        rows: list[tuple[str, Timing]] = [(" + ".join(site.nodes), site) for site in self.sites]
        if self.model is not None:
            rows.append(("whole model", self.model))
        for name, timing in rows:
            table.add_row(
                escape(name),
                f"{timing.stock_ms:.3f}",
                f"{timing.our_ms:.3f}",
                f"{timing.stock_ms / timing.our_ms:.2f}",
                timing.kept if timing.kept == _STOCK else f"[green]{timing.kept}[/]",
                end_section=timing is (self.sites or [None])[-1],
            )
        yield table
        for note in self.notes:
            yield f"[yellow]note:[/] {escape(note)}"


def interleaved(
    runs: Sequence[Callable[[], object]],
    *,
    seconds: float = _SECONDS,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> list[float]:
    """Median milliseconds of each function.

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
    while rounds < _LEAST_ROUNDS or clock() - start < seconds:
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


def tune(
    source: model_io.Source,
    rewrite: Rewriter,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 0,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    measure: Measure | None = None,
) -> tuple[onnx.ModelProto, Report, Tuning]:
    """Convert a model, and put back the sites at which stock onnxruntime is faster.

    Args:
        source: The model as it was.
        rewrite: Converts it.
        shapes: As for :func:`ort_tconv.validate`.
        threads: Intra-op threads of the sessions; 0 for onnxruntime's default.
        providers: Execution providers of the sessions.
        measure: Times functions, by default :func:`interleaved`.

    Returns:
        The converted model, which carries the decisions, the report on it and the decisions.

    Raises:
        ValueError: ``shapes`` do not fit or cannot be guessed, or ``threads`` is negative.
    """
    if threads < 0:
        raise ValueError(f"threads = {threads}: must not be negative")
    from . import _core

    measure = measure or interleaved
    converted, report = rewrite(timed=True)
    feeds = make_inputs(source.proto, shapes=shapes)
    tuning = Tuning(
        onnxruntime=import_onnxruntime().__version__,
        isa=_core.isa(),
        threads=threads,
        providers=tuple(providers),
        shapes={name: array.shape for name, array in feeds.items()},
    )
    machine = _Machine(source.folder, threads, tuple(providers))
    candidates = {change.node for change in report.changes}
    sites = list(find_sites(source.proto, converted, candidates))
    for change in report.changes:
        if not any(change.node in site.nodes for site in sites):
            tuning.notes.append(
                f"{change.node} ({change.where}) is not timed by itself, only as part of the model"
            )

    observed = _observe(machine, source.proto, sites, feeds, tuning) if report.changes else {}
    if observed is None:
        converted, report = rewrite()
        tuning.store(converted)
        return converted, report, tuning
    models = (source.proto, converted)
    refused: dict[str, str] = {}
    for site in _progress(sites):
        inputs = {name: observed[name].get() for name in site.inputs}
        pair = [p.model(m, inputs) for p, m in zip((site.stock, site.ours), models, strict=True)]
        timing = _decide(*measure(machine.runs(pair, inputs)), MARGIN)
        tuning.sites.append(SiteTiming(**asdict(timing), nodes=site.nodes))
        if timing.kept == _STOCK:
            refused |= dict.fromkeys(site.nodes, _reason(timing))
    if refused:
        converted, report = rewrite(refused, timed=True)
    if report.changes:
        tuning.model = _decide(*measure(machine.runs((source.proto, converted), feeds)))
        if tuning.model.kept == _STOCK:
            reason = f"the whole model is faster without: {_reason(tuning.model)}"
            converted, report = rewrite(dict.fromkeys(candidates, reason) | refused, timed=True)
    tuning.store(converted)
    return converted, report, tuning


def _decide(stock_ms: float, our_ms: float, margin: float = 0.0) -> Timing:
    kept = _OURS if our_ms <= (1 - margin) * stock_ms else _STOCK
    return Timing(stock_ms, our_ms, kept)


def _reason(timing: Timing) -> str:
    return f"tuned: stock takes {timing.stock_ms:.3f} ms, rewritten {timing.our_ms:.3f} ms"


def _progress(sites: Sequence[Site]) -> Iterator[Site]:
    """The sites, with a bar if someone looks on."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(sites, "timing", console=console, transient=True, disable=not console.is_terminal)


# ---- sites -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A node of ours, and what it stands for."""

    nodes: tuple[str, ...]  #: the candidates of the report among the stock nodes
    stock: Part
    ours: Part

    @property
    def inputs(self) -> list[str]:
        return list(dict.fromkeys((*self.stock.inputs, *self.ours.inputs)))


def find_sites(
    original: onnx.ModelProto, converted: onnx.ModelProto, candidates: set[str]
) -> Iterator[Site]:
    """The sites of the main graph, in its order.

    Values keep their names when a model is converted.  So the inputs and the output of a node of
    ours, or what it is computed from if that is new, bound the stock nodes in the original graph.
    """
    before, after = _Graph(original.graph), _Graph(converted.graph)
    for node in converted.graph.node:
        output = node.output[0] if node.output else ""
        known = before.producer.get(output)
        if node.domain != DOMAIN or known is None or known.domain == DOMAIN:
            continue
        ours = after.part([output], before.values)
        stock = before.part([output], ours.inputs)
        names = tuple(label for label in map(_label, stock.nodes) if label in candidates)
        # What others read of the stock nodes has to be computed in both forms.
        shared = [
            name
            for inner in stock.nodes
            for name in inner.output
            if name != output and name in after.values and before.is_read_outside(name, stock)
        ]
        if shared:
            ours = after.part([output, *shared], ours.inputs)
        if names:
            yield Site(names, replace(stock, outputs=ours.outputs), ours)


def _label(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), "?")


@dataclass(frozen=True)
class Part:
    """Nodes of a graph in its order, the values and weights that they need, and what they make."""

    nodes: list[onnx.NodeProto]
    inputs: list[str]
    weights: list[onnx.TensorProto]
    outputs: list[str]

    def model(self, whole: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> onnx.ModelProto:
        """As a model of its own, for inputs like ``feeds``; ``whole`` is what it is a part of."""
        result = onnx.ModelProto(ir_version=whole.ir_version)
        result.opset_import.extend(whole.opset_import)
        result.functions.extend(whole.functions)
        result.graph.name = "site"
        result.graph.node.extend(self.nodes)
        result.graph.initializer.extend(self.weights)
        for name in self.inputs:
            dtype = onnx.helper.np_dtype_to_tensor_dtype(feeds[name].dtype)
            value = onnx.helper.make_tensor_value_info(name, dtype, feeds[name].shape)
            result.graph.input.append(value)
        result.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.outputs)
        return result


class _Graph:
    """Who makes and who reads each value of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        inputs = {value.name for value in graph.input}
        self.graph = graph
        self.weights = {t.name: t for t in graph.initializer if t.name not in inputs}
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self.values = self.producer.keys() | inputs
        self.outputs = {value.name for value in graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        self.constant = set(self.weights)
        for node in graph.node:  # in order of computation
            names = list(_reads(node))
            for name in names:
                self.readers.setdefault(name, []).append(node)
            if not _is_random(node) and all(name in self.constant for name in names):
                self.constant.update(node.output)

    def is_read_outside(self, name: str, part: Part) -> bool:
        inside = {id(node) for node in part.nodes}
        readers = self.readers.get(name, ())
        return name in self.outputs or any(id(reader) not in inside for reader in readers)

    def part(self, outputs: list[str], bounds: Container[str]) -> Part:
        """What computes ``outputs``, back to values among ``bounds``.

        Constants are followed to their origin.  Of a value whose shape alone is read, the value
        itself is an input: its computation may be most of the model.
        """
        wanted: set[int] = set()
        weights: dict[str, onnx.TensorProto] = {}
        inputs: dict[str, None] = {}
        queue = list(outputs)
        while queue:
            name = queue.pop()
            is_bound = name in bounds and name not in self.constant and name not in outputs
            if name in self.weights:
                weights[name] = self.weights[name]
            elif name not in self.producer or is_bound:
                inputs[name] = None
            elif id(node := self.producer[name]) not in wanted:
                wanted.add(id(node))
                if node.op_type == "Shape" and name not in self.constant:
                    inputs[node.input[0]] = None
                else:
                    queue.extend(_reads(node))
        nodes = [node for node in self.graph.node if id(node) in wanted]
        made = {name for node in nodes for name in node.output}
        inner = [name for name in inputs if name not in made]
        return Part(nodes, inner, list(weights.values()), outputs)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its subgraphs take from outside included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            own = {v.name for v in (*graph.input, *graph.initializer)}
            for inner in graph.node:
                yield from (name for name in _reads(inner) if name not in own)
                own.update(inner.output)


def _is_random(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")


# ---- running -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Machine:
    """How sessions are made."""

    folder: Path | None
    threads: int
    providers: tuple[str, ...]

    def session(self, model: onnx.ModelProto):
        options = register(import_onnxruntime().SessionOptions())
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        return open_session(model, self.folder, options, self.providers)

    def runs(
        self, models: Sequence[onnx.ModelProto], feeds: Mapping[str, np.ndarray]
    ) -> list[Callable[[], object]]:
        """A function for each model that runs it once.  Inputs and outputs are bound where the
        provider has them: what is timed is the session."""
        return [self._bind(self.session(model), feeds) for model in models]

    def _bind(self, session, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        ort = import_onnxruntime()
        device = "cuda" if self.providers[0] == "CUDAExecutionProvider" else "cpu"
        binding = session.io_binding()
        names = {value.name for value in session.get_inputs()}
        for name, array in feeds.items():
            if name in names:
                value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
                binding.bind_ortvalue_input(name, value)
        for value in session.get_outputs():
            binding.bind_output(value.name, device)
        session.run_with_iobinding(binding)
        for value, result in zip(session.get_outputs(), binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(value.name, result)
        return lambda: session.run_with_iobinding(binding)


@dataclass(frozen=True)
class _Observed:
    """A value at a site's bounds.  ``array`` is None for large floats, which are made up again."""

    dtype: np.dtype
    shape: tuple[int, ...]
    array: np.ndarray | None

    @classmethod
    def of(cls, array: np.ndarray) -> _Observed:
        made_up = array.dtype.kind == "f" and array.nbytes > 1024
        return cls(array.dtype, array.shape, None if made_up else array)

    def get(self) -> np.ndarray:
        if self.array is not None:
            return self.array
        return np.random.default_rng(0).standard_normal(self.shape, np.float32).astype(self.dtype)


def _observe(
    machine: _Machine,
    model: onnx.ModelProto,
    sites: Sequence[Site],
    feeds: Mapping[str, np.ndarray],
    tuning: Tuning,
) -> dict[str, _Observed] | None:
    """The values at the bounds of all sites, in one run of the original model; None, with a note,
    if it does not run."""
    names = {name for site in sites for name in site.inputs}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    outputs = {value.name for value in model.graph.output} | feeds.keys()
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in sorted(names - outputs))
    try:
        session = machine.session(probe)
        fetched = sorted(names - feeds.keys())
        arrays = session.run(fetched or None, dict(feeds))
    except Exception as error:  # onnxruntime's exceptions share no other base
        why = str(error).strip().partition("\n")[0]
        tuning.notes.append(f"nothing is timed, stock onnxruntime cannot run the model: {why}")
        return None
    known = {**feeds, **dict(zip(fetched, arrays))}
    return {name: _Observed.of(known[name]) for name in names}
