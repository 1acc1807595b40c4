"""`butter-middleware dead` and `parked`: list, show, retry or drop entries that wait for a person."""

import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final, cast

import click

from butter_middleware.cli import CommandGroup
from butter_middleware.cli.failure import EXIT_CODES, LOCKED, ExitCode, Failure
from butter_middleware.cli.options import ENTRY, C, command, default_option, outbox_options
from butter_middleware.cli.output import Output, Row
from butter_middleware.cli.text import counted, moment
from butter_middleware.errors import ExtractionError
from butter_middleware.models.content_encoding import coding_of, decode
from butter_middleware.models.http import Capture
from butter_middleware.outbox.sqlite import listing
from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.outbox.sqlite.listing import Waiting
from butter_middleware.outbox.sqlite.snapshot import Snapshot, snapshot
from butter_middleware.outbox.sqlite.store import SQLiteStore

SHOWN_BYTES: Final = 64 * 1024
"""The most bytes of a body that --reveal shows."""
SHOWN_ITEMS: Final = 5
"""The most items of a list, if only a body's shape is shown."""
SHOWN_LEVELS: Final = 50
"""The most levels of nesting, if only a body's shape is shown."""
STEP: Final = 200
"""Entries in one transaction."""

_ABSENT: Final = "some are not there"
_THINGS: Final = {Waiting.DEAD: ("dead record", "dead records"), Waiting.PARKED: ("parked capture", "parked captures")}
_MEANINGS: Final = {
    "422": "Butter finds these fields invalid. Fix what gives them. This record is never accepted as it is.",
    "500": "Butter failed on it again and again, while it took others. Ask Butter, then retry.",
    **dict.fromkeys(("400", "413", "415"), "Butter cannot read it, while it took others. Ask Butter, then retry."),
    **dict.fromkeys(("403", "404", "405", "410"), "Butter refuses it, while it took others. Ask Butter, then retry."),
}
"""The remedy by Butter's answer."""
_INTRODUCTIONS: Final = {
    Waiting.DEAD: (
        "List, show, retry or drop records that Butter will not accept as they are. Nothing sends them again until you "
        "retry them."
    ),
    Waiting.PARKED: (
        "List, show, retry or drop captures that could not be read. The extractor raised, or there was no e-mail or no "
        "address. They are read again whenever the app starts; retry does it now."
    ),
}


