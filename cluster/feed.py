"""Keeps a ``ClusterState`` up to date from a tail of the journal.

The feed is pulled by whoever uses it: there is no background task, so a state changes only
while its user waits, and a plan is made from one revision without copying anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from cluster import keys
from cluster.state import ClusterState
from journal.client import Journal, SnapshotPage, Tail, TailMessage
from journal.types import Revision


class ClusterFeed:
    """A state and the tail that feeds it. For one task at a time."""

    def __init__(self, tail: Tail[TailMessage | SnapshotPage]) -> None:
        self.state = ClusterState()
        self.loaded = False
        """Whether the snapshot that it begins with is whole."""
        self._tail = tail
        self._items: list[tuple[bytes, bytes, Revision]] = []

    async def step(self) -> None:
        """Fold the next message. Raises what the tail raises (``journal.client.Tail``)."""
        message = await anext(self._tail)
        if isinstance(message, SnapshotPage):
            if message.first:
                self._items = []
            self._items.extend((key, record.value or b"", record.mod) for key, record in message.items)
            if message.last:
                self.state.load(self._items, message.revision)
                self._items = []
                self.loaded = True
            return
        for commit in message.commits:
            self.state.apply(commit)
        self.state.advance(message.last)

    async def reached(self, revision: int) -> ClusterState:
        """Return the state once it stands at ``revision`` or later."""
        while self.state.revision < revision:
            await self.step()
        return self.state

    async def until(self, condition: Callable[[ClusterState], bool]) -> ClusterState:
        """Return the state once ``condition`` holds of it."""
        while not condition(self.state):
            await self.step()
        return self.state


@asynccontextmanager
async def follow(journal: Journal, prefixes: Sequence[bytes] = keys.PREFIXES) -> AsyncIterator[ClusterFeed]:
    """Open a feed whose state is as new as everything that was answered before.

    Waits for as long as the journal is away; limit it with ``trio.fail_after``.
    """
    async with journal.tail(None, prefixes, snapshot=True) as tail:
        feed = ClusterFeed(tail)
        while not feed.loaded:
            await feed.step()
        yield feed
