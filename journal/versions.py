"""The versioned keys: current records, older versions, and the cache over storage. PURE.

Every key that exists has a *current* record: when it was created, when last modified, how often,
its lease and its value. When a key is modified, the record it had moves to *history*, under the
key and the revision at which it ceased to be valid (its end). A deletion leaves a *tombstone* as
the current record. So the present is one get or one ordered scan, and the past is one seek::

    get(key, at):  current.modified <= at ?  current
                   else the first history record with end > at, if it was modified <= at, else absent

Keying history by the end, not the beginning, makes compaction free of order: a record with
end <= compacted cannot be asked for any more, and neither can a tombstone made at or before it,
so each may be removed at any time, or never, and no read can tell.

Three layers answer a read, newest first: what was folded and is not in storage yet, a cache, and
storage. Records are plain tuples (``Stored``), because the fold makes one for every mutation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from heapq import merge
from struct import Struct
from typing import Final, NamedTuple, Protocol
from zlib import crc32

from journal.errors import RecordDamaged
from journal.storage import Write
from journal.storage.records import (
    CHECKSUM,
    CURRENT,
    HISTORY,
    NUMBER,
    SWEPT,
    TOMBSTONE,
    family_end,
    number_of,
    seal,
    unseal,
)
from journal.types import Revision, Slot

Stored = tuple[int, int, int, int, bytes]
"""(create revision, modification revision, version, lease, payload). Version 0: not there; the
modification revision then is the tombstone's, or 0. The payload is ``HEAD`` and the value."""

HEAD: Final = Struct(">QQQQ")  # create, modified, version, lease
HEAD_BYTES: Final = HEAD.size
ABSENT: Final[Stored] = (0, 0, 0, 0, b"")

_HISTORY_LENGTH = Struct(">H")


class Record(NamedTuple):
    """A key's record as readers see it."""

    create: Revision
    """The revision that created it (again, if it was deleted before)."""
    mod: Revision
    """The revision that modified it last."""
    version: int
    """How many revisions modified it since it was created: 1 for a new key."""
    lease: int
    """The lease that it is bound to; 0: none."""
    value: bytes


class SpaceReader(Protocol):
    """The part of ``Storage`` that the space reads from."""

    def get(self, key: bytes) -> bytes | None: ...

    def iterate(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]: ...


class _Unflushed:
    """What one fold changed, until it is in storage. Indexed only if somebody reads it."""

    __slots__ = ("_ended", "_keys", "changed", "outcome", "revision", "slot", "superseded")

    def __init__(
        self,
        slot: Slot,
        revision: int,
        changed: dict[bytes, Stored],
        superseded: list[tuple[bytes, int, bytes]],
        outcome: bytes,
    ) -> None:
        self.slot = slot
        self.revision = revision
        self.changed = changed
        self.superseded = superseded  # (key, end, payload)
        self.outcome = outcome
        self._keys: list[bytes] | None = None
        self._ended: dict[bytes, list[tuple[int, bytes]]] | None = None

    def keys_in(self, start: bytes, end: bytes) -> list[bytes]:
        if self._keys is None:
            self._keys = sorted(self.changed)
        keys = self._keys
        return keys[bisect_left(keys, start) : bisect_left(keys, end) if end else len(keys)]

    def ended(self, key: bytes) -> list[tuple[int, bytes]]:
        """Return (end, payload) of the versions of ``key`` that this fold ended, oldest first."""
        if self._ended is None:
            self._ended = {}
            for superseded, end, payload in self.superseded:
                self._ended.setdefault(superseded, []).append((end, payload))
        return self._ended.get(key, [])


