"""The sandbox as an ASGI app: Butter's contract, the page, and what the page asks."""

import json
import secrets
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any, Final, Literal, cast, get_args

from butter_middleware._utils.asgi import Message, Receive, Scope, Send
from butter_middleware.config import SANDBOX_REPORTS, SANDBOX_SOURCES
from butter_middleware.sandbox.events import Stream
from butter_middleware.sandbox.fake_butter import PATHS, FakeButter
from butter_middleware.sandbox.guard import Guard
from butter_middleware.sandbox.inbox import KEEP, Arrival, Inbox

Answer = Literal["contract", "401", "403", "422", "429", "500", "slow", "reset"]
"""How requests are answered: as Butter would, or by a switch, until it is switched off."""

SLOW_SECONDS: Final = 5.0
RETRY_AFTER: Final = b"5"
"""Seconds, with a 429: a middleware that pauses is back soon after the switch is off."""
MOST_BYTES: Final = 64 * 1024
"""Of a request's body."""
PAGES: Final = {
    path: ((files("butter_middleware.sandbox") / "static" / name).read_bytes(), media_type)
    for path, name, media_type in (
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/app.js", "app.js", "text/javascript; charset=utf-8"),
        ("/style.css", "style.css", "text/css; charset=utf-8"),
        ("/icon.svg", "icon.svg", "image/svg+xml"),
    )
}
"""The page's files, by path: no build step, nothing from elsewhere."""
TEST_RECORD: Final = {"customer_email": "test@example.com", "ipv4_address": "192.0.2.1", "psp": "stripe"}
"""Of an address for documentation, which no shopper has."""
RESET: Final = "butter.reset"
"""The extension of the scope by which a server lets the app break its connection."""


