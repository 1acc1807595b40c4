"""How the middleware handles each ASGI message: it observes them and changes nothing."""

import contextlib
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import JSON, body, drive, http_scope, no_request, sends, start
from shops import PAID, ROUTE, SHOPPER

from butter_middleware import Butter, ButterMiddleware, CheckoutResponse, CheckoutRoute, annotate
from butter_middleware._utils.asgi import Message, Receive, Scope, Send
from butter_middleware.errors import ExtractionError
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.anyio
PAID_BODY = json.dumps(PAID).encode()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def settled(butter: Butter) -> None:
    assert await anyio.to_thread.run_sync(butter.flush)


def invoices(fake: FakeButter) -> list[Any]:
    return [record["invoice_id"] for record in fake.records]


# http.response.start


@pytest.mark.parametrize(
    "headers",
    [
        JSON,
        tuple(JSON),
        [(b"Content-Type", b"Application/JSON; charset=utf-8")],
        [[b"content-type", b"application/vnd.shop+json"]],
        [(b"Content-Type", b"text/json; charset=utf-8")],
        [("Content-Type", "application/json"), ("x-frame-options", "DENY"), ("set-cookie", "caf\xe9\u20ac")],
        [*JSON, ("x-frame-options", "DENY")],
        [(bytearray(b"content-type"), memoryview(b"application/json"))],
    ],
    ids=["list", "tuple", "mixed case", "pairs as lists", "text/json", "text", "one as text", "buffers"],
)
async def test_headers_of_any_type_are_read(butter: Butter, fake: FakeButter, headers: Any) -> None:
    """A response is JSON by its content type, whatever types its headers have."""
    sent = (start(headers=headers), body(PAID_BODY))
    assert await drive(ButterMiddleware(sends(*sent), butter), http_scope()) == list(sent)
    await settled(butter)
    assert fake.records[0]["ipv4_address"] == SHOPPER


