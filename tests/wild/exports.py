"""Models as exporters leave them: a file and its data beside it, under names that all share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from cases import graph_model
from onnx import helper
from sessions import options

FEEDS = {"x": np.ones((1, 1, 3, 3), np.float32)}
CHANNELS = 64


def model(scale: float) -> onnx.ModelProto:
    """Upsampling and more: weights that are kept, weights that are folded, and a shape.

    Each element of its output is ``expected(scale)``.
    """
    up = np.full((1, CHANNELS, 2, 2), scale, np.float32)
    down = np.full((1, CHANNELS, 1, 1), 1, np.float32)
    nodes = [
        helper.make_node("ConvTranspose", ["x", "up"], ["grown"], "up", strides=[2, 2]),
        helper.make_node("Mul", ["grown", "gain"], ["scaled"], "mul"),
        helper.make_node("Conv", ["scaled", "down"], ["one"], "conv"),
        helper.make_node("Reshape", ["one", "shape"], ["y"], "reshape"),
    ]
    constants = {
        "up": up,
        "gain": np.full((CHANNELS, 1, 1), scale, np.float32),
        "down": down,
        "shape": np.array([1, 6, 6], np.int64),
    }
    return graph_model(nodes, constants, {"x": (1, 1, 3, 3)})


def expected(scale: float) -> float:
    return CHANNELS * scale * scale


def export(folder: Path, scale: float) -> Path:
    """``folder/model.onnx`` with ``model.onnx.data``."""
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    onnx.save(
        model(scale),
        path,
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=100,  # all but the shape
    )
    return path


def check(session: ort.InferenceSession, scale: float) -> None:
    (y,) = session.run(None, FEEDS)
    np.testing.assert_allclose(y, np.full((1, 6, 6), expected(scale)), rtol=1e-5)


def stock(path: Path, session_options: ort.SessionOptions | None = None) -> ort.InferenceSession:
    return ort.InferenceSession(
        str(path), session_options or options(), providers=["CPUExecutionProvider"]
    )
