"""docs/cli.md shows what the commands print now; that they run at all tests/packaging checks."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import ort_tconv

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def make_cli():
    spec = importlib.util.spec_from_file_location("make_cli", DOCS / "make_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_help_is_up_to_date():
    command = [sys.executable, str(DOCS / "make_cli.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_old_help_is_found(make_cli):
    page = (DOCS / "cli.md").read_text()
    assert make_cli.stale(page.replace("--no-memory ", "--no-storage ")) == [
        "ort-tconv bench --help"
    ]


def test_every_verb_is_shown_with_its_help_and_its_output(make_cli):
    shown = {}
    for match in make_cli._SESSION.finditer((DOCS / "cli.md").read_text()):
        for line in make_cli.lines(match):
            shown[line] = match["output"]
    for verb in ("inspect", "convert", "validate", "bench", "info"):
        lines = [line for line in shown if line.startswith(f"ort-tconv {verb}")]
        assert f"ort-tconv {verb} --help" in lines and len(lines) >= 2
    assert "ort-tconv export-triton --help" in shown
    assert all(len(output.splitlines()) > 2 for output in shown.values())


def test_outputs_take_the_place_of_the_old_ones(make_cli, tmp_path):
    page = "before\n\n```sh\nort-tconv --version\n```\n\n```text\nold\n```\n\nafter\n"
    version = re.escape(ort_tconv.__version__)
    now = make_cli.updated(page, tmp_path)
    assert re.fullmatch(
        rf"before\n\n```sh\nort-tconv --version\n```\n\n```text\n{version}\n```\n\nafter\n", now
    )


def test_the_generator_is_one(make_cli):
    model = make_cli.generator()
    onnx.checker.check_model(model, full_check=True)
    inspection = ort_tconv.inspect(model, shapes={"z": (1, 100, 1, 1)})
    assert [site.state for site in inspection.sites] == ["rewritable"] * 5
    assert ort_tconv.validate(model, shapes={"z": (1, 100, 1, 1)}).ok
