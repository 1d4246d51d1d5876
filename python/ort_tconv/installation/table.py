"""An installation as lines for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .results import EnvironmentData

if TYPE_CHECKING:
    from rich.console import RenderResult


def lines(found: EnvironmentData) -> RenderResult:
    """A line for each fact, and for each thing that is missing."""
    from rich.markup import escape
    from rich.text import Text

    versions = dict(found.versions)
    isa = f"{found.isa} of {', '.join(found.supported_isas)}" if found.isa else "none"
    rows = [
        *((name, version or "none") for name, version in versions.items()),
        ("its providers", ", ".join(found.providers) or "none"),
        ("usable providers", ", ".join(found.usable_providers) or "none"),
        ("system", found.system),
        ("processor", f"{found.processor}, {found.cores} core(s)"),
        ("features", " ".join(found.features) or "unknown"),
        ("library", found.library or "none"),
        ("instruction set", isa),
        ("execution provider", "built in" if found.execution_provider else "not built in"),
        ("CUDA kernels", "built in" if found.cuda_kernels else "not built in"),
        ("CUDA devices", "; ".join(found.cuda_devices) or "none"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:  # lines that a shell can cut: paths must not be wrapped
        yield Text.from_markup(f"[bold]{name:<{width}}[/]  {escape(value)}", overflow="ignore")
    for item in found.missing:
        kind = "[red]missing:[/]" if item.needed else "[yellow]optional:[/]"
        yield Text.from_markup(f"{kind} {escape(item.what)}: {escape(item.how)}", overflow="ignore")
