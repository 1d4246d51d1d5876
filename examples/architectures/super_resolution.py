"""Networks that make images larger."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Espcn(nn.Sequential):
    """Convolutions at the small size; a sub-pixel convolution makes the result ``scale`` times
    larger."""

    def __init__(self, scale: int = 3, channels: Sequence[int] = (64, 32)):
        first, second = channels
        super().__init__(
            nn.Conv2d(1, first, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(second, scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the results of all before it."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        outputs = [growth] * 4 + [width]
        self.convs = nn.ModuleList(
            nn.Conv2d(width + i * growth, m, 3, padding=1) for i, m in enumerate(outputs)
        )
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        known = [x]
        for conv in self.convs[:-1]:
            known.append(self.activation(conv(torch.cat(known, 1))))
        return x + 0.2 * self.convs[-1](torch.cat(known, 1))


class ResidualDenseBlocks(nn.Sequential):
    """Three dense blocks beside a shortcut."""

    def __init__(self, width: int, growth: int):
        super().__init__(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * super().forward(x)


class Rrdb(nn.Module):
    """Residual-in-residual dense blocks, then ``log2(scale)`` doublings: nearest upsampling and a
    convolution."""

    def __init__(self, width: int = 64, growth: int = 32, blocks: int = 6, doublings: int = 2):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        trunk = [ResidualDenseBlocks(width, growth) for _ in range(blocks)]
        self.trunk = nn.Sequential(*trunk, nn.Conv2d(width, width, 3, padding=1))
        steps = [
            layer for _ in range(doublings) for layer in (*self.doubling(width), nn.LeakyReLU(0.2))
        ]
        self.enlarge = nn.Sequential(*steps)
        self.last = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 3, 3, padding=1),
        )

    @staticmethod
    def doubling(width: int) -> tuple[nn.Module, nn.Module]:
        return nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.enlarge(x + self.trunk(x)))


class RrdbShuffle(Rrdb):
    """The same, doubled by sub-pixel convolutions."""

    @staticmethod
    def doubling(width: int) -> tuple[nn.Module, nn.Module]:
        return nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2)
