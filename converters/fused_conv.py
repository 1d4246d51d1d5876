"""``FusedConv``, which ONNX Runtime makes of a Conv and its activation, is taken apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from .facts import Facts
from .nodes import attribute, input_of, own_op, take_over

_BEFORE = ("Pad", "Resize", "Upsample")
_AFTER = ("DepthToSpace", "Reshape", "Transpose")
#: Names of the attributes that hold the parameters of each activation.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "Clip": ("min", "max"),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
}


def take_apart(model: ir.Model) -> None:
    """Put a Conv and its activation in the place of each ``FusedConv`` that may belong to a site.

    What is not rewritten in the end ONNX Runtime fuses again when a session is created.
    """
    names = Facts(model) if any(_candidates(model)) else None
    for node in list(_candidates(model)):
        _split(node, names)  # type: ignore[arg-type]


def _candidates(model: ir.Model) -> Iterator[ir.Node]:
    for node in model.graph:
        if (node.domain, node.op_type) != ("com.microsoft", "FusedConv") or input_of(node, 3):
            continue
        if attribute(node, "activation") not in _PARAMETERS or node.inputs[0] is None:
            continue
        users = [user for user, _ in node.outputs[0].uses()]
        if own_op(node.inputs[0].producer(), *_BEFORE) or any(own_op(u, *_AFTER) for u in users):
            yield node


def _split(node: ir.Node, facts: Facts) -> None:
    activation, graph, y = attribute(node, "activation"), node.graph, node.outputs[0]
    given = attribute(node, "activation_params", ()) or ()
    parameters = dict(zip(_PARAMETERS[activation], given, strict=False))
    inputs, attributes = [y], []
    if activation == "Clip" and facts.opset_of(node) >= 11:
        for number in parameters.values():
            tensor = ir.tensor(np.array(number, np.float32))
            constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)])
            constant.outputs[0].name = constant.name = facts.fresh_name(f"{y.name}_bound")
            graph.insert_before(node, constant)
            inputs.append(constant.outputs[0])
    else:
        attributes = [ir.AttrFloat32(name, number) for name, number in parameters.items()]
    last = ir.Node("", activation, inputs, attributes, name=facts.fresh_name(f"{y.name}_act"))
    graph.insert_after(node, last)
    new = last.outputs[0]
    new.shape, new.type = y.shape, y.type
    take_over(y, new, keep=[last])
    if new.is_graph_output():
        y.name = facts.fresh_name(f"{new.name}_conv")
    else:
        y.name, new.name = facts.fresh_name(f"{y.name}_conv"), y.name
    for name in ("activation", "activation_params"):
        node.attributes.pop(name, None)
    node.domain, node.op_type = "", "Conv"
