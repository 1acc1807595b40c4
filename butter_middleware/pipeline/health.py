"""The health of the collection of evidence: what is wrong, and what to do about it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from butter_middleware.outbox.base import Counts
from butter_middleware.telemetry.coverage import Coverage

OUTAGE_SECONDS: Final = 900.0
"""How long Butter may be away before it is reported."""
AGE_SECONDS: Final = 3600.0
"""How long a record may wait."""
HANGING_SECONDS: Final = 60.0
"""How long an extractor may take for one capture."""


@dataclass(frozen=True, slots=True)
class HealthInput:
    """The data for the decision."""

    running: bool
    answered: bool
    """Whether the outbox returned its counts."""
    counts: Counts
    lost: int
    oldest_pending_age: float | None
    endpoint: str = "unknown"
    ill_for: float = 0.0
    """Seconds for which the endpoint, as this process knows it, has not been ok."""
    low_coverage: Coverage | None = None
    outbox_faults: Sequence[str] = ()
    dead_threads: Sequence[str] = ()
    reading_for: float = 0.0
    unattended: bool = False
    """Whether this process only appends, and no process reads and delivers."""
    host: str | None = None
    """Butter's configured URL. None if a queue takes the records: its consumer delivers."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One problem."""

    code: str
    """From the list in docs/telemetry.md."""
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Health:
    """The problems, if any."""

    reasons: tuple[Reason, ...] = ()

    @property
    def status(self) -> str:
        """`healthy` or `degraded`."""
        return "degraded" if self.reasons else "healthy"

    def as_json(self) -> dict[str, Any]:
        """Return the body of a health route."""
        return {"status": self.status, "reasons": [asdict(reason) for reason in self.reasons]}


def diagnose(signs: HealthInput) -> Health:
    """Return the health for this input."""
    return Health((*_machinery(signs), *_delivery(signs), *_evidence(signs)))


def _machinery(signs: HealthInput) -> Iterator[Reason]:
    if signs.running and not signs.answered:
        yield Reason(
            "outbox_silent",
            "the outbox does not answer",
            "The log says what is wrong with its file: the disk, or a lock.",
        )
    for fault in signs.outbox_faults:
        yield Reason(f"outbox_{fault}", *_FAULTS[fault])
    for name in signs.dead_threads:
        yield Reason(
            "thread_dead", f"the thread {name} has ended", "Restart the process, and report it with the log's lines."
        )
    if signs.unattended and (signs.counts.captured or signs.counts.pending):
        yield Reason(
            "no_deliverer",
            f"no process delivers. Captures that wait: {signs.counts.captured}, records: {signs.counts.pending}",
            "Run beside the app: butter-middleware deliver --app shop.main:butter --follow.",
        )
    if signs.reading_for > HANGING_SECONDS:
        yield Reason(
            "reading_hangs",
            f"one capture has been read for {_span(signs.reading_for)}",
            "Fix the extractor that hangs, and restart. Captures wait. A durable outbox loses none.",
        )


def _delivery(signs: HealthInput) -> Iterator[Reason]:
    hold = signs.counts.hold
    if hold is not None or signs.endpoint == "hold":
        yield Reason(
            "hold",
            f"nothing is sent, since Butter answered {hold or 'so'}",
            "For 401, correct the credentials or the environment. Otherwise check base_url, proxies and the account. "
            "Sending then continues by itself.",
        )
    elif signs.ill_for > OUTAGE_SECONDS:
        taker, there = ("the queue", "it") if signs.host is None else ("Butter", signs.host)
        yield Reason(
            "endpoint_away",
            f"{taker} has not taken records for {_span(signs.ill_for)} ({signs.endpoint})",
            f"Check that this host reaches {there}; the log says how it failed. Records wait meanwhile.",
        )
    age = signs.oldest_pending_age
    if age is not None and age > AGE_SECONDS:
        yield Reason(
            "pending_old",
            f"records that wait to be sent: {signs.counts.pending}, the oldest for {_span(age)}",
            "See the other reasons and the log. If there are none, raise senders.",
        )


def _evidence(signs: HealthInput) -> Iterator[Reason]:
    if signs.counts.dead:
        yield Reason(
            "dead",
            f"records that Butter does not accept as they are: {signs.counts.dead}",
            "List them, correct the fault of each, then retry or drop them.",
        )
    if signs.counts.parked:
        yield Reason(
            "parked",
            f"captures that could not be read: {signs.counts.parked}",
            "The log says why, and what to correct. The next start reads them again. Drop what is not a checkout.",
        )
    if signs.lost:
        yield Reason(
            "lost",
            f"captures or records that are lost: {signs.lost}",
            "The log says why. Use an outbox on a disk that lasts and has room.",
        )
    if signs.low_coverage is not None:
        yield Reason(
            "coverage",
            f"in the last hour or two {signs.low_coverage}",
            "For each reason, see docs/telemetry.md#coverage.",
        )


_FAULTS: Final = {
    "fault": ("the outbox's file cannot be used", "The log says why. What comes waits in memory, up to a bound."),
    "full": ("the outbox's file is full", "Raise max_bytes, make room on the disk, or drop dead and parked entries."),
    "lock": ("another process holds the outbox's lock", "Find out if one of the workers is stopped, and end it."),
    "log": (
        "the log of the outbox's file (-wal) grows",
        "End the backup or the sqlite3 shell that keeps reading the file.",
    ),
    "broken": ("the outbox's file was broken and set aside", "Keep that file, fix the disk, and restart this process."),
}


def _span(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"  # noqa: PLR2004 - reads better so
