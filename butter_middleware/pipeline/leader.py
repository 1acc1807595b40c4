"""The work of the leader besides its own captures: it sends for all processes, and reads what others left behind."""

import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from butter_middleware.models.reasons import ParkReason
from butter_middleware.outbox.base import Counts, Parked, Pending, Settled, Settlement, StoredCapture
from butter_middleware.pipeline.entries import Entry
from butter_middleware.pipeline.participant import Participant
from butter_middleware.reader.reader import ReadResult

if TYPE_CHECKING:
    from butter_middleware.pipeline.store_thread import StoreThread

LOOK_SECONDS: Final = 0.25
"""Between checks for changes of the file by other processes."""
LEAD_SECONDS: Final = 0.5
"""Between tries to take the lead."""
LEFT_BEHIND_SECONDS: Final = 5.0
"""A capture that is older and not resolved was left by a dead or hung process."""
EXPIRE_SECONDS: Final = 5.0
"""Between checks for parts of checkouts without a counterpart."""
LEAVE_SECONDS: Final = 5.0
"""The longest wait for records on their way, before another process may lead and send them again."""
LEAVE_LOOK_SECONDS: Final = 0.05
ALONE_SECONDS: Final = 60.0
"""How long no process may send this one's records before this is logged."""
PARKED_AT_ONCE: Final = 20
"""The most parked captures that are tried again in one second."""
PARKED_AGAIN_SECONDS: Final = 600.0
"""How long the same configuration does not try a parked capture again."""
RETRY_LOOK_SECONDS: Final = 0.5
"""Between checks for due records."""


