"""The node that wants a snapshot: one transfer, message by message. PURE.

It asks for one chunk after the other, each time for what follows the last record that it has. So
nothing waits in memory but two chunks (one is written while the next is fetched), a lost question or
answer is asked again, and after a break, of the network or of this node, it goes on where it was, as
long as the other side keeps the view.

What is received is *staged*: each record under ``STAGED`` and its own key, where nothing reads it.
``TRANSFER`` says how far that is (``Phase``); with it a restart knows what to do:

* ``FETCHING``: go on asking behind the last staged record;
* ``INSTALLING``: everything was there and was checked; put it into place, again from the start
  (``install``);
* ``CLEARING``: what is staged is of no use any more; remove it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import msgpack

from journal.errors import ProtocolViolation, RecordDamaged
from journal.paxos.messages import SnapshotAsk, SnapshotChunk
from journal.snapshots.records import Digest, End, Record, check_chunk, pack_record
from journal.state import unpack_state
from journal.storage import Reader, Storage, Write
from journal.storage.records import STAGED, STATE, TRANSFER, family_end, seal, unseal
from journal.types import NodeId


class Phase(enum.IntEnum):
    FETCHING = 1
    INSTALLING = 2
    CLEARING = 3


class Transfer(NamedTuple):
    """The record ``TRANSFER``."""

    phase: Phase
    source: NodeId = NodeId(0)
    view: int = 0
    end: End | None = None
    """While it is installed: what it comes to."""

    def write(self) -> Write:
        end = b"" if self.end is None else self.end.pack()
        return TRANSFER, seal(TRANSFER, msgpack.packb([self.phase, self.source, self.view, end]))


def read_transfer(reader: Reader) -> Transfer | None:
    """Return what a restarted node was about. Raises ``RecordDamaged``."""
    sealed = reader.get(TRANSFER)
    if sealed is None:
        return None
    try:
        phase, source, view, end = msgpack.unpackb(unseal(TRANSFER, sealed))
        return Transfer(Phase(phase), NodeId(source), view, End.unpack(end) if end else None)
    except (ValueError, TypeError, ProtocolViolation) as error:
        raise RecordDamaged(TRANSFER, f"it does not decode: {error}") from error


@dataclass(slots=True)
class Fetch:
    """One transfer from ``source``. ``after``: the last record that was taken in."""

    source: NodeId
    view: int
    after: bytes
    heard_at: float
    """When it last brought something."""
    ask_at: float
    """When to ask (again). Infinity while enough of what was taken in waits to be written."""
    unwritten: int = 0
    """Chunks that were taken in and are not staged yet."""
    records: int = 0
    bytes: int = 0

    def ask(self, now: float, retry_s: float) -> SnapshotAsk | None:
        """Return the question, if it is time to ask it."""
        if now < self.ask_at:
            return None
        self.ask_at = now + retry_s
        return SnapshotAsk(self.view, self.after)

    def take(self, chunk: SnapshotChunk, now: float) -> tuple[list[Write], End | None] | None:
        """Take in an answer; return (what is to be staged, the end if this was the last chunk).

        None: it answers no question of now. Raises ``ProtocolViolation`` for one that is damaged; then
        it counts as lost.
        """
        if chunk.view != self.view or chunk.after != self.after or self.ask_at == float("inf"):
            return None
        records = check_chunk(chunk)
        end = End.unpack(chunk.end) if chunk.end else None
        self.heard_at, self.ask_at = now, float("inf")
        self.records += len(records)
        self.bytes += len(chunk.records)
        if records:
            self.after = records[-1][0]
        return [(STAGED + key, value) for key, value in records], end


def last_staged(storage: Storage) -> bytes:
    """Return the key of the last record that is staged; empty where there is none."""
    for key, _value in storage.iterate(STAGED, family_end(STAGED), reverse=True):
        return key[len(STAGED) :]
    return b""


def staged(reader: Reader) -> Iterator[Record]:
    """Yield the staged records under their own keys."""
    for key, value in reader.iterate(STAGED, family_end(STAGED)):
        yield key[len(STAGED) :], value


class Check:
    """Reads back what was staged, some records at a time, and holds it against its end."""

    def __init__(self, storage: Storage, end: End) -> None:
        self._records = staged(storage)
        self._digest = Digest()
        self._end = end
        self._state: bytes | None = None

    def step(self, records_max: int) -> bool:
        """Look at up to ``records_max`` records; return whether all of it was found right.

        Raises ``ProtocolViolation`` or ``RecordDamaged`` where it is not what was announced.
        """
        count = 0
        for key, value in islice(self._records, records_max):
            unseal(key, value)
            self._digest.add(key, pack_record(key, value))
            if key == STATE:
                self._state = value
            count += 1
        if count == records_max:
            return False
        self._conclude()
        return True

    def _conclude(self) -> None:
        end, digest = self._end, self._digest
        if (digest.count, digest.digest()) != (end.records, end.digest):
            raise ProtocolViolation(
                f"{end.records} records with checksum {end.digest.hex()[:16]} were announced,"
                f" but {digest.count} with {digest.digest().hex()[:16]} are there"
            )
        if self._state is None:
            raise ProtocolViolation("a snapshot holds no state record")
        state = unpack_state(self._state)
        if (state.applied, state.revision, state.chain) != (end.slot, end.revision, end.chain):
            raise ProtocolViolation(f"a snapshot of slot {end.slot} holds the state of slot {state.applied}")
