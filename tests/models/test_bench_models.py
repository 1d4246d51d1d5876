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
    # Tuning may put any site back, and may rewrite any of the 21 Convs of rrdb, small as they are.
    for row, least, sites, most in zip(data["results"], (5, 1), (5, 2), (5, 21)):
        assert least <= row["sites"]["ours"] <= most
        assert row["sites"]["tuned"] <= most
        assert least <= row["sites"]["provider"] <= sites
        stock, ours, *others = (
            row["engines"][e]["median_ms"] for e in ("stock", "ours", "tuned", "provider")
        )
        ratios = dict(zip(("tuned", "provider"), (stock / other for other in others)))
        assert row["ratio"] == {"stock": stock / ours} | ratios
        again = row["new_process"]
        assert again["ratio"] == again["stock_ms"] / again["tuned_ms"]
    assert "geometric mean" in shown


def test_results_are_merged_into_those_of_a_machine_like_this(tmp_path):
    out = tmp_path / "models.json"
    arguments = ("bench_models.py", "--quick", "--models", "^espcn$", "--json", out, "--merge")
    output_of(*arguments)
    data = json.loads(out.read_text())
    (espcn,) = data["results"]
    data["results"] = [espcn | {"layer": "dcgan"}, espcn | {"sites": None}, espcn | {"layer": "?"}]
    out.write_text(json.dumps(data))
    shown = output_of(*arguments)
    rows = json.loads(out.read_text())["results"]
    assert [row["layer"] for row in rows] == ["dcgan", "espcn", "?"]
    # Measured again; how many sites tuning keeps is up to the clock.
    assert rows[1]["sites"]["ours"] == espcn["sites"]["ours"]
    assert rows[1]["commit"] == data["machine"]["commit"]
    assert "model espcn, sites 1, " in shown  # as soon as it is measured

    data["machine"]["cpu"] = "another"
    out.write_text(json.dumps(data))
    result = run(*arguments)
    assert result.returncode == 1 and "not the same cpu: another, then" in result.stderr
    assert json.loads(out.read_text()) == data


def test_unknown_model():
    result = run("bench_models.py", "--models", "no such model")
    assert result.returncode == 2 and "matches no model; there are dcgan" in result.stderr


def test_sessions_are_measured(tmp_path):
    out = tmp_path / "sessions.json"
    shown = output_of("bench_sessions.py", "--quick", "--models", "^dcgan$", "--json", out)
    (row,) = json.loads(out.read_text())["results"]
    assert list(row["ways"]) == ["stock", "converted", "provider"]
    assert all(way["creation_ms"] > 0 < way["peak_bytes"] for way in row["ways"].values())
    assert "provider / stock peak" in shown
