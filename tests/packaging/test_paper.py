"""benchmarks/paper.py: its methods compute transposed convolutions, and it runs."""

import json

import numpy as np
import pytest
from scripts import BENCHMARKS, ROOT, output_of

from ort_tconv import _core

MODULES = ("bench_session", "drawing", "engines", "measure", "paper", "report")


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
        paper.UnifiedLoops(loops, threads),
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


def test_extra_elements_are_those_of_odd_sizes(modules):
    """Four convolutions of equal size compute (n + 1)^2 outputs where there are n^2, n odd."""
    paper = modules["paper"]
    for layer in layers(modules, "^gan/|^images/"):
        sides = [-(-side // 2) * 2 for side in layer.y[2:]]
        expected = layer.m * (sides[0] * sides[1] - layer.y[2] * layer.y[3])
        assert paper.extra_elements(layer) == expected
        assert (expected > 0) == ("k3" in layer.name or "k5" in layer.name)
        made = paper.memory(layer, 1)
        padded = made["unified_bytes"]
        assert layer.x[1] * 4 * layer.x[2] * layer.x[3] <= padded < made["expanded_bytes"]
        assert made["segregated_bytes"] >= padded + 4 * (
            expected + layer.m * layer.y[2] * layer.y[3]
        )
        assert made["weight_bytes"] == 4 * layer.x[1] * layer.m * layer.w[2] * layer.w[3]


def row(layer, group, threads, **ms):
    memory = {"expanded_bytes": 2e6, "segregated_bytes": 1e6, "unified_bytes": 5e5}
    memory |= {"column_buffer_bytes": 3e6, "scratch_bytes": 1e5}
    memory |= {"weight_bytes": 4e6, "packed_bytes": 16e6}
    methods = {name: {"median_ms": value} for name, value in ms.items()}
    return {
        "group": group,
        "layer": layer,
        "threads": threads,
        "methods": methods,
        "memory": memory,
        "y": [1, 2, 3, 3],
        "extra_elements": 14,
    }


@pytest.fixture
def data(paper):
    times = {"stock": 2.0, "ours": 1.0, "conventional_ort": 8.0}
    loops = {"segregated_loops": 20.0, "unified_loops": 10.0}
    rows = [
        row("ebgan_a", "gan", 1, **times, **loops, conventional_loops=40.0),
        row("ebgan_b", "gan", 1, **times, **loops, conventional_loops=20.0),
    ]
    machine = {"cpu": "a cpu", "threads": 1}
    return {"machine": machine, "published": paper.PUBLISHED, "results": rows}


def test_tables(paper, data):
    tables = paper.tables(data)
    header, cells = tables["Claims (arithmetic means over layers)"]
    assert header == ["claim", "published", "here, 1 thread"]
    assert ["GAN layers: conv. loops / unified loops", "3.5x", "3.00x"] in cells
    assert ["GAN layers: conv. loops / segr. loops", "", "1.50x"] in cells
    assert ["GAN layers: conv. ORT / ours", "", "8.00x"] in cells
    assert cells[-2][1:] == ["up to 35 MB", "4.00 MB"]
    assert cells[-1][1:] == ["", "-20.20 MB"]  # the weights outweigh what is saved
    header, cells = tables["Time, 1 thread"]
    assert cells[-1][7:] == ["1.41", "2.83", "2.00", "28.28", "4.00", "8.00", "2.00"]  # geometric
    _, cells = tables["Extra elements, where the output's size is odd"]
    assert cells[0] == ["ebgan_a", "1×2×3×3", "14", "77.78%", "0", "0"]
    _, cells = tables["Memory besides input, weights and output, 1 thread"]
    sums = ["4.00", "2.00", "1.00", "6.00", "0.20", "8.00", "32.00", "-20.20"]
    assert cells[-1] == ["sum, ebgan", *sums]


def test_a_record_without_a_method_is_shown(paper, data):
    for r in data["results"]:
        del r["methods"]["segregated_loops"]
    header, _ = paper.tables(data)["Time, 1 thread"]
    assert "conv. loops / unified loops" in header
    assert not any("segr." in column for column in header)


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
    assert all(len(r["methods"]) == 6 for r in results)
    assert [r["extra_elements"] for r in results] == [0, 448**2 - 447**2]
    shown = output_of("paper.py", "--results", out, "--document", document)
    assert "3.89x (Xeon)" in shown
    assert "| gpgan_32x32x64 |" in document.read_text()


def test_the_document_shows_the_newest_results(modules):
    report = modules["report"]
    data = json.loads(report.newest("paper").read_text())
    document = (ROOT / "docs/paper.md").read_text()
    assert report.replace_section(document, modules["paper"].section(data)) == document
