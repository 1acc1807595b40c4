"""Shoppers on IPv6: the token, the app that issues it, and the checkout that redeems it."""

import json
import sqlite3
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from asgi import JSON, body, drive, http_scope, sends, start
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from processes import served, until
from shops import CREDENTIALS, PAID, ROUTE, SHOPPER
from starlette.testclient import TestClient

from butter_middleware import (
    Beacon,
    Butter,
    ButterMiddleware,
    CheckoutRoute,
    ConfigurationError,
    annotate,
    client_ip,
    extract,
)
from butter_middleware._utils.asgi import Message, Receive, Scope, Send
from butter_middleware.client_ip import ClientIP, Reason
from butter_middleware.models.http import Capture
from butter_middleware.testing import FakeButter

NOW = 1_800_000_000.0
KEY = "a-key-of-the-merchant-of-32-bytes-or-more"
OLD_KEY = "the-key-before-it-of-32-bytes-or-more-too"
ORIGIN = "https://shop.example"
V6 = "2001:db8::1"

MakeButter = Callable[..., Butter]


def make_beacon(**options: Any) -> Beacon:
    defaults: dict[str, Any] = {"origins": [ORIGIN], "bind": "path:cart_id", "keys": [KEY]}
    return Beacon(**(defaults | options))


# The token.

checkouts = st.text(st.characters(), min_size=1, max_size=80)
public = st.integers(0x01000000, 0x09FFFFFF).map(lambda n: ".".join(map(str, n.to_bytes(4, "big"))))


@given(ipv4=public, key=checkouts, passed=st.floats(0, 600))
def test_a_token_contains_its_address(ipv4: str, key: str, passed: float) -> None:
    """Any address, for any key of a checkout, until the token expires."""
    beacon = make_beacon()
    assert beacon.verify(beacon.issue(ipv4, key, NOW), key, NOW + passed) == ipv4


@given(place=st.integers(0, 75), character=st.characters(codec="latin-1"))
def test_a_changed_character_gives_no_address(place: int, character: str) -> None:
    """A token that was changed at any place is invalid."""
    token = make_beacon().issue(SHOPPER, "7", NOW)
    changed = token[:place] + character + token[place + 1 :]
    verdict = make_beacon().verify(changed, "7", NOW)
    assert verdict == SHOPPER if changed == token else verdict in {Reason.TOKEN_FORGED, Reason.TOKEN_MALFORMED}


@given(token=st.text() | st.binary(max_size=90).map(lambda raw: urlsafe_b64encode(raw).decode()), key=st.text())
def test_garbage_gives_no_address_and_raises_nothing(token: str, key: str) -> None:
    """The shopper may send anything as a token."""
    assert make_beacon().verify(token, key, NOW) in {Reason.TOKEN_FORGED, Reason.TOKEN_MALFORMED}


@pytest.mark.parametrize("length", [0, 1, 75, 77, 152])
def test_a_token_of_another_length_is_malformed(length: int) -> None:
    """It may be cut, or sent twice and joined by a proxy."""
    token = (make_beacon().issue(SHOPPER, "7", NOW) * 2)[:length]
    assert make_beacon().verify(token, "7", NOW) is Reason.TOKEN_MALFORMED


