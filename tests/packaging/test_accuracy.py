"""benchmarks/accuracy.py, and the document that shows its results."""

import json

import numpy as np
from scripts import ROOT, output_of

from ort_tconv import _core

MODULES = ("accuracy", "bench_session", "engines", "measure", "report")


def test_relative_error(modules):
    exact = np.array([1.0, -4.0])
    assert modules["accuracy"].relative_error(np.float32([1.0, -4.5]), exact) == 0.125


def test_errors_are_those_of_rounding(modules):
    """Of each algorithm, and of stock, whose output must not be read after its session is gone."""
    sides = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4}
    layer = modules["bench_session"].Layer("g", "l", (1, 32, 12, 12), 16, sides)
    errors = modules["accuracy"].errors(layer, "")
    assert list(errors) == ["stock", *_core.algorithms(), "float16", "bfloat16"]
    eps = {"float16": 2**-10, "bfloat16": 2**-7}
    for name, error in errors.items():
        assert 0 < error < 16 * eps.get(name, 2**-23), name


def test_what_is_compared_with_is_the_definition(modules):
    sides = {"kernel_shape": [5, 4], "strides": [2, 3], "pads": [2, 1, 1, 0], "group": 2}
    layer = modules["bench_session"].Layer("g", "l", (2, 6, 7, 9), 4, sides)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(layer.x), rng.standard_normal(layer.w)
    exact = modules["accuracy"].exact_output(layer, x, w)
    np.testing.assert_allclose(exact, _core.reference(x, w, **sides), rtol=0, atol=1e-13)


def test_it_runs(tmp_path):
    out, document = tmp_path / "out.json", tmp_path / "accuracy.md"
    document.write_text("<!-- results: begin -->\n<!-- results: end -->\n")
    layers = "gpgan_32|fcn8"
    output_of("accuracy.py", "--layers", layers, "--json", out, "--document", document)
    rows = json.loads(out.read_text())["results"]
    assert [row["layer"] for row in rows] == ["gpgan_32x32x64", "fcn8_k16_s8"]
    assert "| **greatest, decoder** |" in document.read_text()


def test_the_document_shows_the_newest_results(modules):
    report = modules["report"]
    data = json.loads(report.newest("accuracy").read_text())
    document = (ROOT / "docs/accuracy.md").read_text()
    assert report.replace_section(document, modules["accuracy"].section(data)) == document
