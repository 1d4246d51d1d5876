"""A quantised Conv behind a nearest Resize, or whose channels become pixels, as one operator."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import model, tensor
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from quantities import BYTES
from sessions import options, our_session

import ort_tconv
from ort_tconv import _core
from ort_tconv.converters import convert_with_report
from ort_tconv.converters.model_io import read_model
from ort_tconv.converters.pipeline import Options

OP = "QLinearSegregatedConvTranspose"
X_SCALE, Y_SCALE = np.float32(0.013), np.float32(0.9)


@dataclass
class Layer:
    """``x -> DQ -> Resize (-> Q -> DQ) -> Conv -> activation -> Q -> y``, or
    ``x -> DQ -> Conv -> activation (-> Q -> DQ) -> pixels -> Q -> y``.

    ``between``: whether what stands in brackets is there.
    """

    kind: str  # "Resize" or a mode of DepthToSpace, or "pixels" by reshaping
    x: str = "uint8"
    w: str = "int8"
    y: str = "uint8"
    sides: tuple[int, ...] = (4, 5)
    kernel: tuple[int, ...] = (3, 3)
    factors: tuple[int, ...] = (2, 2)
    group: int = 1
    group_in: int = 3
    group_out: int = 2  # channels of y in a group
    attributes: dict[str, Any] = field(default_factory=lambda: {"pads": [1] * 4})
    zeros: bool = True
    scales: str = "each"  # a scale for each channel of y, or "one"
    bias: str = "units"  # "float32" or ""
    activation: str = ""
    between: bool = True
    quantize: bool = True
    largest: int = 25  # of weights less their zero point
    pad: tuple[int, ...] = ()
    upsampler: str = "Resize"
    changed: dict[str, np.ndarray] = field(default_factory=dict)  # constants
    seed: int = 0

    @property
    def axes(self) -> int:
        return len(self.sides)

    @property
    def shuffles(self) -> bool:
        return self.kind != "Resize"

    @property
    def channels(self) -> int:
        """Of the Conv's result."""
        return self.group * self.group_out * (math.prod(self.factors) if self.shuffles else 1)

    def of_pixels(self, values: np.ndarray) -> np.ndarray:
        """An entry for each channel of y as one for each of the Conv's."""
        if not self.shuffles:
            return values
        block = math.prod(self.factors)
        return np.tile(values, block) if self.kind == "DCR" else np.repeat(values, block)

    def arrays(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        y_channels = self.group * self.group_out
        count = 1 if self.scales == "one" else y_channels
        w_scale = rng.uniform(0.5, 1, count).astype(np.float32)
        if self.scales == "each":
            w_scale = self.of_pixels(w_scale)
        w_zero = np.full(w_scale.shape, 128 if self.w == "uint8" else 0, self.w)
        shape = (self.channels, self.group_in, *self.kernel)
        w = rng.integers(-self.largest, self.largest + 1, shape) + int(w_zero.flat[0])
        units = X_SCALE * np.resize(w_scale, self.channels)
        bias = self.of_pixels(rng.integers(-400, 401, y_channels))
        arrays = {
            "x": _draw(rng, self.x, self.x_shape),
            "x_scale": X_SCALE,
            "x_zero": _draw(rng, self.x, ()) if self.zeros else np.zeros((), self.x),
            "w": w.astype(self.w),
            "w_scale": w_scale if self.scales == "each" else w_scale.reshape(()),
            "w_zero": w_zero if self.scales == "each" else w_zero.reshape(()),
            "y_scale": Y_SCALE,
            "y_zero": _draw(rng, self.y, ()) if self.zeros else np.zeros((), self.y),
            "b": bias.astype(np.int32),
            "b_scale": units,
            "b_zero": np.zeros(self.channels, np.int32),
        }
        if self.bias == "float32":
            arrays["b_float"] = (bias * units).astype(np.float32)
        return arrays | self.changed

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (2, self.group * self.group_in, *self.sides)

    def model(self) -> onnx.ModelProto:
        arrays = self.arrays()
        x = arrays.pop("x")
        nodes = []

        def linear(kind: str, source: str, result: str, name: str, **attributes) -> str:
            inputs = [source, f"{name}_scale", f"{name}_zero"]
            label = f"{kind[0].lower()}q_{result}"
            nodes.append(helper.make_node(kind, inputs, [result], label, **attributes))
            return result

        def pair(source: str, name: str) -> str:
            if not self.between:
                return source
            integers = linear("QuantizeLinear", source, f"{source}_q", name)
            return linear("DequantizeLinear", integers, f"{source}_dq", name)

        value = linear("DequantizeLinear", "x", "x_float", "x")
        linear("DequantizeLinear", "w", "w_float", "w", axis=0)
        if not self.shuffles:
            scales = np.array([1, 1, *self.factors], np.float32)
            arrays["factors"] = scales
            if self.upsampler == "Resize":
                ways = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                inputs = [value, "", "factors"]
            else:
                ways, inputs = {}, [value, "factors"]
            nodes.append(
                helper.make_node(self.upsampler, inputs, ["large"], "up", mode="nearest", **ways)
            )
            value = pair("large", "x")
            if self.pad:
                arrays["amounts"] = np.array(self.pad)
                nodes.append(helper.make_node("Pad", [value, "amounts"], ["padded"], "pad"))
                value = pair("padded", "x")
        inputs = [value, "w_float"]
        if self.bias == "units":
            nodes.append(
                helper.make_node(
                    "DequantizeLinear", ["b", "b_scale", "b_zero"], ["b_float"], axis=0
                )
            )
        if self.bias:
            inputs.append("b_float")
        nodes.append(
            helper.make_node("Conv", inputs, ["c"], "conv", group=self.group, **self.attributes)
        )
        value = "c"
        if self.activation:
            nodes.append(helper.make_node("Relu", [value], ["r"], "act"))
            value = "r"
        if self.shuffles:
            value = pair(value, "y")
            nodes += self.shuffle(value, arrays)
            value = "d"
        if self.quantize:
            value = linear("QuantizeLinear", value, "y", "y")
        used = {name for node in nodes for name in node.input}
        dtype = BYTES[self.y] if self.quantize else np.float32
        graph = helper.make_graph(
            nodes,
            "conv",
            [_info("x", x.dtype, x.shape)],
            [_info(value, dtype, None)],
            [tensor(np.asarray(a), name) for name, a in arrays.items() if name in used],
        )
        return model(graph, 9 if self.upsampler == "Upsample" else 17)

    def shuffle(self, value: str, arrays: dict) -> list[onnx.NodeProto]:
        if self.kind in ("DCR", "CRD"):
            options = {"blocksize": self.factors[0], "mode": self.kind}
            return [helper.make_node("DepthToSpace", [value], ["d"], "pixels", **options)]
        n, _, *sides = self.conv_shape()
        m, axes = self.group * self.group_out, self.axes
        arrays["split"] = np.array([n, m, *self.factors, *sides])
        arrays["joined"] = np.array([n, m, *(s * f for s, f in zip(sides, self.factors))])
        perm = [0, 1]
        for axis in range(axes):
            perm += [2 + axes + axis, 2 + axis]
        return [
            helper.make_node("Reshape", [value, "split"], ["parts"]),
            helper.make_node("Transpose", ["parts"], ["turned"], perm=perm),
            helper.make_node("Reshape", ["turned", "joined"], ["d"], "pixels"),
        ]

    def conv_shape(self) -> tuple[int, ...]:
        return self.sums(np.zeros(self.x_shape, int)).shape

    def sums(self, x: np.ndarray) -> np.ndarray:
        """The Conv of integers, by its definition."""
        arrays = self.arrays()
        w = arrays["w"].astype(int) - _along(arrays["w_zero"].astype(int), 0, self.axes + 2)
        dilations = self.attributes.get("dilations", [1] * self.axes)
        reach = [(k - 1) * d for k, d in zip(self.kernel, dilations)]
        mode = self.attributes.get("auto_pad", "NOTSET")
        if mode.startswith("SAME"):
            halves = [(r // 2, r - r // 2) for r in reach]
            pads = halves if mode == "SAME_UPPER" else [pair[::-1] for pair in halves]
        else:
            given_pads = self.attributes.get("pads", [0] * (2 * self.axes))
            pads = list(zip(given_pads[: self.axes], given_pads[self.axes :]))
        x = np.pad(x, [(0, 0), (0, 0), *pads])
        sizes = [n - r for n, r in zip(x.shape[2:], reach)]
        m = len(w) // self.group
        total = np.zeros((len(x), len(w), *sizes), np.int64)
        for g in range(self.group):
            part = x[:, g * self.group_in : (g + 1) * self.group_in]
            for tap in np.ndindex(*self.kernel):
                window = tuple(slice(t * d, t * d + n) for t, d, n in zip(tap, dilations, sizes))
                weights = w[(slice(g * m, (g + 1) * m), slice(None), *tap)]
                total[:, g * m : (g + 1) * m] += np.einsum(
                    "nc...,mc->nm...", part[(slice(None), slice(None), *window)], weights
                )
        return total

    def expected(self) -> np.ndarray:
        """y: exact sums, one product in float32 and one rounding."""
        arrays = self.arrays()
        x = arrays["x"].astype(int) - int(arrays["x_zero"])
        if not self.shuffles:
            for axis, s in enumerate(self.factors, start=2):
                x = np.repeat(x, s, axis)
            if self.pad:
                x = np.pad(x, list(zip(self.pad[: x.ndim], self.pad[x.ndim :])))
        s = self.sums(x)
        if self.bias:
            s = s + _along(arrays["b"].astype(int), 1, s.ndim)
        y_scale = arrays["y_scale"] if self.quantize else np.float32(1)
        scale = arrays["x_scale"] * np.atleast_1d(arrays["w_scale"]) / y_scale
        v = s.astype(np.float32) * _along(scale, 1, s.ndim)
        v = np.maximum(v, 0) if self.activation else v
        if self.quantize:
            info = np.iinfo(self.y)
            v = np.clip(np.rint(v) + int(arrays["y_zero"]), info.min, info.max).astype(self.y)
        return self.pixels(v) if self.shuffles else v

    def pixels(self, v: np.ndarray) -> np.ndarray:
        n, _, *sides = v.shape
        m, axes = self.group * self.group_out, self.axes
        if self.kind == "DCR":
            v = np.moveaxis(v.reshape(n, *self.factors, m, *sides), 1 + axes, 1)
        v = v.reshape(n, m, *self.factors, *sides)
        order = [0, 1]
        for axis in range(axes):
            order += [2 + axes + axis, 2 + axis]
        return v.transpose(order).reshape(n, m, *(s * f for s, f in zip(sides, self.factors)))


def _draw(rng, dtype: str, shape) -> np.ndarray:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    shape = [1] * rank
    shape[axis] = -1
    return np.asarray(values).reshape(shape)


def _info(name: str, dtype, shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
    )


def forced(original: onnx.ModelProto):
    """The model as it is before anything is timed: whatever can be rewritten is."""
    source = read_model(original)
    rewritten = Options(disable="unit_stride_conv").rewrite(source, timed=True)
    return rewritten.to_proto(source), rewritten.report


def in_float(original: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The model as it is written, in floats: onnxruntime's own integer kernel saturates sums of two
    products on processors without VNNI."""
    plain = options()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        original.SerializeToString(), plain, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def check(layer: Layer) -> onnx.ModelProto:
    original, x = layer.model(), layer.arrays()["x"]
    converted, report = forced(original)
    found = Counter(node.op_type for node in converted.graph.node)
    assert found == {OP: 1}, str(report)
    (actual,) = our_session(converted).run(None, {"x": x})
    np.testing.assert_array_equal(actual, layer.expected())
    stock = in_float(original, x)
    assert (actual.dtype, actual.shape) == (stock.dtype, stock.shape)
    if layer.quantize:  # float32 sums may be rounded across the middle between two steps
        steps = np.abs(actual.astype(int) - stock.astype(int))
        assert steps.max(initial=0) <= 1
        assert (steps > 0).sum() <= max(1, 1e-3 * steps.size)
    else:
        np.testing.assert_allclose(actual, stock, rtol=1e-5, atol=1e-5 * np.abs(stock).max())
    return converted


def refused(layer: Layer, reason: str, timed: bool = True) -> None:
    original = layer.model()
    if timed:
        converted, report = forced(original)
    else:
        result = convert_with_report(original, disable="unit_stride_conv")
        converted, report = result.model, result.report
    assert converted == original
    (skip,) = [skip for skip in report.skips if skip.node == "conv"]
    assert skip.rewrite == "quantized"
    assert reason in skip.reason


# ---- exact -------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [True, False])
@pytest.mark.parametrize("kind", ["Resize", "DCR", "CRD", "pixels"])
def test_types(kind, between):
    for x in BYTES:
        for w in BYTES:
            for y in BYTES:
                largest = 25 if kind == "Resize" else 127
                layer = Layer(kind, x, w, y, between=between, largest=largest)
                check(layer)
                check(replace(layer, scales="one", zeros=False, activation="Relu"))


@pytest.mark.parametrize("kind", ["Resize", "DCR"])
@pytest.mark.parametrize("bias", ["units", "float32", ""])
def test_biases(kind, bias):
    check(Layer(kind, bias=bias))
    if bias != "float32":
        check(Layer(kind, bias=bias, quantize=False, between=kind == "Resize"))


@st.composite
def layers(draw) -> Layer:
    kind = draw(st.sampled_from(["Resize", "DCR", "CRD", "pixels"]))
    axes = 2 if kind in ("DCR", "CRD") else draw(st.integers(1, 3))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(axes))

    kernel, dilations = each(1, 4 if axes < 3 else 2), each(1, 2)
    mode = draw(st.sampled_from(["", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if mode.startswith("SAME"):  # stock has none of both together
        dilations = (1,) * axes
    reach = [(k - 1) * d for k, d in zip(kernel, dilations)]
    attributes: dict[str, Any] = {"dilations": list(dilations)}
    if mode:
        attributes["auto_pad"] = mode
    if mode in ("", "NOTSET") and draw(st.booleans()):
        attributes["pads"] = [draw(st.integers(0, r)) for r in (*reach, *reach)]
    factors = each(1, 3)
    if kind in ("DCR", "CRD"):
        factors = (draw(st.integers(2, 3)),) * 2
    elif max(factors) == 1:
        factors = (2,) * axes
    # Groups stay groups where the channels of a pixel are next to each other.
    group = 1 if kind == "DCR" else draw(st.integers(1, 3))
    sides = tuple(r + draw(st.integers(1, 3)) for r in reach)
    # The sums of weights that stand for a Resize grow with the kernel.
    summed = math.prod(min(k, f) for k, f in zip(kernel, factors)) if kind == "Resize" else 1
    return Layer(
        kind,
        x=draw(st.sampled_from(list(BYTES))),
        w=draw(st.sampled_from(list(BYTES))),
        y=draw(st.sampled_from(list(BYTES))),
        sides=sides,
        kernel=kernel,
        factors=factors,
        group=group,
        group_in=draw(st.integers(1, 3)),
        group_out=draw(st.integers(1, 3)),
        attributes=attributes,
        zeros=draw(st.booleans()),
        scales=draw(st.sampled_from(["one", "each"])),
        bias=draw(st.sampled_from(["units", ""])),
        activation=draw(st.sampled_from(["", "Relu"])),
        between=draw(st.booleans()),
        largest=127 // summed,
        seed=draw(st.integers(0, 9)),
    )


@given(layer=layers())
def test_any_layer(layer):
    check(layer)


@pytest.mark.parametrize("kind", ["DCR", "CRD"])
def test_validate_compares_with_sums_that_do_not_saturate(kind):
    """Without VNNI, stock's sums of two products saturate, unless it is told not to."""
    layer = Layer(kind, group_in=32, largest=127)
    converted = check(layer)
    x = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), layer.x_shape)
    report = ort_tconv.validate(layer.model(), converted, {"x": x})
    assert report.ok, str(report)


def test_tuning_times_both():
    for kind in ("Resize", "DCR"):
        result = convert_with_report(Layer(kind).model(), tune=True, disable="unit_stride_conv")
        (site,) = result.tuning.sites
        assert "conv" in site.nodes
        assert min(site.stock_ms, site.our_ms) > 0


def test_pads_of_zeros_between():
    check(Layer("Resize", attributes={}, pad=(0, 0, 1, 2, 0, 0, 2, 0)))
    check(Layer("Resize", attributes={}, pad=(0, 0, 1, 2, 0, 0, 2, 0), between=False))


def test_upsample_of_old_opsets():
    layer = Layer("Resize", upsampler="Upsample", scales="one", bias="")
    original = layer.model()
    for node in original.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = "com.microsoft"
            del node.attribute[:]
    original.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    converted, report = forced(original)
    assert [node.op_type for node in converted.graph.node] == [OP], str(report)
    (actual,) = our_session(converted).run(None, {"x": layer.arrays()["x"]})
    np.testing.assert_array_equal(actual, layer.expected())


def test_a_resize_of_integers():
    layer = Layer("Resize", between=False)
    original = layer.model()
    first = next(node for node in original.graph.node if node.output[0] == "x_float")
    resize = next(node for node in original.graph.node if node.op_type == "Resize")
    conv = next(node for node in original.graph.node if node.op_type == "Conv")
    resize.input[0], first.input[0], conv.input[0] = "x", "large", "x_float"
    nodes = sorted(original.graph.node, key=lambda node: node is not resize)
    del original.graph.node[:]
    original.graph.node.extend(nodes)
    converted, report = forced(original)
    assert [node.op_type for node in converted.graph.node] == [OP], str(report)
    (actual,) = our_session(converted).run(None, {"x": layer.arrays()["x"]})
    np.testing.assert_array_equal(actual, layer.expected())


def test_sums_of_one_sign_take_all_of_8_bits():
    """Larger than 127, but with a zero point of their own they fit."""
    layer = Layer("Resize")
    w = np.random.default_rng(0).integers(0, 60, layer.arrays()["w"].shape).astype(np.int8)
    converted = check(replace(layer, changed={"w": w}))
    stored = {c.name: onnx.numpy_helper.to_array(c) for c in converted.graph.initializer}
    assert stored["w_transposed"].dtype == np.uint8
    assert stored["w_transposed"].max() > 127
    check(replace(layer, changed={"w": -w}))


def test_other_readers_keep_the_resize():
    layer = Layer("Resize")
    original = layer.model()
    original.graph.output.append(_info("large", np.float32, None))
    converted, report = forced(original)
    found = Counter(node.op_type for node in converted.graph.node)
    assert found == {OP: 1, "DequantizeLinear": 1, "Resize": 1}, str(report)
    actual, large = our_session(converted).run(None, {"x": layer.arrays()["x"]})
    np.testing.assert_array_equal(actual, layer.expected())
    assert large.shape[2:] == tuple(s * f for s, f in zip(layer.sides, layer.factors))


# ---- refused -----------------------------------------------------------------------------------


def test_sums_beyond_8_bits():
    layer = Layer("Resize", largest=127)
    sums = "the sums of them that stand for the Resize reach from"
    refused(layer, f"its weights are quantised, and {sums}")
    refused(layer, "further than 8 bits do")


@pytest.mark.parametrize("name", ["w_scale", "b"])
def test_what_differs_among_the_channels_of_a_pixel(name):
    layer = Layer("CRD")
    values = layer.arrays()[name].copy()
    values[1] += 1
    changed = {name: values}
    if name == "w_scale":
        changed["b_scale"] = (X_SCALE * values).astype(np.float32)
        refused(replace(layer, changed=changed), "the scales of its weights differ among")
    else:
        refused(replace(layer, changed=changed), "its biases differ among the channels of a pixel")
        check(replace(layer, bias="", changed=changed))


@pytest.mark.parametrize(
    ("kind", "output", "reason"),
    [
        ("Resize", "large_q", "'qq_large_q' (QuantizeLinear) between Resize and it has another"),
        (
            "Resize",
            "large_dq",
            "'dq_large_dq' (DequantizeLinear) between Resize and it has",
        ),
        ("DCR", "c_dq", "not quantised with the scale and zero point of the channels"),
        ("DCR", "y", "not quantised with the scale and zero point of the channels"),
    ],
)
def test_other_scales_in_between(kind, output, reason):
    for index in (1, 2):
        original = Layer(kind).model()
        (node,) = (node for node in original.graph.node if output in node.output)
        name = node.input[index]
        (old,) = (each for each in original.graph.initializer if each.name == name)
        array = onnx.numpy_helper.to_array(old)
        other = array * np.float32(1.5) if index == 1 else array ^ np.uint8(1)
        original.graph.initializer.append(tensor(np.asarray(other, array.dtype), "other"))
        node.input[index] = "other"
        converted, report = forced(original)
        assert converted == original
        assert reason in next(skip.reason for skip in report.skips if skip.node == "conv")


def test_pixels_that_are_not_quantised_again():
    refused(
        Layer("DCR", quantize=False), "not quantised with the scale and zero point of the channels"
    )


def test_strides():
    refused(Layer("Resize", attributes={"strides": [2, 2], "pads": [1] * 4}), "only stride 1")


def test_weights_alone():
    original = Layer("Resize", between=False, bias="").model()
    del original.graph.node[0]
    original.graph.node[1].input[0] = "x"
    original.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    converted, report = forced(original)
    assert converted == original
    assert report.skips[0].reason == "its input X is not quantised"


# ---- what is faster ----------------------------------------------------------------------------


def test_without_an_integer_kernel_of_stock_it_is_rewritten():
    for kind in ("Resize", "DCR"):
        result = convert_with_report(Layer(kind, between=False).model())
        assert [node.op_type for node in result.model.graph.node] == [OP]


def test_stock_has_an_integer_kernel():
    refused(Layer("DCR"), "and the operator would hardly multiply less", timed=False)
    wide = Layer("Resize", group_in=64, group_out=16, largest=20)
    narrow = replace(wide, group_in=8)
    isa = _core.quantized_isa()
    if isa == "avx2":
        result = convert_with_report(wide.model())
        assert [node.op_type for node in result.model.graph.node] == [OP]
        refused(narrow, "would save 0.25 instructions for each value", timed=False)
    else:
        refused(wide, f"which was not compared with the operator's for {isa}", timed=False)
