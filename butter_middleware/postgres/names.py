"""Where in the database everything is: the schema of ours, procrastinate's, and the queue."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from butter_middleware.errors import ConfigurationError

TASK: Final = "butter:deliver"
"""The name under which a worker knows the task, in whatever process."""

LINK: Final[Mapping[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""So that a server which is gone without a word, as with its machine, is noticed. Seconds, and milliseconds."""

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Names:
    """The names that outbox, worker and schema must agree on.

    Raises:
        ConfigurationError: one of them would need quotes in SQL, other than for being a keyword.
    """

    schema: str = "butter"
    """Ours, for all that is not the merchant's."""
    procrastinate: str = ""
    """The schema of a procrastinate that the merchant runs anyway; left empty, it has its tables in ours."""
    queue: str = "butter"

    def __post_init__(self) -> None:
        for option, name in (("schema", self.schema), ("procrastinate_schema", self.engine), ("queue", self.queue)):
            if not _NAME.fullmatch(name):
                msg = f"{option}={name!r}: use lower-case letters, digits and underscores, 63 at most, no digit first."
                raise ConfigurationError(msg)

    @property
    def engine(self) -> str:
        """The schema in which procrastinate's tables are."""
        return self.procrastinate or self.schema

    @property
    def search_path(self) -> str:
        """As a setting: ours, then procrastinate's, and what is temporary last, so that it hides nothing."""
        return ", ".join([*dict.fromkeys((quoted(self.schema), quoted(self.engine))), "pg_temp"])


def quoted(name: str) -> str:
    """Return an identifier for SQL; role names may be anything."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def readable(dsn: str) -> str:
    """Return a connection string that PostgreSQL's library can read.

    Raises:
        ConfigurationError: it cannot. psycopg's own error would quote it, and the password in it.
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
    """Return the options of `LINK` for a connection: what the dsn says comes first."""
    said = conninfo_to_dict(dsn)
    return {option: said.get(option, value) for option, value in LINK.items()}


def first_line(error: psycopg.Error) -> str:
    """Return what PostgreSQL says is wrong, without the statement."""
    return str(error.diag.message_primary or error).partition("\n")[0]
