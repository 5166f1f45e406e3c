"""A space so naive that it is plainly right: every version of every key, in lists.

It is the checker's own idea of what the fold does, written from ``docs/`` and the
design, and it imports nothing of ``journal``: two programs that agree were written
twice. It never forgets a version, so it can be asked about any past revision, and it
does not care about speed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from synod.history.format import Change, HistoryInvalid, OfferAsked, Record

INT_MIN, INT_MAX = -(2**63), 2**63 - 1


class Version(NamedTuple):
    """A key from revision ``mod`` on. ``value`` None: deleted at ``mod``."""

    mod: int
    create: int
    version: int
    lease: int
    value: str | None


class Failure(NamedTuple):
    """Why an offer cannot be accepted in some state. ``reason`` is the journal's word, lower case."""

    reason: str
    key: str
    revision: int
    """What a receipt says of the key: the revision of its last modification, or, where its value
    is in the way, of its present value (0: it is absent, or of this very offer)."""
    text: str


@dataclass(slots=True)
class Effects:
    """What an offer does to a state: the final value of every key it touches."""

    changes: dict[str, Change] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)
    """Keys whose value is a map the journal computed: compared decoded, not by bytes."""
    deleted: set[str] = field(default_factory=set)
    """Keys that were deleted on the way: a later put of the same offer creates them anew."""
    granted: set[int] = field(default_factory=set)
    revoked: set[int] = field(default_factory=set)


def decode(value: str | None) -> Any:
    """Return a value as msgpack means it; the raw string where it is no msgpack."""
    if value is None:
        return None
    try:
        return msgpack.unpackb(value.encode("latin-1"), strict_map_key=False)
    except (ValueError, msgpack.UnpackException):
        return value


def encode(value: Any) -> str:
    packed: bytes = msgpack.packb(value)
    return packed.decode("latin-1")


class Model:
    """All revisions of a space."""

    def __init__(self, revision: int = 0, items: Iterable[tuple[str, Record]] = ()) -> None:
        """Begin at ``revision``, where the space held ``items``."""
        self.revision = revision
        self._versions: dict[str, list[Version]] = {}
        self._mods: dict[str, list[int]] = {}
        self._leases: dict[int, list[tuple[int, bool]]] = {}  # lease -> (revision, exists from there on)
        for key, record in items:
            version = Version(record.mod, record.create, record.version, record.lease, record.value)
            self._versions[key], self._mods[key] = [version], [record.mod]

    def at(self, revision: int) -> State:
        """Return the state after ``revision``."""
        return State(self, revision)

    @property
    def now(self) -> State:
        return State(self, self.revision)

    def apply(self, revision: int, changes: Mapping[str, Change], effects: Effects | None = None) -> None:
        """Make ``changes`` the next revision."""
        assert revision == self.revision + 1, (revision, self.revision)
        now = self.now
        deleted = effects.deleted if effects is not None else set()
        for key, change in changes.items():
            old = now.version(key)
            if change.value is None and (old is None or old.value is None):
                continue  # it came and went within the offer: nothing that others could read was changed
            live = old is not None and old.value is not None and key not in deleted
            create = old.create if old is not None and live else revision
            count = old.version + 1 if old is not None and live else 1
            lease = change.lease if change.value is not None else 0
            version = Version(revision, create, count if change.value is not None else 0, lease, change.value)
            self._versions.setdefault(key, []).append(version)
            self._mods.setdefault(key, []).append(revision)
        if effects is not None:
            for lease in sorted(effects.granted):
                self._leases.setdefault(lease, []).append((revision, True))
            for lease in sorted(effects.revoked):
                self._leases.setdefault(lease, []).append((revision, False))
        self.revision = revision

    def modifications(self, key: str, after: int, upto: int) -> list[int]:
        """Return the revisions in (after, upto] that changed ``key``."""
        mods = self._mods.get(key, [])
        return mods[bisect_right(mods, after) : bisect_right(mods, upto)]


