"""The types of the tables of bodies."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from butter_middleware import extract
from butter_middleware.extract.preset import Preset


@dataclass(frozen=True)
class Body:
    """A response's body, and its expected records."""

    psp: str
    name: str
    body: Any
    records: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Options of the preset that reads it."""

    @property
    def preset(self) -> Preset:
        made: Preset = getattr(extract, self.psp)(**self.options)
        return made

    def __str__(self) -> str:
        return f"{self.psp} {self.name}"


def group(psp: str, rows: Iterable[tuple[Any, ...]]) -> list[Body]:
    """Return the bodies of rows: name, body, records, options."""
    return [Body(psp, *row) for row in rows]
