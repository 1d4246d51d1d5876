"""Runs the passes over a model and makes sure that the result is a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

import onnx
import onnx_ir as ir

from .conv_transpose import ConvTransposeRewrite
from .epilogue import EpilogueRewrite
from .external_data import ConversionError, use_file_tensors
from .facts import Facts
from .fused_conv import take_apart
from .model_io import (
    Model,
    ModelLike,
    fill_sparse,
    read_model,
    sparse_bodies,
    sparse_values,
)
from .nodes import own_op
from .quantized import QuantizedRewrite
from .report import Report, count_operators
from .report_table import PrintableReport
from .rewrite import Rewrite, Selection, visit
from .schema import ALGORITHMS, WEIGHTS
from .subpixel_conv import SubpixelConvRewrite
from .unit_stride_conv import UnitStrideConvRewrite
from .upsample_conv import UpsampleConvRewrite
from .value_types import annotate, cast_in_functions, describe_results
from .weights import keep_weights
from .zero_insertion import ZeroInsertionRewrite

#: All passes, in the order in which they run.
DEFAULT_PASSES: tuple[type[Rewrite], ...] = (
    UpsampleConvRewrite,
    SubpixelConvRewrite,
    ZeroInsertionRewrite,
    QuantizedRewrite,
    ConvTransposeRewrite,
    UnitStrideConvRewrite,
    EpilogueRewrite,
)

# What only ONNX Runtime's optimisations make of a Conv or what surrounds it.
_FUSED = ("FusedConv", "NhwcFusedConv", "NhwcConv", "ConvTransposeWithDynamicPads")


def analyze(
    model: ModelLike,
    *,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    disable: str | Iterable[str] = (),
) -> Report:
    """The report of :func:`convert` with these options, without a converted model.

    New weights are not computed, and external data is not loaded.  Raises what ``convert`` raises.
    """
    return Options(include, exclude, disable).rewrite(read_model(model)).report


@dataclass(frozen=True)
class Options:
    """What the functions above take, checked."""

    include: str | Iterable[str] = ()
    exclude: str | Iterable[str] = ()
    disable: str | Iterable[str] = ()
    algorithm: str | None = None
    weights: str | None = None

    def selection(
        self, reasons: Mapping[str, str] = MappingProxyType({}), timed: bool = False
    ) -> Selection:
        if self.algorithm is not None and self.algorithm not in ALGORITHMS:
            raise ValueError(
                f"algorithm = '{self.algorithm}': must be one of {', '.join(ALGORITHMS)}"
            )
        if self.weights is not None and self.weights not in WEIGHTS:
            raise ValueError(f"weights = '{self.weights}': must be one of {', '.join(WEIGHTS)}")
        include = _as_tuple("include", self.include)
        exclude = _as_tuple("exclude", self.exclude)
        return Selection(include, exclude, self.algorithm, self.weights, reasons, timed)

    def passes(self) -> list[type[Rewrite]]:
        disable = _as_tuple("disable", self.disable)
        known = [rewrite.name for rewrite in DEFAULT_PASSES]
        for name in disable:
            if name not in known:
                raise ValueError(
                    f"disable: there is no pass '{name}'; there are {', '.join(known)}"
                )
        return [rewrite for rewrite in DEFAULT_PASSES if rewrite.name not in disable]

    def rewrite(
        self,
        source: Model,
        reasons: Mapping[str, str] = MappingProxyType({}),
        timed: bool = False,
    ) -> Rewritten:
        """A copy of the model, the passes applied.

        Candidates named in ``reasons`` are left alone; ``timed``: what will be timed is rewritten
        where estimates alone would not decide for it.
        """
        return _rewrite(source, self.selection(reasons, timed), self.passes())


def _as_tuple(option: str, names: str | Iterable[str] | None) -> tuple[str, ...]:
    """Raises TypeError that names the option if there is something else than names."""
    if names is None:
        return ()
    several = isinstance(names, Iterable) and not isinstance(names, str)
    result = tuple(names) if several else (names,)
    for name in result:
        if not isinstance(name, str):
            raise TypeError(f"{option}: {name!r} is a {type(name).__name__}, not a name or pattern")
    return result


def _note_idle_patterns(selection: Selection, report: Report) -> None:
    candidates = {site.node for site in report.sites}
    candidates.update(name for change in report.changes for name in change.nodes)
    for option, patterns in (("include", selection.include), ("exclude", selection.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in candidates):
                report.notes.append(f"{option}: no candidate's name matches '{pattern}'")


def _note_optimised(model: ir.Model, report: Report) -> None:
    """Say of a model that ONNX Runtime wrote after its optimisations that its source is better."""
    counts = Counter(
        f"{node.domain}::{node.op_type}"
        for node in _all_nodes(model)
        if node.domain == "com.microsoft.nchwc"
        or (node.domain == "com.microsoft" and node.op_type in _FUSED)
    )
    if counts:
        found = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        report.notes.append(
            f"the model was optimised by ONNX Runtime before ({found}), which hides sites; convert "
            "the original model instead, if there is one"
        )


@dataclass(frozen=True)
class Rewritten:
    """A model of its own, the passes applied."""

    model: ir.Model
    modified: bool
    described: set[str]  # values of the main graph whose types have to be written down
    restore: Callable[[onnx.ModelProto, set[str]], onnx.ModelProto]
    report: Report

    def to_proto(self, original: Model) -> onnx.ModelProto:
        if not self.modified:
            return original.copy().proto
        try:
            proto = ir.to_proto(self.model)
        except ir.serde.SerdeError as error:  # new weights are computed here, from files maybe
            raise ConversionError(str(_root_cause(error))) from error
        result = self.restore(proto, self.described)
        _check(original.derive(result), original, self.report)
        return result


def _rewrite(source: Model, selection: Selection, passes: Sequence[type[Rewrite]]) -> Rewritten:
    """Apply the passes to a copy of the model; ``source`` is only read."""
    report = PrintableReport()
    source.check_references()
    try:
        model, restore = _to_ir(source.proto)
    except (ir.serde.SerdeError, ValueError, NotImplementedError, TypeError) as error:
        raise ConversionError(f"the model cannot be represented: {_root_cause(error)}") from error
    use_file_tensors(model, source.folder)
    if source.folder is None and (external := source.external):
        report.notes.append(
            f"the model was given without its folder, and with {len(external)} tensor(s) in other "
            f"files, such as '{external[0].name}': what needs their values is left alone"
        )
    annotate(model, source)
    _note_optimised(model, report)
    take_apart(model)
    facts = Facts(model)
    before = {node: node.name for node in _all_nodes(model)}
    described: set[str] = set()
    modified = any([make(selection, report, facts)(model).modified for make in passes])
    if modified:
        cast_in_functions(model, facts)
        described = describe_results(model, facts)
        _unique_names(model, before)
    modified |= keep_weights(model, facts, selection, report)
    after = Counter(_operator_name(node) for node, _ in visit(model, facts))
    report.operators = (count_operators(source.proto), after)
    _note_idle_patterns(selection, report)
    return Rewritten(model, modified, described, restore, report)


def _operator_name(node: ir.Node) -> str:
    return node.op_type if own_op(node) else f"{node.domain}::{node.op_type}"


def _to_ir(
    proto: onnx.ModelProto,
) -> tuple[ir.Model, Callable[[onnx.ModelProto, set[str]], onnx.ModelProto]]:
    """The model as onnx-ir sees it, and what makes up for the differences when it comes back.

    onnx-ir does not keep training information, sparse initializers, which become dense in bodies,
    and the types of inputs and outputs that are maps; it adds the types of all initializers, where
    only those of values that ``proto`` describes, and of ``typed``, are wanted.
    """
    maps = {
        value.name: value
        for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)
        if _holds_map(value.type)
    }
    sparse = {value.name: value for value in sparse_values(proto.graph)}
    seen = proto
    if maps or sparse or sparse_bodies(proto):
        seen = onnx.ModelProto()
        seen.CopyFrom(proto)
        seen.graph.input.extend(sparse.values())  # so that they are known
        fill_sparse(seen)
        for value in (*seen.graph.input, *seen.graph.output, *seen.graph.value_info):
            if value.name in maps:
                value.ClearField("type")

    def restore(result: onnx.ModelProto, typed: set[str]) -> onnx.ModelProto:
        wanted = typed.union(value.name for value in proto.graph.value_info)
        types = [value for value in result.graph.value_info if value.name in wanted]
        del result.graph.value_info[:]
        result.graph.value_info.extend(types)
        result.training_info.extend(proto.training_info)
        result.graph.sparse_initializer.extend(proto.graph.sparse_initializer)
        inputs = [value for value in result.graph.input if value.name not in sparse]
        del result.graph.input[:]
        result.graph.input.extend(inputs)
        for value in (*result.graph.input, *result.graph.output):
            if value.name in maps:
                value.CopyFrom(maps[value.name])
        return result

    return ir.from_proto(seen), restore


def _holds_map(type_: onnx.TypeProto) -> bool:
    if type_.HasField("map_type"):
        return True
    for container in ("sequence_type", "optional_type"):
        if type_.HasField(container):
            return _holds_map(getattr(type_, container).elem_type)
    return False


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    for owner in (model.graph, *model.functions.values()):
        yield from ir.traversal.RecursiveGraphIterator(owner)


def _unique_names(model: ir.Model, before: Mapping[ir.Node, str | None]) -> None:
    """Rename nodes that a pass has made, or given another name, and whose name another node has.

    ``before`` has the names that the model's nodes had; those that kept theirs are not touched.
    """
    named = [node for node in _all_nodes(model) if node.name]
    taken = {node.name for node in named if before.get(node) == node.name}
    for node in named:
        if before.get(node) == node.name:
            continue
        name, number = node.name, 0
        while name in taken:
            number += 1
            name = f"{node.name}_{number}"
        node.name = name
        taken.add(name)


def _check(result: Model, original: Model, report: Report) -> None:
    """Check ``result``; what onnx.checker already rejects in the original is only noted."""
    failure = _checker_message(result)
    if failure is None:
        return
    if _checker_message(original) is None:
        raise ConversionError(f"the converted model is not valid, please report this: {failure}")
    report.notes.append(f"onnx.checker rejects the original model too: {failure}")


def _checker_message(model: Model) -> str | None:
    try:
        onnx.checker.check_model(model.skeleton(), full_check=True)
    except Exception as error:  # the checker has several exception types, and they vary
        return str(error).strip().partition("\n")[0]
    return None


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
