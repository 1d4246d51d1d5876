"""Numbers and shapes as reports print them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement

# Controls but for the end of a line, marks that change the direction of text, lone surrogates.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
#: What stands for characters of the reports where they cannot be encoded.
ALIKE = {"×": "x", "→": "->", "…": "...", "–": "-", "µ": "u", "━": "-", "╸": "-", "╺": "-"}
# A part of a name, with the separators behind it.
_PIECE = re.compile(r"[^/._:]+[/._:]*|[/._:]+")
_PREFIXES = ("", " k", " M", " G", " T", " P")


def printable(text: str) -> str:
    """The text with control characters, and what cannot be encoded, as ``\\x1b`` and the like.

    Names in models and of files may hold anything, also what a terminal takes for a command.
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


class Cell:
    """Lines of text, each with a style if it is a pair, as a cell of a table.

    A line that is too long breaks between words, and a name that is too long for a line behind one
    of its separators, as in ``/decoder/up.0/`` and ``conv/Conv``.
    """

    def __init__(self, *lines: str | tuple[str, str]) -> None:
        pairs = [(line, "") if isinstance(line, str) else line for line in lines]
        self._lines = [
            (part, style) for line, style in pairs for part in printable(line).split("\n")
        ]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.cells import cell_len
        from rich.measure import Measurement

        lines = [encodable(line, options.encoding) for line, _ in self._lines]
        pieces = [
            piece for line in lines for word in line.split() for piece in _PIECE.findall(word)
        ]
        least, most = (max(map(cell_len, parts), default=0) for parts in (pieces, lines))
        return Measurement(least, most).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        for line, style in self._lines:
            for part in wrapped(encodable(line, options.encoding), options.max_width):
                yield Text(part, style, overflow="fold")


def wrapped(line: str, width: int) -> Iterator[str]:
    """Parts of ``line``, of at most so many columns unless a piece of a name is longer."""
    from rich.cells import cell_len

    part = ""
    for word in re.findall(r"\s*\S+\s*", line):
        fits = cell_len(word.strip()) <= width
        for piece in [word] if fits else _PIECE.findall(word):
            if part.strip() and cell_len((part + piece).rstrip()) > width:
                yield part.rstrip()
                part = piece.lstrip()
            else:
                part += piece
    yield part.rstrip()


def guesses(axes: Sequence[int]) -> str:
    """What to say behind a shape of which these dimensions are guesses; nothing if none is."""
    if not axes:
        return ""
    which = f"dimension{'s' if len(axes) > 1 else ''} {', '.join(map(str, axes))}"
    return f" (guessed: {which}, which the model leaves open; --shape sets them)"


def encodable(line: str, encoding: str) -> str:
    """The text with characters like them in place of those which the encoding lacks."""
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        return "".join(ALIKE.get(character, character) for character in line)
    return line


def dims(shape: Sequence[int] | None) -> str:
    """``1×3×224×224``; ``not known`` for None."""
    if shape is None:
        return "not known"
    return "×".join(map(str, shape)) or "scalar"


def count(number: float | None) -> str:
    """Three digits and a decimal prefix, as in ``1.23 M``."""
    return "?" if number is None else _scaled(number).strip()


def size(number: float | None) -> str:
    """Bytes with a decimal prefix, as in ``1.23 MB``."""
    if number is None:
        return "?"
    scaled = _scaled(number)
    return f"{scaled}B" if scaled[-1].isalpha() else f"{scaled} B"


def _scaled(number: float) -> str:
    magnitude = 0
    while abs(number) >= 999.5 and magnitude < len(_PREFIXES) - 1:
        number /= 1000
        magnitude += 1
    exact = magnitude == 0 and number == int(number)
    digits = 0 if exact or abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    return f"{number:.{digits}f}{_PREFIXES[magnitude]}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.{0 if share >= 0.0995 else 1}f} %"


def kernel(attributes: dict, w_shape: Sequence[int]) -> str:
    """``k4×4 s2×2 p1,1,1,1``: kernel, strides and what else differs from its default."""
    parts = [f"k{dims(w_shape[2:])}"]
    for name, letter, default in (("strides", "s", 1), ("dilations", "d", 1)):
        values = attributes.get(name)
        if values and any(value != default for value in values):
            parts.append(f"{letter}{dims(values)}")
    for name, letter in (("pads", "p"), ("output_padding", "op"), ("output_shape", "to ")):
        values = attributes.get(name)
        if values and any(values):
            parts.append(f"{letter}{','.join(map(str, values))}")
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", ""):
        parts.append(attributes["auto_pad"])
    if attributes.get("group", 1) != 1:
        parts.append(f"g{attributes['group']}")
    return " ".join(parts)


def planned(plan: Mapping[str, Any]) -> str:
    """The algorithm of a plan, and its kernels if they are others than those in floats."""
    isa = plan.get("isa")
    return plan["algorithm"] + (f", 8 bits: {isa}" if isa else "")
