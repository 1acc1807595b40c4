"""The outbox on a disk: its file, what outlives a restart, and what people find in it."""

import json
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from outboxes import NOW, PERSONAL, Clock, bodies, capture, committers, invoices, record, result, settle_all
from processes import until

from butter_middleware import SQLiteOutbox
from butter_middleware.errors import ConfigurationError, OutboxClosedError
from butter_middleware.models.reasons import ParkReason
from butter_middleware.outbox import Counts, Entry, Parked, Settled, Settlement, Waiting

DAY = 86400.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(path: Path, clock: Clock) -> Iterator[Callable[..., SQLiteOutbox]]:
    """Open an outbox on `path`; each is closed at the end."""
    made: list[SQLiteOutbox] = []

    def make(**options: Any) -> SQLiteOutbox:
        outbox = SQLiteOutbox(path, clock=clock, **options)
        outbox.open()
        made.append(outbox)
        return outbox

    yield make
    for outbox in made:
        outbox.close()


def ask(path: Path, question: str) -> Any:
    """Ask the file itself, once nobody here has it open."""
    until(lambda: committers() == 0, "the committer's end")
    connection = sqlite3.connect(path)
    try:
        return connection.execute(question).fetchone()[0]
    finally:
        connection.close()


def park(outbox: SQLiteOutbox, number: int) -> None:
    result(outbox.append(capture(number)))
    (stored,) = result(outbox.captures(10))
    result(outbox.resolve(stored.id, Parked(ParkReason.EXTRACTOR_ERROR, f"KeyError in shop.py:{number}")))


# The file.


def test_the_files_are_for_their_owner_only(opened: Callable[..., SQLiteOutbox], tmp_path: Path) -> None:
    """The database, its log, its index and its lock hold personal data or guard it: mode 0600, whatever the umask."""
    before = os.umask(0)
    try:
        result(opened().append(capture(1)))
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["butter.db", "butter.db-wal", "butter.db-shm", "butter.db.lock"], 0o600)


def test_the_connection_is_as_safe_as_it_says(opened: Callable[..., SQLiteOutbox]) -> None:
    """Write-ahead log, a sync at each commit, and no deleted address left in a free page."""
    outbox = opened()
    result(outbox.counts())
    assert outbox._link is not None
    connection = outbox._link.committer._database.connection
    found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert found == {"journal_mode": "wal", "synchronous": 2}
    assert connection.execute("PRAGMA secure_delete").fetchone()[0] == 1


