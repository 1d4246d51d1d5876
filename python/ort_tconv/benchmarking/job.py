"""What it takes to run a model, in this process or another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from ..base.library import import_onnxruntime
from ..converters.model_io import Model
from ..models.inputs import has_strings
from ..sessions.provider import add_provider
from ..sessions.session import EXTERNAL_FOLDER, register


@dataclass
class Job:
    """What it takes to run a model, in this process or another."""

    model: bytes
    feeds: dict[str, np.ndarray]
    providers: list[Any] | None  #: None: our execution provider
    threads: int
    custom: bool  #: whether the operator is registered
    folder: str | None  #: of external data

    def import_all(self) -> None:
        import_onnxruntime()
        if self.custom:
            from .._core import isa  # noqa: F401

    def open(self, profile_prefix: str | None = None) -> Runner:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        if self.folder is not None:
            options.add_session_config_entry(EXTERNAL_FOLDER, self.folder)
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
        if self.custom:
            register(options)
        if self.providers is None:
            add_provider(options)
        session = ort.InferenceSession(self.model, options, self.providers, enable_fallback=0)
        return Runner(session, self.feeds)


class Runner:
    """A session and its inputs, as values that onnxruntime need not convert, but for strings."""

    def __init__(self, session: Any, feeds: Mapping[str, np.ndarray]) -> None:
        self.session = session
        names = [value.name for value in session.get_outputs()]
        if has_strings(feeds):  # which no OrtValue can be made of
            self.run = lambda: session.run(names, dict(feeds))
            return
        ort = import_onnxruntime()
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                np.ascontiguousarray(value).view(np.uint16), onnx.TensorProto.BFLOAT16
            )
            if value.dtype == ml_dtypes.bfloat16
            else ort.OrtValue.ortvalue_from_numpy(value)
            for name, value in feeds.items()
        }
        self.run = lambda: session.run_with_ort_values(names, values)


def make_job(
    source: Model,
    feeds: dict[str, np.ndarray],
    providers: list[Any] | None,
    threads: int,
    custom: bool,
) -> Job:
    model = source.copy()
    for container in (model.proto.graph, *model.proto.functions):
        _name_nodes(container.node)
    if not model.fits_protobuf():
        raise ValueError(
            "the model holds more than 2 GB of weights: save them beside it and pass its path"
        )
    data, folder = model.serialize()
    return Job(data, feeds, providers, threads, custom, folder and str(folder))


def _name_nodes(nodes) -> None:
    """Give nodes without a name that of their first output: the profiler knows no other."""
    for node in nodes:
        node.name = node_name(node)
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _name_nodes(graph.node)


def node_name(node: onnx.NodeProto) -> str:
    return node.name or next((name for name in node.output if name), "")
