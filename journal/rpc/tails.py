"""Tails at the edge: read, filter, send, wait; a position and one message is all a tail holds.

A slow reader is simply read for less often (``journal.tail``). Tails that keep up all send
the same thing at the same time, so the last few chunks are kept encoded for the others.

A tail over a few keys sleeps until something concerns it (``journal.watches``). What was
committed meanwhile its reader is told together with that, or else when it is its turn.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from journal.errors import InvalidRequest, RevisionCompacted
from journal.limits import KEY_BYTES_MAX
from journal.offers import prefix_range
from journal.rpc.codec import pack_record
from journal.rpc.edge import Edge, Writer
from journal.rpc.pb import journal_pb2 as pb
from journal.types import Revision

if TYPE_CHECKING:
    from journal.commits import Change, Commit
    from journal.tail import TailChunk
    from journal.watches import Watch

PREFIXES_MAX = 1_000
PROGRESS_MS_MIN = 100
UNTOLD_S = 0.02
"""So long a reader may wait to be told that what came was hidden from it by its filter, if it is alone."""
TOLD_PER_S = 2_000
"""Messages that say only that there was nothing, to all readers together: with many of them each is told
less often. They cost the node as much as others do."""
SILENCE_S_MAX = 3.0
"""So long a tail is silent at most, where its reader does not wish for more, however many there are: a reader
that hears nothing takes the node for dead some time (``ClientConfig.tail_silence_max_s``)."""
_ENCODED_CHUNKS_MAX = 16
_ENCODED_BYTES_MAX = 256 * 1024
_SNAPSHOT_KEYS = 500


class Piece(NamedTuple):
    """The commits of one message, encoded, up to revision ``last``."""

    last: Revision
    body: bytes


class Tails:
    """Serves Tail."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._encoded: OrderedDict[tuple[object, ...], list[Piece]] = OrderedDict()
        self._round = _Round(edge)
        edge.closing.add_done_callback(lambda _closing: self._round.ring_all())

    async def stream(self, request: pb.TailRequest, writer: Writer) -> None:
        """Serve one tail until it is cancelled, or raise what ends it."""
        prefixes = _checked_prefixes(request.prefixes)
        hub = self._edge.node.tails
        hub.opened()
        try:
            await self._run(request, prefixes, writer)
        finally:
            hub.closed()

    async def _run(self, request: pb.TailRequest, prefixes: tuple[bytes, ...], writer: Writer) -> None:
        edge, node = self._edge, self._edge.node
        after = Revision(request.after)
        if request.snapshot == pb.SNAPSHOT_MODE_FIRST:
            await edge.barrier(request.consistency, request.at_least)
            after = await self._snapshot(prefixes, writer)
        progress_s = max(PROGRESS_MS_MIN, request.progress_ms or edge.limits.progress_ms) / 1000
        bell = _Bell(edge.loop, after)
        watch = node.tails.watch(prefixes, bell.ring, after)
        self._round.join(bell)
        try:
            await self._follow(request, watch, bell, progress_s, writer)
        finally:
            self._round.leave(bell)
            node.tails.unwatch(watch)

    async def _follow(
        self, request: pb.TailRequest, watch: Watch, bell: _Bell, progress_s: float, writer: Writer
    ) -> None:
        """Send what concerns a tail as it comes, and say now and then that there was nothing."""
        edge, hub, space = self._edge, self._edge.node.tails, self._edge.node.space
        bytes_max = self._edge.node.config.limits.tail_message_bytes_max
        while not edge.closing.done():
            begin = watch.take()
            if begin is not None:
                try:
                    chunk = hub.read(Revision(begin - 1), bytes_max)
                except RevisionCompacted:
                    if request.snapshot != pb.SNAPSHOT_MODE_IF_COMPACTED:
                        raise
                    bell.told = await self._snapshot(watch.prefixes, writer)
                    watch.note(Revision(bell.told + 1))
                    continue
                if chunk.last < space.revision:
                    watch.note(Revision(chunk.last + 1))
                pieces = self._pieces(chunk, watch.prefixes, request.packed, bytes_max)
                for last, body in pieces:
                    message = _covers(bell.told, last, space.revision) + body
                    self._round.told(bell, last)
                    await writer.write(message)
                if not pieces and bell.told < chunk.last and bell.has_waited:
                    message = _covers(bell.told, chunk.last, space.revision)
                    self._round.told(bell, chunk.last)
                    await writer.write(message)
                elif not pieces:  # it may go on for long: others have their turn
                    bell.is_due = bell.is_due or bell.told < chunk.last
                    await asyncio.sleep(0)
                watch.delivered()
                continue
            # Up to the present revision there is nothing more for this tail.
            if bell.is_due or not await bell.rung(self._round.patience_s(progress_s)):
                if watch.first is not None:
                    continue
                message = _covers(bell.told, space.revision, space.revision)
                self._round.told(bell, space.revision)
                await writer.write(message)
        raise edge.stopping()

    def _pieces(
        self, chunk: TailChunk, prefixes: tuple[bytes, ...], packed: bool, bytes_max: int
    ) -> list[Piece]:
        """Return a chunk's commits, encoded: from the last few made, where they are there. None of them
        where the filter lets nothing through."""
        key = (chunk.first, chunk.last, prefixes, packed)
        found = self._encoded.get(key)
        if not chunk.commits:
            return []
        if found is not None:
            self._encoded.move_to_end(key)
            return found
        found = list(_encode(chunk, prefixes, packed, bytes_max))
        if sum([len(piece.body) for piece in found]) <= _ENCODED_BYTES_MAX:
            self._encoded[key] = found
            if len(self._encoded) > _ENCODED_CHUNKS_MAX:
                self._encoded.popitem(last=False)
        return found

    async def _snapshot(self, prefixes: tuple[bytes, ...], writer: Writer) -> Revision:
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
                await writer.write(message.SerializeToString())
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


