"""What the provider fuses: the sites and the bits of the model as onnxruntime's basic optimisations
leave it, converted.  The converter's own tests compare many more models (tests/converters)."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from both_ways import compare, optimised, provider_sites
from cases import graph_model
from onnx import helper, numpy_helper
from sessions import options, our_session
from sites import provider_session, run_provider, same_bits

import ort_tconv
from ort_tconv.converters.model_io import read_model
from ort_tconv.sessions.provider_report import open_with_report

RNG = np.random.default_rng(5)
C, M = 4, 6


def node(op_type, *names, out="y", domain="", **attributes):
    return helper.make_node(op_type, list(names), [out], f"n_{out}", domain=domain, **attributes)


def transposed(*nodes, group=1, dtype="float32", opset=17, inputs=None, bias=True, **constants):
    """x -> ConvTranspose ("up") -> v, and ``nodes`` from v to y."""
    weights = {"w": RNG.standard_normal((C, M // group, 4, 4))}
    if bias:
        weights["b"] = RNG.standard_normal(M)
    up = helper.make_node(
        "ConvTranspose", ["x", *weights], ["v"], "up", strides=[2, 2], pads=[1] * 4, group=group
    )
    arrays = {k: np.asarray(a, dtype) for k, a in {**weights, **constants}.items()}
    shapes = {"x": [2, C, 4, 5], **(inputs or {})}
    return graph_model([up, *nodes], arrays, shapes, ("y",), dtype, opset)


def convolution(*nodes, before=(), x="x", shape=(1, 16, 12, 12), w=(16, 16, 3, 3), **more):
    """``before``, then Conv ("conv") of stride 1 that keeps the size, then ``nodes``."""
    pads = more.pop("pads", [1, 1, 1, 1])
    dtype, opset = more.pop("dtype", "float32"), more.pop("opset", 17)
    out = more.pop("out", "c")
    arrays = {"w": RNG.standard_normal(w), "b": more.pop("b", RNG.standard_normal(w[0]))}
    arrays = {k: np.asarray(a, dtype) for k, a in arrays.items()}
    conv = helper.make_node("Conv", [x, "w", "b"], [out], "conv", pads=pads)
    return graph_model([*before, conv, *nodes], arrays | more, {"x": shape}, ("y",), dtype, opset)


def resize(factor=2, **attributes):
    attributes = {
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    } | attributes
    return helper.make_node(
        "Resize", ["x", "", "scales"], ["u"], "resize", mode="nearest", **attributes
    ), np.array([1, 1, factor, factor], np.float32)


def check(model: onnx.ModelProto, tmp_path, count: int | None = None) -> None:
    """Both ways take the same sites, ``count`` nodes in all, and give the same bits."""
    basic = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    source = read_model(model)
    if model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
        # Of other types it would write down what it can run, with casts around it.
        source = optimised(source, tmp_path / "optimised.onnx")
    assert compare(source, basic, {}) is None
    if count is not None:
        _, report = open_with_report(read_model(model), ort_tconv.add_provider(options()))
        assert sum(map(len, provider_sites(report))) == count, str(report)


def refusal(model: onnx.ModelProto) -> str:
    _, report = open_with_report(read_model(model), ort_tconv.add_provider(options()))
    (reason,) = [site.reason for site in report.sites if not site.claimed]
    return reason


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "op, names", [("Add", "vk"), ("Sub", "vk"), ("Sub", "kv"), ("Mul", "kv"), ("Div", "vk")]
)
def test_constants_per_channel(tmp_path, op, names, dtype, group, bias):
    k = RNG.uniform(0.5, 2, (1, M, 1, 1))
    check(transposed(node(op, *names), k=k, dtype=dtype, group=group, bias=bias), tmp_path, 2)


def test_batch_normalization_and_activation(tmp_path):
    names = ["gamma", "beta", "mean", "var"]
    constants = {name: RNG.uniform(0.5, 2, M) for name in names}
    model = transposed(
        node("BatchNormalization", "v", *names, out="t"),
        node("Relu", "t"),
        **constants,
    )
    check(model, tmp_path)


@pytest.mark.parametrize(
    "op, attributes, opset",
    [
        *((name, {}, 17) for name in ("Relu", "Sigmoid", "Tanh", "Softplus")),
        ("Elu", {"alpha": 0.5}, 17),
        ("LeakyRelu", {"alpha": 0.3}, 17),
        ("HardSigmoid", {}, 17),
        ("Clip", {"min": -0.5, "max": 0.25}, 10),
        ("Gelu", {"approximate": "tanh"}, 20),
    ],
)
def test_activations(tmp_path, op, attributes, opset):
    check(transposed(node(op, "v", **attributes), opset=opset), tmp_path, 2)


def test_hard_swish():
    """onnxruntime, which has no kernel for it, shows the node to providers before it inlines it."""
    model = transposed(node("HardSwish", "v"))
    session, report = open_with_report(read_model(model), ort_tconv.add_provider(options()))
    assert [site.nodes for site in report.sites if site.claimed] == [("up", "n_y")]
    feeds = {"x": RNG.standard_normal((2, C, 4, 5)).astype(np.float32)}
    (expected,) = our_session(ort_tconv.convert(model)).run(None, feeds)
    assert same_bits(session.run(None, feeds)[0], expected)


def test_clip_and_prelu_take_constants(tmp_path):
    check(transposed(node("Clip", "v", "low", ""), low=-0.5), tmp_path, 2)
    slopes = RNG.standard_normal((M, 1, 1))
    check(transposed(node("PRelu", "v", "slopes"), slopes=slopes), tmp_path, 2)


def test_bounds_of_a_clip():
    """The upper one wins; what is not a number stays."""
    model = transposed(node("Clip", "v", "low", "high"), low=0.75, high=-0.5)
    (y,) = run_provider(model, {"x": RNG.standard_normal((2, C, 4, 5)).astype(np.float32)})
    np.testing.assert_array_equal(y, np.float32(-0.5))
    model = transposed(node("Clip", "v", "low", "high"), low=np.nan, high=0.75)
    assert refusal(model) == "its min is not a number"


@pytest.mark.parametrize("swapped", [True, False])
def test_silu_written_out(tmp_path, swapped):
    names = ("s", "v") if swapped else ("v", "s")
    check(transposed(node("Sigmoid", "v", out="s"), node("Mul", *names)), tmp_path, 3)


def test_gelu_written_out(tmp_path):
    model = transposed(
        node("Div", "v", "root", out="a"),
        node("Erf", "a", out="e"),
        node("Add", "e", "one", out="g"),
        node("Mul", "v", "g", out="h"),
        node("Mul", "h", "half"),
        root=np.sqrt(2),
        one=1.0,
        half=0.5,
    )
    check(model, tmp_path, 6)


def test_something_like_gelu_stays(tmp_path):
    model = transposed(
        node("Erf", "v", out="e"), node("Add", "e", "one", out="g"), node("Mul", "v", "g"), one=1.0
    )
    check(model, tmp_path, 1)


@pytest.mark.parametrize("order", ["vz", "zv"])
def test_residual_and_activation(tmp_path, order):
    model = transposed(node("Add", *order, out="t"), node("Relu", "t"), inputs={"z": [2, M, 8, 10]})
    check(model, tmp_path, 3)


def test_a_residual_that_may_be_broadcast_stays():
    model = transposed(node("Add", "v", "z"), inputs={"z": [2, M, 1, 10]})
    assert "the shape of 'z' is not known to be that of 'v'" in refusal(model)


def test_a_result_with_other_readers_stays():
    model = transposed(node("Relu", "v", out="t"), node("Concat", "v", "t", axis=1))
    assert refusal(model) == "its input has 2 readers"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(1, 16, 12, 12), ("n", 16, "h", "w")])
def test_upsampling_and_convolution(tmp_path, dtype, shape):
    up, scales = resize()
    check(
        convolution(before=[up], x="u", out="y", shape=shape, scales=scales, dtype=dtype),
        tmp_path,
        2,
    )


@pytest.mark.parametrize("mode", ["edge", "reflect"])
def test_upsampling_padding_and_convolution(tmp_path, mode):
    up, scales = resize()
    pad = helper.make_node("Pad", ["u", "amounts"], ["p"], "pad", mode=mode)
    amounts = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    model = convolution(
        before=[up, pad], x="p", out="y", pads=[0] * 4, scales=scales, amounts=amounts
    )
    session, report = open_with_report(read_model(model), ort_tconv.add_provider(options()))
    assert [set(site.nodes) for site in report.sites if site.claimed] == [{"resize", "pad", "conv"}]
    feeds = {"x": RNG.standard_normal((1, 16, 12, 12)).astype(np.float32)}
    (expected,) = our_session(ort_tconv.convert(model)).run(None, feeds)
    assert same_bits(session.run(None, feeds)[0], expected)


def test_an_upsampled_image_that_others_read_stays():
    up, scales = resize()
    model = convolution(node("Add", "c", "u"), before=[up], x="u", scales=scales)
    assert refusal(model).startswith("'u' has other readers")


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("shape", [(1, 32, 24, 24), ("n", 32, "h", "w")])
def test_subpixel_convolution(tmp_path, mode, same, shape):
    b = np.full(12, 0.5) if same else RNG.standard_normal(12)
    shuffle = node("DepthToSpace", "c", blocksize=2, mode=mode)
    model = convolution(shuffle, w=(12, 32, 3, 3), shape=shape, b=b)
    session, report = open_with_report(read_model(model), ort_tconv.add_provider(options()))
    assert [set(site.nodes) for site in report.sites if site.claimed] == [{"conv", "n_y"}]
    feeds = {"x": RNG.standard_normal((2, 32, 24, 24) if shape[0] == "n" else shape)}
    feeds = {"x": feeds["x"].astype(np.float32)}
    (expected,) = our_session(ort_tconv.convert(model)).run(None, feeds)
    assert same_bits(session.run(None, feeds)[0], expected)


def test_subpixel_convolution_by_reshaping():
    first, last = np.array([0, 3, 2, 2, 24, 24]), np.array([0, 3, 48, 48])
    model = convolution(
        node("Reshape", "c", "first", out="r"),
        node("Transpose", "r", out="t", perm=[0, 1, 4, 2, 5, 3]),
        node("Reshape", "t", "last"),
        w=(12, 32, 3, 3),
        shape=(1, 32, 24, 24),
        first=first,
        last=last,
    )
    session, report = open_with_report(read_model(model), ort_tconv.add_provider(options()))
    assert [len(site.nodes) for site in report.sites if site.claimed] == [4], str(report)
    feeds = {"x": RNG.standard_normal((1, 32, 24, 24)).astype(np.float32)}
    (expected,) = our_session(ort_tconv.convert(model)).run(None, feeds)
    assert same_bits(session.run(None, feeds)[0], expected)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_not_finite(value):
    """They are summed by definition, from the weights as they are."""
    model = transposed(node("Relu", "v"))
    (w,) = [item for item in model.graph.initializer if item.name == "w"]
    array = numpy_helper.to_array(w).copy()
    array[1, 2, 3, 0] = value
    w.CopyFrom(numpy_helper.from_array(array, "w"))
    feeds = {"x": RNG.standard_normal((2, C, 4, 5)).astype(np.float32)}
    (expected,) = our_session(ort_tconv.convert(model)).run(None, feeds)
    assert same_bits(provider_session(model, strict=True).run(None, feeds)[0], expected)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("batch", [2, "n"])
@pytest.mark.parametrize("padded", [True, False])
def test_zero_insertion_by_reshaping(tmp_path, offset, batch, padded):
    """What upfirdn2d makes of StyleGAN2's upsampling."""
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["u1"], "split"),
        helper.make_node("Pad", ["u1", "between"], ["u2"], "zeros"),
        helper.make_node("Reshape", ["u2", "merge"], ["u"], "merge"),
    ]
    constants = {
        "split": np.array([-1, 16, 12, 1, 10, 1]),
        "between": np.array([0, 0, 0, offset, 0, 0, 0, 0, 0, 1 - offset, 0, 1]),
        "merge": np.array([-1, 16, 24, 20]),
    }
    if padded:
        nodes.append(helper.make_node("Pad", ["u", "around"], ["p"], "pad"))
        constants["around"] = np.array([0, 0, 1, 0, 0, 0, 0, 1])
    model = convolution(
        before=nodes,
        x="p" if padded else "u",
        out="y",
        shape=(batch, 16, 12, 10),
        w=(16, 16, 4, 4),
        pads=[1] * 4,
        **constants,
    )
    assert compare(read_model(model), ort.GraphOptimizationLevel.ORT_DISABLE_ALL, {}) is None
    _, report = open_with_report(read_model(model), ort_tconv.add_provider(options()))
    (site,) = report.sites
    assert site.pattern == "zero_insertion" and site.claimed


