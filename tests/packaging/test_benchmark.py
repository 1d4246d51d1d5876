"""The benchmarks' arithmetic, and that they run."""

import argparse
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import Case, conv_transpose_model
from scripts import BENCHMARKS, ROOT, output_of, run

MODULES = ("bench_int8", "bench_session", "compare", "drawing", "engines", "measure", "report")


@pytest.fixture(scope="module")
def bench(modules):
    return modules["bench_session"]


@pytest.fixture(scope="module")
def layers_file(tmp_path_factory):
    """Results of two small layers, on all engines that are installed."""
    directory = tmp_path_factory.mktemp("bench")
    out = directory / "out.json"
    shown = output_of("bench_session.py", "--quick", "--layers", "gpgan_4x4|k3$", "--json", out)
    assert "geometric mean, all layers" in shown
    return out


@pytest.fixture
def results():
    """Results as bench_session.py writes them, of layers whose numbers are round."""

    def engine(ms):
        return {"median_ms": ms, "gflops": 10.0, "creation_ms": 1.0, "first_run_ms": 2.0}

    def row(group, layer, **ms):
        return {
            "group": group,
            "layer": layer,
            "engines": {name: engine(value) for name, value in ms.items()},
            "unsupported": {} if "torch" in ms else {"torch": "groups"},
            "plan": {"algorithm": "direct", "scratch_bytes": 2048, "packed_bytes": 100},
            "column_buffer_bytes": 3 * 2**20,
            "gemm_share": 0.5,
            "memory_share": 0.25,
        }

    return {
        "machine": {"cpu": "a cpu", "threads": 2, "isa": "avx2", "onnxruntime": "1"},
        "missing": {"openvino": "not installed"},
        "results": [
            row("a", "one", stock=8.0, ours=2.0, torch=4.0),
            row("a", "two", stock=1.0, ours=1.0, torch=3.0),
            row("b", "three", stock=16.0, ours=1.0),
        ],
    }


@pytest.fixture
def complete(modules, results):
    report = modules["report"]
    for row in results["results"]:
        report.add_ratios(row)
    results["means"] = report.means(results["results"])
    return results


# ---- layers ------------------------------------------------------------------------------------


def test_every_layer_of_the_workload_file_is_loaded(bench):
    path = BENCHMARKS / "workloads.json"
    entries = [e for k, v in json.loads(path.read_text()).items() if k != "note" for e in v]
    layers = bench.load_layers(path, "")
    assert [layer.name for layer in layers] == [e["name"] for e in entries]
    # Every attribute of an entry reaches the node: a misspelt one would time another layer.
    for layer, entry in zip(layers, entries):
        assert layer.computed == entry.get("computed", False)
        assert len(layer.attributes) == len(entry.keys() - {"name", "x", "m", "paper", "computed"})


def test_every_group_of_layers_has_a_name_for_readers(modules):
    groups = json.loads((BENCHMARKS / "workloads.json").read_text()).keys() - {"note"}
    assert groups == modules["report"].WORKLOADS.keys()


def test_flops_counts_the_direct_method(bench):
    sides = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4, "group": 2}
    layer = bench.Layer("g", "l", (3, 8, 5, 7), 6, sides)
    assert layer.w == (8, 3, 4, 4)
    assert layer.flops == 2 * 3 * 8 * 3 * 16 * 5 * 7
    assert layer.reduction == 4 * 4
    assert layer.column_buffer_bytes == 4 * 3 * 16 * 5 * 7


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


# ---- engines -----------------------------------------------------------------------------------

SMALL = {
    "1d": ((1, 6, 9), 4, {"kernel_shape": [4], "strides": [2], "pads": [1, 1]}),
    "2d": ((2, 6, 5, 4), 4, {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4}),
    "valid": ((1, 6, 5, 4), 4, {"kernel_shape": [3, 2], "strides": [3, 2]}),
    "odd": ((1, 6, 5, 4), 4, {"kernel_shape": [5, 5], "strides": [2, 2], "pads": [2] * 4}),
    "3d": ((1, 6, 3, 4, 5), 4, {"kernel_shape": [2] * 3, "strides": [2] * 3}),
    "groups": (
        (1, 6, 5, 4),
        4,
        {"kernel_shape": [3, 3], "strides": [2, 2], "group": 2, "output_padding": [1, 1]},
    ),
    "ends": ((1, 6, 5, 4), 4, {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [0, 1, 2, 1]}),
}


