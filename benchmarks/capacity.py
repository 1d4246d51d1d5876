"""What a server needs for a model: requests a second of a core, how long they wait where they come
at random, and memory of a session.

    python benchmarks/capacity.py [model.onnx] [--seconds 5]

Without a model, the generator of docs/make_cli.py (100 values to an image of 64x64).  Rates are of
as many callers as there are cores, each with one thread: side by side in one session, and in a
session each; medians of five rounds.  Delays are those from a request's arrival to its answer, in
one session, where requests arrive at random times and are answered in order by as many threads as
there are cores, at shares of the highest rate; the first ones, in an empty queue, count as well.
Memory is what a process has in its own pages (private,
/proc/self/smaps_rollup), before and after sessions are added.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

import ort_tconv
from ort_tconv.base import machine

ROOT = Path(__file__).resolve().parents[1]
SESSIONS = 8
ROUNDS = 5
LOADS = 0.5, 0.7, 0.8, 0.9, 0.95


def generator() -> onnx.ModelProto:
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs/make_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generator()


def open_session(content: bytes) -> ort.InferenceSession:
    options = ort_tconv.register(ort.SessionOptions())
    options.intra_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def feeds_of(session: ort.InferenceSession) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in session.get_inputs()
    }
    return {name: rng.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}


def rate(sessions: list[ort.InferenceSession], seconds: float) -> float:
    """Requests a second of callers that each wait for their answer, one for each session given."""
    feeds, counts, stop = feeds_of(sessions[0]), [0] * len(sessions), threading.Event()

    def call(i: int) -> None:
        while not stop.is_set():
            sessions[i].run(None, feeds)
            counts[i] += 1

    for session in sessions:
        session.run(None, feeds)
    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(sessions))]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def delays(
    session: ort.InferenceSession, threads: int, per_second: float, seconds: float
) -> list[float]:
    """Seconds from arrival to answer of requests that arrive at random, so many on average."""
    feeds, lock, found = feeds_of(session), threading.Lock(), []
    gaps = np.random.default_rng(0).exponential(1 / per_second, max(1, int(per_second * seconds)))
    arrivals = iter(time.perf_counter() + 0.01 + np.cumsum(gaps))

    def serve() -> None:
        while True:
            with lock:
                arrival = next(arrivals, None)
            if arrival is None:
                return
            time.sleep(max(0.0, arrival - time.perf_counter()))
            session.run(None, feeds)
            found.append(time.perf_counter() - arrival)

    servers = [threading.Thread(target=serve) for _ in range(threads)]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
    return found


def private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) << 10


def memory(content: bytes, pipe) -> None:
    """Bytes of the first session and of each further one, after a run of each."""
    marks, sessions = [private_bytes()], []
    for i in range(SESSIONS):
        sessions.append(open_session(content))
        sessions[-1].run(None, feeds_of(sessions[-1]))
        if i in (0, SESSIONS - 1):
            marks.append(private_bytes())
    pipe.send((marks[1] - marks[0], (marks[2] - marks[1]) / (SESSIONS - 1)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="ONNX model; free dimensions become 1")
    parser.add_argument("--seconds", type=float, default=5, help="of each rate (%(default)s)")
    options = parser.parse_args()
    original = onnx.load(options.model) if options.model else generator()
    models = {
        "stock": original.SerializeToString(),
        "ort-tconv": ort_tconv.convert(original).SerializeToString(),
    }
    cores = len(os.sched_getaffinity(0))
    print(f"{machine.processor()[0]}, {cores} cores, onnxruntime {ort.__version__}")
    weights = sum(int(np.prod(t.dims)) for t in original.graph.initializer) * 4
    print(f"weights {weights / 2**20:.1f} MiB")
    context = multiprocessing.get_context("spawn")
    sizes, setups = {}, {}
    for name, content in models.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=memory, args=(content, theirs))
        process.start()
        sizes[name] = ours.recv()
        process.join()
        session, *others = (open_session(content) for _ in range(cores))
        setups[name] = [session], [session] * cores, [session, *others]
    # In rounds, so that whatever else the machine does meets all of them.
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for name, each in setups.items():
            for i, sessions in enumerate(each):
                rates.setdefault((name, i), []).append(rate(sessions, options.seconds / ROUNDS))
    callers = f"{cores} callers, one session | {cores} sessions"
    print(f"| | 1 caller | {callers} | first session | each further |")
    print("|---|--:|--:|--:|--:|--:|")
    for name in models:
        columns = [f"{statistics.median(rates[name, i]):.0f}/s" for i in range(3)]
        columns += [f"{value / 2**20:.1f} MiB" for value in sizes[name]]
        print(f"| {name} | {' | '.join(columns)} |")
    print("\nort-tconv, one session: ms from arrival to answer")
    print("| share of the highest rate | median | 99 of 100 within |")
    print("|--:|--:|--:|")
    highest = statistics.median(rates["ort-tconv", 1])
    session = setups["ort-tconv"][1][0]
    for load in LOADS:
        found = delays(session, cores, load * highest, options.seconds)
        middle, most = (1000 * float(np.quantile(found, share)) for share in (0.5, 0.99))
        print(f"| {100 * load:.0f} % | {middle:.2f} | {most:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
