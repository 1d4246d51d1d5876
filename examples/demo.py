"""Two real jobs, with stock ONNX Runtime and with ort-tconv, side by side.

1. Text recognition: the PP-OCR text detector that RapidOCR ships is converted, validated, and run
   inside RapidOCR's own pipeline. The text read from the page must be the same.
2. Image generation: a DCGAN generator (random weights) is converted, validated and timed.

What both detectors found on the page is drawn side by side into a picture, build/demo.png or the
file that is named. Exits with 1 if any output differs.

    python examples/demo.py [FILE.png]
"""

from __future__ import annotations

import statistics
import sys
import time
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw, ImageFont
from rapidocr_onnxruntime import RapidOCR
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table

import ort_tconv

console = Console()

PICTURE = Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo.png")
PAGE = [  # short enough for two columns in a terminal
    "Transposed convolution",
    "makes images larger.",
    "Stride 2, kernel 4 x 4:",
    "four kernels of 2 x 2 in one.",
    "Invoice 2026-11-21, total 49.99",
]


def main() -> int:
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    checks = [*text_recognition(), *image_generation()]

    table = Table.grid(padding=(0, 2))
    for name, good, detail in checks:
        table.add_row("[green]ok[/]" if good else "[red]FAILED[/]", name, detail)
    passed = all(good for _, good, _ in checks)
    verdict = (
        "The converted models give the results of the original ones."
        if passed
        else "A converted model gives other results than the original one."
    )
    color = "green" if passed else "red"
    console.print(
        Panel(Group(table, "", f"[bold]{verdict}[/]"), title="Summary", border_style=color)
    )
    return 0 if passed else 1


# ---- 1. text recognition -----------------------------------------------------------------------


def text_recognition():
    console.rule("1. Text recognition: the PP-OCR detector in RapidOCR")
    path = resources.files("rapidocr_onnxruntime") / "models" / "ch_PP-OCRv4_det_infer.onnx"
    original = onnx.load(str(path))
    converted, *converted_all = convert(original)

    # The detector sees what RapidOCR would feed it for this page.
    page = render_page()
    ocr = RapidOCR()
    feed = ocr.text_det.get_preprocess(max(page.shape[:2]))(page)
    report = ort_tconv.validate(original, converted, inputs={original.graph.input[0].name: feed})
    console.print(report)
    save_picture(page, *(text_found(model, feed) for model in (original, converted)))
    console.print(f"What both found on the page: {PICTURE}")

    stock_lines = read_lines(ocr, page)
    # RapidOCR keeps the detector's session in one attribute; everything else stays as it is.
    ocr.text_det.infer.session = ort.InferenceSession(
        converted.SerializeToString(),
        ort_tconv.register(ort.SessionOptions()),
        providers=ort_tconv.available_providers(),
    )
    our_lines = read_lines(ocr, page)

    console.print("RapidOCR's own pipeline, with either detector, on a rendered page:")
    table = Table("", "read with stock ONNX Runtime", "read with ort-tconv")
    for i in range(max(len(stock_lines), len(our_lines))):
        a = stock_lines[i] if i < len(stock_lines) else ""
        b = our_lines[i] if i < len(our_lines) else ""
        table.add_row("[green]=[/]" if a == b else "[red]differs[/]", a, b)
    console.print(table)

    # A page from which nothing is read would make the comparison empty.
    same = stock_lines == our_lines and len(stock_lines) >= len(PAGE)
    return [
        ("PP-OCR detector converted", *converted_all),
        ("PP-OCR detector validated", report.ok, "equals stock ONNX Runtime, up to rounding"),
        ("RapidOCR reads the same text", same, f"{len(our_lines)} lines"),
    ]


def render_page() -> np.ndarray:
    """A page of text, as a BGR image."""
    image = Image.new("RGB", (960, 120 + 90 * len(PAGE)), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=34)
    for i, line in enumerate(PAGE):
        draw.text((60, 60 + 90 * i), line, fill="black", font=font)
    return np.asarray(image)[:, :, ::-1]


def text_found(model: onnx.ModelProto, feed: np.ndarray) -> np.ndarray:
    """The detector's output: for each pixel, how sure it is that text is there."""
    session = ort.InferenceSession(
        model.SerializeToString(),
        ort_tconv.register(ort.SessionOptions()),
        providers=["CPUExecutionProvider"],
    )
    (found,) = session.run(None, {session.get_inputs()[0].name: feed})
    return found[0, 0]


