"""What the benchmarks share: options, timing in turns, and what the machine can do."""

from __future__ import annotations

import argparse
import gc
import math
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ort_tconv import _core
from ort_tconv.base import machine

RESULTS = Path(__file__).parent / "results"
WARM_UP = 3
BURST = 8  # timed calls of a turn, or as many as begin within
BURST_SECONDS = 0.1
WAKE_UP = 20e-3  # seconds of calls before them: some ticks of the scheduler, see in_turns


# ---- options -----------------------------------------------------------------------------------


def add_threads_option(parser: argparse.ArgumentParser) -> None:
    cores = machine.usable_cores()
    parser.add_argument("--threads", type=int, default=cores, help="default: every core")


def add_run_options(
    parser: argparse.ArgumentParser, per: str, repeat: int, seconds: float, quick: str
) -> None:
    """How long each layer, site or model (``per``) is timed."""
    parser.add_argument(
        "--repeat", type=int, default=repeat, help="timed runs at least (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"per {per} at least (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help=f"{quick}: does it work at all?")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """For :func:`json_file`."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    where.add_argument(
        "--record",
        metavar="PROCESSOR",
        help="also write the results into benchmarks/results, from which documents are made, as "
        "one more run on this processor, say epyc-milan",
    )


def json_file(args: argparse.Namespace, kind: str, threads: int) -> Path | None:
    """Where results are written to: what --json says, or the next run of today's, or nowhere."""
    if not args.record:
        return args.json
    name = f"{time.strftime('%Y-%m-%d')}-{args.record}-{threads}-threads"
    paths = (RESULTS / f"{name}-run{n}-{kind}.json" for n in count(1))
    return next(path for path in paths if not path.exists())


# ---- timing ------------------------------------------------------------------------------------


def in_turns(
    runs: Sequence[Callable],
    repeat: int,
    seconds: float,
    settle: float,
    warm_up: int = WARM_UP,
) -> list[list[float]]:
    """Milliseconds of each call: at least `repeat` calls each and `seconds` in all, after `warm_up`
    rounds. In every round each function has one turn, in an order drawn anew: none always follows
    the same one. `settle` is a pause after each turn, long enough for the threads of any engine to
    come to rest. A turn begins with calls that are not timed: a processor that was idle for that
    long is not at once at speed again, and threads that wake on one core need some ticks of the
    scheduler to spread. `BURST` calls that are timed follow at once, as in a model layer follows
    layer."""
    times: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    draw = random.Random(0)
    for _ in range(warm_up):
        _round(runs, order, draw, settle, None)
    deadline = time.perf_counter() + seconds
    while min(map(len, times)) < repeat or time.perf_counter() < deadline:
        _round(runs, order, draw, settle, times)
    return times


def _round(runs, order, draw, settle, times) -> None:
    draw.shuffle(order)
    for e in order:
        woken = time.perf_counter() + WAKE_UP
        runs[e]()
        while time.perf_counter() < woken:
            runs[e]()
        burst = time.perf_counter()
        for _ in range(BURST if times is not None else 0):
            start = time.perf_counter()
            if start > burst + BURST_SECONDS:
                break
            runs[e]()
            times[e].append(1e3 * (time.perf_counter() - start))
        if settle:
            time.sleep(settle)


def spread(times: list[float]) -> dict:
    return {
        "median_ms": statistics.median(times),
        "min_ms": min(times),
        "max_ms": max(times),
        "runs": len(times),
    }


def creation(engines, files: list[bytes], feeds: dict, repeat: int) -> list[dict]:
    """Median milliseconds that each engine takes to create a session, and to create it and run it
    once. No session outlives its turn: what sessions of one process may share, such as packed
    weights, would make the next one cheaper."""
    created: list[list[float]] = [[] for _ in engines]
    first: list[list[float]] = [[] for _ in engines]
    for i in range(repeat + 1):
        for e, (engine, file) in enumerate(zip(engines, files)):
            start = time.perf_counter()
            session = engine.session(file)
            middle = time.perf_counter()
            session.run(None, feeds)
            end = time.perf_counter()
            del session
            gc.collect()
            if i > 0:  # the very first loads libraries and starts allocators
                created[e].append(1e3 * (middle - start))
                first[e].append(1e3 * (end - start))
    return [
        {"creation_ms": statistics.median(c), "first_run_ms": statistics.median(f)}
        for c, f in zip(created, first)
    ]


def make_model(
    name: str,
    nodes: Sequence[NodeProto],
    x: Sequence[int],
    y: Sequence[int | None],
    constants: dict[str, np.ndarray],
    inputs: dict[str, Sequence[int]] | None = None,
) -> ModelProto:
    """From the float32 input "x", and others, to the output "y" of these shapes."""
    graph = helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in {"x": x, **(inputs or {})}.items()
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# ---- the machine -------------------------------------------------------------------------------


def machine_info(threads: int) -> dict:
    info = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "cpu": machine.processor()[0],
        "logical_cores": machine.usable_cores(),
        "threads": threads,
        "os": platform.platform(),
        "python": platform.python_version(),
        "ort_tconv": _core.version,
        "isa": _core.isa(),
    }
    try:
        import psutil

        info["physical_cores"] = psutil.cpu_count(logical=False)
    except ImportError:
        pass
    return info


def commit() -> str:
    """Of this checkout, with a + if files differ from it; the library that runs may be older."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def differences(before: dict, after: dict) -> list[str]:
    """In what decides times, between the machines of two results; one line each."""
    pairs = {
        key: (before.get(key), after.get(key)) for key in ("cpu", "threads", "isa", "onnxruntime")
    }
    return [f"not the same {key}: {a}, then {b}" for key, (a, b) in pairs.items() if a != b]


def machine_limits(engine, quick: bool) -> dict:
    """What arithmetic and memory allow, as far as it can be seen from Python."""
    return {
        "gemm_gflops": gemm_peak(engine, 512 if quick else 1536, 3 if quick else 10),
        "memory_gbs": bandwidth(engine.threads, 32 if quick else 256, 2 if quick else 6),
    }


def gemm_peak(engine, n: int, repeat: int) -> float:
    """GFLOP/s of ONNX Runtime's product of two n x n matrices, the best of some calls: some percent
    below the FMA peak of the processor, which Python has no means to measure."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, n, n), dtype=np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = make_model("gemm", nodes, x.shape, x.shape, {"w": w})
    run, _ = engine.bind(engine.session(model.SerializeToString()), {"x": x})
    return 2 * n**3 / _best(run, repeat) / 1e9


def bandwidth(threads: int, mebibytes: int, repeat: int) -> float:
    """GB/s between the cores and memory, the best of some calls: the higher one of reading two
    arrays (their maximum) and of copying one to the other. Each thread has its part of them."""
    size = mebibytes * 2**20 // 4
    a, b = np.zeros(size, np.float32), np.ones(size, np.float32)
    edges = [size * i // threads for i in range(threads + 1)]
    parts = [slice(i, j) for i, j in pairwise(edges)]

    def read(part):
        a[part].max()
        b[part].max()

    with ThreadPoolExecutor(threads) as pool:
        seconds = min(
            _best(lambda: list(pool.map(lambda p: np.copyto(a[p], b[p]), parts)), repeat),
            _best(lambda: list(pool.map(read, parts)), repeat),
        )
    return 2 * 4 * size / seconds / 1e9


def _best(run: Callable, repeat: int) -> float:
    best = math.inf
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
