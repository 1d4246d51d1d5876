"""Models as quantisers write them: layers between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from cases import Case, model, tensor
from onnx import TensorProto, helper
from quantities import OUTPUTS, Quantized, each_channel


@dataclass
class Layer:
    """``x -> DQ -> ConvTranspose -> activation -> Q -> y``; what tests change of it."""

    case: Case
    how: Quantized = field(default_factory=Quantized)
    zero_points: bool = True  # False: left out, where they are 0
    bias: Literal["units", "other units", "float32", ""] = "units"
    tail: Sequence[onnx.NodeProto] = ()  # from "c" to "r"; else the activation of ``how``
    quantize: bool = True
    given: Sequence[str] = ("x",)
    axis: int = 1
    opset: int = 17
    w_scale: np.ndarray | None = None
    constants: Literal["initializer", "node"] = "initializer"
    domain: str = ""  #: of the nodes that quantise and dequantise

    def __post_init__(self) -> None:
        if not self.tail and self.how.activation:
            self.tail = relu() if self.how.activation == "Relu" else clip(*self.how.params)

    def inputs(self) -> dict[str, Any]:
        inputs = self.how.inputs(self.case)
        if self.w_scale is not None:
            inputs["w_scale"] = self.w_scale
            inputs["w_zero_point"] = np.resize(inputs["w_zero_point"], self.w_scale.shape)
        if not self.zero_points:
            for name in ("x", "w", "y"):
                if name != "y" or self.quantize:
                    array = np.asarray(inputs[f"{name}_zero_point"])
                    inputs[f"{name}_zero_point"] = np.zeros_like(array)
        return inputs

    def model(self) -> onnx.ModelProto:
        inputs = self.inputs()
        zeros = self.zero_points

        def dequantize(name: str, **attributes: Any) -> onnx.NodeProto:
            names = [name, f"{name}_scale", *([f"{name}_zero_point"] if zeros else [])]
            return helper.make_node(
                "DequantizeLinear", names, [f"{name}_float"], name=f"dq_{name}", **attributes
            )

        nodes = [dequantize("x"), dequantize("w", axis=self.axis)]
        names = ["x_float", "w_float"]
        values = {name: np.asarray(value) for name, value in inputs.items()}
        del values["x"], values["y_scale"], values["y_zero_point"]
        bias = values.pop("b", None)
        if self.bias and bias is not None:
            unit = inputs["x_scale"] * each_channel(self.case, inputs["w_scale"])
            if self.bias == "float32":
                values["b_float"] = (bias * unit).astype(np.float32)
            else:
                values["b"] = bias
                values["b_scale"] = unit * np.float32(1 if self.bias == "units" else 3)
                nodes.append(
                    helper.make_node("DequantizeLinear", ["b", "b_scale"], ["b_float"], axis=0)
                )
            names.append("b_float")
        up = helper.make_node("ConvTranspose", names, ["c"], name="up", **self.case.attributes)
        nodes += [up, *self.tail]
        output = "r" if self.tail else "c"
        if self.quantize:
            values["y_scale"] = np.asarray(inputs["y_scale"])
            quantization = [output, "y_scale"]
            if zeros:
                values["y_zero_point"] = np.asarray(inputs["y_zero_point"])
                quantization.append("y_zero_point")
            nodes.append(helper.make_node("QuantizeLinear", quantization, ["y"], name="q_y"))
            output = "y"
        if not zeros:
            values = {k: v for k, v in values.items() if not k.endswith("zero_point")}
        infos = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in {"x": inputs["x"], **values}.items()
            if name in self.given
        ]
        constants = [tensor(v, n) for n, v in values.items() if n not in self.given]
        if self.constants == "node":
            nodes = [helper.make_node("Constant", [], [c.name], value=c) for c in constants] + nodes
            constants = []
        for node in nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                node.domain = self.domain
        dtype = OUTPUTS[self.how.y] if self.quantize else np.float32
        result = helper.make_tensor_value_info(
            output, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None
        )
        graph = helper.make_graph(nodes, "qdq", infos, [result], constants)
        return model(graph, self.opset, domains={self.domain: 1} if self.domain else None)

    def feeds(self) -> dict[str, np.ndarray]:
        inputs = self.inputs()
        return {name: np.asarray(inputs[name]) for name in self.given}


def relu() -> list[onnx.NodeProto]:
    return [helper.make_node("Relu", ["c"], ["r"], name="act")]


def clip(low: float, high: float) -> list[onnx.NodeProto]:
    def constant(name: str, v: float) -> onnx.NodeProto:
        data = helper.make_tensor(name, TensorProto.FLOAT, [], [v])
        return helper.make_node("Constant", [], [name], value=data)

    return [
        constant("low", low),
        constant("high", high),
        helper.make_node("Clip", ["c", "low", "high"], ["r"], name="act"),
    ]
