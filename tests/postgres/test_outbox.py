"""A queue on a real PostgreSQL. Each record arrives once, and the roles have only the rights that they need."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from postgres_server import PostgresServer
from processes import HERE, free_port, served, until
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from queues import Shop, arrived, checkout, enqueue, far, put, queued, record, rows, work

from butter_middleware import ConfigurationError
from butter_middleware.cli import cli
from butter_middleware.cli.options import SAME_SECONDS
from butter_middleware.models.checkout import Record
from butter_middleware.postgres import Names, PostgresOutbox
from butter_middleware.postgres.names import literal, quoted
from butter_middleware.postgres.schema import fresh_sql, migrate, migrations
from butter_middleware.testing import FakeButter

pytestmark = pytest.mark.postgres

# A record's path.


def test_a_checkout_goes_through_the_queue(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """The shop's process enqueues, and a worker sends. Only the key is left."""
    shop = make_butter(outbox=PostgresOutbox(database))
    for number in (1, 2, 1):
        shop.record(checkout(number))
    assert shop.flush(10)
    assert fake.records == []
    work(shop, database, lambda: len(fake.records) == 2)
    assert arrived(fake) == ["in_1", "in_2"]
    assert rows(database, "SELECT count(*) FROM butter.procrastinate_jobs") == [(0,)]
    assert rows(database, "SELECT count(*), count(record), count(delivered_at) FROM butter.seen") == [(2, 0, 2)]


