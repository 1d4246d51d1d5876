"""Networks that label pixels and voxels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_norm(c: int, m: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    pad = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(c, m, kernel, stride, pad, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(m), nn.ReLU())


class Unet(nn.Module):
    """Halved by pooling, doubled by 2x2 transposed convolutions."""

    def __init__(self, width: int = 64, depth: int = 4, classes: int = 2):
        super().__init__()
        features = [width << i for i in range(depth + 1)]
        self.encoder = nn.ModuleList(
            nn.Sequential(conv_norm(c, m), conv_norm(m, m)) for c, m in pairwise((3, *features))
        )
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for m, c in reversed(list(pairwise(features))):
            self.up.append(nn.ConvTranspose2d(c, m, 2, stride=2))
            self.decoder.append(nn.Sequential(conv_norm(c, m), conv_norm(m, m)))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, layer in enumerate(self.encoder):
            x = layer(functional.max_pool2d(x, 2) if i else x)
            skips.append(x)
        skips.pop()
        for up, layer in zip(self.up, self.decoder, strict=True):
            x = layer(torch.cat((skips.pop(), up(x)), 1))
        return self.last(x)


class DeepLab(nn.Module):
    """Dilated convolutions at 1/16 of the size beside features at 1/4 of it; what enlarges is
    bilinear interpolation."""

    def __init__(self, width: int = 64, classes: int = 21):
        super().__init__()
        c, wide = 4 * width, 8 * width
        self.fine = nn.Sequential(
            conv_norm(3, width, 7, 2), conv_norm(width, width, 3, 2), conv_norm(width, c)
        )
        self.coarse = nn.Sequential(conv_norm(c, wide, 3, 2), conv_norm(wide, wide, 3, 2))
        self.branches = nn.ModuleList(
            conv_norm(wide, c, 1 if dilation == 1 else 3, dilation=dilation)
            for dilation in (1, 6, 12, 18)
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, c, 1), nn.ReLU())
        self.project = conv_norm(5 * c, c, 1)
        self.reduce = conv_norm(c, 48, 1)
        self.head = nn.Sequential(conv_norm(c + 48, c), conv_norm(c, c), nn.Conv2d(c, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = self.coarse(fine)
        scales = [branch(coarse) for branch in self.branches]
        scales.append(self.pooled(coarse).expand_as(scales[0]))
        y = resize(self.project(torch.cat(scales, 1)), fine)
        return resize(self.head(torch.cat((y, self.reduce(fine)), 1)), x)


def resize(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


class NnUnet3d(nn.Module):
    """U-Net on volumes: strided convolutions down, 2x2x2 transposed convolutions up, instance
    normalisation."""

    def __init__(self, features: Sequence[int] = (32, 64, 128, 256, 320), classes: int = 3):
        super().__init__()
        self.encoder = nn.ModuleList(
            self.block(c, m, 2 if i else 1) for i, (c, m) in enumerate(pairwise((1, *features)))
        )
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for m, c in reversed(list(pairwise(features))):
            self.up.append(nn.ConvTranspose3d(c, m, 2, stride=2))
            self.decoder.append(self.block(2 * m, m))
        self.last = nn.Conv3d(features[0], classes, 1)

    @staticmethod
    def block(c: int, m: int, stride: int = 1) -> nn.Sequential:
        layers: list[nn.Module] = []
        for c_in, step in ((c, stride), (m, 1)):
            layers += [
                nn.Conv3d(c_in, m, 3, step, 1),
                nn.InstanceNorm3d(m, affine=True),
                nn.LeakyReLU(0.01),
            ]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        skips.pop()
        for up, layer in zip(self.up, self.decoder, strict=True):
            x = layer(torch.cat((up(x), skips.pop()), 1))
        return self.last(x)
