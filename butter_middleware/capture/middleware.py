"""The middleware: watches the responses of checkout routes, and does not change them."""

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, Protocol, cast, runtime_checkable

import anyio
from starlette.requests import ClientDisconnect

from butter_middleware._utils import log_thread
from butter_middleware._utils.asgi import (
    AnyASGIApp,
    ASGIApp,
    Message,
    RawHeaders,
    Receive,
    Scope,
    Send,
    raw_headers,
    rereadable,
    route_path,
)
from butter_middleware.capture.annotations import SCOPE_KEY, Notes, watching
from butter_middleware.capture.routes import CheckoutRoute, RouteTable
from butter_middleware.models.http import CREDENTIAL_HEADERS, Capture
from butter_middleware.models.reasons import Skip

_FILE_MESSAGES: Final = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
_JSON: Final = frozenset({b"application/json", b"text/json"})
_NO_HEADERS: Final[RawHeaders] = []
LAYERS: Final = 64
"""The most nested apps that are searched."""
_SHUTDOWN_ENDS: Final = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed"})


class CapturePipeline(Protocol):
    """The pipeline, as the middleware uses it. Only `snapshot` and `capture` raise."""

    @property
    def routes(self) -> RouteTable:
        """The checkout routes."""
        ...

    @property
    def max_body_bytes(self) -> int:
        """The longest body that is captured."""
        ...

    @property
    def traceparent(self) -> Callable[[], str]:
        """A function that returns the W3C trace context of the current request, or an empty text without a trace."""
        ...

    def first_request(self) -> None:
        """Start the threads if no lifespan did, and log what a missing lifespan means. Never raises."""
        ...

    async def open(self) -> None:
        """Start the threads. Wait at most a second for the outbox's file and the HTTP client."""
        ...

    def shutdown(self) -> None:
        """Flush within `drain_timeout`. More captures may come afterwards."""
        ...

    def snapshot(self, scope: Scope, path: str) -> dict[str, Any]:
        """Copy the part of the scope that a capture needs."""
        ...

    def capture(self, route: CheckoutRoute, capture: Capture) -> "Future[None] | None":
        """Take a capture. Return what the last chunk must wait for, or None."""
        ...

    async def wait_until_durable(self, future: "Future[None]") -> None:
        """Wait for what `capture` returned, within the user's limit."""
        ...

    def skip(self, route: CheckoutRoute, reason: Skip, status: int, *, annotated: bool) -> None:
        """Count a response that is not captured. Status 0 means that there was no answer."""
        ...

    def fault(self, error: Exception) -> None:
        """Count an error of the middleware itself."""
        ...


@runtime_checkable
class Handle(Protocol):
    """A `Butter`, as the middleware sees it."""

    @property
    def pipeline(self) -> CapturePipeline:
        """The pipeline that takes the captures."""
        ...


