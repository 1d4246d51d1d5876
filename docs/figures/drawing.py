"""SVG drawings that can be read on a light and on a dark page.

A colour is written into the file as it is on a light page; a style sheet in the file replaces it
where the reader prefers dark ones, or where the page that shows the picture says so
(``color-scheme``). The drawing brings its own background, so that it is legible even where the two
disagree. Text on a coloured cell has the page's colour: every colour of marks is dark on a light
page and light on a dark one.
"""

from __future__ import annotations

from xml.etree import ElementTree

PAGE, INK, MUTED = "#ffffff", "#1f2328", "#57606a"
DATA, OTHER_DATA = "#5f7388", "#8292a3"  # elements of the input
EMPTY, LINE = "#eef1f4", "#848d97"  # cells without a value, and lines around them
# One colour for each residue class, engine or processor. Letters or words always say the same as
# the colour does, for readers who cannot tell the colours apart.
COLORS = ["#1f5fae", "#b3440e", "#0a7260", "#85358f", "#7a6200", "#5d646d"]
DARK = {
    PAGE: "#161b22",
    INK: "#e6edf3",
    MUTED: "#9aa7b4",
    DATA: "#93a5b8",
    OTHER_DATA: "#66788b",
    EMPTY: "#262c36",
    LINE: "#768390",
    **dict(zip(COLORS, ["#79b0f2", "#f49a62", "#45cfae", "#dd9be6", "#d9bc4a", "#a9b4c0"])),
}


def style(colors: dict[str, str]) -> str:
    """The rules that replace the light colours, keys, by the dark ones, values."""
    rules = [
        f'[{name}="{light}"]{{{name}:{dark}}}'
        for light, dark in colors.items()
        for name in ("fill", "stroke")
    ]
    return f"@media (prefers-color-scheme:dark){{{''.join(rules)}}}"


def number(value: float) -> str:
    return f"{value:.5g}"


class Drawing:
    """A page with grids of cells, text, lines and arrows; sizes are in pixels."""

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
        self.style = ElementTree.SubElement(self.root, "style")
        self.add("rect", width=width, height=height, rx=6, fill=PAGE)

    def add(self, tag: str, text: str | None = None, **attributes) -> ElementTree.Element:
        names = {
            key.replace("_", "-"): value if isinstance(value, str) else number(value)
            for key, value in attributes.items()
        }
        element = ElementTree.SubElement(self.root, tag, names)
        element.text = text
        return element

    def rect(self, x, y, width, height, fill="none", stroke="none", line=1.0, title=None) -> None:
        sides = {"x": x, "y": y, "width": width, "height": height, "fill": fill}
        if stroke != "none":
            sides |= {"stroke": stroke, "stroke_width": line}
        element = self.add("rect", **sides)
        if title:  # shown when the pointer rests on it
            ElementTree.SubElement(element, "title").text = title

    def text(self, x, y, text, size=12, anchor="middle", weight=None, fill=INK) -> None:
        """One line, or one below the other where the text has line breaks."""
        for index, line in enumerate(text.split("\n")):
            bold = {"font_weight": weight} if weight else {}
            at = {"x": x, "y": y + 1.3 * size * index, "font_size": size, "text_anchor": anchor}
            self.add("text", line, **at, fill=fill, **bold)

    def cells(self, x, y, size, colors, labels=None, font=None) -> None:
        """A grid of squares; colours and labels by row. Empty cells have an outline."""
        for i, row in enumerate(colors):
            for j, color in enumerate(row):
                at = x + j * size + 0.75, y + i * size + 0.75, size - 1.5, size - 1.5
                self.rect(*at, color, LINE if color == EMPTY else "none")
                if labels and labels[i][j]:
                    font = font or min(12, size / 2)
                    middle = x + (j + 0.5) * size, y + (i + 0.5) * size + 0.35 * font
                    fill = INK if color == EMPTY else PAGE
                    self.text(*middle, labels[i][j], font, fill=fill)

    def frame(self, x, y, size, rows, columns) -> None:
        """Around cells of any colour, hence with a margin of the page's."""
        for color, width in ((PAGE, 6.0), (INK, 2.5)):
            self.rect(x, y, size * columns, size * rows, "none", color, width)

    def line(self, x, y, to_x, to_y, stroke=INK, width=1.5) -> None:
        self.add("line", x1=x, y1=y, x2=to_x, y2=to_y, stroke=stroke, stroke_width=width)

    def arrow(self, x, y, to_x) -> None:
        self.line(x, y, to_x - 5, y)
        points = [(to_x, y), (to_x - 7, y - 4), (to_x - 7, y + 4)]
        self.add(
            "polygon", points=" ".join(f"{number(px)},{number(py)}" for px, py in points), fill=INK
        )

    def __str__(self) -> str:
        used = {
            element.get(name) for element in self.root.iter() for name in ("fill", "stroke")
        } & DARK.keys()
        self.style.text = style({light: DARK[light] for light in DARK if light in used})
        ElementTree.indent(self.root, " ")
        return ElementTree.tostring(self.root, encoding="unicode") + "\n"
