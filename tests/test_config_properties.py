"""Any configuration works, or it is refused when it is written, with one error that shows no secret."""

import asyncio
from base64 import b64decode
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from fuzzing import tries
from hypothesis import example, given, settings
from hypothesis import strategies as st

from butter_middleware import Beacon, Butter, ConfigurationError, client_ip
from butter_middleware import config as configured
from butter_middleware.delivery.http import ButterClient

T = TypeVar("T")
NOW = 1_800_000_000.0
KEY = "a-key-of-the-merchant-of-32-bytes-or-more"
LOOPBACK = ("127.", "::1", "localhost")

parts = st.sampled_from(
    [
        *[
            "http",
            "https",
            "HTTP",
            "ftp",
            "://",
            ":",
            "//",
            "/",
            "\\",
            "@",
            "?",
            "#",
            "[",
            "]",
            "%",
            ".",
            "..",
            "-",
            "_",
        ],
        *[
            "::1",
            "127.0.0.1",
            "localhost",
            "localhost.",
            "butter.example",
            "a",
            "user",
            "é",
            "ⓐ",
            "。",
            "xn--",
            "xn--0",
            "v1",
        ],
        *[":443", ":80", ":0", ":65536", ":x", "0x7f.1", "2130706433", "127.1", "::ffff:127.0.0.1", "a" * 64],
        *[" ", "\t", "\n", "\0", "\u202e", "\udcff", "%00", "%2f", "%zz"],
    ]
)
joined = st.lists(parts, max_size=6).map("".join)
urls = st.one_of(joined, joined.map("http://".__add__), joined.map("https://".__add__), st.text())


def refused(make: Callable[[], T]) -> T | ConfigurationError:
    """Return the object, or the one error that is allowed."""
    try:
        return make()
    except ConfigurationError as error:
        return error


@settings(max_examples=tries(400), deadline=None)
@given(written=urls)
@example("http://127.0.0.1")
@example("https://butter.example/v0/")
@example("https://00.0.0.0")
@example("https://[::1]:8443")
@example("https://butter[::1]")
@example("https://[v1.butter]")
def test_a_base_url_is_refused_or_used_as_written(written: str) -> None:
    """An accepted URL works for the HTTP client: without credentials, and without TLS to this machine only."""
    base = refused(lambda: configured.base_url(written))
    if isinstance(base, ConfigurationError):
        return
    client = ButterClient(base, "u", "p")
    url = client._records
    assert url.scheme == "https" or url.host.startswith(LOOPBACK)
    assert url.host
    assert not url.userinfo
    assert not url.query
    assert url.path.endswith("/v1/analytics")


class Sees(httpx.AsyncBaseTransport):
    """It keeps the credentials of the request."""

    credentials = ""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.credentials = b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        return httpx.Response(200, json={})


texts = st.text(max_size=12) | st.text(st.characters(max_codepoint=0x17F), max_size=12)


@settings(max_examples=tries(200), deadline=None)
@given(username=texts, password=texts)
@example("user", "pass:word")
def test_credentials_are_refused_or_arrive_unchanged(username: str, password: str) -> None:
    """No character of a username or a password is changed on its way, and an error shows none."""
    credentials = refused(
        lambda: [configured.credential("username", username), configured.credential("password", password)]
    )
    if isinstance(credentials, ConfigurationError):
        assert len(password) < 6 or password not in str(credentials)
        return
    sees = Sees()
    user, secret = credentials
    asyncio.run(ButterClient("https://butter.example", user or "", secret or "", transport=sees).ping())
    assert sees.credentials == f"{username}:{password}"


odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10) | st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.just(float("nan")),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    st.builds(object),
    st.sampled_from([int, len, "production", "before_response", "https://butter.example", client_ip.direct]),
)
OPTIONS = [
    *("client_ip", "routes", "username", "password", "environment", "durability", "ipv4_beacon", "base_url"),
    *("max_body_bytes", "drain_timeout", "join_ttl", "senders", "no_such_option"),
    *("dry_run", "send_user_agent", "telemetry", "on_event", "clock", "transport", "outbox"),
]


@settings(max_examples=tries(400), deadline=None)
@given(options=st.dictionaries(st.sampled_from(OPTIONS), odd, max_size=3))
@example({"clock": len})
def test_options_are_refused_or_make_a_butter(options: dict[str, Any]) -> None:
    """An option may have any value of any type. It works, or the start stops with a `ConfigurationError`."""
    working: dict[str, Any] = {"client_ip": client_ip.direct(), "username": "u", "password": "p"}
    butter = refused(lambda: Butter(**(working | options)))
    if isinstance(butter, Butter):
        butter.close()


PLACES = [
    "path:cart_id",
    "header:x",
    "cookie:session",
    "field:cart.id",
    "query:q",
    "path:",
    "header",
    "",
    ":",
    "field:é",
]


@settings(max_examples=tries(400), deadline=None)
@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            "origins": odd | st.lists(odd | joined.map("https://".__add__), max_size=2),
            "bind": odd | st.sampled_from(PLACES),
            "token": odd | st.sampled_from(PLACES),
            "keys": odd | st.lists(odd | st.text(min_size=20, max_size=40), max_size=2),
            "ttl": odd | st.integers(10, 3600),
            "client_ip": odd,
        },
    )
)
def test_a_beacon_is_refused_or_works(options: dict[str, Any]) -> None:
    """An accepted beacon verifies its own tokens. No error shows a key."""
    working: dict[str, Any] = {"origins": ["https://shop.example"], "bind": "header:x", "keys": [KEY]}
    beacon = refused(lambda: Beacon(**(working | options)))
    if isinstance(beacon, ConfigurationError):
        assert KEY not in str(beacon)
        return
    assert beacon.verify(beacon.issue("81.2.69.142", "7", NOW), "7", NOW) == "81.2.69.142"
