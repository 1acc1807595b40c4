"""In any order of steps, and if processes die: enqueued = delivered + pending + dead + parked + skipped.

An example is a few lives of a process, one after the other on one file. In each of them two stores take the steps,
until the process closes them or dies. A life writes to a pipe what it tried and what was acknowledged. What was
acknowledged must be in the file. At the end a last life reads and delivers all that is left.
"""

import os
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outboxes import NOW, Clock, append, bodies, invoices, record, unread

from butter_middleware import SQLiteOutbox
from butter_middleware.outbox import Parked, ParkReason, Resolution, Settled, Settlement, SQLiteStore

STORES = st.integers(0, 1)
OUTCOMES = st.sampled_from(["record", "record", "parked", "skipped"])
STEPS = st.one_of(
    st.tuples(st.just("append"), STORES, st.integers(1, 3)),
    st.tuples(st.just("append_unowned"), STORES, st.integers(1, 3)),
    st.tuples(st.just("read"), STORES, OUTCOMES),
    st.tuples(st.just("read_twice"), STORES, OUTCOMES),
    st.tuples(st.just("retry_parked"), STORES, OUTCOMES),
    st.tuples(st.just("add"), STORES, st.integers(0, 9)),
    st.tuples(st.just("settle"), STORES, st.sampled_from(Settled)),
    st.tuples(st.just("reopen"), STORES, st.none()),
    st.tuples(st.just("checkpoint"), STORES, st.booleans()),
)
LIVES = st.lists(st.tuples(st.lists(STEPS, min_size=3, max_size=15), st.booleans()), min_size=1, max_size=4)

# Records are added under 0 to 9. Captures are numbered from a hundred on in each life.
BY_KEY = {
    record(number).key: number for number in [*range(10), *(life * 100 + n for life in range(1, 5) for n in range(46))]
}


@dataclass
class Life:
    """The steps of one process. Its facts go through `tell`, and survive it."""

    path: Path
    tell: Callable[[str], object]
    next_number: int

    def __post_init__(self) -> None:
        self.stores = [SQLiteOutbox(self.path, clock=Clock()).store() for _ in range(2)]
        for store in self.stores:
            store.open()

    def step(self, name: str, which: int, argument: Any) -> None:
        getattr(self, name)(self.stores[which], argument)

    def append(self, store: SQLiteStore, count: int, *, owned: bool = True) -> None:
        numbers = range(self.next_number, self.next_number + count)
        self.next_number += count
        for number in numbers:
            self.tell(f"tried {number}")
        append(store, *numbers, owned=owned)
        for number in numbers:
            self.tell(f"there {number}")

    def append_unowned(self, store: SQLiteStore, count: int) -> None:
        self.append(store, count, owned=False)

    def read(self, store: SQLiteStore, outcome: str) -> None:
        store.resolve([self.resolution(stored.id, bodies([stored])[0], outcome) for stored in unread(store, 2)])

    def read_twice(self, store: SQLiteStore, outcome: str) -> None:
        """Read in both stores at once: only the first resolution counts."""
        found = unread(store, 2)
        resolutions = [self.resolution(one.id, bodies([one])[0], outcome) for one in found]
        store.resolve(resolutions)
        for other in self.stores:
            assert outcome == "parked" or not any(one.there for one in other.resolve(resolutions))

    def retry_parked(self, store: SQLiteStore, outcome: str) -> None:
        found = store.parked_to_try(2, configuration="new", before=NOW)
        store.resolve([self.resolution(stored.id, bodies([stored])[0], outcome) for stored in found])

    def resolution(self, capture: int, invoice: str, outcome: str) -> Resolution:
        number = number_of(invoice)
        if outcome == "skipped":
            self.tell(f"skipped {number}")
        if outcome == "parked":
            return Resolution(capture, parked=Parked(ParkReason.EXTRACTOR_ERROR, ""))
        return Resolution(capture, [record(number)] if outcome == "record" else [])

    def add(self, store: SQLiteStore, number: int) -> None:
        self.tell(f"tried {number}")
        store.add([record(number)])
        self.tell(f"there {number}")

    def settle(self, store: SQLiteStore, settled: Settled) -> None:
        if not store.lead():
            return
        due = store.due(2)
        store.settle([Settlement(pending.id, settled) for pending in due])
        if settled is Settled.DELIVERED:
            for invoice in invoices(due):
                self.tell(f"delivered {number_of(invoice)}")

    def reopen(self, store: SQLiteStore, _argument: None) -> None:
        store.close()
        store.open()

    def checkpoint(self, store: SQLiteStore, idle: bool) -> None:  # noqa: FBT001 - drawn
        store.checkpoint(idle=idle)

    def end(self) -> None:
        for store in self.stores:
            store.close()


