"""examples/ray_batch.py on a cluster of two nodes on this machine: nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import ort_tconv

pytest.importorskip("ray.data", reason="Ray Data: pip install 'ray[data]'")
from ray.cluster_utils import Cluster

SCRIPT = Path(__file__).resolve().parents[2] / "examples/ray_batch.py"
COUNT, BROKEN = 24, "07.npz"


@pytest.fixture(scope="module")
def cluster():
    """A head that runs nothing, and two nodes of one core each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    memory = {"object_store_memory": 128 << 20}
    nodes = [cluster.add_node(num_cpus=1, **memory) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, nodes
    cluster.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """About a tenth of a second of work for one core."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 64, 4, 4), dtype=np.float32) / 32
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1] * 4)],
        "up",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, "2h", "2w"])],
        [numpy_helper.from_array(w, "w")],
    )
    path = tmp_path_factory.mktemp("model") / "up.onnx"
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(1)
    for i in range(COUNT):
        x = rng.standard_normal((1, 64, 160 + i, 128), dtype=np.float32)
        np.savez(folder / f"{i:02}.npz", x=x)
    (folder / BROKEN).write_bytes((folder / BROKEN).read_bytes()[:1000])
    return folder


@pytest.fixture(scope="module")
def expected(model, inputs):
    """Of one session in this process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort_tconv.InferenceSession(model, options)
    results = {}
    for path in sorted(inputs.iterdir()):
        if path.name != BROKEN:
            (results[path.name],) = session.run(None, dict(np.load(path)))
    return results


def start(cluster, *arguments) -> subprocess.Popen:
    env = os.environ | {"RAY_ADDRESS": cluster[0].address, "RAY_DEDUP_LOGS": "0"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=env, **pipes)


def actors(cluster) -> list[int]:
    """Processes of the cluster's nodes that run the example's actors."""
    raylets = {
        process.process.pid for node in cluster[1] for process in node.all_processes["raylet"]
    }
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            title = (folder / "cmdline").read_text()
        except OSError:  # it has ended
            continue
        if parent in raylets and title.startswith("ray::") and "Map(Runner)" in title:
            found.append(int(folder.name))
    return found


def check_outputs(folder: Path, expected: dict[str, np.ndarray]) -> None:
    assert {path.name for path in folder.iterdir()} == {*expected, "errors.json"}
    for name, y in expected.items():
        with np.load(folder / name) as written:
            np.testing.assert_array_equal(written["y"], y)


def test_broken_input_and_killed_worker_lose_nothing(cluster, model, inputs, expected, tmp_path):
    outputs = tmp_path / "outputs"
    run = start(cluster, model, inputs, outputs, "--workers", 2, "--threads", 1)
    killed, deadline = None, time.monotonic() + 300
    while run.poll() is None and killed is None and time.monotonic() < deadline:
        if list(outputs.glob("[0-9]*.npz")) and (found := actors(cluster)):
            killed = found[0]
            os.kill(killed, signal.SIGKILL)
        time.sleep(0.01)
    printed, errors = run.communicate(timeout=300)
    assert killed, f"no worker was seen at work: {printed}{errors}"
    assert run.returncode == 1, printed + errors
    assert f"{COUNT - 1} written by" in printed and "1 failed" in printed
    check_outputs(outputs, expected)
    failures = json.loads((outputs / "errors.json").read_text())
    assert list(failures) == [BROKEN] and "BadZipFile" in failures[BROKEN]

    # The broken file is mended: the same command does what is missing, and nothing twice.
    np.savez(inputs / BROKEN, x=np.ones((1, 64, 5, 5), np.float32))
    times = {path.name: path.stat().st_mtime_ns for path in outputs.glob("*.npz")}
    run = start(cluster, model, inputs, outputs)
    printed, errors = run.communicate(timeout=300)
    assert run.returncode == 0, printed + errors
    assert f"1 written by 1 workers, {COUNT - 1} were there, 0 failed" in printed
    assert times.items() <= {p.name: p.stat().st_mtime_ns for p in outputs.glob("*.npz")}.items()