@pytest.mark.parametrize("fault", [None, "value", "place", "channel"])
def test_zero_insertion_by_a_mask(fault):
    up, scales = resize()
    mask = np.zeros((16, 24, 24) if fault == "channel" else (24, 24), np.float32)
    mask[..., 1::2, ::2] = 1
    if fault is not None:
        mask[(3, 1, 2) if fault == "channel" else (5, 3 if fault == "place" else 4)] = (
            2 if fault == "value" else fault == "place"
        )
    mul = helper.make_node("Mul", ["u", "mask"], ["m"], "mul")
    model = convolution(before=[up, mul], x="m", out="y", scales=scales, mask=mask)
    assert compare(read_model(model), ort.GraphOptimizationLevel.ORT_DISABLE_ALL, {}) is None
    _, report = open_with_report(read_model(model), ort_tconv.add_provider(options()))
    claimed = {"resize", "mul", "conv"}
    assert [set(s.nodes) for s in report.sites if s.claimed] == ([] if fault else [claimed])


@pytest.mark.parametrize("dtype, least", [("float32", 1e-35), ("float64", 1e-300)])
def test_constants_that_would_make_weights_subnormal_stay(dtype, least):
    k = np.ones((1, M, 1, 1))
    k[0, 2] = least
    model = transposed(node("Mul", "v", "k"), k=k, dtype=dtype)
    assert "would make those of channel 2 as small as" in refusal(model)
    assert compare(read_model(model), ort.GraphOptimizationLevel.ORT_DISABLE_ALL, {}) is None


