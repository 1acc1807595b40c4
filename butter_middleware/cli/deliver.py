"""`butter-middleware deliver`: reads and sends what is in an outbox's file, beside the app or instead of it."""

import logging
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import anyio
import click

from butter_middleware.cli.failure import ExitCode, Failure
from butter_middleware.cli.options import (
    NO_OUTBOX,
    Stop,
    app_option,
    by_hand,
    command,
    load_aloud,
    outbox_option,
    path_of,
    stop_signals,
)
from butter_middleware.cli.output import Output, Tell
from butter_middleware.cli.text import counted, deliverer_name, duration, moment
from butter_middleware.outbox import Counts, SQLiteOutbox, Store
from butter_middleware.outbox.sqlite.existing import refuse_absent
from butter_middleware.outbox.sqlite.locks import LEAD, Locks
from butter_middleware.pipeline import components
from butter_middleware.pipeline.pipeline import Pipeline

POLL_SECONDS: Final = 0.2
LEAD_SECONDS: Final = 3.0
"""The time to take the lead, if no process had it a moment ago."""
RETRY_SECONDS: Final = 60.0
"""The longest wait for a record that will be tried again."""
PATIENCE_SECONDS: Final = 60.0
"""How long the command waits while Butter is not available."""
HOLD_SECONDS: Final = 15.0
STILL: Final = 3
"""The number of checks in a row that find nothing to do."""
DRAIN_SECONDS: Final = 5.0
OPEN_SECONDS: Final = 30.0
"""The time to open a file and update it to this version."""


@command(
    "deliver",
    ok="nothing is left; with --follow, it was told to stop",
    attention="something is left, or records are dead or parked",
    busy="another process delivers from this file, or holds its lock",
)
@outbox_option
@app_option
@click.option(
    "--follow", is_flag=True, help="Continue until SIGTERM or Ctrl-C, as a sidecar of the app or in its place."
)
def deliver(output: Output, *, outbox: str | None, app: str | None, follow: bool) -> ExitCode:
    """Read and send what waits in the outbox, without the app.

    \b
    deliver --app shop.main:butter            read and send what waits, then end
    deliver --app shop.main:butter --follow   continue: a sidecar of the app
    deliver --outbox butter.db                send records only; read nothing

    The outbox has records and captures. Records are ready to be sent: any process with the credentials can do that
    (BUTTER_USERNAME, BUTTER_PASSWORD). Captures are responses as the app sent them: only your extractors can make
    records of them. For these pass --app, which imports your app as its server does, and serves nothing.

    One process at a time delivers from a file. If an app delivers already, this command says so and ends with 4. With
    --follow it waits, and takes over within a second when that process ends. SIGTERM and Ctrl-C end it: it waits for
    the answers to records on their way, and the rest stays in the file.
    """  # noqa: D301 - click's mark
    if follow and output.as_json:
        msg = "--json works without --follow only. With --follow, programs can run `status --json` at any time."
        raise Failure(msg, ExitCode.USAGE)
    stop = Stop()
    with stop_signals(stop.set):
        if app is None or (by_hand("outbox") and not by_hand("app")):
            pipeline, path = _records_only(outbox)
        elif by_hand("outbox"):
            msg = "--outbox and --app may name two different outboxes. Leave --outbox out: the app names its own."
            raise Failure(msg, ExitCode.USAGE)
        else:
            pipeline, path = _with_app(output, app, stop, follow=follow)
        _log_to_stderr(output, logging.INFO if follow else logging.WARNING)
        with closing(pipeline):  # settles the records on their way, and lets another process take over
            return (_follow if follow else _drain)(output, pipeline, path, stop)


def _with_app(output: Output, app: str, stop: Stop, *, follow: bool) -> tuple[Pipeline, str]:
    butter = load_aloud(app, output)
    path = path_of(butter, app)  # refuses an outbox that is not a file
    anyio.run(butter.client().aclose)  # raises if credentials are missing, or the environment prevents a client
    if not follow:
        refuse_absent(path)
    elif not Path(path).exists():
        SQLiteOutbox(path).validate()
        output.note(f"{path} is not there yet: the app makes it when it starts. Waiting for it.")
        while not Path(path).exists() and not stop.is_set():
            stop.wait(POLL_SECONDS)
    butter.pipeline.take_over()
    return butter.pipeline, path


