"""The page's stream: Server-Sent Events, as https://html.spec.whatwg.org/multipage/server-sent-events.html has them."""

import json
import re
import secrets
from collections.abc import Callable
from typing import Any, Final

import anyio

from butter_middleware._utils.asgi import Message, Receive, Send
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

    async def __call__(self, receive: Receive, send: Send, last_event_id: bytes) -> None:
        """Stream to one page until it goes away."""
        full = self._listeners >= MOST_STREAMS
        headers = [(b"content-type", b"text/plain" if full else b"text/event-stream")]
        start: Message = {"type": "http.response.start", "status": 503 if full else 200, "headers": headers}
        await send(start)
        if full:
            text = f"{MOST_STREAMS} pages listen already. Close some.\n".encode()
            await send({"type": "http.response.body", "body": text})
            return
        self._listeners += 1
        try:
            async with anyio.create_task_group() as group:
                match = re.fullmatch(rb"([0-9a-f]+)-([0-9]{1,15})", last_event_id)
                seen = int(match[2]) if match and match[1].decode() == self._run else 0
                group.start_soon(self._tell_all, send, seen, group.cancel_scope)
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()
        finally:
            self._listeners -= 1

    async def _tell_all(self, send: Send, seq: int, scope: anyio.CancelScope) -> None:
        version = -1
        await send({"type": "http.response.body", "body": b"retry: 1000\n\n", "more_body": True})
        while not self._closing:
            if version != self._version:
                version = self._version
                text = _event("state", json.dumps({**self._state(), "run": self._run}))
                while entries := self._inbox.since(seq, MESSAGE_CHARACTERS):
                    seq = entries[-1].seq
                    records = f"[{','.join(entry.json for entry in entries)}]"
                    text += _event("records", records, f"{self._run}-{seq}")
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
                    text = ""
                if text:
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
                await anyio.sleep(PAUSE)
                continue
            with anyio.move_on_after(BEAT) as beat:
                await self._wait()
            if beat.cancelled_caught:
                await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        scope.cancel()

    async def _wait(self) -> None:
        if self._news is None:
            self._news = anyio.Event()
        await self._news.wait()


def _event(name: str, data: str, event_id: str = "") -> str:
    # JSON in ASCII has no line feed, which would end the data.
    return f"event: {name}\n" + (f"id: {event_id}\n" if event_id else "") + f"data: {data}\n\n"
