"""Each form of `scope["client"]` that a known server or adapter sets, and the resulting address."""

import json
from typing import Any

import pytest
from asgi import body, http_scope, sends, start
from shops import PAID

from butter_middleware import Butter, ButterMiddleware, client_ip
from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.models.http import Capture, snapshot
from butter_middleware.testing import FakeButter

SHOPPER = "81.2.69.142"
LOCAL = client_ip.nginx(["127.0.0.1", "unix:"])
DIRECT = client_ip.direct()
Headers = list[tuple[bytes, bytes]]
CHAIN: Headers = [(b"x-forwarded-for", b"1.2.3.4, 81.2.69.142")]
"""The header of an nginx on this host: the shopper's own text, and the peer of nginx."""
WRITTEN: Headers = [(b"x-forwarded-for", b"1.2.3.4")]
"""A shopper's own header, without a proxy."""


def rest_event(**more: Any) -> dict[str, Any]:
    """A REST API of API Gateway, payload format 1.0."""
    return {
        "resource": "/checkout/7", "path": "/checkout/7", "httpMethod": "POST", "headers": {}, "body": "{}",
        "multiValueHeaders": {"Host": ["shop.example"], "X-Forwarded-For": [f"1.2.3.4, {SHOPPER}"]},
        "queryStringParameters": None, "multiValueQueryStringParameters": None, "isBase64Encoded": False,
        "requestContext": {"identity": {"sourceIp": SHOPPER}, "stage": "live"},
    } | more  # fmt: skip


def http_event(**more: Any) -> dict[str, Any]:
    """An HTTP API of API Gateway or a function URL, payload format 2.0."""
    return {
        "version": "2.0", "rawPath": "/checkout/7", "rawQueryString": "", "body": "{}", "isBase64Encoded": False,
        "headers": {"host": "shop.example", "x-forwarded-for": f"1.2.3.4, {SHOPPER}"},
        "requestContext": {"http": {"method": "POST", "path": "/checkout/7", "sourceIp": SHOPPER}, "stage": "$default"},
    } | more  # fmt: skip


def alb_event(forwarded_for: str) -> dict[str, Any]:
    return {
        "requestContext": {"elb": {"targetGroupArn": "arn"}}, "httpMethod": "POST", "path": "/checkout/7",
        "queryStringParameters": {}, "headers": {"host": "shop.example", "x-forwarded-for": forwarded_for},
        "body": "{}", "isBase64Encoded": False,
    }  # fmt: skip


ALB = {"aws.event": alb_event("")}
ALONE: Headers = [(b"x-forwarded-for", SHOPPER.encode())]
EDGE = {"Records": [{"cf": {"request": {"clientIp": SHOPPER}}}]}
REST, HTTP = {"aws.event": rest_event()}, {"aws.event": http_event()}

