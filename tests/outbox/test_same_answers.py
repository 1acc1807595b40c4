"""The store in memory and the one on disk return the same results for the same calls, in any order."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outboxes import NOW, SteadyClock, append

from butter_middleware import Checkout, MemoryOutbox, SQLiteOutbox
from butter_middleware.models.checkout import Record
from butter_middleware.models.partial import Part
from butter_middleware.outbox import Count, Parked, ParkReason, Pending, Resolution, Settled, Settlement, Store
from butter_middleware.outbox.base import Outcome

ADDRESSES = ("81.2.69.142", "81.2.69.160")
NUMBERS = st.integers(0, 2)
RECORDS = st.builds(
    lambda number, address, charged, age: Record.of(
        Checkout(
            ipv4_address=ADDRESSES[address],
            psp="stripe",
            customer_email="shopper@example.com",
            invoice_id=f"in_{number}",
            charge_id=f"ch_{number}" if charged else None,
        ),
        NOW - age,
    ),
    NUMBERS,
    st.integers(0, 1),
    st.booleans(),
    st.integers(0, 100),
)
PARTS = st.builds(
    lambda number, shopper: Part(
        Part.key_of("stripe", f"cs_{number}"),
        shopper,
        {"psp": "stripe"}
        | (
            {"ipv4_address": ADDRESSES[0]}
            if shopper
            else {"customer_email": "shopper@example.com", "invoice_id": f"in_{number}"}
        ),
        NOW,
    ),
    NUMBERS,
    st.booleans(),
)
NAMES, ROUTES, TIMES = st.sampled_from(["recorded", "skipped"]), st.sampled_from(["", "/a"]), st.integers(1, 2)
COUNTS = st.lists(st.builds(Count, NAMES, ROUTES, st.just(""), TIMES), max_size=2)
TOKENS = st.sampled_from(["", "", "token"])
RESOLUTIONS = st.one_of(
    st.builds(Resolution, st.just(0), st.lists(RECORDS, max_size=2), token=TOKENS, counts=COUNTS),
    st.builds(Resolution, st.just(0), part=PARTS, counts=COUNTS),
    st.builds(
        Resolution,
        st.just(0),
        parked=st.builds(Parked, st.just(ParkReason.INVALID), st.just(""), st.lists(RECORDS, max_size=1)),
        counts=COUNTS,
    ),
)
SETTLEMENTS = st.builds(
    Settlement, st.just(0), st.sampled_from(Settled), st.sampled_from([0.0, NOW + 5, NOW + 1800]), st.just("422")
)
PLACES = st.integers(0, 3)
RESOLVE = st.tuples(st.just("resolve"), PLACES, RESOLUTIONS)
ADD = st.tuples(st.just("add"), st.lists(RECORDS, min_size=1, max_size=3), COUNTS)
SETTLE = st.tuples(st.just("settle"), PLACES, SETTLEMENTS)
STEPS = st.one_of(
    *(RESOLVE, RESOLVE, RESOLVE, ADD, ADD, SETTLE, SETTLE, SETTLE),
    st.tuples(st.just("append"), st.integers(1, 3), st.booleans()),
    st.tuples(st.just("set_hold"), st.sampled_from(["401", None]), st.none()),
    st.tuples(st.just("expire"), st.integers(0, 3 * 86400), st.none()),
    st.tuples(st.just("pass_time"), st.sampled_from([1, 60, 7200, 86400, 8 * 86400]), st.none()),
)


@dataclass
class Told:
    """A store and the IDs that it returned. They mean nothing in another store."""

    store: Store
    clock: SteadyClock
    captures: list[int] = field(default_factory=list[int])
    pending: list[int] = field(default_factory=list[int])
    has_dead: bool = False

    def append(self, count: int, owned: bool) -> None:  # noqa: FBT001 - drawn
        self.captures += append(self.store, *range(count), owned=owned)

    def resolve(self, place: int, resolution: Resolution) -> Any:
        if place >= len(self.captures):
            self.append(1, owned=True)
        number = self.captures[min(place, len(self.captures) - 1)]
        (resolved,) = self.store.resolve([replace(resolution, id=number)])
        if not resolved.replayed:
            self.captures.remove(number)
        return resolved.there, resolved.replayed, self.outcomes(resolved.outcomes)

    def add(self, records: Sequence[Record], counts: Sequence[Count]) -> Any:
        self.store.count(counts)
        return self.outcomes(self.store.add(records))

    def outcomes(self, outcomes: Sequence[Outcome]) -> list[object]:
        self.pending += [outcome.id for outcome in outcomes if isinstance(outcome, Pending)]
        return [outcome.record if isinstance(outcome, Pending) else outcome for outcome in outcomes]

    def settle(self, place: int, settlement: Settlement) -> None:
        if place < len(self.pending):
            number = self.pending[place]
            self.store.settle([replace(settlement, id=number)])
            if settlement.settled in {Settled.DELIVERED, Settled.DEAD}:
                self.pending.remove(number)
            self.has_dead |= settlement.settled is Settled.DEAD

    def set_hold(self, reason: str | None, _nothing: None) -> None:
        self.store.set_hold(reason)

    def expire(self, age: int, _nothing: None) -> int:
        return self.store.expire(self.clock() - age)

    def pass_time(self, _seconds: int, _nothing: None) -> bool:
        return self.store.prune()

    def looks(self) -> Any:
        """Return everything that it reports."""
        store, passed = self.store, self.pending[2:3]
        counts = store.counts()
        below = max(self.captures[:2], default=0)
        return (
            replace(counts, epoch=0, newest_capture=0),
            [(one.record, one.attempts) for one in store.due(3, passed)],
            store.next_due(),
            store.counted(),
            store.counted(self.clock() - 3600),
            [self.captures.index(one.id) for one in store.unread(2, below=below, exclude=self.captures[:1])],
            [self.captures.index(one.id) for one in store.load(self.captures)],
        )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=10, max_size=30))
def test_memory_and_disk_return_the_same_results(steps: list[tuple[str, Any, Any]]) -> None:
    """The calls are about captures, parts, records, settlements and counts, while time passes."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        clock = SteadyClock.installed(monkeypatch)
        outboxes = MemoryOutbox(clock=clock), SQLiteOutbox(Path(folder) / "butter.db", clock=clock)
        both = [Told(outbox.store(), clock) for outbox in outboxes]
        for one in both:
            one.store.open()
            one.store.prune()
        for name, *arguments in steps:
            if name == "pass_time":  # memory forgets the key of a dead record after a week, a file does not
                clock.pass_(min(arguments[0], 60) if both[0].has_dead else arguments[0])
            ask: Callable[[Told], Any] = lambda one: getattr(one, name)(*arguments)  # noqa: B023, E731 - called here
            in_memory, on_disk = map(ask, both)
            assert in_memory == on_disk, name
            in_memory, on_disk = (one.looks() for one in both)
            assert in_memory == on_disk, name
        for one in both:
            one.store.close()
