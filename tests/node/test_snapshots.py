"""Log trimming, and nodes so far behind that only a snapshot helps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from journal.errors import RevisionCompacted, Unavailable
from journal.limits import Limits
from journal.node import Node
from journal.offers import LeaseGrant, Offer, Put
from journal.paxos.messages import Envelope, SnapshotAsk, SnapshotChunk, SnapshotMessage, Trimmed
from journal.storage import Write
from journal.storage.log import trimmed_slot
from journal.storage.memory import MemoryStorage
from journal.storage.records import (
    ACCEPTED,
    ENDED,
    IDENTIFIER,
    OUTCOME,
    PROMISED,
    SPACE_FAMILIES,
    STAGED,
    TRANSFER,
    family_end,
)
from journal.types import NodeId, Revision, Slot

from .cluster import Cluster, barrier, put, running, submit, submit_somewhere
from .test_node import call

SMALL = Limits(
    log_slots_retained_min=8,
    log_reach_bytes=3_300,
    snapshot_chunk_bytes_max=600,
    snapshot_step_records=7,
    log_trim_step_slots=5,
    snapshot_idle_s=20.0,
)


def slots_of(cluster: Cluster, number: int, family: bytes) -> list[int]:
    keys = [key for key, _value in cluster.storages[number].iterate(family, family_end(family))]
    return [int.from_bytes(key[1:], "big") for key in keys if len(key) == 9]


async def load(cluster: Cluster, count: int, client: bytes = b"c", first: int = 1) -> list[int]:
    revisions: list[int] = []
    for sequence in range(first, first + count):
        offer = put(f"key{sequence % 37:03}", f"value {sequence}" * 3, label=f"label {sequence}")
        [verdict] = await submit_somewhere(cluster, offer, client=client, first=sequence)
        assert isinstance(verdict, int)
        revisions.append(verdict)
    return revisions


async def compact(cluster: Cluster, revision: int) -> None:
    leader = await cluster.leader()
    await call(leader.compact, Revision(revision))


async def trimmed(cluster: Cluster) -> None:
    """Wait until no running node has more of its log, on its disk too, than it must."""

    def is_trimmed(number: int) -> bool:
        space = cluster.nodes[number].space
        needed = Revision(space.versions.log_needed_after(space.compacted) + 1)
        first = space.slots.of_revision(needed) if needed <= space.revision else Slot(space.applied + 1)
        first = min(first, Slot(space.applied - SMALL.log_slots_retained_min + 1))
        return slots_of(cluster, number, ACCEPTED)[0] == first and not space.is_compacting

    await cluster.until(lambda: all(is_trimmed(number) for number in cluster.nodes))


@asynccontextmanager
async def one_behind(*, limits: Limits = SMALL, count: int = 120) -> AsyncIterator[tuple[Cluster, list[int]]]:
    """Three nodes, of which the third was down while the others went on, compacted and trimmed."""
    async with running(3, limits) as cluster:
        revisions = await load(cluster, 20)
        await cluster.converge()
        await cluster.kill(3)
        revisions += await load(cluster, count, first=21)
        await compact(cluster, revisions[-10])
        revisions += await load(cluster, 5, first=21 + count)
        await trimmed(cluster)
        yield cluster, revisions


def seen(cluster: Cluster, kinds: type | tuple[type, ...] = SnapshotMessage) -> list[Envelope]:  # type: ignore[assignment]
    """Return a list that will fill with the snapshot messages that are sent."""
    found: list[Envelope] = []
    post = cluster.network.post

    def noting(envelopes: Any) -> None:
        found.extend(envelope for envelope in envelopes if isinstance(envelope.message, kinds))
        post(envelopes)

    cluster.network.post = noting  # type: ignore[method-assign]
    return found


def same(cluster: Cluster, one: int, other: int) -> None:
    """The two nodes hold the same space: every key at every revision that can be read, all else too."""
    left, right = cluster.nodes[one].space, cluster.nodes[other].space
    assert (left.applied, left.chain, left.compacted) == (right.applied, right.chain, right.compacted)
    assert left.revision == right.revision
    for at in range(left.compacted, left.revision + 1):
        assert left.scan(b"", b"", at, 1000, 1 << 20) == right.scan(b"", b"", at, 1000, 1 << 20)
    assert {lease: (found.ttl_ms, found.keys) for lease, found in left.leases.items()} == {
        lease: (found.ttl_ms, found.keys) for lease, found in right.leases.items()
    }
    assert left.sessions == right.sessions


# -- trimming ------------------------------------------------------------------------------------


async def test_nothing_is_trimmed_that_is_not_compacted(autojump_clock: MockClock) -> None:
    async with running(3, SMALL) as cluster:
        await load(cluster, 60)
        await trio.sleep(5)
        assert all(node.space.slots.first == 1 for node in cluster.nodes.values())
        assert slots_of(cluster, 1, ACCEPTED)[0] == 1


async def test_the_log_is_trimmed_behind_compaction_and_all_else_stays_right(
    autojump_clock: MockClock,
) -> None:
    async with running(3, SMALL) as cluster:
        revisions = await load(cluster, 100)
        await compact(cluster, revisions[80])
        await trimmed(cluster)
        await cluster.converge()
        await trio.sleep(2)
        for number, node in cluster.nodes.items():
            space = node.space
            # The slot of revision compacted + 1 is the first that a tail may need, and of what was put within
            # SMALL.log_reach_bytes before it the values are still there for who reads what was then.
            first_needed = Revision(space.versions.log_needed_after(space.compacted) + 1)
            assert space.slots.first == space.slots.of_revision(first_needed) > 1
            assert 37 < space.compacted - first_needed < 80
            kept = list(range(space.slots.first, space.applied + 1))
            for family in (ACCEPTED, IDENTIFIER, OUTCOME):
                assert slots_of(cluster, number, family) == kept
            assert space.slots.oldest_tail == space.compacted == revisions[80]
            with pytest.raises(RevisionCompacted):
                node.tails.read(Revision(space.compacted - 1), 1 << 20)
            after, labels = space.compacted, []
            while after < space.revision:
                chunk = node.tails.read(after, 100)
                labels += [commit.label for commit in chunk.commits]
                after = chunk.last
            assert labels == [f"label {sequence}" for sequence in range(82, 101)]
            assert node.tails.label_of(Revision(revisions[90])) == "label 91"
            assert node.tails.label_of(Revision(revisions[3])) == ""
            assert list(space.reader.iterate(ENDED, family_end(ENDED))), "some older versions are in the log"
            assert space.slots.chain_at(space.slots.first) is not None
            assert space.slots.chain_at(Slot(space.slots.first - 2)) is None
        # A restart finds all that it needs.
        before = {
            number: (node.space.chain, node.space.slots.first) for number, node in cluster.nodes.items()
        }
        for number in (1, 2, 3):
            await cluster.kill(number)
        await cluster.start()
        assert {n: (node.space.chain, node.space.slots.first) for n, node in cluster.nodes.items()} == before
        await load(cluster, 3, first=101)
        await cluster.converge()


async def test_the_last_slots_stay_whatever_is_compacted(autojump_clock: MockClock) -> None:
    async with running(3, SMALL) as cluster:
        revisions = await load(cluster, 60)
        await compact(cluster, revisions[-1])
        await trimmed(cluster)
        await trio.sleep(2)
        for number in cluster.nodes:
            kept = slots_of(cluster, number, ACCEPTED)
            assert len(kept) == SMALL.log_slots_retained_min


async def test_the_leader_compacts_by_number_of_revisions(autojump_clock: MockClock) -> None:
    async with running(3, SMALL, retain_revisions=32) as cluster:
        await load(cluster, 150)
        leader = await cluster.leader()
        await cluster.until(lambda: leader.space.compacted >= leader.space.revision - 34)
        assert leader.space.compacted <= leader.space.revision - 32
        await cluster.converge()
        await trimmed(cluster)


async def test_the_leader_compacts_by_time(autojump_clock: MockClock) -> None:
    async with running(3, SMALL, retain_s=60.0) as cluster:
        old = await load(cluster, 30)
        await trio.sleep(55)
        young = await load(cluster, 30, first=31)
        leader = await cluster.leader()
        assert leader.space.compacted == 0
        await trio.sleep(10)
        assert old[-1] - 5 <= leader.space.compacted <= young[0]
        await trio.sleep(100)
        assert leader.space.compacted == leader.space.revision


# -- transfer ------------------------------------------------------------------------------------


async def test_a_node_too_far_behind_gets_a_snapshot_while_the_cluster_serves(
    autojump_clock: MockClock,
) -> None:
    async with one_behind() as (cluster, revisions):
        messages = seen(cluster)
        await cluster.start(3)
        late = cluster.nodes[3]
        revisions += await load(cluster, 100, first=len(revisions) + 1)
        await cluster.until(lambda: late._catch_up.fetched == 1)
        await cluster.converge()
        same(cluster, 1, 3)
        kinds = {type(envelope.message) for envelope in messages}
        assert kinds == {Trimmed, SnapshotAsk, SnapshotChunk}
        sizes = [len(e.message.records) for e in messages if isinstance(e.message, SnapshotChunk)]
        assert len(sizes) > 5 and max(sizes) <= SMALL.snapshot_chunk_bytes_max
        assert revisions == list(range(1, len(revisions) + 1))
        # Nothing of it stays behind.
        await cluster.until(lambda: late._catch_up.is_idle)
        await trio.sleep(1)
        storage = cluster.storages[3]
        assert storage.get(TRANSFER) is None
        assert not list(storage.iterate(STAGED, family_end(STAGED)))
        # It serves, and takes part.
        assert await barrier(late) == late.space.revision
        await cluster.kill(1)
        await load(cluster, 3, first=len(revisions) + 1)


async def test_tails_on_it_are_told_what_is_compacted(autojump_clock: MockClock) -> None:
    async with one_behind() as (cluster, _revisions):
        await cluster.start(3)
        late = cluster.nodes[3]
        woken: list[bool] = []
        late.tails.wait(late.space.revision, lambda: woken.append(True))
        behind = late.space.revision
        watch = late.tails.watch((b"no such key",), lambda: woken.append(False), behind)
        watch.take()
        watch.delivered()
        await cluster.until(lambda: late._catch_up.fetched)
        assert sorted(woken) == [False, True]
        first = watch.take()
        assert first is not None, "nobody knows whether what it missed concerns it"
        with pytest.raises(RevisionCompacted):
            late.tails.read(Revision(first - 1), 1 << 20)
        with pytest.raises(RevisionCompacted):
            late.tails.read(behind, 1 << 20)
        await cluster.converge()
        oldest = late.space.slots.oldest_tail
        with pytest.raises(RevisionCompacted):
            late.tails.read(Revision(oldest - 1), 1 << 20)
        after = oldest
        while after < late.space.revision:
            after = late.tails.read(after, 1 << 20).last
        # It reads the past that is kept, from before the snapshot, all the same.
        assert late.space.get(b"key001", late.space.compacted) is not None
        assert late.space.slots.chain_at(late.space.applied) == cluster.nodes[1].space.chain


async def test_a_new_node_starts_from_a_snapshot(autojump_clock: MockClock) -> None:
    from journal.paxos.changes import AddLearner, Promote

    from .cluster import endpoint_of
    from .test_members import change

    async with one_behind() as (cluster, _revisions):
        await cluster.start(3)
        await cluster.join(4)
        await change(cluster, AddLearner(NodeId(4), endpoint_of(4)))
        await change(cluster, Promote(NodeId(4)))
        await cluster.converge()
        assert cluster.nodes[4]._catch_up.fetched == 1
        same(cluster, 1, 4)
        assert [m.node for m in cluster.nodes[4].status().members] == [1, 2, 3, 4]
        # The memberships that came with it hold after a restart.
        await cluster.kill(4)
        await cluster.start(4)
        await load(cluster, 3, client=b"after")
        await cluster.converge()
        assert [m.node for m in cluster.nodes[4].status().members] == [1, 2, 3, 4]


async def test_exactly_once_and_leases_survive_a_snapshot(autojump_clock: MockClock) -> None:
    async with running(3, SMALL) as cluster:
        await load(cluster, 20)
        await cluster.converge()
        await cluster.kill(3)
        once = Offer(mutations=(Put(b"once", b"1"),))
        [first] = await submit_somewhere(cluster, once, client=b"careful", first=7)
        await submit_somewhere(
            cluster, Offer(mutations=(LeaseGrant(5, 600_000), Put(b"leased", b"x", 5))), client=b"l", first=1
        )
        revisions = await load(cluster, 120, first=21)
        await compact(cluster, revisions[-1])
        await trimmed(cluster)
        await cluster.start(3)
        await cluster.until(lambda: cluster.nodes[3]._catch_up.fetched)
        await cluster.converge()
        same(cluster, 1, 3)
        late = cluster.nodes[3]
        leader = await cluster.leader()
        if leader is not late:
            await call(leader.transfer_leadership, NodeId(3))
        assert await cluster.until(lambda: cluster.leader_now()) is late
        # The node that knows the offer only from the snapshot decides its repetition.
        assert await submit(late, once, client=b"careful", first=7) == [first]
        assert late.outcome(b"careful", 7) == first
        assert await call(late.keep_alive, 5) == 600_000
        record = late.space.get(b"once")
        assert record is not None and record.version == 1
        await cluster.converge()


async def test_without_the_dedupe_table_an_offer_would_be_applied_twice(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted bug: a snapshot without the sessions."""
    import journal.snapshots.install
    import journal.snapshots.records
    from journal.storage.records import SESSION

    families = tuple(family for family in journal.snapshots.records.FAMILIES if family != SESSION)
    monkeypatch.setattr(journal.snapshots.records, "FAMILIES", families)
    monkeypatch.setattr(journal.snapshots.records.walk, "__defaults__", (b"", families))
    with pytest.RaisesGroup(AssertionError, flatten_subgroups=True, allow_unwrapped=True):
        await test_exactly_once_and_leases_survive_a_snapshot(autojump_clock)


