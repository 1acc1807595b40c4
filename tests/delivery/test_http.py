"""Every answer is classified, every error is translated at one seam, and the credentials go nowhere else."""

import json
import logging
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import free_port, misbehaving, served
from shops import CREDENTIALS, SHOPPER

from butter_middleware import Checkout, Record
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
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 1),
        ("999999999999999999", 3600),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1),
        ("Wed, 21 Oct 2099 07:28:00 GMT", 3600),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("\u0661\u0662", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds, or a date relative to the answer's own; from a second to an hour."""
    assert retry_after({"retry-after": value, "date": "Wed, 21 Oct 2026 07:28:00 GMT"}) == seconds


@given(st.text(), st.text(), st.binary(), st.integers(100, 999))
def test_no_answer_raises(value: str, date: str, body: bytes, status: int) -> None:
    """Whatever Butter or its stand-in writes, it is an answer."""
    assert isinstance(classify(status, {"retry-after": value, "date": date}, body), Answer)


def test_a_422_names_fields_and_quotes_nothing() -> None:
    """Only Butter's own field names are taken from a 422; what it quotes of the input is not."""
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
    """A POST of JSON with Basic credentials, in the header alone."""
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


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_on_the_same_origin_is_followed_once(status: int) -> None:
    """The other spelling of the path: method, body and credentials are kept; a second redirect is not followed."""
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
    """Credentials and records never go to another origin, nor by a method that is not POST."""
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
def test_no_error_slips_through(error: type[Exception]) -> None:
    """Every error of the client becomes an answer whose detail is the class's name, never its text."""

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


def test_an_untrusted_certificate_is_told_apart() -> None:
    """A failed verification is found wherever it stands in the chain of causes."""

    def handler(_request: httpx.Request) -> httpx.Response:
        try:
            raise ssl.SSLCertVerificationError(1, "self-signed")
        except ssl.SSLError as error:
            raise httpx.ConnectError("x") from error  # noqa: EM101 - httpx's own form

    assert ask(mocked(handler)).kind is AnswerKind.UNTRUSTED


# A real server that misbehaves


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
    """A server that hangs, drips, resets, closes early or never ends costs bounded time and memory."""
    with misbehaving(behave) as url:
        assert ask(url=url, total_seconds=0.5).kind is kind


def test_a_log_handler_that_raises_changes_no_answer() -> None:
    """Such as one whose filter asks for the current request: what the HTTP client says by itself never gets there.

    Not even when it closes its connection: the server keeps it open until then.
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
        with pytest.raises(LookupError):
            logging.getLogger("httpx").info("of the shop's own requests")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        logging.getLogger("asyncio").setLevel(logging.NOTSET)


def test_nobody_listens() -> None:
    """A refused connection says that nothing was sent."""
    assert ask(url=f"http://127.0.0.1:{free_port()}").kind is AnswerKind.UNREACHABLE


def test_the_fake_keeps_the_contract() -> None:
    """What tests answer to is what Butter would answer."""
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
    """The client's repr names the host alone."""
    assert repr(ButterClient("https://butter.test", **CREDENTIALS)) == "ButterClient(butter.test)"
