"""What is told of a capture that was read."""

import logging

from butter_middleware.events import Conflicting, Covered, Parked, Recorded, Skipped
from butter_middleware.reader.evidence import ids_of
from butter_middleware.reader.reader import ReadResult
from butter_middleware.telemetry.dispatcher import EventDispatcher


def tell(events: EventDispatcher, route: str, reading: ReadResult) -> None:
    """Tell what became of it, and of each record that it gave."""
    for field in reading.conflicts:
        said = f"annotate() gave another {field} than the extractor, whose value holds. Leave one of them out."
        events.emit(Conflicting(route=route, reason=field, message=said))
    remedy = reading.remedy
    if reading.parked is not None:
        reason = reading.skipped or reading.parked.reason
        events.emit(Parked(route=route, reason=reason, message=reading.parked.detail))
    elif reading.skipped is not None:
        level = logging.INFO if reading.everyday else logging.WARNING
        events.emit(Skipped(route=route, reason=reading.skipped, message=remedy, level=level))
    elif remedy:
        events.emit(Covered(route=route, message=remedy))
    else:
        events.count(Covered, route)
    for record in reading.records:
        events.count(Recorded, route, ids_of(record))
