"""The thread that owns a store: every transaction of this process happens here, one after the other.

    requests ──► intake ──► append ──► the reader's look-ahead
    reader ───► resolutions ──► resolve ──► the sender's look-ahead
    sender ───► settlements ──► settle

It runs none of the merchant's code and uses no network. After a fault of the disk, the batch returns to the front of
its queue. The fault is classified and logged once, and the batch is tried again with backoff.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from threading import Event, RLock
from typing import Any, Final, TypeVar

from butter_middleware._utils import log_thread
from butter_middleware.errors import OutboxClosedError, OutboxFullError, OutboxReplacedError
from butter_middleware.outbox.base import Count, Outcome, Resolved, Settled, Settlement, Store, new_records
from butter_middleware.outbox.faults import Fault, describe, fault_of
from butter_middleware.pipeline.entries import Addition, Entry, Reading
from butter_middleware.pipeline.leader import Leader
from butter_middleware.pipeline.participant import Participant
from butter_middleware.pipeline.worker import Worker

T = TypeVar("T")
R = TypeVar("R")

BATCH: Final = 512
"""The most captures, resolutions or settlements in one transaction."""
BATCH_BYTES: Final = 4 * 1024**2
MOST_WAITING: Final = 10_000
"""The most captures in memory that wait for the disk."""
MOST_BYTES: Final = 128 * 1024**2
"""Their most bytes, with their heads."""
FIRST_BACKOFF: Final = 0.05
LAST_BACKOFF: Final = 5.0
"""Seconds between tries while a fault lasts."""
PRUNE_SECONDS: Final = 60.0
LEAST_LINGER: Final = 0.02
LINGER_SECONDS: Final = 0.05
"""How long readings and settlements wait for more of them, unless a thread or a response waits. After the first time,
they are written with the next append, when the thread is awake and a request was just answered. At 100 checkouts a
second, 5 ms need a tenth more CPU than 20 ms. If the process is killed meanwhile, the records of these settlements are
sent again."""
COUNT_SECONDS: Final = 5.0
"""Between transactions for counts that do not belong to a change of a capture or a record."""
WATCH_SECONDS: Final = 1.0
"""Between checks of coverage and faults."""
LOG_SECONDS: Final = 0.1
"""Between checks of the log's size while there is work."""
IDLE_SECONDS: Final = 1.0
"""The time without work after which the log of the file is emptied."""
STOPPING_SECONDS: Final = 0.5
"""How long the thread has to end after its deadline."""

STALL_SECONDS: Final = 5.0
"""How long a capture waits behind a write before this is logged."""
STALLED: Final = (
    "a write has taken more than 5 seconds. Is the disk stalled, such as a network volume, or the processor busy? What "
    "comes waits in memory, up to a bound"
)
FULL: Final = (
    "it is full: its max_bytes are used up, or the disk is full. What comes waits in memory, up to a bound. Make room "
    "on the disk, raise max_bytes, or drop dead records"
)
PAUSE_SECONDS: Final = 5.0
"""The longest pause of the thread for a fork."""


class _Pause:
    def __init__(self) -> None:
        self.closed = Event()
        self.go_on = Event()
        self.ok = False


