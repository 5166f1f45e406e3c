"""Growing, shrinking and replacing the members of a running cluster."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from journal.errors import ChangeRefused, InvalidRequest, JournalError, NotLeader, Unavailable
from journal.paxos.changes import AddLearner, MemberChange, Promote, Remove, changed, check_alive
from journal.paxos.membership import Member, Membership
from journal.types import NodeId

from .cluster import Cluster, endpoint_of, put, running, submit, submit_somewhere
from .test_node import call


async def change(cluster: Cluster, what: MemberChange) -> None:
    """Ask whoever leads until the change is made: what `synod member` does."""
    with trio.fail_after(60):
        while True:
            leader = await cluster.leader()
            try:
                await call(leader.change_members, what)
            except Unavailable:
                await trio.sleep(0.1)
            else:
                return


async def grow(cluster: Cluster, number: int) -> None:
    await cluster.join(number)
    await change(cluster, AddLearner(NodeId(number), endpoint_of(number)))
    await change(cluster, Promote(NodeId(number)))


def voters(cluster: Cluster) -> set[frozenset[int]]:
    return {
        frozenset(int(member.node) for member in node.status().members if member.voter)
        for node in cluster.nodes.values()
    }


async def test_a_cluster_grows_from_three_to_five_and_shrinks_back_under_load(
    autojump_clock: MockClock,
) -> None:
    async with running(3) as cluster:
        done = trio.Event()
        acknowledged: list[int] = []

        async def load() -> None:
            sequence = 0
            while not done.is_set():
                sequence += 1
                found = await submit_somewhere(cluster, put(f"k{sequence}"), client=b"c", first=sequence)
                acknowledged.extend(revision for revision in found if isinstance(revision, int))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            await grow(cluster, 4)
            await grow(cluster, 5)
            await cluster.until(lambda: voters(cluster) == {frozenset({1, 2, 3, 4, 5})})
            # Five voters bear the loss of two.
            await cluster.kill(1)
            await cluster.kill(2)
            seen = len(acknowledged)
            await cluster.until(lambda: len(acknowledged) > seen + 10)
            await cluster.start(1, 2)
            for gone in (4, 5):
                await change(cluster, Remove(NodeId(gone)))
                await cluster.kill(gone)
            await cluster.until(lambda: voters(cluster) == {frozenset({1, 2, 3})})
            done.set()
        assert acknowledged == list(range(1, len(acknowledged) + 1))
        await cluster.converge()


async def test_the_leader_can_be_removed(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        old = await cluster.leader()
        number = old.config.node
        await submit(old, put("a"))
        await trio.sleep(1)
        with pytest.raises(NotLeader):
            await call(old.change_members, Remove(number))
        await change(cluster, Remove(number))
        new = await cluster.leader(other_than=int(number))
        assert number not in {member.node for member in new.newest_members}
        await submit(new, put("b"))
        await trio.sleep(10)
        assert old.status().role == "follower", "who was removed does not stand"
        assert await cluster.leader() is new


async def test_who_left_is_needed_no_more_when_the_change_is_answered(autojump_clock: MockClock) -> None:
    """Found by the simulator (seed 281): the slots before those that the new members rule were still open,
    so with the removed node switched off and another one lost they could never be chosen."""
    async with running(4) as cluster:
        leader = await cluster.leader()
        await submit(leader, put("a"))
        number = leader.config.node
        removed, _one, other = (NodeId(node) for node in cluster.nodes if node != number)
        await change(cluster, Remove(removed))
        first, newest = leader._core.newest_membership
        know = [node for node in cluster.nodes.values() if node._core.chosen >= first - 1]
        assert len({node.config.node for node in know} & newest.voter_ids) >= 2
        await cluster.kill(int(removed))
        await cluster.kill(int(number))
        await submit(await cluster.leader(other_than=int(number)), put("b"))
        assert other in newest.voter_ids


async def test_a_change_waits_until_the_one_before_is_settled(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        number = int(leader.config.node)
        await change(cluster, AddLearner(NodeId(4), endpoint_of(4)))
        others = [node for node in cluster.nodes if node != number]
        answers: list[object] = []
        leader.change_members(Remove(NodeId(4)), answers.append)
        await cluster.until(lambda: leader._core.newest_membership[1].nodes == (1, 2, 3))
        for node in others:  # they hear no more of it, and it not of them
            cluster.network.cut |= {(number, node), (node, number)}
        with pytest.raises(Unavailable, match="another change of the members is under way"):
            leader.change_members(AddLearner(NodeId(5), endpoint_of(5)), answers.append)
        await cluster.until(lambda: answers)
        assert isinstance(answers[0], Unavailable)


async def test_a_lost_node_is_replaced(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        await submit(await cluster.leader(), put("a"))
        lost = next(number for number in cluster.nodes if cluster.nodes[number].status().role != "leader")
        await cluster.kill(lost)
        del cluster.storages[lost]
        await grow(cluster, 4)
        await change(cluster, Remove(NodeId(lost)))
        await submit_somewhere(cluster, put("b"), client=b"c")
        await cluster.until(lambda: all(node.space.revision == 2 for node in cluster.nodes.values()))
        await cluster.converge()


async def test_a_learner_serves_reads_and_does_not_count(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        await submit(await cluster.leader(), put("a"))
        await cluster.join(4)
        await change(cluster, AddLearner(NodeId(4), endpoint_of(4)))
        learner = cluster.nodes[4]
        await cluster.until(lambda: learner.space.get(b"a") is not None)
        others = [number for number in (1, 2, 3) if cluster.nodes[number].status().role != "leader"]
        for number in others:
            await cluster.kill(number)
        leader = cluster.nodes[next(iter(set(cluster.nodes) - {4}))]
        with pytest.raises(JournalError):  # two of three voters are gone: the learner is no help
            await submit(leader, put("b"), client=b"c")
        assert learner.space.revision == 1


async def test_a_step_that_would_lose_the_majority_is_refused_with_the_reason(
    autojump_clock: MockClock,
) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        down, up = (NodeId(number) for number in cluster.nodes if number != leader.config.node)
        await trio.sleep(1)
        await cluster.kill(int(down))
        await trio.sleep(1.5)
        with pytest.raises(ChangeRefused, match="the majority would be lost: of the voters"):
            await call(leader.change_members, Remove(up))
        await call(leader.change_members, Remove(down))


async def test_a_new_leader_takes_nobody_for_alive_unheard(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        old = await cluster.leader()
        await submit(old, put("a"))
        await cluster.kill(int(old.config.node))
        new = await cluster.leader(other_than=int(old.config.node))
        third = next(node.config.node for node in cluster.nodes.values() if node is not new)
        with pytest.raises(ChangeRefused, match="only these answer"):
            await call(new.change_members, Remove(third))
        await call(new.change_members, Remove(old.config.node))


async def test_who_died_a_moment_ago_is_not_counted_on(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        down, up = (NodeId(number) for number in cluster.nodes if number != leader.config.node)
        await trio.sleep(1)
        await cluster.kill(int(down))
        with pytest.raises(ChangeRefused, match="the majority would be lost"):
            await call(leader.change_members, Remove(up))


async def test_a_change_that_waits_is_answered_when_the_leadership_goes(
    autojump_clock: MockClock,
) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        other = next(NodeId(number) for number in cluster.nodes if number != leader.config.node)
        answers: list[object] = []
        cluster.isolate(leader)
        leader.change_members(Remove(other), answers.append)
        with pytest.raises(Unavailable, match="another change of the members is under way"):
            leader.change_members(Remove(other), answers.append)
        await cluster.until(lambda: answers)
        assert isinstance(answers[0], (NotLeader, ChangeRefused))
        await cluster.until(lambda: leader.status().role == "follower")


async def test_changes_that_make_no_sense_are_refused(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        follower = next(node for node in cluster.nodes.values() if node is not leader)
        with pytest.raises(NotLeader):
            await call(follower.change_members, Promote(NodeId(1)))
        for what, why in (
            (AddLearner(NodeId(1), "other:1"), "node 1 is a member already"),
            (AddLearner(NodeId(9), endpoint_of(1)), "node 1 is at node-1:7400 already"),
            (AddLearner(NodeId(9), "nowhere"), "the endpoint must be host:port"),
            (Promote(NodeId(1)), "node 1 is a voter already"),
            (Promote(NodeId(9)), "node 9 is not a member"),
            (Remove(NodeId(9)), "node 9 is not a member"),
        ):
            with pytest.raises(InvalidRequest, match=why):
                await call(leader.change_members, what)
        await call(leader.change_members, AddLearner(NodeId(4), endpoint_of(4)))
        await trio.sleep(1)
        with pytest.raises(ChangeRefused, match="learner 4 was not heard from"):  # it never came up
            await change_now(cluster, Promote(NodeId(4)))


async def change_now(cluster: Cluster, what: MemberChange) -> None:
    """One try, once the change before it rules."""
    leader = await cluster.leader()
    await cluster.until(lambda: leader.status().members == leader.newest_members)
    await call(leader.change_members, what)


# -- the pure part --------------------------------------------------------------------------


def members(*nodes: int) -> tuple[Member, ...]:
    return tuple(Member(NodeId(node), endpoint_of(node)) for node in nodes)


def test_a_number_is_never_given_again() -> None:
    after = changed(Membership(members(1, 2, 3)), Remove(NodeId(2)))
    assert after.retired == (2,)
    with pytest.raises(ValueError, match="node 2 was removed once: its number is never given again"):
        changed(after, AddLearner(NodeId(2), "elsewhere:1"))
    assert Membership.unpack(after.pack()) == after


def test_the_last_voter_stays() -> None:
    with pytest.raises(ValueError, match="node 1 is the last voter"):
        changed(Membership(members(1), members(2)), Remove(NodeId(1)))


def test_a_learner_becomes_a_voter_by_promotion_only() -> None:
    added = changed(Membership(members(1)), AddLearner(NodeId(2), endpoint_of(2)))
    assert added.voter_ids == {1}
    assert changed(added, Promote(NodeId(2))).voter_ids == {1, 2}


def test_the_alive_must_be_a_quorum_of_what_comes() -> None:
    check_alive(Membership(members(1, 2, 3)), {NodeId(1), NodeId(3)})
    with pytest.raises(ValueError, match=r"of the voters \[1, 2, 3\] only these answer: 1"):
        check_alive(Membership(members(1, 2, 3)), {NodeId(1), NodeId(4)})