@pytest.mark.parametrize(
    ("issuer", "key", "at", "verdict"),
    [
        ({}, "7", NOW, SHOPPER),
        ({}, "7", NOW + 600, SHOPPER),
        ({}, "7", NOW + 601, Reason.TOKEN_STALE),
        ({}, "7", NOW + 86_400, Reason.TOKEN_STALE),
        # The beacon's clock is ahead, by the tolerance and by more.
        ({}, "7", NOW - 60, SHOPPER),
        ({}, "7", NOW - 61, Reason.TOKEN_STALE),
        ({"ttl": 3600}, "7", NOW, Reason.TOKEN_STALE),
        ({}, "8", NOW, Reason.TOKEN_FOREIGN),
        ({}, "07", NOW, Reason.TOKEN_FOREIGN),
        ({}, "", NOW, Reason.TOKEN_UNBOUND),
        # Rotation: the verifier below has both keys, and either may have signed.
        ({"keys": [OLD_KEY]}, "7", NOW, SHOPPER),
        ({"keys": [KEY.encode(), OLD_KEY]}, "7", NOW, SHOPPER),
        ({"keys": [KEY[::-1]]}, "7", NOW, Reason.TOKEN_FORGED),
    ],
)
def test_the_verdict_on_a_token(issuer: dict[str, Any], key: str, at: float, verdict: str | Reason) -> None:
    """A token is valid if it is fresh, of this checkout and signed with one of the keys. Otherwise it has a reason."""
    token = make_beacon(**issuer).issue(SHOPPER, "7", NOW)
    assert make_beacon(keys=[KEY, OLD_KEY]).verify(token, key, at) == verdict


def test_a_signature_with_the_same_key_for_another_purpose_is_forged() -> None:
    """A key may also sign other text that a shopper chooses. The purpose is part of the signature."""
    from hmac import digest  # noqa: PLC0415 - what the shop's other code would use

    claim = urlsafe_b64decode(make_beacon().issue(SHOPPER, "7", NOW))[:25]
    token = urlsafe_b64encode(claim + digest(KEY.encode(), claim, "sha256")).decode()
    assert make_beacon().verify(token, "7", NOW) is Reason.TOKEN_FORGED


def test_a_token_of_a_later_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes may have another meaning, although the keys are the same."""
    with monkeypatch.context() as patched:
        patched.setattr("butter_middleware.ipv6.beacon._VERSION", 2)
        token = make_beacon().issue(SHOPPER, "7", NOW)
    assert make_beacon().verify(token, "7", NOW) is Reason.TOKEN_FORGED


def test_a_private_address_is_valid_in_staging_only() -> None:
    """A staging beacon with production's keys makes no evidence."""
    token = make_beacon().issue("10.0.0.9", "7", NOW)
    assert make_beacon().verify(token, "7", NOW) is Reason.TOKEN_FORGED
    assert make_beacon(allow_private=True).verify(token, "7", NOW) == "10.0.0.9"


@pytest.mark.parametrize("address", ["", V6, "1.2.3", "256.1.1.1"])
def test_a_token_needs_an_ipv4_address(address: str) -> None:
    """Any other value is refused before it is signed."""
    with pytest.raises(ValueError, match="not an IPv4 address"):
        make_beacon().issue(address, "7", NOW)


