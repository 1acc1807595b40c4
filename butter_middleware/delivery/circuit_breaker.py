"""The endpoint's health: what each answer means for Butter, for the configuration, and for the record.

A pure state machine: it sends nothing, reads only the clocks that it is given, and reports each change.

    ok ──SYSTEM x 5──► open ──time──► half_open ──accepted──► ok (concurrency 1, 2, 4 ...)
    │ ▲                 ▲                  └──SYSTEM──► open, twice as long
    │ └──accepted───────┼───────────────────────────────── hold (probes only; survives a restart)
    ├──401, redirect, five 422 in a row, every record refused ──► hold
    └──429──► paused ──Retry-After──► ok, at half the concurrency
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from butter_middleware.events import EndpointChanged
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.outbox.base import Pending, Settled, Settlement

FAILURES_TO_OPEN: Final = 5
INVALID_TO_HOLD: Final = 5
IMPOSTORS_TO_HOLD: Final = 3
PROBE_LEAST: Final = 5.0
PROBE_MOST: Final = 300.0
BACKOFF_MOST: Final = 3600.0
THROTTLED_SECONDS: Final = 60.0
BEHIND_MOST: Final = 60.0
MOST_STOPPED: Final = 1_000
_TRIES: Final = {
    AnswerKind.REFUSED: (3, 3600.0),
    AnswerKind.REJECTED: (3, 3600.0),
    AnswerKind.FAILED: (12, 86400.0),
}
"""For an answer that the record may cause: the tries, and the seconds since the checkout, before it is dead."""
_OF_ALL_RECORDS: Final = frozenset({AnswerKind.UNAUTHORIZED, AnswerKind.THROTTLED, AnswerKind.STALLED})
"""No single record causes these answers. Other answers may come from a firewall that blocks one record each time."""
_RANDOM: Final = random.SystemRandom()
"""Not the shared generator, because an app may have seeded that."""


@dataclass(frozen=True, slots=True)
class Target:
    """The destination of the records, and the pauses between probes after a failure."""

    name: str
    probe_least: float
    probe_most: float
    """Seconds."""


BUTTER: Final = Target("Butter", PROBE_LEAST, PROBE_MOST)
QUEUE: Final = Target("the queue", 1.0, 5.0)
"""Short pauses: the queue is near, and records are in memory only while it is away."""


class BreakerState(StrEnum):
    """The endpoint's state, as this process knows it."""

    OK = "ok"
    OPEN = "open"
    """The breaker is open: nothing is sent until the next probe."""
    HALF_OPEN = "half_open"
    """One record is sent as the probe."""
    PAUSED = "paused"
    """429: nothing is sent for a while."""
    HOLD = "hold"
    """Our configuration is wrong: only probes are sent, until one succeeds."""


