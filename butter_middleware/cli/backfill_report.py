"""How a backfill is shown: while it runs, and what it came to."""

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from butter_middleware.backfill.engine import Ending
from butter_middleware.backfill.engine import Progress as Run
from butter_middleware.backfill.job import DryRun
from butter_middleware.backfill.totals import Totals
from butter_middleware.cli.output import Output, Row, duration
from butter_middleware.delivery.circuit_breaker import BreakerState

LINE_SECONDS: Final = 5.0
"""Between two lines of progress, where there is no terminal."""
_WINDOW: Final = 15.0
"""Seconds over which the rate is taken."""
_STATES: Final = {
    BreakerState.OPEN: "Butter does not answer; the lines wait",
    BreakerState.HALF_OPEN: "Butter does not answer; trying one line",
    BreakerState.PAUSED: "Butter asks for a pause",
    BreakerState.HOLD: "Butter takes nothing",
}
_ENDINGS: Final = {
    Ending.STOPPED: "Stopped before the end. The same command goes on where it stopped.",
    Ending.UNFINISHED: "Butter failed on some lines time and again. The same command tries them once more.",
}


class _Rate:
    """How fast it goes, of late."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._seen: deque[tuple[float, int, int]] = deque()

    def see(self, run: Run) -> None:
        now = run.seconds
        self._seen.append((now, run.delivered, run.totals.offset))
        while now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()

    @property
    def seconds(self) -> float:
        return self._seen[-1][0] - self._seen[0][0]

    @property
    def text(self) -> str:
        if self.seconds < 1:
            return ""
        return f"{(self._seen[-1][1] - self._seen[0][1]) / self.seconds:,.0f}/s"

    @property
    def left(self) -> str:
        offset = self._seen[-1][2]
        moved = offset - self._seen[0][2]
        if self._size is None or self.seconds < 1 or not moved:
            return ""
        return f"{duration((self._size - offset) * self.seconds / moved)} left"


class _Lines:
    """A line now and then, for logs and pipes."""

    def __init__(self, output: Output, size: int | None) -> None:
        self._output = output
        self._size = size
        self._rate = _Rate(size)
        self._next = LINE_SECONDS
        self._state = BreakerState.OK

    def look(self, run: Run) -> None:
        self._rate.see(run)
        changed = run.state is not self._state and run.state is not BreakerState.HALF_OPEN
        if run.seconds < self._next and not changed:
            return
        self._next = run.seconds + LINE_SECONDS
        if run.state is not BreakerState.HALF_OPEN:
            self._state = run.state
        share = [] if not self._size else [f"{100 * run.totals.offset // self._size} %"]
        parts = [*_counts(run.totals), *share, self._rate.text, self._rate.left, _condition(run)]
        self.say("backfill: " + ", ".join(part for part in parts if part))

    def say(self, text: str) -> None:
        self._output.note(text)


class _Bar:
    """A bar, and under it what holds the lines up."""

    def __init__(self, output: Output, bar: Progress, live: Live, size: int | None) -> None:
        self._output = output
        self._bar = bar
        self._live = live
        self._size = size
        self._rate = _Rate(size)
        self._task = bar.add_task("", total=size, counts="", rate="", left="")

    def look(self, run: Run) -> None:
        self._rate.see(run)
        self._bar.update(
            self._task,
            completed=run.totals.offset if self._size else None,
            counts="  ".join(_counts(run.totals)),
            rate=self._rate.text,
            left=self._rate.left,
        )
        condition = _condition(run)
        self._live.update(Group(self._bar, Text(condition, style="yellow")) if condition else self._bar)

    def say(self, text: str) -> None:
        with suppress(OSError):
            self._live.console.print(Text(self._output.safe(text)))  # above the bar

    def end(self) -> None:
        self._live.update(self._bar)


Display = _Lines | _Bar
"""Shows how a run stands (`look`), and what a person should know meanwhile (`say`)."""


@contextmanager
def shown(output: Output, size: int | None) -> Generator[Display]:
    """Give what a run is shown by: a bar on a terminal, else a line every few seconds."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines(output, size)
        return
    bar = Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} %" if size else ""),
        *(TextColumn(f"{{task.fields[{name}]}}") for name in ("counts", "rate", "left")),
        console=console,
    )
    with Live(bar, console=console, refresh_per_second=5) as live:
        display = _Bar(output, bar, live, size)
        yield display
        display.end()


