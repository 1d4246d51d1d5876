"""Scenarios of threads, processes and lifetimes; each runs in a process of its own.

``python tests/reliability/lifetime.py NAME [COUNT]`` runs one; it says what it did and ends with
status 0, or raises.  ``--long`` runs all of them in their long form and prints a table.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases import Case, chain_model, conv_transpose_model
from sessions import options

import ort_tconv

LAYER = Case((6, 5), (4, 4), group_in=8, group_out=12, strides=(2, 2), pads=(1, 1, 1, 1))


def model(case: Case = LAYER, **how) -> bytes:
    return conv_transpose_model(case, op="ort_tconv", **how).SerializeToString()


def session(data: bytes, so: ort.SessionOptions | None = None) -> ort.InferenceSession:
    so = ort_tconv.register(options(1) if so is None else so)
    return ort.InferenceSession(data, so, providers=["CPUExecutionProvider"])


def check(one: ort.InferenceSession, case: Case = LAYER, seed: int = 0) -> None:
    arrays = LAYER.arrays() | {"x": case.arrays(seed)["x"]}
    (y,) = one.run(None, {"x": arrays["x"]})
    error = np.abs(y - case.expected(arrays))
    assert (error <= case.bound(arrays)).all(), error.max()


class HeapInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    ]


def heap() -> int:
    """Bytes that are allocated now. Resident memory says less: it also has what free blocks between
    used ones keep, which differs by a percent from run to run."""
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = HeapInfo
    info = mallinfo()
    return info.uordblks + info.hblkhd


def resident() -> int:
    """Bytes of memory in use now; freed memory is given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def kept(what: Callable[[], None], count: int) -> int:
    """Bytes of the heap that `count` calls leave behind, after as many before."""
    before = 0
    for i in range(2 * count):
        if i == count:
            before = heap()
        what()
    return heap() - before


def mapped() -> int:
    """Bytes of address space in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def one_session_many_threads(count: int) -> None:
    """16 threads on one session with changing sizes, more of them than a node remembers."""
    one = session(model(dynamic=True), options(2))

    def work(seed: int) -> None:
        for i in range(count):
            check(
                one, replace(LAYER, batch=1 + (seed + i) % 3, spatial=(1 + seed % 8, 4 + i % 2)), i
            )

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    print(f"{16 * count} runs")


def many_sessions(count: int) -> None:
    """Sessions alive at once share their packed weights and run from as many threads."""
    sessions = [session(model(), options(1 + i % 3)) for i in range(count)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, sessions * 2))
    print(f"{count} sessions at once")


def come_and_go(count: int) -> None:
    """Sessions made, run and destroyed leave no more behind than stock's sessions do."""
    x = LAYER.arrays()["x"]
    data, stock = model(), conv_transpose_model(LAYER).SerializeToString()

    def ours() -> None:
        session(data).run(None, {"x": x})

    def theirs() -> None:
        one = ort.InferenceSession(stock, options(1), providers=["CPUExecutionProvider"])
        one.run(None, {"x": x})

    check(session(data))
    by_stock, by_us, all_of_it = kept(theirs, count), kept(ours, count), resident()
    growth = (by_us - by_stock) / all_of_it
    print(
        f"{count} sessions after as many: {by_us / count:.0f} bytes each stay allocated, stock's "
        f"{by_stock / count:.0f}; {growth:+.2%} of {all_of_it >> 10} KiB resident"
    )
    assert growth < 0.01
    check(session(data))


def refused_and_gone(count: int) -> None:
    """Models that are refused leave nothing behind either."""
    good = conv_transpose_model(LAYER, op="ort_tconv")
    strides = next(one for one in good.graph.node[0].attribute if one.name == "strides")
    strides.ints[:] = [0, 2]
    data = good.SerializeToString()

    def refused() -> None:
        try:
            session(data)
        except Exception as error:
            assert "strides" in str(error)
        else:
            raise AssertionError("not refused")

    by_us, all_of_it = kept(refused, count), resident()
    print(
        f"{count} refusals after as many: {by_us / count:.0f} bytes each stay allocated, "
        f"{by_us / all_of_it:+.2%} of {all_of_it >> 10} KiB resident"
    )
    assert by_us < 0.01 * all_of_it


def exit_with_sessions(count: int) -> None:
    """The process ends while sessions are alive: nobody destroys them before the library goes."""
    sessions = [session(model(), options(1 + i % 3)) for i in range(count)]
    for one in sessions:
        check(one)
    print(f"left with {count} sessions")
    sys.stdout.flush()
    globals()["alive"] = sessions
    sessions.append(sessions)  # a cycle, which no reference count ends


def fork(count: int) -> None:
    """Children of a process with sessions make sessions of their own, and use one of the parent's.

    ONNX Runtime's threads do not survive a fork: the inherited session has none."""
    inherited, threaded = session(model()), session(model(), options(2))
    check(inherited)
    check(threaded)
    for _ in range(count):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            status = 1
            try:
                check(inherited)
                check(session(model(), options(2)))
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
    check(threaded)
    print(f"{count} children")