class Versions:
    """The keys of the space. It does not know what a revision means, only the fold does."""

    def __init__(self, reader: SpaceReader, *, cache_records_max: int, cache_bytes_max: int) -> None:
        self._reader = reader
        self._generation_records_max = max(1, cache_records_max // 2)
        self._generation_bytes_max = max(1, cache_bytes_max // 2)
        # The cache: two generations. What is used moves to the young one; when that is full, the
        # old one goes, and the young becomes old. No bookkeeping on a hit.
        self.young: dict[bytes, Stored] = {}
        self._old: dict[bytes, Stored] = {}
        self._young_bytes = 0
        self._unflushed: deque[_Unflushed] = deque()
        self._flushed_revision = 0
        self.swept = 0
        self._sweeping: tuple[int, bytes] | None = None  # target revision, cursor

    def restore(self, revision: int) -> None:
        """Say at which revision storage stands, and find out how far compaction has come."""
        self._flushed_revision = revision
        sealed = self._reader.get(SWEPT)
        if sealed is not None:
            self.swept = NUMBER.unpack(unseal(SWEPT, sealed))[0]

    # -- current records --------------------------------------------------------

    def current(self, key: bytes) -> Stored:
        """Return the current record of ``key``, maybe a tombstone or ``ABSENT``."""
        return self.young.get(key) or self.load(key)

    def load(self, key: bytes) -> Stored:
        """Like ``current``, for a key that is not in ``young``."""
        record = self._old.get(key)
        if record is None:
            stored_key = CURRENT + key
            sealed = self._reader.get(stored_key)
            record = ABSENT if sealed is None else decode(stored_key, sealed)
        self.young[key] = record
        self._young_bytes += len(record[4])
        return record

    def scan_current(
        self, start: bytes, end: bytes, extra: Iterable[bytes] = ()
    ) -> Iterator[tuple[bytes, Stored]]:
        """Yield (key, current record) of the range in order, tombstones too.

        ``extra`` are more keys of the range, sorted, that may be in the cache only. What is
        yielded is as of now: the caller must not fold while it iterates.
        """
        overlay = merge(*(slot.keys_in(start, end) for slot in self._unflushed), extra)
        stop = CURRENT + end if end else family_end(CURRENT)
        changed = next(overlay, None)
        for stored_key, sealed in self._reader.iterate(CURRENT + start, stop):
            key = stored_key[1:]
            while changed is not None and changed < key:
                yield changed, self.current(changed)
                changed = _next_after(overlay, changed)
            if changed == key:
                yield key, self.current(key)
                changed = _next_after(overlay, key)
            else:
                yield key, decode(stored_key, sealed)
        while changed is not None:
            yield changed, self.current(changed)
            changed = _next_after(overlay, changed)

    # -- older versions ---------------------------------------------------------

    def at(self, key: bytes, record: Stored, revision: int) -> Stored:
        """Return the record of ``key`` as of ``revision``; ``record`` is its current one."""
        if record[1] <= revision:
            return record
        prefix = _history_prefix(key)
        for stored_key, sealed in self._reader.iterate(
            prefix + NUMBER.pack(revision + 1), prefix + b"\xff" * 8
        ):
            return _valid(decode(stored_key, sealed), revision)
        # Every end in storage is below every end that is not there yet.
        for slot in self._unflushed:
            if slot.revision > revision:
                for end, payload in slot.ended(key):
                    if end > revision:
                        return _valid(_parse(payload), revision)
        return ABSENT

    # -- writing ----------------------------------------------------------------

    def commit(
        self,
        slot: Slot,
        revision: int,
        changed: dict[bytes, Stored],
        superseded: list[tuple[bytes, int, bytes]],
        outcome: bytes,
        writes: list[Write],
        size: int,
    ) -> None:
        """Take in what a fold made of the keys, and append its records to ``writes``.

        The fold has put ``changed`` into ``young`` already; ``size`` is about how many bytes.
        """
        pack_checksum, pack_number, pack_length = CHECKSUM.pack, NUMBER.pack, _HISTORY_LENGTH.pack
        append = writes.append
        for key, end, payload in superseded:
            stored_key = b"v" + pack_length(len(key)) + key + pack_number(end)
            append((stored_key, pack_checksum(crc32(payload, crc32(stored_key))) + payload))
        for key, record in changed.items():
            stored_key = b"k" + key
            payload = record[4]
            append((stored_key, pack_checksum(crc32(payload, crc32(stored_key))) + payload))
            if not record[2]:
                tombstone = b"t" + pack_number(record[1]) + key
                append((tombstone, seal(tombstone, b"")))
        self._unflushed.append(_Unflushed(slot, revision, changed, superseded, outcome))
        self._young_bytes += size
        self.trim()

    def trim(self) -> None:
        """Keep the cache within its bounds. Not while somebody holds ``young``."""
        if len(self.young) > self._generation_records_max or self._young_bytes > self._generation_bytes_max:
            self._rotate()

    def _rotate(self) -> None:
        """Drop the old generation, but for what is not in storage yet."""
        flushed = self._flushed_revision
        kept = {key: record for key, record in self._old.items() if record[1] > flushed}
        for key in kept.keys() & self.young.keys():
            del kept[key]
        self._old = self.young
        self.young = kept
        self._young_bytes = sum(len(record[4]) for record in kept.values())

    def flushed(self, slot: Slot) -> None:
        """Say that the writes of every fold up to ``slot`` are in storage."""
        unflushed = self._unflushed
        while unflushed and unflushed[0].slot <= slot:
            self._flushed_revision = unflushed.popleft().revision

    def outcome(self, slot: Slot) -> bytes | None:
        """Return the outcome record of ``slot``, if it is not in storage yet."""
        if not self._unflushed or slot < self._unflushed[0].slot:
            return None
        index = slot - self._unflushed[0].slot
        if index >= len(self._unflushed):
            return None
        found = self._unflushed[index]
        assert found.slot == slot, (found.slot, slot)
        return found.outcome

    # -- compaction -------------------------------------------------------------

    def compact_step(self, compacted: int, max_records: int) -> list[Write]:
        """Return removals of what no read can see any more, looking at up to ``max_records``."""
        if self.swept >= compacted:
            return []
        if self._sweeping is None:
            self._sweeping = compacted, TOMBSTONE
        target, cursor = self._sweeping
        writes: list[Write] = []
        looked = 0
        if cursor[:1] == TOMBSTONE:
            for stored_key, _sealed in self._reader.iterate(cursor, TOMBSTONE + NUMBER.pack(target + 1)):
                key = stored_key[9:]
                record = self.current(key)
                if not record[2] and record[1] == NUMBER.unpack_from(stored_key, 1)[0]:
                    writes.append((CURRENT + key, None))
                writes.append((stored_key, None))
                cursor = stored_key + b"\0"
                looked += 1
                if looked >= max_records:
                    break
            else:
                cursor = HISTORY
        if looked < max_records:
            for stored_key, _sealed in self._reader.iterate(cursor, family_end(HISTORY)):
                if number_of(stored_key) <= target:
                    writes.append((stored_key, None))
                cursor = stored_key + b"\0"
                looked += 1
                if looked >= max_records:
                    break
            else:
                self.swept, self._sweeping = target, None
                writes.append((SWEPT, seal(SWEPT, NUMBER.pack(target))))
                return writes
        self._sweeping = target, cursor
        return writes


def decode(stored_key: bytes, sealed: bytes) -> Stored:
    """Return the record in a sealed value. Raises ``RecordDamaged``."""
    payload = unseal(stored_key, sealed)
    if len(payload) < HEAD_BYTES:
        raise RecordDamaged(stored_key, "it is too short to hold a version")
    return _parse(payload)


def tombstone(revision: int) -> Stored:
    return (0, revision, 0, 0, HEAD.pack(0, revision, 0, 0))


def shown(record: Stored) -> Record:
    """Return a live record as readers see it."""
    create, modified, version, lease, payload = record
    return Record(Revision(create), Revision(modified), version, lease, payload[HEAD_BYTES:])


def _parse(payload: bytes) -> Stored:
    create, modified, version, lease = HEAD.unpack_from(payload)
    return create, modified, version, lease, payload


def _valid(record: Stored, revision: int) -> Stored:
    """The oldest version that ended after ``revision``, if it had begun by then."""
    return record if record[1] <= revision else ABSENT


def _history_prefix(key: bytes) -> bytes:
    # The length comes first, so that no key's versions lie among those of another.
    return HISTORY + _HISTORY_LENGTH.pack(len(key)) + key


def _next_after(keys: Iterator[bytes], key: bytes) -> bytes | None:
    """Return the next of sorted ``keys`` that is not ``key`` again."""
    for found in keys:
        if found != key:
            return found
    return None