# -- breaks ----------------------------------------------------------------------------------------


class Lossy:
    """Drops the snapshot messages that ``lose`` says."""

    def __init__(self, cluster: Cluster, lose: Callable[[Envelope], bool]) -> None:
        post = cluster.network.post
        self.lose = lose
        self.lost = 0

        def some(envelopes: Any) -> None:
            kept = []
            for envelope in envelopes:
                if isinstance(envelope.message, SnapshotMessage) and self.lose(envelope):
                    self.lost += 1
                else:
                    kept.append(envelope)
            post(kept)

        cluster.network.post = some  # type: ignore[method-assign]


async def test_lost_and_repeated_messages_cost_time_only(autojump_clock: MockClock) -> None:
    async with one_behind() as (cluster, _revisions):
        count = 0

        def lose(envelope: Envelope) -> bool:
            nonlocal count
            count += 1
            if count % 5 == 0:
                cluster.network._heap.append((trio.current_time() + 3, -count, envelope))  # late, once more
            return count % 3 == 0

        lossy = Lossy(cluster, lose)
        await cluster.start(3)
        await cluster.until(lambda: cluster.nodes[3]._catch_up.fetched, within_s=200)
        await cluster.converge()
        same(cluster, 1, 3)
        assert lossy.lost > 5


async def test_after_a_break_it_goes_on_where_it_was(autojump_clock: MockClock) -> None:
    async with one_behind() as (cluster, _revisions):
        asks: list[bytes] = []
        broken = False

        def lose(envelope: Envelope) -> bool:
            nonlocal broken
            if isinstance(envelope.message, SnapshotAsk):
                asks.append(envelope.message.after)
                if len(asks) == 4 and not broken:
                    broken = True
            return broken and isinstance(envelope.message, SnapshotMessage)

        Lossy(cluster, lose)
        await cluster.start(3)
        late = cluster.nodes[3]
        await cluster.until(lambda: broken)
        await trio.sleep(8)
        assert late._catch_up._fetch is not None
        broken = False
        await cluster.until(lambda: late._catch_up.fetched)
        assert asks.count(b"") == 1, "it began once"
        assert asks == sorted(asks)
        await cluster.converge()
        same(cluster, 1, 3)


