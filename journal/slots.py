"""What the fold recorded about each slot: its outcome, its place in the chain, its revisions. PURE.

An outcome record and the entry in the log are, together, all that tails need, and all that shows
that two nodes folded the same. Both are kept for the slots from ``first`` on; ``trim_step`` lets the
oldest go when nobody is served from them any more.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import sha256
from struct import Struct
from typing import TYPE_CHECKING, Final

from journal.commits import OUTCOME_HEAD, outcome_head
from journal.errors import RecordDamaged, RevisionCompacted, RevisionInFuture
from journal.storage import Reader, Write
from journal.storage.log import trimmed_slot, trimmed_write
from journal.storage.records import ENDED, LOG_FAMILIES, OUTCOME, family_end, number_key, number_of, unseal
from journal.types import Revision, Slot

if TYPE_CHECKING:
    from journal.space import Space

CHAIN_START: Final = bytes(32)
SLOTS_IN_MEMORY: Final = 65_536
"""Of so many slots at least that were folded since the start it is known at once what was made in them."""

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
        self.base = Revision(0)
        """The journal's revision before it."""
        self._let_go = Revision(0)
        """The log up to here is going, in steps."""
        self._lately = Stretch(Slot(1), Revision(0))
        self._space = space
        self._trim_before: tuple[Revision, Slot] | None = None

    def restore(self) -> None:
        """Find out how far the records reach back."""
        reader = self._space.reader
        self.first = Slot(self._space.applied + 1)
        begin = number_key(OUTCOME, trimmed_slot(reader) + 1)  # LevelDB would pass over each removal before
        self.base = self._space.revision
        self._lately = Stretch(self.first, self.base)
        for key, sealed in reader.iterate(begin, family_end(OUTCOME)):
            if number_of(key) < self.first:
                self.first, self.base = number_of(key), outcome_head(unseal(key, sealed)).before
            break

    def folded(self, entry_bytes: int) -> None:
        """The space has folded another slot."""
        self._lately.append(self._space.revision, entry_bytes)
        if len(self._lately) >= 2 * SLOTS_IN_MEMORY:
            self._lately.forget(SLOTS_IN_MEMORY)

    def floor(self, bytes_max: int) -> Revision:
        """Return a revision after which the log is kept for now, and its entries take ``bytes_max`` at most.

        It only rises. What was folded before the start counts as too much.
        """
        return max(self.base, self._let_go, self._lately.floor(bytes_max))

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
        return self.place_of(revision)[0]

    def place_of(self, revision: Revision) -> tuple[Slot, Revision]:
        """Return the slot of ``revision``, and the slot's last revision. Raises like ``of_revision``."""
        if revision > self._space.revision:
            raise RevisionInFuture(revision, self._space.revision)
        if revision <= self.base:
            raise RevisionCompacted(revision, Revision(self.base + 1))
        lately = self._lately
        if revision > lately.base:
            return lately.place_of(revision)
        low, high = int(self.first), lately.first - 1
        while low < high:
            middle = (low + high) // 2
            if self._after(middle) >= revision:
                high = middle
            else:
                low = middle + 1
        return Slot(low), self._after(low)

    def _after(self, slot: int) -> Revision:
        record = self.outcome(Slot(slot))
        if record is None:
            raise RecordDamaged(number_key(OUTCOME, slot), "it is missing between others")
        return outcome_head(record).after

    def trim_step(self, keep_from: Slot, slots_max: int) -> list[Write]:
        """Return removals of log and outcome records that nobody is served from any more.

        Those of slots whose revisions are all at or below the compacted one, and that no older version is
        read from (``ended``), and that are before ``keep_from``, which must be folded and flushed; up to
        ``slots_max`` slots of them.
        """
        if self._trim_before is None or self._trim_before[0] != self._space.compacted:
            compacted = self._space.compacted
            self._let_go = Revision(self._space.versions.log_needed_after(compacted))
            needed = Revision(self._let_go + 1)
            try:
                is_there = needed <= self._space.revision
                before = self.of_revision(needed) if is_there else Slot(self._space.applied + 1)
            except RevisionCompacted:
                before = self.first
            self._trim_before = compacted, before
        first = self.first
        last = min(self._trim_before[1], keep_from, first + slots_max)
        if not self._space.compacted or last <= first:
            return []
        removed: list[Write] = [
            (number_key(family, slot), None) for slot in range(first, last) for family in LOG_FAMILIES
        ]
        outcomes = self._space.reader.iterate(number_key(OUTCOME, first), number_key(OUTCOME, last))
        for key, sealed in outcomes:
            head = outcome_head(unseal(key, sealed))
            if head.after > head.before:
                removed.append((number_key(ENDED, head.after), None))
            self.base = head.after
        self.first = Slot(last)
        return [*removed, trimmed_write(Slot(last - 1))]

    @property
    def oldest_tail(self) -> Revision:
        """The lowest revision after which commits can be told: those of the log, and not compacted."""
        return max(self._space.compacted, self.base)


class Stretch:
    """The journal's revision after each of some slots: tells in which of them a revision was made."""

    def __init__(self, first: Slot, base: Revision) -> None:
        """``base``: the journal's revision before ``first``."""
        self.first = first
        self.base = base
        self._after = array("Q")
        self._bytes = array("Q")
        """Of all entries up to each slot."""
        self._bytes_in_all = 0

    def __len__(self) -> int:
        return len(self._after)

    def append(self, revision: Revision, entry_bytes: int = 0) -> None:
        """The next slot ended at ``revision``."""
        self._after.append(revision)
        self._bytes_in_all += entry_bytes
        self._bytes.append(self._bytes_in_all)

    def forget(self, count: int) -> None:
        """Forget the first ``count`` slots."""
        self.first = Slot(self.first + count)
        self.base = Revision(self._after[count - 1])
        del self._after[:count], self._bytes[:count]

    def place_of(self, revision: Revision) -> tuple[Slot, Revision]:
        """Return the slot of ``revision``, which must be after ``base``, and the slot's last revision."""
        index = bisect_left(self._after, revision)
        return Slot(self.first + index), Revision(self._after[index])

    def floor(self, bytes_max: int) -> Revision:
        """Return the revision after which the entries take no more than ``bytes_max``; ``base`` at least."""
        enough = self._bytes_in_all - bytes_max
        return self.base if enough <= 0 else Revision(self._after[bisect_left(self._bytes, enough)])


def stretch_of(view: Reader) -> Stretch:
    """Return all slots that the log in ``view`` reaches back to. Raises ``RecordDamaged``."""
    stretch: Stretch | None = None
    for key, sealed in view.iterate(number_key(OUTCOME, trimmed_slot(view) + 1), family_end(OUTCOME)):
        head = outcome_head(unseal(key, sealed))
        if stretch is None:
            stretch = Stretch(number_of(key), head.before)
        stretch.append(head.after)
    return stretch or Stretch(Slot(1), Revision(0))
