"""The frame every rewrite shares: which nodes are visited, selected, and recorded."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from .report import Change, Report, Skip

DOMAIN = "ort_tconv"
OP_TYPE = "SegregatedConvTranspose"
OP_VERSION = 1


class Refusal(Exception):
    """Raised by a rewrite that leaves a matched node alone; the message says why."""


@dataclass(frozen=True)
class Scope:
    """Where a node lives.  ``function`` is None in the main graph and in its subgraphs."""

    model: ir.Model
    function: ir.Function | None

    @property
    def opset_imports(self) -> dict[str, int]:
        return (self.function or self.model.graph).opset_imports

    @property
    def onnx_opset(self) -> int | None:
        """Imported version of ONNX's own operators, which have two spellings of their domain."""
        return self.opset_imports.get("", self.opset_imports.get("ai.onnx"))

    def describe(self, node: ir.Node) -> str:
        if self.function is not None:
            return f"function {self.function.domain}::{self.function.name}"
        if node.graph is None or node.graph is self.model.graph:
            return "graph"
        return f"subgraph {node.graph.name}"


@dataclass(frozen=True)
class Selection:
    """What a user wants: which nodes, by shell-style patterns on their names, and run how."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    algorithm: str | None = None  # for the nodes that are rewritten; None: the plan decides
    reasons: Mapping[str, str] = field(default_factory=dict)  # why not, of names to leave alone

    def refuse(self, name: str) -> None:
        """Raise Refusal unless ``name`` is selected."""
        if name in self.reasons:
            raise Refusal(self.reasons[name])
        for pattern in self.exclude:
            if fnmatchcase(name, pattern):
                raise Refusal(f"excluded by '{pattern}'")
        if self.include and not any(fnmatchcase(name, pattern) for pattern in self.include):
            raise Refusal("not among the included names")


def node_label(node: ir.Node) -> str:
    """The node's name, or that of its first output if it has none."""
    return node.name or next((value.name for value in node.outputs if value.name), "") or "?"


def visit(model: ir.Model) -> Iterator[tuple[ir.Node, Scope]]:
    """Every node of the main graph, of all subgraphs and of all local functions.

    The list of each graph is taken before its first node is yielded, so that nodes may be
    replaced while visiting.
    """
    for owner in (None, *model.functions.values()):
        scope = Scope(model, owner)
        graph = model.graph if owner is None else owner
        for node in list(ir.traversal.RecursiveGraphIterator(graph)):
            yield node, scope


class Rewrite(ir.passes.InPlacePass):
    """A pass that looks at one node at a time.

    A subclass has a ``name`` (how it is switched off), says in ``matches`` which nodes concern it,
    and in ``rewrite`` either changes the graph and returns the new operator's name or raises
    :class:`Refusal`, before it has changed anything.
    """

    name: str

    def __init__(self, selection: Selection, report: Report) -> None:
        self.selection = selection
        self.report = report

    @abc.abstractmethod
    def matches(self, node: ir.Node, scope: Scope) -> bool: ...

    @abc.abstractmethod
    def rewrite(self, node: ir.Node, scope: Scope) -> str: ...

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node, scope in visit(model):
            if not self.matches(node, scope):
                continue
            site = (node_label(node), node.op_type, scope.describe(node), self.name)
            try:
                self.selection.refuse(site[0])
                became = self.rewrite(node, scope)
            except Refusal as refusal:
                self.report.skips.append(Skip(*site, str(refusal)))
            else:
                self.report.changes.append(Change(*site, became))
                modified = True
        return ir.passes.PassResult(model, modified)


def import_operator(scope: Scope) -> None:
    """Make ``ort_tconv`` known where the node lives, and to the model as a whole."""
    all_imports = (scope.opset_imports, scope.model.graph.opset_imports)
    for imports in all_imports:
        version = imports.get(DOMAIN, OP_VERSION)
        if version != OP_VERSION:
            raise Refusal(
                f"the model imports domain '{DOMAIN}' version {version}, "
                f"and this converter writes version {OP_VERSION}"
            )
    for imports in all_imports:
        imports[DOMAIN] = OP_VERSION
