"""The acceptor's durable state: its promise, and the value accepted for each slot.

Paxos Made Simple, section 2.4: an acceptor's promise and acceptances must be on stable storage
before it answers. Here they only become writes; ``paxos.effects`` says what waits for them.
Values of chosen slots stay as the log, which serves lagging peers and tails.

**Damage.** Disks lose records and flip bits. An acceptor that forgets what it has promised or
accepted can undo what was chosen, so damage must be told from absence, for each record:

* the *promise* is in two records, written in one batch: one is enough. Where both are damaged,
  or gone though something was accepted, the node may not vote again (``VoteLost``);
* a *value* has an identifier in a record of its own: its ballot and checksum. One of the two tells
  that the slot was voted in. With the identifier the ballot is known; without it, it is at or
  below the promise. ``paxos.election`` says what follows from that (``LostValue``);
* a *membership* is in two records as well, and in the log.

What this cannot notice is the loss of both records of a slot without a trace. They are in
different families, which LevelDB keeps in different places, and it refuses to read a block that
fails its own checksum (``leveldb``). Of a slot that is folded its outcome tells (``scrub``).

A damaged value of a slot that is chosen and folded concerns the log only: nobody is served from it,
and ``repair`` gets it from a peer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple

from journal.checksum import crc32
from journal.errors import RecordDamaged, VoteLost
from journal.limits import Limits
from journal.paxos.effects import Effects
from journal.paxos.membership import Membership, membership_of
from journal.paxos.messages import AcceptedValue, LostValue
from journal.storage import Reader, Storage, View, Write
from journal.storage.records import (
    ACCEPTED,
    CHECKSUM,
    IDENTIFIER,
    MEMBERSHIP,
    MEMBERSHIP_AGAIN,
    NUMBER,
    PROMISED,
    PROMISED_AGAIN,
    TRIMMED,
    family_end,
    number_key,
    number_of,
    seal,
    unseal,
)
from journal.types import Ballot, NodeId, Slot

_BALLOT = Struct(">QI")  # round, node
_IDENTIFIER = Struct(">QIBI")  # ballot; whether it is a bound only; checksum of the value
GONE = "it is gone, though the slot is folded and not trimmed"
_BOUND = 1
"""In an identifier that was written for one that was damaged: the ballot is not above this."""


class Identifier(NamedTuple):
    """What is known of an accepted value apart from the value."""

    ballot: Ballot
    checksum: int | None
    """Of the value. None: the ballot is a bound only."""


class Recovery(NamedTuple):
    """What a restarted node finds of its log."""

    promised: Ballot
    accepted: tuple[AcceptedValue, ...]
    """Every accepted value above the applied slot, in slot order; there may be gaps."""
    memberships: tuple[tuple[Slot, Membership], ...]
    """(first slot that it rules, membership), oldest first; never empty."""
    lost: tuple[LostValue, ...] = ()
    """The slots above the applied one whose value is damaged."""
    mended: tuple[Write, ...] = ()
    """Second copies that were damaged and can be made again from the first: to be written."""


class LogStore:
    """Reads and makes the log's records. It writes nothing itself: the node owns the one writer."""

    def __init__(self, storage: Storage | View, limits: Limits) -> None:
        self._storage = storage
        self._limits = limits
        self.on_damage: Callable[[RecordDamaged], None] = lambda error: None
        """Called with what ``read`` finds damaged."""

    def recover(self, applied: Slot, membership: Membership, window_slots_max: int) -> Recovery:
        """Read everything that the core needs to go on after a restart.

        ``membership`` is the cluster's first one; a membership chosen in slot s rules from
        s + ``window_slots_max`` on. Raises ``VoteLost`` where this node must not vote any more, and
        ``RecordDamaged`` where a membership is lost.
        """
        mended: list[Write] = []
        promised = self._promised(mended)
        accepted: list[AcceptedValue] = []
        lost: list[LostValue] = []
        start = applied + 1
        values = self._storage.iterate(number_key(ACCEPTED, start), family_end(ACCEPTED))
        identifiers = self._storage.iterate(number_key(IDENTIFIER, start), family_end(IDENTIFIER))
        for slot, sealed_value, sealed_identifier in _joined(values, identifiers):
            value = _readable_value(slot, sealed_value)
            identifier = _readable_identifier(slot, sealed_identifier)
            if value is not None and not _is_denied(value, identifier):
                accepted.append(value)
                if identifier is None or identifier.ballot != value.ballot:
                    mended.append(_identifier_write(slot, value.ballot, value.value))
                continue
            # It voted here, and cannot say for what.
            if identifier is None or value is not None:
                identifier = Identifier(promised, None)
                mended.append(_bound_write(slot, promised))
            lost.append(LostValue(slot, identifier.ballot))
        if (accepted or lost) and promised == Ballot.ZERO:
            raise VoteLost(PROMISED, "it is gone in both its places, though this node has voted")
        memberships = [(Slot(1), membership)]
        for chosen, found in self._memberships(mended):
            memberships.append((Slot(chosen + window_slots_max), found))
        return Recovery(promised, tuple(accepted), tuple(memberships), tuple(lost), tuple(mended))

    def mended_memberships(self) -> list[Write]:
        """Return the copies of memberships that are to be written again. Raises ``RecordDamaged``."""
        mended: list[Write] = []
        self._memberships(mended)
        return mended

    def _promised(self, mended: list[Write]) -> Ballot:
        """Return the promise, from either copy. Raises ``VoteLost``."""
        found: list[Ballot] = []
        damage: RecordDamaged | None = None
        for key in (PROMISED, PROMISED_AGAIN):
            sealed = self._storage.get(key)
            try:
                if sealed is not None:
                    found.append(_ballot(key, unseal(key, sealed)))
            except RecordDamaged as error:
                damage = error
        if not found:
            if damage is not None:
                raise VoteLost(damage.key, "and so is the other copy of the promise")
            return Ballot.ZERO
        promised = max(found)
        if min(found) != promised or len(found) == 1:
            mended.extend(_promise_writes(promised))
        return promised

    def _memberships(self, mended: list[Write]) -> list[tuple[Slot, Membership]]:
        """Return the memberships with the slots in which they were chosen, oldest first."""
        found: list[tuple[Slot, Membership]] = []
        copies = self._storage.iterate(MEMBERSHIP_AGAIN, family_end(MEMBERSHIP_AGAIN))
        first = self._storage.iterate(MEMBERSHIP, family_end(MEMBERSHIP))
        for chosen, *sealed in _joined(first, copies):
            packed = None
            whole = 0
            for family, copy in zip((MEMBERSHIP, MEMBERSHIP_AGAIN), sealed, strict=True):
                key = number_key(family, chosen)
                try:
                    if copy is not None:
                        packed = unseal(key, copy)
                        whole += 1
                except RecordDamaged:
                    continue
            if packed is None:
                packed = self._logged_membership(chosen)
            if whole < 2:
                mended.extend(membership_writes(chosen, packed))
            found.append((chosen, Membership.unpack(packed)))
        return found

    def _logged_membership(self, chosen: Slot) -> bytes:
        key = number_key(ACCEPTED, chosen)
        sealed = self._storage.get(key)
        if sealed is not None:
            entry = _accepted(key, sealed).value
            if membership_of(entry) is not None:
                return entry[1:]
        raise RecordDamaged(number_key(MEMBERSHIP, chosen), "in both its places, and it is not in the log")

    def writes_for(self, effects: Effects) -> list[Write]:
        """Return what must be durable before ``effects.send_durable`` may be sent."""
        writes: list[Write] = []
        if effects.promised is not None:
            writes.extend(_promise_writes(effects.promised))
        for slot, ballot, value in effects.accepted:
            key = number_key(ACCEPTED, slot)
            head = _BALLOT.pack(*ballot)
            # Sealed by hand: a value may be megabytes, and seal() would copy it once more.
            checksum = CHECKSUM.pack(crc32(value, crc32(head, crc32(key))))
            writes.append((key, b"".join((checksum, head, value))))
            writes.append(_identifier_write(slot, ballot, value))
        return writes

    def read(self, first: Slot, last: Slot, bytes_max: int) -> list[AcceptedValue]:
        """Return the values of slots ``first`` to ``last``, contiguous, as many as fit ``bytes_max``.

        The first is returned whatever its size; nothing where slot ``first`` is not there. Meant
        for chosen slots: others have a value too, but it may still change. What is returned ends
        before a damaged value; raises ``RecordDamaged`` where the first one is.
        """
        found: list[AcceptedValue] = []
        size = 0
        expected = first
        for key, sealed in self._storage.iterate(number_key(ACCEPTED, first), number_key(ACCEPTED, last + 1)):
            size += len(sealed)
            if number_of(key) != expected or (found and size > bytes_max):
                break
            try:
                found.append(_accepted(key, sealed))
            except RecordDamaged as error:
                self.on_damage(error)
                if not found:
                    raise
                break
            expected = Slot(expected + 1)
        return found

    def missing(self, slot: Slot) -> RecordDamaged:
        """Return the error that the value of ``slot``, which must be there, is not; it is noticed."""
        error = RecordDamaged(number_key(ACCEPTED, slot), GONE)
        self.on_damage(error)
        return error

    def held(self, first: Slot, last: Slot, bytes_max: int) -> list[AcceptedValue]:
        """Return what is intact of slots ``first`` to ``last``, chosen or not (``repair``)."""
        found: list[AcceptedValue] = []
        size = 0
        for key, sealed in self._storage.iterate(number_key(ACCEPTED, first), number_key(ACCEPTED, last + 1)):
            record = _readable_value(number_of(key), sealed)
            if record is not None and size < bytes_max:
                found.append(record)
                size += len(sealed)
        return found

    def identifier(self, slot: Slot) -> Identifier | None:
        """Return what is known of the value of ``slot`` apart from it; None: nothing, or it is damaged."""
        return _readable_identifier(slot, self._storage.get(number_key(IDENTIFIER, slot)))