def _group(state: Waiting) -> click.Group:
    """Return the commands for one kind of entry."""
    one, many = _THINGS[state]
    told, heading = ("detail", "What to do") if state is Waiting.PARKED else ("meaning", "What it means")

    @click.group(name=state.value, cls=CommandGroup, help=_INTRODUCTIONS[state], epilog=EXIT_CODES)
    def group() -> None: ...

    @command(
        "list", group=group, help_=f"List the {many}, oldest first, without personal data.", ok="listed", busy=LOCKED
    )
    @outbox_options
    @default_option("--limit", 100, click.IntRange(1, 100_000), "How many at most.")
    @click.option(
        "--after",
        type=ENTRY,
        default=0,
        metavar="ID",
        help="Only those with a number above this one, for the next page.",
    )
    def list_(output: Output, *, path: str, limit: int, after: int) -> None:
        with existing(path) as store:
            found = store.read(lambda db: listing.entries(db, state, limit + 1, after))
        rows: list[Row] = [
            {
                "id": entry.id,
                "captured_at": moment(entry.captured_at),
                "reason": entry.reason,
                "attempts": entry.attempts,
                "detail": entry.detail,
                "meaning": _MEANINGS.get(entry.reason[:3], "") if state is Waiting.DEAD else "",
            }
            for entry in found[:limit]
        ]
        columns = {"id": "ID", "captured_at": "Checkout at", "reason": "Reason", told: heading}
        # A text that repeats the row above is shown once.
        shown = rows[:1] + [
            {**row, told: "as above"} if row[told] and row[told] == before[told] else row
            for before, row in pairwise(rows)
        ]
        output.show(rows, output.table(shown, columns) if rows else f"There is no {one}.")
        if len(found) > limit:
            output.note(f"There are more. The next page: --after {found[limit - 1].id}")

    @command(
        "show",
        group=group,
        help_=f"Show one {one}, with what is stored of it.",
        reveal=True,
        ok="shown",
        attention="it is not there",
        busy=LOCKED,
    )
    @click.argument("number", metavar="ID", type=ENTRY)
    @outbox_options
    def show(output: Output, *, number: int, path: str) -> None:
        with existing(path) as store:
            found = store.read(lambda db: _details(db, state, number, reveal=output.reveal))
        if found is None:
            msg = f"there is no {one} {number}. `butter-middleware {state} list` names them."
            raise Failure(msg, ExitCode.ATTENTION)
        output.fields(found)

    @command("retry", group=group, help_=_RETRY[state], ok="done", attention=_ABSENT, busy=LOCKED)
    @_chosen
    def retry(output: Output, *, numbers: Sequence[int], all_: bool, path: str) -> ExitCode:
        with existing(path) as store:
            chosen = _choose(store, state, numbers, all_=all_)
            done = _in_steps(chosen, lambda few: store.write(lambda db: listing.retry(db, state, few, time.time())))
            view = snapshot(store)
        text = f"{counted(done, one, many)} to be tried again."
        return _finish(output, f"{text} {_when_retried(state, view)}" if done else text, numbers, done)

    help_ = f"Delete {many} for good. Their evidence is lost."

    @command("drop", group=group, help_=help_, ok="done", attention=f"{_ABSENT}, or you said no", busy=LOCKED)
    @_chosen
    @click.option("--yes", is_flag=True, help="Do not ask.")
    def drop(output: Output, *, numbers: Sequence[int], all_: bool, yes: bool, path: str) -> ExitCode:
        with existing(path) as store:
            chosen = _choose(store, state, numbers, all_=all_)
            there = len({*chosen} & {*store.read(lambda db: listing.numbers(db, state))})
            if there and not yes:
                output.confirm(f"Delete {counted(there, one, many)} for good?")
            done = _in_steps(chosen, lambda few: store.write(lambda db: listing.drop(db, state, few)))
        return _finish(output, f"{counted(done, one, many)} deleted.", numbers, done)

    return group


_RETRY: Final = {
    Waiting.DEAD: "Send dead records again, as if they were new. Use it after Butter or the account was fixed.",
    Waiting.PARKED: (
        "Read parked captures once more, with the extractors that the app runs now. Use it after a deploy brought the "
        "fix. Each start of the app does this for all of them."
    ),
}


def _chosen(command: C) -> C:
    """Add the arguments that choose entries to a command."""
    command = click.option("--all", "all_", is_flag=True, help="All of them.")(outbox_options(command))
    return click.argument("numbers", metavar="ID...", type=ENTRY, nargs=-1)(command)


def _choose(store: SQLiteStore, state: Waiting, numbers: Sequence[int], *, all_: bool) -> Sequence[int]:
    if bool(numbers) == all_:
        msg = "Which ones? Give the IDs that `list` shows, or --all."
        raise Failure(msg, ExitCode.USAGE)
    return store.read(lambda db: listing.numbers(db, state)) if all_ else list(dict.fromkeys(numbers))


def _in_steps(chosen: Sequence[int], change: Callable[[Sequence[int]], int]) -> int:
    """Change a few entries at a time, so that checkouts in the app never wait long for the file."""
    return sum(change(chosen[start : start + STEP]) for start in range(0, len(chosen), STEP))


def _when_retried(state: Waiting, view: Snapshot) -> str:
    if state is Waiting.PARKED:
        if view.readers:
            return "A running process reads them within seconds."
        return "No process with the app's extractors runs now: they are read at its next start."
    if view.deliverer is not None:
        return "They are sent as soon as Butter takes them."
    return "No process delivers now: start the app, or run `butter-middleware deliver`."


