"""Runs models in onnxruntime, stock and with the operator."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime as ort

import ort_tconv


def options(threads: int = 0) -> ort.SessionOptions:
    result = ort.SessionOptions()
    result.intra_op_num_threads = threads
    result.log_severity_level = 4  # errors are raised; tests that expect one need no log
    return result


def stock_session(model: onnx.ModelProto, threads: int = 0) -> ort.InferenceSession:
    return ort.InferenceSession(
        model.SerializeToString(), options(threads), providers=["CPUExecutionProvider"]
    )


def our_session(model: onnx.ModelProto, threads: int = 0) -> ort.InferenceSession:
    """A session with the operator registered; the model is taken as it is."""
    return ort.InferenceSession(
        model.SerializeToString(),
        ort_tconv.register(options(threads)),
        providers=["CPUExecutionProvider"],
    )


def run_stock(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return stock_session(model).run(None, feeds)


def run_converted(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return our_session(ort_tconv.convert(model)).run(None, feeds)


def agree(original: onnx.ModelProto, converted: onnx.ModelProto, **feeds) -> None:
    """Fail unless both models compute the same, up to rounding, from random inputs.

    ``feeds`` are arrays, or shapes for inputs that leave them open.
    """
    arrays = {name: value for name, value in feeds.items() if isinstance(value, np.ndarray)}
    shapes = {
        name: value
        for name, value in feeds.items()
        if name not in arrays and name in {i.name for i in original.graph.input}
    }
    report = ort_tconv.validate(original, converted, arrays, shapes=shapes)
    assert report.ok, str(report)


def concurrently(work: Callable[[int], None], threads: int = 4) -> None:
    """Calls ``work`` with 0, 1, 2 ..., each in a thread of its own, all at once; raises what one of
    them raises."""
    together = threading.Barrier(threads)

    def start(index: int) -> None:
        together.wait()
        work(index)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(start, range(threads)))
