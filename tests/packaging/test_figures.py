"""The pictures can be read: text and marks stand out from what is below them, on light pages and on
dark ones, and no text is cut off or covers another."""

import re
import sys
from functools import cache
from itertools import combinations
from xml.etree import ElementTree

import pytest
from contrast import MARK, TEXT, contrast
from scripts import ROOT

FIGURES = [*sorted(ROOT.glob("docs/figures/*.svg")), ROOT / "docs/performance.svg"]
SVG = "{http://www.w3.org/2000/svg}"
SCHEMES = ("light", "dark")


@cache
def width_of(text: str, weight: str) -> float:
    """At size 1, in a font that is wider than most."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight=weight)
    return TextPath((0, 0), text, size=100, prop=font).get_extents().x1 / 100


class Element:
    """One that is painted: its colours and its box."""

    def __init__(self, node: ElementTree.Element, colors: dict[str, str]):
        self.tag = node.tag.removeprefix(SVG)
        self.fill, self.stroke = (
            colors.get(color, color)
            for color in (node.get("fill", "none"), node.get("stroke", "none"))
        )
        self.text = node.text
        self.box = getattr(self, f"{self.tag}_box")(node)

    def rect_box(self, node) -> tuple[float, ...]:
        x, y, w, h = (float(node.get(key, 0)) for key in ("x", "y", "width", "height"))
        return x, y, x + w, y + h

    def line_box(self, node) -> tuple[float, ...]:
        left, top, right, bottom = (float(node.get(key)) for key in ("x1", "y1", "x2", "y2"))
        self.is_upright = left == right or top == bottom
        half = float(node.get("stroke-width")) / 2
        dx, dy = (half, 0) if left == right else (0, half)
        return left - dx, top - dy, right + dx, bottom + dy

    def polygon_box(self, node) -> tuple[float, ...]:
        xs, ys = zip(*(map(float, point.split(",")) for point in node.get("points").split()))
        return min(xs), min(ys), max(xs), max(ys)

    def text_box(self, node) -> tuple[float, ...]:
        size, x, y = (float(node.get(key)) for key in ("font-size", "x", "y"))
        width = size * width_of(self.text, node.get("font-weight", "normal"))
        left = x - {"start": 0, "middle": width / 2, "end": width}[node.get("text-anchor")]
        return left, y - 0.75 * size, left + width, y + 0.1 * size

    def holds(self, x: float, y: float) -> bool:
        left, top, right, bottom = self.box
        return left <= x <= right and top <= y <= bottom

    def points(self, of_edge: bool) -> list[tuple[float, float]]:
        """Some of what it covers, or of its edge."""
        left, top, right, bottom = self.box
        middle = (left + right) / 2, (top + bottom) / 2
        if self.tag == "line":
            return [middle]
        if of_edge:
            return [(left, middle[1]), (right, middle[1]), (middle[0], top), (middle[0], bottom)]
        if self.tag == "text":
            return [(left + 1, middle[1]), middle, (right - 1, middle[1])]
        return [middle]


def below(painted: list[Element], x: float, y: float, edges: bool) -> str:
    """The colour at a point, beside the page that of the page; with edges, frames count as well."""
    for element in reversed(painted):
        left, top, right, bottom = element.box
        if element.tag == "line" and element.is_upright and element.holds(x, y):
            return element.stroke
        if element.tag == "rect" and element.holds(x, y):
            on_edge = min(abs(x - left), abs(x - right), abs(y - top), abs(y - bottom)) < 0.01
            if edges and on_edge and element.stroke != "none":
                return element.stroke
            if element.fill != "none":
                return element.fill
    return painted[0].fill


def faults(svg: str, scheme: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    rules = re.findall(r'\[(?:fill|stroke)="(#\w+)"\]\{\w+:(#\w+)\}', svg)
    nodes = [n for n in root if n.tag.removeprefix(SVG) in ("rect", "line", "polygon", "text")]
    elements = [Element(node, dict(rules) if scheme == "dark" else {}) for node in nodes]
    page = elements[0]
    found = []
    for index, element in enumerate(elements[1:], 1):
        name = f"{element.tag} {element.text or ''} at {element.box}"
        if not (page.holds(*element.box[:2]) and page.holds(*element.box[2:])):
            found.append(f"{name} is cut off")
        before = elements[:index]
        values = []
        if element.fill != "none":
            under = [below(before, *point, edges=False) for point in element.points(False)]
            values.append(min(contrast(element.fill, color) for color in under))
        if element.stroke != "none":
            under = {below(before, *point, edges=True) for point in element.points(True)}
            under.discard(element.stroke)  # a line that neighbours share
            values.append(min((contrast(element.stroke, color) for color in under), default=21))
        gap = page.fill in (element.fill, element.stroke) and element.tag != "text"
        if not gap and max(values) < (TEXT if element.tag == "text" else MARK):
            found.append(f"{name}: contrast {max(values):.2f}")
    for a, b in combinations([e for e in elements if e.tag == "text"], 2):
        if (
            a.box[0] < b.box[2]
            and b.box[0] < a.box[2]
            and a.box[1] < b.box[3]
            and b.box[1] < a.box[3]
        ):
            found.append(f"{a.text!r} covers {b.text!r}")
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_pictures_can_be_read(path, scheme):
    assert faults(path.read_text(), scheme) == []


@pytest.fixture
def drawing(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs/figures"))
    import drawing

    yield drawing
    del sys.modules["drawing"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_cannot_be_read_is_found(drawing, scheme):
    d = drawing.Drawing(100, 60, "a title")
    d.cells(10, 10, 20, [[drawing.COLORS[0]]], ["A"])
    d.frame(10, 10, 20, 1, 1)
    assert faults(str(d), scheme) == []
    d.text(20, 24, "pale", fill=drawing.DATA)
    d.rect(40, 10, 20, 20, drawing.EMPTY)
    d.text(90, 50, "too long for the page")
    text = "\n".join(faults(str(d), scheme))
    assert "text pale" in text and "'A' covers 'pale'" in text
    assert re.search(r"rect  at .*: contrast 1\.", text)
    assert "too long for the page" in text and "cut off" in text


def test_every_colour_has_one_for_dark_pages(drawing):
    page = drawing.PAGE
    for light in [drawing.INK, drawing.MUTED, drawing.DATA, *drawing.COLORS]:
        assert contrast(light, page) >= TEXT
        assert contrast(drawing.DARK[light], drawing.DARK[page]) >= TEXT
