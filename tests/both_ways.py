"""A model converted, and the same model with the execution provider: which sites each way takes.

Each model that the tests of a folder convert goes through both, where its conftest.py imports
``both_ways`` and ``pytest_collection_modifyitems`` from here: both ways have to take the same
sites and give the same bits, or be on the list of differences.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from differences import DIFFERENCES
from sessions import options

import ort_tconv
from ort_tconv.converters import ConversionError, convert_with_report, pipeline
from ort_tconv.converters.model_io import Model, read_model
from ort_tconv.converters.nodes import DOMAIN, OP_TYPE
from ort_tconv.models.inputs import make_inputs
from ort_tconv.sessions.provider import unavailable
from ort_tconv.sessions.provider_report import ProviderReport, open_with_report
from ort_tconv.sessions.session import open_session

Sites = set[frozenset[str]]

_MOST = 3  # models of one test: hypothesis draws more, all alike
_LARGEST = 1 << 26  # bytes
# Of onnxruntime: older ones infer fewer shapes, and die of models that they should refuse.
_OLDEST = (1, 32)


def converted_sites(report) -> Sites:
    """Groups of names of nodes that a conversion takes together."""
    groups: dict[tuple[str, str], set[str]] = {}
    for change in report.changes:
        anchor = change.nodes[0] if change.rewrite == "epilogue" else change.node
        groups.setdefault((change.where, anchor), set()).update(change.nodes)
    return set(map(frozenset, groups.values()))


def provider_sites(report: ProviderReport) -> Sites:
    return {frozenset(site.nodes) for site in report.sites if site.claimed}


def difference(model: onnx.ModelProto | Model, **settings) -> str | None:
    """What sets the two ways apart; None if they take the same sites and give the same bits.

    Both see the graph as it is.  Where that differs they see it after onnxruntime's basic
    optimisations, which fold constants: then that counts.
    """
    source = _without_operator(read_model(model))
    if source is None:
        return None
    found = compare(source, ort.GraphOptimizationLevel.ORT_DISABLE_ALL, settings)
    if found is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        folded = optimised(source, Path(folder) / "optimised.onnx")
        if folded is None:
            return found
        return compare(folded, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC, settings)


def compare(source: Model, level: ort.GraphOptimizationLevel, settings: dict) -> str | None:
    """What sets the two ways apart at one level of onnxruntime's optimisations."""
    try:
        result = convert_with_report(source, **settings)
    except ConversionError:
        return None  # nothing to compare with

    def session_options() -> ort.SessionOptions:
        made = options(1)
        made.graph_optimization_level = level
        return made

    def opened(open_one):
        try:
            return open_one(), None
        except Exception as error:
            return None, error

    converted, first = opened(
        lambda: open_session(
            source.derive(result.model),
            ort_tconv.register(session_options()),
            ["CPUExecutionProvider"],
        )
    )
    with_provider, second = opened(
        lambda: open_with_report(source, ort_tconv.add_provider(session_options(), **settings))
    )
    if with_provider is None:
        return None if first is not None else f"only the provider's session fails: {second}"
    session, report = with_provider
    ours, theirs = provider_sites(report), converted_sites(result.report)
    if ours != theirs:
        left = [f"{site.node}: {site.reason}" for site in report.sites if not site.claimed]
        only = [sorted(map(sorted, a - b)) for a, b in ((ours, theirs), (theirs, ours))]
        return f"only the provider takes {only[0]}, only the converter {only[1]}; left: {left}"
    if converted is None:
        return f"only the converted model's session fails: {first}"
    return _different_bits(source.proto, converted, session)


def _different_bits(model: onnx.ModelProto, *sessions: ort.InferenceSession) -> str | None:
    try:
        feeds = make_inputs(model)
    except ValueError:
        return None  # sizes that cannot be guessed
    results = []
    for session in sessions:
        try:
            results.append(session.run(None, feeds))
        except Exception as error:
            results.append(error)
    if any(isinstance(result, Exception) for result in results):
        same = all(isinstance(result, Exception) for result in results)
        return None if same else f"one way fails: {results}"
    for value, first, second in zip(sessions[0].get_outputs(), *results):
        if not _same(first, second):
            return f"output '{value.name}' differs in bits"
    return None


def _same(a, b) -> bool:
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if not isinstance(a, np.ndarray):
        return a == b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def optimised(source: Model, path: Path) -> Model | None:
    """The graph that onnxruntime shows to providers, as far as stock onnxruntime can run it."""
    made = ort_tconv.register(options(1))
    made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    made.optimized_model_filepath = str(path)
    try:
        open_session(source, made, ["CPUExecutionProvider"])
    except Exception:
        return None
    result = onnx.load(path, load_external_data=False)
    kept = [item for item in result.opset_import if item.domain != DOMAIN]
    if not any(node.domain == DOMAIN for node in _nodes(result.graph)):
        del result.opset_import[:]
        result.opset_import.extend(kept)
    onnx.save(result, path)
    return read_model(path)


def _without_operator(source: Model) -> Model | None:
    """The model with ConvTranspose for nodes of the operator; None if these do more than that."""
    result = source.copy()
    bodies = [result.proto.graph.node, *(body.node for body in result.proto.functions)]
    for node in (each for body in bodies for top in body for each in (top, *_inner(top))):
        if node.domain == DOMAIN:
            extra = {"activation", "activation_params", "algorithm", "weights"}
            if node.op_type != OP_TYPE or len(node.input) > 3:
                return None
            if extra.intersection(attribute.name for attribute in node.attribute):
                return None
            node.domain, node.op_type = "", "ConvTranspose"
    return result


def _inner(node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            yield from _nodes(body)


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for node in graph.node:
        yield node
        yield from _inner(node)


# ---- every model of a folder of tests ------------------------------------------------------------


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in ort.__version__.split(".")[:2])


def _name(item: pytest.Item) -> str:
    """File, function and parameters."""
    place, bracket, parameters = item.nodeid.partition("[")
    return place.rpartition("/")[2] + bracket + parameters


@pytest.fixture(autouse=True)
def both_ways(request, monkeypatch):
    if unavailable() is not None or _version() < _OLDEST:
        yield
        return
    seen = []
    rewrite = pipeline._rewrite

    def recording(source, selection, passes):
        usual = list(passes) == list(pipeline.DEFAULT_PASSES)
        special = selection.include or selection.timed or selection.weights
        if usual and not special and len(seen) < _MOST and source.proto.ByteSize() < _LARGEST:
            seen.append((source.copy(), selection))
        return rewrite(source, selection, passes)

    monkeypatch.setattr(pipeline, "_rewrite", recording)
    yield
    monkeypatch.undo()  # whatever else the test has patched
    found = set()
    for source, selection in seen:
        settings = {"exclude": list(selection.exclude), "algorithm": selection.algorithm}
        found.add(difference(source, **settings))
    found.discard(None)
    # What is listed need not show everywhere: the estimate may leave the site alone both ways.
    assert not found or _name(request.node) in DIFFERENCES, found


def pytest_collection_modifyitems(config, items):
    """A test that is listed has to be there, where whole files are collected."""
    if (
        any("::" in arg for arg in config.args)
        or config.option.keyword
        or config.getoption("lf", False)
    ):
        return
    names = {_name(item) for item in items}
    files = {name.partition("::")[0] for name in names}
    gone = [name for name in DIFFERENCES if name.partition("::")[0] in files and name not in names]
    if gone:
        raise pytest.UsageError(f"the list of differences has tests that are not there: {gone}")
