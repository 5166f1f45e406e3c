"""Reads at a chosen consistency, from any node, never backwards.

A read that begins after the client has seen revision R must not be answered from before R.
Linearizable reads have that from the journal, unless a node lies; the others ask for it, or
are refused and asked again where the answer turns out to be older. Reads at a named
revision are exempt: they are about the past on purpose.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from journal.client.gather import Gather
from journal.client.router import Router, StaleAnswer
from journal.connection import (
    LINEARIZABLE,
    LOCAL,
    Connection,
    Consistency,
    GetReply,
    Level,
    ScanReply,
    at_least,
)
from journal.errors import ProtocolViolation, RevisionInFuture
from journal.types import Revision
from journal.versions import Record

PAGE_KEYS_MAX = 10_000


class Reads:
    """Get and scan over a router."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._gather = Gather(self.get_many)

    async def get(
        self, key: bytes, at: int | None, consistency: Consistency, timeout_s: float | None
    ) -> Record | None:
        """Return the record of ``key``. It may travel with other gets."""
        if at is not None:
            return (await self.get_many([key], at, consistency, timeout_s)).records[0]
        return await self._gather.get(key, consistency, timeout_s)

    async def get_many(
        self, keys: Sequence[bytes], at: int | None, consistency: Consistency, timeout_s: float | None
    ) -> GetReply:
        """Return the records of ``keys``, all at one revision."""
        revision = None if at is None else Revision(at)
        level = self._level(revision, consistency)
        floor = self._floor(level)

        async def call(connection: Connection) -> GetReply:
            with _BehindNode(self._router, revision):
                reply = await connection.get(keys, at=revision, consistency=level)
                if reply.revision < floor and revision is None:
                    self._refuse_stale(connection, reply.revision, floor, level)
                    reply = await connection.get(keys, at=None, consistency=at_least(floor))
            self._check(connection, reply.revision, revision, floor)
            if len(reply.records) != len(keys):
                raise ProtocolViolation(
                    f"{connection.endpoint} answered {len(keys)} keys with {len(reply.records)} records"
                )
            return reply

        return await self._router.anywhere(call, timeout_s, leader_first=level.level is Level.LINEARIZABLE)

    async def page(
        self,
        start: bytes,
        end: bytes,
        at: int | None,
        consistency: Consistency,
        limit_keys: int,
        timeout_s: float | None,
    ) -> ScanReply:
        """Return one page of a range."""
        revision = None if at is None else Revision(at)
        level = self._level(revision, consistency)
        floor = self._floor(level)

        async def ask(connection: Connection, wanted: Consistency) -> ScanReply:
            return await connection.scan(start, end, at=revision, consistency=wanted, limit_keys=limit_keys)

        async def call(connection: Connection) -> ScanReply:
            with _BehindNode(self._router, revision):
                reply = await ask(connection, level)
                if reply.revision < floor and revision is None:
                    self._refuse_stale(connection, reply.revision, floor, level)
                    reply = await ask(connection, at_least(floor))
            self._check(connection, reply.revision, revision, floor)
            return reply

        return await self._router.anywhere(call, timeout_s, leader_first=level.level is Level.LINEARIZABLE)

    def pages(
        self,
        start: bytes,
        end: bytes,
        at: int | None,
        consistency: Consistency,
        limit: int | None,
        timeout_s: float | None,
    ) -> Pages:
        """Iterate over the pages of a range. ``timeout_s`` is for each page."""
        return Pages(self, start, end, at, consistency, limit, timeout_s)

    async def scan(
        self,
        start: bytes,
        end: bytes,
        at: int | None,
        consistency: Consistency,
        limit: int | None,
        timeout_s: float | None,
    ) -> ScanReply:
        """Return a whole range, or its first ``limit`` keys, as one page."""
        found: ScanReply | None = None
        async for page in self.pages(start, end, at, consistency, limit, timeout_s):
            if found is not None:
                found.items.extend(page.items)
                page = page._replace(items=found.items)
            found = page
        assert found is not None
        return found

    async def revision(self, consistency: Consistency, timeout_s: float | None) -> Revision:
        """Return the present revision."""
        return (await self.get_many([], None, consistency, timeout_s)).revision

    # -- never backwards ------------------------------------------------------------

    def _level(self, at: Revision | None, consistency: Consistency) -> Consistency:
        """What a node has to be asked for.

        To read the past, a node must have got there. If the client knows that the journal has,
        the node is told to wait for it; if not, a linearizable read tells whether it has.
        """
        if at is None:
            return consistency
        return at_least(at) if at <= self._router.seen else LINEARIZABLE

    def _floor(self, consistency: Consistency) -> Revision:
        """The oldest revision at which an answer is believed."""
        return max(self._router.seen, consistency.revision)

    def _refuse_stale(
        self, connection: Connection, revision: Revision, floor: Revision, level: Consistency
    ) -> None:
        """An answer is too old. A local one is asked for again, as the node did nothing wrong."""
        if level != LOCAL:
            raise StaleAnswer(
                f"{connection.endpoint} answered at revision {revision}, but {floor} was seen before"
            )
        self._router.counters.stale_answers += 1

    def _check(
        self, connection: Connection, revision: Revision, at: Revision | None, floor: Revision
    ) -> None:
        if at is not None:
            if revision != at:
                raise ProtocolViolation(
                    f"{connection.endpoint} answered at revision {revision} in place of {at}"
                )
        elif revision < floor:
            raise StaleAnswer(
                f"{connection.endpoint} answered at revision {revision}, but {floor} was seen before"
            )
        else:
            self._router.saw(revision)


class Pages:
    """The pages of a range, all of one revision, whichever nodes they come from.

    An iterator that holds nothing open between two pages, so that it may be left at any point.
    """

    def __init__(
        self,
        reads: Reads,
        start: bytes,
        end: bytes,
        at: int | None,
        consistency: Consistency,
        limit: int | None,
        timeout_s: float | None,
    ) -> None:
        self._reads = reads
        self._position: bytes | None = start
        self._end = end
        self._at = at
        self._consistency = consistency
        self._left = sys.maxsize if limit is None else limit
        self._timeout_s = timeout_s

    def __aiter__(self) -> Pages:
        return self

    async def __anext__(self) -> ScanReply:
        position = self._position
        if position is None:
            raise StopAsyncIteration
        wanted = min(self._left, PAGE_KEYS_MAX)
        page = await self._reads.page(
            position, self._end, self._at, self._consistency, wanted, self._timeout_s
        )
        if page.next_key is not None and (page.next_key <= position or not page.items):
            raise ProtocolViolation(f"a scan does not get on: its next page starts at {page.next_key!r}")
        self._left -= len(page.items)
        self._at = page.revision
        self._position = page.next_key if self._left > 0 else None
        return page


class _BehindNode:
    """Turn "in the future" into "another node" where the client knows that the journal is there."""

    def __init__(self, router: Router, at: Revision | None) -> None:
        self._router = router
        self._at = at

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RevisionInFuture) and error.asked <= self._router.seen:
            raise StaleAnswer(f"this node is behind: {error}") from error
