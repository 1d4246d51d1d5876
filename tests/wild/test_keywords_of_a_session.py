"""Options of the conversion, given to InferenceSession; and misspelt names."""

import numpy as np
import pytest
from exports import check, export, model
from sessions import options
from terminal import run_here as run

import ort_tconv


def test_keywords_of_convert(tmp_path):
    path = export(tmp_path / "A", 2.0)
    assert not ort_tconv.InferenceSession(path, exclude=["*"]).conversion.changes
    assert not ort_tconv.InferenceSession(path, include="nothing").conversion.changes
    session = ort_tconv.InferenceSession(path, disable="epilogue")
    assert [change.rewrite for change in session.conversion.changes] == ["conv_transpose"]
    with pytest.raises(ValueError, match="algorithm = 'fastest'"):
        ort_tconv.InferenceSession(path, algorithm="fastest")
    check(ort_tconv.InferenceSession(path, algorithm="direct"), 2.0)


def test_tuning(tmp_path):
    session = ort_tconv.InferenceSession(
        model(2.0), options(), tune=True, threads=1, shapes={"x": (1, 1, 3, 3)}
    )
    assert "ort_tconv.tuning" in session.get_modelmeta().custom_metadata_map
    check(session, 2.0)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("algoritm", "algorithm"), ("excludes", "exclude"), ("extension", "extensions")],
)
def test_misspelt_keywords(name, meant):
    with pytest.raises(TypeError, match=f"'{name}'; did you mean '{meant}'"):
        ort_tconv.InferenceSession(model(2.0), **{name: 1})


def test_unknown_keywords():
    with pytest.raises(TypeError, match=r"no keyword argument 'load_external_data'$"):
        ort_tconv.InferenceSession(model(2.0), load_external_data=True)
    with pytest.raises(TypeError, match="'zzz'"):
        ort_tconv.InferenceSession(model(2.0), zzz=1)


def test_keywords_of_onnxruntime():
    session = ort_tconv.InferenceSession(
        model(2.0), enable_fallback=0, disabled_optimizers=["ConstantFolding"]
    )
    check(session, 2.0)


def test_wrong_names_of_inputs(tmp_path):
    path = export(tmp_path / "A", 2.0)
    for use in (ort_tconv.convert, ort_tconv.InferenceSession, ort_tconv.inspect):
        with pytest.raises(ValueError, match="no input 'image'; it has 'x'"):
            use(path, shapes={"image": (1, 1, 3, 3)})
    for verb in (["convert", path, tmp_path / "out.onnx"], ["validate", path], ["inspect", path]):
        done = run(*verb, "--shape", "image:1,1,3,3")
        assert done.returncode == 2 and "no input 'image'" in done.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_values_of_another_kind():
    """What a script passes on from its own options."""
    for name in ("include", "exclude", "disable"):
        assert ort_tconv.InferenceSession(model(2.0), **{name: None}).conversion.changes
        for value in (5, [None]):
            with pytest.raises(TypeError, match=f"{name}: .*not a name or pattern"):
                ort_tconv.convert(model(2.0), **{name: value})
    for shapes in (
        {"x": 6},
        {"x": "1,1,3,3"},
        {"x": (1, 1, 3.5, 3)},
        [("x", (1, 1, 3, 3))],
        (1, 1),
    ):
        for use in (ort_tconv.validate, ort_tconv.inspect, ort_tconv.benchmark):
            with pytest.raises(TypeError, match=r"shapes.* needed, as in"):
                use(model(2.0), shapes=shapes)
    array = np.ones((1, 1, 3, 3), np.float32)
    for inputs in (array, [array], 42):
        for use in (ort_tconv.validate, ort_tconv.benchmark):
            with pytest.raises(TypeError, match=r"inputs: a .*, as in \{'x': array\}"):
                use(model(2.0), inputs=inputs)
    assert ort_tconv.validate(model(2.0), inputs={"x": array.tolist()}).ok


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_a_tolerance_that_would_let_anything_pass(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*finite"):
        ort_tconv.validate(model(2.0), **{name: value})
    assert run("validate", "absent.onnx", f"--{name}={value}").returncode == 2