def _counts(totals: Totals) -> list[str]:
    counts = {"sent": totals.delivered, "rejected": totals.rejected + totals.dead}
    return [f"{counts['sent']:,} sent", *([f"{counts['rejected']:,} rejected"] if counts["rejected"] else [])]


def _condition(run: Run) -> str:
    if run.stopping:
        return "stopping: waiting for what is on its way"
    text = _STATES.get(run.state, "")
    wait = f"; next try in {duration(run.next_try_in)}" if text and run.next_try_in >= 1 else ""
    return text + wait


def document(ending: str, totals: Totals, **more: object) -> dict[str, Any]:
    """Return what a run came to, for programs."""
    return {
        "ending": ending,
        "read": totals.read,
        "sent": totals.delivered,
        "rejected": totals.rejected + totals.dead,
        "reasons": dict(_by_count(totals)),
        "duplicates": totals.duplicates,
        "waiting": totals.waiting,
        "uncertain": totals.uncertain,
        "broken_off": totals.broken_off,
        **more,
    }


def tell(output: Output, ending: Ending, totals: Totals, uncertain: Sequence[int], rejects: str) -> None:
    """Say to people what a run came to."""
    output.say(f"{totals.delivered:,} sent" + (f", of {totals.read:,} lines read" if totals.read else ""))
    if totals.duplicates:
        output.say(_duplicates(totals))
    if totals.waiting:
        output.say(f"{totals.waiting:,} waiting: read, and not sent yet")
    if totals.broken_off:
        times = "time" if totals.broken_off == 1 else "times"
        output.say(
            f"{totals.broken_off:,} {times} a post broke off without an answer, and the line was tried again: Butter "
            "may have it twice"
        )
    if totals.rejected + totals.dead:
        output.say(f"{totals.rejected + totals.dead:,} rejected, each with its reason in {rejects}:")
        _tell_reasons(output, totals)
    if totals.uncertain:
        more = ", ..." if totals.uncertain > len(uncertain) else ""
        output.say(
            f"{totals.uncertain:,} uncertain: a run was killed while they were on their way, so that Butter may have "
            f"them or not. They are not sent again, unless you say --resend-uncertain. Lines: "
            f"{', '.join(map(str, uncertain))}{more}"
        )
    if ending in _ENDINGS:
        output.say(_ENDINGS[ending])


def tell_rehearsal(output: Output, found: DryRun, mapped: Mapping[str, str], values: Mapping[str, str]) -> None:
    """Say to people what a run would do."""
    totals = found.totals
    origin: list[Row] = [{"field": name, "from": column} for name, column in mapped.items()]
    origin += [{"field": name, "from": f"the value {value!r}"} for name, value in values.items()]
    output.table(origin, {"field": "Field", "from": "From"}, "No column is a field of a record.")
    if found.sample:
        names = dict.fromkeys(name for payload in found.sample for name in payload)
        output.say("\nThe first records:")
        output.table(found.sample, {name: name for name in names}, "")
    output.say(f"\n{totals.admitted:,} would be sent, of {totals.read:,} lines")
    for ids, count in found.strength.most_common():
        output.say(f"  {count:,} with {ids}")
    if totals.duplicates:
        output.say(_duplicates(totals))
    if totals.rejected:
        output.say(f"{totals.rejected:,} would be rejected:")
        _tell_reasons(output, totals)
    output.say("Nothing was sent.")


def _duplicates(totals: Totals) -> str:
    return f"{totals.duplicates:,} left out as duplicates, with the PSP and the IDs of an earlier line"


def _tell_reasons(output: Output, totals: Totals) -> None:
    for reason, count in _by_count(totals):
        output.say(f"  {count:,} {reason}")


def _by_count(totals: Totals) -> list[tuple[str, int]]:
    return sorted(totals.reasons.items(), key=lambda item: -item[1])
