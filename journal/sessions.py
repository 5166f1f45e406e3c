"""Exactly once: which offer ids were decided, and how. PURE.

A session is what the space remembers of one client: the *floor* (every sequence below it was
answered, and its verdict read), and the verdicts of the sequences above it. A repeated id gets
its first verdict. (Viewstamped Replication Revisited, section 4.1, keeps one request a client; a
window of them lets a client keep many offers in flight.)

Memory is bounded: by the window of each client, by the number of clients, by how long one may
be idle, and by the bytes of all verdicts together. Past a bound the client that has been idle
longest is forgotten, and then the *forgotten floor* keeps the promise: an offer of a client that
is not known, first sent when the journal stood at ``base`` or earlier than that floor, may have
been decided in the forgotten past; it is refused as ``Expired``, never applied a second time.

    Why it holds: an offer is folded at a revision >= its base, and the session's ``revision`` is
    raised to that. When the session is forgotten the floor rises above the session's revision,
    hence above the base of every offer that it ever decided. A client that comes back gets a new
    session, which knows nothing of the old one: it remembers the forgotten floor that it was
    opened above (``opened``), and offers whose base is below that stay expired. Else a late copy
    of an offer that the old session had decided would be taken for a new one.

    Why not lower: a client that was rejected last may be forgotten at the present revision, and
    then the floor is above every base that anybody can know, until the next commit. To let a base
    of the present revision pass is tempting: what was accepted has a lower one, and what was
    rejected would meet the same keys again. But the same id need not bring the same offer. Who
    gives up on an offer sends a withdrawal under its id, which is rejected, and is told that the
    offer is not in the history and never will be; with its session forgotten, only the floor
    keeps a late copy of the offer itself from being applied. So the floor stays, and the leader
    brings the revision up to it (``journal.node_floor``).

One record a batch, under (client, slot, batch), holds the verdicts that it decided, and the
state of the session after it. Records go as the floor passes them; the newest stays.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from struct import Struct
from typing import Any

import msgpack

from journal.errors import RecordDamaged
from journal.limits import FOLD_SESSION_BYTES_MAX, FOLD_SESSION_IDLE_REVISIONS_MAX, FOLD_SESSIONS_MAX
from journal.offers import EXPIRED, Verdict, verdict_from_raw, verdict_to_raw
from journal.storage import Write
from journal.storage.records import SESSION, seal

_PLACE = Struct(">QI")  # slot, batch


class _Chunk:
    """The verdicts that one batch decided. Ranges stand for lists where they can: most batches
    are consecutive sequences, all accepted, at consecutive revisions, and cost no memory."""

    __slots__ = ("last", "record", "sequences", "size", "verdicts")

    def __init__(
        self, record: bytes, sequences: Sequence[int], verdicts: Sequence[Verdict], size: int
    ) -> None:
        self.record = record
        self.sequences = sequences
        self.verdicts = verdicts
        self.size = size
        self.last = sequences[-1] if sequences else -1


class Session:
    """One client. ``last``: the highest sequence seen; none above it has been decided."""

    __slots__ = ("_dense", "_firsts", "_sparse", "chunks", "floor", "last", "opened", "revision", "size")

    def __init__(self, floor: int, opened: int) -> None:
        self.floor = floor
        self.opened = opened
        """The forgotten floor when this session began: an offer of an older base may be of one before it."""
        self.last = -1
        self.revision = 0
        self.size = 0
        self.chunks: deque[_Chunk] = deque()
        # Verdicts by sequence: chunks of consecutive sequences never overlap, so a bisection of
        # their first ones finds them; the others are in a dict.
        self._firsts: list[int] = []
        self._dense: list[_Chunk] = []
        self._sparse: dict[int, Verdict] = {}

    def find(self, sequence: int) -> Verdict | None:
        """Return the remembered verdict of ``sequence``; ``EXPIRED`` below the floor; None if undecided."""
        if sequence > self.last:
            return None
        if sequence < self.floor:
            return EXPIRED
        index = bisect_right(self._firsts, sequence) - 1
        if index >= 0:
            chunk = self._dense[index]
            if sequence <= chunk.last:
                return chunk.verdicts[sequence - chunk.sequences[0]]
        return self._sparse.get(sequence)

    def add(self, chunk: _Chunk) -> None:
        self.chunks.append(chunk)
        self.size += chunk.size
        if isinstance(chunk.sequences, range):
            first = chunk.sequences[0]
            index = bisect_left(self._firsts, first)
            self._firsts.insert(index, first)
            self._dense.insert(index, chunk)
        else:
            self._sparse.update(zip(chunk.sequences, chunk.verdicts, strict=True))

    def drop_first(self) -> _Chunk:
        chunk = self.chunks.popleft()
        self.size -= chunk.size
        if isinstance(chunk.sequences, range):
            index = bisect_left(self._firsts, chunk.sequences[0])
            del self._firsts[index], self._dense[index]
        else:
            for sequence in chunk.sequences:
                del self._sparse[sequence]
        return chunk


class Sessions:
    """All clients that are remembered, longest idle first."""

    def __init__(self, forgotten_floor: int = 0) -> None:
        self.forgotten_floor = forgotten_floor
        self._sessions: dict[bytes, Session] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, client: bytes) -> bool:
        return client in self._sessions

    def get(self, client: bytes) -> Session | None:
        return self._sessions.get(client)

    def find(self, client: bytes, sequence: int, base: int | None = None) -> Verdict | None:
        """Return what is known of an offer id. With ``base``, ``EXPIRED`` where the id may belong to
        a forgotten past."""
        session = self._sessions.get(client)
        verdict: Verdict | None = None
        oldest = self.forgotten_floor
        if session is not None:
            verdict, oldest = session.find(sequence), session.opened
        if verdict is None and base is not None and base < oldest:
            return EXPIRED
        return verdict

    # -- the fold's side --------------------------------------------------------

    def forget_idle(self, revision: int, writes: list[Write]) -> None:
        """Forget the clients that offered nothing for ``FOLD_SESSION_IDLE_REVISIONS_MAX`` revisions."""
        oldest = revision - FOLD_SESSION_IDLE_REVISIONS_MAX
        while self._sessions:
            client, session = next(iter(self._sessions.items()))
            if session.revision >= oldest:
                return
            self._forget(client, writes)

    def open(self, client: bytes, acked: int, base: int, writes: list[Write]) -> Session | None:
        """Return the session for a batch of ``client``; None where only what ``find`` knows may be told."""
        session = self._sessions.get(client)
        if session is None:
            if base < self.forgotten_floor:
                return None
            session = self._sessions[client] = Session(acked, self.forgotten_floor)
            while len(self._sessions) > FOLD_SESSIONS_MAX:
                self._forget(next(iter(self._sessions)), writes)
        elif base < session.opened:
            return None
        elif acked > session.floor:
            session.floor = acked
            chunks = session.chunks
            while chunks and chunks[0].last < acked:
                chunk = session.drop_first()
                self._bytes -= chunk.size
                writes.append((chunk.record, None))
        return session

    def close(
        self,
        client: bytes,
        place: tuple[int, int],
        revision: int,
        last: int,
        sequences: Sequence[int],
        verdicts: Sequence[Verdict],
        writes: list[Write],
    ) -> None:
        """Remember what a batch decided: ``verdicts`` of the rising ``sequences``.

        ``place`` is (slot, index of the batch); ``last`` the batch's highest sequence, decided
        now or before; ``revision`` the journal's after the batch.
        """
        session = self._sessions.pop(client)
        self._sessions[client] = session  # now the least idle
        session.revision = revision
        if last > session.last:
            session.last = last
        dense, first_revision = _compress(sequences, verdicts)
        payload = msgpack.packb(
            [
                session.floor,
                session.last,
                revision,
                [sequences[0], len(sequences)] if dense is not None else list(sequences),
                dense is not None,
                first_revision or [verdict_to_raw(verdict) for verdict in verdicts],
                session.opened,
            ]
        )
        record = b"%c%c%b%b" % (SESSION, len(client), client, _PLACE.pack(*place))
        writes.append((record, seal(record, payload)))
        kept: Sequence[Verdict] = verdicts
        if first_revision:
            kept = range(first_revision, first_revision + len(verdicts))
        chunk = _Chunk(record, sequences if dense is None else dense, kept, len(payload))
        session.add(chunk)
        self._bytes += chunk.size
        while self._bytes > FOLD_SESSION_BYTES_MAX:
            self._forget(next(iter(self._sessions)), writes)

    def _forget(self, client: bytes, writes: list[Write]) -> None:
        session = self._sessions.pop(client)
        self._bytes -= session.size
        self.forgotten_floor = max(self.forgotten_floor, session.revision + 1)
        writes.extend((chunk.record, None) for chunk in session.chunks)

    # -- restoring --------------------------------------------------------------

    def restore(self, records: list[tuple[bytes, bytes]]) -> None:
        """Rebuild from all session records: (record key, unsealed payload)."""
        found = sorted((_place_of(key), key, payload) for key, payload in records)
        for (client, _slot, _batch), key, payload in sorted(found, key=lambda item: item[0][1:]):
            try:
                floor, last, revision, sequences, is_dense, verdicts, opened = msgpack.unpackb(payload)
                chunk = _restored(key, sequences, is_dense, verdicts, len(payload))
            except (ValueError, TypeError) as error:
                raise RecordDamaged(key, f"it does not decode: {error}") from error
            session = self._sessions.pop(client, None) or Session(floor, opened)
            self._sessions[client] = session
            session.floor, session.last, session.revision = floor, last, revision
            session.add(chunk)
            self._bytes += chunk.size


def _compress(sequences: Sequence[int], verdicts: Sequence[Verdict]) -> tuple[range | None, int]:
    """Return (the sequences as a range or None, the first revision if the verdicts are consecutive
    revisions, else 0)."""
    if not sequences:
        return None, 0
    count = len(sequences)
    first, last = sequences[0], sequences[-1]
    dense = range(first, last + 1) if last - first + 1 == count else None
    first_verdict, last_verdict = verdicts[0], verdicts[-1]
    # The accepted offers of one batch have consecutive revisions: as many as offers means all of them.
    if type(first_verdict) is int and type(last_verdict) is int and last_verdict - first_verdict + 1 == count:
        return dense, first_verdict
    return dense, 0


def _restored(record: bytes, sequences: Any, is_dense: bool, verdicts: Any, size: int) -> _Chunk:
    if is_dense:
        sequences = range(sequences[0], sequences[0] + sequences[1])
    if type(verdicts) is int:
        return _Chunk(record, sequences, range(verdicts, verdicts + len(sequences)), size)
    return _Chunk(record, sequences, [verdict_from_raw(raw) for raw in verdicts], size)


def _place_of(record: bytes) -> tuple[bytes, int, int]:
    slot, batch = _PLACE.unpack_from(record, len(record) - _PLACE.size)
    return record[2 : 2 + record[1]], slot, batch