def test_the_file_says_whose_it_is(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """The header holds our mark and the schema's version, for `file`, backups and the next release."""
    result(opened().counts())
    header = path.read_bytes()[:72]
    assert header[68:72] == b"Butr"
    assert int.from_bytes(header[60:64], "big") == 2


def test_a_delivered_address_is_not_left_on_the_disk(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """After a delivery the file holds the record's key and no personal data."""
    outbox = opened()
    result(outbox.append(capture(1)))
    (stored,) = result(outbox.captures(1))
    result(outbox.resolve(stored.id, [record(1)]))
    assert outbox.lead()
    settle_all(outbox, Settled.DELIVERED)
    outbox.close()
    until(lambda: committers() == 0, "the committer's end")
    content = path.read_bytes()
    assert record(1).key.encode() in content
    assert [word for word in PERSONAL if word.encode() in content] == []
    assert not path.with_name("butter.db-wal").exists()


def test_credentials_never_reach_the_disk(opened: Callable[..., SQLiteOutbox]) -> None:
    """A capture that was made by hand with cookies and credentials is stored without them."""
    outbox = opened()
    secret = [(b"Cookie", b"sesame"), (b"AUTHORIZATION", b"sesame"), (b"proxy-authorization", b"sesame")]
    kept = (b"x-forwarded-for", b"81.2.69.142")
    result(outbox.append(capture(1, headers=[*secret, kept], response_headers=[(b"Set-Cookie", b"sesame")])))
    (stored,) = result(outbox.captures(1))
    assert stored.capture.headers == [kept]
    assert stored.capture.response_headers == []


# Restarts and neighbours.


def test_everything_outlives_a_restart(opened: Callable[..., SQLiteOutbox], clock: Clock) -> None:
    """Captured, parked, pending, dead, tombstones and counts are as they were, for another outbox on the file."""
    first = opened()
    assert first.lead()
    park(first, 1)
    result(first.append(capture(2)))
    result(first.add([record(number) for number in range(3)]))
    delivered, dead = result(first.claim(2))
    result(first.settle([Settlement(delivered.id, Settled.DELIVERED), Settlement(dead.id, Settled.DEAD, reason="422")]))
    before = result(first.counts())
    assert before == Counts(1, 1, 1, 1, 1, NOW, NOW)
    first.close()
    second = opened()
    assert result(second.counts()) == before
    assert result(second.add([record(0), record(1), record(2)])) == 3
    assert second.lead()
    assert invoices(result(second.claim(10))) == ["in_2"]
    assert result(second.adopt()) == 2
    assert bodies(result(second.captures(10))) == ["in_2", "in_1"]
    assert clock.now == NOW


def test_two_outboxes_share_a_file(opened: Callable[..., SQLiteOutbox]) -> None:
    """Two apps in one process on one file: each reads its own captures, one of them delivers, each record is once."""
    first, second = opened(), opened()
    assert committers() == 1
    result(first.append(capture(1)))
    result(second.append(capture(2)))
    assert bodies(result(first.captures(10))) == ["in_1"]
    assert bodies(result(second.captures(10))) == ["in_2"]
    assert (first.lead(), second.lead()) == (True, False)
    assert result(first.add([record(1)])) + result(second.add([record(1)])) == 1
    assert result(second.claim(10)) == ()
    first.close()
    assert result(second.adopt()) == 1
    assert bodies(result(second.captures(10))) == ["in_1"]
    assert second.lead()
    assert invoices(result(second.claim(10))) == ["in_1"]


def test_a_link_to_the_file_is_the_file(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """Two names of one file are one file: they share its committer, or its locks would part nobody."""
    link = path.with_name("link.db")
    first = opened()
    result(first.counts())
    link.symlink_to(path)
    second = SQLiteOutbox(link)
    second.open()
    result(second.add([record(1)]))
    assert committers() == 1
    assert result(first.counts()).pending == 1
    second.close()


def test_many_threads_append_at_once(opened: Callable[..., SQLiteOutbox]) -> None:
    """Captures from any thread are all there, none twice, whatever groups they were committed in."""
    outbox = opened()

    def append(first: int) -> None:
        for future in [outbox.append(capture(first + number)) for number in range(100)]:
            result(future)

    threads = [threading.Thread(target=append, args=(first * 100,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bodies(result(outbox.captures(1000)))) == sorted(f"in_{number}" for number in range(800))


def test_a_cancelled_wait_harms_nobody(opened: Callable[..., SQLiteOutbox]) -> None:
    """Who stops waiting for a read, as a cancelled task does, takes nothing from those that still wait."""
    outbox = opened()
    result(outbox.counts())
    assert outbox._link is not None
    with outbox._link.committer._using:  # nothing is read meanwhile
        future = outbox.append(capture(1))
        cancelled = [outbox.counts().cancel() for _ in range(3)]
    assert cancelled == [True] * 3
    result(future)
    assert result(outbox.counts()).captured == 1


def test_a_write_is_done_whoever_waits(opened: Callable[..., SQLiteOutbox]) -> None:
    """A checkout whose request was cancelled is still written."""
    outbox = opened()
    assert not outbox.append(capture(1)).cancel()
    assert result(outbox.counts()).captured == 1


@pytest.mark.parametrize(
    ("fields", "kind"),
    [({"annotations": {"x": {1}}}, TypeError), ({"headers": [(b"x", "text")]}, AttributeError)],
)
def test_one_that_cannot_be_stored_fails_alone(
    opened: Callable[..., SQLiteOutbox], fields: dict[str, Any], kind: type[Exception]
) -> None:
    """What cannot be written down, of whatever kind, fails its own capture; the others of the group are committed."""
    outbox = opened()
    result(outbox.counts())
    assert outbox._link is not None
    with outbox._link.committer._using:
        futures = [outbox.append(capture(number, **fields if number == 3 else {})) for number in range(6)]
    assert [type(future.exception(20)) for future in futures] == [type(None)] * 3 + [kind] + [type(None)] * 2
    assert bodies(result(outbox.captures(10))) == ["in_0", "in_1", "in_2", "in_4", "in_5"]


def test_an_operation_that_fails_takes_no_other_with_it(opened: Callable[..., SQLiteOutbox]) -> None:
    """A record that SQLite refuses fails its own call; its neighbours in the transaction are committed."""
    outbox = opened()
    result(outbox.counts())
    assert outbox._link is not None
    with outbox._link.committer._using:
        bad = record(2)
        object.__setattr__(bad, "key", object())  # no type that SQLite knows
        futures = [outbox.add([record(1)]), outbox.add([bad]), outbox.add([record(3)])]
    assert [future.exception(20) is None for future in futures] == [True, False, True]
    assert result(outbox.counts()).pending == 2


# Its life.


def test_building_one_opens_nothing(path: Path) -> None:
    """The constructor makes no file and no thread."""
    SQLiteOutbox(path)
    assert not path.exists()
    assert committers() == 0


@pytest.mark.parametrize("name", ["", ":memory:", "file:butter.db", "butter\0.db", "shop/", b"butter.db", 5, None])
def test_a_path_that_names_no_file_is_refused(name: Any) -> None:
    """What SQLite would take for something else than a file is a mistake, said at once."""
    with pytest.raises(ConfigurationError, match="names no file"):
        SQLiteOutbox(name)


@pytest.mark.parametrize(
    "options",
    [
        {"max_bytes": 1024},
        {"max_bytes": 2.0 * 1024**2},  # in the PRAGMA it would be no bound at all
        {"max_bytes": "2 GiB"},
        {"retention_days": 0},
        {"retention_days": "7"},
        {"retention_days": float("nan")},
        {"tombstone_days": -1.0},
        {"tombstone_days": None},
    ],
)
def test_bounds_that_cannot_work_are_refused(path: Path, options: dict[str, Any]) -> None:
    """A file too small for a record, days below any, and what is no number, are mistakes."""
    with pytest.raises(ConfigurationError, match=rf"{next(iter(options))}=.*(use a|give the)"):
        SQLiteOutbox(path, **options)


def test_it_stays_where_it_was_meant_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is that of the start: an app that changes its directory moves no outbox."""
    monkeypatch.chdir(tmp_path)
    outbox = SQLiteOutbox("butter.db")
    monkeypatch.chdir("/")
    assert outbox.path == str(tmp_path / "butter.db")


def test_a_closed_outbox_says_so(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """Before `open` and after `close` an operation fails with its reason, and nothing leads."""
    closed = SQLiteOutbox(path)
    was_open = opened()
    was_open.close()
    was_open.close()
    for outbox in (closed, was_open):
        assert not outbox.lead()
        for future in (outbox.append(capture(1)), outbox.add([record(1)]), outbox.counts(), outbox.claim(1)):
            assert isinstance(future.exception(20), OutboxClosedError)


def test_close_waits_for_what_was_taken(opened: Callable[..., SQLiteOutbox]) -> None:
    """What was handed over before `close` is committed by its end, and the thread is gone."""
    outbox = opened()
    futures = [outbox.append(capture(number)) for number in range(500)]
    outbox.close()
    assert all(future.done() and future.exception() is None for future in futures)
    assert committers() == 0
    assert result(opened().counts()).captured == 500


# What gets old.


def test_tombstones_are_pruned(opened: Callable[..., SQLiteOutbox], path: Path, clock: Clock) -> None:
    """After their days tombstones are deleted, in steps, so that the file does not grow for ever."""
    outbox = opened(tombstone_days=1.0)
    assert outbox.lead()
    result(outbox.add([record(number) for number in range(1200)]))
    assert settle_all(outbox, Settled.DELIVERED, 2000) == 1200
    outbox.close()
    assert ask(path, "SELECT count(*) FROM tombstones") == 1200
    clock.now += DAY + 1
    result(opened(tombstone_days=1.0).adopt())
    until(lambda: pruned(path) == 0, "the pruning")


def pruned(path: Path) -> int:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(connection.execute("SELECT count(*) FROM tombstones").fetchone()[0])
    finally:
        connection.close()


def test_a_retention_deletes_what_waits_for_a_person(opened: Callable[..., SQLiteOutbox], clock: Clock) -> None:
    """With a retention, parked and dead go after their days; what is pending stays, however old."""
    outbox = opened()
    assert outbox.lead()
    result(outbox.add([record(1)]))
    settle_all(outbox, Settled.DEAD)
    park(outbox, 2)
    result(outbox.add([record(3)]))
    outbox.close()
    clock.now += 29 * DAY
    kept = opened(retention_days=30)
    assert result(kept.counts()) == Counts(0, 1, 1, 1, 0, NOW)
    kept.close()
    clock.now += 2 * DAY
    opened(retention_days=30)
    assert result(opened(retention_days=30).counts()) == Counts(0, 1, 0, 0, 0, NOW)


def test_without_a_retention_they_stay(opened: Callable[..., SQLiteOutbox], clock: Clock) -> None:
    """Left alone, parked captures wait for years."""
    outbox = opened()
    park(outbox, 1)
    outbox.close()
    clock.now += 1000 * DAY
    assert result(opened().counts()).parked == 1


# Parked captures and people.


def test_parked_captures_are_tried_once_an_opening(opened: Callable[..., SQLiteOutbox]) -> None:
    """A process that starts anew tries what is parked; the one that parked it does not, nor does it twice."""
    first = opened()
    park(first, 1)
    first.close()
    second = opened()
    assert result(second.adopt()) == 1
    (stored,) = result(second.captures(10))
    result(second.resolve(stored.id, Parked(ParkReason.NO_EMAIL, "still")))
    assert result(second.adopt()) == 0
    assert result(second.captures(10)) == []
    assert result(second.counts()).parked == 1


def test_one_of_several_tries_what_is_parked(opened: Callable[..., SQLiteOutbox]) -> None:
    """Of the workers that start together one tries the parked captures, so that no extractor sees them twice."""
    first = opened()
    park(first, 1)
    first.close()
    second, third = opened(), opened()
    assert [result(outbox.adopt()) for outbox in (second, third)] == [1, 0]
    assert (len(result(second.captures(10))), len(result(third.captures(10)))) == (1, 0)


def test_people_see_what_waits_for_them(opened: Callable[..., SQLiteOutbox]) -> None:
    """Entries name reason and place, without personal data; `show` gives the content to who asks for it."""
    outbox = opened()
    assert outbox.lead()
    park(outbox, 1)
    result(outbox.add([record(2)]))
    (pending,) = result(outbox.claim(1))
    result(outbox.settle([Settlement(pending.id, Settled.DEAD, reason="422")]))
    (parked,) = result(outbox.entries(Waiting.PARKED))
    (dead,) = result(outbox.entries(Waiting.DEAD))
    assert parked == Entry(parked.id, NOW + 0.001, "extractor_error", "KeyError in shop.py:1", 0)
    assert dead == Entry(dead.id, NOW, "422", record(2).key, 1)
    assert result(outbox.entries(Waiting.DEAD, after=dead.id)) == []
    shown = result(outbox.show(Waiting.DEAD, dead.id))
    assert shown is not None
    assert json.loads(shown[0])["invoice_id"] == "in_2"
    shown = result(outbox.show(Waiting.PARKED, parked.id))
    assert shown is not None
    assert shown[1] == capture(1).body
    assert result(outbox.show(Waiting.DEAD, dead.id + 1)) is None


def test_people_try_again_or_drop(opened: Callable[..., SQLiteOutbox]) -> None:
    """A retried entry goes on its way in the running process; a dropped one is gone."""
    outbox = opened()
    assert outbox.lead()
    for number in range(2):
        park(outbox, number)
    result(outbox.add([record(number) for number in range(2)]))
    settle_all(outbox, Settled.DEAD)
    parked = [entry.id for entry in result(outbox.entries(Waiting.PARKED))]
    dead = [entry.id for entry in result(outbox.entries(Waiting.DEAD))]
    assert result(outbox.retry(Waiting.PARKED, parked[:1])) == 1
    assert result(outbox.retry(Waiting.DEAD, dead[:1])) == 1
    assert result(outbox.drop(Waiting.PARKED, parked)) == 1
    assert result(outbox.drop(Waiting.DEAD, dead)) == 1
    assert result(outbox.counts()) == Counts(1, 1, 0, 0, 0, NOW)
    assert result(outbox.adopt()) == 1
    assert bodies(result(outbox.captures(10))) == ["in_0"]
    (pending,) = result(outbox.claim(10))
    assert (pending.record, pending.attempts) == (record(0), 0)


def test_a_retry_of_what_is_about_to_be_tried_gives_it_once(opened: Callable[..., SQLiteOutbox]) -> None:
    """A person who asks for a parked capture just when the process comes to it makes it read once, not twice."""
    first = opened()
    park(first, 1)
    first.close()
    second = opened()
    assert result(second.adopt()) == 1
    (entry,) = result(second.entries(Waiting.PARKED))
    result(second.retry(Waiting.PARKED, [entry.id]))
    assert result(second.adopt()) == 1
    assert bodies(result(second.captures(10))) == ["in_1"]
    assert result(second.adopt()) == -1  # it was counted twice


def test_parked_ones_that_were_not_come_to_are_counted_at_the_next_opening(
    opened: Callable[..., SQLiteOutbox], path: Path
) -> None:
    """Who closes in the midst of what is parked goes on with the rest, and is told how many that are."""
    outbox = opened()
    for number in range(3):
        park(outbox, number)
    outbox.close()
    again = SQLiteOutbox(path)
    again.open()
    assert result(again.adopt()) == 3
    assert bodies(result(again.captures(1))) == ["in_0"]
    again.close()
    again.open()
    assert result(again.adopt()) == 2
    (entry, *_) = result(again.entries(Waiting.PARKED, after=result(again.entries(Waiting.PARKED))[0].id))
    assert result(again.drop(Waiting.PARKED, [entry.id])) == 1
    assert bodies(result(again.captures(10))) == ["in_2"]
    assert result(again.adopt()) == -1
    again.close()


def test_a_capture_of_a_later_format_stays(
    opened: Callable[..., SQLiteOutbox], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A capture that this version cannot read is left for one that can, said without its content."""
    outbox = opened()
    result(outbox.append(capture(1)))
    result(outbox.append(capture(2)))
    outbox.close()
    until(lambda: committers() == 0, "the committer's end")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE captures SET head = '{\"v\": 9}' WHERE id = (SELECT min(id) FROM captures)")
    connection.commit()
    connection.close()
    again = opened()
    assert result(again.adopt()) == 2
    assert bodies(result(again.captures(10))) == ["in_2"]
    assert result(again.adopt()) == -1  # one less to be read
    assert result(again.adopt()) == 0
    assert result(again.counts()).captured == 2
    assert "cannot be read by this version (KeyError)" in caplog.text


# Those who only append.


def test_what_is_only_appended_is_anothers_to_read(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """Whoever reads gets at once, and once, what living processes only append; they themselves read nothing."""
    reader = opened()
    first, second = SQLiteOutbox(path), SQLiteOutbox(path)
    for outbox in (first, second):
        outbox.open(appends_only=True)
    result(first.append(capture(1)))
    result(second.append(capture(2)))
    assert result(reader.captures(10)) == []
    assert result(reader.adopt()) == 0
    assert result(first.adopt()) == 0
    found = result(reader.captures(10))
    assert (bodies(found), [stored.shared for stored in found]) == (["in_1", "in_2"], [True, True])
    for stored in found:
        result(reader.resolve(stored.id, []))
    assert result(reader.adopt()) == 0
    result(first.append(capture(3)))
    assert bodies(result(reader.captures(10))) == ["in_3"]
    assert result(first.captures(10)) == []
    for outbox in (first, second):
        outbox.close()


def test_the_next_reader_takes_the_shared_pile_over(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """When the reader goes, another one gets what it left and what comes, whether or not the pile was empty."""
    appender = SQLiteOutbox(path)
    appender.open(appends_only=True)
    for number in range(3):
        reader = opened()
        result(appender.append(capture(number)))
        result(reader.adopt())
        (stored,) = result(reader.captures(10))
        assert bodies([stored]) == [f"in_{number}"]
        result(reader.resolve(stored.id, []))
        reader.close()
    appender.close()


def test_an_appender_outlives_its_file(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """Where the file is replaced under an appender, it goes on with the one there, and is read."""
    appender = SQLiteOutbox(path)
    appender.open(appends_only=True)
    result(appender.append(capture(1)))
    path.rename(path.with_suffix(".old"))
    result(appender.append(capture(2)))
    reader = opened()
    result(reader.adopt())
    assert bodies(result(reader.captures(10))) == ["in_2"]
    appender.close()


def test_the_backlog_is_what_this_outbox_is_to_do(opened: Callable[..., SQLiteOutbox], path: Path) -> None:
    """Its own captures, the shared ones, and the parked while it tries them; and when the next record is due."""
    outbox = opened()
    assert outbox.lead()
    assert outbox.deliverer() == os.getpid()
    assert result(outbox.backlog())[1:] == (0, None)
    result(outbox.add([record(1), record(2, NOW - 5)]))
    assert result(outbox.backlog())[1:] == (0, NOW - 5)
    settle_all(outbox, Settled.DEAD)
    park(outbox, 1)
    result(outbox.append(capture(2)))
    appender = SQLiteOutbox(path)
    appender.open(appends_only=True)
    result(appender.append(capture(3)))
    appender.close()
    assert result(outbox.backlog())[1:] == (2, None)
    result(outbox.adopt())
    assert result(outbox.backlog())[1:] == (3, None)
    for stored in result(outbox.captures(10)):
        result(outbox.resolve(stored.id, []))
    assert result(outbox.backlog())[1:] == (0, None)
