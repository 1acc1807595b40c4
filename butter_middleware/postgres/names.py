"""Where in the database everything is: the schema of ours, procrastinate's, and the queue."""

import re
from dataclasses import dataclass
from typing import Final

from butter_middleware.errors import ConfigurationError

TASK: Final = "butter:deliver"
"""The name under which a worker knows the task, in whatever process."""

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Names:
    """The names that outbox, worker and schema must agree on.

    Raises:
        ConfigurationError: one of them is no plain name.
    """

    schema: str = "butter"
    """Ours, for all that is not the merchant's."""
    procrastinate: str = ""
    """The schema of a procrastinate that the merchant runs anyway; left empty, it has its tables in ours."""
    queue: str = "butter"

    def __post_init__(self) -> None:
        for option, name in (("schema", self.schema), ("procrastinate_schema", self.engine), ("queue", self.queue)):
            plain(option, name)

    @property
    def engine(self) -> str:
        """The schema in which procrastinate's tables are."""
        return self.procrastinate or self.schema

    @property
    def search_path(self) -> str:
        """As a setting: ours, then procrastinate's, and what is temporary last, so that it hides nothing."""
        return ", ".join([*dict.fromkeys((quoted(self.schema), quoted(self.engine))), "pg_temp"])


def plain(option: str, name: str) -> str:
    """Return a name that needs no quotes in SQL but for being a keyword.

    Raises:
        ConfigurationError: it is none.
    """
    if not _NAME.fullmatch(name):
        msg = f"{option}={name!r}: use lower-case letters, digits and underscores, 63 at most, no digit first."
        raise ConfigurationError(msg)
    return name


def quoted(name: str) -> str:
    """Return an identifier for SQL; role names may be anything."""
    return '"' + name.replace('"', '""') + '"'
