"""One session, many threads, requests of different sizes: how a server would use it.

    python examples/serve_dynamic_shapes.py model.onnx

The model has one input [N, C, H, W] whose H and W are free. A session may run in several threads at
once; plans are kept by shape, so a size that comes again costs no planning.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort

import ort_tconv

SIZES = [(16, 16), (17, 23), (32, 8), (5, 40)]


def main(path: str, requests: int = 40) -> int:
    options = ort.SessionOptions()
    # Requests are what runs in parallel; a request gets one thread.
    options.intra_op_num_threads = 1
    session = ort_tconv.InferenceSession(path, options)  # converts the model
    stock = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    channels = image.shape[1]

    def serve(request: int) -> float:
        h, w = SIZES[request % len(SIZES)]
        rng = np.random.default_rng(request)
        feeds = {image.name: rng.standard_normal((1, channels, h, w), dtype=np.float32)}
        ours, expected = session.run(None, feeds)[0], stock.run(None, feeds)[0]
        return float(np.abs(ours - expected).max() / np.abs(expected).max())

    with ThreadPoolExecutor(4) as pool:
        worst = max(pool.map(serve, range(requests)))
    print(f"{requests} requests of {len(SIZES)} sizes, greatest relative difference {worst:.1e}")
    return 0 if worst < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
