"""Which records a snapshot has, how they travel, and what all of them must come to. PURE.

Records travel packed one behind the other: length of the key and of the value (4 bytes each,
big-endian), key, value. Values are sealed (``storage.records``), as on the disk: whoever unseals
one later still finds a flipped bit, wherever it was flipped. ``Digest`` is over the same bytes of
all records, so it does not depend on how they were cut into chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple

import msgpack

from journal import ended
from journal.checksum import crc32
from journal.errors import ProtocolViolation
from journal.paxos.membership import Membership
from journal.paxos.messages import SnapshotChunk
from journal.state import read_state
from journal.storage import Reader
from journal.storage.records import (
    BINDING,
    CURRENT,
    HISTORY,
    LEASE,
    MEMBERSHIP,
    RECENT,
    SESSION,
    STATE,
    SWEPT,
    family_end,
    unseal,
)
from journal.types import Ballot, NodeId, Revision, Slot

FAMILIES: Final = tuple(sorted((BINDING, MEMBERSHIP, CURRENT, LEASE, RECENT, SESSION, HISTORY, SWEPT, STATE)))
"""Everything that the fold depends on. The dedupe table (``SESSION``) too: without it an offer that was
decided before the snapshot would be applied again after it. The log and what was recorded about its
outcome are not: nobody can be served from a part of it."""

_LENGTHS = Struct(">II")
_CHUNK = Struct(">QI")  # view, length of ``after``
Record = tuple[bytes, bytes]
"""(key, sealed value)."""


def walk(view: Reader, after: bytes = b"", families: Iterable[bytes] = FAMILIES) -> Iterator[Record]:
    """Yield the records of a snapshot that follow the key ``after``, in key order.

    History begins where compaction has come to: what it removed before is no record any more, but
    LevelDB would pass over each removal. Older versions of which the log has the value are made whole: who
    gets the snapshot has no log of before. Raises ``RecordDamaged`` where something of that cannot be read.
    """
    begin = after + b"\0" if after else b""
    for family in sorted(families):
        start, stop = max(family, begin), family_end(family)
        if family == HISTORY and (swept := view.get(SWEPT)) is not None:
            start = max(start, unseal(SWEPT, swept))
        if start < stop:
            yield from history(view, start) if family == HISTORY else view.iterate(start, stop)


def history(view: Reader, start: bytes = HISTORY) -> Iterator[Record]:
    """Yield the older versions from the key ``start`` on, each whole, wherever it is kept."""
    state = read_state(view)
    compacted = Revision(0) if state is None else state.compacted
    return ended.history(view, start, compacted)


def pack_record(key: bytes, value: bytes) -> bytes:
    return b"".join((_LENGTHS.pack(len(key), len(value)), key, value))


def unpack_records(data: bytes) -> list[Record]:
    """Return the records packed in ``data``. Raises ``ProtocolViolation``."""
    found: list[Record] = []
    position, size = 0, len(data)
    while position < size:
        if size - position < _LENGTHS.size:
            raise ProtocolViolation("packed records end within the lengths of one")
        key_bytes, value_bytes = _LENGTHS.unpack_from(data, position)
        position += _LENGTHS.size
        middle, end = position + key_bytes, position + key_bytes + value_bytes
        if end > size:
            raise ProtocolViolation("packed records end within one")
        found.append((data[position:middle], data[middle:end]))
        position = end
    return found


class Digest:
    """Counts and hashes records, in key order."""

    def __init__(self) -> None:
        self.count = 0
        self.last = b""
        """The last key that was added."""
        self._hash = sha256()

    def add(self, key: bytes, packed: bytes) -> None:
        """Add the record ``key``, which must follow all others. Raises ``ProtocolViolation``."""
        if key <= self.last:
            raise ProtocolViolation(f"record {key!r} of a snapshot comes after {self.last!r}")
        self.count += 1
        self.last = key
        self._hash.update(packed)

    def digest(self) -> bytes:
        """Return the 32 bytes of everything added so far."""
        return self._hash.digest()


class End(NamedTuple):
    """What a whole snapshot must come to. It travels with the last chunk."""

    records: int
    """How many."""
    digest: bytes
    slot: Slot
    """The last slot folded into it."""
    revision: Revision
    chain: bytes
    ballot: Ballot
    """At or above every ballot at which one of its slots was chosen: the sender's promise."""
    memberships: tuple[tuple[Slot, Membership], ...]
    """(The first slot that it rules, membership) of those that rule after ``slot``, oldest first."""

    def history(self, first: Membership) -> tuple[tuple[Slot, Membership], ...]:
        """Return what a core is to start with at this slot; ``first`` is the cluster's first membership."""
        return ((Slot(1), first), *(entry for entry in self.memberships if entry[0] > 1))

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb(
            [
                self.records,
                self.digest,
                self.slot,
                self.revision,
                self.chain,
                list(self.ballot),
                [[first, membership.pack()] for first, membership in self.memberships],
            ]
        )
        return packed

    @staticmethod
    def unpack(data: bytes) -> End:
        """Raise ``ProtocolViolation`` where ``data`` is not what ``pack`` makes."""
        try:
            count, digest, slot, revision, chain, (round_, node), memberships = msgpack.unpackb(data)
            return End(
                count,
                digest,
                Slot(slot),
                Revision(revision),
                chain,
                Ballot(round_, NodeId(node)),
                tuple((Slot(first), Membership.unpack(packed)) for first, packed in memberships),
            )
        except (ValueError, TypeError) as error:
            raise ProtocolViolation(f"the end of a snapshot does not decode: {error}") from error


def make_chunk(view: int, after: bytes, records: bytes, end: bytes) -> SnapshotChunk:
    return SnapshotChunk(view, after, records, end, _checksum(view, after, records, end))


def check_chunk(chunk: SnapshotChunk) -> list[Record]:
    """Return the records of a chunk. Raises ``ProtocolViolation`` where it is damaged or out of order."""
    expected = _checksum(chunk.view, chunk.after, chunk.records, chunk.end)
    if chunk.checksum != expected:
        raise ProtocolViolation(
            f"a chunk of a snapshot has checksum {chunk.checksum:08x}, but its content gives {expected:08x}"
        )
    records = unpack_records(chunk.records)
    last = chunk.after
    for key, _value in records:
        if key <= last or key[:1] not in FAMILIES:
            raise ProtocolViolation(f"a chunk of a snapshot holds record {key!r} after {last!r}")
        last = key
    if not records and not chunk.end:
        raise ProtocolViolation("a chunk of a snapshot brings nothing")
    return records


def _checksum(view: int, after: bytes, records: bytes, end: bytes) -> int:
    head = crc32(after, crc32(_CHUNK.pack(view, len(after))))
    return crc32(end, crc32(records, head))
