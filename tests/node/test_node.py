"""The loop around the core, with three and five nodes in one thread on virtual time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from journal.entries import pack_offers
from journal.errors import (
    JournalError,
    LeaseNotFound,
    NotLeader,
    OfferInvalid,
    Overloaded,
    RevisionCompacted,
    RevisionInFuture,
    StorageFailed,
    Unavailable,
)
from journal.limits import Limits
from journal.node import NodeConfig
from journal.offers import LeaseGrant, Offer, Put, Reason, Rejected, pack_batch, pack_offer
from journal.paxos import PaxosConfig
from journal.paxos.effects import Effects
from journal.paxos.messages import Accept, AcceptedValue, Envelope
from journal.storage import Write
from journal.storage.log import LogStore
from journal.storage.memory import MemoryStorage
from journal.types import Ballot, NodeId, Revision, Slot

from .cluster import barrier, endpoint_of, put, running, submit, submit_somewhere


async def call(method: Any, *args: Any) -> Any:
    """Call a method of the node that answers through a callback."""
    result: list[Any] = []
    done = trio.Event()

    def reply(value: Any) -> None:
        result.append(value)
        done.set()

    method(*args, reply)
    await done.wait()
    if isinstance(result[0], JournalError):
        raise result[0]
    return result[0]


@pytest.mark.parametrize("count", [1, 3, 5])
async def test_offers_are_folded_alike_on_every_node(autojump_clock: MockClock, count: int) -> None:
    async with running(count) as cluster:
        leader = await cluster.leader()
        assert await submit(leader, put("a"), put("b")) == [1, 2]
        assert await submit(leader, put("a", "new")) == [3]
        await cluster.until(lambda: all(node.space.revision == 3 for node in cluster.nodes.values()))
        await cluster.converge()
        for node in cluster.nodes.values():
            record = node.space.get(b"a")
            assert record is not None
            assert (record.value, record.create, record.mod, record.version) == (b"new", 1, 3, 2)
            chunk = node.tails.read(Revision(0), 1 << 20)
            assert [commit.revision for commit in chunk.commits] == [1, 2, 3]


async def test_a_follower_refuses_offers_and_names_the_leader(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        await cluster.until(lambda: all(node.status().leader for node in cluster.nodes.values()))
        follower = next(node for node in cluster.nodes.values() if node is not leader)
        with pytest.raises(NotLeader) as caught:
            await submit(follower, put("a"))
        assert caught.value.leader == leader.config.node
        assert caught.value.endpoint == endpoint_of(leader.config.node)


async def test_an_offer_survives_the_leader_and_is_applied_once(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        number = int(leader.config.node)
        assert await submit(leader, put("a"), client=b"c", first=1) == [1]
        await cluster.kill(number)
        # The client never saw the reply, and offers the same ids again to whoever leads now.
        assert await submit_somewhere(cluster, put("a"), put("b"), client=b"c", first=1) == [1, 2]
        await cluster.start(number)
        await cluster.until(lambda: len(cluster.nodes) == 3)
        await cluster.until(lambda: all(node.space.revision == 2 for node in cluster.nodes.values()))
        await cluster.converge()


async def test_everything_acknowledged_survives_a_restart_of_all(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        for index in range(20):
            assert await submit_somewhere(cluster, put(f"k{index}"), client=b"c", first=index + 1) == [
                index + 1
            ]
        chains = {(node.space.applied, node.space.chain) for node in cluster.nodes.values()}
        for number in list(cluster.nodes):
            await cluster.kill(number)
        await cluster.start()
        leader = await cluster.leader()
        assert await barrier(leader) == 20
        assert leader.space.slots.chain_at(max(chains)[0]) == max(chains)[1]
        assert await submit(leader, put("k3"), client=b"c", first=4) == [4]
        assert leader.space.revision == 20


async def test_without_a_majority_nothing_is_accepted_and_it_goes_on_after(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        others = [number for number in cluster.nodes if number != leader.config.node]
        for number in others:
            await cluster.kill(number)
        with pytest.raises((NotLeader, Unavailable)):
            await submit(leader, put("lost?"), client=b"c")
        with pytest.raises(Unavailable, match="majority"):
            await barrier(leader)
        assert leader.status().health == "no leader"
        await cluster.start(*others)
        assert await submit_somewhere(cluster, put("lost?"), client=b"c") == [1]


async def test_a_deposed_leader_does_not_answer_reads(autojump_clock: MockClock) -> None:
    """Planted against: a leader that answers reads without asking a quorum."""
    async with running(3) as cluster:
        old = await cluster.leader()
        await submit(old, put("a", "old"))
        cluster.isolate(old)
        new = await cluster.leader(other_than=int(old.config.node))
        await submit(new, put("a", "new"))
        with pytest.raises(Unavailable):
            await barrier(old)
        assert await barrier(old, linearizable=False) == 1
        cluster.network.cut.clear()
        assert await barrier(old) == 2


async def test_a_follower_serves_linearizable_reads(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        for index in range(5):
            await submit(leader, put("a", str(index)))
            for node in cluster.nodes.values():
                assert await barrier(node) >= index + 1
                record = node.space.get(b"a")
                assert record is not None and record.value == str(index).encode()


async def test_a_read_at_a_revision_waits_for_it_or_says_that_it_is_in_the_future(
    autojump_clock: MockClock,
) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        await submit(leader, put("a"))
        for node in cluster.nodes.values():
            assert await barrier(node, at_least=1, linearizable=False) == 1
        with pytest.raises(RevisionInFuture, match="revision 99 is in the future: the journal is at 1"):
            await barrier(leader, at_least=99, linearizable=False)


async def test_concurrent_claims_never_pass_their_bound(autojump_clock: MockClock) -> None:
    """Twenty offers race for ten: the fold lets exactly ten through, whatever was in flight."""
    from journal.offers import Adjust

    async with running(3) as cluster:
        leader = await cluster.leader()
        import msgpack

        await submit(leader, Offer(mutations=(Put(b"capacity", msgpack.packb({"cpu": 10})),)))
        verdicts: list[Any] = []

        async def claim(number: int) -> None:
            offer = Offer(mutations=(Adjust(b"capacity", {"cpu": -1}, minimum={"cpu": 0}),))
            verdicts.extend(await submit(leader, offer, client=b"c%d" % number))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(claim, number)
        accepted = [verdict for verdict in verdicts if isinstance(verdict, int)]
        assert sorted(accepted) == list(range(2, 12))
        assert {verdict.reason for verdict in verdicts if isinstance(verdict, Rejected)} == {Reason.BOUNDS}


async def test_an_offer_that_reads_a_key_in_flight_waits_and_is_rejected_without_a_slot(
    autojump_clock: MockClock,
) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        await submit(leader, put("k", "0"))
        slots = leader.status().applied
        results: list[Any] = []

        async def compare_and_set(number: int) -> None:
            offer = put("k", str(number), reads=(b"k",), at=1, label=f"writer {number}")
            results.extend(await submit(leader, offer, client=b"c%d" % number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(compare_and_set, 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(compare_and_set, 2)
        assert losers_label(results) == ["writer 1"]
        winners = [result for result in results if isinstance(result, int)]
        losers = [result for result in results if isinstance(result, Rejected)]
        assert winners == [2]
        assert [(loser.reason, loser.key, loser.revision) for loser in losers] == [(Reason.READ, b"k", 2)]
        assert leader.status().applied == slots + 1


def losers_label(results: list[Any]) -> list[str]:
    return [result.label for result in results if isinstance(result, Rejected)]


async def test_past_the_limit_in_flight_comes_overloaded_and_nothing_is_lost(
    autojump_clock: MockClock,
) -> None:
    limits = Limits(offers_inflight_max=8)
    async with running(3, limits) as cluster:
        leader = await cluster.leader()
        replies: list[Any] = []
        for number in range(4):
            batch = pack_batch(b"c%d" % number, 0, 0, [pack_offer(1, put("a")), pack_offer(2, put("b"))])
            leader.submit(batch, replies.append)
        with pytest.raises(Overloaded, match="offers_inflight_max=8 is reached; retry after 50 ms"):
            leader.submit(pack_batch(b"x", 0, 0, [pack_offer(1, put("a"))]), replies.append)
        await cluster.until(lambda: len(replies) == 4)
        assert sorted(revision for reply in replies for revision in reply) == list(range(1, 9))
        assert await submit(leader, put("a")) == [9]


async def test_a_malformed_batch_is_refused_with_its_place(autojump_clock: MockClock) -> None:
    async with running(1) as cluster:
        leader = await cluster.leader()
        with pytest.raises(OfferInvalid):
            leader.submit(b"\x93\x01", lambda _reply: None)
        big = pack_batch(b"c", 0, 0, [pack_offer(1, put("a")), pack_offer(2, put("k" * 5000))])
        with pytest.raises(OfferInvalid, match=r"offers\[1\]\.mutations\[0\]\.key"):
            leader.submit(big, lambda _reply: None)
        assert await submit(leader, put("a")) == [1]


async def test_leadership_moves_on_request(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        await submit(leader, put("a"))
        target = next(number for number in cluster.nodes if number != leader.config.node)
        await cluster.until(lambda: len(leader._core.peers_progress) == 2)
        started = trio.current_time()
        assert await call(leader.transfer_leadership, NodeId(target)) == target
        assert trio.current_time() - started < 1.0
        assert (await cluster.leader()).config.node == target
        with pytest.raises(NotLeader):
            await call(leader.transfer_leadership, None)
        with pytest.raises(Unavailable, match="leadership cannot go to node 9"):
            await call((await cluster.leader()).transfer_leadership, NodeId(9))


async def test_a_stopping_leader_hands_over_first(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        await submit(leader, put("a"))
        await trio.sleep(1)
        number = int(leader.config.node)
        started = trio.current_time()
        leader.stop()
        await cluster.ended[number].wait()
        assert number not in cluster.failures
        await cluster.leader(other_than=number)
        assert trio.current_time() - started < 0.9, "handed over, not timed out"


async def test_a_lone_node_stops_at_once(autojump_clock: MockClock) -> None:
    async with running(1) as cluster:
        leader = await cluster.leader()
        started = trio.current_time()
        leader.stop()
        await cluster.ended[1].wait()
        assert trio.current_time() - started < 0.5


async def test_what_waits_is_answered_when_the_node_stops(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        for number in [number for number in cluster.nodes if number != leader.config.node]:
            await cluster.kill(number)
        replies: list[Any] = []
        leader.submit(pack_batch(b"c", 0, 0, [pack_offer(1, put("a"))]), replies.append)
        leader.read_barrier(replies.append)
        await cluster.kill(int(leader.config.node))
        assert len(replies) == 2
        assert all(isinstance(reply, Unavailable) for reply in replies)


class BrokenDisk(MemoryStorage):
    """A disk whose next write fails."""

    broken = False

    async def write(self, writes: Iterable[Write], *, sync: bool) -> None:
        if self.broken:
            raise StorageFailed("sync failed: EIO")
        await super().write(writes, sync=sync)


async def test_a_failed_write_stops_the_node_and_nothing_of_it_is_acknowledged(
    autojump_clock: MockClock,
) -> None:
    async with running(1) as cluster:
        await cluster.kill(1)
        disk = cluster.storages[1] = BrokenDisk()
        await cluster.start(1)
        leader = await cluster.leader()
        assert await submit(leader, put("a")) == [1]
        disk.broken = True
        with pytest.raises(Unavailable):
            await submit(leader, put("b"))
        await cluster.ended[1].wait()
        assert isinstance(cluster.failures[1], StorageFailed)


class SlowDisk(MemoryStorage):
    """A disk that takes its time; ``delay_s`` may change."""

    delay_s = 0.0

    async def write(self, writes: Iterable[Write], *, sync: bool) -> None:
        await trio.sleep(self.delay_s)
        await super().write(writes, sync=sync)


async def test_a_learner_is_answered_only_from_what_is_on_the_disk(autojump_clock: MockClock) -> None:
    """Node 4 holds, for slot 1, a value of an old ballot that was never chosen. It learns what was
    chosen instead, but its disk is slow; node 5 hears nobody else and asks it meanwhile."""
    async with running(5) as cluster:
        for number in tuple(cluster.nodes):
            await cluster.kill(number)
        disk = SlowDisk()
        never_chosen = pack_offers(0, [pack_batch(b"old", 0, 0, [pack_offer(1, put("never", "chosen"))])])
        old = Ballot(0, NodeId(4))
        stale = Effects(promised=old, accepted=[AcceptedValue(Slot(1), old, never_chosen)])
        disk.write_now(LogStore(disk, cluster.limits).writes_for(stale), sync=True)
        cluster.storages = {number: disk if number == 4 else MemoryStorage() for number in range(1, 6)}
        cut = cluster.network.cut = {(a, b) for a in (4, 5) for b in range(1, 6)}
        cut |= {(b, a) for a, b in cut}
        await cluster.start()
        await submit(await cluster.leader(), put("chosen"))
        disk.delay_s = 5.0
        cut -= {(4, 5), (5, 4)} | {(a, b) for a in range(1, 5) for b in range(1, 5)}
        fifth = cluster.nodes[5]
        await cluster.until(lambda: fifth.space.revision == 1)
        assert fifth.space.get(b"never") is None
        assert fifth.space.get(b"chosen") is not None


async def test_a_quorum_without_the_leaders_disk_commits(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        number = int(leader.config.node)
        cluster.storages[number] = leader._writer.storage = disk = SlowDisk()
        disk.delay_s = 60.0
        started = trio.current_time()
        await submit(leader, put("a"))
        assert trio.current_time() - started < 1.0


# -- leases ---------------------------------------------------------------------------


def bound(key: str, lease: int) -> Offer:
    return Offer(mutations=(Put(key.encode(), b"v", lease),))


def grant(lease: int, ttl_ms: int) -> Offer:
    return Offer(mutations=(LeaseGrant(lease, ttl_ms),))


async def test_a_lease_ends_with_its_keys_unless_kept_alive(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        await submit(leader, grant(7, 2000), grant(8, 2000))
        await submit(leader, bound("mine", 7), bound("other", 8))
        for _ in range(10):
            await trio.sleep(1)
            assert await call(leader.keep_alive, 7) == 2000
        assert leader.space.get(b"mine") is not None
        assert leader.space.get(b"other") is None
        with pytest.raises(LeaseNotFound):
            await call(leader.keep_alive, 8)
        await trio.sleep(3)
        assert leader.space.get(b"mine") is None
        await cluster.converge()


async def test_a_new_leader_gives_every_lease_a_full_term(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        await submit(leader, grant(7, 3000), bound("mine", 7))
        await trio.sleep(2.5)
        await cluster.kill(int(leader.config.node))
        new = await cluster.leader()
        elected = trio.current_time()
        await trio.sleep(2.8)
        assert new.space.get(b"mine") is not None
        await cluster.until(lambda: new.space.get(b"mine") is None)
        assert trio.current_time() - elected >= 3.0


async def test_a_slow_disk_ends_no_lease(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        await submit(leader, grant(7, 1000), bound("mine", 7))
        for node in cluster.nodes.values():
            node._writer.storage = disk = SlowDisk()
            disk.delay_s = 5.0
        for _ in range(20):
            await trio.sleep(0.5)
            assert await call(leader.keep_alive, 7) == 1000
        assert leader.space.get(b"mine") is not None


async def test_a_leader_whose_disk_stalls_goes_on_with_a_quorum_of_the_others(
    autojump_clock: MockClock,
) -> None:
    """Found by the simulator: offers gathered while its write was under way, for as long as that took."""
    async with running(3) as cluster:
        leader = await cluster.leader()
        await submit(leader, put("a"))
        leader._writer.storage = disk = SlowDisk()
        disk.delay_s = 60.0
        began = trio.current_time()
        for number in range(10):
            await submit(leader, put(f"k{number}"))
        assert trio.current_time() - began < 1.0
        assert await cluster.leader() is leader


async def test_what_waits_for_a_slow_disk_is_bounded(autojump_clock: MockClock) -> None:
    """Found by the simulator: a follower kept in memory all that was agreed while its disk stood still."""
    bound = 20_000
    async with running(3, Limits(write_queue_bytes_max=bound)) as cluster:
        leader = await cluster.leader()
        slow = next(node for node in cluster.nodes.values() if node is not leader)
        whole = slow._writer.storage
        slow._writer.storage = disk = SlowDisk()
        disk.delay_s = 20.0
        for number in range(100):
            await submit(leader, put(f"k{number % 7}", "v" * 1000))
            assert slow._writer.log_bytes < bound + 4_000
        assert slow.space.applied < 60
        slow._writer.storage = whole
        await trio.sleep(30)
        await submit(leader, put("last"))


async def test_what_one_turn_takes_in_for_a_slow_disk_is_bounded(autojump_clock: MockClock) -> None:
    """Found by the simulator: what came in together was counted against the bound only when all was in."""
    bound = 20_000
    async with running(3, Limits(write_queue_bytes_max=bound)) as cluster:
        leader = await cluster.leader()
        await submit(leader, put("first"))
        slow = next(node for node in cluster.nodes.values() if node is not leader)
        await cluster.until(lambda: slow.space.revision == 1)
        ballot, here, now = leader._core.ballot, slow.config.node, trio.current_time()
        entry = pack_offers(0, [pack_batch(b"c", 0, 0, [pack_offer(1, put("key", "v" * 1000))])])
        for slot in range(slow._core.chosen + 1, slow._core.chosen + 101):
            slow._inbox.append(Envelope(leader.config.node, here, Accept(ballot, Slot(slot), entry, Slot(1))))
        slow._step_inbox(now)
        slow._drain(now)
        assert bound / 2 < slow._writer.log_bytes < bound + 2_000


async def test_a_leader_with_too_much_waiting_for_its_disk_proposes_no_more(
    autojump_clock: MockClock,
) -> None:
    async with running(3, Limits(write_queue_bytes_max=5_000)) as cluster:
        leader = await cluster.leader()
        whole = leader._writer.storage
        leader._writer.storage = disk = SlowDisk()
        disk.delay_s = 3.0
        done: list[int] = []

        async def offer(number: int) -> None:
            await submit(leader, put(f"k{number}", "v" * 1000))
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(offer, number)
                await trio.sleep(0.05)
            assert leader._writer.log_bytes < 8_000
            assert len(done) < 20
            leader._writer.storage = whole
        assert len(done) == 20


async def test_a_deposed_leader_keeps_no_lease_alive(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        await submit(leader, grant(7, 5000))
        cluster.isolate(leader)
        with pytest.raises((Unavailable, NotLeader)):
            await call(leader.keep_alive, 7)


# -- tails and compaction -----------------------------------------------------------------


async def test_tails_read_the_same_from_memory_and_from_the_log(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        for index in range(30):
            await submit(leader, put(f"k{index % 7}", str(index)), put("x"))
        recent = leader.tails.read(Revision(0), 1 << 20)
        for number in list(cluster.nodes):
            await cluster.kill(number)
        await cluster.start()
        leader = await cluster.leader()
        await barrier(leader)
        position = Revision(0)
        found: list[Any] = []
        while position < 60:
            chunk = leader.tails.read(position, 300)
            assert chunk.first == position + 1
            assert [commit.revision for commit in chunk.commits] == list(range(chunk.first, chunk.last + 1))
            found.extend(chunk.commits)
            position = chunk.last
        assert found == recent.commits
        assert leader.tails.read(Revision(57), 1 << 20).commits == recent.commits[57:]


async def test_a_waiting_tail_is_woken_once(autojump_clock: MockClock) -> None:
    async with running(1) as cluster:
        leader = await cluster.leader()
        woken: list[int] = []
        leader.tails.wait(Revision(0), lambda: woken.append(1))
        cancel = leader.tails.wait(Revision(0), lambda: woken.append(2))
        cancel()
        await submit(leader, put("a"))
        await submit(leader, put("a"))
        assert woken == [1]
        leader.tails.wait(Revision(1), lambda: woken.append(3))
        assert woken == [1, 3]


async def test_compaction_forgets_the_past_on_every_node_and_says_so(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        for index in range(10):
            await submit(leader, put("a", str(index)))
        with pytest.raises(RevisionInFuture):
            await call(leader.compact, Revision(11))
        await call(leader.compact, Revision(6))
        await cluster.converge()
        for node in cluster.nodes.values():
            record = node.space.get(b"a", Revision(6))
            assert record is not None and record.value == b"5"
            with pytest.raises(RevisionCompacted):
                node.space.get(b"a", Revision(5))
            with pytest.raises(RevisionCompacted):
                node.tails.read(Revision(3), 1 << 20)
            assert [commit.revision for commit in node.tails.read(Revision(6), 1 << 20).commits] == [
                7,
                8,
                9,
                10,
            ]


# -- configuration ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cluster", ""),
        ("tick_interval_s", 0),
        ("pipeline_slots_max", 0),
        ("pipeline_slots_max", 1000),
        ("node", NodeId(2)),
        ("limits", Limits(window_slots_max=8)),
        ("limits", Limits(batch_offers_max=0)),
    ],
)
def test_a_wrong_setting_is_named(field: str, value: Any) -> None:
    settings: dict[str, Any] = {
        "node": NodeId(1),
        "cluster": "c",
        "endpoint": "e",
        "paxos": PaxosConfig(node=NodeId(1)),
    }
    NodeConfig(**settings).validate()
    with pytest.raises(ValueError):
        NodeConfig(**(settings | {field: value})).validate()
