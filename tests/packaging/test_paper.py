"""benchmarks/paper.py: its methods compute transposed convolutions, and it runs."""

import json

import numpy as np
import pytest
from scripts import BENCHMARKS, ROOT, output_of

from ort_tconv import _core

MODULES = ("bench_session", "engines", "measure", "paper", "report")


@pytest.fixture(scope="module")
def paper(modules):
    return modules["paper"]


@pytest.fixture(scope="module")
def loops(paper, tmp_path_factory):
    library, _ = paper.compile_loops(tmp_path_factory.mktemp("loops"))
    return library


def layers(modules, pattern):
    return modules["bench_session"].load_layers(BENCHMARKS / "workloads.json", pattern)


SIDES = [
    # k, s, pads, output_padding
    ((3, 3), (2, 2), (1, 1, 1, 1), (0, 0)),
    ((4, 4), (2, 2), (1, 1, 1, 1), (0, 0)),
    ((5, 5), (2, 2), (2, 2, 2, 2), (1, 1)),
    ((5, 4), (3, 2), (0, 1, 2, 3), (0, 0)),
    ((2, 3), (3, 1), (0, 2, 0, 0), (2, 0)),  # a class without taps, and no zeros on one axis
    ((1, 1), (2, 2), (0, 0, 0, 0), (0, 0)),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("k, s, pads, output_padding", SIDES)
def test_methods_compute_the_definition(modules, loops, k, s, pads, output_padding, threads):
    paper = modules["paper"]
    attributes = {"kernel_shape": k, "strides": s, "pads": pads, "output_padding": output_padding}
    attributes = {key: list(value) for key, value in attributes.items()}
    layer = modules["bench_session"].Layer("g", "l", (1, 3, 6, 5), 4, attributes)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(layer.x, dtype=np.float32)
    w = rng.standard_normal(layer.w, dtype=np.float32)
    expected = _core.reference(x, w, **attributes)
    methods = [
        paper.ConventionalOrt(1),
        paper.ConventionalLoops(loops, threads),
        paper.SegregatedLoops(loops, threads),
    ]
    for method in methods:
        run, output = method.prepare(layer, None, x, w)
        run()
        np.testing.assert_allclose(output(), expected, atol=1e-5, err_msg=method.name)


def test_methods_refuse_what_they_lack(modules, loops):
    paper = modules["paper"]
    sides = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [3] * 4}
    layer = modules["bench_session"].Layer("g", "l", (1, 3, 6, 5), 4, sides)
    with pytest.raises(modules["engines"].Unsupported, match="beyond the kernel"):
        paper.SegregatedLoops(loops, 1).prepare(layer, None, np.zeros(layer.x), np.zeros(layer.w))
    (batch,) = layers(modules, "dcgan_b16_8x8")
    with pytest.raises(modules["engines"].Unsupported, match="more than one image"):
        paper.expanded_bytes(batch)


def test_memory_is_that_of_the_published_formula(modules):
    """(2N - 1 + 2P)^2 * C * 4, with the P = k - 1 - p zeros around."""
    paper = modules["paper"]
    total = 0
    for layer in layers(modules, "^gan/ebgan"):
        n, c = layer.x[2], layer.x[1]
        assert paper.expanded_bytes(layer) == (2 * n - 1 + 2 * 2) ** 2 * c * 4
        total += paper.expanded_bytes(layer)
    assert total == 35_534_592  # published as "up to 35 MB"
    (image,) = layers(modules, "image224_k5")
    assert paper.expanded_bytes(image) == (2 * 224 - 1 + 2 * 2) ** 2 * 3 * 4


def row(layer, group, threads, **ms):
    memory = {"expanded_bytes": 2e6, "column_buffer_bytes": 3e6, "scratch_bytes": 1e5}
    methods = {name: {"median_ms": value} for name, value in ms.items()}
    return {
        "group": group,
        "layer": layer,
        "threads": threads,
        "methods": methods,
        "memory": memory,
    }


@pytest.fixture
def data(paper):
    times = {"stock": 2.0, "ours": 1.0, "conventional_ort": 8.0}
    rows = [
        row("ebgan_a", "gan", 1, **times, conventional_loops=40.0, segregated_loops=10.0),
        row("ebgan_b", "gan", 1, **times, conventional_loops=20.0, segregated_loops=10.0),
    ]
    machine = {"cpu": "a cpu", "threads": 1}
    return {"machine": machine, "published": paper.PUBLISHED, "results": rows}


def test_tables(paper, data):
    tables = paper.tables(data)
    header, cells = tables["Claims (arithmetic means over layers)"]
    assert header == ["claim", "published", "here, 1 thread"]
    assert ["GAN layers: conv. loops / segr. loops", "3.5x", "3.00x"] in cells
    assert ["GAN layers: conv. ORT / ours", "", "8.00x"] in cells
    assert cells[-1][1:] == ["up to 35 MB", "4.00 MB"]
    _, cells = tables["Time, 1 thread"]
    assert cells[-1][6:] == ["2.83", "28.28", "4.00", "8.00", "2.00"]  # geometric
    _, cells = tables["Memory besides input, weights and output, 1 thread"]
    assert cells[-1] == ["sum, ebgan", "4.00", "6.00", "0.20"]


def test_results_of_several_runs_are_merged(paper, data):
    other = json.loads(json.dumps(data))
    other["machine"]["threads"] = 2
    for r in other["results"]:
        r["threads"] = 2
    both = paper.merged([data, other])
    assert both["machine"]["threads"] == 2
    assert [r["threads"] for r in both["results"]] == [1, 1, 2, 2]


def test_it_runs(tmp_path):
    out, document = tmp_path / "out.json", tmp_path / "paper.md"
    document.write_text("before\n<!-- results: begin -->\n<!-- results: end -->\n")
    layers = "gpgan_32|k3$"
    output_of("paper.py", "--quick", "--threads", 1, "--layers", layers, "--json", out)
    results = json.loads(out.read_text())["results"]
    assert [r["layer"] for r in results] == ["gpgan_32x32x64", "image224_k3"]
    assert all(len(r["methods"]) == 5 for r in results)
    shown = output_of("paper.py", "--results", out, "--document", document)
    assert "3.89x (Xeon)" in shown
    assert "| gpgan_32x32x64 |" in document.read_text()


def test_the_document_shows_the_newest_results(modules):
    report = modules["report"]
    data = json.loads(report.newest("paper").read_text())
    document = (ROOT / "docs/paper.md").read_text()
    assert report.replace_section(document, modules["paper"].section(data)) == document