CASES: list[tuple[Any, Headers, client_ip.Strategy, str, dict[str, Any]]] = [
    # uvicorn, and gunicorn's worker for it: a tuple of text and number. None for a Unix socket.
    ((SHOPPER, 40000), WRITTEN, DIRECT, SHOPPER, {}),
    (("127.0.0.1", 40000), CHAIN, LOCAL, SHOPPER, {}),
    (None, CHAIN, LOCAL, SHOPPER, {}),
    (None, WRITTEN, DIRECT, "no_peer", {}),
    # ... with --proxy-headers, its default: the first element that it does not trust, with its port or 0.
    ((SHOPPER, 0), CHAIN, LOCAL, SHOPPER, {}),
    (("1.2.3.4", 0), CHAIN, LOCAL, "server_rewrite_conflict", {}),
    (("1.2.3.4", 0), WRITTEN, DIRECT, "server_rewrite_conflict", {}),
    # gunicorn's own ASGI worker: a tuple, and None for a Unix socket.
    ((SHOPPER, 40000), [], DIRECT, SHOPPER, {}),
    # Hypercorn: the same. Its ProxyFixMiddleware sets port 0, and reads Forwarded too.
    (("127.0.0.1", 40000), CHAIN, LOCAL, SHOPPER, {}),
    (("1.2.3.4", 0), [(b"forwarded", b"for=1.2.3.4;proto=https")], DIRECT, "server_rewrite_conflict", {}),
    # Daphne: a list. None for a Unix socket. With --proxy-headers the leftmost, with port 0 or X-Forwarded-Port.
    ([SHOPPER, 40000], WRITTEN, DIRECT, SHOPPER, {}),
    (["127.0.0.1", 40000], CHAIN, LOCAL, SHOPPER, {}),
    (["1.2.3.4", 0], CHAIN, LOCAL, "server_rewrite_conflict", {}),
    (["1.2.3.4", 0], [(b"x-real-ip", b"1.2.3.4")], DIRECT, "server_rewrite_conflict", {}),
    # A middleware of the shop that reads a platform's header does the same.
    (("1.2.3.4", 0), [(b"cf-connecting-ip", b"1.2.3.4")], DIRECT, "server_rewrite_conflict", {}),
    ((SHOPPER, 0), [(b"cf-connecting-ip", SHOPPER.encode())], client_ip.SingleHeader("CF-Connecting-IP"), SHOPPER, {}),
    ([SHOPPER, 0], ALONE, LOCAL, SHOPPER, {}),
    # Granian: the port is text, and a Unix socket is an empty host.
    ((SHOPPER, "40000"), WRITTEN, DIRECT, SHOPPER, {}),
    (("127.0.0.1", "40000"), CHAIN, LOCAL, SHOPPER, {}),
    (("", "0"), CHAIN, LOCAL, SHOPPER, {}),
    (("", "0"), CHAIN, client_ip.nginx(["unix:"]), SHOPPER, {}),
    (("", "0"), CHAIN, client_ip.TrustedHops(1, peer_in=["unix:"]), SHOPPER, {}),
    (("", "0"), CHAIN, client_ip.nginx(["127.0.0.1"]), "untrusted_peer", {}),
    (("", "0"), WRITTEN, DIRECT, "no_peer", {}),
    # An empty host with a number comes from an empty header (old uvicorn, Daphne), not from a Unix socket.
    (("", 0), CHAIN, LOCAL, "untrusted_peer", {}),
    (["", 0], CHAIN, LOCAL, "untrusted_peer", {}),
    (("", 40000), CHAIN, LOCAL, "untrusted_peer", {}),
    # Mangum: port 0, and the peer that AWS saw. It is in X-Forwarded-For too if AWS appends it.
    ((SHOPPER, 0), CHAIN, DIRECT, SHOPPER, REST),
    ((SHOPPER, 0), CHAIN, DIRECT, SHOPPER, HTTP),
    ((SHOPPER, 0), CHAIN, DIRECT, SHOPPER, {"aws.event": EDGE}),
    ((SHOPPER, 0), CHAIN, LOCAL, SHOPPER, REST),
    ((SHOPPER, 0), CHAIN, client_ip.nginx([SHOPPER]), "1.2.3.4", HTTP),
    ((SHOPPER, 0), CHAIN, client_ip.TrustedHops(2, peer_in=[SHOPPER]), "1.2.3.4", HTTP),
    ((SHOPPER, 0), CHAIN, client_ip.TrustedHops(1, peer_in=["10.0.0.0/8"]), "untrusted_peer", HTTP),
    # ... if something replaced the peer by the shopper's own text.
    (("1.2.3.4", 0), CHAIN, DIRECT, "server_rewrite_conflict", REST),
    ((None, 0), CHAIN, DIRECT, "no_peer", {"aws.event": rest_event(requestContext={})}),
    # ... and behind a load balancer, the header itself: all of it, or nothing.
    ((SHOPPER, 0), ALONE, DIRECT, "server_rewrite_conflict", ALB),
    ((f"1.2.3.4, {SHOPPER}", 0), CHAIN, DIRECT, "no_peer", ALB),
    ((f"1.2.3.4, {SHOPPER}", 0), CHAIN, client_ip.aws_alb(), SHOPPER, ALB),
    # Another adapter without sockets: nothing shows that it read a header.
    ((SHOPPER, 0), [], DIRECT, SHOPPER, {}),
    ((SHOPPER, "0"), [(b"x-forwarded-for", b"9.9.9.9")], DIRECT, SHOPPER, {}),
    # a2wsgi: a tuple, or nothing if the WSGI server does not know the port, as with a Unix socket.
    ((SHOPPER, 40000), WRITTEN, DIRECT, SHOPPER, {"wsgi_environ": {"REMOTE_ADDR": SHOPPER, "REMOTE_PORT": "40000"}}),
    (None, WRITTEN, DIRECT, SHOPPER, {"wsgi_environ": {"REMOTE_ADDR": SHOPPER}}),
    (None, CHAIN, client_ip.nginx(["unix:"]), SHOPPER, {"wsgi_environ": {"REMOTE_ADDR": "", "REMOTE_PORT": ""}}),
    (None, WRITTEN, client_ip.nginx(["unix:"]), SHOPPER, {"wsgi_environ": {"REMOTE_ADDR": SHOPPER}}),
    # Starlette's TestClient, and values that are not a peer.
    (("testclient", 50000), CHAIN, LOCAL, "untrusted_peer", {}),
    ("unix:", CHAIN, LOCAL, "untrusted_peer", {}),
    (("/run/app.sock", None), CHAIN, LOCAL, "untrusted_peer", {}),
    ((b"127.0.0.1", 1), CHAIN, LOCAL, "untrusted_peer", {}),
    ((), CHAIN, LOCAL, "untrusted_peer", {}),
    (7, CHAIN, LOCAL, "untrusted_peer", {}),
]  # fmt: skip


