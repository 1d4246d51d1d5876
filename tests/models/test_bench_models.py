"""The benchmark of whole models runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytest.importorskip("torch", reason="PyTorch exports the models; it comes with the extra 'models'")


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_models_run_and_are_written(tmp_path):
    out = tmp_path / "models.json"
    result = run("bench_models.py", "--quick", "--models", "dcgan|rrdb$", "--json", out)
    assert result.returncode == 0, result.stdout + result.stderr
    data = json.loads(out.read_text())
    assert data["machine"]["onnxruntime"]
    assert [row["layer"] for row in data["results"]] == ["dcgan", "rrdb"]
    for row, sites in zip(data["results"], (5, 2)):
        assert row["sites"]["ours"] == sites >= row["sites"]["tuned"]
        stock, *others = (row["engines"][e]["median_ms"] for e in ("stock", "ours", "tuned"))
        assert row["ratio"] == {"stock": stock / others[0], "tuned": stock / others[1]}
    assert "geometric mean" in result.stdout


def test_unknown_model():
    result = run("bench_models.py", "--models", "no such model")
    assert result.returncode == 2 and "matches no model; there are dcgan" in result.stderr
