"""Packages whose public names are loaded on first use (PEP 562).

pytest loads our plugin, and with it these packages, wherever they are installed. Most runs do not need the rest.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def face(
    namespace: dict[str, Any], homes: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for the package whose globals these are.

    `homes` maps each public name to the module that defines it, by its full name, or to the submodule itself.
    """
    package = namespace["__name__"]

    def load(name: str) -> object:
        if name not in homes:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        home = import_module(homes[name])
        value = namespace[name] = home if homes[name] == f"{package}.{name}" else getattr(home, name)
        return value

    return load, lambda: sorted({*namespace, *homes})