class Sandbox:
    """A Butter that shows what it gets.

    Args:
        username: The one that is accepted, with its password; None accepts any credentials.
        password: As `username`.
        keep: How many of the newest records are kept.
        exposed: Whether others than this machine may call it, by any IP address.
        names: Names of this machine, beside `localhost`.
    """

    def __init__(
        self,
        *,
        username: str | None = None,
        password: str | None = None,
        keep: int = KEEP,
        exposed: bool = False,
        names: Iterable[str] = (),
    ) -> None:
        self.inbox = Inbox(keep)
        self.answer: Answer = "contract"
        self._username, self._password = username, password
        self._butter = FakeButter(username=username, password=password)
        self._stream = Stream(self.inbox, self._state)
        self._guard = Guard(self._route, exposed=exposed, names=names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._guard(scope, receive, send)

    def switch(self, answer: Answer) -> None:
        """Answer so from now on.

        Raises:
            ValueError: there is no such answer.
        """
        if answer not in get_args(Answer):
            msg = f"answer is not one of  {', '.join(get_args(Answer))}"
            raise ValueError(msg)
        self.answer = answer
        self._stream.changed()

    def clear(self) -> None:
        """Forget what arrived."""
        self.inbox.clear()
        self._stream.changed()

    def close(self) -> None:
        """End the pages' streams, which otherwise never end, and whatever is slow. From the server's own thread."""
        self._stream.close()

    def _state(self) -> dict[str, Any]:
        """What the page shows beside the records."""
        return {
            "answer": self.answer,
            "answers": get_args(Answer),
            "arrived": self.inbox.arrived,
            "counts": self.inbox.counts,
            "first": self.inbox.first,
            "keep": self.inbox.keep,
            "slow_seconds": SLOW_SECONDS,
            "username": self._username,
        }

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        headers = {name.lower(): value for name, value in scope["headers"]}
        # `GET /` is Butter's ping too. A request with credentials, or one that does not accept HTML, is a ping.
        browses = b"authorization" not in headers and b"text/html" in headers.get(b"accept", b"")
        if path in PAGES and method in {"GET", "HEAD"} and (path != "/" or browses):
            content, media_type = PAGES[path]
            await _respond(send, 200, content if method == "GET" else b"", media_type, len(content))
        elif path == "/api/events" and method == "GET":
            await self._stream(receive, send, headers.get(b"last-event-id", b""))
        elif path == "/api/records" and method == "GET":
            await self._list(send)
        elif path == "/api/records" and method == "DELETE":
            self.clear()
            await _respond_json(send, 200, self._state())
        elif path == "/api/answer" and method == "PUT":
            await self._switch(receive, send)
        elif path == SANDBOX_REPORTS and method == "POST":
            await self._report(receive, send)
        elif path == "/api/test" and method == "POST":
            await self._send_test_record(scope, send)
        elif path.startswith("/api/"):
            await _respond_json(send, 404, {"detail": "Not Found"})
        else:
            await self._post(scope, headers, receive, send)

    async def _list(self, send: Send) -> None:
        entries = self.inbox.since(0, 1 << 40)
        records = ", ".join(entry.json for entry in entries if entry.arrived)
        others = ", ".join(entry.json for entry in entries if not entry.arrived)
        text = f'{json.dumps(self._state())[:-1]}, "records": [{records}], "not_sent": [{others}]}}'
        await _respond(send, 200, text.encode(), "application/json")

    async def _switch(self, receive: Receive, send: Send) -> None:
        try:
            given: Any = json.loads(await _read(receive) or b"")
            self.switch(cast("Answer", given["answer"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            detail = f'send {{"answer": "..."}} with one of {", ".join(get_args(Answer))}'
            await _respond_json(send, 422, {"detail": detail})
        else:
            await _respond_json(send, 200, self._state())

    async def _report(self, receive: Receive, send: Send) -> None:
        try:
            self.inbox.report(json.loads(await _read(receive) or b""))
        except (ValueError, RecursionError):
            await _respond_json(send, 422, {"detail": "send a list of objects"})
        else:
            self._stream.changed()
            await _respond(send, 204, b"", "application/json")

    async def _send_test_record(self, scope: Scope, send: Send) -> None:
        """Post a test record, as a shop would."""
        record = TEST_RECORD | {"invoice_id": f"butter-test-{secrets.token_hex(4)}"}
        credentials = b64encode(f"{self._username or 'sandbox'}:{self._password or 'sandbox'}".encode())
        headers = {b"authorization": b"Basic " + credentials, b"content-type": b"application/json"}
        body = json.dumps(record).encode()
        given = {**scope, "path": PATHS[0], "headers": list(headers.items())}

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        await self._post(given, headers, receive, send)

    async def _post(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        """Answer as Butter would, or as the switch says, and show it where it is a record."""
        body = await _read(receive)
        if body is None:
            return
        answer, is_record = self.answer, scope["method"] == "POST" and scope["path"] in PATHS
        told = headers.get(SANDBOX_SOURCES.lower().encode(), b"").decode("latin-1")
        arrival = Arrival(body, None, switched=True, told=told, request=_raw(scope, body))
        if answer == "reset":
            if is_record:
                self._take(arrival)
            await _reset(scope, receive)
            return
        status, content = await self._answer(scope, headers, body, answer)
        if is_record:
            switched = answer.isdigit()
            detail = None if switched else content.get("detail")
            answered = json.dumps(content)
            self._take(replace(arrival, status=status, switched=switched, detail=detail, answer=answered))
        if answer == "slow":
            await self._stream.wait_closed(SLOW_SECONDS)
        extra = [(b"retry-after", RETRY_AFTER)] if status == 429 else []  # noqa: PLR2004 - RFC 6585, section 4
        await _respond_json(send, status, content, extra)

    async def _answer(
        self, scope: Scope, headers: dict[bytes, bytes], body: bytes, answer: Answer
    ) -> tuple[int, dict[str, Any]]:
        if len(body) > MOST_BYTES:
            return 413, {"detail": f"longer than {MOST_BYTES} bytes"}
        if answer.isdigit():
            self._butter.respond_with(int(answer))
        answered = await self._butter.answer(scope["method"], scope["path"], headers, body)
        self._butter.records.clear()  # the inbox has them, and is bounded
        return answered

    def _take(self, arrival: Arrival) -> None:
        self.inbox.take(arrival)
        self._stream.changed()

    def __repr__(self) -> str:
        return f"Sandbox({self.inbox.arrived} arrived)"


async def _read(receive: Receive) -> bytes | None:
    """Read a body; of one that is too long no more than shows it. None where its sender went away."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body = (body + message.get("body", b""))[: MOST_BYTES + 1]
        more = message.get("more_body", False)
    return body


def _raw(scope: Scope, body: bytes) -> str:
    """Return a request as Butter would get it, with masked credentials."""
    hidden = {b"authorization": b"Basic (masked)", SANDBOX_SOURCES.lower().encode(): None}
    given = [(name, hidden.get(name.lower(), value)) for name, value in scope["headers"]]
    head = [f"{scope['method']} {scope['path']} HTTP/1.1"]
    head += [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in given if value is not None]
    return "\n".join([*head, "", body.decode("utf-8", "replace")])


async def _reset(scope: Scope, receive: Receive) -> None:
    """Break the connection.

    Raises:
        ConnectionResetError: the server has no way to.
    """
    reset = scope.get("extensions", {}).get(RESET)
    if reset is None:
        raise ConnectionResetError
    reset()
    while (await receive())["type"] != "http.disconnect":
        pass


Extra = Sequence[tuple[bytes, bytes]]


async def _respond_json(send: Send, status: int, content: object, extra: Extra = ()) -> None:
    await _respond(send, status, json.dumps(content).encode(), "application/json", extra=extra)


async def _respond(
    send: Send, status: int, content: bytes, media_type: str, length: int | None = None, extra: Extra = ()
) -> None:
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(length or len(content)).encode()),
        *extra,
    ]
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": content})