# The configuration.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keys": []}, "no list of keys"),
        ({"keys": KEY}, "no list of keys"),
        ({"keys": [KEY, "short-secret"]}, "key 2 has 12 bytes; at least 32"),
        ({"origins": []}, "not a list of origins"),
        ({"origins": ORIGIN}, "not a list of origins"),
        ({"origins": [f"{ORIGIN}/"]}, "is not an origin"),
        ({"origins": ["*"]}, "is not an origin"),
        ({"origins": ["https://Shop.example"]}, "is not an origin"),
        ({"origins": ["shop.example"]}, "is not an origin"),
        ({"origins": ["https://["]}, "is not an origin"),
        ({"origins": ["https://k\u00e4se.example"]}, "is not an origin"),
        ({"origins": [f"{ORIGIN}:443"]}, "is not an origin"),
        ({"origins": ["http://localhost:80"]}, "is not an origin"),
        ({"bind": "cart_id"}, "bind='cart_id' is not a place"),
        ({"bind": "cookie:"}, "is not a place"),
        ({"token": "path:cart_id"}, "token='path:cart_id' is not a place"),
        ({"bind": "header:X-Butter-Token"}, "the same place"),
        ({"ttl": 5}, "from 10 to 3600"),
        ({"client_ip": "aws_alb"}, "is not a strategy"),
    ],
)
def test_a_mistake_stops_the_start(options: dict[str, Any], says: str) -> None:
    """The error names the option and the fix, and no key."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        make_beacon(**options)
    assert KEY not in str(caught.value)
    assert "short-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bind": "path:order"}, r"POST /checkout/\{cart_id\} has no \{order\}"),
        ({"bind": "field:cart"}, "capture_request_body=True"),
        ({"token": "field:butter"}, "capture_request_body=True"),
    ],
)
def test_every_route_must_have_the_places_of_token_and_key(
    make_butter: MakeButter, options: dict[str, str], says: str
) -> None:
    """Otherwise no token could be redeemed. This stops the start, also for a decorated route."""
    with pytest.raises(ConfigurationError, match=says):
        make_butter(ROUTE, ipv4_beacon=make_beacon(**options))
    later = make_butter(routes=(), ipv4_beacon=make_beacon(**options))
    with pytest.raises(ConfigurationError, match=says):
        later.checkout_route("/checkout/{cart_id}", psp="stripe")(lambda _response: None)


@pytest.mark.parametrize(
    "origin", ["https://shop.example:8443", "https://shop.example:4430", "http://localhost:8000", "http://[::1]:443"]
)
def test_an_origin_may_have_a_port(shop: Butter, make_butter: MakeButter, origin: str) -> None:
    """Any port except the scheme's default, which browsers leave out."""
    butter = make_butter(ROUTE, ipv4_beacon=make_beacon(origins=[origin]))
    assert ask(butter, headers=[(b"origin", origin.encode())])[0] == 200
    assert ask(shop, headers=[(b"origin", origin.encode())])[0] == 403


def test_a_missing_or_wrong_beacon_is_an_error(make_butter: MakeButter) -> None:
    """The beacon is mounted without a configuration, or the option is not a `Beacon`."""
    with pytest.raises(ConfigurationError, match="this Butter has no beacon"):
        _ = make_butter().ipv4_beacon
    with pytest.raises(ConfigurationError, match="is not a Beacon"):
        make_butter(ipv4_beacon={"keys": [KEY]})


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a variable, or in a mounted file with one key per line. The newest is first."""
    token = make_beacon(keys=[OLD_KEY]).issue(SHOPPER, "7", NOW)
    monkeypatch.setenv("BUTTER_BEACON_KEYS", f"{KEY} {OLD_KEY}")
    assert make_beacon(keys=None).verify(token, "7", NOW) == SHOPPER
    monkeypatch.delenv("BUTTER_BEACON_KEYS")
    (tmp_path / "keys").write_text(f"{KEY}\n{OLD_KEY}\n")
    monkeypatch.setenv("BUTTER_BEACON_KEYS_FILE", str(tmp_path / "keys"))
    beacon = make_beacon(keys=None)
    assert beacon.verify(token, "7", NOW) == SHOPPER
    assert make_beacon().verify(beacon.issue(SHOPPER, "7", NOW), "7", NOW) == SHOPPER
    monkeypatch.setenv("BUTTER_BEACON_KEYS_FILE", str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="BUTTER_BEACON_KEYS_FILE names a file that cannot be read"):
        make_beacon(keys=None)


def test_a_repr_shows_no_key() -> None:
    """No part of a key is shown either."""
    assert KEY[:8] not in repr(make_beacon(allow_private=True))


# The app.


def ask(butter: Butter, method: str = "POST", key: bytes = b"7", backend: str = "asyncio", **more: Any) -> Any:
    """Call the beacon. Return status, headers and body."""

    async def receive() -> Message:
        return {"type": "http.request", "body": key, "more_body": False}

    headers = more.pop("headers", [])
    forwarded = more.pop("address", SHOPPER).encode()
    scope = http_scope("/", method, headers=[(b"x-forwarded-for", forwarded), *headers], **more)
    first, second = anyio.run(drive, butter.ipv4_beacon, scope, receive, backend=backend)
    return first["status"], dict(first["headers"]), second["body"]


@pytest.fixture
def shop(make_butter: MakeButter) -> Butter:
    return make_butter(ROUTE, ipv4_beacon=make_beacon(), clock=lambda: NOW)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("request_", [{}, {"method": "GET", "query_string": b"key=7"}])
def test_the_beacon_issues_a_token(shop: Butter, backend: str, request_: dict[str, Any]) -> None:
    """By POST or GET, readable by the shop's page, and never cached."""
    status, headers, content = ask(shop, headers=[(b"origin", ORIGIN.encode())], backend=backend, **request_)
    answer = json.loads(content)
    assert status == 200
    assert headers == {
        b"cache-control": b"no-store",
        b"vary": b"origin",
        b"access-control-allow-origin": ORIGIN.encode(),
        b"content-type": b"application/json",
        b"content-length": str(len(content)).encode(),
    }
    assert answer.pop("expires_in") == 600
    assert make_beacon().verify(answer.pop("token"), "7", NOW) == SHOPPER
    assert answer == {}


