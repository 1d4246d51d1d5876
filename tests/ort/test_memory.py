"""What a session keeps in memory of weights that it has packed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import Case, conv_transpose_model

import ort_tconv

LAYER = Case((8, 8), (4, 4), group_in=512, group_out=256, strides=(2, 2), pads=(1, 1, 1, 1))
WEIGHTS = 4 * 512 * 256 * 16

RUN = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime as ort
import ort_tconv

session = ort.InferenceSession(sys.argv[1], ort_tconv.register(ort.SessionOptions()))
x = np.load(sys.argv[2])
first = session.run(None, {"x": x})[0]
print(Path("/proc/self/smaps").read_text())
# Another size may want other packed weights: the model's are read again.
larger = session.run(None, {"x": np.tile(x, (1, 1, 6, 6))})[0]
np.savez(sys.argv[3], first=first, larger=larger)
"""


def resident(smaps: str, file: Path) -> int | None:
    """Bytes in memory of a file's mappings; None if it is not mapped."""
    found = None
    inside = False
    for line in smaps.splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            found = (found or 0) + 1024 * int(line.split()[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_a_session_lets_go_of_weights_that_are_packed(tmp_path):
    case = Case(**{**vars(LAYER), "spatial": (8, 8)})
    model = conv_transpose_model(case)
    for value in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        value.ClearField("dim_value")
    path, x = tmp_path / "model.onnx", case.arrays()["x"]
    ort_tconv.convert(model, path)
    np.save(tmp_path / "x.npy", x)
    files = [str(tmp_path / name) for name in ("model.onnx", "x.npy", "y.npz")]
    environment = {**os.environ, "PYTHONPATH": str(Path(ort_tconv.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *files],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    in_memory = resident(done.stdout, tmp_path / "model.onnx.data")
    if in_memory is None:
        pytest.skip("this onnxruntime does not map external data")
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(tmp_path)], capture_output=True, text=True
    ).stdout.strip()
    if kind == "tmpfs":
        pytest.skip("files of tmpfs have no other place than memory")
    assert in_memory < WEIGHTS / 8
    with np.load(tmp_path / "y.npz") as y:
        bound = case.bound(case.arrays())
        assert (np.abs(y["first"] - case.expected(case.arrays())) <= bound).all()
        assert np.isfinite(y["larger"]).all()
