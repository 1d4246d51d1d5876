"""validate(): right models pass, wrong ones do not, and the report says where."""

import json

import numpy as np
import onnx
import pytest
from cases import (
    DTYPES,
    Case,
    chain_model,
    conv_transpose_model,
    function_model,
    if_model,
    loop_model,
    model,
    nodes_of,
    save_external,
    scan_model,
    tensor,
    value,
)
from onnx import helper, numpy_helper
from sessions import our_session

import ort_tconv
from ort_tconv import _core
from ort_tconv.validation import validate as validation

OP = "SegregatedConvTranspose"
CASE = Case((5, 4), (4, 4), group_in=8, strides=(2, 2), pads=(1, 1, 1, 1))


def with_weight(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    """A copy of the model in which ``change`` was applied to one weight array."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for initializer in result.graph.initializer:
        if initializer.name == name:
            array = numpy_helper.to_array(initializer).copy()
            change(array)
            initializer.CopyFrom(tensor(array, name))
            return result
    raise KeyError(name)


def zero_one_tap(array: np.ndarray) -> None:
    array[1, 2, 3, 0] = 0


# ---- agreement ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(dtype):
    case = Case((5, 4), (4, 4), group_in=8, strides=(2, 2), dtype=dtype)
    report = ort_tconv.validate(conv_transpose_model(case))
    assert report.ok and report, report
    assert report.rewritten == 1
    (output,) = report.outputs
    assert (output.name, output.dtype, output.shape) == ("y", dtype, (1, 3, 12, 10))
    stock_has_it = dtype in ("float32", "float16")
    assert report.baseline.startswith("stock" if stock_has_it else "onnx.reference")
    assert bool(report.notes) != stock_has_it
    if not stock_has_it:
        assert "NOT_IMPLEMENTED" in report.notes[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_missing_tap_fails_in_every_type(dtype):
    case = Case((5, 4), (4, 4), group_in=2, strides=(2, 2), dtype=dtype)
    original = conv_transpose_model(case)
    arrays = case.arrays()
    arrays["w"][1, 2, 3, 0] = 0
    wrong = ort_tconv.convert(conv_transpose_model(case, arrays))
    report = ort_tconv.validate(original, wrong)
    assert not report.ok and not report
    assert report.first_difference.node == "up"
    assert report.outputs[0].max_abs > report.outputs[0].tolerance


@pytest.mark.parametrize(
    "original",
    [
        chain_model(),
        conv_transpose_model(CASE, weights="input"),
        conv_transpose_model(CASE, weights="overridable"),
        conv_transpose_model(CASE, weights="overridable", opset=8, ir_version=3),
        if_model(),
        loop_model(),
        function_model(),
    ],
    ids=["chain", "run-time weights", "overridable", "IR 3", "If", "Loop", "function"],
)
def test_models(original):
    report = ort_tconv.validate(original, runs=2, shapes=None)
    assert report.ok, report
    assert report.runs == 2
    assert report.rewritten == len(nodes_of(original, "ConvTranspose"))


def test_sources(tmp_path):
    path = tmp_path / "model.onnx"
    save_external(conv_transpose_model(CASE), path)
    kept_out = ort_tconv.convert(path, load_external_data=False)
    (tmp_path / "out").mkdir()
    written = tmp_path / "out" / "out.onnx"
    ort_tconv.convert(path, written)
    for converted in (None, ort_tconv.convert(path), kept_out, written, str(written)):
        assert ort_tconv.validate(path, converted).ok


def test_arguments_are_not_changed():
    original = conv_transpose_model(CASE)
    converted = ort_tconv.convert(original)
    before = [m.SerializeToString(deterministic=True) for m in (original, converted)]
    ort_tconv.validate(original, converted)
    ort_tconv.validate(original, with_weight(converted, "w", zero_one_tap))
    assert before == [m.SerializeToString(deterministic=True) for m in (original, converted)]


def test_nan_and_infinity_in_inputs():
    x = CASE.arrays()["x"]
    x[0, 1, 2, 3], x[0, 0, 0, 0] = np.nan, -np.inf
    report = ort_tconv.validate(conv_transpose_model(CASE), inputs={"x": x})
    assert report.ok, report


def test_several_outputs_of_several_types():
    original = conv_transpose_model(CASE)
    original.graph.node.append(helper.make_node("Shape", ["y"], ["shape"]))
    original.graph.node.append(helper.make_node("SequenceConstruct", ["y", "y"], ["both"]))
    original.graph.output.append(helper.make_tensor_value_info("shape", 7, [4]))
    original.graph.output.append(helper.make_tensor_sequence_value_info("both", 1, None))
    report = ort_tconv.validate(original)
    assert report.ok
    assert [output.name for output in report.outputs] == ["y", "shape", "both[0]", "both[1]"]


# ---- disagreement ------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["w0", "w1", "w2"])
def test_first_differing_node(wrong):
    original = chain_model(3)
    report = ort_tconv.validate(
        original, with_weight(ort_tconv.convert(original), wrong, zero_one_tap)
    )
    assert not report.ok
    difference = report.first_difference
    assert (difference.node, difference.op_type) == (f"up_y{wrong[1]}", OP)
    # The activation behind it is its epilogue, so its output is the activation's.
    assert difference.comparison.name == f"x{int(wrong[1]) + 1}"
    assert difference.comparison.max_abs > difference.comparison.tolerance
    assert f"up_y{wrong[1]}" in str(report)


def test_first_differing_node_is_found_in_a_long_model():
    """Intermediate results are kept a few at a time; this needs more than one batch of them."""
    nodes = [helper.make_node("Neg", ["x"], ["n0"], name="neg0")]
    for i in range(1, 40):
        nodes.append(helper.make_node("Neg", [f"n{i - 1}"], [f"n{i}"], name=f"neg{i}"))
    graph = helper.make_graph(
        [*nodes, helper.make_node("ConvTranspose", ["n39", "w"], ["y"], name="late")],
        "long",
        [value("x", "float32", CASE.x_shape)],
        [value("y", "float32", ["n", "c", "h", "v"])],
        [tensor(CASE.arrays()["w"], "w")],
    )
    original = model(graph)
    converted = with_weight(ort_tconv.convert(original), "w", zero_one_tap)
    assert len(nodes) > validation._PROBES
    assert ort_tconv.validate(original, converted).first_difference.node == "late"


def test_difference_in_a_body_is_that_of_the_node_in_it():
    original = loop_model()
    report = ort_tconv.validate(
        original,
        with_weight(ort_tconv.convert(original), "w", lambda w: w.__setitem__((0, 0, 1, 1), 9)),
    )
    assert (report.first_difference.node, report.first_difference.op_type) == (
        "loop/0/up_x_out",
        OP,
    )


def test_first_difference_against_the_reference_evaluator():
    case = Case((4, 4), (4, 4), strides=(2, 2), dtype="float64")
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["a"], name="good"),
        helper.make_node("ConvTranspose", ["x", "v"], ["b"], name="bad"),
        helper.make_node("Mul", ["a", "b"], ["y"], name="product"),
    ]
    w = case.arrays()["w"]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", "float64", case.x_shape)],
        [value("y", "float64", ["n", "c", "h", "v"])],
        [tensor(w, "w"), tensor(w, "v")],
    )
    original = model(graph)
    wrong = ort_tconv.convert(original)
    changed = w.copy()
    changed[0] = 0
    wrong.graph.initializer[1].CopyFrom(tensor(changed, "v"))
    report = ort_tconv.validate(original, wrong)
    assert report.baseline.startswith("onnx.reference")
    assert report.first_difference.node == "bad"


def test_shape_and_type_differences():
    original = conv_transpose_model(CASE)
    other = conv_transpose_model(Case((5, 4), (4, 4), group_in=8, strides=(2, 2)))
    report = ort_tconv.validate(original, ort_tconv.convert(other))
    assert report.outputs[0].reason == "expected shape [1, 3, 10, 8]"


def test_tolerances_can_be_set():
    original = conv_transpose_model(CASE)
    nearly = with_weight(ort_tconv.convert(original), "w", lambda w: w.__imul__(1 + 1e-4))
    assert not ort_tconv.validate(original, nearly).ok
    assert ort_tconv.validate(original, nearly, rtol=1e-3).ok
    assert ort_tconv.validate(original, nearly, atol=1e-1).ok
    assert not ort_tconv.validate(original, nearly, rtol=0, atol=1e-6).ok


def test_seeds_and_runs_show_a_rare_difference():
    """A weight that counts only where x is large: one run may miss what several show."""
    original = conv_transpose_model(CASE)
    reports = [
        ort_tconv.validate(original, ort_tconv.convert(original), seed=seed, runs=runs)
        for seed, runs in ((0, 1), (1, 1), (0, 2))
    ]
    single = [report.outputs[0].max_abs for report in reports[:2]]
    assert reports[2].outputs[0].max_abs == max(single)


# ---- wrong use ---------------------------------------------------------------------------------


def test_converted_original_is_refused():
    converted = ort_tconv.convert(conv_transpose_model(CASE))
    with pytest.raises(ValueError, match="converted already"):
        ort_tconv.validate(converted)


def test_nothing_rewritten_is_noted():
    original = conv_transpose_model(CASE)
    report = ort_tconv.validate(original, original)
    assert report.ok and report.rewritten == 0
    assert report.notes == [f"the converted model holds no {OP} node"]


def test_models_with_different_interfaces():
    with pytest.raises(ValueError, match=r"different inputs: \['x'\] and \['x0'\]"):
        ort_tconv.validate(conv_transpose_model(CASE), ort_tconv.convert(chain_model()))


def test_original_that_nothing_can_run():
    original = conv_transpose_model(CASE)
    original.graph.node.append(helper.make_node("Mystery", ["y"], ["z"], domain="com.example"))
    original.opset_import.append(helper.make_opsetid("com.example", 1))
    original.graph.output[0].name = "z"
    with pytest.raises(Exception, match="Mystery"):
        ort_tconv.validate(original)


def test_bad_numbers():
    original = conv_transpose_model(CASE)
    with pytest.raises(ValueError, match="runs is 0"):
        ort_tconv.validate(original, runs=0)
    with pytest.raises(ValueError, match="no input 'z'"):
        ort_tconv.validate(original, inputs={"z": np.zeros(3)})


def test_node_that_the_operator_refuses_ends_in_an_exception():
    """The stock operator may end the process on such a node; it must not come to that."""
    original = conv_transpose_model(CASE, attributes=CASE.attributes | {"group": 0})
    with pytest.raises(Exception, match="group = 0"):
        ort_tconv.validate(original)


# ---- report ------------------------------------------------------------------------------------


def test_report_as_text():
    original = chain_model()
    report = ort_tconv.validate(original, shapes={"x0": (1, 4, 3, 3)})
    text = str(report)
    assert text.startswith("equal up to rounding: 3 nodes of the operator on CPUExecutionProvider")
    assert "x3: float32 [1, 4, 24, 24]: max abs" in text
    wrong = with_weight(ort_tconv.convert(original), "w1", zero_one_tap)
    assert "DIFFERENT" in str(ort_tconv.validate(original, wrong))


def test_report_as_table():
    from rich.console import Console

    original = chain_model()
    wrong = with_weight(ort_tconv.convert(original), "w1", zero_one_tap)
    for converted in (None, wrong):
        report = ort_tconv.validate(original, converted)
        console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(report)
        text = console.export_text()
        assert "x3" in text and "float32" in text and f"{report.outputs[0].max_abs:.2e}" in text
        assert ("first difference" in text) == (converted is not None)
        assert max(map(len, text.splitlines())) <= 80


# ---- inputs, the node at fault, values that are no numbers -------------------------------------


def test_several_sets_of_inputs(tmp_path):
    original = conv_transpose_model(CASE)
    x = CASE.arrays()["x"]
    report = ort_tconv.validate(original, inputs=[{"x": x}, {"x": 2 * x}, {}], runs=2)
    assert report.ok and report.runs == 6
    np.savez(tmp_path / "inputs.npz", x=x)
    assert ort_tconv.validate(original, inputs=tmp_path / "inputs.npz").runs == 1
    with pytest.raises(ValueError, match="empty sequence"):
        ort_tconv.validate(original, inputs=[])


def test_integers_agree_exactly():
    """Sums of products of small integers are exact, in any order; F(3,2) divides by 2 alone."""
    case = Case((5, 4), (4, 4), group_in=8, strides=(2, 2), pads=(1, 1, 1, 1), bias=False)
    arrays = case.arrays()
    arrays["w"] = np.rint(4 * arrays["w"])
    report = ort_tconv.validate(
        conv_transpose_model(case, arrays), distribution="integers", rtol=0.0
    )
    assert report.ok and report.outputs[0].max_abs == 0.0


def test_the_node_at_fault_comes_with_its_plan():
    original = conv_transpose_model(CASE)
    report = ort_tconv.validate(
        original, with_weight(ort_tconv.convert(original), "w", zero_one_tap)
    )
    plan = _core.plan(CASE.x_shape, CASE.w_shape, threads=0, **CASE.attributes)
    assert report.first_difference.plan.startswith(plan["algorithm"])
    assert "its plan: " in str(report)
    forced = ort_tconv.convert(original, algorithm="direct")
    report = ort_tconv.validate(original, with_weight(forced, "w", zero_one_tap))
    assert report.first_difference.plan.startswith("direct")


def test_the_node_at_fault_within_a_function():
    original = function_model()
    wrong = with_weight(ort_tconv.convert(original), "w", lambda w: w.__setitem__((0, 0, 1, 1), 9))
    difference = ort_tconv.validate(original, wrong).first_difference
    assert difference.op_type == OP and difference.node.startswith("inner")
    assert "tile" in difference.plan


def test_plans_within_a_body():
    original = if_model()
    wrong = with_weight(ort_tconv.convert(original), "w", lambda w: w.__setitem__((0, 0, 1, 1), 9))
    difference = ort_tconv.validate(original, wrong, {"flag": np.array(False)}).first_difference
    assert difference.node == "if/up_else_y"
    assert "tile" in difference.plan


def test_plans_within_a_body_that_is_judged_as_a_whole():
    original = scan_model()
    wrong = with_weight(ort_tconv.convert(original), "w", lambda w: w.__setitem__((0, 0, 1, 1), 9))
    difference = ort_tconv.validate(original, wrong).first_difference
    assert difference.node == "scan" and "'up_image_out' in it: " in difference.plan


@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd", "narrow"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_values_reach_the_same_outputs(algorithm, special):
    """Not one output more than in stock onnxruntime, whose sums meet each input only where a tap
    does: validate() demands the same places, and the counts say that it looked."""
    case = Case((12, 12), (4, 4), group_in=16, group_out=16, strides=(2, 2), pads=(1, 1, 1, 1))
    x = case.arrays()["x"]
    x[0, 3, 5, 6] = x[0, 7, 0, 11] = special
    original = conv_transpose_model(case)
    converted = ort_tconv.convert(original, algorithm=algorithm)
    report = ort_tconv.validate(original, converted, {"x": x})
    assert report.ok, report
    (got,) = our_session(converted).run(None, {"x": x})
    # 4x4 outputs of the one within, 3x3 (less what the corner crops) of the one in the corner.
    assert (~np.isfinite(got)).sum() == 16 * (16 + 9)


def test_a_special_value_too_many_is_a_difference():
    """A model that lets an infinity become NaN does not pass."""
    case = Case((3, 3), (4, 4), strides=(2, 2))
    original = conv_transpose_model(case)
    x = case.arrays()["x"]
    x[0, 0, 1, 1] = np.inf
    wrong = ort_tconv.convert(original)
    wrong.graph.node[0].output[0] = "inner"
    wrong.graph.node.append(helper.make_node("Sub", ["inner", "inner"], ["zero"]))
    wrong.graph.node.append(helper.make_node("Add", ["inner", "zero"], ["y"]))
    assert ort_tconv.validate(original, wrong, {"x": np.ones_like(x)}).ok
    report = ort_tconv.validate(original, wrong, {"x": x})
    assert not report.ok and "nan instead of" in report.outputs[0].reason


def test_report_as_dictionary():
    original = chain_model()
    wrong = with_weight(ort_tconv.convert(original), "w1", zero_one_tap)
    content = json.loads(json.dumps(ort_tconv.validate(original, wrong).to_dict(), allow_nan=False))
    assert content["first_difference"]["node"] == "up_y1" and not content["ok"]
    assert content["outputs"][0]["rms"] > 0
    equal = ort_tconv.validate(original, original).to_dict()
    json.dumps(equal, allow_nan=False)
    assert equal["first_difference"] is None and equal["outputs"][0]["max_abs"] == 0