def test_a_preflight_is_answered(shop: Butter) -> None:
    """A page that sends its own headers needs it."""
    status, headers, content = ask(shop, "OPTIONS", headers=[(b"origin", ORIGIN.encode())])
    assert (status, content) == (204, b"")
    assert headers[b"access-control-allow-origin"] == ORIGIN.encode()
    assert headers[b"access-control-allow-methods"] == b"GET, POST"
    assert headers[b"access-control-allow-headers"] == b"content-type"
    assert b"content-length" not in headers


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "GET"])
@pytest.mark.parametrize(
    "origins",
    [["https://evil.example"], ["null"], ["http://shop.example"], [ORIGIN, ORIGIN], [ORIGIN, "https://evil.example"]],
)
def test_a_page_of_another_site_gets_nothing(shop: Butter, method: str, origins: list[str]) -> None:
    """It gets no token and may not read the answer. Two Origin headers are refused too."""
    sent = [(b"origin", origin.encode()) for origin in origins]
    status, headers, content = ask(shop, method, headers=sent, query_string=b"key=7")
    assert (status, json.loads(content)) == (403, {"reason": "foreign_origin"})
    assert not any(name.startswith(b"access-control") for name in headers)


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"address": V6}, 422, "ipv6_client"),
        ({"address": "10.0.0.9"}, 422, "private_address"),
        ({"address": "unknown"}, 422, "malformed"),
        ({"key": b""}, 400, "no_key"),
        ({"key": b" \n"}, 400, "no_key"),
        ({"key": b"7" * 513}, 400, "no_key"),
        ({"key": b"\xff\xfe"}, 400, "no_key"),
        ({"method": "GET"}, 400, "no_key"),
        ({"method": "GET", "query_string": b"key=" + b"7" * 513}, 400, "no_key"),
        ({"method": "DELETE"}, 405, "method_not_allowed"),
    ],
)
def test_a_refusal_has_a_reason(shop: Butter, request_: dict[str, Any], status: int, reason: str) -> None:
    """The shop's own page may read it."""
    got, headers, content = ask(shop, headers=[(b"origin", ORIGIN.encode())], **request_)
    assert (got, json.loads(content)) == (status, {"reason": reason})
    assert headers[b"access-control-allow-origin"] == ORIGIN.encode()
    assert headers[b"cache-control"] == b"no-store"


def test_a_beacon_host_with_ipv6_is_logged_once(shop: Butter, caplog: pytest.LogCaptureFixture) -> None:
    """With a stray AAAA record every token would fail, and nothing would show it."""
    for _request in range(3):
        ask(shop, address=V6)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "ipv6_client" in message
    assert "A records only" in message
    assert V6 not in caplog.text


def test_head_is_get_without_a_body(shop: Butter) -> None:
    """As in HTTP: the same status and headers."""
    head, get = (ask(shop, method, query_string=b"key=7") for method in ("HEAD", "GET"))
    assert head[:2] == get[:2]
    assert (head[2], get[2][:1]) == (b"", b"{")