async def test_when_the_view_is_gone_it_begins_again(autojump_clock: MockClock) -> None:
    async with one_behind() as (cluster, _revisions):
        asks: list[bytes] = []
        broken = False

        def lose(envelope: Envelope) -> bool:
            nonlocal broken
            if isinstance(envelope.message, SnapshotAsk):
                asks.append(envelope.message.after)
                broken = broken or len(asks) == 4
            return broken and not isinstance(envelope.message, Trimmed)

        lossy = Lossy(cluster, lose)
        await cluster.start(3)
        await cluster.until(lambda: broken)
        await trio.sleep(SMALL.snapshot_idle_s + 5)
        assert all(node._snapshots.peers_views.open == 0 for node in cluster.nodes.values())
        asks.clear()
        lossy.lose = lambda envelope: False
        await cluster.until(lambda: cluster.nodes[3]._catch_up.fetched, within_s=120)
        await cluster.converge()
        same(cluster, 1, 3)


async def test_a_damaged_chunk_is_not_taken(autojump_clock: MockClock) -> None:
    async with one_behind() as (cluster, _revisions):
        post = cluster.network.post
        damaged = 0

        def damage(envelopes: Any) -> None:
            nonlocal damaged
            out = []
            for envelope in envelopes:
                message = envelope.message
                if isinstance(message, SnapshotChunk) and damaged < 6:
                    damaged += 1
                    flipped = bytearray(message.records)
                    flipped[damaged * 37 % len(flipped)] ^= 0x10
                    message = replace(message, records=bytes(flipped))
                out.append(envelope._replace(message=message))
            post(out)

        cluster.network.post = damage  # type: ignore[method-assign]
        await cluster.start(3)
        await cluster.until(lambda: cluster.nodes[3]._catch_up.fetched, within_s=120)
        assert damaged == 6
        await cluster.converge()
        same(cluster, 1, 3)