class State:
    """A model's space at one revision."""

    def __init__(self, model: Model, revision: int) -> None:
        self._model = model
        self.revision = revision

    def version(self, key: str) -> Version | None:
        """Return the latest version, a deletion included; None if the key never was."""
        mods = self._model._mods.get(key)
        if not mods:
            return None
        index = bisect_right(mods, self.revision)
        return self._model._versions[key][index - 1] if index else None

    def mod(self, key: str) -> int:
        version = self.version(key)
        return version.mod if version else 0

    def get(self, key: str) -> Record | None:
        version = self.version(key)
        if version is None or version.value is None:
            return None
        return Record(version.create, version.mod, version.version, version.lease, version.value)

    def keys(self, start: str, end: str) -> Iterator[str]:
        """Yield the keys of start <= key < end (end "": no bound) that ever were, in order."""
        yield from sorted(key for key in self._model._mods if start <= key and (not end or key < end))

    def scan(self, start: str, end: str) -> list[tuple[str, Record]]:
        found = ((key, self.get(key)) for key in self.keys(start, end))
        return [(key, record) for key, record in found if record is not None]

    def lease_exists(self, lease: int) -> bool:
        exists = False
        for revision, after in self._model._leases.get(lease, ()):
            if revision <= self.revision:
                exists = after
        return exists

    def bound(self, lease: int) -> list[str]:
        """Return the live keys that are bound to ``lease``."""
        return [key for key, record in self.scan("", "") if record.lease == lease]


def failed_conditions(offer: OfferAsked, state: State) -> Iterator[Failure]:
    """Yield every condition of ``offer`` that does not hold in ``state``."""
    if (offer.reads or offer.ranges) and offer.at > state.revision:
        yield Failure("future", "", 0, f"at {offer.at} is beyond revision {state.revision}")
        return
    for key in offer.reads:
        mod = state.mod(key)
        if mod > offer.at:
            yield Failure("read", key, mod, f"{key!r} was read at {offer.at} but modified at {mod}")
    for start, end in offer.ranges:
        for key in state.keys(start, end):
            mod = state.mod(key)
            if mod > offer.at:
                text = f"{key!r} of range [{start!r}, {end!r}) read at {offer.at} was modified at {mod}"
                yield Failure("range", key, mod, text)
    for key, expected in offer.expect:
        record = state.get(key)
        present = record.mod if record else 0
        if present != expected:
            yield Failure("expect", key, present, f"{key!r} is at {present}, not at {expected}")


