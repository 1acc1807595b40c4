"""The answers that a test may set for Butter."""

from collections.abc import Iterable
from typing import Final, Literal, get_args

Fault = Literal["reset", "timeout"]
"""A connection that breaks, or no answer. The record may have been accepted."""

_FAULTS: Final[tuple[object, ...]] = get_args(Fault)


def checked(answers: Iterable[int | Fault]) -> list[int | Fault]:
    """Check and return the answers.

    Raises:
        ValueError: an answer is not a status, "reset" or "timeout".
    """
    given = list(answers)
    for answer in given:
        if answer not in _FAULTS and not (isinstance(answer, int) and 200 <= answer < 600):  # noqa: PLR2004 - RFC 9110, 15
            faults = " or ".join(map(repr, _FAULTS))
            msg = f"{answer!r} is not an answer of Butter's. Give statuses from 200 to 599, {faults}."
            raise ValueError(msg)
    return given


def accepts(answer: int | Fault | None) -> bool:
    """Whether a record is accepted with this answer. None means that no answer was set: it is accepted."""
    return answer is None or (isinstance(answer, int) and answer < 300)  # noqa: PLR2004 - RFC 9110, section 15.3
