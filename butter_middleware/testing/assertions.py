"""What a test is told where the record that it looks for was not sent: the nearest one, and what became of the rest."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

from butter_middleware.testing.record import POSTED, InboxRecord
from butter_middleware.testing.records import ParkedCheckout

_HINTS: Final = {
    "dry_run": "Leave dry_run=True out of tests: nothing leaves the process here anyway.",
    "status": "It is no 2xx.",
    "incomplete": "The app never finished it.",
    "not_json": "It is not JSON, so that the extractor was not asked.",
    "not_a_checkout": "The extractor gave None, or nothing.",
    "gated": "The route's when= said no.",
    "not_paid": "It holds an object of the PSP that is not paid.",
    "not_annotated": "The route has no extractor, and the endpoint annotated nothing.",
    "duplicate": "A record with the same PSP and IDs was taken before in this test.",
}
"""Beside what the log of production says."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What became of the checkouts of a test."""

    sent: Sequence[InboxRecord]
    pending: Sequence[InboxRecord]
    dead: Sequence[InboxRecord]
    parked: Sequence[ParkedCheckout]
    skipped: Mapping[str, int]
    remedies: Mapping[str, str]
    """What the log of production says of a reason for which something was skipped."""
    routes: Sequence[str]
    elsewhere: bool
    """Whether a `Butter` has a transport of its own, so that its records go there."""


def differing(expected: Mapping[str, str | None], record: InboxRecord) -> list[str]:
    """Name the fields in which a record is not as expected."""
    return [name for name, value in expected.items() if getattr(record, name) != value]


def unsent(expected: Mapping[str, str | None], whereabouts: Snapshot) -> str:
    """Say that no record is as expected, and why that may be."""
    wanted = ", ".join(f"{name}={value!r}" for name, value in expected.items())
    lines = [f"no record was sent with {wanted}" if expected else "no record was sent"]
    if whereabouts.sent:
        lines += _nearest(expected, whereabouts.sent)
    lines += _elsewhere(whereabouts)
    return "\n".join(lines)


def _nearest(expected: Mapping[str, str | None], sent: Sequence[InboxRecord]) -> Iterator[str]:
    record = max(sent, key=lambda record: _likeness(expected, record))
    wrong = differing(expected, record)
    yield "the one that was sent:" if len(sent) == 1 else f"the nearest of the {len(sent)} that were sent:"
    names = [name for name in (*POSTED, "route") if name in wrong or getattr(record, name) is not None]
    width = max(map(len, names))
    for name in names:
        found, mark = getattr(record, name), "!" if name in wrong else " "
        instead = f", expected {expected[name]!r}" if name in wrong else ""
        yield f"{mark} {name:{width}}  {'absent' if found is None else repr(found)}{instead}"


def _likeness(expected: Mapping[str, str | None], record: InboxRecord) -> tuple[int, float]:
    """Count the fields that are right; among equals, measure how much the others resemble."""
    wrong = differing(expected, record)
    alike = (SequenceMatcher(None, expected[name] or "", getattr(record, name) or "").ratio() for name in wrong)
    return -len(wrong), sum(alike)


def _elsewhere(whereabouts: Snapshot) -> Iterator[str]:
    for record in whereabouts.pending:
        answered = "was not asked yet" if record.answer is None else f"answered {record.answer}"
        yield f"pending, since Butter {answered} (butter_inbox.retry_now() tries again): {record!r}"
    for record in whereabouts.dead:
        yield f"dead, since Butter answered {record.answer}: {record!r}"
    for checkout in whereabouts.parked:
        yield checkout.explain()
    for reason, count in whereabouts.skipped.items():
        said = whereabouts.remedies.get(reason, "")
        yield " ".join(filter(None, [f"skipped: {count} x {reason}.", said, _HINTS.get(reason, "")]))
    if whereabouts.elsewhere:
        yield "a Butter was built with transport=...: its records go there, and not to this inbox."
    elif not (whereabouts.sent or whereabouts.pending or whereabouts.dead or whereabouts.parked or whereabouts.skipped):
        yield _nothing_seen(whereabouts.routes)


def _nothing_seen(routes: Sequence[str]) -> str:
    if not routes:
        return "no Butter with a route was built in this process: is the app imported, and does it run here?"
    return (
        f"no response of a checkout route was seen. The routes are {', '.join(routes)}: do the request's method and "
        "path match one, and does ButterMiddleware wrap the app?"
    )
