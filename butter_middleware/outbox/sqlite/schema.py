"""The schema of the file, its versions, and the setup of a connection.

The schema only grows, so that the statements of the last release still run. `user_version` is the version of these
statements: an earlier release refuses a file only if it cannot use it. `meta.schema` counts the additions too.

In a rolling deploy, processes of this release and of the last one share a file:

- Both rely on the triggers, which keep the counts for any process that changes a row.
- A process of the last release has a pile of captures, and reads only that. It also adopts a pile whose lock byte
  (`piles.slot`) is free. All processes of this release use one pile, and those that read share its byte
  (`locks.READERS`). While one of them lives, no old extractor reads their captures. After a rollback the old
  processes adopt the pile.
- Pile 0 has the captures without an owner. Processes of both releases read it.
- Our leader reads captures that any process, also an old one, left for five seconds. If both read a capture, the
  records have the same keys and are added once.
- A record that an old process adds is known by its key only, so the same checkout may be sent with another address.
- One leader of either release delivers, because both use the same lock byte.
"""

import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from butter_middleware.errors import ConfigurationError
from butter_middleware.outbox.sqlite.locks import READERS

APPLICATION_ID: Final = 0x42757472
"""Marks the file as ours, in SQLite's own header field."""
PAGE_BYTES: Final = 8192
"""Three captures of the usual size fit into a page. Into 4096 bytes only one fits, and a third more is written."""
RESERVE_PAGES: Final = 256
"""The reserve of a full file for settlements, so that a delivery can always be stored."""
LASTING_LOG_BYTES: Final = 31 * 1024**2
"""The size that the log may keep after it was moved into the file: less than `database.LOG_BYTES`."""
UNOWNED: Final = 0
"""The pile of captures that have no owner."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
        "INSERT INTO meta VALUES ('pending', 0), ('delivered', 0), ('last_delivered_at', NULL), ('hold', NULL)",
        # A pile has the captures of one process. Its slot is the process's lock byte. NULL: the process is dead.
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
        # Counting a million rows takes a tenth of a second. The triggers keep exact counts for any process.
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
        # Parts that wait for their counterpart: for each key one of the shopper's and one of the payment's, as JSON.
        """CREATE TABLE parts (key TEXT NOT NULL, shopper INTEGER NOT NULL, fields TEXT NOT NULL,
            captured_at REAL NOT NULL, PRIMARY KEY (key, shopper)) WITHOUT ROWID""",
        "CREATE INDEX lonely ON parts (captured_at)",
    ),
)
"""The statements of each version that the last release knows. `user_version` is the number of applied versions."""
ADDITIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """INSERT INTO meta
            SELECT 'captured', count(*) FROM captures WHERE reason IS NULL UNION ALL
            SELECT 'parked', count(*) FROM captures WHERE reason IS NOT NULL UNION ALL
            SELECT 'dead', count(*) FROM records WHERE dead_at IS NOT NULL UNION ALL
            SELECT 'parts', count(*) FROM parts""",
        "INSERT INTO meta VALUES ('schema', 0), ('epoch', 0), ('look', NULL)",
        # How often a capture was taken over from a dead process, or was tried again while parked.
        """CREATE TABLE tries (id INTEGER PRIMARY KEY, tries INTEGER NOT NULL DEFAULT 0,
            tried_at REAL NOT NULL DEFAULT 0, tried_by TEXT NOT NULL DEFAULT '')""",
        "CREATE INDEX tried ON tries (tried_at)",
        "INSERT INTO tries (id) SELECT id FROM captures WHERE reason IS NOT NULL",
        # The capture that an IPv4 beacon's token proved, and the keys of its records.
        """CREATE TABLE tokens (token TEXT PRIMARY KEY, capture INTEGER NOT NULL, keys TEXT NOT NULL,
            used_at REAL NOT NULL) WITHOUT ROWID""",
        "CREATE INDEX used ON tokens (used_at)",
        # The counts of this host for each hour. Hour 0 has the sums of hours that are not kept.
        """CREATE TABLE counted (hour INTEGER NOT NULL, name TEXT NOT NULL, route TEXT NOT NULL, reason TEXT NOT NULL,
            times INTEGER NOT NULL, PRIMARY KEY (hour, name, route, reason)) WITHOUT ROWID""",
        "CREATE INDEX oldest ON records (captured_at) WHERE dead_at IS NULL",
        """CREATE TRIGGER capture_added AFTER INSERT ON captures
            BEGIN UPDATE meta SET value = value + 1
                WHERE name = CASE WHEN NEW.reason IS NULL THEN 'captured' ELSE 'parked' END; END""",
        """CREATE TRIGGER capture_gone AFTER DELETE ON captures
            BEGIN UPDATE meta SET value = value - 1
                WHERE name = CASE WHEN OLD.reason IS NULL THEN 'captured' ELSE 'parked' END;
            DELETE FROM tries WHERE id = OLD.id; END""",
        """CREATE TRIGGER capture_parked AFTER UPDATE OF reason ON captures
            WHEN OLD.reason IS NULL AND NEW.reason IS NOT NULL
            BEGIN UPDATE meta SET value = value - 1 WHERE name = 'captured';
            UPDATE meta SET value = value + 1 WHERE name = 'parked';
            INSERT OR IGNORE INTO tries (id) VALUES (NEW.id); END""",
        """CREATE TRIGGER capture_retried AFTER UPDATE OF reason ON captures
            WHEN OLD.reason IS NOT NULL AND NEW.reason IS NULL
            BEGIN UPDATE meta SET value = value + 1 WHERE name = 'captured';
            UPDATE meta SET value = value - 1 WHERE name = 'parked';
            DELETE FROM tries WHERE id = NEW.id; END""",
        """CREATE TRIGGER record_dead AFTER UPDATE OF dead_at ON records
            WHEN (OLD.dead_at IS NULL) <> (NEW.dead_at IS NULL)
            BEGIN UPDATE meta SET value = value + CASE WHEN NEW.dead_at IS NULL THEN -1 ELSE 1 END
                WHERE name = 'dead'; END""",
        """CREATE TRIGGER dead_record_gone AFTER DELETE ON records WHEN OLD.dead_at IS NOT NULL
            BEGIN UPDATE meta SET value = value - 1 WHERE name = 'dead'; END""",
        # INSERT OR REPLACE deletes without a trigger, so only a new part counts.
        """CREATE TRIGGER part_added BEFORE INSERT ON parts
            WHEN NOT EXISTS (SELECT 1 FROM parts WHERE key = NEW.key AND shopper = NEW.shopper)
            BEGIN UPDATE meta SET value = value + 1 WHERE name = 'parts'; END""",
        """CREATE TRIGGER part_gone AFTER DELETE ON parts
            BEGIN UPDATE meta SET value = value - 1 WHERE name = 'parts'; END""",
    ),
    ("ALTER TABLE records ADD COLUMN sources TEXT",),  # for a sandbox: see `Record.sources`
    (
        # The IDs and addresses of sent checkouts: see `models.seen_ids`.
        """CREATE TABLE seen_ids (id INTEGER PRIMARY KEY, address INTEGER NOT NULL, payment_ids INTEGER NOT NULL,
            seen_at REAL NOT NULL)""",
        "CREATE INDEX seen ON seen_ids (seen_at)",
    ),
)
"""The additions of later versions, which the last release's statements do not need: see `meta.schema`."""
SCHEMA: Final = len(MIGRATIONS) + len(ADDITIONS)


