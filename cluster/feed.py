"""Keeps a ``ClusterState`` up to date from a tail of the journal.

Two ways:

* ``follow``: pulled by its one user. There is no background task, so the state changes only
  while its user waits, and a plan is made from one revision without copying anything.
* ``share``: one background task reads the tail, and any number of tasks look at the state
  between their waits, and wait for a revision or for a condition (the API process: one replica,
  many requests). trio switches tasks only at an await, so what is read without one is of one revision.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from cluster import keys
from cluster.state import ClusterState, Loading
from journal.client import Journal, SnapshotPage, Tail, TailMessage
from journal.commits import Commit


class FeedLost(Exception):
    """The task that fed a shared state has ended: nothing new will be seen."""


class Feed(Protocol):
    """What a planner needs: a state that changes only while it waits, and to wait for a revision."""

    @property
    def state(self) -> ClusterState: ...
    async def reached(self, revision: int) -> ClusterState: ...


class ClusterFeed:
    """A state and the tail that feeds it. For one task at a time."""

    def __init__(self, tail: Tail[TailMessage | SnapshotPage]) -> None:
        self.state = ClusterState()
        self.loaded = False
        """Whether the snapshot that it begins with is whole."""
        self.listener: Callable[[Commit | None], None] | None = None
        """Told of each commit once it is folded; of None where a snapshot took the place of everything."""
        self._tail = tail
        self._loading: Loading | None = None

    async def step(self) -> None:
        """Fold the next message. Raises what the tail raises (``journal.client.Tail``).

        A snapshot that comes later (the tail was too far behind) is seen when it is whole.
        """
        message = await anext(self._tail)
        if isinstance(message, SnapshotPage):
            if message.first or self._loading is None:
                self._loading = self.state.loading()
            self._loading.put((key, record.value or b"", record.mod) for key, record in message.items)
            if message.last:
                self._loading.finish(message.revision)
                self._loading = None
                self.loaded = True
                if self.listener:
                    self.listener(None)
            return
        for commit in message.commits:
            self.state.apply(commit)
            if self.listener:
                self.listener(commit)
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


class SharedFeed:
    """A state that one background task keeps up to date, for any number of readers."""

    def __init__(self, feed: ClusterFeed) -> None:
        self._feed = feed
        self._waiting: list[tuple[int, int, trio.Event]] = []
        """A heap of (revision, number, event): only those whose revision came are woken."""
        self._number = 0
        self._changed = trio.Event()
        self._lost: BaseException | None = None

    @property
    def state(self) -> ClusterState:
        return self._feed.state

    @property
    def revision(self) -> int:
        return self._feed.state.revision

    async def reached(self, revision: int) -> ClusterState:
        """Return the state once it stands at ``revision`` or later: how one reads one's own writes.

        Raises ``FeedLost``. Limit it with ``trio.fail_after``.
        """
        while self.state.revision < revision:
            self._check()
            event = trio.Event()
            self._number += 1
            heapq.heappush(self._waiting, (revision, self._number, event))
            await event.wait()
        return self.state

    async def until(self, condition: Callable[[ClusterState], bool]) -> ClusterState:
        """Return the state once ``condition`` holds of it; it is asked after each message of the tail."""
        while not condition(self.state):
            await self.changed()
        return self.state

    async def changed(self) -> ClusterState:
        """Return the state after the next message of the tail. Raises ``FeedLost``."""
        self._check()
        await self._changed.wait()
        self._check()
        return self.state

    async def run(self) -> None:
        """Feed the state until cancelled, or until the tail ends with an error, which is raised."""
        try:
            while True:
                await self._feed.step()
                while self._waiting and self._waiting[0][0] <= self.state.revision:
                    heapq.heappop(self._waiting)[2].set()
                changed, self._changed = self._changed, trio.Event()
                changed.set()
        except BaseException as error:
            self._lost = error
            raise
        finally:
            for _, _, event in self._waiting:
                event.set()
            self._waiting.clear()
            self._changed.set()

    def _check(self) -> None:
        if self._lost is not None:
            raise FeedLost(f"the cluster's state is not fed any more: {self._lost!r}") from self._lost


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


@asynccontextmanager
async def share(journal: Journal, prefixes: Sequence[bytes] = keys.PREFIXES) -> AsyncIterator[SharedFeed]:
    """Open a shared feed, loaded as by ``follow``; it ends with the block.

    If the tail ends with an error, the block is cancelled and that error is raised from it.
    """
    async with follow(journal, prefixes) as feed, trio.open_nursery() as nursery:
        shared = SharedFeed(feed)
        nursery.start_soon(shared.run)
        yield shared
        nursery.cancel_scope.cancel()
