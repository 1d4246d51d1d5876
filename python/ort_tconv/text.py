"""Numbers and shapes as reports print them."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Controls but for the end of a line, marks that change the direction of text, lone surrogates.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x09\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
_PREFIXES = ("", " k", " M", " G", " T", " P")


def printable(text: str) -> str:
    """The text with control characters, and what cannot be encoded, as ``\\x1b`` and the like.

    Names in models and of files may hold anything, also what a terminal takes for a command.
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def dims(shape: Sequence[int] | None) -> str:
    """``1×3×224×224``; ``?`` for a shape that is not known."""
    if shape is None:
        return "?"
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
