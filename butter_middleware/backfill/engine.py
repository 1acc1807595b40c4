"""Sends the records of an input through `Delivery`, with the same pauses and probes as for live checkouts."""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final

import anyio

from butter_middleware._utils import daemons
from butter_middleware.backfill.intake import MOST_NAMED, Intake, Totals, Waiting
from butter_middleware.backfill.journal import Mark, State
from butter_middleware.backfill.source import Line
from butter_middleware.delivery.circuit_breaker import BreakerState
from butter_middleware.delivery.clients import Client
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.errors import InputError
from butter_middleware.events import Died, EndpointChanged, Event
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.models.checkout import Record
from butter_middleware.models.seen_ids import seen_ids
from butter_middleware.outbox.base import Settled, Settlement

LOOK_SECONDS: Final = 0.1
PING_SECONDS: Final = 5.0
"""For the check of the credentials. If Butter is away, the run goes on: the lines wait for it anyway."""
RETRY_SECONDS: Final = 600.0
"""After the last line, for how long the failed lines are tried again while Butter accepts none of them."""
MOST_LATER: Final = 10_000
"""Lines that Butter failed on, in memory. If this many wait, no further line is read."""


class Ending(StrEnum):
    """Why a run ended."""

    DONE = "done"
    """Every line was settled."""
    STOPPED = "stopped"
    """The run was told to stop."""
    HELD = "held"
    """Butter accepts nothing until a person corrects the configuration."""
    UNFINISHED = "unfinished"
    """Butter failed repeatedly on the last lines, or is away."""
    UNREADABLE = "unreadable"
    """The rest of the input cannot be read."""
    UNWRITABLE = "unwritable"
    """The journal, or the file of rejects, cannot be written."""


class CountingClient:
    """A client that counts the posts without an answer, and keeps the last failure."""

    def __init__(self, client: Client, totals: Totals) -> None:
        self._client = client
        self._totals = totals
        self.ping, self.aclose = client.ping, client.aclose

    async def post(self, record: Record) -> Answer:
        """Post one record."""
        answer = await self._client.post(record)
        self._totals.broken_off += answer.kind in {AnswerKind.INTERRUPTED, AnswerKind.STALLED}
        if answer.kind is not AnswerKind.DELIVERED:
            self._totals.last_failure = answer.label
        return answer


