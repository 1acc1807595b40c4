"""For any messages of an app, the server gets the same messages and the same exception as without the middleware."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgi import http_scope
from fuzzing import tries
from hypothesis import given, settings
from hypothesis import strategies as st
from shops import CREDENTIALS, PAID

from butter_middleware import Butter, ButterMiddleware, CheckoutRoute, client_ip, extract
from butter_middleware._utils.asgi import ASGIApp, Message, Receive, Scope, Send
from butter_middleware.testing import FakeButter

PAID_BODY = json.dumps(PAID).encode()
JSON_EXTRACTOR = extract.json(customer_email="customer.email", invoice_id="invoice.id")
ROUTES = [
    CheckoutRoute("/json/{cart_id}", "stripe", JSON_EXTRACTOR),
    CheckoutRoute("/annotated/{cart_id}", "stripe"),
    CheckoutRoute("/both/{cart_id}", "stripe", JSON_EXTRACTOR, capture_request_body=True),
]
PATHS = ["/json/7", "/annotated/7", "/both/7", "/basket"]


@pytest.fixture(scope="module")
def butters() -> Iterator[list[Butter]]:
    """One holds nothing back, and one holds the last chunk back until the capture is stored."""
    made = [
        Butter(
            client_ip=client_ip.TrustedHops(1),
            routes=ROUTES,
            transport=FakeButter(**CREDENTIALS).transport(),
            max_body_bytes=len(PAID_BODY) + 20,
            durability=durability,
            telemetry=False,  # its SDK draws random numbers on our threads, and hypothesis would take them for its own
            **CREDENTIALS,
        )
        for durability in ("after_response", "before_response")
    ]
    yield made
    for butter in made:
        butter.close()


# Messages of apps. Functions build them, because one-shot iterables must be new in each of the two runs.

Make = Callable[[], Any]


def whole(value: Any) -> Make:
    return lambda: value


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    # It does not hash the values, as sampled_from does, nor show them in its repr, which would be long.
    return st.deferred(lambda: st.integers(0, len(values) - 1).map(values.__getitem__))


pairs = st.lists(
    one_of(
        *[
            (b"content-type", b"application/json"),
            (b"Content-Type", b"text/html"),
            [b"content-type", b"application/problem+json; charset=utf-8"],
            (b"content-length", b"5"),
            (b"content-length", b"9" * 5000),
            (b"content-encoding", b"gzip"),
            (b"set-cookie", b"a=b"),
            (b"x", memoryview(b"y")),
            ("x", "y"),
            (b"x",),
            7,
        ]
    ),
    max_size=4,
)
headers = st.one_of(
    pairs.map(whole),
    pairs.map(lambda listed: whole(tuple(listed))),
    pairs.map(lambda listed: lambda: iter(listed)),
    one_of(*[None, 7, b"x", {}]).map(whole),
)
chunks = one_of(
    *[
        b"",
        b"{",
        PAID_BODY,
        bytearray(PAID_BODY),
        memoryview(PAID_BODY),
        memoryview(bytes(8)).cast("Q"),
        PAID_BODY * 2,
        None,
        "text",
        -1,
        [300],
    ]
).map(whole)
flags = one_of(*[True, False, None, 0, "yes"]).map(whole)
statuses = one_of(*[200, 201, 204, 302, 402, 500, None, "200"]).map(whole)

ONGOING = flags.filter(lambda make: make() is True)


def message(kind: Any, required: dict[str, Any] | None = None, **optional: Any) -> st.SearchStrategy[Make]:
    fields = st.fixed_dictionaries({"type": st.just(whole(kind))} | (required or {}), optional=optional)
    return st.deferred(lambda: fields.map(lambda made: lambda: {name: make() for name, make in made.items()}))


legal = st.tuples(
    message("http.response.start", {"status": st.just(whole(200)), "headers": headers}),
    st.lists(message("http.response.body", {"more_body": ONGOING}, body=chunks), max_size=3),
    message("http.response.body", body=chunks),
).map(lambda parts: [parts[0], *parts[1], parts[2]])
anything = st.one_of(
    message("http.response.start", status=statuses, headers=headers, trailers=flags),
    message("http.response.body", body=chunks, more_body=flags),
    message("http.response.pathsend", path=st.just(whole("/a")), more_body=flags),
    message("http.response.zerocopysend", file=st.just(whole(7)), more_body=flags),
    message("http.response.trailers", headers=headers, more_trailers=flags),
    message("http.response.early_hint", links=headers),
    message("websocket.close", code=flags),
    one_of(*[{}, {"type": None}, {"type": ["http.response.body"]}, {"type": 5}, None, 7, "x", []]).map(whole),
)
sequences = st.one_of(
    legal, st.lists(anything, max_size=6), st.tuples(legal, st.lists(anything)).map(lambda two: [*two[0], *two[1]])
)
endings = one_of(*[None, RuntimeError, OSError, KeyError, asyncio.CancelledError, SystemExit, GeneratorExit])
refusals = st.none() | st.integers(0, 5)
"""The number of the message at which the server raises, as it does after a disconnect."""


def frozen(value: Any) -> Any:
    """Return a message as its receiver reads it, with iterators as lists."""
    if isinstance(value, dict):
        return {name: frozen(item) for name, item in value.items()}
    if isinstance(value, Iterator):
        return list(value)
    return list(value) if isinstance(value, tuple) else value


class GoneError(OSError):
    """The server's exception."""


