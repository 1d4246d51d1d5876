"""Models that try to take the process down: sizes near overflow, shapes that lie, endless tables.

``python tests/reliability/hostile.py`` runs every one of them, and those of
tests/ort/test_errors.py, and prints what was tried and what came back as a Markdown table.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "ort")]

from cases import Case, conv_transpose_model, value  # noqa: E402

GOOD = Case((4, 4), (3, 3), strides=(2, 2), group_in=4, group_out=3)
BIG = 2**62
#: What one of these may take beyond a good model: seconds, and bytes of memory.
MOST_SECONDS, MOST_BYTES = 10.0, 300 << 20


@dataclass
class Hostile:
    """A model that declares what it likes.

    ``declared`` are the shapes in the graph's inputs and ``fed`` those of the values (both of GOOD
    where they are not given); inputs that are not in ``declared`` are initializers.  ``word`` is in
    the message, or None if the model is a valid one that has to run.
    """

    word: str | None
    attributes: dict[str, Any] = field(default_factory=dict)
    declared: dict[str, tuple[int | str, ...] | None] = field(default_factory=dict)
    fed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def arrays(self) -> dict[str, np.ndarray]:
        shapes = {name: array.shape for name, array in GOOD.arrays().items()} | self.fed
        return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}

    def model(self, op: str = "ort_tconv") -> onnx.ModelProto:
        arrays = self.arrays()
        result = conv_transpose_model(
            GOOD, arrays, attributes=GOOD.attributes | self.attributes, op=op
        )
        del result.graph.input[:]
        for name, shape in ({"x": arrays["x"].shape} | self.declared).items():
            result.graph.input.append(value(name, "float32", shape))
        kept = [one for one in result.graph.initializer if one.name not in self.declared]
        del result.graph.initializer[:]
        result.graph.initializer.extend(kept)
        del result.graph.output[:]
        result.graph.output.append(value("y", "float32", None))
        return result

    def feeds(self) -> dict[str, np.ndarray]:
        names = {"x", *self.declared}
        return {name: array for name, array in self.arrays().items() if name in names}


HOSTILE = {
    "X and W declared with different ranks": Hostile(
        "rank",
        declared={"x": (1, 4, 4), "w": (4, 3, 3, 3, 3, 3, 3)},
        fed={"x": (1, 4, 4), "w": (4, 3, 3, 3, 3, 3, 3)},
    ),
    "X declared with another rank than it has": Hostile(
        "rank", declared={"x": (1, 4, 4)}, fed={"x": (1, 4, 4)}
    ),
    "X declared without any size, W of rank 9": Hostile(
        "rank", declared={"x": None}, fed={"w": (4, 3, *(1,) * 7)}
    ),
    "2^40 outputs, each of a residue class of its own": Hostile(
        "residue classes",
        {"strides": [2**40, 2], "output_shape": [2**40, 1]},
        declared={"x": (1, 4, 1, 4)},
        fed={"x": (1, 4, 1, 4)},
    ),
    "2^30 residue classes of two axes": Hostile(
        "residue classes",
        {"strides": [2**15, 2**15], "output_shape": [2**15, 2**15]},
        declared={"x": (1, 4, 1, 1)},
        fed={"x": (1, 4, 1, 1)},
    ),
    "2^22 rows of output by dilation from one input position": Hostile(
        None,
        {"strides": [1, 1], "dilations": [2**22, 1], "pads": [0, 0, 2**22, 0]},
        declared={"x": ("n", 4, 1, 1)},
        fed={"x": (1, 4, 1, 1)},
    ),
    "no images, but sizes whose product overflows": Hostile(
        "overflow", declared={"x": (0, 4, 2**40, 2**40)}, fed={"x": (0, 4, 4, 4)}
    ),
    "no channels, but a kernel of 2^40 taps": Hostile(
        None,
        {"group": 1, "pads": [2**19] * 4, "strides": [1, 1]},
        declared={"x": (1, 0, 4, 4), "w": (0, 3, 2**20, 2**20)},
        fed={"x": (1, 0, 4, 4), "w": (0, 3, 2**20, 2**20)},
    ),
    "no channels, but 2^40 groups": Hostile(
        "",
        {"group": 2**40},
        declared={"x": ("n", 0, 4, 4)},
        fed={"x": (1, 0, 4, 4), "w": (0, 3, 3, 3)},
    ),
    "group that overflows the number of channels": Hostile(
        "overflow",
        {"group": BIG},
        declared={"x": ("n", 0, 4, 4)},
        fed={"x": (1, 0, 4, 4), "w": (0, 3, 3, 3)},
    ),
    "stride of 2^62 with one input position": Hostile(
        "overflow", {"strides": [BIG, BIG]}, declared={"x": (1, 4, 1, 1)}, fed={"x": (1, 4, 1, 1)}
    ),
    "output of 2^47 elements": Hostile("", {"output_shape": [2**23, 2**24]}),
    "sizes declared as 2^40": Hostile("", declared={"x": (1, 4, 2**20, 2**20)}),
    "a kernel_shape of 2^62, W unknown": Hostile(
        "kernel_shape", {"kernel_shape": [BIG, BIG]}, declared={"x": (1, 4, 4, 4), "w": None}
    ),
}


def outcomes(provider: bool) -> Iterator[dict[str, Any]]:
    """Runs every case in this process: what was raised and when, seconds and bytes taken; with the
    operator, or as ConvTranspose with the execution provider."""
    from sessions import options, our_session

    import ort_tconv

    op = "onnx" if provider else "ort_tconv"
    if provider:
        import onnxruntime as ort

        def our_session(model: onnx.ModelProto) -> ort.InferenceSession:
            session_options = ort_tconv.add_provider(options(), strict=True)
            return ort.InferenceSession(
                model.SerializeToString(), session_options, enable_fallback=0
            )

    good = our_session(conv_transpose_model(GOOD, op=op))
    feeds = {"x": GOOD.arrays()["x"]}
    (expected,) = good.run(None, feeds)
    for name, case in HOSTILE.items():
        values = case.feeds()
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        stage, error, shape = "creation", None, None
        try:
            session = our_session(case.model(op))
            stage = "run"
            shape = list(session.run(None, values)[0].shape)
        except Exception as raised:
            error = str(raised)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (after,) = good.run(None, feeds)
        yield {
            "name": name,
            "stage": stage,
            "error": error,
            "shape": shape,
            "seconds": time.monotonic() - start,
            "bytes": (peak - before) * 1024,
            "good_after": bool(np.array_equal(after, expected)),
        }


def collect(*arguments: str, timeout: float = 300) -> tuple[dict[str, dict[str, Any]], str]:
    """The outcomes by name from a process of their own, and how that process ended."""
    process = subprocess.run(
        [sys.executable, __file__, "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    return {
        one["name"]: one for one in lines
    }, f"exit {process.returncode}: {process.stderr[-2000:]}"


def table() -> str:
    """What was tried and what came back, for docs/reliability.md."""
    from test_errors import MALFORMED
    from test_errors import collect as results

    rows = ["| tried | refused at | what came back |", "|---|---|---|"]
    hostile, _ = collect()
    malformed, _ = results()
    for name in HOSTILE:
        one = hostile[name]
        text = f"an output of shape {one['shape']}" if one["error"] is None else said(one["error"])
        rows.append(f"| {name} | {one['stage'] if one['error'] else 'runs'} | {text} |")
    for name in MALFORMED:
        one = malformed[name]
        stage = "run" if one["at_run"] else "creation"
        rows.append(f"| {name} | {stage} | {said(one['error'])} |")
    return "\n".join(rows)


def said(error: str) -> str:
    """The operator's words in a message of ONNX Runtime's."""
    words = error.rsplit("SegregatedConvTranspose 'up': ", 1)[-1]
    words = " ".join(words.split()).replace("|", "\\|")
    return words if len(words) < 200 else words[:197] + "..."


if __name__ == "__main__":
    if "--json" in sys.argv:
        for outcome in outcomes("--provider" in sys.argv):
            print(json.dumps(outcome), flush=True)
    else:
        print(table())
