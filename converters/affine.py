"""Constants per channel around a convolution: what is affine can go into weights and bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .activations import per_channel
from .nodes import attribute, input_of
from .rewrite import Refusal, Scope

ARITHMETIC = ("Add", "Sub", "Mul", "Div")

#: alpha and beta of alpha_m y_m + beta_m, in float64: one for each channel, or one for all.
Affine = tuple[np.ndarray | float, np.ndarray | float]


def read_affine(
    node: ir.Node, value: ir.Value, channels: int | None, rank: int, scope: Scope
) -> Affine | None:
    """What ``node`` does to ``value`` [N, channels, ...]; None if it is not affine with constants.

    Raises Refusal if it looks so and its constants, or attributes, are not fit.
    """
    found = None
    if (scope.onnx_opset or 0) < 7:  # broadcasting was different before
        return None
    if scope.own(node, "BatchNormalization"):
        found = _normalization(node, value, channels, scope)
    elif scope.own(node, *ARITHMETIC):
        found = _arithmetic(node, value, channels, rank, scope)
    if found is not None and not all(np.isfinite(constants).all() for constants in found):
        raise Refusal("its constants are not all finite")
    return found


def _arithmetic(
    node: ir.Node, value: ir.Value, channels: int | None, rank: int, scope: Scope
) -> Affine | None:
    first = node.inputs[0] is value
    array = scope.facts.array(input_of(node, 1 if first else 0))
    if array is None:
        return None
    factors = per_channel(array.astype(np.float64), channels, rank)
    if factors is None:
        raise Refusal(f"its constant has shape {list(array.shape)}: not one for each channel")
    if node.op_type == "Add":
        return 1.0, factors
    if node.op_type == "Sub":
        return (1.0, -factors) if first else (-1.0, factors)
    if node.op_type == "Mul":
        return factors, 0.0
    if not first:
        return None
    if not factors.all():
        raise Refusal("it divides by zero")
    return 1 / factors, 0.0


def _normalization(node: ir.Node, value: ir.Value, channels: int | None, scope: Scope) -> Affine:
    if attribute(node, "training_mode", 0) != 0 or len(node.outputs) != 1:
        raise Refusal("it is in training mode")
    if attribute(node, "spatial", 1) != 1:
        raise Refusal("its attribute 'spatial' is not 1")
    epsilon = attribute(node, "epsilon", float(np.float32(1e-5)))
    if epsilon is None:
        raise Refusal("its attribute 'epsilon' refers to an attribute of the enclosing function")
    if node.inputs[0] is not value:
        raise Refusal("its parameters are computed")
    values = []
    for name, constant in zip(("scale", "B", "mean", "var"), node.inputs[1:], strict=True):
        array = scope.facts.array(constant)
        if array is None:
            raise Refusal(f"its input {name} is not a constant")
        if array.shape != (channels,):
            raise Refusal(f"its input {name} has shape {list(array.shape)}")
        values.append(array.astype(np.float64))
    gamma, beta, mean, variance = values
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - scale * mean