class CircuitBreaker:
    """Records answers, admits records, and returns when to ask again.

    Args:
        senders: The most records on their way at once.
        clock: Seconds since the epoch, for due times.
        monotonic: Seconds, for probes and pauses.
        tell: Gets each change.
        target: The destination of the records.
        uniform: Like `random.uniform`, for jitter.
    """

    def __init__(
        self,
        senders: int,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        tell: Callable[[EndpointChanged], object],
        target: Target = BUTTER,
        uniform: Callable[[float, float], float] = _RANDOM.uniform,
    ) -> None:
        self.state = BreakerState.OK
        self.hold_reason: str | None = None
        self._senders = senders
        self._clock = clock
        self._monotonic = monotonic
        self._uniform = uniform
        self._tell = tell
        self._target = target
        self._told = BreakerState.OK
        self._worst = logging.INFO
        self.changed_at: float | None = None
        """When the endpoint became ok or ill, in seconds since the epoch."""
        self._limit = senders
        self._wake_at = 0.0
        self._probes = 0
        self._good = 0
        self._failures = 0
        self._invalid = 0
        self._impostors = 0
        self._accepted_at: float | None = None
        self._suspects: list[tuple[Pending, Answer]] = []
        self._doubted: set[str] = set()
        """The keys of records with an ambiguous answer since the last accepted one."""
        self._stopped: dict[str, float] = {}
        """When a record did not get through, by its key."""

    # The limits of sending.

    def admit(self, in_flight: int) -> bool:
        """Return whether one more record may be sent beside those in flight. Outside `ok`, one at a time, as a probe.

        A wait that is over ends here: paused becomes ok, and open becomes half-open for the admitted record.
        """
        if self.state is not BreakerState.OK and self._monotonic() < self._wake_at:
            return False
        if self.state is BreakerState.PAUSED:
            self._become(BreakerState.OK)
        limit = self._limit if self.state is BreakerState.OK and not self._suspects else 1
        admitted = in_flight < limit
        if admitted and self.state is BreakerState.OPEN:
            self.state = BreakerState.HALF_OPEN
        return admitted

    def seconds_to_wait(self) -> float:
        """The seconds until the result of `admit` may change without a new answer. 0 in ok."""
        return 0.0 if self.state is BreakerState.OK else max(0.0, self._wake_at - self._monotonic())

    def not_now(self, pending: Pending) -> Settlement:
        """Postpone a record until it may be sent."""
        due_at = self._clock() + max(1.0, self.seconds_to_wait())
        return Settlement(pending.id, Settled.RELEASED, due_at, key=pending.record.key)

    @property
    def ill(self) -> bool:
        """Whether waiting for a delivery cannot help now."""
        return self.state is not BreakerState.OK

    def resume_hold(self, reason: str) -> None:
        """Continue a hold that an earlier process began: probe at once."""
        self.hold_reason, self._wake_at, self._limit = reason, 0.0, 1
        code = reason.partition(" ")[0]
        if code == "422":
            self._invalid = INVALID_TO_HOLD - 1  # otherwise each start could end four more records
        said = f"sending to Butter is still on hold ({reason}); probing"
        self._become(BreakerState.HOLD, code, said, logging.WARNING)
        self._worst = logging.CRITICAL  # the earlier process logged it

    def probe_now(self) -> None:
        """Let the next record be tried at once, because a person has fixed the cause of the hold."""
        self._wake_at, self._probes = 0.0, 0

    # The meaning of an answer.

    def ping_failed(self, answer: Answer) -> bool:
        """Record a ping during a hold. Return True if no record needs to be tried yet."""
        if answer.kind is AnswerKind.STALLED:
            return True
        reached = answer.status is not None and answer.status < 500  # noqa: PLR2004 - RFC 9110, section 15.6
        if reached and answer.kind not in {AnswerKind.UNAUTHORIZED, AnswerKind.REDIRECTED, AnswerKind.THROTTLED}:
            return False
        self._probe_later()
        return True

    def record(self, pending: Pending, answer: Answer) -> list[Settlement]:
        """Record an answer. Return the settlements of its record and of suspects. A new suspect has none yet."""
        kind = answer.kind
        if kind is AnswerKind.DELIVERED:
            self._stopped.pop(pending.record.key, None)
            return [Settlement(pending.id, Settled.DELIVERED, key=pending.record.key), *self._accepted()]
        if kind in _TRIES:
            return self._doubt(pending, answer)
        if kind is AnswerKind.INVALID:
            return self._refuse(pending, answer)
        if kind is AnswerKind.BUSY:
            self._probe_failed()
            return [self._retry(pending, answer)]
        if kind is AnswerKind.IMPOSTOR:
            self._impostors += 1
            self._probe_failed()
            if self._impostors >= IMPOSTORS_TO_HOLD:
                self._hold(answer, "something else answers in Butter's place: check base_url, proxies and firewalls")
            return [self._later(pending)]
        if kind is AnswerKind.UNAUTHORIZED:
            self._hold(answer, "Butter does not take the credentials: check username, password and environment")
        elif kind is AnswerKind.REDIRECTED:
            self._hold(answer, "Butter redirects elsewhere: check base_url")
        elif kind is AnswerKind.THROTTLED:
            self._pause(answer)
        else:
            self._fail(answer)
        due_at = 0.0 if kind in _OF_ALL_RECORDS else self._due_again(pending.record.key)
        return [Settlement(pending.id, Settled.RELEASED, due_at, key=pending.record.key), *self._release_suspects()]

    def _due_again(self, key: str) -> float:
        """Return when a record that did not get through is due. 0: at once."""
        now = self._monotonic()
        if self.ill or len(self._stopped) >= MOST_STOPPED:  # another process may have sent some of them
            self._stopped.clear()
        if self.ill:
            # The next probe is another record, if there is one, so that a bad one at the head cannot keep the state.
            # But this record is due soon, because another process may find Butter ok.
            return self._clock() + min(self.seconds_to_wait(), BEHIND_MOST)
        if self._accepted_at is not None and self._accepted_at >= self._stopped.setdefault(key, now):
            # Others get through. If only the answer to this record breaks, Butter gets it again with each try.
            return self._clock() + self._uniform(BEHIND_MOST / 2, BEHIND_MOST)
        return 0.0

    def alone(self) -> list[Settlement]:
        """Settle the suspects if no other record can show the cause. None of them becomes dead.

        If one record after the other is suspected and none is accepted, the cause is the system.
        """
        suspects, self._suspects = self._suspects, []
        settlements: list[Settlement] = []
        for pending, answer in suspects:
            tries, _age = _TRIES[answer.kind]
            if self._overtaken(pending):
                settlements.append(self._charge(pending, answer))
                continue
            self._doubted.add(pending.record.key)
            if len(self._doubted) >= FAILURES_TO_OPEN:
                settlements += self._blame_the_system(pending, answer)
            elif pending.attempts + 1 >= tries and answer.kind is not AnswerKind.FAILED:
                self._hold(answer, "Butter refuses what we send: check base_url and the account's permissions")
                settlements.append(self._later(pending))
            else:
                settlements.append(self._retry(pending, answer))
        return settlements

    @property
    def suspects(self) -> int:
        """How many records wait for another record's answer."""
        return len(self._suspects)

    def _accepted(self) -> list[Settlement]:
        if self.state is BreakerState.OK:
            self._good += 1
            if self._good >= self._limit:
                self._limit, self._good = min(self._senders, self._limit * 2), 0
        elif self.state is not BreakerState.PAUSED:  # a record that was on its way when a pause began does not end it
            self._limit, self._good, self._wake_at = 1, 0, 0.0
            # Many servers, such as uvicorn, do not show INFO. The end of a CRITICAL fault must be seen there too.
            level = logging.WARNING if self._worst == logging.CRITICAL else logging.INFO
            self._become(BreakerState.OK, said=f"{self._target.name}: records are accepted again", level=level)
        self.hold_reason = None
        self._failures = self._invalid = self._impostors = self._probes = 0
        self._doubted.clear()
        self._accepted_at = self._monotonic()
        suspects, self._suspects = self._suspects, []
        return [self._charge(pending, answer) for pending, answer in suspects]

    def _overtaken(self, pending: Pending) -> bool:
        """Whether others were accepted while this record, which had failed before, waited for its next try."""
        if not pending.attempts or self._accepted_at is None:
            return False
        return self._monotonic() - self._accepted_at < _backoff(pending.attempts - 1) / 2

    def _charge(self, pending: Pending, answer: Answer) -> Settlement:
        """The canary rule: another record was accepted, so this record is the cause."""
        tries, age = _TRIES[answer.kind]
        if pending.attempts + 1 >= tries and self._clock() - pending.record.captured_at >= age:
            return self._dead_letter(pending, answer)
        return self._retry(pending, answer)

    def _doubt(self, pending: Pending, answer: Answer) -> list[Settlement]:
        if self.state is BreakerState.PAUSED:
            return [self._later(pending)]  # not a suspect: no other answer follows soon, and a response may wait
        if self.state is BreakerState.OK:
            if not self._suspects:
                self._suspects.append((pending, answer))
                return []
            if self._overtaken(pending):
                return [self._retry(pending, answer)]
        return self._blame_the_system(pending, answer)

    def _blame_the_system(self, pending: Pending, answer: Answer) -> list[Settlement]:
        self._doubted.clear()
        if answer.kind is AnswerKind.FAILED:
            self._open(answer)
        else:
            self._hold(answer, "Butter refuses every record: check base_url and the account's permissions")
        # Due later, so that the next probe is another record and a bad one at the head cannot keep the state.
        return [self._later(pending), *self._release_suspects()]

    def _refuse(self, pending: Pending, answer: Answer) -> list[Settlement]:
        self._invalid += 1
        if self._invalid < INVALID_TO_HOLD:
            self._probe_failed()
            return [self._dead_letter(pending, answer)]
        self._hold(answer, "Butter finds every record invalid: a bad deploy, or a changed contract")
        return [self._later(pending)]

    def _release_suspects(self) -> list[Settlement]:
        suspects, self._suspects = self._suspects, []
        return [self._later(pending) for pending, _answer in suspects]

    def _dead_letter(self, pending: Pending, answer: Answer) -> Settlement:
        return Settlement(pending.id, Settled.DEAD, reason=answer.label, key=pending.record.key)

    def _retry(self, pending: Pending, answer: Answer) -> Settlement:
        backoff = _backoff(pending.attempts)
        # Equal jitter: half of the pause is fixed, so that no retry comes at once.
        seconds = max(backoff / 2 + self._uniform(0, backoff / 2), answer.retry_after or 0.0)
        return Settlement(pending.id, Settled.RETRY, self._clock() + seconds, answer.label, pending.record.key)

    def _later(self, pending: Pending) -> Settlement:
        return Settlement(pending.id, Settled.RELEASED, self._clock() + self._uniform(30, 60), key=pending.record.key)

    # The states.

    def _fail(self, answer: Answer) -> None:
        if answer.kind is AnswerKind.STALLED:
            return
        self._failures += 1
        if answer.kind is AnswerKind.UNTRUSTED:
            said = "Butter's certificate is not trusted: check the clock, CAs and proxies"
            self._open(answer, PROBE_MOST, logging.CRITICAL, said)
        elif self.state is BreakerState.HOLD:
            self._probe_later()
        elif self.state is not BreakerState.OK or self._failures >= FAILURES_TO_OPEN:
            self._open(answer)

    def _open(self, answer: Answer, least: float = 0.0, level: int = logging.WARNING, said: str = "") -> None:
        if self.state is BreakerState.HOLD:
            self._probe_later()
            return
        said = said or f"{self._target.name} does not answer ({answer.label}); records wait"
        self._become(BreakerState.OPEN, answer.code, said, level)
        self._limit = 1
        self._probe_later(max(least, answer.retry_after or 0.0))

    def _hold(self, answer: Answer, remedy: str) -> None:
        if self.state is not BreakerState.HOLD:
            self._probes = 0
        said = f"sending to Butter is on hold, answer {answer.label}: {remedy}. Nothing is lost"
        self._become(BreakerState.HOLD, answer.code, said, logging.CRITICAL)
        self.hold_reason, self._limit = answer.label, 1
        self._probe_later()

    def _pause(self, answer: Answer) -> None:
        if self.state is BreakerState.HOLD:
            self._probe_later(answer.retry_after or THROTTLED_SECONDS)
            return
        if self.state is not BreakerState.PAUSED:
            self._limit, self._good = max(1, self._limit // 2), 0
            self._become(BreakerState.PAUSED, answer.code)
        self._wake_at = max(self._wake_at, self._monotonic() + (answer.retry_after or THROTTLED_SECONDS))

    def _probe_failed(self) -> None:
        """Let the next probe come later, after an answer that changes no state."""
        if self.state is not BreakerState.OK:
            self._probe_later()

    def _probe_later(self, least: float = 0.0) -> None:
        now = self._monotonic()
        if now < self._wake_at:
            # This record was on its way when the trouble began. It was not a probe, so the pause does not grow.
            self._wake_at = max(self._wake_at, now + least)
            return
        seconds = min(self._target.probe_most, self._target.probe_least * 2 ** min(self._probes, 10))
        self._probes += 1
        self._wake_at = now + max(least, seconds * self._uniform(0.9, 1.1))

    def _become(self, state: BreakerState, reason: str = "", said: str = "", level: int = logging.INFO) -> None:
        """Change the state. Report it if it differs from the reported one, or is worse. Half-open is not reported."""
        self.state, before = state, self._told
        if state is before and level <= self._worst:
            return
        self._told, self._worst = state, level
        if state is not before:
            self.changed_at = self._clock()
        self._tell(EndpointChanged(state=state.value, before=before.value, reason=reason, message=said, level=level))


def _backoff(attempts: int) -> float:
    """Return the seconds that a record waits after `attempts` earlier failures, without jitter."""
    return min(BACKOFF_MOST, 5.0 * 2.0 ** min(attempts, 20))
