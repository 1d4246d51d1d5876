"""Converting a file onto itself, onto another model, or beside another model's data."""

import errno
import os
from pathlib import Path

import onnx
import pytest
from cases import chain_model, nodes_of
from exports import check, export, model
from terminal import run_here as run

import ort_tconv
from ort_tconv.converters import convert


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def is_converted(path: Path) -> bool:
    return bool(nodes_of(onnx.load(path, load_external_data=False), "SegregatedConvTranspose"))


@pytest.fixture
def path(tmp_path):
    return export(tmp_path / "A", 2.0)


def refused(*arguments, match: str, folder: Path) -> None:
    """Both the function and the command refuse, and change nothing."""
    before = contents(folder)
    with pytest.raises(FileExistsError, match=match):
        convert(*arguments)
    done = run("convert", *arguments)
    assert done.returncode == 2
    assert "--force" in done.stderr and "Errno" not in done.stderr
    assert contents(folder) == before


# ---- onto itself -------------------------------------------------------------------------------


def test_a_file_onto_itself_is_refused(path, tmp_path):
    refused(path, path, match=r"is the model to convert", folder=tmp_path)
    for name, make in (("link.onnx", os.symlink), ("again.onnx", os.link)):
        make(path, path.with_name(name))
        refused(path, path.with_name(name), match="is the model to convert", folder=tmp_path)
        path.with_name(name).unlink()
    roundabout = tmp_path / "A" / ".." / "A" / "model.onnx"
    refused(path, roundabout, match="is the model to convert", folder=tmp_path)


def test_a_file_onto_itself_by_force(path):
    data = path.with_name("model.onnx.data").read_bytes()
    done = run("convert", path, path, "--force")
    assert done.returncode == 0, done.stderr
    assert is_converted(path)
    assert set(contents(path.parent)) == {"model.onnx", "model.onnx.data"}
    assert path.with_name("model.onnx.data").read_bytes() == data
    check(ort_tconv.InferenceSession(path), 2.0)
    check(ort_tconv.InferenceSession(onnx.load(path)), 2.0)


def test_another_name_of_the_file_by_force(path, tmp_path):
    """A link is followed; a second name in another folder gets a file of its own, with data."""
    before = path.read_bytes()
    other = tmp_path / "B"
    other.mkdir()
    os.link(path, other / "again.onnx")
    convert(path, other / "again.onnx", force=True)
    assert path.read_bytes() == before
    check(ort_tconv.InferenceSession(other / "again.onnx"), 2.0)
    (other / "link.onnx").symlink_to(path)
    convert(path, other / "link.onnx", force=True)
    assert is_converted(path) and (other / "link.onnx").is_symlink()
    for name in (path, other / "link.onnx"):
        check(ort_tconv.InferenceSession(name), 2.0)


def test_data_that_nothing_refers_to_any_more_goes(path, tmp_path):
    """The weights that were folded were the only ones in the file."""
    original = onnx.load(path)
    (weights,) = (t for t in original.graph.initializer if t.name == "up")
    onnx.external_data_helper.set_external_data(weights, "model.onnx.data")
    path.with_name("model.onnx.data").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    path.write_bytes(original.SerializeToString())
    for shared in (True, False):
        folder = tmp_path / f"copy{shared}"
        folder.mkdir()
        for file in path.parent.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        if shared:
            (folder / "other.onnx").write_bytes(path.read_bytes())
        convert(folder / "model.onnx", folder / "model.onnx", force=True)
        assert (folder / "model.onnx.data").exists() == shared
        check(ort_tconv.InferenceSession(folder / "model.onnx"), 2.0)


# ---- onto others -------------------------------------------------------------------------------


def test_another_model_is_not_replaced(path, tmp_path):
    other = tmp_path / "other.onnx"
    onnx.save(chain_model(), other)
    refused(path, other, match="did not write it", folder=tmp_path)
    done = run("convert", path, other, "--force")
    assert done.returncode == 0, done.stderr
    check(ort_tconv.InferenceSession(other), 2.0)


