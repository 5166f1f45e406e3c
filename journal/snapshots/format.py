"""The bytes of a snapshot file: a magic word, then blocks, each under a checksum. PURE.

``docs/snapshot-format.md`` says the same for readers without Python::

    "SYNODSNP"
    block header:  what it is a snapshot of (``Header``)
    block records  (any number)
    block end:     what it must come to (``records.End``)

A block is the length of its payload (4 bytes), the CRC-32 of kind and payload (4), its kind (1), payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple

import msgpack

from journal.checksum import crc32
from journal.errors import ProtocolViolation, SnapshotDamaged
from journal.snapshots.records import Digest, End, Record, pack_record, unpack_records
from journal.types import Revision, Slot

MAGIC: Final = b"SYNODSNP"
FORMAT: Final = 1
KIND_HEADER: Final = 1
KIND_RECORDS: Final = 2
KIND_END: Final = 3
BLOCK_BYTES_MAX: Final = 64 * 1024 * 1024
"""No block is larger: a length above it is damage, not a reason to take that much memory."""

_BLOCK = Struct(">IIB")


class Header(NamedTuple):
    """What a file is a snapshot of."""

    format: int
    cluster: str
    node: int
    """Which node it was read from."""
    slot: Slot
    revision: Revision
    chain: bytes
    compacted: Revision
    """The oldest revision that it can be restored to."""
    window_slots_max: int
    time_ms: int
    """When, by that node's wall clock: for people."""

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb(self)
        return packed

    @staticmethod
    def unpack(data: bytes) -> Header:
        """Raise ``ProtocolViolation`` where ``data`` is not what ``pack`` makes."""
        try:
            header = Header(*msgpack.unpackb(data))
        except (ValueError, TypeError) as error:
            raise ProtocolViolation(f"the header of a snapshot does not decode: {error}") from error
        if header.format != FORMAT:
            raise ProtocolViolation(f"it has format {header.format}; this program knows format {FORMAT}")
        return header


def pack_block(kind: int, payload: bytes) -> bytes:
    kind_byte = bytes([kind])
    return _BLOCK.pack(len(payload), crc32(payload, crc32(kind_byte)), kind) + payload


class Reader:
    """Reads a snapshot from the front to the end, and believes nothing.

    ``records`` yields what it holds and, when it is through, has held it against the end. Everything
    raises ``SnapshotDamaged``, with the place in bytes.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """``read`` returns so many bytes, or fewer at the end."""
        self._read = read
        self._position = 0
        self.count = 0
        self.end: End | None = None
        """Once all records were read."""
        if self._take(len(MAGIC), "the magic word") != MAGIC:
            raise SnapshotDamaged(0, "it does not begin like a snapshot of Synod")
        kind, payload = self._block()
        if kind != KIND_HEADER:
            raise self._wrong("its first block is not a header")
        try:
            self.header = Header.unpack(payload)
        except ProtocolViolation as error:
            raise self._wrong(str(error)) from error

    def records(self) -> Iterator[Record]:
        """Yield (key, sealed value) of every record, in key order."""
        digest = Digest()
        while True:
            at = self._position
            kind, payload = self._block()
            try:
                if kind == KIND_RECORDS:
                    for key, value in unpack_records(payload):
                        digest.add(key, pack_record(key, value))
                        yield key, value
                elif kind == KIND_END:
                    self._conclude(End.unpack(payload), digest)
                    return
                else:
                    raise ProtocolViolation(f"a block of kind {kind} is not known")
            except ProtocolViolation as error:
                raise SnapshotDamaged(at, str(error)) from error

    def _conclude(self, end: End, digest: Digest) -> None:
        self.count = digest.count
        if digest.count != end.records:
            raise ProtocolViolation(f"it should hold {end.records} records, but holds {digest.count}")
        if digest.digest() != end.digest:
            raise ProtocolViolation("its records do not have the checksum that it ends with")
        header = self.header
        if (header.slot, header.revision, header.chain) != (end.slot, end.revision, end.chain):
            raise ProtocolViolation("its header is not of the same state as its end")
        if self._read(1):
            raise ProtocolViolation("something follows its end")
        self.end = end

    def _block(self) -> tuple[int, bytes]:
        at = self._position
        length, checksum, kind = _BLOCK.unpack(self._take(_BLOCK.size, "the head of a block"))
        if length > BLOCK_BYTES_MAX:
            raise SnapshotDamaged(
                at, f"a block of {length} bytes is more than BLOCK_BYTES_MAX={BLOCK_BYTES_MAX}"
            )
        payload = self._take(length, "a block")
        actual = crc32(payload, crc32(bytes([kind])))
        if actual != checksum:
            raise SnapshotDamaged(
                at, f"a block has checksum {checksum:08x}, but its content gives {actual:08x}"
            )
        return kind, payload

    def _take(self, count: int, what: str) -> bytes:
        data = self._read(count)
        if len(data) < count:
            raise SnapshotDamaged(self._position + len(data), f"it ends within {what}")
        self._position += count
        return data

    def _wrong(self, why: str) -> SnapshotDamaged:
        return SnapshotDamaged(self._position, why)
