"""The tee: watches the responses of checkout routes, and changes none of them."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, Protocol, cast, runtime_checkable

import anyio

from butter_middleware._utils import log_thread
from butter_middleware._utils.asgi import ASGIApp, Message, RawHeaders, Receive, Scope, Send, route_path
from butter_middleware.capture.annotations import SCOPE_KEY, Notes
from butter_middleware.capture.routes import CheckoutRoute, RouteTable
from butter_middleware.models.http import CREDENTIAL_HEADERS, Capture
from butter_middleware.models.reasons import Skip

_FILE_MESSAGES: Final = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
_SHUTDOWN_ENDS: Final = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed"})


class CapturePipeline(Protocol):
    """What the middleware talks to. Only `snapshot` and `capture` raise."""

    @property
    def routes(self) -> RouteTable:
        """The checkout routes."""
        ...

    @property
    def max_body_bytes(self) -> int:
        """Longer bodies are not captured."""
        ...

    @property
    def traceparent(self) -> Callable[[], str]:
        """Return the W3C trace context of the request that runs, empty if there is no trace."""
        ...

    async def open(self) -> None:
        """Start the threads, and wait at most a second for the outbox's file and the HTTP client."""
        ...

    def shutdown(self) -> None:
        """Flush within `drain_timeout`. More captures may come afterwards."""
        ...

    def snapshot(self, scope: Scope) -> dict[str, Any]:
        """Copy from the scope what a capture needs."""
        ...

    def capture(self, route: CheckoutRoute, capture: Capture) -> "Future[None] | None":
        """Take a capture. Return what the last chunk waits for, or None."""
        ...

    async def wait_until_durable(self, future: "Future[None]") -> None:
        """Wait for what `capture` returned, within the user's limit."""
        ...

    def skip(self, route: CheckoutRoute, reason: Skip) -> None:
        """Count a response that is not captured."""
        ...

    def fault(self, error: Exception) -> None:
        """Count a fault of the middleware itself."""
        ...


@runtime_checkable
class Handle(Protocol):
    """A `Butter`, as the middleware sees it."""

    @property
    def pipeline(self) -> CapturePipeline:
        """What takes the captures."""
        ...


class ButterMiddleware:
    """ASGI middleware that captures successful checkouts for Butter.

    Mount it once: `app.add_middleware(ButterMiddleware, butter=butter)`, or wrap any ASGI app with it. Between the app
    and the client it copies bytes and awaits nothing of its own, unless `durability="before_response"` asks for it.
    Exceptions of the app pass unchanged; its own never leave.
    """

    def __init__(self, app: ASGIApp, butter: Handle | None = None) -> None:
        self.app = app
        self.butter = butter
        # Starlette builds middleware inside the first request: an error here would be a 500 on every one.
        self._pipeline = _checked(butter)
        self._compared = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        pipeline = self._pipeline
        if pipeline is not None:
            if scope["type"] == "http":
                self._compare(pipeline)
                route = _find(pipeline, scope)
                if route is not None:
                    await self._tee(pipeline, route, scope, receive, send)
                    return
            elif scope["type"] == "lifespan":
                await self._watch_lifespan(pipeline, scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _compare(self, pipeline: CapturePipeline) -> None:
        """Once, on the log's thread: say which checkout routes no route of the app answers."""
        if not self._compared:
            self._compared = True
            log_thread.run(partial(_say_unanswered, self.app, self.butter, pipeline.routes))

    async def _tee(
        self, pipeline: CapturePipeline, route: CheckoutRoute, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            tee = _Tee(pipeline, route, scope, receive, send)
        except Exception as error:  # noqa: BLE001 - a scope against the specification is the app's to refuse
            pipeline.fault(error)
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, tee.receive if route.capture_request_body else receive, tee.send)
        finally:
            tee.end()

    async def _watch_lifespan(self, pipeline: CapturePipeline, scope: Scope, receive: Receive, send: Send) -> None:
        takes_part = False

        async def take() -> Message:
            nonlocal takes_part
            takes_part = True
            return await receive()

        async def watch(message: Message) -> None:
            nonlocal takes_part
            takes_part = True
            # After the app's own shutdown, which may still serve checkouts; before the server hears of its end.
            try:
                if message["type"] in _SHUTDOWN_ENDS:
                    await _drain(pipeline)
                elif message["type"] == "lifespan.startup.complete":
                    self._compare(pipeline)
                    await pipeline.open()
            except Exception as error:  # noqa: BLE001 - ours never leave
                pipeline.fault(error)
            await send(message)

        try:
            await self.app(scope, take, watch)
        except Exception as error:
            if takes_part:  # its startup failed, which is for the server to hear
                raise
            message = (
                f"the app refuses ASGI's lifespan ({type(error).__name__}), as Django does: the middleware answers for "
                "it, so that the end of the server delivers what waits"
            )
            log_thread.log(logging.INFO, message, event="lifespan")
        if not takes_part:
            await _answer_lifespan(receive, watch)


def _checked(butter: object) -> CapturePipeline | None:
    if isinstance(butter, Handle):
        return butter.pipeline
    got = type(butter).__name__
    message = (
        f"ButterMiddleware(butter=...) got {got}: nothing is captured. Pass the Butter object that you built at import."
    )
    log_thread.log(logging.CRITICAL, message, event="configuration")
    return None


async def _answer_lifespan(receive: Receive, send: Send) -> None:
    """Take part in the place of an app that ended at once: a server tells an app that refuses nothing of its end."""
    event = ""
    while event != "lifespan.shutdown":
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})


