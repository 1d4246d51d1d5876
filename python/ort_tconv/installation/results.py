"""What this installation has and what it lacks, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Missing:
    """Something that is not there."""

    what: str
    how: str  #: to get it
    needed: bool  #: False: everything but one feature works without it


@dataclass
class EnvironmentData:
    """Versions, processor, library, providers; ``ok`` if nothing that is needed is missing."""

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
    execution_provider: bool  #: built in
    cuda_kernels: bool
    cuda_devices: list[str]
    missing: list[Missing] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not any(item.needed for item in self.missing)

    def to_dict(self) -> dict[str, Any]:
        """All of it as strings, lists and dictionaries, for JSON."""
        return asdict(self) | {"ok": self.ok}