def read_value(storage: Reader, slot: Slot) -> bytes:
    """Return the entry of ``slot``, which is folded and not trimmed. Raises ``RecordDamaged``."""
    key = number_key(ACCEPTED, slot)
    sealed = storage.get(key)
    if sealed is None:
        raise RecordDamaged(key, GONE)
    return _accepted(key, sealed).value


def trimmed_write(slot: Slot) -> Write:
    """Return the record that the log has nothing of ``slot`` and before any more: all of it is chosen.

    It goes with the removal. Without it a node that lost its space too (``rebuild``) would not know that
    these slots are chosen, and had forgotten what it accepted there: with its promise, another value
    could be proposed.
    """
    return TRIMMED, seal(TRIMMED, NUMBER.pack(slot))


def trimmed_slot(storage: Reader) -> Slot:
    """Return the last slot that was trimmed; 0 where none was. Raises ``RecordDamaged``."""
    sealed = storage.get(TRIMMED)
    return Slot(0) if sealed is None else Slot(NUMBER.unpack(unseal(TRIMMED, sealed))[0])


def membership_writes(chosen: Slot, packed: bytes) -> list[Write]:
    """Return the records of a membership that was chosen in slot ``chosen``."""
    keys = (number_key(MEMBERSHIP, chosen), number_key(MEMBERSHIP_AGAIN, chosen))
    return [(key, seal(key, packed)) for key in keys]


