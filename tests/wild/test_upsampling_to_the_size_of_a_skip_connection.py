"""U-Nets that resize to the size of the encoder's output, and scales that are nearly integers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sessions import agree

import ort_tconv
from ort_tconv.converters import convert_with_report

RNG = np.random.default_rng(0)


def unet(size=("n", 8, "h", "w")) -> onnx.ModelProto:
    """Down by a strided convolution, and up to the size that the input had."""
    nodes = [
        helper.make_node("Conv", ["x", "down"], ["d"], name="down", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Shape", ["x"], ["s"], start=2),
        helper.make_node("Shape", ["d"], ["batch"], start=0, end=2),
        helper.make_node("Concat", ["batch", "s"], ["sizes"], axis=0),
        helper.make_node(
            "Resize",
            ["d", "", "", "sizes"],
            ["u"],
            name="resize",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("Conv", ["u", "conv"], ["y"], name="conv", pads=[1] * 4),
    ]
    weights = {
        name: RNG.standard_normal((8, 8, 3, 3)).astype(np.float32) for name in ("down", "conv")
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_ratio_that_is_not_known_is_called_so():
    (skip,) = convert_with_report(unet()).skips
    assert (
        "axis 2 to a size that is not a multiple of the input's as far as is known" in skip.reason
    )


def test_with_known_sizes_it_is_rewritten():
    original = unet((1, 8, 32, 32))
    result = convert_with_report(original)
    assert [change.node for change in result.changes] == ["conv"]
    agree(original, result.model)


@pytest.mark.parametrize("scale", [2.0000002, 1.9999999, 2.5])
def test_a_scale_that_is_nearly_an_integer_is_shown_with_all_its_digits(scale):
    original = unet()
    del original.graph.node[:-1]
    resize = helper.make_node("Resize", ["x", "", "scales"], ["u"], name="resize")
    original.graph.node.insert(0, resize)
    scales = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")
    original.graph.initializer.append(scales)
    (skip,) = convert_with_report(original).skips
    assert f"by {np.float32(scale)!s}, which is not an integer" in skip.reason
    assert " by 2, " not in skip.reason
    agree(original, ort_tconv.convert(original), x=(1, 8, 16, 16))
