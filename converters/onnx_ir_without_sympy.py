"""Imports onnx_ir without sympy, which it needs for arithmetic on symbolic dimensions alone.

sympy takes longer to import than everything else that a conversion needs.  While onnx_ir is
imported, stand-ins take the places of sympy and of the one module of onnx_ir that uses it at once;
each imports its module when an attribute is asked for.  Afterwards nothing is left in
``sys.modules``: whoever else imports sympy gets sympy.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class OnDemand(ModuleType):
    """Stands for a module that is imported when one of its attributes is first asked for."""

    def __getattr__(self, attribute: str) -> Any:
        _withdraw(self)
        return getattr(importlib.import_module(self.__name__), attribute)


def _withdraw(stand_in: OnDemand) -> None:
    if sys.modules.get(stand_in.__name__) is stand_in:
        del sys.modules[stand_in.__name__]


def _import_onnx_ir() -> None:
    if importlib.util.find_spec("sympy") is None:  # onnx_ir before 0.2 does without
        return
    stand_ins = [OnDemand(name) for name in ("sympy", "onnx_ir._symbolic_shapes")]
    for stand_in in stand_ins:
        sys.modules[stand_in.__name__] = stand_in
    try:
        import onnx_ir  # noqa: F401
    finally:
        for stand_in in stand_ins:
            _withdraw(stand_in)


if not {"onnx_ir", "sympy"} & set(sys.modules):
    _import_onnx_ir()