@pytest.mark.parametrize("name", ["ours", "torch", "torch_packed", "openvino", "litert"])
def test_engine_agrees_with_stock_or_refuses(modules, bench, name):
    engines, missing = modules["engines"].start(["stock", name], threads=1)
    if missing:
        pytest.skip(missing[name])
    stock, engine = engines
    refused = []
    for case, (x_shape, m, attributes) in SMALL.items():
        layer = bench.Layer("small", case, x_shape, m, attributes)
        rng = np.random.default_rng(0)
        x = rng.standard_normal(layer.x, dtype=np.float32)
        w = rng.standard_normal(layer.w, dtype=np.float32)
        model = bench.make_model(layer, w)
        try:
            run, output = engine.prepare(layer, model, x, w)
        except modules["engines"].Unsupported:
            refused.append(case)
            continue
        run()
        expected = stock.session(stock.file(model)).run(None, {"x": x})[0]
        assert bench.disagreement(layer, expected, output()) is None, case
    assert refused == {
        "torch": ["ends"],
        "torch_packed": ["ends"],
        "litert": ["3d", "groups", "ends"],
    }.get(name, [])


# ---- measuring ---------------------------------------------------------------------------------


def test_turns_are_counted_after_the_warm_up(modules, monkeypatch):
    measure = modules["measure"]
    monkeypatch.setattr(measure, "WAKE_UP", 0.0)
    calls = []
    times = measure.in_turns([lambda: calls.append(0), lambda: calls.append(1)], 20, 0.0, 0.0)
    rounds = math.ceil(20 / measure.BURST)
    assert [len(t) for t in times] == [rounds * measure.BURST] * 2
    # A turn: one call to wake up, and the timed ones where the round counts.
    turns = [engine for engine, _ in itertools.groupby(calls)]
    assert calls.count(0) == calls.count(1) == measure.WARM_UP + rounds * (1 + measure.BURST)
    assert set(calls[:2]) == {0, 1}
    # Not always in the same order: then no engine would ever have two turns one after the other.
    assert len(turns) < 2 * (measure.WARM_UP + rounds)


def test_machine_limits_are_positive(modules):
    (stock,), _ = modules["engines"].start(["stock"], threads=1)
    limits = modules["measure"].machine_limits(stock, quick=True)
    assert all(value > 0 for value in limits.values())


def test_layers_run_and_are_written(layers_file):
    data = json.loads(layers_file.read_text())
    machine = data["machine"]
    assert machine["onnxruntime"] and machine["threads"] >= 1 and machine["gemm_gflops"] > 0
    assert [row["layer"] for row in data["results"]] == ["gpgan_4x4x512", "image224_k3"]
    for row in data["results"]:
        engines, ours = row["engines"], row["engines"]["ours"]
        others = [e["median_ms"] for name, e in engines.items() if name != "ours"]
        assert row["ratio"]["stock"] == engines["stock"]["median_ms"] / ours["median_ms"]
        assert row["ratio"]["best_peer"] == min(others) / ours["median_ms"]
        assert 0 < ours["creation_ms"] <= ours["first_run_ms"]
        assert row["plan"]["algorithm"] and row["gemm_share"] > 0 and row["memory_share"] > 0
    assert set(data["means"]) == {"gan", "images", "all layers"}


def test_capacity_of_a_small_model(tmp_path):
    onnx.save(conv_transpose_model(Case((5, 6), (3, 3))), tmp_path / "model.onnx")
    shown = output_of("capacity.py", tmp_path / "model.onnx", "--seconds", "0.1")
    rows = [line.split("|")[1:-1] for line in shown.splitlines() if line.startswith("| ")]
    stock, ours, head, *delays = rows[1:]
    assert (stock[0].strip(), ours[0].strip()) == ("stock", "ort-tconv")
    assert all(float(cell.split("/s")[0]) > 0 for cell in stock[1:4] + ours[1:4])
    assert head[0].strip() == "share of the highest rate"
    assert [row[0].strip() for row in delays] == ["50 %", "70 %", "80 %", "90 %", "95 %"]
    assert all(0 < float(middle) <= float(most) for _, middle, most in delays)


def test_unknown_names_are_errors():
    for arguments, message in (
        (["--layers", "no such layer"], "matches no layer"),
        (["--engines", "ours,nothing"], "nothing"),
    ):
        result = run("bench_session.py", *arguments)
        assert result.returncode == 2 and message in result.stderr


# ---- rewritten sites ---------------------------------------------------------------------------


