"""Names of a package that bring in the module that defines them when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def names_on_demand(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """What a package needs as its ``__getattr__``, from the module of each of its public names.

    A module in its own name's place is a public name itself.  Modules are relative to the package,
    as in ``"..validation.validate"``.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module = importlib.import_module(homes[name], package)
        value = module if module.__name__ == f"{package}.{name}" else getattr(module, name)
        vars(importlib.import_module(package))[name] = value
        return value

    return find
