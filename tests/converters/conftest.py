"""Each model that these tests convert also goes through the execution provider, which has to take
the same sites and give the same bits, or be on the list of differences."""

import onnxruntime as ort
import pytest
from both_ways import difference
from differences import DIFFERENCES
from written_nodes import written_nodes  # noqa: F401  (a fixture for all tests here)

from ort_tconv.converters import pipeline
from ort_tconv.sessions.provider import unavailable

_MOST = 3  # models of one test: hypothesis draws more, all alike
_LARGEST = 1 << 26  # bytes
# Of onnxruntime: older ones infer fewer shapes, and die of models that they should refuse.
_OLDEST = (1, 32)


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