class Engine:
    """One run, with at most `concurrency` records on their way at once, and `rate` records a second if it is given.

    `say` gets the messages for the person who runs it.
    """

    def __init__(
        self,
        intake: Intake,
        make_client: Callable[[], Client],
        *,
        concurrency: int,
        rate: float | None,
        say: Callable[[str], None],
    ) -> None:
        self._intake = intake
        self._totals = intake.totals
        self._journal = intake.journal
        self._make_client = make_client
        self._concurrency = concurrency
        self._interval = 0.0 if rate is None else 1 / rate
        self._say = say
        self.delivery = Delivery(
            lambda: CountingClient(make_client(), intake.totals), senders=concurrency, emit=self._hear
        )
        """Tracks Butter's state."""
        self.remedy = ""
        """Why the run ended early, and what to do."""
        self.stopping = False
        """Whether the run only waits for records on their way."""
        self._asked_to_stop = False
        self._exhausted = False
        self._reading: asyncio.Future[list[Line]] | None = None
        self._fresh: deque[Waiting] = deque()
        self._later: list[tuple[float, int, Waiting]] = []
        """A heap, ordered by the due time."""
        self._ticket = count()
        self._sending: dict[asyncio.Task[Settlement], Waiting] = {}
        self._marks: list[Mark] = []
        """The marks of answered records, for the next transaction."""
        self._next_at = 0.0
        self._fault: InputError | None = None
        self._quiet: tuple[float, int] | None = None
        """The last lines without a pause of Butter's: since when it accepts none, and how many it had accepted."""

    @property
    def offset(self) -> int:
        """The input's bytes before the next record."""
        return self._fresh[0].line.end if self._fresh else self._totals.offset

    def stop(self) -> None:
        """Send no further record, and wait for those on their way. A signal handler may call it."""
        self._asked_to_stop = True

    async def run(self, look: Callable[[], None]) -> Ending:
        """Send until the run ends. Call `look` at least ten times a second."""
        if await self._is_refused():
            return Ending.HELD
        try:
            ending: Ending | None = None
            while ending is None:
                self._read()
                self._begin()
                look()
                await self._wait()
                ending = self._ending()
            self.stopping = bool(self._sending)
            while self._sending:
                look()
                await self._wait()
            self.stopping = False
            self._journal.mark(self._marks)
        except (OSError, sqlite3.Error) as error:
            self.remedy = f"{type(error).__name__}: make room, or repair the disk"
            ending = Ending.UNWRITABLE
            if self._sending:
                await asyncio.wait(self._sending)
        finally:
            await self.delivery.aclose()
        left = [*self._fresh, *(waiting for *_due, waiting in self._later)]
        self._totals.waiting_lines = sorted(waiting.line.number for waiting in left)[:MOST_NAMED]
        look()
        return ending

    async def _is_refused(self) -> bool:
        """Check the credentials before the first line is sent."""
        client = self._make_client()
        kind, label = AnswerKind.UNREACHABLE, ""
        with anyio.move_on_after(PING_SECONDS):
            answer = await client.ping()
            kind, label = answer.kind, answer.label
        await client.aclose()
        self.remedy = (
            f"answer {label}: Butter does not take the credentials: check BUTTER_USERNAME, BUTTER_PASSWORD and "
            "BUTTER_ENVIRONMENT. Nothing was sent"
        )
        return kind is AnswerKind.UNAUTHORIZED

    def _hear(self, event: Event) -> None:
        if isinstance(event, EndpointChanged) and event.state == BreakerState.HOLD:
            self.remedy = event.message
        elif event.message and not isinstance(event, Died):  # a dead record is in the file of rejects
            self._say(event.message)

    def _read(self) -> None:
        """Take the lines that were read, and start to read further ones."""
        if self._reading is not None and self._reading.done():
            try:
                lines = self._reading.result()
            except InputError as error:
                self._fault, self.remedy, lines = error, str(error), []
            self._reading, self._exhausted = None, not lines
            self._fresh.extend(self._intake.take(lines))
        is_wanted = not self._exhausted and not self._fresh and len(self._later) < MOST_LATER
        if is_wanted and self._reading is None:
            # A pipe may give nothing for hours, so the end of the process must not wait for this thread.
            self._reading = asyncio.wrap_future(daemons.call(self._intake.source.read))

    def _begin(self) -> None:
        """Write the marks of answered and next records to the disk, then send the next ones."""
        begun: list[Waiting] = []
        while (busy := len(self._sending) + len(begun)) < self._concurrency and time.monotonic() >= self._next_at:
            is_late_due = bool(self._later) and self._later[0][0] <= time.time()
            if self.delivery.ill and self._fresh:
                is_late_due = False  # a firewall may block this very line, so another one is the probe
            if not (is_late_due or self._fresh) or not self.delivery.breaker.admit(busy):
                break
            begun.append(heappop(self._later)[2] if is_late_due else self._fresh.popleft())
            self._next_at = max(self._next_at, time.monotonic()) + self._interval
        marks, self._marks = self._marks, []
        marks += [Mark(State.SENDING, None, waiting.key) for waiting in begun]
        if marks:
            self._journal.mark(marks)
        for waiting in begun:
            self._sending[asyncio.create_task(self.delivery.deliver(waiting.record, waiting.attempts))] = waiting

    async def _wait(self) -> None:
        """Wait until a record is answered, a line is read, or a record may be due."""
        to_turn = self._next_at - time.monotonic()
        seconds = min(LOOK_SECONDS, to_turn) if to_turn > 0 else LOOK_SECONDS
        events: set[asyncio.Future[Any]] = {*self._sending}
        if self._reading is not None and not self._reading.done():
            events.add(self._reading)
        if events:
            await asyncio.wait(events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(seconds)
        for task in [task for task in self._sending if task.done()]:
            self._settle(self._sending.pop(task), task.result())

    def _settle(self, waiting: Waiting, settlement: Settlement) -> None:
        totals = self._totals
        match settlement.settled:
            case Settled.DELIVERED:
                totals.sent += 1
                totals.waiting -= 1
                self._marks.append(Mark(State.DELIVERED, None, waiting.key, seen_ids(waiting.record.fields)))
            case Settled.DEAD:
                reason = f"Butter answers {settlement.reason}"
                totals.rejected += 1
                totals.waiting -= 1
                self._marks.append(Mark(State.DEAD, reason, waiting.key))
                self._intake.reject(waiting.line, reason)
            case Settled.RETRY | Settled.RELEASED:
                waiting.attempts += settlement.settled is Settled.RETRY
                self._marks.append(Mark(State.WAITING, None, waiting.key))
                heappush(self._later, (settlement.due_at, next(self._ticket), waiting))

    def _ending(self) -> Ending | None:
        if self.delivery.breaker.state is BreakerState.HOLD:
            return Ending.HELD
        if self._asked_to_stop:
            return Ending.STOPPED
        if not self._exhausted or self._fresh or self._sending:
            return None
        if not self._later:
            return Ending.DONE if self._fault is None else Ending.UNREADABLE
        is_paused = self.delivery.breaker.state is BreakerState.PAUSED
        if self._quiet is None or is_paused or self._quiet[1] != self._totals.sent:
            self._quiet = (time.monotonic(), self._totals.sent)
        if time.monotonic() - self._quiet[0] < RETRY_SECONDS:
            return None
        return Ending.UNFINISHED if self._fault is None else Ending.UNREADABLE
