"""One bidirectional stream: many requests in flight, replies as they come, bounded memory.

Used by Submit and LeaseKeepAlive. Reader and writer are tasks of their own, because a
client may stop reading while it goes on writing. What waits is bounded: while too much of
a stream is in flight or unread by its client, the reader does not read, and gRPC's flow
control carries that back to the client.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from journal.errors import JournalError, Overloaded
from journal.rpc.edge import Context, Edge

Reply = TypeVar("Reply")

_LAST_WORDS_S = 0.5
"""How long a stream may take to hand out its last replies when the node stops."""


class Duplex(Generic[Reply]):
    """Runs one stream. ``take`` starts on a request and later calls ``reply`` once for it."""

    def __init__(
        self,
        edge: Edge,
        context: Context,
        take: Callable[[Any, Callable[[Reply, int], None]], None],
        pack: Callable[[list[Reply]], Message],
        *,
        message_weight_max: int,
    ) -> None:
        """``take(request, reply)`` must not raise; ``reply(item, weight)`` may be called at once or
        any time later, even when the stream is gone. ``pack`` makes one message of items that
        weigh up to ``message_weight_max`` together, or of one item."""
        self._edge = edge
        self._context = context
        self._take = take
        self._pack = pack
        self._message_weight_max = message_weight_max
        self._inflight = 0
        self._ready: deque[tuple[Reply, int]] = deque()
        self._weight = 0  # of what is in _ready
        self._ending = False  # what is in flight or ready is the last
        self._closed = False
        self._failure: JournalError | None = None
        self._wake_writer = asyncio.Event()
        self._wake_reader = asyncio.Event()

    async def run(self) -> None:
        """Serve the stream until the client ends it, or raise what ends it otherwise."""
        self._edge.opened_stream()
        try:
            await self._edge.accept(self._context)
            await self._run()
        finally:
            self._closed = True
            self._edge.unsent_offers -= self._weight
            self._edge.closed_stream()

    async def _run(self) -> None:
        edge = self._edge
        reader = edge.loop.create_task(self._read())
        writer = edge.loop.create_task(self._write())
        try:
            await asyncio.wait({reader, writer, edge.closing}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and not writer.done() and not edge.closing.done():
                reader.result()
                self._end()
                await asyncio.wait({writer, edge.closing}, return_when=asyncio.FIRST_COMPLETED)
            if not writer.done():
                # The node has stopped, so everything in flight has its answer: let those out.
                reader.cancel()
                self._inflight = 0
                self._end()
                await asyncio.wait({writer}, timeout=_LAST_WORDS_S)
                raise edge.stopping()
            writer.result()
            if self._failure is not None:
                raise self._failure
        finally:
            await _ended(reader, writer)

    def _end(self) -> None:
        self._ending = True
        self._wake_writer.set()

    async def _read(self) -> None:
        limits = self._edge.limits
        context, take, reply = self._context, self._take, self._reply
        while True:
            while (
                self._inflight + len(self._ready) >= limits.stream_requests_max
                or self._weight >= limits.stream_unsent_offers_max
            ):
                self._wake_reader.clear()
                await self._wake_reader.wait()
            request = await self._edge.read(context)
            if request is None:
                return
            self._inflight += 1
            take(request, reply)

    def _reply(self, item: Reply, weight: int) -> None:
        if self._closed:
            return
        self._inflight -= 1
        self._ready.append((item, weight))
        self._weight += weight
        edge = self._edge
        edge.unsent_offers += weight
        most = edge.limits.unsent_offers_max
        if edge.unsent_offers > most and self._weight > most // edge.streams:
            self._failure = Overloaded("unsent_offers_max", most, 1_000)
        self._wake_writer.set()

    async def _write(self) -> None:
        while self._failure is None:
            if self._ready:
                message = self._pack(self._next_items())
                self._wake_reader.set()
                await self._context.write(message)
            elif self._ending and self._inflight <= 0:
                return
            else:
                self._wake_writer.clear()
                await self._wake_writer.wait()

    def _next_items(self) -> list[Reply]:
        ready = self._ready
        items: list[Reply] = []
        total = 0
        while ready and (not items or total + ready[0][1] <= self._message_weight_max):
            item, weight = ready.popleft()
            items.append(item)
            total += weight
        self._weight -= total
        self._edge.unsent_offers -= total
        return items


async def _ended(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks, wait for their end, and take their errors so that nobody else misses them."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
