"""Faults of the merchant's code, the system or the environment end no thread, leak nothing and fail no checkout."""

import asyncio
import itertools
import json
import logging
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import body, drive, http_scope, no_request, sends, start
from processes import until
from shops import CREDENTIALS, PAID, ROUTE, SHOPPER

from butter_middleware import (
    Butter,
    ButterMiddleware,
    Checkout,
    CheckoutResponse,
    CheckoutRoute,
    ConfigurationError,
    MemoryOutbox,
    annotate,
    client_ip,
)
from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.capture import routes
from butter_middleware.client_ip import ClientIP
from butter_middleware.delivery.http import ssl_context
from butter_middleware.models.http import Capture
from butter_middleware.outbox import MemoryStore
from butter_middleware.testing import FakeButter

SECRETS = ["grace@example.com", "in_secret", "sesame", "81.2.69.142", "10.0.0.1", "cart-of-grace", "s3cret-pass"]
PAID_BODY = json.dumps(PAID).encode()
RECORD = Checkout(ipv4_address=SHOPPER, psp="stripe", customer_email="grace@example.com", invoice_id="in_secret")


def buy(butter: Butter, number: int = 0) -> None:
    content = json.dumps({"number": number, "email": "grace@example.com", "invoice": "in_secret"}).encode()
    scope = http_scope("/checkout/cart-of-grace", query_string=b"token=sesame")
    anyio.run(drive, ButterMiddleware(sends(start(), body(content)), butter), scope)


def pay(butter: Butter) -> None:
    anyio.run(drive, ButterMiddleware(sends(start(), body(PAID_BODY)), butter), http_scope())


def leaked(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the secrets in the log, with its frames."""
    return leaked_in(caplog.text)


def leaked_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


# Faults of an extractor.


class _Lazy(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError(SECRETS)


class _Unequal:
    def __eq__(self, _other: object) -> bool:
        raise ValueError(SECRETS)

    __hash__ = None  # type: ignore[assignment]


class _Unprintable:
    def __str__(self) -> str:
        raise ValueError(SECRETS)


def raising(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


@pytest.mark.parametrize(
    "act",
    [
        raising(SystemExit(*SECRETS)),
        raising(KeyboardInterrupt(*SECRETS)),
        raising(GeneratorExit(*SECRETS)),
        raising(asyncio.CancelledError(*SECRETS)),
        raising(KeyError(*SECRETS)),
        lambda: _Lazy(invoice_id="in_secret"),
        lambda: {"invoice_id": _Unequal(), "customer_email": "grace@example.com"},
        lambda: {"invoice_id": _Unprintable(), "customer_email": "grace@example.com"},
        lambda: {"invoice_id": "in_secret\ud800", "customer_email": "grace@example.com"},
        lambda: {"grace@example.com": "in_secret"},
        lambda: {7: "in_secret"},
        lambda: {"invoice_id": 10**5000, "customer_email": "grace@example.com"},
        lambda: {"invoice_id": "in_secret", "customer_email": "grace@example.com\nsesame"},
        lambda: "grace@example.com",
        lambda: ["grace@example.com"],
        lambda: itertools.repeat({"invoice_id": "in_secret"}),
    ],
)
def test_one_bad_capture_affects_no_other(
    make_butter: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture, act: Callable[[], Any]
) -> None:
    """An extractor may raise or return anything. That capture is parked, others are sent, and no value is logged."""

    def extract(response: CheckoutResponse) -> Any:
        number = response.json()["number"]
        return act() if number == 0 else {"invoice_id": number, "customer_email": "grace@example.com"}

    caplog.set_level(logging.DEBUG)
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extract))
    for number in range(3):
        buy(butter, number)
    assert butter.flush()
    assert sorted(record["invoice_id"] for record in fake.records) == ["1", "2"]
    assert butter.status().parked == 1
    assert leaked(caplog) == []


class _BrokenStrategy:
    def resolve(self, scope: Mapping[str, Any]) -> ClientIP:
        raise RuntimeError(scope["client"])

    def admitting_private(self) -> "_BrokenStrategy":
        return self


def test_a_strategy_that_raises_parks_the_capture(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """An error in a merchant's own strategy loses no capture."""
    butter = make_butter(client_ip=_BrokenStrategy())
    buy(butter)
    assert butter.flush()
    assert (butter.status().parked, leaked(caplog)) == (1, [])


def test_an_id_that_cannot_be_encoded_is_refused() -> None:
    """JSON can escape a lone surrogate, but UTF-8 cannot carry it. The record could never be sent."""
    with pytest.raises(ValueError, match="lone surrogate") as caught:
        Checkout(ipv4_address=SHOPPER, psp="stripe", customer_email="a@example.com", invoice_id="in_secret\udfff")
    assert "in_secret" not in str(caught.value)
    told = Checkout(ipv4_address=SHOPPER, psp="stripe", customer_email="a@example.com", invoice_id="Ünïcode\u200d😀")
    assert told.invoice_id == "Ünïcode\u200d😀"


def test_a_hanging_extractor_delays_the_exit_by_one_deadline(make_butter: Callable[..., Butter]) -> None:
    """At the end of a process, `drain_timeout` covers the whole close, not each thread."""
    release = threading.Event()
    route = CheckoutRoute("/checkout/{cart_id}", "stripe", lambda _response: {} if release.wait(30) else None)
    butter = make_butter(route, drain_timeout=4.0)
    buy(butter)
    before = time.monotonic()
    butter.close()
    assert time.monotonic() - before < 7.5  # twice the deadline is more, and a busy machine may add something
    release.set()


# Faults of log handlers.


class _BrokenHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.msg)


