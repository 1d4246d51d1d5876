"""A server that opens its models in threads, with one SessionOptions for all of them."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import onnxruntime as ort
import pytest
from cases import CORNERS, conv_transpose_model
from exports import check, export, stock
from sessions import options

import ort_tconv
from ort_tconv.converters import model_io
from ort_tconv.sessions import session as module
from ort_tconv.sessions.session import EXTERNAL_FOLDER


def in_threads(count: int, work) -> list:
    """``work(i)`` in so many threads that begin at the same time; errors are raised here."""
    barrier = threading.Barrier(count)

    def run(i: int):
        barrier.wait()
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_sixteen_threads_register():
    model = conv_transpose_model(CORNERS["one input and output channel"], op="ort_tconv")
    for _ in range(20):
        session_options = options()
        in_threads(16, lambda i, known=session_options: ort_tconv.register(known))
        assert ort.InferenceSession(model.SerializeToString(), session_options)


def test_eight_threads_with_models_in_different_folders(tmp_path):
    scales = [1.0 + i for i in range(8)]
    paths = [export(tmp_path / f"model{i}", scale) for i, scale in enumerate(scales)]
    session_options = options(threads=1)

    def work(i: int) -> None:
        for turn in range(8):
            chosen = (i + turn) % 8
            check(ort_tconv.InferenceSession(paths[chosen], session_options), scales[chosen])
            check(stock(paths[chosen], session_options), scales[chosen])

    in_threads(8, work)
    with pytest.raises(RuntimeError):  # not set
        session_options.get_session_config_entry(EXTERNAL_FOLDER)


def test_a_stock_session_with_options_that_we_have_seen(tmp_path):
    first, second = export(tmp_path / "A", 2.0), export(tmp_path / "B", 5.0)
    session_options = options()
    check(ort_tconv.InferenceSession(first, session_options), 2.0)
    check(stock(second, session_options), 5.0)
    check(ort_tconv.InferenceSession(second, session_options), 5.0)


def test_more_data_than_is_put_into_the_model(tmp_path, monkeypatch):
    """The limit is lowered; what is copied instead lasts as long as the session."""
    monkeypatch.setattr(module, "_MOST_EMBEDDED", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path, session_options = export(tmp_path / "A", 2.0), options()
    session = ort_tconv.InferenceSession(path, session_options)
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    session.set_providers(["CPUExecutionProvider"])
    check(session, 2.0)
    del session
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())
    with suppress(Exception):  # an unknown provider: some versions refuse it, others do without
        ort_tconv.InferenceSession(path, session_options, ["none"], [{}], enable_fallback=0)
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())
    check(stock(export(tmp_path / "B", 5.0), session_options), 5.0)
    # A folder in the options would be preferred to that of the copy.
    session_options.add_session_config_entry(EXTERNAL_FOLDER, str(tmp_path / "B"))
    check(ort_tconv.InferenceSession(path, session_options), 2.0)


def test_no_place_for_a_copy(tmp_path, monkeypatch):
    """A container whose disk cannot be written to."""
    monkeypatch.setattr(module, "_MOST_EMBEDDED", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    path = export(tmp_path / "A", 2.0)
    check(ort_tconv.InferenceSession(path, options()), 2.0)
    monkeypatch.setattr(model_io, "_MAX_WEIGHT_BYTES", 100)
    with pytest.raises(OSError, match=r"A/model\.onnx: no copy.*TMPDIR"):
        ort_tconv.InferenceSession(path, options())
