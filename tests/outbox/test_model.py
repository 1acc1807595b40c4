"""Whatever is interleaved, and wherever processes die: enqueued = delivered + pending + dead + parked + skipped.

An example is a few lives of a process, one after the other on one file. In each of them two outboxes do what the steps
say, some of it unwaited for, until the process ends: by a close, or by dying on the spot. A life tells through a pipe
what it tried and what was acknowledged. What was acknowledged must be in the file; at the end a last life reads and
delivers all that is left, and nothing may be stranded.
"""

import os
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outboxes import Clock, bodies, capture, invoices, record, result

from butter_middleware import SQLiteOutbox
from butter_middleware.models.reasons import ParkReason
from butter_middleware.outbox import Parked, Pending, Settled, Settlement

SEATS = st.integers(0, 1)
WAITS = st.booleans()
OUTCOMES = st.sampled_from(["record", "record", "parked", "skipped"])
STEPS = st.one_of(
    st.tuples(st.just("append"), SEATS, WAITS, st.integers(1, 3)),
    st.tuples(st.just("read"), SEATS, WAITS, OUTCOMES),
    st.tuples(st.just("add"), SEATS, WAITS, st.integers(0, 9)),
    st.tuples(st.just("adopt"), SEATS, WAITS, st.none()),
    st.tuples(st.just("claim"), SEATS, WAITS, st.integers(1, 3)),
    st.tuples(st.just("settle"), SEATS, WAITS, st.sampled_from(Settled)),
    st.tuples(st.just("reopen"), SEATS, WAITS, st.none()),
)
LIVES = st.lists(st.tuples(st.lists(STEPS, min_size=3, max_size=15), st.booleans()), min_size=1, max_size=4)

# Records are added under 0 to 9; captures are numbered from a hundred on in each life.
BY_KEY = {
    record(number).key: number for number in [*range(10), *(life * 100 + n for life in range(1, 5) for n in range(46))]
}


@dataclass
class Life:
    """What one process does; `tell` outlives it."""

    path: Path
    tell: Callable[[str], object]
    next_number: int
    unwaited: "list[tuple[Future[Any], str]]" = field(default_factory=list["tuple[Future[Any], str]"])

    def __post_init__(self) -> None:
        self.outboxes = [SQLiteOutbox(self.path, clock=Clock()) for _ in range(2)]
        self.claimed: list[list[Pending]] = [[], []]
        for outbox in self.outboxes:
            outbox.open()

    def step(self, name: str, seat: int, wait: bool, argument: Any) -> None:  # noqa: FBT001 - drawn
        self.wait = wait
        getattr(self, name)(seat, argument)

    def done(self, future: "Future[Any]", *facts: str) -> None:
        """Tell facts once the future is done: at once, or at the end of a life that lasts so long."""
        if self.wait:
            result(future)
            for fact in facts:
                self.tell(fact)
        else:
            self.unwaited += [(future, fact) for fact in facts]

    def append(self, seat: int, count: int) -> None:
        for _ in range(count):
            self.tell(f"tried {self.next_number}")
            self.done(self.outboxes[seat].append(capture(self.next_number)), f"there {self.next_number}")
            self.next_number += 1

    def read(self, seat: int, outcome: str) -> None:
        for stored in result(self.outboxes[seat].captures(2)):
            number = number_of(bodies([stored])[0])
            if outcome == "skipped":
                self.tell(f"skipped {number}")
            records = [record(number)] if outcome == "record" else []
            end = Parked(ParkReason.EXTRACTOR_ERROR, "") if outcome == "parked" else records
            self.done(self.outboxes[seat].resolve(stored.id, end))

    def add(self, seat: int, number: int) -> None:
        self.tell(f"tried {number}")
        self.done(self.outboxes[seat].add([record(number)]), f"there {number}")

    def adopt(self, seat: int, _argument: None) -> None:
        self.done(self.outboxes[seat].adopt())

    def claim(self, seat: int, limit: int) -> None:
        if self.outboxes[seat].lead():
            claimed = result(self.outboxes[seat].claim(limit))
            self.claimed[seat] += claimed

    def settle(self, seat: int, settled: Settled) -> None:
        claimed, self.claimed[seat] = self.claimed[seat], []
        ends = [Settlement(pending.id, settled) for pending in claimed]
        facts = [f"delivered {number_of(invoice)}" for invoice in invoices(claimed)]
        self.done(self.outboxes[seat].settle(ends), *(facts if settled is Settled.DELIVERED else []))

    def reopen(self, seat: int, _argument: None) -> None:
        self.outboxes[seat].close()
        self.claimed[seat] = []
        self.outboxes[seat].open()

    def end(self) -> None:
        for outbox in self.outboxes:
            outbox.close()
        for future, fact in self.unwaited:
            assert future.exception(0) is None
            self.tell(fact)


