"""The documents hold: their Python blocks and `ort-tconv` lines run, on a small model; other
commands exist and have the options given to them; links lead to files; figures are up to date.

A block below a line `<!-- not run: reason -->` is left out.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ort_tconv
from ort_tconv import _core
from ort_tconv.sessions.provider import unavailable

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCUMENTS = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks/README.md",
    *sorted(ROOT.glob("docs/*.md")),
]
BLOCK = re.compile(r"^(<!-- not run: .+ -->\n+)?```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(document: Path, language: str) -> list[str]:
    found = BLOCK.findall(document.read_text())
    return [text for skipped, name, text in found if name == language and not skipped]


def commands(document: Path) -> list[str]:
    text = "\n".join(blocks(document, "sh")).replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def name(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def run(workdir: Path, *command: str) -> str:
    result = subprocess.run(command, cwd=workdir, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """The model that the documents suppose."""
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["z", "w"], ["image"], strides=[2, 2], pads=[1] * 4)],
        "generator",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 100, "h", "w"])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "2h", "2w"])],
        [numpy_helper.from_array(rng.standard_normal((100, 3, 4, 4), dtype=np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("model") / "generator.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def workdir(generator, tmp_path):
    """A directory of the document's own with generator.onnx."""
    (tmp_path / "generator.onnx").write_bytes(generator.read_bytes())
    return tmp_path


# ---- commands ----------------------------------------------------------------------------------


def can_run(document: Path) -> bool:
    lines = commands(document)
    return bool(blocks(document, "python")) or any(c.startswith("ort-tconv ") for c in lines)


@pytest.mark.parametrize("document", [pytest.param(d, id=name(d)) for d in DOCUMENTS if can_run(d)])
def test_document(workdir, document):
    """Its `ort-tconv` lines, then its Python blocks as one script: a later one may use what an
    earlier one made.  What uses the execution provider says so on an ONNX Runtime that is too old
    for one."""
    for command in commands(document):
        program, *arguments = shlex.split(command)
        if program == "ort-tconv":
            # pip puts scripts beside the interpreter; that directory need not be in PATH.
            command = str(Path(sys.executable).parent / program), *arguments
            (run_without_provider if refused(command) else run)(workdir, *command)
    code = blocks(document, "python")
    for block in filter(refused, code):
        run_without_provider(workdir, sys.executable, "-c", block)
    if code := [block for block in code if not refused(block)]:
        run(workdir, sys.executable, "-c", "\n".join(code))


def refused(text: str | tuple[str, ...]) -> bool:
    """This ONNX Runtime has no execution providers from libraries, and the text uses ours."""
    return unavailable() is not None and any(use in text for use in ("add_provider(", "--session"))


def run_without_provider(workdir: Path, *command: str) -> None:
    result = subprocess.run(command, cwd=workdir, capture_output=True, text=True, timeout=300)
    assert result.returncode != 0 and str(unavailable()) in result.stdout + result.stderr


@cache
def help_of(script: Path) -> str:
    return run(ROOT, sys.executable, str(script), "--help")


def check_exists(command: str) -> None:
    """A command that takes too long for a test: what it calls exists, with the options it gives."""
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = [a for a in arguments if "=" not in a]
        run(ROOT, "make", "-n", *arguments)
        for value in (a.split("=", 1)[1] for a in arguments if a.startswith("BENCH_ARGS=")):
            benchmarks = {
                "bench-models": "bench_models.py",
                "bench-paper": "paper.py",
                "bench-candidates": "candidates.py",
            }
            script = benchmarks.get(targets[0], "bench_session.py")
            check_options(ROOT / "benchmarks" / script, shlex.split(value))
    elif Path(program).name in ("python", "python3"):
        if arguments[0] == "-c":
            compile(arguments[1], command, "exec")
        else:
            check_options(ROOT / arguments[0], arguments[1:])
    else:
        assert any(line == command or line.startswith(f"{command} ") for line in run_by_ci()), (
            command
        )


def check_options(script: Path, arguments: list[str]) -> None:
    text = help_of(script)
    for option in (a for a in arguments if a.startswith("--")):
        assert re.search(rf"{option}\b", text), f"{script.name} has no {option}"


