"""The frame every rewrite shares: which nodes are visited, selected, and recorded."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from .cost import cost_of
from .facts import Facts
from .nodes import DOMAIN, OP_TYPE, OP_VERSION, node_label, own_op
from .report import Change, Report, Skip

__all__ = ["DOMAIN", "OP_TYPE", "OP_VERSION", "Refusal", "Rewrite", "Scope", "Selection", "Site"]


class Refusal(Exception):
    """Raised by a rewrite that leaves a matched node alone; the message says why."""


@dataclass(frozen=True)
class Scope:
    """Where a node lives, and what the user wants.  ``function`` is None in the main graph and in
    its subgraphs."""

    model: ir.Model
    function: ir.Function | None
    facts: Facts
    selection: Selection

    def is_timed(self, node: ir.Node) -> bool:
        """Whether a clock decides on ``node``'s site in the end, so that no estimate has to."""
        return self.selection.timed and node.graph is self.model.graph

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

    def own(self, node: ir.Node | None, *op_types: str) -> bool:
        """Whether ``node`` is one of ONNX's operators (of these types), and no local function."""
        return own_op(node, *op_types) and node.op_identifier() not in self.model.functions


@dataclass(frozen=True)
class Selection:
    """What a user wants: which nodes, by shell-style patterns on their names, and run how."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    algorithm: str | None = None  # for the nodes that are rewritten; None: the plan decides
    weights: str | None = None  # how the operator's nodes keep theirs; None: as they are
    reasons: Mapping[str, str] = field(default_factory=dict)  # why not, of names to leave alone
    timed: bool = False  # whether the sites of the main graph are timed and the losers put back

    def plan_options(self, dtype: str) -> dict[str, str]:
        """What plans of the nodes depend on besides shapes, as ``_core.plan`` takes it."""
        kept = {"weights": self.weights} if self.weights and dtype == "float32" else {}
        return {"algorithm": self.algorithm or "auto", **kept}

    def refuse(self, name: str, *others: str) -> None:
        """Raise Refusal unless ``name`` is selected; ``others`` must not be excluded either."""
        if name in self.reasons:
            raise Refusal(self.reasons[name])
        for pattern in self.exclude:
            if any(fnmatchcase(each, pattern) for each in (name, *others)):
                raise Refusal(f"excluded by '{pattern}'")
        if self.include and not any(fnmatchcase(name, pattern) for pattern in self.include):
            raise Refusal("not among the included names")


@dataclass(frozen=True)
class Site:
    """A rewrite that has been checked and can be applied.

    ``nodes`` are those it does away with, or changes; ``apply`` does it, and returns the nodes that
    stand for them; ``became`` names the result.
    """

    nodes: Sequence[ir.Node]
    apply: Callable[[], Sequence[ir.Node]]
    became: str = f"{DOMAIN}::{OP_TYPE}"


def visit(
    model: ir.Model, facts: Facts, selection: Selection | None = None
) -> Iterator[tuple[ir.Node, Scope]]:
    """Every node of the main graph, of all subgraphs and of all local functions.

    The list of each graph is taken before its first node is yielded, so that nodes may be
    replaced while visiting; nodes that are removed meanwhile are left out.
    """
    for owner in (None, *model.functions.values()):
        scope = Scope(model, owner, facts, selection or Selection())
        graph = model.graph if owner is None else owner
        for node in list(ir.traversal.RecursiveGraphIterator(graph)):
            if node.graph is not None:
                yield node, scope


class Rewrite(ir.passes.InPlacePass):
    """A pass that looks at one node at a time.

    A subclass has a ``name`` (how it is switched off), says in ``matches`` which nodes concern it,
    and in ``plan`` either returns the :class:`Site` or raises :class:`Refusal`; it changes nothing
    before the site is applied.  A site goes by the name of its node, or of ``anchor``.
    """

    name: str

    def __init__(self, selection: Selection, report: Report, facts: Facts) -> None:
        self.selection = selection
        self.report = report
        self.facts = facts

    @abc.abstractmethod
    def matches(self, node: ir.Node, scope: Scope) -> bool: ...

    @abc.abstractmethod
    def plan(self, node: ir.Node, scope: Scope) -> Site: ...

    def anchor(self, node: ir.Node) -> ir.Node:
        """The node by whose name users select the site."""
        return node

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node, scope in visit(model, self.facts, self.selection):
            if not self.matches(node, scope):
                continue
            label = node_label(node)
            line = (label, node.op_type, scope.describe(node), self.name)
            before = cost_of([node], self.facts)
            try:
                self.selection.refuse(node_label(self.anchor(node)), label)
                site = self.plan(node, scope)
                import_operator(scope)
            except Refusal as refusal:
                self.report.skip(Skip(*line, str(refusal), before))
                continue
            names = tuple(node_label(part) for part in site.nodes)
            before = cost_of(site.nodes, self.facts)
            after = cost_of(site.apply(), self.facts)
            self.report.changes.append(Change(*line, site.became, before, after, names))
            modified = True
        return ir.passes.PassResult(model, modified)

    def algorithm_attribute(self) -> list[ir.Attr]:
        algorithm = self.selection.algorithm
        return [] if algorithm is None else [ir.AttrString("algorithm", algorithm)]


def import_operator(scope: Scope) -> None:
    """Make ``ort_tconv`` known where the node lives, and to the model as a whole."""
    all_imports = (scope.opset_imports, scope.model.graph.opset_imports)
    for imports in all_imports:
        version = imports.get(DOMAIN, OP_VERSION)
        # Without a node of the domain it means nothing: ONNX Runtime saves models with imports of
        # all domains that it knows.
        if version != OP_VERSION and _holds_domain(scope.model):
            raise Refusal(
                f"the model imports domain '{DOMAIN}' version {version}, "
                f"and this converter writes version {OP_VERSION}"
            )
    for imports in all_imports:
        imports[DOMAIN] = OP_VERSION


def _holds_domain(model: ir.Model) -> bool:
    owners = (model.graph, *model.functions.values())
    nodes = (node for owner in owners for node in ir.traversal.RecursiveGraphIterator(owner))
    return any(node.domain == DOMAIN for node in nodes)
