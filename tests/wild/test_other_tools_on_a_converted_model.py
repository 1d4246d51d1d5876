"""Shape inference, quantisers and float16 converters, before a conversion and after it."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cases import nodes_of
from onnx import TensorProto, helper, numpy_helper
from sessions import our_session, run_stock

import ort_tconv

RNG = np.random.default_rng(0)
OP = "SegregatedConvTranspose"


#: Quantisers of older versions stop on their own files, or have no kernel for what they write.
needs_new_tools = pytest.mark.skipif(
    tuple(map(int, ort.__version__.split(".")[:2])) < (1, 23),
    reason="these tools are not tried with onnxruntime before 1.23",
)


@pytest.fixture(scope="module")
def original() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "w1"], ["u"], name="up", strides=[2, 2]),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["c"], name="sub", pads=[1] * 4),
        helper.make_node("DepthToSpace", ["c"], ["d"], blocksize=2),
        helper.make_node("Tanh", ["d"], ["t"]),
        helper.make_node("GlobalAveragePool", ["t"], ["y"]),
    ]
    shapes = {"w0": (16, 3, 3, 3), "w1": (16, 16, 4, 4), "w2": (12, 16, 3, 3)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1])],
        [
            numpy_helper.from_array(0.1 * RNG.standard_normal(s).astype(np.float32), name)
            for name, s in shapes.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def converted(original) -> onnx.ModelProto:
    result = ort_tconv.convert(original)
    assert len(nodes_of(result, OP)) == 2
    return result


def check(original: onnx.ModelProto, changed: onnx.ModelProto, atol: float = 1e-5) -> None:
    x = RNG.standard_normal((2, 3, 16, 16)).astype(np.float32)
    (expected,) = run_stock(original, {"x": x})
    (actual,) = our_session(changed).run(None, {"x": x})
    np.testing.assert_allclose(actual, expected, atol=atol)


def test_results_of_the_operator_are_described(converted):
    described = {value.name: value.type.tensor_type for value in converted.graph.value_info}
    for node in nodes_of(converted, OP):
        tensor = described[node.output[0]]
        assert tensor.elem_type == TensorProto.FLOAT
        assert tensor.shape.dim[0].dim_param == "n"
        assert len(tensor.shape.dim) == 4


@pytest.mark.parametrize("strict", [False, True])
def test_shape_inference(converted, strict):
    bare = onnx.ModelProto()
    bare.CopyFrom(converted)
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=strict)
    known = {value.name for value in (*inferred.graph.value_info, *inferred.graph.output)}
    assert {name for node in inferred.graph.node for name in node.output} <= known


@needs_new_tools
@pytest.mark.parametrize("options", [{"skip_symbolic_shape": True}, {"guess_output_rank": True}])
def test_quant_pre_process(original, converted, options, tmp_path, monkeypatch):
    pytest.importorskip("sympy", reason="onnxruntime's symbolic shape inference needs it")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    monkeypatch.chdir(tmp_path)  # it leaves files
    onnx.save(converted, "in.onnx")
    quant_pre_process("in.onnx", "out.onnx", **options)
    changed = onnx.load("out.onnx")
    assert nodes_of(changed, OP)
    check(original, changed)


@needs_new_tools
def test_quantize_dynamic(original, converted, tmp_path, monkeypatch):
    from onnxruntime.quantization import quantize_dynamic

    monkeypatch.chdir(tmp_path)
    onnx.save(converted, "in.onnx")
    quantize_dynamic("in.onnx", "out.onnx")
    changed = onnx.load("out.onnx")
    assert nodes_of(changed, OP)
    check(original, changed, atol=0.1)


def calibration_data():
    from onnxruntime.quantization import CalibrationDataReader

    class Data(CalibrationDataReader):
        def __init__(self) -> None:
            arrays = [RNG.standard_normal((1, 3, 16, 16)).astype(np.float32) for _ in range(2)]
            self.feeds = iter([{"x": array} for array in arrays])

        def get_next(self):
            return next(self.feeds, None)

    return Data()


@needs_new_tools
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_quantize_static_with_sessions_that_know_the_operator(
    original, converted, form, tmp_path, monkeypatch
):
    """It makes the options of its sessions itself."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    class Options(ort.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            ort_tconv.register(self)

    monkeypatch.chdir(tmp_path)
    onnx.save(converted, "in.onnx")
    with pytest.raises(Exception, match="SegregatedConvTranspose"):
        quantize_static("in.onnx", "out.onnx", calibration_data())
    with monkeypatch.context() as patched:
        patched.setattr(ort, "SessionOptions", Options)
        quantize_static("in.onnx", "out.onnx", calibration_data(), quant_format=QuantFormat[form])
    changed = onnx.load("out.onnx")
    assert len(nodes_of(changed, OP)) == 2 and nodes_of(changed, "QuantizeLinear")
    check(original, changed, atol=0.1)


def test_quantize_static_first(original, tmp_path, monkeypatch):
    from onnxruntime.quantization import quantize_static

    monkeypatch.chdir(tmp_path)
    onnx.save(original, "in.onnx")
    quantize_static("in.onnx", "out.onnx", calibration_data())
    quantized = onnx.load("out.onnx")
    report = ort_tconv.validate(quantized, shapes={"x": (1, 3, 16, 16)})
    assert report.ok, str(report)


def test_float16_after(original, converted):
    pytest.importorskip("onnxruntime.transformers.float16", reason="not in this onnxruntime")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(converted)
    changed = convert_float_to_float16(copy, keep_io_types=True)
    assert nodes_of(changed, OP)
    check(original, changed, atol=1e-2)


def test_a_model_that_onnxruntime_optimised_is_called_so(original, tmp_path):
    import onnxruntime as ort
    from sessions import options

    session_options = options()
    session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session_options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(
        original.SerializeToString(), session_options, providers=["CPUExecutionProvider"]
    )
    report = ort_tconv.converters.convert_with_report(tmp_path / "optimised.onnx").report
    assert any(
        "optimised by ONNX Runtime before" in note and "convert the original" in note
        for note in report.notes
    )


@pytest.mark.parametrize("activation", ["Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh"])
def test_a_fused_convolution_is_read(activation, tmp_path):
    """As ONNX Runtime saves Conv and activation without its blocked layout."""
    params = {"Clip": [0.0, 0.5], "LeakyRelu": [0.1]}.get(activation, [])
    attributes = {"activation_params": params} if params else {}
    nodes = [
        helper.make_node(
            "FusedConv", ["x", "w"], ["c"], name="fused", domain="com.microsoft", pads=[1] * 4,
            activation=activation, **attributes,
        ),
        helper.make_node("DepthToSpace", ["c"], ["y"], name="shuffle", blocksize=2),
    ]  # fmt: skip
    weights = RNG.standard_normal((16, 8, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 32, 32])],
        [numpy_helper.from_array(weights, "w")],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    original = helper.make_model(graph, opset_imports=imports, ir_version=8)
    converted = ort_tconv.convert(original)
    assert nodes_of(converted, OP) and not nodes_of(converted, "FusedConv")
    report = ort_tconv.validate(original, converted)
    assert report.ok, str(report)
