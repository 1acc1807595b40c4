"""The file: its tables, its versions, and a connection set up as every one must be."""

import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from butter_middleware.errors import ConfigurationError

APPLICATION_ID: Final = 0x42757472
"""Marks the file as ours, in SQLite's own header field."""
PAGE_BYTES: Final = 8192
"""Three captures of the usual size fit; with 4096 one does, and a third more is written."""
RESERVE_PAGES: Final = 256
"""What a full file still grants to settlements, so that a delivery can always be written down."""
CHECKPOINT_PAGES: Final = 1000
MAX_IDLE_WAL_BYTES: Final = 16 * 1024**2

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
        "INSERT INTO meta VALUES ('pending', 0), ('delivered', 0), ('last_delivered_at', NULL), ('hold', NULL)",
        # A pile is what one process took. Its slot is the lock byte that says that it lives; NULL: it is dead.
        "CREATE TABLE piles (id INTEGER PRIMARY KEY AUTOINCREMENT, slot INTEGER)",
        # `reason` is set while a capture is parked.
        """CREATE TABLE captures (
            id INTEGER PRIMARY KEY AUTOINCREMENT, pile INTEGER NOT NULL, captured_at REAL NOT NULL,
            reason TEXT, detail TEXT, head TEXT NOT NULL, body BLOB NOT NULL, request_body BLOB)""",
        "CREATE INDEX captured ON captures (pile) WHERE reason IS NULL",
        "CREATE INDEX parked ON captures (captured_at) WHERE reason IS NOT NULL",
        # `dead_at` is set once a record is dead.
        """CREATE TABLE records (
            id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, captured_at REAL NOT NULL,
            due_at REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, dead_at REAL, reason TEXT,
            payload TEXT NOT NULL)""",
        "CREATE INDEX pending ON records (due_at) WHERE dead_at IS NULL",
        "CREATE INDEX dead ON records (captured_at) WHERE dead_at IS NOT NULL",
        "CREATE TABLE tombstones (key TEXT PRIMARY KEY, delivered_at REAL NOT NULL) WITHOUT ROWID",
        "CREATE INDEX buried ON tombstones (delivered_at)",
        # Counting a million rows takes a tenth of a second; these keep the count exact whoever changes a row.
        """CREATE TRIGGER record_added AFTER INSERT ON records WHEN NEW.dead_at IS NULL
            BEGIN UPDATE meta SET value = value + 1 WHERE name = 'pending'; END""",
        """CREATE TRIGGER record_gone AFTER DELETE ON records WHEN OLD.dead_at IS NULL
            BEGIN UPDATE meta SET value = value - 1 WHERE name = 'pending'; END""",
        """CREATE TRIGGER record_turned AFTER UPDATE OF dead_at ON records
            WHEN (OLD.dead_at IS NULL) <> (NEW.dead_at IS NULL)
            BEGIN UPDATE meta SET value = value + CASE WHEN NEW.dead_at IS NULL THEN 1 ELSE -1 END
                WHERE name = 'pending'; END""",
    ),
    (
        # What waits for its counterpart: of each key, one part of the shopper's and one of the payment's, as JSON.
        """CREATE TABLE parts (key TEXT NOT NULL, shopper INTEGER NOT NULL, fields TEXT NOT NULL,
            captured_at REAL NOT NULL, PRIMARY KEY (key, shopper)) WITHOUT ROWID""",
        "CREATE INDEX lonely ON parts (captured_at)",
    ),
)
"""One tuple of statements a version; the file's `user_version` says how many of them it has had."""
ADDED: Final = {("records", "traceparent"): "ALTER TABLE records ADD COLUMN traceparent TEXT"}
"""Columns without which an earlier version of the package does as well: they make no new version of the file."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A file's header fields that say whose it is."""

    application_id: int
    version: int


def refuse_foreign(path: str, found: Identity) -> None:
    """Refuse a database that is not ours, or is newer than this version of the package.

    Raises:
        ConfigurationError: it is.
    """
    if found.application_id != APPLICATION_ID:
        msg = f"outbox={path!r} is another program's database. Give the outbox a file of its own."
        raise ConfigurationError(msg)
    if found.version > len(MIGRATIONS):
        msg = (
            f"outbox={path!r} was written by a newer version of butter-middleware (schema {found.version}, this one "
            f"knows {len(MIGRATIONS)}). Install that version again, or name another file."
        )
        raise ConfigurationError(msg)


def connect(path: str, max_bytes: int) -> sqlite3.Connection:
    """Open the file, make it where it is not there, and bring it up to this version's schema.

    The caller holds the write lock, and the connection may move between threads under a lock of the caller's.

    Raises:
        ConfigurationError: it is another program's, or a newer version's.
        sqlite3.Error, OSError: it cannot be opened.
    """
    if not Path(path).exists():
        # SQLite gives its -wal and -shm the mode of the file, and would make the file itself readable to all.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        found = identity(connection, path)
        _set_up(connection)
        _migrate(connection, found)
        _add_columns(connection)
        set_bound(connection, max_bytes)
    except BaseException:
        connection.close()
        raise
    return connection


def set_bound(connection: sqlite3.Connection, max_bytes: int, reserve_pages: int = 0) -> None:
    """Set how large the file may grow; beyond it INSERT fails with SQLITE_FULL."""
    connection.execute(f"PRAGMA max_page_count = {max_bytes // PAGE_BYTES + reserve_pages}").close()


def identity(connection: sqlite3.Connection, path: str) -> Identity | None:
    """Read whose file it is before anything is written to it; None where there is nothing in it.

    Raises:
        ConfigurationError: it is another program's, or a newer version's.
    """
    found = Identity(_number(connection, "PRAGMA application_id"), _number(connection, "PRAGMA user_version"))
    if found.version == 0 and not _number(connection, "SELECT count(*) FROM sqlite_master"):
        return None
    refuse_foreign(path, found)
    return found


def _set_up(connection: sqlite3.Connection) -> None:
    for pragma in (
        f"page_size = {PAGE_BYTES}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "secure_delete = ON",  # overwrites most of what is deleted; what it leaves only `Visit.rewrite` removes
        "trusted_schema = OFF",
        "temp_store = MEMORY",
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        f"journal_size_limit = {MAX_IDLE_WAL_BYTES}",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _migrate(connection: sqlite3.Connection, found: Identity | None) -> None:
    version = 0 if found is None else found.version
    if version == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    if found is None:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _seed_ids(connection)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")
    # So that the header tells the version to whoever reads it without opening the database.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _add_columns(connection: sqlite3.Connection) -> None:
    for (table, column), statement in ADDED.items():
        if not _number(connection, f"SELECT count(*) FROM pragma_table_info('{table}') WHERE name = '{column}'"):  # noqa: S608 - constants
            connection.execute(statement)


def _seed_ids(connection: sqlite3.Connection) -> None:
    """Start numbering at a random place: a number from a file that was set aside must mean nothing in its successor."""
    start = secrets.randbits(40)
    connection.execute("INSERT INTO sqlite_sequence VALUES ('captures', ?), ('records', ?)", (start, start))


def _number(connection: sqlite3.Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0])
