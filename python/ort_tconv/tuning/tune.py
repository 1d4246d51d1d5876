"""Times the rewritten sites of a model against stock onnxruntime, and keeps stock where it wins.

A site is a node of our operator together with the stock nodes that it stands for. Both are cut out
of their models at the same values and timed in isolation, in turns; sites that are alike are timed
once. What is rewritten where stock is faster is put back; the decisions are stored in the model's
metadata. In the end forms of the whole model are timed as well, for what no isolated site shows:
ONNX Runtime keeps chains of its own convolutions in a blocked layout, which a node of ours among
them interrupts. The fastest form has to win once more in a new process.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import onnx

from ..base.library import import_onnxruntime
from ..converters.model_io import Model
from ..converters.nodes import DOMAIN, OP_TYPE
from ..converters.report import Report
from ..converters.unit_stride_conv import UnitStrideConvRewrite
from ..models.inputs import guessed, make_inputs
from .results import MARGIN, OURS, STOCK, SiteTiming, TuningData
from .sites import Site, find_sites
from .table import tables
from .timing import interleaved
from .trials import Machine, observe

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

#: A plain Conv has to be so many times as fast to stay in the form that interrupts few chains.
LARGE_GAIN = 1.5
_PLAIN = UnitStrideConvRewrite.name


class Rewriter(Protocol):
    """Converts a model but for the candidates named in ``reasons``, which gives what to report.

    ``timed`` tries what may or may not win, because it will be timed; otherwise estimates decide.
    """

    def __call__(
        self, reasons: Mapping[str, str] = ..., *, timed: bool = ...
    ) -> tuple[onnx.ModelProto, Report]: ...


#: Median milliseconds of each function, for functions that all do the same work.
Measure = Callable[[Sequence[Callable[[], object]]], Sequence[float]]


class Tuning(TuningData):
    """What was timed, where, and what was decided; a terminal shows it as tables, by rich.

    A site is rewritten if that takes at most ``1 - margin`` of stock's time; ``kept`` says so even
    if the whole model was then found to be faster without.  Another algorithm than the plan's has
    to win by as much.  ``model`` are the forms of the whole model; None if it was not timed because
    nothing is left to time.  ``notes`` say which sites were not timed, and why.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return tables(self)


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
    from .._core import isa

    measure = measure or interleaved
    converted, report = rewrite(timed=True)
    feeds = make_inputs(source.proto, shapes=shapes)
    tuning = Tuning(
        onnxruntime=import_onnxruntime().__version__,
        isa=isa(),
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

    observed = observe(machine, source.proto, sites, feeds, tuning) if report.changes else {}
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
        if timing.kept == STOCK:
            refused |= dict.fromkeys(site.nodes, _reason(STOCK, timing.stock_ms, timing.our_ms))
        else:
            part = onnx.ModelProto(graph=onnx.GraphProto(node=site.ours.nodes))
            algorithms |= dict.fromkeys(_outputs(part), timing.algorithm)

    expected = {change.node for change in rewrite()[1].changes} if plain else set()
    forms = _forms(tuning.sites, candidates, plain, set(refused), plain - expected)
    if len(forms) > 1:
        models = {
            form: source.proto
            if form == STOCK
            else _with_algorithms(rewrite(dict.fromkeys(left, ""), timed=True)[0], algorithms)
            for form, left in forms.items()
        }
        ms = dict(zip(forms, measure(machine.runs([*models.values()], feeds)), strict=True))
        tuning.model = machine.choose(models, ms, feeds, tuning.notes)
        kept = tuning.model.kept
        if kept != OURS:
            reason = _reason(kept, ms[kept], ms[OURS])
            if kept == STOCK and OURS in tuning.model.again:
                stock_ms, our_ms = tuning.model.again[OURS]
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
    kept = OURS if ours[algorithm] <= (1 - MARGIN) * stock_ms else STOCK
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
        STOCK: candidates,
        OURS: lost,
        f"{OURS}, {_PLAIN} from {LARGE_GAIN}x": lost.union(*(site.nodes for site in small)),
        f"{OURS}, no {_PLAIN}": lost.union(*(site.nodes for site in others)),
        f"{OURS}, {_PLAIN} as estimated": lost.union(
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
