"""A journal that is a dictionary: what an offer means, written as plainly as it can be.

The tests of the cluster's rules run on it, so that they show what the *offers* guarantee;
it shares no code with ``journal.space``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from cluster.state import ClusterState
from journal.offers import (
    Adjust,
    Delete,
    DeleteRange,
    LeaseGrant,
    LeaseRevoke,
    Offer,
    Put,
    SetAdd,
    SetRemove,
)
from journal.types import Revision


@dataclass(frozen=True)
class NaiveChange:
    key: bytes
    value: bytes | None
    lease: int = 0


@dataclass(frozen=True)
class NaiveCommit:
    revision: Revision
    changes: tuple[NaiveChange, ...]
    label: str = ""


class Refused(Exception):
    """The offer was rejected."""


class NaiveJournal:
    def __init__(self) -> None:
        self.revision = Revision(0)
        self.values: dict[bytes, bytes] = {}
        self.modified: dict[bytes, Revision] = {}
        """Of every key that ever was; a deleted one's is that of its deletion."""
        self.leases: dict[int, set[bytes]] = {}
        self.commits: list[NaiveCommit] = []

    def offer(self, offer: Offer) -> Revision:
        """Commit it. Raises ``Refused``."""
        for key in offer.reads:
            if self.modified.get(key, 0) > offer.at:
                raise Refused(f"READ {key!r}")
        for start, end in offer.ranges:
            if any(start <= k and (not end or k < end) and m > offer.at for k, m in self.modified.items()):
                raise Refused("RANGE")
        for key, revision in offer.expect:
            if (self.modified[key] if key in self.values else 0) != revision:
                raise Refused(f"EXPECT {key!r}")
        values, leases = dict(self.values), {lease: set(bound) for lease, bound in self.leases.items()}
        changes: list[NaiveChange] = []
        for mutation in offer.mutations:
            changes.extend(_apply(mutation, values, leases))
        self.values, self.leases = values, leases
        self.revision = Revision(self.revision + 1)
        for change in changes:
            self.modified[change.key] = self.revision
        self.commits.append(NaiveCommit(self.revision, tuple(changes), offer.label))
        return self.revision

    def state(self) -> ClusterState:
        """Return the cluster's state at the present revision, from a snapshot."""
        state = ClusterState()
        state.load(((k, v, self.modified[k]) for k, v in sorted(self.values.items())), self.revision)
        return state

    def followed(self) -> ClusterState:
        """Return the same, from the commits one by one."""
        state = ClusterState()
        for commit in self.commits:
            state.apply(commit)
        return state


def _apply(
    mutation: object, values: dict[bytes, bytes], leases: dict[int, set[bytes]]
) -> Iterator[NaiveChange]:
    match mutation:
        case Put(key, value, lease):
            for bound in leases.values():
                bound.discard(key)
            if lease:
                if lease not in leases:
                    raise Refused("LEASE")
                leases[lease].add(key)
            values[key] = value
            yield NaiveChange(key, value, lease)
        case Delete(key):
            if values.pop(key, None) is not None:
                yield NaiveChange(key, None)
        case DeleteRange(start, end):
            yield from _delete((k for k in sorted(values) if start <= k and (not end or k < end)), values)
        case Adjust(key, deltas, minimum, maximum):
            record = _map(key, values)
            for name, delta in deltas.items():
                record[name] = record.get(name, 0) + delta
                if record[name] < minimum.get(name, record[name]):
                    raise Refused(f"BOUNDS {name}")
                if record[name] > maximum.get(name, record[name]):
                    raise Refused(f"BOUNDS {name}")
            values[key] = msgpack.packb(record)
            yield NaiveChange(key, values[key])
        case SetAdd(key, name, members):
            record = _map(key, values)
            record.setdefault(name, [])
            for member in members:
                if member in record[name]:
                    raise Refused(f"SET {member}")
                record[name].append(member)
            values[key] = msgpack.packb(record)
            yield NaiveChange(key, values[key])
        case SetRemove(key, name, members):
            record = _map(key, values)
            for member in members:
                if member not in record.get(name, []):
                    raise Refused(f"SET {member}")
                record[name].remove(member)
            values[key] = msgpack.packb(record)
            yield NaiveChange(key, values[key])
        case LeaseGrant(lease, _):
            if lease in leases:
                raise Refused("LEASE")
            leases[lease] = set()
        case LeaseRevoke(lease):
            if lease not in leases:
                raise Refused("LEASE")
            yield from _delete(sorted(leases.pop(lease)), values)


def _delete(keys: Iterable[bytes], values: dict[bytes, bytes]) -> Iterator[NaiveChange]:
    for key in list(keys):
        del values[key]
        yield NaiveChange(key, None)


def _map(key: bytes, values: dict[bytes, bytes]) -> dict[str, Any]:
    if key not in values:
        raise Refused(f"ABSENT {key!r}")
    record: dict[str, Any] = msgpack.unpackb(values[key])
    return record
