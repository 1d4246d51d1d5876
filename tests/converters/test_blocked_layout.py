"""ONNX Runtime's blocked layout: predicted as its optimiser chooses it, and priced at sites."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from both_ways import difference
from cases import graph_model, nodes_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from sessions import agree

from ort_tconv.converters import Model, convert_with_report
from ort_tconv.converters.blocked_layout import BlockedLayout, around
from ort_tconv.converters.cost import moving_cost
from ort_tconv.converters.facts import Facts
from ort_tconv.converters.value_types import annotate
from ort_tconv.sessions.provider import unavailable

OP = "SegregatedConvTranspose"
RNG = np.random.default_rng(3)
SIDE = 8


class Builder:
    """A graph of square images, 8x8 by default, node by node."""

    def __init__(self, side: int = SIDE):
        self.side = side
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.channels: dict[str, int] = {}

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.constants)}"
        self.constants[name] = array.astype(np.float32)
        return name

    def add(self, op_type: str, inputs: list[str], channels: int, **attributes) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], f"n_{name}", **attributes))
        self.channels[name] = channels
        return name

    def conv(self, x: str, m: int, k: int = 3, group: int = 1) -> str:
        w = RNG.standard_normal((m, self.channels[x] // group, k, k)) * 0.1
        return self.add("Conv", [x, self.constant(w)], m, pads=[k // 2] * 4, group=group)

    def model(self, x: int, outputs: list[str]) -> onnx.ModelProto:
        return graph_model(self.nodes, self.constants, {"x": (1, x, self.side, self.side)}, outputs)


def predicted(model: onnx.ModelProto) -> Counter:
    graph = ir.from_proto(model)
    annotate(graph, Model(model))
    layout = BlockedLayout(Facts(graph))
    values = [*graph.graph.inputs, *(v for node in graph.graph for v in node.outputs)]
    copied = [value for value in values if layout.copied(value)]
    blocked = sum(layout.is_blocked(value) for value in copied)
    return Counter(ReorderOutput=blocked, ReorderInput=len(copied) - blocked)


def chosen(model: onnx.ModelProto, path) -> Counter:
    """What the optimised model holds that a session of stock ONNX Runtime runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path / "optimised.onnx")
    ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    return Counter({name: found[name] for name in ("ReorderOutput", "ReorderInput")})


@st.composite
def graphs(draw, channels=(3, 16, 20, 32), side=SIDE) -> onnx.ModelProto:
    b = Builder(side)
    first = draw(st.sampled_from(channels))
    b.channels["x"] = first
    images = ["x"]
    for _ in range(draw(st.integers(1, 9))):
        x = draw(st.sampled_from(images[-3:]))
        c = b.channels[x]
        same = [v for v in images if b.channels[v] == c]
        op = draw(
            st.sampled_from(
                ["Conv"] * 4
                + ["Relu", "Tanh", "LeakyRelu", "Add", "Mul", "Concat", "MaxPool", "Erf", "Shape"]
                + ["depthwise", "grouped"]
            )
        )
        if op == "Conv":
            y = b.conv(x, draw(st.sampled_from(channels)), draw(st.sampled_from([1, 3])))
        elif op == "depthwise":
            y = b.conv(x, c, group=c)
        elif op == "grouped":
            y = b.conv(x, 32, group=2) if c % 2 == 0 else b.conv(x, 16)
        elif op in ("Add", "Mul"):
            y = b.add(op, [x, draw(st.sampled_from(same))], c)
        elif op == "Concat":
            other = draw(st.sampled_from(images))
            y = b.add("Concat", [x, other], c + b.channels[other], axis=1)
        elif op == "MaxPool":
            y = b.add("MaxPool", [x], c, kernel_shape=[3, 3], pads=[1] * 4)
        elif op == "Shape":
            continue
        else:
            y = b.add(op, [x], c)
        *earlier, last = b.nodes
        if any((n.op_type, n.input) == (last.op_type, last.input) for n in earlier):
            b.nodes.pop()  # the optimiser computes it once
        else:
            images.append(y)
    if len(images) == 1:
        images.append(b.conv("x", 16))
    # Every value that nothing reads is an output: no node is left out as useless.
    used = {name for node in b.nodes for name in node.input}
    unread = [v for v in images[1:] if v not in used]
    return b.model(first, unread)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(model=graphs())
def test_it_is_where_the_optimiser_has_it(model, tmp_path):
    assert predicted(model) == chosen(model, tmp_path), onnx.printer.to_text(model)


needs_provider = pytest.mark.skipif(
    unavailable() is not None, reason="this onnxruntime has no providers of this kind"
)


@needs_provider
@settings(max_examples=40, deadline=None)
@given(model=graphs(channels=(3, 20, 64, 128, 192), side=24))
def test_the_provider_sees_the_same(model):
    """Which plain Convs are worth leaving the layout for is decided by what is copied where."""
    assert difference(model) is None, onnx.printer.to_text(model)


def resized(b: Builder, x: str, coordinates: str) -> str:
    b.constants["scales"] = np.array([1, 1, 2, 2], np.float32)
    attributes = {"mode": "linear", "coordinate_transformation_mode": coordinates}
    return b.add("Resize", [x, "", "scales"], b.channels[x], **attributes)


def normalised(b: Builder, x: str) -> str:
    statistics = [b.constant(RNG.uniform(0.5, 2, b.channels[x])) for _ in range(4)]
    return b.add("BatchNormalization", [x, *statistics], b.channels[x])


