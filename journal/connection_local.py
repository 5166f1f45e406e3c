"""A connection straight to a ``Node`` in the same thread, for tests and simulation.

It does what the gRPC edge does, without bytes in between: barriers before reads, the loop of
a tail, the filter of prefixes. So a client, a node and everything between them can run in
one thread on virtual time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Generic, TypeVar

import trio

from journal.commits import Commit
from journal.connection import Connection, Consistency, GetReply, Level, NotSent, ScanReply, TailMessage
from journal.errors import InvalidRequest, JournalError, RevisionInFuture, Unavailable, WrongCluster
from journal.node import Node, NodeMember, NodeStatus
from journal.offers import Verdict
from journal.paxos.changes import MemberChange
from journal.snapshots.serve import SnapshotPart
from journal.types import NodeId, Revision, Slot

T = TypeVar("T")


class _Call(Generic[T]):
    """Waits for the callback of one of the node's methods. The caller may go before it comes."""

    __slots__ = ("_result", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._result: T | JournalError | None = None

    def reply(self, result: T | JournalError) -> None:
        assert self._result is None, "a node replies once"
        self._result = result
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    async def wait(self) -> T:
        if self._result is None:
            self._task = trio.lowlevel.current_task()

            def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
                self._task = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        else:
            await trio.lowlevel.checkpoint()
        result = self._result
        if isinstance(result, JournalError):
            raise result
        assert result is not None
        return result


class LocalConnection:
    """Implements ``journal.connection.Connection`` over a function that returns the node.

    The function is asked at each call, as the node may be another one after a restart; it
    returns None while there is none.
    """

    def __init__(self, endpoint: str, find: Callable[[], Node | None]) -> None:
        self._endpoint = endpoint
        self._find = find
        self._closed = False

    @property
    def endpoint(self) -> str:
        return self._endpoint

    def _node(self) -> Node:
        if self._closed:
            raise NotSent(f"the connection to {self._endpoint} is closed")
        node = self._find()
        if node is None:
            raise NotSent(f"no node runs at {self._endpoint}")
        return node

    async def submit(self, data: bytes) -> list[Verdict]:
        call: _Call[list[Verdict]] = _Call()
        self._node().submit(data, call.reply)
        return await call.wait()

    async def get(self, keys: Sequence[bytes], *, at: Revision | None, consistency: Consistency) -> GetReply:
        node = self._node()
        limit = node.config.limits.offer_operations_max
        if len(keys) > limit:
            raise InvalidRequest("keys", f"{len(keys)} keys is over offer_operations_max={limit}")
        await self._barrier(node, consistency)
        revision = _pinned(node, at)
        return GetReply(revision, [node.space.get(key, at=revision) for key in keys])

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        at: Revision | None,
        consistency: Consistency,
        limit_keys: int,
        limit_bytes: int = 0,
    ) -> ScanReply:
        node = self._node()
        if end and start >= end:
            raise InvalidRequest("range", f"start {start!r} is not below end {end!r}: the range is empty")
        limits = node.config.limits
        await self._barrier(node, consistency)
        revision = _pinned(node, at)
        page, next_key = node.space.page(
            start,
            end,
            at=revision,
            limit_keys=min(limit_keys, limits.scan_keys_max),
            limit_bytes=min(limit_bytes or limits.scan_bytes_max, limits.scan_bytes_max),
        )
        return ScanReply(revision, page, next_key)

    async def _barrier(self, node: Node, consistency: Consistency) -> Revision:
        call: _Call[Revision] = _Call()
        node.read_barrier(
            call.reply,
            at_least=consistency.revision or None,
            linearizable=consistency.level is Level.LINEARIZABLE,
        )
        return await call.wait()

    @asynccontextmanager
    async def tail(
        self, after: Revision, prefixes: Sequence[bytes], *, progress_interval_s: float = 1.0
    ) -> AsyncIterator[AsyncIterator[TailMessage]]:
        node = self._node()
        node.tails.opened()
        try:
            async with aclosing(
                self._messages(node, after, tuple(prefixes), progress_interval_s)
            ) as messages:
                yield messages
        finally:
            node.tails.closed()

    async def _messages(
        self, node: Node, after: Revision, prefixes: tuple[bytes, ...], progress_interval_s: float
    ) -> AsyncGenerator[TailMessage, None]:
        bytes_max = node.config.limits.tail_message_bytes_max
        while True:
            await trio.lowlevel.checkpoint()
            if self._closed or self._find() is not node:
                raise Unavailable(f"the node at {self._endpoint} has stopped")
            chunk = node.tails.read(after, bytes_max)
            found = filtered(chunk.commits, prefixes)
            yield TailMessage(chunk.first, chunk.last, found, node.tails.revision)
            after = chunk.last
            event = trio.Event()
            cancel = node.tails.wait(after, event.set)
            try:
                with trio.move_on_after(progress_interval_s):
                    await event.wait()
            finally:
                cancel()

    async def lease_keep_alive(self, lease: int) -> int:
        call: _Call[int] = _Call()
        self._node().keep_alive(lease, call.reply)
        return await call.wait()

    async def outcome(self, client: bytes, sequence: int) -> Verdict | None:
        node = self._node()
        call: _Call[Revision] = _Call()
        node.read_barrier(call.reply)
        await call.wait()
        return node.outcome(client, sequence)

    async def status(self) -> NodeStatus:
        await trio.lowlevel.checkpoint()
        return self._node().status()

    async def transfer_leadership(self, to: NodeId | None) -> None:
        call: _Call[NodeId] = _Call()
        self._node().transfer_leadership(to, call.reply)
        await call.wait()

    async def compact(self, revision: Revision) -> None:
        call: _Call[Revision] = _Call()
        self._node().compact(revision, call.reply)
        await call.wait()

    async def change_members(self, change: MemberChange) -> tuple[NodeMember, ...]:
        call: _Call[Revision] = _Call()
        node = self._node()
        node.change_members(change, call.reply)
        await call.wait()
        return node.newest_members

    async def chain(self, slot: Slot) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self._node().space.slots.chain_at(slot)

    async def read_snapshot(self, view: int, after: bytes) -> SnapshotPart:
        node = self._node()
        if not after:
            barrier: _Call[Revision] = _Call()
            node.read_barrier(barrier.reply)
            await barrier.wait()
        call: _Call[SnapshotPart] = _Call()
        node.read_snapshot(view, after, call.reply)
        return await call.wait()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._closed = True