class Once:
    """An iterable that is not an iterator, and still returns its items only once."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)

    def __iter__(self) -> Iterator[Any]:
        return self._items


@pytest.mark.parametrize("once", [iter, Once, lambda items: map(tuple, items), lambda items: Once(map(Once, items))])
async def test_one_shot_headers_are_forwarded_completely(
    butter: Butter, fake: FakeButter, once: Callable[[Any], Iterable[Any]]
) -> None:
    """Headers that can be read only once are forwarded as a list."""
    one_shot = once([*JSON, (b"x-shop", b"1")])
    seen = await drive(ButterMiddleware(sends(start(headers=one_shot), body(PAID_BODY)), butter), http_scope())
    assert seen[0]["headers"] == [*JSON, (b"x-shop", b"1")]
    await settled(butter)
    assert invoices(fake) == ["in_1"]


async def test_headers_in_iterators_reach_server_and_app(butter: Butter, fake: FakeButter) -> None:
    """ASGI allows iterables for the headers, for each pair, and for the peer. Server and app both read all of them."""
    seen: list[Any] = []

    def once(pairs: list[tuple[bytes, bytes]]) -> Iterator[Iterator[bytes]]:
        return iter([iter(pair) for pair in pairs])

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.extend([[tuple(pair) for pair in scope["headers"]], [*scope["client"]]])
        await send(start(headers=once(JSON)))
        await send(body(PAID_BODY))

    given = http_scope()["headers"]
    sent = await drive(ButterMiddleware(app, butter), http_scope(headers=once(given), client=iter(("10.0.0.1", 80))))
    assert ([tuple(pair) for pair in sent[0]["headers"]], seen) == (JSON, [given, ["10.0.0.1", 80]])
    await settled(butter)
    assert invoices(fake) == ["in_1"]


async def test_a_peer_of_a_wrong_type_costs_no_record_on_disk(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path
) -> None:
    """A peer that JSON cannot carry counts as absent, and the capture is kept."""
    butter = make_butter(outbox=tmp_path / "butter.db")
    for client in ({1}, (b"10.0.0.1", object()), object(), iter([b"x"])):
        await drive(ButterMiddleware(sends(start(), body(PAID_BODY)), butter), http_scope(client=client))
    await settled(butter)
    assert (invoices(fake), butter.status().skipped, butter.status().faults) == (["in_1"], {"duplicate": 3}, {})


async def test_headers_may_be_absent(butter: Butter, fake: FakeButter) -> None:
    """A response without headers is not JSON, and passes."""
    sent: list[Message] = [{"type": "http.response.start", "status": 200}, body(PAID_BODY)]
    assert await drive(ButterMiddleware(sends(*sent), butter), http_scope()) == sent
    assert butter.status().skipped == {"not_json": 1}


@pytest.mark.parametrize("status", [199, 301, 402, 500])
async def test_only_success_is_captured(butter: Butter, status: int) -> None:
    """A response without a 2xx status is not a checkout."""
    await drive(ButterMiddleware(sends(start(status), body(PAID_BODY)), butter), http_scope())
    assert butter.status().skipped == {"status": 1}
    assert butter.status().captured == 0


async def test_later_changes_of_the_start_message_do_not_matter(butter: Butter, fake: FakeButter) -> None:
    """An outer middleware may change the message and its headers in place. The capture has the original values."""
    message = start(headers=list(JSON))

    async def server(_message: Message) -> None:
        message["status"] = 500
        message["headers"].clear()

    await ButterMiddleware(sends(message, body(PAID_BODY)), butter)(http_scope(), no_request, server)
    await settled(butter)
    assert invoices(fake) == ["in_1"]


# http.response.body


async def test_chunks_of_any_kind_make_one_body(butter: Butter, fake: FakeButter) -> None:
    """Chunks may be bytes, bytearray or memoryview. The last message may be empty, without keys."""
    third = len(PAID_BODY) // 3
    sent: list[Message] = [
        start(),
        body(PAID_BODY[:third], more_body=True),
        body(bytearray(PAID_BODY[third : 2 * third]), more_body=True),
        body(memoryview(PAID_BODY)[2 * third :], more_body=True),
        {"type": "http.response.body"},
    ]
    seen = await drive(ButterMiddleware(sends(*sent), butter), http_scope())
    assert all(one is other for one, other in zip(seen, sent, strict=True))
    await settled(butter)
    assert invoices(fake) == ["in_1"]


async def test_a_reused_buffer_is_copied(butter: Butter, fake: FakeButter) -> None:
    """An app may reuse its buffer after each send. This does not change the capture."""
    buffer = bytearray(PAID_BODY)

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(memoryview(buffer), more_body=True))
        buffer[:] = b"x" * len(buffer)
        await send(body())

    await drive(ButterMiddleware(app, butter), http_scope())
    await settled(butter)
    assert invoices(fake) == ["in_1"]


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_above_the_limit_passes_and_is_counted(
    make_butter: Callable[..., Butter],
    declared: bool,  # noqa: FBT001 - parametrized
) -> None:
    """It is forwarded completely and not kept, whether its length was declared or not."""
    butter = make_butter(max_body_bytes=100)
    headers = [*JSON, (b"content-length", b"150")] if declared else JSON
    sent = [start(headers=headers), *[body(b"x" * 50, more_body=True)] * 3, body()]
    assert await drive(ButterMiddleware(sends(*sent), butter), http_scope()) == sent
    assert butter.status().skipped == {"too_large": 1}


@pytest.mark.parametrize("kind", ["http.response.body", "http.response.pathsend"])
@pytest.mark.parametrize(
    "route", [ROUTE, CheckoutRoute("/checkout/{cart_id}", psp="stripe")], ids=["reads", "annotates"]
)
async def test_a_body_without_a_start_is_not_a_checkout(
    make_butter: Callable[..., Butter], fake: FakeButter, route: CheckoutRoute, kind: str
) -> None:
    """The response never began, so the annotations do not count."""
    butter = make_butter(route)

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        annotate(scope, customer_email="shopper@example.com", invoice_id="in_2")
        await send({"type": kind, "body": PAID_BODY, "path": "/thanks"})

    await drive(ButterMiddleware(app, butter), http_scope())
    await settled(butter)
    assert (invoices(fake), butter.status().skipped, butter.status().captured) == ([], {"unanswered": 1}, 0)


@pytest.mark.parametrize("fault", [start(headers=[(b"x",)]), body(object(), more_body=True)], ids=["start", "body"])
async def test_after_an_internal_fault_the_capture_is_abandoned(
    butter: Butter, fake: FakeButter, fault: Message
) -> None:
    """Half a response is never read as a whole one. The fault is counted, and the response passes."""
    sent = [start(), body(PAID_BODY[:10], more_body=True), fault, body(PAID_BODY[10:])]
    assert await drive(ButterMiddleware(sends(*sent), butter), http_scope()) == sent
    await settled(butter)
    status = butter.status()
    assert (invoices(fake), status.captured, status.skipped, sum(status.faults.values())) == ([], 0, {}, 1)


async def test_without_a_last_message_nothing_is_extracted(butter: Butter, fake: FakeButter) -> None:
    """A response that the app never finished is counted as incomplete."""
    await drive(ButterMiddleware(sends(start(), body(PAID_BODY, more_body=True)), butter), http_scope())
    await settled(butter)
    assert butter.status().skipped == {"incomplete": 1}
    assert fake.records == []


async def test_an_end_before_the_declared_length_is_parked(butter: Butter) -> None:
    """An inner BaseHTTPMiddleware ends a broken stream without an error. The Content-Length shows it."""
    headers = [*JSON, (b"content-length", str(len(PAID_BODY)).encode())]
    await drive(ButterMiddleware(sends(start(headers=headers), body(PAID_BODY[:-1])), butter), http_scope())
    await settled(butter)
    status = butter.status()
    assert (status.parked, dict(status.skipped)) == (1, {"parked:unreadable": 1})


async def test_capture_comes_before_the_last_send(butter: Butter, fake: FakeButter) -> None:
    """The server may cancel, raise or block on the last message. The record is not lost."""

    async def gone(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError

    with pytest.raises(OSError, match=r"^$"):
        await ButterMiddleware(sends(start(), body(PAID_BODY)), butter)(http_scope(), no_request, gone)
    await settled(butter)
    assert invoices(fake) == ["in_1"]


@pytest.mark.parametrize("kind", ["http.response.pathsend", "http.response.zerocopysend"])
async def test_files_sent_by_the_server_are_forwarded(
    make_butter: Callable[..., Butter], fake: FakeButter, kind: str
) -> None:
    """Such a file cannot be read, but it completes a response whose endpoint annotated all fields."""
    file: Message = {"type": kind, "path": "/tmp/thanks.html"}  # noqa: S108 - never opened
    extracting = make_butter()
    assert await drive(ButterMiddleware(sends(start(), file), extracting), http_scope()) == [start(), file]
    assert extracting.status().skipped == {"uncapturable": 1}

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        annotate(scope, customer_email="shopper@example.com", invoice_id="in_2")
        await send(start(headers=[]))
        await send(file)

    annotating = make_butter(CheckoutRoute("/checkout/{cart_id}", psp="stripe"))
    await drive(ButterMiddleware(app, annotating), http_scope())
    await settled(annotating)
    assert invoices(fake) == ["in_2"]


async def test_other_messages_are_forwarded_unchanged(butter: Butter, fake: FakeButter) -> None:
    """Early hints, push, debug, trailers and unknown types are forwarded as the same objects."""
    sent: list[Message] = [
        {"type": "http.response.early_hint", "links": [b"</a.css>"]},
        {"type": "http.response.debug", "info": {}},
        start(trailers=True),
        {"type": "http.response.push", "path": "/a.css", "headers": []},
        body(PAID_BODY),
        {"type": "http.response.trailers", "headers": [(b"a", b"b")]},
        {"type": "http.response.unknown"},
    ]
    seen = await drive(ButterMiddleware(sends(*sent), butter), http_scope())
    assert all(one is other for one, other in zip(seen, sent, strict=True))
    await settled(butter)
    assert invoices(fake) == ["in_1"]


# The request.


@pytest.mark.parametrize("method", ["HEAD", "GET", "PUT"])
async def test_only_the_methods_of_the_route_match(butter: Butter, method: str) -> None:
    """In ASGI, a HEAD response has the full body too."""
    scope = http_scope(method=method)
    await drive(ButterMiddleware(sends(start(), body(PAID_BODY)), butter), scope)
    assert butter.status().captured == 0
    assert "butter_middleware" not in scope


async def test_receive_is_not_wrapped(butter: Butter) -> None:
    """The app gets the server's own `receive`, and an unmatched request its own `send` too."""
    got: list[object] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        got.extend((receive, send))

    async def send(_message: Message) -> None: ...

    middleware = ButterMiddleware(app, butter)
    await middleware(http_scope(), no_request, send)
    await middleware(http_scope("/basket"), no_request, send)
    assert got[0] is no_request
    assert got[1] is not send
    assert got[2:] == [no_request, send]


