"""The journal's records: families of keys, and the seal on every value. PURE.

Everything durable is a record in one ordered key-value store. The first byte of its key says
which family it is of:

=========  ==========================  ===================================================
family     rest of the key             what
=========  ==========================  ===================================================
``i``                                  identity of the folder (``identity``)
``n``      node                        the incarnation of a peer, as first met (``peers``)
``d``                                  why this node's peers have disowned it (``peers``)
``p``                                  the ballot that the acceptor has promised (``log``)
``q``                                  the same once more: with both lost, the node may not vote
``a``      slot                        the value accepted for a slot, with its ballot (``log``)
``g``      slot                        identifier of that record: its ballot, checksum of its value
``c``      slot                        a membership, at the slot in which it was chosen
``e``      slot                        the same once more: without it, quorums would be counted wrongly
``f``                                  the space is damaged and is to be rebuilt (``rebuild``)
``z``                                  state of the space: applied slot, revision, chain, ...
``k``      key                         the current version of a key, or its tombstone
``v``      end revision, key           an older version, valid below its end revision
``t``                                  up to which slot the log was trimmed: all of them are chosen
``o``      slot                        outcome: what the fold decided about an entry
``h``      last revision of a slot     the older versions that it ended and the log has (``ended``)
``m``      slot                        the keys that a recent slot changed
``s``      client, slot, batch         verdicts remembered for exactly-once
``l``      lease                       a lease
``b``      lease, key                  a key bound to a lease
``w``                                  how far compaction has physically come
``x``      a record's key              a record of a snapshot that is being fetched (``snapshots``)
``y``                                  how far that is
=========  ==========================  ===================================================

Numbers in keys are 8 bytes, big-endian, so that byte order is number order.

**The seal**: a value is ``crc32(key + payload)`` in 4 bytes, then the payload. The key is under
the seal, so that a record which turns up under another key is as damaged as one with a flipped
bit. LevelDB has checksums of its own, but it may be told not to look, and it drops what fails
them at the end of a log; a sealed record is checked each time it is read, and damage is raised
as ``RecordDamaged``, never dropped.

**Two places.** What a vote rests on is kept in two records of different families, written in one
batch. So a single damaged or lost record never takes away that something was promised or accepted;
at most it takes away a value, which other nodes have. See ``log``.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from journal.checksum import crc32
from journal.errors import RecordDamaged
from journal.types import Slot

IDENTITY: Final = b"i"
PEER: Final = b"n"
DISOWNED: Final = b"d"
PROMISED: Final = b"p"
PROMISED_AGAIN: Final = b"q"
ACCEPTED: Final = b"a"
IDENTIFIER: Final = b"g"
MEMBERSHIP: Final = b"c"
MEMBERSHIP_AGAIN: Final = b"e"
REBUILD: Final = b"f"
STATE: Final = b"z"
CURRENT: Final = b"k"
HISTORY: Final = b"v"
OUTCOME: Final = b"o"
ENDED: Final = b"h"
RECENT: Final = b"m"
SESSION: Final = b"s"
LEASE: Final = b"l"
BINDING: Final = b"b"
SWEPT: Final = b"w"
SPACE_FAMILIES: Final = (STATE, CURRENT, HISTORY, ENDED, OUTCOME, RECENT, SESSION, LEASE, BINDING, SWEPT)
"""Everything that the fold writes, but for the memberships: it can be folded again from the log."""
TRIMMED: Final = b"t"
STAGED: Final = b"x"
TRANSFER: Final = b"y"

LOG_FAMILIES: Final = (ACCEPTED, IDENTIFIER, OUTCOME)
"""What is recorded of each slot, and is trimmed together. ``ACCEPTED`` above the applied slot is more: it
is what the acceptor holds."""

NUMBER: Final = Struct(">Q")
CHECKSUM: Final = Struct(">I")
CHECKSUM_BYTES: Final = 4


def number_key(family: bytes, number: int) -> bytes:
    """Return the key of a family that is keyed by one number."""
    return family + NUMBER.pack(number)


def number_of(key: bytes) -> Slot:
    """Return the number at the end of a key."""
    return Slot(NUMBER.unpack_from(key, len(key) - 8)[0])


def family_end(family: bytes) -> bytes:
    """Return the key just after a family."""
    return bytes([family[0] + 1])


def seal(key: bytes, payload: bytes) -> bytes:
    """Return the value to store for ``payload`` under ``key``."""
    return CHECKSUM.pack(crc32(payload, crc32(key))) + payload


def unseal(key: bytes, value: bytes) -> bytes:
    """Return the payload of a stored value. Raises ``RecordDamaged``."""
    if len(value) < CHECKSUM_BYTES:
        raise RecordDamaged(key, f"{len(value)} bytes are too few to hold a checksum")
    payload = value[CHECKSUM_BYTES:]
    expected: int = CHECKSUM.unpack_from(value)[0]
    actual = crc32(payload, crc32(key))
    if actual != expected:
        raise RecordDamaged(key, f"its checksum is {expected:08x}, but its content gives {actual:08x}")
    return payload
