"""The value of a slot: a no-op, a batch of offers, a membership, or a compaction. PURE.

The first byte says which. Offers follow as one msgpack value
``[time_ms, [batch, batch, ...]]`` whose batches are the clients' own packed bytes
(``journal.offers``), put one behind the other without unpacking: an entry is
decoded once on each node, when it is folded.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack

from journal.errors import ProtocolViolation
from journal.types import Revision

NOOP = b""
KIND_OFFERS = 1
KIND_MEMBERSHIP = 2
KIND_COMPACTION = 3

_OFFERS_HEADER = struct.Struct(">BBBQBI")  # kind, fixarray 2, uint64, time, array32, count


def pack_offers(time_ms: int, batches: Sequence[bytes]) -> bytes:
    """Return an entry of packed client batches. ``time_ms`` is the leader's wall clock, for people."""
    return _OFFERS_HEADER.pack(KIND_OFFERS, 0x92, 0xCF, time_ms, 0xDD, len(batches)) + b"".join(batches)


def unpack_offers(entry: bytes) -> tuple[int, Sequence[Any]]:
    """Return (time in ms, packed-form batches as nested tuples) of an offers entry."""
    try:
        time_ms, batches = msgpack.unpackb(memoryview(entry)[1:], use_list=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolViolation(f"offers entry does not decode: {error}") from error
    return time_ms, batches


def pack_membership(config: bytes) -> bytes:
    """Return an entry that carries a packed ``journal.paxos.membership.Membership``."""
    return bytes([KIND_MEMBERSHIP]) + config


def pack_compaction(revision: Revision) -> bytes:
    """Return an entry after which history below ``revision`` may be forgotten."""
    packed: bytes = msgpack.packb(revision)
    return bytes([KIND_COMPACTION]) + packed


def unpack_compaction(entry: bytes) -> Revision:
    try:
        revision = msgpack.unpackb(memoryview(entry)[1:])
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolViolation(f"compaction entry does not decode: {error}") from error
    if type(revision) is not int or revision < 0:
        raise ProtocolViolation(f"compaction entry carries {revision!r}, not a revision")
    return Revision(revision)


def kind_of(entry: bytes) -> int:
    """Return 0 for a no-op, else the entry's kind byte."""
    return entry[0] if entry else 0
