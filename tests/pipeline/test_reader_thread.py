"""Captures are read, and results are written, without waiting for the store thread's next poll."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from asgi import body, drive, http_scope, sends, start
from outboxes import note_waits, record
from processes import until
from shops import PAID, Held

from butter_middleware import Butter, ButterMiddleware, CheckoutResponse, CheckoutRoute, Record
from butter_middleware._utils.futures import Waker
from butter_middleware.outbox import SQLiteStore
from butter_middleware.pipeline import reader_thread, store_thread
from butter_middleware.pipeline.entries import Entry
from butter_middleware.pipeline.participant import Participant
from butter_middleware.reader.reader import ReadResult
from butter_middleware.testing import FakeButter

Shop = Callable[..., Butter]


@pytest.fixture(autouse=True)
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's thread does not poll, so that a missing wake-up fails a test."""
    for name in (
        "leader.LOOK_SECONDS",
        "leader.LEAD_SECONDS",
        "store_thread.WATCH_SECONDS",
        "store_thread.IDLE_SECONDS",
    ):
        monkeypatch.setattr(f"butter_middleware.pipeline.{name}", 3600.0)


def serve(butter: Butter, number: int) -> None:
    content = json.dumps(PAID | {"invoice": {"id": f"in_{number}"}}).encode()
    anyio.run(drive, ButterMiddleware(sends(start(), body(content)), butter), http_scope())


def test_an_awaited_capture_is_read_at_once(make_butter: Shop, fake: FakeButter) -> None:
    """A flush waits for it, or a response that waits until Butter has its record."""
    butter = make_butter()
    serve(butter, 1)
    until(lambda: butter.status().captured == 1, "it waits")
    assert butter.flush()
    inline = make_butter(delivery="inline", inline_timeout=20)
    serve(inline, 2)
    assert [record["invoice_id"] for record in fake.records] == ["in_1", "in_2"]
    assert inline.status().not_durable_in_time == 0


