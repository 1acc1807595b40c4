"""`butter-middleware backfill`, run as on a command line, against `FakeButter` on a real socket."""

import csv
import itertools
import json
import os
import pty
import re
import resource
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio.to_thread
import click
import pytest
from click.testing import CliRunner, Result
from processes import misbehaving, served, until
from shops import CREDENTIALS

from butter_middleware.backfill.intake import OTHER_ADDRESS
from butter_middleware.backfill.journal import Journal, Mark
from butter_middleware.cli import cli, output
from butter_middleware.delivery.http import ssl_context
from butter_middleware.testing import FakeButter

HEADER = "Email,IP address,Invoice ID,Note"
PERSONAL = ["shopper0", "81.2.69", "nobody"]


def line(number: int, **changes: str) -> str:
    cells = {"email": f"shopper{number}@example.com", "ip": "81.2.69.142", "invoice": f"in_{number}", "note": "x, y"}
    return ",".join(f'"{value}"' for value in (cells | changes).values())


def rows(count: int) -> list[str]:
    return [line(number) for number in range(count)]


class Shop:
    """A directory with a file, and the command that sends it."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.environment = {"BUTTER_BASE_URL": url}
        self.file = directory / "year.csv"
        self.rejects = directory / "year.csv.rejects.csv"
        self.progress = directory / "year.csv.butter-progress"

    def write(self, lines: list[str], header: str = HEADER) -> None:
        self.file.write_text("".join(f"{text}\n" for text in [header, *lines]), encoding="utf-8")

    def run(self, *arguments: str, file: str | None = None, psp: bool = True) -> Result:
        command = ["backfill", file or str(self.file), *arguments]
        return CliRunner(env=self.environment).invoke(cli, command + (["--set", "psp=stripe"] if psp else []))

    def pipe(self, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command in a separate process, with a pipe."""
        command = [sys.executable, "-m", "butter_middleware", "backfill", "-", "--json", "--set", "psp=stripe"]
        return subprocess.run(
            [*command, *arguments],
            env=os.environ | self.environment,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def document(self, *arguments: str, code: int = 0, **options: Any) -> dict[str, Any]:
        result = self.run("--json", *arguments, **options)
        assert result.exit_code == code, result.output
        content: dict[str, Any] = json.loads(result.stdout)
        return content


@pytest.fixture
def shop(tmp_path: Path, fake: FakeButter, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("BUTTER_USERNAME", CREDENTIALS["username"])
    monkeypatch.setenv("BUTTER_PASSWORD", CREDENTIALS["password"])
    with served(fake) as url:
        yield Shop(tmp_path, url)


def invoices(fake: FakeButter) -> Counter[str]:
    return Counter(record["invoice_id"] for record in fake.records)


def test_a_file_is_sent(shop: Shop, fake: FakeButter) -> None:
    """Every line is sent once, and the summary counts them."""
    shop.write(rows(100))
    result = shop.run()
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["100 sent, of 100 lines read"]
    assert invoices(fake) == Counter({f"in_{number}": 1 for number in range(100)})
    assert fake.records[0].keys() == {"customer_email", "ipv4_address", "psp", "invoice_id"}
    assert not shop.rejects.exists()


def test_the_same_file_again_sends_nothing(shop: Shop, fake: FakeButter) -> None:
    """If lines are added, only those are sent."""
    shop.write(rows(10))
    shop.run()
    assert shop.document()["sent_in_this_run"] == 0
    assert shop.run().stdout.splitlines() == ["10 sent, 10 of them in an earlier run, of 10 lines read"]
    shop.write(rows(12))
    found = shop.document()
    assert (found["sent_in_this_run"], found["sent"], found["read"]) == (2, 12, 12)
    assert invoices(fake) == Counter({f"in_{number}": 1 for number in range(12)})


def test_lines_that_give_no_record_are_kept_with_the_reason(shop: Shop, fake: FakeButter) -> None:
    """The file of rejects has the same form, and only its owner can read it. Corrected, it can be sent itself."""
    broken = [
        line(1, email="nobody", note="a carriage return\rin a cell"),
        *(line(2, ip="10.0.0.1"), line(3, invoice=""), '"open,1,2', line(0)),
    ]
    shop.write([*rows(1), *broken])
    result = shop.run()
    assert result.exit_code == 1
    assert "4 rejected, each with its reason in" in result.stdout
    assert "1 left out as duplicates" in result.stdout
    assert [text for text in PERSONAL if text in result.output] == []
    assert shop.rejects.stat().st_mode & 0o777 == 0o600
    with shop.rejects.open(newline="") as file:
        rejected = list(csv.DictReader(file))
    assert [(row["reject_line"], row["Email"]) for row in rejected[:3]] == [
        ("3", "nobody"),
        ("4", "shopper2@example.com"),
        ("5", "shopper3@example.com"),
    ]
    assert rejected[0]["reject_reason"] == "customer_email: not an e-mail address"
    assert (rejected[3]["reject_line"], rejected[3]["Email"]) == ("6", '"open,1,2')
    rejects = shop.rejects.read_bytes()
    again = shop.directory / "corrected.csv"
    again.write_bytes(rejects.replace(b"nobody", b"shopper1@example.com").replace(b"10.0.0.1", b"81.2.69.142"))
    found = shop.document(code=1, file=str(again))
    assert (found["sent"], found["rejected"]) == (2, 2)
    assert invoices(fake) == Counter({"in_0": 1, "in_1": 1, "in_2": 1})
    header = Path(f"{again}.rejects.csv").read_text().splitlines()[0]
    assert header == f"reject_line,reject_reason,{HEADER}"


def test_json_lines_keep_their_form(shop: Shop, fake: FakeButter) -> None:
    """Keys are mapped like columns, and nested ones by expressions."""
    file = shop.directory / "year.jsonl"
    good = {"customer": {"email": "a@example.com"}, "ip": "81.2.69.142", "psp": "adyen", "invoice": 7}
    file.write_text(f"{json.dumps(good)}\n{{broken\n{json.dumps(good | {'ip': '::1'})}\n")
    arguments = ("--map", "customer_email=customer.email")
    found = shop.document(*arguments, code=1, file=str(file), psp=False)
    assert (found["sent"], found["rejected"]) == (1, 2)
    assert fake.records[0]["invoice_id"] == "7"
    rejects = [json.loads(text) for text in Path(f"{file}.rejects.jsonl").read_text().splitlines()]
    assert rejects == [
        {"reject_text": "{broken", "reject_line": 2, "reject_reason": "not JSON"},
        good | {"ip": "::1", "reject_line": 3, "reject_reason": "ipv4_address: IPv6, which Butter does not take"},
    ]


def test_a_line_that_butter_refuses_is_rejected(shop: Shop, fake: FakeButter) -> None:
    """A 422 rejects the line. The reason has Butter's answer."""
    fake.respond_with(200, 422)
    shop.write(rows(10))
    found = shop.document("--concurrency", "1", code=1)
    # The first answer was to the check of the credentials.
    assert (found["sent"], found["rejected"], found["reasons"]) == (9, 1, {"Butter answers 422": 1})
    with shop.rejects.open(newline="") as file:
        (rejected,) = csv.DictReader(file)
    assert (rejected["reject_line"], rejected["Invoice ID"], rejected["Note"]) == ("2", "in_0", "x, y")


def test_a_dry_run_sends_nothing_and_leaves_nothing(shop: Shop, fake: FakeButter) -> None:
    """It shows the columns, the first records masked, and the lines that would be rejected, with the reasons."""
    shop.write([*rows(5), line(4), line(9, email="nobody")])
    result = shop.run("--dry-run")
    assert result.exit_code == 1
    for text in ("customer_email", "Email", "the value 'stripe'", "s***@example.com", "81.2.x.x", "in_0"):
        assert text in result.stdout
    assert "5 would be sent, of 7 lines\n  5 with invoice_id\n1 left out as duplicates" in result.stdout
    assert "1 would be rejected:\n  1 customer_email: not an e-mail address\nNothing was sent." in result.stdout
    assert [text for text in PERSONAL if text in result.output] == []
    assert "shopper0@example.com" in shop.run("--dry-run", "--reveal").stdout
    assert (fake.requests, list(shop.directory.iterdir())) == (0, [shop.file])
    found = shop.document("--dry-run", "--rejects", str(shop.rejects), code=1)
    assert (found["would_send"], found["columns"]["customer_email"]) == (5, "Email")
    assert len(shop.rejects.read_text().splitlines()) == 2


def test_a_dry_run_needs_no_credentials(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real run does. It first says which are missing."""
    monkeypatch.delenv("BUTTER_PASSWORD")
    shop.write(rows(2))
    assert shop.run("--dry-run").exit_code == 0
    result = shop.run()
    assert (result.exit_code, "BUTTER_PASSWORD" in result.stderr) == (3, True)
    assert list(shop.directory.iterdir()) == [shop.file]


# When Butter fails


def test_wrong_credentials_stop_it_at_once(shop: Shop, fake: FakeButter, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is sent. After a correction, the same command sends them."""
    monkeypatch.setenv("BUTTER_PASSWORD", "wrong")
    shop.write(rows(20))
    result = shop.run()
    assert result.exit_code == 3
    assert "answer 401: Butter does not take the credentials: check BUTTER_USERNAME, BUTTER_PASSWORD" in result.stderr
    assert "Then run the same command: it sends the rest" in result.stderr
    assert fake.requests == 1
    monkeypatch.setenv("BUTTER_PASSWORD", CREDENTIALS["password"])
    assert shop.document()["sent"] == 20


def test_a_client_is_needed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong SSL_CERT_FILE ends it with the fix. After a correction, the same command sends every line."""
    shop.write(rows(2))
    ssl_context.cache_clear()
    with monkeypatch.context() as wrong:
        wrong.setenv("SSL_CERT_FILE", str(shop.file))
        result = shop.run()
    assert (result.exit_code, "Set SSL_CERT_FILE to" in result.stderr) == (3, True)
    assert shop.document()["sent"] == 2


def test_credentials_that_end_in_the_middle(shop: Shop, fake: FakeButter) -> None:
    """The hold ends the run, with an exit code and what to do. The same command sends the rest."""
    shop.write(rows(60))
    fake.respond_with(*[200] * 21, *[401] * 8)
    result = shop.run("--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["ending"] == "held"
    assert "on hold, answer 401" in result.stderr
    fake._next.clear()
    assert shop.document()["ending"] == "done"
    assert invoices(fake) == Counter({f"in_{number}": 1 for number in range(60)})


def test_an_outage_is_shown_until_it_ends(shop: Shop, fake: FakeButter, monkeypatch: pytest.MonkeyPatch) -> None:
    """It probes from time to time, like the app's delivery. No line's attempts go up, and all arrive."""
    monkeypatch.setattr("butter_middleware.delivery.circuit_breaker.PROBE_LEAST", 0.2)
    shop.write(rows(30))
    fake.respond_with(200, *[503] * 8)
    result = shop.run()
    assert result.exit_code == 0, result.output
    assert "Butter does not answer (503); records wait" in result.stderr
    assert re.search(r"^backfill: .* sent, .*Butter does not answer", result.stderr, re.MULTILINE)
    assert "records are accepted again" in result.stderr
    assert invoices(fake) == Counter({f"in_{number}": 1 for number in range(30)})


def test_a_post_that_broke_off_is_reported(shop: Shop) -> None:
    """It is sent again, as in the app. The summary says that Butter may have it twice."""
    answered = itertools.count()

    def behave(connection: socket.socket) -> None:
        connection.settimeout(0.2)
        with suppress(TimeoutError):
            connection.recv(65536)  # the body, if it comes separately from the head
        if next(answered) != 2:
            connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")

    shop.write(rows(3))
    with misbehaving(behave) as url:
        shop.environment["BUTTER_BASE_URL"] = url
        result = shop.run("--concurrency", "1")
    assert result.exit_code == 0, result.output
    assert "3 sent, of 3" in result.stdout
    assert "1 time a post broke off without an answer" in result.stdout


def test_lines_that_butter_fails_on_end_the_run(shop: Shop, fake: FakeButter, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not lost. The same command tries them again."""
    shop.write(rows(1))
    fake.respond_with(200, *[500] * 3)
    monkeypatch.setattr("butter_middleware.backfill.engine.RETRY_SECONDS", 0.0)
    found = shop.document(code=1)
    assert (found["ending"], found["waiting"]) == ("unfinished", 1)
    fake._next.clear()


def test_a_last_line_that_gets_502_each_time_ends_the_run(
    shop: Shop, fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Butter then seems to be away. The run waits, but not for ever. It names the answer and the line."""
    shop.write(rows(1))
    fake.respond_with(200, *[502] * 6)
    monkeypatch.setattr("butter_middleware.backfill.engine.RETRY_SECONDS", 0.5)
    result = shop.run()
    assert result.exit_code == 1
    assert "1 waiting: read, and not sent yet. Lines: 2\n" in result.stdout
    assert "Butter failed on some lines again and again. Its last answer was 502. Run" in result.stdout
    fake._next.clear()
    assert shop.document()["sent"] == 1


# Stopped, then continued


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_between_two_lines(
    shop: Shop, fake: FakeButter, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """It waits for the lines in flight, so that nothing is uncertain. The same command sends the rest."""
    shop.write(rows(200))
    answer, stopped = fake.answer, threading.Event()

    async def answer_no_more(*request: Any) -> tuple[int, dict[str, Any]]:
        if len(fake.records) >= 20:
            await anyio.to_thread.run_sync(stopped.wait, 60)
        return await answer(*request)

    def stop() -> None:
        until(lambda: len(fake.records) >= 20, "some lines are accepted")
        os.kill(os.getpid(), number)
        stopped.set()

    monkeypatch.setattr(fake, "answer", answer_no_more)

    stopper = threading.Thread(target=stop)
    stopper.start()
    result = shop.run()
    stopper.join()
    assert result.exit_code == 1
    assert "Stopped before the end. The same command sends the rest" in result.stdout
    assert 20 <= len(fake.records) < 200
    sent = len(fake.records)
    found = shop.document()
    assert (found["ending"], found["sent_in_this_run"], found["uncertain"]) == ("done", 200 - sent, 0)
    assert invoices(fake) == Counter({f"in_{number}": 1 for number in range(200)})


def crash(shop: Shop, lines: int) -> None:
    """Leave the journal as after a kill while `lines` were in flight."""
    with closing(sqlite3.connect(shop.progress, isolation_level=None)) as database:
        database.execute("UPDATE lines SET state = 1 WHERE number <= ?", (lines + 1,))


def begun(shop: Shop, fake: FakeButter) -> None:
    """Do a run that stops before it sends a line."""
    fake.respond_with(200, *[401] * 4)
    assert shop.run().exit_code == 3
    fake._next.clear()


def test_an_uncertain_line_is_not_sent_again_unasked(shop: Shop, fake: FakeButter) -> None:
    """Each run names the lines, until a person decides."""
    shop.write(rows(10))
    begun(shop, fake)
    crash(shop, 3)
    for _run in range(2):
        found = shop.document(code=1)
        assert (found["sent"], found["uncertain"], found["uncertain_lines"]) == (7, 3, [2, 3, 4])
    result = shop.run()
    assert "They are not sent again, unless you say --resend-uncertain. Lines: 2, 3, 4" in result.stdout
    assert invoices(fake) == Counter({f"in_{number}": 1 for number in range(3, 10)})
    assert shop.document("--resend-uncertain")["sent"] == 10
    assert invoices(fake) == Counter({f"in_{number}": 1 for number in range(10)})


def test_two_processes_do_not_send_the_same_file(shop: Shop, fake: FakeButter) -> None:
    """The second one reports it, and ends with 4."""
    shop.write(rows(3))
    begun(shop, fake)
    with closing(Journal(shop.progress)):
        result = shop.run()
    assert result.exit_code == 4
    assert "another process is sending this file" in result.stderr
    assert shop.document()["sent"] == 3


def test_a_file_that_has_changed_is_read_from_its_start(shop: Shop, fake: FakeButter) -> None:
    """A line that was sent is known by its IDs, whatever its number is now."""
    shop.write(rows(5))
    shop.run()
    shop.write([line(7), *rows(5)])
    found = shop.document()
    assert (found["sent_in_this_run"], found["duplicates"], found["read"]) == (1, 0, 6)
    assert invoices(fake) == Counter({f"in_{number}": 1 for number in (0, 1, 2, 3, 4, 7)})


def test_other_ids_are_refused_once_lines_were_sent(shop: Shop, fake: FakeButter) -> None:
    """Other IDs make other records. Other fields may change, and so may a mapping that gave no record."""
    shop.write([f"{text},cus_{number}" for number, text in enumerate(rows(5))], f"{HEADER},Ref")
    wrong = ("--map", "customer_email=Note")
    assert shop.document(*wrong, code=1)["rejected"] == 5
    assert shop.document()["sent"] == 5
    assert not shop.rejects.exists()
    assert shop.document("--map", "customer_id=Ref")["sent_in_this_run"] == 0
    result = shop.run("--map", "charge_id=Ref")
    assert (result.exit_code, len(fake.records)) == (3, 5)
    assert "charge_id came from another column or value" in result.stderr
    other = str(shop.directory / "other")
    assert shop.document("--map", "charge_id=Ref", "--progress", other)["sent_in_this_run"] == 5


def test_another_account_is_refused(shop: Shop, fake: FakeButter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Production does not have what a sandbox got. For a new username of the same account there is an option."""
    shop.write(rows(3))
    shop.run()
    shop.environment["BUTTER_ENVIRONMENT"] = "staging"
    result = shop.run()
    assert result.exit_code == 3
    assert "is about another account (production at" in result.stderr
    assert shop.document("--progress", str(shop.directory / "other"))["sent"] == 3
    del shop.environment["BUTTER_ENVIRONMENT"]
    monkeypatch.setenv("BUTTER_USERNAME", "renamed")
    assert "or another username" in shop.run().stderr
    fake._expected = b"Basic cmVuYW1lZDpzM2NyZXQtcGFzcw=="
    assert shop.document("--same-account")["ending"] == "done"


def test_lines_of_a_pipe(shop: Shop, fake: FakeButter) -> None:
    """The journal needs a name. The same pipe again, in any order, only sends new lines."""
    progress = ("--progress", str(shop.directory / "year"))
    assert "--progress" in shop.pipe("").stderr
    text = "".join(f"{one}\n" for one in [HEADER, *rows(5), line(9, email="nobody")])
    first = shop.pipe(text, *progress)
    assert (first.returncode, json.loads(first.stdout)["sent"]) == (1, 5)
    again = "".join(f"{one}\n" for one in [HEADER, *reversed(rows(8)), line(9, email="nobody")])
    found = json.loads(shop.pipe(again, *progress).stdout)
    assert (found["sent_in_this_run"], found["sent"], found["duplicates"], found["rejected"]) == (3, 8, 0, 1)
    assert invoices(fake) == Counter({f"in_{number}": 1 for number in range(8)})
    assert (shop.directory / "year.rejects.csv").stat().st_mode & 0o777 == 0o600


def test_a_line_that_cannot_be_read_ends_it_after_those_before(shop: Shop, fake: FakeButter) -> None:
    """The error names the place and the option. With this option, the same command continues from there."""
    shop.file.write_bytes("\n".join([HEADER, *rows(5), line(5, note="Käthe"), line(6)]).encode("cp1252"))
    result = shop.run()
    assert result.exit_code == 3
    assert "line 7: byte" in result.stderr
    assert "--encoding cp1252" in result.stderr
    assert len(fake.records) == 5
    assert shop.document("--encoding", "cp1252")["sent"] == 7


# Before it sends


class Terminal:
    """The command on a new terminal, with a production that does not answer."""

    def __init__(self, shop: Shop, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.shown = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "butter_middleware", "backfill", str(shop.file), "--set", "psp=stripe", *arguments],
            env=os.environ | {"BUTTER_BASE_URL": "https://127.0.0.1:9", "COLUMNS": "100", "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def read(self, until: str = "\0") -> str:
        """Read until the text comes, or the command ends."""
        with suppress(OSError):  # the other side is closed
            while until not in self.shown:
                assert select.select([self._ours], [], [], 30)[0], self.shown
                self.shown += os.read(self._ours, 4096).decode("utf-8", "replace")
        return self.shown

    def end(self, number: int = signal.SIGINT) -> int:
        self._process.send_signal(number)
        self.read()
        os.close(self._ours)
        return self._process.wait(30)


def test_it_asks_before_it_sends_to_production(shop: Shop) -> None:
    """The question has the number of records that are not sent yet. The default answer is no."""
    shop.write([*rows(1970), line(0), line(9, email="nobody")])
    terminal = Terminal(shop)
    assert "Send 1,970 records to Butter production? [y/N]:" in terminal.read("[y/N]:")
    terminal.type("\n")
    assert "Nothing was sent." in terminal.read()
    assert terminal.end() == 1
    assert not shop.rejects.exists()


def test_yes_is_the_answer_to_send(shop: Shop) -> None:
    """It can be typed, or given with --yes."""
    shop.write(rows(1))
    terminal = Terminal(shop)
    assert "Send 1 record to Butter production? [y/N]:" in terminal.read("[y/N]:")
    terminal.type("y\n")
    terminal.read("does not answer")
    assert terminal.end() == 1
    assert "Stopped before the end" in terminal.shown
    terminal = Terminal(shop, "--yes")
    assert "[y/N]" not in terminal.read("does not answer")
    assert terminal.end() == 1


# Its files


def test_the_journal_holds_no_personal_data_of_what_was_sent(shop: Shop) -> None:
    """Only the owner can read it. For a line that was sent, it has only a digest and a number."""
    shop.write(rows(50))
    shop.run()
    assert shop.progress.stat().st_mode & 0o777 == 0o600
    content = shop.progress.read_bytes()
    assert [text for text in ("shopper", "example.com", "81.2.69", "in_1") if text.encode() in content] == []
    assert sorted(path.name for path in shop.directory.iterdir()) == ["year.csv", "year.csv.butter-progress"]


def test_another_file_at_the_place_of_the_rejects_is_kept(shop: Shop) -> None:
    """It is not overwritten."""
    shop.rejects.write_text("somebody's work")
    shop.write([*rows(1), line(2, email="nobody")])
    result = shop.run()
    assert (result.exit_code, "is another file" in result.stderr) == (3, True)
    assert shop.rejects.read_text() == "somebody's work"


def test_each_run_writes_all_rejects(shop: Shop, fake: FakeButter) -> None:
    """This includes those that Butter refused in an earlier run. A person's corrections are not overwritten."""
    fake.respond_with(200, 422)
    shop.write([*rows(2), line(2, email="nobody"), line(3, email="nobody")])
    assert shop.document("--concurrency", "1", code=1)["sent"] == 1
    shop.write([*rows(2), line(2, email="nobody"), line(3)])
    for _run in range(2):
        found = shop.document(code=1)
        with shop.rejects.open(newline="") as file:
            rejected = [(row["reject_line"], row["reject_reason"]) for row in csv.DictReader(file)]
        assert rejected == [("2", "Butter answers 422"), ("4", "customer_email: not an e-mail address")]
        assert (found["sent"], found["rejected"], sum(found["reasons"].values())) == (2, 2, 2)
    corrected = shop.rejects.read_text().replace("nobody", "shopper2@example.com")
    shop.rejects.write_text(corrected)
    result = shop.run()
    assert (result.exit_code, "edited since the last run" in result.stderr) == (3, True)
    assert shop.rejects.read_text() == corrected


def test_the_rejects_of_a_killed_run_are_replaced(shop: Shop, fake: FakeButter) -> None:
    """Their size is not known, so they are written again, each line once."""
    fake.respond_with(200, *[401] * 4)
    shop.write([*rows(1), line(2, email="nobody")])
    shop.run()
    with closing(sqlite3.connect(shop.progress, isolation_level=None)) as database:
        database.execute("UPDATE meta SET value = ? WHERE name = 'rejects'", (json.dumps({str(shop.rejects): None}),))
    with shop.rejects.open("a") as file:
        file.write("3,reason,half a li")
    fake._next.clear()
    shop.run()
    assert [row.split(",")[0] for row in shop.rejects.read_text().splitlines()] == ["reject_line", "3"]


def test_a_planted_link_is_not_followed(shop: Shop) -> None:
    """The target of the link is not changed."""
    target = shop.directory / "target"
    target.write_text("somebody's work")
    shop.rejects.symlink_to(target)
    shop.write([*rows(1), line(2, email="nobody")])
    result = shop.run()
    assert (result.exit_code, "is a link. Move it away" in result.stderr) == (3, True)
    assert target.read_text() == "somebody's work"


def test_rejects_have_no_formulas(shop: Shop, fake: FakeButter) -> None:
    """A spreadsheet that opens them runs no formula. As an input they have the original text."""
    notes = ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(1)", "\tx", "'=1", "'x", "1=1"]
    cells = [[f"shopper{number}@example.com", "10.0.0.1", f"in_{number}", note] for number, note in enumerate(notes)]
    with shop.file.open("w", newline="") as file:
        csv.writer(file).writerows([["Email", "IP address", "Invoice ID", "=Note"], *cells])
    assert shop.run().exit_code == 1
    with shop.rejects.open(newline="") as file:
        rejected = list(csv.reader(file))
    assert rejected[0][-1] == "'=Note"
    assert [row[-1] for row in rejected[1:]] == [*(f"'{note}" for note in notes[:6]), "'x", "1=1"]
    corrected = shop.directory / "corrected.csv"
    corrected.write_text(shop.rejects.read_text().replace("10.0.0.1", "81.2.69.142"))
    assert shop.document("--map", "user_agent==Note", file=str(corrected))["sent"] == len(notes)
    agents = {record["invoice_id"]: record["user_agent"] for record in fake.records}
    assert agents == {f"in_{number}": note.strip() for number, note in enumerate(notes)}


def test_an_id_that_a_spreadsheet_shortened_is_rejected(shop: Shop, fake: FakeButter) -> None:
    """Three shoppers would be one, with an ID that no payment has. The reason says what to do."""
    shop.write([line(number, invoice="8.51513E+15") for number in range(3)])
    found = shop.document(code=1)
    reason = "invoice_id: shortened by a spreadsheet. Export it again, with the column as text"
    assert (found["reasons"], fake.records) == ({reason: 3}, [])


def test_one_id_with_different_people_is_reported(shop: Shop, fake: FakeButter) -> None:
    """Each run names the lines, also a dry run, and also if another ID differs."""
    header = f"{HEADER},Charge"
    shop.write(
        [
            f"{line(0)},ch_0",
            f"{line(1, invoice='in_0')},ch_1",  # another shopper with the first one's invoice
            f"{line(0)},ch_0",  # the same page, reloaded
            f"{line(3, email='SHOPPER0@example.com', invoice='in_0')},ch_3",  # a second payment of the invoice
            f"{line(4, invoice='in_0')},ch_0",  # the record of the first line, and another shopper's
        ],
        header,
    )
    dry = shop.document("--dry-run", code=1)
    assert (dry["strangers"], dry["stranger_lines"], dry["would_send"], dry["duplicates"]) == (2, [3, 6], 3, 2)
    for _run in range(2):
        found = shop.document(code=1)
        assert (found["strangers"], found["stranger_lines"], found["sent"]) == (2, [3, 6], 3)
    told = shop.run().stdout
    assert "2 lines have an ID of an earlier line, and another shopper's e-mail address." in told
    assert "Lines: 3, 6" in told
    assert len(fake.records) == 3


def test_no_checkout_is_sent_with_two_addresses(shop: Shop, fake: FakeButter) -> None:
    """A line with an ID of an earlier line and another address is rejected, also in a dry run."""
    lines = [f"{line(0)},ch_0", f"{line(1, invoice='in_0', ip='8.8.8.8')},ch_1", f"{line(2, invoice='in_0')},ch_2"]
    shop.write(lines, f"{HEADER},Charge")
    dry = shop.document("--dry-run", code=1)
    assert (dry["rejected"], dry["would_send"]) == (1, 2)
    for _run in range(2):
        found = shop.document(code=1)
        assert (found["rejected"], found["sent"], list(found["reasons"])) == (1, 2, [OTHER_ADDRESS])
    assert {sent["ipv4_address"] for sent in fake.records} == {"81.2.69.142"}


def test_a_line_that_was_not_sent_may_be_corrected(shop: Shop, fake: FakeButter) -> None:
    """A line's address and e-mail count in later runs only if it was sent."""
    header = f"{HEADER},Charge"
    refusing = FakeButter(**CREDENTIALS)
    refusing.respond_with(*[403] * 100)
    shop.write([f"{line(number, ip='8.8.8.8', email='a@example.com')},ch_{number}" for number in range(9)], header)
    with served(refusing) as url:
        shop.environment["BUTTER_BASE_URL"], butter = url, shop.environment["BUTTER_BASE_URL"]
        found = shop.document(code=3)
    assert (found["ending"], found["waiting"], refusing.rejected > 1) == ("held", 9, True)
    shop.environment["BUTTER_BASE_URL"] = butter
    shop.write([f"{text},ch_{number}" for number, text in enumerate(rows(9))], header)
    found = shop.document()
    assert (found["sent"], found["rejected"], found["strangers"]) == (9, 0, 0)
    assert {sent["ipv4_address"] for sent in fake.records} == {"81.2.69.142"}
    shop.write([f"{line(0, ip='8.8.8.8')},ch_later"], header)
    assert list(shop.document(code=1)["reasons"]) == [OTHER_ADDRESS]


class Firewall(FakeButter):
    """A Butter behind a gateway that refuses one record until the two others have arrived."""

    async def answer(
        self, method: str, path: str, headers: Mapping[bytes, bytes], body: bytes
    ) -> tuple[int, dict[str, Any]]:
        if b'"in_0"' in body and len(self.records) < 2:
            return 502, {}
        return await super().answer(method, path, headers, body)


def test_a_line_that_a_firewall_stops_each_time_stops_no_other(shop: Shop) -> None:
    """While Butter seems to be away, each probe uses another line."""
    shop.write(rows(3))
    with served(Firewall(**CREDENTIALS)) as url:
        shop.environment["BUTTER_BASE_URL"] = url
        found = shop.document("--concurrency", "1")
    assert (found["ending"], found["sent"]) == ("done", 3)


def test_rejects_of_another_name_are_not_cut(shop: Shop) -> None:
    """The known size of one file is not used for another file."""
    shop.write([*rows(1), line(2, email="nobody")])
    shop.run()
    (shop.directory / "2025").mkdir()
    for other in (shop.directory / "other.csv", shop.directory / "2025" / shop.rejects.name):
        other.write_bytes(b"x" * shop.rejects.stat().st_size)
        assert shop.run("--rejects", str(other)).exit_code == 3
        assert set(other.read_bytes()) == set(b"x")


def test_a_missing_folder_of_the_rejects_is_an_error_before_a_line_is_read(shop: Shop, fake: FakeButter) -> None:
    shop.write(rows(1))
    found = shop.run("--rejects", str(shop.directory / "missing" / "rejects.csv"))
    assert (found.exit_code, found.stdout, fake.records) == (3, "", [])
    assert "missing does not exist. Create it, or name another file with --rejects." in found.stderr


def test_an_impossible_place_of_the_rejects_is_an_error_before_a_line_is_read(shop: Shop) -> None:
    shop.write([*rows(1), line(2, email="nobody")])
    found = shop.run("--rejects", str(shop.file / "below-a-file"))
    assert (found.exit_code, found.stdout) == (3, "")
    assert "the file of rejects" in found.stderr


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 50, None])
def test_another_file_is_refused_as_a_journal(shop: Shop, content: bytes | None) -> None:
    """Neither a text nor another program's database is a journal."""
    if content is None:
        with closing(sqlite3.connect(shop.progress)) as other:
            other.execute("CREATE TABLE t (x)")
    else:
        shop.progress.write_bytes(content)
    shop.write(rows(1))
    result = shop.run()
    assert result.exit_code == 3
    assert "--progress" in result.stderr


def test_a_journal_that_cannot_be_made(shop: Shop) -> None:
    """The error has the reason and names the option."""
    shop.write(rows(1))
    result = shop.run("--progress", str(shop.directory / "none" / "year"))
    assert (result.exit_code, "--progress" in result.stderr) == (3, True)


def test_a_journal_that_cannot_be_written_ends_the_run(
    shop: Shop, fake: FakeButter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk is full, no line is sent without a mark in the journal."""
    shop.write(rows(100))
    mark = Journal.mark
    marks = itertools.count()

    def full(self: Journal, changes: Sequence[Mark]) -> None:
        if next(marks) > 10:
            raise sqlite3.OperationalError
        mark(self, changes)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "mark", full)
        result = shop.run()
    assert (result.exit_code, "make room" in result.stderr) == (3, True)
    assert 0 < len(fake.records) < 100
    found = json.loads(shop.run("--json").stdout)
    # Lines in flight when the disk was full may have been accepted, so they are uncertain. None was sent twice.
    assert (found["ending"], found["sent"] + found["uncertain"]) == ("done", 100)
    assert found["uncertain"] <= 4
    assert set(invoices(fake).values()) == {1}


def test_a_full_disk_ends_a_dry_run_in_one_line(shop: Shop) -> None:
    """Like a run, it ends with 3 and without a traceback."""
    shop.write([line(number, email="nobody") for number in range(200)])
    command = [sys.executable, "-m", "butter_middleware", "backfill", str(shop.file), "--set", "psp=stripe"]
    found = subprocess.run(
        [*command, "--dry-run", "--rejects", str(shop.rejects)],
        env=os.environ | shop.environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (found.returncode, found.stderr.count("Error: "), "(EFBIG)" in found.stderr) == (3, 1, True)
    assert "Traceback" not in found.stderr


# Output


def test_a_rate_is_kept(shop: Shop, fake: FakeButter) -> None:
    """The rate does not depend on the concurrency."""
    shop.write(rows(10))
    began = time.monotonic()
    assert shop.document("--rate", "20", "--concurrency", "8")["sent"] == 10
    assert time.monotonic() - began >= 9 / 20


def test_progress_is_lines_without_a_terminal(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few seconds a line has the count, the share of the file, the rate and the time left."""
    monkeypatch.setattr(output, "LINE_SECONDS", 0.2)
    shop.write(rows(140))
    told = [text for text in shop.run("--rate", "100").stderr.splitlines() if text.startswith("backfill: ")]
    assert len(told) > 1
    assert any(re.fullmatch(r"backfill: \d+ sent, [\d,]+/s, \d\d? %, \d+ s left", text) for text in told), told


def test_a_pause_gives_a_line_every_few_seconds(shop: Shop, fake: FakeButter, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no line for each second of the countdown. The pause ends when Butter says so."""
    monkeypatch.setattr("butter_middleware.backfill.engine.RETRY_SECONDS", 1.0)
    monkeypatch.setattr("butter_middleware.delivery.circuit_breaker.THROTTLED_SECONDS", 2.0)
    shop.write(rows(1))
    fake.respond_with(200, 429)
    result = shop.run()
    assert result.exit_code == 0, result.output
    told = [text for text in result.stderr.splitlines() if "Butter asks for a pause (429); next try in" in text]
    assert len(told) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--map", "customer_email"], "not FIELD=VALUE. The fields are customer_email, "),
        (["--map", "customer_email="], "not FIELD=VALUE"),
        (["--map", "e_mail=x"], "'e_mail' is not a field"),
        (["--map", "customer_emial=x"], "Did you mean customer_email?"),
        (["--set", "pps=stripe"], "Did you mean psp?"),
        (["--rate", "0"], "--rate"),
        (["--rate", "nan"], "'nan' is not a number"),
        (["--concurrency", "9"], "--concurrency"),
    ],
)
def test_a_wrong_command_line_is_refused(shop: Shop, arguments: list[str], said: str) -> None:
    """The error comes before anything is done."""
    shop.write(rows(1))
    result = shop.run(*arguments)
    assert (result.exit_code, said in result.stderr) == (2, True)


def test_the_help_is_enough_for_a_newcomer() -> None:
    """It names the columns, the source of the credentials, and the two commands."""
    told = click.unstyle(CliRunner().invoke(cli, ["backfill", "--help"]).output)
    for text in ("customer_email", "BUTTER_PASSWORD", "--dry-run", "not sent again", "Exit codes"):
        assert text in " ".join(told.split())
