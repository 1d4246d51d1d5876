"""Runs models for a comparison: in onnxruntime, or in onnx's own evaluator; and parts of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from ..base.library import import_onnxruntime
from ..converters.model_io import Model
from ..converters.nodes import DOMAIN, OP_TYPE, QUANTIZED_OP_TYPE
from ..converters.report import count_operators
from ..sessions.provider import add_provider
from ..sessions.provider_report import open_with_report
from ..sessions.session import open_session, register


class Session:
    """A model in onnxruntime, with or without the operator."""

    label = "stock onnxruntime on the CPU"
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        source: Model,
        providers: Sequence[Any] | None = ("CPUExecutionProvider",),
        *,
        custom: bool = False,
        outputs: Sequence[str] = (),
    ) -> None:
        self.source, self._custom = source, custom
        self._requested = providers  # None: the execution provider
        model = source.proto
        if outputs:
            model = _with_outputs(model, outputs)
        self._session = self._open(model)
        self._names = [value.name for value in self._session.get_outputs()]
        # Python has no array of this type to return: let the model itself convert it.
        self._bfloat16 = {
            value.name: _free_name(model, value.name)
            for value in self._session.get_outputs()
            if value.type == "tensor(bfloat16)"
        }
        if self._bfloat16:
            self._session = self._open(_with_casts(model, self._bfloat16))

    def _open(self, model: onnx.ModelProto):
        options = import_onnxruntime().SessionOptions()
        options.log_severity_level = 3
        if _may_saturate(model):
            options.add_session_config_entry("session.x64quantprecision", "1")
        if self._custom:
            register(options)
        if self._requested is not None:
            return open_session(self.source.derive(model), options, self._requested)
        session, self._report = open_with_report(self.source.derive(model), add_provider(options))
        return session

    def rewritten(self) -> int:
        """Number of the operator's nodes, or of the sites that the execution provider takes."""
        if self._requested is not None:
            return count_rewritten(self.source.proto)
        return sum(site.claimed for site in self._report.sites)

    @property
    def providers(self) -> list[str]:
        return self._session.get_providers()

    @property
    def tf32(self) -> bool:
        """Whether float32 products may be rounded to TF32, as is CUDA's default."""
        cuda = self._session.get_provider_options().get("CUDAExecutionProvider")
        return cuda is not None and cuda.get("use_tf32", "1") != "0"

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        ort = import_onnxruntime()
        ready = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                np.ascontiguousarray(value).view(np.uint16), onnx.TensorProto.BFLOAT16
            )
            if value.dtype == ml_dtypes.bfloat16
            else value
            for name, value in feeds.items()
        }
        fetch = [self._bfloat16.get(name, name) for name in self._names]
        values = dict(zip(self._names, self._session.run(fetch, ready), strict=True))
        for name in self._bfloat16:
            values[name] = values[name].astype(ml_dtypes.bfloat16)
        return values

    @property
    def model(self) -> onnx.ModelProto:
        return self.source.proto

    def inlined(self) -> Session:
        source = inline_functions(self.source)
        return Session(source, self._requested, custom=self._custom)

    def of(self, model: onnx.ModelProto, *, cpu: bool = False) -> Session:
        """A session like this one of a part of the model; ``cpu``: on the CPU."""
        providers = ["CPUExecutionProvider"] if cpu else self._requested
        return Session(self.source.derive(model), providers, custom=self._custom)

    def probe(self, outputs: Sequence[str]) -> Session:
        return Session(self.source, self._requested, custom=self._custom, outputs=outputs)


