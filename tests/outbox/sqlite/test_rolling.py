"""A rolling deploy: processes of the last release and of this one on one file, in either order, and a rollback."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from outboxes import (
    NOW,
    append,
    bodies,
    capture,
    invoices,
    known,
    open_files,
    park,
    record,
    resolve,
    settle_all,
    tries,
    unread,
)

from butter_middleware import SQLiteOutbox
from butter_middleware.errors import ConfigurationError
from butter_middleware.outbox import Counts, Parked, ParkReason, Settled, SQLiteStore
from butter_middleware.outbox.base import new_records
from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.outbox.sqlite.locks import READERS
from butter_middleware.outbox.sqlite.schema import APPLICATION_ID, MIGRATIONS

SLOT = 16
"""The lock byte of the old process."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "butter.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteOutbox(path, clock=lambda: NOW).store()
    yield store
    store.close()


class LastRelease:
    """The statements of the last release on a file, unchanged."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        if not self._one("PRAGMA user_version"):
            self._create()
        if self._one("PRAGMA user_version") > 2:
            raise AssertionError  # the last release refuses the file, and loses each capture
        self._run("UPDATE piles SET slot = NULL WHERE slot = ?", SLOT)
        self.pile = self._run("INSERT INTO piles (slot) VALUES (?)", SLOT).lastrowid

    def _create(self) -> None:
        self._run("PRAGMA journal_mode = WAL")
        for statements in MIGRATIONS:
            for statement in statements:
                self._run(statement)
        self._run("ALTER TABLE records ADD COLUMN traceparent TEXT")
        self._run(f"PRAGMA application_id = {APPLICATION_ID}")
        self._run("INSERT INTO sqlite_sequence VALUES ('captures', 1000), ('records', 1000)")
        self._run("PRAGMA user_version = 2")
        self._run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self.connection.execute(sql, values)

    def _one(self, sql: str, *values: Any) -> Any:
        return self._run(sql, *values).fetchone()[0]

    def append(self, *numbers: int, pile: int | None = None) -> None:
        rows = [capture(number) for number in numbers]
        places = ", ".join(["(?, ?, ?, ?, ?)"] * len(rows))
        values = [
            value
            for row in rows
            for value in (pile if pile is not None else self.pile, row.captured_at, row.head(), row.body, None)
        ]
        self._run(f"INSERT INTO captures (pile, captured_at, head, body, request_body) VALUES {places}", *values)  # noqa: S608

    def captures(self) -> list[int]:
        """Return what it reads: the captures in the piles of its slot."""
        sql = "SELECT id FROM captures WHERE pile = ? AND reason IS NULL ORDER BY id LIMIT 100"
        piles = self._run("SELECT id FROM piles WHERE slot = ? ORDER BY id", SLOT).fetchall()
        return [number for (pile,) in piles for (number,) in self._run(sql, pile)]

    def park(self, number: int) -> None:
        self._run("SELECT head FROM captures WHERE id = ? AND instr(head, ?)", number, '"made": [')
        self._run("UPDATE captures SET reason = ?, detail = ? WHERE id = ?", "no_email", "detail", number)

    def resolve(self, number: int, key: str) -> None:
        self._run("DELETE FROM captures WHERE id = ?", number)
        self.add(key)

    def add(self, key: str) -> None:
        sql = """INSERT OR IGNORE INTO records (key, captured_at, due_at, payload, traceparent)
            SELECT ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE key = ? AND delivered_at > ?)"""
        self._run(sql, key, NOW, NOW, "{}", "", key, NOW - 86400)

    def join(self, key: str, *, shopper: bool) -> None:
        self._run("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", key, shopper, "{}", NOW)

    def adopt(self, free: set[int | None]) -> int:
        """Take over the piles of free slots."""
        self._run(
            """INSERT INTO piles (id, slot) SELECT DISTINCT pile, NULL FROM captures
                WHERE reason IS NULL AND pile NOT IN (SELECT id FROM piles)"""
        )
        adopted = 0
        for pile, slot in self._run("SELECT id, slot FROM piles WHERE slot IS NOT ?", SLOT).fetchall():
            if slot is not None and slot not in free:
                continue
            left = self._one("SELECT count(*) FROM captures WHERE pile = ? AND reason IS NULL", pile)
            if left:
                self._run("UPDATE piles SET slot = ? WHERE id = ?", SLOT, pile)
            else:
                self._run("DELETE FROM piles WHERE id = ?", pile)
            adopted += left
        return adopted

    def retry(self, number: int) -> None:
        pile = self._run("INSERT INTO piles (slot) VALUES (NULL)").lastrowid
        self._run(
            "UPDATE captures SET reason = NULL, detail = NULL, pile = ? WHERE reason IS NOT NULL AND id = ?",
            pile,
            number,
        )

    def settle(self, settled: Settled) -> None:
        for number, _key in self._run("SELECT id, key FROM records WHERE dead_at IS NULL").fetchall():
            match settled:
                case Settled.DELIVERED:
                    sql = "INSERT OR REPLACE INTO tombstones SELECT key, ? FROM records WHERE id = ?"
                    self._run(sql, NOW, number)
                    self._run("DELETE FROM records WHERE id = ?", number)
                    self._run("UPDATE meta SET value = value + ? WHERE name = 'delivered'", 1)
                    self._run("UPDATE meta SET value = ? WHERE name = 'last_delivered_at'", NOW)
                case _:
                    sql = "UPDATE records SET dead_at = ?, reason = ?, attempts = attempts + 1 WHERE id = ?"
                    self._run(sql, NOW, "422", number)

    def revive(self) -> None:
        self._run(
            "UPDATE records SET dead_at = NULL, reason = NULL, attempts = 0, due_at = ? WHERE dead_at IS NOT NULL", NOW
        )

    def counts(self) -> tuple[int, ...]:
        meta = dict(self._run("SELECT name, value FROM meta").fetchall())
        sql = """SELECT (SELECT count(*) FROM captures WHERE reason IS NULL),
            (SELECT count(*) FROM captures WHERE reason IS NOT NULL),
            (SELECT count(*) FROM records WHERE dead_at IS NOT NULL),
            (SELECT count(*) FROM parts)"""
        captured, parked, dead, parts = self._run(sql).fetchone()
        return captured, meta["pending"], parked, dead, meta["delivered"], parts

    def prune(self) -> None:
        for table, state in (("captures", "reason IS NOT NULL"), ("records", "dead_at IS NOT NULL")):
            old = f"SELECT id FROM {table} WHERE {state} AND captured_at < ? LIMIT ?"  # noqa: S608
            self._run(f"DELETE FROM {table} WHERE id IN ({old})", NOW + 86400, 500)  # noqa: S608
        sql = "DELETE FROM tombstones WHERE key IN (SELECT key FROM tombstones WHERE delivered_at < ? LIMIT ?)"
        self._run(sql, NOW + 86400, 500)


@pytest.fixture
def last_release(path: Path) -> Iterator[LastRelease]:
    old = LastRelease(path)
    with closing(old.connection):
        yield old


def counted(store: SQLiteStore) -> tuple[int, ...]:
    counts = store.counts()
    return counts.captured, counts.pending, counts.parked, counts.dead, counts.delivered, counts.parts


def test_a_file_of_the_last_release_is_migrated(last_release: LastRelease, store: SQLiteStore) -> None:
    """Captures, parked captures, pending and dead records, parts and tombstones are kept and counted."""
    last_release.append(*range(5))
    numbers = last_release.captures()
    last_release.park(numbers[0])
    last_release.resolve(numbers[1], "delivered")
    last_release.settle(Settled.DELIVERED)
    last_release.resolve(numbers[2], "dead")
    last_release.settle(Settled.DEAD)
    last_release.add(record(1).key)
    last_release.join("join:1", shopper=True)
    before = last_release.counts()
    store.open()
    assert counted(store) == before == (2, 1, 1, 1, 1, 1)
    assert bodies(unread(store)) == ["in_3", "in_4"]
    assert tries(store, "new", NOW) == ["in_0"]
    assert known(store.add([record(1)])) == 1
    store.close()
    store.open()
    assert counted(store) == before


def test_the_last_releases_statements_run_on_the_file(store: SQLiteStore, path: Path) -> None:
    """An old process works as before, and the counts of the new ones stay correct."""
    store.open()
    append(store, 0)
    with closing((old := LastRelease(path)).connection):
        old.append(*range(1, 6))
        old.append(7, pile=0)
        numbers = old.captures()
        assert len(numbers) == 5
        for number in numbers[:3]:
            old.park(number)
        old.resolve(numbers[3], "one")
        old.add("two")
        old.settle(Settled.DEAD)
        old.add("three")
        for shopper in (True, False, True):
            old.join("join:1", shopper=shopper)
        assert counted(store) == old.counts() == (3, 1, 3, 2, 0, 2)
        old.retry(numbers[0])
        old.revive()
        assert counted(store) == old.counts() == (4, 3, 2, 0, 0, 2)
        old.settle(Settled.DELIVERED)
        old.add("four")
        old.settle(Settled.DEAD)
        old.prune()
        assert counted(store) == old.counts() == (4, 0, 0, 0, 3, 2)


def test_old_processes_do_not_read_captures_of_a_living_new_one(
    last_release: LastRelease, store: SQLiteStore, path: Path
) -> None:
    """A new process owns its captures while it lives. After a rollback the old processes take them over."""
    store.open()
    append(store, 1, 2)
    assert store.locks.has_readers()
    assert last_release.adopt(free=set()) == 0
    assert last_release.captures() == []
    append(store, 3, owned=False)
    assert last_release.adopt(free=set()) == 1  # any process may read a capture without an owner
    store.close()
    assert last_release.adopt(free={READERS}) == 2
    assert len(last_release.captures()) == 3
    store.open()
    append(store, 4)
    assert last_release.adopt(free=set()) == 0
    assert len(last_release.captures()) == 3
    with existing(path) as seen:
        assert seen.counts().captured == 4


def test_captures_of_an_old_process_are_read(last_release: LastRelease, store: SQLiteStore) -> None:
    """The new leader reads captures of old processes. If both read one, its record is stored once."""
    store.open()
    last_release.append(1, 2)
    first, second = last_release.captures()
    assert bodies(unread(store)) == ["in_1", "in_2"]
    resolve(store, first, record(1))
    last_release.resolve(first, record(1).key)
    last_release.resolve(second, record(2).key)
    assert not resolve(store, second, record(2)).there
    assert counted(store) == (0, 2, 0, 0, 0, 0)


def test_a_second_delivery_of_a_key_begins_a_new_week(
    last_release: LastRelease, store: SQLiteStore, path: Path
) -> None:
    """An old process may add a record whose key is old and not deleted yet."""
    store.open()
    store.add([record(1)])
    settle_all(store, Settled.DELIVERED)
    store.write(lambda db: db.execute("UPDATE tombstones SET delivered_at = ?", (NOW - 8 * 86400,)))
    last_release.add(record(1).key)
    assert settle_all(store, Settled.DELIVERED) == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT delivered_at FROM tombstones").fetchall() == [(NOW,)]


def test_a_parked_capture_of_an_old_process_keeps_its_records(last_release: LastRelease, store: SQLiteStore) -> None:
    """Both releases read the keys in the head of a parked capture in the same way."""
    store.open()
    number = park(store, 1, record(1))
    head = last_release._one("SELECT head FROM captures WHERE id = ? AND instr(head, ?)", number, '"made": [')
    assert json.loads(head)["made"] == [record(1).key]
    settle_all(store, Settled.DELIVERED)
    last_release.retry(number)
    (stored,) = unread(store)
    assert (stored.parked, stored.tries) == ("", 0)
    parked = Parked(ParkReason.NO_EMAIL, "", [record(1), record(2)])
    assert invoices(new_records(resolve(store, number, parked=parked).outcomes)) == ["in_2"]


def test_a_newer_schema_that_is_compatible_is_used(store: SQLiteStore, path: Path) -> None:
    """A later release that only adds to the schema marks the file as compatible, and this one continues."""
    store.open()
    append(store, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET value = 6 WHERE name = 'schema'")
        connection.execute("CREATE TABLE later (id)")
        connection.commit()
    store.close()
    store.open()
    assert store.counts() == Counts(captured=1, newest_capture=store.counts().newest_capture)


def test_a_newer_schema_that_is_not_compatible_is_refused(store: SQLiteStore, path: Path) -> None:
    """The file is left unchanged, and the caller keeps its captures and records."""
    before = open_files()
    store.open()
    append(store, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1000")
    store.disconnect()
    for use in (store.open, lambda: append(store, 2), store.counts, lambda: store.due(1)):
        with pytest.raises(ConfigurationError, match=r"newer version .*schema 1000.*Install that version"):
            use()
    store.close()
    assert open_files() <= before


def test_the_command_line_migrates_no_file(last_release: LastRelease, path: Path) -> None:
    """It names the app as the one that does."""
    last_release.append(1)
    with pytest.raises(ConfigurationError, match=r"earlier version \(schema 2\).*The app brings it up"):
        existing(path).__enter__()
