"""Quantised calls for the tests, and what they must give by the definition of the operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import Case
from hypothesis import strategies as st

from ort_tconv import _core

BYTES = {"uint8": np.uint8, "int8": np.int8}
OUTPUTS = {**BYTES, "float32": np.float32}


@dataclass(frozen=True)
class Quantized:
    """How a case is quantised: element types of X, W and Y, and what its parameters are like.

    ``scales`` is the number of weight scales: ``"one"``, ``"each"`` output channel, or each
    ``"of a group"``.  ``bias`` is ``"int32"``, ``"float32"`` or ``""``.
    """

    x: str = "uint8"
    w: str = "int8"
    y: str = "uint8"
    scales: str = "each"
    w_zeros: bool = False
    bias: str = "int32"
    activation: str = ""
    params: tuple[float, ...] = ()
    extreme: bool = False  # inputs and weights at the ends of their ranges only

    def inputs(self, case: Case, seed: int = 0) -> dict[str, Any]:
        """The inputs of the operator by name, in its order."""
        rng = np.random.default_rng(seed)

        def draw(dtype: str, shape) -> np.ndarray:
            info = np.iinfo(dtype)
            if self.extreme:
                return rng.choice([info.min, info.max], shape).astype(dtype)
            return rng.integers(info.min, info.max + 1, shape).astype(dtype)

        count = {"one": 1, "each": case.out_channels, "of a group": case.group_out}[self.scales]
        shape = () if self.scales == "one" else (count,)
        middle = 0 if self.w == "int8" else 128
        w_zero = draw(self.w, shape) if self.w_zeros else np.full(shape, middle, self.w)
        # Results of a usual call spread over a range somewhat larger than that of the output.
        length = case.group_in * np.prod(case.kernel) / max(1, np.prod(case.strides or 1)) + 1
        spread = 75.0 * 75.0 * float(np.sqrt(length)) * (2 if self.w_zeros else 1)
        x_scale = np.float32(rng.uniform(0.01, 0.02))
        w_scale = rng.uniform(0.004, 0.008, shape).astype(np.float32)
        y_scale = np.float32(x_scale * 0.006 * spread / rng.uniform(80, 160))
        inputs = {
            "x": draw(self.x, case.x_shape),
            "x_scale": x_scale,
            "x_zero_point": draw(self.x, ()),
            "w": draw(self.w, case.w_shape),
            "w_scale": w_scale,
            "w_zero_point": w_zero,
            "y_scale": np.float32(1) if self.y == "float32" else y_scale,
            "y_zero_point": np.zeros((), OUTPUTS[self.y])
            if self.y == "float32"
            else draw(self.y, ()),
        }
        if self.bias == "int32":
            limit = int(spread)
            inputs["b"] = rng.integers(-limit, limit, case.out_channels).astype(np.int32)
        elif self.bias == "float32":
            inputs["b"] = (rng.standard_normal(case.out_channels) * 40 * y_scale).astype(np.float32)
        return inputs

    @property
    def attributes(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if self.activation:
            result["activation"] = self.activation
        if self.params:
            result["activation_params"] = list(self.params)
        return result


def sums(case: Case, inputs: dict[str, Any]) -> np.ndarray:
    """The integer sums, which float64 holds exactly."""
    x = inputs["x"].astype(np.float64) - float(inputs["x_zero_point"])
    channels = each_channel(case, inputs["w_zero_point"]).reshape(case.group, 1, case.group_out)
    zeros = np.broadcast_to(channels, (case.group, case.group_in, case.group_out))
    zeros = zeros.reshape(case.group * case.group_in, case.group_out, *(1,) * len(case.kernel))
    w = inputs["w"].astype(np.float64) - zeros
    bias = inputs.get("b")
    b = None if bias is None or bias.dtype != np.int32 else bias.astype(np.float64)
    exact = _core.reference(x, w, b, **case.attributes)
    return exact.astype(np.int64)


def each_channel(case: Case, values: np.ndarray) -> np.ndarray:
    """One value, one of each group's channels, or one of each channel, as one of each channel."""
    values = np.atleast_1d(values)
    return np.resize(values, case.out_channels) if values.size else values


def expected(case: Case, how: Quantized, inputs: dict[str, Any]) -> np.ndarray:
    """Y by the operator's definition, in numpy's float32."""
    shape = (1, -1, *(1,) * len(case.spatial))
    scale = inputs["x_scale"] * each_channel(case, inputs["w_scale"]) / inputs["y_scale"]
    v = sums(case, inputs).astype(np.int32).astype(np.float32) * scale.reshape(shape)
    if how.bias == "float32":
        v = v + (inputs["b"] / inputs["y_scale"]).reshape(shape)
    low, high = {"": (-np.inf, np.inf), "Relu": (0, np.inf), "Clip": how.params}[how.activation]
    if how.y == "float32":
        return np.clip(v, np.float32(low), np.float32(high))
    zero = int(inputs["y_zero_point"])
    # The activation acts on real values: before it is rounded, and before the range ends.
    v = np.clip(v, np.float32(low) / inputs["y_scale"], np.float32(high) / inputs["y_scale"])
    info = np.iinfo(how.y)
    return np.clip(np.rint(v) + zero, info.min, info.max).astype(how.y)


def run(case: Case, how: Quantized, inputs: dict[str, Any], **options) -> np.ndarray:
    return _core.run_quantized(*inputs.values(), **case.attributes, **how.attributes, **options)


def reference(case: Case, how: Quantized, inputs: dict[str, Any]) -> np.ndarray:
    return _core.quantized_reference(*inputs.values(), **case.attributes, **how.attributes)


@st.composite
def ways_to_quantize(draw) -> Quantized:
    activation, params = draw(
        st.sampled_from([("", ()), ("Relu", ()), ("Clip", (-0.5, 1.25)), ("Clip", (0.0, 6.0))])
    )
    return Quantized(
        x=draw(st.sampled_from(list(BYTES))),
        w=draw(st.sampled_from(list(BYTES))),
        y=draw(st.sampled_from(list(OUTPUTS))),
        scales=draw(st.sampled_from(["one", "each", "of a group"])),
        w_zeros=draw(st.booleans()),
        bias=draw(st.sampled_from(["", "int32", "float32"])),
        activation=activation,
        params=params,
        extreme=draw(st.booleans()),
    )
