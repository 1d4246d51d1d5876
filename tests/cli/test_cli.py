"""The command line as a user runs it, failures included."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import CORNERS, Case, chain_model, conv_transpose_model, function_model, nodes_of, tensor
from onnx import AttributeProto, numpy_helper

import ort_tconv
from ort_tconv import cli
from ort_tconv.tuning import Tuning

CASE = CORNERS["the usual 4x4, stride 2"]


def run(*arguments: object, code: str = "") -> subprocess.CompletedProcess:
    """``ort-tconv`` in a process of its own, after ``code``."""
    start = "import sys; from ort_tconv.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", f"{code}\n{start}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"COLUMNS": "80", "TERM": "dumb"},
    )


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
    for verb in ("convert", "validate", "info"):
        assert verb in done.stdout


# ---- convert -----------------------------------------------------------------------------------


def test_convert(model, tmp_path):
    output = tmp_path / "out.onnx"
    done = run("convert", model, output)
    assert done.returncode == 0, done.stderr
    assert len(nodes_of(onnx.load(output), "SegregatedConvTranspose")) == 3
    for text in ("ConvTranspose", "ort_tconv::SegregatedConvTranspose", "up_y1", "6 rewritten"):
        assert text in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    again = run("convert", output, tmp_path / "again.onnx")
    assert again.returncode == 0 and "0 rewritten" in again.stdout


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
    assert "tuned with onnxruntime" in done.stdout and "1 threads" in done.stdout
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
    onnx.save(
        conv_transpose_model(case),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
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


def test_info_without_onnxruntime():
    done = run("info", code="import sys; sys.modules['onnxruntime'] = None")
    assert done.returncode == 1
    assert "missing" in done.stdout and "pip install ort-tconv[cpu]" in done.stdout
    assert ort_tconv.get_library_path() in done.stdout


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
        (["validate", "CONVERTED"], "converted already"),
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


def test_failure_in_a_process_of_its_own():
    done = run("convert", "absent.onnx", "out.onnx")
    assert done.returncode == 2
    assert done.stderr.startswith("ort-tconv: error: ") and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_failures_of_ours_are_not_hidden(monkeypatch):
    def broken(options):
        raise KeyError("a mistake in the program")

    monkeypatch.setattr(cli, "_info", broken)
    with pytest.raises(KeyError):
        cli.main(["info"])
