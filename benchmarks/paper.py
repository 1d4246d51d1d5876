"""The claims of arXiv 2502.20493 (unified kernel segregation), measured on this machine.

    python benchmarks/paper.py [--threads LIST] [--layers REGEX] [--quick] [--json FILE]
    python benchmarks/paper.py --results FILE [FILE ...] --document docs/paper.md

Three methods run as plain loop nests (loops.cc, compiled with -O2), which compares like with like:
the conventional one (insert zeros, pad, convolve), segregation as four convolutions whose results
are interleaved, which is the authors' earlier method, and segregation as one operation, which they
call unified. The conventional method also runs as an ONNX graph in stock ONNX Runtime, whose
convolution is fast: the strongest form of that baseline. Beside them stock ConvTranspose and ours.
Layers are the GAN layers and the images of workloads.json. Needs a C++ compiler: $CXX, or c++, g++
or clang++.

The second form measures nothing: it shows earlier results, and writes them into the document.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import math
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import engines as all_engines
import measure as timing
import numpy as np
import report
from bench_session import HERE, Layer, disagreement, load_layers, make_model
from onnx import ModelProto, helper
from rich.console import Console

from ort_tconv import _core
from ort_tconv.base import machine

FLAGS = ["-O2", "-std=c++17", "-fPIC", "-shared", "-pthread"]
GROUPS = {"images": "224x224x3 images", "gan": "GAN layers"}
# What the paper's abstract reports: averages over data sets of images (an RTX 2070, an Intel Xeon)
# and over the transposed convolutions of known GANs, and the memory EB-GAN saves.
PUBLISHED = {
    "images_gpu_speedup": 2.03,
    "images_cpu_speedup": 3.89,
    "gan_speedup": 3.5,
    "ebgan_megabytes": 35,
}


# ---- the methods -------------------------------------------------------------------------------


def geometry(layer: Layer) -> dict[str, list[int]]:
    """k, s, leading pads p, input and output sides. Raises Unsupported for what the loops lack."""
    a = layer.attributes
    if len(layer.x) != 4 or layer.x[0] != 1 or layer.group != 1 or "dilations" in a:
        raise all_engines.Unsupported("more than one image, not two axes, groups or dilations")
    sides = {"k": a["kernel_shape"], "s": a["strides"], "p": a.get("pads", [0] * 4)[:2]}
    if any(p >= k for p, k in zip(sides["p"], sides["k"])):
        raise all_engines.Unsupported("pads that reach beyond the kernel")
    return sides | {"in": list(layer.x[2:]), "out": list(layer.y[2:])}


def expanded_sides(layer: Layer) -> list[int]:
    """Of the input with zeros inserted and around it: a convolution of kernel k over it gives the
    output. With P = k - 1 - p zeros at each end this is the paper's 2N - 1 + 2P for stride 2."""
    g = geometry(layer)
    return [o + k - 1 for o, k in zip(g["out"], g["k"])]


def expanded_bytes(layer: Layer) -> int:
    """The paper's (2N - 1 + 2P)^2 * C * 4: memory that segregation never allocates."""
    return 4 * layer.x[1] * math.prod(expanded_sides(layer))


def flipped(w: np.ndarray) -> np.ndarray:
    """Weights of the convolution: output channels first, both axes reversed."""
    return np.ascontiguousarray(w.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])


class ConventionalOrt(all_engines.StockOrt):
    """Zero insertion, padding and convolution as an ONNX graph in stock ONNX Runtime."""

    name = "conventional_ort"

    def prepare(self, layer: Layer, model: ModelProto, x: np.ndarray, w: np.ndarray):
        file = self.file(conventional_model(layer, w))
        return self.bind(self.session(file), {"x": x})


def conventional_model(layer: Layer, w: np.ndarray) -> ModelProto:
    """Each element is repeated, and a mask keeps one of each block: the fastest way to insert zeros
    in ONNX Runtime that was found (but for ConvTranspose with a kernel of 1x1), ten times faster
    than Pad on axes of their own. The convolution pads."""
    g = geometry(layer)
    mask = np.zeros([1, 1, *(s * d for s, d in zip(g["s"], g["in"]))], np.float32)
    mask[..., :: g["s"][0], :: g["s"][1]] = 1
    begin = [k - 1 - p for k, p in zip(g["k"], g["p"])]
    end = [e - s * d - b for e, s, d, b in zip(expanded_sides(layer), g["s"], g["in"], begin)]
    cut = [0] * 6 + [min(e, 0) for e in end]
    arrays = {"scales": np.float32([1, 1, *g["s"]]), "mask": mask, "w": flipped(w)}
    sides = {"mode": "nearest", "nearest_mode": "floor"}
    sides["coordinate_transformation_mode"] = "asymmetric"
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["repeated"], **sides),
        helper.make_node("Mul", ["repeated", "mask"], ["inserted"]),
    ]
    inserted = "inserted"
    if any(cut):  # Conv takes no negative pads
        arrays["cut"] = np.array(cut)
        nodes.append(helper.make_node("Pad", ["inserted", "cut"], ["cropped"]))
        inserted = "cropped"
    pads = [*begin, *(max(e, 0) for e in end)]
    nodes.append(helper.make_node("Conv", [inserted, "w"], ["y"], pads=pads))
    name = f"{layer.name}_conventional"
    return timing.make_model(name, nodes, layer.x, layer.y, arrays)


