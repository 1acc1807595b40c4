"""The commands that show and change an outbox, with and without a running app."""

import errno
import gzip
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from outboxes import NOW, append, capture, open_files, record, resolve, settle_all, unread
from processes import until

from butter_middleware import Checkout, SQLiteOutbox
from butter_middleware.cli import cli
from butter_middleware.cli.queue import shape
from butter_middleware.models.checkout import Record
from butter_middleware.models.partial import Part
from butter_middleware.models.reasons import ParkReason
from butter_middleware.outbox import Count, Parked, Settled, Settlement, SQLiteStore, Waiting
from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.outbox.sqlite.schema import connect

DETAIL = "no customer e-mail for POST /checkout/{cart_id}. Fix: call annotate(request, customer_email=...)."


def closed(store: SQLiteStore) -> None:
    store.close()
    until(lambda: open_files() == 0, "the end of what other tests opened")


def opened_once(path: Path) -> None:
    """Create an outbox's file, like an app that is started and stopped."""
    store = SQLiteOutbox(path).store()
    store.open()
    closed(store)


@pytest.fixture
def run(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command on the outbox, in this process."""
    monkeypatch.setenv("BUTTER_OUTBOX", str(path))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setattr("butter_middleware.cli.erase.SETTLING_SECONDS", 0.0)

    def invoke(*arguments: object, text: str | None = None) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=text)

    return invoke


@pytest.fixture
def run_in_process(path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run a command on the outbox, in a separate process."""

    def call(*arguments: object) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "butter_middleware", *map(str, arguments), "--outbox", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    return call


def documents(found: Result) -> Any:
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def status_document(found: Result) -> Any:
    """Return the document of `status --json`. The exit code must be 1 if and only if a person is needed."""
    said = json.loads(found.stdout)
    assert found.exit_code == (1 if said["attention"] else 0)
    return said


def filled(store: SQLiteStore) -> None:
    """Fill an outbox with two dead, one delivered, one pending, two parked, one captured and one part."""
    assert store.lead()
    store.add([record(1), record(2)])
    settle_all(store, Settled.DEAD)
    store.add([record(3)])
    settle_all(store, Settled.DELIVERED)
    store.add([record(4)])
    first, second, third = append(store, 5, 6, 7)
    resolve(store, first, parked=Parked(ParkReason.NO_EMAIL, DETAIL))
    resolve(store, second, parked=Parked(ParkReason.INVALID, "invalid (customer_email)"))
    part = Part("join:1", shopper=True, fields={"customer_email": "shopper@example.com"}, captured_at=NOW)
    resolve(store, third, part=part)
    store.append([capture(8)])


# Status.


def test_status_counts_each_state(store: SQLiteStore, run: Callable[..., Result]) -> None:
    """It has the count of each state, and says that no process delivers or reads captures."""
    filled(store)
    store.count([Count("skipped", "POST /pay", "not_paid", 3)])
    closed(store)
    found = status_document(run("status", "--json"))
    names = ("captured", "unread", "parts", "pending", "parked", "dead", "delivered", "hold", "delivers", "readers")
    assert [found[name] for name in names] == [1, 1, 1, 1, 2, 2, 1, None, False, 0]
    assert found["dead_by_reason"] == {"": 2}
    assert found["parked_by_reason"] == {"invalid": 1, "no_email": 1}
    text = run("status").stdout
    assert "1 of them no process reads now" in text
    assert "no process delivers now" in text
    assert "not_paid: 3" in text


def test_status_names_the_running_app(store: SQLiteStore, run_in_process: Callable[..., tuple[int, str, str]]) -> None:
    """With a running app, it names the process that delivers, and captures have a reader."""
    filled(store)
    code, output, _errors = run_in_process("status", "--json")
    found = json.loads(output)
    assert code == 1
    assert [reason["code"] for reason in found["attention"]] == ["pending_old", "dead", "parked"]
    assert (found["delivers"], found["delivering_process"], found["readers"], found["unread"]) == (
        True,
        os.getpid(),
        1,
        0,
    )
    assert f"process {os.getpid()} delivers" in run_in_process("status")[1]
    assert store.lead()
    assert store.due(10)


def test_a_copy_of_the_file_and_its_log_has_everything(store: SQLiteStore, path: Path, tmp_path: Path) -> None:
    """docs/operations.md copies both, because the last writes are only in the log."""
    filled(store)
    folder = tmp_path / "new"
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", folder)
    found = status_document(CliRunner().invoke(cli, ["status", "--json", "--outbox", str(folder / path.name)]))
    assert [found[name] for name in ("captured", "parts", "pending", "parked", "dead")] == [1, 1, 1, 2, 2]


def test_status_sees_a_full_disk(
    store: SQLiteStore, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app's captures are then in its memory, where the command cannot see them."""
    closed(store)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1024**2))
    found = status_document(run("status", "--json"))
    assert [reason["code"] for reason in found["attention"]] == ["outbox_full"]
    assert "make room on the disk" in run("status").stdout