class LocalConnector:
    """Implements ``journal.connection.Connector`` over a map of nodes that run in this thread.

    ``nodes`` may change while connections are open: an endpoint that is not in it is a node
    that is down.
    """

    def __init__(self, nodes: Mapping[str, Node], cluster: str | None = None) -> None:
        self._nodes = nodes
        self._cluster = cluster

    async def connect(self, endpoint: str) -> Connection:
        await trio.lowlevel.checkpoint()
        node = self._nodes.get(endpoint)
        if node is not None and self._cluster not in (None, node.config.cluster):
            raise WrongCluster(
                f"the node at {endpoint} is of cluster {node.config.cluster!r}, not {self._cluster!r}"
            )
        return LocalConnection(endpoint, lambda: self._nodes.get(endpoint))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def _pinned(node: Node, at: Revision | None) -> Revision:
    current = node.space.revision
    if at is not None and at > current:
        raise RevisionInFuture(at, current)
    return current if at is None else at


def filtered(commits: Sequence[Commit], prefixes: tuple[bytes, ...]) -> Sequence[Commit]:
    """Return the commits that touch a prefix, with only what they change there."""
    if not prefixes:
        return commits
    found = []
    for commit in commits:
        changes = tuple(change for change in commit.changes if change.key.startswith(prefixes))
        if len(changes) == len(commit.changes):
            found.append(commit)
        elif changes:
            found.append(commit._replace(changes=changes))
    return [commit for commit in found if commit.changes]