class ButterMiddleware:
    """ASGI middleware that captures successful checkouts for Butter.

    Mount it once: `app.add_middleware(ButterMiddleware, butter=butter)`, or wrap any ASGI app with it. It forwards
    every message of the app unchanged, and keeps a copy of the body if the checkout route needs it. A response waits
    only with `durability="before_response"` or `delivery="inline"`. Exceptions of the app pass unchanged. The
    middleware's own exceptions never reach the app.
    """

    def __init__(self, app: AnyASGIApp, butter: Handle | None = None) -> None:
        self.app = app
        self.butter = butter
        self._pipeline = butter.pipeline if isinstance(butter, Handle) else None
        if self._pipeline is None:
            # Starlette builds middleware inside the first request: an error here would answer every request with 500.
            message = (
                f"ButterMiddleware(butter=...) got {type(butter).__name__}: nothing is captured. Pass the Butter "
                "object that you built at import."
            )
            log_thread.log(logging.CRITICAL, message, event="configuration")
        self._root_path = _own_root_path(app)
        self._folds = self._pipeline is not None and _folds(app)
        self._compared = self._served = False
        if self._pipeline is not None:
            watching(self._pipeline.routes)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - of any framework's types
        """Serve one connection."""
        pipeline = self._pipeline
        if pipeline is not None:
            if scope["type"] == "http":
                if not self._served:
                    self._served = True
                    self._compare(pipeline)
                    pipeline.first_request()
                tee = self._tee(pipeline, scope, receive, send)
                if tee is not None:
                    try:
                        await self.app(scope, tee.receive if tee.takes_request else receive, tee.send)
                    except BaseException as error:
                        tee.end(error)
                        raise
                    tee.end(None)
                    return
            elif scope["type"] == "lifespan":
                await self._watch_lifespan(pipeline, scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _tee(self, pipeline: CapturePipeline, scope: Scope, receive: Receive, send: Send) -> "_Tee | None":
        """Return the object that watches a request of a checkout route. None for other requests."""
        try:
            found = self._find(pipeline.routes, scope)
            if found is None:
                return None
            route, path = found
            return _Tee(pipeline, route, path, scope, receive, send)
        except Exception as error:  # noqa: BLE001 - the app must refuse an invalid scope
            pipeline.fault(error)
            return None

    def _find(self, routes: RouteTable, scope: Scope) -> tuple[CheckoutRoute, str] | None:
        """Return the checkout route that a request matches, and the path that its template matches."""
        notes = cast("Notes | None", scope.get(SCOPE_KEY))
        if notes is not None:
            if not notes.closed:
                return None  # an outer middleware of the same Butter already watches the request
            path = notes.request["path"]
            found = routes.find(notes.request["method"], path)
            return None if found is None else (found, path)
        method, path = scope["method"], route_path(scope)
        found = routes.find(method, path)
        if found is None and self._root_path:
            path = route_path(scope, self._root_path)
            found = routes.find(method, path)
        if found is not None:
            return found, path
        return routes.find_folded(method, _spellings(scope)) if self._folds else None

    def _compare(self, pipeline: CapturePipeline) -> None:
        """Once, on the log thread, log the checkout routes that no route of the app answers."""
        if not self._compared:
            self._compared = True
            log_thread.run(partial(_say_unanswered, self.app, self.butter, pipeline.routes))

    async def _watch_lifespan(self, pipeline: CapturePipeline, scope: Scope, receive: Receive, send: Send) -> None:
        takes_part = False

        async def take() -> Message:
            nonlocal takes_part
            takes_part = True
            return await receive()

        async def watch(message: Message) -> None:
            nonlocal takes_part
            takes_part = True
            # After the app's own shutdown, which may still serve checkouts, and before the server gets its end.
            try:
                if message["type"] in _SHUTDOWN_ENDS:
                    await _drain(pipeline)
                elif message["type"] == "lifespan.startup.complete":
                    self._compare(pipeline)
                    await pipeline.open()
            except Exception as error:  # noqa: BLE001 - our errors never reach the app
                pipeline.fault(error)
            await send(message)

        try:
            await self.app(scope, take, watch)
        except Exception as error:
            if takes_part:  # its startup failed: the server must get the error
                raise
            message = (
                f"the app refuses ASGI's lifespan ({type(error).__name__}), as Django does: the middleware answers for "
                "it, and delivers what waits when the server stops"
            )
            log_thread.log(logging.INFO, message, event="lifespan")
        if not takes_part:
            await _answer_lifespan(receive, watch)


async def _answer_lifespan(receive: Receive, send: Send) -> None:
    """Answer the lifespan for an app that returned at once. A server sends no shutdown to an app that refuses."""
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
        # No thread is left, or anyio does not know the loop, as with granian --task-impl rust. The app serves no more.
        pipeline.shutdown()


def _own_root_path(app: object) -> str:
    """Return the `root_path` that a FastAPI app puts into the scope itself, after the middleware around it has run."""
    for _layer in range(LAYERS):
        root_path = getattr(app, "root_path", None)
        if isinstance(root_path, str) and hasattr(app, "router"):
            return root_path
        app = getattr(app, "app", None)
    return ""


def _folds(app: object) -> bool:
    """Whether a router in the app may treat several spellings of a path as the same."""
    from butter_middleware.capture import app_routes  # noqa: PLC0415 - it loads Starlette's router, which is not ours

    try:
        return not app_routes.matches_as_written(app)
    except Exception:  # noqa: BLE001 - a router that cannot be walked
        return True


def _spellings(scope: Scope) -> Iterable[str]:
    """Return the paths that routers of other frameworks match. Some keep `root_path`, some an escaped slash."""
    path, root_path = scope["path"], scope.get("root_path", "")
    raw_path = (scope.get("raw_path") or b"").decode("latin-1").partition("?")[0]
    # Without duplicates: most requests have one spelling.
    return dict.fromkeys((path.removeprefix(root_path), path, raw_path.removeprefix(root_path), raw_path))


class _Tee:
    """The state of one matched request."""

    # Class attributes, because most requests never change them, and setting them costs time on each request.
    _open = True
    _status = 0
    _size = 0
    _headers: RawHeaders = _NO_HEADERS
    _left = False
    _noted: Mapping[str, Any] | None = None

    def __init__(
        self, pipeline: CapturePipeline, route: CheckoutRoute, path: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._pipeline = pipeline
        self._route = route
        self._receive = receive
        self._send = send
        self._reads_body = route.reads_body
        self._chunks: list[bytes] = []
        self.takes_request = route.capture_request_body
        """Whether the app must read the request through `receive`."""
        if self.takes_request:
            self._request_chunks: list[bytes] | None = []
            self._request_size = 0
            self._request_ended = False
        before: Notes | None = scope.get(SCOPE_KEY)
        # An outer middleware tries the request again. It counts as it was before the app first changed its scope.
        self._request: dict[str, Any] = (
            pipeline.snapshot(scope, path) if before is None else {**before.request, "path": path}
        )
        self._notes = scope[SCOPE_KEY] = Notes(self._request)

    async def receive(self) -> Message:
        """Pass the request on, and keep its body up to the limit."""
        message = await self._receive()
        try:
            if message["type"] == "http.request" and self._request_chunks is not None:
                self._keep_request(message.get("body", b""))
                if not message.get("more_body", False):
                    self._request_ended = True
                    self._request["request_body"] = self._request_body()
        except Exception as error:  # noqa: BLE001 - our errors never reach the app
            self._give_up(error)
        return message

    async def send(self, message: Message) -> None:
        """Pass the response on. Capture before its last message: after it, the server may cancel or block."""
        if self._open:
            durable = None
            try:
                kind = message["type"]
                if kind == "http.response.body":
                    if self._keep_body(message):
                        durable = self._capture(self._notes.fields)
                elif kind == "http.response.start":
                    headers = message.get("headers", ())
                    listed = rereadable(headers)  # the server reads them again
                    if listed is not headers:
                        message = {**message, "headers": listed}
                    self._start(message["status"], listed)
                elif kind in _FILE_MESSAGES and self._keep_file(message):
                    durable = self._capture(self._notes.fields)
            except Exception as error:  # noqa: BLE001 - our errors never reach the app
                self._give_up(error)
            if durable is not None:
                await self._wait(durable)
        try:
            await self._send(message)
        except OSError:  # by ASGI, the client has disconnected
            self._left = True
            raise

    async def _wait(self, durable: "Future[None]") -> None:
        try:
            await self._pipeline.wait_until_durable(durable)
        except Exception as error:  # noqa: BLE001 - our errors never reach the app
            self._pipeline.fault(error)

    def end(self, error: BaseException | None) -> None:
        """End the request, with the app's exception or None. Without a last message the response was not complete.

        If the route needs no body and the shopper has left, the annotations from before a successful response count.
        """
        try:
            if self._open:
                if self._noted and (self._left or _has_left(error)):
                    self._capture(self._noted)
                else:
                    self._skip(Skip.INCOMPLETE if self._status else Skip.UNANSWERED)
        except Exception as fault:  # noqa: BLE001 - our errors never reach the app
            self._give_up(fault)
        self._notes.closed = True

    def _give_up(self, error: Exception) -> None:
        """Drop the capture: an error of this package must not make an incomplete record."""
        self._open = False
        self._chunks = []
        self._pipeline.fault(error)

    def _start(self, status: int, listed: Iterable[Any]) -> None:
        self._status = status
        route, fields = self._route, self._notes.fields
        if not route.takes(status, annotated=bool(fields)):
            self._skip(Skip.STATUS)
            return
        headers: RawHeaders = []  # copied: an outer GZipMiddleware changes both the message and its list later
        content_type = content_length = b""
        for given, value in raw_headers(listed):
            name = given.lower()
            if name in CREDENTIAL_HEADERS:
                continue
            headers.append((name, value))
            if name == b"content-type":
                content_type = value
            elif name == b"content-length":
                content_length = value
        self._headers = headers
        if route.annotated_only:
            self._noted = dict(fields)
        elif self._reads_body and not route.redirects(status):
            if not _is_json(content_type):
                self._skip(Skip.NOT_JSON)
            elif content_length.isdigit() and int(content_length) > self._pipeline.max_body_bytes:
                self._skip(Skip.TOO_LARGE)

    def _keep_body(self, message: Message) -> bool:
        """Keep a part of the body. Return True for the last one of a response that began."""
        if not self._status:
            return False
        if self._reads_body:
            chunk = message.get("body", b"")
            self._size += len(chunk) if type(chunk) is bytes else _size(chunk)
            if self._size > self._pipeline.max_body_bytes:
                self._skip(Skip.TOO_LARGE)
                return False
            self._chunks.append(bytes(chunk))
        return not message.get("more_body", False)

    def _keep_file(self, message: Message) -> bool:
        """Skip a file that the server sends. Return True if it ends a response whose body is not needed."""
        if not self._status:
            return False
        if self._reads_body:
            self._skip(Skip.UNCAPTURABLE)
            return False
        return not message.get("more_body", False)

    def _keep_request(self, chunk: bytes) -> None:
        self._request_size += _size(chunk)
        if self._request_chunks is None or self._request_size > self._pipeline.max_body_bytes:
            self._request_chunks = None
        else:
            self._request_chunks.append(bytes(chunk))

    def _skip(self, reason: Skip) -> None:
        self._open = False
        self._chunks = []
        self._pipeline.skip(self._route, reason, self._status, annotated=bool(self._notes.fields))

    def _capture(self, annotations: Mapping[str, Any]) -> "Future[None] | None":
        self._open = False
        self._notes.closed = True
        request = self._request
        if self.takes_request:
            request["request_body"] = self._request_body()
        capture = Capture(  # by position, which takes half the time
            request["method"],
            request["path"],
            request["query_string"],
            request["headers"],
            request["client"],
            self._status,
            self._headers,
            b"".join(self._chunks),
            annotations,
            request["captured_at"],
            request.get("request_body"),
            request["cookies"],
            False,  # noqa: FBT003 - as above
            self._pipeline.traceparent(),
        )
        return self._pipeline.capture(self._route, capture)

    def _request_body(self) -> bytes | None:
        """Return the request's body if it is complete. A part of a form could mean something else."""
        if self._request_chunks is None:
            return None
        declared = next((value for name, value in self._request["headers"] if name == b"content-length"), b"")
        whole = self._request_ended or (declared.isdigit() and int(declared) == self._request_size)
        return b"".join(self._request_chunks) if whole else None


def _has_left(error: BaseException | None) -> bool:
    """Whether an app ended without its last message because the client left, and not by an error of its own.

    It then returns, is cancelled, or raises Starlette's exception for a disconnected client.
    """
    if isinstance(error, BaseExceptionGroup):  # of a task group within the app
        return all(map(_has_left, cast("BaseExceptionGroup[BaseException]", error).exceptions))
    return isinstance(error, ClientDisconnect) or not isinstance(error, Exception | KeyboardInterrupt | SystemExit)


def _size(chunk: bytes | memoryview) -> int:
    """Return its number of bytes, before they are copied."""
    return chunk.nbytes if isinstance(chunk, memoryview) else len(chunk)


def _is_json(content_type: bytes) -> bool:
    if content_type in _JSON:
        return True
    mime = content_type.partition(b";")[0].strip().lower()
    return mime in _JSON or mime.endswith(b"+json")
