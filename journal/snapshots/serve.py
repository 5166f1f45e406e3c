"""The node that has a snapshot: it answers questions from views of its storage. PURE over the port.

A view is taken with the first question and costs nothing but the disk that overwritten records
keep; commits go on beside it. The asker names it by a number of its own, so asking again after
a lost answer finds the same view, and all that it gets is of one moment. Views are few, and one that
nobody asks for ends: the asker is told that it is gone, and begins again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from struct import Struct
from typing import NamedTuple

from journal.limits import Limits
from journal.paxos.membership import Membership, MembershipHistory
from journal.paxos.messages import SnapshotAsk, SnapshotChunk, SnapshotRefused
from journal.snapshots.format import Header
from journal.snapshots.records import Digest, End, Record, make_chunk, pack_record, walk
from journal.state import State, read_state
from journal.storage import Storage, View
from journal.storage.records import MEMBERSHIP, PROMISED, family_end, number_of, unseal
from journal.types import Ballot, NodeId, Slot

_BALLOT = Struct(">QI")  # as in ``storage.log``


class SnapshotPart(NamedTuple):
    """What a client that saves a snapshot is given at a time."""

    header: Header
    records: bytes
    """Packed."""
    end: End | None
    """With the last part."""


class Source:
    """One view, read in key order. Also what a snapshot file is written from."""

    def __init__(self, view: View, state: State, first: Membership, window_slots_max: int) -> None:
        """``first`` is the cluster's first membership. The view is closed with ``close``."""
        self.state = state
        self._view = view
        self._first = first
        self._window = window_slots_max
        self._records: Iterator[Record] = iter(())
        self._position: bytes | None = None
        self._ahead: Record | None = None
        self._digest = Digest()
        self._is_read = False
        self._is_closed = False

    def chunk(self, after: bytes, bytes_max: int) -> tuple[bytes, bytes]:
        """Return (packed records that follow ``after``, the packed ``End`` if they are the last).

        Raises ``RecordDamaged``: nobody is given what this node could not believe itself.
        """
        if self._position != after:
            self._records = walk(self._view, after)
            self._ahead = next(self._records, None)
        digest = self._digest
        packed: list[bytes] = []
        size = 0
        last = after
        while self._ahead is not None:
            key, value = self._ahead
            record = pack_record(key, value)
            if packed and size + len(record) > bytes_max:
                break
            unseal(key, value)
            packed.append(record)
            size += len(record)
            last = key
            if key > digest.last:  # the answer may be asked for again
                digest.add(key, record)
            self._ahead = next(self._records, None)
        self._position = last
        return b"".join(packed), b"" if self._ahead is not None else self._end().pack()

    def has_read(self, key: bytes) -> bool:
        """Whether ``key`` is at or before the last record that was read."""
        return key <= self._digest.last

    def _end(self) -> End:
        history = MembershipHistory([(Slot(1), self._first), *self._memberships()])
        following = Slot(self.state.applied + 1)
        rules: list[tuple[Slot, Membership]] = []
        for first, membership in history.entries:
            if first <= following:
                rules = []
            rules.append((first, membership))
        return End(
            self._digest.count,
            self._digest.digest(),
            self.state.applied,
            self.state.revision,
            self.state.chain,
            self._promised(),
            tuple(rules),
        )

    def _memberships(self) -> Iterator[tuple[Slot, Membership]]:
        for key, sealed in self._view.iterate(MEMBERSHIP, family_end(MEMBERSHIP)):
            yield Slot(number_of(key) + self._window), Membership.unpack(unseal(key, sealed))

    def _promised(self) -> Ballot:
        sealed = self._view.get(PROMISED)
        if sealed is None:
            return Ballot.ZERO
        round_, node = _BALLOT.unpack(unseal(PROMISED, sealed))
        return Ballot(round_, NodeId(node))

    @contextmanager
    def being_read(self) -> Iterator[Source]:
        """While it is read, perhaps in another thread, ``close`` waits until that is done."""
        assert not self._is_read, "one reader at a time"
        self._is_read = True
        try:
            yield self
        finally:
            self._is_read = False
            if self._is_closed:
                self.close()

    def close(self) -> None:
        self._is_closed = True
        if not self._is_read:
            self._records, self._ahead, self._position = iter(()), None, None
            self._view.close()


class Server:
    """The views of all askers."""

    def __init__(self, storage: Storage, limits: Limits, first: Membership, window_slots_max: int) -> None:
        self._storage = storage
        self._limits = limits
        self._first = first
        self._window = window_slots_max
        self._open: dict[NodeId, tuple[int, Source]] = {}
        self._used: dict[NodeId, float] = {}

    def source(self) -> Source | None:
        """Take a view now; None where nothing is folded yet. The caller closes it."""
        view = self._storage.view()
        state = read_state(view)
        if state is None:
            view.close()
            return None
        return Source(view, state, self._first, self._window)

    def open_for(self, asker: NodeId, ask: SnapshotAsk, now: float) -> Source | SnapshotRefused:
        """Return the view that a question is about; ``chunk`` answers from it."""
        view, source = self._open.get(asker, (None, None))
        if source is None or view != ask.view:
            if ask.after:
                return SnapshotRefused(ask.view, True, "the view is not open any more")
            self._close(asker)  # it has begun again
            if len(self._open) >= self._limits.snapshot_views_max:
                limit = self._limits.snapshot_views_max
                return SnapshotRefused(ask.view, False, f"snapshot_views_max={limit} is reached")
            source = self.source()
            if source is None:
                return SnapshotRefused(ask.view, False, "nothing is folded here yet")
            self._open[asker] = ask.view, source
        elif not source.has_read(ask.after):
            return SnapshotRefused(ask.view, True, "the view was not read so far")
        self._used[asker] = now
        return source

    def chunk(self, source: Source, ask: SnapshotAsk) -> SnapshotChunk:
        """Return the answer to a question. It reads much: another thread may do it. Raises ``StorageError``
        where the own storage fails."""
        records, end = source.chunk(ask.after, self._limits.snapshot_chunk_bytes_max)
        return make_chunk(ask.view, ask.after, records, end)

    def answer(self, asker: NodeId, ask: SnapshotAsk, now: float) -> SnapshotChunk | SnapshotRefused:
        """Return the answer to a question, at once."""
        found = self.open_for(asker, ask, now)
        return self.chunk(found, ask) if isinstance(found, Source) else found

    def caught_up(self, known: Mapping[NodeId, Slot], enough: int) -> None:
        """Give up the views of those that are known to be at ``enough`` and past the view: they need neither
        it nor the log that it keeps, and others may wait for their places."""
        for asker, (_view, source) in list(self._open.items()):
            if known.get(asker, 0) >= max(source.state.applied, enough):
                self._close(asker)

    def tick(self, now: float) -> None:
        """Give up the views that nobody has asked for within ``snapshot_idle_s``."""
        for asker in [
            asker for asker, used in self._used.items() if now - used >= self._limits.snapshot_idle_s
        ]:
            self._close(asker)

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def oldest_slot(self) -> Slot | None:
        """The oldest slot that a view is of: the log after it must stay, for who installs it."""
        return min((source.state.applied for _view, source in self._open.values()), default=None)

    def close(self) -> None:
        """Give up all views."""
        for asker in list(self._open):
            self._close(asker)

    def _close(self, asker: NodeId) -> None:
        _view, source = self._open.pop(asker, (0, None))
        self._used.pop(asker, None)
        if source is not None:
            source.close()