@pytest.fixture
def broken_log() -> Iterator[None]:
    handler, log = _BrokenHandler(), logging.getLogger("butter_middleware")
    log.addHandler(handler)
    yield
    log.removeHandler(handler)


@pytest.mark.parametrize(
    "sent", [(start(headers=[]), body(b"x")), (start(), body(None)), (start(), body(b"x" * 200))], ids=str
)
@pytest.mark.parametrize("late", [False, True])
def test_a_log_handler_that_raises_fails_no_checkout(
    make_butter: Callable[..., Butter],
    request: pytest.FixtureRequest,
    sent: Any,
    late: bool,  # noqa: FBT001 - parametrized
) -> None:
    """A line about a skipped, faulty or uselessly annotated checkout may raise. The app does not see the exception."""
    butter = make_butter(max_body_bytes=100)
    request.getfixturevalue("broken_log")

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if not late:
            annotate({}, invoice_id="in_1")
        for message in sent:
            await send(message)
        if late:
            annotate(scope, invoice_id="in_1")

    assert anyio.run(drive, ButterMiddleware(app, butter), http_scope()) == list(sent)


def test_a_clock_that_raises_fails_no_checkout(make_butter: Callable[..., Butter]) -> None:
    """Reporting the fault needs no clock: the response leaves, and the fault is counted."""
    broken = False

    def clock() -> float:
        if broken:
            raise LookupError
        return time.time()

    butter = make_butter(clock=clock)
    broken = True
    buy(butter)
    broken = False
    assert butter.status().faults["request:LookupError"] >= 1
    assert butter.status().captured == 1


@pytest.mark.parametrize("given", [float("nan"), float("inf"), None, "noon"], ids=str)
def test_a_clock_without_a_time_fails_no_checkout(make_butter: Callable[..., Butter], given: Any) -> None:
    """The capture gets the system's time, and the fault is counted."""
    now: Any = 1.7e9
    butter = make_butter(clock=lambda: now)
    now = given
    buy(butter)
    now = 1.7e9
    assert butter.status().faults["request:ValueError"] >= 1
    assert butter.status().captured == 1


# Faults of the system.


class _UnopenedStore(MemoryStore):
    broken = True

    def open(self) -> None:
        if self.broken:
            raise OSError(*SECRETS)


class _Unopened(MemoryOutbox):
    def store(self, **_options: object) -> MemoryStore:
        return _UnopenedStore()


