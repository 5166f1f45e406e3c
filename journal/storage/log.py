"""The acceptor's durable state: its promise, and the value accepted for each slot.

Paxos Made Simple, section 2.4: an acceptor's promise and acceptances must be on stable storage
before it answers. Here they only become writes; ``paxos.effects`` says what waits for them.
Values of chosen slots stay as the log, which serves lagging peers and tails.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple
from zlib import crc32

from journal.errors import RecordDamaged
from journal.limits import Limits
from journal.paxos.effects import Effects
from journal.paxos.membership import Membership
from journal.paxos.messages import AcceptedValue
from journal.storage import Storage, Write
from journal.storage.records import (
    ACCEPTED,
    CHECKSUM,
    MEMBERSHIP,
    PROMISED,
    family_end,
    number_key,
    number_of,
    seal,
    unseal,
)
from journal.types import Ballot, NodeId, Slot

_BALLOT = Struct(">QI")  # round, node


class Recovery(NamedTuple):
    """What a restarted node finds of its log."""

    promised: Ballot
    accepted: tuple[AcceptedValue, ...]
    """Every accepted value above the applied slot, in slot order; there may be gaps."""
    memberships: tuple[tuple[Slot, Membership], ...]
    """(first slot that it rules, membership), oldest first; never empty."""


class LogStore:
    """Reads and makes the log's records. It writes nothing itself: the node owns the one writer."""

    def __init__(self, storage: Storage, limits: Limits) -> None:
        self._storage = storage
        self._limits = limits

    def recover(self, applied: Slot, membership: Membership, window_slots_max: int) -> Recovery:
        """Read everything that the core needs to go on after a restart.

        ``membership`` is the cluster's first one; a membership chosen in slot s rules from
        s + ``window_slots_max`` on. Raises ``RecordDamaged``: an acceptor that cannot read
        a promise or an acceptance of its own must not vote.
        """
        sealed = self._storage.get(PROMISED)
        promised = Ballot.ZERO
        if sealed is not None:
            promised = _ballot(PROMISED, unseal(PROMISED, sealed))
        accepted = tuple(
            _accepted(key, value)
            for key, value in self._storage.iterate(number_key(ACCEPTED, applied + 1), family_end(ACCEPTED))
        )
        memberships = [(Slot(1), membership)]
        for key, value in self._storage.iterate(MEMBERSHIP, family_end(MEMBERSHIP)):
            chosen = number_of(key)
            memberships.append((Slot(chosen + window_slots_max), Membership.unpack(unseal(key, value))))
        return Recovery(promised, accepted, tuple(memberships))

    def writes_for(self, effects: Effects) -> list[Write]:
        """Return what must be durable before ``effects.send_durable`` may be sent."""
        writes: list[Write] = []
        if effects.promised is not None:
            writes.append((PROMISED, seal(PROMISED, _BALLOT.pack(*effects.promised))))
        for slot, ballot, value in effects.accepted:
            key = number_key(ACCEPTED, slot)
            head = _BALLOT.pack(*ballot)
            # Sealed by hand: a value may be megabytes, and seal() would copy it once more.
            checksum = CHECKSUM.pack(crc32(value, crc32(head, crc32(key))))
            writes.append((key, b"".join((checksum, head, value))))
        return writes

    def read(self, first: Slot, last: Slot, bytes_max: int) -> list[AcceptedValue]:
        """Return the values of slots ``first`` to ``last``, contiguous, as many as fit ``bytes_max``.

        The first is returned whatever its size; nothing where slot ``first`` is not there. Meant
        for chosen slots: others have a value too, but it may still change.
        """
        found: list[AcceptedValue] = []
        size = 0
        expected = first
        for key, sealed in self._storage.iterate(number_key(ACCEPTED, first), number_key(ACCEPTED, last + 1)):
            size += len(sealed)
            if number_of(key) != expected or (found and size > bytes_max):
                break
            found.append(_accepted(key, sealed))
            expected = Slot(expected + 1)
        return found


def membership_write(chosen: Slot, packed: bytes) -> Write:
    """Return the record of a membership that was chosen in slot ``chosen``."""
    key = number_key(MEMBERSHIP, chosen)
    return key, seal(key, packed)


def _ballot(key: bytes, payload: bytes) -> Ballot:
    if len(payload) < _BALLOT.size:
        raise RecordDamaged(key, "it is too short to hold a ballot")
    round_, node = _BALLOT.unpack_from(payload)
    return Ballot(round_, NodeId(node))


def _accepted(key: bytes, sealed: bytes) -> AcceptedValue:
    payload = unseal(key, sealed)
    return AcceptedValue(number_of(key), _ballot(key, payload), payload[_BALLOT.size :])
