"""Draws the figures of the documents from the library's own geometry and plans.

    python docs/figures/draw.py [--check] [DIRECTORY]

Every number and colour in them comes from ort_tconv._core. The files are a function of the code
alone, byte by byte: --check says which of those in the directory are not what would be drawn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

from drawing import COLORS, DATA, EMPTY, LINE, MUTED, OTHER_DATA, PAGE, Drawing

from ort_tconv import _core

HERE = Path(__file__).resolve().parent


def axis_classes(k: int, s: int, p: int, n: int, aligned: bool = False) -> dict:
    """The residue classes of one axis."""
    axes = _core.residue_classes([1, 1, n, n], [1, 1, k, k], aligned, strides=[s, s], pads=[p] * 4)
    return axes[0]


def color_of(axis: dict, row: int, column: int) -> str:
    return COLORS[row * len(axis["classes"]) + column]


def output_grid(axis: dict, of: Callable[[dict, int, int], str]) -> list[list[str]]:
    """What ``of`` says of the sub-kernel of each output."""
    residues = [c["residue"] for c in axis["classes"]]
    owner = [residues.index(o % axis["stride"]) for o in range(axis["out"])]
    return [[of(axis, i, j) for j in owner] for i in owner]


# ---- the figures -------------------------------------------------------------------------------


def letter(axis: dict, row: int, column: int) -> str:
    """The name of a sub-kernel in the figures."""
    return "ABCDEFGHI"[row * len(axis["classes"]) + column]


def segregation() -> Drawing:
    """A 5x5 kernel of stride 2 falls apart into four dense kernels."""
    k, s, p, n = 5, 2, 2, 5
    axis = axis_classes(k, s, p, n)
    classes = axis["classes"]
    owner = {tap: i for i, c in enumerate(classes) for tap, _ in c["taps"]}
    d = Drawing(720, 264, "Kernel segregation: one 5x5 kernel of stride 2 is four dense kernels")
    size, middle, caption = 22, 132, 232
    top = middle - k * size / 2
    d.text(20, 28, f"kernel {k}×{k}, stride {s}", 13, "start", "bold")
    colors = [[color_of(axis, owner[i], owner[j]) for j in range(k)] for i in range(k)]
    labels = [[f"{i}{j}" for j in range(k)] for i in range(k)]
    d.cells(20, top, size, colors, labels)
    d.text(20, caption, "numbers: row and\ncolumn of a weight", anchor="start", fill=MUTED)
    d.arrow(140, middle, 170)

    sizes = [len(c["taps"]) for c in classes]
    d.text(182, 28, f"{len(classes) ** 2} dense sub-kernels", 13, "start", "bold")
    for a, b in product(range(len(classes)), repeat=2):
        taps = [sorted(tap for tap, _ in classes[i]["taps"]) for i in (a, b)]
        labels = [[f"{i}{j}" for j in taps[1]] for i in taps[0]]
        colors = [[color_of(axis, a, b)] * sizes[b] for _ in range(sizes[a])]
        x, y = 182 + b * (sizes[0] + 0.6) * size, 62 + a * (sizes[0] + 1.25) * size
        d.cells(x, y, size, colors, labels)
        name = f"{letter(axis, a, b)}: {sizes[a]}×{sizes[b]}"
        d.text(x + sizes[b] * size / 2, y - 6, name)
    d.text(182, caption, "no gaps left", anchor="start", fill=MUTED)

    low, high = axis["offsets"][0], axis["offsets"][-1]
    j = 2  # the block of outputs that is shown
    left = 352
    d.text(left, 28, f"input {n}×{n}", 13, "start", "bold")
    d.cells(left, top, size, [[DATA] * n for _ in range(n)])
    window = high - low + 1
    d.frame(left + (j + low) * size, top + (j + low) * size, size, window, window)
    text = f"one {window}×{window} window\nserves all four"
    d.text(left, caption, text, anchor="start", fill=MUTED)
    d.arrow(left + n * size + 12, middle, left + n * size + 42)

    out, cell, left = axis["out"], 18, 524
    d.text(left, 28, f"output {out}×{out}", 13, "start", "bold")
    top = middle - out * cell / 2
    names = output_grid(axis, letter)
    d.cells(left, top, cell, output_grid(axis, color_of), names, 11)
    d.frame(left + j * s * cell, top + j * s * cell, cell, s, s)
    d.text(
        left, caption, "letter: the sub-kernel that\nmakes the output", anchor="start", fill=MUTED
    )
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
    d = Drawing(720, 372, "The conventional method multiplies by inserted zeros")
    size, top, caption = 24, 54, 342
    d.text(20, 30, "conventional: insert zeros, then convolve", 13, "start", "bold")
    colors = [[DATA if {i, j} <= data else EMPTY for j in range(side)] for i in range(side)]
    labels = [["" if {i, j} <= data else "0" for j in range(side)] for i in range(side)]
    d.cells(20, top, size, colors, labels)
    d.frame(20 + o * size, top + o * size, size, k, k)
    text = (
        f"{side}×{side} = {side * side} values, {n * n} of them data\n"
        f"an output: {k * k} products, {k * k - met} of them with a zero"
    )
    d.text(20, caption, text, anchor="start", fill=MUTED)

    index, cls = next((i, c) for i, c in enumerate(axis["classes"]) if c["residue"] == o % s)
    offsets = [offset for _, offset in cls["taps"]]
    first, x, cell = o // s + min(offsets), 372, 22
    name = letter(axis, index, index)
    middle = top + side * size / 2
    d.text(x, 30, f"segregated: sub-kernel {name} on the input as it is", 13, "start", "bold")
    d.cells(x, middle - n * size / 2, size, [[DATA] * n for _ in range(n)])
    d.frame(x + first * size, middle + (first - n / 2) * size, size, len(offsets), len(offsets))
    d.arrow(x + n * size + 10, middle, x + n * size + 38)
    left, top = x + n * size + 48, middle - out * cell / 2
    d.cells(left, top, cell, output_grid(axis, color_of), output_grid(axis, letter))
    d.frame(left + o * cell, top + o * cell, cell, 1, 1)
    text = (
        f"{n}×{n} values, nothing is built\n"
        f"an output: {len(offsets) ** 2} products, all of them with data"
    )
    d.text(x, caption, text, anchor="start", fill=MUTED)
    return d


def tiles() -> Drawing:
    """A tile of the output and the input window that it needs, as planned for a real layer."""
    n, c, m, k, s, p = 128, 64, 64, 4, 2, 1  # EB-GAN's last layer
    plan = _core.plan(
        [1, c, n, n],
        [c, m, k, k],
        isa="avx2",
        threads=4,
        machine=MACHINE,
        strides=[s, s],
        pads=[p] * 4,
    )
    axis = axis_classes(k, s, p, n, plan["aligned"])
    tile, counts = plan["tile"][1:], plan["tiles"][1:]
    low, high = axis["offsets"][0], axis["offsets"][-1]
    scale = 1.375
    d = Drawing(720, 436, "A tile of the output and its input window")

    def span(first: int, length: int, end: int) -> tuple[int, int]:
        """The part of a line that exists, and its length."""
        start = max(first, 0)
        return start, min(first + length, end) - start

    here = [min(1, count - 1) for count in counts]
    x0, y0 = 20, 54
    d.text(x0, 30, f"input: {c} channels of {n}×{n}", 13, "start", "bold")
    d.rect(x0, y0, n * scale, n * scale, DATA)
    window = [span(h * t + low, t + high - low, n) for h, t in zip(here, tile)]
    (wy, wh), (wx, ww) = window
    d.rect(x0 + wx * scale, y0 + wy * scale, ww * scale, wh * scale, COLORS[0], PAGE, 1.5)
    out, x1 = axis["out"], 340
    middle = y0 + (wy + wh / 2) * scale
    d.arrow(x0 + n * scale + 12, middle, x1 - 12)
    d.text((x0 + n * scale + x1) / 2, middle - 10, "one tile,", 12, fill=MUTED)
    d.text((x0 + n * scale + x1) / 2, middle + 18, "one thread", 12, fill=MUTED)
    d.text(x1, 30, f"output: {m} channels of {out}×{out}", 13, "start", "bold")
    for index in product(*map(range, counts)):
        (ty, th), (tx, tw) = [
            span(s * i * t + axis["origin"], s * t, out) for i, t in zip(index, tile)
        ]
        fill = COLORS[0] if list(index) == here else EMPTY
        d.rect(x1 + tx * scale, y0 + ty * scale, tw * scale, th * scale, fill, LINE)
    outputs = "×".join(str(s * t) for t in tile)
    steps = (
        f"For each tile, a thread\n"
        f"1. loads the {wh}×{ww} window, once;\n"
        f"2. runs all {s**2} sub-kernels on it;\n"
        f"3. interleaves what they give, adds bias\n"
        f"\u00a0\u00a0\u00a0\u00a0and activation, stores finished rows.\n"
        f"It holds {plan['scratch_bytes'] / 1024:.0f} KB while it does so."
    )
    d.text(x0, y0 + n * scale + 40, steps, anchor="start")
    text = f"{counts[0] * counts[1]} tiles of up to {outputs} outputs"
    d.text(x1, y0 + out * scale + 22, text, anchor="start", fill=MUTED)
    return d


def winograd() -> Drawing:
    """One transformed input tile serves every sub-kernel."""
    k, s, p, n = 4, 2, 1, 16
    axis = axis_classes(k, s, p, n, aligned=True)
    taps = {len(c["taps"]) for c in axis["classes"]}
    most, lines = max(taps), 4  # F(3,2) and F(2,3) both read tiles of 4 lines (core/winograd.h)
    step = lines + 1 - most
    d = Drawing(720, 404, "Unified Winograd: one transformed tile serves every sub-kernel")
    size, middle, gap = 16, 222, 84
    tile = lines * size
    classes = len(axis["classes"])
    columns = [
        (16, lines, "input", "a tile d"),
        (120, lines, "transformed", "once: Bᵀ d B"),
        (256, lines, "weights w", "G w Gᵀ"),
        (368, lines, "products,", "over channels"),
        (490, step, "outputs", "Aᵀ m A"),
        (602, step * s, "output", "interleaved"),
    ]
    for x, count, *words in columns:
        for line, word in enumerate(words):
            weight = None if line else "bold"
            d.text(x + count * size / 2, 28 + 17 * line, word, 12, weight=weight)
    xs = [x for x, *_ in columns]
    grid = [[DATA] * lines for _ in range(lines)]
    d.cells(xs[0], middle - tile / 2, size, grid)
    d.arrow(xs[0] + tile + 6, middle, xs[1] - 4)
    d.cells(xs[1], middle - tile / 2, size, [[OTHER_DATA] * lines for _ in range(lines)])
    for index, (a, b) in enumerate(product(range(classes), repeat=2)):
        y = middle + (index - (classes**2 - 1) / 2) * gap
        color, name = color_of(axis, a, b), letter(axis, a, b)
        d.line(xs[1] + tile + 6, middle, xs[2] - 26, y)
        d.text(xs[2] - 14, y + 5, "⊙", 15)

        def square(column: int, side: int, y=y, color=color, name=name) -> None:
            labels = [[name] * side for _ in range(side)]
            top = y - side * size / 2
            d.cells(xs[column], top, size, [[color] * side for _ in range(side)], labels, 10)

        square(2, lines)
        d.arrow(xs[2] + tile + 8, y, xs[3] - 6)
        square(3, lines)
        d.arrow(xs[3] + tile + 10, y, xs[4] - 8)
        square(4, step)
        d.line(xs[4] + step * size + 6, y, xs[5] - 6, middle)
    owner = sorted(range(classes), key=lambda i: -axis["classes"][i]["shift"])
    side = step * s

    def owned(of) -> list[list[str]]:
        return [[of(axis, owner[i % s], owner[j % s]) for j in range(side)] for i in range(side)]

    d.cells(xs[5], middle - side * size / 2, size, owned(color_of), owned(letter), 10)
    products, direct = lines**2, (step * most) ** 2
    text = f"{products} products for\n{step}×{step} outputs,\ninstead of {direct}"
    d.text(xs[5] + side * size / 2, middle + side * size / 2 + 24, text, fill=MUTED)
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
    d = Drawing(720, 306, "Nearest upsampling and a convolution as one transposed convolution")
    size, top, caption = 24, 54, 272

    def shade(i: int, j: int) -> str:
        return DATA if (i + j) % 2 else OTHER_DATA

    d.text(20, 30, f"upsampled to {side}×{side}, then {k}×{k} Conv", 13, "start", "bold")
    d.cells(20, top, size, [[shade(i // s, j // s) for j in range(side)] for i in range(side)])
    d.frame(20 + (o - p) * size, top + (o - p) * size, size, k, k)
    text = f"an output: {k * k} products\nwith {len(met) ** 2} different pixels"
    d.text(20, caption, text, anchor="start", fill=MUTED)
    x, middle = 340, top + side * size / 2
    longer = k + s - 1
    d.text(x, 30, f"one {longer}×{longer} ConvTranspose of stride {s}", 13, "start", "bold")
    d.cells(x, middle - n * size / 2, size, [[shade(i, j) for j in range(n)] for i in range(n)])
    d.frame(x + met[0] * size, middle + (met[0] - n / 2) * size, size, len(met), len(met))
    d.arrow(x + n * size + 12, middle, x + n * size + 46)
    left = x + n * size + 58
    d.cells(left, top, size, output_grid(axis, color_of), output_grid(axis, letter))
    d.frame(left + o * size, top + o * size, size, 1, 1)
    text = (
        f"an output: {len(met) ** 2} products; weights that met\n"
        "the same pixel are added beforehand"
    )
    d.text(x, caption, text, anchor="start", fill=MUTED)
    return d


MIB = 1 << 20
MACHINE = {"l2_bytes": MIB, "l3_bytes": 2 * MIB, "l3_sharers": 16}
SIDES = [4, 8, 16, 32, 64, 128, 256]
CHANNELS = [1, 4, 16, 32, 64, 128, 256, 512, 1024]
ENGINES = {
    "direct": ("D", "direct"),
    "narrow": ("N", "narrow"),
    "winograd 1": ("W1", "winograd on one axis"),
    "winograd 2": ("W2", "on both; +: large tiles"),
    "stacked": ("S", "stacked"),
}


def plans() -> Drawing:
    """The algorithm chosen by number of channels and size of the image."""
    d = Drawing(720, 460, "The plan by channels and image size")
    width, height = 41, 30
    for panel, isa in enumerate(["avx2", "avx512"]):
        x0, y0 = 60 + panel * 352, 84
        d.text(x0, 30, isa, 13, "start", "bold")
        d.text(x0, 48, "4×4, stride 2, C → C channels, 2 threads", 12, "start", fill=MUTED)
        d.text(x0 - 8, 74, "C", 12, "end", fill=MUTED)
        d.text(x0, 74, "input's side", 12, "start", fill=MUTED)
        for i, c in enumerate(CHANNELS):
            d.text(x0 - 8, y0 + i * height + 19, str(c), 12, "end")
            for j, n in enumerate(SIDES):

                def plan(algorithm: str, c=c, n=n, isa=isa) -> dict:
                    shapes = [1, c, n, n], [c, c, 4, 4]
                    sides = {"strides": [2, 2], "pads": [1] * 4, "algorithm": algorithm}
                    return _core.plan(*shapes, isa=isa, threads=2, machine=MACHINE, **sides)

                best = plan("auto")
                others = [a for a in _core.algorithms() if a != best["algorithm"]]
                margin = min(plan(a)["cost"] for a in others) / best["cost"]
                name = best["algorithm"]
                if name == "winograd":
                    name += f" {sum(axis > 0 for axis in best['transform'])}"
                large = "+" if _core.LARGE_TILES in best["transform"] else ""
                color = COLORS[list(ENGINES).index(name)]
                x, y = x0 + j * width, y0 + i * height
                d.rect(x + 0.75, y + 0.75, width - 1.5, height - 1.5, color)
                d.text(
                    x + width / 2, y + 13, ENGINES[name][0] + large, 11, weight="bold", fill=PAGE
                )
                d.text(x + width / 2, y + 25, f"{margin:.1f}×", 10, fill=PAGE)
        for j, n in enumerate(SIDES):
            d.text(x0 + j * width + width / 2, y0 + len(CHANNELS) * height + 16, str(n), 12)
    y = y0 + len(CHANNELS) * height + 34
    for i, (short, long) in enumerate(ENGINES.values()):
        x = 60 + [0, 100, 205, 395, 560][i]
        d.rect(x, y, 24, 18, COLORS[i])
        d.text(x + 12, y + 13, short, 11, weight="bold", fill=PAGE)
        d.text(x + 32, y + 13, long, 12, "start")
    text = (
        "The number is the estimated cost of the next best engine, divided by the chosen one's.\n"
        "Near 1.0×, both are about as fast, and neighbouring cells may choose differently."
    )
    d.text(60, y + 40, text, anchor="start", fill=MUTED)
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
