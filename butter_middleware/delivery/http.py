"""Butter's Data Collection API over HTTP. The only module that uses an HTTP client."""

import asyncio
import logging
import ssl
from base64 import b64encode
from collections.abc import AsyncIterable, Generator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache
from importlib.metadata import version
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Self, TypeAlias, cast
from urllib.request import getproxies

import anyio
import httpx

from butter_middleware._utils import log_thread
from butter_middleware._utils.watchdog import Watchdog
from butter_middleware.config import SANDBOX_SOURCES, is_sandbox
from butter_middleware.delivery.streams import Backend
from butter_middleware.errors import ExtractionError, HTTPClientError
from butter_middleware.models.answer import Answer, AnswerKind, classify
from butter_middleware.models.checkout import Record
from butter_middleware.models.content_encoding import decode
from butter_middleware.telemetry.otel import untraced

PATH: Final = "/v1/analytics"
ANSWER_BYTES: Final = 64 * 1024
"""The most of an answer's body that is read."""
TOTAL_SECONDS: Final = 20.0
"""For a request with its answer's body. A server that sends one byte a second never causes a read timeout."""
_EXTENSIONS: Final = {"timeout": {"connect": 5.0, "write": 10.0, "read": 15.0, "pool": 5.0}}
_LIMITS: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=5.0)
_FOLLOWED: Final = frozenset({307, 308})

_Headers: TypeAlias = list[tuple[bytes, bytes]]

_sending: Final = ContextVar("butter_sending", default=False)


def _not_ours(_record: logging.LogRecord) -> bool:
    return not _sending.get()


for _name in ("httpcore.connection", "httpcore.http11", "httpcore.proxy", "httpcore.socks"):
    logging.getLogger(_name).addFilter(_not_ours)


@contextmanager
def _unseen() -> Generator[None]:
    """Prevent logs and traces of the HTTP client.

    A log handler that raises would turn Butter's acceptance into a failure. The merchant's traces would show requests
    that are not the merchant's.
    """
    token = _sending.set(True)
    try:
        with untraced():
            yield
    finally:
        _sending.reset(token)


