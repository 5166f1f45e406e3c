"""A client changes the members: it finds the leader, waits for its turn, and knows when it is done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from journal.client import ClientConfig, Journal, connect
from journal.client.members import is_made
from journal.connection_local import LocalConnection, LocalConnector
from journal.errors import ChangeRefused, InvalidRequest, Unavailable
from journal.node import NodeMember
from journal.paxos.changes import AddLearner, MemberChange, Promote, Remove
from journal.types import NodeId
from tests.node.cluster import ByEndpoint, Cluster, endpoint_of, running


@asynccontextmanager
async def client(cluster: Cluster) -> AsyncIterator[Journal]:
    connector = LocalConnector(ByEndpoint(cluster))
    async with connect(cluster.endpoints, connector=connector, config=ClientConfig(timeout_s=30)) as journal:
        yield journal


async def test_members_come_and_go_and_the_leader_too(autojump_clock: MockClock) -> None:
    async with running(3) as cluster, client(cluster) as journal:
        await cluster.join(4)
        added = await journal.change_members(AddLearner(NodeId(4), endpoint_of(4)))
        assert [member for member in added if not member.voter] == [(4, endpoint_of(4), False)]
        await cluster.until(lambda: cluster.nodes[4].status().leader)
        # One after the other without a pause: each waits until the one before rules.
        await journal.change_members(Promote(NodeId(4)))
        leader = (await cluster.leader()).config.node
        after = await journal.change_members(Remove(leader))
        assert {member.node for member in after} == {1, 2, 3, 4} - {leader}
        assert all(member.voter for member in after)
        with trio.fail_after(30):
            while set(await journal.members()) != set(after):  # noqa: ASYNC110  # a window of slots later
                await trio.sleep(0.1)


async def test_refusals_come_at_once(autojump_clock: MockClock) -> None:
    async with running(3) as cluster, client(cluster) as journal:
        leader = await cluster.leader()
        down, up = (node for node in (1, 2, 3) if node != leader.config.node)
        await trio.sleep(1)
        await cluster.kill(down)
        await trio.sleep(1.5)
        began = trio.current_time()
        with pytest.raises(ChangeRefused, match="the majority would be lost"):
            await journal.change_members(Remove(NodeId(up)))
        with pytest.raises(InvalidRequest, match="node 9 is not a member"):
            await journal.change_members(Remove(NodeId(9)))
        await journal.change_members(AddLearner(NodeId(4), endpoint_of(4)))
        with pytest.raises(ChangeRefused, match="learner 4 was not heard from of late"):
            await journal.change_members(Promote(NodeId(4)))
        assert trio.current_time() - began < 5


async def test_a_change_whose_answer_was_lost_is_found_to_be_made(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[MemberChange] = []
    made = LocalConnection.change_members

    async def lose_first(self: LocalConnection, change: MemberChange) -> tuple[NodeMember, ...]:
        after = await made(self, change)
        if not lost:
            lost.append(change)
            raise Unavailable("the answer is lost")
        return after

    monkeypatch.setattr(LocalConnection, "change_members", lose_first)
    async with running(3) as cluster, client(cluster) as journal:
        change = AddLearner(NodeId(4), endpoint_of(4))
        assert is_made(change, await journal.change_members(change))
        assert lost == [change]
        with pytest.raises(InvalidRequest, match="already"):  # nothing was lost this time
            await journal.change_members(change)


async def test_without_a_leader_it_says_so(autojump_clock: MockClock) -> None:
    async with running(3) as cluster, client(cluster) as journal:
        await cluster.leader()
        for number in (1, 2):
            await cluster.kill(number)
        await trio.sleep(5)
        with pytest.raises(Unavailable, match="no leader answered within 4 s"):
            await journal.members(timeout_s=4)
        with pytest.raises(Unavailable, match="not made within 4 s, or that is not known"):
            await journal.change_members(Remove(NodeId(1)), timeout_s=4)


def test_what_is_made() -> None:
    members = (NodeMember(NodeId(1), "a:1", True), NodeMember(NodeId(2), "b:1", False))
    assert is_made(AddLearner(NodeId(2), "b:1"), members)
    assert not is_made(AddLearner(NodeId(2), "c:1"), members)
    assert not is_made(AddLearner(NodeId(3), "b:1"), members)
    assert is_made(Promote(NodeId(1)), members)
    assert not is_made(Promote(NodeId(2)), members)
    assert is_made(Remove(NodeId(3)), members)
    assert not is_made(Remove(NodeId(2)), members)
