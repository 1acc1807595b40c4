"""The tee: watches the responses of checkout routes, and changes none of them."""

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Final, cast

import anyio

from butter_middleware import apart
from butter_middleware._asgi import ASGIApp, Message, RawHeaders, Receive, Scope, Send, route_path
from butter_middleware.butter import Butter
from butter_middleware.collector import Collector
from butter_middleware.counters import Skip
from butter_middleware.exchange import CREDENTIAL_HEADERS, Capture
from butter_middleware.notes import SCOPE_KEY, Notes
from butter_middleware.routes import CheckoutRoute

_FILE_MESSAGES: Final = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
_SHUTDOWN_ENDS: Final = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed"})


class ButterMiddleware:
    """ASGI middleware that captures successful checkouts for Butter.

    Mount it once: `app.add_middleware(ButterMiddleware, butter=butter)`, or wrap any ASGI app with it. Between the app
    and the client it copies bytes and awaits nothing of its own, unless `durability="before_response"` asks for it.
    Exceptions of the app pass unchanged; its own never leave.
    """

    def __init__(self, app: ASGIApp, butter: Butter | None = None) -> None:
        self.app = app
        self.butter = butter
        # Starlette builds middleware inside the first request: an error here would be a 500 on every one.
        self._collector = _checked(butter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        collector = self._collector
        if collector is not None:
            if scope["type"] == "http":
                route = _find(collector, scope)
                if route is not None:
                    await self._tee(collector, route, scope, receive, send)
                    return
            elif scope["type"] == "lifespan":
                await self._watch_lifespan(collector, scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _tee(
        self, collector: Collector, route: CheckoutRoute, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            tee = _Tee(collector, route, scope, receive, send)
        except Exception as error:  # noqa: BLE001 - a scope against the specification is the app's to refuse
            collector.fault(error)
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, tee.receive if route.capture_request_body else receive, tee.send)
        finally:
            tee.end()

    async def _watch_lifespan(self, collector: Collector, scope: Scope, receive: Receive, send: Send) -> None:
        async def watch(message: Message) -> None:
            # After the app's own shutdown, which may still serve checkouts; before the server hears of its end.
            try:
                if message["type"] in _SHUTDOWN_ENDS:
                    await _drain(collector)
                elif message["type"] == "lifespan.startup.complete":
                    await collector.open()
            except Exception as error:  # noqa: BLE001 - ours never leave
                collector.fault(error)
            await send(message)

        await self.app(scope, receive, watch)


def _checked(butter: object) -> Collector | None:
    if isinstance(butter, Butter):
        return butter.collector
    got = type(butter).__name__
    message = (
        f"ButterMiddleware(butter=...) got {got}: nothing is captured. Pass the Butter object that you built at import."
    )
    apart.say(logging.CRITICAL, message, event="configuration")
    return None


async def _drain(collector: Collector) -> None:
    try:
        await anyio.to_thread.run_sync(collector.shutdown, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    except RuntimeError:
        # No further thread, or a loop that anyio does not know, as of granian --task-impl rust: it serves no more.
        collector.shutdown()


def _find(collector: Collector, scope: Scope) -> CheckoutRoute | None:
    try:
        notes: Notes | None = scope.get(SCOPE_KEY)
        if notes is None:
            return collector.routes.find(scope["method"], route_path(scope))
        if not notes.closed:
            return None  # it watches already: this one is mounted inside of it
        return collector.routes.find(notes.request["method"], notes.request["path"])
    except Exception as error:  # noqa: BLE001 - a scope against the specification is the app's to refuse
        collector.fault(error)
        return None


class _Tee:
    """The state of one matched request."""

    __slots__ = (
        *("_chunks", "_collector", "_headers", "_notes", "_open", "_receive", "_request", "_request_chunks"),
        *("_request_ended", "_request_size", "_route", "_send", "_size", "_status"),
    )

    def __init__(self, collector: Collector, route: CheckoutRoute, scope: Scope, receive: Receive, send: Send) -> None:
        self._collector = collector
        self._route = route
        self._receive = receive
        self._send = send
        self._open = True
        self._status = 0
        self._headers: RawHeaders = []
        self._chunks: list[bytes] = []
        self._size = 0
        self._request_chunks: list[bytes] | None = []
        self._request_size = 0
        self._request_ended = False
        if isinstance(scope["headers"], Iterator):
            scope["headers"] = [*cast("Iterator[tuple[bytes, bytes]]", scope["headers"])]
        before: Notes | None = scope.get(SCOPE_KEY)
        # A middleware outside tries once more: the request is what it was before the app first changed its scope.
        self._request = collector.snapshot(scope) if before is None else dict(before.request)
        self._notes = scope[SCOPE_KEY] = Notes(self._request)

    async def receive(self) -> Message:
        """Pass the request on, keeping its body within the cap."""
        message = await self._receive()
        try:
            if message["type"] == "http.request" and self._request_chunks is not None:
                self._keep_request(message.get("body", b""))
                if not message.get("more_body", False):
                    self._request_ended = True
                    self._request["request_body"] = self._request_body()
        except Exception as error:  # noqa: BLE001 - ours never leave
            self._collector.fault(error)
        return message

    async def send(self, message: Message) -> None:
        """Pass the response on, capturing at its last message: the server may cancel or block from then on."""
        durable = None
        if self._open:
            message = _with_listed_headers(message)
            try:
                if self._observe(message):
                    durable = self._capture()
            except Exception as error:  # noqa: BLE001 - ours never leave
                self._open = False
                self._collector.fault(error)
        if durable is not None:
            await self._wait(durable)
        await self._send(message)

    async def _wait(self, durable: "Future[None]") -> None:
        try:
            await self._collector.wait_until_durable(durable)
        except Exception as error:  # noqa: BLE001 - ours never leave
            self._collector.fault(error)

    def end(self) -> None:
        """The app is done: without a last message there was no whole response."""
        if self._open:
            self._skip(Skip.INCOMPLETE if self._status else Skip.UNANSWERED)
        self._notes.closed = True

    def _observe(self, message: Message) -> bool:
        """Take what is needed from a message; True at the last one of a response to capture."""
        kind = message["type"]
        if kind == "http.response.body":
            return self._keep_body(message)
        if kind == "http.response.start":
            self._start(message)
        elif kind in _FILE_MESSAGES:
            if not self._route.reads_body:
                return not message.get("more_body", False)
            self._skip(Skip.UNCAPTURABLE)
        return False

    def _start(self, message: Message) -> None:
        self._status = message["status"]
        if not self._route.takes(self._status):
            self._skip(Skip.STATUS)
            return
        # Copied: an outer GZipMiddleware changes both the message and its list after us.
        headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
        self._headers = [header for header in headers if header[0] not in CREDENTIAL_HEADERS]
        if self._route.reads_body and not self._route.redirects(self._status):
            fields = dict(headers)
            if not _is_json(fields.get(b"content-type", b"")):
                self._skip(Skip.NOT_JSON)
            elif _length(fields.get(b"content-length", b"")) > self._collector.max_body_bytes:
                self._skip(Skip.TOO_LARGE)

    def _keep_body(self, message: Message) -> bool:
        if self._route.reads_body:
            chunk = message.get("body", b"")
            self._size += _size(chunk)
            if self._size > self._collector.max_body_bytes:
                self._skip(Skip.TOO_LARGE)
                return False
            self._chunks.append(bytes(chunk))
        return self._status != 0 and not message.get("more_body", False)

    def _keep_request(self, chunk: bytes) -> None:
        self._request_size += _size(chunk)
        if self._request_chunks is None or self._request_size > self._collector.max_body_bytes:
            self._request_chunks = None
        else:
            self._request_chunks.append(bytes(chunk))

    def _skip(self, reason: Skip) -> None:
        self._open = False
        self._chunks = []
        self._collector.skip(self._route, reason)

    def _capture(self) -> "Future[None] | None":
        self._open = False
        self._notes.closed = True
        self._request["request_body"] = self._request_body()
        return self._collector.capture(
            self._route,
            Capture(
                **self._request,
                status_code=self._status,
                response_headers=self._headers,
                body=b"".join(self._chunks),
                annotations=self._notes.fields,
                traceparent=self._collector.traceparent(),
            ),
        )

    def _request_body(self) -> bytes | None:
        """Return the request's body where it was asked for and came whole: a part of a form says what nobody wrote."""
        if not self._route.capture_request_body or self._request_chunks is None:
            return None
        declared = next((value for name, value in self._request["headers"] if name == b"content-length"), b"")
        whole = self._request_ended or (declared.isdigit() and int(declared) == self._request_size)
        return b"".join(self._request_chunks) if whole else None


def _with_listed_headers(message: Message) -> Message:
    """Return the message with headers that can be read twice: a one-shot iterator is replaced by what it gave."""
    headers: Any = message.get("headers") if isinstance(message, dict) else None
    if headers is None or isinstance(headers, list) or not isinstance(headers, Iterator):
        return message
    return {**message, "headers": [*cast("Iterator[object]", headers)]}


def _size(chunk: bytes | memoryview) -> int:
    """Return its bytes, before any is copied."""
    return chunk.nbytes if isinstance(chunk, memoryview) else len(chunk)


def _is_json(content_type: bytes) -> bool:
    mime = content_type.partition(b";")[0].strip().lower()
    return mime == b"application/json" or mime.endswith(b"+json")


def _length(content_length: bytes) -> int:
    return int(content_length) if content_length.isdigit() else 0
