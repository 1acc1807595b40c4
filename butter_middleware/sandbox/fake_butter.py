"""Butter's API, as an ASGI app and as an httpx transport."""

import json
import re
from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from hmac import compare_digest
from typing import Any, Final

import anyio
import httpx
from pydantic import ValidationError
from starlette.responses import Response

from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.config import SANDBOX_REPORTS
from butter_middleware.models.checkout import Checkout
from butter_middleware.sandbox.responses import Fault, accepts, checked

PATHS: Final = ("/v1/analytics", "/v1/analytics/")
_BASIC: Final = re.compile(rb"(?i:basic) +[A-Za-z0-9+/]+=*")


class FakeButter:
    """A fake Butter with the same checks: credentials, method, content type and each field.

    `Butter(transport=fake.transport())` sends its records here without a socket. It is also an ASGI app that can be
    served, for processes that use it as `base_url`. With pytest, `butter_inbox` needs neither.

    `records` are the accepted records in order. `rejected` is the number of records that were answered with 422, or
    with an error that `respond_with` set. `requests` is the number of all requests. `respond_with` sets the next
    answers.

    Args:
        username: The accepted username. None accepts any credentials that HTTP Basic can carry.
        password: The accepted password.
        delay: Seconds before each answer.
    """

    def __init__(self, *, username: str | None, password: str | None, delay: float = 0.0) -> None:
        self.records: list[dict[str, str]] = []
        self.rejected = 0
        self.requests = 0
        self.delay = delay
        self._expected = None if username is None else b"Basic " + b64encode(f"{username}:{password}".encode())
        self._next: deque[int | Fault] = deque()

    def respond_with(self, *answers: int | Fault) -> None:
        """Set the next answers, one for each request. Afterwards, and for a 2xx, it answers like Butter.

        An answer is a status, "reset" (the connection breaks) or "timeout" (no answer while the client waits).

        Raises:
            ValueError: an answer is not a status, "reset" or "timeout".
        """
        self._next.extend(checked(answers))

    def transport(self) -> httpx.AsyncBaseTransport:
        """Return the transport for `Butter(transport=...)`. Requests come here, and nothing leaves the process."""

        async def handle(request: httpx.Request) -> httpx.Response:
            headers = {name.lower(): value for name, value in request.headers.raw}
            try:
                status, answer = await self.answer(request.method, request.url.path, headers, request.content)
            except ConnectionResetError as error:
                raise httpx.ReadError("", request=request) from error
            return httpx.Response(status, json=answer, request=request)

        return httpx.MockTransport(handle)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as an ASGI app."""
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
        if scope["type"] != "http":
            return
        body = await read_body(receive)
        if body is None:
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if scope["path"] == SANDBOX_REPORTS:  # a shop checks whether this is a sandbox
            status, answer = 404, {"detail": "Not Found"}
        else:
            status, answer = await self.answer(scope["method"], scope["path"], headers, body)
        await Response(json.dumps(answer), status, media_type="application/json")(scope, receive, send)

    async def answer(
        self, method: str, path: str, headers: Mapping[bytes, bytes], body: bytes
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON body for a request.

        Raises:
            ConnectionResetError: the next answer was set to be "reset".
        """
        self.requests += 1
        if self.delay:
            await anyio.sleep(self.delay)
        forced = self._next.popleft() if self._next else None
        if forced == "reset":
            raise ConnectionResetError
        if forced == "timeout":
            await anyio.sleep_forever()
        if isinstance(forced, int) and not accepts(forced):
            self.rejected += method == "POST"
            return forced, {"detail": "set by respond_with"}
        authorization = headers.get(b"authorization", b"")
        if self._expected is None:
            known = _BASIC.fullmatch(authorization) is not None
        else:
            known = compare_digest(authorization, self._expected)
        if not known:
            return 401, {"detail": "unauthorized"}
        if path == "/":
            return 200, {"status": "ok"}
        if path not in PATHS:
            return 404, {"detail": "Not Found"}
        if method != "POST":
            return 405, {"detail": "Method Not Allowed"}
        return self._take(headers, body)

    def _take(self, headers: Mapping[bytes, bytes], body: bytes) -> tuple[int, dict[str, Any]]:
        problems = _problems(headers.get(b"content-type", b""), body)
        if problems:
            self.rejected += 1
            return 422, {"detail": problems}
        self.records.append(json.loads(body))
        return 200, {"status": "ok"}

    def __repr__(self) -> str:
        return f"FakeButter({len(self.records)} records)"


async def read_body(receive: Receive, most: int | None = None) -> bytes | None:
    """Read a body, and return at most its first `most` bytes. Return None if the client disconnected."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body = (body + message.get("body", b""))[:most]
        more = message.get("more_body", False)
    return body


def _problems(content_type: bytes, body: bytes) -> list[dict[str, Any]]:
    """Return Butter's complaints in FastAPI's format."""
    if content_type.partition(b";")[0].strip() != b"application/json":
        return [{"loc": ["header", "content-type"], "msg": "not application/json", "type": "content_type"}]
    try:
        record = json.loads(body)
        Checkout.model_validate(record)
    except ValidationError as error:
        return [{"loc": ["body", *e["loc"]], "msg": e["msg"], "type": e["type"]} for e in error.errors()]
    except (ValueError, RecursionError):
        return [{"loc": ["body"], "msg": "not JSON", "type": "json_invalid"}]
    # The model accepts null and empty values, but Butter refuses them: an absent field must be left out.
    return [
        {"loc": ["body", name], "msg": "not a string, or empty: leave an absent field out", "type": "string_type"}
        for name, value in record.items()
        if not isinstance(value, str) or not value.strip()
    ]