def test_sites_run_and_are_written(modules, tmp_path):
    out = tmp_path / "sites.json"
    site = "upsample_conv/rrdb_64_64"
    shown = output_of("bench_rewrites.py", "--quick", "--sites", site, "--json", out)
    (row,) = json.loads(out.read_text())["results"]
    assert row["layer"] == "rrdb_64_64" and row["rewritten"] == 1 and row["ratio"]["stock"] > 0
    assert "geometric mean, upsample_conv" in shown
    result = run("bench_rewrites.py", "--sites", "no such site")
    assert result.returncode == 2 and "matches no site" in result.stderr


def test_models_and_sites_in_the_document(modules):
    report = modules["report"]

    def row(layer, stock, **more):
        rest = {"creation_ms": 1.0, "first_run_ms": 3.0}
        ms = {"stock": stock, "ours": 2.0, "tuned": 1.0}
        engines = {name: {"median_ms": value} | rest for name, value in ms.items()}
        engines["ours"]["peak_bytes"] = 2048
        ratio = {"stock": stock / 2, "tuned": stock}
        return {"group": "g", "layer": layer, "engines": engines, "ratio": ratio} | more

    def record(*rows):
        return report.Record("A Cpu", 2, [{"machine": {"date": "today"}, "results": [*rows]}])

    text = report.models_section(
        [record(row("net", 4.0, sites={"ours": 5, "tuned": 3}))],
        [record(row("a", 4.0, rewritten=1), row("b", 16.0, rewritten=0))],
    )
    assert "<summary>A Cpu, 2 threads, today</summary>" in text
    assert "| net | 5 | 3 | 4.000 | 2.000 | 1.000 | 2.00 | 4.00 | - | 2.0 KB |" in text
    assert (
        "| a | 4.000 | 2.000 | 2.00 | yes |" in text and "| b | 16.0 | 2.000 | 8.00 | no |" in text
    )
    assert "**geometric mean, g** |  |  | **4.00**" in text
    document = "x\n<!-- models: begin -->\n<!-- models: end -->\ny"
    assert report.replace_section(document, text, "models").count(text) == 1


# ---- layers in 8 bits --------------------------------------------------------------------------


def test_quantized_layers_run_and_are_recorded(modules, tmp_path, monkeypatch, capsys):
    """With one thread and with two, into a file each."""
    monkeypatch.setattr(modules["measure"], "RESULTS", tmp_path)
    for threads in ("1", "2"):
        command = ["bench_int8.py", "--quick", "--layers", "gpgan_4x4", "--threads", threads]
        monkeypatch.setattr("sys.argv", [*command, "--record", "a-cpu"])
        modules["bench_int8"].main()
    assert "geometric mean" in capsys.readouterr().out
    found = modules["report"].records("quantized", tmp_path)
    assert [(record.threads, len(record.runs)) for record in found] == [(1, 1), (2, 1)]
    (row,) = found[0].runs[0]["results"]
    ms = {name: engine["median_ms"] for name, engine in row["engines"].items()}
    assert {"stock", "ours", "float32"} <= ms.keys() and row["equal"] > 0.99
    assert row["ratio"]["stock"] == ms["stock"] / ms["ours"]
    peers = {"openvino", "openvino_zero"} & (ms.keys() | row["unsupported"].keys())
    assert len(peers) == (0 if "openvino" in found[0].runs[0]["missing"] else 2)


def test_an_engine_that_does_not_agree_in_8_bits_has_no_time(modules, bench):
    class Shifted:
        """Stock, and then one value of a hundred by two steps off, or none at all."""

        name = "openvino"
        settle = 0.0

        def __init__(self, stock):
            self.stock = stock

        def prepare(self, layer, model, x, w):
            run, output = self.stock.prepare(layer, model, x, w)
            zero = next(t for t in model.graph.initializer if t.name == "x_zero")
            if onnx.numpy_helper.to_array(zero) == 0:
                raise modules["engines"].Unsupported("no such zero point")

            def wrong():
                y = output().astype(np.int32)
                y.flat[::100] += np.where(y.flat[::100] < 128, 2, -2)
                return y.astype(np.uint8)

            return run, wrong

    (stock, ours), _ = modules["engines"].start(["stock", "ours"], threads=1)
    sides = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4}
    layer = bench.Layer("g", "l", (1, 8, 5, 6), 4, sides)
    row = modules["bench_int8"].measure(layer, [stock, ours, Shifted(stock)], 1, 0.0)
    assert list(row["engines"]) == ["stock", "ours", "float32"]
    assert row["unsupported"] == {
        "openvino": "1.0% of its values differ from stock's by more than a step",
        "openvino_zero": "no such zero point",
    }


