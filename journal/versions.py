"""The versioned keys: current records, older versions, and the cache over storage. PURE.

Every key that exists has a *current* record: when it was created, when last modified, how often,
its lease and its value. A deletion leaves a *tombstone* as the current record. When a key is
modified, the record it had moves to *history*, under the revision that ended it, then the key. So
the present is one get or one ordered scan, and history is a queue: it grows at its end (the order
in which an LSM tree takes writes most cheaply) and compaction takes it away from its front. Of a
version that was made not long before, only the numbers move: its value is in the log (``ended``).

The past is found along the key's own records. Each has an *ordinal*, counting the records of the
key, and carries a *trail*: the modification revisions of the records whose ordinals are its own
with low bits cleared (of 13 = 1101b: those of 8 = 1000b and 12 = 1100b). A record before which
``at`` lies is stepped back from to the one that ended where the first revision of its trail after
``at`` began; the stretch in which the answer lies halves with each step. So reading a key as of n
modifications ago takes log2(n) gets, and costs log2(n) / 2 numbers a record.

Compaction leaves no trace that a read could see: at or after the compaction revision no trail leads
to a record that ended before it, and a tombstone made before it counts as nothing, there or not.

Three layers answer a read, newest first: what was folded and is not in storage yet, a cache, and
storage. Records are plain tuples (``Stored``), because the fold makes one for every mutation.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from struct import Struct, unpack_from
from typing import Final, NamedTuple

from journal.checksum import crc32
from journal.ended import Ended, Page, PlaceOf, first_page
from journal.errors import RecordDamaged
from journal.storage import Reader, Write
from journal.storage.records import (
    CHECKSUM,
    CURRENT,
    HISTORY,
    NUMBER,
    SWEPT,
    family_end,
    seal,
    unseal,
)
from journal.types import Revision, Slot

Stored = tuple[int, int, int, int, bytes, int]
"""(create revision, modification revision, version, lease, payload, ordinal). Version 0: not there;
the modification revision then is the tombstone's, or 0. The payload is ``HEAD``, trail and value."""

Superseded = tuple[bytes, int, Stored]
"""(key, the revision that ended the record, the record)."""

HEAD: Final = Struct(">QQQQQ")  # create, modified, version, lease, ordinal
HEAD_BYTES: Final = HEAD.size
ABSENT: Final[Stored] = (0, 0, 0, 0, b"", 0)


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


class _Unflushed:
    """What one fold changed, until it is in storage. Indexed only if somebody reads it."""

    __slots__ = ("_ended", "_keys", "changed", "floor", "outcome", "revision", "slot", "superseded")

    def __init__(
        self,
        slot: Slot,
        revision: int,
        changed: dict[bytes, Stored],
        superseded: list[Superseded],
        outcome: bytes,
        floor: int | None,
    ) -> None:
        self.slot = slot
        self.revision = revision
        self.changed = changed
        self.superseded = superseded
        self.outcome = outcome
        self.floor = floor  # of its page, if it has one
        self._keys: list[bytes] | None = None
        self._ended: dict[tuple[bytes, int], Stored] | None = None

    def keys_in(self, start: bytes, end: bytes) -> list[bytes]:
        if self._keys is None:
            self._keys = sorted(self.changed)
        keys = self._keys
        return keys[bisect_left(keys, start) : bisect_left(keys, end) if end else len(keys)]

    def ended(self, key: bytes, end: int) -> Stored:
        """Return the record of ``key`` that revision ``end``, of this fold, ended."""
        if self._ended is None:
            self._ended = {(key, end): record for key, end, record in self.superseded}
        return self._ended[key, end]


