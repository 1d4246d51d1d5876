"""What a conversion did: one line per candidate node, and the operators before and after."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .nodes import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

#: Name of the pass that takes nodes into one of the operator's that is there already.
EPILOGUE = "epilogue"


@dataclass(frozen=True)
class Cost:
    """Multiply-adds, and bytes of the tensors that nodes read and write; None if not known.

    Multiply-adds are those of the direct method, each tap of the kernel counted for each input (of
    a transposed convolution) or output (of a convolution) pixel.  An unknown batch counts as 1.
    """

    macs: int | None
    bytes: int | None


@dataclass(frozen=True)
class Change:
    """A node that was rewritten."""

    node: str  #: the node's name, or that of its first output if it has none
    op_type: str  #: operator before, e.g. ``ConvTranspose``
    where: str  #: ``"graph"``, ``"subgraph <name>"`` or ``"function <domain>::<name>"``
    rewrite: str  #: name of the pass
    became: str  #: operator after, e.g. ``ort_tconv::SegregatedConvTranspose``
    before: Cost  #: of all nodes that the rewrite does away with or changes
    after: Cost  #: of what stands for them
    nodes: tuple[str, ...]  #: names of the nodes before, ``node`` among them


@dataclass(frozen=True)
class Skip:
    """A candidate node that was left alone."""

    node: str
    op_type: str
    where: str
    rewrite: str
    reason: str  #: one sentence that names the attribute, input or option responsible
    before: Cost  #: of the node


@dataclass
class Origin:
    """The nodes of the original model that one node of the operator stands for."""

    core: tuple[str, ...]  #: those that are the transposed convolution
    nodes: list[str] = field(default_factory=list)  #: and those that are its epilogue
    changes: list[Change] = field(default_factory=list)  #: in the order in which they were made

    @property
    def rewrites(self) -> list[str]:
        return list(dict.fromkeys(change.rewrite for change in self.changes))

    @property
    def before(self) -> Cost:
        """Of all nodes, as if they were rewritten at once."""
        first, *rest = self.changes
        added = [(change.before, change.after) for change in (first, *rest)]
        costs = []
        for name in ("macs", "bytes"):
            befores, afters = ([getattr(cost, name) for cost in side] for side in zip(*added))
            known = None not in (*befores, *afters)
            costs.append(sum(befores) - sum(afters[:-1]) if known else None)
        return Cost(*costs)

    @property
    def after(self) -> Cost:
        return self.changes[-1].after


@dataclass
class Report:
    """Everything a conversion has to say.

    ``operators`` holds two counts of operators (``domain::op_type``, no domain for ONNX's own),
    before and after.  ``notes`` are remarks on the model as a whole.
    """

    changes: list[Change] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    operators: tuple[Counter[str], Counter[str]] = field(
        default_factory=lambda: (Counter(), Counter())
    )

    def skip(self, skip: Skip) -> None:
        """Record a node, unless another pass has left it alone for the same reason."""
        line = (skip.node, skip.where, skip.reason)
        if all((known.node, known.where, known.reason) != line for known in self.skips):
            self.skips.append(skip)

    @property
    def sites(self) -> list[Change | Skip]:
        return [*self.changes, *self.skips]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON holds it; sizes that are not known are null."""
        before, after = self.operators
        return {
            "changes": [asdict(change) for change in self.changes],
            "skips": [asdict(skip) for skip in self.skips],
            "notes": list(self.notes),
            "operators": {"before": dict(before), "after": dict(after)},
        }

    @property
    def summary(self) -> str:
        """How many candidates were rewritten, into how many nodes, and how many were left alone."""
        done = f"{len(self.changes)} rewritten, {len(self.skips)} left alone"
        nodes = sum(n for op, n in self.operators[1].items() if op.startswith(f"{DOMAIN}::"))
        if not nodes:
            return done
        fused = sum(change.rewrite == EPILOGUE for change in self.changes)
        others = f", {fused} fused into them" if fused else ""
        return f"{done} ({nodes_of_the_operator(nodes)}{others})"

    def origins(self) -> dict[tuple[str, str], Origin]:
        """What each node of the operator stands for, by its place and name; all names that it had
        on the way lead to it."""
        origins: dict[tuple[str, str], Origin] = {}
        for change in self.changes:
            names = dict.fromkeys((*change.nodes, change.node))
            known = (origins.get((change.where, name)) for name in names)
            origin = next(filter(None, known), None) or Origin(change.nodes)
            origin.nodes += [name for name in names if name not in origin.nodes]
            origin.changes.append(change)
            for name in names:
                origins[change.where, name] = origin
        return origins

    def __str__(self) -> str:
        lines = [self.summary]
        lines += [f"  {c.node} ({c.where}): {c.op_type} -> {c.became}" for c in self.changes]
        lines += [f"  {s.node} ({s.where}): {s.op_type} kept: {s.reason}" for s in self.skips]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def nodes_of_the_operator(count: int) -> str:
    return f"{count} node{'' if count == 1 else 's'} of the operator"


def count_operators(model: onnx.ModelProto) -> Counter[str]:
    """Number of nodes of each operator, those of subgraphs and local functions included."""

    def nodes(container: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
        for node in container.node:
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield from nodes(attribute.g)
                for graph in attribute.graphs:
                    yield from nodes(graph)

    counts: Counter[str] = Counter()
    for container in (model.graph, *model.functions):
        for node in nodes(container):
            onnx_own = node.domain in ("", "ai.onnx")
            counts[node.op_type if onnx_own else f"{node.domain}::{node.op_type}"] += 1
    return counts
