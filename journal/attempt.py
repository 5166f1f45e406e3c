"""The mutations of one offer, tried on the side, and then made real as a whole or dropped. PURE.

Part of the fold: ``space`` makes an ``Attempt`` for every offer but the plainest (one put without a
lease), of which nothing remains if one of its mutations cannot be made. Each mutation sees what
the ones before it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from journal.limits import (
    FOLD_BINDINGS_MAX,
    FOLD_DELETE_RANGE_KEYS_MAX,
    FOLD_LEASE_KEYS_MAX,
    FOLD_LEASES_MAX,
    FOLD_SCAN_RECORDS_MAX,
)
from journal.mutations import Refused, adjust, set_add, set_remove
from journal.offers import (
    ADJUST,
    DELETE,
    DELETE_RANGE,
    LEASE_GRANT,
    PUT,
    SET_ADD,
    Reason,
    Rejected,
)
from journal.storage import Write
from journal.versions import ABSENT, Stored, Superseded, succeed, value_of

if TYPE_CHECKING:
    from journal.space import Space


class Attempt:
    """The mutations of one offer, tried on the side: committed as a whole, or dropped."""

    __slots__ = ("_bound", "_leases", "_space", "_staged", "computed", "revision")

    def __init__(self, space: Space, revision: int) -> None:
        self.revision = revision
        self.computed: list[list[Any]] = []
        """[mutation index, result], as in ``commits``."""
        self._space = space
        self._staged: dict[bytes, Stored] = {}
        self._leases: dict[int, int] = {}  # lease -> ttl in ms; 0: revoked
        self._bound: dict[int, int] = {}  # lease -> keys that this offer binds to it

    def apply(self, mutations: Sequence[Sequence[Any]]) -> Rejected | None:
        """Try all mutations in order; return the receipt of the first that cannot be made."""
        for index, mutation in enumerate(mutations):
            try:
                self._apply(index, mutation)
            except Refused as refused:
                key = mutation[1] if mutation[0] < LEASE_GRANT else b""
                if refused.reason is Reason.LEASE:
                    assert type(refused.actual) is int
                    found = self._space.leases.get(refused.actual)
                    revision = found.granted_revision if found else 0
                else:
                    record = self._current(key) if key else ABSENT
                    revision = record[1] if record[2] and record[1] < self.revision else 0
                return Rejected(
                    refused.reason,
                    f"mutations[{index}]",
                    key,
                    revision,
                    actual=refused.actual,
                    field=refused.field,
                )
        return None

    def _apply(self, index: int, mutation: Sequence[Any]) -> None:
        kind = mutation[0]
        if kind == PUT:
            self._put(mutation[1], mutation[2], mutation[3])
        elif kind == DELETE:
            if self._current(mutation[1])[2]:
                self._bury(mutation[1])
            else:
                self.computed.append([index, None])
        elif kind == DELETE_RANGE:
            self._delete(index, self._keys_in(mutation[1], mutation[2]))
        elif kind == LEASE_GRANT:
            self._grant(mutation[1], mutation[2])
        elif kind > LEASE_GRANT:
            self._revoke(index, mutation[1])
        else:
            self._compute(index, mutation)

    def commit(self, superseded: list[Superseded], writes: list[Write]) -> None:
        """Make the attempt real."""
        space = self._space
        versions, leases, revision = space.versions, space.lease_table, self.revision
        for lease, ttl_ms in self._leases.items():
            if ttl_ms and lease not in leases.leases:
                leases.grant(lease, ttl_ms, revision, writes)
        for key, record in self._staged.items():
            old = versions.current(key)
            if record is old:
                continue
            if old[2] or old[1] > space.compacted:
                superseded.append((key, revision, old))
            if old[3] != record[3]:
                leases.rebind(key, old[3], record[3], writes)
            versions.young[key] = space.changed.records[key] = record
        for lease, ttl_ms in self._leases.items():
            if not ttl_ms and lease in leases.leases:
                leases.revoke(lease, writes)

    # -- keys -----------------------------------------------------------------------

    def _current(self, key: bytes) -> Stored:
        return self._staged.get(key) or self._space.versions.current(key)

    def _stage(self, key: bytes, value: bytes, lease: int) -> None:
        """Give ``key`` a new record. Several mutations of a key in one offer make one version."""
        old = self._space.versions.current(key)
        create, modified, version = self._current(key)[:3]
        if not version:
            create, version = self.revision, 1
        elif modified != self.revision:
            version += 1
        compacted = self._space.compacted
        self._staged[key] = succeed(old, create, self.revision, version, lease, value, compacted)

    def _bury(self, key: bytes) -> None:
        """Give ``key`` a tombstone; where this very offer made it, nothing remains to bury."""
        old = self._space.versions.current(key)
        if old[2]:
            old = succeed(old, 0, self.revision, 0, 0, b"", self._space.compacted)
        self._staged[key] = old

    def _put(self, key: bytes, value: bytes, lease: int) -> None:
        if lease and self._current(key)[3] != lease:
            self._bind(lease)
        self._stage(key, value, lease)

    def _compute(self, index: int, mutation: Sequence[Any]) -> None:
        kind, key = mutation[0], mutation[1]
        record = self._current(key)
        if not record[2]:
            raise Refused(Reason.ABSENT)
        present = value_of(record)
        if kind == ADJUST:
            value = adjust(present, mutation[2], mutation[3], mutation[4])
        elif kind == SET_ADD:
            value = set_add(present, mutation[2], mutation[3])
        else:
            value = set_remove(present, mutation[2], mutation[3])
        self._stage(key, value, record[3])
        self.computed.append([index, [value, record[3]]])

    def _keys_in(self, start: bytes, end: bytes) -> list[bytes]:
        """Return the live keys of the range, sorted."""
        space = self._space
        staged = sorted(key for key in self._staged if key >= start and (not end or key < end))
        extra = space.changed.within(start, end)
        if staged:
            extra = sorted({*staged, *extra})
        found: list[bytes] = []
        looked = 0
        for key, newest in space.versions.scan_current(start, end, extra):
            record = self._staged.get(key, newest)
            if record[2]:
                found.append(key)
                if len(found) > FOLD_DELETE_RANGE_KEYS_MAX:
                    raise Refused(Reason.LIMIT, "FOLD_DELETE_RANGE_KEYS_MAX")
            elif record[1] > space.compacted:
                looked += 1
                if looked > FOLD_SCAN_RECORDS_MAX:
                    raise Refused(Reason.LIMIT, "FOLD_SCAN_RECORDS_MAX")
        return found

    def _delete(self, index: int, keys: list[bytes]) -> None:
        for key in keys:
            self._bury(key)
        self.computed.append([index, keys])

    # -- leases ---------------------------------------------------------------------

    def _exists(self, lease: int) -> bool:
        staged = self._leases.get(lease)
        return lease in self._space.leases if staged is None else staged > 0

    def _bind(self, lease: int) -> None:
        """Count one more key for ``lease``; counted per offer, so it may err to the safe side."""
        if not self._exists(lease):
            raise Refused(Reason.LEASE, actual=lease)
        bound = self._bound[lease] = self._bound.get(lease, 0) + 1
        found = self._space.leases.get(lease)
        if bound + (len(found.keys) if found else 0) > FOLD_LEASE_KEYS_MAX:
            raise Refused(Reason.LIMIT, "FOLD_LEASE_KEYS_MAX")
        if self._space.lease_table.bindings + sum(self._bound.values()) > FOLD_BINDINGS_MAX:
            raise Refused(Reason.LIMIT, "FOLD_BINDINGS_MAX")

    def _grant(self, lease: int, ttl_ms: int) -> None:
        # An id that this offer has revoked stays taken: one offer does not end a lease and renew it.
        if lease in self._leases or lease in self._space.leases:
            raise Refused(Reason.LEASE, actual=lease)
        if len(self._space.leases) + len(self._leases) >= FOLD_LEASES_MAX:
            raise Refused(Reason.LIMIT, "FOLD_LEASES_MAX")
        self._leases[lease] = ttl_ms

    def _revoke(self, index: int, lease: int) -> None:
        if not self._exists(lease):
            raise Refused(Reason.LEASE, actual=lease)
        found = self._space.leases.get(lease)
        keys = {key for key in (found.keys if found else ()) if self._current(key)[3] == lease}
        keys.update(key for key, record in self._staged.items() if record[3] == lease)
        self._delete(index, sorted(keys))
        self._leases[lease] = 0
