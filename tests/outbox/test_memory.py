"""What is special about the outbox in memory: its limits, and its messages."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from outboxes import Clock, append, capture, invoices, park, record, resolve, settle_all
from processes import until
from shops import buy

from butter_middleware import Butter, MemoryOutbox, SQLiteOutbox
from butter_middleware.errors import ConfigurationError, OutboxFullError
from butter_middleware.models.reasons import Skip
from butter_middleware.outbox import Settled
from butter_middleware.outbox.base import new_records, size_of
from butter_middleware.outbox.memory import KEPT, MOST_BYTES, MemoryStore
from butter_middleware.testing import FakeButter


def test_it_warns_about_losses() -> None:
    """One warning at the start: what is lost, when, and the remedy."""
    (warning,) = MemoryOutbox().validate()
    assert "lost when this process is killed" in warning
    assert "Set outbox=" in warning
    assert not MemoryOutbox().durable


@pytest.mark.parametrize("limit", [0, -1, 1e4, "x", None])
def test_a_limit_below_one_record_is_refused(limit: Any) -> None:
    """So is one that is not a whole number."""
    with pytest.raises(ConfigurationError, match=r"limit=.*: use a (whole )?number"):
        MemoryOutbox(limit)


@pytest.mark.parametrize("make", [MemoryOutbox, partial(SQLiteOutbox, "butter.db")])
def test_a_clock_without_numbers_is_refused(make: Callable[..., object]) -> None:
    """It is refused when the outbox is built, not during a checkout."""
    with pytest.raises(ConfigurationError, match=r"clock gives str, which is not a time\. Pass .*time\.time"):
        make(clock=str)


def test_its_limit_counts_waiting_captures_and_records() -> None:
    """A delivery or a skip makes room."""
    store = MemoryOutbox(4).store()
    store.add([record(1), record(2)])
    first, _second = append(store, 1, 2)
    for refused in (lambda: append(store, 9), lambda: store.add([record(9)])):
        with pytest.raises(OutboxFullError):
            refused()
    resolve(store, first)
    with pytest.raises(OutboxFullError):
        append(store, 8, 9)
    append(store, 9)
    settle_all(store, Settled.DELIVERED, 1)
    store.add([record(9)])
    assert (store.counts().captured, store.counts().pending) == (2, 2)


def test_parked_captures_and_dead_records_take_no_room() -> None:
    """An extractor that always raises does not fill it. All captures are counted, and a thousand heads are kept."""
    store = MemoryOutbox(2).store()
    for number in range(KEPT + 100):
        park(store, number)
        store.add([record(number)])
        settle_all(store, Settled.DEAD, reason="422")
    counts = store.counts()
    assert (counts.parked, counts.dead, counts.captured, counts.pending) == (KEPT + 100, KEPT + 100, 0, 0)
    assert (len(store.parked), len(store.dead)) == (KEPT, KEPT)
    assert store.parked[-1].detail == f"KeyError in shop.py:{KEPT + 99}"
    assert (store.dead[-1].reason, store.dead[-1].detail) == ("422", record(KEPT + 99).key)
    append(store, 1, 2)


def test_its_bytes_are_limited_with_the_headers() -> None:
    """All of a capture counts, so that long headers cannot fill the memory. A resolved capture makes room."""
    headers = [(b"x", bytes(60_000))]
    long = capture(1, headers=headers)
    assert size_of(long) > 60_000
    store = MemoryOutbox().store()
    most = MOST_BYTES // size_of(long)
    numbers = store.append([long] * most)
    with pytest.raises(OutboxFullError):
        store.append([long])
    resolve(store, numbers[0])
    store.append([long])


@pytest.mark.parametrize(
    "field",
    [
        {"headers": [(b"x", bytes(1024**2))]},
        {"headers": [(b"x", b"")] * 10_600},
        {"response_headers": [(b"x", bytes(1024**2))]},
        {"path": "/checkout/" + "7" * 1024**2},
        {"query_string": bytes(1024**2)},
        {"body": bytes(1024**2)},
        {"request_body": bytes(1024**2)},
        {"annotations": {"invoice_id": "7" * 1024**2}},
        {"cookies": {"token": "7" * 1024**2}},
    ],
    ids="".join,
)
def test_all_that_is_kept_of_a_capture_counts(field: dict[str, Any]) -> None:
    """Any part of a capture may be long: 128 MiB hold no more than 128 captures of a mebibyte."""
    store = MemoryOutbox().store()
    long = capture(1, **field)
    store.append([long] * 120)
    with pytest.raises(OutboxFullError):
        store.append([long] * 9)


def test_the_limit_of_its_bytes_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture that fills the last byte is accepted."""
    monkeypatch.setattr("butter_middleware.outbox.memory.MOST_BYTES", 3 * size_of(capture(1)))
    store = MemoryOutbox().store()
    append(store, 1, 2, 3)
    with pytest.raises(OutboxFullError):
        append(store, 4)


def test_the_records_of_a_checkout_are_always_accepted() -> None:
    """The limit refuses new captures only. All records of an accepted checkout are kept."""
    store = MemoryOutbox(1).store()
    (number,) = append(store, 1)
    assert len(new_records(resolve(store, number, *(record(each) for each in range(3))).outcomes)) == 3
    assert len(store.due(10)) == 3


def test_it_keeps_a_limited_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow forever: of delivered records the newest are known, and the oldest are forgotten."""
    monkeypatch.setattr("butter_middleware.outbox.memory.TOMBSTONES", 10)
    store = MemoryOutbox().store()
    for number in range(12):
        store.add([record(number)])
        settle_all(store, Settled.DELIVERED)
    again = store.add([record(number) for number in range(12)])
    assert [outcome is Skip.DUPLICATE for outcome in again] == [False] * 2 + [True] * 10


def test_delivered_records_leave_the_heaps(
    make_butter: Callable[..., Butter], fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heaps of due times also contain records that are sent at once. They are removed after delivery."""
    monkeypatch.setattr("butter_middleware.outbox.memory.SPARE", 0)
    monkeypatch.setattr("butter_middleware.pipeline.store_thread.PRUNE_SECONDS", 0.01)
    butter = make_butter()
    buy(butter, *map(str, range(20)))
    assert (butter.flush(20), len(fake.records)) == (True, 20)

    def kept(store: object) -> int:
        assert isinstance(store, MemoryStore)
        return len(store._due) + len(store._oldest)

    until(lambda: butter.pipeline.ask(kept, -1) == 0, "the empty heaps")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_none_of_it() -> None:
    """The child forgets the parent's records, and the parent keeps them."""
    store = MemoryOutbox(clock=Clock()).store()
    store.add([record(1)])
    assert store.disconnect()
    child = os.fork()
    if child == 0:
        store.forget()
        os._exit(len(store.due(10)))
    assert os.waitpid(child, 0)[1] == 0
    assert invoices(store.due(10)) == ["in_1"]
