"""What this installation has and what it lacks: the verb ``info``."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from . import machine
from ._library import get_library_path, import_onnxruntime

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

OLDEST_ONNXRUNTIME = (1, 21)


@dataclass(frozen=True)
class Missing:
    """Something that is not there."""

    what: str
    how: str  #: to get it
    needed: bool  #: False: everything but one feature works without it


@dataclass
class Environment:
    """Result of :func:`environment`; ``ok`` if nothing that is needed is missing."""

    versions: dict[str, str | None]
    providers: list[str]  #: onnxruntime's
    usable_providers: list[str]  #: those of them for which the operator has kernels
    system: str
    processor: str
    features: list[str]
    cores: int
    library: str | None
    isa: str | None
    supported_isas: list[str]
    cuda_kernels: bool
    cuda_devices: list[str]
    missing: list[Missing] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not any(item.needed for item in self.missing)

    def to_dict(self) -> dict[str, Any]:
        """All of it as strings, lists and dictionaries, for JSON."""
        return asdict(self) | {"ok": self.ok}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.markup import escape
        from rich.text import Text

        versions = dict(self.versions)
        isa = f"{self.isa} of {', '.join(self.supported_isas)}" if self.isa else "none"
        rows = [
            *((name, version or "none") for name, version in versions.items()),
            ("its providers", ", ".join(self.providers) or "none"),
            ("usable providers", ", ".join(self.usable_providers) or "none"),
            ("system", self.system),
            ("processor", f"{self.processor}, {self.cores} core(s)"),
            ("features", " ".join(self.features) or "unknown"),
            ("library", self.library or "none"),
            ("instruction set", isa),
            ("CUDA kernels", "built in" if self.cuda_kernels else "not built in"),
            ("CUDA devices", "; ".join(self.cuda_devices) or "none"),
        ]
        width = max(len(name) for name, _ in rows)
        for name, value in rows:  # lines that a shell can cut: paths must not be wrapped
            yield Text.from_markup(f"[bold]{name:<{width}}[/]  {escape(value)}", overflow="ignore")
        for item in self.missing:
            kind = "[red]missing:[/]" if item.needed else "[yellow]optional:[/]"
            yield Text.from_markup(
                f"{kind} {escape(item.what)}: {escape(item.how)}", overflow="ignore"
            )


def environment() -> Environment:
    """Versions, processor, library, CUDA, and what is missing with the way to get it."""
    missing: list[Missing] = []
    versions = {
        "ort-tconv": machine.version("ort-tconv"),
        "python": sys.version.split()[0],
        **{name: machine.version(name) for name in ("onnx", "onnx-ir", "numpy")},
        "onnxruntime": None,
        "extensions": machine.version("onnxruntime-extensions"),
        "matplotlib": machine.version("matplotlib"),
    }
    providers: list[str] = []
    try:
        onnxruntime = import_onnxruntime()
    except ImportError as error:
        what, _, how = str(error).partition(": run ")
        missing.append(Missing(what, f"run {how}", needed=True))
    else:
        versions["onnxruntime"] = onnxruntime.__version__
        providers = onnxruntime.get_available_providers()
        number = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
        if number < OLDEST_ONNXRUNTIME:
            oldest = ".".join(map(str, OLDEST_ONNXRUNTIME))
            what = f"onnxruntime {oldest} or newer ({onnxruntime.__version__} is installed)"
            missing.append(Missing(what, "run `pip install -U onnxruntime`", needed=True))

    library, isa, isas, cuda_kernels = None, None, [], False
    try:
        from . import _core

        library = get_library_path()
        cuda_kernels = _core.built_with_cuda
        isas = _core.supported_isas()
        isa = _core.isa()
    except ImportError as error:
        missing.append(Missing("the operator library", str(error), needed=True))
    except ValueError as error:  # a wrong ORT_TCONV_ISA
        missing.append(Missing("an instruction set", str(error), needed=True))

    ours = {"CPUExecutionProvider"} | ({"CUDAExecutionProvider"} if cuda_kernels else set())
    devices = cuda_devices()
    missing += _optional(devices, cuda_kernels, providers, versions)
    name, features = machine.processor()
    return Environment(
        versions=versions,
        providers=providers,
        usable_providers=[provider for provider in providers if provider in ours and library],
        system=platform.platform(),
        processor=name,
        features=features,
        cores=machine.usable_cores(),
        library=library,
        isa=isa,
        supported_isas=isas,
        cuda_kernels=cuda_kernels,
        cuda_devices=devices,
        missing=missing,
    )


def _optional(
    devices: list[str], cuda_kernels: bool, providers: list[str], versions: dict[str, str | None]
) -> list[Missing]:
    found = []
    if devices and providers and "CUDAExecutionProvider" not in providers:
        how = "run `pip uninstall onnxruntime && pip install onnxruntime-gpu`"
        found.append(Missing("onnxruntime with CUDA, for the GPU of this machine", how, False))
    if devices and not cuda_kernels:
        how = "build it with -DORT_TCONV_CUDA=ON, see docs/cuda.md; nodes run on the CPU until then"
        found.append(Missing("CUDA kernels, for the GPU of this machine", how, False))
    if versions["matplotlib"] is None:
        how = "run `pip install matplotlib`"
        found.append(Missing("matplotlib, for bench --plot", how, False))
    if versions["extensions"] is None:
        how = "run `pip install onnxruntime-extensions`"
        found.append(Missing("onnxruntime-extensions, for register(extensions=True)", how, False))
    return found


def cuda_devices() -> list[str]:
    """Name, compute capability, memory and driver of each NVIDIA GPU, as its driver tells them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    try:
        done = subprocess.run(
            [tool, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
