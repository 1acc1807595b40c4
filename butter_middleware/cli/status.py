"""`butter-middleware status` and `resume`: the state of the outbox, and a probe after a hold."""

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from butter_middleware.cli.failure import LOCKED, ExitCode, Failure
from butter_middleware.cli.options import NumberRange, command, default_option, outbox_options
from butter_middleware.cli.output import Cell, Mark, Output, Row
from butter_middleware.cli.text import deliverer_name, duration, moment
from butter_middleware.config import COVERAGE_THRESHOLD
from butter_middleware.errors import ButterError
from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.outbox.sqlite.snapshot import Snapshot, snapshot
from butter_middleware.outbox.sqlite.store import counts, set_hold
from butter_middleware.pipeline.health import HealthInput, Reason, diagnose
from butter_middleware.pipeline.reporter import HostCounts, host_counts
from butter_middleware.telemetry.counters import Tally
from butter_middleware.telemetry.coverage import Coverage

COLUMNS: Final = {"what": "State", "count": "Number", "note": ""}
FULL_DISK: Final = 4 * 1024**2
"""Bytes. With less free space, the app may be unable to append, and then keeps captures in memory."""
_COMMANDS: Final = {
    "dead": "See `dead list`.",
    "parked": "See `parked list`.",
    "hold": "To send a probe at once, run `resume`.",
    "no_deliverer": "Without delivery='external', start the app: it delivers.",
}


@command(
    "status",
    ok="nothing needs you",
    attention="a hold, dead, parked or lost records, missing evidence, a full disk, or records that wait too long",
    busy=LOCKED,
)
@outbox_options
@click.option("--watch", is_flag=True, help="Show it again every --every seconds, until Ctrl-C.")
@default_option("--every", 2.0, NumberRange(0.2, 3600), "Seconds.")
def status(output: Output, *, path: str, watch: bool, every: float) -> ExitCode:
    """Show what waits in the outbox, what was sent, and who sends.

    \b
    captured   responses that the app's extractors have yet to read
    parts      parts of checkouts that wait for the other part
    pending    records that are to be sent
    parked     captures that wait for a fixed extractor: `parked list`
    dead       records that Butter will not accept: `dead list`
    covered    checkouts that became records, since the file was created
    skipped    responses that became no record and are not kept, since then
    lost       captures and records that are lost, since then
    """  # noqa: D301 - click's mark
    if watch:
        _watch(output, path, every)
        return ExitCode.OK
    view, host, now = _look(path)
    needs = attention(view, host, now, full=shutil.disk_usage(Path(path).parent).free < FULL_DISK)
    output.show(
        _document(path, view, host, now) | {"attention": [asdict(reason) for reason in needs]},
        f"Outbox {path} ({_size(path)})\n",
        output.table(_rows(view, host, now), COLUMNS),
        *(["\nThis needs you:"] if needs else []),
        *(f"{reason.code}: {reason.detail}. {reason.remedy}" for reason in needs),
    )
    return ExitCode.ATTENTION if needs else ExitCode.OK


@command("resume", ok="Butter is tried again, or there is no hold", busy=LOCKED)
@outbox_options
def resume(output: Output, *, path: str) -> None:
    """Try Butter again now, after a hold.

    A hold begins when Butter refuses all that is sent, such as with wrong credentials. Then only a probe is sent, at
    first after seconds, later every five minutes. The hold ends by itself when a probe succeeds. This command makes the
    running app send a probe within seconds. If the cause is still there, the hold continues. Nothing is lost either
    way.
    """
    with existing(path) as store:
        reason = store.read(counts).hold
        if reason is not None:
            store.write(lambda db: set_hold(db, None))
        delivers = snapshot(store).deliverer is not None
    if reason is None:
        output.show({"resumed": False, "hold": None}, "There is no hold.")
        return
    then = "Butter is tried again within seconds" if delivers else "Butter is tried again when a process next delivers"
    text = f"{then}; the hold was for: {reason}. See `butter-middleware status` in a moment."
    output.show({"resumed": True, "hold": reason, "delivered_now": delivers}, text)


def attention(view: Snapshot, host: HostCounts, now: float, *, full: bool = False) -> list[Reason]:
    """Return what in a file needs a person, and what to do."""
    oldest, recent = view.counts.oldest_pending_at, Coverage.of(Tally(host.recent))
    signs = HealthInput(
        running=False,
        answered=True,
        counts=view.counts,
        lost=Tally(host.today).total("lost"),
        oldest_pending_age=None if oldest is None else max(0.0, now - oldest),
        low_coverage=recent if recent.is_below(COVERAGE_THRESHOLD) else None,
        outbox_faults=["full"] if full else [],
        unattended=view.deliverer is None,
    )
    return [
        replace(reason, remedy=f"{reason.remedy} {_COMMANDS.get(reason.code, '')}".strip())
        for reason in diagnose(signs).reasons
    ]