def _may_saturate(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime has to be told not to take kernels that saturate sums of two products, as
    its fastest ones for a quantised Conv do without VNNI.

    It (1.32) cannot be told so where a DequantizeLinear leaves its zero point out.
    """
    nodes = model.graph.node
    dequantized = {
        name: len(node.input) > 2 and node.input[2] != ""
        for node in nodes
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    convs = (node for node in nodes if node.op_type == "Conv" and len(node.input) > 1)
    return all(dequantized.values()) and any(node.input[1] in dequantized for node in convs)


class Reference:
    """A model in onnx's reference evaluator, slow and independent of onnxruntime."""

    label = "onnx.reference, with a ConvTranspose that sums in float64"

    def __init__(self, source: Model, why: str, outputs: Sequence[str] = ()) -> None:
        from onnx.reference import ReferenceEvaluator

        self.source, self._why = source, why
        self.notes = (f"stock onnxruntime cannot run the original: {why}",)
        model = _with_outputs(source.proto, outputs or [o.name for o in source.proto.graph.output])
        source.derive(model).load()
        self._names = [value.name for value in model.graph.output]
        self._evaluator = ReferenceEvaluator(model, new_ops=[_exact_conv_transpose()])

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return dict(zip(self._names, self._evaluator.run(None, dict(feeds)), strict=True))

    @property
    def model(self) -> onnx.ModelProto:
        return self.source.proto

    def inlined(self) -> Reference:
        return Reference(inline_functions(self.source), self._why)

    def of(self, model: onnx.ModelProto) -> Reference:
        return Reference(self.source.derive(model), self._why)

    def probe(self, outputs: Sequence[str]) -> Reference:
        return Reference(self.source, self._why, outputs)


def _exact_conv_transpose() -> type:
    from onnx.reference.op_run import OpRun

    from .._core import reference

    class ConvTranspose(OpRun):
        op_domain = ""

        def _run(self, x, w, b=None, **attributes):  # type: ignore[override]
            given = {name: value for name, value in attributes.items() if value is not None}
            operands = [None if v is None else v.astype(np.float64) for v in (x, w, b)]
            return (reference(*operands, **given).astype(x.dtype),)

    return ConvTranspose


def run_baseline(
    source: Model, all_feeds: Sequence[Mapping[str, np.ndarray]]
) -> tuple[Session | Reference, list[dict[str, Any]]]:
    baseline: Session | Reference
    try:
        baseline = Session(source)
        return baseline, [baseline.run(feeds) for feeds in all_feeds]
    except Exception as error:  # onnxruntime's exceptions share no other base
        stock = error
    why = str(stock).strip().partition("\n")[0]
    if "ConvTranspose" not in str(stock):
        raise ValueError(f"stock onnxruntime cannot run the original: {why}") from stock
    try:
        baseline = Reference(source, why)
        return baseline, [baseline.run(feeds) for feeds in all_feeds]
    except Exception as error:
        raise ValueError(
            f"neither stock onnxruntime ({why}) nor onnx.reference ({error}) can run the original"
        ) from error


def inline_functions(source: Model) -> Model:
    """The model with its local functions' nodes in place of the calls, so that these can be probed.

    A function's node goes by the same name in the original and the converted model.
    """
    if not source.proto.functions:
        return source
    from onnx import inliner

    return source.derive(inliner.inline_local_functions(source.proto))


def count_rewritten(model: onnx.ModelProto) -> int:
    counts = count_operators(model)
    return sum(counts[f"{DOMAIN}::{op_type}"] for op_type in (OP_TYPE, QUANTIZED_OP_TYPE))


def produced(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output if name}


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of the model that returns the named values, and those only."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    typed = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    del result.graph.output[:]
    for name in names:
        result.graph.output.append(typed.get(name, onnx.ValueInfoProto(name=name)))
    return result


def _with_casts(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """A copy of the model that returns float32 copies, under new names, of the named outputs."""
    result = _with_outputs(model, [value.name for value in model.graph.output])
    for name, cast in names.items():
        result.graph.node.append(
            onnx.helper.make_node("Cast", [name], [cast], to=onnx.TensorProto.FLOAT)
        )
        result.graph.output.append(onnx.ValueInfoProto(name=cast))
    return result


def _free_name(model: onnx.ModelProto, name: str) -> str:
    taken = produced(model)
    candidate = f"{name}.float32"
    while candidate in taken:
        candidate += "_"
    return candidate
