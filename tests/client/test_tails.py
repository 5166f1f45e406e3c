"""Tails and replicas: without gap, repetition or step back, whatever the nodes do."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import trio

from journal.client import Journal, SnapshotPage, TailMessage
from journal.client import tails as tails_module
from journal.client.tails import outermost
from journal.errors import RevisionCompacted, RevisionInFuture, Unavailable
from journal.offers import Delete, DeleteRange, Offer, Put
from journal.types import Revision
from journal.versions import Record

from .fake import FakeCluster, client


async def collect(journal: Journal, after: int, until: int, prefixes: Sequence[bytes] = ()) -> list[int]:
    """Return the revisions that a tail delivers, up to ``until``."""
    found: list[int] = []
    async with journal.tail(after, prefixes) as tail:
        async for message in tail:
            found += [commit.revision for commit in message.commits]
            if tail.revision >= until:
                return found
    raise AssertionError("a tail does not end")


async def write(journal: Journal, first: int, last: int) -> None:
    for i in range(first, last + 1):
        await journal.put(b"%s/%d" % ([b"a", b"b", b"c"][i % 3], i), b"%d" % i)


async def test_a_tail_delivers_everything_once_in_order(autojump_clock: object) -> None:
    async with client(FakeCluster()) as journal:
        await write(journal, 1, 20)
        assert await collect(journal, 0, 20) == list(range(1, 21))
        assert await collect(journal, 13, 20) == list(range(14, 21))
        assert await collect(journal, 0, 20, [b"b/", b"c/"]) == [i for i in range(1, 21) if i % 3]


async def test_a_tail_from_now_on(autojump_clock: object) -> None:
    async with client(FakeCluster()) as journal:
        await write(journal, 1, 5)
        async with journal.tail() as tail:
            assert tail.revision == 5
            await write(journal, 6, 8)
            commits = []
            async for commit in tail.commits():
                commits.append(commit.revision)
                if commit.revision == 8:
                    break
            assert commits == [6, 7, 8]
            with trio.move_on_after(5) as nothing:
                await tail.__anext__()
            assert nothing.cancelled_caught, "idle tails are silent"
            await write(journal, 9, 9)
            assert (await tail.__anext__()).commits[0].revision == 9


async def test_a_tail_resumes_after_every_failure(autojump_clock: object) -> None:
    cluster = FakeCluster()
    rng = random.Random(3)
    async with client(cluster) as journal, trio.open_nursery() as nursery:

        async def unrest() -> None:
            while True:
                await trio.sleep(rng.uniform(0, 0.5))
                for node in cluster.nodes.values():
                    node.up = rng.random() < 0.6
                    node.silent = rng.random() < 0.1
                cluster.lead(rng.choice(cluster.endpoints))

        nursery.start_soon(unrest)
        async with trio.open_nursery() as both:
            found: list[int] = []

            async def follow() -> None:
                found.extend(await collect(journal, 0, 300))

            both.start_soon(follow)
            async with client(cluster, seed=2, timeout_s=600.0) as writer:
                offers = [Offer((Put(b"k", b"%d" % i),)) for i in range(300)]
                for offer in offers:
                    await writer.offer(offer)
                    await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
        assert found == list(range(1, 301))
        assert journal.counters.tail_resumptions > 5


def dropping(message: TailMessage) -> Sequence[TailMessage]:
    return [] if message.first % 10 == 1 and message.commits else [message]


def doubling(message: TailMessage) -> Sequence[TailMessage]:
    return [message, message]


def reordering(message: TailMessage) -> Sequence[TailMessage]:
    return [message._replace(commits=list(reversed(message.commits)))]


def thinning(message: TailMessage) -> Sequence[TailMessage]:
    return [message._replace(commits=message.commits[:-1])]


def stretching(message: TailMessage) -> Sequence[TailMessage]:
    return [message._replace(last=Revision(message.last + 3))] if message.commits else [message]


SPOILERS = [dropping, doubling, reordering, thinning, stretching]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
async def test_a_node_that_spoils_its_tails_is_not_believed(autojump_clock: object, spoil: object) -> None:
    cluster = FakeCluster()
    for node in list(cluster.nodes.values())[:2]:
        node.spoil_tail = spoil  # type: ignore[assignment]
    for seed in range(4):
        async with client(cluster, seed=seed) as journal:
            await write(journal, 1, 30)
            until = cluster.journal.revision
            assert await collect(journal, 0, until) == list(range(1, until + 1))


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
async def test_planted_without_the_proof_spoiled_tails_get_through(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, spoil: object
) -> None:
    monkeypatch.setattr(tails_module.Tail, "_prove", lambda self, message, endpoint: None)
    cluster = FakeCluster()
    for node in cluster.nodes.values():
        node.spoil_tail = spoil  # type: ignore[assignment]
    async with client(cluster) as journal:
        await write(journal, 1, 30)
        found: list[int] = []
        covered: list[int] = []
        with trio.move_on_after(60):
            async with journal.tail(0) as tail:
                while tail.revision < 30:
                    message = await tail.__anext__()
                    found += [commit.revision for commit in message.commits]
                    covered += range(message.first, message.last + 1)
        assert not found == covered == list(range(1, 31))


async def test_a_tail_leaves_a_node_that_is_cut_off(autojump_clock: object) -> None:
    """Its progress messages go on and on; only the journal's own revision tells."""
    cluster = FakeCluster()
    async with client(cluster) as journal:
        await write(journal, 1, 5)
        async with journal.tail(0) as tail:
            while tail.revision < 5:
                await tail.__anext__()
            home = next(node for node in cluster.nodes.values() if node.tails)
            home.frozen_at = Revision(5)
            if home.leads:
                cluster.lead(next(endpoint for endpoint in cluster.endpoints if endpoint != home.endpoint))
            async with client(cluster, seed=2) as writer:
                await write(writer, 6, 7)
            before = trio.current_time()
            while tail.revision < 7:
                await tail.__anext__()
            assert trio.current_time() - before < 15
            assert not home.tails