def test_an_outbox_that_cannot_open_loses_nothing_while_the_process_lives(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """Checkouts and calls of `butter.record` wait in memory. This is logged once, and counted at the end."""
    butter = make_butter(outbox=_Unopened(), drain_timeout=0)
    buy(butter)
    butter.record(RECORD)
    until(lambda: "cannot be used" in caplog.text, "it is said")
    assert butter.status().lost == 0
    butter.close()
    assert butter.status().lost == 2
    assert [record.levelname for record in caplog.records if "cannot be used" in record.message] == ["CRITICAL"]
    assert [record.levelname for record in caplog.records if "a record is lost" in record.message] == ["CRITICAL"]
    assert leaked(caplog) == []


@pytest.mark.parametrize("name", ["butter-store", "butter-read", "butter-send"])
def test_a_thread_that_could_not_start_is_started_later(
    make_butter: Callable[..., Butter], fake: FakeButter, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Checkouts wait in memory meanwhile. The next one starts the thread, and none is lost."""
    butter = make_butter()
    begin = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name:
            msg = "can't start new thread"
            raise RuntimeError(msg)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    butter.record(RECORD)
    assert butter.status().lost == 0
    assert butter.status().faults == {"threads": 1}
    monkeypatch.undo()
    butter.record(RECORD.model_copy(update={"invoice_id": "in_other"}))
    assert butter.flush()
    assert len(fake.records) == 2


class _FaultyStore(MemoryStore):
    """One method raises once, as it begins."""

    def __init__(self, method: str, error: BaseException) -> None:
        super().__init__()
        works, left = getattr(self, method), [error]

        def fail_once(*given: Any, **options: Any) -> Any:
            if left:
                raise left.pop()
            return works(*given, **options)

        setattr(self, method, fail_once)


class _Faulty(MemoryOutbox):
    def __init__(self, method: str, error: BaseException) -> None:
        super().__init__()
        object.__setattr__(self, "store", lambda **_options: _FaultyStore(method, error))


STEPS = ["open", "lead", "alone", "counts", "changed", "append", "add", "resolve", "due", "settle", "count"]


@pytest.mark.parametrize("error", [OSError(*SECRETS), MemoryError(), SystemExit(*SECRETS)], ids=repr)
@pytest.mark.parametrize("step", STEPS)
def test_delivery_continues_after_a_fault(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: BaseException,
) -> None:
    """A call on the store's thread fails once, such as taking the lead. It is logged, and each record is sent once."""
    monkeypatch.setattr("butter_middleware.pipeline.store_thread.COUNT_SECONDS", 0.01)
    butter = make_butter(outbox=_Faulty(step, error))
    pay(butter)
    butter.record(RECORD.model_copy(update={"invoice_id": "in_other"}))
    until(lambda: len(fake.records) == 2, "both are sent")
    until(lambda: butter.status().pending == 0, "both are settled")
    assert (len(fake.records), butter.status().lost) == (2, 0)
    said = "the store's thread failed: SystemExit" if isinstance(error, SystemExit) else "cannot be used"
    until(lambda: said in caplog.text, "it is said")
    assert leaked(caplog) == []


CLOCK_SHOWS: list[Callable[[], Any]] = [raising(LookupError(*SECRETS)), lambda: float("nan"), lambda: 1e300]


@pytest.mark.parametrize("shows", CLOCK_SHOWS, ids=["raises", "NaN", "far"])
@pytest.mark.parametrize("thread", ["butter-store", "butter-send"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_clock_that_fails_stops_no_thread(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    thread: str,
    shows: Callable[[], Any],
    on_disk: bool,  # noqa: FBT001 - parametrized
) -> None:
    """It may fail at any point on a record's way. The record is sent once, and nothing is stuck."""
    monkeypatch.setattr("butter_middleware.delivery.delivery.AGAIN_SECONDS", 0.0)
    for fails_at in range(0, 24, 3):
        asked = itertools.count()
        path = path.with_name(f"{fails_at}.db")

        def clock(asked: Iterator[int] = asked, fails_at: int = fails_at) -> Any:
            if threading.current_thread().name == thread and next(asked) == fails_at:
                return shows()
            return time.time()

        butter = make_butter(clock=clock, outbox=path if on_disk else None)
        before = len(fake.records)
        pay(butter)
        assert butter.flush()
        butter.record(RECORD.model_copy(update={"invoice_id": "in_other"}))
        assert butter.flush()
        assert (len(fake.records) - before, butter.status().lost, butter.status().pending) == (2, 0, 0)
        butter.close()


def test_a_wrong_proxy_variable_may_be_fixed_while_running(
    make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the environment prevents the HTTP client, records wait, and this is logged. After a fix they are sent."""
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://grace:sesame@10.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        butter = make_butter(base_url=f"https://127.0.0.1:{listener.getsockname()[1]}", transport=None)
        butter.record(RECORD)
        assert not butter.flush()
        assert (butter.status().pending, butter.status().endpoint) == (1, "open")
        monkeypatch.delenv("HTTPS_PROXY")
        listener.settimeout(40)
        listener.accept()[0].close()  # the next probe
        until(lambda: butter.status().endpoint == "open", "its end: what is cancelled during a handshake is not closed")
    assert "no client: a proxy's variable cannot be used (ValueError). Write HTTPS_PROXY" in caplog.text
    assert leaked(caplog) == []


def test_a_wrong_certificate_file_is_logged_at_the_start(
    make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can be sent. This is logged with the remedy when the app starts, not after its first checkout."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/authorities.pem")
    ssl_context.cache_clear()
    butter = make_butter(base_url="https://127.0.0.1:1", transport=None)
    butter.pipeline.start()
    until(lambda: "nothing can be sent" in caplog.text, "it is said")
    assert "Set SSL_CERT_FILE to a file of certificates" in caplog.text


# Costs that the middleware must avoid.


def test_a_chunk_over_the_cap_is_not_copied(make_butter: Callable[..., Butter]) -> None:
    """The length of a memoryview is checked before it is copied, in the response and in the request."""
    size = 32 * 1024 * 1024
    long = memoryview(bytearray(size))
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", ROUTE.extract, capture_request_body=True))

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(start())
        await send(body(long))

    async def receive() -> Any:
        return {"type": "http.request", "body": long, "more_body": False}

    tracemalloc.start()
    seen = anyio.run(drive, ButterMiddleware(app, butter), http_scope(), receive)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen[1]["body"] is long
    assert peak < size
    assert butter.status().skipped == {"too_large": 1}


def test_a_long_path_is_folded_once(make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch) -> None:
    """An app's router may fold paths. Folding for each route would block the event loop for a tenth of a second."""
    shops = [CheckoutRoute(f"/shop/{number}/{{cart_id}}", psp="stripe") for number in range(30)]
    app = ButterMiddleware(sends(start(404), body()), make_butter(*shops))
    folded: list[str] = []

    def note(path: str) -> str:
        folded.append(path)
        return one_slash(path)

    one_slash = routes._one_slash
    monkeypatch.setattr(routes, "_one_slash", note)
    asyncio.run(drive(app, http_scope("/a" * 30_000)))
    assert folded.count("/a" * 30_000) == 1


def test_a_wait_that_fails_does_not_reach_the_app(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Any
) -> None:
    """A server may run the app outside any known event loop. It gets the last chunk without a wait."""
    butter = make_butter(durability="before_response", outbox=tmp_path / "butter.db")
    app = ButterMiddleware(sends(start(), body(PAID_BODY)), butter)
    seen: list[Any] = []

    async def send(message: Any) -> None:
        seen.append(message)

    with suppress(StopIteration):
        app(http_scope(), no_request, send).__await__().send(None)
    assert [message["type"] for message in seen] == ["http.response.start", "http.response.body"]
    assert butter.status().faults == {"request:RuntimeError": 1}
    assert butter.flush()


def test_a_shutdown_outside_any_known_loop_drains(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """Without a loop that can start a thread, the end of the lifespan itself waits for the records."""
    butter = make_butter()
    butter.record(RECORD)
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    app = ButterMiddleware(sends({"type": "lifespan.shutdown.complete"}), butter)
    with suppress(StopIteration):
        app({"type": "lifespan"}, no_request, send).__await__().send(None)
    assert sent == ["lifespan.shutdown.complete"]
    assert (butter.status().delivered, dict(butter.status().skipped)) == (1, {})


# No repr and no error shows personal data.


def test_no_repr_shows_personal_data(make_butter: Callable[..., Butter]) -> None:
    """A debugger or an error report shows reprs of our objects. They contain no value of the checkout."""
    shown: list[str] = []

    def extract(response: CheckoutResponse) -> None:
        shown.extend(map(repr, (response, response.request, RECORD, [RECORD])))

    captured: list[Capture] = []

    class Keeping(MemoryStore):
        def append(self, captures: Sequence[Capture], *, owned: bool = True) -> Sequence[int]:
            captured.extend(captures)
            return super().append(captures, owned=owned)

    class Kept(MemoryOutbox):
        def store(self, **_options: object) -> MemoryStore:
            return Keeping()

    outbox = Kept()
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", "stripe", extract), outbox=outbox)
    buy(butter)
    assert butter.flush()
    shown += map(repr, (*captured, butter, outbox, vars(butter)))
    assert len(shown) > 6
    assert leaked_in(str(shown)) == []


# Other mistakes in the configuration.


ANY: Any = None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"routes": ["/checkout"]}, r"not a CheckoutRoute: str. Write routes=\[CheckoutRoute"),
        ({"routes": ROUTE}, r"is not a list, but CheckoutRoute. Write routes=\[CheckoutRoute"),
        ({"username": 5}, "username is empty, or is not a string"),
        ({"username": "mer:chant"}, "username holds a character.*Set BUTTER_USERNAME"),
        ({"password": "s3cret-pass\n"}, "password holds a character.*Set BUTTER_PASSWORD"),
        ({"password": "s3cret-pass\ud800"}, "password holds a character"),
        ({"senders": "4"}, "senders='4': use a whole number from 1 to 8"),
        ({"senders": 2.5}, "senders=2.5: use a whole number from 1 to 8"),
        ({"senders": True}, "senders=True"),
        ({"max_body_bytes": 1e6}, "max_body_bytes=1000000.0: use a whole number"),
        ({"drain_timeout": None}, "drain_timeout=None: use a number"),
        ({"drain_timeout": float("nan")}, "drain_timeout=nan"),
        ({"base_url": 7}, "base_url is not an http"),
        ({"base_url": "https://butter.example\n"}, "base_url is not an http"),
        ({"base_url": "https://butter example"}, "base_url is not an http"),
        ({"client_ip": client_ip.TrustedHops}, "client_ip=...\\) is not a strategy"),
    ],
)
def test_a_value_of_a_wrong_type_is_named(options: dict[str, Any], says: str) -> None:
    """It would fail later, at a checkout or on a thread. It is refused when the object is built."""
    defaults: dict[str, Any] = {"client_ip": client_ip.direct()} | CREDENTIALS
    with pytest.raises(ConfigurationError, match=says) as caught:
        Butter(**(defaults | options))
    assert leaked_in(str(caught.value)) == []


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ({"path": ANY}, "path template None"),
        ({"path": b"/checkout"}, "path template b'/checkout'"),
        ({"path": "/checkout\n"}, "not an absolute path"),
        ({"methods": (1,)}, r"Write methods=\('POST',\)"),
        ({"methods": ("",)}, r"Write methods=\('POST',\)"),
        ({"methods": 5}, r"methods=5 is not .* Write methods=\('POST',\)"),
        ({"methods": "POST"}, r"methods='POST' is not .* Write methods=\('POST',\)"),
        ({"psp": []}, r"psp=\[\]: use 'stripe'"),
    ],
)
def test_a_route_option_of_a_wrong_type_is_named(route: dict[str, Any], says: str) -> None:
    """It raises a ConfigurationError too."""
    options: dict[str, Any] = {"path": "/checkout", "psp": "stripe"} | route
    with pytest.raises(ConfigurationError, match=says):
        CheckoutRoute(**options)


def test_methods_may_be_an_iterator() -> None:
    """It is read only once."""
    assert CheckoutRoute("/checkout", "stripe", methods=(name for name in ["post", "PUT"])).methods == ("POST", "PUT")  # type: ignore[arg-type]


def test_a_middleware_without_its_argument_passes_all_messages(caplog: pytest.LogCaptureFixture) -> None:
    """Starlette builds a middleware at the first request. A missing `butter=` must not fail each request."""
    sent = [start(), body(PAID_BODY)]
    assert anyio.run(drive, ButterMiddleware(sends(*sent)), http_scope()) == sent
    assert "Pass the Butter object" in caplog.text
