"""What the fold recorded about each slot: its outcome, its place in the chain, its revisions. PURE.

An outcome record and the entry in the log are, together, all that tails need, and all that shows
that two nodes folded the same. Both are kept for the slots from ``first`` on; ``trim_step`` lets the
oldest go when nobody is served from them any more.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from journal.commits import OUTCOME_HEAD, outcome_head
from journal.errors import RecordDamaged, RevisionCompacted, RevisionInFuture
from journal.storage import Write
from journal.storage.log import trimmed_slot, trimmed_write
from journal.storage.records import LOG_FAMILIES, OUTCOME, family_end, number_key, number_of, unseal
from journal.types import Revision, Slot

if TYPE_CHECKING:
    from journal.space import Space

CHAIN_START: Final = bytes(32)

_SLOT_AND_LENGTH = Struct(">QQ")


def chain_link(before: bytes, revisions: tuple[int, int], slot: Slot, entry: bytes, decided: bytes) -> bytes:
    """Return the chain after ``slot``: a hash over the chain ``before`` it, the journal's revisions before
    and after it, its entry, and what was ``decided``."""
    link = sha256(OUTCOME_HEAD.pack(before, *revisions))
    link.update(_SLOT_AND_LENGTH.pack(slot, len(entry)))
    link.update(entry)
    link.update(decided)
    return link.digest()


class Slots:
    """The folded slots of one space, which it asks for where it stands."""

    def __init__(self, space: Space) -> None:
        self.first = Slot(1)
        """The first slot that the log, and what was recorded about its outcome, reaches back to."""
        self._space = space
        self._trim_before: tuple[Revision, Slot] | None = None

    def restore(self) -> None:
        """Find out how far the records reach back."""
        reader = self._space.reader
        self.first = Slot(self._space.applied + 1)
        begin = number_key(OUTCOME, trimmed_slot(reader) + 1)  # LevelDB would pass over each removal before
        for key, _sealed in reader.iterate(begin, family_end(OUTCOME)):
            self.first = min(self.first, number_of(key))
            break

    def outcome(self, slot: Slot) -> bytes | None:
        """Return what the fold recorded about ``slot``; None if that is trimmed or not folded."""
        found = self._space.versions.outcome(slot)
        if found is None and 0 < slot <= self._space.applied:
            key = number_key(OUTCOME, slot)
            sealed = self._space.reader.get(key)
            found = None if sealed is None else unseal(key, sealed)
        return found

    def chain_at(self, slot: Slot) -> bytes | None:
        """Return the chain after ``slot``, to compare nodes by; None if it is not known here."""
        if slot == 0:
            return CHAIN_START
        if slot == self._space.applied:
            return self._space.chain  # after a snapshot there is no record of it
        record = self.outcome(slot)
        return None if record is None else outcome_head(record).chain

    def vouches(self, slot: Slot, entry: bytes) -> bool | None:
        """Whether ``entry`` is what was folded in ``slot``, by the chain; None if that is not known here."""
        before = self.chain_at(Slot(slot - 1))
        outcome = self.outcome(slot)
        if before is None or outcome is None:
            return None
        head = outcome_head(outcome)
        revisions = head.before, head.after
        return chain_link(before, revisions, slot, entry, outcome[OUTCOME_HEAD.size :]) == head.chain

    def of_revision(self, revision: Revision) -> Slot:
        """Return the slot in which the offer of ``revision`` (1 or above) was accepted.

        Raises ``RevisionInFuture``, or ``RevisionCompacted`` where the log does not reach back.
        """
        if revision > self._space.revision:
            raise RevisionInFuture(revision, self._space.revision)
        low, high = int(self.first), int(self._space.applied)
        if low > high:
            raise RevisionCompacted(revision, Revision(self._space.revision + 1))
        first = self._outcome_at(low)
        if revision <= first.before:
            raise RevisionCompacted(revision, Revision(first.before + 1))
        while low < high:
            middle = (low + high) // 2
            if self._outcome_at(middle).after >= revision:
                high = middle
            else:
                low = middle + 1
        return Slot(low)

    def _outcome_at(self, slot: int) -> Any:
        record = self.outcome(Slot(slot))
        if record is None:
            raise RecordDamaged(number_key(OUTCOME, slot), "it is missing between others")
        return outcome_head(record)

    def trim_step(self, keep_from: Slot, slots_max: int) -> list[Write]:
        """Return removals of log and outcome records that nobody is served from any more.

        Those of slots whose revisions are all at or below the compacted one, and that are before
        ``keep_from``, which must be folded and flushed; up to ``slots_max`` slots of them.
        """
        if self._trim_before is None or self._trim_before[0] != self._space.compacted:
            needed = Revision(self._space.compacted + 1)
            try:
                is_there = needed <= self._space.revision
                before = self.of_revision(needed) if is_there else Slot(self._space.applied + 1)
            except RevisionCompacted:
                before = self.first
            self._trim_before = self._space.compacted, before
        first = self.first
        last = min(self._trim_before[1], keep_from, first + slots_max)
        if not self._space.compacted or last <= first:
            return []
        self.first = Slot(last)
        removed: list[Write] = [
            (number_key(family, slot), None) for slot in range(first, last) for family in LOG_FAMILIES
        ]
        return [*removed, trimmed_write(Slot(last - 1))]

    @property
    def oldest_tail(self) -> Revision:
        """The lowest revision after which commits can be told: those of the log, and not compacted."""
        if self.first > self._space.applied:
            return self._space.revision
        before: Revision = self._outcome_at(self.first).before
        return max(self._space.compacted, before)