class Leader:
    """The leader's part of a store thread. Only that thread calls it, except `is_led_by`."""

    def __init__(self, thread: "StoreThread") -> None:
        self._thread = thread
        self._store = thread.store
        self._participant: Participant | None = None
        self.look_at = 0.0
        self._due_at = 0.0
        """When to ask for records that are due, as `time.monotonic`."""
        self._expire_at = 0.0
        self._parked_at = 0.0
        self._marks: deque[tuple[float, int]] = deque()
        """The highest number of a capture at each check."""
        self._epoch: int | None = None
        self._alone_since: float | None = None
        self._leave_by: float | None = None
        """The latest time to release the lead, if it must be released."""
        self._hang = 0, 0
        """The number of the last capture for which the lead was released, and the leader's `hangs_for`."""
        self.deliverer: int | None = None
        """The process that sends, if it is not this one. 0: it is not known which."""

    def is_led_by(self, participant: Participant) -> bool:
        """Whether this participant has the lead."""
        return self._participant is participant

    def look(self, now: float) -> bool:
        """Take or keep the lead, and do its work. Return whether there was any work."""
        if now < self.look_at:
            return self._refill(now)
        self.look_at = now + LOOK_SECONDS
        leader = self._participant
        # The lead is lost if its lock file was removed, because another process may hold the new one.
        if leader is not None and not (leader.can_lead and self._store.lead()):
            self.resign()
            leader = None
        if leader is None:
            return self._take_lead(now)
        self._park_hanging()
        if self._lets_go(leader, now):
            self.look_at = now + 2 * LEAD_SECONDS  # meanwhile, each other process can take the lead
            return False
        if self._store.changed():
            self._notice(leader)
        return self._refill(now) | self._read_others(leader, now)

    def fresh(self, pendings: Sequence[Pending]) -> bool:
        """Give new records of the store to the sender. Return whether this process sends."""
        leader = self._participant
        if leader is None:
            return False
        if pendings and not leader.sender.offer(pendings, fresh=True):
            self._due_at = 0.0
        return not leader.sender.ill

    def settled(self, settlements: Sequence[Settlement]) -> None:
        """Note when records must be sent again."""
        if any(one.settled in {Settled.RETRY, Settled.RELEASED} for one in settlements):
            self._due_at = min(self._due_at, time.monotonic() + RETRY_LOOK_SECONDS)
        if any(one.settled is Settled.RELEASED and not one.due_at for one in settlements):
            self._due_at = 0.0

    def forget_file(self) -> None:
        """Check everything again, because the file was replaced."""
        self._marks.clear()
        self._due_at = self._expire_at = self._parked_at = self.look_at = 0.0

    def look_soon(self) -> None:
        """Check for records that are due."""
        self._due_at = self.look_at = 0.0

    def resign(self) -> None:
        """Release the lead."""
        leader, self._participant, self._leave_by = self._participant, None, None
        if leader is not None:
            leader.sender.lose_lead()
            self._release_responses(leader)
        self._store.release_lead()

    def _release_responses(self, leader: Participant) -> None:
        for participant in {leader, *self._thread.participants}:
            participant.release_responses()

    def _take_lead(self, now: float) -> bool:
        self.look_at = now + LEAD_SECONDS
        able = [one for one in self._thread.participants if one.can_lead]
        candidate = min(able, key=lambda one: one.hangs_for, default=None)
        self._thread.looked = True
        if candidate is None or not self._store.lead():
            self._watch_deliverer(now)
            return False
        try:
            candidate.sender.take_lead(self._begin(candidate, now))
        except BaseException:  # a process that can use the file may lead
            candidate.sender.lose_lead()
            self._store.release_lead()
            raise
        # Set last, so that the next check starts again after a fault of the disk.
        self._participant, self.deliverer, self.look_at = candidate, None, 0.0
        return True

    def _begin(self, candidate: Participant, now: float) -> str | None:
        """Read the state of the store. Return the reason of a hold, if there is one."""
        self._due_at = self._expire_at = self._parked_at = 0.0
        self._marks.clear()
        if self._store.alone():  # so the process that left captures behind is dead
            self._marks.append((now - LEFT_BEHIND_SECONDS, self._store.counts().newest_capture))
        self._store.changed()
        return self._notice(candidate).hold

    def _watch_deliverer(self, now: float) -> None:
        """Find the process that reads and sends. Log if there is none while this process's captures or records wait."""
        self.deliverer = self._store.leader()
        external = [one for one in self._thread.participants if not one.owned and one.running]
        counts = Counts() if self.deliverer is not None or not external else self._store.counts()
        if not counts.captured and not counts.pending:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since >= ALONE_SECONDS:
            for participant in external:
                participant.unattended()
            self._alone_since = now

    def _notice(self, leader: Participant) -> Counts:
        """Take the changes of other processes and people."""
        counts = self._store.counts()
        self._due_at = 0.0
        if self._epoch is not None and counts.epoch != self._epoch:
            leader.sender.forget_ahead()
            self._release_responses(leader)
            self._parked_at = 0.0
            if counts.hold is None:
                leader.sender.delivery.end_hold()
        self._epoch = counts.epoch
        return counts

    def _refill(self, now: float) -> bool:
        """Give records of the file to the sender."""
        leader = self._participant
        if leader is None or now < self._due_at:
            return False
        wanted = leader.sender.wanted
        if not wanted:
            return False
        due = self._store.due(wanted, leader.sender.held)
        leader.sender.offer(due, fresh=False)
        if len(due) < wanted:
            more = self._store.counts().pending > len(leader.sender.held)
            self._due_at = now + RETRY_LOOK_SECONDS if more else float("inf")
        return bool(due)

    def _read_others(self, leader: Participant, now: float) -> bool:
        """Give the reader captures without an owner, those that a dead process left, and parked ones."""
        if not leader.reads:
            return False
        busy = False
        if now >= self._expire_at:
            self._expire_at = now + EXPIRE_SECONDS
            leader.expired(self._store.expire(leader.expire_before()))
        counts = self._store.counts()
        if not self._marks or now - self._marks[-1][0] >= LOOK_SECONDS:
            self._marks.append((now, counts.newest_capture))
        while len(self._marks) > 1 and now - self._marks[1][0] >= LEFT_BEHIND_SECONDS:
            self._marks.popleft()
        below = self._marks[0][1] if now - self._marks[0][0] >= LEFT_BEHIND_SECONDS else 0
        room = 0 if leader.hangs_for else leader.reader.room
        in_memory = self._thread.unresolved()
        if room and counts.captured > len(in_memory):
            left = self._store.unread(room, below=below, exclude=in_memory)
            busy = bool(left)
            self._take_over(leader, left)
        if now >= self._parked_at and room:
            tried = self._store.parked_to_try(
                PARKED_AT_ONCE, configuration=leader.configuration, before=leader.clock() - PARKED_AGAIN_SECONDS
            )
            self._parked_at = now + 1.0 if tried else float("inf")
            leader.taken_over([_entry(stored, leader, taken_over=True) for stored in tried])
            busy |= bool(tried)
        return busy

    def _take_over(self, leader: Participant, left: Sequence[StoredCapture]) -> None:
        if not left:
            return
        ended = set(self._store.mark_taken_over([stored.id for stored in left]))
        for stored in left:
            entry = _entry(stored, leader, taken_over=stored.owned)
            if stored.id in ended:
                leader.read(entry, ReadResult(parked=READER_DIED))
            else:
                leader.taken_over([entry])

    def _park_hanging(self) -> None:
        """Park the captures that take too long, because another process would hang with them too."""
        for participant in self._thread.participants:
            entry = participant.reader.reading  # first, because the reader may take the next one meanwhile
            if entry is not None and participant.hangs_for and not entry.too_slow:
                entry.too_slow = True
                participant.read(entry, ReadResult(parked=TOO_SLOW))

    def _lets_go(self, leader: Participant, now: float) -> bool:
        """If a capture takes too long, let another process lead, which can read new captures.

        Records on their way are settled first, because otherwise the other process would send them again. If no process
        takes the lead, this one continues to send, and releases the lead again in each minute of the hang.
        """
        if self._leave_by is None and self._is_to_leave(leader):
            leader.sender.wind_down()
            self._leave_by = now + LEAVE_SECONDS
        if self._leave_by is None:
            return False
        if now < self._leave_by and not leader.sender.idle:
            self.look_at = now + LEAVE_LOOK_SECONDS
            return False
        self.resign()
        return True

    def _is_to_leave(self, leader: Participant) -> bool:
        entry = leader.reader.reading  # first, as above
        minutes = leader.hangs_for
        if entry is None or not minutes or (entry.id, minutes) == self._hang:
            return False
        self._hang = entry.id, minutes
        return not self._store.alone()


def _entry(stored: StoredCapture, leader: Participant, *, taken_over: bool) -> Entry:
    capture = stored.capture
    route = leader.find_route(capture.method, capture.path)
    entry = Entry(capture, route)
    entry.id, entry.owned, entry.parked = stored.id, stored.owned, stored.parked
    entry.taken_over = taken_over
    return entry


READER_DIED: Final = Parked(
    ParkReason.READER_DIED,
    "the process that read this capture died twice. Does the extractor end the process? Fix it, then retry.",
)
TOO_SLOW: Final = Parked(
    ParkReason.TOO_SLOW,
    "the extractor has been reading this capture for a minute. Fix it, then retry the capture.",
)
