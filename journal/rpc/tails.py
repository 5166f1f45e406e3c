"""Tails at the edge: read, filter, send, wait; a position and one message is all a tail holds.

A slow reader is simply read for less often (``journal.tail``). Tails that keep up all send
the same thing at the same time, so the last few messages are kept encoded for the others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgpack

from journal.errors import InvalidRequest, RevisionCompacted
from journal.limits import KEY_BYTES_MAX
from journal.offers import prefix_range
from journal.rpc.codec import pack_record
from journal.rpc.edge import Context, Edge
from journal.rpc.pb import journal_pb2 as pb
from journal.types import Revision

if TYPE_CHECKING:
    from journal.commits import Change, Commit
    from journal.tail import TailChunk

PREFIXES_MAX = 1_000
PROGRESS_MS_MIN = 100
UNTOLD_S = 0.02
"""So long a reader may wait to be told that what came was hidden from it by its filter."""
_ENCODED_MESSAGES_MAX = 16
_ENCODED_BYTES_MAX = 256 * 1024
_SNAPSHOT_KEYS = 500


class Tails:
    """Serves Tail."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._encoded: OrderedDict[tuple[object, ...], list[bytes]] = OrderedDict()

    async def stream(self, request: pb.TailRequest, context: Context) -> None:
        """Serve one tail until it is cancelled, or raise what ends it."""
        prefixes = _checked_prefixes(request.prefixes)
        hub = self._edge.node.tails
        hub.opened()
        try:
            await self._run(request, prefixes, context)
        finally:
            hub.closed()
            hub.positions.pop(context, None)

    async def _run(self, request: pb.TailRequest, prefixes: tuple[bytes, ...], context: Context) -> None:
        edge, node = self._edge, self._edge.node
        bytes_max = node.config.limits.tail_message_bytes_max
        progress_s = max(PROGRESS_MS_MIN, request.progress_ms or edge.limits.progress_ms) / 1000
        after = Revision(request.after)
        if request.snapshot == pb.SNAPSHOT_MODE_FIRST:
            await edge.barrier(request.consistency, request.at_least)
            after = await self._snapshot(prefixes, context)
        node.tails.positions[context] = after
        silent_for_long = True  # so a reader that has just come hears something at once
        told = after  # up to here the reader knows that it has everything
        untold_since = 0.0
        while not edge.closing.done():
            try:
                chunk = node.tails.read(after, bytes_max)
            except RevisionCompacted:
                if request.snapshot != pb.SNAPSHOT_MODE_IF_COMPACTED:
                    raise
                told = after = await self._snapshot(prefixes, context)
                continue
            if chunk.last > after:
                messages = self._messages(chunk, prefixes, request.packed, bytes_max)
                if messages and told < after:
                    await context.write(self._nothing(told, after))
                if not messages and told == after:
                    untold_since = edge.loop.time()
                for message in messages:
                    await context.write(message)
                after = node.tails.positions[context] = chunk.last
                told = after if messages else told
                silent_for_long = False
            # What the filter hides is told of together, soon: not with a message for each slot.
            if told < after:
                left_s = untold_since + UNTOLD_S - edge.loop.time()
                if left_s <= 0 or not await self._commit_within(left_s, after):
                    await context.write(self._nothing(told, after))
                    told = after
                continue
            if chunk.last > chunk.first - 1:
                continue
            if silent_for_long:
                await context.write(self._progress(after))
            silent_for_long = not await self._commit_within(progress_s, after)
        raise edge.stopping()

    async def _commit_within(self, seconds: float, after: Revision) -> bool:
        """Wait for a commit after ``after``; return whether there is one (or the node stops)."""
        edge = self._edge
        woken: asyncio.Future[bool] = edge.loop.create_future()

        def wake(commit: bool) -> None:
            if not woken.done():
                woken.set_result(commit)

        timer = edge.loop.call_later(seconds, wake, False)
        cancel = edge.node.tails.wait(after, lambda: wake(True))
        try:
            futures: set[asyncio.Future[Any]] = {woken, edge.closing}
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            return not woken.done() or woken.result()
        finally:
            timer.cancel()
            cancel()
            woken.cancel()

    def _progress(self, last: Revision) -> bytes:
        return pb.TailMessage(
            first=last + 1, last=last, current=self._edge.node.space.revision
        ).SerializeToString()

    def _nothing(self, told: Revision, last: Revision) -> bytes:
        """Between ``told`` and ``last`` there was nothing that the filter lets through."""
        current = self._edge.node.space.revision
        return pb.TailMessage(first=told + 1, last=last, current=current).SerializeToString()

    def _messages(
        self, chunk: TailChunk, prefixes: tuple[bytes, ...], packed: bool, bytes_max: int
    ) -> list[bytes]:
        """Return a chunk's messages, encoded: from the last few made, where they are there. None of them
        where the filter lets nothing through."""
        current = self._edge.node.space.revision
        key = (chunk.first, chunk.last, prefixes, packed, current)
        found = self._encoded.get(key)
        if found is None:
            found = [
                message.SerializeToString()
                for message in _encode(chunk, prefixes, packed, bytes_max, current)
            ]
            if sum(map(len, found)) <= _ENCODED_BYTES_MAX:
                self._encoded[key] = found
                if len(self._encoded) > _ENCODED_MESSAGES_MAX:
                    self._encoded.popitem(last=False)
        return found

    async def _snapshot(self, prefixes: tuple[bytes, ...], context: Context) -> Revision:
        """Send the space as it is now, page by page from one pinned revision; return that."""
        space, limits = self._edge.node.space, self._edge.node.config.limits
        revision = Revision(space.revision)
        begin = True
        ranges = _ranges(prefixes)
        for number, (start, end) in enumerate(ranges):
            position: bytes | None = start
            while position is not None:
                items, position = space.scan(position, end, revision, _SNAPSHOT_KEYS, limits.scan_bytes_max)
                last_page = position is None and number == len(ranges) - 1
                page = pb.SnapshotPage(
                    begin=begin,
                    end=last_page,
                    records=[pack_record(key, record) for key, record in items],
                )
                message = pb.TailMessage(
                    first=revision + 1, last=revision, current=space.revision, snapshot=page
                )
                await context.write(message.SerializeToString())
                begin = False
        return revision


