"""`butter-middleware erase`: deletes a person's data on request."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Final

import click

from butter_middleware.cli.failure import LOCKED, ExitCode, Failure
from butter_middleware.cli.options import command, outbox_options
from butter_middleware.cli.output import Output
from butter_middleware.cli.text import counted, mask
from butter_middleware.outbox.sqlite.erasure import Found, Person, remove, search
from butter_middleware.outbox.sqlite.existing import existing
from butter_middleware.outbox.sqlite.snapshot import snapshot
from butter_middleware.outbox.sqlite.store import SQLiteStore

MOST_ROUNDS: Final = 20
SETTLING_SECONDS: Final = 1.0
"""The time between the rounds, in which other processes finish what they read or write."""
_NAMES: Final = {
    "pending": ("record to be sent", "records to be sent"),
    "dead": ("dead record", "dead records"),
    "captured": ("capture to be read", "captures to be read"),
    "parked": ("parked capture", "parked captures"),
    "parts": ("part of a checkout", "parts of checkouts"),
}


@command(
    "erase",
    ok="the outbox holds nothing of this person any more",
    attention="something is left, which it names, or you said no",
    busy=LOCKED,
)
@click.option("--email", required=True, help="The person's e-mail address; `-` reads it from standard input.")
@outbox_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(output: Output, *, email: str, path: str, yes: bool) -> ExitCode:
    """Delete everything that the outbox has about a person, for good.

    It searches records, parts and captures for the address, also if it is escaped, has upper-case letters, or is in a
    compressed body. Then it writes the whole file again, so that no copy stays in its free space. During this time, new
    captures of the app wait in memory. With `--email -` the address does not get into the shell's history.

    It does not reach what Butter already has (ask Butter), backups and snapshots of the disk, and broken files that
    were set aside, which it names. A record that a running app is sending at that moment is still sent. The app sees
    the erasure within a second; to prevent this, stop the app first.
    """
    if email == "-":
        if sys.stdin.isatty():
            click.echo("E-mail address: ", nl=False, err=True)
        email = sys.stdin.readline()
    try:
        person = Person(email)
    except ValueError:
        msg = "--email is not an e-mail address. Give one whole address."
        raise Failure(msg, ExitCode.USAGE) from None
    with existing(path) as store:
        counts = snapshot(store).counts
        rows = counts.captured + counts.parked + counts.pending + counts.dead
        with output.progress("Looking") as tell:
            found = search(
                store, person, lambda count: tell(min(count, rows), rows, count, f"{count:,} of {rows:,}", "")
            )
        if len(found) and not yes:
            output.confirm(f"Delete {_words(found.counts())} of {mask(email.strip())} for good?")
        erased, left = _remove(store, person, found)
        store.rewrite()
    file = Path(store.path)
    aside = sorted(map(str, file.parent.glob(f"{escape(file.name)}.corrupt-*")))
    document = {"erased": erased, "not_looked_into": left.unreadable, "still_there": len(left), "set_aside": aside}
    text = f"Deleted: {_words(erased)}." if any(erased.values()) else "The outbox holds nothing of this person."
    output.show(document, f"{text} The whole file was written again.")
    if len(left):
        output.note(f"More keeps coming: {_words(left.counts())}. Run this again.")
    if left.unreadable:
        output.note(
            f"{len(left.unreadable)} captures could not be searched, because their bodies cannot be decoded here "
            "(install brotli or zstandard where the app has them). Look at them, and drop them: `parked list`, `show`."
        )
    if aside:
        output.note(f"Broken files that were set aside may hold data of this person; delete them: {', '.join(aside)}")
    return ExitCode.ATTENTION if len(left) or left.unreadable or aside else ExitCode.OK


def _remove(store: SQLiteStore, person: Person, found: Found) -> tuple[Mapping[str, int], Found]:
    """Delete until nothing is found: meanwhile a capture may become a record, and new captures may come."""
    total = Counter(dict.fromkeys(_NAMES, 0))
    for _round in range(MOST_ROUNDS):
        if not len(found):
            break
        total.update(remove(store, found, time.time()))
        time.sleep(SETTLING_SECONDS)
        found = search(store, person)
    return total, found


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(counted(count, *_NAMES[kind]) for kind, count in counts.items() if count)