async def test_the_request_body_is_kept_if_asked_for(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """With `capture_request_body` the extractor reads the request body. The app still reads all of it."""

    def extract(response: Any) -> dict[str, Any]:
        return {"invoice_id": "in_9", "customer_email": response.request.json()["email"]}

    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extract, capture_request_body=True))
    parts = [b'{"email": ', b'"a@example.com"}']
    messages = iter([{"type": "http.request", "body": part, "more_body": part is parts[0]} for part in parts])
    read: list[bytes] = []

    async def receive() -> Message:
        return next(messages)

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            read.append(message["body"])
            more = message["more_body"]
        await send(start())
        await send(body(b"{}"))

    await drive(ButterMiddleware(app, butter), http_scope(), receive)
    await settled(butter)
    assert read == parts
    assert fake.records[0]["customer_email"] == "a@example.com"


@pytest.mark.parametrize(
    ("headers", "reads", "kept"),
    [
        ([], 0, None),
        ([], 1, None),
        ([], 2, b"invoice=in_123"),
        ([(b"content-length", b"14")], 1, None),
        ([(b"content-length", b"12")], 1, b"invoice=in_1"),
    ],
    ids=["unread", "in part", "to its end", "short of its length", "to its length"],
)
async def test_a_request_body_is_kept_completely_or_not_at_all(
    make_butter: Callable[..., Butter], headers: Any, reads: int, kept: bytes | None
) -> None:
    """If the app answers before it has read the request, a part of a form might name another invoice."""
    found: list[bytes | None] = []

    def extract(response: Any) -> None:
        try:
            found.append(response.request.body)
        except ExtractionError:
            found.append(None)

    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extract, capture_request_body=True))
    messages: Iterator[Message] = iter([{"body": b"invoice=in_1", "more_body": True}, {"body": b"23"}])

    async def receive() -> Message:
        return {"type": "http.request", **next(messages)}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _message in range(reads):
            await receive()
        await sends(start(), body(b"{}"))(scope, receive, send)

    await drive(ButterMiddleware(app, butter), http_scope(headers=http_scope()["headers"] + headers), receive)
    await settled(butter)
    assert found == [kept]