def test_a_body_in_pieces_and_a_body_that_ends_early(shop: Butter) -> None:
    """The key is read to its end, and not beyond its maximum length."""

    async def answer(*messages: Message) -> Any:
        waiting = list(messages)

        async def receive() -> Message:
            return waiting.pop(0)

        start, _body = await drive(shop.ipv4_beacon, http_scope("/"), receive)
        return start["status"], len(waiting)

    piece = partial(dict[str, Any], type="http.request", more_body=True)
    assert anyio.run(answer, piece(body=b"ca"), piece(body=b"rt", more_body=False)) == (200, 0)
    assert anyio.run(answer, piece(body=b"cart"), {"type": "http.disconnect"}) == (200, 0)
    assert anyio.run(answer, *[piece(body=b"x" * 300)] * 9) == (400, 7)


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_other_scopes_are_ignored(shop: Butter, kind: str) -> None:
    """Nothing is received and nothing is sent."""

    async def never(*_message: object) -> Any:
        raise AssertionError

    async def call() -> None:
        await shop.ipv4_beacon({"type": kind}, never, never)

    anyio.run(call)


def test_the_beacon_may_be_behind_another_proxy(make_butter: MakeButter) -> None:
    """It then has its own strategy. In staging, that accepts private addresses too."""
    behind = client_ip.TrustedHops(2)
    two = "10.0.0.9, 172.16.0.1"
    butter = make_butter(ROUTE, ipv4_beacon=make_beacon(client_ip=behind), environment="staging", clock=lambda: NOW)
    _status, _headers, content = ask(butter, address=two)
    assert butter.beacon is not None
    assert butter.beacon.verify(json.loads(content)["token"], "7", NOW) == "10.0.0.9"
    assert ask(make_butter(ROUTE, ipv4_beacon=make_beacon(client_ip=behind)), address=two)[0] == 422


def test_the_beacon_by_host_within_the_shop(make_butter: MakeButter) -> None:
    """One app may serve both, chosen by the host name."""
    butter = make_butter(ROUTE, ipv4_beacon=make_beacon(), clock=lambda: NOW)
    app = FastAPI()
    app.host("v4.shop.example", butter.ipv4_beacon)
    app.add_middleware(ButterMiddleware, butter=butter)
    client = TestClient(app, base_url="https://v4.shop.example", headers={"x-forwarded-for": SHOPPER})
    token = client.post("/", content="7").json()["token"]
    assert make_beacon().verify(token, "7", NOW) == SHOPPER


# The checkout.

CAPTURING = replace(ROUTE, capture_request_body=True)
TOKEN = make_beacon().issue(SHOPPER, "7", NOW)


def check_out(butter: Butter, *headers: tuple[bytes, bytes], **more: Any) -> None:
    """Serve one paid checkout of a shopper on IPv6, and wait for the result."""
    content, invoice, address = more.pop("content", b""), more.pop("invoice", "in_1"), more.pop("address", V6)

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await sends(start(), body(json.dumps(PAID | {"invoice": invoice}).encode()))(scope, receive, send)

    scope = http_scope(headers=[(b"x-forwarded-for", address.encode()), *headers], **more)
    anyio.run(drive, ButterMiddleware(app, butter), scope, receive)
    butter.flush()


FORM = (b"content-type", b"application/x-www-form-urlencoded")


