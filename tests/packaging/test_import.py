"""What `import ort_tconv` needs and does, and what the package asks pip for."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import onnx_ir
import pytest

import ort_tconv

WITHOUT_ORT = "import sys; sys.modules['onnxruntime'] = None\n"  # makes `import onnxruntime` fail


def run_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_works_without_onnxruntime():
    run_python(WITHOUT_ORT + "import ort_tconv; assert ort_tconv.get_library_path()")


def test_convert_works_without_onnxruntime(tmp_path):
    code = """
import onnx, ort_tconv
from onnx import TensorProto, helper
model = helper.make_model(helper.make_graph(
    [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3, 3]),
     helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 2, 2, 2])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 6, 6])]),
    opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
print([n.op_type for n in ort_tconv.convert(model).graph.node])
"""
    assert "SegregatedConvTranspose" in run_python(WITHOUT_ORT + code)


def test_use_without_onnxruntime_says_what_to_install():
    code = """
import ort_tconv
for use in (ort_tconv.available_providers, lambda: ort_tconv.InferenceSession("x.onnx")):
    try:
        use()
    except ImportError as error:
        print(error)
    else:
        print("no error")
"""
    for message in run_python(WITHOUT_ORT + code).splitlines():
        assert "onnxruntime" in message and "pip install" in message


def test_advice_names_packages_that_an_index_has():
    """This package is on none yet, and zsh takes the brackets of an extra for a pattern."""
    package = Path(ort_tconv.__file__).parent
    texts = {path: path.read_text() for path in package.rglob("*.py")}
    assert len(texts) > 30
    advice = [line for text in texts.values() for line in re.findall(r"pip install [^`\n]*", text)]
    assert advice and not [line for line in advice if "ort-tconv" in line or "[" in line]


@pytest.mark.skipif(
    not hasattr(onnx_ir.SymbolicDim, "__add__"), reason="this onnx_ir does not compute with names"
)
@pytest.mark.parametrize("name", ["convert", "inspect", "validate", "benchmark", "testing"])
def test_symbolic_algebra_is_imported_on_demand(name):
    """sympy takes most of the time of `import onnx_ir`; other importers get the true module."""
    code = f"""
import sys
from ort_tconv import {name}
assert "sympy.core" not in sys.modules and "sympy" not in sys.modules
import onnx_ir
n = onnx_ir.SymbolicDim("n")
assert "sympy" not in sys.modules
print((n + 1 + n).value)
import sympy
assert sympy.__spec__ and n._expr == sympy.Symbol("n", integer=True, positive=True)
"""
    assert run_python(code).strip() == "2*n + 1"


def test_import_starts_no_thread():
    # numpy's BLAS starts threads of its own; they are not ours.
    code = """
import re, numpy, onnx, onnx_ir, rich
def threads(): return re.search(r"Threads:\\s*(\\d+)", open("/proc/self/status").read())[1]
before = threads()
import ort_tconv
assert threads() == before, (before, threads())
"""
    run_python(code)


def test_neither_onnxruntime_is_a_hard_dependency():
    # The two packages overwrite each other's files.
    requirements = importlib.metadata.requires("ort-tconv")
    hard = [r for r in requirements if "extra ==" not in r]
    assert not any(re.match(r"onnxruntime", r) for r in hard)


def test_lower_bounds_are_the_tested_ones():
    pins = (Path(__file__).parent / "oldest.txt").read_text()
    for name, version in re.findall(r"^([\w-]+)==(\S+)$", pins, re.M):
        bounds = [
            re.match(rf"{name.replace('_', '[-_]')}>=([\d.]+)", r)
            for r in importlib.metadata.requires("ort-tconv")
        ]
        (bound,) = [match[1] for match in bounds if match]
        assert f"{version}.".startswith(f"{bound}."), name


def test_extras():
    extras = set(importlib.metadata.metadata("ort-tconv").get_all("Provides-Extra"))
    assert {"cpu", "gpu", "demo", "test", "bench"} <= extras


def test_version_is_the_packages():
    import ort_tconv

    assert ort_tconv.__version__ == importlib.metadata.version("ort-tconv")
