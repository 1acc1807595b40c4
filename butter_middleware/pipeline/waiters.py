"""Requests that hold back their last chunk until their records are where they should be: with Butter, or in a queue."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Final, Literal

from butter_middleware.models.http import Capture
from butter_middleware.outbox.base import Settled, Settlement


@dataclass(frozen=True, slots=True)
class ResponseWait:
    """For what the last chunk of a captured response is held back."""

    until: Literal["", "disk", "queue", "butter"] = ""
    """Empty: for nothing. `disk`: the capture is there. Else its records are in the queue, or with Butter."""
    seconds: float = 0.0
    """And no longer than that."""

    @property
    def is_sending(self) -> bool:
        """Whether more is waited for than an outbox of this process."""
        return self.until in {"queue", "butter"}


NOTHING: Final = ResponseWait()


class Waiters:
    """Knows what each of them waits for. Safe from any thread; each wait has its own deadline elsewhere."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._unread: dict[tuple[float, str], list[Future[None]]] = {}
        self._sent: dict[str, list[Future[None]]] = {}
        self._left: dict[Future[None], int] = {}

    def expect(self, capture: Capture) -> "Future[None]":
        """Return what is done once all records of a capture are settled, or it has none."""
        future: Future[None] = Future()
        with self._lock:
            self._unread.setdefault(_name(capture), []).append(future)
        return future

    def read(self, capture: Capture, keys: Sequence[str]) -> None:
        """The capture was read: these are its records, which are not in the outbox yet."""
        with self._lock:
            futures = self._unread.pop(_name(capture), [])
            for future in futures if keys else ():
                self._left[future] = len(keys)
                for key in keys:
                    self._sent.setdefault(key, []).append(future)
        if not keys:
            _finish(futures)

    def settled(self, settlements: Iterable[Settlement], *, go_on: bool) -> None:
        """Claims have ended; those that are claimed again at once are not over, unless sending does not `go_on`."""
        if go_on:
            self.over([one.key for one in settlements if one.settled is not Settled.RELEASED or one.due_at])
        else:
            self._release()

    def over(self, keys: Iterable[str]) -> None:
        """Nothing more is to be expected of these records now."""
        done: list[Future[None]] = []
        with self._lock:
            for key in keys:
                for future in self._sent.pop(key, ()):
                    self._left[future] -= 1
                    if not self._left[future]:
                        del self._left[future]
                        done.append(future)
        _finish(done)

    def _release(self) -> None:
        with self._lock:
            done, self._left, self._sent = list(self._left), {}, {}
        _finish(done)


def _name(capture: Capture) -> tuple[float, str]:
    """Return what a capture is known by when it comes out of an outbox; two with one name are waited for together."""
    return capture.captured_at, capture.path


def _finish(futures: Iterable["Future[None]"]) -> None:
    for future in futures:
        future.set_result(None)
