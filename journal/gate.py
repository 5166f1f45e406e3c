"""The gate: whatever is offered is decoded and checked here, and nowhere else. PURE.

``unpack_batch`` checks types, order and limits of a packed batch (``offers`` has its form): what passed
it is trusted by the fold. An offer of one read and one put takes about a microsecond beyond msgpack's own
decoding, so the common shape is checked inline and everything else by ``_check_offer``, which names
the place that is wrong.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

import msgpack

from journal.errors import OfferInvalid
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
from journal.offers import (
    ADJUST,
    DELETE,
    DELETE_RANGE,
    INT64_MAX,
    INT64_MIN,
    LEASE_GRANT,
    LEASE_REVOKE,
    PUT,
    SET_ADD,
    SET_REMOVE,
    RawBatch,
)


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
    client, acked, base, offers = check_batch(raw, limits)
    if len(data) > limits.offer_bytes_max:
        _check_sizes(offers, limits)
    return RawBatch(client, acked, base, offers, data)


def check_batch(raw: Any, limits: Limits) -> tuple[bytes, int, int, tuple[Any, ...]]:
    """Check a decoded batch, all but its sizes in bytes; return its parts. Raises ``OfferInvalid``."""
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
    return client, acked, base, offers


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