def test_status_watches_on_a_terminal_only(store: SQLiteStore, run: Callable[..., Result]) -> None:
    """Without a terminal --watch would never end. The error names the command for programs."""
    closed(store)
    for arguments in (("status", "--watch"), ("status", "--watch", "--json")):
        found = run(*arguments)
        assert (found.exit_code, found.stderr.count("\n")) == (2, 1)
        assert "status --json" in found.stderr


# The file: never another one, never a new one.


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["dead", "list"],
        ["dead", "show", "1"],
        ["dead", "retry", "--all"],
        ["dead", "drop", "--all"],
        ["parked", "list"],
        ["resume"],
        ["erase", "--email", "a@example.com", "--yes"],
    ],
)
def test_a_wrong_path_is_an_error_and_makes_nothing(tmp_path: Path, command: list[str]) -> None:
    """No command creates a file, a log or a lock. The error names the outbox that is there instead."""
    opened_once(tmp_path / "butter.db")
    before = sorted(tmp_path.iterdir())
    found = CliRunner().invoke(cli, [*command, "--outbox", str(tmp_path / "buter.db")])
    assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (3, "", 1)
    assert "there is no such file. In that directory there is butter.db." in found.stderr
    assert sorted(tmp_path.iterdir()) == before
    nowhere = CliRunner().invoke(cli, [*command, "--outbox", str(tmp_path / "no" / "butter.db")])
    assert nowhere.exit_code == 3
    assert sorted(tmp_path.iterdir()) == before


def test_no_outbox_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names --outbox, BUTTER_OUTBOX and --app."""
    monkeypatch.delenv("BUTTER_OUTBOX", raising=False)
    found = CliRunner().invoke(cli, ["status"])
    assert found.exit_code == 2
    assert all(word in found.stderr for word in ("--outbox", "BUTTER_OUTBOX", "--app"))


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.commit()


def earlier(path: Path) -> None:
    opened_once(path)
    with closing(sqlite3.connect(path)) as file:
        file.execute("DELETE FROM meta WHERE name = 'schema'")
        file.commit()
        file.execute("PRAGMA user_version = 1")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def broken(path: Path) -> None:
    earlier(path)
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 20_000)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (foreign, "another program's database"),
        (lambda path: path.write_text("not a database, but quite some text"), "is not a database"),
        (earlier, "earlier version (schema 1)"),
        (broken, "content is broken"),
        (lambda path: path.mkdir(), "is a directory"),
    ],
)
def test_a_file_that_is_not_an_outbox_is_not_changed(path: Path, spoil: Callable[[Path], Any], said: str) -> None:
    """`status` neither changes, migrates nor sets aside a foreign, earlier or broken file."""
    spoil(path)
    content = path.read_bytes() if path.is_file() else b""
    found = CliRunner().invoke(cli, ["status", "--outbox", str(path)])
    assert (found.exit_code, found.stdout) == (2 if path.is_dir() else 3, "")
    assert said in found.stderr
    assert (path.read_bytes() if path.is_file() else b"") == content
    assert not [name for name in path.parent.iterdir() if "corrupt" in name.name]


def test_a_folder_without_permission_is_reported(
    path: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command cannot know whether the file exists. It says so, without a traceback."""
    stat = Path.stat

    def closed_to_us(file: Path, **options: Any) -> os.stat_result:
        if file == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return stat(file, **options)

    monkeypatch.setattr(Path, "stat", closed_to_us)
    found = run("status")
    assert (found.exit_code, found.stdout) == (3, "")
    assert f"(user {os.geteuid()}) may not look into its directory. Run this as the app's user" in found.stderr


