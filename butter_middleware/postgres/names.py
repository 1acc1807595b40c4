"""The names in the database: our schema, procrastinate's, and the queue."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from butter_middleware.errors import ConfigurationError

TASK: Final = "butter:deliver"
"""The name of the task in every worker."""

LINK: Final[Mapping[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Detects a server that has silently gone, for example with its machine. The times are in seconds, but
`tcp_user_timeout` is in milliseconds."""

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Names:
    """The names that outbox, worker and schema share.

    Raises:
        ConfigurationError: a name has other characters than lower-case letters, digits and underscores, begins with a
            digit, or has more than 63 characters.
    """

    schema: str = "butter"
    """Our schema, for everything that is not the merchant's."""
    procrastinate: str = ""
    """The schema of the merchant's own procrastinate. If empty, its tables are in our schema."""
    queue: str = "butter"

    def __post_init__(self) -> None:
        for option, name in (("schema", self.schema), ("procrastinate_schema", self.engine), ("queue", self.queue)):
            if not _NAME.fullmatch(name):
                msg = f"{option}={name!r}: use lower-case letters, digits and underscores, 63 at most, no digit first."
                raise ConfigurationError(msg)

    @property
    def engine(self) -> str:
        """The schema with procrastinate's tables."""
        return self.procrastinate or self.schema

    @property
    def search_path(self) -> str:
        """The setting: our schema, then procrastinate's, and temporary tables last, so that they hide nothing."""
        return ", ".join([*dict.fromkeys((quoted(self.schema), quoted(self.engine))), "pg_temp"])


def quoted(name: str) -> str:
    """Return a quoted identifier for SQL. Role names may have any characters."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def readable(dsn: str) -> str:
    """Return a connection string that PostgreSQL's library can parse.

    Raises:
        ConfigurationError: it cannot. psycopg's own error would quote the string with its password.
    """
    try:
        conninfo_to_dict(dsn)
    except psycopg.Error:
        pass
    else:
        return dsn
    msg = (
        "dsn is not a connection string of PostgreSQL's (not shown: a password may be in it). Write one such as "
        "postgresql://db/shop, or set BUTTER_POSTGRES_DSN to it."
    )
    raise ConfigurationError(msg)


def link(dsn: str) -> dict[str, Any]:
    """Return the options of `LINK` for a connection. Options of the dsn have precedence."""
    said = conninfo_to_dict(dsn)
    return {option: said.get(option, value) for option, value in LINK.items()}


def first_line(error: psycopg.Error) -> str:
    """Return PostgreSQL's error message without the statement."""
    return str(error.diag.message_primary or error).partition("\n")[0]
