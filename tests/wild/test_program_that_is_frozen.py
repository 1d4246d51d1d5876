"""A program in a folder of its own, without Python beside it."""

import os
import subprocess
import sys

import onnx
import pytest
from exports import export

PROGRAM = """
import sys
import numpy as np
import ort_tconv

session = ort_tconv.InferenceSession(sys.argv[1])
(y,) = session.run(None, {"x": np.ones((1, 1, 3, 3), np.float32)})
print(ort_tconv.__version__, len(session.conversion.changes), y.flat[0])
assert ort_tconv.validate(sys.argv[1]).ok
"""


UNNEEDED = ("torch", "matplotlib", "scipy", "pandas", "IPython", "pytest")
TOOLS = {
    "PyInstaller": [
        "PyInstaller",
        *("--noconfirm", "--onedir"),
        *(word for name in UNNEEDED for word in ("--exclude-module", name)),
        "program.py",
    ],
    "cx_Freeze": [
        "cx_Freeze",
        *("build", "--script", "program.py", "--build-exe", "dist/program"),
        f"--excludes={','.join(UNNEEDED)}",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_one_folder(tool, tmp_path):
    pytest.importorskip(tool)
    (tmp_path / "program.py").write_text(PROGRAM)
    build = [sys.executable, "-m", *TOOLS[tool]]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    path = export(tmp_path / "A", 2.0)
    done = subprocess.run(
        [tmp_path / "dist" / "program" / "program", path],
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == ["2", "256.0"]
    assert onnx.load(path, load_external_data=False).graph.node[0].op_type == "ConvTranspose"
