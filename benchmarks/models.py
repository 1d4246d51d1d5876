"""Generators of published models, with random weights, as ONNX models."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper


class Builder:
    """Adds nodes one after the other; each method returns the name of its output."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.nodes, self.weights = [], []

    def node(self, op_type: str, inputs: list[str], **attributes) -> str:
        output = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def constant(self, array) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def conv(self, x: str, c: int, m: int, kernel, stride=1, pad=0, dilation=1, up=False) -> str:
        """Conv from c to m channels, or with `up` ConvTranspose, on as many axes as kernel has. The
        weights are scaled so that the signal neither dies nor explodes."""
        axes = len(kernel)
        taps = np.prod(kernel) / (stride**axes if up else 1)
        w = self.rng.standard_normal((c, m, *kernel) if up else (m, c, *kernel), dtype=np.float32)
        return self.node(
            "ConvTranspose" if up else "Conv",
            [x, self.constant(w / np.sqrt(c * taps)), self.constant(np.zeros(m))],
            strides=[stride] * axes,
            pads=[pad] * 2 * axes,
            dilations=[dilation] * axes,
        )

    def norm(self, x: str, m: int) -> str:
        """BatchNormalization; it follows a convolution, so it may well be folded into that."""
        scale, bias, mean = (0.02 * self.rng.standard_normal((3, m))).astype(np.float32)
        parameters = (1 + scale, bias, mean, 1 + 0.02 * self.rng.random(m))
        return self.node("BatchNormalization", [x, *map(self.constant, parameters)])

    def leaky(self, x: str, alpha: float) -> str:
        return self.node("LeakyRelu", [x], alpha=alpha)

    def model(self, name: str, x: list[int], last: str, y: list[int]) -> ModelProto:
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [last], ["y"])],
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def gan(name: str, channels: list[int], last_up: bool) -> ModelProto:
    """A generator of images from 100 numbers: 4x4 at first, then twice as large with each layer.
    The last one enlarges as well or, without `last_up`, is a 3x3 Conv."""
    b = Builder()
    x = "x"
    for i, (c, m) in enumerate(pairwise(channels)):
        x = b.conv(x, c, m, [4, 4], *((1, 0) if i == 0 else (2, 1)), up=True)
        x = b.node("Relu", [b.norm(x, m)])
    c = channels[-1]
    x = b.conv(x, c, 3, [4, 4], 2, 1, up=True) if last_up else b.conv(x, c, 3, [3, 3], 1, 1)
    side = 4 << (len(channels) - 2 + last_up)
    return b.model(name, [1, channels[0], 1, 1], b.node("Tanh", [x]), [1, 3, side, side])


def dcgan() -> ModelProto:
    """64x64 images. Radford, Metz, Chintala, arXiv 1511.06434."""
    return gan("dcgan", [100, 1024, 512, 256, 128], last_up=True)


def ebgan() -> ModelProto:
    """256x256 images. Zhao, Mathieu, LeCun, arXiv 1609.03126."""
    return gan("ebgan", [100, 2048, 1024, 512, 256, 128, 64, 64], last_up=False)


def pix2pix(side: int = 256, width: int = 64) -> ModelProto:
    """The U-Net: halved to 1x1, then doubled, each step beside its mirror image.
    Isola, Zhu, Zhou, Efros, arXiv 1611.07004."""
    b = Builder()
    depth = side.bit_length() - 1
    down = [width * min(2**i, 8) for i in range(depth)]
    skips, x, c = [], "x", 3
    for i, m in enumerate(down):
        x = b.conv(x if i == 0 else b.leaky(x, 0.2), c, m, [4, 4], 2, 1)
        if 0 < i < depth - 1:
            x = b.norm(x, m)
        skips.append(x)
        c = m
    skips.pop()
    for m in [*reversed(down[:-1]), 3]:
        x = b.conv(b.node("Relu", [x]), c, m, [4, 4], 2, 1, up=True)
        if skips:
            x = b.node("Concat", [b.norm(x, m), skips.pop()], axis=1)
        c = 2 * m
    return b.model("pix2pix", [1, 3, side, side], b.node("Tanh", [x]), [1, 3, side, side])


def hifigan(frames: int = 100, width: int = 512) -> ModelProto:
    """Sound from an 80-band mel spectrogram, generator V1. Kong, Kim, Bae, arXiv 2010.05646."""
    b = Builder()
    x, c = b.conv("x", 80, width, [7], 1, 3), width
    for rate in (8, 8, 2, 2):
        x = b.conv(b.leaky(x, 0.1), c, c // 2, [2 * rate], rate, rate // 2, up=True)
        c //= 2
        blocks = []
        for k in (3, 7, 11):
            y = x
            for dilation in (1, 3, 5):
                z = b.conv(b.leaky(y, 0.1), c, c, [k], 1, dilation * (k - 1) // 2, dilation)
                z = b.conv(b.leaky(z, 0.1), c, c, [k], 1, (k - 1) // 2)
                y = b.node("Add", [y, z])
            blocks.append(y)
        x = b.node("Mul", [b.node("Sum", blocks), b.constant(1 / len(blocks))])
    x = b.conv(b.leaky(x, 0.01), c, 1, [7], 1, 3)
    return b.model("hifigan", [1, 80, frames], b.node("Tanh", [x]), [1, 1, 256 * frames])


MODELS = (dcgan, ebgan, pix2pix, hifigan)
