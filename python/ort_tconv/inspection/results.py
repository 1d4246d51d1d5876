"""What an inspection found, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..base import machine, text

CONVERTED, REWRITABLE, KEPT = "converted", "rewritable", "kept"


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one run, by method."""

    conventional: float  #: convolving the input with zeros inserted; or as the model has it
    direct: float  #: every input element with every tap, the least that does without transforms
    plan: float  #: those the chosen plan executes, padding included


@dataclass(frozen=True)
class Bytes:
    """Buffers of other methods that are never built, and what ours takes instead.

    ``intermediate`` is what the conventional method writes between its steps: of a ConvTranspose,
    or a node that is converted already, the input with zeros inserted and padded; of another form
    the values between the nodes that are replaced, such as the image between Resize and Conv.
    """

    intermediate: int
    column_buffer: int  #: of stock onnxruntime's matrix product, for one image and group; else 0
    scratch: int  #: ours, for each thread
    packed_weights: int  #: ours, made once for a session


@dataclass(frozen=True)
class Site:
    """A transposed convolution, or what is one in another form, where it runs.

    Shapes are None, and so is what follows from them, where they are not known; ``reason`` then
    says why.
    """

    node: str  #: its name, behind the names of the function calls that lead to it
    where: str  #: "graph", "subgraph <name>" or "function <domain>::<name>"
    op_type: str  #: of the nodes as the model has them
    state: str  #: "converted", "rewritable", or "kept"
    rewrites: tuple[str, ...] = ()  #: the converter's passes that rewrite it
    reason: str | None = None  #: why it is kept, or why it has no plan
    dtype: str | None = None
    x_shape: tuple[int, ...] | None = None
    w_shape: tuple[int, ...] | None = None
    y_shape: tuple[int, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    macs: Macs | None = None
    bytes: Bytes | None = None
    #: as of ``ort_tconv._core.plan``, or ``quantized_plan`` of a node on 8-bit tensors, whose
    #: ``isa`` may be another than the model's
    plan: dict[str, Any] | None = None
    share: float | None = None  #: predicted, of the model's convolutions and matrix products


@dataclass
class InspectionData:
    """See :class:`ort_tconv.Inspection`."""

    model: str
    inputs: dict[str, tuple[int, ...]]  #: shapes the numbers hold for
    isa: str
    threads: int
    sites: list[Site]
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=machine.facts)
    #: Dimensions of inputs whose sizes are guesses, as the model leaves them open.
    guessed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def totals(self) -> dict[str, float]:
        """Sums over the sites whose shapes are known; buffers: also the largest, that of scratch
        memory for all threads."""
        known = [site for site in self.sites if site.macs and site.bytes]
        intermediate = [site.bytes.intermediate for site in known]
        return {
            "sites": len(self.sites),
            "conventional_macs": sum(site.macs.conventional for site in known),
            "direct_macs": sum(site.macs.direct for site in known),
            "plan_macs": sum(site.macs.plan for site in known),
            "intermediate_bytes": sum(intermediate),
            "largest_intermediate_bytes": max(intermediate, default=0),
            "largest_column_buffer_bytes": max((s.bytes.column_buffer for s in known), default=0),
            "packed_weight_bytes": sum(site.bytes.packed_weights for site in known),
            "largest_scratch_bytes": max((s.bytes.scratch for s in known), default=0)
            * self.threads,
            "share": sum(site.share or 0.0 for site in known),
        }

    @property
    def summary(self) -> str:
        """The totals in a few sentences."""
        totals = self.totals
        plan_macs = totals["plan_macs"]
        fewer = f" ({totals['conventional_macs'] / plan_macs:.1f}x fewer)" if plan_macs else ""
        return (
            f"{text.count(totals['conventional_macs'])} multiply-adds by the conventional method, "
            f"{text.count(totals['direct_macs'])} directly, {text.count(plan_macs)} as planned"
            f"{fewer}; {text.size(totals['intermediate_bytes'])} of intermediate values are never "
            f"built. A session holds {text.size(totals['packed_weight_bytes'])} of packed weights, "
            f"and at its peak {text.size(totals['largest_scratch_bytes'])} of scratch memory. "
            f"Predicted share of the model's convolutions and matrix products: "
            f"{text.percent(totals['share']) or '0 %'}."
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers, strings, lists and dictionaries, for JSON."""
        return {
            "model": self.model,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "guessed": {name: list(axes) for name, axes in self.guessed.items()},
            "isa": self.isa,
            "threads": self.threads,
            "sites": [asdict(site) for site in self.sites],
            "totals": self.totals,
            "notes": self.notes,
            "machine": self.machine,
        }

    def __str__(self) -> str:
        lines = [f"{self.model}: {len(self.sites)} transposed convolutions"]
        for site in self.sites:
            plan = text.planned(site.plan) if site.plan else site.reason
            known = ""
            if site.macs:
                known = f" {text.dims(site.x_shape)} -> {text.dims(site.y_shape)}"
                known += f", {text.count(site.macs.direct)} MACs"
            lines.append(
                f"  {site.node} ({site.where}): {site.op_type}{known}, {site.state}: {plan}"
            )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])
