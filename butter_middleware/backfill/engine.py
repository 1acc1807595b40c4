"""Sends a journal's lines through `Delivery`: the same answers, pauses and probes as for a checkout of today."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import anyio

from butter_middleware.backfill.journal import Journal
from butter_middleware.backfill.totals import Totals
from butter_middleware.delivery.circuit_breaker import BreakerState
from butter_middleware.delivery.clients import Client
from butter_middleware.delivery.delivery import Delivery
from butter_middleware.events import Died, EndpointChanged, Event
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.models.checkout import Record

LOOK_SECONDS: Final = 0.1
PING_SECONDS: Final = 5.0
"""For the question whether the credentials are good. Where Butter is away, the lines wait for it all the same."""
RETRY_SECONDS: Final = 600.0
"""For how long what Butter failed on is tried again after the last line."""


class Ending(StrEnum):
    """Why a run ended."""

    DONE = "done"
    """Every line was settled."""
    STOPPED = "stopped"
    """It was asked to."""
    HELD = "held"
    """Butter will take nothing before a person has mended something."""
    UNFINISHED = "unfinished"
    """Butter failed on some lines, time and again."""
    UNREADABLE = "unreadable"
    """The input cannot be read on."""
    UNWRITABLE = "unwritable"
    """The journal, or the file of rejects, cannot be written."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How a run goes."""

    totals: Totals
    delivered: int
    """In this run."""
    seconds: float
    """Since it began."""
    state: BreakerState
    next_try_in: float
    stopping: bool


class Pace:
    """Lets so many pass a second, evenly."""

    def __init__(self, rate: float | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._seconds = 0.0 if rate is None else 1 / rate
        self._monotonic = monotonic
        self._next = 0.0
        self.closed = False
        """Nobody passes any more; who waits is cancelled."""

    async def turn(self) -> None:
        """Wait for one's turn."""
        now = self._monotonic()
        mine = max(self._next, now)
        self._next = mine + self._seconds
        if mine > now:
            await anyio.sleep(mine - now)
        if self.closed:
            await anyio.sleep_forever()


class MarkingClient:
    """Marks a record in the journal before another courier takes it, and what came of it afterwards.

    At any moment no more records have the first mark without the second, on the disk, than there are couriers: each
    begins with a mark, and that is on the disk only together with all marks before it.
    """

    def __init__(self, client: Client, journal: Journal, pace: Pace) -> None:
        self._client = client
        self._journal = journal
        self._pace = pace

    async def post(self, record: Record) -> Answer:
        """Post one record, marked."""
        await self._pace.turn()
        self._journal.sending += 1
        try:
            await asyncio.wrap_future(self._journal.begin(record))
            answer = await self._client.post(record)
            self._journal.end(record, answer.kind)
        finally:
            self._journal.sending -= 1
        return answer

    async def ping(self) -> Answer:
        """Ask whether records would be taken."""
        return await self._client.ping()

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._client.aclose()


class Engine:
    """One run.

    Args:
        journal: Open, with its input attached.
        make_courier: Makes what posts to Butter.
        concurrency: The most records on their way at once.
        rate: Records a second at most; None for as many as Butter takes.
        say: Is given what a person should know meanwhile.
    """

    def __init__(
        self,
        journal: Journal,
        make_client: Callable[[], Client],
        *,
        concurrency: int = 4,
        rate: float | None = None,
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._say = say
        self._journal = journal
        self._make_client = make_client
        self._pace = Pace(rate)
        self._delivery = Delivery(
            lambda: MarkingClient(make_client(), journal, self._pace),
            senders=concurrency,
            emit=self._hear,
        )
        self._began_at = time.monotonic()
        self._began_with = journal.totals.delivered
        self._alone_since: float | None = None
        self._alone_with = 0
        self._asked_to_stop = False
        self.remedy = ""
        """Why it is held, and what to do."""

    def stop(self) -> None:
        """Send nothing more; what is on its way is awaited and marked. A signal's handler may call it."""
        self._asked_to_stop = True

    @property
    def progress(self) -> Progress:
        """How it goes."""
        totals, delivery = self._journal.totals, self._delivery
        return Progress(
            totals=totals,
            delivered=totals.delivered - self._began_with,
            seconds=time.monotonic() - self._began_at,
            state=delivery.state,
            next_try_in=delivery.seconds_to_wait,
            stopping=self._pace.closed,
        )

    async def run(self, look: Callable[[Progress], None]) -> Ending:
        """Send until there is an ending; `look` is told ten times a second how it goes."""
        self._journal.wake = self._delivery.wake
        if await self._is_refused():
            return Ending.HELD
        ending = Ending.STOPPED
        async with anyio.create_task_group() as group:
            group.start_soon(self._delivery.run, self._journal)
            ending = await self._until_ending(look)
            self._pace.closed = True
            self._delivery.pause()
            while self._journal.sending:
                look(self.progress)
                await anyio.sleep(LOOK_SECONDS / 5)
            group.cancel_scope.cancel()
        look(self.progress)
        return ending

    def _hear(self, event: Event) -> None:
        if isinstance(event, EndpointChanged) and event.state == BreakerState.HOLD:
            self.remedy = event.message
        elif event.message and not isinstance(event, Died):  # which is in the file of rejects
            self._say(event.message)

    async def _until_ending(self, look: Callable[[Progress], None]) -> Ending:
        while (ending := self._ending()) is None:
            look(self.progress)
            await anyio.sleep(LOOK_SECONDS)
        return ending

    async def _is_refused(self) -> bool:
        """Ask, before the first line is sent, whether the credentials are."""
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

    def _ending(self) -> Ending | None:
        journal = self._journal
        if journal.failure is not None:
            self.remedy = f"{type(journal.failure).__name__}: make room, or mend the disk"
            return Ending.UNWRITABLE
        if self._delivery.state is BreakerState.HOLD:
            return Ending.HELD
        if self._asked_to_stop:
            return Ending.STOPPED
        if not journal.exhausted or self._delivery.busy:
            return None
        if not journal.totals.waiting:
            return Ending.DONE if journal.fault is None else Ending.UNREADABLE
        return self._ending_of_the_last()

    def _ending_of_the_last(self) -> Ending | None:
        """Where the input is read and lines wait: they are tried again for a while in which Butter is well."""
        now, delivered = time.monotonic(), self._journal.totals.delivered
        if self._alone_since is None or self._delivery.ill or delivered != self._alone_with:
            self._alone_since, self._alone_with = now, delivered
        if now - self._alone_since < RETRY_SECONDS:
            return None
        return Ending.UNFINISHED if self._journal.fault is None else Ending.UNREADABLE
