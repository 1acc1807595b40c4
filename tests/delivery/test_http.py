"""Every answer is classified, every error is translated in one place, and the credentials go to Butter only."""

import asyncio
import gzip
import json
import logging
import socket
import ssl
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from importlib.metadata import version
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import free_port, misbehaving, served
from shops import CREDENTIALS, SHOPPER

from butter_middleware import Checkout, Record
from butter_middleware._utils.watchdog import LOOK_SECONDS, Watchdog
from butter_middleware.delivery.http import ButterClient
from butter_middleware.models.answer import Answer, AnswerKind, classify, retry_after
from butter_middleware.testing import FakeButter

RECORD = Record.of(
    Checkout(customer_email="a@example.com", ipv4_address=SHOPPER, psp="stripe", invoice_id="in_1"), 1_000.0
)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b'{"status": "ok"}', AnswerKind.DELIVERED),
        (201, b'{"id": 7}', AnswerKind.DELIVERED),
        (200, b"<html>Sign in to the hotel</html>", AnswerKind.IMPOSTOR),
        (200, b"[]", AnswerKind.IMPOSTOR),
        (204, b"", AnswerKind.IMPOSTOR),
        (299, b"{}", AnswerKind.DELIVERED),
        (199, b"{}", AnswerKind.REDIRECTED),
        (300, b"{}", AnswerKind.REDIRECTED),
        (302, b"", AnswerKind.REDIRECTED),
        (400, b"", AnswerKind.REJECTED),
        (401, b"", AnswerKind.UNAUTHORIZED),
        (403, b"", AnswerKind.REFUSED),
        (404, b"", AnswerKind.REFUSED),
        (405, b"", AnswerKind.REFUSED),
        (408, b"", AnswerKind.BUSY),
        (409, b"", AnswerKind.BUSY),
        (410, b"", AnswerKind.REFUSED),
        (413, b"", AnswerKind.REJECTED),
        (415, b"", AnswerKind.REJECTED),
        (418, b"", AnswerKind.REJECTED),
        (422, b"", AnswerKind.INVALID),
        (425, b"", AnswerKind.BUSY),
        (429, b"", AnswerKind.THROTTLED),
        (500, b"", AnswerKind.FAILED),
        (501, b"", AnswerKind.UNAVAILABLE),
        (502, b"", AnswerKind.UNAVAILABLE),
        (503, b"", AnswerKind.UNAVAILABLE),
        (504, b"", AnswerKind.UNAVAILABLE),
        (599, b"", AnswerKind.UNAVAILABLE),
    ],
)
def test_each_status_has_one_meaning(status: int, body: bytes, kind: AnswerKind) -> None:
    """The table of answers, row by row."""
    assert classify(status, {}, body).kind is kind


