"""How much history is kept: when the leader proposes a compaction by itself. PURE.

Two settings, either or both: the last so many revisions, and all of the last so many seconds. With
both, what either wants kept is kept; with neither, nothing is compacted but by command. Every
node notes which revision it stood at when (a few hundred notes at most), so that whoever comes
to lead knows what is old. After a restart it knows nothing, and keeps more for a while.
"""

from __future__ import annotations

from collections import deque

from journal.types import Revision

NOTES = 256
"""Of revisions and their times: history is cut at one of them, so it is kept 1/256 longer than asked."""
SLACK = 16
"""A compaction is proposed for a sixteenth of what is kept at a time, not for each revision."""
MEAN_INTERVAL_S = 1.0
"""Compactions are at least this far apart."""


class Retention:
    """What to compact, by time and by number."""

    def __init__(self, revisions: int, seconds: float) -> None:
        """0 revisions and 0 seconds: nothing is due ever."""
        self._revisions = revisions
        self._seconds = seconds
        self._notes: deque[tuple[float, Revision]] = deque()
        self._next = 0.0

    def due(self, now: float, revision: Revision, compacted: Revision, *, leads: bool) -> Revision | None:
        """Return the revision to compact to, if it is time. Call it often."""
        if self._seconds:
            self._note(now, revision)
        if not leads or not (self._revisions or self._seconds) or now < self._next:
            return None
        target = int(revision)
        if self._revisions:
            target = min(target, revision - self._revisions)
        if self._seconds:
            target = min(target, self._revision_at(now - self._seconds))
        slack = self._revisions // SLACK
        if target <= compacted + slack:
            return None
        self._next = now + MEAN_INTERVAL_S
        return Revision(target)

    def _note(self, now: float, revision: Revision) -> None:
        notes = self._notes
        if not notes or now - notes[-1][0] >= self._seconds / NOTES:
            notes.append((now, revision))
        # One note from before the time that is kept is enough.
        while len(notes) > 1 and notes[1][0] <= now - self._seconds:
            notes.popleft()

    def _revision_at(self, time: float) -> int:
        """Return a revision that the journal stood at at ``time`` or before."""
        if self._notes and self._notes[0][0] <= time:
            return self._notes[0][1]
        return 0
