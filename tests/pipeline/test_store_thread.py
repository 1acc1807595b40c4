"""How the store's thread handles disk faults: in which order, how often and how soon it tries again."""

import errno
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from outboxes import capture, note_waits, record
from processes import until
from shops import Held

from butter_middleware import Butter, CheckoutResponse, CheckoutRoute, MemoryOutbox
from butter_middleware.errors import OutboxReplacedError
from butter_middleware.models.http import Capture
from butter_middleware.outbox import MemoryStore, SQLiteOutbox, SQLiteStore
from butter_middleware.outbox.base import CLOSING_SECONDS, Counts, Settlement, size_of
from butter_middleware.outbox.sqlite.locks import WRITE, Locks
from butter_middleware.pipeline import leader, participant, reader_thread, store_thread
from butter_middleware.pipeline.sender_thread import MOST_AHEAD
from butter_middleware.testing import FakeButter


class FailingStore(MemoryStore):
    """A store on a disk that fails at times."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: int | None = None
        self.tries: list[list[str]] = []
        """The captures of each try to append."""
        self.prunes = 0
        self.pruning: int | None = None
        """The errno that `prune` raises."""
        self.refused: list[str] = []
        """The captures that cannot be stored."""
        self.good: int | None = None
        """How many captures are written before one more fault comes."""
        self.last_fault: BaseException = OSError(errno.EIO, "")
        self.settling: int | None = None
        """The errno that `settle` raises after a moment, as a disk does that the system tries again."""
        self.answering = threading.Event()
        """`counts` blocks while it is cleared."""
        self.answering.set()
        self.asked = threading.Event()
        """Set once `counts` blocks."""

    def append(self, captures: Sequence[Capture], *, owned: bool = True) -> Sequence[int]:
        self.tries.append([capture.path for capture in captures])
        self.fail()
        if any(capture.path in self.refused for capture in captures):
            raise ValueError
        if self.good is not None and self.good < len(captures):
            self.good = None
            raise self.last_fault
        self.good = None if self.good is None else self.good - len(captures)
        return super().append(captures, owned=owned)

    def counts(self) -> Counts:
        if not self.answering.is_set():
            self.asked.set()
            self.answering.wait(20)
        self.fail()
        return super().counts()

    def settle(self, settlements: Sequence[Settlement]) -> None:
        if self.settling is not None:
            time.sleep(0.03)
            raise OSError(self.settling, "")
        super().settle(settlements)

    def prune(self) -> bool:
        self.prunes += 1
        if self.pruning is not None:
            raise OSError(self.pruning, "")
        self.fail()
        return super().prune()

    def fail(self) -> None:
        if self.fault is not None:
            raise OSError(self.fault, "")


class FailingOutbox(MemoryOutbox):
    """It makes a `FailingStore`."""

    def store(self, **_options: object) -> FailingStore:
        store = FailingStore()
        object.__setattr__(self, "made", store)
        return store

    made: FailingStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "butter.db"


@pytest.fixture
def failing(make_butter: Callable[..., Butter]) -> tuple[Butter, FailingStore]:
    """Return a running `Butter` and its store."""
    outbox = FailingOutbox()
    butter = make_butter(outbox=outbox)
    butter.pipeline.start()
    assert butter.flush()
    return butter, outbox.made


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note how long the store's thread waits, and shorten it."""
    return note_waits(monkeypatch, 0.002)


def buy(butter: Butter, *numbers: int) -> None:
    for number in numbers:
        given = capture(number)
        butter.pipeline.capture(butter.pipeline.routes.find(given.method, given.path), given)


def paths(*numbers: int) -> list[str]:
    return [capture(number).path for number in numbers]


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC])
def test_captures_are_written_in_their_order(failing: tuple[Butter, FailingStore], fault: int) -> None:
    """While the disk is away or full, captures wait in order. Each try begins with the oldest."""
    butter, store = failing
    store.fault = fault
    buy(butter, 1, 2, 3, 4, 5)
    until(lambda: [len(found) for found in store.tries].count(5) >= 2, "two tries with all of them")
    tried = len(store.tries)
    assert all(found == paths(1, 2, 3, 4, 5)[: len(found)] for found in store.tries)
    store.fault = None
    assert butter.flush()
    written = [path for found in store.tries[tried:] for path in found]
    assert written[-5:] == paths(1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("good", "fault"),
    [(0, OSError(errno.EIO, "")), (1, OSError(errno.EIO, "")), (3, OSError(errno.EIO, "")), (1, SystemExit())],
)
def test_a_disk_fault_while_a_batch_is_written_one_by_one_loses_nothing(
    failing: tuple[Butter, FailingStore], fake: FakeButter, good: int, fault: BaseException
) -> None:
    """If one capture cannot be stored, the others of its batch are written one by one. Only that one is lost."""
    butter, store = failing
    store.fault = errno.EIO
    buy(butter, 1, 2, 3, 4, 5)
    until(lambda: paths(1, 2, 3, 4, 5) in store.tries, "they are tried together")
    store.refused, store.good, store.last_fault = paths(2), good, fault
    store.fault = None
    until(lambda: len(fake.records) == 4, "the others are sent")
    assert butter.flush()
    assert {sent["invoice_id"] for sent in fake.records} == {"in_1", "in_3", "in_4", "in_5"}
    assert butter.status().lost == 1
    assert butter.pipeline.participant is not None
    thread = butter.pipeline.participant.thread
    assert thread._bytes == 0