@pytest.mark.parametrize(
    ("places", "request_"),
    [
        ({}, {"headers": [(b"x-butter-token", TOKEN.encode())]}),
        ({"token": "header:X-Other"}, {"headers": [(b"X-OTHER", b" " + TOKEN.encode())]}),
        ({"token": "cookie:butter"}, {"headers": [(b"cookie", b"a=1; butter=" + TOKEN.encode() + b"; c")]}),
        ({"token": "field:butter.token"}, {"content": json.dumps({"butter": {"token": TOKEN}}).encode()}),
        ({"token": "field:butter_token"}, {"headers": [FORM], "content": b"a=1&butter_token=" + TOKEN.encode()}),
        ({"bind": "query:cart"}, {"query_string": b"cart=7", "headers": [(b"x-butter-token", TOKEN.encode())]}),
        ({"bind": "header:X-Cart"}, {"headers": [(b"x-cart", b"7"), (b"x-butter-token", TOKEN.encode())]}),
        ({"bind": "field:cart"}, {"content": b'{"cart": 7}', "headers": [(b"x-butter-token", TOKEN.encode())]}),
    ],
)
def test_a_checkout_redeems_its_token(
    make_butter: MakeButter, fake: FakeButter, places: dict[str, str], request_: dict[str, Any]
) -> None:
    """The page may put the token in any place, and the key may be in any place."""
    butter = make_butter(CAPTURING, ipv4_beacon=make_beacon(**places), clock=lambda: NOW)
    check_out(butter, *request_.pop("headers", ()), **request_)
    assert [record["ipv4_address"] for record in fake.records] == [SHOPPER]


def test_the_key_is_the_raw_path(make_butter: MakeButter, fake: FakeButter) -> None:
    """A converted value is not used, because the page knows no converters."""
    route = replace(ROUTE, path="/checkout/{cart_id:int}")
    butter = make_butter(route, ipv4_beacon=make_beacon(), clock=lambda: NOW)
    token = make_beacon().issue(SHOPPER, "007", NOW)
    check_out(butter, (b"x-butter-token", token.encode()), path="/checkout/007")
    assert [record["ipv4_address"] for record in fake.records] == [SHOPPER]


def test_a_token_bound_to_a_session(make_butter: MakeButter, fake: FakeButter) -> None:
    """It is bound to a digest of the cookie. The page may know that even if scripts cannot read the cookie."""
    beacon = make_beacon(bind="cookie:session")
    token = beacon.issue(SHOPPER, beacon.page_key("s3ss10n"), NOW).encode()
    butter = make_butter(ROUTE, ipv4_beacon=beacon, clock=lambda: NOW)
    check_out(butter, (b"cookie", b'session="s3ss10n"'), (b"x-butter-token", token), invoice="in_1")
    check_out(butter, (b"cookie", b"session=0th3r"), (b"x-butter-token", token), invoice="in_2")
    check_out(butter, (b"x-butter-token", token), invoice="in_3")
    assert [record["invoice_id"] for record in fake.records] == ["in_1"]
    assert butter.status().skipped == {"no_address:token_foreign": 1, "no_address:token_unbound": 1}


@pytest.mark.parametrize(
    ("token", "path", "reason"),
    [
        ("", "/checkout/7", "no_address:ipv6_client"),
        ("1.2.3.4", "/checkout/7", "no_address:token_malformed"),
        (f"{TOKEN}, {TOKEN}", "/checkout/7", "no_address:token_malformed"),
        (make_beacon().issue(SHOPPER, "7", NOW - 601), "/checkout/7", "no_address:token_stale"),
        (TOKEN, "/checkout/8", "no_address:token_foreign"),
        # A deploy with another key may still read it.
        (make_beacon(keys=[OLD_KEY]).issue(SHOPPER, "7", NOW), "/checkout/7", "no_address:token_forged"),
    ],
)
def test_a_bad_token_makes_no_record_and_has_a_reason(
    make_butter: MakeButter,
    fake: FakeButter,
    caplog: pytest.LogCaptureFixture,
    token: str,
    path: str,
    reason: str,
) -> None:
    """It is counted, and logged once with the fix, without the token and the addresses."""
    butter = make_butter(ROUTE, ipv4_beacon=make_beacon(), clock=lambda: NOW)
    check_out(butter, (b"x-butter-token", token.encode()), path=path)
    assert fake.records == []
    assert butter.status().skipped == {reason: 1}
    assert "no address (" in caplog.text
    for secret in (TOKEN, KEY, V6, SHOPPER, "1.2.3.4"):
        assert secret not in caplog.text


