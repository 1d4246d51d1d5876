"""What a session costs before it runs: creation and memory, each in a process of its own.

    python benchmarks/bench_sessions.py [--models REGEX] [--quick] [--repeat N] [--json FILE]

Stock ONNX Runtime, the converted model, and the model as it is with the execution provider, on the
networks of examples/architectures, read from files. Memory is what the process holds beyond what it
held before: at its peak while the session is created, and after that. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import onnx
import report

import ort_tconv
from ort_tconv.benchmarking.peak_memory import resident

WAYS = ("stock", "converted", "provider")


def create(way: str, path: str, threads: int) -> dict[str, float]:
    """One session, in this process, which has made none before."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    if way == "converted":
        ort_tconv.register(options)
    if way == "provider":
        ort_tconv.add_provider(options, strict=True)
        providers = None
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = resident("VmRSS"), time.perf_counter()
    session = ort.InferenceSession(path, options, providers, enable_fallback=0)
    created = 1e3 * (time.perf_counter() - start)
    result = {"creation_ms": created, "peak_bytes": resident("VmHWM") - before}
    result["held_bytes"] = resident("VmRSS") - before
    del session
    return result


def in_a_process(way: str, path: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", way, str(path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def row(name: str, model: onnx.ModelProto, folder: Path, threads: int, repeat: int) -> dict:
    files = {"stock": folder / f"{name}.onnx", "converted": folder / f"{name}_converted.onnx"}
    onnx.save(model, files["stock"])
    ort_tconv.convert(files["stock"], files["converted"])
    files["provider"] = files["stock"]
    runs: dict[str, list[dict]] = {way: [] for way in WAYS}
    for _ in range(repeat):
        for way in WAYS:
            runs[way].append(in_a_process(way, files[way], threads))
    medians = {
        way: {key: statistics.median(run[key] for run in runs[way]) for key in runs[way][0]}
        for way in WAYS
    }
    return {"layer": name, "ways": medians}


def table(rows: list[dict]) -> report.Table:
    header = ["model", *(f"{way} ms" for way in WAYS), *(f"{way} peak" for way in WAYS)]
    header += [*(f"{way} held" for way in WAYS), "provider / stock ms", "provider / stock peak"]
    lines = []
    for one in rows:
        ways = one["ways"]
        ratios = [
            f"{ways['provider'][key] / ways['stock'][key]:.2f}"
            for key in ("creation_ms", "peak_bytes")
        ]
        cells = [report.milliseconds(ways[way]["creation_ms"]) for way in WAYS]
        cells += [
            report.size(int(ways[way][key])) for key in ("peak_bytes", "held_bytes") for way in WAYS
        ]
        lines.append([one["layer"], *cells, *ratios])
    return header, lines


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        way, path, threads = sys.argv[2:]
        print(json.dumps(create(way, path, int(threads))))
        return
    from bench_models import networks

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", default="dcgan|ebgan|pix2pix|stylegan2", metavar="REGEX", help="matching names"
    )
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="processes of each")
    parser.add_argument("--quick", action="store_true", help="small models, one process of each")
    measure.add_threads_option(parser)
    measure.add_json_option(parser)
    args = parser.parse_args()
    args.json = measure.json_file(args, "sessions", args.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in networks(small=args.quick).items():
            if re.search(args.models, name):
                model, _ = make()
                repeat = 1 if args.quick else args.repeat
                rows.append(row(name, model, Path(folder), args.threads, repeat))
    machine = measure.machine_info(args.threads)
    report.write_json({"machine": machine, "results": rows}, args.json)
    console = report.make_console()
    report.print_results(console, machine, {"Sessions": table(rows)}, ["Medians."])


if __name__ == "__main__":
    sys.exit(main())