@pytest.mark.parametrize(
    ("answer", "code", "label"),
    [
        (Answer(AnswerKind.DELIVERED, 200), "200", "200"),
        (Answer(AnswerKind.INVALID, 422, detail="psp"), "422", "422 (psp)"),
        (Answer(AnswerKind.UNREACHABLE), "unreachable", "unreachable"),
        (Answer(AnswerKind.INTERRUPTED, detail="TotalTimeout"), "interrupted", "interrupted (TotalTimeout)"),
        (Answer(AnswerKind.STALLED, detail="ReadError"), "stalled", "stalled (ReadError)"),
    ],
)
def test_code_and_label_of_an_answer(answer: Answer, code: str, label: str) -> None:
    """The code is the status, or the kind. The label adds what an operator needs."""
    assert (answer.code, answer.label) == (code, label)


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Thu, 01 Jan 1970 00:01:00 GMT", 60),
        ("Thursday, 01-Jan-70 00:01:00 GMT", 60),
        ("Thu Jan  1 00:01:00 1970", 60),
        ("", None),
        ("today", None),
    ],
)
def test_the_date_of_an_answer(date: str, seconds: float | None) -> None:
    """It is from Butter's clock, in each form of a date, in UTC whatever the machine's time zone."""
    assert classify(200, {"date": date}, b"{}").answered_at == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 1),
        ("999999999999999999", 3600),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 3600),
        ("Wednesday, 21-Oct-26 07:28:30 GMT", 30),
        ("Wed Oct 21 07:28:30 2026", 30),
        ("Wed, 21 Oct 2026 09:28:30 +0200", 30),
        (" 120 ", 120),
        ("120.5", 120.5),
        ("0.2", 1),
        ("120, 120", 120),
        ("3600", 3600),
        ("3601", 3600),
        ("soon", None),
        ("-5", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("12 minutes", None),
        ("", None),
        ("\u0661\u0662", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds, or a date relative to the answer's own, between a second and an hour."""
    assert retry_after({"retry-after": value, "date": "Wed, 21 Oct 2026 07:28:00 GMT"}) == seconds


@pytest.mark.parametrize("date", [{}, {"date": ""}, {"date": "yesterday"}])
def test_a_date_counts_from_this_machines_clock_if_the_answer_has_none(date: dict[str, str]) -> None:
    """An answer may have no Date. Its Retry-After still counts."""
    at = formatdate(time.time() + 120, usegmt=True)
    assert retry_after({"retry-after": at, **date}) == pytest.approx(119.5, abs=1.5)


@given(st.text(), st.text(), st.binary(), st.integers(100, 999))
def test_no_answer_raises(value: str, date: str, body: bytes, status: int) -> None:
    """Any answer, from Butter or another server, is classified."""
    assert isinstance(classify(status, {"retry-after": value, "date": date}, body), Answer)


def test_a_422_names_fields_without_values() -> None:
    """Only Butter's own field names are taken from a 422. Its quotes of the input are not."""
    problems = [
        {"loc": ["body", "customer_email"], "msg": "bad: secret@example.com", "input": "secret@example.com"},
        {"loc": ["body", "secret@example.com"], "msg": "extra"},
    ]
    assert classify(422, {}, json.dumps({"detail": problems}).encode()).detail == "customer_email"
    for odd in (b"{}", b"[]", b"nope", b'{"detail": "no"}', b'{"detail": [1]}', b'{"detail": [{"loc": 1}]}'):
        assert classify(422, {}, odd).detail == ""


def ask(transport: httpx.AsyncBaseTransport | None = None, url: str = "https://butter.test", **options: Any) -> Answer:
    """Post the record once."""

    async def post() -> Answer:
        async with ButterClient(url, transport=transport, **CREDENTIALS, **options) as client:
            return await client.post(RECORD)

    return anyio.run(post)


def mocked(handler: Callable[[httpx.Request], httpx.Response]) -> httpx.MockTransport:
    return httpx.MockTransport(handler)


def test_the_contract() -> None:
    """A POST of JSON with Basic credentials, in the header only."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"status": "ok"})

    assert ask(mocked(handler)).kind is AnswerKind.DELIVERED
    (request,) = seen
    assert (request.method, str(request.url)) == ("POST", "https://butter.test/v1/analytics")
    assert request.headers["content-type"] == "application/json"
    secret = b64encode(f"{CREDENTIALS['username']}:{CREDENTIALS['password']}".encode()).decode()
    assert request.headers["authorization"] == f"Basic {secret}"
    assert json.loads(request.content) == json.loads(RECORD.payload)


def test_the_headers_of_each_request() -> None:
    """Exactly these headers, in this order, and none from the environment, a cookie or a tracer."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={}, headers={"set-cookie": "a=b"})

    async def tour() -> None:
        async with ButterClient("https://butter.test:8443/base", "g", "s\xe9", transport=mocked(handler)) as client:
            await client.post(RECORD)
            await client.ping()

    anyio.run(tour)
    assert [str(request.url) for request in seen] == [
        "https://butter.test:8443/base/v1/analytics",
        "https://butter.test:8443/base/",
    ]
    shared = [
        (b"Host", b"butter.test:8443"),
        (b"User-Agent", f"butter-middleware/{version('butter-middleware')}".encode()),
        (b"Accept", b"*/*"),
        (b"Accept-Encoding", b"identity"),
        (b"Authorization", b"Basic " + b64encode(b"g:s\xc3\xa9")),
    ]
    length = str(len(RECORD.payload.encode())).encode()
    assert seen[0].headers.raw == [
        *shared,
        (b"Content-Type", b"application/json"),
        (b"Content-Length", length),
    ]
    assert seen[1].headers.raw == shared
    assert seen[0].extensions == {"timeout": {"connect": 5.0, "write": 10.0, "read": 15.0, "pool": 5.0}}


def test_a_wrapped_client_sees_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Error trackers and tracers wrap `httpx.AsyncClient`. A record never passes through it."""

    def fails(*_args: object, **_options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(httpx.AsyncClient, "__init__", fails)
    monkeypatch.setattr(httpx.AsyncClient, "send", fails)
    assert ask(mocked(lambda _request: httpx.Response(200, json={}))).kind is AnswerKind.DELIVERED


class _Streamed(httpx.AsyncByteStream):
    """A body in chunks, as from the network."""

    def __init__(self, *chunks: bytes) -> None:
        self.left = list(chunks)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.left:
            yield self.left.pop(0)


@pytest.mark.parametrize(
    ("status", "coding", "body", "kind"),
    [
        (200, "gzip", gzip.compress(b"{}", mtime=0), AnswerKind.DELIVERED),
        (200, "deflate", zlib.compress(b"{}"), AnswerKind.DELIVERED),
        (200, "identity", b"{}", AnswerKind.DELIVERED),
        (200, "gzip", b"{}", AnswerKind.DELIVERED),
        (200, "gzip", b"nope", AnswerKind.IMPOSTOR),
        (503, "gzip", b"nope", AnswerKind.UNAVAILABLE),
        (200, "gzip", gzip.compress(b"{" + b" " * 70_000 + b"}", mtime=0), AnswerKind.IMPOSTOR),
    ],
    ids=["gzip", "deflate", "identity", "not encoded", "broken", "broken 503", "bomb"],
)
def test_an_encoded_answer(status: int, coding: str, body: bytes, kind: AnswerKind) -> None:
    """It is decoded up to the limit. If this fails, the status still counts."""

    def handler(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers={"content-encoding": coding}, stream=_Streamed(body[:2], body[2:]))

    assert ask(mocked(handler)).kind is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (299, AnswerKind.DELIVERED),
        (300, AnswerKind.REDIRECTED),
        (304, AnswerKind.REDIRECTED),
        (399, AnswerKind.REDIRECTED),
        (400, AnswerKind.REJECTED),
    ],
)
def test_which_statuses_are_redirects(status: int, kind: AnswerKind) -> None:
    """A 400 is not a redirect, even with a location."""
    answer = ask(mocked(lambda _request: httpx.Response(status, json={}, headers={"location": "/elsewhere"})))
    assert (answer.kind, answer.status) == (kind, status)
    assert answer.detail == ("to https://butter.test" if kind is AnswerKind.REDIRECTED else "")


@pytest.mark.parametrize(
    ("status", "chunks"), [(200, [b"{}"]), (302, []), (307, []), (500, [b"x"]), (200, [b" " * 70_000, b"{}"])]
)
def test_each_answer_is_closed(status: int, chunks: list[bytes]) -> None:
    """An open answer would keep the only connection. The transport is closed at the end."""
    closed: list[str] = []

    class Stream(_Streamed):
        async def aclose(self) -> None:
            closed.append("answer")

    class Transport(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert request.url.host == "butter.test"
            headers = {"location": "/again"} if status == 307 else {}
            return httpx.Response(status, headers=headers, stream=Stream(*chunks))

        async def aclose(self) -> None:
            closed.append("transport")

    ask(Transport())
    assert closed == ["answer"] * (2 if status == 307 else 1) + ["transport"]


def test_no_more_than_64_kib_of_a_body_are_read() -> None:
    """The rest is not read from the network."""
    stream = _Streamed(b"{", *[b" " * 1024] * 100, b"}")
    answer = ask(mocked(lambda _request: httpx.Response(200, stream=stream)))
    assert answer.kind is AnswerKind.IMPOSTOR
    assert len(stream.left) == 101 - 64
    fits = _Streamed(b"{", b" " * (64 * 1024 - 2), b"}")
    assert ask(mocked(lambda _request: httpx.Response(200, stream=fits))).kind is AnswerKind.DELIVERED


def test_a_transport_that_reads_the_answer_itself() -> None:
    """A merchant's transport may log the answer. The body is then taken from the response."""

    class Reading(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert json.loads(request.content) == json.loads(RECORD.payload)
            response = httpx.Response(200, stream=_Streamed(b"{", b"}"))
            await response.aread()
            return response

    assert ask(Reading()).kind is AnswerKind.DELIVERED


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_on_the_same_origin_is_followed_once(status: int) -> None:
    """The other spelling of the path: method, body and credentials are kept. A second redirect is not followed."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.path.endswith("/"):
            return httpx.Response(200, json={})
        return httpx.Response(status, headers={"location": "/v1/analytics/"})

    assert ask(mocked(handler)).kind is AnswerKind.DELIVERED
    assert [request.method for request in seen] == ["POST", "POST"]
    assert seen[0].content == seen[1].content
    assert seen[0].headers["authorization"] == seen[1].headers["authorization"]
    endless = mocked(lambda _request: httpx.Response(status, headers={"location": "/again"}))
    assert ask(endless).kind is AnswerKind.REDIRECTED


@pytest.mark.parametrize(
    ("base", "location", "host"),
    [
        ("https://butter.test", "https://butter.test:443/v2", b"butter.test"),
        ("https://butter.test", "HTTPS://Butter.TEST/v2", b"butter.test"),
        ("https://butter.test", "//butter.test/v2", b"butter.test"),
        ("https://butter.test", "https://grace:sesame@butter.test/v2", b"butter.test"),
        ("https://butter.test:443", "https://butter.test/v2", b"butter.test"),
        ("https://butter.test:8443", "https://butter.test:8443/v2", b"butter.test:8443"),
        ("https://butter.test:8443/base", "/v2", b"butter.test:8443"),
        ("http://127.0.0.1", "http://127.0.0.1:80/v2", b"127.0.0.1"),
    ],
)
def test_spellings_of_the_same_origin(base: str, location: str, host: bytes) -> None:
    """An origin is a scheme, a host and a port. The scheme's default port may be left out."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) == 1:
            return httpx.Response(308, headers={"location": location})
        return httpx.Response(200, json={})

    assert ask(mocked(handler), base).kind is AnswerKind.DELIVERED
    assert seen[1].url.path == "/v2"
    assert seen[1].headers.raw == seen[0].headers.raw
    assert (b"Host", host) in seen[1].headers.raw


@pytest.mark.parametrize(
    ("base", "location"),
    [
        ("https://butter.test", "https://butter.test:442/v2"),
        ("https://butter.test", "https://butter.test:80/v2"),
        ("https://butter.test:8443", "https://butter.test/v2"),
        ("https://butter.test:8443", "https://butter.test:443/v2"),
        ("http://127.0.0.1", "http://127.0.0.1:443/v2"),
        ("http://127.0.0.1", "https://127.0.0.1:80/v2"),
        ("http://127.0.0.1:8000", "http://localhost:8000/v2"),
    ],
)
def test_another_port_is_another_origin(base: str, location: str) -> None:
    """The server at another port of the same host gets no credentials."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(307, headers={"location": location})

    answer = ask(mocked(handler), base)
    assert (answer.kind, len(seen)) == (AnswerKind.REDIRECTED, 1)
    assert answer.detail == f"to {httpx.URL(location).scheme}://{httpx.URL(location).host}"


@pytest.mark.parametrize(
    ("status", "location"),
    [
        (307, "https://evil.test/v1/analytics"),
        (307, "http://butter.test/v1/analytics"),
        (308, "https://butter.test:8443/"),
        (307, "//evil.test/"),
        (307, None),
        (307, "http://["),
        (301, "/v1/analytics/"),
        (302, "/login"),
        (303, "/"),
    ],
)
def test_no_other_redirect_is_followed(status: int, location: str | None) -> None:
    """Credentials and records never go to another origin, nor with a method other than POST."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status, headers={} if location is None else {"location": location})

    answer = ask(mocked(handler))
    assert (answer.kind, answer.status, len(seen)) == (AnswerKind.REDIRECTED, status, 1)


def every_error() -> list[type[Exception]]:
    """Return each exception class of httpx, and some of the layers below."""
    found: list[type[Exception]] = []
    waiting: list[type[Exception]] = [httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict]
    while waiting:
        error = waiting.pop()
        found.append(error)
        waiting += error.__subclasses__()
    return [*found, OSError, RuntimeError, ValueError, TimeoutError, ssl.SSLError, anyio.BrokenResourceError]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_each_error_becomes_an_answer(error: type[Exception]) -> None:
    """Its detail is the name of the error's class, never its text."""

    def handler(request: httpx.Request) -> httpx.Response:
        try:
            raised = error("secret@example.com")
        except TypeError:
            raised = error("secret@example.com", request=request, response=None)  # type: ignore[call-arg]
        raise raised

    answer = ask(mocked(handler))
    unsent = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"}
    expected = AnswerKind.UNREACHABLE if error.__name__ in unsent else AnswerKind.INTERRUPTED
    assert answer.kind is expected
    assert "secret" not in answer.label


def test_an_untrusted_certificate_has_its_own_kind() -> None:
    """A failed verification is found anywhere in the chain of causes."""

    def handler(_request: httpx.Request) -> httpx.Response:
        try:
            raise ssl.SSLCertVerificationError(1, "self-signed")
        except ssl.SSLError as error:
            raise httpx.ConnectError("x") from error  # noqa: EM101 - httpx's own form

    assert ask(mocked(handler)).kind is AnswerKind.UNTRUSTED


# A real server that misbehaves.


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def drips(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n")
    pause = threading.Event()
    while not pause.wait(0.05):
        connection.sendall(b" ")


def endless(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"\r\n")
    while True:
        connection.sendall(b"x" * 65536)


@pytest.mark.parametrize(
    ("behave", "kind"),
    [
        (lambda c: c.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}"), AnswerKind.DELIVERED),
        (lambda c: c.recv(1), AnswerKind.INTERRUPTED),
        (drips, AnswerKind.INTERRUPTED),
        (lambda _c: None, AnswerKind.INTERRUPTED),
        (lambda c: c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"), AnswerKind.INTERRUPTED),
        (lambda c: c.sendall(HEAD + b"Content-Length: 50\r\n\r\n{"), AnswerKind.INTERRUPTED),
        (lambda c: c.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"), AnswerKind.INTERRUPTED),
        (endless, AnswerKind.IMPOSTOR),
    ],
    ids=["good", "hangs", "drips", "closes", "resets", "half a body", "junk", "endless body"],
)
def test_a_server_that_misbehaves(behave: Any, kind: AnswerKind) -> None:
    """A server that hangs, drips, resets, closes early or never ends costs limited time and memory."""
    with misbehaving(behave) as url:
        # Only answers that the deadline ends have a short one.
        assert ask(url=url, total_seconds=0.5 if kind is AnswerKind.INTERRUPTED else 20.0).kind is kind


def stalled(behave: Callable[[socket.socket], None], seconds: float, total_seconds: float = 20.0) -> Answer:
    """Post the record, and block the loop while the server acts."""
    asked, blocked, behaved = threading.Event(), threading.Event(), threading.Event()

    def behaves(connection: socket.socket) -> None:
        asked.set()
        blocked.wait(10)
        try:
            behave(connection)
        finally:
            behaved.set()

    async def post(url: str) -> Answer:
        answers: list[Answer] = []

        async def ask_once() -> None:
            answers.append(await client.post(RECORD))

        async with (
            ButterClient(url, **CREDENTIALS, total_seconds=total_seconds) as client,
            anyio.create_task_group() as g,
        ):
            g.start_soon(ask_once)
            await anyio.to_thread.run_sync(asked.wait)
            until = time.monotonic() + seconds
            blocked.set()
            behaved.wait(seconds)
            time.sleep(max(0.0, until - time.monotonic()))  # noqa: ASYNC251 - the loop stands still
        return answers[0]

    with misbehaving(behaves) as url:
        return anyio.run(post, url)


GOOD = HEAD + b"Content-Length: 2\r\n\r\n{}"


def test_an_answer_that_came_while_the_loop_was_blocked_is_kept() -> None:
    """The deadline passed meanwhile, but Butter has the record, and answered in time."""
    assert stalled(lambda c: c.sendall(GOOD), 1.3, 0.5).kind is AnswerKind.DELIVERED


@pytest.mark.parametrize("delay", [0.2, 0.3, 0.4, 0.5])
def test_an_answer_that_came_while_the_loop_was_busy_is_kept(delay: float) -> None:
    """The loop was blocked for less than a stall."""

    def answer(connection: socket.socket) -> None:
        time.sleep(delay)
        connection.sendall(GOOD)

    assert stalled(answer, 0.9, 0.45).kind is AnswerKind.DELIVERED


def test_a_loop_that_is_blocked_again_and_again_ends_requests() -> None:
    """Each turn takes longer than a stall. A request ends all the same."""

    async def post(url: str) -> Answer:
        async with ButterClient(url, **CREDENTIALS, total_seconds=0.5) as client:
            task = asyncio.create_task(client.post(RECORD))
            for _turn in range(8):
                await asyncio.sleep(0)
                time.sleep(1.1)  # noqa: ASYNC251 - the loop stands still
            assert task.done()
            return await task

    def say_nothing(connection: socket.socket) -> None:
        connection.recv(1)

    with misbehaving(say_nothing) as url:
        assert anyio.run(post, url).kind is AnswerKind.STALLED


@pytest.mark.parametrize(
    ("behave", "seconds", "total_seconds", "kind"),
    [
        (lambda _c: None, 1.3, 20.0, AnswerKind.STALLED),
        (lambda _c: None, 0.1, 20.0, AnswerKind.INTERRUPTED),
        (lambda c: c.recv(1), 1.3, 0.5, AnswerKind.STALLED),
        (lambda c: c.recv(1), 0.1, 0.5, AnswerKind.INTERRUPTED),
        (lambda c: c.sendall(GOOD.replace(b"200 OK", b"503 No")), 1.3, 20.0, AnswerKind.UNAVAILABLE),
    ],
    ids=["closed", "closed in time", "deadline", "deadline in time", "answered"],
)
def test_a_blocked_loop_is_not_a_failure_of_the_endpoint(
    behave: Callable[[socket.socket], None], seconds: float, total_seconds: float, kind: AnswerKind
) -> None:
    """A frozen function or a stopped process: deadlines pass and connections break. An answer still counts."""
    assert stalled(behave, seconds, total_seconds).kind is kind


class Hung(httpx.AsyncBaseTransport):
    """It never answers. `cancelled` decides what happens if its task is cancelled."""

    def __init__(self, cancelled: Callable[[], httpx.Response | None]) -> None:
        self._cancelled = cancelled

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:  # noqa: ARG002 - the base's name
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            answer = self._cancelled()
            if answer is None:
                raise
            return answer
        raise AssertionError


def ended(
    cancelled: Callable[[], httpx.Response | None], *, cancelled_before: bool = False
) -> tuple[AnswerKind, int] | None:
    """Post to a hanging transport. Return the answer and the caller's cancellations, or None if it was cancelled."""

    async def post() -> tuple[AnswerKind, int]:
        client = ButterClient("https://butter.test", **CREDENTIALS, transport=Hung(cancelled), total_seconds=0.1)
        task = asyncio.current_task()
        assert task is not None
        if cancelled_before:  # such as a worker that empties its queue before it ends
            with suppress(asyncio.CancelledError):
                task.cancel()
                await asyncio.sleep(0)
        answer = await client.post(RECORD)
        return answer.kind, task.cancelling()

    with suppress(asyncio.CancelledError):
        return asyncio.run(post())
    return None


def test_a_request_that_hangs_is_ended_and_its_caller_is_not() -> None:
    """The transport may suppress the cancellation. If the caller is cancelled at that moment too, it still is."""

    def by_the_caller() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    assert ended(lambda: None) == (AnswerKind.INTERRUPTED, 0)
    assert ended(lambda: None, cancelled_before=True) == (AnswerKind.INTERRUPTED, 1)
    assert ended(lambda: httpx.Response(200, json={})) == (AnswerKind.DELIVERED, 0)
    assert ended(by_the_caller) is None


def test_the_loop_is_watched_during_requests_only() -> None:
    """An idle client has no timer. It ends with the first look after the last request."""

    async def main() -> None:
        looks: list[Callable[[], object]] = []
        loop = asyncio.get_running_loop()

        def later(seconds: float, look: Callable[..., object], *args: Any) -> None:
            assert seconds == LOOK_SECONDS
            looks.append(partial(look, *args))

        loop.call_later = later  # type: ignore[assignment,method-assign]
        watchdog = Watchdog(20)
        one, other = (loop.create_task(asyncio.sleep(0)) for _task in range(2))
        began = watchdog.begin(one)
        watchdog.begin(other)
        watchdog.end(other)
        looks.pop()()
        assert len(looks) == 1  # one request is still in flight
        watchdog.end(one)
        looks.pop()()
        assert looks == []
        assert not watchdog.stalled_since(began)
        watchdog.begin(one)
        assert len(looks) == 1

    asyncio.run(main())


def test_a_stall_before_the_request_does_not_count() -> None:
    """The client was idle while the loop was blocked. Its next request is judged on its own."""

    async def post(url: str) -> list[AnswerKind]:
        async with ButterClient(url, **CREDENTIALS) as client:
            before = (await client.post(RECORD)).kind
            time.sleep(1.3)  # noqa: ASYNC251 - the loop stands still
            return [before, (await client.post(RECORD)).kind]

    with misbehaving(lambda _connection: None) as url:
        assert anyio.run(post, url) == [AnswerKind.INTERRUPTED] * 2


def test_a_log_handler_that_raises_changes_no_answer() -> None:
    """Its filter may need the current request. Log lines of the HTTP client itself never reach it.

    This includes the line at the end of a connection, which the server keeps open until then.
    """

    def no_request(_record: logging.LogRecord) -> bool:
        raise LookupError

    def answer_and_wait(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")
        connection.recv(1)

    root, handler = logging.getLogger(), logging.Handler()
    handler.addFilter(no_request)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.INFO)
    try:
        with misbehaving(answer_and_wait) as url:
            assert ask(url=url).kind is AnswerKind.DELIVERED
        for name in ("httpx", "httpcore.connection", "httpcore.http11"):
            with pytest.raises(LookupError):
                logging.getLogger(name).info("of the shop's own requests")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        logging.getLogger("asyncio").setLevel(logging.NOTSET)


def test_a_refused_connection() -> None:
    """It shows that nothing was sent."""
    assert ask(url=f"http://127.0.0.1:{free_port()}").kind is AnswerKind.UNREACHABLE


def test_the_fake_keeps_the_contract() -> None:
    """The fake that the tests use answers as Butter would."""
    fake = FakeButter(**CREDENTIALS)

    async def tour(url: str) -> list[tuple[int, Any]]:
        async with httpx.AsyncClient(base_url=url) as http:
            answers: list[tuple[int, Any]] = []
            auth = (CREDENTIALS["username"], CREDENTIALS["password"])
            good = json.loads(RECORD.payload)
            for method, path, who, content in [
                ("GET", "/", auth, None),
                ("GET", "/", ("merchant", "wrong"), None),
                ("POST", "/v1/analytics", auth, good),
                ("POST", "/v1/analytics/", auth, good),
                ("POST", "/v1/analytics", None, good),
                ("POST", "/v1/analytics", auth, good | {"charge_id": None}),
                ("POST", "/v1/analytics", auth, good | {"charge_id": ""}),
                ("POST", "/v1/analytics", auth, {"psp": "stripe"}),
                ("GET", "/v1/analytics", auth, None),
                ("POST", "/v2", auth, good),
            ]:
                response = await http.request(method, path, auth=who, json=content)
                answers.append((response.status_code, response.json()))
            return answers

    with served(fake) as url:
        answers = anyio.run(tour, url)
    assert [status for status, _body in answers] == [200, 401, 200, 200, 401, 422, 422, 422, 405, 404]
    assert answers[1][1] == {"detail": "unauthorized"}
    assert {problem["loc"][-1] for problem in answers[7][1]["detail"]} == {"customer_email", "ipv4_address"}
    assert len(fake.records) == 2
    assert fake.rejected == 3


def test_no_repr_shows_a_secret() -> None:
    """The client's repr has only the host."""
    assert repr(ButterClient("https://butter.test", **CREDENTIALS)) == "ButterClient(butter.test)"
