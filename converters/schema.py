"""What the operator is, as one table: its attributes, inputs, types and activations.

The kernels' reader of attributes (``custom_op/ort/support.cc``), the stubs of ``_core`` and
``docs/operator.md`` say the same in their own ways: ``tests/converters/test_schema.py`` compares
them with this.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from .nodes import FLOATS

_Type = ir.AttributeType


@dataclass(frozen=True)
class Attribute:
    """An attribute, and the value that a node without it has; None: that follows from the rest."""

    type: ir.AttributeType
    default: int | str | None = None
    conv_transpose: bool = True  #: whether ConvTranspose has it, too, in any version


ATTRIBUTES = {
    "auto_pad": Attribute(_Type.STRING, "NOTSET"),
    "dilations": Attribute(_Type.INTS),
    "group": Attribute(_Type.INT, 1),
    "kernel_shape": Attribute(_Type.INTS),
    "output_padding": Attribute(_Type.INTS),
    "output_shape": Attribute(_Type.INTS),
    "pads": Attribute(_Type.INTS),
    "strides": Attribute(_Type.INTS),
    "activation": Attribute(_Type.STRING, conv_transpose=False),
    "activation_params": Attribute(_Type.FLOATS, conv_transpose=False),
    "weights": Attribute(_Type.STRING, "float32", conv_transpose=False),
    "weight_scales": Attribute(_Type.FLOATS, conv_transpose=False),
    "allow_tf32": Attribute(_Type.INT, 1, conv_transpose=False),
    "algorithm": Attribute(_Type.STRING, "auto", conv_transpose=False),
}

#: By name: the type of each attribute that ConvTranspose has in any version.
CONV_TRANSPOSE_ATTRIBUTES = {
    name: attribute.type for name, attribute in ATTRIBUTES.items() if attribute.conv_transpose
}

#: Values of the attribute ``algorithm``.
ALGORITHMS = ("auto", "direct", "stacked", "narrow", "winograd")

#: Values of the attribute ``weights``. Fewer bits are made once, when a session is created: rounded
#: to 16, or to multiples from -128 to 127 of a scale of the output channel, the attribute
#: ``weight_scales`` or a 127th of the channel's largest; inputs, outputs and sums stay float32.
WEIGHTS = ("float32", "float16", "bfloat16", "int8")


@dataclass(frozen=True)
class ActivationRule:
    """How many parameters an activation takes, and what those are that are left out."""

    least: int = 0
    most: int | None = 0  #: None: one for each output channel
    defaults: tuple[float, ...] = ()


#: Values of the attribute ``activation``.
ACTIVATIONS = {
    **dict.fromkeys(
        ("Relu", "Sigmoid", "Tanh", "HardSwish", "Silu", "Softplus", "Gelu", "GeluTanh"),
        ActivationRule(),
    ),
    "LeakyRelu": ActivationRule(most=1, defaults=(0.01,)),
    "PRelu": ActivationRule(least=1, most=None),
    "Clip": ActivationRule(least=2, most=2),
    "HardSigmoid": ActivationRule(most=2, defaults=(0.2, 0.5)),
    "Elu": ActivationRule(most=1, defaults=(1.0,)),
}
#: Those of the quantised operator.
QUANTIZED_ACTIVATIONS = ("Relu", "Clip")


@dataclass(frozen=True)
class Input:
    types: tuple[ir.DataType, ...]
    optional: bool = False


_INT8S = (ir.DataType.UINT8, ir.DataType.INT8)
_FLOAT = (ir.DataType.FLOAT,)

#: In their order. All that are given have the type of the output.
INPUTS = {
    "X": Input(FLOATS),
    "W": Input(FLOATS),
    "B": Input(FLOATS, optional=True),
    "Z": Input(FLOATS, optional=True),
}
#: Those of the quantised operator. A zero point has the type of what it belongs to, the last one
#: that of the output.
QUANTIZED_INPUTS = {
    "x": Input(_INT8S),
    "x_scale": Input(_FLOAT),
    "x_zero_point": Input(_INT8S),
    "w": Input(_INT8S),
    "w_scale": Input(_FLOAT),
    "w_zero_point": Input(_INT8S),
    "y_scale": Input(_FLOAT),
    "y_zero_point": Input((*_INT8S, ir.DataType.FLOAT)),
    "B": Input((ir.DataType.INT32, ir.DataType.FLOAT), optional=True),
}
