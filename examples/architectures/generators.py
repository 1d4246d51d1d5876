"""Networks that make images: GAN generators, image translation, and a diffusion model's decoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def up(c: int, m: int) -> nn.ConvTranspose2d:
    """Twice as high and wide."""
    return nn.ConvTranspose2d(c, m, 4, stride=2, padding=1, bias=False)


class Dcgan(nn.Sequential):
    """From noise of shape [N, latent, 1, 1] to a picture: 4x4 at first, then doubled each time."""

    def __init__(self, latent: int = 100, channels: Sequence[int] = (1024, 512, 256, 128)):
        super().__init__(*self.trunk(latent, channels), up(channels[-1], 3), nn.Tanh())

    @staticmethod
    def trunk(latent: int, channels: Sequence[int]) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for c, m in pairwise((latent, *channels)):
            first = not layers
            enlarge = nn.ConvTranspose2d(c, m, 4, bias=False) if first else up(c, m)
            layers += [enlarge, nn.BatchNorm2d(m), nn.ReLU()]
        return layers


class Ebgan(nn.Sequential):
    """Deeper and wider than the DCGAN; the last layer is a convolution of full size."""

    def __init__(
        self, latent: int = 100, channels: Sequence[int] = (2048, 1024, 512, 256, 128, 64, 64)
    ):
        last = nn.Conv2d(channels[-1], 3, 3, padding=1)
        super().__init__(*Dcgan.trunk(latent, channels), last, nn.Tanh())


class Pix2Pix(nn.Module):
    """A U-Net with ``depth`` halvings, each mirrored by a transposed convolution."""

    def __init__(self, depth: int = 8, width: int = 64):
        super().__init__()
        features = [width * min(2**i, 8) for i in range(depth)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (c, m) in enumerate(pairwise((3, *features))):
            layers: list[nn.Module] = [nn.LeakyReLU(0.2)] if i else []
            layers.append(nn.Conv2d(c, m, 4, stride=2, padding=1))
            if 0 < i < depth - 1:
                layers.append(nn.BatchNorm2d(m))
            self.down.append(nn.Sequential(*layers))
        for i in reversed(range(depth)):
            # All but the innermost see their mirror image beside what comes from within.
            c = features[i] * (1 if i == depth - 1 else 2)
            m = features[i - 1] if i else 3
            norm = [nn.BatchNorm2d(m)] if i else [nn.Tanh()]
            enlarge = nn.ConvTranspose2d(c, m, 4, stride=2, padding=1)
            self.up.append(nn.Sequential(nn.ReLU(), enlarge, *norm))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        skips.pop()
        for layer in self.up:
            x = layer(x)
            if skips:
                x = torch.cat((x, skips.pop()), 1)
        return x


# ---- StyleGAN2 ---------------------------------------------------------------------------------


def binomial(gain: float = 1.0) -> Tensor:
    """The 4x4 low-pass filter [1 3 3 1] x [1 3 3 1] of the given sum."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return gain * torch.outer(row, row) / row.sum() ** 2


class Blur(nn.Module):
    """Each channel convolved with the same low-pass filter; with ``factor``, on an image that was
    made larger by zeros between its pixels."""

    def __init__(self, channels: int, factor: int = 1):
        super().__init__()
        self.factor = factor
        taps = binomial(gain=4.0)  # makes up for the zeros that a stride of 2 stands for
        self.register_buffer("taps", taps.expand(channels, 1, 4, 4).clone())

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        s = self.factor
        if s > 1:
            x = functional.pad(x.reshape(n, c, h, 1, w, 1), (0, s - 1, 0, 0, 0, s - 1))
            x = functional.pad(x.reshape(n, c, s * h, s * w), (2, 1, 2, 1))
        else:
            x = functional.pad(x, (1, 1, 1, 1))
        return functional.conv2d(x, self.taps, groups=c)


