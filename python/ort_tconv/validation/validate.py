"""Compares a converted model with the original one, run by stock onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ..base.library import import_onnxruntime
from ..conversion.convert import convert_with_report
from ..converters.conv_transpose import NOT_ALLOWED
from ..converters.external_data import ConversionError
from ..converters.model_io import Model, ModelLike, read_model
from ..converters.nodes import DOMAIN, OP_TYPE
from ..converters.pipeline import analyze
from ..converters.report import count_operators
from ..models.inputs import checked_shapes, describe, guessed, load_inputs, make_inputs
from ..models.plans import plan_of
from ..models.shapes import TypedNode, typed_nodes
from ..sessions.session import available_providers
from .comparison import Comparison, Limit, compare
from .flattening import bodies, flattened
from .results import NodeDifference, ValidationData
from .rounding import find_sites, is_step, seeded, without
from .runners import (
    Reference,
    Session,
    count_rewritten,
    produced,
    run_baseline,
)
from .steps import DIFFERING, steps_of
from .table import tables
from .tolerance import absolute_floor, reductions_by_node, relative_tolerance

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

#: Arrays by input name, several sets of them, or a path to such.
Inputs = Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | os.PathLike | None
#: Values of intermediate results kept at a time while looking for the first that differs.
_PROBES = 32


class ValidationReport(ValidationData):
    """Result of :func:`validate`; true in a condition if all outputs agree.

    A terminal shows it as tables, by rich.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return tables(self)


def validate(
    original: ModelLike,
    converted: ModelLike | None = None,
    inputs: Inputs = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    distribution: str = "normal",
    runs: int = 1,
    providers: Sequence[Any] | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    provider: bool = False,
) -> ValidationReport:
    """Run a model as it was and as converted, and compare all outputs.

    The original runs in stock onnxruntime on the CPU.  Models that it cannot run (it has no
    float64 or bfloat16 ConvTranspose) are evaluated by ``onnx.reference`` instead, with a
    ConvTranspose that sums in float64; the report's ``baseline`` says so.  Nodes that
    draw random numbers get the same seed in both.  On a mismatch each node of the operator is run
    on the values that stock has there, and the rest of the model on stock's results: if all of it
    agrees, the model itself enlarges rounding errors (it rounds, compares, or divides by what is
    nearly 0), the output is ok, and its ``note`` says where.  Otherwise the first node whose output
    differs is looked for, by running both models with their intermediate results as outputs.  With
    ``rtol`` given, only that counts.

    Args:
        original: Path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model``.
        converted: The same; ``None`` converts ``original``.
        inputs: Arrays by input name; several sets of them, in a sequence; or a path that
            :func:`ort_tconv.models.inputs.load_inputs` reads: an ``.npz`` file, or a folder of ONNX
            test data.  Inputs not given are generated: floats of the ``distribution``, integers 0
            and 1, or 0 to 255 for uint8.  NaN and infinity are compared like any other value.
        shapes: Shapes of generated inputs whose dimensions are not fixed.  Without them the first
            dimension is 1, channels are those of the convolution that reads them, and spatial
            dimensions are 256 in 1-D, 64 in 2-D, 16 in 3-D.
        seed: Seed of the first run's inputs; run i uses ``seed + i``.
        distribution: Of generated floats: ``"normal"``, ``"uniform"`` (from 0 to 1) or
            ``"integers"`` (from -8 to 8), with other parameters behind a colon:
            ``"normal:mean,deviation"``, ``"uniform:low,high"``, ``"integers:low,high"``.
        runs: Number of runs with each set of inputs; given inputs are the same in all of them.
        providers: Execution providers for the converted model, by default
            :func:`ort_tconv.available_providers`.
        rtol: Error allowed, relative to the largest magnitude of each output.  By default it is
            :func:`ort_tconv.validation.tolerance.relative_tolerance` of the model's reductions, and
            never less than :func:`ort_tconv.validation.tolerance.absolute_floor`; behind quantised
            nodes, one value in a thousand may differ by a step of quantisation more
            (:func:`ort_tconv.validation.steps.steps_of`).
        atol: Absolute error allowed in addition, and in integers.
        provider: Compare with ``original`` as the execution provider runs it, instead of a
            converted model; see :func:`ort_tconv.add_provider`.

    Raises:
        RuntimeError: ``provider`` where there is none.
        ValueError: ``provider`` with ``converted`` or ``providers``; the inputs do not fit, a shape
            cannot be guessed, a provider is not available,
            the models have different inputs or outputs, or no baseline can run the original.
        ConversionError: One of the models cannot be read.
    """
    if runs < 1:
        raise ValueError(f"runs is {runs}; at least one is needed")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if tolerance is not None and not 0 <= tolerance < np.inf:
            raise ValueError(f"{name} is {tolerance}; it must be a finite number, and 0 at least")
    if provider:
        source = target = read_unconverted(original, converted, providers)
    else:
        source, target = read_pair(original, converted)
    sets = [given for given in input_sets(inputs, source.proto) for _ in range(runs)]
    all_feeds = [
        make_inputs(source.proto, given, shapes=shapes, seed=seed + i, distribution=distribution)
        for i, given in enumerate(sets)
    ]
    if not provider:
        providers = chosen_providers(providers)
    report = compare_models(source, target, all_feeds, providers, rtol, atol)
    report.guessed = guessed_sizes(source.proto, sets[0], shapes)
    return report