def _finish(output: Output, text: str, numbers: Sequence[int], done: int) -> ExitCode:
    absent = max(0, len(set(numbers)) - done)
    output.show({"done": done, "absent": absent}, text)
    if absent:
        output.note(f"{absent} of the IDs given {'is' if absent == 1 else 'are'} not there (any more).")
    return ExitCode.ATTENTION if absent else ExitCode.OK


def _details(db: Any, state: Waiting, number: int, *, reveal: bool) -> dict[str, Any] | None:  # noqa: ANN401 - sqlite3.Connection
    entry = next((found for found in listing.entries(db, state, 1, number - 1) if found.id == number), None)
    if entry is None:
        return None
    fields = {"id": entry.id, "captured_at": moment(entry.captured_at), "reason": entry.reason}
    if state is Waiting.DEAD:
        payload = listing.payload(db, number) or "{}"
        return fields | {
            "meaning": _MEANINGS.get(entry.reason[:3], ""),
            "attempts": entry.attempts,
            "key": entry.detail,
            "record": json.loads(payload),
        }
    capture = listing.capture(db, number)
    return fields | {"what_to_do": entry.detail} | ({} if capture is None else _described(capture, reveal=reveal))


def _described(capture: Capture, *, reveal: bool) -> dict[str, Any]:
    """Describe a capture. Without `reveal`, show only its shape: a shopper's name looks like any other text."""
    query = capture.query_string.decode("latin-1")
    fields: dict[str, Any] = {
        "request": f"{capture.method} {capture.path}",
        "query": query if reveal else ("(hidden)" if query else ""),
        "status": capture.status_code,
        "content_type": dict(capture.response_headers).get(b"content-type", b"").decode("latin-1"),
        "content_encoding": coding_of(capture.response_headers),
        "annotations": dict(capture.annotations) if reveal else shape(dict(capture.annotations)),
    }
    if reveal:
        fields["client"] = capture.client
        fields["headers"] = [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in capture.headers]
    fields["body"] = _body(capture.body, coding_of(capture.response_headers), reveal=reveal)
    if capture.request_body is not None:
        fields["request_body"] = _body(capture.request_body, coding_of(capture.headers), reveal=reveal)
    if not reveal:
        fields["hidden"] = "Values are hidden, since they may be personal data: --reveal shows them."
    return fields


def _body(body: bytes, coding: str, *, reveal: bool) -> object:
    try:
        plain = decode(body, coding, 1 << 26)
    except ExtractionError as error:
        return f"({len(body)} bytes that cannot be decoded: {error})"
    try:
        data = json.loads(plain)
    except (ValueError, RecursionError):
        return plain[:SHOWN_BYTES].decode("utf-8", "replace") if reveal else f"({len(plain)} bytes, no JSON)"
    return data if reveal else shape(data)


def shape(value: object, level: int = 0) -> object:
    """Return JSON with its keys, but without texts and numbers. An e-mail address stays: the output masks it."""
    match value:
        case dict() | list() if level > SHOWN_LEVELS:
            return "(nested further)"
        case dict():
            return {key: shape(item, level + 1) for key, item in cast("dict[str, object]", value).items()}
        case list():
            items = cast("list[object]", value)
            more = [f"({len(items) - SHOWN_ITEMS} more)"] if len(items) > SHOWN_ITEMS else []
            return [*(shape(item, level + 1) for item in items[:SHOWN_ITEMS]), *more]
        case bool() | None:
            return value
        case str():
            local, _at, domain = value.strip().partition("@")
            is_email = local and "." in domain and not any(map(str.isspace, value.strip()))
            return value if is_email else f"(text of {len(value)})"
        case _:
            return "(number)"


dead = _group(Waiting.DEAD)
parked = _group(Waiting.PARKED)
