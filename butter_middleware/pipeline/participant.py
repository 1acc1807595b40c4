"""One `Butter` in one process: its reader, its sender, and its share of a store thread."""

import hashlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from threading import Condition, RLock
from typing import TYPE_CHECKING, Final

from butter_middleware.events import Event, Faulted, OutboxChanged, Skipped
from butter_middleware.models.checkout import Record
from butter_middleware.models.partial import EXPIRED
from butter_middleware.models.reasons import SEVERAL_ADDRESSES, ParkReason, Skip
from butter_middleware.outbox.base import (
    Count,
    Outcome,
    Parked,
    Resolution,
    Resolved,
    Settled,
    Settlement,
    Store,
    new_records,
)
from butter_middleware.outbox.faults import ClockError, Fault, fault_of
from butter_middleware.pipeline import checkout_log
from butter_middleware.pipeline.entries import Addition, Entry, Reading
from butter_middleware.pipeline.reader_thread import MOST_AHEAD, ReaderThread
from butter_middleware.pipeline.sender_thread import SenderThread
from butter_middleware.reader.reader import ReadResult
from butter_middleware.reader.result_events import events_of

if TYPE_CHECKING:
    from butter_middleware.pipeline.components import Components
    from butter_middleware.pipeline.store_thread import StoreThread
    from butter_middleware.pipeline.worker import Worker

TOO_SLOW_SECONDS: Final = 60.0
"""How long one capture may be read before the lead is released."""
POLL_SECONDS: Final = 0.25
"""Between checks by waiting threads, if nothing changes."""


