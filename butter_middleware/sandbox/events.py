"""The page's stream: Server-Sent Events, as https://html.spec.whatwg.org/multipage/server-sent-events.html has them."""

import json
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import anyio
from starlette.responses import Response, StreamingResponse

from butter_middleware.sandbox.inbox import Inbox

PAUSE: Final = 0.1
"""Seconds between two messages of a stream, at least: what arrives in between travels together."""
BEAT: Final = 15.0
"""Seconds of silence after which a comment shows that the stream lives."""
MESSAGE_CHARACTERS: Final = 256 * 1024
MOST_STREAMS: Final = 32


class Stream:
    """Tells each page that listens what arrived and what changed. For one event loop.

    A stream has no queue: it knows the last entry that it sent, and sends what came after it. A page that comes back
    names that entry (`Last-Event-ID`) and gets the rest; after a restart it starts again.

    Events: `state`, with what `state()` gives and the run's name; `records`, a list of entries, the oldest first.
    """

    def __init__(self, inbox: Inbox, state: Callable[[], dict[str, Any]]) -> None:
        self._inbox = inbox
        self._state = state
        self._run = secrets.token_hex(4)
        self._version = 0
        self._news: anyio.Event | None = None
        self._closing = False
        self._listeners = 0

    def changed(self) -> None:
        """Tell the pages that there is something new."""
        self._version += 1
        news, self._news = self._news, None
        if news is not None:
            news.set()

    def close(self) -> None:
        """End all streams."""
        self._closing = True
        self.changed()

    async def wait_closed(self, seconds: float) -> None:
        """Wait for the end of all streams, but no longer than `seconds`."""
        with anyio.move_on_after(seconds):
            while not self._closing:
                await self._wait()

    def response(self, last_event_id: bytes) -> Response:
        """Return the stream for one page."""
        if self._listeners >= MOST_STREAMS:
            return Response(f"{MOST_STREAMS} pages listen already. Close some.\n", 503, media_type="text/plain")
        match = re.fullmatch(rb"([0-9a-f]+)-([0-9]{1,15})", last_event_id)
        seen = int(match[2]) if match and match[1].decode() == self._run else 0
        return StreamingResponse(self._messages(seen), headers={"content-type": "text/event-stream"})

    async def _messages(self, seq: int) -> AsyncGenerator[str]:
        self._listeners += 1
        version = -1
        try:
            yield "retry: 1000\n\n"
            while not self._closing:
                if version == self._version:
                    with anyio.move_on_after(BEAT) as beat:
                        await self._wait()
                    if beat.cancelled_caught:
                        yield ":\n\n"
                    continue
                version = self._version
                # JSON in ASCII has no line feed, which would end the data.
                yield f"event: state\ndata: {json.dumps({**self._state(), 'run': self._run})}\n\n"
                while entries := self._inbox.since(seq, MESSAGE_CHARACTERS):
                    seq = entries[-1].seq
                    records = ",".join(entry.json for entry in entries)
                    yield f"event: records\nid: {self._run}-{seq}\ndata: [{records}]\n\n"
                await anyio.sleep(PAUSE)
        finally:
            self._listeners -= 1

    async def _wait(self) -> None:
        if self._news is None:
            self._news = anyio.Event()
        await self._news.wait()