@cache
def ssl_context() -> ssl.SSLContext:
    """Return one context for all clients, because making one reads every certificate authority.

    Raises:
        HTTPClientError: SSL_CERT_FILE is wrong.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        msg = (
            f"the certificate authorities cannot be read ({type(error).__name__}). Set SSL_CERT_FILE to a file of "
            "certificates (PEM) that this user may read, or unset it."
        )
        raise HTTPClientError(msg) from None


class ButterClient:
    """One connection to Butter. httpx slows down as its pool grows, so each sender has its own client.

    It uses httpx's transport without httpx's client. The headers and the proxy are set once, and no hook, cookie, auth
    flow or redirect of the client runs for each record. The proxy comes from the environment, except for a sandbox on
    this machine. Credentials never do: `.netrc` is not read. Every failure is an `Answer`, and no method raises.

    Args:
        base_url: Butter's URL.
        username: For Basic authentication.
        password: For Basic authentication.
        transport: Used in place of the network, such as `httpx.MockTransport`.
        total_seconds: The time limit of a request with its answer's body.

    Raises:
        HTTPClientError: SSL_CERT_FILE, or a proxy's variable, is wrong.
    """

    def __init__(
        self,
        base_url: str,
        username: str,
        password: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        total_seconds: float = TOTAL_SECONDS,
    ) -> None:
        self._records = httpx.URL(f"{base_url}{PATH}")
        self._root = httpx.URL(f"{base_url}/")
        self._to_sandbox = is_sandbox(base_url)
        self._total_seconds = total_seconds
        self._transport = transport or _way_to(self._records)
        self._watchdog = Watchdog(total_seconds)
        self._headers = [
            (b"Host", self._records.netloc),
            (b"User-Agent", f"butter-middleware/{version('butter-middleware')}".encode()),
            (b"Accept", b"*/*"),
            (b"Accept-Encoding", b"identity"),
            (b"Authorization", b"Basic " + b64encode(f"{username}:{password}".encode())),
        ]
        self._post_headers = [*self._headers, (b"Content-Type", b"application/json")]

    async def post(self, record: Record) -> Answer:
        """Post one record."""
        body = record.payload.encode()
        headers = [*self._post_headers, (b"Content-Length", b"%d" % len(body))]
        if self._to_sandbox and record.sources:
            headers.append((SANDBOX_SOURCES.encode(), record.sources.encode()))
        return await self._send("POST", self._records, headers, body)

    async def ping(self) -> Answer:
        """Ask whether Butter is up and accepts the credentials. This creates no record."""
        return await self._send("GET", self._root, self._headers, b"")

    async def aclose(self) -> None:
        """Close the connection."""
        with _unseen():
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"ButterClient({self._records.host})"

    async def _send(self, method: str, url: httpx.URL, headers: _Headers, body: bytes) -> Answer:
        task = _asyncio_task()
        began = 0.0 if task is None else self._watchdog.begin(task)
        cancelled_before = 0 if task is None else task.cancelling()
        try:
            with _unseen(), nullcontext() if task else anyio.fail_after(self._total_seconds):
                try:
                    return await self._exchange(method, url, headers, body)
                except BaseException:
                    await self._drop_connection()
                    raise
        except TimeoutError:
            kind, detail = AnswerKind.INTERRUPTED, "TotalTimeout"
        except asyncio.CancelledError:
            if task is None or not self._watchdog.end(task) or task.uncancel() > cancelled_before:
                raise  # the caller is cancelled
            kind, detail = AnswerKind.INTERRUPTED, "TotalTimeout"
        except Exception as error:  # noqa: BLE001 - the only place where foreign errors become answers
            kind, detail = _kind(error), type(error).__name__
        finally:
            if task is not None and self._watchdog.end(task):
                task.uncancel()  # the transport ignored it
        if kind is not AnswerKind.UNTRUSTED and self._watchdog.stalled_since(began):
            kind = AnswerKind.STALLED
        return Answer(kind, detail=detail)

    async def _drop_connection(self) -> None:
        """Close the connection after a failure, unless the transport is the merchant's.

        httpx keeps a connection that failed behind a proxy, or whose answer was cancelled, and waits for it forever.
        """
        if isinstance(self._transport, _Transport):
            with anyio.CancelScope(shield=True):
                await self._transport.aclose()

    async def _exchange(
        self, method: str, url: httpx.URL, headers: _Headers, body: bytes, *, redirected: bool = False
    ) -> Answer:
        request = httpx.Request(method, url, headers=headers, stream=httpx.ByteStream(body), extensions=_EXTENSIONS)
        request.read()  # for transports that use `request.content`. The argument content= takes three times as long.
        response = await self._transport.handle_async_request(request)
        try:
            if getattr(response.extensions.get("network_stream"), "unsent", False):
                # It came together with the previous answer. The request was not sent.
                return Answer(AnswerKind.INTERRUPTED, detail="UnaskedAnswer")
            status = response.status_code
            if not 300 <= status < 400:  # noqa: PLR2004 - RFC 9110, section 15.4
                return classify(status, response.headers, await _read(response))
            target = _target(url, response)
            if redirected or status not in _FOLLOWED or target is None or _origin(target) != _origin(url):
                where = "nowhere" if target is None else f"to {target.scheme}://{target.host}"
                return Answer(AnswerKind.REDIRECTED, status, detail=where)
        finally:
            await response.aclose()
        return await self._exchange(method, target, headers, body, redirected=True)


def _asyncio_task() -> asyncio.Task[object] | None:
    """Return the current task. None on trio."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


async def _read(response: httpx.Response) -> bytes:
    """Return at most 64 KiB of the body. It is decoded if the server encoded it although it was asked not to."""
    if response.is_stream_consumed:  # the merchant's transport has read it
        return response.content[:ANSWER_BYTES]
    body = b""
    async for chunk in cast("AsyncIterable[bytes]", response.stream):  # aiter_raw() would copy it into chunks first
        body += chunk
        if len(body) > ANSWER_BYTES:
            return body[:ANSWER_BYTES]
    coding = response.headers.get("content-encoding")
    if coding is None:
        return body
    try:
        return decode(body, coding, ANSWER_BYTES)
    except ExtractionError:
        return body  # this body is not Butter's, but the status still counts