def test_a_lock_that_is_not_released_is_an_error_that_names_its_holder(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a stopped process holds the lock, the command names it, and ends with 4."""
    closed(store)
    script = (
        "import sys; from butter_middleware.outbox.sqlite.locks import *; locks = Locks(sys.argv[1]);"
        "print(locks.take(WRITE), flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        monkeypatch.setattr("butter_middleware.outbox.sqlite.database.PERSON_SECONDS", 0.2)
        found = CliRunner().invoke(cli, ["status", "--outbox", str(path)])
        assert holder.stdin is not None
        holder.stdin.close()
    assert found.exit_code == 4
    assert f"process {holder.pid} has held its write lock" in found.stderr


def test_root_leaves_the_file_to_its_owner(path: Path) -> None:
    """If root runs a command, new files next to the outbox belong to the outbox's owner."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    opened_once(path)
    Path(f"{path}.lock").unlink()
    os.chown(path, 1234, 1234)
    with existing(path) as seen:
        seen.write(lambda db: db.execute("UPDATE meta SET value = NULL WHERE name = 'hold'"))
        owners = {name.name: name.stat().st_uid for name in path.parent.iterdir()}
    assert owners == {"butter.db": 1234, "butter.db-wal": 1234, "butter.db-shm": 1234, "butter.db.lock": 1234}


# Dead and parked.


def listed(run: Callable[..., Result], state: Waiting) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = documents(run(state, "list", "--json"))
    return found


def test_an_empty_list(store: SQLiteStore, run: Callable[..., Result]) -> None:
    """People get a sentence, and programs an empty list."""
    store.close()
    assert run("dead", "list").stdout == "There is no dead record.\n"
    assert run("parked", "list", "--json").stdout == "[]\n"


def test_entries_are_listed_without_personal_data(store: SQLiteStore, run: Callable[..., Result]) -> None:
    """An entry has an ID, time, reason and fix. A page continues after an ID."""
    filled(store)
    closed(store)
    parked, dead = listed(run, Waiting.PARKED), listed(run, Waiting.DEAD)
    assert [(entry["reason"], entry["detail"]) for entry in parked] == [
        ("no_email", DETAIL),
        ("invalid", "invalid (customer_email)"),
    ]
    assert len(dead) == 2
    assert "shopper" not in run("parked", "list").output + run("dead", "list").output
    page = run("dead", "list", "--limit", 1)
    assert f"--after {dead[0]['id']}" in page.stderr
    assert documents(run("dead", "list", "--json", "--after", dead[0]["id"]))[0]["id"] == dead[1]["id"]


def test_a_repeated_detail_is_shown_once(store: SQLiteStore, run: Callable[..., Result]) -> None:
    """A bad deploy parks many for one reason. People read the fix once, programs find it in each entry."""
    for number, stored in enumerate(append(store, *range(4))):
        why = Parked(ParkReason.INVALID, "other") if number == 2 else Parked(ParkReason.NO_EMAIL, DETAIL)
        resolve(store, stored, parked=why)
    closed(store)
    assert [entry["detail"] for entry in listed(run, Waiting.PARKED)] == [DETAIL, DETAIL, "other", DETAIL]
    lines = run("parked", "list").stdout.splitlines()[1:]
    assert [line.endswith("as above") for line in lines] == [False, True, False, False]


def test_one_entry_is_shown_masked_unless_revealed(store: SQLiteStore, run: Callable[..., Result]) -> None:
    """A record's addresses are masked. Of a capture, only the shape and the fix are shown."""
    filled(store)
    closed(store)
    number = listed(run, Waiting.DEAD)[0]["id"]
    shown = documents(run("dead", "show", number, "--json"))
    assert shown["record"]["customer_email"] == "s***@example.com"
    assert shown["record"]["ipv4_address"] == "81.2.x.x"
    assert shown["record"]["invoice_id"] == "in_1"
    revealed = documents(run("dead", "show", number, "--json", "--reveal"))
    assert revealed["record"]["customer_email"] == "shopper@example.com"

    number = listed(run, Waiting.PARKED)[0]["id"]
    masked = run("parked", "show", number)
    assert all(word not in masked.output for word in ("shopper@", "81.2.69", "coupon", "caf", "in_5"))
    assert documents(run("parked", "show", number, "--json"))["body"] == {
        "customer": {"email": "s***@example.com"},
        "invoice": "(text of 4)",
    }
    assert DETAIL in masked.output
    open_ = documents(run("parked", "show", number, "--json", "--reveal"))
    assert open_["body"]["invoice"] == "in_5"
    assert "x-forwarded-for: 81.2.69.142" in open_["headers"]


def test_a_shape_hides_values_and_keeps_keys() -> None:
    """Names look like any other text, so no text is shown. Long lists are cut."""
    value = {"name": "Ann", "paid": True, "n": 3, "none": None, "items": [{"sku": "x"}] * 7, "mail": "ann@example.com"}
    assert shape(value) == {
        "name": "(text of 3)",
        "paid": True,
        "n": "(number)",
        "none": None,
        "items": [{"sku": "(text of 1)"}] * 5 + ["(2 more)"],
        "mail": "ann@example.com",
    }


@pytest.mark.parametrize("nested", [b"[" * 900 + b"]" * 900, b'{"a":' * 900 + b"1" + b"}" * 900])
def test_a_body_that_is_nested_deeply_is_shown(store: SQLiteStore, run: Callable[..., Result], nested: bytes) -> None:
    """A shopper may have sent it, to a route that captures the request's body."""
    (number,) = store.append([capture(1, request_body=nested)])
    resolve(store, number, parked=Parked(ParkReason.NO_EMAIL, DETAIL))
    closed(store)
    for options in ([], ["--json"], ["--reveal"], ["--reveal", "--json"]):
        shown = run("parked", "show", number, *options)
        assert (shown.exit_code, shown.exception) == (0, None)
        assert "request_body" in shown.stdout


def test_an_unknown_id_is_reported(store: SQLiteStore, run: Callable[..., Result]) -> None:
    """An unknown ID ends with 1. Among several IDs, the others are handled first."""
    filled(store)
    closed(store)
    assert run("dead", "show", 7).exit_code == 1
    number = listed(run, Waiting.DEAD)[0]["id"]
    found = run("dead", "retry", number, 7)
    assert (found.exit_code, "1 dead record to be tried again" in found.stdout) == (1, True)
    assert "1 of the IDs given is not there" in found.stderr


@pytest.mark.parametrize(
    "arguments", [("dead", "show"), ("dead", "retry"), ("parked", "drop", "--yes"), ("parked", "list", "--after")]
)
def test_an_id_that_is_too_large_is_refused(
    store: SQLiteStore, run: Callable[..., Result], arguments: Sequence[str]
) -> None:
    """It may be two IDs that were pasted as one. Nothing is done, also not for other IDs."""
    filled(store)
    closed(store)
    found = run(*arguments, 9 * 10**23)
    assert (found.exit_code, "is not in the range" in found.stderr) == (2, True)


@pytest.mark.parametrize("arguments", [("dead", "retry"), ("parked", "drop"), ("dead", "drop", "5", "--all", "--yes")])
def test_ids_or_all_must_be_given(store: SQLiteStore, run: Callable[..., Result], arguments: Sequence[str]) -> None:
    """IDs or --all are needed, but not both. Otherwise nothing is done."""
    filled(store)
    closed(store)
    found = run(*arguments)
    assert (found.exit_code, "--all" in found.stderr) == (2, True)
    assert len(listed(run, Waiting.DEAD)) == 2


def test_dropping_asks_first(store: SQLiteStore, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --yes it asks on a terminal. Without a terminal, or if the answer is no, nothing is deleted."""
    filled(store)
    closed(store)
    refused = run("dead", "drop", "--all")
    assert (refused.exit_code, "--yes" in refused.stderr) == (2, True)
    monkeypatch.setattr("butter_middleware.cli.output.is_interactive", lambda: True)
    assert run("dead", "drop", "--all", text="n\n").exit_code == 1
    one = str(listed(run, Waiting.DEAD)[0]["id"])
    assert "Delete 1 dead record for good?" in run("dead", "drop", one, "5", text="n\n").output
    assert len(listed(run, Waiting.DEAD)) == 2
    assert "2 dead records deleted" in run("dead", "drop", "--all", text="y\n").stdout
    assert listed(run, Waiting.DEAD) == []
    assert documents(run("parked", "drop", "--all", "--yes", "--json")) == {"done": 2, "absent": 0}


def test_a_running_app_handles_retried_entries(
    store: SQLiteStore, run_in_process: Callable[..., tuple[int, str, str]]
) -> None:
    """The running app reads a retried capture and sends a retried record, without a restart."""
    filled(store)
    assert len(unread(store)) == 1
    code, output, _errors = run_in_process("parked", "retry", "--all")
    assert (code, "A running process reads them within seconds" in output) == (0, True)
    assert "sent as soon as Butter takes them" in run_in_process("dead", "retry", "--all")[1]
    assert len(store.due(10)) == 3
    assert len(store.unread(10, below=0)) == 2
    assert store.counts().parked == 0


def test_a_retry_without_a_running_app(store: SQLiteStore, run: Callable[..., Result]) -> None:
    """Without a running app, the command says when it will be tried."""
    filled(store)
    closed(store)
    assert "at its next start" in run("parked", "retry", "--all").stdout
    assert "start the app, or run `butter-middleware deliver`." in run("dead", "retry", "--all").stdout


# Resume.


def test_resume_ends_the_hold_in_the_file(store: SQLiteStore, run: Callable[..., Result]) -> None:
    """The command names the hold's reason. The process that delivers, now or later, tries Butter."""
    store.set_hold("401")
    closed(store)
    assert status_document(run("status", "--json"))["hold"] == "401"
    assert run("status").exit_code == 1
    assert "the hold was for: 401" in run("resume").stdout
    assert status_document(run("status", "--json"))["hold"] is None
    assert run("status").exit_code == 0
    assert run("resume").stdout == "There is no hold.\n"


# Erase.

ANN = "Ann.Lee@Example.com"
BOB = "bob@example.com"
BODIES = [
    b'{"email": "ann.lee@example.com"}',
    b'{"email": "ANN.LEE@EXAMPLE.COM", "cut off',
    b'{"email": "ann.lee\\u0040example.com"}',
    b'{"a": "{\\"email\\": \\"\\\\u0061nn.lee@example.com\\"}"}',
    b"email=ann.lee%40example.com&x=1",
    b"email=ann%2Elee%40example%2ecom",
    b"<a href='mailto:ann.lee@example.com'>",
    b"ann.lee&#64;example.com",
    b"to Ann <ann.lee@example.com>, thanks",
    '{"email": "ann.lee@example.com"}'.encode("utf-16"),
    b"caf\xe9 ann.lee@example.com",
]
OTHERS = [
    b'{"email": "joann.lee@example.com"}',
    b'{"email": "ann.lee@example.com.au"}',
    b'{"email": "ann.lee@example.community"}',
    b'{"email": "ann_lee@example.com"}',
    b'{"email": "x+ann.lee@example.com"}',
]
CODINGS: dict[bytes, Callable[[bytes], bytes]] = {
    b"": lambda body: body,
    b"gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"gzip, gzip": lambda body: gzip.compress(gzip.compress(body)),
}


def of(email: str, number: int) -> Record:
    checkout = Checkout(ipv4_address="81.2.69.142", psp="stripe", customer_email=email, invoice_id=f"in_{number}")
    return Record.of(checkout, NOW)


def told(number: int, body: bytes, coding: bytes = b"", **fields: Any) -> Any:
    headers = [(b"content-type", b"application/json"), (b"content-encoding", coding)]
    return capture(number, body=body, annotations={}, response_headers=headers, **fields)


def remains(path: Path, *needles: bytes) -> list[bytes]:
    """Return the needles that are still in the outbox's files, in any case."""
    everything = b"".join(
        file.read_bytes() for file in path.parent.iterdir() if file.name.startswith(path.name)
    ).lower()
    return [needle for needle in needles if needle.lower() in everything]


@pytest.mark.parametrize("coding", CODINGS, ids=str)
@pytest.mark.parametrize("body", BODIES, ids=str)
def test_a_person_is_found_in_any_encoding(
    store: SQLiteStore, run: Callable[..., Result], path: Path, body: bytes, coding: bytes
) -> None:
    """The address may be escaped, encoded, compressed or cut off. The capture is deleted, and no byte stays."""
    sent = CODINGS[coding](body)
    store.append([told(1, sent, coding)])
    store.append([told(2, CODINGS[coding](OTHERS[0]), coding)])
    closed(store)
    found = documents(run("erase", "--email", ANN, "--yes", "--json"))
    assert found["erased"]["captured"] == 1
    assert found["not_looked_into"] == []
    assert status_document(run("status", "--json"))["captured"] == 1
    assert remains(path, sent) == []


@pytest.mark.parametrize("body", OTHERS, ids=str)
def test_another_persons_data_is_not_erased(store: SQLiteStore, run: Callable[..., Result], body: bytes) -> None:
    """An address that contains the person's address is another person's."""
    store.append([told(1, body)])
    closed(store)
    found = run("erase", "--email", ANN, "--yes")
    assert found.stdout.startswith("The outbox holds nothing of this person.")
    assert status_document(run("status", "--json"))["captured"] == 1


def test_all_data_of_a_person_is_erased_and_none_of_others(
    store: SQLiteStore, run: Callable[..., Result], path: Path
) -> None:
    """Pending, dead, captured, parked and parts are searched in all fields. The files have no copy afterwards."""
    assert store.lead()
    store.add([of("ann.lee@example.com", 1), of(BOB, 2)])
    settle_all(store, Settled.DEAD)
    store.add([of("ann.lee@EXAMPLE.com", 3), of(BOB, 4)])
    places: list[dict[str, Any]] = [
        {"annotations": {"customer_email": "ann.lee@example.com"}},
        {"query_string": b"email=ann.lee%40example.com"},
        {"path": "/checkout/ann.lee@example.com"},
        {"headers": [(b"x-user", b"ann.lee@example.com")]},
        {"request_body": gzip.compress(b"ann.lee@example.com"), "headers": [(b"content-encoding", b"gzip")]},
        {"cookies": {"k": "ann.lee@example.com"}},
        {"body": gzip.compress(b'{"x": "' + b"x" * 5000 + b' ann.lee@example.com"')[:-9]},
    ]
    for number, fields in enumerate(places):
        store.append([capture(number, **({"body": b"{}", "annotations": {}} | fields))])
    stored = unread(store)
    resolve(store, stored[0].id, parked=Parked(ParkReason.NO_EMAIL, DETAIL))
    (part,) = store.append([told(50, b'{"email": "ann.lee@example.com"}')])
    fields = {"customer_email": "ann.lee@example.com"}
    resolve(store, part, part=Part("join:a", shopper=True, fields=fields, captured_at=NOW))
    store.append([told(51, json.dumps({"email": BOB}).encode())])
    closed(store)
    assert remains(path, b"ann.lee")
    found = documents(run("erase", "--email", ANN, "--yes", "--json"))
    assert found["erased"] == {"pending": 1, "dead": 1, "captured": 6, "parked": 1, "parts": 1}
    assert remains(path, b"ann.lee", b"ann%2e") == []
    assert remains(path, BOB.encode()) == [BOB.encode()]
    left = status_document(run("status", "--json"))
    assert [left[name] for name in ("captured", "pending", "dead", "parked", "parts")] == [1, 1, 1, 0, 0]
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def churn(path: Path, seed: int) -> None:
    """Write and delete captures of the person like an app, among captures of others that stay."""
    chance = random.Random(seed)  # noqa: S311 - the same each time
    live: list[int] = []
    with closing(connect(str(path), make=True)) as file:
        for _round in range(300):
            file.execute("BEGIN IMMEDIATE")
            for _each in range(chance.randint(1, 20)):
                name = b"ann.lee@example.com" if chance.random() < 0.7 else BOB.encode()
                row = ("h" * chance.randint(10, 900), name + b"x" * chance.choice([40, 120]))
                sql = "INSERT INTO captures (pile, captured_at, head, body) VALUES (1, 1, ?, ?)"
                live.append(file.execute(sql, row).lastrowid or 0)
            for old in chance.sample(live, min(len(live), chance.randint(0, 22))):
                if chance.random() < 0.3:
                    detail = "d" * chance.randint(5, 1500)
                    file.execute("UPDATE captures SET reason = 'invalid', detail = ? WHERE id = ?", (detail, old))
                else:
                    file.execute("DELETE FROM captures WHERE id = ?", (old,))
                    live.remove(old)
            file.execute("COMMIT")
        file.execute("DELETE FROM captures WHERE CAST(body AS TEXT) LIKE 'ann%'")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def test_no_copy_stays_in_free_space(run: Callable[..., Result], path: Path) -> None:
    """When SQLite rebuilds a page, a copy may stay, even with secure_delete. `erase` removes it."""
    Path(f"{path}.lock").touch()
    churn(path, 2)  # with SQLite 3.40 this seed leaves a copy
    assert documents(run("erase", "--email", ANN, "--yes", "--json"))["erased"]["captured"] == 0
    assert remains(path, b"ann.lee@") == []


def test_a_person_is_erased_while_an_app_runs(
    store: SQLiteStore, run_in_process: Callable[..., tuple[int, str, str]], path: Path
) -> None:
    """The app continues to append, read and lead. A capture that it is just reading gives no record."""
    assert store.lead()
    store.append([told(1, b'{"email": "ann.lee@example.com"}')])
    (reading,) = unread(store)
    stop = threading.Event()
    appended: list[int] = []

    def keep_appending() -> None:
        while not stop.is_set():
            appended.extend(store.append([told(len(appended) + 10, json.dumps({"email": BOB}).encode())]))
            time.sleep(0.005)

    thread = threading.Thread(target=keep_appending)
    thread.start()
    try:
        code, output, errors = run_in_process("erase", "--email", ANN, "--yes", "--json")
    finally:
        stop.set()
        thread.join()
    assert code == 0, errors
    assert json.loads(output)["erased"]["captured"] == 1
    assert not resolve(store, reading.id, of("ann.lee@example.com", 1)).there
    counts = store.counts()
    assert (counts.captured, counts.pending) == (len(appended), 0)
    assert store.lead()
    closed(store)
    assert remains(path, b"ann.lee") == []


def test_a_record_in_flight_is_not_stopped(
    store: SQLiteStore, run_in_process: Callable[..., tuple[int, str, str]], run: Callable[..., Result]
) -> None:
    """A record in flight may still be sent. Its result finds no row in the file. The help and docs/data.md say so."""
    assert store.lead()
    store.add([of("ann.lee@example.com", 1), of("ann.lee@example.com", 2)])
    retried, delivered = store.due(10)
    code, output, _errors = run_in_process("erase", "--email", ANN, "--yes", "--json")
    assert (code, json.loads(output)["erased"]["pending"]) == (0, 2)
    store.settle([Settlement(retried.id, Settled.RETRY), Settlement(delivered.id, Settled.DELIVERED)])
    counts = store.counts()
    assert (counts.pending, counts.dead, counts.delivered) == (0, 0, 0)
    for text in (run("erase", "--help").stdout, (Path(__file__).parents[2] / "docs/data.md").read_text()):
        assert "a running app is sending at that moment" in " ".join(text.split())
        assert "sees the erasure within a second" in " ".join(text.split())


def test_erasing_asks_with_the_numbers_first(
    store: SQLiteStore, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question has the counts and the masked address. The answer no deletes nothing."""
    store.append([told(1, b"ann.lee@example.com")])
    store.append([told(2, b"ann.lee@example.com")])
    closed(store)
    assert run("erase", "--email", ANN).exit_code == 2
    monkeypatch.setattr("butter_middleware.cli.output.is_interactive", lambda: True)
    found = run("erase", "--email", ANN, text="n\n")
    assert "Delete 2 captures to be read of A***@Example.com for good?" in found.output
    assert found.exit_code == 1
    assert "of A***@Example.com for good?" in run("erase", "--email", "-", text=f"{ANN}\nn\n").output
    assert status_document(run("status", "--json"))["captured"] == 2
    assert run("erase", "--email", "-", "--yes", text="ann.lee@example.com\n").stdout.startswith("Deleted: 2 captures")


@pytest.mark.parametrize("email", ["", "ann", "@example.com", "ann@", "ann lee@example.com"])
def test_an_invalid_address_erases_nothing(store: SQLiteStore, run: Callable[..., Result], email: str) -> None:
    """A part of an address could match many people."""
    closed(store)
    assert run("erase", "--email", email, "--yes").exit_code == 2


def test_data_that_could_not_be_searched_is_reported(
    store: SQLiteStore, run: Callable[..., Result], path: Path
) -> None:
    """A person must check a body that cannot be decoded and a file that was set aside. The exit code is 1."""
    store.append([told(1, b"\x0b\x02\x80", b"x-rot13"), told(2, b"no gzip at all", b"gzip")])
    closed(store)
    aside = path.with_name("butter.db.corrupt-20261124T000000Z")
    aside.write_bytes(b"")
    found = run("erase", "--email", ANN, "--yes", "--json")
    assert found.exit_code == 1
    document = json.loads(found.stdout)
    assert len(document["not_looked_into"]) == 2
    assert document["set_aside"] == [str(aside)]
    assert "2 captures could not be searched" in found.stderr