async def test_a_record_damaged_on_the_senders_disk_is_not_sent(autojump_clock: MockClock) -> None:
    async with one_behind() as (cluster, _revisions):
        storage = cluster.storages[1]
        assert isinstance(storage, MemoryStorage)
        key = b"kkey005"
        sealed = storage.get(key)
        assert sealed is not None
        storage.write_now([(key, sealed[:-1] + b"\xff")], sync=True)
        senders = seen(cluster, SnapshotChunk)
        await cluster.start(3)
        await cluster.until(lambda: cluster.nodes[3]._catch_up.fetched, within_s=120)
        assert senders[-1].sender == 2
        assert cluster.nodes[3].space.get(b"key005") is not None


async def test_what_was_damaged_while_it_was_staged_is_not_installed(autojump_clock: MockClock) -> None:
    async with one_behind() as (cluster, _revisions):
        storage = cluster.storages[3]
        assert isinstance(storage, MemoryStorage)
        done = False

        def damage(batch: list[Write], _sync: bool) -> None:
            nonlocal done
            for index, (key, value) in enumerate(batch):
                if key == STAGED + b"kkey003" and value is not None and not done:
                    done = True
                    batch[index] = (key, value[:-1] + b"\xff")

        storage.on_write = damage
        await cluster.start(3)
        await cluster.until(lambda: cluster.nodes[3]._catch_up.fetched, within_s=120)
        assert done
        await cluster.converge()
        same(cluster, 1, 3)


