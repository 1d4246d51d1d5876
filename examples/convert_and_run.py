"""Convert a model, run it with stock ONNX Runtime and with ort-tconv, and compare.

python examples/convert_and_run.py model.onnx
"""

import sys
import time

import numpy as np
import onnx
import onnxruntime as ort

import ort_tconv


def milliseconds(session: ort.InferenceSession, feeds: dict, runs: int = 20) -> float:
    """The fastest of some runs."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main(path: str) -> int:
    original = onnx.load(path)
    converted = ort_tconv.convert(original)
    nodes = sum(node.domain == "ort_tconv" for node in converted.graph.node)
    print(f"{nodes} nodes use ort-tconv's operator")

    report = ort_tconv.validate(original, converted)
    print(report)

    stock = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    ours = ort.InferenceSession(
        converted.SerializeToString(),
        ort_tconv.register(ort.SessionOptions()),
        providers=ort_tconv.available_providers(),
    )
    # Dimensions without a size get a small one.
    feeds = {
        value.name: np.ones([d if isinstance(d, int) else 2 for d in value.shape], np.float32)
        for value in stock.get_inputs()
    }
    print(
        f"stock {milliseconds(stock, feeds):.2f} ms, ort-tconv {milliseconds(ours, feeds):.2f} ms"
    )
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
