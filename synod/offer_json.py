"""Offers as JSON: what ``synod offer`` reads. PURE.

One offer is an object, and a list of them is submitted together, each with its own verdict::

    {"label": "deploy 7",
     "at": 41, "reads": ["config"], "ranges": [["jobs/", "jobs0"]], "prefixes": ["locks/"],
     "expect": {"leader": 0},
     "mutations": [
        {"put": "leader", "value": "me", "lease": 99},
        {"delete": "old"},
        {"delete_range": ["tmp/", "tmp0"]},
        {"adjust": "pool", "deltas": {"cpu": -2}, "minimum": {"cpu": 0}},
        {"add": "pool", "field": "ports", "members": [8080]},
        {"remove": "pool", "field": "ports", "members": [8081]},
        {"lease_grant": 99, "ttl_ms": 5000},
        {"lease_revoke": 98}]}

Keys and values are as in ``synod.values``. Whatever is wrong is named by its place, such as
``offers[0].mutations[2].deltas.cpu``: nothing is guessed and nothing is ignored.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection
from typing import Any

from journal.offers import (
    Adjust,
    Delete,
    DeleteRange,
    LeaseGrant,
    LeaseRevoke,
    Mutation,
    Offer,
    Put,
    SetAdd,
    SetRemove,
    prefix_range,
)
from synod.values import from_json


class OfferJsonInvalid(ValueError):
    """The text is not an offer; the message names the place."""


def parse_offers(text: str, source: str) -> list[Offer]:
    """Return the offers of a JSON text. Raises ``OfferJsonInvalid``: ``source:line:column: why`` where
    it is not JSON, ``source: place: why`` where it is not an offer."""
    try:
        data = json.loads(text, object_pairs_hook=_no_twice, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise OfferJsonInvalid(f"{source}:{error.lineno}:{error.colno}: {error.msg}") from None
    except RecursionError:
        raise OfferJsonInvalid(f"{source}: it is nested too deeply") from None
    except ValueError as error:
        raise OfferJsonInvalid(f"{source}: {error}") from None
    try:
        if isinstance(data, list):
            if not data:
                raise OfferJsonInvalid("offers: the list is empty")
            return [_offer(each, f"offers[{index}]") for index, each in enumerate(data)]
        return [_offer(data, "offer")]
    except ValueError as error:
        raise OfferJsonInvalid(f"{source}: {error}") from None


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that says the same thing twice: JSON would let the last one win."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise OfferJsonInvalid(
            f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one object"
        )
    return fields


def _no_constant(name: str) -> None:
    raise OfferJsonInvalid(f"{name} is not JSON")


def _offer(data: Any, where: str) -> Offer:
    fields = _object(data, where)
    _only(fields, {"label", "at", "reads", "ranges", "prefixes", "expect", "mutations"}, where)
    ranges = [_range(each, f"{where}.ranges[{i}]") for i, each in _items(fields, "ranges", where)]
    for i, prefix in _items(fields, "prefixes", where):
        ranges.append(prefix_range(from_json(prefix, f"{where}.prefixes[{i}]")))
    reads = tuple(from_json(key, f"{where}.reads[{i}]") for i, key in _items(fields, "reads", where))
    if (reads or ranges) and "at" not in fields:
        raise OfferJsonInvalid(
            f"{where}.at: is missing: reads, ranges and prefixes are compared with that revision"
        )
    mutations = [_mutation(each, f"{where}.mutations[{i}]") for i, each in _items(fields, "mutations", where)]
    return Offer(
        mutations=tuple(mutations),
        reads=reads,
        ranges=tuple(ranges),
        expect=_expect(fields.get("expect", {}), f"{where}.expect"),
        at=_natural(fields.get("at", 0), f"{where}.at"),
        label=_text(fields.get("label", ""), f"{where}.label"),
    )


def _expect(data: Any, where: str) -> tuple[tuple[bytes, int], ...]:
    """An object of key to revision; or a list of [key, revision], for keys that are not text."""
    if isinstance(data, dict):
        return tuple((key.encode(), _natural(revision, f"{where}.{key}")) for key, revision in data.items())
    pairs = []
    for i, pair in enumerate(_list(data, where)):
        if not isinstance(pair, list) or len(pair) != 2:
            raise OfferJsonInvalid(f"{where}[{i}]: must be [key, revision]")
        pairs.append((from_json(pair[0], f"{where}[{i}][0]"), _natural(pair[1], f"{where}[{i}][1]")))
    return tuple(pairs)


# -- mutations -----------------------------------------------------------------------


def _put(fields: dict[str, Any], where: str) -> Mutation:
    lease = _natural(fields.get("lease", 0), f"{where}.lease")
    return Put(_key(fields, "put", where), from_json(_need(fields, "value", where), f"{where}.value"), lease)


def _delete(fields: dict[str, Any], where: str) -> Mutation:
    return Delete(_key(fields, "delete", where))


def _delete_range(fields: dict[str, Any], where: str) -> Mutation:
    return DeleteRange(*_range(fields["delete_range"], f"{where}.delete_range"))


def _adjust(fields: dict[str, Any], where: str) -> Mutation:
    _need(fields, "deltas", where)
    deltas, minimum, maximum = (
        _numbers(fields.get(name, {}), f"{where}.{name}") for name in ("deltas", "minimum", "maximum")
    )
    return Adjust(_key(fields, "adjust", where), deltas, minimum, maximum)


def _set_add(fields: dict[str, Any], where: str) -> Mutation:
    return SetAdd(_key(fields, "add", where), *_members(fields, where))


def _set_remove(fields: dict[str, Any], where: str) -> Mutation:
    return SetRemove(_key(fields, "remove", where), *_members(fields, where))


def _lease_grant(fields: dict[str, Any], where: str) -> Mutation:
    lease = _natural(fields["lease_grant"], f"{where}.lease_grant")
    return LeaseGrant(lease, _natural(_need(fields, "ttl_ms", where), f"{where}.ttl_ms"))


def _lease_revoke(fields: dict[str, Any], where: str) -> Mutation:
    return LeaseRevoke(_natural(fields["lease_revoke"], f"{where}.lease_revoke"))


_MUTATIONS: dict[str, tuple[Callable[[dict[str, Any], str], Mutation], set[str]]] = {
    "put": (_put, {"value", "lease"}),
    "delete": (_delete, set()),
    "delete_range": (_delete_range, set()),
    "adjust": (_adjust, {"deltas", "minimum", "maximum"}),
    "add": (_set_add, {"field", "members"}),
    "remove": (_set_remove, {"field", "members"}),
    "lease_grant": (_lease_grant, {"ttl_ms"}),
    "lease_revoke": (_lease_revoke, set()),
}
"""Each mutation by the field that names it, and the other fields that it takes."""


def _mutation(data: Any, where: str) -> Mutation:
    fields = _object(data, where)
    kinds = [kind for kind in _MUTATIONS if kind in fields]
    if len(kinds) != 1:
        known = ", ".join(_MUTATIONS)
        found = f"this has {' and '.join(kinds)}" if kinds else f"this has {', '.join(fields) or 'no field'}"
        raise OfferJsonInvalid(f"{where}: a mutation has exactly one of {known}; {found}")
    make, others = _MUTATIONS[kinds[0]]
    _only(fields, {kinds[0], *others}, where)
    return make(fields, where)


# -- the small pieces ------------------------------------------------------------------


def _object(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise OfferJsonInvalid(f"{where}: must be an object, not {json.dumps(data)[:60]}")
    return data


def _list(data: Any, where: str) -> list[Any]:
    if not isinstance(data, list):
        raise OfferJsonInvalid(f"{where}: must be a list, not {json.dumps(data)[:60]}")
    return data


def _items(fields: dict[str, Any], name: str, where: str) -> list[tuple[int, Any]]:
    return list(enumerate(_list(fields.get(name, []), f"{where}.{name}")))


def _only(fields: dict[str, Any], known: Collection[str], where: str) -> None:
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise OfferJsonInvalid(f"{where}.{name}: is unknown here; {hint}")


def _need(fields: dict[str, Any], name: str, where: str) -> Any:
    if name not in fields:
        raise OfferJsonInvalid(f"{where}.{name}: is missing")
    return fields[name]


def _key(fields: dict[str, Any], name: str, where: str) -> bytes:
    return from_json(fields[name], f"{where}.{name}")


def _range(data: Any, where: str) -> tuple[bytes, bytes]:
    if not isinstance(data, list) or len(data) != 2:
        raise OfferJsonInvalid(f'{where}: must be [start, end], where end "" means no upper bound')
    return from_json(data[0], f"{where}[0]"), from_json(data[1], f"{where}[1]")


def _natural(data: Any, where: str) -> int:
    if not isinstance(data, int) or isinstance(data, bool) or not 0 <= data < 2**63:
        raise OfferJsonInvalid(
            f"{where}: must be a whole number from 0 to 2^63-1, not {json.dumps(data)[:60]}"
        )
    return data


def _text(data: Any, where: str) -> str:
    if not isinstance(data, str):
        raise OfferJsonInvalid(f"{where}: must be text, not {json.dumps(data)[:60]}")
    return data


def _numbers(data: Any, where: str) -> dict[str, int | float]:
    for name, number in _object(data, where).items():
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            raise OfferJsonInvalid(f"{where}.{name}: must be a number, not {json.dumps(number)[:60]}")
    return dict(data)


def _members(fields: dict[str, Any], where: str) -> tuple[str, tuple[int | str, ...]]:
    members = _list(_need(fields, "members", where), f"{where}.members")
    for i, member in enumerate(members):
        if not isinstance(member, (int, str)) or isinstance(member, bool):
            raise OfferJsonInvalid(
                f"{where}.members[{i}]: must be a whole number or text, not {json.dumps(member)[:60]}"
            )
    return _text(_need(fields, "field", where), f"{where}.field"), tuple(members)