# -- crashes ---------------------------------------------------------------------------------------


def _has(found: list[Envelope], count: int) -> bool:
    return len(found) >= count


async def is_there(cluster: Cluster, late: Node) -> None:
    """Wait until ``late`` has what the others have, and nothing staged any more."""
    others = [node for node in cluster.nodes.values() if node is not late]
    await cluster.until(
        lambda: late.space.applied >= max(node.space.applied for node in others) and late._catch_up.is_idle,
        within_s=300,
    )


async def crash_at(cluster: Cluster, number: int, write: int, *, power: bool) -> bool:
    """Start ``number``, and crash it before its storage takes batch ``write``. Whether it came to that."""
    storage = cluster.storages[number]
    assert isinstance(storage, MemoryStorage)
    count = 0
    reached = trio.Event()

    def on_write(_batch: list[Write], _sync: bool) -> None:
        nonlocal count
        count += 1
        if count >= write:
            reached.set()
            from journal.errors import StorageFailed

            raise StorageFailed("crashed here")

    storage.on_write = on_write
    await cluster.start(number)
    node = cluster.nodes[number]
    ended = cluster.ended[number]
    with trio.move_on_after(60):
        while not ended.is_set() and not (node._catch_up.fetched and node._catch_up.is_idle):  # noqa: ASYNC110
            await trio.sleep(0.01)
    if not ended.is_set():
        await cluster.kill(number)
    cluster.storages[number] = storage.crashed(0 if power else storage.unsynced_batches)
    return reached.is_set()


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
async def test_the_receiver_may_crash_at_every_step(autojump_clock: MockClock, power: bool) -> None:
    """Before each batch of the whole course it crashes once; each time it goes on, in the end it is there."""
    async with one_behind(count=60) as (cluster, _revisions):
        before = cluster.storages[3]
        assert isinstance(before, MemoryStorage)
        step = 1
        phases: set[str] = set()
        while True:
            cluster.storages[3] = before.crashed(0)
            crashed = await crash_at(cluster, 3, step, power=power)
            storage = cluster.storages[3]
            if storage.get(TRANSFER) is not None:
                from journal.snapshots.fetch import read_transfer

                transfer = read_transfer(storage)
                assert transfer is not None
                phases.add(transfer.phase.name)
            await cluster.start(3)
            late = cluster.nodes[3]
            await is_there(cluster, late)
            same(cluster, 1, 3)
            await cluster.kill(3)
            if not crashed:
                break
            step += 1
        assert step > 20
        assert phases >= {"INSTALLING", "CLEARING"}
        assert "FETCHING" in phases or power, "what is staged is not synced"


