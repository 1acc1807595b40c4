"""A capture that cannot be read is kept on disk without credentials. The start with the fix delivers it."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from asgi import JSON, body, drive, http_scope, sends, start
from outboxes import SteadyClock, open_files
from processes import until

from butter_middleware import Butter, ButterMiddleware, CheckoutResponse, CheckoutRoute, SQLiteOutbox, client_ip
from butter_middleware.testing import FakeButter

ORDER: dict[str, Any] = {"invoice": "in_1", "email": "shopper@example.com"}
SENT = {
    "customer_email": "shopper@example.com",
    "invoice_id": "in_1",
    "ipv4_address": "81.2.69.142",
    "psp": "stripe",
}


def good(response: CheckoutResponse) -> dict[str, Any]:
    return {"customer_email": response.json()["email"], "invoice_id": response.json()["invoice"]}


def raises(response: CheckoutResponse) -> dict[str, Any]:
    raise KeyError(response.json()["email"])


def lacks_email(response: CheckoutResponse) -> dict[str, Any]:
    return {"invoice_id": response.json()["invoice"]}


def bad_email(response: CheckoutResponse) -> dict[str, Any]:
    return {"customer_email": "nobody", "invoice_id": response.json()["invoice"]}


def nonsense(_response: CheckoutResponse) -> Any:
    return 42


def by_heart(_response: CheckoutResponse) -> dict[str, Any]:
    return {"customer_email": "shopper@example.com", "invoice_id": "in_1"}


def route(extract: Callable[[CheckoutResponse], Any], path: str = "/checkout/{cart}") -> CheckoutRoute:
    return CheckoutRoute(path, "stripe", extract)


def buy(butter: Butter, content: bytes, encoding: bytes = b"identity") -> None:
    """Serve one checkout with credentials in request and response."""
    headers = [*JSON, (b"content-encoding", encoding), (b"set-cookie", b"s=sesame")]
    scope = http_scope()
    scope["headers"] += [(b"cookie", b"s=sesame"), (b"authorization", b"Bearer sesame")]
    anyio.run(drive, ButterMiddleware(sends(start(headers=headers), body(content)), butter), scope)
    assert butter.flush()


def numbers(butter: Butter) -> tuple[int, int, int, int, int, int]:
    status = butter.status()
    return status.captured, status.parked, status.pending, status.delivered, status.dead, status.lost


def has_parked(butter: Butter, reason: str, times: int = 1) -> bool:
    return butter.status().skipped.get(f"parked:{reason}") == times


def has_duplicates(butter: Butter, times: int) -> bool:
    return butter.status().skipped.get("duplicate") == times


def on_disk(path: Path) -> tuple[str, str, bytes]:
    """Return the reason of the one parked capture, and all that is stored of it."""
    until(lambda: open_files() == 0, "the file is closed")
    connection = sqlite3.connect(path)
    try:
        ((reason, detail, head, content),) = connection.execute("SELECT reason, detail, head, body FROM captures")
        return str(reason), str(detail), head.encode() + content
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("first", "content", "encoding", "reason", "corrected"),
    [
        (raises, json.dumps(ORDER).encode(), b"identity", "extractor_error", good),
        (nonsense, json.dumps(ORDER).encode(), b"identity", "unreadable", good),
        (lacks_email, json.dumps(ORDER).encode(), b"identity", "no_email", good),
        (bad_email, json.dumps(ORDER).encode(), b"identity", "invalid", good),
        # Cut off, or in an unknown coding: an extractor that needs no body can still read it.
        (good, b'{"invoice": "in_', b"identity", "unreadable", by_heart),
        (good, b"\x00\x01", b"x-rot13", "unreadable", by_heart),
        (good, b"not gzip at all", b"gzip", "unreadable", by_heart),
    ],
)
def test_a_deploy_with_the_fix_delivers_it(
    make_butter: Callable[..., Butter],
    fake: FakeButter,
    tmp_path: Path,
    first: Callable[[CheckoutResponse], Any],
    content: bytes,
    encoding: bytes,
    reason: str,
    corrected: Callable[[CheckoutResponse], Any],
) -> None:
    """The reason is stored without credentials or quotes. Once the extractor is fixed, the record is sent."""
    path = tmp_path / "butter.db"
    broken = make_butter(route(first), outbox=path)
    buy(broken, content, encoding)
    assert numbers(broken) == (1, 1, 0, 0, 0, 0)
    assert broken.status().skipped == {f"parked:{reason}": 1}
    broken.close()
    assert fake.records == []
    why, detail, stored = on_disk(path)
    assert why == reason
    assert detail
    assert "shopper@" not in detail
    assert content in stored
    assert b"sesame" not in path.read_bytes()
    fixed = make_butter(route(corrected), outbox=path)
    fixed.pipeline.start()
    until(lambda: fixed.status().delivered == 1, "the record")
    assert numbers(fixed) == (1, 0, 0, 1, 0, 0)
    assert fake.records == [SENT]
    assert (fixed.status().coverage.covered, fixed.status().coverage.missed) == (1, {})


def test_a_fixed_strategy_finds_the_address(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path
) -> None:
    """The configuration counts one proxy too many, so the checkout has no address. It is sent once this is fixed."""
    path = tmp_path / "butter.db"
    wrong = make_butter(route(good), outbox=path, client_ip=client_ip.TrustedHops(3))
    buy(wrong, json.dumps(ORDER).encode())
    assert numbers(wrong) == (1, 1, 0, 0, 0, 0)
    wrong.close()
    assert on_disk(path)[0] == "no_address"
    right = make_butter(route(good), outbox=path)
    right.pipeline.start()
    until(lambda: fake.records == [SENT], "the record")


def test_a_capture_stays_parked_without_a_fix(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path
) -> None:
    """Each start tries once more, with the current route or without one. Nothing is lost meanwhile."""
    path = tmp_path / "butter.db"
    butter = make_butter(route(raises), outbox=path)
    buy(butter, json.dumps(ORDER).encode())
    for made, reason, times in [
        (route(good, "/elsewhere"), "no_route", 1),
        (route(lacks_email), "no_email", 1),
        (route(raises), "extractor_error", 1),
    ]:
        butter.close()
        butter = make_butter(made, outbox=path)
        butter.pipeline.start()
        until(partial(has_parked, butter, reason, times), f"read: {reason}")
        assert butter.flush()
        assert butter.status().parked == 1
    assert fake.records == []
    butter.close()
    assert on_disk(path)[0] == "extractor_error"


def test_a_parked_capture_that_is_not_a_checkout_is_dropped(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path
) -> None:
    """A fixed extractor may return None. There is nothing to send then."""
    path = tmp_path / "butter.db"
    broken = make_butter(route(raises), outbox=path)
    buy(broken, json.dumps(ORDER).encode())
    broken.close()
    fixed = make_butter(route(lambda _response: None), outbox=path)
    fixed.pipeline.start()
    until(lambda: fixed.status().skipped == {"not_a_checkout": 1}, "the end of the capture")
    assert fixed.status().parked == 0
    assert fake.records == []


def test_good_records_of_a_parked_capture_are_sent(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path
) -> None:
    """The good records of a checkout are sent at once. After the fix the others are sent, and none twice."""
    path = tmp_path / "butter.db"
    halves: list[dict[str, Any]] = [
        {"customer_email": "shopper@example.com", "invoice_id": "in_1"},
        {"customer_email": "nobody", "invoice_id": "in_2"},
    ]
    broken = make_butter(route(lambda _response: halves), outbox=path)
    buy(broken, json.dumps(ORDER).encode())
    assert numbers(broken) == (1, 1, 0, 1, 0, 0)
    broken.close()
    whole = [half | {"customer_email": "shopper@example.com"} for half in halves]
    fixed = make_butter(route(lambda _response: whole), outbox=path)
    fixed.pipeline.start()
    until(lambda: fixed.status().delivered == 2, "the other record")
    assert [sent["invoice_id"] for sent in fake.records] == ["in_1", "in_2"]
    assert fixed.status().skipped == {"duplicate": 1}
    assert numbers(fixed) == (1, 0, 0, 2, 0, 0)


def forgotten(path: Path, clock: SteadyClock) -> None:
    """Let days pass until the keys of delivered records are deleted."""
    store = SQLiteOutbox(path, clock=clock).store()
    store.open()
    clock.pass_(9 * 86400)
    for _ in range(30):
        store.prune()
        clock.pass_(60)
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM tombstones").fetchone() == (0,)


def test_a_good_record_of_a_parked_capture_is_sent_once(
    make_butter: Callable[..., Butter], fake: FakeButter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starts after its tombstone is gone do not send it again, and neither does the start with the fix."""
    path, clock = tmp_path / "butter.db", SteadyClock.installed(monkeypatch)
    good_half = {"customer_email": "shopper@example.com", "invoice_id": "in_1"}
    halves = [good_half, {"customer_email": "nobody", "invoice_id": "in_2"}]
    butter = make_butter(route(lambda _response: halves), outbox=path, clock=clock)
    buy(butter, json.dumps(ORDER).encode())
    for start_number in range(2):
        butter.close()
        forgotten(path, clock)
        butter = make_butter(route(lambda _response: halves), outbox=path, clock=clock)
        butter.pipeline.start()
        until(partial(has_duplicates, butter, 1 + start_number), "it is read")
        assert butter.flush()
        assert [sent["invoice_id"] for sent in fake.records] == ["in_1"]
    butter.close()
    forgotten(path, clock)
    whole = [good_half, good_half | {"invoice_id": "in_2"}]
    corrected = make_butter(route(lambda _response: whole), outbox=path, clock=clock)
    corrected.pipeline.start()
    until(lambda: corrected.status().delivered == 2, "the other record")
    assert [sent["invoice_id"] for sent in fake.records] == ["in_1", "in_2"]
    # Three starts found the good record again. The first two left the other one parked.
    assert (corrected.status().parked, corrected.status().skipped) == (0, {"duplicate": 3})