def _checked_prefixes(prefixes: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the prefixes sorted, without those that another one covers."""
    if len(prefixes) > PREFIXES_MAX:
        raise InvalidRequest("prefixes", f"{len(prefixes)} is over PREFIXES_MAX={PREFIXES_MAX}")
    found: list[bytes] = []
    for index, prefix in sorted(enumerate(prefixes), key=lambda pair: pair[1]):
        if len(prefix) > KEY_BYTES_MAX:
            raise InvalidRequest(
                f"prefixes[{index}]", f"{len(prefix)} bytes is over KEY_BYTES_MAX={KEY_BYTES_MAX}"
            )
        if not prefix:
            return ()
        if not found or not prefix.startswith(found[-1]):
            found.append(prefix)
    return tuple(found)


def _ranges(prefixes: tuple[bytes, ...]) -> list[tuple[bytes, bytes]]:
    return [prefix_range(prefix) for prefix in prefixes] or [(b"", b"")]


def _encode(
    chunk: TailChunk, prefixes: tuple[bytes, ...], packed: bool, bytes_max: int, current: Revision
) -> Iterator[pb.TailMessage]:
    """Yield the messages of a chunk: more than one where the commits are larger than one may be."""
    first = chunk.first
    batch: list[tuple[Commit, list[Change]]] = []
    size = 0
    for commit in chunk.commits:
        changes = [change for change in commit.changes if not prefixes or change.key.startswith(prefixes)]
        if prefixes and not changes:  # without prefixes every commit is sent, even one that changed nothing
            continue
        weight = 64 + sum(len(change.key) + len(change.value or b"") + 16 for change in changes)
        if batch and size + weight > bytes_max:
            last = Revision(commit.revision - 1)
            yield _message(first, last, batch, packed, current)
            first, batch, size = Revision(last + 1), [], 0
        batch.append((commit, changes))
        size += weight
    if batch or not prefixes:
        yield _message(first, chunk.last, batch, packed, current)


def _message(
    first: Revision,
    last: Revision,
    batch: list[tuple[Commit, list[Change]]],
    packed: bool,
    current: Revision,
) -> pb.TailMessage:
    message = pb.TailMessage(first=first, last=last, current=current)
    if packed:
        message.packed = pack_commits(batch)
    else:
        message.commits.extend(
            pb.Commit(
                revision=commit.revision,
                slot=commit.slot,
                time_ms=commit.time_ms,
                client=commit.client,
                sequence=commit.sequence,
                label=commit.label,
                changes=[
                    pb.Change(key=change.key, value=change.value, lease=change.lease) for change in changes
                ],
            )
            for commit, changes in batch
        )
    return message


def pack_commits(batch: list[tuple[Commit, list[Change]]]) -> bytes:
    """Return commits in the packed form of ``TailMessage.packed``."""
    raws: list[Any] = [
        [
            commit.revision,
            commit.slot,
            commit.time_ms,
            commit.client,
            commit.sequence,
            commit.label,
            [[change.key, change.value, change.lease] for change in changes],
        ]
        for commit, changes in batch
    ]
    packed: bytes = msgpack.packb(raws)
    return packed
