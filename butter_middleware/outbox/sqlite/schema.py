"""The file: its tables, its versions, and a connection set up as every one must be.

The schema only grows, so that the statements of the last release still run. `user_version` says which release's
statements those are: an earlier release refuses a file only if it cannot use it. `meta.schema` says what was added.

In a rolling deploy processes of this release and of the last one share a file:

- Each counts on the triggers, which keep the counts whoever changes a row.
- A process of the last release reads what lies in its own pile, and adopts a pile whose lock byte (`piles.slot`) nobody
  holds. Ours all use one pile, and each process that reads holds its byte (`locks.READERS`) in common with the others:
  while one of them lives, no old extractor judges what they captured. After a rollback the old processes adopt it.
- Pile 0 holds what has no owner. Processes of both releases read it.
- Our leader reads what an old process left for five seconds, as it does with any process. If both read a capture, the
  records have the same keys and are added once.
- A record that an old process adds is known by its key only: the same checkout may then be sent with another address.
- One leader delivers, of whichever release: both use the same lock byte.
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
"""Three captures of the usual size fit; with 4096 one does, and a third more is written."""
RESERVE_PAGES: Final = 256
"""What a full file still grants to settlements, so that a delivery can always be written down."""
LASTING_LOG_BYTES: Final = 31 * 1024**2
"""That the log may keep once it was moved into the file: less than `database.LOG_BYTES`, which has it moved."""
UNOWNED: Final = 0
"""The pile of captures that have no owner."""

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
"""One tuple of statements a version that the last release knows: `user_version` says how many the file has had."""
ADDITIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """INSERT INTO meta
            SELECT 'captured', count(*) FROM captures WHERE reason IS NULL UNION ALL
            SELECT 'parked', count(*) FROM captures WHERE reason IS NOT NULL UNION ALL
            SELECT 'dead', count(*) FROM records WHERE dead_at IS NOT NULL UNION ALL
            SELECT 'parts', count(*) FROM parts""",
        "INSERT INTO meta VALUES ('schema', 0), ('epoch', 0), ('look', NULL)",
        # How often a capture was taken over from a process that died, or tried again while it is parked.
        """CREATE TABLE tries (id INTEGER PRIMARY KEY, tries INTEGER NOT NULL DEFAULT 0,
            tried_at REAL NOT NULL DEFAULT 0, tried_by TEXT NOT NULL DEFAULT '')""",
        "CREATE INDEX tried ON tries (tried_at)",
        "INSERT INTO tries (id) SELECT id FROM captures WHERE reason IS NOT NULL",
        # What a token of an IPv4 beacon proved: its capture, and the keys of the records.
        """CREATE TABLE tokens (token TEXT PRIMARY KEY, capture INTEGER NOT NULL, keys TEXT NOT NULL,
            used_at REAL NOT NULL) WITHOUT ROWID""",
        "CREATE INDEX used ON tokens (used_at)",
        # What happened on this host, by the hour. Hour 0 has the sums of hours that are not kept.
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
        # An INSERT OR REPLACE deletes without a trigger, so that only a part which is new counts.
        """CREATE TRIGGER part_added BEFORE INSERT ON parts
            WHEN NOT EXISTS (SELECT 1 FROM parts WHERE key = NEW.key AND shopper = NEW.shopper)
            BEGIN UPDATE meta SET value = value + 1 WHERE name = 'parts'; END""",
        """CREATE TRIGGER part_gone AFTER DELETE ON parts
            BEGIN UPDATE meta SET value = value - 1 WHERE name = 'parts'; END""",
    ),
    ("ALTER TABLE records ADD COLUMN sources TEXT",),  # for a sandbox: see `Record.sources`
    (
        # By which IDs a sent checkout is known, with which address: see `models.seen_ids`.
        """CREATE TABLE seen_ids (id INTEGER PRIMARY KEY, address INTEGER NOT NULL, payment_ids INTEGER NOT NULL,
            seen_at REAL NOT NULL)""",
        "CREATE INDEX seen ON seen_ids (seen_at)",
    ),
)
"""What later versions added, without which the last release's statements run as well: see `meta.schema`."""
SCHEMA: Final = len(MIGRATIONS) + len(ADDITIONS)


@dataclass(frozen=True, slots=True)
class Identity:
    """A file's header fields that say whose it is."""

    application_id: int
    version: int
    """Of the earliest release that can use it."""
    schema: int = 0
    """What it has; at least `version`."""


def refuse_foreign(path: str, found: Identity) -> None:
    """Refuse a database that is not ours, or that this version of the package cannot use.

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


def connect(path: str, *, make: bool) -> sqlite3.Connection:
    """Open the file. If it is to be made, create it or bring it up to this version's schema.

    The caller holds the write lock, and the connection may move between threads under a lock of the caller's.

    Raises:
        ConfigurationError: it is another program's, or a newer version's; or not up to date, and not to be made.
        sqlite3.Error, OSError: it cannot be opened.
    """
    if make:
        # SQLite gives its -wal and -shm the mode of the file, and would make the file itself readable to all.
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
    "secure_delete = ON",  # overwrites most of what is deleted; what it leaves only `SQLiteStore.rewrite` removes
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
    """Read whose file it is before anything is written to it; None if there is nothing in it.

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
        # A random first number: one from a file that was set aside must mean nothing in its successor.
        start = secrets.randbits(40)
        connection.execute("INSERT INTO sqlite_sequence VALUES ('captures', ?), ('records', ?)", (start, start))
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")
    # So that the header tells the version to a process that reads it without opening the database.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def own_pile(connection: sqlite3.Connection) -> int:
    """Return the pile of all processes of this release that read what they capture; insert it if it is not there.

    Within a transaction. It is not there in a new file, or if an old process adopted it while none of ours lived.
    """
    (pile,) = connection.execute("SELECT min(id) FROM piles WHERE slot = ?", (READERS,)).fetchone()
    if pile is None:
        pile = connection.execute("INSERT INTO piles (slot) VALUES (?)", (READERS,)).lastrowid
    return int(pile or 0)


def _number(connection: sqlite3.Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0])
