"""Which process of a host sends, and what the other processes know about it."""

import errno
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import anyio
import httpx
import pytest
from outboxes import append, settle_all
from processes import SHOPPER, until
from shops import Held, buy, refusing_shop
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, Checkout, CheckoutResponse, CheckoutRoute, SQLiteOutbox
from butter_middleware.delivery.circuit_breaker import CircuitBreaker
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.events import Event
from butter_middleware.outbox import Counts, Settled, SQLiteStore
from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.outbox.sqlite.locks import LEAD, READERS, Locks
from butter_middleware.outbox.sqlite.store import set_hold
from butter_middleware.testing import FakeButter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "butter.db"


def checkout(name: str) -> Checkout:
    return Checkout(ipv4_address=SHOPPER, psp="stripe", customer_email="shopper@example.com", invoice_id=f"in_{name}")


def look_again(butter: Butter) -> None:
    """Make the store's thread try for the lead at once, and wait until it has."""
    butter.pipeline.look_again()
    assert butter.pipeline.ask(lambda _store: True, otherwise=False, seconds=20)
    assert butter.pipeline.ask(lambda _store: True, otherwise=False, seconds=20)


def take_lead_from(butter: Butter, path: Path, other: SQLiteStore) -> None:
    """Give the lead to another store, as happens if a cleanup job removes the lock file."""

    def take_lead() -> bool:
        path.with_name("butter.db.lock").unlink(missing_ok=True)
        return other.lead()

    until(take_lead, "the other one has the new lock")
    until(lambda: not butter.pipeline.leads, "it has released the lead")


