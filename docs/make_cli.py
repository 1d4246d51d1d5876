"""Puts the real output of every command into docs/cli.md, behind the command.

    python docs/make_cli.py [--check]

The commands run in a terminal of 100 columns, in a folder with a small generator.onnx. Times, and
what a report says of the machine, are those of the machine that ran this last; the library's path
is one of many. --check runs nothing but the help, and says where that is out of date.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ort_tconv import get_library_path

HERE = Path(__file__).resolve().parent
PAGE = HERE / "cli.md"
#: A block of commands with a block of output behind it.
_SESSION = re.compile(
    r"^```sh\n(?P<commands>.*?)^```\n\n```text\n(?P<output>.*?)^```$", re.M | re.S
)


def generator() -> onnx.ModelProto:
    """From 100 values an image of 64x64, by transposed convolutions, and a Resize with a Conv."""
    random = np.random.default_rng(0)
    nodes, weights, values = [], [], "z"

    def layer(op: str, name: str, shape: tuple[int, ...], activation: str, **attributes) -> None:
        nonlocal values
        scale = 1 / np.sqrt(shape[0 if op == "ConvTranspose" else 1] * 4)
        array = (scale * random.standard_normal(shape)).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"{name}.weight"))
        output = f"{name}.out"
        nodes.append(
            helper.make_node(op, [values, f"{name}.weight"], [output], name=name, **attributes)
        )
        values = f"{name}.act"
        nodes.append(helper.make_node(activation, [output], [values], name=values))

    twice = {"strides": [2, 2], "pads": [1] * 4}
    layer("ConvTranspose", "project", (100, 256, 4, 4), "Relu")
    layer("ConvTranspose", "up1", (256, 128, 4, 4), "Relu", **twice)
    layer("ConvTranspose", "up2", (128, 64, 4, 4), "Relu", **twice)
    weights.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    nodes.append(
        helper.make_node(
            "Resize",
            [values, "", "scales"],
            ["enlarged"],
            name="enlarge",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    )
    values = "enlarged"
    layer("Conv", "refine", (64, 64, 3, 3), "Relu", pads=[1] * 4)
    layer("ConvTranspose", "to_rgb", (64, 3, 4, 4), "Tanh", **twice)
    nodes[-1].output[0] = "image"
    graph = helper.make_graph(
        nodes,
        "generator",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 100, "h", "w"])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, None, None])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(line: str, folder: Path) -> str:
    """What a command prints, errors included."""
    program, *arguments = shlex.split(line, comments=True)
    command = [sys.executable, "-m", "ort_tconv"] if program == "ort-tconv" else [program]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "100", "TERM": "dumb"},
    )
    if done.returncode not in (0, 1, 2):
        raise SystemExit(f"{line}: exit status {done.returncode}\n{done.stdout}")
    installed = str(Path(get_library_path()).parent)
    output = done.stdout.replace(installed, "/venv/lib/python3/site-packages/ort_tconv")
    return "\n".join(text.rstrip() for text in output.splitlines()) + "\n"


def lines(match: re.Match) -> list[str]:
    return [line for line in match["commands"].splitlines() if line]


def updated(page: str, folder: Path) -> str:
    def session(match: re.Match) -> str:
        output = "".join(run(line, folder) for line in lines(match))
        return f"```sh\n{match['commands']}```\n\n```text\n{output}```"

    return _SESSION.sub(session, page)


def stale(page: str) -> list[str]:
    """Commands for help whose output is another one now; line breaks do not count."""
    found = []
    for match in _SESSION.finditer(page):
        for line in lines(match):
            if line.endswith("--help"):
                now = run(line, HERE)
                if now.split() != match["output"].split():
                    found.append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="is the help in the page up to date?")
    options = parser.parse_args()
    page = PAGE.read_text()
    if options.check:
        if found := stale(page):
            sys.exit(f"{PAGE.name} shows an old {', '.join(found)}: run python docs/make_cli.py")
        return
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(generator(), Path(folder) / "generator.onnx")
        PAGE.write_text(updated(page, Path(folder)))
        shutil.copy(Path(folder) / "bench.svg", HERE / "cli-bench.svg")


if __name__ == "__main__":
    main()