@dataclass(frozen=True, slots=True)
class Identity:
    """The header fields that identify a file."""

    application_id: int
    version: int
    """The version of the earliest release that can use it."""
    schema: int = 0
    """The number of versions and additions that it has. It is at least `version`."""


def refuse_foreign(path: str, found: Identity) -> None:
    """Refuse a database that is not ours, or that this version of the package cannot use.

    Raises:
        ConfigurationError: it is refused.
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


def connect(path: str, *, make: bool) -> sqlite3.Connection:
    """Open the file. With `make`, create it or update it to this version's schema.

    The caller holds the write lock. The connection may move between threads under a lock of the caller.

    Raises:
        ConfigurationError: it is another program's, or a newer version's, or is old and may not be updated.
        sqlite3.Error, OSError: it cannot be opened.
    """
    if make:
        # SQLite gives its -wal and -shm the mode of the file, and would create the file itself readable for all.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    uri = f"{Path(path).as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        found = identity(connection, path)
        if not make:
            _refuse_old(path, found)
        for pragma in (*(_OF_THE_FILE if make else ()), *_OF_A_CONNECTION):
            connection.execute(f"PRAGMA {pragma}").close()
        if make:
            _migrate(connection, found)
    except BaseException:
        connection.close()
        raise
    return connection


_OF_THE_FILE: Final = (f"page_size = {PAGE_BYTES}", "journal_mode = WAL", f"journal_size_limit = {LASTING_LOG_BYTES}")
_OF_A_CONNECTION: Final = (
    "synchronous = FULL",
    "secure_delete = ON",  # overwrites most deleted data. Only `SQLiteStore.rewrite` removes the rest.
    "trusted_schema = OFF",
    "temp_store = MEMORY",
    "wal_autocheckpoint = 0",  # never within a commit: see `SQLiteStore.checkpoint`
)


def _refuse_old(path: str, found: Identity | None) -> None:
    if found is None or found.schema < SCHEMA:
        what = "is empty" if found is None else f"is of an earlier version (schema {found.schema})"
        msg = (
            f"outbox={path!r} {what}. The app brings it up to this version (schema {SCHEMA}) at its start: "
            "start it with this version of butter-middleware, or use the command of its version."
        )
        raise ConfigurationError(msg)


def identity(connection: sqlite3.Connection, path: str) -> Identity | None:
    """Identify a file before it is written. None if it is empty.

    Raises:
        ConfigurationError: it is another program's, or a newer version's.
    """
    found = Identity(_number(connection, "PRAGMA application_id"), _number(connection, "PRAGMA user_version"))
    if found.version == 0 and not _number(connection, "SELECT count(*) FROM sqlite_master"):
        return None
    refuse_foreign(path, found)
    added = _number(connection, "SELECT coalesce(max(value), 0) FROM meta WHERE name = 'schema'")
    return Identity(found.application_id, found.version, max(found.version, added))


def _migrate(connection: sqlite3.Connection, found: Identity | None) -> None:
    version, schema = (0, 0) if found is None else (found.version, found.schema)
    if schema >= SCHEMA:
        return
    connection.execute("BEGIN IMMEDIATE")
    added = max(0, schema - len(MIGRATIONS))
    for statements in (*MIGRATIONS[version:], *ADDITIONS[added:]):
        for statement in statements:
            connection.execute(statement)
    if not _number(connection, "SELECT count(*) FROM pragma_table_info('records') WHERE name = 'traceparent'"):
        connection.execute("ALTER TABLE records ADD COLUMN traceparent TEXT")
    connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (SCHEMA,))
    if found is None:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        # A random first number, because a number of a file that was set aside must not exist in its successor.
        start = secrets.randbits(40)
        connection.execute("INSERT INTO sqlite_sequence VALUES ('captures', ?), ('records', ?)", (start, start))
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")
    # So that a process can read the version from the header without opening the database.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def own_pile(connection: sqlite3.Connection) -> int:
    """Return the pile of all processes of this release that read what they capture. Insert it if necessary.

    Within a transaction. It is missing in a new file, or if an old process adopted it while none of ours lived.
    """
    (pile,) = connection.execute("SELECT min(id) FROM piles WHERE slot = ?", (READERS,)).fetchone()
    if pile is None:
        pile = connection.execute("INSERT INTO piles (slot) VALUES (?)", (READERS,)).lastrowid
    return int(pile or 0)


def _number(connection: sqlite3.Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0])