def test_the_backoff_of_a_disk_that_is_away_doubles(failing: tuple[Butter, FailingStore], waits: list[float]) -> None:
    """After 50 ms, then twice as long each time, up to 5 s. After a success, the next fault begins at 50 ms."""
    butter, store = failing
    for number in range(2):
        store.tries.clear()
        store.fault = errno.EIO
        buy(butter, number)
        until(lambda: len(store.tries) >= 9, "nine tries")
        store.fault = None
        assert butter.flush()
        backoffs = [0.05 * 2**tries for tries in range(7)] + [5.0]
        began = waits.index(backoffs[0])
        assert waits[began : began + 8] == backoffs
        waits.clear()


def test_an_answer_ends_the_wait_for_a_disk_that_is_away(
    make_butter: Callable[..., Butter], fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does a capture. The disk may be back, and an unsettled record would be sent again."""
    held = Held(fake)
    outbox = FailingOutbox()
    butter = make_butter(outbox=outbox, transport=held)
    monkeypatch.setattr(store_thread, "FIRST_BACKOFF", 3600.0)
    monkeypatch.setattr(store_thread, "LAST_BACKOFF", 7200.0)
    waits = note_waits(monkeypatch)
    buy(butter, 1)
    participant = butter.pipeline.participant
    assert participant is not None
    until(lambda: participant.sender.delivery.in_flight == 1, "it is on its way")
    outbox.made.fault = errno.EIO
    until(lambda: 3600.0 in waits, "the thread waits for the disk")
    outbox.made.fault = None
    held.answers.set()
    until(lambda: not participant.sender.held, "it is settled")


def test_an_idle_process_sleeps(failing: tuple[Butter, FailingStore], waits: list[float]) -> None:
    """Its store's thread waits for its next poll, half a second at most, and does not spin."""
    butter, _store = failing
    assert butter.flush()
    waits.clear()
    until(lambda: len(waits) >= 20, "it rests")
    assert waits.count(0.0) <= 2, waits
    assert max(waits) <= 0.5, "for so long the leader may not see what another process appended"


def test_a_backlog_is_sent_without_polling(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-ahead is refilled once half of it is free, and not earlier. A settled record triggers the next turn."""
    store = SQLiteOutbox(path).store()
    store.open()
    store.add([record(number) for number in range(3 * MOST_AHEAD)])
    store.close()
    asked: list[int] = []
    due = SQLiteStore.due

    def note(store: SQLiteStore, limit: int, *held: Any) -> Any:
        asked.append(limit)
        return due(store, limit, *held)

    monkeypatch.setattr(SQLiteStore, "due", note)
    monkeypatch.setattr(leader, "LOOK_SECONDS", 600.0)
    make_butter(outbox=path).pipeline.start()
    until(lambda: len(fake.records) == 3 * MOST_AHEAD, "all of them", 60)
    assert min(asked) >= MOST_AHEAD // 2


def test_the_look_ahead_of_the_reader_is_bounded(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more captures of another process are in memory, even if the extractor is slow."""
    left, asked, go_on = SQLiteOutbox(path).store(), list[int](), threading.Event()
    left.open()
    left.append([capture(number) for number in range(20)], owned=False)
    left.close()
    monkeypatch.setattr(reader_thread, "MOST_AHEAD", 4)
    unread, counts = SQLiteStore.unread, SQLiteStore.counts
    looks = [0]

    def note(store: SQLiteStore, limit: int, **options: Any) -> Any:
        asked.append(limit)
        return unread(store, limit, **options)

    def count(store: SQLiteStore) -> Any:
        looks[0] += 1
        return counts(store)

    monkeypatch.setattr(SQLiteStore, "unread", note)
    monkeypatch.setattr(SQLiteStore, "counts", count)
    monkeypatch.setattr(leader, "LOOK_SECONDS", 0.01)
    route = CheckoutRoute("/checkout/{number}", "stripe", lambda _response: {} if go_on.wait(60) else None)
    butter = make_butter(route, outbox=path)
    butter.pipeline.start()
    until(lambda: bool(asked), "the first ones")
    looked = looks[0]
    until(lambda: looks[0] >= looked + 10, "ten more looks")
    assert max(asked) <= 4
    assert sum(asked) <= 5  # and the one that is being read
    go_on.set()
    assert butter.flush()


def test_a_disk_fault_while_the_readers_look_ahead_is_filled_loses_nothing(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The captures are loaded once the disk works again. No other process reads captures of this one."""
    monkeypatch.setattr(reader_thread, "MOST_AHEAD", 4)
    monkeypatch.setattr(participant, "MOST_AHEAD", 4)
    load, faults, go_on = SQLiteStore.load, [sqlite3.OperationalError("disk I/O error")], threading.Event()

    def once(store: SQLiteStore, ids: Sequence[int]) -> Any:
        if faults:
            raise faults.pop()
        return load(store, ids)

    monkeypatch.setattr(SQLiteStore, "load", once)

    def extract(response: CheckoutResponse) -> dict[str, str]:
        go_on.wait(60)
        return {"customer_email": "a@example.com", "invoice_id": f"in_{response.request.path_params['number']}"}

    butter = make_butter(CheckoutRoute("/checkout/{number}", "stripe", extract), outbox=path)
    butter.pipeline.start()
    buy(butter, *range(20))
    until(lambda: butter.status().captured == 20, "all of them are in the store")
    go_on.set()
    assert butter.flush(60)
    assert not faults
    assert len(fake.records) == 20


def test_captures_that_wait_for_the_disk_are_limited_in_bytes(
    failing: tuple[Butter, FailingStore], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Heads count. A capture above the limit is lost, counted and logged. Written captures free their bytes."""
    butter, store = failing
    monkeypatch.setattr(store_thread, "MOST_BYTES", 2 * size_of(capture(1)))
    for tries in range(1, 3):
        store.fault = errno.EIO
        buy(butter, 1, 2, 3)
        assert butter.status().lost == tries
        store.fault = None
        assert butter.flush()
    assert butter.status().captured == 6
    assert "a record is lost" in caplog.text


def test_a_disk_fault_during_a_watch_is_logged_as_a_disk_fault(
    failing: tuple[Butter, FailingStore], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, whichever part of the store's thread finds it first."""
    monkeypatch.setattr(leader, "LOOK_SECONDS", 3600.0)
    monkeypatch.setattr(store_thread, "WATCH_SECONDS", 0.01)
    butter, store = failing
    assert butter.pipeline.participant is not None
    thread = butter.pipeline.participant.thread
    until(lambda: thread.leader.look_at > time.monotonic() + 60, "the leader looks at nothing by itself")
    store.fault = errno.EIO
    until(lambda: "cannot be used (EIO)" in caplog.text, "the alarm")
    store.fault = None
    until(lambda: "works again" in caplog.text, "the all-clear")
    assert "watching failed" not in caplog.text
    assert caplog.text.count("cannot be used (EIO)") == 1


def test_a_lasting_fault_is_not_logged_as_over(
    failing: tuple[Butter, FailingStore], fake: FakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """It is also logged only once while answers cannot be written."""
    butter, store = failing
    fake.delay = 0.01
    store.settling = errno.EIO
    butter.pipeline.add_records([record(number) for number in range(100)])
    until(lambda: len(fake.records) == 100, "all are answered")
    assert "works again" not in caplog.text
    store.settling = None
    assert butter.flush()
    until(lambda: "works again" in caplog.text, "the all-clear")
    assert caplog.text.count("cannot be used (EIO)") == 1


@pytest.mark.parametrize("method", ["counts", "count", "prune", "checkpoint"])
def test_a_fault_of_one_method_is_not_logged_as_over(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:
    """Other methods that work do not end it. The failing one is tried before the all-clear, even without checkouts."""
    for seconds in ("PRUNE_SECONDS", "COUNT_SECONDS", "IDLE_SECONDS", "LOG_SECONDS"):
        monkeypatch.setattr(store_thread, seconds, 0.05)
    works, tries, fails = getattr(FailingStore, method), [0], threading.Event()

    def fail(*given: object, **options: object) -> object:
        if fails.is_set():
            tries[0] += 1
            raise OSError(errno.EIO, "")
        return works(*given, **options)

    monkeypatch.setattr(FailingStore, method, fail)
    butter = make_butter(outbox=FailingOutbox())
    butter.pipeline.start()
    assert butter.flush()
    fails.set()
    for number in range(5):
        buy(butter, number)
        until(lambda: len(fake.records) == number + 1, "it is sent")  # noqa: B023 - it is called at once
        tried = tries[0]
        until(lambda: tries[0] > tried + 1, "two tries more")  # noqa: B023
    assert "works again" not in caplog.text
    fails.clear()
    until(lambda: "works again" in caplog.text, "the all-clear")
    assert caplog.text.count("cannot be used (EIO)") == 1


def test_a_close_during_a_turn_writes_an_answer_that_waits_for_others(
    failing: tuple[Butter, FailingStore], fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next start would send its record again."""
    monkeypatch.setattr(store_thread, "LINGER_SECONDS", 3600.0)
    butter, store = failing
    assert butter.pipeline.participant is not None
    thread = butter.pipeline.participant.thread
    butter.pipeline.add_records([record(1)])
    until(lambda: bool(thread._settlements), "the answer waits")
    store.answering.clear()
    assert store.asked.wait(20)
    closing = threading.Thread(target=butter.pipeline.reset, daemon=True)
    closing.start()
    until(lambda: thread.stopping, "the close waits for this turn")
    store.answering.set()
    closing.join(20)
    assert store.counts().delivered == 1


class ReplacedStore(MemoryStore):
    """The disk fails until the stop. Then the file is replaced."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        super().__init__()
        self._stopping = stopping
        self.tries = 0
        self.replaced = 0

    def append(self, captures: Sequence[Capture], *, owned: bool = True) -> Sequence[int]:
        self.tries += 1
        if not self._stopping():
            raise OSError(errno.EIO, "")
        if not self.replaced:
            self.replaced += 1
            raise OutboxReplacedError
        return super().append(captures, owned=owned)


class ReplacedOutbox(MemoryOutbox):
    """It makes a `ReplacedStore`."""

    def store(self, **options: Any) -> ReplacedStore:
        store = ReplacedStore(options["give_up"])
        object.__setattr__(self, "made", store)
        return store

    made: ReplacedStore


def test_a_file_that_is_replaced_during_the_last_try_of_a_stop_loses_nothing(
    make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The captures of the last try are written to the new file."""
    outbox = ReplacedOutbox()
    butter = make_butter(outbox=outbox, drain_timeout=0.2)
    butter.pipeline.start()
    buy(butter, 1)
    until(lambda: outbox.made.tries > 0, "the disk is asked")
    monkeypatch.setattr(store_thread, "FIRST_BACKOFF", 60.0)  # each try of the stop is the last one
    butter.close()
    assert outbox.made.replaced == 1
    assert "a record is lost" not in caplog.text
    assert outbox.made.counts().captured == 1


@pytest.mark.parametrize(("fault", "said"), [(errno.ENOSPC, ""), (errno.EIO, "cannot be used (EIO)")])
def test_only_a_full_disk_is_ignored_while_pruning(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: int,
    said: str,
) -> None:
    """A delivery frees space there. Any other fault is logged. Neither ends the thread, and checkouts continue."""
    monkeypatch.setattr(store_thread, "PRUNE_SECONDS", 0.01)
    outbox = FailingOutbox()
    butter = make_butter(outbox=outbox)
    butter.pipeline.start()
    assert butter.flush()
    store = outbox.made
    before = store.prunes
    store.pruning = fault
    until(lambda: store.prunes > before + 2, "prunes that fail")
    store.pruning = None
    until(lambda: not butter.status().faults, "the fault is over")
    assert not [said for said in ("thread failed", "is full") if said in caplog.text]
    assert ("cannot be used" in caplog.text) is bool(said)
    buy(butter, 1)
    assert butter.flush()


def test_a_close_waits_for_the_end_of_the_store(make_butter: Callable[..., Butter], tmp_path: Path) -> None:
    """It has a second to write its captures, as another process may hold the file briefly. Here it holds it longer."""
    path = str(tmp_path / "butter.db")
    butter = make_butter(outbox=path, drain_timeout=0)
    butter.pipeline.start()
    assert butter.flush()
    assert butter.pipeline.participant is not None
    thread, other = butter.pipeline.participant.thread, Locks(path)
    until(lambda: other.take(WRITE), "another one holds the file")
    buy(butter, 1)
    began = time.monotonic()
    butter.close()
    assert time.monotonic() - began > CLOSING_SECONDS
    other.close()
    until(lambda: not thread.alive, "it ends")