def test_a_missing_sidecar_is_logged_once_records_wait(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a sidecar, the shop logs it as soon as there are records that no process delivers."""
    monkeypatch.setattr("butter_middleware.pipeline.leader.ALONE_SECONDS", 0.0)
    butter = make_butter(outbox=path, delivery="external")
    butter.pipeline.start()
    for _look in range(4):
        look_again(butter)
    assert "no process delivers" not in caplog.text
    buy(butter, "a")
    for _look in range(6):
        look_again(butter)
    until(lambda: "no process delivers" in caplog.text, "the alarm")
    assert caplog.text.count("no process delivers") == 1


def test_a_process_that_cannot_send_gives_up_the_lead(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If its HTTP client cannot be made, another process may lead, even if a lifespan begins meanwhile."""

    def fail(_delivery: Delivery) -> None:
        raise OSError

    monkeypatch.setattr("butter_middleware.pipeline.worker.RESTART_SECONDS", 60.0)
    monkeypatch.setattr(Delivery, "prepare", fail)
    butter = make_butter(outbox=path)
    butter.pipeline.start()
    until(lambda: "delivering:OSError" in butter.status().faults and not butter.pipeline.leads, "the lead is released")
    anyio.run(butter.pipeline.open)
    with closing(SQLiteOutbox(path).store()) as other:
        other.open()
        assert other.lead()


def test_sending_goes_on_after_a_disk_fault_while_the_lead_is_taken(
    make_butter: Callable[..., Butter], path: Path, fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that has the lock sends as soon as the disk works again."""
    counts, faults = SQLiteStore.counts, [OSError(errno.EIO, "")]

    def fail_once(store: SQLiteStore) -> Counts:
        if faults:
            raise faults.pop()
        return counts(store)

    monkeypatch.setattr(SQLiteStore, "counts", fail_once)
    buy(make_butter(outbox=path), "a")
    until(lambda: len(fake.records) == 1, "the record is sent")
    assert not faults


def test_the_end_of_a_hold_is_written_after_a_fault_of_the_disk(
    make_butter: Callable[..., Butter], path: Path, fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise health would report the hold until the next start."""
    write, faults = SQLiteStore.set_hold, [OSError(errno.EIO, "")]

    def fail_once(store: SQLiteStore, reason: str | None) -> None:
        if reason is None and faults:
            raise faults.pop()
        write(store, reason)

    monkeypatch.setattr(SQLiteStore, "set_hold", fail_once)
    monkeypatch.setattr(CircuitBreaker, "_probe_later", lambda *_least: None)  # it then probes at once
    fake.respond_with(401)
    butter = make_butter(outbox=path)
    buy(butter, "a")
    until(lambda: butter.pipeline.counts().hold is not None, "the hold is in the file")
    until(lambda: not faults, "its end was not written")
    buy(butter, "b")
    until(lambda: butter.pipeline.counts().hold is None, "its end is in the file")


def test_a_process_whose_lock_was_removed_does_not_send_while_another_leads(
    make_butter: Callable[..., Butter], path: Path, fake: FakeButter
) -> None:
    """A cleanup job removed the lock file, and another process took the lead with a new one."""
    butter = make_butter(outbox=path)
    butter.pipeline.start()
    until(lambda: butter.pipeline.leads, "it leads")
    with closing(SQLiteOutbox(path).store()) as other:
        other.open()
        take_lead_from(butter, path, other)
        assert other.lead()
        butter.record(checkout("a"))
        until(lambda: other.counts().pending == 1, "the record is in the file")
        look_again(butter)
        assert fake.records == []
    until(lambda: butter.pipeline.leads, "it leads again")
    until(lambda: len(fake.records) == 1, "the record is sent")


def test_records_loaded_ahead_are_not_sent_after_the_lead_is_lost(
    make_butter: Callable[..., Butter], path: Path, fake: FakeButter
) -> None:
    """The new leader sends them. Only a request in flight may be sent twice."""
    held = Held(fake)
    butter = make_butter(outbox=path, senders=1, transport=held)
    for name in ("a", "b", "c"):
        butter.record(checkout(name))
    participant = butter.pipeline.participant
    assert participant is not None
    until(lambda: held.asked.is_set() and len(participant.sender.held) == 3, "one is in flight, two are ahead")
    with closing(SQLiteOutbox(path).store()) as other:
        other.open()
        take_lead_from(butter, path, other)
        held.answers.set()
        until(lambda: not participant.sender.held, "they are put back")
        assert {record["invoice_id"] for record in fake.records} <= {"in_a"}
    until(lambda: butter.status().pending == 0, "it leads again and sends all")
    assert {record["invoice_id"] for record in fake.records} == {"in_a", "in_b", "in_c"}


def test_a_flush_waits_for_another_process_that_leads(
    make_butter: Callable[..., Butter], path: Path, fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Butter's last answer to this process tells nothing about what the other one sends."""
    next_due, asked = SQLiteStore.next_due, threading.Event()

    def note(store: SQLiteStore) -> float | None:
        asked.set()
        return next_due(store)

    monkeypatch.setattr(SQLiteStore, "next_due", note)
    fake.respond_with(429)
    butter = make_butter(outbox=path)
    butter.record(checkout("a"))
    until(lambda: butter.status().endpoint == "paused", "the answer")
    assert not butter.flush(60)  # it leads, and waiting cannot help
    with closing(SQLiteOutbox(path).store()) as other, ThreadPoolExecutor() as pool:
        other.open()
        take_lead_from(butter, path, other)
        asked.clear()
        flushed = pool.submit(butter.flush, 60)
        assert asked.wait(20)
        settle_all(other, Settled.DELIVERED)
        assert flushed.result()


def test_the_leader_reads_the_captures_of_a_process_that_ended(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads captures of any age: each look moves the mark below which captures no longer have a reader."""
    monkeypatch.setattr("butter_middleware.pipeline.leader.LEFT_BEHIND_SECONDS", 0.3)
    butter = make_butter(outbox=path)
    butter.pipeline.start()
    look_again(butter)
    for number in range(2):
        with existing(path) as other:
            append(other, number)
        until(lambda: len(fake.records) > number, "the record")  # noqa: B023 - it is called at once


def test_a_capture_left_behind_in_which_the_leader_finds_no_checkout_is_parked(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of the process that ended might have found one. Only the next start may skip it."""
    monkeypatch.setattr("butter_middleware.pipeline.leader.LEFT_BEHIND_SECONDS", 0.3)
    first, second = (CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=lambda _: None) for _ in range(2))
    butter = make_butter(first, outbox=path)
    butter.pipeline.start()
    look_again(butter)
    with existing(path) as other:
        append(other, 0)
    until(lambda: butter.status().parked == 1, "the capture is parked")
    assert butter.status().skipped == {"parked:not_a_checkout": 1}
    butter.close()

    again = make_butter(second, outbox=path)
    again.pipeline.start()
    until(lambda: again.status().parked == 0, "it is read once more")
    until(lambda: again.status().skipped == {"not_a_checkout": 1}, "it is skipped")


def test_captures_left_behind_are_read_in_turn_with_new_ones(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout of this process does not wait until all captures of a process that ended are read."""
    monkeypatch.setattr("butter_middleware.pipeline.leader.LEFT_BEHIND_SECONDS", 0.3)
    read, goes_on = list[str](), threading.Event()

    def extract(response: CheckoutResponse) -> dict[str, str]:
        read.append(response.json()["invoice"])
        assert goes_on.wait(20)
        return {"customer_email": "shopper@example.com", "invoice_id": read[-1]}

    route = CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract)
    butter = make_butter(route, outbox=path, durability="before_response")
    butter.pipeline.start()
    look_again(butter)
    with existing(path) as other:
        append(other, *range(5))
    until(lambda: len(read) == 1, "the first of them")
    TestClient(ButterMiddleware(refusing_shop, butter)).post("/checkout/new", headers={"x-forwarded-for": SHOPPER})
    assert butter.pipeline.ask(lambda _store: True, otherwise=False, seconds=20)
    goes_on.set()
    until(lambda: len(fake.records) == 6, "all of them")
    assert read.index("in_new") in {1, 2}


@pytest.mark.parametrize("during_a_look", [False, True])
def test_a_hold_ended_in_the_file_ends_at_once(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    during_a_look: bool,
) -> None:
    """An operator ends it at any moment. The sending process sees that in the file, before its next probe is due."""
    ended: list[Delivery] = []
    end_hold, changed = Delivery.end_hold, SQLiteStore.changed
    fake.respond_with(401)
    butter = make_butter(outbox=path)
    buy(butter, "a")

    def note(delivery: Delivery) -> None:
        ended.append(delivery)
        end_hold(delivery)

    monkeypatch.setattr(Delivery, "end_hold", note)
    with existing(path) as person:
        until(lambda: person.counts().hold is not None, "the hold is in the file")
        look_again(butter)

        def end() -> None:
            person.write(lambda connection: set_hold(connection, None))

        def changed_before(store: SQLiteStore) -> bool:
            was_changed = changed(store)
            if not was_changed:
                monkeypatch.setattr(SQLiteStore, "changed", changed)
                end()
            return was_changed

        if during_a_look:
            monkeypatch.setattr(SQLiteStore, "changed", changed_before)
        else:
            end()
        until(lambda: len(fake.records) == 1, "the record")
    assert len(ended) == 1


def test_a_hanging_extractor_gives_up_the_lead_and_loses_no_record(
    make_butter: Callable[..., Butter],
    path: Path,
    fake: FakeButter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its capture is parked and another process may lead. If none does, this one continues. No record is lost."""
    monkeypatch.setattr("butter_middleware.pipeline.leader.LEAD_SECONDS", 0.01)
    hanging, goes_on, under_way = threading.Event(), threading.Event(), threading.Event()

    def extract(response: CheckoutResponse) -> dict[str, str]:
        if response.request.path_params["cart_id"] == "hangs":
            hanging.set()
            assert goes_on.wait(40)
        return {"customer_email": "shopper@example.com", "invoice_id": f"in_{response.request.path_params['cart_id']}"}

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if not under_way.is_set():
                under_way.set()
                await anyio.sleep_forever()
            return await fake.transport().handle_async_request(request)

    butter = make_butter(
        CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract), outbox=path, transport=Transport()
    )
    client = TestClient(ButterMiddleware(refusing_shop, butter))
    client.post("/checkout/first", headers={"x-forwarded-for": SHOPPER})
    assert under_way.wait(20)
    monkeypatch.setattr("butter_middleware.pipeline.participant.TOO_SLOW_SECONDS", 0.1)  # the first one was read
    other = Locks(str(path))
    assert other.take(READERS)
    client.post("/checkout/hangs", headers={"x-forwarded-for": SHOPPER})
    assert hanging.wait(20)
    until(lambda: other.take(LEAD), "the lead is released")
    until(lambda: butter.status().parked == 1, "the capture is parked")
    assert "has been reading this capture for a minute" in caplog.text
    butter.record(checkout("meanwhile"))
    other.release(LEAD)
    until(lambda: len(fake.records) == 2, "what needs no extractor is sent")
    goes_on.set()
    until(lambda: len(fake.records) == 3, "all records are sent")
    assert {record["invoice_id"] for record in fake.records} == {"in_first", "in_meanwhile", "in_hangs"}
    other.close()


@pytest.mark.parametrize("records", [1, 40])
def test_the_lead_is_released_after_the_requests_in_flight(
    make_butter: Callable[..., Butter], path: Path, fake: FakeButter, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    """Otherwise the next leader would send their records again. No more records of a backlog are taken meanwhile."""
    monkeypatch.setattr("butter_middleware.pipeline.leader.LEAVE_SECONDS", 3600.0)
    monkeypatch.setattr("butter_middleware.pipeline.participant.TOO_SLOW_SECONDS", 0.1)
    goes_on, under_way, begun = threading.Event(), threading.Event(), list[httpx.Request]()

    def extract(_response: CheckoutResponse) -> None:
        goes_on.wait(40)

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            begun.append(request)
            under_way.set()
            await anyio.to_thread.run_sync(until, lambda: butter.status().parked == 1, "the capture is parked")
            await anyio.sleep(0.2)  # meanwhile another process could lead
            return await fake.transport().handle_async_request(request)

    route = CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract)
    butter = make_butter(route, outbox=path, transport=Transport())
    for number in range(records):
        butter.record(checkout(str(number)))
    assert under_way.wait(20)
    other = Locks(str(path))
    assert other.take(READERS)
    TestClient(ButterMiddleware(refusing_shop, butter)).post("/checkout/hangs", headers={"x-forwarded-for": SHOPPER})
    until(lambda: other.take(LEAD), "the lead is released")
    with existing(path) as store:
        counts = store.counts()
    assert (counts.pending, counts.delivered) == (records - len(begun), len(begun))
    assert counts.pending or records == 1
    goes_on.set()
    other.close()


@pytest.mark.parametrize("file", [None, "butter.db"])
def test_a_hanging_extractor_does_not_stop_sending(
    make_butter: Callable[..., Butter],
    tmp_path: Path,
    fake: FakeButter,
    monkeypatch: pytest.MonkeyPatch,
    file: str | None,
) -> None:
    """A process without others continues to send."""
    monkeypatch.setattr("butter_middleware.pipeline.participant.TOO_SLOW_SECONDS", 0.01)
    goes_on = threading.Event()

    def extract(_response: CheckoutResponse) -> None:
        goes_on.wait(40)

    route = CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract)
    butter = make_butter(route, outbox=file and tmp_path / file)
    TestClient(ButterMiddleware(refusing_shop, butter)).post("/checkout/hangs", headers={"x-forwarded-for": SHOPPER})
    until(lambda: butter.status().parked == 1, "the capture is parked")
    butter.record(checkout("1"))
    until(lambda: len(fake.records) == 1, "the record is sent")
    goes_on.set()


def test_a_capture_that_hangs_beside_the_leader_is_parked(
    make_butter: Callable[..., Butter], path: Path, fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two Butters of one file in a process, the one that does not lead hangs. What it gives later is sent."""
    monkeypatch.setattr("butter_middleware.pipeline.participant.TOO_SLOW_SECONDS", 0.1)
    goes_on = threading.Event()

    def extract(_response: CheckoutResponse) -> dict[str, str]:
        assert goes_on.wait(40)
        return {"customer_email": "shopper@example.com", "invoice_id": "in_late"}

    leader = make_butter(outbox=path)
    leader.pipeline.start()
    until(lambda: leader.pipeline.leads, "the lead")
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract), outbox=path)
    TestClient(ButterMiddleware(refusing_shop, butter)).post("/checkout/hangs", headers={"x-forwarded-for": SHOPPER})
    until(lambda: leader.status().parked == 1, "the capture is parked")
    assert leader.pipeline.leads
    goes_on.set()
    until(lambda: [record["invoice_id"] for record in fake.records] == ["in_late"], "its record")
    until(lambda: leader.status().parked == 0, "it is not parked any more")


def test_a_capture_that_hangs_is_parked_once(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two apps of a process start while it hangs, so the lead is checked twice before anything is written."""
    asked, goes_on, continues, events = threading.Event(), threading.Event(), threading.Event(), list[Event]()

    def extract(_response: CheckoutResponse) -> None:
        asked.set()
        goes_on.wait(40)

    route = CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract)
    butters = [make_butter(route, outbox=path, on_event=events.append) for _ in range(2)]
    for butter in butters:
        butter.pipeline.start()
    until(lambda: butters[0].pipeline.leads, "the lead")
    TestClient(ButterMiddleware(refusing_shop, butters[1])).post("/checkout/a", headers={"x-forwarded-for": SHOPPER})
    assert asked.wait(20)
    waiting = butters[0].pipeline.request(lambda _store: continues.wait(20))
    until(waiting.running, "the store's thread waits")
    monkeypatch.setattr("butter_middleware.pipeline.participant.TOO_SLOW_SECONDS", 0.1)
    for butter in butters:
        anyio.run(butter.pipeline.open)
    continues.set()
    until(lambda: butters[0].status().parked == 1, "the capture is parked")
    goes_on.set()
    assert butters[1].flush(20)
    assert [event.reason for event in events if event.name == "parked"] == ["too_slow"]


def test_an_old_release_leaves_an_upgraded_file_to_the_new_one(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a rolling upgrade the old process gives up the lead, keeps its captures in memory, and logs this once."""
    butter = make_butter(outbox=path)
    butter.pipeline.start()
    until(lambda: butter.pipeline.leads, "the lead")
    with closing(sqlite3.connect(path)) as connection:
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("PRAGMA user_version = 1000")
        assert butter.pipeline.ask(lambda store: store.disconnect(), otherwise=False, seconds=20)
        buy(butter, "a", "b")
        until(lambda: not butter.pipeline.leads, "the lead is released")
        other = Locks(str(path))
        until(lambda: other.take(LEAD), "another process may lead")
        other.close()
        assert (butter.status().lost, fake.records) == (0, [])
        connection.execute(f"PRAGMA user_version = {schema}")
    assert butter.flush(20)
    assert sorted(record["invoice_id"] for record in fake.records) == ["in_a", "in_b"]
    assert len([line for line in caplog.messages if "newer version" in line]) == 1
