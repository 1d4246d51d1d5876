"""Sites that are no ConvTranspose, of which the converter makes one: stock ONNX Runtime runs their
two nodes, ort-tconv one.

    python benchmarks/bench_rewrites.py [--sites REGEX] [--quick] [--json FILE]

Nearest upsampling by 2 with a 3x3 Conv, and Conv with DepthToSpace, in shapes of the networks of
examples/architectures and others like them. Method and result files are those of bench_session.py.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass

import measure as timing
import numpy as np
import report
from engines import OrtTconv, StockOrt, versions
from onnx import ModelProto, helper

import ort_tconv


@dataclass(frozen=True)
class Site:
    """A 3x3 Conv from c to m channels, of a result ``scale`` times as high and wide as x."""

    group: str
    name: str
    x: tuple[int, int, int, int]
    m: int
    scale: int = 2


UPSAMPLE, SUB_PIXEL = "upsample_conv", "subpixel_conv"
SITES = (
    Site(UPSAMPLE, "vae_512_32", (1, 512, 32, 32), 512),
    Site(UPSAMPLE, "vae_512_64", (1, 512, 64, 64), 512),
    Site(UPSAMPLE, "vae_256_128", (1, 256, 128, 128), 256),
    Site(UPSAMPLE, "vae_128_128", (1, 128, 128, 128), 128),
    Site(UPSAMPLE, "rrdb_64_64", (1, 64, 64, 64), 64),
    Site(UPSAMPLE, "rrdb_64_128", (1, 64, 128, 128), 64),
    Site(SUB_PIXEL, "rrdb_64_64", (1, 64, 64, 64), 64),
    Site(SUB_PIXEL, "rrdb_64_128", (1, 64, 128, 128), 64),
    Site(SUB_PIXEL, "edsr_256_48", (1, 256, 48, 48), 256),
    Site(SUB_PIXEL, "espcn_32_256", (1, 32, 256, 256), 1, 3),
    Site(SUB_PIXEL, "direct_64_128", (1, 64, 128, 128), 3, 2),
    Site(SUB_PIXEL, "direct_64_64", (1, 64, 64, 64), 3, 4),
)


def make_model(site: Site) -> ModelProto:
    n, c, h, w = site.x
    s = site.scale
    outputs = site.m if site.group == UPSAMPLE else site.m * s * s
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((outputs, c, 3, 3), dtype=np.float32),
        "b": rng.standard_normal(outputs, dtype=np.float32),
        "scales": np.array([1, 1, s, s], np.float32),
    }
    sides = {"kernel_shape": [3, 3], "pads": [1] * 4}
    if site.group == UPSAMPLE:
        sampling = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        nodes = [
            helper.make_node("Resize", ["x", "", "scales"], ["large"], mode="nearest", **sampling),
            helper.make_node("Conv", ["large", "w", "b"], ["y"], "conv", **sides),
        ]
    else:
        del weights["scales"]
        nodes = [
            helper.make_node("Conv", ["x", "w", "b"], ["deep"], "conv", **sides),
            helper.make_node("DepthToSpace", ["deep"], ["y"], "shuffle", blocksize=s, mode="CRD"),
        ]
    return timing.make_model(site.name, nodes, site.x, (n, site.m, s * h, s * w), weights)


def measure(site: Site, engines, repeat: int, seconds: float) -> dict:
    model = make_model(site)
    feeds = {"x": np.random.default_rng(1).standard_normal(site.x, dtype=np.float32)}
    files = [engine.file(model) for engine in engines]
    check = ort_tconv.validate(model, files[1], inputs=feeds)
    if not check.ok:
        raise SystemExit(f"{site.name}: the converted model computes something else\n{check}")
    runs = [e.bind(e.session(file), feeds)[0] for e, file in zip(engines, files)]
    times = timing.in_turns(runs, repeat, seconds, max(engine.settle for engine in engines))
    row = {
        "group": site.group,
        "layer": site.name,
        "rewritten": check.rewritten,
        "engines": {e.name: timing.spread(t) for e, t in zip(engines, times)},
    }
    report.add_ratios(row)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", default="", metavar="REGEX", help="only matching group/name")
    timing.add_threads_option(parser)
    timing.add_run_options(parser, "site", 15, 1.0, "few runs")
    timing.add_json_option(parser)
    args = parser.parse_args()
    args.json = timing.json_file(args, "rewrites", args.threads)
    if args.quick:
        args.repeat, args.seconds = 1, 0.0
    sites = [s for s in SITES if re.search(args.sites, f"{s.group}/{s.name}")]
    if not sites:
        parser.error(f"--sites {args.sites!r} matches no site")

    engines = [StockOrt(args.threads), OrtTconv(args.threads)]
    machine = timing.machine_info(args.threads) | versions(engines)
    results = [measure(site, engines, args.repeat, args.seconds) for site in sites]
    data = {"machine": machine, "results": results}
    tables = {"Rewritten sites": report.rewrite_table(data)}
    notes = ["Medians. A ratio above 1: ours is faster."]
    report.print_results(report.make_console(), machine, tables, notes)
    report.write_json(data, args.json)


if __name__ == "__main__":
    sys.exit(main())
