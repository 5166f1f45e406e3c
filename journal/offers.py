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

``unpack_batch`` checks all of it, types, order and limits, and is the only gate: what passed it is
trusted by the fold. An offer of one read and one put takes about a microsecond beyond msgpack's own
decoding, so the common shape is checked inline and everything else by ``_check_offer``, which names
the place that is wrong.

**The packed verdicts** are one msgpack list: an int for an accepted offer (its revision), ``[]`` for
``Expired``, else ``[reason, where, key, revision, label, value, actual, field]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any, Final, NamedTuple

import msgpack

from journal.errors import OfferInvalid, ProtocolViolation
from journal.limits import (
    CLIENT_ID_BYTES_MAX,
    FIELD_BYTES_MAX,
    FOLD_SESSION_WINDOW_OFFERS_MAX,
    KEY_BYTES_MAX,
    LABEL_BYTES_MAX,
    LEASE_TTL_MS_MAX,
    LEASE_TTL_MS_MIN,
    Limits,
)

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


# -- the gate -------------------------------------------------------------------


def unpack_batch(data: bytes, limits: Limits) -> RawBatch:
    """Decode a packed batch and check everything in it. Raises ``OfferInvalid`` with the place."""
    if len(data) > limits.batch_bytes_max:
        raise OfferInvalid("batch", f"{len(data)} bytes is over batch_bytes_max={limits.batch_bytes_max}")
    # Containers are bounded before they are believed: a header that announces millions of elements
    # must not make the decoder reserve room for them.
    containers_max = max(limits.batch_offers_max, limits.offer_operations_max, 1024)
    try:
        raw = msgpack.unpackb(
            data,
            use_list=False,  # tuples: nothing changes them, and the garbage collector lets go of them
            strict_map_key=False,
            max_array_len=containers_max,
            max_map_len=containers_max,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise OfferInvalid("batch", f"is not msgpack, or over a limit: {error}") from error
    if type(raw) is not tuple or len(raw) != 4:
        raise OfferInvalid("batch", "must be a list of client, acked, base and offers")
    client, acked, base, offers = raw
    if type(client) is not bytes or len(client) > CLIENT_ID_BYTES_MAX:
        raise OfferInvalid("client", f"must be at most CLIENT_ID_BYTES_MAX={CLIENT_ID_BYTES_MAX} bytes")
    _check_number("acked", acked)
    _check_number("base", base)
    if type(offers) is not tuple or not offers:
        raise OfferInvalid("offers", "must be a list of at least one offer")
    if len(offers) > limits.batch_offers_max:
        raise OfferInvalid(
            "offers", f"{len(offers)} offers is over batch_offers_max={limits.batch_offers_max}"
        )
    _check_offers(client, acked, offers, limits)
    if len(data) > limits.offer_bytes_max:
        _check_sizes(offers, limits)
    return RawBatch(client, acked, base, offers, data)


def _check_offers(client: bytes, acked: int, offers: tuple[Any, ...], limits: Limits) -> None:
    value_max = limits.value_bytes_max
    # Without a client the sequences mean nothing, and any order will do.
    sequence_min = acked if client else 0
    sequence_end = acked + FOLD_SESSION_WINDOW_OFFERS_MAX if client else INT64_MAX
    for index, offer in enumerate(offers):
        # The common shape, checked inline: at most one read, no range, no expectation, one put. In
        # any doubt the full check runs, so this test may be as narrow as it likes.
        try:
            sequence, label, at, reads, ranges, expect, mutations = offer
            if (
                type(sequence) is int
                and sequence_min <= sequence < sequence_end
                and type(at) is int
                and 0 <= at <= INT64_MAX
                and type(label) is str
                and len(label) <= 64
                and ranges == ()
                and expect == ()
                and (
                    reads == ()
                    or (
                        type(reads) is tuple
                        and len(reads) == 1
                        and type(reads[0]) is bytes
                        and 0 < len(reads[0]) <= KEY_BYTES_MAX
                    )
                )
                and type(mutations) is tuple
                and len(mutations) == 1
            ):
                operation, key, value, lease = mutations[0]
                if (
                    type(operation) is int
                    and operation == PUT
                    and type(key) is bytes
                    and 0 < len(key) <= KEY_BYTES_MAX
                    and type(value) is bytes
                    and len(value) <= value_max
                    and type(lease) is int
                    and lease == 0
                    and type(mutations[0]) is tuple
                    and type(offer) is tuple
                ):
                    if client:
                        sequence_min = sequence + 1
                    continue
        except (TypeError, ValueError):
            pass
        _check_offer(f"offers[{index}]", offer, sequence_min, sequence_end, limits)
        if client:
            sequence_min = offer[0] + 1


def _check_sizes(offers: tuple[Any, ...], limits: Limits) -> None:
    """Measure each offer; only for batches larger than one offer may be."""
    for index, offer in enumerate(offers):
        size = len(msgpack.packb(offer))
        if size > limits.offer_bytes_max:
            raise OfferInvalid(
                f"offers[{index}]", f"{size} bytes is over offer_bytes_max={limits.offer_bytes_max}"
            )


def _check_offer(where: str, offer: Any, sequence_min: int, sequence_end: int, limits: Limits) -> None:
    if type(offer) is not tuple or len(offer) != 7:
        raise OfferInvalid(
            where, "must be a list of sequence, label, at, reads, ranges, expect and mutations"
        )
    sequence, label, at, reads, ranges, expect, mutations = offer
    _check_number(f"{where}.sequence", sequence)
    if sequence < sequence_min:
        raise OfferInvalid(
            f"{where}.sequence", f"{sequence} is below {sequence_min}: sequences start at acked and rise"
        )
    if sequence >= sequence_end:
        raise OfferInvalid(
            f"{where}.sequence",
            f"{sequence} is over acked + FOLD_SESSION_WINDOW_OFFERS_MAX={FOLD_SESSION_WINDOW_OFFERS_MAX}",
        )
    _check_text(f"{where}.label", label, "LABEL_BYTES_MAX", LABEL_BYTES_MAX)
    _check_number(f"{where}.at", at)
    for name, part in (("reads", reads), ("ranges", ranges), ("expect", expect), ("mutations", mutations)):
        if type(part) is not tuple:
            raise OfferInvalid(f"{where}.{name}", "must be a list")
    operations = len(reads) + len(ranges) + len(expect)
    if not operations and not mutations:
        raise OfferInvalid(where, "has neither conditions nor mutations")
    for index, key in enumerate(reads):
        _check_key(f"{where}.reads[{index}]", key)
    for index, pair in enumerate(ranges):
        _check_pair(f"{where}.ranges[{index}]", pair, "start and end")
        _check_range(f"{where}.ranges[{index}]", pair[0], pair[1])
    for index, pair in enumerate(expect):
        _check_pair(f"{where}.expect[{index}]", pair, "key and revision")
        _check_key(f"{where}.expect[{index}].key", pair[0])
        _check_number(f"{where}.expect[{index}].revision", pair[1])
    for index, mutation in enumerate(mutations):
        operations += _check_mutation(f"{where}.mutations[{index}]", mutation, limits)
    if operations > limits.offer_operations_max:
        raise OfferInvalid(
            where, f"{operations} operations is over offer_operations_max={limits.offer_operations_max}"
        )


_SHAPES: Final = {
    PUT: "0, key, value and lease",
    DELETE: "1 and key",
    DELETE_RANGE: "2, start and end",
    ADJUST: "3, key, deltas, minimum and maximum",
    SET_ADD: "4, key, field and members",
    SET_REMOVE: "5, key, field and members",
    LEASE_GRANT: "6, lease and ttl_ms",
    LEASE_REVOKE: "7 and lease",
}
_LENGTHS: Final = (4, 2, 3, 5, 4, 4, 3, 2)


def _check_mutation(where: str, mutation: Any, limits: Limits) -> int:
    """Check one mutation and return how many operations it counts for."""
    if type(mutation) is not tuple or not mutation:
        raise OfferInvalid(where, "must be a list that begins with the kind of mutation")
    kind = mutation[0]
    if type(kind) is not int or kind not in _SHAPES:
        raise OfferInvalid(where, f"unknown kind of mutation {_short(kind)}: must be 0 to {len(_SHAPES) - 1}")
    if len(mutation) != _LENGTHS[kind]:
        raise OfferInvalid(where, f"must be a list of {_SHAPES[kind]}")
    if kind == DELETE_RANGE:
        _check_range(where, mutation[1], mutation[2])
        return 1
    if kind >= LEASE_GRANT:
        _check_number(f"{where}.lease", mutation[1], low=1)
        if kind == LEASE_GRANT:
            _check_number(f"{where}.ttl_ms", mutation[2], low=LEASE_TTL_MS_MIN, high=LEASE_TTL_MS_MAX)
        return 1
    _check_key(f"{where}.key", mutation[1])
    if kind == PUT:
        value, lease = mutation[2:]
        if type(value) is not bytes:
            raise OfferInvalid(f"{where}.value", f"must be bytes, not {type(value).__name__}")
        if len(value) > limits.value_bytes_max:
            raise OfferInvalid(
                f"{where}.value", f"{len(value)} bytes is over value_bytes_max={limits.value_bytes_max}"
            )
        _check_number(f"{where}.lease", lease)
        return 1
    if kind == ADJUST:
        return _check_adjust(where, mutation[2], mutation[3], mutation[4])
    if kind != DELETE:
        return _check_members(where, mutation[2], mutation[3])
    return 1


def _check_adjust(where: str, deltas: Any, minimum: Any, maximum: Any) -> int:
    for name, part in (("deltas", deltas), ("minimum", minimum), ("maximum", maximum)):
        if type(part) is not dict:
            raise OfferInvalid(f"{where}.{name}", "must be a map of field to number")
        for key, number in part.items():
            _check_text(f"{where}.{name}", key, "FIELD_BYTES_MAX", FIELD_BYTES_MAX)
            if key not in deltas:
                raise OfferInvalid(f"{where}.{name}[{key}]", "bounds a field that has no delta")
            valid = (type(number) is int and INT64_MIN <= number <= INT64_MAX) or (
                type(number) is float and isfinite(number)
            )
            if not valid:
                raise OfferInvalid(f"{where}.{name}[{key}]", "must be a finite 64-bit number")
    if not deltas:
        raise OfferInvalid(f"{where}.deltas", "must name at least one field")
    return len(deltas)


def _check_members(where: str, name: Any, members: Any) -> int:
    _check_text(f"{where}.field", name, "FIELD_BYTES_MAX", FIELD_BYTES_MAX)
    if type(members) is not tuple or not members:
        raise OfferInvalid(f"{where}.members", "must be a list of at least one member")
    for index, member in enumerate(members):
        if type(member) is int:
            _check_number(f"{where}.members[{index}]", member, low=INT64_MIN)
        elif type(member) is str:
            _check_text(f"{where}.members[{index}]", member, "FIELD_BYTES_MAX", FIELD_BYTES_MAX)
        else:
            raise OfferInvalid(
                f"{where}.members[{index}]", f"must be int or str, not {type(member).__name__}"
            )
    if len(set(members)) != len(members):
        raise OfferInvalid(f"{where}.members", "must not name a member twice")
    return len(members)


def _check_number(where: str, number: Any, *, low: int = 0, high: int = INT64_MAX) -> None:
    if type(number) is not int:
        raise OfferInvalid(where, f"must be an int, not {type(number).__name__}")
    if not low <= number <= high:
        raise OfferInvalid(where, f"{number} is not within {low} to {high}")


def _check_text(where: str, text: Any, limit: str, bytes_max: int) -> None:
    if type(text) is not str:
        raise OfferInvalid(where, f"must be str, not {type(text).__name__}")
    if len(text.encode()) > bytes_max:
        raise OfferInvalid(where, f"{len(text.encode())} bytes is over {limit}={bytes_max}")


def _check_key(where: str, key: Any) -> None:
    if type(key) is not bytes:
        raise OfferInvalid(where, f"must be bytes, not {type(key).__name__}")
    if not key:
        raise OfferInvalid(where, "must not be empty")
    if len(key) > KEY_BYTES_MAX:
        raise OfferInvalid(where, f"{len(key)} bytes is over KEY_BYTES_MAX={KEY_BYTES_MAX}")


def _check_pair(where: str, pair: Any, of: str) -> None:
    if type(pair) is not tuple or len(pair) != 2:
        raise OfferInvalid(where, f"must be a list of {of}")


def _check_range(where: str, start: Any, end: Any) -> None:
    """A bound may be one byte longer than a key, as ``key + b"\\0"`` is the key's own end."""
    for name, bound in (("start", start), ("end", end)):
        if type(bound) is not bytes:
            raise OfferInvalid(f"{where}.{name}", f"must be bytes, not {type(bound).__name__}")
        if len(bound) > KEY_BYTES_MAX + 1:
            raise OfferInvalid(f"{where}.{name}", f"{len(bound)} bytes is over KEY_BYTES_MAX={KEY_BYTES_MAX}")
    if end and start >= end:
        raise OfferInvalid(where, f"start {_short(start)} is not below end {_short(end)}: the range is empty")


def _short(value: Any) -> str:
    """Errors travel in headers of 8 KB."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
