"""Counts of several processes on one file: each process reports the host's counts, also after a restart."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner
from processes import HERE, until
from shops import SHOPPER, buy

from butter_middleware import Beacon, Butter
from butter_middleware.cli import cli
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.server
OWN = {"endpoint", "age", "oldest_pending_age", "last_delivery_at"}
"""Values of one process, or of the moment."""
TOKEN = Beacon(["https://shop.example"], bind="header:x-cart", keys=["k" * 32]).issue


class Shop:
    """A process with a shop that executes commands. It is killed at the end of the test at the latest."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "servers" / "counting_shop.py"), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, command: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def status(self) -> dict[str, Any]:
        return {name: value for name, value in self.ask("status").items() if name not in OWN}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process.returncode is None:
            self.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "butter.db"


@pytest.fixture
def shops(path: Path) -> Iterator[Callable[[], Shop]]:
    """Start shops on one file."""
    started: list[Shop] = []

    def start() -> Shop:
        started.append(Shop(path))
        started[-1].ask("start")
        return started[-1]

    yield start
    for shop in started:
        shop.__exit__()


def test_each_process_reports_the_same_counts(shops: Callable[[], Shop], path: Path) -> None:
    """The leader, a standby, a process that starts after both have ended, and the command line agree."""
    leader = shops()
    until(lambda: leader.ask("leads"), "the lead")
    standby = shops()
    until(lambda: standby.ask("deliverer") == leader.process.pid, "the standby knows who delivers")
    standby.ask("buy a b free")
    leader.ask("buy c text refused")
    standby.ask("late")
    assert standby.ask("flush")
    until(lambda: leader.status() == standby.status(), "the counts that are written every five seconds")
    said = leader.status()
    assert said["captured"] == 4
    assert said["skipped"] == {"not_json": 1, "status": 1, "parked:invalid": 1}
    assert said["strength"] == {"invoice_id": 3}
    assert said["coverage"] == {"covered": 3, "missed": {"not_json": 1, "parked:invalid": 1}}
    assert said["not_durable_in_time"] == 1
    assert leader.ask("health") == standby.ask("health") == ["parked", "coverage"]
    for shop in (leader, standby):
        shop.ask("close")
        shop.kill()
    late = shops()
    assert (late.status(), late.ask("health")) == (said, ["parked", "coverage"])
    command = CliRunner().invoke(cli, ["status", "--outbox", str(path), "--json"])
    assert command.stdout, command.output + repr(command.exc_info)
    told = json.loads(command.stdout)
    assert {name: told[name] for name in ("skipped", "lost", "not_durable_in_time")} == {
        name: said[name] for name in ("skipped", "lost", "not_durable_in_time")
    }
    assert told["coverage"] == {**said["coverage"], "ratio": 0.6}
    assert [reason["code"] for reason in told["attention"]] == ["parked", "coverage"]
    assert "3 of 5 checkouts became records" in CliRunner().invoke(cli, ["status", "--outbox", str(path)]).stdout


def test_a_kill_loses_no_count_of_a_read_capture(shops: Callable[[], Shop]) -> None:
    """The result of a capture is counted in the transaction that writes it."""
    shop = shops()
    shop.ask("buy a b")
    until(lambda: shop.status()["strength"] == {"invoice_id": 2}, "both are read")
    shop.kill()
    said = shops().status()
    assert (said["strength"], said["coverage"]["covered"]) == ({"invoice_id": 2}, 2)


def test_a_standby_counts_on_after_the_leader_is_gone(shops: Callable[[], Shop]) -> None:
    """A process that takes over continues the host's counts."""
    leader = shops()
    until(lambda: leader.ask("leads"), "the lead")
    leader.ask("buy a")
    standby = shops()
    leader.ask("close")
    leader.kill()
    until(lambda: standby.ask("leads"), "the next lead")
    standby.ask("buy b")
    assert standby.ask("flush")
    said = standby.status()
    assert (said["captured"], said["coverage"]["covered"], said["delivered"]) == (2, 2, 2)


def test_a_token_proves_one_checkout_per_host(shops: Callable[[], Shop]) -> None:
    """Another process refuses it, and so does one that starts after a kill. The same checkout may be repeated."""
    token = TOKEN(SHOPPER, "7", time.time())
    first, second = shops(), shops()
    first.ask(f"redeem {token} a")
    assert first.ask("flush")
    until(lambda: first.status()["coverage"]["covered"] == 1, "it is read")
    second.ask(f"redeem {token} b")
    second.ask(f"redeem {token} a")
    assert second.ask("flush")
    said = second.status()
    assert (said["coverage"]["covered"], said["skipped"]) == (2, {"no_address:token_replayed": 1, "duplicate": 1})
    for shop in (first, second):
        shop.kill()
    third = shops()
    third.ask(f"redeem {token} c")
    until(lambda: third.status()["skipped"].get("no_address:token_replayed") == 2, "it is refused again")
    assert third.status()["strength"] == {"invoice_id": 2}


def test_a_butter_that_closes_leaves_its_counts_to_the_other(
    make_butter: Callable[..., Butter], fake: FakeButter, path: Path
) -> None:
    """Two on one file in one process: the second sees the first one's counts at once."""
    first, second = make_butter(outbox=path), make_butter(outbox=path)
    second.pipeline.start()
    buy(first, "a", "text")
    first.close()
    status = second.status()
    assert (status.captured, status.skipped, len(fake.records)) == (1, {"not_json": 1}, 1)
    assert first.status().skipped == {"not_json": 1}
