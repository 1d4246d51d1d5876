"""Converts a model: reads it, has it rewritten, tunes it if asked to, and writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import onnx

from ..base.log import log
from ..converters.model_io import Model, ModelLike, read_model
from ..converters.output import Output
from ..converters.pipeline import Options
from ..converters.report import Change, Report, Skip
from ..converters.report_table import tables
from ..models.inputs import check_names

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from ..tuning.tune import Tuning

#: Key of the metadata that says, as JSON, which version converted a model and with which options.
METADATA_KEY = "ort_tconv.conversion"


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
            yield from tables(self.report, but=self.tuning.nodes)


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
        algorithm: ``"auto"``, ``"direct"``, ``"stacked"``, ``"narrow"`` or ``"winograd"``, stored
            in every rewritten node.  ``"direct"`` sums tap by tap and turns Winograd off.  By
            default nothing is stored and the plan decides.
        weights: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int8"``, stored in every node of
            the operator whose weights are float32 constants, converted before or now: the others
            keep them in 16 or 8 bits, half or a quarter of the memory and traffic, rounded once;
            the rest stays float32.  ``"int8"`` has a scale for each output channel: that of a model
            whose weights alone are quantised, which are then kept as they are, or else a 127th of
            the channel's largest weight.  :func:`ort_tconv.validate` allows for it.  By default
            weights are kept as they are.
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
    options = Options(include, exclude, disable, algorithm, weights)
    place = None if output is None else Output.check(output, source, force, one_file)
    check_names("shapes", shapes or {}, [value.name for value in source.proto.graph.input])

    def rewrite(
        reasons: Mapping[str, str] = MappingProxyType({}), *, timed: bool = False
    ) -> tuple[onnx.ModelProto, Report]:
        rewritten = options.rewrite(source, reasons, timed)
        return rewritten.to_proto(source), rewritten.report

    tuning = None
    if tune:
        # It needs onnxruntime, which conversion does not.
        from ..tuning.tune import tune as tune_sites

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


def _record(result: onnx.ModelProto, options: Options) -> None:
    """Write into the metadata which version made the model, and with which options."""
    given = {name: value for name, value in asdict(options).items() if value}
    text = json.dumps({"version": version("ort-tconv"), "options": given}, default=list)
    others = [item for item in result.metadata_props if item.key != METADATA_KEY]
    del result.metadata_props[:]
    result.metadata_props.extend(others)
    result.metadata_props.add(key=METADATA_KEY, value=text)


def _log(name: str, report: Report) -> None:
    log.info("%s: %d rewritten, %d left alone", name, len(report.changes), len(report.skips))
    for change in report.changes:
        log.debug("%s: %s became %s (%s)", change.node, change.op_type, change.became, change.where)
    for skip in report.skips:
        log.debug("%s: %s kept (%s): %s", skip.node, skip.op_type, skip.where, skip.reason)
    for note in report.notes:
        log.warning("%s: %s", name, note)
