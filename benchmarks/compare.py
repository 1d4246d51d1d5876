"""Two result files, layer by layer: what became slower comes first.

    python benchmarks/compare.py before.json after.json

Works for the files of bench_session.py and of bench_models.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import report
from measure import differences


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

    console = report.make_console()
    for line in differences(before["machine"], after["machine"]):
        console.print(line, style="yellow", highlight=False)
    header = ["layer", "before\nms", "after\nms", "before /\nafter", "the same\nof stock"]
    cells = [
        [
            row["layer"],
            f"{row['before_ms']:.3f}",
            f"{row['after_ms']:.3f}",
            f"{row['ours']:.2f}",
            f"{row['stock']:.2f}",
        ]
        for row in rows
    ]
    means = (
        f"{statistics.geometric_mean(row[name] for row in rows):.2f}" for name in ("ours", "stock")
    )
    cells.append([report.MEAN, "", "", *means])
    report.print_tables(console, {"Above 1: faster than before": (header, cells)})


if __name__ == "__main__":
    sys.exit(main())
