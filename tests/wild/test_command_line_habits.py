"""Options as people type them: shortened, misspelt, in another order, in a plain terminal."""

import json
import logging
import os
import subprocess
import sys

import onnx
import pytest
from cases import chain_model
from terminal import run as run_apart
from terminal import run_here as run

import ort_tconv

ASCII = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80", "TERM": "dumb"}


@pytest.fixture
def path(tmp_path):
    onnx.save(chain_model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert", "a", "b", "--exclud", "x"], ["--exclud", "did you mean --exclude?"]),
        (["inspect", "a", "--htm", "x"], ["--htm", "did you mean --html?"]),
        (["bench", "a", "--warmup", "1"], ["--warmup", "did you mean --warm-up?"]),
        (["validate", "a", "--frobnicate"], ["--frobnicate"]),
        (["info", "surplus"], ["surplus"]),
    ],
)
def test_unknown_options_with_the_usage_of_their_verb(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"usage: ort-tconv {arguments[0]} ")
    for text in said:
        assert text in done.stderr


def test_patterns_that_match_nothing(path, tmp_path):
    done = run(
        "convert", path, tmp_path / "out.onnx", "--exclude", "decoder*", "--exclude", "up_y0"
    )
    assert done.returncode == 0
    assert "exclude: no candidate's name matches 'decoder*'" in " ".join(done.stdout.split())
    assert "'up_y0'" not in done.stdout.split("note:")[-1]


@pytest.mark.parametrize("name", ["out.txt", "report", "out.json"])
def test_json_to_any_file(path, tmp_path, name):
    for arguments in (
        ["inspect", path, "--json", tmp_path / name],
        ["inspect", "--json", tmp_path / name, path],
        ["inspect", path, f"--json={tmp_path / name}"],
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "plans for" in " ".join(done.stdout.split())
        report = json.loads((tmp_path / name).read_text())
        assert report["version"] == ort_tconv.__version__
        (tmp_path / name).unlink()


def test_json_before_a_model(path, tmp_path):
    before = path.read_bytes()
    done = run("inspect", "--json", path)
    assert json.loads(done.stdout)["sites"]
    onnx.save(ort_tconv.convert(path), tmp_path / "converted.onnx")
    done = run("validate", "--json", path, tmp_path / "converted.onnx")
    assert json.loads(done.stdout)["ok"]
    odd = path.rename(tmp_path / "model.bin")
    done = run("inspect", "--json", odd)
    assert json.loads(done.stdout)["sites"]
    assert odd.read_bytes() == before
    for last in (["--threads", 1], []):
        done = run("inspect", odd, "--json", *last)
        assert json.loads(done.stdout)["sites"]


def test_an_ascii_console(path, tmp_path):
    for arguments in (
        ["inspect", path],
        ["convert", path, tmp_path / "out.onnx", "--check"],
        ["info"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ort_tconv", *map(str, arguments)],
            capture_output=True,
            env=ASCII,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        done.stdout.decode("ascii")
    done = run_apart("inspect", path, code="import sys; sys.stdout.reconfigure(encoding='ascii')")
    assert done.returncode == 0 and "1x4x64x64" in done.stdout.replace("\n", "")


def test_quiet(path, tmp_path):
    done = run("convert", path, tmp_path / "out.onnx", "--check", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run("validate", path, "-q", "--rtol", "0")
    assert done.returncode == 1 and not done.stdout and "DIFFERENT" in done.stderr
    done = run("convert", path, path, "-q")
    assert done.returncode == 2 and "--force" in done.stderr
    done = run("inspect", path, "-q", "--json")
    assert json.loads(done.stdout)["sites"]


def test_logging(path, caplog):
    with caplog.at_level(logging.DEBUG, "ort_tconv"):
        ort_tconv.convert(path, exclude=["up_y0", "nothing"])
    levels = {record.levelname: record.getMessage() for record in caplog.records}
    assert "rewritten" in levels["INFO"] and str(path) in levels["INFO"]
    assert "no candidate's name matches 'nothing'" in levels["WARNING"]
    assert any("excluded by 'up_y0'" in record.getMessage() for record in caplog.records)


def test_silence_unless_logging_is_set_up(path):
    done = subprocess.run(
        [sys.executable, "-c", f"import ort_tconv; ort_tconv.convert({str(path)!r}, exclude='no')"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_completion(path):
    """As a shell asks for it; argcomplete writes to file descriptor 8."""
    pytest.importorskip("argcomplete")
    line = "ort-tconv convert --ex"
    done = subprocess.run(
        ["bash", "-c", f'exec 8>&1; exec "{sys.executable}" -m ort_tconv'],
        env=os.environ
        | {
            "_ARGCOMPLETE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "_ARGCOMPLETE_IFS": "\n",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["--exclude"], done.stderr