def _records_only(path: str | None) -> tuple[Pipeline, str]:
    if path is None:
        raise Failure(NO_OUTBOX, ExitCode.USAGE)
    outbox = SQLiteOutbox(path)
    refuse_absent(outbox.path)
    outbox.validate()
    parts = components.records_only(outbox)
    anyio.run(parts.make_client().aclose)  # raises if the environment prevents a client
    return Pipeline(parts), outbox.path


def _refuse_another(path: str) -> None:
    """Refuse if a process delivers from the file already, before anything is opened."""
    with closing(Locks(path)) as locks:
        process = locks.holder(LEAD)
    if process is not None:
        msg = (
            f"{deliverer_name(process)} delivers from {path} already, and sends what waits. `status` shows the "
            "progress. With --follow this command waits, and takes over when that process ends."
        )
        raise Failure(msg, ExitCode.BUSY)


def _log_to_stderr(output: Output, level: int) -> None:
    """Show the package's own log, unless the app has set up logging."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            output.note(self.format(record))  # above the bar, if one is shown

    log = logging.getLogger("butter_middleware")
    if not log.hasHandlers():
        handler = Handler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(level)


# A sidecar.


def _follow(output: Output, pipeline: Pipeline, path: str, stop: Stop) -> ExitCode:
    if stop.is_set():  # a signal came while the app was imported, or the file was opened
        return ExitCode.OK
    pipeline.start()
    if not _leads_soon(pipeline, stop) and not stop.is_set():
        who = deliverer_name(pipeline.deliverer or 0)
        output.note(f"{who} delivers from {path}. Waiting, to take over when it ends.")
    led = False
    while not stop.is_set():
        if pipeline.leads and not led:
            output.note(f"Delivering from {path}. SIGTERM or Ctrl-C ends it.")
            _say_unread(output, pipeline)
        led = pipeline.leads
        stop.wait(POLL_SECONDS)
    output.note("Stopping: what is on its way is settled, the rest stays in the file.")
    return ExitCode.OK


def _say_unread(output: Output, pipeline: Pipeline) -> None:
    """Tell what stays in the file if no process reads."""
    if not pipeline.components.reads and (waiting := pipeline.counts().captured):
        waits = counted(waiting, "capture waits", "captures wait")
        output.note(
            f"{waits} to be read: responses as the app gave them. Only your extractors make records of them: "
            "add --app shop.main:butter."
        )


def _leads_soon(pipeline: Pipeline, stop: Stop) -> bool:
    """Wait a moment for the lead. Return whether this process has it."""
    deadline = time.monotonic() + LEAD_SECONDS
    while not pipeline.leads and not stop.is_set() and time.monotonic() < deadline:
        stop.wait(POLL_SECONDS / 4)
    return pipeline.leads


# One drain.


def _drain(output: Output, pipeline: Pipeline, path: str, stop: Stop) -> ExitCode:
    """Wait until nothing is due soon, and report what was done."""
    _refuse_another(path)
    pipeline.start(paused=True)
    first, _to_read, _due = _look(pipeline, path, OPEN_SECONDS)
    if stop.is_set():
        return _finish(output, pipeline, path, first, "Nothing was done: it was told to stop before it began.")
    pipeline.start()
    if not _leads_soon(pipeline, stop) and not stop.is_set():
        msg = f"another process has just begun to deliver from {path}. See `status`."
        raise Failure(msg, ExitCode.BUSY)
    _say_unread(output, pipeline)
    with output.progress("Delivering") as tell:
        why = _wait_until_done(pipeline, path, first, stop, tell)
    pipeline.shutdown()
    return _finish(output, pipeline, path, first, why)


def _look(pipeline: Pipeline, path: str, seconds: float) -> tuple[Counts, int, float | None]:
    """Return the counts, how many captures this process must read, and when the next record is due."""
    found = pipeline.ask(_backlog, None, seconds)
    if found is None:
        msg = (
            f"the outbox is busy: another process holds the lock of {path}, or its disk does not answer. "
            "What is not yet sent stays in the file. Once that is over, run this again."
        )
        raise Failure(msg, ExitCode.BUSY)
    return found


def _backlog(store: Store) -> tuple[Counts, int, float | None]:
    counts = store.counts()
    return counts, counts.captured - store.unreadable, store.next_due()


_AWAY: Final = ("Butter is away", "Butter does not answer: try again later, or with --follow.")
_ILL: Final = {
    "open": _AWAY,
    "half_open": _AWAY,
    "paused": ("Butter asks for a pause", "Butter asks for a pause: try again later, or with --follow."),
    "hold": ("Butter refuses", "Butter refuses what is sent: `check` says why. Fix that, then run this again."),
}
"""For each state of the endpoint: what the command waits for, and why it gives up in the end."""


def _wait_until_done(pipeline: Pipeline, path: str, first: Counts, stop: Stop, tell: Tell) -> str:
    """Show the progress until there is nothing to wait for. Return why it gave up, if it did."""
    done = total = still = 0
    ill_since: float | None = None  # Butter has accepted nothing since. If it asks for pauses, it is ok between them.
    answered_at = time.monotonic()
    while still < STILL and not stop.is_set():
        try:
            counts, to_read, due = _look(pipeline, path, DRAIN_SECONDS)
        except Failure:
            if time.monotonic() - answered_at >= PATIENCE_SECONDS:
                raise
            waits_for = "the outbox is busy"
        else:
            answered_at = time.monotonic()
            if counts.delivered - first.delivered > done:
                ill_since = None
            done = counts.delivered - first.delivered
            to_read = to_read if pipeline.components.reads else 0
            total = done + counts.pending + to_read
            wait = 0.0 if due is None else due - time.time()
            state = pipeline.endpoint
            waits_for, why = _ILL.get(state, (f"next try in {wait:.0f} s" if wait > 1 else "", ""))
            if why:
                ill_since = answered_at if ill_since is None else ill_since
                if answered_at - ill_since >= (HOLD_SECONDS if state == "hold" else PATIENCE_SECONDS):
                    return why
            still = 0 if to_read or (due is not None and wait <= RETRY_SECONDS) else still + 1
        if total:
            tell(done, total, done, f"{done:,} of {total:,}", waits_for)
        stop.wait(POLL_SECONDS)
    return ""


def _finish(output: Output, pipeline: Pipeline, path: str, first: Counts, why: str) -> ExitCode:
    """Report what was done since `first`, what is left, and why."""
    counts, _to_read, due = _look(pipeline, path, DRAIN_SECONDS)
    delivered = counts.delivered - first.delivered
    document = {
        "delivered": delivered,
        "pending": counts.pending,
        "captured": counts.captured,
        "dead": counts.dead,
        "parked": counts.parked,
        "next_due_at": moment(due),
        "gave_up": why or None,
    }
    left = [
        counted(count, f"{what} is still to be {done}", f"{what}s are still to be {done}")
        for count, what, done in ((counts.pending, "record", "sent"), (counts.captured, "capture", "read"))
        if count
    ]
    waits = due is not None and due > time.time() and counts.pending and not why
    waiting = {"parked": counts.parked, "dead": counts.dead}
    people = [f"{number} {what} (`{what} list`)" for what, number in waiting.items() if number]
    sentences = [
        f"Delivered {counted(delivered, 'record')}.",
        f"{', '.join(left)}." if left else "",
        f"The next try is due in {duration((due or 0.0) - time.time())}." if waits else "",
        f"This needs you: {', '.join(people)}." if people else "",
        why,
    ]
    output.show(document, " ".join(filter(None, sentences)))
    return ExitCode.ATTENTION if left or people else ExitCode.OK
