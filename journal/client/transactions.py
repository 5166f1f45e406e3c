"""Transactions: read, decide, write; committed only if what was read still holds.

All reads of one run are made at one revision and tracked, keys and ranges; the writes wait
until the function returns and go as one offer, conditioned on what was read. So the function
may run several times, and must have no effect but through its transaction.

A transaction that writes nothing needs no offer: its reads are one consistent picture, taken
at a linearizable revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from journal.client.reads import Reads
from journal.connection import LINEARIZABLE, Consistency, at_least
from journal.errors import InvalidRequest
from journal.offers import (
    Adjust,
    Delete,
    DeleteRange,
    Member,
    Mutation,
    Number,
    Offer,
    Put,
    Reason,
    SetAdd,
    SetRemove,
)
from journal.types import Revision

if TYPE_CHECKING:
    from journal.versions import Record

RETRIED = frozenset({Reason.READ, Reason.RANGE, Reason.COMPACTED, Reason.FUTURE})
"""Rejections that reading again may cure. The others (bounds, a missing key) are about what the
function wanted, not about what it had read, and would come again."""


@dataclass(slots=True)
class _Written:
    """What this transaction will have written at a key: a value, or nothing (deleted)."""

    value: bytes | None
    lease: int = 0
    computed: bool = False  # adjusted: the result is only known once it is committed


@dataclass(slots=True)
class Transaction:
    """One run of a function given to ``transact``. Reads see the transaction's own writes."""

    _reads: Reads
    _consistency: Consistency
    _timeout_s: float | None
    label: str = ""
    """Shown to whoever conflicts with this transaction."""
    revision: Revision | None = None
    """Where its reads are made; None until the first. After the commit: the commit's own."""
    _keys: dict[bytes, Record | None] = field(default_factory=dict)
    _ranges: dict[tuple[bytes, bytes], None] = field(default_factory=dict)
    _mutations: list[Mutation] = field(default_factory=list)
    _written: dict[bytes, _Written] = field(default_factory=dict)
    _deleted_ranges: list[tuple[bytes, bytes]] = field(default_factory=list)

    # -- reads ----------------------------------------------------------------------

    async def get(self, key: bytes) -> bytes | None:
        """Return the value of ``key``, or None if it is absent."""
        written = self._own(key)
        if written is not None:
            if written.computed:
                raise InvalidRequest("transaction", f"{key!r} was adjusted here: read it before that")
            return written.value
        record = await self.record(key)
        return None if record is None else record.value

    async def record(self, key: bytes) -> Record | None:
        """Return the record of ``key`` as it was before this transaction, with its revisions."""
        if key not in self._keys:
            reply = await self._reads.get_many([key], self.revision, self._level(), self._timeout_s)
            self.revision = reply.revision
            self._keys[key] = reply.records[0]
        return self._keys[key]

    async def scan(self, start: bytes, end: bytes, limit: int | None = None) -> list[tuple[bytes, bytes]]:
        """Return (key, value) of start <= key < end in order (``end=b""``: no upper bound).

        All of the range counts as read; with a ``limit`` only the part that was looked at.
        """
        # Own deletions may hide keys of the base, so a limit has to look further by as many.
        hidden = len(self._written) if limit is not None else 0
        base_limit = None if limit is None or self._deleted_ranges else limit + hidden
        reply = await self._reads.scan(start, end, self.revision, self._level(), base_limit, self._timeout_s)
        self.revision = reply.revision
        looked_at = end if reply.next_key is None else reply.next_key
        if not looked_at or start < looked_at:
            self._ranges[start, looked_at] = None
        found: dict[bytes, bytes] = {}
        for key, record in reply.items:
            if self._own(key) is None and record.value is not None:
                found[key] = record.value
        for key, written in self._written.items():
            if start <= key and (not looked_at or key < looked_at):
                if written.computed:
                    raise InvalidRequest("transaction", f"{key!r} was adjusted here: read it before that")
                if written.value is not None:
                    found[key] = written.value
        return sorted(found.items())[:limit]

    def _level(self) -> Consistency:
        return self._consistency if self.revision is None else at_least(self.revision)

    def _own(self, key: bytes) -> _Written | None:
        written = self._written.get(key)
        if written is None:
            for start, end in self._deleted_ranges:
                if start <= key and (not end or key < end):
                    return _Written(None)
        return written

    # -- writes ---------------------------------------------------------------------

    def put(self, key: bytes, value: bytes, *, lease: int = 0) -> None:
        """Set ``key``, bound to ``lease`` if one is given."""
        self._mutations.append(Put(key, value, lease))
        self._written[key] = _Written(value, lease)

    def delete(self, key: bytes) -> None:
        """Delete ``key``; no fault if it is absent."""
        self._mutations.append(Delete(key))
        self._written[key] = _Written(None)

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete every key of start <= key < end (``end=b""``: no upper bound)."""
        self._mutations.append(DeleteRange(start, end))
        for key in self._written:
            if start <= key and (not end or key < end):
                self._written[key] = _Written(None)
        self._deleted_ranges.append((start, end))

    def adjust(
        self,
        key: bytes,
        deltas: Mapping[str, Number],
        *,
        minimum: Mapping[str, Number] | None = None,
        maximum: Mapping[str, Number] | None = None,
    ) -> None:
        """Add to numeric fields of the map at ``key``, within bounds; conflicts with nobody."""
        self._mutations.append(Adjust(key, deltas, minimum or {}, maximum or {}))
        self._written[key] = _Written(None, computed=True)

    def set_add(self, key: bytes, field_name: str, *members: Member) -> None:
        """Add members to a set field; rejected if one is there."""
        self._mutations.append(SetAdd(key, field_name, members))
        self._written[key] = _Written(None, computed=True)

    def set_remove(self, key: bytes, field_name: str, *members: Member) -> None:
        """Remove members from a set field; rejected if one is not there."""
        self._mutations.append(SetRemove(key, field_name, members))
        self._written[key] = _Written(None, computed=True)

    # -- the offer --------------------------------------------------------------------

    def offer(self) -> Offer | None:
        """Return the offer that this run amounts to; None if it wrote nothing."""
        if not self._mutations:
            return None
        return Offer(
            mutations=tuple(self._mutations),
            reads=tuple(self._keys),
            ranges=tuple(self._ranges),
            at=self.revision or 0,
            label=self.label,
        )


def new_transaction(reads: Reads, timeout_s: float | None, label: str) -> Transaction:
    """Return a transaction whose first read decides its revision, linearizably."""
    return Transaction(reads, LINEARIZABLE, timeout_s, label)