@pytest.mark.parametrize("address", ["89.160.20.112", "unknown"])
def test_a_token_counts_only_with_ipv6(make_butter: MakeButter, fake: FakeButter, address: str) -> None:
    """The address of an IPv4 shopper is kept. If the proxy's header is unusable, a token does not replace it."""
    butter = make_butter(ROUTE, ipv4_beacon=make_beacon(), clock=lambda: NOW)
    check_out(butter, (b"x-butter-token", TOKEN.encode()), address=address)
    assert [record["ipv4_address"] for record in fake.records] == ([] if address == "unknown" else [address])


def test_without_a_beacon_a_token_has_no_effect(make_butter: MakeButter, fake: FakeButter) -> None:
    """The header is not read."""
    butter = make_butter(ROUTE, clock=lambda: NOW)
    check_out(butter, (b"x-butter-token", TOKEN.encode()))
    assert fake.records == []
    assert butter.status().skipped == {"no_address:ipv6_client": 1}


def test_a_token_makes_one_record(make_butter: MakeButter, fake: FakeButter) -> None:
    """Another payment with the token is refused. A failed or parked one, and a reload, do not count."""
    butter = make_butter(
        CheckoutRoute("/checkout/{cart_id}", "stripe", ROUTE.extract, when=lambda r: r.json()["invoice"] != "declined"),
        ipv4_beacon=make_beacon(),
        clock=iter(range(int(NOW), int(NOW) + 500)).__next__,
    )
    for invoice in ("declined", "", "in_1", "in_1", "in_2"):
        check_out(butter, (b"x-butter-token", TOKEN.encode()), invoice=invoice)
    assert [record["invoice_id"] for record in fake.records] == ["in_1"]
    skipped = butter.status().skipped
    assert (skipped["gated"], skipped["parked:invalid"], skipped["no_address:token_replayed"]) == (1, 1, 1)


def test_a_capture_that_is_read_days_later_has_the_same_result(
    make_butter: MakeButter, fake: FakeButter, tmp_path: Path
) -> None:
    """Its token is checked at the checkout's time. The file has only the parts of the cookies that the token needs."""
    beacon = make_beacon(token="cookie:butter", bind="cookie:session")
    token = beacon.issue(SHOPPER, beacon.page_key("s3ss10n"), NOW).encode()
    file = tmp_path / "butter.db"
    broken = CheckoutRoute("/checkout/{cart_id}", "stripe", lambda response: {"psp": response.json()["mistyped"]})
    before = make_butter(broken, ipv4_beacon=beacon, outbox=file, clock=lambda: NOW)
    check_out(before, (b"cookie", b"other=private; session=s3ss10n; butter=" + token))
    until(lambda: before.status().parked == 1, "the capture is parked")
    with sqlite3.connect(file) as connection:
        stored = "\n".join(connection.iterdump())
    connection.close()
    assert token.decode() in stored
    assert "s3ss10n" not in stored
    assert "private" not in stored
    before.close()

    after = make_butter(ROUTE, ipv4_beacon=beacon, outbox=file, clock=lambda: NOW + 5 * 86_400)
    after.pipeline.start()
    until(lambda: len(fake.records) == 1, "the fixed extractor's record")
    assert fake.records[0]["ipv4_address"] == SHOPPER


def test_a_capture_of_an_older_version_is_read(butter: Butter) -> None:
    """It was stored without cookies. This version keeps them."""
    capture = Capture("POST", "/checkout/7", b"", [], None, 200, [], b"", {}, NOW, None, {"butter": "x"})
    assert Capture.from_head(capture.head(), b"", None) == capture
    older = json.loads(capture.head())
    del older["cookies"]
    assert Capture.from_head(json.dumps(older), b"", None).cookies == {}


@given(lines=st.lists(st.binary(max_size=60)))
def test_no_cookie_header_raises(lines: list[bytes]) -> None:
    """The snapshot is taken within the checkout."""
    picked = make_beacon(token="cookie:a", bind="cookie:b").cookies([(b"Cookie", line) for line in lines])
    assert set(picked) <= {"a", "b"}


