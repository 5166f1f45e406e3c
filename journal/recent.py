"""The keys that recent slots changed, to check range conditions without a scan. PURE.

A range condition asks: was anything in ``start <= key < end`` modified after ``at``? Offers are
made from fresh reads, so ``at`` is nearly always recent, and the answer lies in the few keys that
changed since. This keeps them in sorted runs, one for each slot, merged as they age (like the levels
of an LSM tree), so a check is a few bisections however many slots there are.

Two properties matter more than speed. The check is exact: a run may hold keys older than ``at``,
so each candidate's true modification revision is asked for. And how far back it reaches (``floor``)
is the same on every node, before and after a restart, because the choice between this and a scan of
the space decides at which size a range is refused.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable

from journal.limits import FOLD_RECENT_BYTES_MAX
from journal.types import Slot

SLOT_BYTES = 64
"""What a slot costs beside its keys."""

RUNS_UNMERGED = 24
"""So many runs are looked through before it is worth merging some."""


class _Run:
    """Keys changed in some consecutive slots. ``last``: the revision after the last of them."""

    __slots__ = ("is_sorted", "keys", "last")

    def __init__(self, last: int, keys: list[bytes]) -> None:
        self.last = last
        self.keys = keys
        self.is_sorted = False

    def sort(self) -> None:
        if not self.is_sorted:
            self.keys = sorted(self.keys)
            self.is_sorted = True


class RecentKeys:
    """Which keys changed after any revision >= ``floor``."""

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor
        """The oldest ``at`` that can be answered from here."""
        self._slots: deque[tuple[Slot, int, int]] = deque()  # slot, revision after it, packed bytes
        self._bytes = 0
        self._runs: deque[_Run] = deque()  # oldest first

    def add(self, slot: Slot, last: int, keys: list[bytes], size: int) -> list[Slot]:
        """Note that ``slot`` changed ``keys`` (``size`` bytes packed) and ended at revision ``last``.

        Returns the slots that are forgotten for it, maybe ``slot`` itself.
        """
        size += SLOT_BYTES
        self._slots.append((slot, last, size))
        self._bytes += size
        self._runs.append(_Run(last, keys))
        dropped: list[Slot] = []
        while self._bytes > FOLD_RECENT_BYTES_MAX:
            old, self.floor, old_size = self._slots.popleft()
            self._bytes -= old_size
            dropped.append(old)
        runs = self._runs
        while runs and runs[0].last <= self.floor:
            runs.popleft()
        return dropped

    def changed_after(
        self, at: int, start: bytes, end: bytes, modified: Callable[[bytes], int]
    ) -> bytes | None:
        """Return the lowest key of the range that was modified after ``at``, or None.

        ``modified`` gives a key's last modification revision. ``at`` must not be below ``floor``.
        """
        assert at >= self.floor, (at, self.floor)
        runs = self._runs
        if len(runs) > RUNS_UNMERGED and runs[-RUNS_UNMERGED].last > at:
            self._merge()
            runs = self._runs
        found: bytes | None = None
        for run in reversed(runs):
            if run.last <= at:
                break
            run.sort()
            keys = run.keys
            stop = bisect_left(keys, end) if end else len(keys)
            for index in range(bisect_left(keys, start), stop):
                key = keys[index]
                if found is not None and key >= found:
                    break
                if modified(key) > at:
                    found = key
                    break
        return found

    def _merge(self) -> None:
        """Merge runs until each is at least twice as long as the next newer one."""
        merged: deque[_Run] = deque()
        for run in self._runs:
            run.sort()
            merged.append(run)
            while len(merged) > 1 and len(merged[-2].keys) < 2 * len(merged[-1].keys):
                newer = merged.pop()
                keys = merged[-1].keys + newer.keys
                keys.sort()  # two sorted halves: timsort merges them in one pass
                merged[-1] = _Run(newer.last, list(dict.fromkeys(keys)))
                merged[-1].is_sorted = True
        self._runs = merged