def compile_loops(directory: Path) -> tuple[ctypes.CDLL, str]:
    """loops.cc as a library, and the compiler's name, version and flags."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if not compiler:
        raise SystemExit("no C++ compiler: CXX is not set and there is no c++, g++ or clang++")
    library = directory / "loops.so"
    command = [*shlex.split(compiler), *FLAGS, str(HERE / "loops.cc"), "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{shlex.join(command)}:\n{result.stderr}")
    version = subprocess.run([*shlex.split(compiler), "--version"], capture_output=True, text=True)
    return ctypes.CDLL(str(library)), f"{version.stdout.splitlines()[0]}, {FLAGS[0]}"


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class ConventionalLoops:
    """Zero insertion, padding and convolution as a plain loop nest."""

    name = "conventional_loops"
    settle = 0.0  # its threads end with the call

    def __init__(self, library: ctypes.CDLL, threads: int):
        self.library, self.threads = library, threads

    def prepare(self, layer: Layer, model: ModelProto, x: np.ndarray, w: np.ndarray):
        g = geometry(layer)
        sides = expanded_sides(layer)
        begin = [k - 1 - p for k, p in zip(g["k"], g["p"])]
        y = np.empty(layer.y, np.float32)
        expanded = np.empty((layer.x[1], *sides), np.float32)
        arrays = [x, flipped(w), y, expanded]
        sizes = [np.array(v, np.int64) for v in (g["in"], g["k"], g["s"], begin, sides, g["out"])]
        counts = [ctypes.c_int64(v) for v in (layer.x[1], layer.m)]

        def run():
            self.library.conventional(
                *map(pointer, arrays), *counts, *map(pointer, sizes), ctypes.c_int64(self.threads)
            )

        return run, lambda: y


@dataclasses.dataclass
class Segregation:
    """The sub-kernels of a layer, and how far zeros reach around its input."""

    taps: list[np.ndarray]  # of each axis, by residue class: a owns the taps a, a + s, ..
    begin: list[int]  # zeros before the input: the window of the longest decides
    sides: list[int]  # with zeros around it
    parts: list[int]  # sides of one convolution's result, if all four have the same

    @classmethod
    def of(cls, layer: Layer, equal_parts: bool) -> Segregation:
        """With equal parts, the input also has zeros for outputs that do not exist."""
        g = geometry(layer)
        axes = list(zip(g["k"], g["s"], g["p"], g["in"], g["out"]))
        taps = [np.array([len(range(a, k, s)) for a in range(s)]) for k, s, *_ in axes]
        parts = [-(-o // s) for _, s, _, _, o in axes]
        begin = [max(int(t.max()) - 1, 0) for t in taps]
        ends = [s * part if equal_parts else o for (_, s, _, _, o), part in zip(axes, parts)]
        last = [max((e - 1 + p) // s, d - 1) for (_, s, p, d, _), e in zip(axes, ends)]
        return cls(taps, begin, [b + i + 1 for b, i in zip(begin, last)], parts)

    def padded_bytes(self, layer: Layer) -> int:
        return 4 * layer.x[1] * math.prod(self.sides)

    def computed(self, layer: Layer) -> int:
        """Outputs of the four convolutions, those that do not exist included."""
        return layer.m * math.prod(self.parts) * math.prod(geometry(layer)["s"])


class UnifiedLoops(ConventionalLoops):
    """Unified kernel segregation as a plain loop nest, the paper's method in its own style."""

    name = "unified_loops"
    function = "unified"
    equal_parts = False

    def prepare(self, layer: Layer, model: ModelProto, x: np.ndarray, w: np.ndarray):
        g = geometry(layer)
        made = Segregation.of(layer, self.equal_parts)
        mirrored = w.transpose(1, 0, 2, 3)
        kernels = [
            np.ascontiguousarray(mirrored[:, :, a :: g["s"][0], b :: g["s"][1]][:, :, ::-1, ::-1])
            for a in range(g["s"][0])
            for b in range(g["s"][1])
        ]
        addresses = np.array([kernel.ctypes.data for kernel in kernels], np.uintp)
        y = np.empty(layer.y, np.float32)
        padded = np.empty((layer.x[1], *made.sides), np.float32)
        arrays = [x, addresses, y, padded]
        if self.equal_parts:
            arrays.append(np.empty(made.computed(layer), np.float32))
        counts = [ctypes.c_int64(v) for v in (layer.x[1], layer.m)]
        sizes = [
            np.array(v, np.int64)
            for v in (g["in"], g["s"], g["p"], made.begin, made.sides, *made.taps, g["out"])
        ]
        function = getattr(self.library, self.function)

        def run(kernels=kernels):  # which the addresses do not keep alive
            function(
                *map(pointer, arrays), *counts, *map(pointer, sizes), ctypes.c_int64(self.threads)
            )

        return run, lambda: y


