"""What a backfill came to, counted."""

from dataclasses import dataclass, field
from typing import Final

from butter_middleware.backfill.columns import REASONS_APART

MOST_REASONS: Final = 100


@dataclass(slots=True)
class Totals:
    """What a backfill came to so far, in all of its runs."""

    offset: int = 0
    number: int = 0
    checked: int = 0
    digest: str = ""
    passes: int = 1
    """How often the input was begun."""
    read: int = 0
    """Lines that are no blank, and no header; as the next three, of the last pass."""
    rejected: int = 0
    """Lines that are no record."""
    duplicates: int = 0
    """Lines with the PSP and the IDs of another one."""
    known: int = 0
    """Lines that an earlier pass admitted."""
    admitted: int = 0
    """Records, of which the next three are parts; as they, of all passes."""
    delivered: int = 0
    dead: int = 0
    uncertain: int = 0
    broken_off: int = 0
    """Posts that ended without an answer; their lines were sent again, or will be."""
    rejects: int = 0
    """Bytes of the file of rejects."""
    reasons: dict[str, int] = field(default_factory=dict[str, int])
    """Of what was rejected, or is dead; a line may have several."""

    @property
    def waiting(self) -> int:
        """Records that are to be sent, those on their way included."""
        return self.admitted - self.delivered - self.dead - self.uncertain

    def reject(self, reasons: str) -> None:
        """Count the reasons of one line."""
        for reason in reasons.split(REASONS_APART):
            known = reason in self.reasons or len(self.reasons) < MOST_REASONS
            name = reason if known else "other reasons"
            self.reasons[name] = self.reasons.get(name, 0) + 1
