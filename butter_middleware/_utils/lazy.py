"""A package's face whose names are loaded when they are first asked for (PEP 562).

pytest loads our plugin, and with it these packages, wherever they are installed; most runs have no use for the rest.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def face(
    namespace: dict[str, Any], homes: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for the package whose globals these are.

    `homes` gives the full name of the module that defines each public name, or of the submodule itself.
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
