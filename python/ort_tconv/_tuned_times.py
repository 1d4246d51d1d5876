"""Run by :mod:`ort_tconv.tuning` in a process of its own: how fast whole models are.

Reads a pickled job from standard input and writes the median milliseconds of each model to standard
output, as JSON.
"""

from __future__ import annotations

import json
import pickle
import sys

import onnx


def main() -> None:
    job = pickle.load(sys.stdin.buffer)
    from ort_tconv.converters import Model
    from ort_tconv.tuning import Machine, interleaved

    runs = []
    for data, folder in job["models"]:
        model = Model(onnx.load_from_string(data), folder)
        machine = Machine(model, job["threads"], job["providers"])
        runs += machine.runs([model.proto], job["feeds"])
    print(json.dumps(interleaved(runs)))


if __name__ == "__main__":
    main()
