"""Butter's Data Collection API over HTTP. The only module that knows an HTTP client."""

import logging
import ssl
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import version
from typing import Final, Self

import anyio
import httpx

from butter_middleware.config import SANDBOX_SOURCES
from butter_middleware.errors import HTTPClientError
from butter_middleware.models.answer import Answer, AnswerKind, classify
from butter_middleware.models.checkout import Record
from butter_middleware.telemetry.otel import untraced

PATH: Final = "/v1/analytics"
ANSWER_BYTES: Final = 64 * 1024
"""More of an answer's body is never read."""
TOTAL_SECONDS: Final = 20.0
"""For a request with its answer's body: a server that drips a byte a second never trips a read timeout."""
_TIMEOUT: Final = httpx.Timeout(connect=5.0, write=10.0, read=15.0, pool=5.0)
_LIMITS: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=5.0)
_FOLLOWED: Final = frozenset({307, 308})
_OURS: Final = frozenset(
    {
        *("accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"),
        *("transfer-encoding", "user-agent", SANDBOX_SOURCES.lower()),
    }
)
"""What leaves; the last one to a sandbox only. Tracers that wrap the client add headers of the merchant's traces."""

_sending: Final = ContextVar("butter_sending", default=False)


def _not_ours(_record: logging.LogRecord) -> bool:
    return not _sending.get()


for _name in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(_not_ours)


@contextmanager
def _unlogged() -> Generator[None]:
    """Have the HTTP client log nothing: a log handler that raises would turn Butter's acceptance into a failure."""
    token = _sending.set(True)
    try:
        yield
    finally:
        _sending.reset(token)


@cache
def ssl_context() -> ssl.SSLContext:
    """Return one context for all clients: making one reads every certificate authority.

    Raises:
        HTTPClientError: SSL_CERT_FILE is wrong.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        msg = (
            f"the certificate authorities cannot be read ({type(error).__name__}). Let SSL_CERT_FILE name a file of "
            "certificates (PEM) that this user may read, or unset it."
        )
        raise HTTPClientError(msg) from None


class ButterClient:
    """One connection to Butter. httpx slows down as its pool grows: each sender has a client of its own.

    Proxies are taken from the environment, as httpx does, but for a sandbox on this machine; credentials never are
    (`.netrc` is not read, since the Authorization header is set here, and only here). Every failure is an `Answer`; no
    method raises. `tell` gives, for a record's key, what a sandbox is told beside it.

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
        tell: Callable[[str], str | None] | None = None,
    ) -> None:
        self._base = httpx.URL(base_url)
        local = self._base.scheme == "http"  # plain http goes to loopback only, as `settings` checks
        self._tell = tell if local else None
        self._records = httpx.URL(f"{self._base}{PATH}")  # parsed once: parsing is 7 % of a request
        self._total_seconds = total_seconds
        authorities, credentials = ssl_context(), httpx.BasicAuth(username, password)
        agent = f"butter-middleware/{version('butter-middleware')}"
        try:
            self._http = httpx.AsyncClient(
                auth=credentials,
                headers={"User-Agent": agent, "Accept-Encoding": "identity"},
                timeout=_TIMEOUT,
                limits=_LIMITS,
                transport=transport,
                trust_env=not local,  # no proxy: its loopback is another machine
                verify=authorities,
                event_hooks={"request": [_strip]},
            )
        except (ValueError, httpx.InvalidURL, ImportError) as error:
            msg = (
                f"a proxy's variable cannot be used ({type(error).__name__}). Let HTTPS_PROXY, HTTP_PROXY and "
                "ALL_PROXY be of the shape http://host:port, or unset them; socks5:// takes `pip install httpx[socks]`."
            )
            raise HTTPClientError(msg) from None

    async def post(self, record: Record) -> Answer:
        """Post one record."""
        headers = {"Content-Type": "application/json"}
        if self._tell is not None and (sources := self._tell(record.key)):
            headers[SANDBOX_SOURCES] = sources
        request = self._http.build_request("POST", self._records, content=record.payload.encode(), headers=headers)
        return await self._send(request)

    async def ping(self) -> Answer:
        """Ask whether Butter is up and takes the credentials. Records nothing."""
        return await self._send(self._http.build_request("GET", f"{self._base}/"))

    async def aclose(self) -> None:
        """Close the connection."""
        with untraced(), _unlogged():
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"ButterClient({self._base.host})"

    async def _send(self, request: httpx.Request) -> Answer:
        try:
            with untraced(), _unlogged(), anyio.fail_after(self._total_seconds):
                return await self._exchange(request, follow=True)
        except TimeoutError:
            return Answer(AnswerKind.INTERRUPTED, detail="TotalTimeout")
        except Exception as error:  # noqa: BLE001 - the one seam where foreign errors become answers
            return Answer(_kind(error), detail=type(error).__name__)

    async def _exchange(self, request: httpx.Request, *, follow: bool) -> Answer:
        response = await self._http.send(request, stream=True)
        try:
            status = response.status_code
            if 300 <= status < 400:  # noqa: PLR2004 - RFC 9110, section 15.4
                target = _target(request.url, response)
                if not (follow and status in _FOLLOWED and target is not None and _same_origin(target, request.url)):
                    where = "nowhere" if target is None else f"to {target.scheme}://{target.host}"
                    return Answer(AnswerKind.REDIRECTED, status, detail=where)
            else:
                return classify(status, response.headers, await _read(response))
        finally:
            await response.aclose()
        again = self._http.build_request(
            request.method, target, content=request.content, headers={"Content-Type": "application/json"}
        )
        return await self._exchange(again, follow=False)


async def _strip(request: httpx.Request) -> None:
    for name in [name for name in request.headers if name not in _OURS]:
        del request.headers[name]


async def _read(response: httpx.Response) -> bytes:
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > ANSWER_BYTES:
            return body[:ANSWER_BYTES]
    return body


def _target(url: httpx.URL, response: httpx.Response) -> httpx.URL | None:
    location = response.headers.get("location")
    try:
        return None if location is None else url.join(location)
    except (httpx.InvalidURL, ValueError):
        return None


def _same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    ports = {"http": 80, "https": 443}
    return (one.scheme, one.host, one.port or ports.get(one.scheme)) == (
        other.scheme,
        other.host,
        other.port or ports.get(other.scheme),
    )


def _kind(error: BaseException) -> AnswerKind:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return AnswerKind.UNTRUSTED
        cause = cause.__cause__ or cause.__context__
    unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
    return AnswerKind.UNREACHABLE if isinstance(error, unsent) else AnswerKind.INTERRUPTED
