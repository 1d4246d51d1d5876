"""Constants that reach a node through others which copy, cast or rearrange them."""

import numpy as np
import onnx
import pytest
from cases import graph_model, nodes_of, tensor, value
from onnx import TensorProto, helper
from sessions import agree

from ort_tconv.converters import convert_with_report

OP = "SegregatedConvTranspose"
RNG = np.random.default_rng(3)


def node(op_type: str, *names: str, **attributes) -> onnx.NodeProto:
    *inputs, output = names
    return helper.make_node(op_type, inputs, [output], **attributes)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


#: By pass: the nodes around a convolution with weights [16, 16, 3, 3] from x to y.
SITES = {
    "upsample_conv": [
        node("Resize", "x", "", "scales", "u", mode="nearest"),
        helper.make_node("Conv", ["u", "w", "b"], ["y"], "conv", pads=[1] * 4),
    ],
    "subpixel_conv": [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1] * 4),
        node("DepthToSpace", "c", "y", blocksize=2),
    ],
    "zero_insertion": [
        node("Resize", "x", "", "scales", "u", mode="nearest"),
        node("Mul", "u", "mask", "z"),
        helper.make_node("Conv", ["z", "w", "b"], ["y"], "conv", pads=[1] * 4),
    ],
    "epilogue": [
        helper.make_node("ConvTranspose", ["x", "w", "b"], ["c"], "conv", pads=[1] * 4),
        node("Mul", "c", "k", "y"),
    ],
}
#: The nodes that w comes through, and the shape and type of what they start from.
CHAINS = {
    "Identity": ([node("Identity", "o", "w")], (16, 16, 3, 3), "float32"),
    "twice Identity": (
        [node("Identity", "o", "i"), node("Identity", "i", "w")], (16, 16, 3, 3), "float32",
    ),
    "Cast": ([node("Cast", "o", "w", to=TensorProto.FLOAT)], (16, 16, 3, 3), "float16"),
    "Cast, rounding": (
        [node("Cast", "o", "h", to=TensorProto.FLOAT16), node("Cast", "h", "w", to=1)],
        (16, 16, 3, 3), "float32",
    ),
    "Transpose": ([node("Transpose", "o", "w", perm=[3, 2, 1, 0])], (3, 3, 16, 16), "float32"),
    "Transpose, default": ([node("Transpose", "o", "w")], (3, 3, 16, 16), "float32"),
    "Reshape": ([node("Reshape", "o", "shape", "w")], (16, 144), "float32"),
    "Unsqueeze": ([node("Unsqueeze", "o", "one", "l"), node("Squeeze", "l", "one", "w")],
                  (16, 16, 3, 3), "float32"),
}  # fmt: skip


def make(name: str, chain: str) -> onnx.ModelProto:
    before, shape, dtype = CHAINS[chain]
    mask = np.zeros((48, 40), np.float32)
    mask[::2, ::2] = 1
    constants = {
        "o": random(*shape).astype(dtype),
        "b": np.tile(random(4), 4),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "mask": mask,
        "k": random(16, 1, 1),
        "shape": np.array([16, -1, 3, 3]),
        "one": np.array([1]),
    }
    nodes = [*before, *SITES[name]]
    read = {each for n in nodes for each in n.input}
    constants = {key: array for key, array in constants.items() if key in read}
    return graph_model(nodes, constants, {"x": (1, 16, 24, 20)})


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("chain", CHAINS)
def test_weights_behind_other_nodes(name, chain):
    model = make(name, chain)
    result = convert_with_report(model)
    assert result.changes[-1].rewrite == name, str(result.report)
    agree(model, result.model)
    (only,) = result.model.graph.node  # those that made the weights are gone
    assert only.op_type == OP
    assert not {i.name for i in result.model.graph.initializer} & {"o", "shape", "one"}


