"""A shared state: one tail, many readers, each woken by the revision that it waits for."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cluster import keys, offers
from cluster.feed import ClusterFeed, FeedLost, SharedFeed, share
from cluster.records import Cluster
from cluster.state import ClusterState
from journal.client import SnapshotPage, TailMessage
from journal.errors import JournalError
from journal.types import Revision
from journal.versions import Record
from tests.agent.world import world


class Lines:
    """A tail whose messages the test sends."""

    def __init__(self) -> None:
        self.send, self.receive = trio.open_memory_channel[Any](100)
        self.taken: deque[Any] = deque()

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> Any:
        message = await self.receive.receive()
        if isinstance(message, Exception):
            raise message
        return message


def progress(revision: int) -> TailMessage:
    return TailMessage(first=Revision(1), last=Revision(revision), commits=(), current=Revision(revision))


def page(name: str, revision: int, *, first: bool, last: bool) -> SnapshotPage:
    record = Record(
        value=Cluster(cluster_name=name).pack(),
        create=Revision(1),
        mod=Revision(1),
        version=1,
        lease=0,
    )
    return SnapshotPage(
        revision=Revision(revision), items=[(keys.cluster(name), record)], first=first, last=last
    )


async def test_each_waiter_is_woken_by_its_own_revision(autojump_clock: MockClock) -> None:
    lines, woken = Lines(), []
    shared = SharedFeed(ClusterFeed(lines))  # type: ignore[arg-type]

    async def wait(revision: int) -> None:
        state = await shared.reached(revision)
        assert state.revision >= revision
        woken.append(revision)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shared.run)
        for revision in (5, 3, 3, 9):
            nursery.start_soon(wait, revision)
        await lines.send.send(progress(4))
        await wait_all_tasks_blocked()
        assert sorted(woken) == [3, 3]
        await lines.send.send(progress(9))
        await wait_all_tasks_blocked()
        assert sorted(woken) == [3, 3, 5, 9]
        assert (await shared.reached(2)).revision == 9
        assert shared._number == 4, "somebody was woken too early and waited again"
        nursery.cancel_scope.cancel()


async def test_a_tail_that_ends_wakes_everybody_with_the_reason(autojump_clock: MockClock) -> None:
    lines, reasons = Lines(), list[FeedLost]()
    shared = SharedFeed(ClusterFeed(lines))  # type: ignore[arg-type]

    async def wait() -> None:
        with pytest.raises(FeedLost, match="the wrong cluster") as caught:
            await shared.reached(5)
        reasons.append(caught.value)

    async def until() -> None:
        with pytest.raises(FeedLost):
            await shared.until(lambda state: state.revision > 5)
        reasons.append(FeedLost("until"))

    async def run() -> None:
        with pytest.raises(JournalError):
            await shared.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(until)
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        await lines.send.send(JournalError("the wrong cluster"))
    assert len(reasons) == 2
    with pytest.raises(FeedLost):
        await shared.changed()


async def test_a_snapshot_that_comes_later_is_seen_when_it_is_whole(autojump_clock: MockClock) -> None:
    lines = Lines()
    feed = ClusterFeed(lines)  # type: ignore[arg-type]
    seen: list[list[str]] = []
    for message in (
        page("a", 5, first=True, last=True),
        page("b", 9, first=True, last=False),
        page("c", 9, first=False, last=False),
        page("x", 12, first=True, last=False),  # it began anew
        page("y", 12, first=False, last=True),
    ):
        await lines.send.send(message)
        await feed.step()
        seen.append(list(feed.state.clusters))
    assert seen == [["a"], ["a"], ["a"], ["a"], ["x", "y"]]
    assert feed.state.revision == 12


async def test_many_readers_read_their_own_writes(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here, share(here.journal) as shared:

        async def create(name: str) -> None:
            revision = await here.journal.offer(offers.create_cluster(name))
            state: ClusterState = await shared.reached(revision)
            assert name in state.clusters

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(create, f"c{number}")