def guessed_sizes(
    model: onnx.ModelProto,
    given: Mapping[str, Any] | None,
    shapes: Mapping[str, Sequence[int]] | None,
) -> dict[str, tuple[int, ...]]:
    """Of each input that is made up, the dimensions of its shape that nobody has given."""
    known = {name: np.shape(array) for name, array in (given or {}).items()}
    return guessed(model, {**known, **checked_shapes(shapes)})


def compare_models(
    source: Model,
    target: Model,
    all_feeds: Sequence[Mapping[str, np.ndarray]],
    providers: Sequence[Any] | None,
    rtol: float | None = None,
    atol: float = 0.0,
) -> ValidationReport:
    """:func:`validate`, of models that are read already, with one run for each set of inputs.

    Without ``providers`` the execution provider runs ``target``.
    """
    _refuse_malformed(source, target)
    source, random = _with_seeds(source)
    target, _ = _with_seeds(target)
    # Ours first: it refuses malformed nodes on which the stock operator ends the process.
    try:
        tested = Session(target, providers, custom=True)
        actual = [tested.run(feeds) for feeds in all_feeds]
    except ConversionError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no other base
        _refused_by_both(source, all_feeds, error)
        raise
    baseline, expected = run_baseline(source, all_feeds)
    by_provider = providers is None
    limits = _Limits(
        target.proto, target.folder, all_feeds[0], tested.tf32, rtol, atol, by_provider
    )

    report = ValidationReport(
        baseline=baseline.label,
        providers=tested.providers,
        rewritten=tested.rewritten(),
        runs=len(all_feeds),
        inputs={name: describe(value) for name, value in all_feeds[0].items()},
        outputs=[],
        notes=[*baseline.notes, *random],
    )
    if not report.rewritten:
        nothing = f"the converted model holds no {OP_TYPE} node"
        if providers is None:
            nothing = "the execution provider takes no node of the model"
        report.notes.append(nothing)
    worst: dict[str, Comparison] = {}
    for feeds, wanted, got in zip(all_feeds, expected, actual, strict=True):
        found = [
            comparison
            for name in wanted
            for comparison in map(
                limits.of_integers, compare(name, wanted[name], got[name], limits.of_output(name))
            )
        ]
        if not all(comparison.ok for comparison in found):
            found = _judge(found, baseline, tested, feeds, limits, wanted, report)
        for comparison in found:
            known = worst.get(comparison.name, comparison)
            worst[comparison.name] = max(known, comparison, key=lambda c: c.badness)
    report.outputs = list(worst.values())
    return report


def _with_seeds(model: Model) -> tuple[Model, list[str]]:
    proto, names = seeded(model.proto)
    if not names:
        return model, []
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return model.derive(proto), [f"both models got the same seed for what is random: {shown}"]


def _refuse_malformed(source: Model, target: Model) -> None:
    """Raise ValueError for nodes that ConvTranspose's own rules refuse; old releases of stock
    onnxruntime end the process on such, or read beyond an array."""
    if not count_operators(target.proto)["ConvTranspose"]:
        return
    for skip in analyze(source).skips:
        if skip.reason.startswith(NOT_ALLOWED):
            raise ValueError(
                f"the original is no valid model, and stock onnxruntime refuses it, too: node "
                f"'{skip.node}': {skip.reason}"
            )


