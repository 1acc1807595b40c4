"""The schema of the database. Its owner creates it, updates it, and grants the rights.

    seen        each record once, by its key: its text until Butter has it, then for a week only its key
    seen_ids    for a week: the IDs of a checkout and its address, as in `models.seen_ids`
    holds       for each queue why only probes are sent, so that a restarted worker knows it
    migrations  which of procrastinate's changes have been applied, and ours
    enqueue()   puts a record into `seen` and procrastinate's queue; a web process may call only this

Only procrastinate's tables have which record is due, which worker has it, and when it is tried again.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
from procrastinate.schema import SchemaManager

from butter_middleware.errors import ConfigurationError
from butter_middleware.postgres.names import TASK, Names, first_line, literal, quoted, readable

REMEMBERED: Final = "7 days"
"""How long the key of a delivered record is known, so that a reloaded page sends nothing."""

_OURS: Final = """
CREATE TABLE IF NOT EXISTS {schema}.migrations (name text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS {schema}.seen (
    key text PRIMARY KEY,
    record text,
    attempts integer NOT NULL DEFAULT 0,
    reason text,
    job bigint,
    delivered_at timestamptz
);
CREATE INDEX IF NOT EXISTS seen_delivered_at ON {schema}.seen (delivered_at) WHERE delivered_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS {schema}.holds (
    queue text PRIMARY KEY,
    reason text NOT NULL,
    since timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS {schema}.seen_ids (
    id text PRIMARY KEY,
    address text NOT NULL,
    payment_ids integer NOT NULL,
    seen_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS seen_ids_seen_at ON {schema}.seen_ids (seen_at);
CREATE OR REPLACE FUNCTION {schema}.may_send(_payload jsonb) RETURNS boolean
LANGUAGE plpgsql SET search_path = {search_path} AS $$
DECLARE
    _names text[] := ARRAY['invoice_id', 'charge_id', 'transaction_id'];
    _bits integer := (SELECT coalesce(sum(1 << (place - 1)::integer), 0)
        FROM unnest(_names) WITH ORDINALITY AS one (name, place) WHERE _payload ? name);
    _ids {schema}.seen_ids[] := ARRAY(
        SELECT ROW(id, left(encode(sha256(convert_to(_payload ->> 'ipv4_address', 'UTF8')), 'hex'), 4),
            CASE WHEN name = ANY(_names) THEN 0 ELSE _bits END, now())::{schema}.seen_ids
        FROM unnest(_names || ARRAY['subscription_id', 'network_transaction_id']) AS name,
            concat_ws(E'\n', _payload ->> 'psp', name, _payload ->> name) AS named,
            left(encode(sha256(convert_to(named, 'UTF8')), 'hex'), 16) AS id
        WHERE _payload ? name ORDER BY id);
    _new text[];
    _address text;
BEGIN
    -- Waits for an open transaction that has one of them.
    WITH new AS (INSERT INTO {schema}.seen_ids SELECT * FROM unnest(_ids) ON CONFLICT DO NOTHING RETURNING id)
    SELECT coalesce(array_agg(id), '{{}}') INTO _new FROM new;
    SELECT known.address INTO _address FROM {schema}.seen_ids AS known JOIN unnest(_ids) AS one USING (id)
        WHERE known.address <> one.address AND known.payment_ids & one.payment_ids = 0 ORDER BY id LIMIT 1;
    IF FOUND THEN
        UPDATE {schema}.seen_ids SET address = _address WHERE id = ANY(_new);
        RETURN false;
    END IF;
    UPDATE {schema}.seen_ids AS known SET seen_at = now(),
        address = CASE WHEN known.address = one.address THEN known.address ELSE '' END,
        payment_ids = coalesce(
            nullif(known.payment_ids & one.payment_ids, 0), nullif(known.payment_ids, 0), one.payment_ids)
        FROM unnest(_ids) AS one WHERE known.id = one.id AND known.id <> ALL(_new);
    RETURN true;
END;
$$;
CREATE OR REPLACE FUNCTION {schema}.enqueue(_key text, _record text, _queue text DEFAULT 'butter') RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {search_path} AS $$
BEGIN
    -- Until the transaction ends, whatever the database's default: a record that was committed is there after a crash.
    PERFORM set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
    INSERT INTO {schema}.seen AS known (key, record) VALUES (_key, _record)
    ON CONFLICT (key) DO UPDATE SET record = _record, attempts = 0, reason = NULL, delivered_at = NULL
        WHERE known.delivered_at < now() - interval '{remembered}' OR known.reason = 'other_address';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF NOT {schema}.may_send((_record::json ->> 'payload')::jsonb) THEN
        UPDATE {schema}.seen SET record = NULL, reason = 'other_address', delivered_at = now() WHERE key = _key;
        RETURN false;
    END IF;
    UPDATE {schema}.seen SET job = ({engine}.procrastinate_defer_jobs_v1(ARRAY[
        ROW(_queue, '{task}', 0, NULL, NULL, jsonb_build_object('key', _key), NULL)
        ::{engine}.procrastinate_job_to_defer_v1
    ]))[1] WHERE key = _key;
    RETURN true;
END;
$$;
"""

# By name: an older schema of the merchant may contain other functions, whose rights must not change.
_REVOKE: Final = """
DO $do$
DECLARE _each regprocedure;
BEGIN
    FOR _each IN
        SELECT oid FROM pg_proc WHERE pronamespace = '{schema}'::regnamespace
        AND (proname IN ('enqueue', 'may_send') OR starts_with(proname, 'procrastinate_'))
    LOOP
        EXECUTE 'REVOKE ALL ON FUNCTION ' || _each || ' FROM PUBLIC';
    END LOOP;
END;
$do$;
"""

_GRANTS_WEB: Final = """
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT EXECUTE ON FUNCTION {schema}.enqueue(text, text, text) TO {role};
"""

_GRANTS_WORKER: Final = """
GRANT USAGE ON SCHEMA {schema}, {engine} TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.seen, {schema}.seen_ids, {schema}.holds TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON {engine}.procrastinate_jobs, {engine}.procrastinate_events,
    {engine}.procrastinate_workers, {engine}.procrastinate_periodic_defers TO {role};
DO $do$
DECLARE _each text;
BEGIN
    FOR _each IN
        SELECT 'EXECUTE ON FUNCTION ' || oid::regprocedure FROM pg_proc
        WHERE pronamespace = '{engine}'::regnamespace AND starts_with(proname, 'procrastinate_')
        UNION ALL
        SELECT 'USAGE ON SEQUENCE ' || oid::regclass FROM pg_class
        WHERE relnamespace = '{engine}'::regnamespace AND starts_with(relname, 'procrastinate_') AND relkind = 'S'
    LOOP
        EXECUTE format('GRANT %s TO %I', _each, {role_name});
    END LOOP;
END;
$do$;
"""


def _filled(text: str, names: Names, **more: str) -> str:
    return text.format(
        schema=quoted(names.schema),
        engine=quoted(names.engine),
        search_path=names.search_path,
        remembered=REMEMBERED,
        task=TASK,
        **more,
    )


def migrations() -> list[Path]:
    """Return procrastinate's changes in order. Its whole schema contains all of them."""
    files = Path(SchemaManager.get_migrations_path()).glob("*.sql")
    return sorted(file for file in files if re.fullmatch(r"\d\d\.\d\d\.\d\d_\d\d_.+", file.stem))


def fresh_sql(names: Names, web: Iterable[str] = (), workers: Iterable[str] = ()) -> str:
    """Return everything as one script for a new database, for people who apply SQL by themselves."""
    make = _filled("BEGIN;\nCREATE SCHEMA {schema};\nSET LOCAL search_path = {search_path};\n", names)
    return "".join([make, *_fresh(names, web, workers), "COMMIT;\n"])


def _fresh(names: Names, web: Iterable[str], workers: Iterable[str]) -> Iterator[str]:
    yield _filled(_OURS, names)
    if not names.procrastinate:
        yield SchemaManager.get_schema()
        yield "".join(_applied(names, file.stem) for file in migrations())
    yield from _rights(names, web, workers)


def _applied(names: Names, name: str) -> str:
    return f"INSERT INTO {quoted(names.schema)}.migrations (name) VALUES ('{name}');\n"


def _rights(names: Names, web: Iterable[str], workers: Iterable[str]) -> Iterator[str]:
    yield _filled(_REVOKE, names)
    yield from (_filled(_GRANTS_WEB, names, role=quoted(role)) for role in web)
    yield from (_filled(_GRANTS_WORKER, names, role=quoted(role), role_name=literal(role)) for role in workers)


def migrate(dsn: str, names: Names, web: Iterable[str] = (), workers: Iterable[str] = ()) -> list[str]:
    """Create or update everything, and grant the rights. Return what was done, in words.

    Creating is one transaction. In an update each of procrastinate's changes is one, as in procrastinate, because a
    change may use what the one before it added.

    Raises:
        ConfigurationError: it is not possible. The text has the cause and the remedy.
    """
    done: list[str] = []
    try:
        with psycopg.connect(readable(dsn), autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(hashtext('butter-middleware migrate'))")
            for name, script in _steps(connection, names, web, workers):
                with connection.transaction():
                    connection.execute(f"SET LOCAL search_path = {names.search_path}".encode())
                    connection.execute(script.encode())
                done.append(name)
    except psycopg.Error as error:
        before = f"What was done before stays so: {'; '.join(done)}." if done else "Nothing was changed."
        msg = f"PostgreSQL refused ({type(error).__name__}: {first_line(error)}). {before}"
        raise ConfigurationError(msg) from None
    return done


def _steps(
    connection: "psycopg.Connection[Any]", names: Names, web: Iterable[str], workers: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """Yield the steps, each in words and in SQL."""
    if not _has(connection, f"{quoted(names.schema)}.migrations"):
        if names.procrastinate and not _has(connection, f"{quoted(names.engine)}.procrastinate_jobs"):
            msg = f"there is no procrastinate in the schema {names.engine}: apply procrastinate's own schema first."
            raise ConfigurationError(msg)
        is_there = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (names.schema,)).fetchone()
        make = f"CREATE SCHEMA {quoted(names.schema)};\n" if is_there is None else ""
        yield f"made the schema {names.schema}", make + "".join(_fresh(names, web, workers))
        return
    known = {name for (name,) in connection.execute(f"SELECT name FROM {quoted(names.schema)}.migrations".encode())}
    missing = [] if names.procrastinate else [file for file in migrations() if file.stem not in known]
    workers_table = f"{quoted(names.engine)}.procrastinate_workers"
    if missing and _has(connection, workers_table):
        query = f"SELECT count(*) FROM {workers_table} WHERE last_heartbeat > now() - interval '30 seconds'"
        (alive,) = connection.execute(query.encode()).fetchone() or (0,)
        if alive:
            msg = f"{alive} workers are running, and cannot work with procrastinate's changed tables. Stop them first."
            raise ConfigurationError(msg)
    for file in missing:
        yield f"applied procrastinate's {file.stem}", file.read_text() + _applied(names, file.stem)
    yield "everything is up to date", "".join([_filled(_OURS, names), *_rights(names, web, workers)])


def _has(connection: "psycopg.Connection[Any]", relation: str) -> bool:
    (found,) = connection.execute("SELECT to_regclass(%s)", (relation,)).fetchone() or (None,)
    return found is not None
