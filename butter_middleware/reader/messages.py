"""Messages about captures that could not be read, with the remedy. They never quote the capture."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from traceback import extract_tb
from types import CodeType
from typing import Any, Final

from pydantic import ValidationError

from butter_middleware.capture.routes import CheckoutRoute
from butter_middleware.extract.explanation import NOTHING_TRIED, Field, told
from butter_middleware.models.checkout import EVIDENCE_IDS, Checkout
from butter_middleware.models.http import CheckoutResponse
from butter_middleware.models.reasons import ParkReason
from butter_middleware.outbox.base import Parked

_OURS: Final = Path(__file__).parents[1]
_PYTHONS: Final = Path(os.__file__).parent
_KINDS: Final = {
    "missing": "missing",
    "no_ids": "no ID",
    "string_type": "not a string or a whole number",
    "literal_error": "not one of Butter's PSPs",
    "email": "not an e-mail address",
    "ipv4": "not an IPv4 address",
    "surrogate": "holds a lone surrogate, which no encoding can carry",
    "nul": "holds a NUL character, which no database keeps",
}
"""The error codes of pydantic and of `Checkout`, in words."""
_NAME: Final = re.compile(r"[A-Za-z_]{1,40}")
_LONGEST_TOLD: Final = 60
"""The most characters of an expression in a log line. `explain` shows longer ones."""


def invalid(
    route: CheckoutRoute, response: CheckoutResponse, fields: Mapping[str, Any], error: ValidationError
) -> Parked:
    """Return what a record lacks, and what the extractor tried."""
    wrong = wrong_fields(error)
    if not any(name in fields for name in EVIDENCE_IDS):
        known = _unknown(wrong) or _tried(route, response, *EVIDENCE_IDS[:4])
        detail = (
            f"no ID for {route}: {known}neither the extractor nor annotate() gave one of "
            f"{', '.join(EVIDENCE_IDS[:4])}. Fix: annotate what the endpoint knows, or fix the expressions. If this "
            "response is not a paid checkout, say so with when=."
        )
        return Parked(ParkReason.INVALID, detail)
    if wrong == {"customer_email": "missing"}:
        detail = (
            f"no customer e-mail for {route}: {_tried(route, response, 'customer_email')}nothing was annotated. "
            "Fix: call annotate(request, customer_email=...) in the endpoint."
        )
        return Parked(ParkReason.NO_EMAIL, detail)
    return Parked(ParkReason.INVALID, f"the record of {route} is not what Butter accepts: {listed(wrong)}")


def misrecorded(route: CheckoutRoute, fields: Mapping[str, Any], error: ValidationError) -> Parked:
    """Return which fields `butter.record(request, ...)` needs."""
    wrong = wrong_fields(error)
    where = f"butter.record() on {route}"
    if wrong.get("psp") == "missing":
        return Parked(ParkReason.INVALID, f"{where}: the PSP is not known. Fix: pass psp=, such as psp='stripe'.")
    if wrong.get("ipv4_address") == "missing":
        detail = (
            f"{where}: a server calls this route, and its address is not the shopper's. Fix: pass a whole Checkout."
        )
        return Parked(ParkReason.INVALID, detail)
    if not any(name in fields for name in EVIDENCE_IDS):
        return Parked(
            ParkReason.INVALID, f"{where}: {_unknown(wrong)}no ID. Fix: pass one of {', '.join(EVIDENCE_IDS[:4])}."
        )
    if wrong == {"customer_email": "missing"}:
        return Parked(ParkReason.NO_EMAIL, f"{where}: no customer e-mail. Fix: pass customer_email=... to it.")
    return Parked(ParkReason.INVALID, f"{where}: not what Butter accepts: {listed(wrong)}")


def wrong_fields(error: ValidationError) -> dict[str, str]:
    """Name the wrong fields, and what is wrong with each."""
    return {_place(e["loc"]): e["type"] for e in error.errors(include_url=False, include_input=False)}


def listed(wrong: Mapping[str, str]) -> str:
    """Return the wrong fields as text, in words instead of the validator's codes."""
    return ", ".join(f"{place} ({in_words(place, kind)})" for place, kind in sorted(wrong.items()))


