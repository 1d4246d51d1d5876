"""ONNX Runtime's blocked layout: which values its optimiser keeps in it, and what that costs."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from .cost import nominal_elements, relayout_cost
from .facts import Facts, enlargement
from .nodes import attribute, input_of, only_consumer, own_op

_POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
_ELEMENTWISE = ("Add", "Sum", "Mul")
_PASSED_ON = ("Relu", "Sigmoid", "Tanh")  # where they find the layout, they keep it
_FUSED = ("LeakyRelu", "Clip", "HardSigmoid")  # only as part of the Conv before them
_FOLLOWED = (
    *("BatchNormalization", "Concat", "Resize", "Upsample"),
    *(*_ELEMENTWISE, *_PASSED_ON, *_FUSED),
)
_MOST_PASSED = 64  # nodes without a layout of their own that one value is followed through


def block_size() -> int:
    """Channels that lie side by side: ONNX Runtime's choice for this processor."""
    from .._core import supported_isas

    return 16 if {"avx512", "neon"}.intersection(supported_isas()) else 8


class BlockedLayout:
    """The layout of each value in a session of stock ONNX Runtime on the CPU.

    Its optimiser computes float32 Convs of two spatial axes and constant weights on channels in
    blocks, [N, C/b, H, W, b], and so pools.  Other nodes stay in the layout if all of their inputs
    are there: sums, products, concatenated channels, some activations and upsampling.
    Everything else, and so the operator, takes [N, C, H, W].  Where the layouts meet, a node that
    does nothing else copies the value.

    Nodes in ``replaced`` count as one node of the operator, which reads the values ``reads``.
    """

    def __init__(
        self, facts: Facts, replaced: Collection[ir.Node] = (), reads: Collection[ir.Value] = ()
    ) -> None:
        self._facts = facts
        self._replaced = frozenset(replaced)
        self._reads = frozenset(reads)
        self._block = block_size()
        self._known: dict[ir.Value, bool] = {}

    # ---- layouts -------------------------------------------------------------------------------

    def is_blocked(self, value: ir.Value | None, depth: int = 0) -> bool:
        """Whether a node in the blocked layout computes the value."""
        if value is None or value.producer() is None or depth > _MOST_PASSED:
            return False
        if value not in self._known:
            self._known[value] = self._computes_blocked(value.producer(), depth)
        return self._known[value]

    def _computes_blocked(self, node: ir.Node, depth: int) -> bool:
        if node in self._replaced or not own_op(node):
            return False
        if node.op_type == "Conv":
            return self._is_blocked_conv(node)
        if node.op_type in _POOLS:
            return self._is_blocked_pool(node)
        source = input_of(node, 0)
        if node.op_type in _PASSED_ON or self._is_fused(node):
            return self.is_blocked(source, depth + 1)
        if node.op_type in ("Resize", "Upsample"):
            return self._enlarges_in_place(node) and self.is_blocked(source, depth + 1)
        if node.op_type == "Concat" and attribute(node, "axis") == 1:
            return all(self._whole_blocks(v) and self.is_blocked(v, depth + 1) for v in node.inputs)
        if node.op_type in _ELEMENTWISE:
            shapes = {self._facts.dims(v) for v in node.inputs}
            return len(shapes) == 1 and all(self.is_blocked(v, depth + 1) for v in node.inputs)
        return False

    def _is_blocked_conv(self, node: ir.Node) -> bool:
        w, b = self._facts.tensor(input_of(node, 1)), input_of(node, 2)
        if w is None or w.dtype != ir.DataType.FLOAT or len(w.shape) != 4:
            return False
        if b is not None and self._facts.tensor(b) is None:
            return False
        m, c = int(w.shape[0]), int(w.shape[1])
        group = attribute(node, "group", 1)
        if not group or group < 1:
            return False
        if group == 1:
            return c < self._block or c % 4 == 0  # the last block is filled up with zeros
        if c == 1 and m == group:  # depthwise
            return m % 4 == 0
        return c % self._block == 0 and m % group == 0 and m // group % self._block == 0

    def _is_blocked_pool(self, node: ir.Node) -> bool:
        x = input_of(node, 0)
        dims = self._facts.dims(x)
        floats = x is not None and x.dtype == ir.DataType.FLOAT and len(node.outputs) == 1
        return floats and dims is not None and len(dims) == 4 and self._whole_blocks(x)

    def _whole_blocks(self, value: ir.Value | None) -> bool:
        dims = self._facts.dims(value)
        channels = None if dims is None or len(dims) < 2 else dims[1].number
        return channels is not None and channels % self._block == 0

    def _is_fused(self, node: ir.Node) -> bool:
        """Whether the node becomes part of the Conv before it: constants per channel, and then an
        activation."""
        source = input_of(node, 0)
        if node.op_type in ("Add", "Mul"):
            constants = [v for v in node.inputs if self._facts.tensor(v) is not None]
            if len(constants) != 1:
                return False
            source = next(v for v in node.inputs if v is not constants[0])
        elif node.op_type not in ("BatchNormalization", *_FUSED):
            return False
        before = None if source is None else source.producer()
        if not own_op(before, "Conv", "Add", "Mul", "BatchNormalization"):
            return False
        alone = only_consumer(source) is node
        return alone and (before.op_type == "Conv" or self._is_fused(before))

    def _enlarges_in_place(self, node: ir.Node) -> bool:
        """Whether the layout has an upsampling like this: by integers, nearest or linear."""
        ratios = enlargement(node, self._facts)
        if ratios is None or len(ratios) != 4 or None in ratios:
            return False
        factors = [ratio.number for ratio in ratios]  # type: ignore[union-attr]
        if None in factors or factors[:2] != [1, 1]:
            return False
        mode = attribute(node, "mode", "nearest")
        if node.op_type == "Upsample" or len(node.inputs) == 2:  # before opset 11
            return mode == "nearest"
        coordinates = attribute(node, "coordinate_transformation_mode", "half_pixel")
        if mode == "linear":
            return coordinates in ("asymmetric", "align_corners", "half_pixel")
        rounding = attribute(node, "nearest_mode", "round_prefer_floor")
        return (mode, coordinates, rounding) == ("nearest", "asymmetric", "floor")

    # ---- copies --------------------------------------------------------------------------------

    def copied(self, value: ir.Value) -> bool:
        """Whether the value is needed in both layouts."""
        users = [user for user, index in value.uses() if user not in self._replaced]
        if self.is_blocked(value):
            return (
                value.is_graph_output()
                or value in self._reads
                or any(not self._takes_blocked(user, value) for user in users)
            )
        return any(self._wants_blocked(user, value) for user in users)

    def _takes_blocked(self, node: ir.Node, value: ir.Value) -> bool:
        return self._wants_blocked(node, value) or (
            node.op_type not in ("Conv", *_POOLS)
            and (own_op(node, "Shape") or self.is_blocked(node.outputs[0]))
        )

    def _wants_blocked(self, node: ir.Node, value: ir.Value) -> bool:
        """Whether the node has the value copied into the layout if it is not there."""
        if node in self._replaced or input_of(node, 0) is not value:
            return False
        if own_op(node, *_POOLS):
            return self._is_blocked_pool(node)
        if not own_op(node, "Conv") or not self._is_blocked_conv(node):
            return False
        w = self._facts.tensor(input_of(node, 1))
        depthwise = attribute(node, "group", 1) > 1
        return depthwise or int(w.shape[1]) >= self._block  # type: ignore[union-attr]

    def cost(self, values: Iterable[ir.Value]) -> float:
        """Of the copies of ``values``: each reads and writes all elements once."""
        return sum(
            relayout_cost(nominal_elements(value, self._facts))
            for value in values
            if self.copied(value)
        )


def around(nodes: Collection[ir.Node], reads: Iterable[ir.Value]) -> list[ir.Value]:
    """The values whose layout may depend on whether ``nodes`` are in the blocked one: what they
    read and write, and what nodes without a layout of their own make of it and read beside it."""
    found = dict.fromkeys(reads)
    waiting: list[ir.Value] = []
    for node in nodes:
        found.update(dict.fromkeys(v for v in node.inputs if v is not None))
        waiting += node.outputs
    followed: set[ir.Value] = set()
    while waiting and len(followed) < _MOST_PASSED:
        value = waiting.pop()
        if value in followed:
            continue
        followed.add(value)
        found[value] = None
        for user, _ in value.uses():
            if own_op(user, *_FOLLOWED) and user not in nodes:
                found.update(dict.fromkeys(v for v in user.inputs if v is not None))
                waiting += user.outputs
    return list(found)
