"""What a validation found, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..base import machine
from ..converters.report import nodes_of_the_operator
from .comparison import Comparison


@dataclass(frozen=True)
class NodeDifference:
    """The first node, in the order of execution, with an output that differs.

    All nodes before it agree, so it is the one at fault.  Local functions are looked into, and so
    are bodies of If and Loop, whose nodes are called ``if/node`` and ``loop/0/node``, with the
    number of the iteration; that of Scan counts as part of its node.
    """

    node: str
    op_type: str
    comparison: Comparison
    plan: str | None = None  #: how the operator ran it; None for other operators
    step: bool = False  #: whether its result jumps where its input changes a little

    def __str__(self) -> str:
        plan = f"\n  its plan: {self.plan}" if self.plan else ""
        return f"{self.op_type} '{self.node}': {self.comparison}{plan}"


@dataclass
class ValidationData:
    """See :class:`ort_tconv.ValidationReport`."""

    baseline: str  #: what computed the expected outputs
    providers: list[str]  #: execution providers of the converted model
    rewritten: int  #: number of the operator's nodes in the converted model
    runs: int
    inputs: dict[str, str]  #: type and shape of each input
    outputs: list[Comparison]  #: the worst of all runs for each output
    first_difference: NodeDifference | None = None
    notes: list[str] = field(default_factory=list)
    #: Dimensions of inputs whose sizes are guesses, as the model leaves them open.
    guessed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return all(output.ok for output in self.outputs)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = [
            f"{'equal' if self.ok else 'DIFFERENT'} up to rounding: "
            f"{nodes_of_the_operator(self.rewritten)} on {', '.join(self.providers)} against "
            f"{self.baseline}, {self.runs} run(s)"
        ]
        lines += [f"  {output}" for output in self.outputs]
        if self.first_difference:
            lines.append(f"  first difference: {self.first_difference}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All of it as numbers, strings, lists and dictionaries, for JSON."""
        first = self.first_difference
        return {
            "ok": self.ok,
            "baseline": self.baseline,
            "providers": self.providers,
            "rewritten": self.rewritten,
            "runs": self.runs,
            "inputs": self.inputs,
            "guessed": {name: list(axes) for name, axes in self.guessed.items()},
            "outputs": [output.to_dict() for output in self.outputs],
            "first_difference": first
            and {
                "node": first.node,
                "op_type": first.op_type,
                "plan": first.plan,
                "comparison": first.comparison.to_dict(),
            },
            "notes": self.notes,
            "machine": machine.facts(),
        }