@pytest.mark.parametrize("cap", [20, 19])
async def test_a_body_at_the_limit_is_kept(make_butter: Callable[..., Butter], fake: FakeButter, cap: int) -> None:
    """`max_body_bytes` is the longest body that is kept, of a request and of a response."""
    found: list[int] = []

    def extract(response: CheckoutResponse) -> dict[str, Any]:
        found.extend((len(response.request.body), len(response.body)))
        return {"invoice_id": "in_9", "customer_email": "a@example.com"}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 20, "more_body": False}

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(start(headers=[*JSON, (b"content-length", b"19")]))
        await send(body(b" " * 19))

    butter = make_butter(
        CheckoutRoute("/checkout/{cart_id}", "stripe", extract, capture_request_body=True), max_body_bytes=cap
    )
    await drive(ButterMiddleware(app, butter), http_scope(), receive)
    await settled(butter)
    assert (found, butter.status().parked) == (([20, 19], 0) if cap == 20 else ([], 1))
    assert invoices(fake) == (["in_9"] if cap == 20 else [])


async def test_a_request_body_above_the_limit_parks_only_captures_that_need_it(
    make_butter: Callable[..., Butter],
) -> None:
    """It is forwarded and not kept. If an extractor asks for it, the capture is parked."""

    def extract(response: Any) -> dict[str, Any]:
        return {"invoice_id": "in_9", "customer_email": response.request.json()["email"]}

    route = CheckoutRoute("/checkout/{cart_id}", "stripe", extract, capture_request_body=True)
    butter = make_butter(route, max_body_bytes=10)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 11, "more_body": False}

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        assert len((await receive())["body"]) == 11
        await send(start())
        await send(body(b"{}"))

    await drive(ButterMiddleware(app, butter), http_scope(), receive)
    await settled(butter)
    assert butter.status().parked == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
async def test_an_encoded_body_is_decoded(butter: Butter, fake: FakeButter, encoding: str) -> None:
    """The body may have been compressed inside the middleware."""
    packers = {"gzip": zlib.compressobj(wbits=31), "deflate": zlib.compressobj(wbits=15)}
    packer = packers.get(encoding)
    content = PAID_BODY if packer is None else packer.compress(PAID_BODY) + packer.flush()
    headers = [*JSON, (b"content-encoding", encoding.encode())]
    await drive(ButterMiddleware(sends(start(headers=headers), body(content)), butter), http_scope())
    await settled(butter)
    assert invoices(fake) == ["in_1"]