class StyledConv(nn.Module):
    """3x3 convolution whose weights are scaled by a style and normalised ("demodulated").

    Scaling the weights' input channels is scaling the input, normalising their output channels is
    scaling the output; so the weights themselves stay constant.
    """

    def __init__(self, c: int, m: int, latent: int, enlarge: bool):
        super().__init__()
        self.style = nn.Linear(latent, c)
        nn.init.ones_(self.style.bias)
        if enlarge:  # 2H + 1, which the blur makes 2H
            self.conv = nn.ConvTranspose2d(c, m, 3, stride=2, bias=False)
            self.blur = Blur(m)
        else:
            self.conv = nn.Conv2d(c, m, 3, padding=1, bias=False)
            self.blur = nn.Identity()
        self.bias = nn.Parameter(0.1 * torch.randn(1, m, 1, 1))

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        style = self.style(latent)
        axes = (2, 3)
        energy = self.conv.weight.square().sum(axes)  # of each pair of channels
        if self.conv.transposed:
            energy = energy.T
        demodulate = torch.rsqrt(style.square() @ energy.T + 1e-8)
        x = self.blur(self.conv(x * style[:, :, None, None]))
        return functional.leaky_relu(x * demodulate[:, :, None, None] + self.bias, 0.2) * 2**0.5


class StyleGan2(nn.Module):
    """Synthesis network with skips: each resolution adds its own colours to the enlarged image."""

    def __init__(
        self, latent: int = 512, resolution: int = 256, base: int = 32768, most: int = 512
    ):
        super().__init__()
        sides = [4 << i for i in range(resolution.bit_length() - 2)]
        widths = [min(base // side, most) for side in sides]
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        self.convs, self.colours, self.enlarge = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, m in enumerate(widths):
            layers = [StyledConv(m, m, latent, False)]
            if i:
                layers.insert(0, StyledConv(widths[i - 1], m, latent, True))
                self.enlarge.append(Blur(3, factor=2))
            self.convs.append(nn.ModuleList(layers))
            self.colours.append(nn.Conv2d(m, 3, 1))

    def forward(self, latent: Tensor) -> Tensor:
        x = self.constant.expand(latent.shape[0], -1, -1, -1)
        image = None
        for i, (layers, colour) in enumerate(zip(self.convs, self.colours, strict=True)):
            for layer in layers:
                x = layer(x, latent)
            image = colour(x) if image is None else self.enlarge[i - 1](image) + colour(x)
        return image


# ---- a diffusion model's decoder ---------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Group norm, SiLU, 3x3 convolution, twice, beside a shortcut."""

    def __init__(self, c: int, m: int, groups: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(groups, c, eps=1e-6),
            nn.SiLU(),
            nn.Conv2d(c, m, 3, padding=1),
            nn.GroupNorm(groups, m, eps=1e-6),
            nn.SiLU(),
            nn.Conv2d(m, m, 3, padding=1),
        )
        self.shortcut = nn.Identity() if c == m else nn.Conv2d(c, m, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class Attention(nn.Module):
    """Self-attention over all pixels, one head."""

    def __init__(self, c: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, c, eps=1e-6)
        self.qkv = nn.Conv2d(c, 3 * c, 1)
        self.out = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, 1)
        weights = torch.softmax(q.transpose(1, 2) @ k * q.shape[1] ** -0.5, -1)
        return x + self.out((v @ weights.transpose(1, 2)).reshape(x.shape))


class VaeDecoder(nn.Module):
    """From latents [N, 4, H, W] to an image of eight times the size."""

    def __init__(self, width: int = 128, multiples: Sequence[int] = (4, 4, 2, 1), groups: int = 32):
        super().__init__()
        c = width * multiples[0]
        layers: list[nn.Module] = [
            nn.Conv2d(4, c, 3, padding=1),
            ResidualBlock(c, c, groups),
            Attention(c, groups),
            ResidualBlock(c, c, groups),
        ]
        for level, multiple in enumerate(multiples):
            m = width * multiple
            layers += [ResidualBlock(c if i == 0 else m, m, groups) for i in range(3)]
            if level < len(multiples) - 1:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(m, m, 3, padding=1)]
            c = m
        layers += [nn.GroupNorm(groups, c, eps=1e-6), nn.SiLU(), nn.Conv2d(c, 3, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