class Participant:
    """Takes the store's results for the captures and records of one `Butter`, on the store's thread.

    Args:
        components: The parts of the `Butter`.
        configuration: A digest. Another configuration tries parked captures again at once.
        thread: The store's thread.
        read: Reads the capture of an entry.
        prepare: Called on the sender's thread before anything is sent.
        look: Called about once a second.
    """

    def __init__(
        self,
        components: "Components",
        configuration: str,
        thread: "StoreThread",
        read: Callable[[Entry], ReadResult],
        prepare: Callable[[], object],
        look: Callable[[], object],
    ) -> None:
        self.owned = self.sends = not components.external
        """False: another process reads and sends what it appends."""
        self.reads = components.reads
        self.configuration = configuration
        self.clock = components.clock
        self.events = components.events
        self.find_route = components.routes.find
        self.thread = thread
        self.reader = ReaderThread(read, self.read)
        self.sender = SenderThread(components.make_delivery(), self, prepare, ping=components.pings)
        self._config = components.config
        self._look = look
        sent = "sent" if components.queue is None else "put into the queue"
        self._checkout_log = checkout_log.CheckoutLog(sent, dry_run=self._config.dry_run)
        self._backlog: deque[Entry] = deque()
        """Captures of this process that are only in the store, the oldest first."""
        self.ids: set[int] = set()
        """The numbers of all captures that this process will resolve."""
        self._unread: set[Entry] = set()
        """The captures of this process that are not resolved."""
        self._others: set[Entry] = set()
        """Captures of other processes that this one reads."""
        self._waiting: dict[int, list[Entry]] = {}
        """By record, the captures whose responses wait for its sending."""
        self._adding: set[Addition] = set()
        """Records of this process that the store does not have yet."""
        # `with self._lock`, not `with self._changed`: the methods of a Condition are Python code. A signal handler
        # may raise between any two steps of that code, and the lock would stay held.
        self._lock = RLock()
        self._changed = Condition(self._lock)
        self._changes = 0
        self._waits = 0
        """The number of waiting threads."""
        self.running = False
        """Whether it was started, without a shutdown since then."""
        self._leaves = False
        """Whether it reads no more, and no response waits for its captures to be read."""

    @property
    def can_lead(self) -> bool:
        """Whether it may send for every process of the host."""
        is_whole = all(worker.alive for worker in self.workers)
        return self.sends and self.running and is_whole and not self.sender.failing

    @property
    def is_awaited(self) -> bool:
        """Whether a thread waits for the results of its captures and records."""
        return self._waits > 0 or bool(self._waiting)

    @property
    def workers(self) -> "Sequence[Worker]":
        """The threads that it needs. The store's is last: its first check may take the lead, if all are alive."""
        others = [(self.reads, self.reader), (self.sends, self.sender)]
        return [*(worker for is_needed, worker in others if is_needed), self.thread]

    @property
    def leads(self) -> bool:
        """Whether it sends for all that share the outbox."""
        return self.thread.leader.is_led_by(self)

    @property
    def hangs_for(self) -> int:
        """For how many times `TOO_SLOW_SECONDS` one capture has been read. 0: the extractor does not hang."""
        return int(self.reader.busy_for // TOO_SLOW_SECONDS)

    # For any thread.

    def append(self, entry: Entry) -> None:
        """Give a capture to the store's thread.

        Raises:
            ButterError: the thread does not take it.
        """
        self._unread.add(entry)
        try:
            self.thread.accept(self.thread.intake, (self, entry), entry.size)
        except BaseException:  # also an exception of a signal handler
            self._forget([entry])
            raise

    def add(self, addition: Addition) -> None:
        """Give records to the store's thread.

        Raises:
            ButterError: the thread does not take them.
        """
        self._adding.add(addition)
        try:
            self.thread.accept(self.thread.additions, (self, addition), addition.size)
        except BaseException:  # as above
            self._adding.discard(addition)
            raise

    @property
    def unfinished(self) -> int:
        """The number of captures and additions of this process that are not resolved in the store."""
        return len(self._unread) + len(self._adding)

    def wait(self, verdict: Callable[[], bool | None], timeout: float) -> bool:
        """Wait until everything is resolved and there is a verdict. False if that takes longer than `timeout`.

        A verdict of None means that the next change may give one.
        """
        deadline = time.monotonic() + timeout
        self._count_waits(1)
        try:
            while True:
                changes = self._changes
                if not self.unfinished and (given := verdict()) is not None:
                    return given
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                with self._lock:
                    if changes == self._changes:
                        self._changed.wait(min(remaining, POLL_SECONDS))
        finally:
            self._count_waits(-1)

    def notify(self) -> None:
        """Wake the waiting threads after a change. A thread that begins to wait meanwhile checks by itself first."""
        if self._waits:
            with self._lock:
                self._changes += 1
                self._changed.notify_all()

    def failed(self, what: str, error: BaseException) -> None:
        """Report a fault of a thread."""
        kind = type(error).__name__
        self.events.emit(Faulted(reason=f"{what}:{kind}", message=f"{what} failed: {kind}", level=logging.CRITICAL))

    # For the reader's thread.

    def read(self, entry: Entry, result: ReadResult) -> None:
        """Take the result of a capture, and let it be written."""
        route, parked = entry.route_name, _parked(entry, result)
        if parked is not result.parked:
            result = replace(result, parked=parked)
        events: list[Event] = list(events_of(route, result))
        kept = len(result.records) + (result.part is not None)
        if self._config.dry_run and kept:
            events.append(Skipped(route=route, reason=Skip.DRY_RUN, times=kept))
        counts = [Count(event.name, event.route, event.reason, event.times) for event in events]
        if self._config.dry_run:
            resolution = Resolution(entry.id, counts=counts)
        else:
            resolution = Resolution(
                entry.id,
                records=() if parked else result.records,
                part=result.part,
                parked=parked,
                token=result.token,
                counts=counts,
                configuration=self.configuration,
            )
        self.thread.resolve(self, Reading(entry, result, events, resolution))

    # For the store's thread.

    def appended(self, entries: Sequence[Entry]) -> None:
        """Let captures be read that are in the store now."""
        if not self.reads:
            if checkout_log.is_on():
                for entry in entries:
                    checkout_log.say(entry.route_name, "kept: another process reads and sends it")
            self._forget(entries)
            return
        if self._leaves:
            self.let_go()
        room = 0 if self._backlog else self.reader.room
        self.reader.offer(entries[:room], fresh=True)
        for entry in entries[room:]:
            entry.leave_in_store()
            self._backlog.append(entry)
        self.ids.update(entry.id for entry in entries)

    def reload(self, store: Store) -> bool:
        """Load captures that are only in the store, if the reader has space. Return whether there were any."""
        if not self._backlog or self.reader.room < MOST_AHEAD // 2:
            return False
        entries, size = list[Entry](), 0
        while self._backlog and len(entries) < self.reader.room and size < self.reader.room_in_bytes:
            entries.append(self._backlog.popleft())
            size += entries[-1].size
        try:
            stored = {one.id: one for one in store.load([entry.id for entry in entries])}
        except BaseException:
            self._backlog.extendleft(reversed(entries))
            raise
        found = [entry for entry in entries if entry.id in stored]
        for entry in found:
            entry.capture = stored[entry.id].capture
        self.reader.offer(found, fresh=True)
        self._forget([entry for entry in entries if entry.id not in stored])
        return True

    def taken_over(self, entries: Sequence[Entry]) -> None:
        """Let captures be read that another process left behind."""
        self._others.update(entries)
        self.ids.update(entry.id for entry in entries)
        self.reader.offer(entries, fresh=False)

    def resolved(self, reading: Reading, resolved: Resolved, *, sends: bool) -> None:
        """Report the result of a capture."""
        entry, result = reading.entry, reading.result
        if resolved.replayed and result.if_replayed is not None:
            self.read(entry, result.if_replayed)
            return
        if resolved.there:
            for event in reading.events:
                self.events.emit(event, written=True)
            self._checkout_log.resolved(entry.route_name, result, resolved.outcomes, sends=sends)
        new = new_records(resolved.outcomes)
        if len(new) < len(resolved.outcomes):
            self._tell_left_out(entry.route_name, resolved.outcomes)
        if entry.until_sent and sends and new:
            entry.left = len(new)
            for pending in new:
                self._waiting.setdefault(pending.id, []).append(entry)
            self.thread.write_at_once()  # an answer may already be there
        else:
            entry.finish()
        self._forget([entry])

    def added(self, addition: Addition, outcomes: Sequence[Outcome], *, sends: bool) -> None:
        """Report the results of records made outside a request."""
        self._checkout_log.added("", outcomes, sends=sends)
        self._tell_left_out("", outcomes)
        self._adding.discard(addition)
        self.notify()

    def settled(self, settlements: Sequence[Settlement]) -> None:
        """Take the settlements of records that this one sent. Another `Butter` of the store may have captured them."""
        self.sender.held.difference_update(settlement.id for settlement in settlements)
        over = [one.id for one in settlements if one.settled is not Settled.RELEASED or one.due_at]
        sending = self.sender.sending if self.sender.ill else None
        for participant in {self, *self.thread.participants}:
            participant.tell_settled(settlements, over, sending)

    def tell_settled(
        self, settlements: Sequence[Settlement], over: Sequence[int], sending: Collection[int] | None
    ) -> None:
        """Report the settlements of records. Release responses that waited for a record that is not retried at once.

        If nothing is sent soon, `sending` are the records on their way, and all others wait.
        """
        self._checkout_log.settled(settlements)
        stopped = () if sending is None else [record for record in self._waiting if record not in sending]
        for record in (*over, *stopped) if self._waiting else ():
            self._sent(record)
        self.notify()

    def release_responses(self) -> None:
        """Release all responses, because this process may never learn the results of their records."""
        for record in [*self._waiting]:
            self._sent(record)

    def let_go(self) -> None:
        """Also release responses whose captures are not read, because this participant leaves and reads no more."""
        self._leaves = True
        for entry in [*self._unread]:
            if entry.id:  # otherwise `appended` releases it
                entry.finish()
        self.release_responses()

    def expired(self, parts: int) -> None:
        """Report parts of checkouts that stayed without a counterpart."""
        if parts:
            self.events.emit(Skipped(reason=Skip.JOIN_EXPIRED, times=parts, message=EXPIRED))

    def expire_before(self) -> float:
        """Return the time before which parts of checkouts are too old, in seconds since the epoch."""
        return self.clock() - self._config.join_ttl

    def in_memory(self) -> Sequence[Entry]:
        """Return the captures that are in memory and have a number in the store."""
        return [entry for entry in [*self._unread, *self._others] if entry.id and entry.is_loaded]

    def addition_of(self, records: Sequence[Record]) -> Addition:
        """Return an addition of records that are in memory. `unfinished` counts it until it is written."""
        addition = Addition(records, Future())
        self._adding.add(addition)
        return addition

    def renumber(self, numbers: Mapping[Entry, int]) -> None:
        """Note that captures were written to another file."""
        for entry, number in numbers.items():
            self.ids.discard(entry.id)
            self.ids.add(number)
            entry.id = number

    def look(self) -> None:
        """Do the checks of about once a second.

        Raises:
            Exception: a fault of the disk.
        """
        try:
            self._look()
        except Exception as error:
            if fault_of(error) is not Fault.OWN and not isinstance(error, ClockError):
                raise
            self.failed("watching", error)

    def unattended(self) -> None:
        """Report that no process sends what this one appends."""
        self.events.emit(OutboxChanged(reason="no_deliverer", message=NO_DELIVERER, level=logging.CRITICAL))

    def lost(self, item: object, error: Exception) -> None:
        """Report an item that could not be written."""
        match item:
            case Entry():
                self._tell_lost(error, item.route_name)
                item.finish()
                self._forget([item])
            case Reading():
                item.entry.finish()  # the capture is in the store, and will be read again
                self._forget([item.entry])
            case Addition():
                for _record in item.records:
                    self._tell_lost(error)
                item.done.set_exception(error)
                self.added(item, (), sends=False)
            case Settlement():
                self.sender.held.discard(item.id)  # the record will be sent again
                self.notify()
            case _:
                self.notify()

    def _tell_left_out(self, route: str, outcomes: Sequence[Outcome]) -> None:
        for reason, times in Counter(outcome for outcome in outcomes if isinstance(outcome, Skip)).items():
            message = SEVERAL_ADDRESSES if reason is Skip.OTHER_ADDRESS else ""
            self.events.emit(Skipped(route=route, reason=reason, times=times, message=message))

    def _tell_lost(self, error: Exception, route: str = "") -> None:
        self.events.lost(error, route)
        checkout_log.say(route, f"lost: {type(error).__name__}")

    def _sent(self, record: int) -> None:
        for entry in self._waiting.pop(record, ()):
            entry.left -= 1
            if entry.left <= 0:
                entry.finish()

    def _count_waits(self, waits: int) -> None:
        with self._lock:
            self._waits += waits
        if waits > 0:
            self.thread.write_at_once()

    def _forget(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._unread.discard(entry)
            self._others.discard(entry)
            self.ids.discard(entry.id)
        self.notify()


def configuration_of(components: "Components") -> str:
    """Return a digest of the options that determine how a capture is read."""
    text = "\n".join([repr(components.strategy), *map(repr, components.routes.routes)])
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


def _parked(entry: Entry, result: ReadResult) -> Parked | None:
    """Return why a capture is parked.

    A capture of another process is not skipped at once, because that process's code might have found a record.
    """
    if result.parked is not None:
        return replace(result.parked, records=result.records)
    nothing = not result.records and result.part is None
    return READ_ELSEWHERE if nothing and entry.taken_over and not entry.parked else None


NO_DELIVERER: Final = (
    "no process delivers what this one appends to the outbox. Run beside it, on this host: "
    "butter-middleware deliver --app shop.main:butter --follow"
)
READ_ELSEWHERE: Final = Parked(
    ParkReason.READ_ELSEWHERE,
    "another process served this checkout and did not read it, and this one finds no checkout in it. It is read once "
    "more after the next start. If two apps share the outbox's file, give each its own.",
)
