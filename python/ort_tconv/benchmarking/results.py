"""What a benchmark measured, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..base import machine
from ..validation.results import ValidationData

STOCK, OURS = "stock", "converted"


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
class BenchmarkData:
    """See :class:`ort_tconv.Benchmark`."""

    model: str
    inputs: dict[str, str]  #: type and shape of each input
    precision: str  #: of the transposed convolutions
    providers: list[str]
    threads: int
    warm_up: int
    stock: Timing
    converted: Timing
    nodes: list[NodeTiming]  #: the operator's, then all others
    validation: ValidationData
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

    def __str__(self) -> str:
        lines = [
            f"{self.model}: stock {self.stock.median_ms:.3g} ms, converted "
            f"{self.converted.median_ms:.3g} ms, {self.speedup:.2f}x ({self.precision}, "
            f"{', '.join(self.providers)}, {self.threads} threads)"
        ]
        lines += [
            f"  {node.node}: {milliseconds(node.stock_ms)} -> {milliseconds(node.converted_ms)} ms"
            for node in self.nodes
            if node.is_site
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