@needs_provider
@pytest.mark.parametrize("batch", [1, "n", None])
@pytest.mark.parametrize("kernels", [(3, 3, 1), (3, 3, 3, 3, 1), (1, 3, 3, 1), (1, 3)])
def test_what_one_conv_leaves_the_next_one_sees(kernels, batch):
    """A Conv that is taken is no longer in the layout when the one after it is weighed."""
    b = Builder(24)
    b.channels["x"] = 128
    value = "x"
    for k in kernels:
        value = b.conv(value, 128, k)
        value = b.add("Add", [value, value], 128)
    model = b.model(128, [value])
    for each in (*model.graph.input, *model.graph.output):
        dim = each.type.tensor_type.shape.dim[0]
        dim.Clear()
        if batch == "n":
            dim.dim_param = batch
        elif batch is not None:
            dim.dim_value = batch
    assert difference(model) is None, onnx.printer.to_text(model)


#: A Conv of this size gains less than its copies cost, where there are any.
CHANNELS, BETWEEN_SIDE = 32, 28
#: What stands between two Convs, and whether it keeps them from leaving the layout.
BETWEEN = {
    "nothing": (lambda b, x: x, True),
    "Relu": (lambda b, x: b.add("Relu", [x], CHANNELS), True),
    "LeakyRelu": (lambda b, x: b.add("LeakyRelu", [x], CHANNELS), True),
    "LeakyRelu twice": (
        lambda b, x: b.add("LeakyRelu", [b.add("LeakyRelu", [x], CHANNELS)], CHANNELS),
        False,
    ),
    "Erf": (lambda b, x: b.add("Erf", [x], CHANNELS), False),
    "constants": (
        lambda b, x: b.add("Mul", [x, b.constant(np.ones((CHANNELS, 1, 1)))], CHANNELS),
        True,
    ),
    "BatchNormalization": (normalised, True),
    "sum": (lambda b, x: b.add("Add", [x, x], CHANNELS), True),
    "channels": (lambda b, x: b.add("Concat", [x, x], 2 * CHANNELS, axis=1), True),
    "pool": (lambda b, x: b.add("MaxPool", [x], CHANNELS, kernel_shape=[3, 3], pads=[1] * 4), True),
    "Resize": (lambda b, x: resized(b, x, "half_pixel"), True),
    "Resize that leaves": (lambda b, x: resized(b, x, "pytorch_half_pixel"), False),
}


@needs_provider
@pytest.mark.parametrize("name", BETWEEN)
def test_the_provider_sees_what_stands_between(name):
    """Convs of one tap are no candidates; the one in the middle is, and leaves where stock would
    copy what it reads and makes all the same."""
    between, stays = BETWEEN[name]
    b = Builder(BETWEEN_SIDE)
    b.channels["x"] = CHANNELS
    value = between(b, b.conv("x", CHANNELS, 1))
    middle = b.conv(value, CHANNELS)
    model = b.model(CHANNELS, [b.conv(between(b, middle), CHANNELS, 1)])
    assert difference(model) is None
    taken = {change.node for change in convert_with_report(model).changes}
    assert (f"n_{middle}" not in taken) == stays, taken


# ---- what it costs -----------------------------------------------------------------------------


def copies(model: onnx.ModelProto, site: str) -> tuple[float, float]:
    """Price of the copies around a Conv as it is, and if it is rewritten."""
    graph = ir.from_proto(model)
    annotate(graph, Model(model))
    facts = Facts(graph)
    node = next(node for node in graph.graph if node.name == site)
    values = around([node], [node.inputs[0]])
    return BlockedLayout(facts).cost(values), BlockedLayout(facts, [node], [node.inputs[0]]).cost(
        values
    )


def chain(*between: str) -> onnx.ModelProto:
    """Three Convs of 32 channels; what stands between them is given by operators' names."""
    b = Builder()
    b.channels["x"] = 32
    value = b.conv("x", 32)
    for op_type in between:
        value = b.add(op_type, [value], 32)
    value = b.conv(value, 32)
    for op_type in between:
        value = b.add(op_type, [value], 32)
    return b.model(32, [b.conv(value, 32)])


def test_a_site_between_blocked_convs_costs_two_copies():
    one = moving_cost(2 * 3 * 32 * SIDE * SIDE, "float32")
    assert copies(chain(), "n_v1") == (0, pytest.approx(2 * one))
    assert copies(chain("Relu"), "n_v2") == (0, pytest.approx(2 * one))
    # What stands between them leaves the layout by itself: the copies are stock's.
    assert copies(chain("Erf"), "n_v2") == (pytest.approx(2 * one), 0)


def test_only_a_gain_larger_than_the_copies_rewrites_a_plain_conv():
    def sites(*between: str, channels: int, side: int) -> list[str]:
        b = Builder()
        b.channels["x"] = channels
        value = b.conv("x", channels, 1)
        for _ in range(2):
            for op_type in between:
                value = b.add(op_type, [value], channels)
            value = b.conv(value, channels)
        graph = graph_model(b.nodes, b.constants, {"x": (1, channels, side, side)}, [value])
        return [c.node for c in convert_with_report(graph).changes]

    assert not sites(channels=16, side=32)
    assert len(sites("Erf", channels=256, side=32)) == 2
    assert not sites("Erf", channels=16, side=32)


def test_a_plain_conv_of_unknown_size_is_left_alone():
    b = Builder()
    b.channels["x"] = 256
    y = b.conv("x", 256)
    known = graph_model(b.nodes, b.constants, {"x": (1, 256, 32, 32)}, [y])
    unknown = graph_model(b.nodes, b.constants, {"x": (1, 256, "h", "w")}, [y])
    (node,) = nodes_of(convert_with_report(known).model, OP)
    assert node.name == "n_v0"
    agree(known, convert_with_report(known).model)
    result = convert_with_report(unknown)
    assert not result.changes and not result.skips
