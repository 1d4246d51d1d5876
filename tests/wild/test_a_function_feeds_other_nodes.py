"""Exporters write a local function for each module, and other nodes read what it computes."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import nodes_of
from onnx import TensorProto, helper, numpy_helper
from sessions import agree, options, our_session

import ort_tconv
from ort_tconv.converters import analyze

OPSET = helper.make_opsetid("", 17)
LOCAL = helper.make_opsetid("local", 1)
TRUE = numpy_helper.from_array(np.array(True), "flag")
RNG = np.random.default_rng(0)


def _float(name, shape=None, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def _call(name, *inputs, output):
    return helper.make_node(name, list(inputs), [output], domain="local")


def _weights(*shape, dtype=np.float32):
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(dtype), "w")


def _function(name, nodes, inputs=("X",), opset=OPSET):
    return helper.make_function("local", name, list(inputs), ["Y"], nodes, [opset, LOCAL])


def _up(result="Y"):
    """The nodes of a function with weights of its own."""
    return [
        helper.make_node("Constant", [], ["w"], value=_weights(4, 3, 4, 4)),
        helper.make_node(
            "ConvTranspose", ["X", "w"], [result], name="up", strides=[2, 2], pads=[1, 1, 1, 1]
        ),
    ]


def _shuffle(result="Y"):
    return [
        helper.make_node("Constant", [], ["w"], value=_weights(16, 4, 3, 3)),
        helper.make_node("Conv", ["X", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("DepthToSpace", ["r"], [result], blocksize=2),
    ]


def _if(value, output="Y"):
    """An If that reads ``value`` from outside, in strict operators."""
    branches = {
        f"{op.lower()}_branch": helper.make_graph(
            [helper.make_node(node, [value], [f"{op}_{output}"])],
            op,
            [],
            [onnx.ValueInfoProto(name=f"{op}_{output}")],
        )
        for op, node in (("then", "Exp"), ("else", "Neg"))
    }
    return [
        helper.make_node("Constant", [], [f"flag_{output}"], value=TRUE),
        helper.make_node("If", [f"flag_{output}"], [output], **branches),
    ]


def _model(nodes, functions, inputs=None, ir_version=8, opset=OPSET):
    graph = helper.make_graph(
        nodes, "g", inputs or [_float("x", [1, 4, 6, 6])], [_float("y", [None] * 4)]
    )
    return helper.make_model(
        graph, opset_imports=[opset, LOCAL], functions=functions, ir_version=ir_version
    )


UP = _function("Up", _up())
MODELS = {
    "once": lambda: _model(
        [_call("Up", "x", output="a"), helper.make_node("Tanh", ["a"], ["y"])], [UP]
    ),
    "twice": lambda: _model(
        [
            _call("Up", "x", output="a"),
            _call("Up", "x2", output="b"),
            helper.make_node("GlobalAveragePool", ["b"], ["p"]),
            helper.make_node("Add", ["a", "p"], ["y"]),
        ],
        [UP],
        [_float("x", [1, 4, 6, 6]), _float("x2", [1, 4, 5, "w"])],
    ),
    "nested": lambda: _model(
        [_call("Outer", "x", output="a"), helper.make_node("Tanh", ["a"], ["y"])],
        [
            UP,
            _function("Middle", [_call("Up", "X", output="t"), *_if("t")]),
            _function(
                "Outer", [_call("Middle", "X", output="t"), helper.make_node("Neg", ["t"], ["Y"])]
            ),
        ],
    ),
    "read in an If": lambda: _model([_call("Up", "x", output="a"), *_if("a", "y")], [UP]),
    "read in an If of the function": lambda: _model(
        [_call("F", "x", output="a"), helper.make_node("Tanh", ["a"], ["y"])],
        [_function("F", [*_up("t"), *_if("t")])],
    ),
    "called in an If": lambda: _model(
        [
            helper.make_node(
                "Constant", [], ["flag"], value=numpy_helper.from_array(np.array(True))
            ),
            helper.make_node(
                "If",
                ["flag"],
                ["y"],
                **{
                    f"{side}_branch": helper.make_graph(
                        [
                            _call("Up", "x", output=f"{side}_u"),
                            helper.make_node("Exp", [f"{side}_u"], [f"{side}_y"]),
                        ],
                        side,
                        [],
                        [_float(f"{side}_y", [None] * 4)],
                    )
                    for side in ("then", "else")
                },
            ),
        ],
        [UP],
    ),
    "read by another function": lambda: _model(
        [_call("F", "x", output="a"), helper.make_node("Tanh", ["a"], ["y"])],
        [
            _function("Square", [helper.make_node("Pow", ["X", "X"], ["Y"])]),
            _function(
                "F",
                [
                    *_up("t"),
                    helper.make_node("Softplus", ["t"], ["s"]),
                    _call("Square", "s", output="Y"),
                ],
            ),
        ],
    ),
    "weights are arguments": lambda: _model(
        [
            helper.make_node("Constant", [], ["k"], value=_weights(4, 3, 4, 4)),
            _call("Up", "x", "k", output="a"),
            helper.make_node("Neg", ["a"], ["y"]),
        ],
        [
            _function(
                "Up",
                [
                    helper.make_node("ConvTranspose", ["X", "W"], ["t"], strides=[2, 2]),
                    helper.make_node("Relu", ["t"], ["r"]),
                    *_if("r"),
                ],
                ("X", "W"),
            )
        ],
    ),
    "pixel shuffle": lambda: _model(
        [_call("Outer", "x", output="a"), helper.make_node("Tanh", ["a"], ["y"])],
        [
            _function("Up", _shuffle()),
            _function(
                "Outer", [_call("Up", "X", output="t"), helper.make_node("Neg", ["t"], ["Y"])]
            ),
        ],
    ),
    "opset 13": lambda: _model(
        [_call("F", "x", output="a"), helper.make_node("Tanh", ["a"], ["y"])],
        [_function("F", [*_up("t"), *_if("t")], opset=helper.make_opsetid("", 13))],
        opset=helper.make_opsetid("", 13),
    ),
}


@pytest.fixture(params=MODELS)
def original(request) -> onnx.ModelProto:
    return MODELS[request.param]()


@pytest.mark.parametrize("ir_version", [8, 10])
def test_it_is_rewritten_loads_and_computes_the_same(original, ir_version):
    original.ir_version = ir_version
    converted = ort_tconv.convert(original)
    assert nodes_of(converted, "SegregatedConvTranspose")
    assert not nodes_of(converted, "ConvTranspose")
    agree(original, converted, x2=(1, 4, 5, 7))


def test_converting_twice_changes_nothing(original):
    converted = ort_tconv.convert(original)
    assert ort_tconv.convert(converted) == converted


def test_onnx_knows_the_types_of_what_follows(original):
    inferred = onnx.shape_inference.infer_shapes(ort_tconv.convert(original), strict_mode=False)
    types = {value.name: value.type.tensor_type for value in inferred.graph.value_info}
    for node in inferred.graph.node:
        if node.domain == "local" and node.output[0] != "y":
            assert types[node.output[0]].elem_type == TensorProto.FLOAT
            assert len(types[node.output[0]].shape.dim) == 4


def test_nothing_is_left_of_the_casts_when_it_runs(original, tmp_path):
    session_options = ort_tconv.register(options())
    session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session_options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    converted = ort_tconv.convert(original)
    assert nodes_of(converted, "Cast") or nodes_of(converted, "CastLike")
    ort.InferenceSession(
        converted.SerializeToString(), session_options, providers=["CPUExecutionProvider"]
    )
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert nodes_of(optimised, "SegregatedConvTranspose")
    assert not nodes_of(optimised, "Cast") and not nodes_of(optimised, "CastLike")


def _of_two_types(opset: int) -> onnx.ModelProto:
    opset_id = helper.make_opsetid("", opset)
    nodes, inputs = [], []
    for name, dtype in (("x", np.float32), ("d", np.float64)):
        inputs.append(_float(name, [1, 4, 6, 6], helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))
        weights = _weights(4, 3, 4, 4, dtype=dtype)
        nodes += [
            helper.make_node("Constant", [], [f"{name}_w"], value=weights),
            _call("Up", name, f"{name}_w", output=f"{name}_u"),
            helper.make_node("Cast", [f"{name}_u"], [f"{name}_f"], to=TensorProto.FLOAT),
        ]
    nodes.append(helper.make_node("Add", ["x_f", "d_f"], ["y"]))
    body = [
        helper.make_node("ConvTranspose", ["X", "W"], ["t"], strides=[2, 2]),
        helper.make_node("Neg", ["t"], ["n"]),
        *_if("n"),
    ]
    function = _function("Up", body, ("X", "W"), opset_id)
    return _model(nodes, [function], inputs, opset=opset_id)


def test_a_function_of_two_types_loads():
    converted = ort_tconv.convert(_of_two_types(17))
    our_session(converted)
    assert nodes_of(converted, "CastLike") and nodes_of(converted, "SegregatedConvTranspose")


def test_before_castlike_a_function_of_two_types_is_left_alone():
    (skip,) = analyze(_of_two_types(13)).skips
    assert "differs among the function's calls" in skip.reason
