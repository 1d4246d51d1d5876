"""The benchmark of whole models runs."""

import json

import pytest
from scripts import output_of, run

pytest.importorskip("torch", reason="PyTorch exports the models; it comes with the extra 'models'")


def test_models_run_and_are_written(tmp_path):
    out = tmp_path / "models.json"
    shown = output_of("bench_models.py", "--quick", "--models", "dcgan|rrdb$", "--json", out)
    data = json.loads(out.read_text())
    assert data["machine"]["onnxruntime"]
    assert [row["layer"] for row in data["results"]] == ["dcgan", "rrdb"]
    for row, sites in zip(data["results"], (5, 2)):
        assert row["sites"]["ours"] == sites >= row["sites"]["tuned"]
        stock, *others = (row["engines"][e]["median_ms"] for e in ("stock", "ours", "tuned"))
        assert row["ratio"] == {"stock": stock / others[0], "tuned": stock / others[1]}
    assert "geometric mean" in shown


def test_unknown_model():
    result = run("bench_models.py", "--models", "no such model")
    assert result.returncode == 2 and "matches no model; there are dcgan" in result.stderr
