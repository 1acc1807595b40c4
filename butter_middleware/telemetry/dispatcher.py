"""`EventDispatcher`: counts and logs the events of the evidence, and gives them to the merchant."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from butter_middleware._utils import log_thread
from butter_middleware.errors import see
from butter_middleware.events import Captured, Covered, Event, Lost, Parked, Recorded, Skipped
from butter_middleware.telemetry.counters import Counters


class EventDispatcher:
    """Takes events from any thread, also from a checkout's. It never raises and never blocks.

    Args:
        clock: Returns seconds. It limits each message to once an hour.
        on_event: The merchant's function. The log thread calls it with each event.
        observe: Called on the event's own thread, so it must be quick and must not raise.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        on_event: Callable[[Event], object] | None = None,
        observe: Callable[[Event], object] | None = None,
    ) -> None:
        self.counters = Counters()
        self.listener: Callable[[Event], object] | None = None
        """Gets each event in `listens_to`, like `on_event`: a test's inbox, or a sandbox."""
        self.listens_to: tuple[type[object], ...] = (object,)
        self._on_event = on_event
        self._observe = observe
        self._hourly = log_thread.RateLimiter(clock)

    def forget(self) -> None:
        """Start again, in a forked child."""
        self.counters.forget()
        self._hourly.forget()

    def emit(self, event: Event, *, written: bool = False) -> None:
        """Take an event. If `written`, the outbox has already counted it."""
        self.counters.add(event.name, event.route, event.reason, event.times, written=written)
        if self._observe is not None:
            self._observe(event)
        if event.message:
            message = event.message
            if isinstance(event, Skipped | Parked):  # the error index has rows for their reasons
                message = f"{message.rstrip('.')}. {see(event.reason.rpartition(':')[2])}"
            self._say(event.name, event.level, message, event.route, event.reason)
        for hears in (self._on_event, self.listener if isinstance(event, self.listens_to) else None):
            if hears is not None and not log_thread.run(partial(self._call, hears, event)):
                self.counters.add("faulted", reason="on_event:overrun")

    def count(self, event: type[Captured | Covered | Recorded | Skipped], route: str = "", reason: str = "") -> None:
        """Count an event of every checkout, which has no message. The object is made only if something gets it."""
        if self._on_event is None and (self.listener is None or not issubclass(event, self.listens_to)):
            self.counters.add(event.name, route, reason)
        else:
            self.emit(event(route=route, reason=reason))

    def lost(self, error: BaseException, route: str = "") -> None:
        """Report that the outbox could not take a record."""
        kind = type(error).__name__
        message = f"a record is lost: the outbox could not take it ({kind}). See status().lost."
        self.emit(Lost(route=route, reason=kind, message=message, level=logging.CRITICAL))

    def _say(self, name: str, level: int, message: str, route: str, reason: str) -> None:
        times: int | None = 0
        with suppress(Exception):  # the merchant's clock may raise
            times = self._hourly.due((name, message))
        if times is not None:
            log_thread.log(level, message, times, event=name, route=route, reason=reason)

    def _call(self, on_event: Callable[[Event], object], event: Event) -> None:
        try:
            on_event(event)
        except BaseException as error:  # noqa: BLE001 - the merchant's code, which may even call sys.exit()
            reason = f"on_event:{type(error).__name__}"
            self.counters.add("faulted", reason=reason)
            message = f"on_event raised {type(error).__name__}. Fix it: it does not get that event again."
            self._say("faulted", logging.ERROR, message, "", reason)
