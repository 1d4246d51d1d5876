"""Times of nodes, from onnxruntime's profiler."""

from __future__ import annotations

import bisect
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ..converters.model_io import Model
from ..converters.pipeline import analyze
from ..models.plans import plan_of
from ..models.shapes import TypedNode, typed_nodes
from ..sessions.provider_report import provider_report
from ..tuning.timing import SETTLE
from .job import Job, node_name
from .results import OURS, STOCK, NodeTiming

#: These runs come in so many turns.
_PROFILED_BURSTS = 3


def profile(
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
        plans = _plans(target, feeds) if on_cpu(runners[OURS].session.get_providers()) else {}

    origins = {name: origin.nodes for (_, name), origin in analyze(source).origins().items()}
    ours = {node.name: origins.get(node.name, [node.name]) for node in our_nodes(target, feeds)}
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
        self._nodes = {node_name(node): node for node in graph.node}
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
            chain.append(node_name(node))
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


def on_cpu(providers: Sequence[str]) -> bool:
    return providers[0] == "CPUExecutionProvider"


def _plans(model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The algorithm that runs each of the operator's nodes whose shapes are known."""
    plans = {}
    for node in our_nodes(model, feeds):
        try:
            plans[node.name] = plan_of(node)["algorithm"]
        except ValueError:
            continue
    return plans


def our_nodes(model: Model, feeds: Mapping[str, np.ndarray]) -> list[TypedNode]:
    """The operator's nodes."""
    nodes = typed_nodes(model, {name: value.shape for name, value in feeds.items()})
    return [node for node in nodes if node.is_ours]