def test_constants_that_would_make_weights_of_a_shuffled_convolution_subnormal_stay():
    k = np.ones((1, 12, 1, 1), np.float32)
    k[0, 5] = 1e-35
    shuffle = node("DepthToSpace", "t", blocksize=2, mode="DCR")
    model = convolution(
        node("Mul", "c", "k", out="t"), shuffle, w=(12, 32, 1, 1), k=k, shape=(1, 32, 24, 24)
    )
    assert compare(read_model(model), ort.GraphOptimizationLevel.ORT_DISABLE_ALL, {}) is None
    settings = ort_tconv.add_provider(options())  # onnxruntime itself would fold the constants
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (site,) = open_with_report(read_model(model), settings)[1].sites
    assert "would make those of channel 5 as small as" in site.reason, site


# ---- plain convolutions -----------------------------------------------------------------------


def plain(kernel, side, channels=(64, 64), *, group=1, dtype="float32", bias=True, **attributes):
    """x -> Conv ("conv") of stride 1 -> y, on as many axes as the kernel has."""
    weights = {"w": RNG.standard_normal((channels[1], channels[0] // group, *kernel)) * 0.1}
    if bias:
        weights["b"] = RNG.standard_normal(channels[1])
    attributes = {"pads": [k // 2 for k in kernel] * 2, "group": group} | attributes
    conv = helper.make_node("Conv", ["x", *weights], ["y"], "conv", **attributes)
    arrays = {name: array.astype(dtype) for name, array in weights.items()}
    shape = (1, channels[0], *(side if isinstance(side, tuple) else (side,) * len(kernel)))
    return graph_model([conv], arrays, {"x": shape}, ("y",), dtype, 17)


def claimed(model: onnx.ModelProto, **settings: str) -> list[str]:
    session_options = ort_tconv.add_provider(options(), **settings)
    _, report = open_with_report(read_model(model), session_options)
    assert all(site.claimed for site in report.sites), str(report)
    return [site.pattern for site in report.sites]


PLAIN = {
    "3-D": plain((3, 3, 3), 12),
    "3-D, of other sizes": plain((5, 3, 3), (9, 20, 13)),
    "3-D, groups": plain((3, 3, 3), 12, (64, 128), group=2),
    "3-D, no bias": plain((3, 3, 3), 12, bias=False),
    "3-D, pads differ": plain((3, 3, 3), 12, pads=[0, 1, 2, 2, 0, 1]),
    "3-D, dilated": plain((3, 3, 3), 16, dilations=[1, 2, 1], pads=[1, 2, 1] * 2),
    "2-D": plain((3, 3), 40, (256, 256)),
    "2-D, few outputs": plain((5, 5), 64, (64, 1)),
    "1-D, few outputs": plain((7,), 8000, (64, 1)),
}


@pytest.mark.parametrize("model", PLAIN.values(), ids=PLAIN.keys())
def test_plain_convolutions(tmp_path, model):
    assert claimed(model) == ["unit_stride_conv"]
    check(model, tmp_path, 1)


@pytest.mark.parametrize(
    "settings, taken",
    [
        ({"algorithm": "winograd"}, True),
        ({"algorithm": "direct"}, False),
        ({"algorithm": "narrow"}, False),
        ({"weights": "int8"}, False),
    ],
    ids=str,
)
def test_the_estimate_is_of_what_the_user_asks_for(settings, taken):
    model = plain((3, 3), 40, (256, 256))
    assert claimed(model, **settings) == ["unit_stride_conv"] * taken


LEFT = {
    "one tap": plain((1, 1, 1), 12),
    "depthwise": plain((3, 3, 3), 12, group=64),
    "stride 2": plain((3, 3, 3), 12, strides=[2, 2, 2]),
    "pads beyond the kernel": plain((3, 3, 3), 12, pads=[3] * 6),
    "an open side": plain((3, 3, 3), ("d", 12, 12)),
    "no gain": plain((3, 3), 16, (16, 16)),
}


@pytest.mark.parametrize("model", LEFT.values(), ids=LEFT.keys())
def test_plain_convolutions_that_are_no_candidates(tmp_path, model):
    """No report mentions them."""
    assert claimed(model) == []
    check(model, tmp_path, 0)


def test_what_follows_a_plain_convolution_is_fused(tmp_path):
    model = plain((3, 3, 3), 12)
    model.graph.node[0].output[0] = "c"
    model.graph.node.append(helper.make_node("LeakyRelu", ["c"], ["y"], "act", alpha=0.25))
    check(model, tmp_path, 2)


@pytest.mark.parametrize("name", ["3-D", "2-D", "1-D, few outputs", "transposed"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_inputs_that_are_not_finite(name, value):
    """What they reach is summed from the weights as they are, also where sizes are fixed and the
    session has dropped its own."""
    model = PLAIN.get(name)
    if model is None:
        weights = {"w": RNG.standard_normal((64, 64, 4, 4)).astype(np.float32)}
        up = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1] * 4)
        model = graph_model([up], weights, {"x": (1, 64, 32, 32)}, ("y",), "float32", 17)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = RNG.standard_normal(shape).astype(np.float32)
    x[(0, 3, *(n // 2 for n in shape[2:]))] = value
    (expected,) = our_session(ort_tconv.convert(model)).run(None, {"x": x})
    session = provider_session(model, strict=True)
    assert same_bits(session.run(None, {"x": x})[0], expected)
    x[:] = 1
    assert np.isfinite(session.run(None, {"x": x})[0]).all()


@pytest.mark.parametrize("act", [False, True])
def test_results_that_nobody_reads(act):
    model = plain((3, 3, 3), 12)
    conv = model.graph.node[0]
    conv.output[0] = "dead"
    if act:
        model.graph.node.append(helper.make_node("Relu", ["dead"], ["dead too"], "act"))
    model.graph.node.append(helper.make_node("Neg", ["x"], ["y"], "neg"))
    level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings = ort_tconv.add_provider(options())
    settings.graph_optimization_level = level
    session, _ = open_with_report(read_model(model), settings)
    x = RNG.standard_normal((1, 64, 12, 12, 12)).astype(np.float32)
    assert same_bits(session.run(None, {"x": x})[0], -x)


def test_weights_for_other_channels_are_left_to_onnxruntime():
    model = plain((3, 3, 3), 12, (128, 64))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64
    _, report = open_with_report(read_model(model), ort_tconv.add_provider(options()))
    assert not report.sites


@pytest.mark.parametrize("faulty", ["kernel", "dilation"])
def test_sizes_that_no_output_has(faulty):
    """ONNX Runtime says what is wrong, or runs what has no output; no report speaks of it."""
    given = {"pads": [0] * 6} | ({"dilations": [2**40] * 3} if faulty == "dilation" else {})
    model = plain((3, 3, 3), 2 if faulty == "kernel" else 12, **given)
    ort_tconv.convert(model)
    try:
        assert claimed(model) == []
    except RuntimeError as error:
        assert "conv" in str(error)
