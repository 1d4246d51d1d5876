"""Published networks with layers that enlarge, as small PyTorch modules with random weights.

    from architectures import ARCHITECTURES, export
    model = export(ARCHITECTURES["dcgan"])              # an onnx.ModelProto, of published size
    model = export(ARCHITECTURES["dcgan"], small=True)  # the same layers, narrow

They stand for what users convert: the tests convert and validate each of them, the benchmarks time
them. ``python examples/architectures NAME OUT.onnx`` writes one to a file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import nn

from . import audio, generators, segmentation, super_resolution


@dataclass(frozen=True)
class Architecture:
    """A network: ``make(**sizes)`` builds it, and it takes one input of shape ``input``.

    The defaults of ``make`` and ``input`` are a published size, ``small`` and ``small_input`` one
    for tests.
    """

    name: str
    paper: str
    make: Callable[..., nn.Module]
    input: Sequence[int]
    small_input: Sequence[int]
    small: Mapping[str, Any] = field(default_factory=dict)

    def build(self, small: bool = False) -> nn.Module:
        """The network in evaluation mode, with the same random weights each time."""
        torch.manual_seed(0)
        module = self.make(**self.small) if small else self.make()
        initialise(module)
        return module.eval()


_ALL = (
    Architecture(
        "dcgan",
        "Radford, Metz, Chintala, arXiv 1511.06434",
        generators.Dcgan,
        (1, 100, 1, 1),
        (1, 10, 1, 1),
        {"latent": 10, "channels": (32, 16, 16, 8)},
    ),
    Architecture(
        "ebgan",
        "Zhao, Mathieu, LeCun, arXiv 1609.03126; 256x256",
        generators.Ebgan,
        (1, 100, 1, 1),
        (1, 10, 1, 1),
        {"latent": 10, "channels": (32, 16, 16, 8, 8)},
    ),
    Architecture(
        "pix2pix",
        "Isola, Zhu, Zhou, Efros, arXiv 1611.07004; 256x256",
        generators.Pix2Pix,
        (1, 3, 256, 256),
        (1, 3, 32, 32),
        {"depth": 5, "width": 8},
    ),
    Architecture(
        "stylegan2",
        "Karras et al., arXiv 1912.04958; synthesis network, 256x256",
        generators.StyleGan2,
        (1, 512),
        (1, 16),
        {"latent": 16, "resolution": 32, "base": 256, "most": 16},
    ),
    Architecture(
        "vae_decoder",
        "Rombach et al., arXiv 2112.10752; latents of a 256x256 image",
        generators.VaeDecoder,
        (1, 4, 32, 32),
        (1, 4, 8, 8),
        {"width": 8, "groups": 4},
    ),
    Architecture(
        "espcn",
        "Shi et al., arXiv 1609.05158; three times larger",
        super_resolution.Espcn,
        (1, 1, 256, 256),
        (1, 1, 17, 13),
        {"channels": (16, 8)},
    ),
    Architecture(
        "rrdb",
        "Wang et al., arXiv 1809.00219; 6 blocks, four times larger, nearest upsampling",
        super_resolution.Rrdb,
        (1, 3, 64, 64),
        (1, 3, 16, 12),
        {"width": 8, "growth": 4, "blocks": 1},
    ),
    Architecture(
        "rrdb_shuffle",
        "the same with sub-pixel convolutions",
        super_resolution.RrdbShuffle,
        (1, 3, 64, 64),
        (1, 3, 16, 12),
        {"width": 8, "growth": 4, "blocks": 1},
    ),
    Architecture(
        "hifigan",
        "Kong, Kim, Bae, arXiv 2010.05646; generator V1, about 1.2 seconds",
        audio.HifiGan,
        (1, 80, 100),
        (1, 80, 6),
        {"width": 32},
    ),
    Architecture(
        "demucs",
        "Défossez, Synnaeve, Adi, arXiv 2006.12847; one second",
        audio.Demucs,
        (1, 1, 16384),
        (1, 1, 256),
        {"hidden": 4, "depth": 3},
    ),
    Architecture(
        "nnunet3d",
        "Isensee et al., Nature Methods 18, 2021; 64x64x64",
        segmentation.NnUnet3d,
        (1, 1, 64, 64, 64),
        (1, 1, 16, 16, 8),
        {"features": (4, 8, 8)},
    ),
    Architecture(
        "unet",
        "Ronneberger, Fischer, Brox, arXiv 1505.04597; 256x256",
        segmentation.Unet,
        (1, 3, 256, 256),
        (1, 3, 32, 32),
        {"width": 4, "depth": 3},
    ),
    Architecture(
        "deeplab",
        "Chen et al., arXiv 1802.02611; 256x256",
        segmentation.DeepLab,
        (1, 3, 256, 256),
        (1, 3, 32, 32),
        {"width": 4},
    ),
)

ARCHITECTURES = {architecture.name: architecture for architecture in _ALL}


def initialise(module: nn.Module) -> None:
    """Random weights with which the signal neither dies nor explodes.

    The variance of a weight is that of He et al. (arXiv 1502.01852) for rectified inputs, with the
    taps of a transposed convolution counted that meet in one output. Normalisations get parameters
    and statistics other than 0 and 1, so that folding them is seen in the results.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.conv._ConvNd):
            fan_in = layer.weight[0].numel()
            if layer.transposed:
                fan_in = layer.weight[:, 0].numel() / math.prod(layer.stride)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / max(fan_in, 1)))
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.02)
        elif isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm):
            if layer.affine:
                nn.init.normal_(layer.weight, 1, 0.1)
                nn.init.normal_(layer.bias, std=0.1)
            if getattr(layer, "track_running_stats", False):
                nn.init.normal_(layer.running_mean, std=0.1)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)


def export(
    architecture: Architecture,
    *,
    small: bool = False,
    dynamo: bool = False,
    opset: int = 18,
    dynamic: bool = False,
    dtype: torch.dtype = torch.float32,
) -> onnx.ModelProto:
    """The network as an ONNX model with input ``x`` and output ``y``.

    ``dynamo`` chooses between PyTorch's two exporters. With ``dynamic`` the first and all spatial
    dimensions of the input are left open.
    """
    module = architecture.build(small).to(dtype)
    x = torch.randn(*(architecture.small_input if small else architecture.input), dtype=dtype)
    arguments: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    if dynamic:
        axes = [0, *range(2, x.dim())]
        if dynamo:
            arguments["dynamic_shapes"] = ({axis: torch.export.Dim.DYNAMIC for axis in axes},)
        else:
            arguments["dynamic_axes"] = {"x": {axis: f"x{axis}" for axis in axes}}
    if dynamo:
        program = torch.onnx.export(
            module, (x,), dynamo=True, opset_version=opset, verbose=False, **arguments
        )
        return program.model_proto
    file = io.BytesIO()
    torch.onnx.export(module, (x,), file, dynamo=False, opset_version=opset, **arguments)
    return onnx.load_from_string(file.getvalue())