def _refused_by_both(
    source: Model, all_feeds: Sequence[Mapping[str, np.ndarray]], error: Exception
) -> None:
    """Raise ValueError if stock onnxruntime cannot run the original either."""
    try:
        run_baseline(source, all_feeds)
    except ValueError as stock:
        ours = str(error).strip().partition("\n")[0]
        raise ValueError(f"{stock}, nor can the converted model be run: {ours}") from error


def _judge(
    found: list[Comparison],
    baseline: Session | Reference,
    tested: Session,
    feeds: Mapping[str, np.ndarray],
    limits: _Limits,
    wanted: Mapping[str, Any],
    report: ValidationReport,
) -> list[Comparison]:
    """What becomes of comparisons of which some failed, and the reasons in the report.

    An output that stock itself does not give twice is not compared.  One that differs by rounding
    errors which the model enlarges is ok.  Otherwise the first node that differs is looked for.
    """
    first, second = (baseline.probe(list(wanted)).run(feeds) for _ in range(2))
    random = {
        comparison.name
        for name in wanted
        for comparison in compare(name, first[name], second[name], Limit(lambda _: 0.0))
        if not comparison.ok
    }
    found = [
        replace(c, reason=None, note="stock itself gives another result in each session")
        if not c.ok and c.name in random
        else c
        for c in found
    ]
    if all(comparison.ok for comparison in found):
        return found
    if report.first_difference is not None:
        return found
    inlined = _laid_out(baseline.inlined(), tested.inlined(), feeds, report)
    fault, cleared = _check_sites(*inlined, feeds, limits)
    where = fault or _first_difference(*inlined, feeds, limits)
    if not cleared or limits.rtol is not None:
        report.first_difference = where
        if where is None:
            report.notes.append("no difference is found when intermediate results are kept")
        return found
    return [c if c.ok else replace(c, reason=None, note=_enlarged(c, where)) for c in found]


def _laid_out(
    baseline: Session | Reference,
    tested: Session,
    feeds: Mapping[str, np.ndarray],
    report: ValidationReport,
) -> tuple[Session | Reference, Session]:
    """Both models, which are inlined, with what ran in bodies in the main graph; the report says
    which bodies cannot be looked into."""
    if not bodies(baseline.model):
        return baseline, tested

    def probe(model: onnx.ModelProto, names: list[str]) -> Mapping[str, Any]:
        rest = [name for name in names if name not in feeds]
        found = baseline.of(model).probe(rest).run(feeds) if rest else {}
        return {**feeds, **found}

    try:
        original, converted = flattened(baseline.model, tested.model, probe)
        result = baseline.of(original), tested.of(converted)
    except Exception as error:  # onnxruntime's exceptions share no other base
        why = str(error).strip().partition("\n")[0]
        report.notes.append(f"If and Loop are judged as a whole: {why}")
        return baseline, tested
    if left := bodies(original):
        report.notes.append(
            f"judged as a whole, with all that is in their bodies: {', '.join(left)}"
        )
    return result


def _enlarged(output: Comparison, first: NodeDifference | None) -> str:
    """Why an output is right that differs, ``first`` being the first node at which it shows."""
    how = f"{output.reason}, but only by rounding"
    if first is None:
        return f"{how}: each piece of the model agrees"
    where = f"'{first.node}' ({first.op_type})"
    if first.op_type == OP_TYPE:
        return f"{how}: sums of {where} cancel, and it agrees within the error of their terms"
    kind = "makes steps of small differences" if first.step else "enlarges small differences"
    return f"{how}: {where} {kind}; the values before it agree, and so does each piece of the model"