def test_shared_through_identity():
    """As PyTorch's exporter of TorchScript writes equal weights of several layers."""
    model = make("upsample_conv", "Identity")
    model.graph.node.append(node("Conv", "x", "o", "other"))
    model.graph.output.append(value("other", "float32", None))
    result = convert_with_report(model)
    agree(model, result.model)
    assert len(nodes_of(result.model, OP)) == 1
    assert {"o", "w_transposed"} <= {i.name for i in result.model.graph.initializer}


def test_bias_behind_identity():
    model = make("subpixel_conv", "Identity")
    model.graph.node.insert(0, node("Identity", "b0", "b"))
    (bias,) = (i for i in model.graph.initializer if i.name == "b")
    bias.name = "b0"
    result = convert_with_report(model)
    assert len(result.changes) == 1
    agree(model, result.model)


def refusal(model: onnx.ModelProto) -> str:
    result = convert_with_report(model)
    assert not result.changes and result.model == model
    (skip,) = result.skips
    return skip.reason


@pytest.mark.parametrize("chain", ["Identity", "Cast", "Transpose", "Reshape"])
def test_what_callers_may_override_is_no_constant(chain):
    model = make("upsample_conv", chain)
    _, shape, dtype = CHAINS[chain]
    model.graph.input.append(value("o", dtype, shape))
    assert refusal(model) == "its input W is not a constant"


@pytest.mark.parametrize(
    "bad",
    [
        node("Transpose", "o", "w", perm=[0, 0, 1, 1]),
        node("Transpose", "o", "w", perm=[0, 1, 2, 9]),
        node("Cast", "o", "w", to=TensorProto.FLOAT8E4M3FN),
        node("Cast", "o", "w", to=999),
        node("Cast", "o", "w"),
        node("Reshape", "o", "b", "w"),
        node("Squeeze", "o", "zero", "w"),
        node("Identity", "w"),
    ],
    ids=str,
)
def test_nodes_that_are_not_valid(bad):
    model = make("upsample_conv", "Identity")
    model.graph.node[0].CopyFrom(bad)
    model.graph.initializer.append(tensor(np.array([0]), "zero"))
    del model.graph.value_info[:]
    assert refusal(model) == "its input W is not a constant"


@pytest.mark.parametrize("chain", ["Identity", "Transpose"])
def test_weights_in_a_file(chain, tmp_path):
    model = make("upsample_conv", chain)
    path = tmp_path / "model.onnx"
    onnx.save(onnx.ModelProto.FromString(model.SerializeToString()), path,
              save_as_external_data=True, size_threshold=1024)  # fmt: skip
    result = convert_with_report(path)
    assert len(result.changes) == 1
    agree(model, result.model)
    reference = onnx.load(path, load_external_data=False)  # whose folder is not known
    assert ("file" if chain == "Identity" else "not a constant") in refusal(reference)


@pytest.mark.parametrize("shape", [(1, 1, 4, 5), (16, 1, 1), (4, 5), (1,)])
def test_expand(shape):
    """To sizes as PyTorch's exporter of TorchScript computes them, which onnx does not infer."""
    nodes = [
        node("Equal", "given", "free", "is_free"),
        node("Where", "is_free", "ones", "given", "sizes"),
        helper.make_node("ConvTranspose", ["x", "w"], ["c"], "up", pads=[1] * 4),
        node("Expand", "z", "sizes", "e"),
        node("Add", "c", "e", "y"),
    ]
    constants = {"w": random(16, 16, 3, 3), "given": np.array([1, 16, -1, 5])}
    constants |= {"free": np.array([-1]), "ones": np.array([1, 1, 4, 1])}
    model = graph_model(nodes, constants, {"x": (1, 16, 4, 5), "z": shape})
    result = convert_with_report(model)
    agree(model, result.model)
    assert [change.rewrite for change in result.changes] == ["conv_transpose", "epilogue"]


def test_cast_beyond_the_range():
    """What the model computes, infinities, is kept; numpy's warning is not shown."""
    model = make("upsample_conv", "Cast, rounding")
    (o,) = (i for i in model.graph.initializer if i.name == "o")
    o.CopyFrom(tensor(np.full((16, 16, 3, 3), 1e6, np.float32), "o"))
    assert len(convert_with_report(model).changes) == 1
