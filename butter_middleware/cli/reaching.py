"""Whether Butter can be reached from here: the name, the certificate, the credentials, the clock."""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import Final, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio

from butter_middleware.cli.output import Mark, counted
from butter_middleware.delivery.clients import Client
from butter_middleware.models.answer import Answer, AnswerKind

T = TypeVar("T")

SECONDS: Final = 10.0
"""For each question."""
SKEW_SECONDS: Final = 30.0
DAY: Final = 86400.0
EXPIRY_DAYS: Final = 14.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: Mark
    detail: str
    remedy: str = ""


def reach(base_url: str, client: Client) -> Iterator[Finding]:
    """Look at each step of the way to Butter; what comes after one that fails is not looked at."""
    url = urlsplit(base_url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    proxy = getproxies().get(url.scheme)
    if proxy and url.scheme == "https" and not proxy_bypass(host):
        by = urlsplit(proxy).hostname or "a proxy"
        yield Finding("dns", Mark.OK, f"left to the proxy {by}, which the environment names")
    else:
        for finding in _connected(host, port, secure=url.scheme == "https"):
            yield finding
            if finding.state is Mark.FAILED:
                return
    before = time.time()
    answer = anyio.run(_ping, client)
    yield _credentials(answer, host)
    if answer.answered_at is not None:
        yield _clock(answer.answered_at, before, time.time())


def _connected(host: str, port: int, *, secure: bool) -> Iterator[Finding]:
    try:
        found = within(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), SECONDS)
    except (OSError, TimeoutError) as error:
        remedy = f"Look up {host} on this machine; see /etc/resolv.conf, and what the container's network allows."
        yield Finding("dns", Mark.FAILED, f"{host} has no address here ({_named(error)})", remedy)
        return
    yield Finding(
        "dns", Mark.OK, f"{host} has {counted(len({entry[4][0] for entry in found}), 'address', 'addresses')}"
    )
    try:
        yield _secured(host, port) if secure else _open(host, port)
    except ssl.SSLCertVerificationError as error:
        remedy = (
            "Check this machine's clock, its certificate authorities (SSL_CERT_FILE), and whether a proxy or firewall "
            "opens TLS. Verification is never switched off."
        )
        yield Finding("tls", Mark.FAILED, f"the certificate is not trusted: {error.verify_message}", remedy)
    except (OSError, TimeoutError) as error:
        remedy = f"Let this machine reach {host} at port {port}, or set HTTPS_PROXY to the proxy that may."
        yield Finding("tls", Mark.FAILED, f"no connection to {host}:{port} ({_named(error)})", remedy)


def _open(host: str, port: int) -> Finding:
    socket.create_connection((host, port), SECONDS).close()
    return Finding("tls", Mark.OK, "none: plain http, to this machine only")


def _secured(host: str, port: int) -> Finding:
    from butter_middleware.delivery.http import ssl_context  # noqa: PLC0415 - httpx, for this command only

    with (
        socket.create_connection((host, port), SECONDS) as plain,
        ssl_context().wrap_socket(plain, server_hostname=host) as secured,
    ):
        until = secured.getpeercert() or {}
        expires = ssl.cert_time_to_seconds(str(until.get("notAfter", "Jan  1 00:00:00 2100 GMT")))
        days = (expires - time.time()) / DAY
        text = f"{secured.version()}, certificate trusted, valid for {days:.0f} days"
    if days < EXPIRY_DAYS:
        return Finding("tls", Mark.WARNING, text, "Where a proxy of yours signs it, renew it; else wait for Butter.")
    return Finding("tls", Mark.OK, text)


async def _ping(client: Client) -> Answer:
    try:
        return await client.ping()
    finally:
        await client.aclose()


def _credentials(answer: Answer, host: str) -> Finding:
    remedy = _REMEDIES.get(answer.kind)
    if answer.kind is AnswerKind.DELIVERED:
        return Finding("credentials", Mark.OK, f"{host} takes them")
    if answer.kind is AnswerKind.IMPOSTOR:
        text = "the answer is none of Butter's: something else may answer in its place"
        return Finding("credentials", Mark.WARNING, text, "Check base_url, proxies and firewalls.")
    if remedy is None:
        remedy = "Butter, or something before it, has a fault; records wait meanwhile. Try again later."
    return Finding("credentials", Mark.FAILED, f"{host} answered {answer.label}", remedy)


_REMEDIES: Final = {
    AnswerKind.UNAUTHORIZED: (
        "Check username and password, and that they are those of this environment: production and staging have a pair "
        "each."
    ),
    AnswerKind.REFUSED: "The credentials are known, and may not do this; or base_url is wrong. Ask Butter.",
    AnswerKind.REDIRECTED: "Check base_url: credentials follow no redirect to another place.",
    AnswerKind.THROTTLED: "Butter wants fewer requests now. Try again in a minute.",
    AnswerKind.UNREACHABLE: "Let this machine reach it, or set HTTPS_PROXY to the proxy that may.",
    AnswerKind.UNTRUSTED: "Check this machine's clock and its certificate authorities (SSL_CERT_FILE).",
}


def _clock(theirs: float, before: float, after: float) -> Finding:
    """Compare the clocks. Their second is rounded down, and the answer took its time."""
    skew = max(before - theirs - 1.0, theirs - after, 0.0)
    if skew <= SKEW_SECONDS:
        return Finding("clock", Mark.OK, f"within {max(1.0, skew):.0f} s of Butter's")
    text = f"{skew:.0f} s {'behind' if theirs > after else 'ahead of'} Butter's"
    return Finding("clock", Mark.WARNING, text, "Let NTP set this machine's clock: tokens and due times depend on it.")


def within(ask: Callable[[], T], seconds: float) -> T:
    """Ask something that knows no timeout.

    Raises:
        TimeoutError: no answer came in time; the question goes on on a thread that dies with the process.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result(seconds)


def _named(error: BaseException) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
