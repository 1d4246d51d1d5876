"""provider_report(), validate(provider=True), inspect --session and InferenceSession(mode=...)."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import chain_model, if_model
from sessions import options
from sites import RECORDS, provider_session

import ort_tconv
from ort_tconv.cli import main
from ort_tconv.sessions import provider
from ort_tconv.sessions import provider_report as asking
from ort_tconv.sessions.provider import PROVIDER
from ort_tconv.sessions.provider_report import provider_report

ASKS = hasattr(ort.InferenceSession, "set_ep_dynamic_options")
needs_asking = pytest.mark.skipif(not ASKS, reason="sessions of this onnxruntime cannot be asked")


@needs_asking
def test_report_of_a_session():
    report = provider_report(provider_session(chain_model(2), exclude="up_y1"))
    assert [(s.node, s.nodes) for s in report.sites if s.claimed] == [("up_y0", ("up_y0", "act0"))]
    (left,) = [s for s in report.sites if not s.claimed]
    assert (left.node, left.reason) == ("up_y1", "excluded by 'up_y1'")
    assert report.errors == [] and "1 claimed, 1 left" in str(report)


@needs_asking
def test_report_names_subgraphs():
    report = provider_report(provider_session(if_model()))
    assert {(s.node, s.where) for s in report.sites if s.claimed} == {
        ("up_then_y", "subgraph then_graph"),
        ("up_else_y", "subgraph else_graph"),
    }


def test_report_of_a_session_without_the_provider():
    session = ort.InferenceSession(
        chain_model(1).SerializeToString(), options(), providers=["CPUExecutionProvider"]
    )
    with pytest.raises(RuntimeError, match=r"add_provider\(\)"):
        provider_report(session)


def test_inspect_session(tmp_path, capsys):
    onnx.save(chain_model(1), tmp_path / "model.onnx")
    assert main(["inspect", "--session", str(tmp_path / "model.onnx"), "--json"]) == 0
    (site,) = json.loads(capsys.readouterr().out)["sites"]
    assert site["claimed"] and site["nodes"] == ["up_y0", "act0"]
    assert main(["inspect", "--session", str(tmp_path / "model.onnx")]) == 0
    assert "claimed" in capsys.readouterr().out


def test_validate():
    report = ort_tconv.validate(chain_model(2), provider=True)
    assert report.ok and report.rewritten == 2 and PROVIDER in report.providers
    for wrong in ({"converted": chain_model(2)}, {"providers": ["CPUExecutionProvider"]}):
        with pytest.raises(ValueError, match="provider: there is no"):
            ort_tconv.validate(chain_model(2), provider=True, **wrong)


@pytest.mark.parametrize("form", ["path", "bytes", "model"])
@pytest.mark.parametrize("mode", ["provider", "auto"])
def test_inference_session(tmp_path, mode, form):
    model = chain_model(2)
    onnx.save(model, tmp_path / "model.onnx")
    source = {"path": tmp_path / "model.onnx", "bytes": model.SerializeToString(), "model": model}
    session = ort_tconv.InferenceSession(source[form], mode=mode)
    assert session.conversion is None and session.get_providers()[0] == PROVIDER
    x = np.ones((1, 4, 5, 6), np.float32)
    converted = ort_tconv.InferenceSession(model)
    assert converted.conversion is not None
    np.testing.assert_array_equal(
        session.run(None, {"x0": x})[0], converted.run(None, {"x0": x})[0]
    )


def test_inference_session_with_providers():
    session = ort_tconv.InferenceSession(
        chain_model(1), providers=["CPUExecutionProvider"], mode="auto"
    )
    assert session.conversion is not None
    with pytest.raises(ValueError, match="takes no providers"):
        ort_tconv.InferenceSession(
            chain_model(1), providers=["CPUExecutionProvider"], mode="provider"
        )
    with pytest.raises(ValueError, match="mode = 'fast'"):
        ort_tconv.InferenceSession(chain_model(1), mode="fast")


@pytest.mark.skipif(not RECORDS, reason="this onnxruntime keeps no record")
def test_report_names_who_runs_what():
    """By onnxruntime's own record, main graph and bodies."""
    report = provider_report(provider_session(chain_model(2), exclude="up_y1"))
    assert {site.node: site.provider for site in report.sites} == {
        "up_y0": PROVIDER,
        "up_y1": "CPUExecutionProvider",
    }
    report = provider_report(provider_session(if_model()))
    assert [site.provider for site in report.sites] == [PROVIDER] * 2