def run_by_ci() -> list[str]:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    return [line.strip().removeprefix("step ") for line in lines] + [".ci/run"]


OTHERS = [
    pytest.param(command, id=f"{name(document)}: {command}")
    for document in DOCUMENTS
    for command in commands(document)
    if not command.startswith("ort-tconv ")
]


@pytest.mark.parametrize("command", OTHERS)
def test_other_commands_exist(command):
    check_exists(command)


@pytest.mark.parametrize("command", [c for c in commands(README) if not c.startswith("ort-tconv ")])
def test_other_commands_of_the_readme_are_run_by_ci(command):
    assert any(line == command or line.startswith(f"{command} ") for line in run_by_ci())


def test_stale_commands_are_found():
    for command in ("make no-such-target", "python benchmarks/compare.py --no-such-option a b"):
        with pytest.raises(AssertionError):
            check_exists(command)


def test_the_reference_has_every_public_name():
    """And what the modules among them are for."""
    listed = set(re.findall(r"^::: (\S+)$", (ROOT / "docs/api.md").read_text(), re.M))
    for public in ort_tconv.__all__:
        assert any(f"{entry}.".startswith(f"ort_tconv.{public}.") for entry in listed), public


def test_nobody_is_sent_to_an_index_that_has_no_package():
    """Of what is shown or said to users; the page about releases says when that changes."""
    suffixes = {".py", ".md", ".cc", ".h", ".in", ".cmake", ".yml"}
    folders = ("python", "converters", "custom_op", "cmake", "docs", "examples", "benchmarks")
    paths = [README, *(path for name in folders for path in (ROOT / name).rglob("*"))]
    advice = re.compile(r"pip install (?!.*--find-links)[^`\n]*\bort-tconv\b")
    found = [
        f"{name(path)}: {match[0]}"
        for path in paths
        if path.suffix in suffixes and path.name != "releasing.md"
        for match in advice.finditer(path.read_text())
    ]
    assert not found


def test_readme_fits_one_screen():
    assert len(README.read_text().splitlines()) <= 80


def test_entry_point_is_the_command_line_module():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="ort-tconv")
    assert script.value == "ort_tconv.cli:main"


# ---- links and figures -------------------------------------------------------------------------


@pytest.mark.parametrize("document", [pytest.param(d, id=name(d)) for d in DOCUMENTS])
def test_links_lead_to_files(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@cache
def files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    return listed.stdout.splitlines()


@pytest.mark.parametrize("document", [pytest.param(d, id=name(d)) for d in DOCUMENTS])
def test_files_of_the_repository_that_are_named_exist(document):
    """By their path, or C++ files by their name alone; a word in capitals stands for any."""
    paths = set(files())
    folders = {str(parent) for path in paths for parent in Path(path).parents}
    tops = {folder for folder in folders if "/" not in folder} - {".", ".ci", ".github"}
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)
    for named in re.findall(r"`([\w./-]+)`", text):
        if re.search("[A-Z]{3}", named) or named.startswith("onnxruntime_"):
            continue
        if named.split("/")[0] in tops and "/" in named:
            assert named.rstrip("/") in paths | folders, named
        elif re.fullmatch(r"\w+\.(cc|h|cu|cuh)", named):
            assert any(path.endswith(f"/{named}") for path in paths), named


def test_every_page_is_in_the_navigation():
    """Which also says that `mkdocs build --strict` finds each."""
    text = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"^\s+- .+: (\S+\.md)$", text, re.M)
    assert sorted(listed) == sorted([*map(name, DOCUMENTS), "CHANGELOG.md"])


@pytest.mark.skipif(
    not {"avx2", "avx512"} <= {*_core.compiled_isas()}, reason="drawn with the plans of x86 kernels"
)
def test_figures_are_what_the_code_draws():
    run(ROOT, sys.executable, "docs/figures/draw.py", "--check")


