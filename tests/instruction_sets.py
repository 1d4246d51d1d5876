"""Instruction sets as parameters of tests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest


def isa_parameters(
    compiled: Sequence[str], supported: Sequence[str], emulated: Sequence[str]
) -> list:
    """The instruction sets built in, those that this processor lacks being skipped, and the
    emulated shapes of kernels."""
    named = [
        pytest.param(
            isa,
            marks=pytest.mark.skipif(isa not in supported, reason=f"this processor lacks {isa}"),
        )
        for isa in compiled
    ]
    return [*named, *emulated]