async def test_a_slow_reader_slows_only_itself(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal, journal.tail(0) as slow:
        await write(journal, 1, 200)
        assert await collect(journal, 0, 200) == list(range(1, 201))
        found = []
        while slow.revision < 200:
            await trio.sleep(7)  # longer than the silence that ends a stream
            message = await slow.__anext__()
            found += [commit.revision for commit in message.commits]
        assert found == list(range(1, 201))
        assert journal.counters.tail_resumptions == 0


async def test_where_a_tail_cannot_start(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        await write(journal, 1, 10)
        async with journal.tail(12) as tail:
            with pytest.raises(RevisionInFuture):
                await tail.__anext__()
        await journal.compact(5)
        async with journal.tail(2) as tail:
            with pytest.raises(RevisionCompacted):
                await tail.__anext__()


async def test_a_tail_behind_a_lagging_node_waits_for_it(autojump_clock: object) -> None:
    """Seen revisions are not the future: every node but the leader lags, and then the leader dies."""
    cluster = FakeCluster()
    async with client(cluster) as journal:
        await write(journal, 1, 10)
        for node in cluster.nodes.values():
            node.frozen_at = None if node.leads else Revision(4)
        async with journal.tail(8) as tail:
            while tail.revision < 10:
                message = await tail.__anext__()
            assert message.last == 10


async def test_a_tail_ends_with_its_client(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:

        async def follow(journal: Journal) -> None:
            with pytest.raises(Unavailable, match="closed"):
                async with journal.tail(0) as tail:
                    async for _message in tail:
                        pass

        async with client(FakeCluster()) as journal:
            nursery.start_soon(follow, journal)
            await trio.sleep(1)


async def test_leaving_a_tail_closes_its_stream(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        for _ in range(3):
            async with journal.tail(0):
                await trio.sleep(1)
                assert sum(node.tails for node in cluster.nodes.values()) == 1
            await trio.sleep(1)
            assert sum(node.tails for node in cluster.nodes.values()) == 0


# -- snapshots -----------------------------------------------------------------------------


async def test_a_snapshot_and_then_what_follows(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        await write(journal, 1, 30)
        async with journal.tail(prefixes=[b"b/", b"b/1", b"a/"], snapshot=True) as tail:
            first = await tail.__anext__()
            await write(journal, 31, 33)
            assert isinstance(first, SnapshotPage)
            assert first.first
            assert not first.last
            second = await tail.__anext__()
            assert isinstance(second, SnapshotPage)
            assert second.last
            keys = [key for page in (first, second) for key, _record in page.items]
            assert keys == sorted(b"%s/%d" % ([b"a", b"b"][i % 3], i) for i in range(1, 31) if i % 3 != 2)
            assert first.revision == second.revision == tail.revision == 30
            found = []
            while tail.revision < 33:
                message = await tail.__anext__()
                assert isinstance(message, TailMessage)
                found += [commit.revision for commit in message.commits]
            assert found == [31, 33]


async def test_a_reader_behind_compaction_starts_again_from_a_snapshot(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        await write(journal, 1, 10)
        await journal.compact(8)
        async with journal.tail(2, snapshot=True) as tail:
            page = await tail.__anext__()
            assert isinstance(page, SnapshotPage)
            assert page.first
            assert page.last
            assert page.revision == 10


def test_prefixes_that_are_covered_are_left_out() -> None:
    assert outermost([]) == ()
    assert outermost([b"a", b""]) == ()
    assert outermost([b"b", b"a", b"ab", b"a", b"c/d"]) == (b"a", b"b", b"c/d")


# -- replicas ------------------------------------------------------------------------------


def contents(cluster: FakeCluster, prefix: bytes) -> list[tuple[bytes, Record]]:
    found = cluster.journal.scan(b"", b"", cluster.journal.revision)
    return [(key, record) for key, record in found if key.startswith(prefix)]


async def test_a_replica_is_the_space(autojump_clock: object) -> None:
    cluster = FakeCluster()
    rng = random.Random(1)
    async with client(cluster) as journal:
        await write(journal, 1, 30)
        async with journal.replica(b"a/") as replica:
            assert list(replica.scan()) == contents(cluster, b"a/")
            changes: dict[bytes, Record | None] = {}
            stop = replica.subscribe(changes.__setitem__)
            for i in range(100):
                key = b"%s/%d" % (rng.choice([b"a", b"b"]), rng.randrange(40))
                await journal.offer(Offer((Delete(key) if rng.random() < 0.3 else Put(key, b"%d" % i),)))
            await journal.offer(Offer((DeleteRange(b"a/2", b"a/3"), Put(b"a/25", b""))))
            await replica.wait_for(journal.seen)
            assert replica.revision == journal.seen
            assert list(replica.scan()) == contents(cluster, b"a/")
            assert [key for key, _record in replica.scan(b"a/1", b"a/3")] == [
                key for key, _record in contents(cluster, b"a/") if b"a/1" <= key < b"a/3"
            ]
            assert {key: record for key, record in changes.items() if record} == {
                key: record for key, record in contents(cluster, b"a/") if record.mod > 30
            }
            assert b"a/25" in replica
            assert replica.get(b"a/20") is None
            assert len(replica) == len(contents(cluster, b"a/"))
            stop()
            told = dict(changes)
            revision = replica.revision
            await journal.put(b"a/new", b"")
            assert await replica.changed(revision) > revision
            assert changes == told
            assert replica.lag == 0


async def test_a_replica_survives_compaction(autojump_clock: object) -> None:
    """Cut off for longer than history is kept: the new snapshot is told as changes."""
    cluster = FakeCluster()
    async with client(cluster) as journal:
        await write(journal, 1, 9)
        async with journal.replica() as replica:
            changes: dict[bytes, Record | None] = {}
            replica.subscribe(changes.__setitem__)
            for node in cluster.nodes.values():
                node.up = False
            await trio.sleep(1)
            for node in cluster.nodes.values():
                node.spoil_tail = None
            fold = cluster.journal._apply
            for i in range(20):
                fold(b"other", i, Offer((Put(b"a/3", b"again"), Delete(b"b/1"))))
            cluster.journal.compacted = Revision(25)
            for node in cluster.nodes.values():
                node.up = True
            await replica.wait_for(29)
            assert list(replica.scan()) == contents(cluster, b"")
            assert set(changes) == {b"a/3", b"b/1"}
            assert changes[b"b/1"] is None


async def test_a_replica_that_cannot_be_filled_says_so(autojump_clock: object) -> None:
    cluster = FakeCluster()
    for node in cluster.nodes.values():
        node.up = False
    async with client(cluster) as journal:
        with pytest.raises(Unavailable, match="could not be filled within 3 s"):
            async with journal.replica(timeout_s=3.0):
                pass


async def test_those_who_wait_for_a_replica_learn_that_it_ended(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        async with client(FakeCluster()) as journal:
            manager = journal.replica()
            replica = await manager.__aenter__()

            async def wait() -> None:
                with pytest.raises(Unavailable):
                    await replica.wait_for(100)

            nursery.start_soon(wait)
            await trio.sleep(1)
        await manager.__aexit__(None, None, None)