def save_picture(page: np.ndarray, stock: np.ndarray, ours: np.ndarray) -> None:
    """The page, tinted where either model found text, with stock on the left."""
    halves = []
    for title, found in (("stock ONNX Runtime", stock), ("ort-tconv", ours)):
        paper = Image.fromarray(np.ascontiguousarray(page[:, :, ::-1]))
        sure = Image.fromarray((160 * found.clip(0, 1)).astype(np.uint8)).resize(paper.size)
        tint = Image.composite(Image.new("RGB", paper.size, "#79b0f2"), paper, sure)
        ImageDraw.Draw(tint).text(
            (24, 12), title, fill="#1f2328", font=ImageFont.load_default(size=28)
        )
        halves.append(tint.resize((paper.width // 2, paper.height // 2)))
    both = Image.new("RGB", (2 * halves[0].width + 8, halves[0].height), "#848d97")
    for index, half in enumerate(halves):
        both.paste(half, (index * (half.width + 8), 0))
    both.save(PICTURE, optimize=True)


def read_lines(ocr: RapidOCR, page: np.ndarray) -> list[str]:
    result, _ = ocr(page)
    return [text for _, text, _ in result or []]


# ---- 2. image generation -----------------------------------------------------------------------


def image_generation():
    console.rule("2. Image generation: a DCGAN generator")
    original = dcgan_generator()
    converted, *converted_all = convert(original)

    feed = {"z": np.random.default_rng(1).standard_normal((1, 100, 1, 1), dtype=np.float32)}
    report = ort_tconv.validate(original, converted, inputs=feed)
    console.print(report)

    stock_ms, our_ms = time_both(original, converted, feed)
    table = Table("one 64x64 image, batch 1", "median ms")
    table.add_row("stock ONNX Runtime", f"{stock_ms:.2f}")
    table.add_row("ort-tconv", f"{our_ms:.2f}")
    console.print(table)
    speed = f"stock {stock_ms:.1f} ms, ort-tconv {our_ms:.1f} ms: {stock_ms / our_ms:.2f}x"
    return [
        ("DCGAN generator converted", *converted_all),
        ("DCGAN generator validated", report.ok, "equals stock ONNX Runtime, up to rounding"),
        ("DCGAN generator timed", True, speed),
    ]


def dcgan_generator(channels=(100, 1024, 512, 256, 128, 3)) -> onnx.ModelProto:
    """The generator of the DCGAN paper: ConvTranspose, BatchNormalization, Relu, four times, and
    ConvTranspose, Tanh. Weights are random, scaled so that the signal neither dies nor explodes."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def constant(name, array):
        weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    x, last = "z", len(channels) - 2
    for i, (c, m) in enumerate(pairwise(channels)):
        # The first layer turns 1x1 into 4x4, each of the others doubles the sides.
        strides, pads = ([1, 1], [0] * 4) if i == 0 else ([2, 2], [1] * 4)
        taps = 1 if i == 0 else 4  # how many input pixels meet in one output pixel
        w = constant(f"w{i}", rng.standard_normal((c, m, 4, 4)) * np.sqrt(2 / (c * taps)))
        sides = {"strides": strides, "pads": pads}
        nodes.append(helper.make_node("ConvTranspose", [x, w], [f"conv{i}"], **sides))
        if i == last:
            nodes.append(helper.make_node("Tanh", [f"conv{i}"], ["image"]))
            break
        statistics_ = [
            constant(f"scale{i}", 1 + 0.02 * rng.standard_normal(m)),
            constant(f"bias{i}", 0.02 * rng.standard_normal(m)),
            constant(f"mean{i}", 0.02 * rng.standard_normal(m)),
            constant(f"var{i}", 1 + 0.02 * rng.random(m)),
        ]
        nodes.append(helper.make_node("BatchNormalization", [f"conv{i}", *statistics_], [f"bn{i}"]))
        x = f"relu{i}"
        nodes.append(helper.make_node("Relu", [f"bn{i}"], [x]))

    graph = helper.make_graph(
        nodes,
        "dcgan",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, channels[0], 1, 1])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels[-1], 64, 64])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def time_both(original, converted, feed, seconds=5.0) -> tuple[float, float]:
    """Medians in milliseconds, measured in turns so that both see the same machine."""

    def session(model, register):
        options = ort.SessionOptions()
        # Otherwise the idle threads of one session keep spinning on the cores that the other needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if register:
            ort_tconv.register(options)
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    sessions = session(original, False), session(converted, True)
    for s in sessions:
        for _ in range(5):
            s.run(None, feed)
    times = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 10:
        for s, t in zip(sessions, times):
            start = time.perf_counter()
            s.run(None, feed)
            t.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


# ---- both --------------------------------------------------------------------------------------


def convert(original: onnx.ModelProto) -> tuple[onnx.ModelProto, bool, str]:
    """The converted model, whether each ConvTranspose was replaced, and that in words."""
    converted = ort_tconv.convert(original)
    total = sum(n.op_type == "ConvTranspose" for n in original.graph.node)
    left = sum(n.op_type == "ConvTranspose" for n in converted.graph.node)
    words = f"{total - left} of {total} ConvTranspose nodes"
    console.print(f"Converted: {words} now use ort-tconv's operator.")
    console.print("Validated: both models on the same input, the original in stock ONNX Runtime.")
    return converted, left == 0 < total, words


if __name__ == "__main__":
    sys.exit(main())
