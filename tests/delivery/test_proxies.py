"""The proxy comes from the environment: each value of its variables, with two real listeners."""

import gc
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import closing, suppress

import anyio
import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processes import accepting, until
from shops import CREDENTIALS, SHOPPER

from butter_middleware import Checkout, Record
from butter_middleware.delivery import http
from butter_middleware.delivery.http import ButterClient
from butter_middleware.errors import HTTPClientError
from butter_middleware.models.answer import Answer, AnswerKind

RECORD = Record.of(
    Checkout(customer_email="a@example.com", ipv4_address=SHOPPER, psp="stripe", invoice_id="in_1"), 1_000.0
)


class Listener:
    """It keeps the first bytes of each connection, may answer them, and closes it."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.answers: list[bytes] = []
        self.stalls = False
        self.port = 0

    def take(self, connection: socket.socket) -> None:
        with closing(connection), suppress(ConnectionError):
            self.heard.append(connection.recv(65536))
            for answer in self.answers:
                connection.sendall(answer)
                connection.recv(65536)
            while self.stalls and connection.recv(65536):
                pass


@pytest.fixture
def listeners() -> Iterator[tuple[Listener, Listener]]:
    """Listen as a proxy, and as Butter."""
    proxy, butter = Listener(), Listener()
    with accepting(proxy.take) as proxy.port, accepting(butter.take) as butter.port:
        yield proxy, butter


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    http._say_unreadable.cache_clear()


def post(url: str) -> Answer:
    """Post the record once."""

    async def ask() -> Answer:
        async with ButterClient(url, **CREDENTIALS) as client:
            return await client.post(RECORD)

    return anyio.run(ask)


PROXY = "http://127.0.0.1:{proxy}"


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        # Which variable counts.
        ({}, "direct"),
        ({"HTTPS_PROXY": PROXY}, "proxy"),
        ({"https_proxy": PROXY}, "proxy"),
        ({"ALL_PROXY": PROXY}, "proxy"),
        ({"all_proxy": PROXY}, "proxy"),
        ({"HTTPS_PROXY": PROXY, "ALL_PROXY": "http://127.0.0.1:1"}, "proxy"),
        ({"HTTPS_PROXY": PROXY, "ALL_PROXY": "nonsense://"}, "proxy"),
        ({"HTTP_PROXY": PROXY}, "direct"),
        ({"HTTP_PROXY": "nonsense://"}, "direct"),
        ({"HTTPS_PROXY": ""}, "direct"),
        ({"HTTPS_PROXY": "", "ALL_PROXY": PROXY}, "proxy"),
        # How it may be written.
        ({"HTTPS_PROXY": "127.0.0.1:{proxy}"}, "proxy"),
        ({"HTTPS_PROXY": "HTTP://localhost:{proxy}/"}, "proxy"),
        ({"HTTPS_PROXY": "http://grace:sesame@127.0.0.1:{proxy}"}, "proxy"),
        ({"HTTPS_PROXY": "https://127.0.0.1:{proxy}"}, "tls proxy"),
        # What NO_PROXY leaves out.
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": ""}, "proxy"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, "direct"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "example.com, *"}, "direct"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "127.0.0.1"}, "direct"),
        ({"HTTPS_PROXY": PROXY, "no_proxy": " , 127.0.0.1 ,"}, "direct"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "127.0.0.1:{butter}"}, "direct"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "127.0.0.1:1"}, "proxy"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "https://127.0.0.1"}, "direct"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "http://127.0.0.1"}, "proxy"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "all://127.0.0.1"}, "direct"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "https://"}, "direct"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "example.com,.internal,10.0.0.0/8,::1"}, "proxy"),
        # What httpx cannot read in NO_PROXY, with a proxy and without.
        ({"NO_PROXY": "localhost,fd00::/8"}, "direct"),
        ({"NO_PROXY": "[::1]"}, "direct"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "[::1],fd00::/8,example.com:port"}, "proxy"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "[::1],127.0.0.1"}, "direct"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "fd00::/8,*"}, "direct"),
    ],
    ids=str,
)
def test_a_record_takes_the_configured_way(
    listeners: tuple[Listener, Listener], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], way: str
) -> None:
    """A proxy gets CONNECT and no part of the record. Without a proxy, Butter gets a TLS handshake."""
    proxy, butter = listeners
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(proxy=proxy.port, butter=butter.port))
    answer = post(f"https://127.0.0.1:{butter.port}")
    assert answer.kind in {AnswerKind.UNREACHABLE, AnswerKind.INTERRUPTED}
    if way == "direct":
        assert (proxy.heard, butter.heard[0][:1]) == ([], b"\x16")
        return
    assert butter.heard == []
    if way == "proxy":
        assert proxy.heard[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % butter.port)
        assert (b"Proxy-Authorization: Basic Z3JhY2U6c2VzYW1l\r\n" in proxy.heard[0]) == ("grace" in str(environment))
        assert b"\r\nAuthorization:" not in proxy.heard[0]
    else:
        assert proxy.heard[0][:1] == b"\x16"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_a_sandbox_on_this_machine_is_reached_directly(
    listeners: tuple[Listener, Listener], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A proxy's loopback is another machine, so plain HTTP ignores the proxy variables."""
    proxy, butter = listeners
    monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    post(f"http://127.0.0.1:{butter.port}")
    assert proxy.heard == []
    assert butter.heard[0].startswith(b"POST /v1/analytics HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("scheme", "answers"),
    [
        ("http", [b"HTTP/1.1 200 OK\r\n\r\n"]),
        ("http", [b"HTTP/1.1 200 OK\r\n\r\n", b"no TLS"]),
        ("http", [b"HTTP/1.1 502 Bad Gateway\r\n\r\n"]),
        ("socks5", [b"no SOCKS"]),
        ("socks5", [b"\x05\x00", b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"]),
        ("socks5", [b"\x05\x00", b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"]),
    ],
)
@pytest.mark.parametrize("stalls", [False, True])
def test_after_a_fault_of_a_proxy_the_next_record_has_a_new_connection(
    listeners: tuple[Listener, Listener],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    answers: list[bytes],
    stalls: bool,  # noqa: FBT001 - parametrized
) -> None:
    """If a TLS handshake in a proxy's tunnel fails, httpx keeps the connection and waits for it forever."""
    if scheme == "socks5":
        pytest.importorskip("socksio")
    proxy, butter = listeners
    proxy.answers, proxy.stalls = answers, stalls
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://127.0.0.1:{proxy.port}")

    async def ask() -> list[str]:
        url = f"https://127.0.0.1:{butter.port}"
        async with ButterClient(url, **CREDENTIALS, total_seconds=0.5 if stalls else 20) as client:
            return [(await client.post(RECORD)).detail for _record in range(3)]

    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        details = anyio.run(ask)
        gc.collect()
    assert "PoolTimeout" not in details
    until(lambda: len(proxy.heard) == 3, "each had a connection")
    assert [str(warning.message) for warning in leaked] == []


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize(
    "proxy",
    ["nonsense://grace:sesame@10.0.0.1", "http://[::", "http://grace:sesame@10.0.0.1:port", "socks4://10.0.0.1"],
)
def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, name: str, proxy: str) -> None:
    """The error names the wrong variable, without its value."""
    monkeypatch.setenv(name, proxy)
    with pytest.raises(HTTPClientError, match=rf"cannot be used \(\w+\)\. Write {name} as") as raised:
        ButterClient("https://butter.test", **CREDENTIALS)
    assert "sesame" not in str(raised.value)
    assert "10.0.0.1" not in str(raised.value)
    monkeypatch.setenv("NO_PROXY", "butter.test")
    ButterClient("https://butter.test", **CREDENTIALS)  # so the variable does not count


@pytest.mark.parametrize("no_proxy", ["localhost,fd00::/8", "[::1]", "example.com:port"])
def test_an_unreadable_entry_of_no_proxy_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, no_proxy: str
) -> None:
    """The line names it and the remedy, once for all clients."""
    monkeypatch.setenv("NO_PROXY", no_proxy)
    for _client in range(3):
        ButterClient("https://butter.test", **CREDENTIALS)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    name = no_proxy.removeprefix("localhost,")
    assert record.getMessage().startswith(
        f"butter: NO_PROXY: '{name}' is left out, because the HTTP client cannot read it."
    )


def test_credentials_in_no_proxy_are_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy's URL in the wrong variable is logged without its credentials."""
    monkeypatch.setenv("NO_PROXY", "http://grace:sesame@10.0.0.1:port")
    ButterClient("https://butter.test", **CREDENTIALS)
    assert "'10.0.0.1:port' is left out" in caplog.text
    assert "sesame" not in caplog.text


hosts = st.sampled_from(
    [
        "butter.test",
        "api.butter.test",
        "test",
        "localhost",
        "127.0.0.1",
        "10.1.2.3",
        "[::1]",
        "[fd00::1]",
        "b\xfctter.test",
    ]
)
entries = st.one_of(
    hosts,
    hosts.map(lambda host: host.strip("[]")),
    hosts.map(str.upper),
    hosts.map(lambda host: f".{host}"),
    hosts.map(lambda host: f"*.{host}"),
    hosts.map(lambda host: f"{host}:8443"),
    hosts.map(lambda host: f"{host}:443"),
    hosts.map(lambda host: f"{host}/8"),
    st.builds("{}://{}".format, st.sampled_from(["all", "http", "https"]), hosts),
    st.builds("{}://*{}".format, st.sampled_from(["all", "http", "https"]), hosts),
)


@settings(deadline=None)
@example(host="butter.test", port="", no_proxy=[".butter.test"])
@example(host="api.butter.test", port="", no_proxy=[".butter.test"])
@example(host="notbutter.test", port="", no_proxy=[".butter.test"])
@example(host="notbutter.test", port="", no_proxy=["butter.test"])
@given(host=hosts, port=st.sampled_from(["", ":443", ":8443"]), no_proxy=st.lists(entries, min_size=1, max_size=3))
def test_no_proxy_is_read_as_by_httpx(host: str, port: str, no_proxy: list[str]) -> None:
    """If httpx can read NO_PROXY, the same URLs go through the proxy as with httpx."""
    url = f"https://{host}{port}"
    written = ",".join(no_proxy)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("HTTPS_PROXY", "http://10.0.0.1:3128")
        monkeypatch.setenv("NO_PROXY", written)
        try:
            client = httpx.AsyncClient(verify=http.ssl_context())
        except httpx.InvalidURL:
            return
        transport = client._transport_for_url(httpx.URL(url))
    assert http._bypassed(httpx.URL(url), written) == (transport is client._transport)
