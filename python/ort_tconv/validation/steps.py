"""By how many steps of quantisation a rewritten 8-bit model may differ from the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from ..converters.nodes import DOMAIN, QUANTIZED_OP_TYPE

#: Share of an output's values that may differ, by one step, because a float32 sum of the original
#: was rounded across the middle between two steps.
DIFFERING = 1e-3


def steps_of(model: onnx.ModelProto, provider: bool = False) -> dict[str, float]:
    """The step by which values of a converted model may differ from the original's, by name.

    The quantised operator sums integers exactly, and the original floats, so that a result close
    to the middle between two steps of its scale may be rounded to the other one.  8-bit results
    behind such a node may differ by 1, and float results by the largest scale with which those were
    turned into floats.  Values that no quantised operator precedes are absent.  Only the main graph
    counts.  With ``provider`` the model is an original that the execution provider runs: each
    ``ConvTranspose`` of dequantised inputs counts as the operator then.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    producers = {name: node for node in model.graph.node for name in node.output}

    def dequantizing(name: str) -> onnx.NodeProto | None:
        node = producers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    steps: dict[str, float] = {}
    for node in model.graph.node:
        reached = [steps[name] for name in node.input if name in steps]
        ours = node.domain == DOMAIN and node.op_type == QUANTIZED_OP_TYPE
        weights = None
        if provider and node.op_type == "ConvTranspose" and dequantizing(node.input[0]):
            weights = dequantizing(node.input[1])
        if not reached and not ours and weights is None:
            continue
        step = max(reached, default=0.0)
        if node.op_type == "DequantizeLinear":
            step *= _largest(constants, node.input[1])
        elif node.op_type == "QuantizeLinear":
            step = 1.0
        elif ours:
            scale = _largest(constants, node.input[1])
            gain = scale * _largest_weight(constants, node.input[3:6])
            step = 1.0 if _is_quantized(constants, node) else step * gain
        elif weights is not None:
            step *= _largest_weight(constants, weights.input)
        steps.update(dict.fromkeys(node.output, step))
    return steps


def _array(constants: Mapping[str, onnx.TensorProto], name: str) -> np.ndarray | None:
    tensor = constants.get(name)
    external = tensor is not None and tensor.data_location == onnx.TensorProto.EXTERNAL
    return None if tensor is None or external else numpy_helper.to_array(tensor)


def _largest(constants: Mapping[str, onnx.TensorProto], name: str) -> float:
    """Of a scale; 0 if it is not a constant, so that no step is allowed for."""
    array = _array(constants, name)
    return 0.0 if array is None else float(np.abs(array).max(initial=0.0))


def _is_quantized(constants: Mapping[str, onnx.TensorProto], node: onnx.NodeProto) -> bool:
    zero = constants.get(node.input[7])
    return zero is None or zero.data_type != onnx.TensorProto.FLOAT


def _largest_weight(constants: Mapping[str, onnx.TensorProto], names: Sequence[str]) -> float:
    """What the weights of these values, scale and zero point are at most; 0 if they are no
    constants."""
    weights = _array(constants, names[0])
    if weights is None:
        return 0.0
    zeros = _array(constants, names[2]) if len(names) > 2 else None
    spread = np.abs(weights.astype(np.int32)).max(initial=0) + (
        0 if zeros is None else np.abs(zeros.astype(np.int32)).max(initial=0)
    )
    return float(spread) * _largest(constants, names[1])
