"""Which process of a host sends, and what the others know about it."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from processes import until
from shops import buy

from butter_middleware import Butter, SQLiteOutbox
from butter_middleware.delivery.delivery import Delivery


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "butter.db"


def look_again(butter: Butter) -> None:
    """Have the store's thread look for the lead at once, and wait until it has."""
    butter.pipeline.look_again()
    assert butter.pipeline.ask(lambda _store: True, otherwise=False)
    assert butter.pipeline.ask(lambda _store: True, otherwise=False)


def test_nobody_is_missed_while_nothing_waits(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A shop without a sidecar says so once something waits that no process delivers."""
    monkeypatch.setattr("butter_middleware.pipeline.leader.ALONE_SECONDS", 0.0)
    butter = make_butter(outbox=path, delivery="external")
    butter.pipeline.start()
    for _look in range(4):
        look_again(butter)
    assert "no process delivers" not in caplog.text
    buy(butter, "a")
    for _look in range(3):
        look_again(butter)
    until(lambda: "no process delivers" in caplog.text, "the alarm")


def test_an_app_that_starts_takes_no_lead_that_it_cannot_use(
    make_butter: Callable[..., Butter], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its HTTP client cannot be made, another process may lead, also if a lifespan begins meanwhile."""

    def fail(_delivery: Delivery) -> None:
        raise OSError

    monkeypatch.setattr("butter_middleware.pipeline.sender_thread.RESTART_SECONDS", 60.0)
    monkeypatch.setattr(Delivery, "prepare", fail)
    butter = make_butter(outbox=path)
    butter.pipeline.start()
    until(lambda: "delivering:OSError" in butter.status().faults and not butter.pipeline.leads, "the lead is let go")
    anyio.run(butter.pipeline.open)
    with closing(SQLiteOutbox(path).store()) as other:
        other.open()
        assert other.lead()
