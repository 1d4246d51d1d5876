"""Runs the passes over a model and makes sure that the result is a model."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from .._log import log
from ..inputs import check_names
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
from .output import Output
from .quantized import QuantizedRewrite
from .report import Change, Report, Skip, count_operators
from .rewrite import Rewrite, Selection, visit
from .subpixel_conv import SubpixelConvRewrite
from .unit_stride_conv import UnitStrideConvRewrite
from .upsample_conv import UpsampleConvRewrite
from .value_types import annotate, cast_in_functions, describe_results
from .weights import WEIGHTS, keep_weights
from .zero_insertion import ZeroInsertionRewrite

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from ..tuning import Tuning

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

#: Key of the metadata that says, as JSON, which version converted a model and with which options.
METADATA_KEY = "ort_tconv.conversion"

# What only ONNX Runtime's optimisations make of a Conv or what surrounds it.
_FUSED = ("FusedConv", "NhwcFusedConv", "NhwcConv", "ConvTransposeWithDynamicPads")

#: Values of the operator's attribute ``algorithm`` that convert can store.
ALGORITHMS = ("auto", "direct", "stacked", "narrow", "winograd")


@dataclass(frozen=True)
class ConversionResult:
    """A converted model, what was done to it and, if it was tuned, what was timed."""

    converted: Model  #: with the folder of what it refers to
    report: Report
    tuning: Tuning | None = None

    @property
    def model(self) -> onnx.ModelProto:
        return self.converted.proto

    @property
    def changes(self) -> list[Change]:
        return self.report.changes

    @property
    def skips(self) -> list[Skip]:
        return self.report.skips

    def to_dict(self) -> dict[str, Any]:
        """The report and the tuning, None if there was none, as JSON holds them."""
        tuning = None if self.tuning is None else json.loads(self.tuning.to_json())
        return {**self.report.to_dict(), "tuning": tuning}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.tuning is None:
            yield self.report
        else:
            yield self.tuning
            yield from self.report.tables(but=self.tuning.nodes)


def convert(
    model: ModelLike,
    output: str | os.PathLike | None = None,
    *,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    disable: str | Iterable[str] = (),
    algorithm: str | None = None,
    weights: str | None = None,
    tune: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 0,
    progress: bool = False,
    load_external_data: bool = True,
    force: bool = False,
    one_file: bool = False,
) -> onnx.ModelProto:
    """Rewrite a model to use ``ort_tconv::SegregatedConvTranspose``.

    The result computes the same function up to rounding.  Graph inputs and outputs, names, shapes,
    initializers that callers may override, and metadata are kept; a converted model, or one with
    nothing to convert, comes back as it is.  ``model`` itself is never changed.

    Args:
        model: Path, serialised bytes, ``onnx.ModelProto`` or ``onnx_ir.Model``.
        output: Where to write the result as well.  External data is copied to ``<output>.data``.
            Large weights of rewritten nodes go there too, where there are more than 4 MB of them:
            a session that has packed them needs them no longer, and pages of a file can be
            dropped from memory.  A file that is there is replaced if this package wrote it, and
            together with its data.
        include: Shell-style patterns; only nodes whose name matches one are rewritten.  A node
            without a name goes by the name of its first output.
        exclude: Patterns of names that are left alone, stronger than ``include``.
        disable: Names of passes that shall not run; ``converters.DEFAULT_PASSES`` lists them.
        algorithm: One of :data:`ALGORITHMS`, stored in every rewritten node.  ``"direct"`` sums
            tap by tap and turns Winograd off.  By default nothing is stored and the plan decides.
        weights: One of :data:`WEIGHTS`, stored in every node of the operator whose weights are
            float32 constants, converted before or now: ``"float16"`` and ``"bfloat16"`` keep them
            in 16 bits, half the memory and traffic, rounded once; the rest stays float32.
            :func:`ort_tconv.validate` allows for it.  By default they are kept as they are.
        tune: Time stock's and the rewritten form of each site on this machine, and keep stock where
            it wins; see :mod:`ort_tconv.tuning`.  Sites that are not expected to win, and plain
            Convs of stride 1, are left alone otherwise; here they are tried as well.  The decisions
            are stored in the metadata.
        shapes: Shapes of inputs for ``tune``, as for :func:`ort_tconv.validate`.
        threads: Intra-op threads for ``tune``; 0 for onnxruntime's default.
        progress: Whether ``tune`` shows a progress bar on standard error if it is a terminal.
        load_external_data: Whether external data is loaded into the returned model, as
            ``onnx.load`` does, so that ``SerializeToString()`` holds everything a session needs.
            Otherwise it stays a reference, relative to ``output``'s folder if there is one and to
            the source's if not.  References of a ModelProto, whose folder is not known, are kept.
        force: Replace whatever file ``output`` is, also ``model`` itself, whose external data then
            stays where it is.  Data of other models is not touched.
        one_file: Leave weights that are in the model there, unless they exceed 2 GB.

    Returns:
        The converted model, an object of its own.

    Raises:
        ConversionError: ``model`` is not an ONNX model, its external data is missing or it holds
            something that cannot be represented.
        FileNotFoundError: ``model``, or the folder of ``output``, does not exist.
        FileExistsError: ``output``, or a file in the place of its data, is not one to replace.
        ImportError: ``tune`` without onnxruntime.
        ValueError: ``disable`` names no pass, ``algorithm`` no algorithm or ``weights`` no
            form of weights; or the inputs for ``tune`` cannot be made up.
    """
    return convert_with_report(
        model,
        output,
        include=include,
        exclude=exclude,
        disable=disable,
        algorithm=algorithm,
        weights=weights,
        tune=tune,
        shapes=shapes,
        threads=threads,
        progress=progress,
        load_external_data=load_external_data,
        force=force,
        one_file=one_file,
    ).model


def convert_with_report(
    model: ModelLike,
    output: str | os.PathLike | None = None,
    *,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    disable: str | Iterable[str] = (),
    algorithm: str | None = None,
    weights: str | None = None,
    tune: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 0,
    progress: bool = False,
    load_external_data: bool = True,
    force: bool = False,
    one_file: bool = False,
) -> ConversionResult:
    """:func:`convert`, with a report on every candidate node."""
    source = read_model(model)
    options = _Options(include, exclude, disable, algorithm, weights)
    place = None if output is None else Output.check(output, source, force, one_file)
    check_names("shapes", shapes or {}, [value.name for value in source.proto.graph.input])

    def rewrite(
        reasons: Mapping[str, str] = MappingProxyType({}), *, timed: bool = False
    ) -> tuple[onnx.ModelProto, Report]:
        rewritten = _rewrite(source, options.selection(reasons, timed), options.passes())
        return rewritten.to_proto(source), rewritten.report

    tuning = None
    if tune:
        from ..tuning import tune as tune_sites  # it needs onnxruntime, which conversion does not

        result, report, tuning = tune_sites(
            source, rewrite, shapes=shapes, threads=threads, progress=progress
        )
    else:
        result, report = rewrite()

    if report.changes or tune:
        _record(result, options)
    _log(source.name, report)
    converted = source.derive(result)
    if place is not None:
        converted = place.write(converted)
    if load_external_data and converted.folder is not None:
        converted.load()
    return ConversionResult(converted, report, tuning)


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
    options = _Options(include, exclude, disable)
    return _rewrite(read_model(model), options.selection(), options.passes()).report


def _record(result: onnx.ModelProto, options: _Options) -> None:
    """Write into the metadata which version made the model, and with which options."""
    given = {name: value for name, value in asdict(options).items() if value}
    text = json.dumps({"version": version("ort-tconv"), "options": given}, default=list)
    others = [item for item in result.metadata_props if item.key != METADATA_KEY]
    del result.metadata_props[:]
    result.metadata_props.extend(others)
    result.metadata_props.add(key=METADATA_KEY, value=text)


@dataclass(frozen=True)
class _Options:
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


def _log(name: str, report: Report) -> None:
    log.info("%s: %d rewritten, %d left alone", name, len(report.changes), len(report.skips))
    for change in report.changes:
        log.debug("%s: %s became %s (%s)", change.node, change.op_type, change.became, change.where)
    for skip in report.skips:
        log.debug("%s: %s kept (%s): %s", skip.node, skip.op_type, skip.where, skip.reason)
    for note in report.notes:
        log.warning("%s: %s", name, note)


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
class _Rewritten:
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


def _rewrite(source: Model, selection: Selection, passes: Sequence[type[Rewrite]]) -> _Rewritten:
    """Apply the passes to a copy of the model; ``source`` is only read."""
    report = Report()
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
    return _Rewritten(model, modified, described, restore, report)


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
