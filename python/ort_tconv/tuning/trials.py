"""Sessions that are made to be timed, or to have a look at a model's values."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from ..base.library import import_onnxruntime
from ..base.new_process import run_in_new_process
from ..converters.model_io import Model
from ..models.inputs import has_strings
from ..models.plans import plan_of
from ..models.shapes import typed_nodes
from ..sessions.session import open_session, register
from .results import MODEL_MARGIN, STOCK, ModelTiming, TuningData
from .sites import Observed, Site

#: Algorithms are tried where the plan expects them to take at most so many times the best one's
#: time, and sites to take so many of the plan's units at least, some tenths of a millisecond.
_ALIKE, _WORTH_IT = 1.5, 2e6
_MOST_FETCHED = 16  # values that one run of the model keeps to the end


@dataclass(frozen=True)
class Machine:
    """How sessions are made."""

    source: Model  #: what the models are made from, and whose files they refer to
    threads: int
    providers: tuple[str, ...]

    def session(self, model: onnx.ModelProto):
        options = register(import_onnxruntime().SessionOptions())
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads
        return open_session(self.source.derive(model), options, self.providers)

    def algorithms(self, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[str]:
        """Those that the operator's only node in ``model`` might run by instead of the plan's
        choice, and be as fast; none where one is stored already."""
        shapes = {name: array.shape for name, array in feeds.items()}
        nodes = [n for n in typed_nodes(self.source.derive(model), shapes) if n.is_ours]
        on_cpu = self.providers[0] == "CPUExecutionProvider"
        if len(nodes) != 1 or nodes[0].attributes.get("algorithm") or not on_cpu:
            return []
        from .._core import algorithms

        try:
            best = plan_of(nodes[0])
            others = {
                name: plan_of(
                    replace(nodes[0], attributes={**nodes[0].attributes, "algorithm": name})
                )
                for name in algorithms()
                if name != best["algorithm"]
            }
        except ValueError:  # shapes are not known
            return []
        return [
            name
            for name, plan in others.items()
            if plan["algorithm"] == name
            and best["cost"] >= _WORTH_IT
            and plan["cost"] <= _ALIKE * best["cost"]
        ]

    def choose(
        self,
        models: Mapping[str, onnx.ModelProto],
        ms: dict[str, float],
        feeds: Mapping[str, np.ndarray],
        notes: list[str],
    ) -> ModelTiming:
        """The fastest form that wins here and in a new process, whose memory lies elsewhere."""
        again: dict[str, tuple[float, float]] = {}
        for form in sorted(ms, key=ms.__getitem__):
            if form == STOCK or not _wins(ms[STOCK], ms[form]):
                break
            pair = [self.source.derive(models[name]) for name in (STOCK, form)]
            try:
                again[form] = in_new_process(self, pair, feeds)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                notes.append(f"the whole model was not timed in a process of its own: {error}")
                return ModelTiming(ms, form, again)
            if _wins(*again[form]):
                return ModelTiming(ms, form, again)
        return ModelTiming(ms, STOCK, again)

    def runs(
        self, models: Sequence[onnx.ModelProto], feeds: Mapping[str, np.ndarray]
    ) -> list[Callable[[], object]]:
        """A function for each model that runs it once.  Inputs and outputs are bound where the
        provider has them: what is timed is the session."""
        return [self._bind(self.session(model), feeds) for model in models]

    def _bind(self, session, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        if has_strings(feeds):
            known = {value.name for value in session.get_inputs()}
            given = {name: array for name, array in feeds.items() if name in known}
            return lambda: session.run(None, given)
        ort = import_onnxruntime()
        device = "cuda" if self.providers[0] == "CUDAExecutionProvider" else "cpu"
        binding = session.io_binding()
        names = {value.name for value in session.get_inputs()}
        for name, array in feeds.items():
            if name in names:
                value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)
                binding.bind_ortvalue_input(name, value)
        for value in session.get_outputs():
            binding.bind_output(value.name, device)
        session.run_with_iobinding(binding)
        for value, result in zip(session.get_outputs(), binding.get_outputs(), strict=True):
            binding.bind_ortvalue_output(value.name, result)
        return lambda: session.run_with_iobinding(binding)


def _wins(stock_ms: float, ms: float) -> bool:
    return ms <= (1 - MODEL_MARGIN) * stock_ms


def in_new_process(
    machine: Machine, models: Sequence[Model], feeds: Mapping[str, np.ndarray]
) -> tuple[float, float]:
    """Median milliseconds of two models, timed in turns by a process that does nothing else.

    Raises OSError, ValueError or subprocess.SubprocessError if that is not possible here.
    """
    if not all(model.fits_protobuf() for model in models):
        raise ValueError("the model holds more than 2 GB")
    job = {
        "models": [model.serialize() for model in models],
        "threads": machine.threads,
        "providers": machine.providers,
        "feeds": dict(feeds),
    }
    stock_ms, our_ms = run_in_new_process(f"{__package__}.new_process", job)
    return stock_ms, our_ms


def observe(
    machine: Machine,
    model: onnx.ModelProto,
    sites: Sequence[Site],
    feeds: Mapping[str, np.ndarray],
    tuning: TuningData,
) -> dict[str, Observed] | None:
    """The values at the bounds of all sites, from runs of the original model; None, with a note, if
    it does not run."""
    names = {name for site in sites for name in site.inputs}
    outputs = {value.name for value in model.graph.output}
    observed = {name: Observed.of(array) for name, array in feeds.items()}
    wanted = sorted(names - feeds.keys())
    try:
        for start in range(0, max(1, len(wanted)), _MOST_FETCHED):
            fetched = wanted[start : start + _MOST_FETCHED]
            probe = onnx.ModelProto()
            probe.CopyFrom(model)
            new = [name for name in fetched if name not in outputs]
            probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
            arrays = machine.session(probe).run(fetched or None, dict(feeds))
            observed |= {name: Observed.of(array) for name, array in zip(fetched, arrays)}
    except Exception as error:  # onnxruntime's exceptions share no other base
        why = str(error).strip().partition("\n")[0]
        tuning.notes.append(f"nothing is timed, stock onnxruntime cannot run the model: {why}")
        return None
    return observed