def test_a_result_that_could_not_be_passed_on_is_read_again(
    make_butter: Shop, fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If memory is short for a moment, no capture stays unread."""
    errors = [MemoryError(), SystemExit()]

    def read(self: Participant, entry: Entry, result: ReadResult) -> None:
        if errors:
            raise errors.pop()
        handed_on(self, entry, result)

    handed_on: Callable[..., None] = Participant.read
    monkeypatch.setattr(Participant, "read", read)
    butter = make_butter()
    serve(butter, 1)
    assert butter.flush(20)
    assert [record["invoice_id"] for record in fake.records] == ["in_1"]


def test_a_queue_gets_a_record_at_once(make_butter: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then the capture is only in memory, and the process may be killed."""
    monkeypatch.setattr(store_thread, "LINGER_SECONDS", 3600.0)
    records: list[Record] = []

    class Queue:
        async def enqueue(self, record: Record) -> None:
            records.append(record)

    serve(make_butter(outbox=Queue()), 1)
    until(lambda: len(records) == 1, "the record is in the queue")


def test_results_and_answers_are_grouped_until_a_flush(
    make_butter: Shop, fake: FakeButter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load they are written in groups, not one by one. A flush has them written at once."""
    monkeypatch.setattr(store_thread, "LINGER_SECONDS", 3600.0)
    butter = make_butter(outbox=str(tmp_path / "butter.db"))
    serve(butter, 1)
    participant = butter.pipeline.participant
    assert participant is not None
    until(lambda: len(participant.thread._readings) == 1, "it is read")
    assert (butter.pipeline.counts().captured, fake.records) == (1, [])
    assert butter.flush(20)
    assert [given["invoice_id"] for given in fake.records] == ["in_1"]
    butter.pipeline.add_records([record(2)])
    until(lambda: len(fake.records) == 2, "the second is sent")
    assert butter.status().delivered == 1  # the answer waits for others
    assert butter.flush(20)
    assert butter.status().delivered == 2


def test_the_next_append_writes_waiting_results(
    make_butter: Shop, fake: FakeButter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is awake then. Nothing else in this test has them written."""
    monkeypatch.setattr(store_thread, "LINGER_SECONDS", 3600.0)
    monkeypatch.setattr(store_thread, "LEAST_LINGER", 0.0)
    butter = make_butter(outbox=str(tmp_path / "butter.db"))
    serve(butter, 1)
    participant = butter.pipeline.participant
    assert participant is not None
    thread = participant.thread

    def is_to_be_written() -> bool:
        return thread._shrink_at < float("inf")  # set once the results are in its queue

    until(is_to_be_written, "it is read")
    serve(butter, 2)
    until(lambda: len(fake.records) > 0, "the first is sent")
    until(lambda: len(thread._settlements) > 0 and is_to_be_written(), "its answer waits")
    assert butter.status().delivered == 0
    serve(butter, 3)
    until(lambda: len(fake.records) > 1, "the second is sent")
    until(lambda: butter.status().delivered > 0, "the first is settled")


def test_a_slow_answer_is_written(make_butter: Shop, fake: FakeButter, tmp_path: Path) -> None:
    """The store's thread sleeps meanwhile, and has nothing else to do for an hour."""
    fake.delay = 0.5
    butter = make_butter(outbox=str(tmp_path / "butter.db"))
    serve(butter, 1)
    participant = butter.pipeline.participant
    assert participant is not None
    until(lambda: len(fake.records) == 1 and not participant.sender.held, "it is settled")
    assert butter.status().delivered == 1


def test_an_answer_that_came_while_the_disk_stalled_is_written_in_time(
    make_butter: Shop, fake: FakeButter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread may work long before it waits. That time does not count twice."""
    held = Held(fake)

    def stalling(_store: SQLiteStore, *, idle: bool) -> None:
        if idle and sender.held:
            time.sleep(0.2)
            held.answers.set()
            until(lambda: len(thread._settlements) > 0, "its answer is there")
            waits.clear()

    butter = make_butter(outbox=str(tmp_path / "butter.db"), transport=held)
    butter.pipeline.start()
    participant = butter.pipeline.participant
    assert participant is not None
    thread, sender = participant.thread, participant.sender
    monkeypatch.setattr(store_thread, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(SQLiteStore, "checkpoint", stalling)
    waits = note_waits(monkeypatch)
    serve(butter, 1)
    until(lambda: len(fake.records) == 1 and not sender.held, "it is settled")
    assert waits[0] <= store_thread.LINGER_SECONDS


@pytest.fixture
def before_rest(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], threading.Event]:
    """Run a function once, just before a thread reports that it is about to wait."""

    def arrange(thread: str, do: Callable[[], object]) -> threading.Event:
        done = threading.Event()

        def rest(self: Waker) -> None:
            if threading.current_thread().name == thread and not done.is_set():
                do()
                done.set()
            say(self)

        say: Callable[[Waker], None] = Waker.rest
        monkeypatch.setattr(Waker, "rest", rest)
        return done

    return arrange


def test_a_reader_ends_even_if_it_is_stopped_just_before_it_waits(
    make_butter: Shop, before_rest: Callable[[str, Callable[[], object]], threading.Event]
) -> None:
    """A wake-up without work may come just before the stop."""
    butter = make_butter()
    serve(butter, 1)
    assert butter.flush(20)
    participant = butter.pipeline.participant
    assert participant is not None
    reader = participant.reader
    until(lambda: reader._waker._resting, "it waits")
    before_rest("butter-read", reader.stop)
    reader._waker.wake()
    until(lambda: not reader.alive, "the thread has ended")


def test_a_fork_just_before_the_store_thread_waits_finds_the_file_closed(
    make_butter: Shop, tmp_path: Path, before_rest: Callable[[str, Callable[[], object]], threading.Event]
) -> None:
    """Otherwise the child may not open the file, and its captures stay in memory."""
    butter = make_butter(outbox=str(tmp_path / "butter.db"))
    serve(butter, 1)
    assert butter.flush(20)
    participant = butter.pipeline.participant
    assert participant is not None
    thread = participant.thread
    until(lambda: thread._waker._resting, "it waits")
    asked = before_rest("butter-store", thread.request_pause)
    thread.count_soon()
    assert asked.wait(20)
    try:
        thread.await_pause(20)
        assert thread.paused
    finally:
        thread.resume()


def test_a_close_reads_waiting_captures_at_once(make_butter: Shop, fake: FakeButter) -> None:
    """The end of the app reads the captures that are there."""
    butter = make_butter()
    serve(butter, 1)
    until(lambda: butter.status().captured == 1, "it waits")
    butter.close()
    assert len(fake.records) == 1


def test_waiting_captures_are_loaded_within_the_memory_limit(
    make_butter: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an extractor that hung, the bodies of a backlog do not fill the memory."""
    most, size = 128 * 1024, 8 * 1024
    monkeypatch.setattr(reader_thread, "MOST_BYTES", most)
    asked, release = threading.Event(), threading.Event()
    in_memory: list[int] = []

    def extract(_response: CheckoutResponse) -> None:
        asked.set()
        release.wait(20)
        assert butter.pipeline.participant is not None
        in_memory.append(butter.pipeline.participant.reader._bytes)

    butter = make_butter(CheckoutRoute("/checkout/{cart}", "stripe", extract))
    app = ButterMiddleware(sends(start(), body(b"x" * size)), butter)
    for number in range(1, 61):
        anyio.run(drive, app, http_scope(f"/checkout/{number}"))
        until(lambda: butter.pipeline.counts().captured == number, "it is in the outbox")  # noqa: B023 - called here
    assert asked.wait(20)
    release.set()
    assert butter.flush()
    assert len(in_memory) == 60
    assert most < max(in_memory) < most + 2 * size
