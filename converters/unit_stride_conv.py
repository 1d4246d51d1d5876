"""A convolution of stride 1 is a transposed one, which may be faster."""

from __future__ import annotations

import onnx_ir as ir

from .convolution import (
    Convolution,
    Equivalent,
    check_gain,
    flip,
    read_convolution,
    write_operator,
)
from .rewrite import Refusal, Rewrite, Scope, Site


def _sides(node: ir.Node, scope: Scope) -> list[int | None]:
    return [size.number for size in (scope.facts.dims(node.inputs[0]) or ())[2:]] or [None]


class UnitStrideConvRewrite(Rewrite):
    r"""``Conv`` with stride 1 -> the operator with stride 1.

    Along one axis, with k taps, dilation d and p zeros in front,
    :math:`y_o = \sum_t w_t x_{o + td - p}`: input i meets output :math:`o = i + p - td`.  A
    transposed convolution of stride 1 with the flipped kernel :math:`h_n = w_{k - 1 - n}` sends it
    to :math:`i + nd - P = i + (k - 1 - t)d - P`, the same output for

    .. math:: P = (k - 1)d - p,

    and likewise :math:`P' = (k - 1)d - p'` at the end.  Borders are exact.

    The multiply-adds stay as many.  What there is to gain is the operator's Winograd and its
    engine for few channels; what there is to lose is the blocked layout in which ONNX Runtime
    keeps chains of its own convolutions.  Where nodes are timed, all are tried.  Elsewhere the
    estimate has to promise more than it may be wrong by (``kSureShare`` of core/gain.h); other
    Convs are no candidates then, and no report mentions them.

    Left alone: kernels of one tap and depthwise convolutions, which stock runs as fast; strides;
    weights that are not constant; pads beyond the kernel's reach.  A ``Pad`` in front stays.
    """

    name = "unit_stride_conv"

    def matches(self, node: ir.Node, scope: Scope) -> bool:
        if not scope.own(node, "Conv"):
            return False
        if scope.is_timed(node):
            return True
        from .._core import SURE_SHARE

        try:
            conv, form = self._equivalent(node, scope)
            if conv.dtype != ir.DataType.FLOAT or None in _sides(node, scope):
                return False
            check_gain(conv, form, form.strides, scope, [node], sure=SURE_SHARE)
        except Refusal:
            return False
        return True

    def plan(self, node: ir.Node, scope: Scope) -> Site:
        conv, form = self._equivalent(node, scope)

        def apply() -> list[ir.Node]:
            return [write_operator(node, conv, form, self.algorithm_attribute(), scope, conv.bias)]

        return Site([node], apply)

    def _equivalent(self, node: ir.Node, scope: Scope) -> tuple[Convolution, Equivalent]:
        conv = read_convolution(node, scope)
        if max(conv.kernel) == 1:
            raise Refusal("its kernel has one tap: there is nothing to gain")
        if conv.group == conv.channels > 1:
            raise Refusal("it is depthwise: there is nothing to gain")
        begins, ends = conv.transposed_pads()
        return conv, Equivalent(
            conv.x,
            (conv.channels, conv.shape[0] // conv.group, *conv.kernel),
            lambda w: flip(w, conv.group),
            (1,) * conv.axes,
            begins,
            ends,
            conv.dilations,
            group=conv.group,
        )