def number_of(invoice: str) -> int:
    return int(invoice.removeprefix("in_"))


def live(path: Path, run: Callable[[Callable[[str], object]], None]) -> list[tuple[str, int]]:
    """Run a life in its own process. Return the facts that it told."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run(lambda fact: os.write(writing, f"{fact}\n".encode()))
        except BaseException as error:  # noqa: BLE001 - the parent checks it
            os.write(writing, f"{type(error).__name__} 0\n".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        lines = told.read().splitlines()
    os.waitpid(child, 0)
    facts = [(what, int(number)) for what, number in map(str.split, lines)]
    assert {what for what, _number in facts} <= {"tried", "there", "skipped", "delivered", "dead"}
    return facts


def last_life(path: Path, tell: Callable[[str], object]) -> None:
    """Do what a start with a corrected extractor does: read and deliver everything."""
    store = SQLiteOutbox(path, clock=Clock()).store()
    store.open()
    for found in (unread(store), store.parked_to_try(1000, configuration="last", before=NOW)):
        store.resolve([Resolution(stored.id, [record(number_of(bodies([stored])[0]))]) for stored in found])
    assert store.lead()
    store.settle([Settlement(pending.id, Settled.DELIVERED) for pending in store.due(1000)])
    counts = store.counts()
    assert (counts.captured, counts.pending, counts.parked) == (0, 0, 0)
    for _ in range(counts.delivered):
        tell("delivered 0")
    for _ in range(counts.dead):
        tell("dead 0")
    store.close()


@dataclass(frozen=True)
class Found:
    """The content of the file, by the checkout's number."""

    captures: Sequence[int]
    records: Sequence[int]
    delivered: Sequence[int]

    @classmethod
    def in_file(cls, path: Path) -> "Found":
        connection = sqlite3.connect(path)
        try:
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return cls((), (), ())  # the process died before it created the file
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            paths = connection.execute("SELECT json_extract(head, '$.path') FROM captures").fetchall()
            records = connection.execute("SELECT key FROM records").fetchall()
            tombstones = connection.execute("SELECT key FROM tombstones").fetchall()
            meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
            rows = connection.execute(
                """SELECT (SELECT count(*) FROM records WHERE dead_at IS NULL),
                    (SELECT count(*) FROM records WHERE dead_at IS NOT NULL),
                    (SELECT count(*) FROM captures WHERE reason IS NULL),
                    (SELECT count(*) FROM captures WHERE reason IS NOT NULL),
                    (SELECT count(*) FROM tombstones)"""
            ).fetchone()
        finally:
            connection.close()
        assert tuple(meta[name] for name in ("pending", "dead", "captured", "parked", "delivered")) == rows
        return cls(
            [int(path.rpartition("/")[2]) for (path,) in paths],
            [BY_KEY[key] for (key,) in records],
            [BY_KEY[key] for (key,) in tombstones],
        )


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LIVES)
def test_nothing_is_lost_or_stored_twice(lives: list[tuple[list[tuple[str, int, Any]], bool]]) -> None:
    """Each acknowledged checkout is in exactly one state. At the end each is delivered or dead."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "butter.db"
        facts: list[tuple[str, int]] = []
        for number, (steps, dies) in enumerate(lives):

            def run(
                tell: Callable[[str], object],
                steps: list[tuple[str, int, Any]] = steps,
                dies: bool = dies,  # noqa: FBT001 - bound in the loop
                first: int = 100 * (number + 1),
            ) -> None:
                life = Life(path, tell, first)
                for step in steps:
                    life.step(*step)
                if not dies:
                    life.end()

            facts += live(path, run)
            judge(Found.in_file(path), facts)
        ends = [what for what, _number in live(path, lambda tell: last_life(path, tell))]
        found = Found.in_file(path)
        judge(found, facts)
        assert not found.captures
        assert (ends.count("delivered"), ends.count("dead")) == (len(found.delivered), len(found.records))


def judge(found: Found, facts: Sequence[tuple[str, int]]) -> None:
    """Compare the content of the file with the facts."""
    told = {what: {number for kind, number in facts if kind == what} for what in ("tried", "there", "skipped")}
    here = {*found.captures, *found.records, *found.delivered}
    assert told["there"] - told["skipped"] <= here
    assert here <= told["tried"]
    for numbers in (found.captures, [*found.records, *found.delivered]):
        assert len(set(numbers)) == len(numbers)
    assert {number for what, number in facts if what == "delivered"} <= set(found.delivered)
