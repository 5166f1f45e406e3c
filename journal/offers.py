"""What a client offers, how it is packed, and what became of it. PURE.

**The packed form** is msgpack, positional, made once by the client, carried as it is
through the leader, the log and the peers, and decoded once on each node by the fold:

====================  ======================================================================
batch                 ``[client, acked, base, [offer, ...]]``
offer                 ``[sequence, label, at, [key, ...], [[start, end], ...],
                      [[key, revision], ...], [mutation, ...]]``
put                   ``[0, key, value, lease]``
delete                ``[1, key]``
delete_range          ``[2, start, end]``
adjust                ``[3, key, {field: delta}, {field: minimum}, {field: maximum}]``
set add               ``[4, key, field, [member, ...]]``
set remove            ``[5, key, field, [member, ...]]``
lease grant           ``[6, lease, ttl_ms]``
lease revoke          ``[7, lease]``
====================  ======================================================================

* ``client`` (bin): who offers, for exactly-once; empty means that the offers have no identity and
  may take effect twice if they are sent twice. With a client, the sequences of a batch rise.
* ``acked``: every sequence below it has been answered and its verdict read, so it may be forgotten.
  A batch's sequences lie in ``acked <= sequence < acked + FOLD_SESSION_WINDOW_OFFERS_MAX``.
* ``base``: a revision that the client knew before it sent any of these offers for the first time. A
  journal that has forgotten the client refuses ids as old as what it forgot (``Expired``).
* ``at``: the revision at which the keys in reads and ranges were read.
* ``expect``: key at exactly this modification revision; 0 means that the key must be absent.
* a range is half-open, ``start <= key < end``; an empty ``end`` means no upper bound.

``gate.unpack_batch`` checks all of it, and is the only way in.

**The packed verdicts** are one msgpack list: an int for an accepted offer (its revision), ``[]`` for
``Expired``, else ``[reason, where, key, revision, label, value, actual, field]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgpack

from journal.errors import OfferInvalid, ProtocolViolation

INT64_MAX: Final = 2**63 - 1
INT64_MIN: Final = -(2**63)

PUT: Final = 0
DELETE: Final = 1
DELETE_RANGE: Final = 2
ADJUST: Final = 3
SET_ADD: Final = 4
SET_REMOVE: Final = 5
LEASE_GRANT: Final = 6
LEASE_REVOKE: Final = 7
GROWING: Final = frozenset((PUT, ADJUST, SET_ADD, LEASE_GRANT))
"""What is refused while a disk is full: mutations after which more is kept than before."""

Number = int | float
Member = int | str


# -- mutations ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Put:
    """Set ``key`` to ``value``, bound to ``lease`` (0: to none, and unbound if it was bound)."""

    key: bytes
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete ``key``. Deleting what is absent changes nothing and is no fault."""

    key: bytes


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """Delete every key of ``start <= key < end``; an empty ``end`` means no upper bound."""

    start: bytes
    end: bytes


@dataclass(frozen=True, slots=True)
class Adjust:
    """Add each of ``deltas`` to the field of that name in the msgpack map at ``key``.

    A missing field counts as 0. Rejected where a result would be below its ``minimum``, above its
    ``maximum``, or not a 64-bit number.
    """

    key: bytes
    deltas: Mapping[str, Number]
    minimum: Mapping[str, Number] = field(default_factory=dict)
    maximum: Mapping[str, Number] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetAdd:
    """Append ``members`` to the list ``field`` of the map at ``key``; rejected if one is there."""

    key: bytes
    field: str
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class SetRemove:
    """Remove ``members`` from the list ``field`` of the map at ``key``; rejected if one is not there."""

    key: bytes
    field: str
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """Create ``lease`` (an id that the client drew, not 0); rejected if it exists."""

    lease: int
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class LeaseRevoke:
    """End ``lease`` and delete every key bound to it; rejected if it does not exist."""

    lease: int


Mutation = Put | Delete | DeleteRange | Adjust | SetAdd | SetRemove | LeaseGrant | LeaseRevoke


@dataclass(frozen=True, slots=True)
class Offer:
    """A transaction: all of its conditions hold and all of its mutations happen, or none."""

    mutations: tuple[Mutation, ...]
    reads: tuple[bytes, ...] = ()
    """Keys that must not have changed since ``at``."""
    ranges: tuple[tuple[bytes, bytes], ...] = ()
    """Ranges in which nothing may have changed since ``at``."""
    expect: tuple[tuple[bytes, int], ...] = ()
    """(key, modification revision that it must have; 0: absent)."""
    at: int = 0
    label: str = ""


