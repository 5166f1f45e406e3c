"""The client on real nodes: three of them in one thread, on virtual time, killed and cut off."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from journal.client import (
    LOCAL,
    ClientConfig,
    Journal,
    OfferRejected,
    OfferUnknown,
    SnapshotPage,
    Transaction,
    connect,
)
from journal.commits import Commit
from journal.connection_local import LocalConnector
from journal.errors import OfferInvalid, RevisionCompacted, RevisionInFuture, Unavailable, WrongCluster
from journal.limits import Limits
from journal.node import Node
from journal.offers import Adjust, Delete, DeleteRange, Mutation, Offer, Put, Reason
from journal.types import NodeId
from tests.node.cluster import ByEndpoint, Cluster, running


@asynccontextmanager
async def client(cluster: Cluster, seed: int = 1, **settings: Any) -> AsyncIterator[Journal]:
    endpoints = [member.endpoint for member in cluster.membership.voters]
    async with connect(
        endpoints,
        connector=LocalConnector(ByEndpoint(cluster), "test"),
        config=ClientConfig(**settings),
        rng=random.Random(seed),
    ) as journal:
        yield journal


def history(node: Node) -> list[Commit]:
    found: list[Commit] = []
    while True:
        chunk = node.tails.read(found[-1].revision if found else 0, 10**6)  # type: ignore[arg-type]
        if not chunk.commits:
            return found
        found += chunk.commits


async def test_a_first_way_through(autojump_clock: object) -> None:
    async with running(3) as cluster, client(cluster) as journal:
        assert await journal.put(b"a", b"1") == 1
        record = await journal.get(b"a")
        assert record is not None
        assert record.value == b"1"
        with pytest.raises(OfferRejected) as rejected:
            await journal.offer(Offer((Put(b"a", b"2"),), expect=((b"a", 0),), label="second"))
        assert rejected.value.receipt.reason is Reason.EXPECT
        assert await journal.offer_many([Offer((Put(b"k%d" % i, b""),)) for i in range(10)]) == list(
            range(2, 12)
        )
        reply = await journal.scan(b"k", b"l", limit=3)
        assert [key for key, _record in reply.items] == [b"k0", b"k1", b"k2"]
        assert reply.next_key == b"k3"
        async with journal.tail(0) as tail:
            revisions: list[int] = []
            while tail.revision < 11:
                revisions += [commit.revision for commit in (await tail.__anext__()).commits]
        assert revisions == list(range(1, 12))
        with pytest.raises(RevisionInFuture):
            await journal.get(b"a", at=100)
        with pytest.raises(OfferInvalid, match=r"^mutations\[0\].key: must not be empty"):
            await journal.put(b"", b"")


async def test_the_leader_is_killed_again_and_again(autojump_clock: object) -> None:
    """Every acknowledged offer is in the history of every node exactly once, at its revision."""
    async with running(3) as cluster:
        rng = random.Random(6)
        accepted: dict[bytes, int] = {}
        unknown: dict[bytes, OfferUnknown] = {}
        finished = trio.Event()

        async def writer(journal: Journal, number: int) -> None:
            for i in range(200):
                key = b"%d/%d" % (number, i)
                try:
                    accepted[key] = await journal.put(key, b"v", timeout_s=[0.5, 20.0][number % 2])
                except OfferUnknown as error:
                    unknown[key] = error
                except Unavailable:
                    pass
                await trio.sleep(rng.uniform(0, 0.01))

        async def killer() -> None:
            while not finished.is_set():
                leader = await cluster.leader()
                await trio.sleep(1.0)
                await cluster.kill(int(leader.config.node))
                await trio.sleep(0.7)
                await cluster.start(int(leader.config.node))

        async with client(cluster) as journal, client(cluster, seed=2) as other:
            cluster.nursery.start_soon(killer)
            async with trio.open_nursery() as writers:
                for number in range(16):
                    writers.start_soon(writer, [journal, other][number // 2 % 2], number)
            finished.set()
            settled = {}
            for key, error in unknown.items():
                mine = error.id.client == journal._submitter.client
                settled[key] = await (journal if mine else other).outcome(error.id)
            await cluster.until(lambda: len(cluster.nodes) == 3)
            await journal.put(b"end", b"")
            await cluster.converge()
            assert len(accepted) > 1_500
            assert unknown
            assert journal.counters.resubmissions
            for node in cluster.nodes.values():
                commits = history(node)
                where = {change.key: commit.revision for commit in commits for change in commit.changes}
                times = Counter(change.key for commit in commits for change in commit.changes)
                assert set(times.values()) == {1}
                assert {key: where[key] for key in accepted} == accepted
                assert {key: where.get(key) for key in unknown} == settled


async def test_no_majority_and_back(autojump_clock: object) -> None:
    async with running(3) as cluster, client(cluster) as journal:
        await journal.put(b"a", b"1")
        leader = await cluster.leader()
        others = [number for number in cluster.nodes if number != leader.config.node]
        for number in others:
            await cluster.kill(number)
        with pytest.raises((Unavailable, OfferUnknown)):
            await journal.put(b"a", b"2", timeout_s=5.0)
        with pytest.raises(Unavailable):
            await journal.get(b"a", timeout_s=5.0)
        assert (await journal.get_many([b"a"], consistency=LOCAL)).revision == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.offer, Offer((Put(b"b", b""),)))
            await trio.sleep(2)
            for number in others:
                await cluster.start(number)
        assert await journal.get(b"b") is not None


async def test_a_tail_and_a_replica_over_dying_nodes(autojump_clock: object) -> None:
    async with running(3) as cluster, client(cluster) as journal, client(cluster, seed=2) as writer:
        rng = random.Random(4)
        async with journal.tail(0) as tail, journal.replica(b"a", b"c") as replica:
            for i in range(200):
                key = rng.choice([b"a", b"b", b"c"]) + b"%d" % rng.randrange(10)
                kinds: list[Mutation] = [Put(key, b"%d" % i), Delete(key), DeleteRange(b"a1", b"a4")]
                mutation = rng.choice(kinds)
                await writer.offer(Offer((mutation,)))
                if i % 40 == 20:
                    victim = rng.choice(list(cluster.nodes))
                    await cluster.kill(victim)
                    cluster.nursery.start_soon(cluster.start, victim)
            revisions: list[int] = []
            while tail.revision < writer.seen:
                revisions += [commit.revision for commit in (await tail.__anext__()).commits]
            assert revisions == list(range(1, writer.seen + 1))
            await replica.wait_for(writer.seen)
            reply = await journal.scan(b"", b"")
            assert list(replica.scan()) == [item for item in reply.items if item[0][:1] in (b"a", b"c")]


async def test_a_withdrawn_offer_is_settled_by_the_fold(autojump_clock: object) -> None:
    """The leader is cut off with the offer; the caller gives up; the offer never takes effect."""
    async with running(3) as cluster, client(cluster) as journal:
        await journal.put(b"a", b"1")
        leader = await cluster.leader()
        cluster.isolate(leader)
        with pytest.raises(OfferUnknown) as unknown:
            await journal.put(b"lost", b"", timeout_s=0.5)
        await cluster.leader(other_than=leader.config.node)
        assert await journal.outcome(unknown.value.id, timeout_s=30.0) is None
        cluster.network.cut.clear()
        await trio.sleep(5)
        await cluster.converge()
        assert await journal.get(b"lost") is None
        assert journal.counters.withdrawals == 1


async def test_leases_over_a_change_of_leader(autojump_clock: object) -> None:
    async with running(3) as cluster, client(cluster) as journal:
        async with journal.lease(2.0) as lease:
            await journal.put(b"alive", b"", lease=lease.id)
            for _ in range(3):
                leader = await cluster.leader()
                await cluster.kill(int(leader.config.node))
                await trio.sleep(5)
                await cluster.start(int(leader.config.node))
                await trio.sleep(3)
                assert lease.sure
                assert await journal.get(b"alive") is not None
        assert await journal.get(b"alive") is None


async def test_transactions_on_nodes(autojump_clock: object) -> None:
    async with running(3) as cluster, client(cluster) as journal, client(cluster, seed=2) as other:

        async def increment(transaction: Transaction) -> None:
            count = int(await transaction.get(b"count") or b"0")
            transaction.put(b"count", b"%d" % (count + 1))

        async with trio.open_nursery() as nursery:
            for i in range(20):
                nursery.start_soon([journal, other][i % 2].transact, increment)
            await trio.sleep(0.5)
            await journal.transfer_leadership()
        record = await journal.get(b"count")
        assert record is not None
        assert record.value == b"20"


async def test_compaction_and_snapshots(autojump_clock: object) -> None:
    async with running(3, Limits(scan_keys_max=4)) as cluster, client(cluster) as journal:
        for i in range(30):
            await journal.put(b"k%d" % (i % 11), b"%d" % i)
        await journal.compact(20)
        with pytest.raises(RevisionCompacted):
            await journal.get(b"k1", at=10)
        async with journal.tail(5) as tail:
            with pytest.raises(RevisionCompacted):
                await tail.__anext__()
        async with journal.tail(5, snapshot=True) as tail_or_snapshot:
            pages: list[SnapshotPage] = []
            while not pages or not pages[-1].last:
                page = await tail_or_snapshot.__anext__()
                assert isinstance(page, SnapshotPage)
                pages.append(page)
        items = [item for page in pages for item in page.items]
        assert items == (await journal.scan(b"", b"")).items
        assert [page.first for page in pages] == [True, *[False] * (len(pages) - 1)]


async def test_many_callers_at_once(autojump_clock: object) -> None:
    async with running(3) as cluster, client(cluster) as journal, trio.open_nursery() as nursery:
        for i in range(3_000):
            nursery.start_soon(journal.put, b"%d" % i, b"")
    assert journal.counters.messages < 40


async def test_status_of_nodes_and_wrong_clusters(autojump_clock: object) -> None:
    async with running(3) as cluster, client(cluster) as journal:
        await journal.put(b"a", b"")
        leader = await cluster.leader()
        await cluster.kill(2 if leader.config.node != 2 else 1)
        statuses = await journal.statuses(timeout_s=3.0)
        assert sum(isinstance(status, Unavailable) for status in statuses.values()) == 1
        async with connect(
            list(statuses), connector=LocalConnector(ByEndpoint(cluster), "another")
        ) as stranger:
            with pytest.raises((WrongCluster, Unavailable)):
                await stranger.put(b"a", b"")
        with pytest.raises(Unavailable):
            await journal.transfer_leadership(NodeId(77))


async def test_bounds_on_nodes(autojump_clock: object) -> None:
    import msgpack

    async with running(3) as cluster, client(cluster) as journal:
        await journal.put(b"capacity", msgpack.packb({"cpu": 10}))
        claim = Offer((Adjust(b"capacity", {"cpu": -3}, minimum={"cpu": 0}),))
        verdicts = await journal.offer_many([claim] * 5)
        assert [isinstance(verdict, int) for verdict in verdicts] == [True, True, True, False, False]