class StoreThread(Worker):
    """Owns a store. Any thread may call its methods, which do not block, except `end`.

    Args:
        store: The store. Only this thread calls it, except for its properties.
        after: The thread whose store this one takes over after its end.
    """

    def __init__(self, store: Store, after: "StoreThread | None" = None) -> None:
        super().__init__("butter-store")
        self.store = store
        self._after = after
        self.alerts = store.alerts
        self.leader = Leader(self)
        self.participants: tuple[Participant, ...] = ()
        """The users of the store."""
        self._left: deque[Participant] = deque()
        """Those that have left while others stay, and are not let go yet."""
        self._guard = RLock()
        """Held for moments: by requests, and by the thread when it takes their items.

        Reentrant: the garbage collector may end a request, which captures, on the thread that holds it.
        """
        self.intake: deque[tuple[Participant, Entry]] = deque()
        self._bytes = 0
        self._waiting_since = 0.0
        """The time of the first item in `intake` and `additions`, or of the last batch that was taken from them."""
        self.additions: deque[tuple[Participant, Addition]] = deque()
        self._readings: deque[tuple[Participant, Reading]] = deque()
        self._settlements: deque[tuple[Participant, Settlement]] = deque()
        self._requests: deque[tuple[Callable[[Store], Any], Future[Any]]] = deque()
        self._stop_at: float | None = None
        self._pause: _Pause | None = None
        self._opened = self._replaced = False
        self._retired = False
        """Whether it accepts no more items."""
        self.looked = False
        """Whether it has tried to take the lead."""
        self._backoff = FIRST_BACKOFF
        self._full_until = 0.0
        self._most = BATCH
        """The most captures in one transaction. Fewer if the file is full."""
        self._shrink_at = float("inf")
        """When readings and settlements are written. The first addition sets it."""
        self._at_once = False
        """Whether they are written before that time."""
        self._count_at = 0.0
        self._prune_at = 0.0
        self._watch_at = 0.0
        self._log_at = 0.0
        self._idle_since: float | None = None
        self._had_fault = False
        """Whether a fault occurred, and not all operations were tried since then."""

    # For other threads.

    def start(self) -> None:
        """Start the thread, unless another `Butter` of the store has started it at this moment.

        Raises:
            RuntimeError: the system gives no more threads.
        """
        with self._guard:
            if not self.alive:
                super().start()

    def leave(self, participant: Participant, seconds: float) -> bool:
        """Remove a `Butter`. Return whether it is the last one: then waiting items are written within `seconds`."""
        others = tuple(other for other in self.participants if other is not participant)
        if others:
            self.participants = others
            self._left.append(participant)
        else:
            self._stop_at = time.monotonic() + seconds
        if self.leader.is_led_by(participant):
            self.leader.look_at = 0.0  # the next check releases the lead
        self._waker.wake()
        return not others

    def finish(self, participant: Participant, seconds: float) -> None:
        """Wait up to `seconds` until a participant's items and counts are written. Others continue."""
        with suppress(Exception):
            self.ask(lambda _store: self._count([participant])).result(seconds)

    def accept(self, queue: deque[T], item: T, size: int) -> None:
        """Take a capture into `intake`, or records made outside a request into `additions`.

        Args:
            queue: One of the two.
            item: Its participant, and the capture or records.
            size: Its bytes.

        Raises:
            OutboxFullError: too much waits for the disk.
            OutboxClosedError: the thread has ended.
        """
        now = time.monotonic()
        with self._guard:
            if self._retired:
                raise _closed()
            if len(queue) >= MOST_WAITING or self._bytes >= MOST_BYTES:
                raise _full()
            if not self.intake and not self.additions:
                self._waiting_since = now
            self._bytes += size
            queue.append(item)
        stalls = now - self._waiting_since >= STALL_SECONDS and self.store.durable and self.alive
        if stalls and not {"full", "lock"}.intersection(self.alerts.raised):  # these explain the wait
            self.alerts.raise_("fault", STALLED)  # here, because a thread that waits for a write cannot log
        self._waker.wake()

    def resolve(self, participant: Participant, reading: Reading) -> None:
        """Take the reader's result for a capture."""
        self._readings.append((participant, reading))
        # At once in memory, where it costs no transaction, and a killed process would lose it.
        self._shrink_soon(at_once=participant.is_awaited or reading.entry.until_sent or not self.store.durable)

    def settle(self, participant: Participant, settlements: Sequence[Settlement]) -> None:
        """Take the settlements of records."""
        self._settlements.extend((participant, settlement) for settlement in settlements)
        # A response of another `Butter` may wait for one of these records.
        self._shrink_soon(at_once=any(one.is_awaited for one in self.participants))

    def _shrink_soon(self, *, at_once: bool) -> None:
        if at_once:
            self.write_at_once()
        elif self._shrink_at == float("inf"):
            self._shrink_at = time.monotonic() + LINGER_SECONDS
            self._waker.wake()

    def write_at_once(self) -> None:
        """Write readings and settlements at once, because a thread or a response waits for them."""
        self._at_once = True
        self._waker.wake()

    def ask(self, question: Callable[[Store], T]) -> "Future[T]":
        """Let the thread answer a question."""
        future: Future[T] = Future()
        if self._stop_at is not None:
            future.set_exception(_closed())
        else:
            self._requests.append((question, future))
            self._waker.wake()
        return future

    def count_soon(self) -> None:
        """Let the store add this process's counts at once."""
        self._count_at = 0.0
        self._waker.wake()

    def take_lead(self, participant: Participant) -> "Future[bool]":
        """Take the lead if it is free. The future's result is whether this participant has it."""

        def look(_store: Store) -> bool:
            self.leader.look_soon()
            self.leader.look(time.monotonic())
            return self.leader.is_led_by(participant)

        return self.ask(look)

    @property
    def stopping(self) -> bool:
        """Whether all have left, so that it ends."""
        return self._stop_at is not None

    def unresolved(self) -> set[int]:
        """Return the numbers of the captures that this process will resolve."""
        return {number for participant in self.participants for number in participant.ids}

    def look_again(self) -> None:
        """Check for due records, because the clock was moved."""
        self.ask(lambda _store: self.leader.look_soon())

    # For a fork.

    def request_pause(self) -> None:
        """Let the thread close its connection between two transactions, and pause."""
        self._pause = _Pause()
        self._waker.wake()

    def await_pause(self, seconds: float) -> None:
        """Wait for the pause, at most until the deadline."""
        if (pause := self._pause) is None:
            return
        if self._thread.is_alive():
            pause.closed.wait(seconds)
        if not self._thread.is_alive():
            pause.ok = True  # it has closed the file, or has not started

    @property
    def paused(self) -> bool:
        """Whether the connection is closed, so that a child may open the file. For the child, where no thread runs."""
        return self._pause is not None and self._pause.ok

    def resume(self) -> None:
        """End the pause."""
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.go_on.set()

    def end(self) -> None:
        """Wait for the thread's end after all have left. Items that it could not write are lost, and counted."""
        self.join(max(0.0, (self._stop_at or 0.0) - time.monotonic()) + STOPPING_SECONDS)
        if self._thread.ident is None:  # the system had no thread for it, so waiting items are written on this one
            self._run()

    # The thread.

    def _failed(self, error: BaseException) -> None:
        kind = type(error).__name__
        message = f"the store's thread failed: {kind}. It starts again"
        log_thread.log(logging.CRITICAL, message, event="faulted", reason=f"store:{kind}")
        self._close()

    def _close(self) -> None:
        with suppress(Exception):
            self.leader.resign()
        with suppress(Exception):
            self.store.close()
        self._opened = False

    def _work(self) -> None:
        after, self._after = self._after, None
        if after is not None:
            after.join()
        while True:
            self._waker.rest()  # first, so that an item that comes after its queue was checked ends the wait at once
            if (pause := self._pause) is not None:
                with suppress(Exception):
                    pause.ok = self.store.disconnect()
                pause.closed.set()
                pause.go_on.wait(PAUSE_SECONDS)
            try:
                busy, more = self._turn()
                if busy:
                    self._idle_since = None
                if more or (busy and self._stop_at is not None):
                    continue
                if self._stop_at is None:
                    self._rest()
                    continue
            except Exception as error:  # noqa: BLE001 - a fault of the disk: the batch is back in its queue
                if self._back_off(error):
                    self._end()
                    return
                continue
            with self._guard:
                # Items that came during this iteration, or waited for more, are written by the next one.
                self._retired = not (self.intake or self.additions or self._readings or self._settlements)
            if self._retired:
                self._end()
                return

    def _turn(self) -> tuple[bool, bool]:
        """Do all work, with one transaction for each kind.

        Return whether there was any, and whether there is more work now.
        """
        self._answer()
        if not (self._opened and (self.intake or self._readings or self._settlements)):
            self.store.open()  # checks that the file is still there. Each write does this by itself.
            self._opened = True
        if self._replaced:
            self._write_again()
            self._replaced = False
        now = time.monotonic()
        if not self.looked:
            self.leader.look(now)  # first, because a response may wait for the sending
        busy = False
        if now >= self._full_until or self._stop_at is not None:
            busy = self._grow(now)  # first, because a response may wait for it
        shrink_at = self._shrink_at - (LINGER_SECONDS - LEAST_LINGER if busy else 0.0)
        if self._at_once or now >= shrink_at or self._stop_at is not None:
            busy |= self._shrink()  # in a full file this frees space
        growing, shrinking = bool(self.intake or self.additions), self._at_once or now >= self._shrink_at
        reloaded = [participant.reload(self.store) for participant in self.participants]
        more = any(reloaded) or shrinking or (growing and now >= self._full_until)
        if self._stop_at is None:
            more |= self.leader.look(now)
        if self._had_fault or now >= self._count_at:
            self._count_at = now + COUNT_SECONDS
            self._count(self.participants)
        if busy and now >= self._log_at:
            self._log_at = now + LOG_SECONDS
            self.store.checkpoint(idle=False)
        return busy or more, more

    def _grow(self, now: float) -> bool:
        """Do the work that may make the file grow. Return whether there was any."""
        try:
            busy = self._append() | self._add()
        except Exception as error:
            if fault_of(error) is not Fault.FULL or self._stop_at is not None:
                raise
            self.alerts.raise_("full", FULL)
            self._most = max(1, self._most // 2)  # a smaller batch may fit
            self._full_until = now + self._backoff
            self._backoff = min(2 * self._backoff, LAST_BACKOFF)
            return False
        if busy:
            self._backoff, self._most = FIRST_BACKOFF, min(BATCH, 2 * self._most)
        return busy

    def _shrink(self) -> bool:
        """Write results that end captures and records. Return whether there were any."""
        self._shrink_at, self._at_once = float("inf"), False  # first, because the next addition sets them again
        try:
            busy = self._settle() | self._resolve()
        except BaseException:
            self._at_once = True  # at once, because a fault is over only when they are written
            raise
        if self._shrink_at == float("inf") and (self._readings or self._settlements):
            self._at_once = True
        return busy

    def _rest(self) -> None:
        now, until = time.monotonic(), float("inf")
        if self._idle_since is None:
            self._idle_since = now
        if self._had_fault or now - self._idle_since >= IDLE_SECONDS:
            self.store.checkpoint(idle=True)
            self._idle_since = float("inf")
        if self._had_fault or now >= self._watch_at:
            self._watch_at = now + WATCH_SECONDS
            for participant in self.participants:
                participant.look()
        if self._had_fault or now >= self._prune_at:
            self._prune_at = 0.0 if self._prune() else now + PRUNE_SECONDS
        self._had_fault = False
        if not self.intake and not self.additions:  # last, because any of these may have had a fault
            for kind in ("full", "fault", "lock"):
                self.alerts.resolve(kind)
        until = min(until, self.leader.look_at, self._prune_at, self._watch_at)
        if self._full_until > now and (self.intake or self.additions or self._readings):
            until = min(until, self._full_until)
        if self._idle_since != float("inf"):
            until = min(until, self._idle_since + IDLE_SECONDS)
        until = min(until, self._shrink_at)
        self._waker.wait(max(0.0, until - time.monotonic()))  # not `now`, because the disk may have been slow

    def _prune(self) -> bool:
        try:
            return self.store.prune()
        except Exception as error:
            if fault_of(error) is not Fault.FULL:
                raise
            return False  # a delivery frees space

    def _answer(self) -> None:
        self._let_go()  # first, because a fault of the disk stops the rest
        while self._requests:
            question, future = self._requests.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                self.store.open()
                future.set_result(question(self.store))
            except BaseException as error:  # noqa: BLE001 - it is for the caller of `ask`
                self._replaced |= isinstance(error, OutboxReplacedError)  # the store raises it only once
                future.set_exception(error)

    def _let_go(self) -> None:
        while self._left:
            self._left.popleft().let_go()

    def _append(self) -> bool:
        if not self.intake:
            return False
        with self._guard:
            batch = _take(self.intake, lambda item: item[1].size, self._most)
            self._waiting_since = time.monotonic()
        written = self._write(batch, self._append_all, self.intake)
        size = sum(entry.size for _participant, entry in batch)
        with self._guard:
            self._bytes -= size
        for (_participant, entry), number in written:
            entry.id = number
            if not entry.until_sent:
                entry.finish()  # first, to release the response
        for participant, entries in _by_participant(pair for pair, _number in written):
            participant.appended(entries)
        return True

    def _append_all(self, batch: Sequence[tuple[Participant, Entry]]) -> Sequence[int]:
        owned = batch[0][0].owned
        if all(participant.owned is owned for participant, _entry in batch):
            return self.store.append([entry.capture for _participant, entry in batch], owned=owned)
        return [
            number
            for participant, entry in batch
            for number in self.store.append([entry.capture], owned=participant.owned)
        ]

    def _add(self) -> bool:
        if not self.additions:
            return False
        with self._guard:
            batch = _take(self.additions, lambda item: item[1].size, self._most)
            self._waiting_since = time.monotonic()
        written = self._write(batch, self._add_all, self.additions)
        size = sum(addition.size for _participant, addition in batch)
        with self._guard:
            self._bytes -= size
        for (participant, addition), outcomes in written:
            new = new_records(outcomes)
            sends = self.leader.fresh(new)
            addition.done.set_result(len(outcomes) - len(new))
            participant.added(addition, outcomes, sends=sends)
        return True

    def _add_all(self, batch: Sequence[tuple[Participant, Addition]]) -> Sequence[Sequence[Outcome]]:
        outcomes = iter(self.store.add([record for _participant, addition in batch for record in addition.records]))
        return [list(islice(outcomes, len(addition.records))) for _participant, addition in batch]

    def _resolve(self) -> bool:
        if not self._readings:
            return False
        batch = _take(self._readings, lambda _item: 1)
        for (participant, reading), resolved in self._write(batch, self._resolve_all, self._readings):
            sends = self.leader.fresh(new_records(resolved.outcomes))
            participant.resolved(reading, resolved, sends=sends)
        return True

    def _resolve_all(self, batch: Sequence[tuple[Participant, Reading]]) -> Sequence[Resolved]:
        return self.store.resolve(
            [
                # If the file was replaced meanwhile, the capture was written again and has another number.
                one.resolution if one.resolution.id == one.entry.id else replace(one.resolution, id=one.entry.id)
                for _participant, one in batch
            ]
        )

    def _settle(self) -> bool:
        if not self._settlements:
            return False
        batch = _take(self._settlements, lambda _item: 1)
        written = self._write(batch, self._settle_all, self._settlements)
        if len(written) < len(batch):
            self.leader.look_soon()
        self.leader.settled([settlement for (_participant, settlement), _none in written])
        for participant, settlements in _by_participant(pair for pair, _none in written):
            participant.settled(settlements)
        return True

    def _settle_all(self, batch: Sequence[tuple[Participant, Settlement]]) -> Sequence[None]:
        # A record that keeps its place and its due time needs no transaction.
        self.store.settle([one for _participant, one in batch if one.settled is not Settled.RELEASED or one.due_at])
        return [None] * len(batch)

    def _count(self, participants: Sequence[Participant]) -> None:
        """Add the counts of this process that the store does not have yet to those of the host."""
        for participant in participants:
            counters = participant.events.counters
            taken = counters.take_unwritten()
            if not taken:
                continue
            try:
                self.store.count([Count(*key, times) for key, times in taken.items()])
            except Exception as error:
                if fault_of(error) is not Fault.OWN:
                    counters.put_back(taken)
                raise

    def _write(self, batch: list[T], write: Callable[[list[T]], Sequence[R]], queue: deque[T]) -> list[tuple[T, R]]:
        """Write a batch in one transaction. Return each item with the store's result.

        If the fault is not the disk's, the items are written one by one. The one that fails is lost, and reported.

        Raises:
            Exception: a fault of the disk. The batch is back at the front of its queue, unless the thread is stopping.
        """
        if self._replaced:  # a single item met this: what is in memory is written again first, with new numbers
            queue.extendleft(reversed(batch))
            raise OutboxReplacedError
        try:
            return list(zip(batch, write(batch), strict=True))
        except Exception as error:
            fault = fault_of(error)
            self._replaced = fault is Fault.REPLACED
            if fault is Fault.OWN:
                if len(batch) > 1:
                    return self._write_singly(batch, write, queue)
                _lose(batch, error)
                return []
            is_last_try = self._stop_at is not None and time.monotonic() >= self._stop_at - FIRST_BACKOFF
            if is_last_try and fault is not Fault.REPLACED:
                _lose(batch, _closed())
                return []
            queue.extendleft(reversed(batch))
            raise
        except BaseException:  # such as the clock's: the loop starts again
            queue.extendleft(reversed(batch))
            raise

    def _write_singly(
        self, batch: list[T], write: Callable[[list[T]], Sequence[R]], queue: deque[T]
    ) -> list[tuple[T, R]]:
        """Write items one by one. After a fault of the disk, the rest is in the queue again, and not in `batch`.

        Raises:
            BaseException: the fault, if it came with the first item.
        """
        written: list[tuple[T, R]] = []
        for place, item in enumerate(batch):
            try:
                written += self._write([item], write, queue)
            except BaseException:
                queue.popleft()
                queue.extendleft(reversed(batch[place:]))
                if not place:
                    raise
                del batch[place:]
                break  # the next iteration gets the fault again, if it lasts
        return written

    def _write_again(self) -> None:
        """After the file was replaced, append the items in memory that the new file does not have."""
        for participant in self.participants:
            entries = participant.in_memory()
            there = {stored.id for stored in self.store.load([entry.id for entry in entries])}
            missing = [entry for entry in entries if entry.id not in there]
            numbers = self.store.append([entry.capture for entry in missing], owned=participant.owned)
            participant.renumber(dict(zip(missing, numbers, strict=True)))
            participant.release_responses()
            if records := participant.sender.drop():
                addition = participant.addition_of(records)
                size = addition.size
                with self._guard:
                    self._bytes += size
                    self.additions.appendleft((participant, addition))
        self.leader.forget_file()

    def _back_off(self, error: Exception) -> bool:
        """Log a fault once, and wait before the next try. Return whether there is no time left for one.

        If this process cannot use the file at all, it releases the lead.
        """
        self._opened = False
        self._had_fault, self.leader.look_at = True, 0.0  # all operations are tried before the fault counts as over
        if isinstance(error, OutboxReplacedError):
            self._replaced = True
            return False
        fault = fault_of(error)
        if fault is Fault.REFUSED:
            self.alerts.raise_("fault", f"{error} What comes waits in memory.")
            self.leader.resign()
        elif fault is Fault.FULL:
            self.alerts.raise_("full", FULL)
            try:
                self.store.checkpoint(idle=True)
            except Exception as second:  # noqa: BLE001 - it may be full even for this
                self._replaced |= isinstance(second, OutboxReplacedError)
        elif fault is not Fault.CORRUPT:
            self.alerts.raise_("fault", f"cannot be used ({describe(error)}). Trying again; what comes waits")
        left = LAST_BACKOFF if self._stop_at is None else self._stop_at - time.monotonic()
        if left <= 0:
            return True
        self._waker.wait(min(self._backoff, left))
        self._backoff = min(2 * self._backoff, LAST_BACKOFF)
        return False

    def _end(self) -> None:
        """Close the file. Items that could not be written are lost, and counted."""
        with self._guard:
            self._retired = True
        for queue in (self.intake, self.additions, self._readings, self._settlements):
            while queue:
                _lose([queue.popleft()], _closed())
        self._let_go()
        for participant in self.participants:
            participant.let_go()
        with suppress(Exception):  # a fault of the disk, which is already logged
            self._count(self.participants)
        self._close()
        while self._requests:
            self._requests.popleft()[1].set_exception(_closed())


def _take(queue: deque[T], size: Callable[[T], int], most: int = BATCH) -> list[T]:
    batch: list[T] = []
    total = 0
    while len(batch) < min(most, len(queue)) and total < BATCH_BYTES:
        item = queue[len(batch)]
        total += size(item)
        batch.append(item)
    for _item in batch:  # only now, so that an error before leaves all of them in the queue
        queue.popleft()
    return batch


def _by_participant(pairs: Iterable[tuple[Participant, T]]) -> Iterable[tuple[Participant, list[T]]]:
    found: dict[Participant, list[T]] = {}
    for participant, item in pairs:
        found.setdefault(participant, []).append(item)
    return found.items()


def _lose(batch: Sequence[Any], error: Exception) -> None:
    """Tell the participants which items could not be written."""
    for participant, *item in batch:
        participant.lost(item[0], error)


def _full() -> OutboxFullError:
    return OutboxFullError("too much waits in memory for the outbox")


def _closed() -> OutboxClosedError:
    return OutboxClosedError("the outbox was closed before this could be written")
