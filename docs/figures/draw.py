"""Draws the figures of the documents from the library's own geometry and plans.

    python docs/figures/draw.py [--check] [DIRECTORY]

Every number and colour in them comes from ort_tconv._core. The files are a function of the code
alone, byte by byte: --check says which of those in the directory are not what would be drawn.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

from ort_tconv import _core

HERE = Path(__file__).resolve().parent
# One colour a residue class of the plane, or an algorithm; told apart by the colour-blind, too.
COLORS = [
    "#4477aa",
    "#ee8866",
    "#44aa77",
    "#ddbb44",
    "#bb5588",
    "#77aadd",
    "#99bb55",
    "#aa7744",
    "#888888",
]
INK, PALE, DATA = "#222222", "#eeeeee", "#99aabb"


class Drawing:
    """An SVG file: a white page, grids of cells, text, arrows."""

    def __init__(self, width: int, height: int, title: str):
        self.root = ElementTree.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "viewBox": f"0 0 {width} {height}",
                "width": str(width),
                "height": str(height),
                "font-family": "system-ui, Helvetica, Arial, sans-serif",
                "role": "img",
            },
        )
        ElementTree.SubElement(self.root, "title").text = title
        self.rect(0, 0, width, height, "white")

    def add(self, tag: str, text: str | None = None, **attributes) -> None:
        names = {key.replace("_", "-"): f"{value}" for key, value in attributes.items()}
        ElementTree.SubElement(self.root, tag, names).text = text

    def rect(self, x, y, width, height, fill, stroke="none", line=1) -> None:
        self.add(
            "rect",
            x=x,
            y=y,
            width=width,
            height=height,
            fill=fill,
            stroke=stroke,
            stroke_width=line,
        )

    def text(self, x, y, text, size=13, anchor="middle", weight="normal", fill=INK) -> None:
        self.add(
            "text",
            text,
            x=x,
            y=y,
            font_size=size,
            text_anchor=anchor,
            font_weight=weight,
            fill=fill,
        )

    def cells(self, x, y, size, colors, labels=None) -> None:
        """A grid of squares; colours and labels by row."""
        for i, row in enumerate(colors):
            for j, color in enumerate(row):
                self.rect(x + j * size, y + i * size, size, size, color, "white")
                if labels:
                    at = x + (j + 0.5) * size, y + (i + 0.5) * size + 4
                    self.text(*at, labels[i][j], size=10, fill="white")

    def frame(self, x, y, size, rows, columns) -> None:
        self.rect(x, y, size * columns, size * rows, "none", INK, 2.5)

    def arrow(self, x, y, to_x, to_y=None) -> None:
        """Horizontal, or vertical if to_y is given and to_x is x."""
        to_y = y if to_y is None else to_y
        self.add("line", x1=x, y1=y, x2=to_x, y2=to_y, stroke=INK, stroke_width=1.5)
        head = [(-7, -4), (-7, 4)] if to_y == y else [(-4, -7), (4, -7)]
        points = [(to_x, to_y), *((to_x + dx, to_y + dy) for dx, dy in head)]
        self.add("polygon", points=" ".join(f"{px},{py}" for px, py in points), fill=INK)

    def __str__(self) -> str:
        ElementTree.indent(self.root, " ")
        return ElementTree.tostring(self.root, encoding="unicode") + "\n"


def axis_classes(k: int, s: int, p: int, n: int, aligned: bool = False) -> dict:
    """The residue classes of one axis."""
    axes = _core.residue_classes([1, 1, n, n], [1, 1, k, k], aligned, strides=[s, s], pads=[p] * 4)
    return axes[0]


def color_of(axis: dict, row: int, column: int) -> str:
    return COLORS[row * len(axis["classes"]) + column]


def output_colors(axis: dict) -> list[list[str]]:
    residues = [c["residue"] for c in axis["classes"]]
    owner = [residues.index(o % axis["stride"]) for o in range(axis["out"])]
    return [[color_of(axis, i, j) for j in owner] for i in owner]


# ---- the figures -------------------------------------------------------------------------------


def segregation() -> Drawing:
    """A 5x5 kernel of stride 2 falls apart into four dense kernels."""
    k, s, p, n = 5, 2, 2, 5
    axis = axis_classes(k, s, p, n)
    classes = axis["classes"]
    owner = {tap: i for i, c in enumerate(classes) for tap, _ in c["taps"]}
    d = Drawing(900, 300, "Kernel segregation: one 5x5 kernel of stride 2 is four dense kernels")
    size, top = 24, 70
    d.text(85, 40, f"kernel {k}×{k}, stride {s}", weight="bold")
    colors = [[color_of(axis, owner[i], owner[j]) for j in range(k)] for i in range(k)]
    labels = [[f"{i}{j}" for j in range(k)] for i in range(k)]
    d.cells(25, top, size, colors, labels)
    d.arrow(155, top + 60, 190)

    sizes = [len(c["taps"]) for c in classes]
    d.text(285, 40, f"{len(classes) ** 2} dense sub-kernels", weight="bold")
    for a, b in product(range(len(classes)), repeat=2):
        taps = [sorted(tap for tap, _ in classes[i]["taps"]) for i in (a, b)]
        labels = [[f"{i}{j}" for j in taps[1]] for i in taps[0]]
        colors = [[color_of(axis, a, b)] * sizes[b] for _ in range(sizes[a])]
        x, y = 205 + b * (sizes[0] + 0.7) * size, top - 10 + a * (sizes[0] + 1.2) * size
        d.cells(x, y, size, colors, labels)
        d.text(x + sizes[b] * size / 2, y + sizes[a] * size + 15, f"{sizes[a]}×{sizes[b]}", size=12)

    low, high = axis["offsets"][0], axis["offsets"][-1]
    j = 2  # the block of outputs that is shown
    d.text(465, 40, f"input {n}×{n}", weight="bold")
    d.cells(405, top, size, [[DATA] * n for _ in range(n)])
    window = high - low + 1
    d.frame(405 + (j + low) * size, top + (j + low) * size, size, window, window)
    d.text(465, top + n * size + 22, f"one {window}×{window} window", size=12)
    d.text(465, top + n * size + 38, "serves all sub-kernels", size=12)
    d.arrow(540, top + 60, 575)

    out = axis["out"]
    d.text(590 + out * size / 2, 40, f"output {out}×{out}", weight="bold")
    d.cells(590, top - 15, size, output_colors(axis))
    d.frame(590 + j * s * size, top - 15 + j * s * size, size, s, s)
    d.text(820, top + 60, "colour: the", size=12, anchor="start")
    d.text(820, top + 76, "sub-kernel", size=12, anchor="start")
    d.text(820, top + 92, "that makes", size=12, anchor="start")
    d.text(820, top + 108, "the output", size=12, anchor="start")
    return d


def conventional() -> Drawing:
    """The zero-inserted input and a kernel over it, beside the window of a sub-kernel."""
    k, s, p, n = 4, 2, 1, 4
    axis = axis_classes(k, s, p, n)
    out, zeros = axis["out"], k - 1 - p
    side = out + k - 1
    # Output o is the convolution's, too: its kernel begins at o of the expanded input.
    data = {zeros + s * i for i in range(n)}
    o = 3
    met = sum(u in data for u in range(o, o + k)) ** 2
    d = Drawing(760, 360, "The conventional method multiplies by inserted zeros")
    size, top = 24, 60
    d.text(25, 30, "conventional: zeros inserted, then a convolution", 13, "start", "bold")
    colors = [[DATA if {i, j} <= data else PALE for j in range(side)] for i in range(side)]
    d.cells(25, top, size, colors)
    d.frame(25 + o * size, top + o * size, size, k, k)
    y = top + side * size + 18
    d.text(25, y, f"{side}×{side} = {side * side} values, {n * n} of them data", 12, "start")
    d.text(
        25, y + 16, f"an output: {k * k} products, {k * k - met} of them with a zero", 12, "start"
    )

    (cls,) = [c for c in axis["classes"] if c["residue"] == o % s]
    offsets = [offset for _, offset in cls["taps"]]
    first, x = o // s + min(offsets), 420
    d.text(x + 150, 30, "segregated: the sub-kernel of that output", weight="bold")
    d.cells(x, top + 84, size, [[DATA] * n for _ in range(n)])
    d.frame(x + first * size, top + 84 + first * size, size, len(offsets), len(offsets))
    d.arrow(x + n * size + 15, top + 132, x + n * size + 60)
    grid = output_colors(axis)
    left = x + n * size + 75
    d.cells(left, top + 36, 20, grid)
    d.frame(left + o * 20, top + 36 + o * 20, 20, 1, 1)
    d.text(x, y, f"{n}×{n} values, nothing is built", 12, "start")
    d.text(x, y + 16, f"an output: {len(offsets) ** 2} products, all with data", 12, "start")
    return d


def tiles() -> Drawing:
    """A tile of the output and the input window that it needs, as planned for a real layer."""
    n, c, m, k, s, p = 128, 64, 64, 4, 2, 1  # EB-GAN's last layer
    plan = _core.plan(
        [1, c, n, n],
        [c, m, k, k],
        isa="avx2",
        threads=4,
        machine={"l2_bytes": MIB, "l3_bytes": 2 * MIB, "l3_sharers": 16},
        strides=[s, s],
        pads=[p] * 4,
    )
    axis = axis_classes(k, s, p, n, plan["aligned"])
    tile, counts = plan["tile"][1:], plan["tiles"][1:]
    low, high = axis["offsets"][0], axis["offsets"][-1]
    scale = 2
    d = Drawing(860, 640, "A tile of the output and its input window")

    def span(first: int, length: int, end: int) -> tuple[int, int]:
        """The part of a line that exists, and its length."""
        start = max(first, 0)
        return start, min(first + length, end) - start

    here = [min(1, count - 1) for count in counts]
    x0, y0 = 25, 70
    d.text(x0 + n * scale / 2, 50, f"input, {c} channels of {n}×{n}", weight="bold")
    d.rect(x0, y0, n * scale, n * scale, DATA)
    window = [span(h * t + low, t + high - low, n) for h, t in zip(here, tile)]
    (wy, wh), (wx, ww) = window
    d.rect(x0 + wx * scale, y0 + wy * scale, ww * scale, wh * scale, "#ffffff66", INK, 2)
    d.text(
        x0 + n * scale / 2,
        y0 + n * scale + 22,
        f"the tile's window, {wh}×{ww} of all channels,",
        12,
    )
    d.text(x0 + n * scale / 2, y0 + n * scale + 38, "is loaded once", 12)
    d.arrow(x0 + n * scale + 12, y0 + 128, x0 + n * scale + 44)

    out, x1 = axis["out"], x0 + n * scale + 60
    d.text(x1 + out * scale / 2, 50, f"output, {m} channels of {out}×{out}", weight="bold")
    d.rect(x1, y0, out * scale, out * scale, PALE)
    for index in product(*map(range, counts)):
        (ty, th), (tx, tw) = [
            span(s * i * t + axis["origin"], s * t, out) for i, t in zip(index, tile)
        ]
        fill = COLORS[0] if list(index) == here else "none"
        d.rect(x1 + tx * scale, y0 + ty * scale, tw * scale, th * scale, fill, INK, 1)
    outputs = "×".join(str(s * t) for t in tile)
    text = f"{counts[0] * counts[1]} tiles of up to {outputs} outputs; a thread takes whole ones,"
    d.text(x1 + out * scale / 2, y0 + out * scale + 22, text, 12)
    text = f"writes finished rows, and holds {plan['scratch_bytes'] / 1024:.0f} KB of scratch"
    d.text(x1 + out * scale / 2, y0 + out * scale + 38, text, 12)
    return d


def winograd() -> Drawing:
    """One transformed input tile serves every sub-kernel."""
    k, s, p, n = 4, 2, 1, 16
    axis = axis_classes(k, s, p, n, aligned=True)
    taps = {len(c["taps"]) for c in axis["classes"]}
    most, lines = max(taps), 4  # F(3,2) and F(2,3) both read tiles of 4 lines (core/winograd.h)
    step = lines + 1 - most
    d = Drawing(860, 390, "Unified Winograd: one transformed tile serves every sub-kernel")
    size, middle = 20, 200
    tile = lines * size
    d.text(25 + tile / 2, middle - 62, f"{lines}×{lines} of the input", weight="bold")
    d.cells(25, middle - tile / 2, size, [[DATA] * lines for _ in range(lines)])
    d.arrow(115, middle, 165)
    d.text(140, middle - 10, "Bᵀ d B", 12)
    d.text(175 + tile / 2, middle - 62, "transformed once", weight="bold")
    d.cells(175, middle - tile / 2, size, [["#667788"] * lines for _ in range(lines)])

    classes = len(axis["classes"])
    left, gap = 345, 90
    for index, (a, b) in enumerate(product(range(classes), repeat=2)):
        y = middle + (index - (classes**2 - 1) / 2) * gap
        color = color_of(axis, a, b)
        d.arrow(268, middle, left - 8, y) if y == middle else d.add(
            "line", x1=268, y1=middle, x2=left - 8, y2=y, stroke=INK, stroke_width=1.5
        )
        cell = size * 0.9
        d.cells(left, y - 2 * cell, cell, [[color] * lines for _ in range(lines)])
        d.text(left + 4.6 * cell, y + 4, "⊙ G w Gᵀ", 12, "start")
        d.arrow(left + 8.6 * cell, y, left + 10.5 * cell)
        d.cells(left + 11 * cell, y - step / 2 * cell, cell, [[color] * step for _ in range(step)])
        d.add(
            "line",
            x1=left + (11 + step + 0.4) * cell,
            y1=y,
            x2=672,
            y2=middle,
            stroke=INK,
            stroke_width=1.5,
        )
    owner = sorted(range(classes), key=lambda i: -axis["classes"][i]["shift"])
    side = step * s
    colors = [
        [color_of(axis, owner[i % s], owner[j % s]) for j in range(side)] for i in range(side)
    ]
    d.text(685 + side * size / 2, middle - 76, f"{side}×{side} of the output", weight="bold")
    d.cells(685, middle - side * size / 2, size, colors)
    products, direct = lines**2, (step * most) ** 2
    d.text(685 + side * size / 2, middle + 85, f"{products} products for {step}×{step} outputs", 12)
    d.text(685 + side * size / 2, middle + 101, f"of a {most}×{most} sub-kernel,", 12)
    d.text(685 + side * size / 2, middle + 117, f"instead of {direct}", 12)
    return d


def upsampling() -> Drawing:
    """Nearest upsampling and a convolution are a transposed convolution with a longer kernel."""
    k, s, p, n, o = 3, 2, 1, 4, 3
    axis = axis_classes(k + s - 1, s, k - 1 - p, n)
    (cls,) = [c for c in axis["classes"] if c["residue"] == o % s]
    met = sorted(o // s + offset for _, offset in cls["taps"])
    seen = [q // s for q in range(o - p, o - p + k)]  # what the window over the enlarged image sees
    assert met == sorted(set(seen)), (met, seen)
    side = s * n
    d = Drawing(760, 300, "Nearest upsampling and a convolution as one transposed convolution")
    size, top = 24, 60

    def shade(i: int, j: int) -> str:
        return DATA if (i + j) % 2 else "#bbc7d2"

    d.text(25, 30, f"upsampled to {side}×{side}, then {k}×{k}", 13, "start", "bold")
    d.cells(25, top, size, [[shade(i // s, j // s) for j in range(side)] for i in range(side)])
    d.frame(25 + (o - p) * size, top + (o - p) * size, size, k, k)
    y = top + side * size + 20
    d.text(25, y, f"an output: {k * k} products with {len(met) ** 2} different pixels", 12, "start")
    x = 330
    d.text(x, 30, f"transposed, {k + s - 1}×{k + s - 1}, stride {s}", 13, "start", "bold")
    d.cells(x, top + 48, size, [[shade(i, j) for j in range(n)] for i in range(n)])
    d.frame(x + met[0] * size, top + 48 + met[0] * size, size, len(met), len(met))
    d.arrow(x + n * size + 15, top + 96, x + n * size + 60)
    left = x + n * size + 75
    d.cells(left, top, size, output_colors(axis))
    d.frame(left + o * size, top + o * size, size, 1, 1)
    d.text(x, y, f"an output: {len(met) ** 2} products; weights that met", 12, "start")
    d.text(x, y + 16, "the same pixel are summed beforehand", 12, "start")
    return d


MIB = 1 << 20
SIDES = [4, 8, 16, 32, 64, 128, 256]
CHANNELS = [1, 4, 16, 32, 64, 128, 256, 512, 1024]


def plans() -> Drawing:
    """The algorithm chosen by number of channels and size of the image."""
    isas = ["avx2", "avx512"]
    d = Drawing(900, 420, "The plan by channels and image size")
    names: dict[str, str] = {}
    for panel, isa in enumerate(isas):
        x0, y0, size = 75 + panel * 420, 75, 30
        d.text(x0 + len(SIDES) * 22, 30, f"{isa}", weight="bold")
        d.text(x0 + len(SIDES) * 22, 48, "kernel 4×4, stride 2, C → C, batch 1, 2 threads", 11)
        for i, c in enumerate(CHANNELS):
            d.text(x0 - 8, y0 + i * size + 19, str(c), 11, "end")
            for j, n in enumerate(SIDES):
                plan = _core.plan(
                    [1, c, n, n],
                    [c, c, 4, 4],
                    isa=isa,
                    threads=2,
                    machine={"l2_bytes": MIB, "l3_bytes": 2 * MIB, "l3_sharers": 16},
                    strides=[2, 2],
                    pads=[1] * 4,
                )
                name = plan["algorithm"]
                if name == "winograd":
                    axes = sum(plan["transform"])
                    name += f", {axes} {'axis' if axes == 1 else 'axes'}"
                color = names.setdefault(name, COLORS[len(names)])
                d.rect(x0 + j * 44, y0 + i * size, 44, size, color, "white")
        for j, n in enumerate(SIDES):
            d.text(x0 + j * 44 + 22, y0 + len(CHANNELS) * size + 16, str(n), 11)
        d.text(x0 + len(SIDES) * 22, y0 + len(CHANNELS) * size + 34, "side of the input", 12)
    d.text(20, 66, "channels", 12, "start")
    for i, (name, color) in enumerate(sorted(names.items())):
        d.rect(75 + i * 180, 392, 16, 16, color)
        d.text(98 + i * 180, 405, name, 13, "start")
    return d


FIGURES = (segregation, conventional, tiles, winograd, plans, upsampling)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="?", default=HERE)
    parser.add_argument("--check", action="store_true", help="draw nothing, compare")
    args = parser.parse_args()
    if not {"avx2", "avx512"} <= {*_core.compiled_isas()}:
        print("The figures show plans for x86 kernels, which this build lacks: nothing done.")
        return 0
    stale = []
    for figure in FIGURES:
        path = args.directory / f"{figure.__name__}.svg"
        text = str(figure())
        if not args.check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"not what the code draws now: {', '.join(stale)}; run make figures")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
