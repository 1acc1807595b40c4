"""One drain of an outbox's file, from what waits in it to what is left, shown as it goes."""

import time
from dataclasses import dataclass
from threading import Event
from typing import Final

import click

from butter_middleware.cli.failure import ExitCode, Failure
from butter_middleware.cli.output import Output, counted, duration, moment
from butter_middleware.outbox import Counts, SQLiteOutbox
from butter_middleware.pipeline.worker import Worker

POLL_SECONDS: Final = 0.2
LEAD_SECONDS: Final = 3.0
"""For the lead to be had where nobody had it a moment ago."""
RETRY_SECONDS: Final = 60.0
"""For which a record that is to be tried again is waited for."""
PATIENCE_SECONDS: Final = 60.0
"""For which Butter may be away."""
HOLD_SECONDS: Final = 15.0
STILL: Final = 3
"""Looks in a row that find nothing to do."""
DRAIN_SECONDS: Final = 5.0

UNREAD: Final = (
    "{} to be read: responses as the app gave them. Only your extractors make records of them: "
    "add --app shop.main:butter."
)


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done, and by whom."""

    outbox: SQLiteOutbox
    worker: Worker
    reads: bool
    """Whether it has extractors."""


def say_unread(output: Output, work: Work) -> None:
    """Say what stays as it is, where nothing reads."""
    if not work.reads and (waiting := work.worker.counts().captured):
        output.note(UNREAD.format(counted(waiting, "capture waits", "captures wait")))


def leads_within(seconds: float, work: Work, stop: Event) -> bool:
    """Wait for the lead; say whether it is had."""
    deadline = time.monotonic() + seconds
    while not work.worker.leads and not stop.is_set() and time.monotonic() < deadline:
        stop.wait(POLL_SECONDS / 4)
    return work.worker.leads


def drain(output: Output, work: Work, first: Counts, stop: Event) -> None:
    """Wait until nothing is left that is due soon, and say what was done since `first`.

    Raises:
        Failure: another process is faster, or does not let go of the file.
        click.exceptions.Exit: something is left, or needs a person.
    """
    if not leads_within(LEAD_SECONDS, work, stop) and not stop.is_set():
        msg = f"another process has just begun to deliver from {work.outbox.path}. See `status`."
        raise Failure(msg, ExitCode.BUSY)
    say_unread(output, work)
    end = _Draining(work, first)
    with output.progress("Delivering", end.total) as tell:
        while not stop.is_set() and not end.over():
            tell(end.done, end.total, end.waits_for)
            stop.wait(POLL_SECONDS)
        tell(end.done, end.total)
    work.worker.shutdown(DRAIN_SECONDS)
    finish(output, work, first, end.why)


def look(work: Work, seconds: float) -> tuple[Counts, int, float | None]:
    """Give what `SQLiteOutbox.backlog` gives.

    Raises:
        Failure: the file does not answer within `seconds`.
    """
    try:
        return work.outbox.backlog().result(seconds)
    except TimeoutError:
        msg = (
            f"the outbox is busy: another process does not let go of {work.outbox.path}, or its disk stands still. "
            "What is not yet sent stays in the file. Once that is over, run this again."
        )
        raise Failure(msg, ExitCode.BUSY) from None


_PATIENCE: Final = {
    "open": "Butter is away",
    "half_open": "Butter is away",
    "paused": "Butter asks for a pause",
    "hold": "Butter refuses",
}
"""By the state of the endpoint: what it waits for."""
_WHY: Final = {
    "hold": "Butter refuses what is sent: `check` says why. Once that is mended, run this again.",
    "paused": "Butter asks for a pause: try again later, or with --follow.",
}


class _Draining:
    """Whether there is still something to do, and worth waiting for."""

    def __init__(self, work: Work, first: Counts) -> None:
        self._work = work
        self._first = first
        self._still = 0
        self._ill_since: float | None = None
        """When Butter fell ill, and has taken nothing since: where it asks for pauses, it is well between them."""
        self._answered_at = time.monotonic()
        self.done = 0
        self.total = first.pending + (first.captured if work.reads else 0)
        self.waits_for = ""
        """What it waits for now, other than the work itself."""
        self.why = ""
        """Why it ended with something left."""

    def over(self) -> bool:
        """Look, and say whether it is over."""
        try:
            counts, to_read, due = look(self._work, DRAIN_SECONDS)
        except Failure:
            if time.monotonic() - self._answered_at >= PATIENCE_SECONDS:
                raise
            self.waits_for = "the outbox is busy"
            return False
        self._answered_at = time.monotonic()
        to_read = to_read if self._work.reads else 0
        done = counts.delivered - self._first.delivered
        if done > self.done:
            self._ill_since = None
        self.done = done
        self.total = done + counts.pending + to_read
        if self._gives_up():
            return True
        wait = 0.0 if due is None else due - time.time()
        self.waits_for = _PATIENCE.get(self._work.worker.endpoint, f"next try in {wait:.0f} s" if wait > 1 else "")
        waits = due is not None and wait <= RETRY_SECONDS
        self._still = 0 if to_read or waits else self._still + 1
        return self._still >= STILL

    def _gives_up(self) -> bool:
        state, now = self._work.worker.endpoint, time.monotonic()
        if state not in _PATIENCE:
            return False
        since = self._ill_since = now if self._ill_since is None else self._ill_since
        if now - since < (HOLD_SECONDS if state == "hold" else PATIENCE_SECONDS):
            return False
        self.why = _WHY.get(state, "Butter does not answer: try again later, or with --follow.")
        return True


def finish(output: Output, work: Work, first: Counts, why: str) -> None:
    """Say what was done since `first`, and what is left, `why`.

    Raises:
        Failure: the file does not answer.
        click.exceptions.Exit: something is left, or needs a person.
    """
    counts, _to_read, due = look(work, DRAIN_SECONDS)
    delivered = counts.delivered - first.delivered
    document = {
        "delivered": delivered,
        "pending": counts.pending,
        "captured": counts.captured,
        "dead": counts.dead,
        "parked": counts.parked,
        "next_due_at": moment(due),
        "gave_up": why or None,
    }
    left = [
        counted(counts.pending, "record is still to be sent", "records are still to be sent") * bool(counts.pending),
        counted(counts.captured, "capture is still to be read", "captures are still to be read")
        * bool(counts.captured),
    ]
    text = f"Delivered {counted(delivered, 'record')}."
    if any(left):
        text += f" {', '.join(filter(None, left))}."
    if counts.pending and not why and due is not None and due > time.time():
        text += f" The next try is due in {duration(due - time.time())}."
    people = [
        f"{number} {what} (`{what} list`)"
        for what, number in (("parked", counts.parked), ("dead", counts.dead))
        if number
    ]
    if people:
        text += f" This needs you: {', '.join(people)}."
    output.result(document, f"{text} {why}".rstrip())
    if counts.pending or counts.captured or people:
        raise click.exceptions.Exit(ExitCode.ATTENTION)