def test_something_else_is_not_replaced(path, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("what I learned this year")
    refused(path, notes, match="did not write it", folder=tmp_path)


def test_our_own_output_is_replaced(path, tmp_path):
    output = tmp_path / "out.onnx"
    for scale in (2.0, 3.0):
        convert(path if scale == 2.0 else export(tmp_path / "B", scale), output)
        check(ort_tconv.InferenceSession(output), scale)
    assert {f.name for f in tmp_path.glob("out*")} == {"out.onnx", "out.onnx.data"}
    convert(model(2.0), output)  # it has no data of its own
    assert {f.name for f in tmp_path.glob("out*")} == {"out.onnx"}


def test_our_own_output_that_kept_stock_everywhere_is_replaced(tmp_path):
    """Tuning may decide so: what is then there is ours all the same."""
    path, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(chain_model(1, dynamic=False), path)
    for exclude in (["*"], []):
        convert(path, output, tune=True, threads=1, exclude=exclude)
    assert {item.key for item in onnx.load(output).metadata_props} == {
        "ort_tconv.conversion",
        "ort_tconv.tuning",
    }


def test_a_model_with_nothing_to_convert_is_written_twice(tmp_path):
    path = tmp_path / "plain.onnx"
    onnx.save(convert(chain_model()), path)
    relu = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [onnx.helper.make_tensor_value_info("x", 1, [1])],
        [onnx.helper.make_tensor_value_info("y", 1, [1])],
    )
    onnx.save(onnx.helper.make_model(relu), path)
    for _ in range(2):
        convert(path, tmp_path / "out.onnx")


def test_data_of_another_model_is_not_replaced(path, tmp_path):
    """A file of the name that the output's data would get."""
    data = tmp_path / "z.onnx.data"
    data.write_bytes(b"weights of another")
    output = tmp_path / "z.onnx"
    refused(path, output, match=r"z\.onnx\.data exists", folder=tmp_path)
    assert not output.exists()
    done = run("convert", path, output, "--force")
    assert done.returncode == 0, done.stderr
    assert data.read_bytes() == b"weights of another"
    check(ort_tconv.InferenceSession(output), 2.0)
    data.unlink()
    check(ort_tconv.InferenceSession(output), 2.0)
    data.write_bytes(b"weights of another")
    convert(path, output, force=True)  # and no further copy each time
    assert sorted(f.name for f in tmp_path.glob("z*")) == [
        "z.onnx", "z.onnx.1.data", "z.onnx.data"
    ]  # fmt: skip


def test_the_data_of_the_model_to_convert_is_not_replaced(path):
    refused_for = path.with_name("model.onnx.data")
    before = contents(path.parent)
    with pytest.raises(FileExistsError, match="holds data of the model"):
        convert(path, refused_for, force=True)
    assert contents(path.parent) == before


def test_data_behind_a_link_is_not_replaced(path, tmp_path):
    store = tmp_path / "store"
    store.write_bytes(b"somebody's")
    (tmp_path / "z.onnx.data").symlink_to(store)
    convert(path, tmp_path / "z.onnx", force=True)
    assert store.read_bytes() == b"somebody's"
    check(ort_tconv.InferenceSession(tmp_path / "z.onnx"), 2.0)


# ---- odd places --------------------------------------------------------------------------------


def test_an_empty_file_is_a_place_to_write_to(path, tmp_path):
    output = tmp_path / "from_mktemp.onnx"
    output.touch()
    convert(path, output)
    check(ort_tconv.InferenceSession(output), 2.0)


def test_a_pipe_gets_all_of_it(path, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    convert(path, fifo)
    check(ort_tconv.InferenceSession(os.read(reader, 1 << 20)), 2.0)
    os.close(reader)
    assert not (tmp_path / "fifo.data").exists()


def test_a_folder_is_no_place(path, tmp_path):
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        convert(path, tmp_path)


def test_a_folder_that_may_not_be_written_to(path, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    done = run("convert", path, tmp_path / "out.onnx")
    assert done.returncode == 2 and f"{tmp_path} is a folder that you may not" in done.stderr


def test_a_full_disk(path, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    done = run("convert", path, tmp_path / "out.onnx")
    assert done.returncode == 2
    assert done.stderr == "ort-tconv: error: no space left on device\n"
    assert not list(tmp_path.glob("*out*"))


def test_a_report_does_not_replace_a_model(path, tmp_path):
    before = contents(tmp_path)
    for arguments in (
        ("inspect", path, "--html", path),
        ("inspect", path, "--json", path),
    ):
        done = run(*arguments)
        assert done.returncode == 2 and "is a model" in done.stderr, done.stderr
    assert contents(tmp_path) == before


def test_a_failing_conversion_leaves_nothing(path, tmp_path):
    (path.parent / "model.onnx.data").write_bytes(b"short")
    before = contents(tmp_path)
    done = run("convert", path, tmp_path / "out.onnx")
    assert done.returncode == 2 and "does not lie within" in done.stderr
    assert contents(tmp_path) == before