def two_copies(count: int) -> None:
    """Two copies of the library serve sessions side by side, or even the same session."""
    library = ort_tconv.get_library_path()
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(library, Path(folder) / "libort_tconv_copy.so")
        sessions = []
        for i in range(count):
            so = options(1)
            so.register_custom_ops_library(str(copy) if i % 2 else library)
            one = ort.InferenceSession(model(), so, providers=["CPUExecutionProvider"])
            check(one)
            sessions.append(one)
        so = options(1)
        so.register_custom_ops_library(library)
        so.register_custom_ops_library(str(copy))
        try:
            check(ort.InferenceSession(model(), so, providers=["CPUExecutionProvider"]))
            print("both in one session: runs")
        except Exception as error:
            print(f"both in one session: {error}")
        so = ort_tconv.register(ort_tconv.register(options(1)))
        check(ort.InferenceSession(model(), so, providers=["CPUExecutionProvider"]))
        for one in sessions:
            check(one)
    print(f"{count} sessions of two copies")


def branches() -> bytes:
    """Three chains of the operator side by side, for parallel execution."""
    converted = ort_tconv.convert(chain_model(3))
    first = converted.graph
    nodes, outputs = list(first.node), list(first.output)
    for branch in ("b", "c"):
        for node in nodes:
            twin = first.node.add()
            twin.CopyFrom(node)
            twin.name = f"{node.name}_{branch}"
            constant = {one.name for one in first.initializer} | {"x0", ""}
            twin.input[:] = [name if name in constant else name + branch for name in node.input]
            twin.output[:] = [name + branch for name in node.output]
        for output in outputs:
            twin = first.output.add()
            twin.CopyFrom(output)
            twin.name = output.name + branch
    del first.value_info[:]
    return converted.SerializeToString()


def execution_modes(count: int) -> None:
    """Parallel execution, 1 to 16 threads, spinning or not, memory arenas on or off."""
    data = branches()
    x = np.random.default_rng(0).standard_normal((2, 4, 9, 7)).astype(np.float32)
    expected = None
    tried = 0
    for threads in (1, 2, 3, 16):
        for inter in (0, 1, 3):
            for arena in (True, False):
                so = options(threads)
                if inter:
                    so.execution_mode = ort.ExecutionMode.ORT_PARALLEL
                    so.inter_op_num_threads = inter
                so.enable_cpu_mem_arena = so.enable_mem_pattern = arena
                so.add_session_config_entry("session.intra_op.allow_spinning", str(int(arena)))
                one = session(data, so)
                for _ in range(count):
                    results = one.run(None, {"x0": x})
                    expected = results if expected is None else expected
                    for result, first in zip(results, expected, strict=True):
                        np.testing.assert_array_equal(result, first)
                tried += 1
    print(f"{tried} combinations, {count} runs each, all with the same bits")


def out_of_memory(count: int) -> None:
    """With less and less room, creation and runs fail with a status; with room again, they work."""
    case = replace(LAYER, spatial=(300, 300), group_in=64, group_out=64)
    data, x = model(case), case.arrays()["x"]
    good = session(model())
    large = session(model(case, weights="input"))
    arrays = case.arrays()
    used = mapped()
    failures = 0
    for i in range(count):
        room = (i + 1) * (96 << 20) // count  # the output alone takes 88 MiB
        resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
        for attempt in (
            lambda: session(data).run(None, {"x": x}),
            lambda: large.run(None, arrays),
        ):
            try:
                attempt()
            except Exception as error:
                failures += 1
                text = str(error)
                assert "onnxruntime" in text.lower() or "alloc" in text.lower(), text
            except MemoryError:
                failures += 1
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        check(good)
        used = max(
            used, int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        )
    large.run(None, arrays)
    assert failures, "there was room for everything"
    print(f"{failures} failed allocations, all reported")


SCENARIOS: dict[str, tuple[Callable[[int], None], int, int]] = {
    # what runs, how often in the test suite, and in the long form
    "one session, 16 threads": (one_session_many_threads, 20, 1000),
    "many sessions at once": (many_sessions, 20, 500),
    "sessions come and go": (come_and_go, 300, 10000),
    "refused models come and go": (refused_and_gone, 150, 10000),
    "exit with sessions alive": (exit_with_sessions, 5, 20),
    "fork": (fork, 3, 100),
    "two copies of the library": (two_copies, 4, 40),
    "execution modes": (execution_modes, 2, 50),
    "out of memory": (out_of_memory, 8, 60),
}

if __name__ == "__main__":
    names = [sys.argv[1]] if len(sys.argv) > 1 and sys.argv[1] != "--long" else list(SCENARIOS)
    if len(names) == 1:
        what, short, _ = SCENARIOS[names[0]]
        what(int(sys.argv[2]) if len(sys.argv) > 2 else short)
    else:  # each in a process of its own, the long form
        import subprocess
        import time

        failed = 0
        print("| scenario | result | seconds |\n|---|---|---|")
        for name in names:
            start = time.monotonic()
            command = [sys.executable, __file__, name, str(SCENARIOS[name][2])]
            done = subprocess.run(command, capture_output=True, text=True)
            said = "; ".join(done.stdout.strip().splitlines())
            if done.returncode:
                failed += 1
                said = f"FAILED ({done.returncode}): {said} {done.stderr[-500:]}"
            print(f"| {name} | {said} | {time.monotonic() - start:.0f} |", flush=True)
        sys.exit(failed != 0)