def prefix_range(prefix: bytes) -> tuple[bytes, bytes]:
    """Return the range of all keys that begin with ``prefix``."""
    stem = prefix.rstrip(b"\xff")
    return prefix, stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


# -- verdicts -------------------------------------------------------------------


class Reason(StrEnum):
    """Why an offer was rejected."""

    READ = "READ"
    """A key of ``reads`` was modified after ``at``."""
    RANGE = "RANGE"
    """A key of ``ranges`` was modified after ``at``."""
    EXPECT = "EXPECT"
    """A key is not at its expected modification revision."""
    BOUNDS = "BOUNDS"
    """An adjusted field would leave its bounds or 64 bits."""
    SET = "SET"
    """A member is already there (add) or not there (remove)."""
    ABSENT = "ABSENT"
    """The key to compute on does not exist."""
    TYPE = "TYPE"
    """The value or field to compute on has another type."""
    LEASE = "LEASE"
    """The lease does not exist, or exists already."""
    COMPACTED = "COMPACTED"
    """``at`` is below the compaction revision: what changed since cannot be told."""
    FUTURE = "FUTURE"
    """``at`` is a revision that the journal has not reached."""
    LIMIT = "LIMIT"
    """A limit of the space itself (``FOLD_*``) would be passed; ``field`` names it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A conflict receipt: which condition or mutation failed, and who won."""

    reason: Reason
    where: str
    """A path in the offer, such as ``reads[2]`` or ``mutations[0]``."""
    key: bytes = b""
    revision: int = 0
    """The modification revision that won: the key's present one (0: absent)."""
    label: str = ""
    """The label of the offer that made ``revision``; filled in at the edge, where the log is at hand."""
    value: bytes | None = None
    """The present value, if it was asked for; filled in at the edge."""
    actual: Number | str | None = None
    """The present value of the field, or the member in the way."""
    field: str = ""
    """The field, or the name of the limit."""

    def __str__(self) -> str:
        return f"{self.where}: {self._why()}"

    def _why(self) -> str:
        key = self.key.decode("utf-8", "backslashreplace")
        by = f" by {self.label!r}" if self.label else ""
        match self.reason:
            case Reason.READ | Reason.RANGE:
                return f"{key} was modified at revision {self.revision}{by}"
            case Reason.EXPECT if self.revision:
                return f"{key} is at revision {self.revision}{by}"
            case Reason.EXPECT | Reason.ABSENT:
                return f"{key} does not exist"
            case Reason.BOUNDS:
                return f"{key}: field {self.field!r} is at {self.actual} and would leave its bounds"
            case Reason.SET:
                return f"{key}: member {self.actual!r} is in the way in field {self.field!r}"
            case Reason.TYPE if self.field:
                return f"{key}: field {self.field!r} is not of the right type"
            case Reason.TYPE:
                return f"{key} does not hold a msgpack map"
            case Reason.LEASE:
                return f"lease {self.actual} {'exists already' if self.revision else 'does not exist'}"
            case Reason.COMPACTED:
                return f"history below revision {self.revision} is compacted: read again"
            case Reason.FUTURE:
                return f"the journal is only at revision {self.revision}"
            case _:
                return f"{self.field} is passed" + (f" at {key}" if key else "")


@dataclass(frozen=True, slots=True)
class Expired:
    """The id belongs to a past that is forgotten: the offer was not applied now and never will be.
    What became of an earlier try is unknown."""

    def __str__(self) -> str:
        return "the offer id is forgotten: not applied now; the outcome of an earlier try is unknown"


EXPIRED: Final = Expired()

Verdict = int | Rejected | Expired
"""An int is the revision of an accepted offer: plain, because there are so many of them."""

_REASONS: Final = {reason.value: reason for reason in Reason}


def verdict_to_raw(verdict: Verdict) -> int | list[Any]:
    """Return the msgpack form of one verdict."""
    if type(verdict) is int:
        return verdict
    if isinstance(verdict, Rejected):
        return [
            verdict.reason.value,
            verdict.where,
            verdict.key,
            verdict.revision,
            verdict.label,
            verdict.value,
            verdict.actual,
            verdict.field,
        ]
    return []


def verdict_from_raw(raw: Any) -> Verdict:
    """Return the verdict of a msgpack form. Raises ``ProtocolViolation``."""
    if type(raw) is int:
        return raw
    if raw == []:
        return EXPIRED
    try:
        reason, where, key, revision, label, value, actual, name = raw
        return Rejected(_REASONS[reason], where, key, revision, label, value, actual, name)
    except (TypeError, ValueError, KeyError) as error:
        raise ProtocolViolation(f"verdict does not decode: {raw!r}") from error