async def test_the_sender_may_crash_at_every_chunk(autojump_clock: MockClock) -> None:
    async with one_behind(count=60) as (cluster, _revisions):
        before = cluster.storages[3]
        assert isinstance(before, MemoryStorage)
        for chunk in (1, 2, 4, 7):
            cluster.storages[3] = before.crashed(0)
            chunks = seen(cluster, SnapshotChunk)
            await cluster.start(3)
            await cluster.until(partial(_has, chunks, chunk))
            sender = int(chunks[-1].sender)
            await cluster.kill(sender)
            await trio.sleep(1)
            await cluster.start(sender)
            late = cluster.nodes[3]
            await is_there(cluster, late)
            await cluster.converge()
            same(cluster, 1, 3)
            await cluster.kill(3)


async def test_a_node_that_waits_for_its_space_votes_and_does_not_stand(autojump_clock: MockClock) -> None:
    """In the middle of a long installation the others fail: it must not lead, nor block who does."""
    async with one_behind() as (cluster, _revisions):
        storage = cluster.storages[3]
        assert isinstance(storage, MemoryStorage)
        write = storage.write

        async def slow(writes: Any, *, sync: bool) -> None:
            if late._catch_up.is_installing:
                await trio.sleep(1)
            await write(writes, sync=sync)

        storage.write = slow  # type: ignore[method-assign]
        await cluster.start(3)
        late = cluster.nodes[3]
        await cluster.until(lambda: late._catch_up.is_installing)
        old = late.space.revision
        assert 0 < old < 30
        assert await barrier(late, linearizable=False) == old, "readers see the old state meanwhile"
        assert late.space.get(b"key001") is not None
        leader = await cluster.leader()
        await cluster.kill(3 - int(leader.config.node))
        await submit_somewhere(cluster, put("meanwhile"), client=b"m", first=1)
        await cluster.kill(int(leader.config.node))
        await trio.sleep(10)
        assert late._catch_up.is_installing
        assert "installing a snapshot of revision" in late.status().health or not cluster.leader_now()
        assert late.status().role != "leader"
        assert late.space.get(b"key001") is not None
        await cluster.start(1, 2)
        await cluster.until(lambda: late._catch_up.fetched, within_s=200)
        await load(cluster, 3, client=b"after")
        await cluster.converge()
        same(cluster, 1, 3)


