"""The events for a capture that was read."""

import logging
from collections.abc import Iterator

from butter_middleware.events import Conflicting, Covered, Event, Parked, Recorded, Skipped
from butter_middleware.reader.evidence import ids_of
from butter_middleware.reader.reader import ReadResult


def events_of(route: str, result: ReadResult) -> Iterator[Event]:
    """Yield the events for a capture and each of its records."""
    for field in result.conflicts:
        said = f"{route}: annotate() gave another {field} than the extractor, whose value is used. Remove one of them."
        yield Conflicting(route=route, reason=field, message=said)
    if result.parked is not None:
        reason = result.skipped or result.parked.reason
        yield Parked(route=route, reason=reason, message=result.parked.detail)
    elif result.skipped is not None:
        level = logging.INFO if result.everyday else logging.WARNING
        yield Skipped(route=route, reason=result.skipped, message=result.remedy, level=level)
    else:
        yield Covered(route=route, message=result.remedy)
    for record in result.records:
        yield Recorded(route=route, reason=ids_of(record))
