"""What every report says of the machine and the software that made it."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

#: Features of a processor that decide which kernels run.
_TELLING = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "fphp", "bf16", "sve")


def version(package: str) -> str | None:
    """Of an installed distribution; None if there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def onnxruntime_version() -> str | None:
    """That of whichever build is installed."""
    names = ("onnxruntime", "onnxruntime-gpu")
    return next((found for name in names if (found := version(name))), None)


def processor() -> tuple[str, list[str]]:
    """Name of the processor, with family and model where the name, as virtual machines shorten it,
    tells no generation; and those of its features that decide which kernels run."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    features = (facts.get("flags") or facts.get("Features") or "").split()
    shown = sorted({feature for feature in features if feature.startswith(_TELLING)})
    name = facts.get("model name") or platform.processor() or "unknown"
    family, model = facts.get("cpu family"), facts.get("model")
    if family and model and not any(c.isdecimal() for c in name):
        name += f" (family {family}, model {model})"
    return name, shown


def usable_cores() -> int:
    """Threads of this process that can run at once: logical cores, or fewer where a container is
    limited to fewer."""
    from .._core import machine

    return machine()["threads"]


@cache
def _facts() -> tuple[tuple[str, Any], ...]:
    from .._core import isa
    from .._core import version as built

    return (
        ("processor", processor()[0]),
        ("cores", usable_cores()),
        ("system", platform.platform()),
        ("python", sys.version.split()[0]),
        ("ort_tconv", version("ort-tconv") or built),
        ("onnxruntime", onnxruntime_version()),
        ("isa", isa()),
    )


def facts() -> dict[str, Any]:
    """Machine, versions and instruction set, for the head of a report."""
    return dict(_facts())