def _covers(told: Revision, last: Revision, current: Revision) -> bytes:
    """Return a message that covers what follows ``told`` up to ``last``, but for its commits: behind it
    they may be added (protobuf lets fields be put in a row)."""
    return pb.TailMessage(first=told + 1, last=last, current=current).SerializeToString()


def _encode(chunk: TailChunk, prefixes: tuple[bytes, ...], packed: bool, bytes_max: int) -> Iterator[Piece]:
    """Yield the commits of a chunk for as many messages as are needed; none if the filter hides all."""
    batch: list[tuple[Commit, list[Change]]] = []
    size = 0
    for commit in chunk.commits:
        changes = [change for change in commit.changes if not prefixes or change.key.startswith(prefixes)]
        if prefixes and not changes:  # without prefixes every commit is sent, even one that changed nothing
            continue
        weight = 64 + sum(len(change.key) + len(change.value or b"") + 16 for change in changes)
        if batch and size + weight > bytes_max:
            yield Piece(Revision(commit.revision - 1), _body(batch, packed))
            batch, size = [], 0
        batch.append((commit, changes))
        size += weight
    if batch:
        yield Piece(chunk.last, _body(batch, packed))


def _body(batch: list[tuple[Commit, list[Change]]], packed: bool) -> bytes:
    if packed:
        return pb.TailMessage(packed=pack_commits(batch)).SerializeToString()
    commits = [
        pb.Commit(
            revision=commit.revision,
            slot=commit.slot,
            time_ms=commit.time_ms,
            client=commit.client,
            sequence=commit.sequence,
            label=commit.label,
            changes=[pb.Change(key=change.key, value=change.value, lease=change.lease) for change in changes],
        )
        for commit, changes in batch
    ]
    return pb.TailMessage(commits=commits).SerializeToString()


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


# -- waiting ------------------------------------------------------------------------------------


class _Bell:
    """What one tail waits for: that something concerns it, that it is its turn to tell, or the end."""

    __slots__ = ("_loop", "_rung", "_told_at", "is_due", "told")

    def __init__(self, loop: asyncio.AbstractEventLoop, told: Revision) -> None:
        self.told = told
        """Up to here its reader knows that it has everything."""
        self.is_due = True
        """Whether it is to say how far it is. A reader that has just come hears something at once."""
        self._loop = loop
        self._told_at = 0.0
        self._rung: asyncio.Future[bool] | None = None

    def tell(self, last: Revision) -> None:
        """Its reader is told now that it has everything up to ``last``."""
        self.told, self.is_due = last, False
        self._told_at = self._loop.time()

    @property
    def has_waited(self) -> bool:
        """Whether its reader was told nothing for ``UNTOLD_S``."""
        return self._loop.time() - self._told_at >= UNTOLD_S

    def ring(self) -> None:
        if self._rung is not None and not self._rung.done():
            self._rung.set_result(True)

    async def rung(self, patience_s: float) -> bool:
        """Wait until it is rung; return False where it was not for ``patience_s``."""
        rung: asyncio.Future[bool] = self._loop.create_future()
        self._rung = rung
        timer = self._loop.call_later(patience_s, self._give_up)
        try:
            return await rung
        finally:
            timer.cancel()
            self._rung = None

    def _give_up(self) -> None:
        if self._rung is not None and not self._rung.done():
            self._rung.set_result(False)


class _Round:
    """Goes round the tails and has those say so whose readers do not know how far the journal has come.

    Without it the reader of a few keys would not know that it has everything. It rests while all know.
    """

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._bells: OrderedDict[_Bell, None] = OrderedDict()  # whose reader was told last is last
        self._has_begun = False

    def join(self, bell: _Bell) -> None:
        self._bells[bell] = None
        if not self._has_begun:
            self._has_begun = True
            self._rest()

    def leave(self, bell: _Bell) -> None:
        del self._bells[bell]

    def told(self, bell: _Bell, last: Revision) -> None:
        """The reader is told now that it has everything up to ``last``."""
        bell.tell(last)
        self._bells.move_to_end(bell)

    def ring_all(self) -> None:
        for bell in list(self._bells):
            bell.ring()

    def patience_s(self, progress_s: float) -> float:
        """How long an idle tail is silent: as its reader wishes, but for the share of each."""
        return max(progress_s, min(SILENCE_S_MAX, len(self._bells) / TOLD_PER_S))

    def _rest(self) -> None:
        """Go on soon after the next commit."""
        hub = self._edge.node.tails
        hub.wait(hub.revision, self._soon)

    def _soon(self) -> None:
        self._edge.loop.call_later(UNTOLD_S, self._go)

    def _go(self) -> None:
        revision = self._edge.node.tails.revision
        for _ in range(min(len(self._bells), max(1, int(TOLD_PER_S * UNTOLD_S)))):
            bell = next(iter(self._bells))
            if bell.told >= revision:  # and so do those behind it, or they have something to send
                self._rest()
                return
            self._bells.move_to_end(bell)
            bell.is_due = True
            bell.ring()
        self._soon()