async def outcome(app: ASGIApp, scope: Scope, refusal: int | None) -> tuple[list[Any], list[Any], Any]:
    """Return the server's messages, what the app read, and the class and text of the exception."""
    got: list[Any] = []
    read: list[Any] = []
    asked = iter([b"{", memoryview(b"}"), None, b"x" * 10_000])

    async def send(message: Message) -> None:
        got.append(frozen(message))
        if refusal is not None and len(got) > refusal:
            raise GoneError

    async def receive() -> Message:
        return {"type": "http.request", "body": next(asked, b""), "more_body": len(read) < 2}

    scope["read"] = read
    try:
        await app(scope, receive, send)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it must be the same
        return got, read, (type(error), str(error))
    return got, read, None


def app_of(messages: list[Make], ending: type[BaseException] | None, reads: int) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _message in range(reads):
            scope["read"].append(await receive())
        for make in messages:
            await send(make())
        if ending is not None:
            raise ending

    return app


@settings(max_examples=tries(400), deadline=None)
@given(sequences, endings, st.integers(0, 4), refusals, st.sampled_from(PATHS), st.booleans())
def test_the_server_gets_what_the_app_sent(
    butters: list[Butter],
    messages: list[Make],
    ending: type[BaseException] | None,
    reads: int,
    refusal: int | None,
    path: str,
    waits: bool,  # noqa: FBT001 - drawn
) -> None:
    """Valid or not, each message arrives unchanged and in order. Exceptions of app and server are unchanged."""
    app = app_of(messages, ending, reads)
    butter = butters[waits]
    bare = asyncio.run(outcome(app, http_scope(path), refusal))
    assert asyncio.run(outcome(ButterMiddleware(app, butter), http_scope(path), refusal)) == bare
    assert (
        asyncio.run(outcome(ButterMiddleware(ButterMiddleware(app, butter), butter), http_scope(path), refusal)) == bare
    )


@settings(max_examples=tries(200), deadline=None)
@given(
    st.dictionaries(
        one_of(*["headers", "method", "path", "root_path", "client", "query_string", "raw_path", "state"]),
        one_of(*[None, 7, b"x", "x", "/json/7", [], [(b"a", b"b")], [("a", "b")], [7], {}, ("1.2.3.4", "x")]),
    ),
    st.sets(one_of(*["headers", "method", "path", "root_path", "client", "query_string"])),
)
def test_any_scope_reaches_the_app(butters: list[Butter], changed: dict[str, Any], missing: set[str]) -> None:
    """The app refuses an invalid scope. It gets every key as the server set it."""
    scope = {name: value for name, value in (http_scope("/json/7") | changed).items() if name not in missing}
    seen: list[Any] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        seen.append({name: value for name, value in scope.items() if name not in {"read", "butter_middleware"}})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": PAID_BODY})

    given_scope = dict(scope)
    got, _read, raised = asyncio.run(outcome(ButterMiddleware(app, butters[0]), scope, None))
    assert raised is None
    assert [message["type"] for message in got] == ["http.response.start", "http.response.body"]
    assert seen == [given_scope]


@settings(max_examples=tries(100), deadline=None)
@given(st.lists(st.one_of(message("lifespan.startup.complete"), anything), min_size=1, max_size=4), endings)
def test_a_lifespan_is_only_observed(
    butters: list[Butter], messages: list[Make], ending: type[BaseException] | None
) -> None:
    """The server gets each message that the app sends in a lifespan, and its exception."""
    app = app_of(messages, ending, 0)
    bare = asyncio.run(outcome(app, {"type": "lifespan"}, None))
    assert asyncio.run(outcome(ButterMiddleware(app, butters[0]), {"type": "lifespan"}, None)) == bare