def outcome(strategy: client_ip.Strategy, scope: dict[str, Any]) -> str:
    result = strategy.resolve(scope)
    return result.ipv4 or result.reason.value


@pytest.mark.parametrize(("client", "headers", "strategy", "expected", "more"), CASES)
def test_each_shape_of_a_peer(
    client: Any, headers: Headers, strategy: client_ip.Strategy, expected: str, more: dict[str, Any]
) -> None:
    """The result is the same for the scope, for its capture, and for a capture that was on disk."""
    scope = http_scope(client=client, headers=headers, **more)
    kept = Capture(
        **snapshot(scope, "/checkout", 0.0, None), status_code=200, response_headers=[], body=b"", annotations={}
    )
    read = Capture.from_head(kept.head(), b"", None)
    assert [outcome(strategy, found) for found in (scope, kept.scope, read.scope)] == [expected] * 3


@pytest.mark.parametrize(
    ("event", "strategy"),
    [
        (rest_event(), DIRECT),
        (rest_event(headers={"X-Forwarded-For": SHOPPER}, multiValueHeaders=None), DIRECT),
        (http_event(), DIRECT),
        (http_event(), client_ip.TrustedHops(1)),
        (alb_event(f"1.2.3.4, {SHOPPER}"), client_ip.aws_alb()),
        (alb_event(SHOPPER), client_ip.aws_alb()),
    ],
    ids=["REST", "REST, one header each", "HTTP", "HTTP, its header", "ALB", "ALB, nothing written"],
)
def test_mangum_itself(make_butter: Any, fake: FakeButter, event: dict[str, Any], strategy: client_ip.Strategy) -> None:
    """A checkout through the real adapter makes a record with the shopper's address."""
    adapter: Any = pytest.importorskip("mangum").Mangum
    butter: Butter = make_butter(client_ip=strategy)
    shop = sends(start(), body(json.dumps(PAID).encode()))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await shop(scope, receive, send)

    event = {name: value for name, value in event.items() if value is not None}
    assert adapter(ButterMiddleware(app, butter), lifespan="off")(event, object())["statusCode"] == 200
    assert butter.flush()
    assert [record["ipv4_address"] for record in fake.records] == [SHOPPER]
