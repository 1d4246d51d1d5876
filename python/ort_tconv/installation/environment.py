"""What this installation has and what it lacks: the verb ``info``."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from ..base import machine
from ..base.library import get_library_path, import_onnxruntime
from .results import EnvironmentData, Missing
from .table import lines

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

OLDEST_ONNXRUNTIME = (1, 21)


class Environment(EnvironmentData):
    """Result of :func:`environment`, which a terminal shows by rich."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return lines(self)


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

    library, isa, isas, cuda_kernels, execution_provider = None, None, [], False, False
    try:
        from .._core import built_with_cuda, built_with_provider, supported_isas
        from .._core import isa as isa_in_use

        library = get_library_path()
        cuda_kernels = built_with_cuda
        execution_provider = built_with_provider
        isas = supported_isas()
        isa = isa_in_use()
    except ImportError as error:
        missing.append(Missing("the operator library", str(error), needed=True))
    except ValueError as error:  # a wrong ORT_TCONV_ISA
        missing.append(Missing("an instruction set", str(error), needed=True))

    ours = {"CPUExecutionProvider"} | ({"CUDAExecutionProvider"} if cuda_kernels else set())
    devices = cuda_devices()
    if library and not execution_provider:
        how = "build ort-tconv with ONNX Runtime's headers of version 1.23 or newer"
        missing.append(Missing("the execution provider, for unmodified models", how, False))
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
        execution_provider=execution_provider,
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
