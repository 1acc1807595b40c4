"""The outbox on disk: its file, its content after a restart, and what operators find in it."""

import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from outboxes import (
    NOW,
    PERSONAL,
    Clock,
    SteadyClock,
    append,
    bodies,
    capture,
    invoices,
    known,
    open_files,
    park,
    record,
    resolve,
    settle_all,
    tries,
    unread,
)
from processes import until

from butter_middleware import SQLiteOutbox
from butter_middleware.errors import ConfigurationError
from butter_middleware.models.reasons import Skip
from butter_middleware.outbox import Counts, Entry, Settled, Settlement, SQLiteStore, Waiting
from butter_middleware.outbox.base import new_records
from butter_middleware.outbox.sqlite import listing
from butter_middleware.outbox.sqlite.database import IDLE_WRITES
from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.outbox.sqlite.locks import LEAD
from butter_middleware.outbox.sqlite.snapshot import snapshot

DAY = 86400.0
MINUTE = 60.0
MIB = 1024**2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SteadyClock:
    return SteadyClock.installed(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "butter.db"


@pytest.fixture
def opened(path: Path, clock: Clock) -> Iterator[Callable[..., SQLiteStore]]:
    """Open a store on `path`. Each is closed at the end."""
    made: list[SQLiteStore] = []

    def make(*, reads: bool = True, **options: Any) -> SQLiteStore:
        store = SQLiteOutbox(path, clock=clock, **options).store(reads=reads)
        store.open()
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


def ask(path: Path, question: str) -> Any:
    """Query the file directly."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(question).fetchone()[0]
    finally:
        connection.close()


# The file.


def test_the_files_are_for_their_owner_only(opened: Callable[..., SQLiteStore], tmp_path: Path) -> None:
    """The database, its log, its index and its lock are personal data or protect it: mode 0600, with any umask."""
    before = os.umask(0)
    try:
        append(opened(), 1)
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["butter.db", "butter.db-wal", "butter.db-shm", "butter.db.lock"], 0o600)


@pytest.mark.parametrize(
    ("write", "synchronous"),
    [
        (lambda store: append(store, 1), 2),
        (lambda store: store.add([record(1)]), 2),
        (lambda store: store.set_hold("401"), 2),
        (lambda store: store.write(lambda _db: None), 2),
        (lambda store: store.resolve([]), 1),
        (lambda store: store.settle([]), 1),
        (lambda store: store.count([]), 1),
        (lambda store: store.prune(), 1),
    ],
)
def test_the_connection_has_the_promised_safety(
    opened: Callable[..., SQLiteStore], write: Callable[[SQLiteStore], object], synchronous: int
) -> None:
    """A write that a promise depends on is synced, one that can be repeated is not. Deleted data is overwritten."""
    store = opened()
    for _ in range(2):
        store.prune()
        write(store)
        assert store.read(lambda db: db.execute("PRAGMA synchronous").fetchone()[0]) == synchronous
        append(store, 2)
    names = ("journal_mode", "secure_delete", "wal_autocheckpoint")
    found = store.read(lambda db: [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names])
    assert found == ["wal", 1, 0]


def test_the_file_has_the_mark_and_the_version(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """The header has our mark and the oldest release that can use the file. `meta` lists later additions."""
    opened()
    header = path.read_bytes()[:72]
    assert header[68:72] == b"Butr"
    assert int.from_bytes(header[60:64], "big") == 2
    assert ask(path, "SELECT value FROM meta WHERE name = 'schema'") == 5


def test_a_delivered_address_is_deleted_from_the_file(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """After a delivery the file has the record's key and no personal data."""
    store = opened()
    (number,) = append(store, 1)
    resolve(store, number, record(1))
    settle_all(store, Settled.DELIVERED)
    store.close()
    content = path.read_bytes()
    assert record(1).key.encode() in content
    assert [word for word in PERSONAL if word.encode() in content] == []
    assert not path.with_name("butter.db-wal").exists()


def test_credentials_never_reach_the_disk(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """The capture was built by hand with cookies and credentials. It is stored without them."""
    store = opened()
    secret = [(b"Cookie", b"sesame"), (b"AUTHORIZATION", b"sesame"), (b"proxy-authorization", b"sesame")]
    kept = (b"x-forwarded-for", b"81.2.69.142")
    numbers = store.append([capture(1, headers=[*secret, kept], response_headers=[(b"Set-Cookie", b"sesame")])])
    (stored,) = store.load(numbers)
    assert stored.capture.headers == [kept]
    assert stored.capture.response_headers == []
    content = b"".join(entry.read_bytes() for entry in path.parent.iterdir())
    assert (kept[1] in content, b"sesame" in content) == (True, False)


def test_the_log_is_moved_into_the_file_in_time(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """No append does it. It follows after 64 writes if idle, and from 32 MiB on. The log keeps its size."""
    store, log = opened(), path.with_name("butter.db-wal")
    store.append([capture(1)])
    empty = path.stat().st_size

    def write(times: int, size: int = 10_000) -> None:
        for number in range(times):
            store.append([capture(number, body=bytes(size))])

    write(IDLE_WRITES - 10)
    store.checkpoint(idle=True)
    assert path.stat().st_size == empty
    write(10)
    store.checkpoint(idle=False)
    assert path.stat().st_size == empty
    store.checkpoint(idle=True)
    assert path.stat().st_size > empty + 600_000
    size = log.stat().st_size
    write(10)
    assert log.stat().st_size == size > 600_000  # written from its beginning
    small = path.stat().st_size
    while log.stat().st_size < 32 * MIB:
        store.checkpoint(idle=False)
        assert path.stat().st_size == small
        write(1, 500_000)
    store.checkpoint(idle=False)
    assert path.stat().st_size > 30 * MIB
    write(1)
    assert log.stat().st_size == 31 * MIB


def test_a_log_that_cannot_be_emptied_causes_an_alert(
    opened: Callable[..., SQLiteStore], path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another program reads an older state, the log grows. The alert ends once the program has finished."""
    monkeypatch.setattr("butter_middleware.outbox.sqlite.database.ALARMING_LOG_BYTES", 1024**2)
    monkeypatch.setattr("butter_middleware.outbox.sqlite.database.IDLE_WRITES", 1)
    store = opened()
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM captures").fetchone()
    store.append([capture(number, body=bytes(500_000)) for number in range(8)])
    store.checkpoint(idle=True)
    assert "keeps reading an older state" in caplog.text
    assert store.alerts.raised == ["log"]
    reader.close()
    store.checkpoint(idle=True)
    assert store.alerts.raised == []


# Restarts, and other stores.


def test_everything_survives_a_restart(opened: Callable[..., SQLiteStore], clock: Clock) -> None:
    """Captures, parked captures, records, dead records, tombstones and counts are unchanged for another process."""
    first = opened()
    parked = park(first, 1)
    (newest,) = append(first, 2)
    first.add([record(number) for number in range(3)])
    delivered, dead, _left = first.due(3)
    first.settle([Settlement(delivered.id, Settled.DELIVERED), Settlement(dead.id, Settled.DEAD, reason="422")])
    before = first.counts()
    assert before == Counts(1, 1, 1, 1, 1, NOW, NOW, newest_capture=newest)
    first.close()
    second = opened()
    assert second.counts() == before
    assert second.add([record(0), record(1), record(2)]) == [Skip.DUPLICATE] * 3
    assert invoices(second.due(10)) == ["in_2"]
    assert bodies(unread(second)) == ["in_2"]
    assert [stored.id for stored in second.parked_to_try(9, configuration="new", before=clock())] == [parked]


def test_two_stores_share_a_file(opened: Callable[..., SQLiteStore]) -> None:
    """One of them leads. Each record is stored once, and each store sees the writes of the other."""
    first, second = opened(), opened()
    assert [first.changed(), second.changed()] == [True, True]
    append(first, 1)
    assert [first.changed(), second.changed(), second.changed()] == [False, True, False]
    assert (first.lead(), second.lead()) == (True, False)
    assert [known(first.add([record(1)])), known(second.add([record(1)]))] == [0, 1]
    assert bodies(unread(second)) == ["in_1"]
    first.release_lead()
    assert second.lead()
    second.close()
    assert first.lead()


def test_a_link_to_the_file_is_the_file(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """Two names of one file have one lock."""
    link = path.with_name("link.db")
    first = opened()
    link.symlink_to(path)
    second = SQLiteOutbox(link).store()
    second.open()
    assert second.path == first.path
    assert first.lead()
    assert not second.lead()
    assert not first.alone()
    second.close()
    assert first.alone()


def test_a_batch_is_stored_completely_or_not_at_all(opened: Callable[..., SQLiteStore]) -> None:
    """One entry that cannot be stored fails its batch before anything is written."""
    store = opened()
    for fields in ({"annotations": {"x": object()}}, {"headers": [(b"x", "text")]}):
        with pytest.raises((TypeError, AttributeError)):
            store.append([capture(0), capture(1, **fields)])
    bad = record(2)
    object.__setattr__(bad, "key", object())  # not a type that SQLite knows
    with pytest.raises(sqlite3.Error):
        store.add([record(1), bad])
    assert store.counts() == Counts(newest_capture=store.counts().newest_capture)
    append(store, 1)


# Its lifetime.


def test_building_one_opens_no_file(path: Path) -> None:
    """The outbox and the store create no file before `open`."""
    SQLiteOutbox(path).store()
    assert not path.exists()
    until(lambda: open_files() == 0, "the end of what other tests opened")


@pytest.mark.parametrize("url", ["postgresql://shop:s3cret@db/shop", "sqlite:///s3cret.db"])
def test_a_url_is_refused_and_not_shown(url: str) -> None:
    """It would be read as a path in a directory that does not exist. It may contain a password."""
    with pytest.raises(ConfigurationError, match=r"names no file.*PostgresOutbox") as caught:
        SQLiteOutbox(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", ":memory:", "file:butter.db", "butter\0.db", "shop/", b"butter.db", 5, None])
def test_a_path_without_a_file_name_is_refused(name: Any) -> None:
    """SQLite would not read it as a file. This is reported at once."""
    with pytest.raises(ConfigurationError, match="names no file"):
        SQLiteOutbox(name)


@pytest.mark.parametrize(
    "options",
    [
        {"max_bytes": 1024},
        {"max_bytes": 2.0 * 1024**2},  # the PRAGMA would ignore it
        {"max_bytes": "2 GiB"},
        {"retention_days": 0},
        {"retention_days": "7"},
        {"retention_days": float("nan")},
        {"tombstone_days": -1.0},
        {"tombstone_days": None},
    ],
)
def test_impossible_limits_are_refused(path: Path, options: dict[str, Any]) -> None:
    """A file too small for a record, negative days, or a value that is not a number is a mistake."""
    with pytest.raises(ConfigurationError, match=rf"{next(iter(options))}=.*(use a|give the)"):
        SQLiteOutbox(path, **options)


def test_a_relative_path_belongs_to_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that changes its directory later does not move the outbox."""
    monkeypatch.chdir(tmp_path)
    outbox = SQLiteOutbox("butter.db")
    monkeypatch.chdir("/")
    assert outbox.path == str(tmp_path / "butter.db")
    assert repr(outbox) == f"SQLiteOutbox({outbox.path!r})"


def test_a_closed_store_opens_again(opened: Callable[..., SQLiteStore]) -> None:
    """After `close` it holds no file. A second `close` does nothing, and `open` continues."""
    store = opened()
    append(store, 1)
    store.open()
    assert open_files() == 1
    store.close()
    store.close()
    until(lambda: open_files() == 0, "the end of what other tests opened")
    other = opened()
    assert other.lead()
    store.open()
    assert bodies(unread(store)) == ["in_1"]
    assert not store.lead()


# Old entries.


def prune(store: SQLiteStore, clock: SteadyClock) -> None:
    for _ in range(22):
        while store.prune():
            pass
        clock.pass_(MINUTE)


def test_tombstones_are_pruned(opened: Callable[..., SQLiteStore], path: Path, clock: SteadyClock) -> None:
    """After their days tombstones are deleted, in steps, so that the file does not grow forever."""
    store = opened(tombstone_days=1.0)
    store.add([record(number) for number in range(1200)])
    assert settle_all(store, Settled.DELIVERED, 2000) == 1200
    clock.pass_(DAY)
    for _ in range(10):
        clock.pass_(MINUTE)
        assert not store.prune()
    assert ask(path, "SELECT count(*) FROM tombstones") == 1200
    clock.pass_(MINUTE)
    assert [store.prune() for _ in range(3)] == [True, True, False]
    assert ask(path, "SELECT count(*) FROM tombstones") == 0


def test_processes_that_live_for_minutes_prune(
    opened: Callable[..., SQLiteStore], path: Path, clock: SteadyClock
) -> None:
    """The reading of the clock is stored in the file, so that a short-lived worker can confirm the one before."""
    store = opened(tombstone_days=1.0)
    store.add([record(1)])
    settle_all(store, Settled.DELIVERED)
    clock.pass_(DAY + MINUTE)
    for _ in range(8):
        store.prune()
        store.close()
        clock.pass_(3 * MINUTE)
        store.open()
    assert ask(path, "SELECT count(*) FROM tombstones") == 0


def test_a_retention_deletes_old_parked_captures_and_dead_records(
    opened: Callable[..., SQLiteStore], clock: SteadyClock
) -> None:
    """Pending records stay, however old they are."""
    store = opened(retention_days=30)
    store.add([record(1)])
    settle_all(store, Settled.DEAD)
    park(store, 2)
    store.add([record(3)])
    before = store.counts()
    clock.pass_(29 * DAY)
    prune(store, clock)
    assert store.counts() == before
    clock.pass_(2 * DAY)
    prune(store, clock)
    assert store.counts() == Counts(0, 1, 0, 0, 0, NOW, newest_capture=before.newest_capture)


def test_a_clock_that_jumps_ahead_deletes_no_parked_capture(
    opened: Callable[..., SQLiteStore], clock: SteadyClock
) -> None:
    """With a retention, the clock is a month ahead for some minutes and over a restart."""
    store = opened(retention_days=30)
    park(store, 1)
    prune(store, clock)
    clock.now += 40 * DAY
    for _ in range(5):
        store.prune()
        clock.pass_(MINUTE)
    store.close()
    store.open()
    store.prune()
    clock.now -= 40 * DAY
    prune(store, clock)
    assert store.counts().parked == 1


def test_without_a_retention_parked_captures_stay(opened: Callable[..., SQLiteStore], clock: SteadyClock) -> None:
    """They wait for years."""
    store = opened()
    park(store, 1)
    clock.pass_(1000 * DAY)
    prune(store, clock)
    assert store.counts().parked == 1


# Parked captures, and operators.


def test_each_configuration_tries_a_parked_capture_once(opened: Callable[..., SQLiteStore], clock: SteadyClock) -> None:
    """The configuration that parked it does not retry it soon. Another one does, once. After ten minutes each may."""
    store = opened()
    number = park(store, 1, configuration="old")
    before = clock() - 10 * MINUTE
    assert tries(store, "old", before) == []
    (stored,) = store.parked_to_try(9, configuration="new", before=before)
    assert (stored.id, stored.parked, stored.tries) == (number, "extractor_error", 1)
    assert tries(store, "new", before) == []
    clock.pass_(11 * MINUTE)
    (stored,) = store.parked_to_try(9, configuration="new", before=clock() - 10 * MINUTE)
    assert stored.tries == 2


def test_parked_captures_take_turns(opened: Callable[..., SQLiteStore], clock: SteadyClock) -> None:
    """Those tried longest ago come first, a few at a time, so that each of a long queue is tried."""
    store = opened()
    for number in range(5):
        park(store, number, configuration="old")
        clock.pass_(1)
    seen: list[str] = []
    for _ in range(3):
        seen += tries(store, "new", clock() - 10 * MINUTE, limit=2)
        clock.pass_(1)
    assert seen == [f"in_{number}" for number in range(5)]


def test_the_records_of_a_parked_capture_are_known_forever(
    opened: Callable[..., SQLiteStore], clock: SteadyClock
) -> None:
    """They are left out whenever it is read again, also after their tombstones are gone."""
    store = opened()
    number = park(store, 1, record(1))
    settle_all(store, Settled.DELIVERED)
    clock.pass_(9 * DAY)
    prune(store, clock)
    resolved = resolve(store, number, record(1), record(2))
    assert (invoices(new_records(resolved.outcomes)), known(resolved.outcomes)) == (["in_2"], 1)


def test_a_parked_capture_may_use_its_token_again(opened: Callable[..., SQLiteStore]) -> None:
    """Its token was used for some of its records. The others may use it when the capture is read again."""
    store = opened()
    number = park(store, 1, record(1), token="t")
    resolved = resolve(store, number, record(1), record(2), token="t")
    assert (resolved.replayed, invoices(new_records(resolved.outcomes))) == (False, ["in_2"])


def test_operators_see_parked_and_dead_entries(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """Entries name reason and place, without personal data. The content is returned only if it is asked for."""
    store = opened()
    parked_number = park(store, 1)
    store.add([record(2)])
    (pending,) = store.due(1)
    store.settle([Settlement(pending.id, Settled.DEAD, reason="422")])
    with existing(path) as seen:
        (parked,) = seen.read(lambda db: listing.entries(db, Waiting.PARKED, 100, 0))
        (dead,) = seen.read(lambda db: listing.entries(db, Waiting.DEAD, 100, 0))
        assert parked == Entry(parked_number, NOW + 0.001, "extractor_error", "KeyError in shop.py:1", 0)
        assert dead == Entry(dead.id, NOW, "422", record(2).key, 1)
        assert seen.read(lambda db: listing.entries(db, Waiting.DEAD, 100, dead.id)) == []
        payload = seen.read(lambda db: listing.payload(db, dead.id))
        assert payload is not None
        assert json.loads(payload)["invoice_id"] == "in_2"
        shown = seen.read(lambda db: listing.capture(db, parked.id))
        assert shown is not None
        assert shown.body == capture(1).body
        assert seen.read(lambda db: listing.payload(db, dead.id + 1)) is None


def test_operators_retry_or_drop_entries(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """The running process sees a new epoch and handles a retried entry. A dropped one is gone."""
    store = opened()
    parked = [park(store, number) for number in range(2)]
    store.mark_taken_over(parked)
    store.add([record(number) for number in range(2)])
    settle_all(store, Settled.DEAD)
    assert store.counts().epoch == 0
    with existing(path) as person:
        dead = person.read(lambda db: listing.numbers(db, Waiting.DEAD))
        assert person.write(lambda db: listing.retry(db, Waiting.PARKED, parked[:1], NOW)) == 1
        assert person.write(lambda db: listing.retry(db, Waiting.DEAD, dead[:1], NOW)) == 1
        assert person.write(lambda db: listing.drop(db, Waiting.PARKED, parked)) == 1
        assert person.write(lambda db: listing.drop(db, Waiting.DEAD, dead)) == 1
    assert store.counts() == Counts(1, 1, 0, 0, 0, NOW, epoch=4, newest_capture=store.counts().newest_capture)
    (stored,) = store.unread(9, below=0)
    assert (bodies([stored]), stored.owned, stored.parked, stored.tries) == (["in_0"], False, "", 0)
    (pending,) = store.due(10)
    assert (pending.record, pending.attempts) == (record(0), 0)


def test_looking_at_a_file_changes_nothing(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """The command line creates nothing, does not lead, and takes no lock of the running process."""
    store = opened()
    assert store.lead()
    append(store, 1)
    before = store.counts()
    with existing(path) as seen:
        found = snapshot(seen)
        assert seen.locks.holder(LEAD) == os.getpid()
    assert (found.counts, found.deliverer, found.readers, found.unread) == (before, os.getpid(), True, 0)
    assert (found.parked, found.dead, found.oldest_captured_at, found.next_due_at) == ({}, {}, NOW + 0.001, None)
    assert store.counts() == before
    assert store.locks.has(LEAD)


def test_a_file_without_a_process_has_no_reader(opened: Callable[..., SQLiteStore], path: Path) -> None:
    """Without a reader, its captures are unread. A process that only appends is not a reader."""
    store = opened()
    append(store, 1)
    store.add([record(1, NOW - 5)])
    store.close()
    opened(reads=False)
    with existing(path) as seen:
        found = snapshot(seen)
    assert (found.deliverer, found.readers, found.unread, found.next_due_at) == (None, False, 1, NOW - 5)


def test_a_capture_of_a_later_format_is_kept(
    opened: Callable[..., SQLiteStore], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A capture that this version cannot read is left for one that can. This is logged once, without its content."""
    store = opened()
    append(store, 1, 2, 3)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE captures SET head = '{\"v\": 9}' WHERE id = (SELECT min(id) FROM captures)")
    connection.commit()
    connection.close()
    assert bodies(unread(store)) == ["in_2", "in_3"]
    assert bodies(unread(store, 1)) == ["in_2"]
    assert store.counts().captured == 3
    assert caplog.text.count("cannot be read by this version (KeyError)") == 1
    assert "shopper@" not in caplog.text


def test_a_backlog_is_loaded_by_the_megabyte(opened: Callable[..., SQLiteStore]) -> None:
    """A leader takes over a backlog of long responses, the oldest first, with few of them in memory at once."""
    store = opened()
    numbers = store.append([capture(number, body=bytes(1024**2), request_body=bytes(1024**2)) for number in range(20)])
    first = unread(store)
    assert [stored.id for stored in first] == list(numbers[:8])
    second = store.unread(100, below=numbers[-1], exclude=numbers[:8])
    assert [stored.id for stored in second] == list(numbers[8:16])


def test_counts_do_not_scan_the_rows(opened: Callable[..., SQLiteStore]) -> None:
    """Triggers keep the counts, so a file with many rows needs no scan."""
    store = opened()
    append(store, *range(300))
    for number in range(5):
        park(store, number)
    store.add([record(number) for number in range(300)])
    settle_all(store, Settled.DEAD, 100)
    steps: list[int] = []

    def look(db: sqlite3.Connection) -> None:
        db.set_progress_handler(lambda: steps.append(1), 1)

    store.read(look)
    counts = store.counts()
    assert (counts.captured, counts.parked, counts.pending, counts.dead) == (300, 5, 200, 100)
    assert 0 < len(steps) < 300