async def test_each_header_line_names_a_coding(butter: Butter, fake: FakeButter) -> None:
    """Two compressing middlewares may each add a line. RFC 9110, section 5.3, joins them."""
    content = gzip.compress(zlib.compress(PAID_BODY))
    headers = [*JSON, (b"content-encoding", b"deflate"), (b"Content-Encoding", b"gzip")]
    await drive(ButterMiddleware(sends(start(headers=headers), body(content)), butter), http_scope())
    await settled(butter)
    assert invoices(fake) == ["in_1"]


async def test_a_bomb_costs_no_more_than_the_limit(make_butter: Callable[..., Butter]) -> None:
    """A small body that decodes to a large one is parked, and not decoded."""
    butter = make_butter(max_body_bytes=10_000)
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(b" " * 5_000_000) + packer.flush()
    headers = [*JSON, (b"content-encoding", b"gzip")]
    await drive(ButterMiddleware(sends(start(headers=headers), body(bomb)), butter), http_scope())
    await settled(butter)
    assert butter.status().parked == 1


# Exceptions and other scopes.


@pytest.mark.parametrize("error", [RuntimeError("x"), OSError("x"), KeyboardInterrupt("x")])
@pytest.mark.parametrize("when", ["before", "midway", "after"])
async def test_the_apps_exceptions_pass_unchanged(
    butter: Butter, fake: FakeButter, error: BaseException, when: str
) -> None:
    """The server gets the same exception object that the app raised. A complete response still counts."""
    messages = {"before": (), "midway": (start(), body(b"{", more_body=True)), "after": (start(), body(PAID_BODY))}
    with pytest.raises(type(error)) as caught:
        await drive(ButterMiddleware(sends(*messages[when], then=error), butter), http_scope())
    assert caught.value is error
    await settled(butter)
    assert invoices(fake) == (["in_1"] if when == "after" else [])