def _say_unanswered(app: ASGIApp, butter: object, routes: RouteTable) -> None:
    from butter_middleware.capture import app_routes  # noqa: PLC0415 - it loads Starlette's router, which is not ours

    for text in app_routes.unanswered([app, *app_routes.watched(app, butter)], routes.routes):
        log_thread.log(logging.WARNING, text, event="configuration")


async def _drain(pipeline: CapturePipeline) -> None:
    try:
        await anyio.to_thread.run_sync(pipeline.shutdown, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    except RuntimeError:
        # No further thread, or a loop that anyio does not know, as of granian --task-impl rust: it serves no more.
        pipeline.shutdown()


def _find(pipeline: CapturePipeline, scope: Scope) -> CheckoutRoute | None:
    try:
        notes: Notes | None = scope.get(SCOPE_KEY)
        if notes is None:
            return pipeline.routes.find(scope["method"], route_path(scope))
        if not notes.closed:
            return None  # it watches already: this one is mounted inside of it
        return pipeline.routes.find(notes.request["method"], notes.request["path"])
    except Exception as error:  # noqa: BLE001 - a scope against the specification is the app's to refuse
        pipeline.fault(error)
        return None


class _Tee:
    """The state of one matched request."""

    __slots__ = (
        *("_chunks", "_pipeline", "_headers", "_notes", "_open", "_receive", "_request", "_request_chunks"),
        *("_request_ended", "_request_size", "_route", "_send", "_size", "_status"),
    )

    def __init__(
        self, pipeline: CapturePipeline, route: CheckoutRoute, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._pipeline = pipeline
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
        self._request = pipeline.snapshot(scope) if before is None else dict(before.request)
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
            self._pipeline.fault(error)
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
                self._pipeline.fault(error)
        if durable is not None:
            await self._wait(durable)
        await self._send(message)

    async def _wait(self, durable: "Future[None]") -> None:
        try:
            await self._pipeline.wait_until_durable(durable)
        except Exception as error:  # noqa: BLE001 - ours never leave
            self._pipeline.fault(error)

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
            elif _length(fields.get(b"content-length", b"")) > self._pipeline.max_body_bytes:
                self._skip(Skip.TOO_LARGE)

    def _keep_body(self, message: Message) -> bool:
        if self._route.reads_body:
            chunk = message.get("body", b"")
            self._size += _size(chunk)
            if self._size > self._pipeline.max_body_bytes:
                self._skip(Skip.TOO_LARGE)
                return False
            self._chunks.append(bytes(chunk))
        return self._status != 0 and not message.get("more_body", False)

    def _keep_request(self, chunk: bytes) -> None:
        self._request_size += _size(chunk)
        if self._request_chunks is None or self._request_size > self._pipeline.max_body_bytes:
            self._request_chunks = None
        else:
            self._request_chunks.append(bytes(chunk))

    def _skip(self, reason: Skip) -> None:
        self._open = False
        self._chunks = []
        self._pipeline.skip(self._route, reason)

    def _capture(self) -> "Future[None] | None":
        self._open = False
        self._notes.closed = True
        self._request["request_body"] = self._request_body()
        return self._pipeline.capture(
            self._route,
            Capture(
                **self._request,
                status_code=self._status,
                response_headers=self._headers,
                body=b"".join(self._chunks),
                annotations=self._notes.fields,
                traceparent=self._pipeline.traceparent(),
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