async def test_what_was_promised_and_accepted_above_stays(autojump_clock: MockClock) -> None:
    async with one_behind() as (cluster, _revisions):
        await cluster.start(3)
        late = cluster.nodes[3]
        promised: list[Any] = []
        ballots: list[Any] = []

        def watch() -> bool:
            ballots.append(late._core.ballot)
            sealed = cluster.storages[3].get(PROMISED)
            promised.append(sealed[4:] if sealed else b"")
            return bool(late._catch_up.fetched)

        await cluster.until(watch)
        assert ballots == sorted(ballots) and promised == sorted(promised)
        await cluster.converge()


# -- without a space -------------------------------------------------------------------------------


def lose_space(storage: MemoryStorage) -> None:
    """What is left where a damaged space cannot be folded again, because the log was trimmed."""
    gone = [key for family in SPACE_FAMILIES for key, _value in storage.iterate(family, family_end(family))]
    storage.write_now([(key, None) for key in gone], sync=True)


async def test_a_node_that_lost_its_space_behind_a_trimmed_log_fetches_one(autojump_clock: MockClock) -> None:
    async with running(3, SMALL) as cluster:
        revisions = await load(cluster, 100)
        await compact(cluster, revisions[80])
        await trimmed(cluster)
        await cluster.converge()
        await cluster.kill(3)
        storage = cluster.storages[3]
        assert isinstance(storage, MemoryStorage)
        last = trimmed_slot(storage)
        assert last > 30
        lose_space(storage)
        await cluster.start(3)
        late = cluster.nodes[3]
        # It knows that the trimmed slots are chosen: what it accepted there is forgotten.
        assert late._core.chosen >= last
        with pytest.raises(Unavailable, match="cannot be read from yet"):
            await barrier(late, linearizable=False)
        await load(cluster, 30, first=61)
        await cluster.until(lambda: late._catch_up.fetched == 1)
        await load(cluster, 30, first=91)
        await cluster.converge()
        same(cluster, 1, 3)


async def test_what_was_trimmed_is_never_proposed_again(autojump_clock: MockClock) -> None:
    """A minority is damaged: one node lost its space; another, which knows less, stands with its vote."""
    async with one_behind() as (cluster, _revisions):
        history = cluster.nodes[1].space
        await cluster.kill(1)
        await cluster.kill(2)
        storage = cluster.storages[1]
        assert isinstance(storage, MemoryStorage)
        lose_space(storage)
        # Nodes 1 and 3 are a quorum. Neither can go on; but they must not choose the past anew.
        await cluster.start(1, 3)
        await trio.sleep(30)
        for number in (1, 3):
            node = cluster.nodes.get(number)
            assert node is None or node.space.applied <= 25
        await cluster.start(2)
        await cluster.until(lambda: len(cluster.nodes) == 3, within_s=60)
        await cluster.until(lambda: cluster.nodes[1]._catch_up.fetched, within_s=120)
        await load(cluster, 3, client=b"after")
        await cluster.converge()
        same(cluster, 1, 2)
        assert history.applied <= cluster.nodes[1].space.applied
        assert cluster.nodes[2].space.slots.chain_at(history.applied) == history.chain


async def test_a_restart_while_it_waits_for_a_space_waits_on(autojump_clock: MockClock) -> None:
    async with running(3, SMALL) as cluster:
        revisions = await load(cluster, 60)
        await compact(cluster, revisions[40])
        await trimmed(cluster)
        await cluster.kill(3)
        storage = cluster.storages[3]
        assert isinstance(storage, MemoryStorage)
        lose_space(storage)
        for step in (2, 5, 9, 14, 30):
            await crash_at(cluster, 3, step, power=False)
        await cluster.start(3)
        await cluster.until(lambda: not cluster.nodes[3]._catch_up.is_installing)
        await cluster.converge()
        same(cluster, 1, 3)
