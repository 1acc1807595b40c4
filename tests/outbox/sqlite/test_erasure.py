"""Erasing a person's data: each spelling of the address is found, and no other address."""

import itertools
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from outboxes import NOW, append, capture, park, record, resolve

from butter_middleware import Checkout, SQLiteOutbox
from butter_middleware.models.checkout import Record
from butter_middleware.models.reasons import Skip
from butter_middleware.outbox.sqlite.erasure import Person, remove, search
from butter_middleware.outbox.sqlite.existing import existing


@pytest.mark.parametrize(
    ("email", "text", "named"),
    [
        ("shopper@example.com", "SHOPPER@EXAMPLE.COM", True),
        ("shopper@example.com", "a.shopper@example.com", False),
        # International domains, as pydantic stores them (Unicode) and as browsers may send them (ASCII).
        ("user@xn--strae-oqa.de", "user@straße.de", True),
        ("user@xn--strae-oqa.de", "USER@XN--STRAE-OQA.DE", True),
        ("user@straße.de", "user@xn--strae-oqa.de", True),
        ("user@bücher.example", "user@xn--bcher-kva.example", True),
        ("user@BÜCHER.example", "user@bücher.example", True),
        # In IDNA 2008 these are two domains.
        ("user@xn--strae-oqa.de", "user@strasse.de", False),
        ("user@strasse.de", "user@straße.de", False),
        # Not a domain by IDNA 2008: found as written.
        ("user@my_host.example", "user@my_host.example", True),
    ],
)
def test_each_spelling_of_an_address_is_found(email: str, text: str, *, named: bool) -> None:
    """Case, escapes and the two spellings of a domain make no difference. Another domain is not found."""
    assert Person(email).named_in(f'{{"email": "{text}"}}') is named


def test_a_persons_data_is_deleted(tmp_path: Path) -> None:
    """Records, captures and parked captures of the person are deleted, others stay. The running process notices it."""
    path = tmp_path / "butter.db"
    store = SQLiteOutbox(path).store()
    store.open()
    checkout = Checkout(
        ipv4_address="81.2.69.142", psp="stripe", customer_email="user@xn--strae-oqa.de", invoice_id="in_9"
    )
    store.add([record(1), Record.of(checkout, NOW)])
    (captured,) = append(store, 1)
    park(store, 2)
    with existing(path) as person:
        found = search(person, Person("user@xn--strae-oqa.de"))
        assert remove(person, found, NOW)["pending"] == 1
        found = search(person, Person("shopper@example.com"))
        assert found.counts() == {"pending": 1, "dead": 0, "captured": 1, "parked": 1, "parts": 0}
        assert remove(person, found, NOW) == found.counts()
        person.rewrite()
    counts = store.counts()
    assert (counts.captured, counts.pending, counts.parked, counts.epoch > 0) == (0, 0, 0, True)
    assert not resolve(store, captured, record(3)).there  # it was being read, and makes no record
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert b"shopper@example.com" not in path.read_bytes()


def test_an_erased_checkout_is_sent_with_no_other_address(tmp_path: Path) -> None:
    """Its digests stay: a page that another person opens does not send their address."""
    path = tmp_path / "butter.db"
    store = SQLiteOutbox(path).store()
    store.open()
    checkout = Checkout(ipv4_address="81.2.69.142", psp="stripe", customer_email="a@example.com", invoice_id="in_9")
    store.add([Record.of(checkout, NOW)])
    with existing(path) as person:
        assert remove(person, search(person, Person("a@example.com")), NOW)["pending"] == 1
    later = {"customer_email": "b@example.com", "ipv4_address": "81.2.69.143", "charge_id": "ch_9"}
    other = Checkout.model_validate(checkout.payload() | later)
    assert store.add([Record.of(other, NOW)]) == [Skip.OTHER_ADDRESS]
    store.close()


@pytest.mark.parametrize("look", range(1, 6))
def test_a_record_made_during_the_search_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: int) -> None:
    """The app may read a capture before any of the command's looks at the file."""
    path = tmp_path / "butter.db"
    store = SQLiteOutbox(path).store()
    store.open()
    fields = {**record(1).fields, "customer_email": "another@example.com"}
    store.add([Record.of(Checkout.model_validate(fields), NOW)])
    (captured,) = append(store, 2)
    looks = itertools.count(1)

    with existing(path) as person:
        read = person.read

        def look_after(look_at: Callable[[sqlite3.Connection], object]) -> object:
            if next(looks) == look:
                resolve(store, captured, record(2))
            return read(look_at)

        monkeypatch.setattr(person, "read", look_after)
        found = search(person, Person("shopper@example.com"))
        assert next(looks) > look
        assert remove(person, found, NOW)["pending"] == 1
        assert not search(person, Person("shopper@example.com"))
    assert store.counts().pending == 1
    store.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells which files a process has open")
def test_the_file_is_written_again_through_a_temporary_file(tmp_path: Path) -> None:
    """The command does not hold the file in memory, because the app may need it."""
    path = tmp_path / "butter.db"
    store = SQLiteOutbox(path).store()
    store.open()
    store.append([capture(number, body=b"x" * 1024**2) for number in range(8)])
    store.close()
    files = set[str]()

    def look() -> int:
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):
                files.add(descriptor.readlink().name)
        return 0

    with existing(path) as person:
        connection = person._connection
        assert connection is not None
        connection.set_progress_handler(look, 100)
        person.rewrite()
    assert any(name.startswith("etilqs_") for name in files)
