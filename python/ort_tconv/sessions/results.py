"""What the execution provider says of a session, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ProviderSite:
    """A place in a model that concerns the provider."""

    node: str  #: the node's name, or that of its first output if it has none
    op_type: str  #: of the first of its nodes
    where: str  #: ``"graph"`` or ``"subgraph <name>"``
    pattern: str  #: ``conv_transpose``, ``upsample_conv``, ``subpixel_conv``, ``zero_insertion``,
    #: ``quantized``, ``quantized_weights``, or ``epilogue`` of what could not be fused
    nodes: tuple[str, ...]  #: all that became one node of the provider's
    claimed: bool
    reason: str  #: why not, if it is not
    #: who runs it by onnxruntime's own record; empty if the session keeps none, or does not have it
    provider: str = ""
    kernel: str = ""  #: the node that stands for it, as onnxruntime's profiles call it


@dataclass
class ProviderData:
    """See :class:`ort_tconv.sessions.provider_report.ProviderReport`."""

    sites: list[ProviderSite]
    errors: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return asdict(self)

    def __str__(self) -> str:
        claimed = [site for site in self.sites if site.claimed]
        left = [site for site in self.sites if not site.claimed]
        lines = [f"{len(claimed)} claimed, {len(left)} left"]
        lines += [f"  {s.node} ({s.where}): {', '.join(s.nodes)} ({s.pattern})" for s in claimed]
        lines += [f"  {s.node} ({s.where}): {s.op_type} left: {s.reason}" for s in left]
        lines += [f"  error: {error}" for error in self.errors]
        return "\n".join(lines)