def test_agreement_in_8_bits(modules):
    disagreement = modules["bench_int8"].disagreement
    y = np.arange(256, dtype=np.uint8).repeat(8)
    assert disagreement(y, y ^ np.uint8(1)) is None  # all a step off, which may wrap around no end
    other = y.copy()
    other[:2] += 2
    assert disagreement(y, other) is None
    other[:3] = 2
    assert "0.1% of its values" in disagreement(y, other)
    assert "shape" in disagreement(y, y[1:])


def test_quantized_layers_in_the_document(modules):
    report = modules["report"]

    def run_(threads, *rows):
        machine = {"date": "today", "quantized_isa": "avx2", "threads": threads}
        return {"machine": machine, "missing": {}, "results": list(rows)}

    def row(layer, **ms):
        engines = {name: {"median_ms": value} for name, value in ms.items()}
        result = {"group": "g", "layer": layer, "engines": engines, "unsupported": {}}
        return result | {"ratio": report.ratios(engines), "equal": 1.0}

    rows = [
        row("a", stock=8.0, ours=2.0, float32=4.0, openvino=1.0),
        row("b", stock=2.0, ours=2.0, float32=1.0),
    ]
    rows[1]["unsupported"]["openvino"] = "too odd"
    text = report.quantized_section(
        [
            report.Record("A Cpu", 1, [run_(1, *rows), run_(1, *rows)]),
            report.Record("A Cpu", 2, [run_(2, row("a", stock=6.0, ours=2.0, float32=4.0))]),
        ]
    )
    assert (
        "| A Cpu, 1 thread (avx2) | 2 | 2.00x (1.00 to 4.00) | 0.50x (0.50 to 0.50) | - "
        "| 1.00x (0.50 to 2.00) |" in text
    )
    assert "| A Cpu, 2 threads (avx2) | 1 | 3.00x (3.00 to 3.00) | - | - |" in text
    assert "| g/a | 8.000 | 2.000 | 1.000 | 4.000 | 4.00 | 0.50 | 2.00 | 100.000% |" in text
    assert "| g/b | 2.000 | 2.000 | - | 1.000 | 1.00 | - | 0.50 | 100.000% |" in text
    assert "openvino has no time for b: too odd" in text
    assert "<summary>Every layer: A Cpu, 2 threads, today</summary>" in text


# ---- reporting ---------------------------------------------------------------------------------


def test_ratios_and_means(complete):
    rows = {row["layer"]: row for row in complete["results"]}
    assert rows["one"]["best_peer"] == "torch" and rows["two"]["best_peer"] == "stock"
    assert rows["one"]["ratio"] == {"stock": 4.0, "best_peer": 2.0}
    assert complete["means"]["a"]["stock"] == pytest.approx(2.0)
    assert complete["means"]["a"]["best_peer"] == pytest.approx(2**0.5)
    assert complete["means"]["all layers"]["stock"] == pytest.approx(4.0)
    assert complete["means"]["all layers"]["ours_creation_ms"] == 3.0


@pytest.fixture
def slower(complete):
    """Another run, in which stock took twice as long on one layer."""
    other = json.loads(json.dumps(complete))
    other["results"][0]["engines"]["stock"]["median_ms"] *= 2
    other["results"][0]["ratio"]["stock"] *= 2
    return other


def test_report_fills_the_document(modules, complete):
    report = modules["report"]
    document = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    complete["machine"]["date"] = "today"
    text = report.section([report.Record("A Cpu", 2, [complete])], "plot.svg")
    text = report.replace_section(document, text)
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| one | 8.000 | 2.000 | 4.000 | 4.00 | 2.00 | torch | 10.0 |" in text
    assert "| three | 16.0 | 1.000 | - | 16.00 | 16.00 | stock | 10.0 |" in text
    assert "2.0 KB | 100 B | 3.0 MB" in text and "(plot.svg)" in text
    assert "torch has no time for three: groups" in text
    assert "not run: openvino, not installed" in text
    assert "| a | 2 | 2.00x (1.00 to 4.00) |" in text
    assert "Every layer: A Cpu, 2 threads, today</summary>" in text
    with pytest.raises(SystemExit, match="lacks"):
        report.replace_section("no markers", "text")


