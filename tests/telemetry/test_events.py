"""What `on_event` gets, on which thread, and that it cannot harm the rest."""

import dataclasses
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from asgi import drive, http_scope, sends, start
from outboxes import Clock
from processes import until
from shops import ROUTE, SHOPPER, buy, refusing_shop
from starlette.testclient import TestClient

from butter_middleware import Butter, ButterMiddleware, Checkout, CheckoutRoute, ConfigurationError, Record, events
from butter_middleware._utils import log_thread
from butter_middleware._utils.asgi import Receive, Scope, Send
from butter_middleware.outbox import MemoryOutbox, MemoryStore
from butter_middleware.testing import FakeButter

CHECKOUT = Checkout(customer_email="shopper@example.com", ipv4_address=SHOPPER, psp="stripe", invoice_id="in_1")
WHERE = "POST /checkout/{cart_id}"


def test_each_outcome_of_a_checkout_is_an_event(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """There is an event for captured, skipped, parked, recorded, delivered, retried and dead."""
    told: list[events.Event] = []
    butter = make_butter(on_event=told.append)
    fake.respond_with(200, 422, 409)
    buy(butter, "a", "refused", "text", "free", "b", "c")
    names = [(event.name, event.route, event.reason) for event in told]
    for expected, times in {
        ("captured", WHERE, ""): 4,
        ("covered", WHERE, ""): 3,
        ("recorded", WHERE, "invoice_id"): 3,
        ("skipped", WHERE, "status"): 1,
        ("skipped", WHERE, "not_json"): 1,
        ("parked", WHERE, "invalid"): 1,
        ("died", "", "422"): 1,
        ("retried", "", "409"): 1,
    }.items():
        assert names.count(expected) == times, expected
    delivered = [event for event in told if isinstance(event, events.Delivered)]
    assert 1 <= len(delivered) <= 2  # the second after its retry
    assert all(event.seconds >= 0 for event in delivered)


def test_a_change_of_the_endpoint_is_an_event(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """The start of a hold is an event, which also has the state before."""
    told: list[events.Event] = []
    butter = make_butter(on_event=told.append)
    fake.respond_with(401)
    butter.record(CHECKOUT)
    butter.flush()
    changes = [(event.before, event.state, event.reason) for event in told if isinstance(event, events.EndpointChanged)]
    assert changes == [("ok", "hold", "401")]
    (held,) = [event for event in told if isinstance(event, events.EndpointChanged)]
    assert held.level == logging.CRITICAL
    assert "check username, password and environment" in held.message


def test_every_event_is_frozen_and_without_personal_data(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """The repr of an event has no data of the shopper or of the response."""
    told: list[events.Event] = []
    butter = make_butter(on_event=told.append)
    fake.respond_with(200, 422)
    buy(butter, "secret", "refused", "free", "other")
    assert not any(secret in repr(told) for secret in ("shopper@example.com", SHOPPER, "in_secret", "secret"))
    for kind in get_args(events.Event):
        assert dataclasses.is_dataclass(kind)
        assert kind.__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        told[0].reason = "x"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue] - that it is frozen


def test_an_exception_of_on_event_is_counted_and_logged_once(
    make_butter: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """Deliveries continue. The log names the exception's type once, without its text."""

    def tell(event: events.Event) -> None:
        if isinstance(event, events.Recorded):
            sys.exit("shopper@example.com")
        raise ValueError(SHOPPER, event)

    butter = make_butter(on_event=tell)
    buy(butter, "a", "b")
    assert len(fake.records) == 2
    assert butter.status().faults == {"on_event:ValueError": 6, "on_event:SystemExit": 2}
    assert caplog.text.count("on_event raised ValueError") == 1
    assert "shopper@" not in caplog.text
    assert SHOPPER not in caplog.text


def test_on_event_runs_on_the_log_thread_and_may_hang(make_butter: Callable[..., Butter], fake: FakeButter) -> None:
    """A function that hangs delays neither the checkout nor the delivery. It gets the other events later."""
    go_on, names = threading.Event(), set[str]()

    def tell(_event: events.Event) -> None:
        names.add(threading.current_thread().name)
        go_on.wait(20)

    butter = make_butter(on_event=tell)
    client = TestClient(ButterMiddleware(refusing_shop, butter))
    assert client.post("/checkout/a", headers={"x-forwarded-for": SHOPPER}).status_code == 200
    assert butter.pipeline.flush(10)
    assert len(fake.records) == 1
    go_on.set()
    assert log_thread.settle(10)
    assert names == {"butter-say"}


def test_too_many_events_are_counted_not_kept(
    make_butter: Callable[..., Butter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the function hangs, a bounded number of events waits. The others are counted."""
    monkeypatch.setattr(log_thread, "MOST_WAITING", 1)
    go_on, begun = threading.Event(), threading.Event()

    def tell(_event: events.Event) -> None:
        begun.set()
        go_on.wait(20)

    butter = make_butter(on_event=tell, dry_run=True)
    butter.record(CHECKOUT)
    assert begun.wait(10)
    for _ in range(3):
        butter.record(CHECKOUT)
    until(lambda: butter.status().faults.get("on_event:overrun", 0) >= 5, "those that do not fit")
    assert butter.status().strength == {"invoice_id": 4}
    go_on.set()


@pytest.mark.parametrize("wrong", ["print", 7])
def test_on_event_is_checked(make_butter: Callable[..., Butter], wrong: Any) -> None:
    """A value that cannot be called, and an async function, stop the start."""

    async def tell(_event: events.Event) -> None: ...

    for value in (wrong, tell):
        with pytest.raises(ConfigurationError, match=r"on_event is .* Pass a plain function of one event"):
            make_butter(on_event=value)


def test_a_lost_record_is_an_event(make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture) -> None:
    """If the outbox cannot take a record, there is an event, a CRITICAL line, and a count in the status."""
    told: list[events.Event] = []
    butter = make_butter(outbox=MemoryOutbox(1), on_event=told.append, base_url="http://127.0.0.1:9", transport=None)
    for number in range(3):
        butter.record(CHECKOUT.model_copy(update={"invoice_id": f"in_{number}"}))
    butter.flush(2)
    lost = [event for event in told if isinstance(event, events.Lost)]
    assert (len(lost), butter.status().lost) == (2, 2)
    assert [record.levelname for record in caplog.records if "a record is lost" in record.message] == ["CRITICAL"]


def test_a_log_line_is_structured(make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture) -> None:
    """Each line has stable keys, by which a structured log can find it."""
    butter = make_butter()
    caplog.clear()
    buy(butter, "free")
    (line,) = [record for record in caplog.records if getattr(record, "butter_event", "") == "parked"]
    assert (line.__dict__["butter_reason"], line.__dict__["butter_route"]) == ("invalid", WHERE)
    ours = [record for record in caplog.records if record.name.startswith("butter_middleware")]
    assert all(hasattr(record, "butter_event") for record in ours)


def test_a_repeated_line_is_logged_once_an_hour_with_its_count(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """The first line comes at once. The next one, an hour later, has the number of repetitions."""
    clock = Clock()
    butter = make_butter(clock=clock)
    caplog.clear()
    buy(butter, "text", "text", "text")
    clock.now += 3600
    buy(butter, "text", "text")
    lines = [record.getMessage() for record in caplog.records if "the response is not JSON" in record.getMessage()]
    assert [line.endswith("(2 more times since the last such line)") for line in lines] == [False, True]


@pytest.mark.parametrize("percent", ["100 %", "%s %d"])
def test_a_per_cent_sign_in_a_line(caplog: pytest.LogCaptureFixture, percent: str) -> None:
    """A per cent sign in a line, such as in a path, is not a format."""
    log_thread.log(logging.ERROR, percent, event="x")
    log_thread.log(logging.ERROR, percent, 3, event="x")
    assert caplog.messages == [f"butter: {percent}", f"butter: {percent} (3 more times since the last such line)"]


async def _never(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise RuntimeError


@pytest.mark.asyncio
async def test_an_app_that_never_answered_is_not_missing_evidence(make_butter: Callable[..., Butter]) -> None:
    """An exception before the response is counted separately from a 2xx that broke off."""
    butter = make_butter(ROUTE)
    with pytest.raises(RuntimeError):
        await drive(ButterMiddleware(_never, butter), http_scope())
    await drive(ButterMiddleware(sends(start()), butter), http_scope())
    assert butter.status().skipped == {"unanswered": 1, "incomplete": 1}
    assert butter.status().coverage.missed == {"incomplete": 1}


def test_the_routes_name_is_as_in_the_log() -> None:
    """Counts and log lines have the route's own name."""
    assert CheckoutRoute("/pay", psp="adyen", methods=("POST", "PUT")).name == "POST|PUT /pay"


def outcomes(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the DEBUG lines of the checkouts."""
    log_thread.settle()
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    return sorted(line.removeprefix("butter: ") for line in lines if " -> " in line)


def test_each_checkout_leaves_one_debug_line(
    make_butter: Callable[..., Butter], fake: FakeButter, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what became of the checkout. It names the route and the kinds of IDs, and no path, value or address."""
    caplog.set_level(logging.DEBUG, "butter_middleware")
    butter = make_butter()
    fake.respond_with(200, 422, 503)
    for cart in ("paid", "refused", "text", "free", "paid", "dead", "later"):
        buy(butter, cart)
    butter.record(CHECKOUT)
    butter.flush()
    assert outcomes(caplog) == [
        f"{WHERE} -> dead: 422",
        f"{WHERE} -> kept: invoice_id; Butter did not accept it yet",
        f"{WHERE} -> parked: invalid",
        f"{WHERE} -> sent: invoice_id",
        f"{WHERE} -> skipped: duplicate",
        f"{WHERE} -> skipped: not_json",
        f"{WHERE} -> skipped: status 402",
        "butter.record() -> sent: invoice_id",
    ]
    assert all(record.getMessage().startswith("butter: ") for record in caplog.records if "butter" in record.name)


def test_a_capture_that_could_not_be_written_leaves_a_debug_line(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that is not the disk's loses the capture. The line names the route and the fault."""
    caplog.set_level(logging.DEBUG, "butter_middleware")

    def fail(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(MemoryStore, "append", fail)
    buy(make_butter(), "a")
    assert outcomes(caplog) == [f"{WHERE} -> lost: ZeroDivisionError"]


class Queue:
    async def enqueue(self, _record: Record) -> None: ...


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"outbox": Queue()}, "put into the queue: invoice_id"),
        ({"dry_run": True}, "skipped: dry_run"),
        ({"delivery": "external"}, "kept: another process reads and sends it"),
    ],
)
def test_the_debug_line_tells_where_the_record_went(
    make_butter: Callable[..., Butter],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    options: dict[str, Any],
    told: str,
) -> None:
    """The line names a queue, a dry run or another process instead of Butter."""
    caplog.set_level(logging.DEBUG, "butter_middleware")
    external = {"outbox": tmp_path / "butter.db"} if "delivery" in options else {}
    buy(make_butter(**options, **external), "a")
    assert outcomes(caplog) == [f"{WHERE} -> {told}"]


def test_a_part_of_a_checkout_leaves_a_debug_line(
    make_butter: Callable[..., Butter], caplog: pytest.LogCaptureFixture
) -> None:
    """It says that the part waits for the other one. Without DEBUG, no line is made."""
    butter = make_butter(CheckoutRoute("/checkout/{cart_id}", psp="stripe", join="invoice"))
    buy(butter, "a")
    assert outcomes(caplog) == []
    caplog.set_level(logging.DEBUG, "butter_middleware")
    buy(butter, "b")
    assert outcomes(caplog) == [f"{WHERE} -> kept: it waits for the other part of the checkout"]
