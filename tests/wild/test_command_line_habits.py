"""Options as people type them: shortened, misspelt, in another order, in a plain terminal."""

import itertools
import json
import logging
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from cases import chain_model, graph_model, loop_model
from onnx import helper
from terminal import Terminal
from terminal import run as run_apart
from terminal import run_here as run

import ort_tconv
from ort_tconv.conversion.convert import METADATA_KEY

ASCII = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80", "TERM": "dumb"}


@pytest.fixture
def path(tmp_path):
    onnx.save(chain_model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert", "a", "b", "--exclud", "x"], ["--exclud", "did you mean --exclude?"]),
        (["inspect", "a", "--htm", "x"], ["--htm", "did you mean --html?"]),
        (["bench", "a", "--warmup", "1"], ["--warmup", "did you mean --warm-up?"]),
        (["validate", "a", "--frobnicate"], ["--frobnicate"]),
        (["info", "surplus"], ["surplus"]),
    ],
)
def test_unknown_options_with_the_usage_of_their_verb(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith(f"usage: ort-tconv {arguments[0]} ")
    for text in said:
        assert text in done.stderr


def test_patterns_that_match_nothing(path, tmp_path):
    done = run(
        "convert", path, tmp_path / "out.onnx", "--exclude", "decoder*", "--exclude", "up_y0"
    )
    assert done.returncode == 0
    assert "exclude: no candidate's name matches 'decoder*'" in " ".join(done.stdout.split())
    assert "'up_y0'" not in done.stdout.split("note:")[-1]


@pytest.mark.parametrize("name", ["out.txt", "report", "out.json"])
def test_json_to_any_file(path, tmp_path, name):
    for arguments in (
        ["inspect", path, "--json", tmp_path / name],
        ["inspect", "--json", tmp_path / name, path],
        ["inspect", path, f"--json={tmp_path / name}"],
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "plans for" in " ".join(done.stdout.split())
        report = json.loads((tmp_path / name).read_text())
        assert report["version"] == ort_tconv.__version__
        (tmp_path / name).unlink()


def test_json_before_a_model(path, tmp_path):
    before = path.read_bytes()
    done = run("inspect", "--json", path)
    assert json.loads(done.stdout)["sites"]
    onnx.save(ort_tconv.convert(path), tmp_path / "converted.onnx")
    done = run("validate", "--json", path, tmp_path / "converted.onnx")
    assert json.loads(done.stdout)["ok"]
    odd = path.rename(tmp_path / "model.bin")
    done = run("inspect", "--json", odd)
    assert json.loads(done.stdout)["sites"]
    assert odd.read_bytes() == before
    for last in (["--threads", 1], []):
        done = run("inspect", odd, "--json", *last)
        assert json.loads(done.stdout)["sites"]


LONG = [f"/decoder/up_blocks.{i}/upsamplers.0/conv/Conv" for i in range(12)]


@pytest.fixture
def deep(tmp_path):
    """Twelve layers alike, with the names that PyTorch gives, and one more."""
    weights = np.ones((4, 4, 3, 3), np.float32) / 36
    nodes = [
        helper.make_node("Conv", [f"x{i}", "w"], [f"x{i + 1}"], name, pads=[1] * 4)
        for i, name in enumerate(LONG)
    ]
    nodes.append(
        helper.make_node("ConvTranspose", ["x12", "w"], ["y"], "/decoder/out/ConvTranspose")
    )
    model = graph_model(nodes, {"w": weights}, {"x0": ("n", 4, "h", "w")})
    onnx.save(model, tmp_path / "deep.onnx")
    return tmp_path / "deep.onnx"


def test_names_with_spaces_and_other_alphabets(tmp_path):
    """As graph editors allow them, and with what might pass for commands of a table."""
    name = "my node/ü 😀 [bold]x[/]"
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["u v"], name, strides=[2, 2]),
        helper.make_node("Relu", ["u v"], ["y"], "[/red]"),
    ]
    weights = {"w": np.ones((4, 3, 4, 4), np.float32)}
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(graph_model(nodes, weights, {"x": (1, 4, 6, 6)}), path)
    for arguments in (
        ["inspect", path],
        ["convert", path, out, "--check"],
        ["convert", path, out, "--tune", "--threads", 1],
        ["bench", path, "--repeat", 1, "--seconds", 0, "--no-memory"],
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "[bold]x[/]" in done.stdout
    for arguments in (["inspect", path], ["validate", path]):
        done = run_apart(*arguments, code="import sys; sys.stdout.reconfigure(encoding='ascii')")
        assert done.returncode == 0, done.stderr


def test_names_do_not_break_within_words(deep, tmp_path):
    for arguments in (
        ["inspect", deep],
        ["convert", deep, tmp_path / "out.onnx"],
        ["bench", deep, "--repeat", 1, "--seconds", 0, "--shape", "x0:1,4,8,8", "--no-memory"],
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if str(tmp_path) not in line]
        assert max(map(len, lines)) <= 80
        shown = "".join(line.split("│")[1] for line in done.stdout.splitlines() if "│" in line)
        assert "/decoder/out/" in shown and "ConvTranspose" in shown


def test_tuning_of_many_layers_says_first_what_became_of_the_model(deep, tmp_path):
    out = tmp_path / "out.onnx"
    done = run("convert", deep, out, "--tune", "--threads", 1, "--exclude", "*.11/*")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "rewritten, " in lines[0] and lines[0].endswith(str(out))
    assert lines[1].startswith("kept: ")
    assert "input x0: 1×4×64×64 (guessed: dimensions 0, 2, 3" in " ".join(done.stdout.split())
    assert len(lines) < 60
    assert "and 10 alike" in done.stdout
    metadata = {item.key: json.loads(item.value) for item in onnx.load(out).metadata_props}
    assert metadata[METADATA_KEY]["version"] == ort_tconv.__version__
    assert metadata[METADATA_KEY]["options"] == {"exclude": ["*.11/*"]}


def test_tuning_as_json(path, tmp_path):
    out = tmp_path / "out.onnx"
    done = run("convert", path, out, "--tune", "--json", "--threads", 1, "--shape", "x0:1,4,5,6")
    tuning = json.loads(done.stdout)["tuning"]
    assert len(tuning["sites"]) == 3 and tuning["shapes"] == {"x0": [1, 4, 5, 6]}
    done = run("convert", path, tmp_path / "plain.onnx", "--json")
    assert json.loads(done.stdout)["tuning"] is None


def test_what_made_a_model_stands_in_it(path, tmp_path):
    out = tmp_path / "out.onnx"
    ort_tconv.convert(path, out, disable="epilogue", algorithm="direct")
    (item,) = (item for item in onnx.load(out).metadata_props if item.key == METADATA_KEY)
    assert json.loads(item.value) == {
        "version": ort_tconv.__version__,
        "options": {"disable": "epilogue", "algorithm": "direct"},
    }


def test_guessed_sizes_are_called_so(path, tmp_path):
    """In every command that runs or plans a model whose sizes are open, and in its JSON."""
    bench = ["bench", path, "--repeat", 1, "--seconds", 0, "--no-memory", "--no-nodes"]
    page = tmp_path / "page.html"
    for arguments in (["inspect", path, "--html", page], ["validate", path], bench):
        said = " ".join(run(*arguments).stdout.split())
        assert "1×4×64×64" in said and "(guessed: dimensions 0, 2, 3, which the model" in said
        assert json.loads(run(*arguments, "--json").stdout)["guessed"] == {"x0": [0, 2, 3]}
        given = run(*arguments, "--shape", "x0:1,4,6,6")
        assert "(guessed" not in given.stdout
    assert "(guessed" not in page.read_text()
    run("inspect", path, "--html", page)
    assert "guessed: dimensions 0, 2, 3" in page.read_text()
    np.savez(tmp_path / "inputs.npz", x0=np.zeros((1, 4, 6, 6), np.float32))
    assert "(guessed" not in run("validate", path, "--inputs", tmp_path / "inputs.npz").stdout


def test_the_same_words_for_the_same_number(path, tmp_path):
    """``convert`` counts what it rewrites, and the nodes that come of it, as ``validate`` does."""
    done = run("convert", path, tmp_path / "out.onnx", "--check")
    counts = "6 rewritten, 0 left alone (3 nodes of the operator, 3 fused into them)"
    assert done.stdout.startswith(counts)
    assert "tested:   3 nodes of the operator on CPUExecutionProvider" in done.stdout


def test_sizes_that_are_not_known_are_no_question_marks(tmp_path):
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up")
    loop = loop_model()
    onnx.save(loop, tmp_path / "loop.onnx")
    inputs = {"x": (1, 4, "h", "w"), "w": ("a", "b", "c", "d")}
    onnx.save(graph_model([node], {}, inputs), tmp_path / "open.onnx")
    for name, shapes in (("loop", []), ("open", ["--shape", "w:4,4,3,3"])):
        model = tmp_path / f"{name}.onnx"
        for arguments in (["inspect", model, *shapes], ["convert", model, tmp_path / "out"]):
            done = run(*arguments)
            assert done.returncode == 0, done.stderr
            assert "?" not in done.stdout
        assert "?" not in str(
            ort_tconv.inspect(model, shapes={"w": (4, 4, 3, 3)} if shapes else {})
        )


def test_percentiles_and_throughput(path):
    done = run(
        "bench", path, "--repeat", 20, "--seconds", 0, "--no-memory", "--shape", "x0:1,4,5,6"
    )
    for row in ("median (p50)", "p90", "p99", "runs a second"):
        assert row in done.stdout
    timing = ort_tconv.benchmark(path, repeat=20, seconds=0, memory=False, per_node=False).stock
    assert timing.min_ms <= timing.median_ms <= timing.p90_ms <= timing.p99_ms <= timing.max_ms
    assert 1e3 / timing.max_ms <= timing.runs_per_second <= 1e3 / timing.min_ms


def test_an_ascii_console(path, tmp_path):
    for arguments in (
        ["inspect", path],
        ["convert", path, tmp_path / "out.onnx", "--check"],
        ["info"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ort_tconv", *map(str, arguments)],
            capture_output=True,
            env=ASCII,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.decode("ascii").splitlines()
        table = [line for line in lines if line.startswith(("|", "+"))]
        for one, other in itertools.pairwise(table):  # with wide characters replaced
            assert len(one) == len(other) or one.startswith("+") or other.startswith("+")
    done = run_apart("inspect", path, code="import sys; sys.stdout.reconfigure(encoding='ascii')")
    assert done.returncode == 0 and "1x4x64x64" in done.stdout.replace("\n", "")


def test_quiet_in_a_terminal(path, tmp_path):
    """No progress bar either."""
    for arguments in (
        ["convert", path, tmp_path / "out.onnx", "--tune", "--shape", "x0:1,4,5,6"],
        ["bench", path, "--repeat", 1, "--seconds", 0, "--no-memory", "--shape", "x0:1,4,5,6"],
    ):
        loud, quiet = Terminal(*arguments), Terminal(*arguments, "--quiet")
        assert loud.finish() == 0 and quiet.finish() == 0
        assert loud.shown and not quiet.shown


def test_quiet(path, tmp_path):
    done = run("convert", path, tmp_path / "out.onnx", "--check", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run("validate", path, "-q", "--rtol", "0")
    assert done.returncode == 1 and not done.stdout and "DIFFERENT" in done.stderr
    done = run("convert", path, path, "-q")
    assert done.returncode == 2 and "--force" in done.stderr
    done = run("inspect", path, "-q", "--json")
    assert json.loads(done.stdout)["sites"]


def test_logging(path, caplog):
    with caplog.at_level(logging.DEBUG, "ort_tconv"):
        ort_tconv.convert(path, exclude=["up_y0", "nothing"])
    levels = {record.levelname: record.getMessage() for record in caplog.records}
    assert "rewritten" in levels["INFO"] and str(path) in levels["INFO"]
    assert "no candidate's name matches 'nothing'" in levels["WARNING"]
    assert any("excluded by 'up_y0'" in record.getMessage() for record in caplog.records)


def test_silence_unless_logging_is_set_up(path):
    done = subprocess.run(
        [sys.executable, "-c", f"import ort_tconv; ort_tconv.convert({str(path)!r}, exclude='no')"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_completion(path):
    """As a shell asks for it; argcomplete writes to file descriptor 8."""
    pytest.importorskip("argcomplete")
    line = "ort-tconv convert --ex"
    done = subprocess.run(
        ["bash", "-c", f'exec 8>&1; exec "{sys.executable}" -m ort_tconv'],
        env=os.environ
        | {
            "_ARGCOMPLETE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "_ARGCOMPLETE_IFS": "\n",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["--exclude"], done.stderr
