"""A stock model that onnxruntime saved in a program that had registered our library.

onnxruntime then imports domain ``ort_tconv``, at version 1000, without any node of it.
"""

import onnx
import onnxruntime as ort
from cases import CORNERS, conv_transpose_model, function_model
from sessions import agree, options

import ort_tconv
from ort_tconv.converters import convert_with_report

CASE = CORNERS["the usual 4x4, stride 2"]


def imports(model: onnx.ModelProto) -> dict[str, int]:
    return {known.domain: known.version for known in model.opset_import}


def test_it_is_converted(tmp_path):
    path = tmp_path / "saved.onnx"
    saving = ort_tconv.register(options())
    saving.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    saving.optimized_model_filepath = str(path)
    ort.InferenceSession(
        conv_transpose_model(CASE).SerializeToString(), saving, ["CPUExecutionProvider"]
    )
    saved = onnx.load(path)
    assert imports(saved)["ort_tconv"] != 1
    result = convert_with_report(path)
    assert len(result.changes) == 1 and not result.skips
    assert imports(result.model)["ort_tconv"] == 1
    agree(saved, result.model)


def test_imports_of_functions_mean_nothing_either():
    model = function_model()
    for container in (model, *model.functions):
        container.opset_import.append(onnx.helper.make_opsetid("ort_tconv", 1000))
    result = convert_with_report(model)
    assert result.changes and not result.skips
    agree(model, result.model)