def _check_sites(
    baseline: Session | Reference,
    tested: Session,
    feeds: Mapping[str, np.ndarray],
    limits: _Limits,
) -> tuple[NodeDifference | None, bool]:
    """The first site that gives a wrong result from stock's inputs; and whether there is none and
    the rest of both models is the same, so that only rounding is left.  Both models are inlined."""
    sites = find_sites(baseline.model, tested.model)
    if not sites or len(sites) != count_rewritten(tested.model):
        return None, False
    names = dict.fromkeys(name for site in sites for name in (*site.part.inputs, site.result))
    values: dict[str, Any] = dict(feeds)
    wanted = [name for name in names if name not in values]
    for start in range(0, len(wanted), _PROBES):
        values |= baseline.probe(wanted[start : start + _PROBES]).run(feeds)
    for site in sites:
        given = {name: values[name] for name in site.part.inputs}
        expected = values[site.result]
        proto = site.proto(tested.model, given)
        (actual,) = tested.of(proto).run(given).values()
        sums = tested.of(site.magnitudes(tested.model, given), cpu=True).run(given)["magnitudes"]
        dtype = onnx.helper.np_dtype_to_tensor_dtype(expected.dtype)
        allowed = site.tolerance(proto, sums, dtype, limits.tf32)
        (comparison,) = compare(site.result, expected, actual, Limit(lambda _, a=allowed: a))
        if not comparison.ok:
            plan = _plan_of(tested.source, site.node, feeds, tested.providers)
            name = site.node.name or site.result
            return NodeDifference(name, site.node.op_type, comparison, plan), False
    seams = {site.result: values[site.result] for site in sites}
    rests = [without(model, seams) for model in (baseline.model, tested.model)]
    if not rests[0].graph.output:
        return None, True
    given = {**feeds, **seams}
    ran = [
        Session(runner.source.derive(rest), custom=True).run(  # it may have quantised nodes
            {value.name: given[value.name] for value in rest.graph.input if value.name in given}
        )
        for runner, rest in zip((baseline, tested), rests, strict=True)
    ]
    same = all(
        comparison.ok
        for name in ran[0]
        for comparison in compare(name, ran[0][name], ran[1][name], limits.of_output(name))
    )
    return None, same


def read_unconverted(
    original: ModelLike, converted: ModelLike | None, providers: str | Sequence[Any] | None
) -> Model:
    """The model as the execution provider takes it.  Raises ValueError if what it leaves no choice
    of is given as well."""
    if converted is not None or providers is not None:
        raise ValueError("provider: there is no converted model and no choice of providers")
    return read_model(original)


def read_pair(original: ModelLike, converted: ModelLike | None) -> tuple[Model, Model]:
    """Both models; ``converted`` is made from ``original`` if it is None.

    Raises ValueError if ``original`` is converted already, or the two have different inputs or
    outputs.
    """
    source = read_model(original)
    if count_rewritten(source.proto):
        raise ValueError("original: the model is converted already; pass the one it was made from")
    if converted is None:
        target = source.derive(convert_with_report(source, load_external_data=False).model)
    else:
        target = read_model(converted)
        if target.folder is None:  # made by convert, with references to the original's data
            target = replace(target, folder=source.folder)
    _check_same_interface(source.proto, target.proto)
    return source, target


def input_sets(inputs: Inputs, model: onnx.ModelProto) -> Sequence[Mapping[str, Any] | None]:
    """Each set of arrays by input name that ``inputs`` stands for; None: to be generated."""
    if isinstance(inputs, str | os.PathLike):
        return load_inputs(inputs, model)
    if inputs is None or isinstance(inputs, Mapping):
        return [inputs]
    sets = list(inputs) if isinstance(inputs, Sequence) else [inputs]
    for given in sets:
        if not isinstance(given, Mapping):
            raise TypeError(
                f"inputs: a {type(given).__name__}; arrays by input name are needed, as in "
                f"{{'{model.graph.input[0].name if model.graph.input else 'x'}': array}}"
            )
    if not sets:
        raise ValueError("inputs: an empty sequence; give at least one set of arrays")
    return sets


def _check_same_interface(original: onnx.ModelProto, converted: onnx.ModelProto) -> None:
    for kind in ("input", "output"):
        names = [
            [value.name for value in getattr(model.graph, kind)] for model in (original, converted)
        ]
        if names[0] != names[1]:
            raise ValueError(f"the models have different {kind}s: {names[0]} and {names[1]}")


def chosen_providers(providers: str | Sequence[Any] | None) -> list[Any]:
    """One name, or several, or those that have the operator.  Raises ValueError if one is not
    available: onnxruntime itself would warn and run on the CPU."""
    chosen = [providers] if isinstance(providers, str) else list(providers or available_providers())
    available = import_onnxruntime().get_available_providers()
    for provider in chosen:
        name = provider if isinstance(provider, str) else provider[0]
        if name not in available:
            raise ValueError(
                f"provider '{name}' is not available; there are {', '.join(available)}"
            )
    return chosen


