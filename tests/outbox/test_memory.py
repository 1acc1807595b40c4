"""What is particular to the outbox in memory: its bounds, and what it says about itself."""

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
from butter_middleware.outbox import Settled
from butter_middleware.outbox.base import new_records, size_of
from butter_middleware.outbox.memory import KEPT, MOST_BYTES, TOMBSTONES, MemoryStore
from butter_middleware.testing import FakeButter


def test_it_says_what_it_cannot_keep() -> None:
    """One warning at the start: what is lost, when, and the remedy."""
    (warning,) = MemoryOutbox().validate()
    assert "lost when this process is killed" in warning
    assert "Set outbox=" in warning
    assert not MemoryOutbox().durable


@pytest.mark.parametrize("limit", [0, -1, 1e4, "x", None])
def test_a_limit_without_room_is_refused(limit: Any) -> None:
    """A bound below one record, or one that is not a whole number, is a mistake."""
    with pytest.raises(ConfigurationError, match=r"limit=.*: use a (whole )?number"):
        MemoryOutbox(limit)


@pytest.mark.parametrize("make", [MemoryOutbox, partial(SQLiteOutbox, "butter.db")])
def test_a_clock_that_tells_no_time_is_refused(make: Callable[..., object]) -> None:
    """When it is built, not amid a checkout."""
    with pytest.raises(ConfigurationError, match=r"clock gives str, which is not a time\. Pass .*time\.time"):
        make(clock=str)


def test_its_bound_counts_what_waits() -> None:
    """What is to be read and to be sent fills it; delivering or skipping makes room."""
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


def test_what_is_parked_or_dead_takes_no_room() -> None:
    """An extractor that always raises does not fill it: each capture is counted, a thousand are remembered by head."""
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


def test_its_bytes_are_bounded_with_the_headers() -> None:
    """Everything of a capture counts, so that long headers do not fill the memory; what is resolved makes room."""
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
def test_everything_that_is_kept_counts(field: dict[str, Any]) -> None:
    """Whatever of a capture is long: 128 MiB hold no more than 128 captures of a mebibyte."""
    store = MemoryOutbox().store()
    long = capture(1, **field)
    store.append([long] * 120)
    with pytest.raises(OutboxFullError):
        store.append([long] * 9)


def test_the_bound_of_its_bytes_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fills it to the last byte is taken."""
    monkeypatch.setattr("butter_middleware.outbox.memory.MOST_BYTES", 3 * size_of(capture(1)))
    store = MemoryOutbox().store()
    append(store, 1, 2, 3)
    with pytest.raises(OutboxFullError):
        append(store, 4)


def test_what_a_checkout_resolves_to_is_always_taken() -> None:
    """The bound refuses what comes, never what is already inside: several records of one checkout are kept."""
    store = MemoryOutbox(1).store()
    (number,) = append(store, 1)
    assert len(new_records(resolve(store, number, *(record(each) for each in range(3))).outcomes)) == 3
    assert len(store.due(10)) == 3


def test_it_remembers_a_bounded_number_of_keys() -> None:
    """Keys of delivered records are forgotten by age and by number: memory does not grow for ever."""
    store = MemoryOutbox(2 * TOMBSTONES).store()
    for number in range(TOMBSTONES + 2):
        store._bury(f"key {number}")
    assert len(store._tombstones) == TOMBSTONES


def test_a_shop_that_runs_for_long_keeps_nothing_of_what_was_delivered(
    make_butter: Callable[..., Butter], fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heaps of due times also have the records that are sent at once. They leave them."""
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
def test_a_child_has_none_of_it() -> None:
    """What the parent is going to deliver is forgotten in a forked child, and stays the parent's."""
    store = MemoryOutbox(clock=Clock()).store()
    store.add([record(1)])
    assert store.disconnect()
    child = os.fork()
    if child == 0:
        store.forget()
        os._exit(len(store.due(10)))
    assert os.waitpid(child, 0)[1] == 0
    assert invoices(store.due(10)) == ["in_1"]
