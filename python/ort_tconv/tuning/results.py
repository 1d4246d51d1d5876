"""What tuning found, as plain data, and as a model carries it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import onnx

#: Key of the model's metadata that holds the decisions, as JSON.
METADATA_KEY = "ort_tconv.tuning"
#: A rewrite has to save this share of stock's time, so that noise alone does not decide for it.
MARGIN = 0.03
#: So has the whole model, here and in a new process: each has its own luck with where things lie
#: in memory.
MODEL_MARGIN = 0.02
STOCK, OURS = "stock", "rewritten"


@dataclass(frozen=True)
class Timing:
    """Median milliseconds of both forms, and which was kept."""

    stock_ms: float
    our_ms: float
    kept: str  #: ``"stock"`` or ``"rewritten"``


@dataclass(frozen=True)
class SiteTiming(Timing):
    """A site; ``nodes`` are the candidates of the conversion's report that it is made of.

    ``our_ms`` is that of ``algorithm``, which the node carries unless it is ``"auto"``; ``tried``
    has the milliseconds of all that were timed, if there were several.
    """

    nodes: tuple[str, ...]
    algorithm: str = "auto"
    tried: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelTiming:
    """Median milliseconds of each form of the whole model that was timed, and which was kept.

    They are called ``"stock"``; ``"rewritten"``, with every site that won by itself; and, where
    plain Convs are among these, ``"rewritten, unit_stride_conv from 1.5x"``, with only those of
    them that are so much faster, ``"rewritten, no unit_stride_conv"``, and ``"rewritten,
    unit_stride_conv as estimated"``, with those that are rewritten without tuning, too.  Of forms
    that are the same model one is timed.

    ``again`` has the milliseconds of stock and of a form in a process that timed nothing else, for
    each form that was tried there: the fastest first, until one is as good there.
    """

    ms: dict[str, float]
    kept: str
    again: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass
class TuningData:
    """See :class:`ort_tconv.tuning.Tuning`."""

    onnxruntime: str
    isa: str
    threads: int  #: intra-op threads; 0: onnxruntime's default
    providers: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]  #: of the model's inputs
    margin: float = MARGIN
    sites: list[SiteTiming] = field(default_factory=list)
    model: ModelTiming | None = None
    notes: list[str] = field(default_factory=list)
    #: Dimensions of inputs whose sizes are guesses, as the model leaves them open.
    guessed: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def to_json(self) -> str:
        data = asdict(self)
        for site in data["sites"]:
            if not site["tried"]:  # the plan's choice alone
                del site["algorithm"], site["tried"]
        return json.dumps(data)

    @classmethod
    def from_model(cls, model: onnx.ModelProto) -> TuningData | None:
        """The decisions that a tuned model carries, None if it was not tuned."""
        text = next((p.value for p in model.metadata_props if p.key == METADATA_KEY), None)
        if text is None:
            return None
        data = json.loads(text)
        sites = [site | {"nodes": tuple(site["nodes"])} for site in data["sites"]]
        data["sites"] = [SiteTiming(**site) for site in sites]
        if data["model"]:
            again = {form: tuple(ms) for form, ms in data["model"].get("again", {}).items()}
            data["model"] = ModelTiming(**data["model"] | {"again": again})
        data["providers"] = tuple(data["providers"])
        for name in ("shapes", "guessed"):
            data[name] = {key: tuple(numbers) for key, numbers in data.get(name, {}).items()}
        return cls(**data)

    def store(self, model: onnx.ModelProto) -> None:
        others = [p for p in model.metadata_props if p.key != METADATA_KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(others)
        model.metadata_props.add(key=METADATA_KEY, value=self.to_json())

    @property
    def nodes(self) -> set[str]:
        """The candidates of the conversion's report that were timed in a site of their own."""
        return {name for site in self.sites for name in site.nodes}

    @property
    def verdict(self) -> str:
        """What was kept of the whole model, in a sentence."""
        if self.model is None:
            return f"kept: stock, as {'no site is faster rewritten' if self.sites else 'it is'}"
        stock, *others = self.model.ms.items()
        kept, ms = self.model.kept, self.model.ms[self.model.kept]
        if kept != STOCK:
            return (
                f"kept: {kept}, the fastest form of the whole model: {ms:.3f} ms, stock "
                f"{stock[1]:.3f} ms ({stock[1] / ms:.2f}x)"
            )
        form, best = min(others, key=lambda item: item[1])
        return (
            f"kept: stock, as no form of the whole model is {MODEL_MARGIN:.0%} faster: "
            f"{stock[1]:.3f} ms, {form} {best:.3f} ms"
        )