class _Limits:
    """Tolerances of a model's outputs and intermediate results."""

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path | None,
        feeds: Mapping[str, np.ndarray],
        tf32: bool,
        rtol: float | None,
        atol: float,
        by_provider: bool,
    ) -> None:
        shapes = {name: value.shape for name, value in feeds.items()}
        self._reductions = reductions_by_node(model, shapes, folder)
        self._nodes, self._folder = model.graph.node, folder
        self.tf32, self.rtol, self._atol, self._by_provider = tf32, rtol, atol, by_provider
        self._steps = steps_of(model, by_provider) if rtol is None else {}

    def of_integers(self, comparison: Comparison) -> Comparison:
        """The comparison, made good if integers differ by no more than the absolute tolerance."""
        different = not comparison.ok and comparison.max_abs_at is not None
        if not different or not comparison.dtype.lstrip("u").startswith("int"):
            return comparison
        within = comparison.max_abs <= self._atol
        reason = None if within else comparison.reason
        return replace(comparison, tolerance=self._atol, reason=reason)

    def of_model(self, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> _Limits:
        """The same limits for another form of the model."""
        return _Limits(
            model, self._folder, feeds, self.tf32, self.rtol, self._atol, self._by_provider
        )

    def of_output(self, name: str) -> Limit:
        return self.after_node(len(self._reductions), name)

    def after_node(self, index: int, name: str) -> Limit:
        """Limit of result ``name`` of node ``index``, which all nodes up to there may have
        changed."""
        before = [r for reductions in self._reductions[: index + 1] for r in reductions]

        def limit(expected: np.ndarray) -> float:
            magnitudes = np.abs(expected[np.isfinite(expected)].astype(np.float64))
            largest = float(magnitudes.max(initial=0.0)) or 1.0
            if self.rtol is not None:
                return self._atol + self.rtol * largest
            dtype = onnx.helper.np_dtype_to_tensor_dtype(expected.dtype)
            relative = relative_tolerance(before, dtype, self.tf32)
            floor = absolute_floor(self._nodes[: index + 1], dtype)
            return self._atol + max(relative * largest, floor)

        return Limit(limit, self._steps.get(name), DIFFERING)


def _first_difference(
    baseline: Session | Reference,
    tested: Session,
    feeds: Mapping[str, np.ndarray],
    limits: _Limits,
) -> NodeDifference | None:
    """Run both models, which are inlined, a few intermediate results at a time, until one
    differs."""
    converted = tested.model
    limits = limits.of_model(converted, feeds)
    known = produced(baseline.model)
    # In functions a Cast tells the type of the operator's result, which may go by a new name.
    operators = {
        node.output[0]: node
        for node in converted.graph.node
        if node.domain == DOMAIN and node.output[0] not in known
    }
    probes = [
        (index, node, name)
        for index, node in enumerate(converted.graph.node)
        for name in node.output
        if name in known
    ]
    for start in range(0, len(probes), _PROBES):
        chunk = probes[start : start + _PROBES]
        names = [name for _, _, name in chunk]
        wanted, got = (runner.probe(names).run(feeds) for runner in (baseline, tested))
        for index, node, name in chunk:
            for comparison in compare(
                name, wanted[name], got[name], limits.after_node(index, name)
            ):
                if not comparison.ok:
                    node = operators.get(node.input[0], node) if node.input else node
                    plan = _plan_of(tested.source, node, feeds, tested.providers)
                    step = is_step(node)
                    return NodeDifference(node.name or name, node.op_type, comparison, plan, step)
    return None


def _plan_of(
    model: Model,
    node: onnx.NodeProto,
    feeds: Mapping[str, np.ndarray],
    providers: Sequence[str],
) -> str | None:
    """How the operator ran ``node``, or its nodes within the bodies of ``node``; None if none."""
    typed = typed_nodes(model, {name: value.shape for name, value in feeds.items()})
    start = next(i for i, known in enumerate(typed) if known.output_names == tuple(node.output))
    # Its bodies' nodes follow a node, and belong to other graphs.
    rest = typed[start + 1 :]
    inner = next((i for i, known in enumerate(rest) if known.where == "graph"), len(rest))
    ours = [known for known in (typed[start], *rest[:inner]) if known.is_ours]
    if not ours:
        return None
    if providers[0] != "CPUExecutionProvider":
        return f"that of {providers[0]}"

    def text(known: TypedNode) -> str:
        try:
            return plan_of(known)["text"]
        except ValueError as error:
            return f"not known: {error}"

    if len(ours) == 1 and ours[0] is typed[start]:
        return text(ours[0])
    return "; ".join(f"'{known.name}' in it: {text(known)}" for known in ours)