def _look(path: str) -> tuple[Snapshot, HostCounts, float]:
    now = time.time()
    with existing(path) as store, store.explaining():
        return snapshot(store), host_counts(store, now), now


def _watch(output: Output, path: str, every: float) -> None:
    console = Console()
    if output.as_json or not console.is_terminal:
        msg = "--watch needs a terminal. For programs: `status --json`, as often as you like."
        raise Failure(msg, ExitCode.USAGE)
    _look(path)  # an error of the path must end the command
    with Live(console=console, auto_refresh=False, screen=False) as live, suppress(KeyboardInterrupt):
        while True:
            try:
                view, host, now = _look(path)
                table = output.table(_rows(view, host, now), COLUMNS)
                head = Text(output.safe(f"Outbox {path} ({_size(path)})  {moment(now)}"))
                live.update(Group(head, Text(), table), refresh=True)
            except ButterError as error:  # it may be temporary: another process holds the lock, or the disk is away
                live.update(Text(output.safe(str(error)), style="yellow"), refresh=True)
            time.sleep(every)


def _rows(view: Snapshot, host: HostCounts, now: float) -> list[Row]:
    counts, total = view.counts, Tally(host.total)
    coverage, lost, skipped = Coverage.of(total), total.by_reason("lost"), total.by_reason("skipped")
    captured = _ago("the oldest", view.oldest_captured_at, now)
    if view.unread:
        captured = f"{view.unread} of them no process reads now: start the app, or `deliver --app ...`"
    pending = _ago("the oldest checkout", counts.oldest_pending_at, now)
    if counts.pending and (wait := (view.next_due_at or 0.0) - now) > 1:
        pending += f", the next try in {duration(wait)}"
    state, delivery = Mark.OK, f"{deliverer_name(view.deliverer)} delivers"
    if view.deliverer is None:
        state = Mark.WARNING if counts.pending or counts.captured else Mark.OK
        delivery += " now"
    if counts.hold is not None:
        state, delivery = Mark.FAILED, f"on hold: {counts.hold} (`check` tells more); {delivery}"
    rows: list[tuple[str, Cell, str]] = [
        ("captured", counts.captured, captured),
        ("parts", counts.parts, ""),
        ("pending", counts.pending, pending),
        ("parked", counts.parked, _reasons(view.parked)),
        ("dead", counts.dead, _reasons(view.dead)),
        ("delivered", counts.delivered, _ago("the last one", counts.last_delivered_at, now)),
        ("covered", coverage.covered, "" if coverage.ratio is None else str(coverage)),
        ("skipped", sum(skipped.values()), _reasons(skipped)),
        ("lost", sum(lost.values()), _reasons(lost)),
        ("delivery", state, delivery),
    ]
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in counts.items())


def _ago(what: str, at: float | None, now: float) -> str:
    return "" if at is None else f"{what} {duration(max(0.0, now - at))} ago"


def _size(path: str) -> str:
    total = 0
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):  # the last process to close the file removes the log, maybe at this moment
            total += Path(path + suffix).stat().st_size
    return f"{total / 1024**2:.1f} MiB"


def _document(path: str, view: Snapshot, host: HostCounts, now: float) -> dict[str, Any]:
    counts, oldest, total = view.counts, view.counts.oldest_pending_at, Tally(host.total)
    coverage = Coverage.of(total)
    return {
        "outbox": path,
        "captured": counts.captured,
        "unread": view.unread,
        "oldest_captured_at": moment(view.oldest_captured_at),
        "parts": counts.parts,
        "pending": counts.pending,
        "oldest_pending_at": moment(oldest),
        "oldest_pending_age": None if oldest is None else round(max(0.0, now - oldest), 1),
        "next_due_at": moment(view.next_due_at),
        "parked": counts.parked,
        "parked_by_reason": dict(view.parked),
        "dead": counts.dead,
        "dead_by_reason": dict(view.dead),
        "delivered": counts.delivered,
        "last_delivered_at": moment(counts.last_delivered_at),
        "hold": counts.hold,
        "delivers": view.deliverer is not None,
        "delivering_process": view.deliverer or None,
        "readers": view.readers,
        # The same numbers as `butter.status()`: those of all processes of the host.
        "coverage": {"covered": coverage.covered, "missed": dict(coverage.missed), "ratio": coverage.ratio},
        "skipped": dict(total.skipped()),
        "lost": total.total("lost"),
        "not_durable_in_time": total.total("not_durable_in_time"),
    }
