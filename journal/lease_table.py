"""The leases of the space and the keys bound to them. PURE.

A lease ends by an offer (``LeaseRevoke``), never by a clock that the fold could read: when it is
over is decided by the leader (``leases``), what is over is decided here.
"""

from __future__ import annotations

from journal.storage import Write
from journal.storage.records import BINDING, LEASE, NUMBER, number_key, seal


class Lease:
    """A lease that was granted and not revoked."""

    __slots__ = ("granted_revision", "keys", "ttl_ms")

    def __init__(self, ttl_ms: int, granted_revision: int) -> None:
        self.ttl_ms = ttl_ms
        self.granted_revision = granted_revision
        self.keys: set[bytes] = set()
        """Bound keys. Sort them before iterating where order can be seen."""

    def __repr__(self) -> str:
        return (
            f"Lease(ttl_ms={self.ttl_ms}, granted_revision={self.granted_revision}, keys={sorted(self.keys)})"
        )


class LeaseTable:
    """All leases by id."""

    def __init__(self) -> None:
        self.leases: dict[int, Lease] = {}
        self.bindings = 0
        """Bound keys of all leases together."""

    def grant(self, lease: int, ttl_ms: int, revision: int, writes: list[Write]) -> None:
        self.leases[lease] = Lease(ttl_ms, revision)
        key = number_key(LEASE, lease)
        writes.append((key, seal(key, NUMBER.pack(ttl_ms) + NUMBER.pack(revision))))

    def revoke(self, lease: int, writes: list[Write]) -> None:
        """Forget a lease whose keys are unbound already."""
        gone = self.leases.pop(lease)
        assert not gone.keys, (lease, gone)
        writes.append((number_key(LEASE, lease), None))

    def rebind(self, key: bytes, old: int, new: int, writes: list[Write]) -> None:
        """Move ``key`` from lease ``old`` to lease ``new``; 0 is no lease."""
        if old:
            self.leases[old].keys.remove(key)
            self.bindings -= 1
            writes.append((binding_key(old, key), None))
        if new:
            self.leases[new].keys.add(key)
            self.bindings += 1
            record = binding_key(new, key)
            writes.append((record, seal(record, b"")))

    def restore_lease(self, lease: int, payload: bytes) -> None:
        self.leases[lease] = Lease(NUMBER.unpack_from(payload)[0], NUMBER.unpack_from(payload, 8)[0])

    def restore_binding(self, record: bytes) -> None:
        lease = NUMBER.unpack_from(record, 1)[0]
        self.leases[lease].keys.add(record[9:])
        self.bindings += 1


def binding_key(lease: int, key: bytes) -> bytes:
    return number_key(BINDING, lease) + key