class SegregatedLoops(UnifiedLoops):
    """Segregation as four convolutions of equal size, interleaved afterwards."""

    name = "segregated_loops"
    function = "segregated"
    equal_parts = True


LOOPS = (ConventionalLoops, SegregatedLoops, UnifiedLoops)


# ---- measuring ---------------------------------------------------------------------------------


def measure(layer: Layer, engines: list, loops: list, repeat: int, seconds: float) -> dict:
    """Milliseconds of each method, after their outputs were found to agree with stock's, the first.
    The loops, hundreds of times slower, take turns of their own and fewer of them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(layer.x, dtype=np.float32)
    w = rng.standard_normal(layer.w, dtype=np.float32)
    model = make_model(layer, w)
    methods = [*engines, *loops]
    prepared = {method.name: method.prepare(layer, model, x, w) for method in methods}
    for run, _ in prepared.values():
        run()
    reference = prepared[methods[0].name][1]()
    for name, (_, output) in prepared.items():
        if problem := disagreement(layer, reference, output()):
            raise SystemExit(f"{layer.name}: {name} {problem}")

    def turns(group: list, repeat: int, seconds: float, warm_up: int) -> list[list[float]]:
        runs = [prepared[method.name][0] for method in group]
        settle = max(method.settle for method in group)
        return timing.in_turns(runs, repeat, seconds, settle, warm_up)

    times = turns(engines, repeat, seconds, timing.WARM_UP) + turns(loops, 1, seconds / 2, 0)
    return {method.name: timing.spread(t) for method, t in zip(methods, times)}


def memory(layer: Layer, threads: int) -> dict:
    """Bytes that each method allocates besides x, w and y: buffers, and weights as it wants them.
    The loops and stock keep one rearranged copy of the weights, of their size."""
    plan = _core.plan(layer.x, layer.w, threads=threads, **layer.attributes)
    four, unified = (Segregation.of(layer, equal_parts) for equal_parts in (True, False))
    return {
        "expanded_bytes": expanded_bytes(layer),
        "segregated_bytes": four.padded_bytes(layer) + 4 * four.computed(layer),
        "unified_bytes": unified.padded_bytes(layer),
        "column_buffer_bytes": layer.column_buffer_bytes,
        "scratch_bytes": plan["scratch_bytes"] * min(threads, plan["tasks"]),
        "weight_bytes": 4 * math.prod(layer.w),
        "packed_bytes": plan["packed_bytes"],
    }


def extra_elements(layer: Layer) -> int:
    """Outputs that four convolutions of equal size compute and that do not exist."""
    return Segregation.of(layer, True).computed(layer) - math.prod(layer.y)


# ---- reporting ---------------------------------------------------------------------------------

METHODS = {
    "stock": "stock",
    "ours": "ours",
    "conventional_ort": "conv. ORT",
    "conventional_loops": "conv. loops",
    "segregated_loops": "segr. loops",
    "unified_loops": "unified loops",
}
# The paper's own comparison: both methods, written in the same way.
LIKE = "conv. loops / unified loops"
# Ratio -> (the slower method, the faster one).
RATIOS = {
    "conv. loops / segr. loops": ("conventional_loops", "segregated_loops"),
    LIKE: ("conventional_loops", "unified_loops"),
    "segr. loops / unified loops": ("segregated_loops", "unified_loops"),
    "conv. loops / ours": ("conventional_loops", "ours"),
    "conv. ORT / stock": ("conventional_ort", "stock"),
    "conv. ORT / ours": ("conventional_ort", "ours"),
    "stock / ours": ("stock", "ours"),
}
NOTES = [
    "Medians. conv.: zero insertion, padding, convolution. segr.: four convolutions, interleaved.",
    "unified: one operation. loops: plain C++, -O2. A ratio above 1: the second method is faster.",
]
MEMORY = {
    "expanded_bytes": "buffers: conventional",
    "segregated_bytes": "segregated",
    "unified_bytes": "unified",
    "column_buffer_bytes": "stock",
    "scratch_bytes": "ours",
    "weight_bytes": "weights, rearranged",
    "packed_bytes": "weights, ours",
    "net_bytes": "net saving",
}


def measured(rows: list[dict]) -> list[str]:
    """The ratios of methods that were all measured: an older record may lack one."""
    return [
        name
        for name, pair in RATIOS.items()
        if all(pair[i] in r["methods"] for r in rows for i in (0, 1))
    ]


def ratio(row: dict, name: str) -> float:
    slow, fast = RATIOS[name]
    return row["methods"][slow]["median_ms"] / row["methods"][fast]["median_ms"]


def average(rows: list[dict], name: str) -> float:
    """Arithmetic, as papers average speed-ups."""
    return statistics.fmean(ratio(row, name) for row in rows)


def by_model(rows: list[dict]) -> dict[str, list[dict]]:
    models: dict[str, list[dict]] = {}
    for row in rows:
        models.setdefault(row["layer"].split("_")[0], []).append(row)
    return models


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f}"


def with_net(memory: dict) -> dict:
    """And what ours saves against the conventional method, prepared weights of both included."""
    if "packed_bytes" not in memory:  # an older record
        return memory
    conventional = memory["expanded_bytes"] + memory["weight_bytes"]
    return memory | {"net_bytes": conventional - memory["scratch_bytes"] - memory["packed_bytes"]}


def memory_table(rows: list[dict]) -> report.Table:
    """The paper reports sums over the layers of a model."""

    def cells_of(own: list[dict]) -> list[str]:
        return [megabytes(sum(r["memory"][name] for r in own)) for name in titles]

    rows = [row | {"memory": with_net(row["memory"])} for row in rows]
    titles = {key: title for key, title in MEMORY.items() if key in rows[0]["memory"]}

    cells = []
    for model, own in by_model(rows).items():
        cells += [[row["layer"], *cells_of([row])] for row in own]
        cells.append([f"{report.SUM}, {model}", *cells_of(own)])
    return ["layer, MB", *titles.values()], cells


def extra_table(rows: list[dict]) -> report.Table:
    """Outputs of odd size only: elsewhere there are none."""
    cells = [
        [
            row["layer"],
            "×".join(map(str, row["y"])),
            str(row["extra_elements"]),
            f"{row['extra_elements'] / math.prod(row['y']):.2%}",
            "0",
            "0",
        ]
        for row in rows
        if row["extra_elements"]
    ]
    return ["layer", "output", "segregated", "of the output", "unified", "conventional"], cells


def time_table(rows: list[dict]) -> report.Table:
    """Times of the methods and ratios between them."""
    names = measured(rows)
    methods = list(rows[0]["methods"])
    cells = []
    for group, entries in report.groups(rows).items():
        for row in entries:
            ms = [report.milliseconds(row["methods"][name]["median_ms"]) for name in methods]
            cells.append([row["layer"], *ms, *(f"{ratio(row, name):.2f}" for name in names)])
        means = [statistics.geometric_mean(ratio(r, name) for r in entries) for name in names]
        blank = [""] * len(methods)
        cells.append([f"{report.MEAN}, {group}", *blank, *(f"{mean:.2f}" for mean in means)])
    return ["layer", *(f"{METHODS[name]} ms" for name in methods), *names], cells


def by_threads(data: dict) -> dict[int, list[dict]]:
    result: dict[int, list[dict]] = {}
    for row in data["results"]:
        result.setdefault(row["threads"], []).append(row)
    return result


def claims(data: dict) -> report.Table:
    """The published averages beside those measured here."""
    published = {
        "images": "{images_cpu_speedup}x (Xeon), {images_gpu_speedup}x (RTX 2070)".format(
            **data["published"]
        ),
        "gan": "{gan_speedup}x".format(**data["published"]),
    }
    runs = by_threads(data)
    cells = []
    for group, title in GROUPS.items():
        own = [[row for row in rows if row["group"] == group] for rows in runs.values()]
        if not all(own):
            continue
        for name in measured([row for rows in own for row in rows]):
            means = [f"{average(rows, name):.2f}x" for rows in own]
            cells.append([f"{title}: {name}", published[group] if name == LIKE else "", *means])
    models = [by_model(rows).get("ebgan") for rows in runs.values()]
    if all(models):
        text = f"up to {data['published']['ebgan_megabytes']} MB"
        count = len(models[0])
        for name, claimed, key in (
            ("zero-inserted inputs never built", text, "expanded_bytes"),
            ("the same, less our scratch and larger weights", "", "net_bytes"),
        ):
            memories = [[with_net(row["memory"]) for row in rows] for rows in models]
            if key in memories[0][0]:
                sums = [f"{megabytes(sum(m[key] for m in own))} MB" for own in memories]
                cells.append([f"EB-GAN, {count} layers: {name}", claimed, *sums])
    return ["claim", "published", *(f"here, {report.threads_text(count)}" for count in runs)], cells


def tables(data: dict) -> dict[str, report.Table]:
    result = {"Claims (arithmetic means over layers)": claims(data)}
    runs = by_threads(data)
    for count, rows in runs.items():
        result[f"Time, {report.threads_text(count)}"] = time_table(rows)
    most = max(runs)
    if all("extra_elements" in row for row in runs[most]):
        result["Extra elements, where the output's size is odd"] = extra_table(runs[most])
    title = f"Memory besides input, weights and output, {report.threads_text(most)}"
    return result | {title: memory_table(runs[most])}


def thread_counts(text: str) -> list[int]:
    counts = list(dict.fromkeys(int(part) for part in text.split(",")))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a number of threads is at least 1")
    return counts


def section(data: dict) -> str:
    """The measured part of the document."""
    lines = ["```", *report.machine_lines(data["machine"]), "```", ""]
    for title, table in tables(data).items():
        lines += [f"### {title}", "", *report.markdown(table), ""]
    return "\n".join([*lines, " ".join(NOTES)])


def merged(parts: list[dict]) -> dict:
    """Results of one machine, say of different numbers of threads, as one."""
    rows = {(r["threads"], r["layer"]): r for part in parts for r in part["results"]}
    info = dict(max((part["machine"] for part in parts), key=lambda m: m["threads"]))
    return {"machine": info, "published": PUBLISHED, "results": list(rows.values())}


def run(args: argparse.Namespace, layers: list[Layer], console: Console) -> dict:
    results = []
    with tempfile.TemporaryDirectory() as directory, console.status("") as status:
        library, compiler = compile_loops(Path(directory))
        for threads in args.threads:
            kinds = (all_engines.StockOrt, all_engines.OrtTconv, ConventionalOrt)
            engines = [kind(threads) for kind in kinds]
            loops = [kind(library, threads) for kind in LOOPS]
            for layer in layers:
                status.update(f"{layer.name}, {report.threads_text(threads)}")
                row = {"group": layer.group_name, "layer": layer.name, "threads": threads}
                row["methods"] = measure(layer, engines, loops, args.repeat, args.seconds)
                row["memory"] = memory(layer, threads)
                row |= {"y": layer.y, "extra_elements": extra_elements(layer)}
                results.append(row)
    info = timing.machine_info(max(args.threads)) | all_engines.versions(engines)
    info["compiler"] = compiler
    return {"machine": info, "published": PUBLISHED, "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="", metavar="REGEX", help="only matching group/name")
    parser.add_argument(
        "--threads",
        type=thread_counts,
        default=f"1,{machine.usable_cores()}",
        metavar="LIST",
        help="numbers with commas between (default: one, and every core: %(default)s)",
    )
    timing.add_run_options(parser, "layer, half for the loops,", 15, 1.0, "1 run a layer")
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="measure nothing")
    timing.add_json_option(parser)
    parser.add_argument("--document", type=Path, metavar="FILE", help="replace its results")
    args = parser.parse_args()
    args.json = timing.json_file(args, "paper", max(args.threads))
    if args.quick:
        args.repeat, args.seconds = 1, 0.0

    layers = load_layers(HERE / "workloads.json", args.layers)
    layers = [layer for layer in layers if layer.group_name in GROUPS]
    if not layers:
        parser.error(f"--layers {args.layers!r} matches no layer of {', '.join(GROUPS)}")
    console = report.make_console()
    if args.results:
        data = merged([json.loads(path.read_text()) for path in args.results])
    else:
        data = run(args, layers, console)
    report.print_results(console, data["machine"], tables(data), NOTES)
    report.write_json(data, args.json)
    if args.document:
        report.fill(args.document, section(data))


if __name__ == "__main__":
    sys.exit(main())
