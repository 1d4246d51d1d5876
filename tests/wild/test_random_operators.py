"""Models that draw random numbers: style noise, sampling, dropout in training mode."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ort_tconv
from ort_tconv.testing import assert_models_close

RNG = np.random.default_rng(0)


def model(nodes, inputs=(), functions=()) -> onnx.ModelProto:
    """``nodes`` make y of u, which comes of a transposed convolution."""
    up = helper.make_node("ConvTranspose", ["x", "w"], ["u"], name="up", strides=[2, 2])
    weights = RNG.standard_normal((4, 3, 4, 4)).astype(np.float32)
    graph = helper.make_graph(
        [up, *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array(True), "training"),
            numpy_helper.from_array(np.float32(0.5), "ratio"),
            numpy_helper.from_array(np.array([1, -1]), "flat"),
        ],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))


def _noise(op_type: str, output: str = "y"):
    return [
        helper.make_node(op_type, ["u"], ["noise"], name="noise"),
        helper.make_node("Add", ["u", "noise"], [output]),
    ]


MODELS = {
    "RandomNormalLike": lambda: model(_noise("RandomNormalLike")),
    "RandomUniformLike": lambda: model(_noise("RandomUniformLike")),
    "RandomNormal": lambda: model(
        [
            helper.make_node("RandomNormal", [], ["noise"], name="noise", shape=[1, 3, 18, 18]),
            helper.make_node("Add", ["u", "noise"], ["y"]),
        ]
    ),
    "Dropout in training mode": lambda: model(
        [helper.make_node("Dropout", ["u", "ratio", "training"], ["y"], name="noise")]
    ),
    "Bernoulli": lambda: model(
        [
            helper.make_node("Sigmoid", ["u"], ["p"]),
            helper.make_node("Bernoulli", ["p"], ["y"], name="noise"),
        ]
    ),
    "Multinomial": lambda: model(
        [
            helper.make_node("Reshape", ["u", "flat"], ["f"]),
            helper.make_node("Multinomial", ["f"], ["s"], name="noise", sample_size=20),
            helper.make_node("Cast", ["s"], ["y"], to=TensorProto.FLOAT),
        ]
    ),
    "in a branch": lambda: model(
        [
            helper.make_node(
                "If",
                ["training"],
                ["y"],
                name="if",
                then_branch=helper.make_graph(
                    [*_noise("RandomNormalLike", "t"), helper.make_node("Round", ["t"], ["r"])],
                    "noisy",
                    [],
                    [onnx.ValueInfoProto(name="r")],
                ),
                else_branch=helper.make_graph(
                    [helper.make_node("Neg", ["u"], ["n"])],
                    "calm",
                    [],
                    [onnx.ValueInfoProto(name="n")],
                ),
            )
        ]
    ),
    "in a function": lambda: model(
        [helper.make_node("Noise", ["u"], ["y"], domain="local")],
        functions=[
            helper.make_function(
                "local",
                "Noise",
                ["u"],
                ["y"],
                _noise("RandomNormalLike"),
                [helper.make_opsetid("", 17)],
            )
        ],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_both_models_draw_the_same(name):
    original = MODELS[name]()
    before = original.SerializeToString(deterministic=True)
    report = ort_tconv.validate(original, runs=2)
    assert report.ok, str(report)
    assert "'noise'" in "".join(report.notes) and "seed" in "".join(report.notes)
    assert original.SerializeToString(deterministic=True) == before
    assert_models_close(original)


@pytest.mark.parametrize("name", ["RandomNormalLike", "Dropout in training mode"])
def test_what_is_wrong_beside_the_noise_is_found(name):
    original = MODELS[name]()
    wrong = ort_tconv.convert(original)
    for tensor in wrong.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.1, "w"))
    assert not ort_tconv.validate(original, wrong).ok
