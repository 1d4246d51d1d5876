"""What other methods take, by formula."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..models.shapes import TypedNode


def conventional_macs(x: Sequence[int], w: Sequence[int], y: Sequence[int]) -> float:
    """Multiply-adds of convolving the zero-inserted input: all taps for each output.

    Shapes ``x`` [N, C, D1..], ``w`` [C, M/group, k1..], ``y`` [N, M, O1..].
    """
    return float(x[0]) * math.prod(w) * math.prod(y[2:])


def enlarged_input_bytes(
    x: Sequence[int],
    w: Sequence[int],
    y: Sequence[int],
    dilations: Iterable[int] | None = None,
    itemsize: int = 4,
) -> int:
    """Bytes of the zero-inserted, padded input whose stride-1 convolution is ``y``.

    Its side along an axis is O + dilation * (k - 1), what a convolution without padding of its own
    takes for O outputs; for stride 2 and kernel k with ConvTranspose's pad p that is
    (2 D - 1) + 2 (k - 1 - p), the (2N - 1 + 2P) of arXiv 2502.20493.
    """
    dilations = list(dilations or [1] * (len(x) - 2))
    sides = (o + d * (k - 1) for o, k, d in zip(y[2:], w[2:], dilations, strict=True))
    return x[0] * x[1] * math.prod(sides) * itemsize


def column_buffer_bytes(x: Sequence[int], w: Sequence[int], itemsize: int = 4) -> int:
    """Bytes of the matrix product that stock onnxruntime writes before col2im.

    It holds one image and group: M/group * k1..kd values for each input position.
    """
    return math.prod(w[1:]) * math.prod(x[2:]) * itemsize


def conv_macs(node: TypedNode) -> float:
    """Of a convolution: all taps of C/group channels for each output."""
    w, y = node.inputs[1].shape, node.outputs[0].shape
    return float(math.prod(y)) * math.prod(w[1:]) if w and y else 0.0
