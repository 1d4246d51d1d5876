"""Which form of each site is faster here, and the decisions that a tuned model carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.names_on_demand import names_on_demand

if TYPE_CHECKING:
    from .results import METADATA_KEY, ModelTiming, SiteTiming, Timing
    from .tune import Tuning

_HOMES = {
    "METADATA_KEY": ".results",
    "ModelTiming": ".results",
    "SiteTiming": ".results",
    "Timing": ".results",
    "Tuning": ".tune",
}

__all__ = ["METADATA_KEY", "ModelTiming", "SiteTiming", "Timing", "Tuning"]
__getattr__ = names_on_demand(__name__, _HOMES)
