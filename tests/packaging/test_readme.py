"""The README's commands work: its Python and `ort-tconv` lines are run here, on a small model; the
others must be lines that .ci/run runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]


def run_by_ci() -> str:
    return (ROOT / ".ci/run").read_text()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A directory with generator.onnx, as the README supposes."""
    directory = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["z", "w"], ["image"], strides=[2, 2], pads=[1] * 4)],
        "generator",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 8, 5, 5])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 10, 10])],
        [numpy_helper.from_array(rng.standard_normal((8, 3, 4, 4), dtype=np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, directory / "generator.onnx")
    return directory


def run(workdir: Path, *command: str) -> None:
    result = subprocess.run(command, cwd=workdir, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_readme_fits_one_screen():
    assert len(README.splitlines()) <= 80


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block(workdir, code):
    run(workdir, sys.executable, "-c", code)


# In the order of the README: a later line may use a file that an earlier one wrote.
@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("ort-tconv ")])
def test_command_line(workdir, command):
    name, *arguments = shlex.split(command)
    # pip puts scripts beside the interpreter; that directory need not be in PATH.
    run(workdir, str(Path(sys.executable).parent / name), *arguments)


@pytest.mark.parametrize("command", [c for c in commands() if not c.startswith("ort-tconv ")])
def test_other_commands_are_run_by_ci(command):
    lines = [line.strip().removeprefix("step ") for line in run_by_ci().splitlines()]
    assert any(line == command or line.startswith(f"{command} ") for line in lines)


def test_entry_point_is_the_command_line_module():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="ort-tconv")
    assert script.value == "ort_tconv.cli:main"


def test_links_lead_to_files():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
