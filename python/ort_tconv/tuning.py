"""Times the rewritten sites of a model against stock onnxruntime, and keeps stock where it wins.

A site is a node of our operator together with the stock nodes that it stands for. Both are cut out
of their models at the same values and timed in isolation, in turns; sites that are alike are timed
once. What is rewritten where stock is faster is put back; the decisions are stored in the model's
metadata under :data:`METADATA_KEY`. In the end forms of the whole model are timed as well, for what
no isolated site shows: ONNX Runtime keeps chains of its own convolutions in a blocked layout, which
a node of ours among them interrupts. The fastest form has to win once more in a new process.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx

from . import text
from ._apart import run_apart
from ._library import import_onnxruntime
from .converters import Model
from .converters.rewrite import DOMAIN, OP_TYPE
from .converters.unit_stride_conv import UnitStrideConvRewrite
from .graphs import Graph, Part
from .inputs import guessed, has_strings, make_inputs
from .inspection import plan_of
from .session import open_session, register
from .shapes import typed_nodes

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from .converters.report import Report

#: Key of the model's metadata that holds the decisions, as JSON.
METADATA_KEY = "ort_tconv.tuning"

#: A rewrite has to save this share of stock's time, so that noise alone does not decide for it.
MARGIN = 0.03

#: So has the whole model, here and in a new process: each has its own luck with where things lie
#: in memory.
MODEL_MARGIN = 0.02

#: Algorithms are tried where the plan expects them to take at most so many times the best one's
#: time, and sites to take so many of the plan's units at least, some tenths of a millisecond.
_ALIKE, _WORTH_IT = 1.5, 2e6

#: A plain Conv has to be so many times as fast to stay in the form that interrupts few chains.
LARGE_GAIN = 1.5

_STOCK, _OURS = "stock", "rewritten"
_PLAIN = UnitStrideConvRewrite.name
_LEAST_ROUNDS = 6  # the first of which is not counted
_SECONDS = 0.5  # for each form of a site, and of the whole model
_WAKE_UP = 2e-3  # seconds of calls until threads are awake and the processor is at speed
_BURST = 8  # calls that are timed in a turn,
_LONG = 0.05  # unless they take longer than so many seconds
_MOST_FETCHED = 16  # values that one run of the model keeps to the end
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
    """A site; ``nodes`` are the candidates of the conversion's report that it is made of.

    ``our_ms`` is that of ``algorithm``, which the node carries unless it is ``"auto"``; ``tried``
    has the milliseconds of all that were timed, if there were several.
    """

    nodes: tuple[str, ...]
    algorithm: str = "auto"
    tried: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelTiming:
    """Median milliseconds of each form of the whole model that was timed, and which was kept.

    They are called ``"stock"``; ``"rewritten"``, with every site that won by itself; and, where
    plain Convs are among these, ``"rewritten, unit_stride_conv from 1.5x"``, with only those of
    them that are so much faster, ``"rewritten, no unit_stride_conv"``, and ``"rewritten,
    unit_stride_conv as estimated"``, with those that are rewritten without tuning, too.  Of forms
    that are the same model one is timed.

    ``again`` has the milliseconds of stock and of a form in a process that timed nothing else, for
    each form that was tried there: the fastest first, until one is as good there.
    """

    ms: dict[str, float]
    kept: str
    again: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass
class Tuning:
    """What was timed, where, and what was decided.

    A site is rewritten if that takes at most ``1 - margin`` of stock's time; ``kept`` says so even
    if the whole model was then found to be faster without.  Another algorithm than the plan's has
    to win by as much.  ``model`` are the forms of the whole model; None if it was not timed because
    nothing is left to time.  ``notes`` say which sites were
    not timed, and why.
    """

    onnxruntime: str
    isa: str
    threads: int  #: intra-op threads; 0: onnxruntime's default
    providers: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]  #: of the model's inputs
    margin: float = MARGIN
    sites: list[SiteTiming] = field(default_factory=list)
    model: ModelTiming | None = None
    notes: list[str] = field(default_factory=list)
    #: Dimensions of inputs whose sizes are guesses, as the model leaves them open.
    guessed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def to_json(self) -> str:
        data = asdict(self)
        for site in data["sites"]:
            if not site["tried"]:  # the plan's choice alone
                del site["algorithm"], site["tried"]
        return json.dumps(data)

    @classmethod
    def from_model(cls, model: onnx.ModelProto) -> Tuning | None:
        """The decisions that a tuned model carries, None if it was not tuned."""
        text = next((p.value for p in model.metadata_props if p.key == METADATA_KEY), None)
        if text is None:
            return None
        data = json.loads(text)
        sites = [site | {"nodes": tuple(site["nodes"])} for site in data["sites"]]
        data["sites"] = [SiteTiming(**site) for site in sites]
        if data["model"]:
            again = {form: tuple(ms) for form, ms in data["model"].get("again", {}).items()}
            data["model"] = ModelTiming(**data["model"] | {"again": again})
        data["providers"] = tuple(data["providers"])
        for name in ("shapes", "guessed"):
            data[name] = {key: tuple(numbers) for key, numbers in data.get(name, {}).items()}
        return cls(**data)

    def store(self, model: onnx.ModelProto) -> None:
        others = [p for p in model.metadata_props if p.key != METADATA_KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(others)
        model.metadata_props.add(key=METADATA_KEY, value=self.to_json())

    @property
    def nodes(self) -> set[str]:
        """The candidates of the conversion's report that were timed in a site of their own."""
        return {name for site in self.sites for name in site.nodes}

    @property
    def verdict(self) -> str:
        """What was kept of the whole model, in a sentence."""
        if self.model is None:
            return f"kept: stock, as {'no site is faster rewritten' if self.sites else 'it is'}"
        stock, *others = self.model.ms.items()
        kept, ms = self.model.kept, self.model.ms[self.model.kept]
        if kept != _STOCK:
            return (
                f"kept: {kept}, the fastest form of the whole model: {ms:.3f} ms, stock "
                f"{stock[1]:.3f} ms ({stock[1] / ms:.2f}x)"
            )
        form, best = min(others, key=lambda item: item[1])
        return (
            f"kept: stock, as no form of the whole model is {MODEL_MARGIN:.0%} faster: "
            f"{stock[1]:.3f} ms, {form} {best:.3f} ms"
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        yield escape(self.verdict)
        for name, shape in self.shapes.items():
            guess = text.guesses(self.guessed.get(name, ()))
            yield escape(f"input {name}: {text.dims(shape)}{guess}")
        threads = f"{self.threads} threads" if self.threads else "onnxruntime's number of threads"
        title = f"tuned with onnxruntime {self.onnxruntime}, {self.isa}, {threads}"
        table = Table(title=title, title_justify="left")
        table.add_column("site")
        for column in ("stock\nms", "rewritten\nms", "ratio"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("faster")
        rows, sections = self._rows(), [SiteTiming, Timing]
        for row, (names, timing) in enumerate(rows, start=1):
            table.add_row(
                text.Cell(*names),
                f"{timing.stock_ms:.3f}",
                f"{timing.our_ms:.3f}",
                f"{timing.stock_ms / timing.our_ms:.2f}x",
                text.Cell((_kept(timing), "" if timing.kept == _STOCK else "green")),
                end_section=[type(other) for _, other in rows[row - 1 : row + 1]] == sections,
            )
        yield table
        if self.sites:
            yield f"[dim]{_EXPLANATION}[/]"
        for note in self.notes:
            yield f"[yellow]note:[/] {escape(note)}"

    def _rows(self) -> list[tuple[list[str], Timing]]:
        """Names and times of the table: sites that are alike, and were timed once, share a row."""
        alike: dict[Hashable, list[SiteTiming]] = {}
        for site in self.sites:
            alike.setdefault((site.stock_ms, site.our_ms, site.algorithm), []).append(site)
        rows: list[tuple[list[str], Timing]] = []
        for sites in alike.values():
            first, *others = sites[0].nodes
            names = [f"{first} + {len(others)}" if others else first]
            names += [f"and {len(sites) - 1} alike"] if len(sites) > 1 else []
            rows.append((names, sites[0]))
        if self.model is not None:
            stock_ms, kept = self.model.ms[_STOCK], self.model.kept
            for form, ms in self.model.ms.items():
                if form != _STOCK:
                    name = f"whole model{form.removeprefix(_OURS)}"
                    timing = Timing(stock_ms, ms, _OURS if form == kept else _STOCK)
                    rows.append(([name], timing))
        return rows


_EXPLANATION = (
    "A site is a node of the operator with all that it stands for: the candidate that is named, "
    "and as many others as are added. Times are medians of a call; faster is by itself, and the "
    "whole model decides."
)


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


def tune(
    source: Model,
    rewrite: Rewriter,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 0,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    measure: Measure | None = None,
    progress: bool = False,
) -> tuple[onnx.ModelProto, Report, Tuning]:
    """Convert a model, and put back the sites at which stock onnxruntime is faster.

    Args:
        source: The model as it was.
        rewrite: Converts it.
        shapes: As for :func:`ort_tconv.validate`.
        threads: Intra-op threads of the sessions; 0 for onnxruntime's default.
        providers: Execution providers of the sessions.
        measure: Times functions, by default :func:`interleaved`.
        progress: Whether to show a progress bar on standard error if it is a terminal.

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
        guessed=guessed(source.proto, shapes),
    )
    machine = Machine(source, threads, tuple(providers))
    candidates = {change.node for change in report.changes}
    plain = {change.node for change in report.changes if change.rewrite == _PLAIN}
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
    timings: dict[Hashable, SiteTiming] = {}
    algorithms: dict[str, str] = {}  # by the output of the node
    for site in _progress(sites, progress):
        signature = site.signature(observed)
        inputs = {name: observed[name].get() for name in site.inputs}
        if signature not in timings:
            stock, ours = (p.model(m, inputs) for p, m in zip((site.stock, site.ours), models))
            tried = ["auto", *machine.algorithms(ours, inputs)]
            variants = [_with_algorithms(ours, dict.fromkeys(_outputs(ours), a)) for a in tried]
            stock_ms, *ms = measure(machine.runs([stock, *variants], inputs))
            timings[signature] = _decide(stock_ms, dict(zip(tried, ms, strict=True)))
        timing = replace(timings[signature], nodes=site.nodes)
        tuning.sites.append(timing)
        if timing.kept == _STOCK:
            refused |= dict.fromkeys(site.nodes, _reason(_STOCK, timing.stock_ms, timing.our_ms))
        else:
            part = onnx.ModelProto(graph=onnx.GraphProto(node=site.ours.nodes))
            algorithms |= dict.fromkeys(_outputs(part), timing.algorithm)

    expected = {change.node for change in rewrite()[1].changes} if plain else set()
    forms = _forms(tuning.sites, candidates, plain, set(refused), plain - expected)
    if len(forms) > 1:
        models = {
            form: source.proto
            if form == _STOCK
            else _with_algorithms(rewrite(dict.fromkeys(left, ""), timed=True)[0], algorithms)
            for form, left in forms.items()
        }
        ms = dict(zip(forms, measure(machine.runs([*models.values()], feeds)), strict=True))
        tuning.model = machine.choose(models, ms, feeds, tuning.notes)
        kept = tuning.model.kept
        if kept != _OURS:
            reason = _reason(kept, ms[kept], ms[_OURS])
            if kept == _STOCK and _OURS in tuning.model.again:
                stock_ms, our_ms = tuning.model.again[_OURS]
                reason = f"{_reason(kept, stock_ms, our_ms)}, in a new process"
            reason = f"the whole model is faster without: {reason}"
            refused = dict.fromkeys(forms[kept], reason) | refused
    converted, report = rewrite(refused, timed=True)
    converted = _with_algorithms(converted, algorithms)
    tuning.store(converted)
    return converted, report, tuning


def _decide(stock_ms: float, ours: dict[str, float]) -> SiteTiming:
    algorithm = min(ours, key=ours.__getitem__)
    if ours[algorithm] > (1 - MARGIN) * ours["auto"]:
        algorithm = "auto"
    kept = _OURS if ours[algorithm] <= (1 - MARGIN) * stock_ms else _STOCK
    return SiteTiming(stock_ms, ours[algorithm], kept, (), algorithm, ours if len(ours) > 1 else {})


def _outputs(model: onnx.ModelProto) -> list[str]:
    """Of the operator's nodes in the main graph."""
    return [node.output[0] for node in model.graph.node if _is_ours(node)]


def _is_ours(node: onnx.NodeProto) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, OP_TYPE)


def _with_algorithms(model: onnx.ModelProto, algorithms: Mapping[str, str]) -> onnx.ModelProto:
    """The model, or a copy in which nodes of the operator, known by their outputs, carry another
    algorithm than the plan's."""
    chosen = {output: name for output, name in algorithms.items() if name != "auto"}
    if not any(output in chosen for output in _outputs(model)):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        if _is_ours(node) and node.output[0] in chosen:
            node.attribute.append(onnx.helper.make_attribute("algorithm", chosen[node.output[0]]))
    return result


def _kept(timing: Timing) -> str:
    algorithm = getattr(timing, "algorithm", "auto")
    return timing.kept if algorithm == "auto" else f"{timing.kept}, {algorithm}"


def _reason(kept: str, ms: float, our_ms: float) -> str:
    return f"tuned: {kept} takes {ms:.3f} ms, rewritten {our_ms:.3f} ms"


def _forms(
    timings: Sequence[SiteTiming],
    candidates: Set[str],
    plain: Set[str],
    lost: Set[str],
    unexpected: Set[str],
) -> dict[str, Set[str]]:
    """Different forms of the whole model, each with the candidates that it leaves as they were.

    How much plain Convs gain by themselves does not tell what they cost the blocked layout around
    them, so that all of them, those with a large gain, and none are tried; and those which the
    estimate, which knows that layout, expects to win: all but the ``unexpected``.
    """
    others = [site for site in timings if plain.intersection(site.nodes)]
    small = [site for site in others if site.stock_ms < LARGE_GAIN * site.our_ms]
    forms = {
        _STOCK: candidates,
        _OURS: lost,
        f"{_OURS}, {_PLAIN} from {LARGE_GAIN}x": lost.union(*(site.nodes for site in small)),
        f"{_OURS}, no {_PLAIN}": lost.union(*(site.nodes for site in others)),
        f"{_OURS}, {_PLAIN} as estimated": lost.union(
            *(site.nodes for site in others if unexpected.intersection(site.nodes))
        ),
    }
    first = {frozenset(candidates - left): form for form, left in reversed(forms.items())}
    return {form: left for form, left in forms.items() if form in first.values()}


def _progress(sites: Sequence[Site], shown: bool) -> Iterator[Site]:
    """The sites, with a bar if someone looks on and wants it."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        sites,
        "timing",
        console=console,
        transient=True,
        disable=not (shown and console.is_terminal),
    )


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

    def signature(self, observed: Mapping[str, _Observed]) -> Hashable:
        """What the times of both forms depend on: not on names, nor on the values of weights."""
        names: dict[str, str] = {"": ""}
        parts = (self.stock.signature(names), self.ours.signature(names))
        return *parts, *((names.get(name), observed[name].signature) for name in self.inputs)


def find_sites(
    original: onnx.ModelProto, converted: onnx.ModelProto, candidates: set[str]
) -> Iterator[Site]:
    """The sites of the main graph, in its order.

    Values keep their names when a model is converted.  So the inputs and the output of a node of
    ours, or what it is computed from if that is new, bound the stock nodes in the original graph.
    """
    before, after = Graph(original.graph), Graph(converted.graph)
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


# ---- running -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """How sessions are made."""

    source: Model  #: what the models are made from, and whose files they refer to
    threads: int
    providers: tuple[str, ...]

    def session(self, model: onnx.ModelProto):
        options = register(import_onnxruntime().SessionOptions())
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        return open_session(self.source.derive(model), options, self.providers)

    def algorithms(self, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[str]:
        """Those that the operator's only node in ``model`` might run by instead of the plan's
        choice, and be as fast; none where one is stored already."""
        shapes = {name: array.shape for name, array in feeds.items()}
        nodes = [n for n in typed_nodes(self.source.derive(model), shapes) if n.is_ours]
        on_cpu = self.providers[0] == "CPUExecutionProvider"
        if len(nodes) != 1 or nodes[0].attributes.get("algorithm") or not on_cpu:
            return []
        from . import _core

        try:
            best = plan_of(nodes[0])
            others = {
                name: plan_of(
                    replace(nodes[0], attributes={**nodes[0].attributes, "algorithm": name})
                )
                for name in _core.algorithms()
                if name != best["algorithm"]
            }
        except ValueError:  # shapes are not known
            return []
        return [
            name
            for name, plan in others.items()
            if plan["algorithm"] == name
            and best["cost"] >= _WORTH_IT
            and plan["cost"] <= _ALIKE * best["cost"]
        ]

    def choose(
        self,
        models: Mapping[str, onnx.ModelProto],
        ms: dict[str, float],
        feeds: Mapping[str, np.ndarray],
        notes: list[str],
    ) -> ModelTiming:
        """The fastest form that wins here and in a new process, whose memory lies elsewhere."""
        again: dict[str, tuple[float, float]] = {}
        for form in sorted(ms, key=ms.__getitem__):
            if form == _STOCK or not _wins(ms[_STOCK], ms[form]):
                break
            pair = [self.source.derive(models[name]) for name in (_STOCK, form)]
            try:
                again[form] = in_new_process(self, pair, feeds)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                notes.append(f"the whole model was not timed in a process of its own: {error}")
                return ModelTiming(ms, form, again)
            if _wins(*again[form]):
                return ModelTiming(ms, form, again)
        return ModelTiming(ms, _STOCK, again)

    def runs(
        self, models: Sequence[onnx.ModelProto], feeds: Mapping[str, np.ndarray]
    ) -> list[Callable[[], object]]:
        """A function for each model that runs it once.  Inputs and outputs are bound where the
        provider has them: what is timed is the session."""
        return [self._bind(self.session(model), feeds) for model in models]

    def _bind(self, session, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        if has_strings(feeds):
            known = {value.name for value in session.get_inputs()}
            given = {name: array for name, array in feeds.items() if name in known}
            return lambda: session.run(None, given)
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


def _wins(stock_ms: float, ms: float) -> bool:
    return ms <= (1 - MODEL_MARGIN) * stock_ms


def in_new_process(
    machine: Machine, models: Sequence[Model], feeds: Mapping[str, np.ndarray]
) -> tuple[float, float]:
    """Median milliseconds of two models, timed in turns by a process that does nothing else.

    Raises OSError, ValueError or subprocess.SubprocessError if that is not possible here.
    """
    if not all(model.fits_protobuf() for model in models):
        raise ValueError("the model holds more than 2 GB")
    job = {
        "models": [model.serialize() for model in models],
        "threads": machine.threads,
        "providers": machine.providers,
        "feeds": dict(feeds),
    }
    stock_ms, our_ms = run_apart("_tuned_times", job)
    return stock_ms, our_ms


@dataclass(frozen=True)
class _Observed:
    """A value at a site's bounds.  ``array`` is None for large floats, which are made up again."""

    dtype: np.dtype
    shape: tuple[int, ...]
    array: np.ndarray | None

    @property
    def signature(self) -> Hashable:
        values = None if self.array is None or self.dtype.kind == "f" else self.array.tobytes()
        return self.dtype.str, self.shape, values

    @classmethod
    def of(cls, array: np.ndarray) -> _Observed:
        made_up = array.dtype.kind == "f" and array.nbytes > 1024
        return cls(array.dtype, array.shape, None if made_up else array)

    def get(self) -> np.ndarray:
        if self.array is not None:
            return self.array
        return np.random.default_rng(0).standard_normal(self.shape, np.float32).astype(self.dtype)


def _observe(
    machine: Machine,
    model: onnx.ModelProto,
    sites: Sequence[Site],
    feeds: Mapping[str, np.ndarray],
    tuning: Tuning,
) -> dict[str, _Observed] | None:
    """The values at the bounds of all sites, from runs of the original model; None, with a note, if
    it does not run."""
    names = {name for site in sites for name in site.inputs}
    outputs = {value.name for value in model.graph.output}
    observed = {name: _Observed.of(array) for name, array in feeds.items()}
    wanted = sorted(names - feeds.keys())
    try:
        for start in range(0, max(1, len(wanted)), _MOST_FETCHED):
            fetched = wanted[start : start + _MOST_FETCHED]
            probe = onnx.ModelProto()
            probe.CopyFrom(model)
            new = [name for name in fetched if name not in outputs]
            probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
            arrays = machine.session(probe).run(fetched or None, dict(feeds))
            observed |= {name: _Observed.of(array) for name, array in zip(fetched, arrays)}
    except Exception as error:  # onnxruntime's exceptions share no other base
        why = str(error).strip().partition("\n")[0]
        tuning.notes.append(f"nothing is timed, stock onnxruntime cannot run the model: {why}")
        return None
    return observed
