"""ConvTranspose becomes SegregatedConvTranspose, attribute by attribute."""

from __future__ import annotations

import onnx_ir as ir

from .convolution import check_opset
from .nodes import FLOATS, become_operator, input_of
from .rewrite import Refusal, Rewrite, Scope, Site
from .schema import CONV_TRANSPOSE_ATTRIBUTES
from .value_types import can_tell_type

_VERSIONS = (1, 11, 22)

#: How the reason begins why a node is left alone that stock refuses as well.
NOT_ALLOWED = "ConvTranspose does not allow it: "


class ConvTransposeRewrite(Rewrite):
    """``ConvTranspose(X, W, B?)`` -> ``SegregatedConvTranspose(X, W, B?)``, the same function.

    The operator takes all attributes of ConvTranspose versions 1, 11 and 22 with the same meaning,
    so they are carried over as they are, references to a function's attributes included.  A bias
    skipped with an empty name is dropped: onnxruntime before 1.31 crashes on a skipped optional
    input of a custom operator.  The node keeps its name, outputs and metadata.

    Left alone: nodes that ConvTranspose's own rules refuse, as far as that is known before they run
    (their error stays stock's); attribute references whose type or target does not fit; and nodes
    of a function whose type nothing could tell to what follows them.
    """

    name = "conv_transpose"

    def matches(self, node: ir.Node, scope: Scope) -> bool:
        return scope.own(node, "ConvTranspose")

    def plan(self, node: ir.Node, scope: Scope) -> Site:
        check_opset("ConvTranspose", _VERSIONS, scope)
        check_inputs(node)
        check_attributes(node, scope)
        _check_shapes(node, scope)
        if scope.function is not None and not can_tell_type(node, scope):
            raise Refusal(
                "its type differs among the function's calls, or is not known, and before opset 15 "
                "nothing could tell it to what follows"
            )

        def apply() -> list[ir.Node]:
            inputs = list(node.inputs)
            while inputs[-1] is None:
                inputs.pop()
            attributes = [*node.attributes.values(), *self.algorithm_attribute()]
            become_operator(node, node, inputs, attributes)
            return [node]

        return Site([node], apply)


def check_inputs(node: ir.Node) -> None:
    """Refuse a number, types or ranks of inputs that ConvTranspose does not take."""
    count = len(node.inputs)
    if not 2 <= count <= 3:
        raise Refusal(f"it has {count} inputs; ConvTranspose takes X, W and optionally B")
    if len(node.outputs) != 1:
        raise Refusal(f"it has {len(node.outputs)} outputs; ConvTranspose has one")
    for name, value in zip("XW", node.inputs, strict=False):
        if value is None:
            raise Refusal(f"its input {name} is missing")
        if value.dtype is not None and value.dtype not in FLOATS:
            raise Refusal(f"its input {name} has type {value.dtype}, which is not a float type")
        if value.shape is not None and value.shape.rank() < 3:
            raise Refusal(f"its input {name} has rank {value.shape.rank()}; 3 is the least")


def check_attributes(node: ir.Node, scope: Scope) -> None:
    """Refuse attributes that are not ConvTranspose's."""
    for attribute in node.attributes.values():
        _check_attribute(attribute, scope)


def _check_shapes(node: ir.Node, scope: Scope) -> None:
    """Refuse attributes and shapes that do not fit together; what is not known is taken to fit."""
    facts = scope.facts
    w = facts.static(node.inputs[1])
    if w is None or len(w) < 3 or any(item.is_ref() for item in node.attributes.values()):
        return
    given = {
        name: item.as_string() if item.type == ir.AttributeType.STRING else item.value
        for name, item in node.attributes.items()
    }
    pads = given.get("pads", ())
    dims = facts.dims(node.inputs[0]) or (None,) * len(w)
    x = [None if size is None else size.number for size in dims]
    likely = [1, w[0], *(1 + max(0, sum(pads[axis :: len(w) - 2])) for axis in range(len(w) - 2))]
    x = [known if known is not None else size for known, size in zip(x, likely)] + x[len(likely) :]
    bias = facts.static(input_of(node, 2))
    from .._core import output_shape

    try:
        output_shape(x, w, bias, **given)
    except (ValueError, TypeError, OverflowError) as error:
        raise Refusal(f"{NOT_ALLOWED}{error}") from error


def _check_attribute(attribute: ir.Attr, scope: Scope) -> None:
    expected = CONV_TRANSPOSE_ATTRIBUTES.get(attribute.name)
    if expected is None:
        raise Refusal(f"attribute '{attribute.name}' is not one of ConvTranspose's")
    if attribute.type != expected:
        raise Refusal(
            f"attribute '{attribute.name}' has type {attribute.type.name}, "
            f"and ConvTranspose's is {expected.name}"
        )
    if not attribute.is_ref():
        return
    target = attribute.ref_attr_name
    declared = None if scope.function is None else scope.function.attributes.get(target)
    if declared is None:
        raise Refusal(
            f"attribute '{attribute.name}' refers to '{target}', which no enclosing function has"
        )
    # A function attribute without a default value has no type of its own.
    if declared.value is not None and declared.type != expected:
        raise Refusal(
            f"attribute '{attribute.name}' refers to '{target}', whose default has type "
            f"{declared.type.name} and not {expected.name}"
        )
