"""Two result files, layer by layer: what became slower comes first.

    python benchmarks/compare.py before.json after.json

Works for the files of bench_session.py and of bench_models.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from measure import geometric_mean
from rich.console import Console
from rich.table import Table


def compare(before: dict, after: dict) -> list[dict]:
    """The layers that both have, with the gain of ours and that of stock: before / after. Stock has
    not changed; its gain says how much the machine has."""
    old = {(row["group"], row["layer"]): row["engines"] for row in before["results"]}
    rows = []
    for row in after["results"]:
        key = row["group"], row["layer"]
        if key not in old:
            continue
        a, b = old[key], row["engines"]
        gains = {name: a[name]["median_ms"] / b[name]["median_ms"] for name in ("stock", "ours")}
        rows.append(
            {
                "layer": "/".join(key),
                "before_ms": a["ours"]["median_ms"],
                "after_ms": b["ours"]["median_ms"],
                **gains,
            }
        )
    return sorted(rows, key=lambda row: row["ours"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args()
    before, after = json.loads(args.before.read_text()), json.loads(args.after.read_text())
    rows = compare(before, after)
    if not rows:
        parser.error("the two files have no layer in common")

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for key in ("cpu", "threads", "isa", "onnxruntime"):
        a, b = before["machine"].get(key), after["machine"].get(key)
        if a != b:
            console.print(f"not the same {key}: {a}, then {b}", style="yellow", highlight=False)
    table = Table("layer")
    for column in ("before\nms", "after\nms", "before /\nafter", "the same\nof stock"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["layer"],
            f"{row['before_ms']:.3f}",
            f"{row['after_ms']:.3f}",
            f"{row['ours']:.2f}",
            f"{row['stock']:.2f}",
        )
    table.add_section()
    means = (f"{geometric_mean(row[name] for row in rows):.2f}" for name in ("ours", "stock"))
    table.add_row("geometric mean", "", "", *means, style="bold")
    console.print(table)
    console.print("Above 1: faster than before.", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