def _target(url: httpx.URL, response: httpx.Response) -> httpx.URL | None:
    location = response.headers.get("location")
    try:
        return None if location is None else url.join(location)
    except (httpx.InvalidURL, ValueError):
        return None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port  # httpx removes a scheme's default port


def _kind(error: BaseException) -> AnswerKind:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return AnswerKind.UNTRUSTED
        cause = cause.__cause__ or cause.__context__
    unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
    return AnswerKind.UNREACHABLE if isinstance(error, unsent) else AnswerKind.INTERRUPTED


# The connection to Butter.


class _Transport(httpx.AsyncHTTPTransport):
    """One connection, on our own sockets."""

    def __init__(self, authorities: ssl.SSLContext, proxy: str | None) -> None:
        super().__init__(verify=authorities, limits=_LIMITS, proxy=proxy)
        self._backend = Backend()
        # httpx has no option for it. If a later version lacks these attributes, anyio is used, which costs more.
        pool: Any = getattr(self, "_pool", None)
        if hasattr(pool, "_network_backend"):
            pool._network_backend = self._backend  # noqa: SLF001 - as above

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            self._backend.close()


def _way_to(url: httpx.URL) -> httpx.AsyncHTTPTransport:
    """Return one connection to a URL, through the proxy that the environment names for it.

    A sandbox on this machine is reached directly, because the loopback of a proxy is another machine.
    """
    authorities = ssl_context()
    variable, proxy = ("", None) if url.scheme == "http" else _proxy(url)
    try:
        return _Transport(authorities, proxy)
    except (ValueError, httpx.InvalidURL, ImportError) as error:
        msg = (
            f"a proxy's variable cannot be used ({type(error).__name__}). Write {variable} as "
            "http://host:port, or unset it; socks5:// takes `pip install httpx[socks]`."
        )
        raise HTTPClientError(msg) from None


def _proxy(url: httpx.URL) -> tuple[str, str | None]:
    """Return the variable and its proxy for a URL, as httpx reads the environment.

    httpx sends nothing if it cannot parse a part of NO_PROXY. Here such a part is ignored.
    """
    environment = getproxies()
    if _bypassed(url, environment.get("no", "")):
        return "", None
    for scheme in (url.scheme, "all"):
        if written := environment.get(scheme):
            return f"{scheme.upper()}_PROXY", written if "://" in written else f"http://{written}"
    return "", None


def _bypassed(url: httpx.URL, no_proxy: str) -> bool:
    """Return whether NO_PROXY matches a URL."""
    entries = [entry for part in no_proxy.split(",") if (entry := part.strip())]
    named = {_names(entry, url) for entry in entries}  # all entries, so that each invalid one is logged
    return "*" in entries or True in named


def _names(entry: str, url: httpx.URL) -> bool:
    """Return whether an entry of NO_PROXY matches a URL."""
    try:
        pattern = httpx.URL(_pattern(entry))
    except (httpx.InvalidURL, ValueError):
        _say_unreadable(entry)
        return False
    if pattern.scheme not in {"", "all", url.scheme} or pattern.port not in {None, url.port}:
        return False
    if pattern.host.startswith("*."):
        return url.host.endswith(pattern.host[1:])
    if pattern.host.startswith("*"):
        return f".{url.host}".endswith(f".{pattern.host[1:]}")
    return pattern.host in {"", url.host}


def _pattern(entry: str) -> str:
    """Return the URL that httpx makes of an entry. A name includes its subdomains, an address does not."""
    if "://" in entry:
        return entry
    address = entry.partition("/")[0]
    for kind, url in ((IPv4Address, f"all://{entry}"), (IPv6Address, f"all://[{entry}]")):
        with suppress(ValueError):
            kind(address)
            return url
    return f"all://{entry}" if entry.lower() == "localhost" else f"all://*{entry}"


@cache
def _say_unreadable(entry: str) -> None:
    message = (
        f"NO_PROXY: {entry.rpartition('@')[2]!r} is left out, because the HTTP client cannot read it. NO_PROXY may "
        "contain names such as example.com, and addresses without brackets and without a mask."
    )
    log_thread.log(logging.WARNING, message, event="proxy")
