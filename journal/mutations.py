"""Mutations that compute on the value they find: ``adjust``, and ``add``/``remove`` on a set. PURE.

The value is a msgpack map. It is decoded, changed and packed again with its fields in the order
they were in, so every node gets the same bytes. Fields that a mutation does not name keep their
type and value; only their encoding may become msgpack's shortest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import msgpack

from journal.limits import FOLD_VALUE_BYTES_MAX
from journal.offers import INT64_MAX, INT64_MIN, Member, Number, Reason


class Refused(Exception):
    """The mutation cannot be made. Never leaves the fold, which turns it into a receipt."""

    def __init__(self, reason: Reason, field: str = "", actual: Number | str | None = None) -> None:
        super().__init__(reason, field, actual)
        self.reason = reason
        self.field = field
        self.actual = actual


def adjust(
    value: bytes,
    deltas: Mapping[str, Number],
    minimum: Mapping[str, Number],
    maximum: Mapping[str, Number],
) -> bytes:
    """Return ``value`` with each delta added to its field. Raises ``Refused``."""
    fields = _unpack_map(value)
    for name, delta in deltas.items():
        present = fields.get(name, 0)
        if type(present) is not int and type(present) is not float:
            raise Refused(Reason.TYPE, name)
        result = present + delta
        in_bounds = INT64_MIN <= result <= INT64_MAX if type(result) is int else isfinite(result)
        if name in minimum and not result >= minimum[name]:
            in_bounds = False
        if name in maximum and not result <= maximum[name]:
            in_bounds = False
        if not in_bounds:
            # A NaN that somebody put would not be equal to itself in a receipt.
            raise Refused(Reason.BOUNDS, name, present if isfinite(present) else str(present))
        fields[name] = result
    return _pack_map(fields)


def set_add(value: bytes, field: str, members: Sequence[Member]) -> bytes:
    """Return ``value`` with ``members`` appended to the list ``field``. Raises ``Refused``."""
    fields = _unpack_map(value)
    found = _members_of(fields, field)
    present = set(_plain(found))
    for member in members:
        if member in present:
            raise Refused(Reason.SET, field, member)
        present.add(member)
        found.append(member)
    fields[field] = found
    return _pack_map(fields)


def set_remove(value: bytes, field: str, members: Sequence[Member]) -> bytes:
    """Return ``value`` without ``members`` in the list ``field``. Raises ``Refused``."""
    fields = _unpack_map(value)
    found = _members_of(fields, field)
    present = set(_plain(found))
    for member in members:
        if member not in present:
            raise Refused(Reason.SET, field, member)
        present.discard(member)
    gone = set(members)
    fields[field] = [
        member
        for member in found
        if (type(member) is not int and type(member) is not str) or member not in gone
    ]
    return _pack_map(fields)


def _plain(members: list[Any]) -> list[Member]:
    """Only ints and strings are members: ``True`` is not 1 here, nor is 1.0."""
    return [member for member in members if type(member) is int or type(member) is str]


def _members_of(fields: dict[Any, Any], field: str) -> list[Any]:
    found = fields.get(field, [])
    if type(found) is not list:
        raise Refused(Reason.TYPE, field)
    return found


def _unpack_map(value: bytes) -> dict[Any, Any]:
    try:
        fields = msgpack.unpackb(value, strict_map_key=False)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError):
        raise Refused(Reason.TYPE) from None
    if type(fields) is not dict:
        raise Refused(Reason.TYPE)
    return fields


def _pack_map(fields: dict[Any, Any]) -> bytes:
    try:
        packed: bytes = msgpack.packb(fields)
    except (ValueError, TypeError, OverflowError):
        # What was decoded can be packed, except for oddities such as a timestamp out of range.
        raise Refused(Reason.TYPE) from None
    if len(packed) > FOLD_VALUE_BYTES_MAX:
        raise Refused(Reason.LIMIT, "FOLD_VALUE_BYTES_MAX")
    return packed
