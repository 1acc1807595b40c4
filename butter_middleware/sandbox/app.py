"""The sandbox as an ASGI app: Butter's API, the page, and the page's own requests."""

import json
import secrets
from base64 import b64encode
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from importlib.resources import files
from typing import Any, Final, Literal, get_args

from starlette.responses import JSONResponse, Response

from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.config import SANDBOX_REPORTS, SANDBOX_SOURCES
from butter_middleware.sandbox.events import Stream
from butter_middleware.sandbox.fake_butter import PATHS, FakeButter, read_body
from butter_middleware.sandbox.guard import HEADERS, refusal
from butter_middleware.sandbox.inbox import KEEP, Inbox

Answer = Literal["contract", "401", "403", "422", "429", "500", "slow", "reset"]
"""How requests are answered: like Butter, or by a switch until it is switched off."""

SLOW_SECONDS: Final = 5.0
RETRY_AFTER: Final = "5"
"""Seconds, with a 429. A paused middleware continues soon after the switch is off."""
MOST_BYTES: Final = 64 * 1024
"""The most bytes of a request's body."""
PAGES: Final = {
    path: ((files("butter_middleware.sandbox") / "static" / name).read_bytes(), media_type)
    for path, name, media_type in (
        ("/", "index.html", "text/html"),
        ("/app.js", "app.js", "text/javascript"),
        ("/style.css", "style.css", "text/css"),
        ("/icon.svg", "icon.svg", "image/svg+xml"),
    )
}
"""The page's files by path, without a build step or external files."""
TEST_RECORD: Final = {"customer_email": "test@example.com", "ipv4_address": "192.0.2.1", "psp": "stripe"}
"""A record with an address for documentation, which no shopper has."""
RESET: Final = "butter.reset"
"""The scope's extension with which the app can break its connection."""