class _Overlay:
    """A state with the earlier mutations of the same offer on top."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.effects = Effects()

    def value(self, key: str) -> str | None:
        if key in self.effects.changes:
            return self.effects.changes[key].value
        record = self.state.get(key)
        return record.value if record else None

    def lease(self, key: str) -> int:
        if key in self.effects.changes:
            return self.effects.changes[key].lease
        record = self.state.get(key)
        return record.lease if record else 0

    def put(self, key: str, value: str | None, lease: int = 0, *, computed: bool = False) -> None:
        self.effects.changes[key] = Change(key, value, lease)
        if value is None:
            self.effects.deleted.add(key)
        (self.effects.computed.add if computed else self.effects.computed.discard)(key)

    def revision(self, key: str) -> int:
        record = None if key in self.effects.changes else self.state.get(key)
        return record.mod if record else 0

    def live_keys(self, start: str, end: str) -> list[str]:
        keys = {key for key, _ in self.state.scan(start, end)}
        keys |= {key for key in self.effects.changes if start <= key and (not end or key < end)}
        return sorted(key for key in keys if self.value(key) is not None)

    def lease_exists(self, lease: int) -> bool:
        if lease in self.effects.granted:
            return True
        return lease not in self.effects.revoked and self.state.lease_exists(lease)


def effects_of(offer: OfferAsked, state: State) -> Effects | Failure:
    """Apply the mutations of ``offer`` in order; the first that cannot be is the failure."""
    overlay = _Overlay(state)
    for mutation in offer.mutations:
        failure = _mutate(overlay, mutation)
        if failure is not None:
            return failure
    return overlay.effects


def _mutate(overlay: _Overlay, m: Mapping[str, Any]) -> Failure | None:
    if "put" in m:
        lease = m.get("lease", 0)
        if lease and not overlay.lease_exists(lease):
            return Failure("lease", m["put"], overlay.revision(m["put"]), f"lease {lease} does not exist")
        overlay.put(m["put"], m["value"], lease)
    elif "delete" in m:
        if overlay.value(m["delete"]) is not None:
            overlay.put(m["delete"], None)
    elif "delete_range" in m:
        for key in overlay.live_keys(*m["delete_range"]):
            overlay.put(key, None)
    elif "adjust" in m:
        return _adjust(overlay, m)
    elif "add" in m:
        return _members(overlay, m["add"], m, add=True)
    elif "remove" in m:
        return _members(overlay, m["remove"], m, add=False)
    elif "lease_grant" in m:
        lease = m["lease_grant"]
        # One offer does not end a lease and renew it.
        if overlay.lease_exists(lease) or lease in overlay.effects.revoked:
            return Failure("lease", "", 0, f"lease {lease} exists already")
        overlay.effects.granted.add(lease)
    elif "lease_revoke" in m:
        return _revoke(overlay, m["lease_revoke"])
    else:
        raise HistoryInvalid(f"unknown mutation {sorted(m)}")
    return None


def _revoke(overlay: _Overlay, lease: int) -> Failure | None:
    if not overlay.lease_exists(lease):
        return Failure("lease", "", 0, f"lease {lease} does not exist")
    for key in overlay.live_keys("", ""):
        if overlay.lease(key) == lease:
            overlay.put(key, None)
    overlay.effects.revoked.add(lease)
    overlay.effects.granted.discard(lease)
    return None


def _map_at(overlay: _Overlay, key: str) -> dict[Any, Any] | Failure:
    value = overlay.value(key)
    if value is None:
        return Failure("absent", key, overlay.revision(key), f"{key!r} is absent")
    decoded = decode(value)
    if not isinstance(decoded, dict):
        return Failure("type", key, overlay.revision(key), f"{key!r} is not a map")
    return decoded


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _adjust(overlay: _Overlay, m: Mapping[str, Any]) -> Failure | None:
    key = m["adjust"]
    found = _map_at(overlay, key)
    if isinstance(found, Failure):
        return found
    mod = overlay.revision(key)
    for name, delta in m["deltas"].items():
        present = found.get(name, 0)
        if not _number(present):
            return Failure("type", key, mod, f"field {name!r} of {key!r} is {present!r}, not a number")
        result = present + delta
        low = m.get("minimum", {}).get(name, INT_MIN)
        high = m.get("maximum", {}).get(name, INT_MAX)
        if not low <= result <= high or (isinstance(result, int) and not INT_MIN <= result <= INT_MAX):
            text = f"field {name!r} of {key!r} would go from {present} to {result}, outside {low}..{high}"
            return Failure("bounds", key, mod, text)
        found[name] = result
    overlay.put(key, encode(found), overlay.lease(key), computed=True)
    return None


def _members(overlay: _Overlay, key: str, m: Mapping[str, Any], *, add: bool) -> Failure | None:
    found = _map_at(overlay, key)
    if isinstance(found, Failure):
        return found
    mod = overlay.revision(key)
    present = found.get(m["field"], [])
    if not isinstance(present, list):
        return Failure("type", key, mod, f"field {m['field']!r} of {key!r} is not a set")
    for member in m["members"]:
        if add == (member in present):
            state = "already in" if add else "not in"
            return Failure("set", key, mod, f"{member!r} is {state} {m['field']!r} of {key!r}")
        if add:
            present.append(member)
        else:
            present.remove(member)
    found[m["field"]] = sorted(present, key=lambda member: (isinstance(member, str), member))
    overlay.put(key, encode(found), overlay.lease(key), computed=True)
    return None


def same_value(expected: str | None, actual: str | None, *, computed: bool) -> bool:
    """Compare a value that the model made with one that the journal made."""
    if not computed or expected is None or actual is None:
        return expected == actual
    same: bool = _canonical(decode(expected)) == _canonical(decode(actual))
    return same


def _canonical(value: Any) -> Any:
    """Sets have no order: compare lists sorted."""
    if isinstance(value, dict):
        return {name: _canonical(item) for name, item in value.items()}
    if isinstance(value, list):
        return sorted((_canonical(item) for item in value), key=repr)
    return value
