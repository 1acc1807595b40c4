"""What is told of a capture that was read."""

from butter_middleware.events import Conflicting, Covered, Parked, Recorded, Skipped
from butter_middleware.reader.evidence import carried
from butter_middleware.reader.reader import Reading
from butter_middleware.telemetry.dispatcher import Notices


def tell(notices: Notices, route: str, reading: Reading) -> None:
    """Tell what became of it, and of each record that it gave."""
    for field in reading.conflicts:
        said = f"annotate() gave another {field} than the extractor, whose value holds. Leave one of them out."
        notices.tell(Conflicting(route=route, reason=field, message=said))
    remedy = reading.remedy
    if reading.parked is not None:
        reason = reading.skipped or reading.parked.reason
        notices.tell(Parked(route=route, reason=reason, message=reading.parked.detail))
    elif reading.skipped is not None:
        notices.tell(Skipped(route=route, reason=reading.skipped, message=remedy))
    elif remedy:
        notices.tell(Covered(route=route, message=remedy))
    else:
        notices.note(Covered, route)
    for record in reading.records:
        notices.note(Recorded, route, carried(record))
