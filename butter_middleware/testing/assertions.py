"""Messages of failed assertions: the nearest record to the expected one, and the state of the others."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher

from butter_middleware.testing.recorder import Recorder
from butter_middleware.testing.records import POSTED, InboxRecord, explained


def differing(expected: Mapping[str, str | None], record: InboxRecord) -> list[str]:
    """Return the fields of a record that differ from the expected ones."""
    return [name for name, value in expected.items() if getattr(record, name) != value]


def described(expected: Mapping[str, str | None]) -> str:
    """Return the fields as the end of a sentence."""
    return " with " + ", ".join(f"{name}={value!r}" for name, value in expected.items()) if expected else ""


def unsent(expected: Mapping[str, str | None], recorder: Recorder, routes: Sequence[str], *, elsewhere: bool) -> str:
    """Report that no record is as expected, and possible causes. `elsewhere`: a `Butter` has its own transport."""
    lines = [f"no record was sent{described(expected)}"]
    if sent := recorder.sent:
        lines += _nearest(expected, sent)
    for record in recorder.pending:
        answered = "was not asked yet" if record.answer is None else f"answered {record.answer}"
        lines.append(f"pending, since Butter {answered} (butter_inbox.retry_now() tries again): {record!r}")
    lines += [f"dead, since Butter answered {record.answer}: {record!r}" for record in recorder.dead]
    lines += [checkout.explain() for checkout in recorder.parked]
    lines += [f"skipped: {explained(skipped)}" for skipped in recorder.skipped]
    lines += [f"ignored: {message}" for message in recorder.ignored]
    if elsewhere:
        lines.append("a Butter was built with transport=...: its records go there, and not to this inbox.")
    elif len(lines) == 1 and routes:
        lines.append(
            f"no response of a checkout route was seen. The routes are {', '.join(routes)}: do the request's method "
            "and path match one, and does ButterMiddleware wrap the app?"
        )
    elif len(lines) == 1:
        lines.append("no Butter with a route was built in this process: is the app imported, and does it run here?")
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
    """Return the number of wrong fields, negated, and the similarity of their values, to compare records."""
    wrong = differing(expected, record)
    alike = (SequenceMatcher(None, expected[name] or "", getattr(record, name) or "").ratio() for name in wrong)
    return -len(wrong), sum(alike)