def pack_verdicts(verdicts: Sequence[Verdict]) -> bytes:
    """Return the packed form of a batch's verdicts, in its order."""
    packed: bytes = msgpack.packb(
        [verdict if type(verdict) is int else verdict_to_raw(verdict) for verdict in verdicts]
    )
    return packed


def unpack_verdicts(data: bytes) -> list[Verdict]:
    """Return the verdicts of a packed form. Raises ``ProtocolViolation``."""
    try:
        raws = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolViolation(f"verdicts do not decode: {error}") from error
    if type(raws) is not list:
        raise ProtocolViolation(f"verdicts do not decode: a {type(raws).__name__} instead of a list")
    return [raw if type(raw) is int else verdict_from_raw(raw) for raw in raws]


# -- packing --------------------------------------------------------------------


def _mutation_to_raw(mutation: Mutation) -> list[Any]:
    match mutation:
        case Put(key, value, lease):
            return [PUT, key, value, lease]
        case Delete(key):
            return [DELETE, key]
        case DeleteRange(start, end):
            return [DELETE_RANGE, start, end]
        case Adjust(key, deltas, minimum, maximum):
            return [ADJUST, key, dict(deltas), dict(minimum), dict(maximum)]
        case SetAdd(key, name, members):
            return [SET_ADD, key, name, list(members)]
        case SetRemove(key, name, members):
            return [SET_REMOVE, key, name, list(members)]
        case LeaseGrant(lease, ttl_ms):
            return [LEASE_GRANT, lease, ttl_ms]
        case LeaseRevoke(lease):
            return [LEASE_REVOKE, lease]


def _mutation_from_raw(raw: Any) -> Mutation:
    match raw[0]:
        case 0:
            return Put(raw[1], raw[2], raw[3])
        case 1:
            return Delete(raw[1])
        case 2:
            return DeleteRange(raw[1], raw[2])
        case 3:
            return Adjust(raw[1], raw[2], raw[3], raw[4])
        case 4:
            return SetAdd(raw[1], raw[2], tuple(raw[3]))
        case 5:
            return SetRemove(raw[1], raw[2], tuple(raw[3]))
        case 6:
            return LeaseGrant(raw[1], raw[2])
        case _:
            return LeaseRevoke(raw[1])


def offer_to_raw(sequence: int, offer: Offer) -> list[Any]:
    """Return the msgpack form of ``offer`` under its id."""
    return [
        sequence,
        offer.label,
        offer.at,
        list(offer.reads),
        list(offer.ranges),
        list(offer.expect),
        [_mutation_to_raw(mutation) for mutation in offer.mutations],
    ]


def offer_from_raw(raw: Any) -> tuple[int, Offer]:
    """Return (sequence, offer) of a checked msgpack form (one of ``RawBatch.offers``)."""
    sequence, label, at, reads, ranges, expect, mutations = raw
    return sequence, Offer(
        mutations=tuple(_mutation_from_raw(mutation) for mutation in mutations),
        reads=tuple(reads),
        ranges=tuple((start, end) for start, end in ranges),
        expect=tuple((key, revision) for key, revision in expect),
        at=at,
        label=label,
    )


def pack_offer(sequence: int, offer: Offer) -> bytes:
    """Return the packed form of one offer; a batch is a header and these, one behind the other.

    Raises ``OfferInvalid`` for what msgpack cannot carry; the journal checks the rest.
    """
    try:
        packed: bytes = msgpack.packb(offer_to_raw(sequence, offer))
    except (ValueError, TypeError, OverflowError) as error:
        raise OfferInvalid("offer", f"cannot be packed: {error}") from error
    return packed


def pack_batch(client: bytes, acked: int, base: int, packed_offers: Sequence[bytes]) -> bytes:
    """Return a batch of packed offers. With a client, their sequences must rise."""
    pack = msgpack.packb
    head: bytes = b"\x94" + pack(client) + pack(acked) + pack(base)
    return head + b"\xdd" + len(packed_offers).to_bytes(4, "big") + b"".join(packed_offers)


class RawBatch(NamedTuple):
    """A decoded and checked batch. ``offers`` are the packed form as nested tuples."""

    client: bytes
    acked: int
    base: int
    offers: Sequence[tuple[Any, ...]]
    data: bytes
    """Exactly what goes into the entry."""


def pack_raw_offers(batch: RawBatch, offers: Iterable[Sequence[Any]]) -> bytes:
    """Return the packed form of some of the offers of ``batch``, under its head."""
    packed: bytes = msgpack.packb([batch.client, batch.acked, batch.base, list(offers)])
    return packed
