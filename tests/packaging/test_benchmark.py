"""The benchmark's arithmetic, and that it runs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks/bench_session.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_session", SCRIPT)
    module = sys.modules["bench_session"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_session"]


def test_every_layer_of_the_workload_file_is_loaded(bench):
    path = ROOT / "benchmarks/workloads.json"
    entries = [e for k, v in json.loads(path.read_text()).items() if k != "note" for e in v]
    layers = bench.load_layers(path, "")
    assert [layer.name for layer in layers] == [e["name"] for e in entries]
    # Every attribute of an entry reaches the node: a misspelt one would time another layer.
    for layer, entry in zip(layers, entries):
        assert len(layer.attributes) == len(entry.keys() - {"name", "x", "m", "paper"})


def test_flops_counts_the_direct_method(bench):
    sides = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4, "group": 2}
    layer = bench.Layer("g", "l", (3, 8, 5, 7), 6, sides)
    assert layer.w == (8, 3, 4, 4)
    assert layer.flops == 2 * 3 * 8 * 3 * 16 * 5 * 7
    assert layer.reduction == 4 * 4


def test_reduction_with_dilation(bench):
    # gcd(stride, dilation) = 2: the taps do not split into classes, all meet in one output.
    sides = {"kernel_shape": [3], "strides": [2], "dilations": [2]}
    assert bench.Layer("g", "l", (1, 4, 9), 4, sides).reduction == 12


def test_disagreement_is_found(bench):
    sides = {"kernel_shape": [2], "strides": [2]}
    layer = bench.Layer("g", "l", (1, 4, 8), 4, sides)
    y = np.random.default_rng(0).standard_normal((1, 4, 16), dtype=np.float32)
    assert bench.disagreement(layer, y, y * np.float32(1 + 1e-7)) is None
    wrong = y.copy()
    wrong[0, 2, 5] += 1e-3
    assert "differs by 0.001" in bench.disagreement(layer, y, wrong)
    assert "shape" in bench.disagreement(layer, y, y[..., :-1])
    wrong[0, 0, 0] = np.nan
    assert bench.disagreement(layer, y, wrong) is not None


def test_runs_and_writes_json(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--layers", "images/|hifigan_up4"]
    result = subprocess.run(
        [*command, "--json", str(out)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all layers: geometric mean" in result.stdout
    data = json.loads(out.read_text())
    assert data["machine"]["onnxruntime"] and data["machine"]["threads"] >= 1
    assert len(data["results"]) == 4
    for row in data["results"]:
        assert row["stock"]["median_ms"] > 0 and row["ours"]["ratio"] > 0


def test_unknown_layer_is_an_error():
    command = [sys.executable, str(SCRIPT), "--layers", "no such layer"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and "matches no layer" in result.stderr