def test_several_runs_are_shown_as_ranges(modules, complete, slower):
    report = modules["report"]
    record = report.Record("A Cpu", 2, [complete, slower])
    row = report.middle_of(record)["results"][0]
    assert row["engines"]["stock"]["median_ms"] == 12 and row["ratio"]["stock"] == 6
    assert row["over_runs"] == (4, 8)
    network = {"group": "models", "ratio": {"stock": 2.0, "tuned": 3.0}, "engines": {}}
    models = {"results": [network]}
    for name, peak in (("stock", 200), ("ours", 100)):
        network["engines"][name] = {"peak_bytes": peak}
    header, rows = report.readme_table([record], [report.Record("A Cpu", 2, [models])])
    means = "4.00 to 5.04x (1.00 to 16.00)"
    assert rows == [
        [
            "A Cpu, 2 threads (avx2)",
            means,
            "3.17x",
            "2.00x (2.00 to 2.00)",
            "3.00x (3.00 to 3.00)",
            "0.50x",
        ]
    ]
    assert len(header) == len(rows[0])
    for row in complete["results"]:
        row["engines"] = {name: row["engines"][name] for name in ("stock", "ours")}
    _, rows = report.readme_table([report.Record("A Cpu", 1, [complete])], [])
    assert rows[0][2:] == ["-"] * 4  # stock against itself would say nothing
    _, rows = report.group_table([record])
    assert rows[-1] == ["**all layers**", "**3**", f"**{means}**"]


def test_records_are_the_newest_of_each_processor(modules, complete, tmp_path):
    report = modules["report"]
    for name, threads in (
        ("2026-01-01-epyc-milan-2-cores-layers", 2),
        ("2026-01-02-epyc-milan-run1-layers", 2),
        ("2026-01-02-epyc-milan-run2-layers", 2),
        ("2026-01-01-epyc-milan-1-thread-layers", 1),
    ):
        complete["machine"]["threads"] = threads
        (tmp_path / f"{name}.json").write_text(json.dumps(complete))
    found = report.records("layers", tmp_path)
    assert [(r.name, len(r.runs)) for r in found] == [
        ("EPYC Milan, 1 thread", 1),
        ("EPYC Milan, 2 threads", 2),
    ]
    with pytest.raises(SystemExit, match=r"no \*-models\.json"):
        report.records("models", tmp_path)
    (tmp_path / "milan-layers.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"milan-layers\.json: not called DATE-PROCESSOR"):
        report.records("layers", tmp_path)


def test_documents_show_what_is_recorded(tmp_path):
    """That is: running the script would change nothing."""
    (tmp_path / "docs").mkdir()
    names = (
        "README.md",
        "docs/performance.md",
        "docs/performance.svg",
        "docs/quantization.md",
    )
    for name in names:
        shutil.copy(ROOT / name, tmp_path / name)
    output_of("report.py", "--root", tmp_path)
    for name in names:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), name


def test_a_recorded_file_is_the_next_run(modules, tmp_path, monkeypatch):
    measure, report = modules["measure"], modules["report"]
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    parser = argparse.ArgumentParser()
    measure.add_json_option(parser)
    args = parser.parse_args(["--record", "epyc-milan"])
    for run_ in (1, 2):
        path = measure.json_file(args, "layers", 1)
        name = report.RESULT.fullmatch(path.name)
        assert path.parent == tmp_path and f"-run{run_}-" in path.name
        assert report.processor_name(name["processor"]) == "EPYC Milan"
        path.write_text("{}")
    assert measure.json_file(parser.parse_args(["--json", "x"]), "layers", 1) == Path("x")
    assert measure.json_file(parser.parse_args([]), "layers", 1) is None


def test_chart(modules, complete, slower):
    report = modules["report"]
    one, two = (report.Record("A Cpu", n, [run]) for n, run in ((1, complete), (2, slower)))
    text = str(report.chart([one, two]))
    assert "a  A Cpu, 1 thread, avx2" in text and "b  A Cpu, 2 threads, avx2" in text
    # What a pointer that rests on a bar is shown.
    assert "all layers, A Cpu, 1 thread: 4.00x; two 1.00x, three 16.00x" in text
    assert text == str(report.chart([one, two]))


def test_compare(tmp_path, results):
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps(results))
    results["machine"]["threads"] = 4
    results["results"][0]["engines"]["ours"]["median_ms"] = 1.0  # twice as fast
    results["results"][2]["engines"]["ours"]["median_ms"] = 4.0  # a quarter
    results["results"][1]["layer"] = "another"
    after.write_text(json.dumps(results))
    shown = output_of("compare.py", before, after)
    lines = [line for line in shown.splitlines() if "/" in line and "│" in line]
    assert [line.split()[1] for line in lines] == ["b/three", "a/one"]
    assert "0.25" in lines[0] and "2.00" in lines[1]
    assert "not the same threads: 2, then 4" in shown
    (mean,) = [line for line in shown.splitlines() if "geometric mean" in line]
    assert mean.split("│")[4].strip() == f"{0.5**0.5:.2f}"