async def test_cancellation_passes(butter: Butter) -> None:
    """A cancelled request is cancelled, and counted as incomplete."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start())
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01) as scope:
        await drive(ButterMiddleware(app, butter), http_scope())
    assert scope.cancelled_caught
    assert butter.status().skipped == {"incomplete": 1}


@pytest.mark.parametrize("kind", ["websocket", "http.unknown"])
async def test_other_scopes_pass_unchanged(butter: Butter, kind: str) -> None:
    """The app gets the original objects of a websocket or an unknown scope."""
    got: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        got.extend((scope, receive, send))

    async def send(_message: Message) -> None: ...

    scope = {"type": kind, "path": "/checkout/7"}
    await ButterMiddleware(app, butter)(scope, no_request, send)
    assert got[0] is scope
    assert got[1:] == [no_request, send]
    assert list(scope) == ["type", "path"]


@pytest.mark.parametrize("missing", ["headers", "method", "path"])
async def test_an_invalid_scope_reaches_the_app(butter: Butter, missing: str) -> None:
    """The app refuses a scope without required keys, the middleware does not."""
    scope = http_scope()
    del scope[missing]
    sent = [start(), body(PAID_BODY)]
    assert await drive(ButterMiddleware(sends(*sent), butter), scope) == sent


async def test_two_middlewares_capture_once(butter: Butter, fake: FakeButter) -> None:
    """The inner one of the two does nothing."""
    app = ButterMiddleware(ButterMiddleware(sends(start(), body(PAID_BODY)), butter), butter)
    await drive(app, http_scope())
    await settled(butter)
    assert butter.status().captured == 1
    assert butter.status().skipped == {}


@pytest.mark.parametrize("fails", ["raises", "answers 503"])
async def test_a_retry_outside_captures_the_successful_try(butter: Butter, fake: FakeButter, fails: str) -> None:
    """The app may be called again with a scope that the first try changed. The original request counts."""
    tries = iter([[start(503), body()], [start(), body(PAID_BODY)]])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer = next(tries)
        if scope["root_path"] == "" and fails == "raises":
            scope.update(root_path="/shop", client=("9.9.9.9", 1), headers=[])
            raise TimeoutError
        await sends(*answer)(scope, receive, send)

    once = ButterMiddleware(ButterMiddleware(app, butter), butter)

    async def again(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(TimeoutError):
            await once(scope, receive, send)
        await once(scope, receive, send)

    await drive(again, http_scope())
    await settled(butter)
    assert [(record["invoice_id"], record["ipv4_address"]) for record in fake.records] == [("in_1", SHOPPER)]
    assert butter.status().captured == 1


@pytest.mark.parametrize(
    "client", [None, ["10.0.0.1", 80], ("10.0.0.1", "80"), "unix:", 7], ids=["none", "list", "str port", "str", "int"]
)
async def test_any_peer_is_accepted(butter: Butter, fake: FakeButter, client: Any) -> None:
    """`scope["client"]` may be anything. The address comes from the header."""
    await drive(ButterMiddleware(sends(start(), body(PAID_BODY)), butter), http_scope(client=client))
    await settled(butter)
    assert invoices(fake) == ["in_1"]


async def test_a_scope_without_a_client_is_accepted(butter: Butter, fake: FakeButter) -> None:
    """`client`, `root_path` and `query_string` are optional in ASGI."""
    scope = http_scope()
    for key in ("client", "root_path", "query_string"):
        del scope[key]
    await drive(ButterMiddleware(sends(start(), body(PAID_BODY)), butter), scope)
    await settled(butter)
    assert invoices(fake) == ["in_1"]


async def test_one_shot_request_headers_reach_the_app(butter: Butter, fake: FakeButter) -> None:
    """Headers that can be read only once reach the capture and the app."""
    headers = http_scope()["headers"]
    seen: list[Any] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.extend(scope["headers"])
        await send(start())
        await send(body(PAID_BODY))

    await drive(ButterMiddleware(app, butter), http_scope(headers=iter(headers)))
    await settled(butter)
    assert seen == headers
    assert invoices(fake) == ["in_1"]


@pytest.mark.parametrize("on_disk", [True, False])
async def test_text_in_the_request_headers_costs_no_checkout(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path, *, on_disk: bool
) -> None:
    """An outer middleware that adds a header as text affects neither its own checkout nor others."""
    seen: list[Any] = []

    def extracted(response: CheckoutResponse) -> dict[str, Any]:
        seen.append(dict(response.request.headers))
        return {"customer_email": "shopper@example.com", "invoice_id": response.json()["invoice"]["id"]}

    route = CheckoutRoute("/checkout/{cart_id}", "stripe", extracted)
    butter = make_butter(route, outbox=tmp_path / "butter.db" if on_disk else None)
    added: list[Any] = [("X-Request-Id", "caf\xe9\u20ac"), ("Cookie", "sesame"), ("x-odd", b"1")]
    for number in range(3):
        scope = http_scope()
        scope["headers"] = [*scope["headers"], *(added if number == 1 else ())]
        content = json.dumps(PAID | {"invoice": {"id": f"in_{number}"}}).encode()
        await drive(ButterMiddleware(sends(start(), body(content)), butter), scope)
    await settled(butter)
    assert sorted(invoices(fake)) == ["in_0", "in_1", "in_2"]
    assert seen[1] == {**seen[0], "x-request-id": "caf\xe9?", "x-odd": "1"}
    assert butter.status().lost == 0


async def test_the_address_is_from_the_original_request(butter: Butter, fake: FakeButter) -> None:
    """An app that changes its scope does not change the evidence."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["headers"][:] = [(b"x-forwarded-for", b"9.9.9.9")]
        scope["client"] = ("9.9.9.9", 1)
        await send(start())
        await send(body(PAID_BODY))

    await drive(ButterMiddleware(app, butter), http_scope())
    await settled(butter)
    assert fake.records[0]["ipv4_address"] == SHOPPER


@pytest.mark.parametrize("message", [{}, {"type": None}, {"type": "http.response.start"}, {"type": 5, "headers": 7}, 5])
async def test_invalid_messages_reach_the_server(butter: Butter, message: Any) -> None:
    """The server refuses them, the middleware does not."""
    assert await drive(ButterMiddleware(sends(message), butter), http_scope()) == [message]


async def test_a_middleware_without_a_butter_passes_all_messages(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong argument must not fail each request. It is logged at CRITICAL, and nothing is captured."""
    wrong: Any = "butter"
    sent = [start(), body(PAID_BODY)]
    assert await drive(ButterMiddleware(sends(*sent), wrong), http_scope()) == sent
    assert "Pass the Butter object" in caplog.text


async def test_the_template_does_not_contain_the_root_path(
    make_butter: Callable[..., Butter], fake: FakeButter
) -> None:
    """It is matched against the path without `root_path`, as a mounted app sees it."""
    butter = make_butter(ROUTE)
    app = ButterMiddleware(sends(start(), body(PAID_BODY)), butter)
    await drive(app, http_scope("/shop/checkout/7", root_path="/shop"))
    await drive(app, http_scope("/shop/checkout/7"))
    await settled(butter)
    assert butter.status().captured == 1
