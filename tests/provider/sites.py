"""Sessions with the execution provider, and what it takes in them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from sessions import concurrently, options

import ort_tconv
from ort_tconv.sessions.provider import PROVIDER


def provider_session(
    model: onnx.ModelProto | bytes, threads: int = 0, **settings
) -> ort.InferenceSession:
    """A session of the model as it is; an error in it is raised and not hidden by a fallback."""
    session_options = ort_tconv.add_provider(options(threads), **settings)
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, session_options, enable_fallback=0)


#: Whether onnxruntime takes fused nodes in several graphs of a model.
SEVERAL_GRAPHS = tuple(int(part) for part in ort.__version__.split(".")[:3]) >= (1, 24, 4)
RECORDS = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")


def claimed(session: ort.InferenceSession) -> list[list[str]]:
    """Names of the nodes that each of the provider's fused nodes stands for, main graph only."""
    return [
        [node.name for node in group.get_nodes()]
        for group in session.get_provider_graph_assignment_info()
        if group.ep_name == PROVIDER
    ]


def run_provider(model: onnx.ModelProto, feeds: dict[str, np.ndarray], **settings):
    return provider_session(model, strict=True, **settings).run(None, feeds)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def run_in_threads(session: ort.InferenceSession, images: list[np.ndarray]) -> None:
    """Four threads run one session, on images of different shapes: results are those of one."""
    expected = [session.run(None, {"x": x})[0] for x in images]

    def work(start: int):
        for i in range(30):
            k = (start + i) % len(images)
            assert same_bits(session.run(None, {"x": images[k]})[0], expected[k]), k

    concurrently(work)