def in_words(place: str, kind: str) -> str:
    """Return what is wrong with a field."""
    if kind != "extra_forbidden":
        return _KINDS.get(kind, "not a value that it may have")
    from difflib import get_close_matches  # noqa: PLC0415 - for a mistake only

    known = list(Checkout.model_fields)
    near = [name for name in known if name.endswith(f"_{place}")] or get_close_matches(place, known, 1)
    return f"no such field; did you mean {near[0]}?" if near else "no such field"


def _unknown(wrong: Mapping[str, str]) -> str:
    """Name the fields that a checkout does not have: an ID may be under such a name."""
    unknown = {place: kind for place, kind in wrong.items() if kind == "extra_forbidden"}
    return f"{listed(unknown)}; " if unknown else ""


def _tried(route: CheckoutRoute, response: CheckoutResponse, *names: str) -> str:
    """Return what the extractor tried for these fields, and why it found nothing."""
    if route.extract is None:
        return ""
    explanation = told(response, route.extract)
    if not explanation.fields:
        return "the extractor gave none; "
    tried = [_shortened(explanation[name]) for name in names if explanation[name].given_by is None]
    several = [text for text in tried if text != NOTHING_TRIED]
    return f"{explanation.extractor} {'; '.join(several or [NOTHING_TRIED])}; "


def _shortened(field: Field) -> str:
    """Return what was tried for a field. Long expressions are only counted if there are short ones."""
    short = tuple(attempt for attempt in field.attempts if len(attempt.expression) <= _LONGEST_TOLD)
    others = len(field.attempts) - len(short)
    return f"{Field(field.name, short).tried}, and {others} longer" if short and others else field.tried


def _place(location: tuple[int | str, ...]) -> str:
    """Name the field. A name that does not look like one is left out, because it could be personal data."""
    name = str(location[0]) if location else "record"
    return name if _NAME.fullmatch(name) else "a field"


def unreadable(error: BaseException) -> Parked:
    """Report an error of the reading itself. The error's text may quote the capture, so it is left out."""
    detail = (
        f"reading a capture raised {type(error).__name__}, in the extractor, in what it returned, or in the client_ip "
        "strategy. Fix it: the capture is read again at the next start if the outbox is durable."
    )
    return Parked(ParkReason.EXTRACTOR_ERROR, detail)


def broken_extractor(route: CheckoutRoute, error: Exception) -> str:
    """Report where the extractor failed. The error's text may quote the capture, so it is left out."""
    return (
        f"the extractor of {route} raised {type(error).__name__}{_line(error, route.extract)}. Fix it: the capture is "
        "read again at the next start if the outbox is durable."
    )


def unrecognised(route: CheckoutRoute, remedy: str) -> Parked:
    """Report a body that may be a paid checkout, but has nothing that the preset knows."""
    detail = (
        f"{route}: {remedy} The body has a word for paid: it is kept, and read again at the next start if the outbox "
        "is durable."
    )
    return Parked(ParkReason.UNREADABLE, detail)


def _line(error: Exception, extractor: object) -> str:
    """Name the merchant's own line. The fault is there, not in a library or in Python that it called.

    If no line of the merchant's was reached, as when the extractor takes no argument, name where it is defined.
    """
    frames = extract_tb(error.__traceback__)
    beyond_us = [frame for frame in frames if not Path(frame.filename).is_relative_to(_OURS)]
    theirs = [frame for frame in beyond_us if not _is_library(Path(frame.filename))]
    # The shop itself may be installed like a library. Then the first frame after ours is its extractor.
    chosen = [(frame.filename, frame.lineno) for frame in theirs[-1:] or beyond_us[:1]]
    code = getattr(extractor, "__code__", None)
    if not chosen and isinstance(code, CodeType) and not Path(code.co_filename).is_relative_to(_OURS):
        chosen = [(code.co_filename, code.co_firstlineno)]
    return "".join(f" at {Path(file).name}:{line}" for file, line in chosen)


def _is_library(file: Path) -> bool:
    return file.is_relative_to(_PYTHONS) or not {"site-packages", "dist-packages"}.isdisjoint(file.parts)
