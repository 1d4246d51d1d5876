"""Networks that make sound."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


class ResidualStack(nn.Module):
    """Pairs of convolutions, the first of each dilated, beside shortcuts."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]):
        super().__init__()

        def conv(dilation: int) -> nn.Conv1d:
            pad = dilation * (kernel - 1) // 2
            return nn.Conv1d(channels, channels, kernel, padding=pad, dilation=dilation)

        self.pairs = nn.ModuleList(
            nn.Sequential(nn.LeakyReLU(0.1), conv(dilation), nn.LeakyReLU(0.1), conv(1))
            for dilation in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        for pair in self.pairs:
            x = x + 0.3 * pair(x)
        return x


class HifiGan(nn.Module):
    """From a mel spectrogram [N, 80, frames] to samples, as many times longer as the product of
    ``rates``. (The factor 0.3 in the shortcuts keeps random weights from saturating the output.)"""

    def __init__(
        self,
        width: int = 512,
        rates: Sequence[int] = (8, 8, 2, 2),
        kernels: Sequence[int] = (3, 7, 11),
        dilations: Sequence[int] = (1, 3, 5),
    ):
        super().__init__()
        self.first = nn.Conv1d(80, width, 7, padding=3)
        self.up, self.stacks = nn.ModuleList(), nn.ModuleList()
        for rate in rates:
            self.up.append(
                nn.ConvTranspose1d(width, width // 2, 2 * rate, stride=rate, padding=rate // 2)
            )
            width //= 2
            self.stacks.append(nn.ModuleList(ResidualStack(width, k, dilations) for k in kernels))
        self.last = nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for up, stacks in zip(self.up, self.stacks, strict=True):
            x = up(functional.leaky_relu(x, 0.1))
            x = sum(stack(x) for stack in stacks) / len(stacks)
        return 0.3 * self.last(functional.leaky_relu(x)).tanh()


class Demucs(nn.Module):
    """U-Net on samples [N, 1, T], T a multiple of ``stride**depth``, with an LSTM inside."""

    def __init__(self, hidden: int = 48, depth: int = 5, kernel: int = 8, stride: int = 4):
        super().__init__()
        pad = (kernel - stride) // 2
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        c = 1
        for i in range(depth):
            m = hidden << i
            self.encoder.append(
                nn.Sequential(
                    nn.Conv1d(c, m, kernel, stride, pad),
                    nn.ReLU(),
                    nn.Conv1d(m, 2 * m, 1),
                    nn.GLU(1),
                )
            )
            self.decoder.insert(
                0,
                nn.Sequential(
                    nn.Conv1d(m, 2 * m, 1),
                    nn.GLU(1),
                    nn.ConvTranspose1d(m, c, kernel, stride, pad),
                    nn.ReLU() if i else nn.Identity(),
                ),
            )
            c = m
        self.lstm = nn.LSTM(c, c, num_layers=2)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        x = self.lstm(x.permute(2, 0, 1))[0].permute(1, 2, 0)
        for layer in self.decoder:
            x = layer(x + skips.pop())
        return x
