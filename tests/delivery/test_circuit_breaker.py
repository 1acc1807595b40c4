"""The circuit breaker is a pure state machine: answers and a clock go in, states and settlements come out."""

from collections.abc import Callable, Iterable

from butter_middleware.delivery.circuit_breaker import BreakerState, CircuitBreaker
from butter_middleware.events import EndpointChanged
from butter_middleware.models.answer import Answer, AnswerKind
from butter_middleware.models.checkout import Record
from butter_middleware.outbox.base import Pending, Settled, Settlement

DELIVERED = Answer(AnswerKind.DELIVERED, 200)
UNAVAILABLE = Answer(AnswerKind.UNAVAILABLE, 503)
NOW = 1_000_000.0


class Endpoint:
    """A circuit breaker with a clock in its hand; jitter is always in the middle of its bounds."""

    def __init__(self, senders: int = 4, uniform: Callable[[float, float], float] = lambda a, b: (a + b) / 2) -> None:
        self.now = 0.0
        self.told: list[EndpointChanged] = []
        self.breaker = CircuitBreaker(senders, lambda: NOW + self.now, lambda: self.now, uniform, self.told.append)

    def record(self, answers: Answer | Iterable[Answer], key: str = "r", attempts: int = 0) -> list[Settlement]:
        """Record the answers of one record after another, and return what the last one settled."""
        settled: list[Settlement] = []
        for answer in [answers] if isinstance(answers, Answer) else answers:
            settled = self.breaker.record(pending(key, attempts), answer)
        return settled

    def state(self) -> BreakerState:
        """Return the state."""
        return self.breaker.state

    def admitted(self) -> int:
        """Return how many records go out, one beside the other."""
        in_flight = 0
        while in_flight < 100 and self.breaker.admit(in_flight):
            in_flight += 1
        return in_flight


def pending(key: str = "r", attempts: int = 0, captured_at: float = NOW) -> Pending:
    return Pending(1, Record(key, "{}", captured_at), attempts)


def test_only_an_admitted_record_is_a_probe() -> None:
    """An open breaker becomes half-open with the record that goes, not with the question."""
    endpoint = Endpoint()
    endpoint.record([UNAVAILABLE] * 5)
    endpoint.now = 5.0
    assert not endpoint.breaker.admit(1)
    assert endpoint.state() is BreakerState.OPEN
    assert endpoint.breaker.admit(0)
    assert endpoint.state() is BreakerState.HALF_OPEN
    assert endpoint.record(DELIVERED)[0].settled is Settled.DELIVERED
    assert endpoint.state() is BreakerState.OK
