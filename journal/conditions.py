"""What an offer demands of the keys, checked against a state of the space. PURE.

Twice: by the fold, which decides (``check_ranges``, ``check_expect``; conditions on single keys are in its
hot loop), and by the leader before it spends a slot (``doomed``), which answers only what stays false for
ever. The state's own revisions are arguments.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import islice
from typing import Any

from journal.limits import FOLD_SCAN_RECORDS_MAX
from journal.offers import Reason, Rejected
from journal.recent import RecentKeys
from journal.versions import Stored, Versions


class Changed:
    """The keys that the slot being folded has changed so far."""

    __slots__ = ("_sorted", "records")

    def __init__(self) -> None:
        self.records: dict[bytes, Stored] = {}
        self._sorted: list[bytes] = []  # of the records, as far as somebody asked

    def within(self, start: bytes, end: bytes) -> list[bytes]:
        """Return the keys of the range that the slot being folded has changed so far, sorted.

        The dict of changed keys only grows, at its end, so what came since the last call is sorted in.
        """
        keys = self._sorted
        if len(keys) < len(self.records):
            new = list(islice(self.records, len(keys), None))
            if len(new) > 16:
                keys.extend(new)
                keys.sort()
            else:
                for key in new:
                    insort(keys, key)
        return keys[bisect_left(keys, start) : bisect_left(keys, end) if end else len(keys)]


class Conditions:
    """Looks at the current versions of keys, and at which slots changed them lately."""

    def __init__(self, versions: Versions, recent: RecentKeys) -> None:
        self._versions = versions
        self._recent = recent
        self._changed = Changed()

    def begin_slot(self, changed: Changed) -> None:
        """``changed`` is what the slot to be folded now will have changed."""
        self._changed = changed

    def check_ranges(
        self, at: int, ranges: Sequence[Sequence[bytes]], compacted: int, revision: int
    ) -> Rejected | None:
        if not compacted <= at <= revision:
            return bad_at(at, compacted, revision)
        for index, (start, end) in enumerate(ranges):
            changed = self._changed.within(start, end)
            key: bytes | None = None
            for candidate in changed:
                if self._modified(candidate) > at:
                    key = candidate
                    break
            if at >= self._recent.floor:
                older = self._recent.changed_after(at, start, end, self._modified)
                if older is not None and (key is None or older < key):
                    key = older
            else:
                key, looked_at_all = self._scan_for_change(at, start, end, changed, compacted)
                if not looked_at_all:
                    return Rejected(Reason.LIMIT, f"ranges[{index}]", start, field="FOLD_SCAN_RECORDS_MAX")
            if key is not None:
                return Rejected(Reason.RANGE, f"ranges[{index}]", key, self._modified(key))
        return None

    def _scan_for_change(
        self, at: int, start: bytes, end: bytes, changed: list[bytes], compacted: int
    ) -> tuple[bytes | None, bool]:
        """Look for the lowest key of the range that was modified after ``at``, record by record.

        Returns (key or None, whether the answer is complete). Tombstones that compaction may
        have removed are passed over uncounted, as other nodes may not have them any more.
        """
        looked = 0
        for key, record in self._versions.scan_current(start, end, changed):
            if record[1] > at:
                return key, True
            if record[2] or record[1] > compacted:
                looked += 1
                if looked >= FOLD_SCAN_RECORDS_MAX:
                    return None, False
        return None, True

    def check_expect(self, expect: Sequence[Sequence[Any]]) -> Rejected | None:
        for index, (key, expected) in enumerate(expect):
            record = self._versions.current(key)
            present = record[1] if record[2] else 0
            if present != expected:
                return Rejected(Reason.EXPECT, f"expect[{index}]", key, present)
        return None

    def _modified(self, key: bytes) -> int:
        return self._versions.current(key)[1]

    def doomed(self, offer: Sequence[Any], compacted: int, revision: int) -> Rejected | None:
        """Return the receipt of an offer (packed form) that no later slot can accept, else None.

        Only what stays false for ever counts: a key that was modified after ``at`` stays so, and
        a modification revision that has passed does not come back. The receipt may differ
        from the one that the fold would give later, but it is a rejection there too.
        """
        at, reads, ranges, expect = offer[2:6]
        current = self._versions.current
        if reads or ranges:
            if at < compacted:
                return bad_at(at, compacted, revision)
            for index, key in enumerate(reads):
                modified = current(key)[1]
                if modified > at:
                    return Rejected(Reason.READ, f"reads[{index}]", key, modified)
        if ranges and self._recent.floor <= at <= revision:
            for index, (start, end) in enumerate(ranges):
                changed = self._recent.changed_after(at, start, end, self._modified)
                if changed is not None:
                    return Rejected(Reason.RANGE, f"ranges[{index}]", changed, self._modified(changed))
        for index, (key, expected) in enumerate(expect):
            if 0 < expected <= revision:
                record = current(key)
                present = record[1] if record[2] else 0
                if present != expected:
                    return Rejected(Reason.EXPECT, f"expect[{index}]", key, present)
        return None


def bad_at(at: int, compacted: int, revision: int) -> Rejected:
    if at < compacted:
        return Rejected(Reason.COMPACTED, "at", revision=compacted)
    return Rejected(Reason.FUTURE, "at", revision=revision)
