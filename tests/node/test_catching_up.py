"""What a node that is far behind, and compaction, cost the others: bounded memory, and no stop of commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from journal.limits import Limits
from journal.paxos import Paxos
from journal.snapshots.records import walk
from journal.storage.memory import MemoryStorage
from journal.storage.records import HISTORY, OUTCOME, SWEPT, unseal
from journal.types import Slot

from .cluster import put, running, submit
from .test_node import SlowDisk
from .test_snapshots import SMALL, compact, load, one_behind, trimmed

T = TypeVar("T")
BYTES = 5_000
LEARNING = Limits(learn_bytes_max=4 * BYTES, learned_bytes_max=8 * BYTES)


async def _learned_at_most(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a node learn 60 entries while it folds one in a turn of its loop; return the bytes that waited."""
    async with running(3, LEARNING) as cluster:
        leader = await cluster.leader()
        await cluster.converge()
        late = max(number for number in cluster.nodes if number != leader.config.node)
        await cluster.kill(late)
        for number in range(60):
            await submit(leader, put("big", chr(97 + number % 26) * BYTES))
        monkeypatch.setattr("journal.node.FOLD_OFFERS_PER_TURN", 1)
        await cluster.start(late)
        node = cluster.nodes[late]
        peak = 0

        def fold(now: float) -> None:
            nonlocal peak
            peak = max(peak, node._backlog.bytes)
            original(now)

        original = node._fold
        monkeypatch.setattr(node, "_fold", fold)
        # Its disk is slow too: what is folded and not stored counts.
        node._writer.storage = disk = SlowDisk()
        disk.delay_s = 0.05
        await cluster.converge()
        await cluster.until(lambda: node._backlog.bytes == 0)
        return peak


async def test_what_is_learned_and_not_folded_is_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = await _learned_at_most(monkeypatch)
    # What was asked for before the limit was reached still comes.
    assert LEARNING.learned_bytes_max <= peak <= LEARNING.learned_bytes_max + 3 * LEARNING.learn_bytes_max


async def test_planted_a_node_that_is_never_sated_holds_everything(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Paxos, "sated", property(lambda _self: False, lambda _self, _value: None), raising=False
    )
    assert await _learned_at_most(monkeypatch) > 40 * BYTES


class Aside(MemoryStorage):
    """Reading at length takes five seconds."""

    delay_s = 5.0
    reading = 0

    async def aside(self, job: Callable[[], T]) -> T:
        Aside.reading += 1
        await trio.sleep(self.delay_s)
        return await super().aside(job)


async def test_commits_go_on_while_a_snapshot_is_read(autojump_clock: MockClock) -> None:
    """And while records are scrubbed, and the file system is asked for what is left."""
    async with one_behind() as (cluster, _revisions):
        for number in (1, 2):
            cluster.storages[number].__class__ = Aside
        leader = await cluster.leader()
        ballot = leader._core.ballot
        Aside.reading = 0
        await cluster.start(3)
        await cluster.until(lambda: any(node._snapshots.peers_views.open for node in cluster.nodes.values()))
        for number in range(30):
            began = trio.current_time()
            await submit(leader, put(f"meanwhile{number}"))
            assert trio.current_time() - began < 0.5
            await trio.sleep(0.2)
        assert Aside.reading > 2
        assert (await cluster.leader())._core.ballot == ballot
        Aside.delay_s = 0.0
        await cluster.until(lambda: cluster.nodes[3]._catch_up.fetched, within_s=120)
        await cluster.converge()


async def test_compaction_goes_on_under_load(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load folds are queued for the disk at every tick. A little is let go all the same, and no more
    before that is on its way to the disk."""
    monkeypatch.setattr("journal.node_upkeep.COMPACT_RECORDS_PER_STEP", 1)
    monkeypatch.setattr("journal.node_upkeep.COMPACT_STEPS_PER_TURN", 2)
    async with running(1, SMALL) as cluster:
        revisions = await load(cluster, 90)
        await compact(cluster, revisions[-1])
        node = cluster.nodes[1]
        upkeep, writer = node._upkeep, node._writer
        assert upkeep.is_compacting
        queued: list[int] = []
        for _tick in range(3):
            writer.space([(b"x", None)], 0.0)  # what a fold has queued
            for _ in range(2):
                before = len(writer.space_writes)
                upkeep.let_go(0.0)
                queued.append(len(writer.space_writes) - before)
            await writer.write_rest()
            writer.flush()
            await writer.write_rest()
        assert all(queued[::2]) and not any(queued[1::2]), queued
        await cluster.until(lambda: not node.is_compacting)


class Starts:
    """A reader that notes where iterations begin."""

    def __init__(self, storage: MemoryStorage) -> None:
        self.get = storage.get
        self.starts: list[bytes] = []
        self._storage = storage

    def iterate(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self.starts.append(start)
        return self._storage.iterate(start, stop, reverse=reverse)


async def test_nothing_passes_over_what_was_removed(autojump_clock: MockClock) -> None:
    """LevelDB looks at each removal that lies in the way of an iteration: a million of them take seconds."""
    async with running(3, SMALL) as cluster:
        revisions = await load(cluster, 60)
        await compact(cluster, revisions[-1])
        await trimmed(cluster)
        storage = cluster.storages[1]
        assert isinstance(storage, MemoryStorage)
        reader = Starts(storage)
        list(walk(reader))
        swept = storage.get(SWEPT)
        assert swept is not None
        [history] = [start for start in reader.starts if start[:1] == HISTORY]
        assert history == unseal(SWEPT, swept) > HISTORY
        reader.starts.clear()
        space = cluster.nodes[1].space
        first = space.slots.first
        space.reader = reader
        space.slots.restore()
        assert space.slots.first == first > 1
        [outcome] = [start for start in reader.starts if start[:1] == OUTCOME]
        assert Slot(int.from_bytes(outcome[1:], "big")) == first
