"""The command line as a user runs it, failures included."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import (
    CORNERS,
    Case,
    chain_model,
    conv_transpose_model,
    function_model,
    nodes_of,
    save_external,
    tensor,
)
from onnx import AttributeProto, numpy_helper
from terminal import Terminal, run

import ort_tconv
from ort_tconv import cli
from ort_tconv.tuning import Tuning

WITHOUT_ORT = "import sys; sys.modules['onnxruntime'] = None"
CASE = CORNERS["the usual 4x4, stride 2"]


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(chain_model(), path)
    return path


@pytest.fixture
def wrong(model, tmp_path) -> Path:
    """The converted model with one weight missing."""
    converted = ort_tconv.convert(model)
    weight = converted.graph.initializer[1]
    array = numpy_helper.to_array(weight).copy()
    array[0, 0, 0, 0] = 0
    weight.CopyFrom(tensor(array, weight.name))
    path = tmp_path / "wrong.onnx"
    onnx.save(converted, path)
    return path


def test_python_m():
    done = subprocess.run(
        [sys.executable, "-m", "ort_tconv", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    for verb in ("convert", "validate", "inspect", "bench", "info", "exit status"):
        assert verb in done.stdout


# ---- convert -----------------------------------------------------------------------------------


def test_convert(model, tmp_path):
    output = tmp_path / "out.onnx"
    done = run("convert", model, output)
    assert done.returncode == 0, done.stderr
    assert len(nodes_of(onnx.load(output), "SegregatedConvTranspose")) == 3
    for text in ("ConvTranspose", "ort_tconv::SegregatedConvTranspose", "up_y1", "6 rewritten"):
        assert text in done.stdout
    first, *lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and first.endswith(str(output))  # a path is not cut
    again = run("convert", output, tmp_path / "again.onnx")
    assert again.returncode == 0 and "0 rewritten" in again.stdout


def test_convert_json(model, tmp_path):
    done = run("convert", model, tmp_path / "out.onnx", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [change["node"] for change in report["changes"]][:2] == ["up_y0", "up_y1"]
    assert report["operators"]["before"]["ConvTranspose"] == 3
    both = run("convert", model, tmp_path / "out.onnx", "--json", "--check")
    assert both.returncode == 2 and "--json holds one report" in both.stderr


def test_convert_selection_and_reasons(model, tmp_path):
    output = tmp_path / "out.onnx"
    done = run("convert", model, output, "--include", "up_*", "--exclude", "*y1", "--exclude", "z")
    assert done.returncode == 0
    assert "4 rewritten, 1 left alone" in done.stdout
    assert "excluded by '*y1'" in " ".join(done.stdout.split())
    assert [n.name for n in nodes_of(onnx.load(output), "ConvTranspose")] == ["up_y1"]
    off = run("convert", model, output, "--disable", "conv_transpose")
    assert off.returncode == 0 and "0 rewritten" in off.stdout


def test_convert_says_why_a_node_is_left_alone(tmp_path):
    path = tmp_path / "function.onnx"
    onnx.save(function_model({"strides": ("s", AttributeProto.INT)}, declared=["s"]), path)
    done = run("convert", path, tmp_path / "out.onnx")
    assert done.returncode == 0
    text = "".join(done.stdout.split())  # the table wraps it
    assert "attribute'strides'hastypeINT" in text.replace("│", "")


def test_convert_check(model, tmp_path):
    done = run(
        "convert", model, tmp_path / "out.onnx", "--check", "--shape", "x0:1,4,3,3", "--runs", "2"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "outputs agree" in done.stdout and "1×4×24×24" in done.stdout


def test_convert_tune(model, tmp_path):
    out = tmp_path / "out.onnx"
    done = run("convert", model, out, "--tune", "--threads", 1, "--shape", "x0:1,4,5,6")
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "tuned with onnxruntime" in shown and "1 threads" in shown
    tuning = Tuning.from_model(onnx.load(out))
    assert [site.nodes for site in tuning.sites] == [(f"up_y{i}", f"act{i}") for i in range(3)]
    assert tuning.threads == 1 and tuning.shapes == {"x0": (1, 4, 5, 6)}


def test_convert_check_that_fails(model, tmp_path):
    """With no error allowed at all, rounding is enough to fail."""
    done = run("convert", model, tmp_path / "out.onnx", "--check", "--rtol", "0")
    assert done.returncode == 1
    assert "outputs differ" in done.stdout and "first difference" in done.stdout


def test_convert_keeps_external_data_external(tmp_path):
    case = Case((4, 4), (4, 4), group_in=16, group_out=16, strides=(2, 2))
    path, output = tmp_path / "big.onnx", tmp_path / "out.onnx"
    save_external(conv_transpose_model(case), path)
    assert run("convert", path, output, "--check").returncode == 0
    assert (tmp_path / "out.onnx.data").stat().st_size >= (tmp_path / "weights.bin").stat().st_size
    assert output.stat().st_size < 2000


# ---- validate ----------------------------------------------------------------------------------


def test_validate(model, tmp_path):
    converted = tmp_path / "out.onnx"
    ort_tconv.convert(model, converted)
    for arguments in ([model], [model, converted]):
        done = run("validate", *arguments, "--shape", "x0:2,4,3,5", "--seed", "3")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "outputs agree" in done.stdout
        assert "2×4×3×5" in done.stdout and "2×4×24×40" in done.stdout
        assert "stock onnxruntime on the CPU" in done.stdout


def test_validate_mismatch(model, wrong):
    done = run("validate", model, wrong)
    assert done.returncode == 1
    assert "outputs differ" in done.stdout
    assert "first difference" in done.stdout and "'up_y1'" in done.stdout
    assert run("validate", model, wrong, "--rtol", "1").returncode == 0


def test_validate_inputs_from_a_file(model, tmp_path):
    path = tmp_path / "inputs.npz"
    np.savez(path, x0=np.ones((1, 4, 2, 2), np.float32))
    done = run("validate", model, "--inputs", path, "--provider", "CPUExecutionProvider")
    assert done.returncode == 0 and "1×4×2×2" in done.stdout


def test_validate_folder_of_test_data(model, tmp_path):
    for i, side in enumerate((2, 3)):
        folder = tmp_path / f"test_data_set_{i}"
        folder.mkdir()
        array = np.ones((1, 4, side, side), np.float32)
        (folder / "input_0.pb").write_bytes(tensor(array, "any").SerializeToString())
    done = run("validate", model, "--inputs", tmp_path, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["ok"] and report["runs"] == 2


def test_validate_distribution(model):
    done = run("validate", model, "--distribution", "uniform:-1,1", "--seed", "3", "--runs", "2")
    assert done.returncode == 0, done.stderr


def test_validate_json_of_a_mismatch(model, wrong, tmp_path):
    done = run("validate", model, wrong, "--json", "report.json", cwd=tmp_path)
    assert done.returncode == 1 and "outputs differ" in done.stdout  # the table as well
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["ok"]
    assert report["first_difference"]["node"] == "up_y1"
    assert report["first_difference"]["plan"].startswith("narrow")
    (output,) = report["outputs"]
    assert output["max_abs"] > output["tolerance"] and output["cosine"] < 1
    assert output["psnr"] > 0 and output["rms"] > 0


# ---- inspect -----------------------------------------------------------------------------------


def test_inspect(model):
    done = run("inspect", model, "--shape", "x0:1,4,8,8", "--isa", "baseline", "--threads", "4")
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())  # a long path may wrap the first line
    for text in ("up_y0", "up_y2", "1×4×64×64", "baseline, 4 thread(s)", "never built"):
        assert text in shown
    assert any(name in shown for name in ("direct", "stacked", "narrow", "winograd"))
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_inspect_json(model):
    for arguments in (("inspect", "--json", model), ("inspect", model, "--json")):
        done = run(*arguments)
        report = json.loads(done.stdout)
        assert [site["node"] for site in report["sites"]] == ["up_y0", "up_y1", "up_y2"]
        assert report["totals"]["direct_macs"] * 4 == report["totals"]["conventional_macs"]


def test_inspect_html(model, tmp_path):
    done = run("inspect", model, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert done.returncode == 0 and "up_y0" in done.stdout
    assert page.startswith("<!doctype html>") and "up_y2" in page


def test_inspect_works_without_onnxruntime(model):
    done = run("inspect", model, code=WITHOUT_ORT)
    assert done.returncode == 0 and "up_y0" in done.stdout, done.stderr


# ---- bench -------------------------------------------------------------------------------------

QUICK = ("--seconds", "0", "--repeat", "2", "--warm-up", "1", "--shape", "x0:1,4,5,5")


def test_bench(model, tmp_path):
    output = (tmp_path / "out.png", tmp_path / "out.json")
    done = run("bench", model, *QUICK, "--threads", "1", "--plot", output[0], "--json", output[1])
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""  # the progress bar is for terminals
    import onnxruntime

    from ort_tconv import _core

    for text in ("median", "peak memory", "up_y1", _core.isa(), onnxruntime.__version__, "float32"):
        assert text in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert output[0].read_bytes().startswith(b"\x89PNG")
    report = json.loads(output[1].read_text())
    assert report["threads"] == 1 and report["stock"]["runs"] >= 2
    assert {"processor", "onnxruntime", "isa"} <= report["machine"].keys()
    assert {node["node"] for node in report["nodes"]} >= {"up_y0", "up_y1", "up_y2"}
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "out.png", "out.json"}


def test_bench_of_a_wrong_model(model, wrong):
    done = run("bench", model, wrong, *QUICK, "--no-memory", "--no-nodes", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert not report["outputs_agree"] and "outputs differ" in report["notes"][0]
    assert report["nodes"] == [] and report["stock"]["peak_bytes"] is None


def test_bench_plot_without_matplotlib(model, tmp_path):
    """It fails at once, and says what to install."""
    code = "import sys; sys.modules['matplotlib'] = sys.modules['matplotlib.backends'] = None"
    done = run("bench", model, "--seconds", "1000", "--plot", tmp_path / "out.png", code=code)
    assert done.returncode == 2 and "pip install matplotlib" in done.stderr


# ---- info --------------------------------------------------------------------------------------


def test_info():
    done = run("info")
    assert done.returncode == 0, done.stdout + done.stderr
    import onnxruntime

    from ort_tconv import _core

    for text in (
        onnxruntime.__version__,
        ort_tconv.get_library_path(),
        _core.isa(),
        "CPUExecutionProvider",
        sys.version.split()[0],
    ):
        assert text in done.stdout


def test_info_json():
    from ort_tconv import _core

    report = json.loads(run("info", "--json").stdout)
    assert report["ok"] and report["library"] == ort_tconv.get_library_path()
    assert report["usable_providers"] == ort_tconv.available_providers()
    assert report["cores"] >= 1 and report["cuda_kernels"] == _core.built_with_cuda
    assert report["execution_provider"] == _core.built_with_provider


def test_info_says_what_is_missing():
    done = run("info", code=WITHOUT_ORT + "; sys.modules['matplotlib'] = None")
    assert done.returncode == 1
    assert "missing: " in done.stdout and "pip install onnxruntime" in done.stdout
    assert ort_tconv.get_library_path() in done.stdout


def test_info_with_a_wrong_instruction_set():
    done = run("info", code="import os; os.environ['ORT_TCONV_ISA'] = 'mmx'")
    assert done.returncode == 1 and "'mmx'" in done.stdout and "must be one of" in done.stdout


# ---- terminals and pipes -----------------------------------------------------------------------


def test_tables_in_a_terminal(model):
    terminal = Terminal("inspect", model)
    assert terminal.finish() == 0
    assert "up_y2" in terminal.shown and "\x1b[" in terminal.shown  # with styles


def test_interrupted_bench_leaves_nothing(model, tmp_path):
    terminal = Terminal(
        *("bench", model, "--seconds", "1000", "--json=out.json", "--plot", "out.svg"),
        cwd=tmp_path,
    )
    terminal.wait_for("timing")  # the progress bar
    terminal.type("\x03")
    assert terminal.finish() == 130
    assert "interrupted" in terminal.shown and "Traceback" not in terminal.shown
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    "arguments", [("convert", "model.onnx", "out.onnx"), ("inspect", "model.onnx", "--html", "o")]
)
def test_interrupted_writing_leaves_nothing(arguments, model, tmp_path):
    """The signal comes when everything is written, but does not have its name yet."""
    code = "import os, signal; os.replace = lambda *a: os.kill(os.getpid(), signal.SIGINT)"
    done = run(*arguments, code=code, cwd=tmp_path)
    assert done.returncode == 130 and done.stderr == "ort-tconv: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_reader_that_goes_away(model):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ort_tconv", "inspect", model]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert done.returncode == 141 and done.stderr == ""


# ---- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: VERB"),
        (["frobnicate"], "invalid choice"),
        (["convert"], "required: IN, OUT"),
        (["convert", "absent.onnx", "out.onnx"], "absent.onnx"),
        (["convert", "MODEL", "absent/out.onnx"], "absent"),
        (["convert", "TEXT", "out.onnx"], "not an ONNX model"),
        (["convert", "MODEL", "OUT", "--disable", "winograd"], "there is no pass 'winograd'"),
        (["convert", "MODEL", "OUT", "--check", "--shape", "x0:1,9,3,3"], "dimension 1 of 'x0'"),
        (["validate"], "required: ORIGINAL"),
        (["validate", "absent.onnx"], "absent.onnx"),
        (["validate", "MODEL", "absent.onnx"], "absent.onnx"),
        (["validate", "MODEL", "--shape", "1,2,3"], "'1,2,3' is not NAME:DIMS"),
        (["validate", "MODEL", "--shape", "x0:1,four"], "is not NAME:DIMS"),
        (["validate", "MODEL", "--shape", "y:1"], "no input 'y'"),
        (["validate", "MODEL", "--runs", "0"], "runs is 0"),
        (["validate", "MODEL", "--runs", "many"], "invalid int"),
        (["validate", "MODEL", "--inputs", "absent.npz"], "absent.npz"),
        (["validate", "MODEL", "--inputs", "ARRAY"], "ARRAY: a single array"),
        (["validate", "MODEL", "--inputs", "TEXT"], "TEXT: not an .npz file"),
        (["validate", "MODEL", "--provider", "NoExecutionProvider"], "NoExecutionProvider"),
        (["validate", "MODEL", "--inputs", "."], "holds neither input_0.pb nor"),
        (["validate", "MODEL", "--distribution", "cauchy"], "there is no 'cauchy'"),
        (["validate", "MODEL", "--distribution", "uniform:1"], "two numbers are needed"),
        (["validate", "CONVERTED"], "converted already"),
        (["inspect"], "required: MODEL"),
        (["inspect", "absent.onnx"], "absent.onnx"),
        (["inspect", "TEXT"], "not an ONNX model"),
        (["inspect", "MODEL", "--shape", "y:1"], "no input 'y'"),
        (["inspect", "MODEL", "--shape", "x0:1,9,3,3"], "dimension 1 of 'x0'"),
        (["inspect", "MODEL", "--isa", "mmx"], "isa is 'mmx'; there are"),
        (["inspect", "MODEL", "--threads", "0"], "threads is 0"),
        (["inspect", "MODEL", "--html", "absent/out.html"], "absent is not a folder"),
        (["bench", "absent.onnx"], "absent.onnx"),
        (["bench", "TEXT"], "not an ONNX model"),
        (["bench", "MODEL", "--shape", "y:1"], "no input 'y'"),
        (["bench", "MODEL", "--repeat", "0"], "repeat is 0; it must be at least 1"),
        (["bench", "MODEL", "--threads", "-1"], "threads is -1"),
        (["bench", "MODEL", "--provider", "NoExecutionProvider"], "NoExecutionProvider"),
        (["bench", "CONVERTED"], "converted already"),
        (["info", "extra"], "unrecognized arguments: extra"),
        (["validate", "GROUP0"], "group = 0"),
    ],
)
def test_failures(arguments, message, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("TEXT").write_text("this is no model")
    np.save("ARRAY", np.zeros(3))
    Path("ARRAY.npy").rename("ARRAY")
    model.rename("MODEL")
    ort_tconv.convert("MODEL", "CONVERTED")
    bad = replace(CASE, bias=False)
    onnx.save(conv_transpose_model(bad, attributes=bad.attributes | {"group": 0}), "GROUP0")
    try:
        status = cli.main(arguments)
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert not Path("out.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "absent.onnx", "out.onnx"], "absent.onnx"),
        (["inspect", "TEXT"], "not an ONNX model"),
        (["validate", "model.onnx", "--shape", "y:1"], "no input 'y'"),
        (["bench", "model.onnx", "--provider", "NoExecutionProvider"], "'NoExecutionProvider'"),
    ],
)
def test_failures_in_a_process_of_their_own(arguments, message, model, tmp_path):
    (tmp_path / "TEXT").write_text("this is no model")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("ort-tconv: error: ") and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("verb", ["validate", "bench"])
def test_running_without_onnxruntime(verb, model):
    done = run(verb, model, code=WITHOUT_ORT)
    assert done.returncode == 2 and done.stdout == ""
    assert "pip install onnxruntime" in done.stderr and "Traceback" not in done.stderr


def test_failures_of_ours_are_not_hidden(monkeypatch):
    def broken(options):
        raise KeyError("a mistake in the program")

    monkeypatch.setattr(cli, "_info", broken)
    with pytest.raises(KeyError):
        cli.main(["info"])
