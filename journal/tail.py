"""The fan-out of commits: any number of tails, no queue for any of them.

A tail is a position: the last revision it has sent. It *reads* the commits after
its position and *waits* when there are none. So a slow tail costs nothing but its
position, and memory is bounded by one buffer of recent slots that all tails share;
a tail that is behind that buffer is served from the log at its own pace.

Commits are the same whether they come from the buffer or from the log: both are made
by ``journal.space.commits`` from the entry and from what the fold recorded about it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from journal.commits import Commit, commits
from journal.errors import Overloaded, RecordDamaged, RevisionCompacted, RevisionInFuture
from journal.limits import Limits
from journal.paxos.messages import AcceptedValue
from journal.space import Folded, Space
from journal.storage.log import LogStore
from journal.types import Revision, Slot
from journal.watches import Watch, Watches

LABELS_MAX = 50_000
"""Labels of revisions remembered for receipts: a cache of what the log says."""


class TailChunk(NamedTuple):
    """The commits of revisions ``first`` to ``last``, all of them. Empty: ``last == first - 1``."""

    first: Revision
    last: Revision
    commits: list[Commit]


@dataclass(slots=True)
class _Recent:
    """One folded slot, its commits made on first use."""

    slot: Slot
    first: Revision
    last: Revision
    entry: bytes
    outcome: bytes
    commits: list[Commit] | None = None


class TailHub:
    """The commits of one node, for every tail on it."""

    def __init__(self, space: Space, log: LogStore, limits: Limits) -> None:
        self._space = space
        self._log = log
        self._limits = limits
        self._recent: deque[_Recent] = deque()
        self._recent_bytes = 0
        self._flushed = space.applied
        self._labels: dict[int, str] = {}
        self._waiters: dict[object, Callable[[], None]] = {}
        self._published = space.revision
        """Up to here the watches have been told of all that concerns them."""
        self.watches = Watches()
        self.open = 0
        """Tails that are open now; the rpc edge counts them with ``opened`` and ``closed``."""

    @property
    def revision(self) -> Revision:
        return self._space.revision

    @property
    def lag(self) -> int:
        """Revisions that the watching tail which is furthest behind has still to be sent."""
        unsent = self.watches.unsent
        return 0 if unsent is None else max(0, self._space.revision + 1 - unsent)

    # -- the node's side ----------------------------------------------------------

    def publish(self, entry: AcceptedValue, folded: Folded) -> None:
        """Show the commits of the slot that was folded last to all tails."""
        if folded.revision == folded.before:
            return
        self._recent.append(
            _Recent(
                folded.slot,
                Revision(folded.before + 1),
                folded.revision,
                entry.value,
                folded.outcome,
            )
        )
        self._recent_bytes += len(entry.value)
        self._trim()
        self._published = folded.revision
        if self.watches:
            self.watches.committed(folded, self._space.changed.records)
        if self._waiters:
            self._wake_all()

    def flushed(self, slot: Slot) -> None:
        """Slots up to ``slot`` can be read from storage now, so they may leave the buffer."""
        self._flushed = slot
        self._trim()

    def read_from(self, log: LogStore) -> None:
        """Read what is not in memory from ``log`` from now on."""
        self._log = log

    def reload(self, log: LogStore) -> None:
        """The space has become that of a snapshot, and ``log`` begins behind it: tails that are not there
        yet will be told that what they miss is compacted."""
        self._log = log
        self._recent.clear()
        self._recent_bytes = 0
        self._flushed = self._space.applied
        self._labels.clear()
        self.watches.note_all(Revision(self._published + 1))
        self._published = self._space.revision
        self._wake_all()

    def _wake_all(self) -> None:
        waiters = list(self._waiters.values())
        self._waiters.clear()
        for wake in waiters:
            wake()

    def _trim(self) -> None:
        recent = self._recent
        while (
            recent
            and self._recent_bytes > self._limits.tail_recent_bytes_max
            and recent[0].slot <= self._flushed
        ):
            self._recent_bytes -= len(recent.popleft().entry)

    def label_of(self, revision: Revision) -> str:
        """Return the label of the offer that made ``revision``; empty where the log does not reach back."""
        label = self._labels.get(revision)
        if label is None:
            try:
                found = self.read(Revision(revision - 1), 1).commits
            except RevisionCompacted:
                found = []
            except RecordDamaged as error:  # a label is not worth a node: it is mended, and told next time
                self._log.on_damage(error)
                return ""
            if len(self._labels) > LABELS_MAX:
                self._labels.clear()
            self._labels.update((commit.revision, commit.label) for commit in found)
            label = self._labels.get(revision, "")
        return label

    # -- a tail's side --------------------------------------------------------------

    def opened(self) -> None:
        """Count a tail in. Raises ``Overloaded`` past ``tails_max``."""
        if self.open >= self._limits.tails_max:
            raise Overloaded("tails_max", self._limits.tails_max, 1000)
        self.open += 1

    def closed(self) -> None:
        self.open -= 1

    def read(self, after: Revision, bytes_max: int) -> TailChunk:
        """Return commits from ``after + 1`` on: whole slots, about ``bytes_max`` of entries or
        one slot, whichever is more. Raises ``RevisionCompacted``, ``RevisionInFuture`` or
        ``RecordDamaged``."""
        current = self._space.revision
        if after > current:
            raise RevisionInFuture(after, current)
        if after < self._space.compacted:
            raise RevisionCompacted(Revision(after + 1), Revision(self._space.compacted + 1))
        if after == current:
            return TailChunk(Revision(after + 1), after, [])
        if self._recent and self._recent[0].first <= after + 1:
            return self._from_recent(after, bytes_max)
        return self._from_log(after, bytes_max)

    def wait(self, after: Revision, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` once, when there is something after ``after``; at once if there is now.

        Returns a function that cancels it.
        """
        if self._space.revision > after:
            wake()
            return lambda: None
        token = object()
        self._waiters[token] = wake
        return lambda: self._waiters.pop(token, None) and None

    def watch(self, prefixes: tuple[bytes, ...], wake: Callable[[], None], after: Revision) -> Watch:
        """Return the watch of a tail that has everything up to ``after``, which ``unwatch`` is to remove.

        ``wake`` is called whenever there is something to take.
        """
        watch = Watch(prefixes, wake, Revision(after + 1))
        self.watches.add(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        self.watches.remove(watch)

    def _from_recent(self, after: Revision, bytes_max: int) -> TailChunk:
        recent = self._recent
        low, high = 0, len(recent) - 1
        # A tail that keeps up wants the newest slots: look from that end first.
        position = high
        while position > 0 and recent[position].first > after + 1 and high - position < 8:
            position -= 1
        if recent[position].first > after + 1:
            while low < high:  # the last slot whose first revision is not beyond after + 1
                middle = (low + high + 1) // 2
                if recent[middle].first <= after + 1:
                    low = middle
                else:
                    high = middle - 1
            position = low
        found: list[Commit] = []
        size = 0
        last = after
        while position < len(recent) and (not size or size < bytes_max):
            item = recent[position]
            if item.commits is None:
                item.commits = commits(item.slot, item.entry, item.outcome)
            found.extend(item.commits if item.first > after else item.commits[after + 1 - item.first :])
            last = item.last
            size += len(item.entry)
            position += 1
        return TailChunk(Revision(after + 1), last, found)

    def _from_log(self, after: Revision, bytes_max: int) -> TailChunk:
        found: list[Commit] = []
        last = after
        slot = self._space.slots.of_revision(Revision(after + 1))
        while not found and slot <= self._space.applied:
            entries = self._log.read(slot, self._space.applied, bytes_max)
            if not entries:
                raise self._log.missing(slot)
            for entry in entries:
                slot = Slot(entry.slot + 1)
                outcome = self._space.slots.outcome(entry.slot)
                if outcome is not None:
                    found.extend(
                        commit
                        for commit in commits(entry.slot, entry.value, outcome)
                        if commit.revision > after
                    )
        if found:
            last = found[-1].revision
        assert last > after, (after, self._space.revision)
        return TailChunk(Revision(after + 1), last, found)