class Versions:
    """The keys of the space. It does not know what a revision means, only the fold does."""

    def __init__(
        self,
        reader: Reader,
        *,
        cache_records_max: int,
        cache_bytes_max: int,
        place_of: PlaceOf,
    ) -> None:
        self._place_of = place_of
        self._read_from(reader)
        self._cache_records_max = cache_records_max
        self._cache_bytes_max = cache_bytes_max
        # The cache: two generations, each key in one of them at most. What is used moves to the young one;
        # what is too much goes from the old one, a record at a time; when none is left there, the young
        # one becomes old. No bookkeeping on a hit, no look at many records at once.
        self.young: dict[bytes, Stored] = {}
        self._old: dict[bytes, Stored] = {}
        self._young_bytes = 0  # of payloads; a little more where tombstones were put anew
        self._old_bytes = 0
        self._unflushed: deque[_Unflushed] = deque()
        self._flushed_revision = 0
        self._cursor = HISTORY  # compaction has removed all history before it

    def restore(self, revision: int) -> None:
        """Say at which revision storage stands, and find out how far compaction has come."""
        self._flushed_revision = revision
        sealed = self._reader.get(SWEPT)
        if sealed is not None:
            self._cursor = unseal(SWEPT, sealed)

    def read_from(self, reader: Reader) -> None:
        """Read from ``reader`` from now on, which holds the same."""
        assert not self._unflushed, "what is not in storage is not in the reader either"
        self._read_from(reader)

    def _read_from(self, reader: Reader) -> None:
        self._reader = reader
        self._logged = Ended(reader, self._place_of)

    # -- current records --------------------------------------------------------

    def current(self, key: bytes) -> Stored:
        """Return the current record of ``key``, maybe a tombstone or ``ABSENT``."""
        return self.young.get(key) or self.load(key)

    def load(self, key: bytes) -> Stored:
        """Like ``current``, for a key that is not in ``young``."""
        record = self._old.pop(key, None)
        if record is None:
            stored_key = CURRENT + key
            sealed = self._reader.get(stored_key)
            record = ABSENT if sealed is None else decode(stored_key, sealed)
        else:
            self._old_bytes -= len(record[4])
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

    def stored(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield (storage's key, sealed record) of the range as storage has it: of some keys there is news
        (``unflushed``)."""
        return self._reader.iterate(CURRENT + start, CURRENT + end if end else family_end(CURRENT))

    def unflushed(self, start: bytes, end: bytes) -> set[bytes]:
        """Return the keys of the range that were changed by folds whose writes may not be in storage yet."""
        return {key for slot in self._unflushed for key in slot.keys_in(start, end)}

    # -- older versions ---------------------------------------------------------

    def at(self, key: bytes, record: Stored, revision: int) -> Stored:
        """Return the record of ``key`` as of ``revision``; ``record`` is a later one, or it itself.

        ``revision`` must not be below the compaction revision.
        """
        is_whole = True
        while record[1] > revision:
            ordinal, payload = record[5], record[4]
            bits = ordinal.bit_count()
            trail = list(unpack_trail(payload, bits - 1))
            trail.append(record[1])
            # The first of the trail that is too new, and what its ordinal is.
            index = bisect_right(trail, revision)
            for _ in range(bits - 1 - index):
                ordinal &= ordinal - 1
            if ordinal == 1:
                return ABSENT
            record, is_whole = self._ended(key, trail[index])
            if record[5] != ordinal - 1:
                raise RecordDamaged(
                    HISTORY + NUMBER.pack(trail[index]) + key,
                    f"it is record {record[5]} of its key, but the trail leads to record {ordinal - 1}",
                )
        if is_whole or not record[2]:
            return record
        return parse(record[4] + self._logged.value(key, record[1]))

    def _ended(self, key: bytes, end: int) -> tuple[Stored, bool]:
        """Return the record of ``key`` that revision ``end`` ended, and whether it has its value."""
        if end > self._flushed_revision:
            for slot in self._unflushed:
                if end <= slot.revision:
                    return slot.ended(key, end), True
        stored_key = HISTORY + NUMBER.pack(end) + key
        sealed = self._reader.get(stored_key)
        if sealed is not None:
            return decode(stored_key, sealed), True
        head = self._logged.head(key, end)
        if head is None:
            raise RecordDamaged(stored_key, "it is missing, though a later record leads to it")
        return parse(head), False

    # -- writing ----------------------------------------------------------------

    def commit(
        self,
        slot: Slot,
        revision: int,
        changed: dict[bytes, Stored],
        superseded: list[Superseded],
        outcome: bytes,
        writes: list[Write],
        floor: int,
    ) -> None:
        """Take in what a fold made of the keys, and append its records to ``writes``.

        The fold has put ``changed`` into ``young`` already, each in the place of what it found there.
        ``floor``: the log has the values that were put after it, and keeps them (``ended``).
        """
        pack_checksum, pack_number = CHECKSUM.pack, NUMBER.pack
        append = writes.append
        unflushed = self._unflushed
        before = unflushed[-1].revision if unflushed else self._flushed_revision
        size = 0  # by how much the cache has grown
        keys: list[bytes] = []  # the columns of a page (``ended``)
        ends: list[int] = []
        heads: list[bytes] = []
        logged_bytes = 0
        for key, end, record in superseded:
            modified, payload = record[1], record[4]
            if modified <= before:  # so it was in the cache
                size -= len(payload)
            if modified > floor:
                successor = changed[key]
                if successor[2] or successor[1] != end:  # else it goes together with its tombstone
                    keys.append(key)
                    ends.append(end)
                    heads.append(payload[: HEAD_BYTES - 8 + 8 * record[5].bit_count()])
                    logged_bytes += len(payload)
                    continue
            stored_key = b"v" + pack_number(end) + key
            append((stored_key, pack_checksum(crc32(payload, crc32(stored_key))) + payload))
        if keys:
            append(Page(floor, logged_bytes, keys, ends, heads).record(revision))
        for key, record in changed.items():
            stored_key = b"k" + key
            payload = record[4]
            size += len(payload)
            append((stored_key, pack_checksum(crc32(payload, crc32(stored_key))) + payload))
        kept_from = floor if keys else None
        unflushed.append(_Unflushed(slot, revision, changed, superseded, outcome, kept_from))
        self._young_bytes += size
        self.trim()

    def trim(self) -> None:
        """Keep the cache within its bounds. Not while somebody holds ``young``."""
        if not self._evict():
            self._old, self._old_bytes = self.young, self._young_bytes
            self.young, self._young_bytes = {}, 0
            self._evict()

    def _evict(self) -> bool:
        """Drop old records until the cache is within its bounds; return whether it is.

        What is not in storage yet stays, as young: the cache is all that has it.
        """
        young, old, flushed = self.young, self._old, self._flushed_revision
        while (
            len(young) + len(old) > self._cache_records_max
            or self._young_bytes + self._old_bytes > self._cache_bytes_max
        ):
            if not old:
                return False
            key, record = old.popitem()
            size = len(record[4])
            self._old_bytes -= size
            if record[1] > flushed:
                young[key] = record
                self._young_bytes += size
        return True

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

    def log_needed_after(self, compacted: int) -> int:
        """Return the revision after which the log has values of versions that a reader at or after
        ``compacted`` can see."""
        page = first_page(self._reader, compacted)
        if page is not None:
            floor = page.floor
        else:  # those in memory are later
            floors = (slot.floor for slot in self._unflushed if slot.floor is not None)
            floor = next(floors, compacted)
        return min(floor, compacted)

    def is_compacting(self, compacted: int) -> bool:
        """Whether storage still holds what no read at or after ``compacted`` can see."""
        return self._cursor < self._sweep_end(compacted)

    def compact_step(self, compacted: int, max_records: int) -> list[Write]:
        """Return removals of what no read can see any more, looking at up to ``max_records``.

        A tombstone goes together with the record that it ended: there always is one.
        """
        stop = self._sweep_end(compacted)
        if self._cursor >= stop:
            return []
        found = list(islice(self._reader.iterate(self._cursor, stop), max_records))
        writes: list[Write] = []
        for stored_key, _sealed in found:
            writes.append((stored_key, None))
            end, key = NUMBER.unpack_from(stored_key, 1)[0], stored_key[9:]
            record = self._peek(key)
            if not record[2] and record[1] == end:
                writes.append((CURRENT + key, None))
        self._cursor = found[-1][0] + b"\0" if len(found) == max_records else stop
        writes.append((SWEPT, seal(SWEPT, self._cursor)))
        return writes

    def _sweep_end(self, compacted: int) -> bytes:
        # History that is not in storage yet would be passed over unseen.
        return HISTORY + NUMBER.pack(min(compacted, self._flushed_revision) + 1)

    def _peek(self, key: bytes) -> Stored:
        """Like ``current``, but leaves the cache as it is."""
        record = self.young.get(key) or self._old.get(key)
        if record is None:
            sealed = self._reader.get(CURRENT + key)
            record = ABSENT if sealed is None else decode(CURRENT + key, sealed)
        return record


def decode(stored_key: bytes, sealed: bytes) -> Stored:
    """Return the record in a sealed value. Raises ``RecordDamaged``."""
    payload = unseal(stored_key, sealed)
    if len(payload) < HEAD_BYTES:
        raise RecordDamaged(stored_key, "it is too short to hold a version")
    return parse(payload)


def succeed(
    old: Stored, create: int, revision: int, version: int, lease: int, value: bytes, compacted: int
) -> Stored:
    """Return the record that follows ``old``, the key's record before this revision.

    The fold's hot loop does the same inline for a plain put.
    """
    ordinal, trail = old[5], b""
    if not old[2] and old[1] <= compacted:
        ordinal = 0  # a tombstone that may be gone elsewhere: nothing to go on from
    elif ordinal & 1:
        trail = old[4][HEAD_BYTES : HEAD_BYTES + 8 * (ordinal & (ordinal + 1)).bit_count()]
    else:
        trail = old[4][HEAD_BYTES : HEAD_BYTES + 8 * ordinal.bit_count() - 8] + NUMBER.pack(old[1])
    ordinal += 1
    payload = HEAD.pack(create, revision, version, lease, ordinal) + trail + value
    return (create, revision, version, lease, payload, ordinal)


def value_of(record: Stored) -> bytes:
    """Return the value of a live record."""
    return record[4][HEAD_BYTES + 8 * record[5].bit_count() - 8 :]


def shown(record: Stored) -> Record:
    """Return a live record as readers see it."""
    return Record(Revision(record[0]), Revision(record[1]), record[2], record[3], value_of(record))


def unpack_trail(payload: bytes, count: int) -> tuple[int, ...]:
    return unpack_from(f">{count}Q", payload, HEAD_BYTES)


def parse(payload: bytes) -> Stored:
    create, modified, version, lease, ordinal = HEAD.unpack_from(payload)
    return create, modified, version, lease, payload, ordinal


def _next_after(keys: Iterator[bytes], key: bytes) -> bytes | None:
    """Return the next of sorted ``keys`` that is not ``key`` again."""
    for found in keys:
        if found != key:
            return found
    return None
