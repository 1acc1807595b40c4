"""Reports checkouts that did not become a record to a sandbox on this machine. Production has no sandbox."""

import json
import time
from collections import deque
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

from butter_middleware._utils import log_thread, overrides
from butter_middleware.config import SANDBOX_REPORTS
from butter_middleware.events import Event, Lost, Parked, Skipped
from butter_middleware.models.reasons import unwanted

HEARD: Final = (Skipped, Parked, Lost)
"""The events of a checkout without a record."""
MOST_WAITING: Final = 100
TIMEOUT: Final = 1.0
"""Seconds that the sandbox has to answer."""
REST: Final = 5.0
"""Seconds without a try after a failed one: nothing, or something other than a sandbox, may run there."""


class SandboxReports:
    """Sends the results of checkouts to a sandbox. Like all events, they contain no personal data.

    It sends on the log thread. If the sandbox does not answer, reports are dropped.
    """

    def __init__(self, base_url: str) -> None:
        self._base = urlsplit(base_url)
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MOST_WAITING)
        self._rests_until = 0.0

    def hear(self, event: Event) -> None:
        """Take an event of `HEARD`."""
        missing = not isinstance(event, Skipped) or unwanted(event)
        self._tell(event.name, event.route, event.reason, event.message, event.times, missing=missing)

    def ignored(self, message: str) -> None:
        """Take the message about a call of `annotate()` without effect."""
        self._tell("ignored", "", "annotate", message, 1, missing=True)

    def _tell(self, name: str, route: str, reason: str, message: str, times: int, *, missing: bool) -> None:
        report = {"name": name, "route": route, "reason": reason, "message": message, "times": times}
        self._waiting.append({**report, "missing": missing})
        log_thread.run(self._send)

    def _send(self) -> None:
        reports = [self._waiting.popleft() for _report in range(len(self._waiting))]
        if not reports or overrides.current() is not None or time.monotonic() < self._rests_until:
            return
        self._rests_until = time.monotonic() + REST
        connection = HTTPConnection(self._base.hostname or "", self._base.port, timeout=TIMEOUT)
        with suppress(OSError, HTTPException):
            headers = {"content-type": "application/json"}
            connection.request("POST", f"{self._base.path}{SANDBOX_REPORTS}", json.dumps(reports), headers)
            if connection.getresponse().status == 204:  # noqa: PLR2004 - RFC 9110, section 15.3.5
                self._rests_until = 0.0
        connection.close()
