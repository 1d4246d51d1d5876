"""Malformed models and inputs: an exception that names what is wrong, and nothing worse.

All cases run in one process of their own.  After each of them a good model has to run in that
process, and after an error in a run the same session has to do a good run.  If the process dies,
the case that killed it is the first one without a result.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Case, conv_transpose_model, value

GOOD = Case((4, 4), (3, 3), strides=(2, 2), group_in=4, group_out=3)


@dataclass
class Malformed:
    """A case that is wrong: its model, the inputs of a run, and the words of the message.

    ``attributes`` replace those of GOOD, and ``shapes`` those of its inputs.  With constant weights
    the session cannot be created; with ``at_run`` it can, and the run fails.
    """

    words: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    at_run: bool | None = False  # None: either

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            name: np.ones(self.shapes.get(name, array.shape), np.float32)
            for name, array in GOOD.arrays().items()
        }

    def model(self) -> onnx.ModelProto:
        result = conv_transpose_model(
            GOOD,
            self.arrays(),
            weights="initializer" if self.at_run is False else "input",
            attributes=GOOD.attributes | self.attributes,
            op="ort_tconv",
        )
        for info in result.graph.input:  # leave the shapes open: the operator itself has to check
            info.CopyFrom(value(info.name, "float32", None))
        return result

    def feeds(self) -> dict[str, np.ndarray]:
        arrays = self.arrays()
        return {"x": arrays["x"]} if self.at_run is False else arrays


HUGE = 2**62
MALFORMED = {
    # Attributes: refused when the session is created.
    "group 0": Malformed(["group", "0"], {"group": 0}),
    "negative group": Malformed(["group", "-2"], {"group": -2}),
    "group that divides nothing": Malformed(["group", "3", "4"], {"group": 3}, at_run=True),
    "stride 0": Malformed(["strides", "0"], {"strides": [2, 0]}),
    "negative stride": Malformed(["strides", "-2"], {"strides": [-2, 2]}),
    "dilation 0": Malformed(["dilations", "0"], {"dilations": [0, 1]}),
    "negative dilation": Malformed(["dilations", "-1"], {"dilations": [1, -1]}),
    "negative pads": Malformed(["pads", "-1"], {"pads": [0, 0, -1, 0]}),
    "negative output_padding": Malformed(["output_padding", "-1"], {"output_padding": [-1, 0]}),
    "output_padding as large as the stride": Malformed(
        ["output_padding", "2", "stride"], {"output_padding": [0, 2]}
    ),
    "negative output_shape": Malformed(["output_shape", "-7"], {"output_shape": [-7, 9]}),
    "unknown auto_pad": Malformed(["auto_pad", "SAME"], {"auto_pad": "SAME"}),
    "unknown activation": Malformed(["activation", "Cosine"], {"activation": "Cosine"}),
    "parameters without activation": Malformed(
        ["activation_params", "1"], {"activation_params": [0.5]}
    ),
    "activation without its parameters": Malformed(
        ["activation_params", "Clip", "2"], {"activation": "Clip"}
    ),
    "unknown algorithm": Malformed(["algorithm", "guess"], {"algorithm": "guess"}, at_run=None),
    "odd number of pads": Malformed(["pads", "3", "4"], {"pads": [1, 1, 1]}),
    # Attributes of another type: never ignored.
    "strides as an integer": Malformed(["strides", "2", "list of integers"], {"strides": 2}),
    "strides as floats": Malformed(["strides", "floats"], {"strides": [2.0, 2.0]}),
    "group as a float": Malformed(["group", "integer"], {"group": 2.0}),
    "group as a list": Malformed(["group", "integer"], {"group": [1, 1]}),
    "auto_pad as an integer": Malformed(["auto_pad", "string"], {"auto_pad": 1}),
    "activation as a float": Malformed(["activation", "string"], {"activation": 0.5}),
    "pads as strings": Malformed(["pads", "list of integers"], {"pads": ["1", "1", "1", "1"]}),
    # Attributes that do not fit the inputs.
    "one stride for two axes": Malformed(["strides", "1", "2"], {"strides": [2]}, at_run=True),
    "three dilations for two axes": Malformed(["dilations", "3", "2"], {"dilations": [1, 1, 1]}),
    "pads for one axis": Malformed(["pads", "2", "4"], {"pads": [1, 1]}),
    "output_padding for one axis": Malformed(["output_padding", "1", "2"], {"output_padding": [1]}),
    "output_shape for three axes": Malformed(
        ["output_shape", "3", "2"], {"output_shape": [9, 9, 9]}
    ),
    "kernel_shape that is not W's": Malformed(
        ["kernel_shape", "[5, 5]", "W", "[3, 3]"], {"kernel_shape": [5, 5]}, at_run=True
    ),
    # Inputs.
    "X without spatial axes": Malformed(["X", "rank 3"], shapes={"x": (1, 4)}, at_run=True),
    "X of rank 0": Malformed(["X", "rank 3"], shapes={"x": ()}, at_run=True),
    "X and W of different rank": Malformed(
        ["W", "rank", "5"], shapes={"x": (1, 4, 5, 5, 5)}, at_run=True
    ),
    "channels that W does not have": Malformed(
        ["W", "channels", "6"], shapes={"x": (1, 6, 4, 4)}, at_run=True
    ),
    "an empty kernel": Malformed(["W", "at least 1"], shapes={"w": (4, 3, 0, 3)}, at_run=True),
    "bias too short": Malformed(["B", "[2]", "3"], shapes={"b": (2,)}, at_run=True),
    "bias of rank 2": Malformed(["B", "[1, 3]"], shapes={"b": (1, 3)}, at_run=True),
    "output smaller than nothing": Malformed(
        ["output size", "-"], {"pads": [9, 9, 9, 9]}, at_run=True
    ),
    # Sizes.
    "stride that overflows": Malformed(["overflow", "stride"], {"strides": [HUGE, 2]}, at_run=True),
    "dilation that overflows": Malformed(
        ["overflow", "dilation"], {"dilations": [HUGE, 1]}, at_run=True
    ),
    "pads that overflow": Malformed(
        ["overflow", "pads"], {"pads": [HUGE, 0, HUGE, 0]}, at_run=True
    ),
    "output that overflows": Malformed(["overflow"], {"output_shape": [HUGE, HUGE]}, at_run=True),
    "output larger than any memory": Malformed([], {"output_shape": [2**24, 2**24]}, at_run=True),
}


def main() -> None:
    """Run every case; prints a line of JSON before and after each."""
    from sessions import our_session

    import ort_tconv

    good_feeds = {"x": GOOD.arrays()["x"]}
    all_good_feeds = GOOD.arrays()
    good = our_session(conv_transpose_model(GOOD, op="ort_tconv"))
    (expected,) = good.run(None, good_feeds)
    for name, case in MALFORMED.items():
        result = {"name": name, "error": None, "at_run": False, "good_after": None}
        model = ort_tconv.convert(case.model())
        try:
            session = our_session(model)
            result["at_run"] = True
            session.run(None, case.feeds())
        except Exception as error:
            result["error"] = str(error)
        # The attributes of some cases do not allow a good run of their own session.
        if result["at_run"] and case.shapes and not case.attributes:
            (after,) = session.run(None, all_good_feeds)
        else:
            (after,) = good.run(None, good_feeds)
        result["good_after"] = bool(np.array_equal(after, expected))
        print(json.dumps(result), flush=True)


def collect() -> tuple[dict[str, dict], str]:
    """What main() reports, by name, and how its process ended."""
    folder = Path(__file__).parent
    code = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(folder.parent)!r}]; "
        "import test_errors; test_errors.main()"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    end = f"the process ended with {process.returncode}: {process.stderr[-2000:]}"
    return {line["name"]: line for line in lines}, end


@pytest.fixture(scope="module")
def results() -> tuple[dict[str, dict], str]:
    return collect()


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name, results):
    by_name, end = results
    assert name in by_name, end
    case, result = MALFORMED[name], by_name[name]
    message = result["error"]
    assert message is not None, "no exception"
    assert case.at_run in (None, result["at_run"]), message
    assert "SegregatedConvTranspose" in message and "'up'" in message, message
    for word in case.words:
        assert re.search(rf"(?<!\w){re.escape(word)}", message), f"{word} is not in: {message}"
    assert result["good_after"], "a good run afterwards gives another result"


def test_the_process_survives(results):
    by_name, end = results
    assert len(by_name) == len(MALFORMED), end
    assert "ended with 0" in end


def test_missing_weights_are_refused_by_onnxruntime():
    from sessions import our_session

    model = conv_transpose_model(GOOD, op="ort_tconv")
    del model.graph.node[0].input[1:]
    with pytest.raises(Exception, match="SegregatedConvTranspose"):
        our_session(model)
    two = conv_transpose_model(GOOD, op="ort_tconv")
    two.graph.node[0].output.append("second")
    with pytest.raises(Exception, match="SegregatedConvTranspose"):
        our_session(two)


def test_inputs_of_two_types_are_refused():
    from sessions import our_session

    model = conv_transpose_model(GOOD, op="ort_tconv", weights="input")
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    with pytest.raises(Exception, match="SegregatedConvTranspose"):
        our_session(model)