def number_of(invoice: str) -> int:
    return int(invoice.removeprefix("in_"))


def live(path: Path, run: Callable[[Callable[[str], object]], None]) -> list[tuple[str, int]]:
    """Run a life in a process of its own; give what it told."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run(lambda fact: os.write(writing, f"{fact}\n".encode()))
        except BaseException as error:  # noqa: BLE001 - told, and judged by the parent
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
    """Do what a start with a mended extractor does: adopt, read and deliver everything."""
    outbox = SQLiteOutbox(path, clock=Clock())
    outbox.open()
    result(outbox.adopt())
    for stored in result(outbox.captures(1000)):
        result(outbox.resolve(stored.id, [record(number_of(bodies([stored])[0]))]))
    assert outbox.lead()
    claimed = result(outbox.claim(1000))
    result(outbox.settle([Settlement(pending.id, Settled.DELIVERED) for pending in claimed]))
    counts = result(outbox.counts())
    assert (counts.captured, counts.pending, counts.parked) == (0, 0, 0)
    for _ in range(counts.delivered):
        tell("delivered 0")
    for _ in range(counts.dead):
        tell("dead 0")
    outbox.close()


@dataclass(frozen=True)
class Found:
    """What lies in the file, by the checkout's number."""

    captures: Sequence[int]
    records: Sequence[int]
    delivered: Sequence[int]

    @classmethod
    def in_file(cls, path: Path) -> "Found":
        connection = sqlite3.connect(path)
        try:
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return cls((), (), ())  # the process died before it had made the file
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            paths = connection.execute("SELECT json_extract(head, '$.path') FROM captures").fetchall()
            records = connection.execute("SELECT key FROM records").fetchall()
            tombstones = connection.execute("SELECT key FROM tombstones").fetchall()
            meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
            (alive,) = connection.execute("SELECT count(*) FROM records WHERE dead_at IS NULL").fetchone()
        finally:
            connection.close()
        assert (meta["pending"], meta["delivered"]) == (alive, len(tombstones))
        return cls(
            [int(path.rpartition("/")[2]) for (path,) in paths],
            [BY_KEY[key] for (key,) in records],
            [BY_KEY[key] for (key,) in tombstones],
        )


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(LIVES)
def test_nothing_is_lost_and_nothing_is_twice(lives: list[tuple[list[tuple[str, int, bool, Any]], bool]]) -> None:
    """Each acknowledged checkout is in one state, whatever was interleaved; in the end each is delivered or dead."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "butter.db"
        facts: list[tuple[str, int]] = []
        for number, (steps, dies) in enumerate(lives):

            def run(
                tell: Callable[[str], object],
                steps: list[tuple[str, int, bool, Any]] = steps,
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
    """Hold what is in the file against what was told."""
    told = {what: {number for kind, number in facts if kind == what} for what in ("tried", "there", "skipped")}
    here = {*found.captures, *found.records, *found.delivered}
    assert told["there"] - told["skipped"] <= here
    assert here <= told["tried"]
    for numbers in (found.captures, [*found.records, *found.delivered]):
        assert len(set(numbers)) == len(numbers)
    assert {number for what, number in facts if what == "delivered"} <= set(found.delivered)