def test_a_cookie_of_backslashes_delays_no_checkout() -> None:
    """It is read inside the request. `http.cookies` takes 20 s for it in Python 3.11.9, 3.12.5 and before."""
    began = time.process_time()
    make_beacon(bind="cookie:a").cookies([(b"cookie", b'a="' + b"\\" * 65_000 + b'"')])
    assert time.process_time() - began < 1


def test_a_long_cookie_is_cut() -> None:
    """No token is that long, and a capture may wait on disk."""
    picked = make_beacon(token="cookie:a").cookies([(b"cookie", b"a=" + b"x" * 9000)])
    assert picked == {"a": "x" * 128}


@given(content=st.binary(max_size=80), kind=st.sampled_from([b"application/json", FORM[1]]))
def test_no_request_body_raises(content: bytes, kind: bytes) -> None:
    """The token or the key may be read from any body."""
    beacon = make_beacon(token="field:a.b", bind="field:c")
    headers = [(b"content-type", kind)]
    capture = Capture("POST", "/checkout/7", b"", headers, None, 200, [], b"", {}, NOW, content)
    assert isinstance(beacon.digest_of(capture, CAPTURING), str)
    address = ClientIP(None, "2001:db8::1", Reason.IPV6_CLIENT, None)
    assert beacon.resolve(address, capture, CAPTURING).ipv4 is None


@pytest.mark.parametrize("content", [b"[]", b"null", b"7", b'{"a": null}', b'{"a": {"b": true}}', b'{"a": {"b": [1]}}'])
def test_a_field_that_is_not_text_is_absent(content: bytes) -> None:
    """A list, an object, null or a boolean is not a key of a checkout."""
    capture = Capture("POST", "/checkout/7", b"", [], None, 200, [], b"", {}, NOW, content)
    assert make_beacon(token="field:a.b").digest_of(capture, CAPTURING) == ""


# End to end: the shop at ::1, the beacon at 127.0.0.1, Butter on its own socket.


@pytest.mark.server
def test_on_loopback(fake: FakeButter) -> None:
    """A shopper reaches the shop over IPv6 and the beacon over IPv4. The record has the IPv4 address."""
    with served(fake) as butter_url:
        butter = Butter(
            **CREDENTIALS,
            base_url=butter_url,
            environment="staging",
            client_ip=client_ip.direct(),
            ipv4_beacon=make_beacon(),
            routes=[CheckoutRoute("/checkout/{cart_id}", psp="stripe", extract=extract.json(invoice_id="invoice"))],
        )

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            annotate(scope, customer_email="shopper@example.com")
            await send(start(headers=JSON))
            await send(body(json.dumps({"invoice": f"in_{scope['path'][-1]}"}).encode()))

        shop = ButterMiddleware(endpoint, butter)
        with butter, served(shop, "::1") as v6, served(butter.ipv4_beacon) as v4, httpx.Client() as client:
            token = client.post(v4, content="7", headers={"Origin": ORIGIN}).json()["token"]
            for path, sent in [("/checkout/7", token), ("/checkout/8", token), ("/checkout/9", "")]:
                client.post(v6 + path, headers={"X-Butter-Token": sent}).raise_for_status()
            assert butter.flush()
            assert butter.status().skipped == {"no_address:token_foreign": 1, "no_address:ipv6_client": 1}
    assert [(record["invoice_id"], record["ipv4_address"]) for record in fake.records] == [("in_7", "127.0.0.1")]


@pytest.mark.server
def test_a_caller_over_ipv6_gets_a_reason(make_butter: MakeButter) -> None:
    """A beacon that is reachable over IPv6 issues no token there."""
    butter = make_butter(ROUTE, client_ip=client_ip.direct(), ipv4_beacon=make_beacon(), environment="staging")
    with served(butter.ipv4_beacon, "::1") as v6:
        answer = httpx.post(v6, content="7")
    assert (answer.status_code, answer.json()) == (422, {"reason": "ipv6_client"})
