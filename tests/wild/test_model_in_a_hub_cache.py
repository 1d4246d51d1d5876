"""A model hub's cache: the files of a snapshot are links to files that are named by a hash."""

import os
import shutil
from pathlib import Path

import onnx
import pytest
from exports import check, export
from sessions import options
from terminal import run_here as run

import ort_tconv
from ort_tconv.converters import ConversionError, analyze

BLOBS = {"model.onnx": "0c1f", "model.onnx.data": "9e77"}


def hub(root: Path) -> Path:
    """snapshots/x/model.onnx -> ../../blobs/0c1f, and its data likewise."""
    export(root / "exported", 2.0)
    snapshot = root / "snapshots" / "x"
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for name, blob in BLOBS.items():
        shutil.move(root / "exported" / name, root / "blobs" / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    return snapshot / "model.onnx"


def data_elsewhere(root: Path) -> Path:
    """A model whose data is a link to another place, by an absolute path."""
    path = export(root / "model", 2.0)
    (root / "store").mkdir()
    shutil.move(path.with_name("model.onnx.data"), root / "store" / "weights")
    path.with_name("model.onnx.data").symlink_to((root / "store" / "weights").resolve())
    return path


def link_to_the_model(root: Path) -> Path:
    """A link to a model whose data lies beside the model only, through another link."""
    path = export(root / "model", 2.0)
    (root / "first").mkdir()
    (root / "first" / "linked.onnx").symlink_to(path)
    (root / "second.onnx").symlink_to("first/linked.onnx")
    return root / "second.onnx"


def link_to_the_folder(root: Path) -> Path:
    path = export(root / "versions" / "1", 2.0)
    (root / "current").symlink_to("versions/1")
    assert path.exists()
    return root / "current" / "model.onnx"


def folder_of_data(root: Path) -> Path:
    """Data in a folder below the model's, which is a link."""
    path = export(root / "model", 2.0)
    (root / "store").mkdir()
    shutil.move(path.with_name("model.onnx.data"), root / "store" / "weights")
    (path.parent / "data").symlink_to("../store")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "data/weights" if entry.key == "location" else entry.value
    path.write_bytes(proto.SerializeToString())
    return path


def several_files(root: Path) -> Path:
    """A file a tensor, each a link to another folder."""
    path = export(root / "exported", 2.0)
    model = onnx.load(path)
    (root / "model").mkdir()
    onnx.save(model, root / "model" / "model.onnx", save_as_external_data=True,
              all_tensors_to_one_file=False, size_threshold=100)  # fmt: skip
    shutil.rmtree(root / "exported")
    for i, file in enumerate(sorted((root / "model").iterdir())):
        if file.suffix != ".onnx":
            (root / f"store{i}").mkdir()
            shutil.move(file, root / f"store{i}" / "blob")
            file.symlink_to(f"../store{i}/blob")
    return root / "model" / "model.onnx"


def hard_links(root: Path) -> Path:
    """A store that keeps each file under several names."""
    path = export(root / "model", 2.0)
    os.link(path.with_name("model.onnx.data"), root / "again")
    return path


PLACES = (
    hub,
    data_elsewhere,
    link_to_the_model,
    link_to_the_folder,
    folder_of_data,
    several_files,
    hard_links,
)


@pytest.fixture(params=PLACES, ids=lambda place: place.__name__)
def path(request, tmp_path):
    return request.param(tmp_path)


def test_sessions(path):
    for arguments in ((), (options(),)):
        session = ort_tconv.InferenceSession(path, *arguments)
        check(session, 2.0)
        assert len(session.conversion.changes) == 2
        session.set_providers(["CPUExecutionProvider"])
        check(session, 2.0)


def test_the_python_interface(path, tmp_path):
    assert ort_tconv.validate(path).ok
    assert len(analyze(path).changes) == 2
    assert ort_tconv.inspect(path).sites[0].plan
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "out.onnx"
    ort_tconv.convert(path, output)
    assert ort_tconv.validate(path, output).ok
    check(ort_tconv.InferenceSession(output), 2.0)
    assert not (tmp_path / "out" / "out.onnx.data").is_symlink()


def test_benchmark(tmp_path):
    timed = ort_tconv.benchmark(hub(tmp_path), repeat=1, warm_up=0, seconds=0, threads=1)
    assert timed.validation.ok


def test_the_command_line(tmp_path):
    path = hub(tmp_path)
    done = run("convert", path, tmp_path / "out.onnx", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("inspect", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_link_that_leads_nowhere(tmp_path):
    path = hub(tmp_path)
    (tmp_path / "blobs" / BLOBS["model.onnx.data"]).unlink()
    with pytest.raises(ConversionError, match=r"model\.onnx\.data.* missing"):
        ort_tconv.InferenceSession(path)
    (tmp_path / "blobs" / BLOBS["model.onnx"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.onnx"):
        ort_tconv.InferenceSession(path)
    loop = tmp_path / "loop.onnx"
    loop.symlink_to("loop.onnx")
    with pytest.raises(OSError, match=r"loop\.onnx"):
        ort_tconv.InferenceSession(loop)


def test_bytes_with_a_folder_of_links(tmp_path):
    path = hub(tmp_path)
    session_options = options()
    session_options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.parent)
    )
    session = ort_tconv.InferenceSession(path.read_bytes(), session_options)
    check(session, 2.0)


def test_the_links_are_left_as_they_are(tmp_path):
    path = hub(tmp_path)

    def contents() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    before = contents()
    session = ort_tconv.InferenceSession(path, options())
    assert contents() == before
    assert all(os.stat(file).st_nlink == 1 for file in before)
    check(session, 2.0)
