"""What a model holds of transposed convolutions, and what each of them costs in which method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from . import machine, text
from .converters import convert_with_report
from .converters.conv_transpose import CONV_TRANSPOSE_ATTRIBUTES
from .converters.model_io import ModelLike, read_model
from .converters.report import Origin, Skip
from .inputs import guessed, input_shapes
from .shapes import TypedNode, Value, typed_nodes

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

CONVERTED, REWRITABLE, KEPT = "converted", "rewritable", "kept"

_FLOATS = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
}
_BYTES = {ir.DataType.UINT8: "uint8", ir.DataType.INT8: "int8"}


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
class Inspection:
    """Result of :func:`inspect`."""

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

    def to_html(self) -> str:
        """A page on its own: it needs no other file and no network."""
        from .inspection_html import page

        return page(self)

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

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.table import Table

        yield f"[bold]{escape(self.model)}[/]: plans for {self.isa}, {self.threads} thread(s)"
        for name, shape in self.inputs.items():
            guess = text.guesses(self.guessed.get(name, ()))
            yield escape(f"input {name}: {text.dims(shape)}{guess}")
        if not self.sites:
            yield "no transposed convolution was found"
        else:
            table = Table()
            table.add_column("node", overflow="fold", ratio=4)
            table.add_column("shape", overflow="fold", ratio=4)
            table.add_column("MACs conv.\ndirect\nplan", justify="right", no_wrap=True)
            table.add_column("never built\nbetween\ncolumns\npacked", justify="right", no_wrap=True)
            table.add_column("plan\nshare of time", overflow="fold", ratio=3)
            for site in self.sites:
                table.add_row(*(text.Cell(cell) for cell in _cells(site)), end_section=True)
            yield table
            if any(site.macs for site in self.sites):
                yield escape(summary(self))
                yield f"[dim]{_EXPLANATION}[/]"
        for note in self.notes:
            yield f"[yellow]note:[/] {escape(note)}"


_EXPLANATION = (
    "MACs: multiply-adds by the conventional method, by the direct one, and as the plan executes "
    "them. never built: values between the nodes that are replaced or with zeros inserted, and "
    "the column buffer of stock onnxruntime's matrix product. packed: the operator's weights, once "
    "for a session. share of time: predicted, of the model's convolutions and matrix products."
)


def _cells(site: Site) -> tuple[str, ...]:
    lines = [site.node] + ([] if site.where == "graph" else [f"in {site.where}"])
    lines += [site.op_type, site.state] if site.state != CONVERTED else [site.state]
    name = "\n".join(lines)
    if site.macs is None:
        shape = "" if site.x_shape is None else text.dims(site.x_shape)
        return name, shape, "", "", site.reason or ""
    return (
        name,
        f"{text.dims(site.x_shape)}\n→ {text.dims(site.y_shape)}\n"
        f"{text.kernel(site.attributes, site.w_shape)}\n{site.dtype}",
        "\n".join(map(text.count, (site.macs.conventional, site.macs.direct, site.macs.plan))),
        f"\n{text.size(site.bytes.intermediate)}\n{text.size(site.bytes.column_buffer)}\n"
        f"{text.size(site.bytes.packed_weights)}",
        f"{text.planned(site.plan)}\n{text.percent(site.share)}"
        + (f"\n{site.reason}" if site.reason else ""),
    )


def summary(inspection: Inspection) -> str:
    totals = inspection.totals
    plan_macs = totals["plan_macs"]
    fewer = f" ({totals['conventional_macs'] / plan_macs:.1f}x fewer)" if plan_macs else ""
    return (
        f"{text.count(totals['conventional_macs'])} multiply-adds by the conventional method, "
        f"{text.count(totals['direct_macs'])} directly, {text.count(plan_macs)} as planned{fewer}; "
        f"{text.size(totals['intermediate_bytes'])} of intermediate values are never built. "
        f"A session holds {text.size(totals['packed_weight_bytes'])} of packed weights, and at its "
        f"peak {text.size(totals['largest_scratch_bytes'])} of scratch memory. "
        f"Predicted share of the model's convolutions and matrix products: "
        f"{text.percent(totals['share']) or '0 %'}."
    )


# ---- making one --------------------------------------------------------------------------------


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
    from . import _core

    isa = isa or _core.isa()
    if isa not in _core.compiled_isas():
        raise ValueError(f"isa is '{isa}'; there are {', '.join(_core.compiled_isas())}")
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

    planner = _Planner(isa, threads)
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
    planner: _Planner,
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
    quantized = node.is_quantized
    operands = [node.inputs[i] for i in (0, 3 if quantized else 1) if i < len(node.inputs)]
    x_shape, w_shape = (value.shape for value in (*operands, Value(), Value())[:2])
    dtype = dtype_name(node)
    attributes = {
        name: value
        for name, value in node.attributes.items()
        if name in CONV_TRANSPOSE_ATTRIBUTES and value is not None
    }
    facts |= {"dtype": dtype, "x_shape": x_shape, "w_shape": w_shape, "attributes": attributes}
    if x_shape is None or w_shape is None or dtype is None:
        missing = "type of X" if x_shape and w_shape else f"shape of {'W' if x_shape else 'X'}"
        hint = "; it may differ from run to run of its body" if "subgraph" in node.where else ""
        return Site(**facts | {"reason": facts["reason"] or f"the {missing} is not known{hint}"})
    try:
        plan = planner.plan(
            x_shape,
            w_shape,
            dtype,
            attributes,
            node.attributes.get("algorithm") or "",
            node.attributes.get("weights") or "",
            quantized=quantized,
        )
        y_shape, _ = planner.core.output_shape(x_shape, w_shape, **attributes)
    except (ValueError, TypeError, RuntimeError) as error:  # a node that the operator refuses, too
        return Site(**facts | {"reason": facts["reason"] or str(error)})
    itemsize = planner.itemsize(dtype)
    core = [original for name, original in originals.items() if not origin or name in origin.core]
    conventional, intermediate, columns = _conventional(
        core, x_shape, w_shape, y_shape, attributes, itemsize
    )
    return Site(
        **facts,
        y_shape=tuple(y_shape),
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
    macs = sum(_conv_macs(node) for node in core if node.op_type == "Conv")
    return macs, sum(between) * itemsize, 0


def dtype_name(node: TypedNode) -> str | None:
    """Name of the type that the operator computes a node in, None if it is not known."""
    element = next((value.elem_type for value in node.inputs[:2] if value.elem_type), 0)
    return (_BYTES if node.is_quantized else _FLOATS).get(ir.DataType(element))


def plan_of(node: TypedNode) -> dict[str, Any]:
    """The plan with which this machine runs a node of the operator, as ``_core.plan`` gives it.

    Raises ValueError that says what is missing, or wrong with the node.
    """
    site = _site(node, {node.name: node}, None, None, _Planner("", machine.usable_cores()))
    if site.plan is None:
        raise ValueError(site.reason)
    return site.plan


# ---- formulas ----------------------------------------------------------------------------------


def conventional_macs(x: Sequence[int], w: Sequence[int], y: Sequence[int]) -> float:
    """Multiply-adds of convolving the zero-inserted input: all taps for each output.

    Shapes ``x`` [N, C, D1..], ``w`` [C, M/group, k1..], ``y`` [N, M, O1..].
    """
    return float(x[0]) * math.prod(w) * math.prod(y[2:])


def enlarged_input_bytes(
    x: Sequence[int],
    w: Sequence[int],
    y: Sequence[int],
    dilations: Iterable[int] | None = None,
    itemsize: int = 4,
) -> int:
    """Bytes of the zero-inserted, padded input whose stride-1 convolution is ``y``.

    Its side along an axis is O + dilation * (k - 1), what a convolution without padding of its own
    takes for O outputs; for stride 2 and kernel k with ConvTranspose's pad p that is
    (2 D - 1) + 2 (k - 1 - p), the (2N - 1 + 2P) of arXiv 2502.20493.
    """
    dilations = list(dilations or [1] * (len(x) - 2))
    sides = (o + d * (k - 1) for o, k, d in zip(y[2:], w[2:], dilations, strict=True))
    return x[0] * x[1] * math.prod(sides) * itemsize


def column_buffer_bytes(x: Sequence[int], w: Sequence[int], itemsize: int = 4) -> int:
    """Bytes of the matrix product that stock onnxruntime writes before col2im.

    It holds one image and group: M/group * k1..kd values for each input position.
    """
    return math.prod(w[1:]) * math.prod(x[2:]) * itemsize


def _conv_macs(node: TypedNode) -> float:
    """Of a convolution: all taps of C/group channels for each output."""
    w, y = node.inputs[1].shape, node.outputs[0].shape
    return float(math.prod(y)) * math.prod(w[1:]) if w and y else 0.0


class _Planner:
    """Plans and costs for one machine."""

    def __init__(self, isa: str, threads: int) -> None:
        from . import _core

        self.core, self._isa, self._threads = _core, isa, threads

    @staticmethod
    def itemsize(dtype: str) -> int:
        # Without the operator quantised values are turned into float32.
        return {"float64": 8, "float32": 4, "uint8": 4, "int8": 4}.get(dtype, 2)

    def plan(
        self,
        x: Sequence[int],
        w: Sequence[int],
        dtype: str,
        attributes: Mapping[str, Any],
        algorithm: str = "",
        weights: str = "",
        quantized: bool = False,
    ) -> dict[str, Any]:
        if quantized:
            return self.core.quantized_plan(
                x, w, isa=self._isa, algorithm=algorithm, threads=self._threads, **attributes
            )
        return self.core.plan(
            x,
            w,
            dtype=dtype,
            isa=self._isa,
            threads=self._threads,
            algorithm=algorithm,
            weights=weights,
            **attributes,
        )

    def cost_of_sums(self, node: TypedNode) -> float:
        """Predicted cost of a convolution or matrix product, 0 for other nodes.

        Each is a stride-1 convolution of the same sums, and that is a transposed one with the
        kernel flipped: the cost model need not know anything else.
        """
        problem = _as_stride_one(node)
        if problem is None:
            return 0.0
        x, w, group = problem
        dtype = _FLOATS.get(ir.DataType(node.outputs[0].elem_type), "float32")
        attributes = {"group": group, "auto_pad": "SAME_UPPER"}
        try:
            return self.plan(x, w, dtype, attributes, "direct")["cost"]
        except ValueError:  # more axes than the operator has, say
            return 0.0


def _as_stride_one(
    node: TypedNode,
) -> tuple[tuple[int, ...], tuple[int, ...], int] | None:
    """Shapes of X and W and the group of a stride-1 transposed convolution with the same sums."""
    if len(node.inputs) < 2 or not node.outputs or node.domain not in ("", "com.microsoft"):
        return None
    a, b, y = node.inputs[0].shape, node.inputs[1].shape, node.outputs[0].shape
    if not a or not b or not y or min(*a, *b, *y) < 1:
        return None
    if node.op_type in ("Conv", "FusedConv") and len(b) == len(y) > 2:
        group = node.attributes.get("group", 1)
        return (y[0], b[1] * group, *y[2:]), (b[1] * group, b[0] // group, *b[2:]), group
    if node.op_type in ("MatMul", "Gemm", "FusedMatMul", "FusedGemm") and len(y) >= 2:
        transposed = node.op_type == "Gemm" and node.attributes.get("transA", 0)
        depth = a[0] if transposed else a[-1]
        return (1, depth, math.prod(y[:-1])), (depth, y[-1], 1), 1
    return None