def test_stale_figures_are_found(tmp_path):
    command = [sys.executable, str(ROOT / "docs/figures/draw.py"), "--check", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "run make figures" in result.stdout


# ---- examples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["convert_and_run.py", "serve_dynamic_shapes.py"])
def test_example(generator, tmp_path, script):
    run(tmp_path, sys.executable, str(ROOT / "examples" / script), str(generator))


def test_pytest_example(generator, tmp_path):
    script = ROOT / "examples/validate_in_pytest.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(script)]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "MODEL": str(generator)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0 and "3 passed" in result.stdout, result.stdout


# The test extra brings one, beside an interpreter whose directory need not be in PATH.
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.skipif(not (CMAKE and shutil.which("make")), reason="needs cmake and make")
def test_cpp_example(tmp_path):
    """A copy of the folder, by the guide's commands: nothing but what pip installs and headers."""
    import onnxruntime as ort

    import ort_tconv
    from ort_tconv.sessions.provider import unavailable

    source, build = tmp_path / "cpp", tmp_path / "build"
    shutil.copytree(ROOT / "examples/cpp", source)
    options = {
        "CMAKE_CXX_FLAGS": "-Wall -Wextra -Werror",
        "ORT_TCONV_DOWNLOAD": "OFF",
        "Python3_EXECUTABLE": sys.executable,
        "ort_tconv_DIR": ort_tconv.get_cmake_dir(),
    }
    configure = [CMAKE, f"-S{source}", f"-B{build}", "-GUnix Makefiles"]
    configure += [f"-D{key}={value}" for key, value in options.items()]
    result = subprocess.run(configure, capture_output=True, text=True, timeout=300)
    if "No ONNX Runtime headers" in result.stderr:
        pytest.skip("ONNX Runtime's headers are not on this machine")
    assert result.returncode == 0, result.stdout + result.stderr
    run(tmp_path, CMAKE, "--build", str(build))

    model, converted = tmp_path / "model.onnx", tmp_path / "fast.onnx"
    onnx.save(two_inputs(), model)
    ort_tconv.convert(model, output=converted)
    # The library lies beside the program; the current directory and the loader's paths are others.
    program = build / "main"
    printed = run(tmp_path, str(program), str(converted)).splitlines()
    stock = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    feeds = {"a": np.ones((1, 4, 5, 3), np.float32), "b": np.ones((1, 2, 10, 6), np.float32)}
    assert len(printed) == 2
    for line, output, expected in zip(printed, stock.get_outputs(), stock.run(None, feeds)):
        name, *shape, _, mean = line.split()
        assert name == output.name and [int(side) for side in shape] == list(expected.shape)
        assert abs(float(mean) - expected.mean()) < 1e-4
    # Another library may be named; without one it fails, with a message.
    assert (
        run(tmp_path, str(program), str(converted), ort_tconv.get_library_path()).splitlines()
        == printed
    )
    # The model as it is, where ONNX Runtime takes execution providers; the program is strict.
    if unavailable() is None:
        assert run(tmp_path, str(program), "--provider", str(model)).splitlines() == printed
        none = tmp_path / "none.onnx"
        onnx.save(without_sites(), none)
        result = subprocess.run([program, "--provider", none], capture_output=True, text=True)
        assert result.returncode == 1 and "takes no node of the model" in result.stderr
    (build / "libort_tconv.so").unlink()
    result = subprocess.run([program, converted], capture_output=True, text=True)
    assert result.returncode == 1 and f"{build}/libort_tconv.so" in result.stderr


def without_sites() -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "none", value[:1], value[1:]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def two_inputs() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("ConvTranspose", ["a", "w"], ["t"], strides=[2, 2], pads=[1] * 4),
            helper.make_node("Mul", ["t", "b"], ["y"]),
        ],
        "two_inputs",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 4, 5, 3]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 2, 10, 6]),
        ],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, 10, 6])
            for name in ("y", "t")
        ],
        [numpy_helper.from_array(rng.standard_normal((4, 2, 4, 4), dtype=np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_cpp_snippets_are_those_of_the_example():
    source = (ROOT / "examples/cpp/main.cc").read_text()
    for page in ("guide", "provider"):
        for snippet in blocks(ROOT / f"docs/{page}.md", "cpp"):
            assert snippet in source
