"""The naive twin: the space written for being right at a glance, not for being fast.

It keeps a full copy of all keys for every revision, and looks at everything each time. It shares
no code with ``journal.space`` but the verdict types. Where the two disagree, one has a bug.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import msgpack

from journal.offers import EXPIRED, Reason, Rejected, Verdict


@dataclass(frozen=True)
class Row:
    """A key at a revision."""

    create: int
    mod: int
    version: int
    lease: int
    value: bytes


@dataclass
class TwinSession:
    floor: int
    revision: int = 0
    opened: int = 0
    verdicts: dict[int, Verdict] = field(default_factory=dict)


class Refusal(Exception):
    def __init__(self, reason: Reason, **parts: Any) -> None:
        super().__init__(reason)
        self.reason = reason
        self.parts = parts


@dataclass
class TwinCommit:
    revision: int
    client: bytes
    sequence: int
    label: str
    changes: dict[bytes, tuple[bytes | None, int]]


class Twin:
    def __init__(self, *, sessions_max: int = 10_000, idle_max: int = 1_000_000) -> None:
        self.history: list[dict[bytes, Row]] = [{}]  # by revision
        self.modified: dict[bytes, int] = {}  # deletions count
        self.compacted = 0
        self.leases: dict[int, int] = {}  # id -> ttl
        self.granted: dict[int, int] = {}  # id -> revision, of all that ever were
        self.sessions: dict[bytes, TwinSession] = {}  # longest idle first
        self.forgotten_floor = 0
        self.sessions_max = sessions_max
        self.idle_max = idle_max
        self.commits: list[TwinCommit] = []

    @property
    def revision(self) -> int:
        return len(self.history) - 1

    @property
    def keys(self) -> dict[bytes, Row]:
        return self.history[-1]

    def compact(self, revision: int) -> None:
        self.compacted = max(self.compacted, min(revision, self.revision))

    def fold(self, batches: list[list[Any]]) -> list[list[Verdict]]:
        for client, session in list(self.sessions.items()):
            if session.revision < self.revision - self.idle_max:
                self._forget(client)
        return [self._batch(*batch) for batch in batches]

    def _forget(self, client: bytes) -> None:
        self.forgotten_floor = max(self.forgotten_floor, self.sessions.pop(client).revision + 1)

    def _batch(self, client: bytes, acked: int, base: int, offers: list[Any]) -> list[Verdict]:
        if not client:
            return [self._offer(client, offer) for offer in offers]
        if client not in self.sessions:
            if base < self.forgotten_floor:
                return [EXPIRED for _ in offers]
            self.sessions[client] = TwinSession(acked)
            self.sessions[client].opened = self.forgotten_floor
            if len(self.sessions) > self.sessions_max:
                self._forget(next(iter(self.sessions)))
        session = self.sessions[client]
        if base < session.opened:  # some are of before this client was forgotten
            known = [offer[0] if offer[0] >= session.floor else -1 for offer in offers]
            return [session.verdicts.get(sequence, EXPIRED) for sequence in known]
        session.floor = max(session.floor, acked)
        verdicts: list[Verdict] = []
        for offer in offers:
            sequence = offer[0]
            if sequence < session.floor:
                verdicts.append(EXPIRED)
                continue
            if sequence not in session.verdicts:
                session.verdicts[sequence] = self._offer(client, offer)
            verdicts.append(session.verdicts[sequence])
        session.revision = self.revision
        del self.sessions[client]
        self.sessions[client] = session
        return verdicts

    def outcome(self, client: bytes, sequence: int) -> Verdict | None:
        if client not in self.sessions:
            return None
        session = self.sessions[client]
        return EXPIRED if sequence < session.floor else session.verdicts.get(sequence)

    def _offer(self, client: bytes, offer: list[Any]) -> Verdict:
        sequence, label, at, reads, ranges, expect, mutations = offer
        if reads or ranges:
            # The order of checks is that of the fold: reads come before ranges.
            if at < self.compacted:
                return Rejected(Reason.COMPACTED, "at", revision=self.compacted)
            if at > self.revision:
                return Rejected(Reason.FUTURE, "at", revision=self.revision)
        for index, key in enumerate(reads):
            if self.modified.get(key, 0) > at:
                return Rejected(Reason.READ, f"reads[{index}]", key, self.modified[key])
        for index, (start, end) in enumerate(ranges):
            for key in sorted(self.modified):
                if start <= key and (not end or key < end) and self.modified[key] > at:
                    return Rejected(Reason.RANGE, f"ranges[{index}]", key, self.modified[key])
        for index, (key, expected) in enumerate(expect):
            present = self.keys[key].mod if key in self.keys else 0
            if present != expected:
                return Rejected(Reason.EXPECT, f"expect[{index}]", key, present)
        attempt = Attempt(self)
        for index, mutation in enumerate(mutations):
            try:
                attempt.apply(mutation)
            except Refusal as refusal:
                has_key = mutation[0] < 6
                row = attempt.keys.get(mutation[1]) if has_key else None
                revision = row.mod if row and row.mod <= self.revision else 0
                if refusal.reason is Reason.LEASE:
                    granted = self.granted.get(refusal.parts["actual"], 0)
                    revision = granted if refusal.parts["actual"] in self.leases else 0
                return Rejected(
                    refusal.reason,
                    f"mutations[{index}]",
                    mutation[1] if has_key else b"",
                    revision,
                    **refusal.parts,
                )
        self.history.append(attempt.keys)
        for lease in attempt.granted:
            self.granted[lease] = self.revision
        self.leases = attempt.leases
        for key in attempt.touched:
            if key in self.history[-2] or key in self.keys:  # not one that came and went within the offer
                self.modified[key] = self.revision
        self.commits.append(TwinCommit(self.revision, client, sequence, label, attempt.changes))
        return self.revision


class Attempt:
    def __init__(self, twin: Twin) -> None:
        self.revision = twin.revision + 1
        self.keys = dict(twin.keys)
        self.leases = dict(twin.leases)
        self.granted: list[int] = []
        self.ended: set[int] = set()
        self.touched: set[bytes] = set()
        self.changes: dict[bytes, tuple[bytes | None, int]] = {}

    def apply(self, mutation: list[Any]) -> None:
        kind, *parts = mutation
        [
            self.put,
            self.delete,
            self.delete_range,
            self.adjust,
            self.set_add,
            self.set_remove,
            self.grant,
            self.revoke,
        ][kind](*parts)

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        if lease and lease not in self.leases:
            raise Refusal(Reason.LEASE, actual=lease)
        self.write(key, value, lease)

    def write(self, key: bytes, value: bytes, lease: int) -> None:
        old = self.keys.get(key)
        if old is None:
            self.keys[key] = Row(self.revision, self.revision, 1, lease, value)
        else:
            version = old.version + (old.mod != self.revision)
            self.keys[key] = Row(old.create, self.revision, version, lease, value)
        self.touched.add(key)
        self.changes[key] = (value, lease)

    def delete(self, key: bytes) -> None:
        if key in self.keys:
            del self.keys[key]
            self.touched.add(key)
            self.changes[key] = (None, 0)

    def delete_range(self, start: bytes, end: bytes) -> None:
        for key in sorted(self.keys):
            if start <= key and (not end or key < end):
                self.delete(key)

    def load(self, key: bytes) -> dict[Any, Any]:
        if key not in self.keys:
            raise Refusal(Reason.ABSENT)
        try:
            fields = msgpack.unpackb(self.keys[key].value, strict_map_key=False)
        except Exception:
            raise Refusal(Reason.TYPE) from None
        if not isinstance(fields, dict):
            raise Refusal(Reason.TYPE)
        return fields

    def save(self, key: bytes, fields: dict[Any, Any]) -> None:
        self.write(key, msgpack.packb(fields), self.keys[key].lease)

    def adjust(self, key: bytes, deltas: Any, minimum: Any, maximum: Any) -> None:
        fields = self.load(key)
        for name, delta in deltas.items():
            old = fields.get(name, 0)
            if isinstance(old, bool) or not isinstance(old, int | float):
                raise Refusal(Reason.TYPE, field=name)
            new = old + delta
            fits = -(2**63) <= new < 2**63 if isinstance(new, int) else isfinite(new)
            if not fits or new < minimum.get(name, new) or new > maximum.get(name, new):
                raise Refusal(Reason.BOUNDS, field=name, actual=old)
            fields[name] = new
        self.save(key, fields)

    def set_add(self, key: bytes, name: str, members: Any) -> None:
        fields = self.load(key)
        found = fields.setdefault(name, [])
        if not isinstance(found, list):
            raise Refusal(Reason.TYPE, field=name)
        for member in members:
            if any(type(old) is type(member) and old == member for old in found):
                raise Refusal(Reason.SET, field=name, actual=member)
            found.append(member)
        self.save(key, fields)

    def set_remove(self, key: bytes, name: str, members: Any) -> None:
        fields = self.load(key)
        found = fields.setdefault(name, [])
        if not isinstance(found, list):
            raise Refusal(Reason.TYPE, field=name)
        for member in members:
            if not any(type(old) is type(member) and old == member for old in found):
                raise Refusal(Reason.SET, field=name, actual=member)
            found[:] = [old for old in found if not (type(old) is type(member) and old == member)]
        self.save(key, fields)

    def grant(self, lease: int, ttl_ms: int) -> None:
        if lease in self.leases or lease in self.ended:
            raise Refusal(Reason.LEASE, actual=lease)
        self.leases[lease] = ttl_ms
        self.granted.append(lease)

    def revoke(self, lease: int) -> None:
        if lease not in self.leases:
            raise Refusal(Reason.LEASE, actual=lease)
        for key in sorted(self.keys):
            if self.keys[key].lease == lease:
                self.delete(key)
        del self.leases[lease]
        self.ended.add(lease)
