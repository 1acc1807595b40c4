"""What is particular to the outbox in memory: its bound, and what it says about itself."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from outboxes import Clock, capture, invoices, record, result, settle_all

from butter_middleware import MemoryOutbox, SQLiteOutbox
from butter_middleware.errors import ConfigurationError, OutboxFullError
from butter_middleware.models.reasons import ParkReason
from butter_middleware.outbox import Parked, Settled
from butter_middleware.outbox.memory import TOMBSTONES


def test_it_says_what_it_cannot_keep() -> None:
    """One warning at the start: what is lost, when, and the remedy."""
    (warning,) = MemoryOutbox().validate()
    assert "lost when this process is killed" in warning
    assert "Set outbox=" in warning
    assert not MemoryOutbox().durable


@pytest.mark.parametrize("limit", [0, -1, 1e4, "x", None])
def test_a_limit_without_room_is_refused(limit: Any) -> None:
    """A bound below one record, or one that is no whole number, is a mistake."""
    with pytest.raises(ConfigurationError, match=r"limit=.*: use a (whole )?number"):
        MemoryOutbox(limit)


@pytest.mark.parametrize("make", [MemoryOutbox, partial(SQLiteOutbox, "butter.db")])
def test_a_clock_that_tells_no_time_is_refused(make: Callable[..., object]) -> None:
    """When it is built, not amid a checkout."""
    with pytest.raises(ConfigurationError, match=r"clock gives str, which is not a time\. Pass .*time\.time"):
        make(clock=str)


def test_its_bound_counts_all_that_it_keeps() -> None:
    """Captured, given, parked, pending and dead fill it; delivering or skipping makes room."""
    outbox = MemoryOutbox(5)
    result(outbox.add([record(1), record(2)]))
    assert settle_all(outbox, Settled.DEAD, 1) == 1
    for number in range(3):
        result(outbox.append(capture(number)))
    given = result(outbox.captures(2))
    result(outbox.resolve(given[0].id, Parked(ParkReason.NO_EMAIL, "")))
    assert isinstance(outbox.append(capture(9)).exception(), OutboxFullError)
    assert isinstance(outbox.add([record(9)]).exception(), OutboxFullError)
    result(outbox.resolve(given[1].id, []))
    assert isinstance(outbox.add([record(8), record(9)]).exception(), OutboxFullError)
    assert result(outbox.add([record(9)])) == 0
    settle_all(outbox, Settled.DELIVERED, 1)
    result(outbox.append(capture(9)))


def test_what_a_checkout_resolves_to_is_always_taken() -> None:
    """The bound refuses what comes, never what is already inside: several records of one checkout are kept."""
    outbox = MemoryOutbox(1)
    result(outbox.append(capture(1)))
    (stored,) = result(outbox.captures(1))
    assert result(outbox.resolve(stored.id, [record(number) for number in range(3)])) == 0
    assert len(result(outbox.claim(10))) == 3


def test_it_remembers_a_bounded_number_of_keys() -> None:
    """Keys of delivered records are forgotten by age and by number: memory does not grow for ever."""
    outbox = MemoryOutbox(2 * TOMBSTONES)
    for number in range(TOMBSTONES + 2):
        outbox._tombstones[f"key {number}"] = outbox._clock()
    result(outbox.add([record(1)]))
    assert len(outbox._tombstones) == TOMBSTONES


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_has_none_of_it() -> None:
    """What the parent is going to deliver is forgotten in a forked child, and stays the parent's."""
    outbox = MemoryOutbox(clock=Clock())
    result(outbox.add([record(1)]))
    child = os.fork()
    if child == 0:
        outbox.abandon()
        os._exit(len(result(outbox.claim(10))))
    assert os.waitpid(child, 0)[1] == 0
    assert invoices(result(outbox.claim(10))) == ["in_1"]
