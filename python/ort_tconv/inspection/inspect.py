"""What a model holds of transposed convolutions, and what each of them costs in which method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..base import machine
from ..conversion.convert import convert_with_report
from ..converters.model_io import ModelLike, read_model
from ..converters.report import Origin, Skip
from ..models.inputs import guessed, input_shapes
from ..models.plans import Planner, Problem, itemsize
from ..models.shapes import TypedNode, typed_nodes
from .formulas import column_buffer_bytes, conv_macs, conventional_macs, enlarged_input_bytes
from .page import page
from .results import CONVERTED, KEPT, REWRITABLE, Bytes, InspectionData, Macs, Site
from .table import tables

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class Inspection(InspectionData):
    """Result of :func:`inspect`, which a terminal shows as tables, by rich."""

    def to_html(self) -> str:
        """A page on its own: it needs no other file and no network."""
        return page(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return tables(self)


def inspect(
    model: ModelLike,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    isa: str | None = None,
    threads: int | None = None,
) -> Inspection:
    """Every transposed convolution of a model, and what the converter can make one of.

    Nothing is run, and onnxruntime is not needed: shapes come from ONNX's shape inference, plans
    from the same cost model that a session uses.

    Args:
        model: Path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model``, converted or not.
        shapes: Shapes of inputs whose dimensions are not fixed, guessed as in
            :func:`ort_tconv.validate` where they are not given.
        isa: Instruction set to plan for, one of ``_core.compiled_isas()``; by default the one in
            use here.
        threads: Threads to plan for; by default the cores this process may use.

    Raises:
        ConversionError: ``model`` is not an ONNX model.
        ValueError: A shape does not fit its input or cannot be guessed, ``isa`` is not built in or
            ``threads`` is less than 1.
    """
    from .._core import compiled_isas
    from .._core import isa as isa_in_use

    isa = isa or isa_in_use()
    if isa not in compiled_isas():
        raise ValueError(f"isa is '{isa}'; there are {', '.join(compiled_isas())}")
    threads = machine.usable_cores() if threads is None else threads
    if threads < 1:
        raise ValueError(f"threads is {threads}; at least one is needed")
    source = read_model(model)
    inputs = input_shapes(source.proto, shapes)
    result = convert_with_report(source, load_external_data=False)
    before = {(n.where, n.calls, n.name): n for n in typed_nodes(source, inputs)}
    after = typed_nodes(source.derive(result.model), inputs)
    origins = result.report.origins()
    skips = {(skip.where, skip.node): skip for skip in result.skips}

    planner = Planner(isa, threads)
    sites, costs = [], []
    for node in after:
        key = (node.where, node.name)
        if node.is_ours or key in skips or _is_stock(node):
            origin = origins.get(key)
            names = origin.nodes if origin else [node.name]
            found = {name: before.get((node.where, node.calls, name)) for name in names}
            originals = {name: original for name, original in found.items() if original}
            sites.append(
                _site(node, originals or {node.name: node}, origin, skips.get(key), planner)
            )
        else:
            costs.append(planner.cost_of_sums(node))
    total = sum(costs) + sum(site.plan["cost"] for site in sites if site.plan)
    if total:
        sites = [
            replace(site, share=site.plan["cost"] / total) if site.plan else site for site in sites
        ]
    notes = list(result.report.notes)
    unknown = sum(site.macs is None for site in sites)
    if unknown:
        notes.append(f"{unknown} site(s) have no plan: see their reasons")
    guesses = guessed(source.proto, shapes)
    return Inspection(source.name, inputs, isa, threads, sites, notes, guessed=guesses)


def _is_stock(node: TypedNode) -> bool:
    return (node.domain, node.op_type) == ("", "ConvTranspose")


def _site(
    node: TypedNode,
    originals: Mapping[str, TypedNode],
    origin: Origin | None,
    skip: Skip | None,
    planner: Planner,
) -> Site:
    facts: dict[str, Any] = {
        "node": node.label,
        "where": node.where,
        "op_type": " + ".join(original.op_type for original in originals.values()),
        "state": REWRITABLE if origin else CONVERTED if node.is_ours else KEPT,
        "rewrites": tuple(origin.rewrites) if origin else (),
        "reason": skip.reason if skip and not origin else None,
    }
    if not node.is_ours and not _is_stock(node):  # another form of one, and not rewritten
        return Site(**facts)
    problem = Problem.of(node)
    x_shape, w_shape = problem.x_shape, problem.w_shape
    facts |= {
        "dtype": problem.dtype,
        "x_shape": x_shape,
        "w_shape": w_shape,
        "attributes": problem.attributes,
    }
    try:
        plan, y_shape = planner.solve(problem)
    except ValueError as error:
        return Site(**facts | {"reason": facts["reason"] or str(error)})
    core = [original for name, original in originals.items() if not origin or name in origin.core]
    conventional, intermediate, columns = _conventional(
        core, x_shape, w_shape, y_shape, problem.attributes, itemsize(problem.dtype)
    )
    return Site(
        **facts,
        y_shape=y_shape,
        macs=Macs(conventional, plan["macs"], plan["executed_macs"]),
        bytes=Bytes(intermediate, columns, plan["scratch_bytes"], plan["packed_bytes"]),
        plan=plan,
    )


def _conventional(
    core: Sequence[TypedNode],
    x: Sequence[int],
    w: Sequence[int],
    y: Sequence[int],
    attributes: Mapping[str, Any],
    itemsize: int,
) -> tuple[float, int, int]:
    """Multiply-adds and bytes (intermediate, column buffer) without this package."""
    if any(node.op_type == "ConvTranspose" or node.is_ours for node in core):
        padded = enlarged_input_bytes(x, w, y, attributes.get("dilations"), itemsize)
        return conventional_macs(x, w, y), padded, column_buffer_bytes(x, w, itemsize)
    *between, _ = (math.prod(v.shape or (0,)) for node in core for v in node.outputs[:1])
    macs = sum(conv_macs(node) for node in core if node.op_type == "Conv")
    return macs, sum(between) * itemsize, 0
