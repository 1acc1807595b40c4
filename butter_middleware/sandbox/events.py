"""The page's stream of Server-Sent Events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import anyio
from starlette.responses import Response, StreamingResponse

from butter_middleware.sandbox.inbox import Inbox

PAUSE: Final = 0.1
"""Seconds between two checks of the inbox. Records that arrive in between are sent together."""
BEAT: Final = 15.0
"""Seconds of silence after which a comment shows that the stream is alive."""
MESSAGE_CHARACTERS: Final = 256 * 1024
MOST_STREAMS: Final = 32


class Stream:
    """Sends arrivals and changes to each open page. It belongs to one event loop.

    A stream has no queue: it knows the last entry that it sent, and sends the entries after it. A page that reconnects
    names that entry (`Last-Event-ID`) and gets the rest. After a restart of the sandbox it starts from the beginning.

    The event `state` has the result of `state()` and the run's name. The event `records` has a list of entries, the
    oldest first. Each change of the inbox changes its counts, and so the state.
    """

    def __init__(self, inbox: Inbox, state: Callable[[], dict[str, Any]]) -> None:
        self._inbox = inbox
        self._state = state
        self._run = secrets.token_hex(4)
        self._closing = False
        self._listeners = 0

    def close(self) -> None:
        """End all streams."""
        self._closing = True

    async def wait_closed(self, seconds: float) -> None:
        """Wait for the end of all streams, but no longer than `seconds`."""
        for _look in range(round(seconds / PAUSE)):
            if not self._closing:
                await anyio.sleep(PAUSE)

    def response(self, last_event_id: bytes) -> Response:
        """Return the stream for one page."""
        if self._listeners >= MOST_STREAMS:
            return Response(f"{MOST_STREAMS} pages listen already. Close some.\n", 503, media_type="text/plain")
        match = re.fullmatch(rb"([0-9a-f]+)-([0-9]{1,15})", last_event_id)
        seen = int(match[2]) if match and match[1].decode() == self._run else 0
        return StreamingResponse(self._messages(seen), headers={"content-type": "text/event-stream"})

    async def _messages(self, seq: int) -> AsyncGenerator[str]:
        self._listeners += 1
        told: dict[str, Any] = {}
        beat_at = time.monotonic() + BEAT
        try:
            yield "retry: 1000\n\n"
            while not self._closing:
                state = self._state()
                if state != told:
                    told, beat_at = state, time.monotonic() + BEAT
                    # ASCII JSON has no line feed, which would end the data.
                    yield f"event: state\ndata: {json.dumps({**state, 'run': self._run})}\n\n"
                    while entries := self._inbox.since(seq, MESSAGE_CHARACTERS):
                        seq = entries[-1].seq
                        records = ",".join(entry.json for entry in entries)
                        yield f"event: records\nid: {self._run}-{seq}\ndata: [{records}]\n\n"
                elif time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + BEAT
                    yield ":\n\n"
                await anyio.sleep(PAUSE)
        finally:
            self._listeners -= 1