class Sandbox:
    """A Butter that shows the requests that it gets.

    Args:
        username: The accepted username. None accepts any credentials.
        password: The accepted password.
        keep: How many of the newest entries are kept.
        exposed: Whether other machines may call it, with any IP address as its name.
        names: Names of this machine, in addition to `localhost`.
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
        """The current answer, until another one is set."""
        self._switched = 0
        self._username, self._password = username, password
        self._butter = FakeButter(username=username, password=password)
        self._stream = Stream(self.inbox, self._state)
        self._exposed = exposed
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        response = refusal(scope, self._names, exposed=self._exposed) or await self._answer(scope, receive)
        if response is not None:
            response.headers.update(HEADERS)
            await response(scope, receive, send)

    def close(self) -> None:
        """End the pages' streams, which otherwise never end, and slow answers."""
        self._stream.close()

    def _state(self) -> dict[str, Any]:
        """Return what the page shows in addition to the records."""
        return {
            "answer": self.answer,
            "answers": get_args(Answer),
            "arrived": self.inbox.arrived,
            "counts": self.inbox.counts,
            "first": self.inbox.first,
            "keep": self.inbox.keep,
            "slow_seconds": SLOW_SECONDS,
            "switched": self._switched,
            "username": self._username,
        }

    async def _answer(self, scope: Scope, receive: Receive) -> Response | None:
        """Return the answer to a request. None if the client has gone."""
        method, path = scope["method"], scope["path"]
        headers = {name.lower(): value for name, value in scope["headers"]}
        # `GET /` is also Butter's ping. A request with credentials, or one that does not accept HTML, is a ping.
        browses = b"authorization" not in headers and b"text/html" in headers.get(b"accept", b"")
        body = await read_body(receive, MOST_BYTES + 1)
        if body is None:
            return None
        match method, path:
            case "GET" | "HEAD", _ if path in PAGES and (path != "/" or browses):
                content, media_type = PAGES[path]
                response: Response | None = Response(content, media_type=media_type)
            case "GET", "/api/events":
                response = self._stream.response(headers.get(b"last-event-id", b""))
            case "GET", "/api/records":
                entries = self.inbox.since(0, 1 << 40)
                records = ", ".join(entry.json for entry in entries if entry.arrived)
                others = ", ".join(entry.json for entry in entries if not entry.arrived)
                text = f'{json.dumps(self._state())[:-1]}, "records": [{records}], "not_sent": [{others}]}}'
                response = Response(text, media_type="application/json")
            case "DELETE", "/api/records":
                self.inbox.clear()
                response = JSONResponse(self._state())
            case "PUT", "/api/answer":
                response = self._switch(body)
            case "POST", "/api/test":
                response = await self._post_test_record(scope, receive)
            case "POST", _ if path == SANDBOX_REPORTS:
                response = self._report(body)
            case _ if path.startswith("/api/"):
                response = JSONResponse({"detail": "Not Found"}, 404)
            case _:
                response = await self._post(scope, headers, body, receive)
        return response

    def _switch(self, body: bytes) -> Response:
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            answer: Any = json.loads(body)["answer"]
            if answer in get_args(Answer):
                self.answer = answer
                self._switched += 1  # shows the page which of two states is newer
                return JSONResponse(self._state())
        return JSONResponse({"detail": f'send {{"answer": "..."}} with one of {", ".join(get_args(Answer))}'}, 422)

    def _report(self, body: bytes) -> Response:
        try:
            self.inbox.report(json.loads(body))
        except (ValueError, RecursionError):
            return JSONResponse({"detail": "send a list of objects"}, 422)
        return Response(status_code=204)

    async def _post_test_record(self, scope: Scope, receive: Receive) -> Response | None:
        """Post a test record, as a shop would."""
        record = TEST_RECORD | {"invoice_id": f"butter-test-{secrets.token_hex(4)}"}
        credentials = b64encode(f"{self._username or 'sandbox'}:{self._password or 'sandbox'}".encode())
        headers = {b"authorization": b"Basic " + credentials, b"content-type": b"application/json"}
        as_of_a_shop = {**scope, "path": PATHS[0], "headers": list(headers.items())}
        return await self._post(as_of_a_shop, headers, json.dumps(record).encode(), receive)

    async def _post(self, scope: Scope, headers: dict[bytes, bytes], body: bytes, receive: Receive) -> Response | None:
        """Answer like Butter, or by the switch, and show a record. None if no request waits for the answer."""
        answer, is_record = self.answer, scope["method"] == "POST" and scope["path"] in PATHS
        told = headers.get(SANDBOX_SOURCES.lower().encode(), b"").decode("latin-1")
        take = partial(self.inbox.take, body, told=told, request=_raw(scope, body))
        if answer == "reset":
            if is_record:
                take(None, switched=True)
            await _reset(scope, receive)
            return None
        if len(body) > MOST_BYTES:
            status, content = 413, {"detail": f"longer than {MOST_BYTES} bytes"}
        else:
            if answer.isdigit():
                self._butter.respond_with(int(answer))
            status, content = await self._butter.answer(scope["method"], scope["path"], headers, body)
            self._butter.records.clear()  # the inbox, which is bounded, has them
        answered = json.dumps(content)
        if is_record:
            take(status, switched=answer.isdigit(), answer=answered)
        if answer == "slow":
            await self._stream.wait_closed(SLOW_SECONDS)
        more = {"retry-after": RETRY_AFTER} if status == 429 else None  # noqa: PLR2004 - RFC 6585, section 4
        return Response(answered, status, more, "application/json")

    def __repr__(self) -> str:
        return f"Sandbox({self.inbox.arrived} arrived)"


def _raw(scope: Scope, body: bytes) -> str:
    """Return a request as Butter gets it, with masked credentials."""
    hidden = {b"authorization": b"Basic (masked)", SANDBOX_SOURCES.lower().encode(): None}
    given = [(name, hidden.get(name.lower(), value)) for name, value in scope["headers"]]
    head = [f"{scope['method']} {scope['path']} HTTP/1.1"]
    head += [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in given if value is not None]
    return "\n".join([*head, "", body.decode("utf-8", "replace")])


async def _reset(scope: Scope, receive: Receive) -> None:
    reset = scope.get("extensions", {}).get(RESET)
    if reset is None:  # the server cannot break its connection
        raise ConnectionResetError
    reset()
    while (await receive())["type"] != "http.disconnect":
        pass