def _promise_writes(promised: Ballot) -> list[Write]:
    packed = _BALLOT.pack(*promised)
    return [(key, seal(key, packed)) for key in (PROMISED, PROMISED_AGAIN)]


def _identifier_write(slot: Slot, ballot: Ballot, value: bytes) -> Write:
    key = number_key(IDENTIFIER, slot)
    return key, seal(key, _IDENTIFIER.pack(*ballot, 0, crc32(value)))


def _bound_write(slot: Slot, ballot: Ballot) -> Write:
    key = number_key(IDENTIFIER, slot)
    return key, seal(key, _IDENTIFIER.pack(*ballot, _BOUND, 0))


def _ballot(key: bytes, payload: bytes) -> Ballot:
    if len(payload) < _BALLOT.size:
        raise RecordDamaged(key, "it is too short to hold a ballot")
    round_, node = _BALLOT.unpack_from(payload)
    return Ballot(round_, NodeId(node))


def _accepted(key: bytes, sealed: bytes) -> AcceptedValue:
    payload = unseal(key, sealed)
    return AcceptedValue(number_of(key), _ballot(key, payload), payload[_BALLOT.size :])


def _readable_value(slot: Slot, sealed: bytes | None) -> AcceptedValue | None:
    try:
        return None if sealed is None else _accepted(number_key(ACCEPTED, slot), sealed)
    except RecordDamaged:
        return None


def _readable_identifier(slot: Slot, sealed: bytes | None) -> Identifier | None:
    if sealed is None:
        return None
    key = number_key(IDENTIFIER, slot)
    try:
        payload = unseal(key, sealed)
    except RecordDamaged:
        return None
    if len(payload) != _IDENTIFIER.size:
        return None
    round_, node, form, checksum = _IDENTIFIER.unpack(payload)
    return Identifier(Ballot(round_, NodeId(node)), None if form == _BOUND else checksum)


def _is_denied(value: AcceptedValue, identifier: Identifier | None) -> bool:
    """Whether an intact value is not the last one that was accepted: its identifier says otherwise."""
    if identifier is None or identifier.ballot < value.ballot:
        return False
    return identifier.ballot > value.ballot or identifier.checksum not in (None, crc32(value.value))


def _joined(
    left: Iterator[tuple[bytes, bytes]], right: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[Slot, bytes | None, bytes | None]]:
    """Yield (slot, record of ``left``, record of ``right``) of every slot in either, in slot order."""
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        slots = [_slot_of(record[0]) for record in (one, other) if record is not None]
        slot = min(slots)
        mine = yours = None
        if one is not None and number_of(one[0]) == slot:
            mine, one = one[1], next(left, None)
        if other is not None and number_of(other[0]) == slot:
            yours, other = other[1], next(right, None)
        yield slot, mine, yours


def _slot_of(key: bytes) -> Slot:
    if len(key) != 9:
        raise RecordDamaged(key, "it is under a key of no form that is known")
    return number_of(key)
