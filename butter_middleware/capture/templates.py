"""Path templates in Starlette's syntax, matched up front, and the question whether two can match one path."""

from string import Formatter
from typing import Any, Final

from starlette.routing import compile_path

from butter_middleware.errors import ConfigurationError

_Atom = tuple[frozenset[str], bool]
"""The characters that may stand here, and whether they may repeat (zero times or more)."""

_DIGITS: Final = frozenset("0123456789")
_CHARACTERS: Final = {"integer": _DIGITS, "float": _DIGITS | {"."}, "uuid": _DIGITS | frozenset("abcdefABCDEF-")}
_ORDINARY: Final = frozenset("0123456789abcdefABCDEFxyz-._~")
"""Stands for every character that is no slash; the literals of both templates are added to it."""


class Template:
    """A compiled path template, such as `/checkout/{cart_id:uuid}`.

    Raises:
        ConfigurationError: the template cannot be compiled, or it is no path.
    """

    def __init__(self, path: str) -> None:
        remedy = "Write a path as Starlette does, such as '/checkout/{cart_id}'."
        is_text = isinstance(path, str)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_text or not path.startswith("/") or any(c in path for c in "?# \n"):
            msg = f"path template {path!r}: it is no absolute path without query. {remedy}"
            raise ConfigurationError(msg)
        try:
            self._regex, path_format, self._convertors = compile_path(path)
            parts = [(literal, name) for literal, name, _spec, _conversion in Formatter().parse(path_format)]
        except (AssertionError, ValueError) as error:
            msg = f"path template {path!r}: {error}. {remedy}"
            raise ConfigurationError(msg) from None
        if any(name is not None and name not in self._convertors for _literal, name in parts):
            msg = f"path template {path!r}: a parameter's name is no identifier. {remedy}"
            raise ConfigurationError(msg)
        self.match = self._regex.match
        self.literal = not self._convertors
        self.parts = parts
        self._kinds = {name: type(c).__name__.removesuffix("Convertor").lower() for name, c in self._convertors.items()}

    def params(self, path: str) -> dict[str, Any]:
        """Return the parameters that stand in `path`, converted; empty where it does not match."""
        found = self.match(path)
        return {} if found is None else {k: self._convertors[k].convert(v) for k, v in found.groupdict().items()}

    def overlaps(self, other: "Template") -> bool:
        """Whether one path could match both: the two patterns are walked at once, as one automaton."""
        letters = _ORDINARY.union(*(literal for literal, _name in (*self.parts, *other.parts))) - {"/"}
        one, two = self.atoms(letters), other.atoms(letters)
        seen: set[tuple[int, int]] = set()
        waiting = [(0, 0)]
        while waiting:
            i, j = position = waiting.pop()
            if i == len(one) and j == len(two):
                return True
            if position in seen:
                continue
            seen.add(position)
            repeats_one, repeats_two = i < len(one) and one[i][1], j < len(two) and two[j][1]
            if repeats_one:
                waiting.append((i + 1, j))
            if repeats_two:
                waiting.append((i, j + 1))
            if i < len(one) and j < len(two) and one[i][0] & two[j][0]:
                waiting.append((i if repeats_one else i + 1, j if repeats_two else j + 1))
        return False

    def atoms(self, letters: frozenset[str]) -> list[_Atom]:
        """Return the template as a sequence of character classes over `letters`, which holds no slash."""
        atoms: list[_Atom] = []
        for literal, name in self.parts:
            atoms += [(frozenset(character), False) for character in literal]
            if name is None:
                continue
            kind = self._kinds[name]
            if kind == "path":
                atoms.append((letters | {"/"}, True))
            else:
                characters = _CHARACTERS.get(kind, letters)
                atoms += [(characters, False), (characters, True)]
        return atoms
