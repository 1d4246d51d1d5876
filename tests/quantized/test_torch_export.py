"""Quantised layers as PyTorch exports them, of the operators that its PT2E quantisation leaves."""

import importlib

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import nodes_of

import ort_tconv
from ort_tconv.sessions.provider import unavailable

OP = "QLinearSegregatedConvTranspose"


def exported(path, per_channel: bool) -> onnx.ModelProto:
    """Two layers, each: quantise, dequantise, ConvTranspose2d, ReLU; biases in float32."""
    torch = pytest.importorskip("torch", reason="PyTorch exports the layers")
    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the operators

    ops = torch.ops.quantized_decomposed
    signed, positive = (-128, 127, torch.int8), (-127, 127, torch.int8)

    class Layer(torch.nn.Module):
        def __init__(self, channels: int, outputs: int) -> None:
            super().__init__()
            w = torch.randn(channels, outputs, 4, 4) * 0.1
            scale = w.abs().amax((0, 2, 3)) / 127 if per_channel else w.abs().max() / 127
            quantized = torch.round(w / scale.reshape(1, -1, 1, 1)).to(torch.int8)
            self.register_buffer("w", quantized)
            self.register_buffer("scale", scale)
            self.register_buffer("zero", torch.zeros(outputs, dtype=torch.int64))
            self.bias = torch.nn.Parameter(torch.randn(outputs))
            self.scalar = float(scale.max())

        def forward(self, x):
            if per_channel:
                w = ops.dequantize_per_channel(self.w, self.scale, self.zero, 1, *positive)
            else:
                w = ops.dequantize_per_tensor(self.w, self.scalar, 0, *positive)
            y = torch.nn.functional.conv_transpose2d(x, w, self.bias, stride=2, padding=1)
            y = ops.quantize_per_tensor(torch.relu(y), 0.02, -128, *signed)
            return ops.dequantize_per_tensor(y, 0.02, -128, *signed)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Layer(8, 6), Layer(6, 4)

        def forward(self, x):
            x = ops.quantize_per_tensor(x, 0.03, 3, *signed)
            return self.second(self.first(ops.dequantize_per_tensor(x, 0.03, 3, *signed)))

    torch.manual_seed(0)
    program = torch.onnx.export(
        Network().eval(), (torch.randn(1, 8, 6, 5),), dynamo=True, verbose=False
    )
    program.save(path)
    return onnx.load(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("per_channel", [False, True])
def test_two_layers(per_channel, tmp_path):
    if per_channel and tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 24):
        pytest.skip("onnxruntime before 1.24 keeps such biases in float32")
    original = exported(tmp_path / "exported.onnx", per_channel)
    converted = ort_tconv.convert(original)
    assert len(nodes_of(converted, OP)) == 2
    inputs = [
        {"x": np.random.default_rng(seed).standard_normal((1, 8, 6, 5)).astype(np.float32)}
        for seed in range(4)
    ]
    report = ort_tconv.validate(original, converted, inputs=inputs)
    assert report.ok, report
    if unavailable() is None:
        report = ort_tconv.validate(original, provider=True, inputs=inputs)
        assert report.ok and report.rewritten == 2, report
