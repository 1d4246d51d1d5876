"""Runs a model over a folder of inputs on a Ray cluster, with Ray Data.

    pip install 'ray[data]'
    python examples/ray_batch.py model.onnx inputs/ outputs/ --workers 2 --threads 1

Each file of inputs/, an .npz with arrays by input name, becomes one of the same name in outputs/,
with arrays by output name.  Both folders have to be the same for every machine of the cluster.
Without RAY_ADDRESS this machine is the cluster.

- The model is converted once, here; the workers get it from Ray's object store.
- A worker is an actor with one session, and claims as many cores as its session has threads, so
  that the workers of a machine do not compete for them.
- An input that cannot be read or run costs its own result alone: the others are written,
  errors.json says what was wrong, and the exit status is 1.
- A worker that dies is replaced, and what it had not finished is run again.  Files appear whole or
  not at all, and what is there already is not computed again: after an interruption the same
  command goes on.
"""

import argparse
import json
import os
import sys
import uuid
from pathlib import Path

import numpy as np
import onnxruntime as ort
import ray

import ort_tconv


class Runner:
    """One session in a process of its own."""

    def __init__(self, model: ray.ObjectRef, outputs: Path, part: str, threads: int) -> None:
        options = ort_tconv.register(ort.SessionOptions())
        options.intra_op_num_threads = threads
        providers = ort_tconv.available_providers()
        self.session = ort.InferenceSession(ray.get(model), options, providers=providers)
        self.names = [output.name for output in self.session.get_outputs()]
        self.outputs, self.part = outputs, part

    def __call__(self, row: dict) -> dict:
        path, error = Path(row["path"]), ""
        try:
            with np.load(path) as feeds:
                results = self.session.run(self.names, dict(feeds))
        except Exception as failure:  # whatever it is, it is this input's
            error = f"{type(failure).__name__}: {failure}"
        else:
            # Through another name, so that a worker that dies leaves no half a file.
            part = self.outputs / f"{self.part}{path.name}.{os.getpid()}"
            with part.open("wb") as file:
                np.savez(file, **dict(zip(self.names, results)))
            part.replace(self.outputs / path.name)
        return {"path": str(path), "error": error, "worker": os.getpid()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="ONNX model, converted or not")
    parser.add_argument("inputs", type=Path, help="folder of .npz files")
    parser.add_argument("outputs", type=Path, help="folder to write to, made if need be")
    parser.add_argument("--workers", type=int, default=2, help="sessions (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each session (%(default)s)")
    options = parser.parse_args()

    options.outputs.mkdir(parents=True, exist_ok=True)
    outputs = options.outputs.resolve()
    names = sorted(path.name for path in options.inputs.glob("*.npz"))
    todo = [name for name in names if not (outputs / name).exists()]
    ray.init()  # the cluster that RAY_ADDRESS names, or a new one on this machine
    ray.data.DataContext.get_current().enable_progress_bars = False
    part = f".{uuid.uuid4().hex[:8]}."  # how names begin of files that are being written
    model = ray.put(ort_tconv.convert(options.model).SerializeToString())
    rows = []
    if todo:
        # One file a block: what a worker has in hand when it dies is one file.
        items = [{"path": str(options.inputs.resolve() / name)} for name in todo]
        rows = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map(
                Runner,
                fn_constructor_args=(model, outputs, part, options.threads),
                compute=ray.data.ActorPoolStrategy(size=options.workers),
                num_cpus=options.threads,
            )
            .take_all()
        )
    for left in outputs.glob(f"{part}*"):  # by a worker that died
        left.unlink(missing_ok=True)
    errors = {Path(row["path"]).name: row["error"] for row in rows if row["error"]}
    (outputs / "errors.json").write_text(json.dumps(errors, indent=1) + "\n")
    workers = len({row["worker"] for row in rows})
    print(
        f"{len(rows) - len(errors)} written by {workers} workers, "
        f"{len(names) - len(todo)} were there, {len(errors)} failed"
    )
    for name, error in errors.items():
        print(f"{name}: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
