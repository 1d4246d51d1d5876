"""What onnxruntime's own quantiser writes, end to end."""

import numpy as np
import onnx
import pytest
from cases import chain_model, nodes_of, tensor
from cases import model as make_model
from onnx import helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from sessions import options

import ort_tconv
from ort_tconv.converters.model_io import read_model
from ort_tconv.converters.pipeline import Options
from ort_tconv.sessions.provider import unavailable
from ort_tconv.sessions.provider_report import open_with_report

OP = "QLinearSegregatedConvTranspose"
TYPES = [
    (QuantType.QUInt8, QuantType.QInt8),
    (QuantType.QUInt8, QuantType.QUInt8),
    (QuantType.QInt8, QuantType.QInt8),
]


class Noise(CalibrationDataReader):
    def __init__(self, name, shape):
        rng = np.random.default_rng(0)
        draws = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
        self.feeds = iter([{name: draw} for draw in draws])

    def get_next(self):
        return next(self.feeds, None)


def quantized(model, shape, folder, **options):
    source, target = folder / "float.onnx", folder / "quantized.onnx"
    onnx.save(model, source)
    noise = Noise(model.graph.input[0].name, shape)
    quantize_static(source, target, noise, quant_format=QuantFormat.QDQ, **options)
    return onnx.load(target)


def check(original, converted, count):
    """Both ways take so many layers, and their results are stock's but for a step in a thousand."""
    report = ort_tconv.validate(original, converted, runs=2)
    assert report.ok, report
    if unavailable() is not None:
        return
    report = ort_tconv.validate(original, provider=True, runs=2)
    assert report.ok, report
    assert report.rewritten >= count, report
    _, sites = open_with_report(read_model(original), ort_tconv.add_provider(options()))
    assert sum(site.pattern == "quantized" for site in sites.sites if site.claimed) == count


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("types", TYPES, ids=lambda pair: "-".join(t.name for t in pair))
def test_a_chain(types, per_channel, symmetric, tmp_path):
    model = chain_model(3, dynamic=False)
    original = quantized(
        model,
        (1, 4, 5, 6),
        tmp_path,
        per_channel=per_channel,
        activation_type=types[0],
        weight_type=types[1],
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": symmetric},
    )
    converted = ort_tconv.convert(original)
    assert len(nodes_of(converted, OP)) == 3
    check(original, converted, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("types", TYPES, ids=lambda pair: "-".join(t.name for t in pair))
def test_a_convolution_of_an_enlarged_image(types, tmp_path):
    """With weights in 7 bits and one scale, sums of four of them fit into 8."""
    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.standard_normal((32, 32, 3, 3)),
        "b0": rng.standard_normal(32),
        "w1": rng.standard_normal((16, 32, 3, 3)),
        "b1": rng.standard_normal(16),
        "by": np.array([1, 1, 2, 2]),
    }
    ways = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Resize", ["r", "", "by"], ["u"], "enlarge", **ways),
        helper.make_node("Conv", ["u", "w1", "b1"], ["c"], "second", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 32, 6, 7])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 16, 12, 14])],
        [tensor(array.astype(np.float32), name) for name, array in weights.items()],
    )
    original = quantized(
        make_model(graph, 17),
        (1, 32, 6, 7),
        tmp_path,
        activation_type=types[0],
        weight_type=types[1],
        reduce_range=True,
    )
    source = read_model(original)
    rewritten = Options(disable="unit_stride_conv").rewrite(source, timed=True)
    assert [change.node for change in rewritten.report.changes] == ["second"], rewritten.report
    report = ort_tconv.validate(original, rewritten.to_proto(source), runs=2)
    assert report.ok, report


#: Ways to quantise a network: each kind of types, scales and zero points in one of them.
WAYS = {
    f"{x.name}-{w.name}-{'each channel' if each else 'one scale'}{'-symmetric' * symmetric}": {
        "activation_type": x,
        "weight_type": w,
        "per_channel": each,
        "extra_options": {"ActivationSymmetric": symmetric, "WeightSymmetric": symmetric},
    }
    for (x, w), each, symmetric in (
        (TYPES[0], False, False),
        (TYPES[0], True, False),
        (TYPES[1], False, False),
        (TYPES[2], True, True),
    )
}

#: How many layers of each network become the quantised operator.
NETWORKS = {
    "dcgan": 5,
    "ebgan": 5,
    "pix2pix": 5,
    "hifigan": 4,
    "demucs": 3,
    "nnunet3d": 2,
    "unet": 3,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_architectures(name, way, tmp_path):
    pytest.importorskip("torch", reason="PyTorch exports the networks")
    pytest.importorskip("onnxscript", reason="one of PyTorch's exporters needs onnxscript")
    from architectures import ARCHITECTURES, export

    architecture = ARCHITECTURES[name]
    model = export(architecture, small=True)
    original = quantized(model, architecture.small_input, tmp_path, **WAYS[way])
    converted = ort_tconv.convert(original)
    assert len(nodes_of(converted, OP)) == NETWORKS[name]
    check(original, converted, NETWORKS[name])