@needs_asking
@pytest.mark.parametrize("lost", ["another provider", "nobody", "one of two"])
def test_what_onnxruntime_does_not_give_is_not_claimed(monkeypatch, lost):
    session = provider_session(chain_model(2))
    record = [(PROVIDER, ["up_y0", "act0"]), (PROVIDER, ["up_y1", "act1"])]
    if lost == "another provider":
        record[1] = ("CPUExecutionProvider", ["up_y1"])
    elif lost == "nobody":
        record.pop()
    else:
        record[1] = (PROVIDER, ["up_y1"])
    monkeypatch.setattr(asking, "_record", lambda _: record)
    report = provider_report(session)
    first, second = sorted(report.sites, key=lambda site: site.node)
    assert first.claimed and not second.claimed and "record" in second.reason
    assert bool(report.errors) == (lost == "one of two")


@needs_asking
def test_nodes_of_a_provider_that_comes_first():
    session_options = options()
    session_options.add_provider_for_devices(provider._devices("CPUExecutionProvider"), {})
    session_options.add_provider_for_devices(provider._devices(PROVIDER), {})
    model = chain_model(1).SerializeToString()
    session = ort.InferenceSession(model, session_options, enable_fallback=0)
    assert not [site for site in provider_report(session).sites if site.claimed]


@needs_asking
@pytest.mark.parametrize("strict", [True, False])
def test_an_error_in_get_capability(tmp_path, strict):
    """onnxruntime logs it and goes on without the provider; here the report cannot be written."""
    session_options = ort_tconv.add_provider(options(), strict=strict)
    place = str(tmp_path / "no folder" / "report.json")
    session_options.add_session_config_entry(asking._REPORT, place)
    model = chain_model(1).SerializeToString()
    session = ort.InferenceSession(model, session_options, enable_fallback=0)
    report = provider_report(session)
    assert any("cannot be written" in error for error in report.errors)
    assert report.sites and not any(site.claimed for site in report.sites), str(report)
    feeds = {"x0": np.ones((1, 4, 5, 6), np.float32)}
    if strict:
        with pytest.raises(Exception, match=r"(?s)strict is set.*cannot be written"):
            session.run(None, feeds)
    else:
        session.run(None, feeds)


@pytest.mark.parametrize("verb", ["bench", "validate"])
def test_the_provider_in_the_converted_models_place(tmp_path, capsys, verb):
    path = tmp_path / "model.onnx"
    onnx.save(chain_model(2), path)
    brief = ["--seconds", "0", "--repeat", "2", "--no-memory"] if verb == "bench" else []
    assert main([verb, str(path), "--provider", PROVIDER, "--json", *brief]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["providers"][0] == PROVIDER
    if verb == "bench":
        assert [node["node"] for node in result["nodes"] if node["is_site"]] == ["up_y0", "up_y1"]
    else:
        assert result["rewritten"] == 2
    assert main([verb, str(path), str(path), "--provider", PROVIDER, *brief]) != 0
    assert "provider: there is no converted model" in capsys.readouterr().err


@needs_asking
def test_benchmark_times_the_provider_node_by_node():
    result = ort_tconv.benchmark(chain_model(2), provider=True, seconds=0, repeat=2, memory=False)
    sites = {node.node: node for node in result.nodes if node.is_site}
    assert sorted(sites) == ["up_y0", "up_y1"]
    assert all(node.stock_ms and node.converted_ms for node in sites.values())
    assert set(sites["up_y0"].covers) == {"up_y0", "act0"}
    assert any("with the execution provider" in note for note in result.notes)
