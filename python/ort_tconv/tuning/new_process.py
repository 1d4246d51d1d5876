"""Run by :mod:`ort_tconv.tuning.trials` in a process of its own: how fast whole models are.

Reads a pickled job from standard input and writes the median milliseconds of each model to standard
output, as JSON.
"""

from __future__ import annotations

import json
import pickle
import sys

import onnx

from ..converters.model_io import Model
from .timing import interleaved
from .trials import Machine


def main() -> None:
    job = pickle.load(sys.stdin.buffer)
    runs = []
    for data, folder in job["models"]:
        model = Model(onnx.load_from_string(data), folder)
        machine = Machine(model, job["threads"], job["providers"])
        runs += machine.runs([model.proto], job["feeds"])
    print(json.dumps(interleaved(runs)))


if __name__ == "__main__":
    main()