def test_a_delivered_record_is_not_sent_again(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """The page is reloaded on another machine before the delivery, after it, and after more than a week."""
    outbox = PostgresOutbox(database)
    enqueue(outbox, record(1))
    enqueue(PostgresOutbox(database), record(1))
    work(make_butter(), database, lambda: len(fake.records) == 1)
    enqueue(outbox, record(1), record(2))
    work(make_butter(), database, lambda: len(fake.records) == 2)
    assert arrived(fake) == ["in_1", "in_2"]
    rows(database, "UPDATE butter.seen SET delivered_at = now() - interval '8 days'")
    enqueue(outbox, record(1))
    work(make_butter(), database, lambda: len(fake.records) == 3)
    assert arrived(fake) == ["in_1", "in_1", "in_2"]


def test_no_personal_data_is_in_the_engines_tables(database: str) -> None:
    """Procrastinate logs a job's arguments. They are only the record's key."""
    enqueue(PostgresOutbox(database), record(1))
    assert rows(database, "SELECT args FROM butter.procrastinate_jobs") == [({"key": record(1).key},)]


def test_a_pool_of_the_apps_own(database: str) -> None:
    """The app's pool is used, and gets its connection back."""
    with ConnectionPool[Any](database, min_size=1, max_size=1, kwargs={"autocommit": True}) as pool:
        outbox = PostgresOutbox(pool=pool)
        enqueue(outbox, record(1), record(2))
    assert rows(database, "SELECT count(*) FROM butter.procrastinate_jobs") == [(2,)]


def test_a_refused_record_is_kept_as_failed(
    database: str, fake: FakeButter, make_butter: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """After a 422, procrastinate keeps the job as failed. The record and the reason stay for a person."""
    fake.respond_with(422)
    enqueue(PostgresOutbox(database), record(1))
    failed = "SELECT status::text FROM butter.procrastinate_jobs"
    with caplog.at_level("DEBUG"):
        work(make_butter(), database, lambda: rows(database, failed) == [("failed",)])
    assert rows(database, "SELECT reason, attempts, record IS NOT NULL FROM butter.seen") == [("422", 1, True)]
    assert not [text for text in ("shopper@", "81.2.69.142") if text in caplog.text]


def test_a_retry_is_counted_and_due_later(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """After a 409, only this record is retried. Its backoff grows with its attempts."""
    fake.respond_with(409)
    enqueue(PostgresOutbox(database), record(1))
    due = "SELECT scheduled_at - now() FROM butter.procrastinate_jobs WHERE status = 'todo' AND attempts > 0"
    work(make_butter(), database, lambda: len(rows(database, due)) == 1)
    ((wait,),) = rows(database, due)
    assert 0 < wait.total_seconds() <= 5
    assert rows(database, "SELECT reason, attempts FROM butter.seen") == [("409", 1)]


def test_a_failing_butter_is_not_asked_for_each_record(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """After five failures, the worker only fetches probes. No record's attempts go up, and all arrive afterwards."""
    fake.respond_with(*[503] * 6)
    enqueue(PostgresOutbox(database), *map(record, range(40)))
    moved = "SELECT count(*) FROM butter.procrastinate_events WHERE type = 'started'"
    work(make_butter(), database, lambda: rows(database, moved) >= [(5,)])
    assert rows(database, moved) <= [(9,)]
    assert rows(database, "SELECT max(attempts) FROM butter.seen") == [(0,)]
    work(make_butter(), database, lambda: len(fake.records) == 40)


# PostgreSQL is away.


async def quickest_refusal(outbox: PostgresOutbox, *errors: type[Exception]) -> float:
    """Return the seconds of the quickest of several tries, to exclude delays of a busy machine."""
    seconds: list[float] = []
    for number in range(1, 6):
        began = time.monotonic()
        with pytest.raises(errors):
            await outbox.enqueue(record(number))
        seconds.append(time.monotonic() - began)
    return min(seconds)


def test_a_database_that_is_away_takes_no_longer_than_a_quarter_second(fake: FakeButter, make_butter: Shop) -> None:
    """Each try is bounded, whether the address refuses or never answers. Records wait in memory and are counted."""
    outbox = PostgresOutbox(f"postgresql://postgres@127.0.0.1:{free_port()}/none")
    assert asyncio.run(quickest_refusal(outbox, psycopg.OperationalError, TimeoutError)) < 0.5
    shop = make_butter(outbox=outbox, drain_timeout=0.2)
    shop.record(checkout(1))
    until(lambda: shop.status().endpoint == "open", "the queue counts as away")
    assert shop.status().pending == 1


def test_a_stopped_server_takes_no_longer_than_a_quarter_second(postgres: PostgresServer, database: str) -> None:
    """After SIGSTOP the connection is open, but the server does not answer."""
    outbox = PostgresOutbox(database)

    async def main() -> float:
        await put(outbox, record(0))
        postgres.signal(signal.SIGSTOP)
        try:
            return await quickest_refusal(outbox, TimeoutError)
        finally:
            postgres.signal(signal.SIGCONT)

    assert asyncio.run(main()) < 0.5


def test_a_committed_record_survives_a_crash(postgres: PostgresServer, database: str) -> None:
    """This holds although the database's default is `synchronous_commit = off`, with which a crash undoes commits."""
    name = database.rpartition("/")[2]
    rows(database, f"ALTER DATABASE {name} SET synchronous_commit = off")
    outbox = PostgresOutbox(database)
    enqueue(outbox, record(0))
    with psycopg.connect(database) as connection:
        outbox.enqueue_in(connection, [record(1)])
    postgres.stop()
    postgres.start()
    postgres.wait()
    assert rows(database, "SELECT count(*) FROM butter.procrastinate_jobs") == [(2,)]


@pytest.mark.server
@pytest.mark.parametrize("where", ["dsn", "pool"])
def test_a_stopped_server_delays_no_shops_exit(postgres: PostgresServer, database: str, where: str) -> None:
    """A deploy waits for `drain_timeout`, not for PostgreSQL."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "servers" / "ending_shop.py"), where],
        env=os.environ | {"BUTTER_POSTGRES_DSN": database},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"flushed\n", process.communicate()
    postgres.signal(signal.SIGSTOP)
    try:
        _, said = process.communicate(b"go on\n", timeout=20)
    finally:
        postgres.signal(signal.SIGCONT)
    assert process.returncode == 0, said
    assert b"only in memory" in said


def test_a_stopped_server_takes_one_connection_of_the_apps_pool(postgres: PostgresServer, database: str) -> None:
    """When PostgreSQL is back, the app's own checkouts need connections. Records must not use them all."""
    with ConnectionPool[Any](database, min_size=4, max_size=4) as pool:
        pool.wait(20)
        outbox = PostgresOutbox(pool=pool)

        async def main() -> None:
            await put(outbox, record(0))
            postgres.signal(signal.SIGSTOP)
            try:
                for number in range(1, 7):
                    with pytest.raises(TimeoutError):
                        await outbox.enqueue(record(number))
                await asyncio.to_thread(until, lambda: pool.get_stats()["pool_available"] == 3, "one is taken")
            finally:
                postgres.signal(signal.SIGCONT)
            await asyncio.to_thread(until, lambda: pool.get_stats()["pool_available"] == 4, "it is given back")
            await put(outbox, record(9))

        asyncio.run(main())
    known = [(record(number).key,) for number in (0, 1, 9)]
    assert rows(database, "SELECT key FROM butter.seen ORDER BY key") == sorted(known)


def test_a_full_disk_keeps_the_records_in_memory(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """PostgreSQL answers but takes no record. When there is room again, all records go into the queue."""
    refuse = (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE USING ERRCODE = '53100'; END $$"
    )
    rows(database, f"{refuse}; CREATE TRIGGER disk BEFORE INSERT ON butter.seen EXECUTE FUNCTION refuse()")
    shop = make_butter(outbox=PostgresOutbox(database))
    for number in range(10):
        shop.record(checkout(number))
    until(lambda: shop.status().endpoint == "open", "the queue counts as away")
    assert (shop.status().pending, shop.status().lost) == (10, 0)
    rows(database, "DROP TRIGGER disk ON butter.seen")
    until(lambda: shop.status().pending == 0, "all are in the queue")
    assert rows(database, "SELECT count(*) FROM butter.procrastinate_jobs") == [(10,)]


def test_a_far_server_is_reached(database: str) -> None:
    """Connecting needs several round trips, which is longer than one try. The next try has the connection."""
    with far(database, 0.08) as dsn:
        outbox = PostgresOutbox(dsn)
        enqueue(outbox, record(1))
    assert rows(database, "SELECT count(*) FROM butter.procrastinate_jobs") == [(1,)]


def test_a_shopper_is_erased(database: str) -> None:
    """docs/data.md has the statement. It deletes that shopper's waiting and dead records, not those being sent."""
    (sql,) = re.findall(r"```sql\n(.*?)```", (HERE.parent / "docs" / "data.md").read_text(), re.DOTALL)
    other = Record.of(checkout(4).model_copy(update={"customer_email": "other@example.com"}), time.time())
    enqueue(PostgresOutbox(database), *map(record, range(1, 4)), other)
    rows(database, "UPDATE butter.procrastinate_jobs SET status = 'failed' WHERE id = 2")
    rows(database, "UPDATE butter.procrastinate_jobs SET status = 'doing' WHERE id = 3")
    rows(database, sql.replace("shopper@example.com", "Shopper@Example.com"))
    assert rows(database, "SELECT id FROM butter.procrastinate_jobs ORDER BY id") == [(3,), (4,)]
    assert rows(database, "SELECT job FROM butter.seen ORDER BY job") == [(3,), (4,)]


# The rights of each role.


def test_a_web_role_may_only_enqueue(postgres: PostgresServer, database: str) -> None:
    """An attacker in the shop's process can neither read nor delete a record in the queue."""
    rows(database, "DROP ROLE IF EXISTS web; CREATE ROLE web LOGIN")
    try:
        migrate(database, Names(), web=["web"])
        web = postgres.dsn(database.rpartition("/")[2], "web")
        enqueue(PostgresOutbox(web), record(1))
        assert rows(database, "SELECT count(*) FROM butter.seen") == [(1,)]
        for sql in (
            "SELECT * FROM butter.seen",
            "SELECT * FROM butter.procrastinate_jobs",
            "DELETE FROM butter.procrastinate_jobs",
            "SELECT butter.procrastinate_finish_job_v1(1, 'succeeded', true)",
            "CREATE TABLE butter.mine (id int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                rows(web, sql)
    finally:
        rows(database, "DROP OWNED BY web; DROP ROLE web")


SHOP_TO_CHECK = """
import os
from butter_middleware import Butter, client_ip
from butter_middleware.postgres import PostgresOutbox
from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["DSN"], open=False)
outbox = PostgresOutbox(pool=pool) if "POOLED" in os.environ else PostgresOutbox(os.environ["DSN"])
butter = Butter(username="u", password="p", client_ip=client_ip.aws_alb(), outbox=outbox, routes=[])
"""


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> Callable[..., tuple[str, str]]:
    """Return a function that runs `check` on a shop, and returns the state and the text of the outbox."""
    (tmp_path / "shop_with_queue.py").write_text(SHOP_TO_CHECK)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("BUTTER_BASE_URL", url)

    def check(dsn: str, *arguments: str) -> tuple[str, str]:
        monkeypatch.setenv("DSN", dsn)
        sys.modules.pop("shop_with_queue", None)
        outcome = CliRunner().invoke(cli, ["check", "--json", "--app", "shop_with_queue:butter", *arguments])
        (finding,) = [each for each in json.loads(outcome.stdout) if each["check"] == "outbox"]
        return finding["state"], finding["text"]

    return check


def test_check_verifies_the_role(postgres: PostgresServer, database: str, checked: Callable[..., Any]) -> None:
    """A role without the right to enqueue, a role with it, and a schema that does not exist. No record is left."""
    name, role = database.rpartition("/")[2], f"shop_{os.urandom(4).hex()}"
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    dsn = postgres.dsn(name, role)
    state, text = checked(dsn)
    assert state == "failed"
    assert "PostgresOutbox: InsufficientPrivilege: permission denied for schema butter. Check the dsn" in text
    migrate(database, Names(), web=[role])
    assert checked(dsn) == ("ok", "PostgresOutbox takes records, and its workers deliver")
    assert rows(database, "SELECT key FROM butter.seen") == []
    assert queued(database) == 0
    state, text = checked(postgres.dsn())
    assert (state, "InvalidSchemaName" in text) == ("failed", True)


def test_check_verifies_the_connection(
    database: str, checked: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not there, with a DSN and with a pool. `--offline` does not ask it."""
    nowhere = f"postgresql://shop:hidden@127.0.0.1:{free_port()}/shop"
    state, text = checked(nowhere)
    assert (state, "OperationalError" in text, "hidden" in text) == ("failed", True, False)
    assert checked(nowhere, "--offline") == ("ok", "PostgresOutbox, not asked because of --offline")
    monkeypatch.setenv("POOLED", "1")
    assert checked(database) == ("ok", "PostgresOutbox takes records, and its workers deliver")
    state, text = checked(nowhere)
    assert (state, "PoolTimeout" in text, "hidden" in text) == ("failed", True, False)


def test_a_worker_role_may_not_change_tables(
    postgres: PostgresServer, database: str, fake: FakeButter, make_butter: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """The role may do all that a worker does: send, dead-letter, hold, retry, delete. It is not an owner."""
    rows(database, "DROP ROLE IF EXISTS worker; CREATE ROLE worker LOGIN")
    try:
        migrate(database, Names(), workers=["worker"])
        role = postgres.dsn(database.rpartition("/")[2], "worker")
        enqueue(PostgresOutbox(database), *map(record, range(3)))
        rows(database, "UPDATE butter.procrastinate_jobs SET status = 'doing' WHERE id = 1")
        rows(database, "INSERT INTO butter.seen (key, delivered_at) VALUES ('old', now() - interval '8 days')")
        rows(database, "INSERT INTO butter.holds (queue, reason) VALUES ('butter', '401')")
        fake.respond_with(200, 422)
        done = (
            "SELECT (SELECT count(*) FROM butter.procrastinate_jobs WHERE status = 'failed'), "
            "(SELECT count(*) FROM butter.seen WHERE delivered_at IS NOT NULL), (SELECT count(*) FROM butter.holds)"
        )
        work(make_butter(), role, lambda: rows(database, done) == [(1, 2, 0)])
        assert "failed (" not in caplog.text
        for sql in ("DROP TABLE butter.seen", "TRUNCATE butter.seen", "CREATE TABLE butter.mine (id int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                rows(role, sql)
    finally:
        rows(database, "DROP OWNED BY worker; DROP ROLE worker")


def test_other_objects_in_the_schemas_keep_their_rights(postgres: PostgresServer, database: str) -> None:
    """A merchant's own functions may be in the queue's schema and in procrastinate's. Their rights do not change."""
    from procrastinate.schema import SchemaManager  # noqa: PLC0415 - for this test only

    role = """o'brien's "worker\""""
    rows(database, f"DROP SCHEMA butter CASCADE; CREATE ROLE {quoted(role)} LOGIN")
    try:
        rows(database, SchemaManager.get_schema())
        for schema, rights in (("public", "REVOKE EXECUTE"), ("mine", "GRANT EXECUTE")):
            rows(database, f"CREATE SCHEMA IF NOT EXISTS {schema}")
            rows(database, f"CREATE FUNCTION {schema}.secret() RETURNS int LANGUAGE sql AS 'SELECT 7'")
            way = "FROM" if rights.startswith("REVOKE") else "TO"
            rows(database, f"{rights} ON FUNCTION {schema}.secret() {way} PUBLIC")
        migrate(database, Names("mine", procrastinate="public"), web=[role], workers=[role])
        may = "SELECT has_function_privilege({}, '{}.secret()', 'EXECUTE')"
        assert rows(database, may.format(literal(role), "public")) == [(False,)]
        assert rows(database, may.format(literal(role), "mine")) == [(True,)]
    finally:
        rows(database, f"DROP OWNED BY {quoted(role)}; DROP ROLE {quoted(role)}")


# Setting up.


def test_the_printed_schema_is_what_migrate_makes(postgres: PostgresServer, database: str) -> None:
    """If the merchant applies the printed SQL, the schema is the same, and `migrate` has nothing to do."""
    postgres.execute("CREATE DATABASE by_hand")
    by_hand = postgres.dsn("by_hand")
    try:
        printed = CliRunner().invoke(cli, ["postgres", "schema"]).output
        assert printed.strip() == fresh_sql(Names()).strip()
        rows(by_hand, printed)
        tables = (
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'butter' ORDER BY 1, 2"
        )
        assert rows(by_hand, tables) == rows(database, tables)
        assert migrate(by_hand, Names()) == ["everything is up to date"]
    finally:
        postgres.execute("DROP DATABASE by_hand WITH (FORCE)")


def test_a_newer_procrastinate_is_migrated(database: str, fake: FakeButter, make_butter: Shop) -> None:
    """Procrastinate's newer migrations are applied once, and not while workers run."""
    rows(database, "DROP SCHEMA butter CASCADE; CREATE SCHEMA butter")
    rows(database, "CREATE TABLE butter.migrations (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())")
    old = [file for file in migrations() if file.stem < "03.03"]
    for file in old:
        rows(database, "SET search_path = butter; " + file.read_text())
        rows(database, f"INSERT INTO butter.migrations (name) VALUES ('{file.stem}')")  # noqa: S608 - a file's name
    rows(database, "INSERT INTO butter.procrastinate_workers DEFAULT VALUES")
    with pytest.raises(ConfigurationError, match="1 workers are running"):
        migrate(database, Names())
    rows(database, "DELETE FROM butter.procrastinate_workers")
    done = CliRunner().invoke(cli, ["postgres", "migrate", "--dsn", database, "--json"]).output
    assert done.count("applied procrastinate's 03.0") == len(migrations()) - len(old)
    assert migrate(database, Names()) == ["everything is up to date"]
    enqueue(PostgresOutbox(database), record(1))
    work(make_butter(), database, lambda: len(fake.records) == 1)


def test_a_procrastinate_of_the_merchants_own(
    postgres: PostgresServer, database: str, fake: FakeButter, make_butter: Shop
) -> None:
    """Its tables are in another schema, and its workers run. This package's tables stay in their own schema."""
    rows(database, "DROP SCHEMA butter CASCADE")
    names = Names(procrastinate="public")
    with pytest.raises(ConfigurationError, match="no procrastinate in the schema public"):
        migrate(database, names)
    from procrastinate.schema import SchemaManager  # noqa: PLC0415 - for this test only

    rows(database, SchemaManager.get_schema())
    migrate(database, names)
    enqueue(PostgresOutbox(database), record(1))
    assert rows(database, "SELECT count(*) FROM public.procrastinate_jobs") == [(1,)]
    work(make_butter(), database, lambda: len(fake.records) == 1, names)


def test_commands_report_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one line, and says what to do."""
    monkeypatch.delenv("BUTTER_POSTGRES_DSN", raising=False)
    monkeypatch.setenv("BUTTER_USERNAME", "merchant")
    monkeypatch.setenv("BUTTER_PASSWORD", "s3cret-pass")
    for arguments, says in (
        (["worker"], "no database"),
        (["worker", "--app", "no_such_module:butter"], "there is no module"),
        (["worker", "--app", "os:name"], "that is not a Butter"),
        (["postgres", "migrate", "--dsn", f"postgresql://127.0.0.1:{free_port()}/x"], "PostgreSQL refused"),
        (["postgres", "schema", "--schema", "a-b"], "lower-case letters"),
    ):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 3, result.output
        assert says in result.output


@pytest.mark.parametrize("command", [["worker"], ["postgres", "migrate"]])
def test_a_dsn_that_cannot_be_read_is_not_shown(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Psycopg's own error quotes it with the password. Without this check a worker would also wait for ever."""
    monkeypatch.setenv("BUTTER_USERNAME", "merchant")
    monkeypatch.setenv("BUTTER_PASSWORD", "s3cret-pass")
    result = CliRunner().invoke(cli, [*command, "--dsn", "postgresql://shop:hush@[half"])
    assert result.exit_code == 3, result.output
    assert "BUTTER_POSTGRES_DSN" in result.output
    assert "hush" not in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "BUTTER_POSTGRES_DSN"),
        ({"dsn": "postgresql://[half"}, "BUTTER_POSTGRES_DSN"),
        ({"dsn": "postgresql://a/b", "pool": object()}, "both"),
        ({"pool": AsyncConnectionPool("", open=False)}, "event loop"),
        ({"dsn": "postgresql://a/b", "queue": 'a"b'}, "queue="),
        ({"dsn": "postgresql://a/b", "schema": "Shop"}, "schema="),
    ],
)
def test_a_wrong_outbox_stops_the_start(options: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The constructor refuses invalid options."""
    monkeypatch.delenv("BUTTER_POSTGRES_DSN", raising=False)
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        PostgresOutbox(**options)


# The command.


SHOP = """
from butter_middleware import Butter, client_ip
from butter_middleware.postgres import PostgresOutbox

butter = Butter(client_ip=client_ip.direct(), outbox=PostgresOutbox("postgresql://127.0.0.1/x"))
dry = Butter(client_ip=client_ip.direct(), outbox=PostgresOutbox("postgresql://127.0.0.1/x"), dry_run=True)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("queue_shop:butter --base-url http://127.0.0.1:1", 2, "leave out --base-url"),
        ("queue_shop:butter --queue other", 2, "leave out --queue"),
        ("queue_shop:butter --schema other", 2, "leave out --schema"),
        ("queue_shop:dry", 3, "dry_run=True"),
    ],
)
def test_the_worker_of_an_app_refuses_other_options(
    arguments: str, code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that the app sets itself is refused. Warnings about its configuration are shown."""
    tmp_path.joinpath("queue_shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "queue_shop", raising=False)
    for name, value in (("USERNAME", "merchant"), ("PASSWORD", "s3cret-pass"), ("BASE_URL", "http://127.0.0.1:1")):
        monkeypatch.setenv(f"BUTTER_{name}", value)
    result = CliRunner().invoke(cli, ["worker", "--app", *arguments.split()])
    assert (result.exit_code, "BUTTER_BASE_URL: records go to" in result.stderr) == (code, True), result.output
    assert says in result.stderr


@pytest.mark.parametrize("told", ["--base-url", "BUTTER_BASE_URL", "--app"])
def test_the_worker_command(database: str, fake: FakeButter, tmp_path: Path, told: str) -> None:
    """A separate process sends to the given URL. SIGTERM ends it with 0 and without a traceback."""
    with served(fake) as url:
        environment = {"BUTTER_USERNAME": "merchant", "BUTTER_PASSWORD": "s3cret-pass"}
        environment |= {} if told == "--base-url" else {"BUTTER_BASE_URL": url}
        # The app's own DSN is not usable: its role may not work on the queue.
        tmp_path.joinpath("queue_shop.py").write_text(SHOP)
        arguments = {"--base-url": ["--base-url", url], "--app": ["--app", "queue_shop:butter"]}.get(told, [])
        process = subprocess.Popen(
            [sys.executable, "-m", "butter_middleware", "worker", "--dsn", database, *arguments],
            env=os.environ | environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        enqueue(PostgresOutbox(database), record(1))
        until(lambda: len(fake.records) == 1, "the record")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0, output.decode()
    assert b"Traceback" not in output
    assert rows(database, "SELECT count(*) FROM butter.procrastinate_workers") == [(0,)]


def test_a_second_signal_ends_the_worker_at_once(database: str) -> None:
    """A person who does not want to wait for an answer sends the signal again."""
    enqueue(PostgresOutbox(database), record(1))
    environment = {"BUTTER_USERNAME": "merchant", "BUTTER_PASSWORD": "s3cret-pass", "BUTTER_POSTGRES_DSN": database}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(40)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "butter_middleware", "worker", "--base-url", url]
        process = subprocess.Popen(command, env=os.environ | environment)
        with silent.accept()[0] as on_its_way, process:
            assert on_its_way.recv(1) == b"P"
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            until(lambda: time.monotonic() - began > SAME_SECONDS, "more than a moment")

            def ends() -> bool:
                process.send_signal(signal.SIGINT)  # repeated, because the time runs from when the first is handled
                return process.poll() is not None

            until(ends, "the second signal ends it")
            assert process.returncode == -signal.SIGINT
    assert rows(database, "SELECT status::text FROM butter.procrastinate_jobs") == [("doing",)]


@pytest.mark.parametrize(
    ("raised", "remedy"),
    [
        ("ModuleNotFoundError(name='psycopg')", "'butter-middleware[postgres]'"),
        ("ImportError('no pq wrapper available')", "'psycopg[binary]'"),
    ],
)
def test_a_missing_package_is_named(raised: str, remedy: str) -> None:
    """Each command prints one line with what to install, instead of a traceback."""
    code = f"""
import contextlib, io, json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "psycopg":
            raise {raised}

sys.meta_path.insert(0, Absent())
from butter_middleware.cli import cli
found = []
for command in [["worker"], ["postgres", "schema"], ["postgres", "migrate"]]:
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            cli(command)
        except SystemExit as end:
            found.append([end.code, errors.getvalue()])
print(json.dumps(found))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for status, errors in json.loads(found):
        assert (status, errors.count("\n"), remedy in errors) == (3, 1, True), errors
    assert len(json.loads(found)) == 3
