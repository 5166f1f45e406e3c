"""Peers are known by their incarnation; who is disowned says nothing more, to anybody."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from journal.errors import Disowned, JournalError, Unavailable, WrongCluster
from journal.node import Node
from journal.paxos.changes import AddLearner, Remove
from journal.storage.peers import load_disowned, load_peers
from journal.types import NodeId

from .cluster import Cluster, barrier, endpoint_of, put, running, submit, submit_somewhere
from .test_members import change
from .test_node import call

ONE, TWO = b"11111111", b"22222222"


async def admit(node: Node, peer: int, incarnation: bytes) -> None:
    """Admit a peer as a transport does."""
    done = trio.Event()
    result: list[NodeId | JournalError] = []

    def reply(answer: NodeId | JournalError) -> None:
        result.append(answer)
        done.set()

    node.admit_peer(NodeId(peer), incarnation, reply)
    await done.wait()
    if isinstance(result[0], JournalError):
        raise result[0]


async def test_the_first_incarnation_is_on_the_disk_before_the_peer_is_let_in(
    autojump_clock: MockClock,
) -> None:
    async with running(3) as cluster:
        node = cluster.nodes[1]
        seen: list[dict[NodeId, bytes]] = []
        for _ in range(2):  # both wait for the one write
            node.admit_peer(NodeId(2), TWO, lambda _peer: seen.append(load_peers(cluster.storages[1])))
        assert seen == []
        with pytest.raises(Disowned):  # not even while the first one is on its way to the disk
            await admit(node, 2, ONE)
        await cluster.until(lambda: len(seen) == 2)
        assert seen == [{NodeId(2): TWO}] * 2
        await admit(node, 2, TWO)

        await cluster.kill(1)
        await cluster.start(1)
        await admit(cluster.nodes[1], 2, TWO)
        for _ in range(2):
            with pytest.raises(Disowned, match="synod member replace 2 NEW=HOST:PORT"):
                await admit(cluster.nodes[1], 2, ONE)


async def test_only_members_are_recorded(autojump_clock: MockClock) -> None:
    """Who is about to join may lose its folder and try again; from when it is a member, it may not."""
    async with running(3) as cluster:
        leader = await cluster.leader()
        await admit(leader, 4, ONE)
        await admit(leader, 4, TWO)
        await change(cluster, AddLearner(NodeId(4), endpoint_of(4)))
        await admit(leader, 4, TWO)
        with pytest.raises(Disowned):
            await admit(leader, 4, ONE)
        await change(cluster, Remove(NodeId(4)))
        await cluster.until(lambda: 4 not in leader._core.endpoints)
        with pytest.raises(WrongCluster, match="node 4 was removed"):
            await admit(leader, 4, TWO)
        assert leader.status().health == "ok"


async def test_who_is_disowned_says_nothing_more(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        old = await cluster.leader()
        number = int(old.config.node)
        await submit(old, put("a"))
        other = next(node for node in cluster.nodes.values() if node is not old)
        old.peer_refused(other.config.node, Disowned("another folder: synod member replace"))
        await silent(cluster, number)
        with pytest.raises(Unavailable, match="takes no part any more: another folder"):
            await submit(old, put("b"))
        with pytest.raises(Unavailable, match="takes no part any more"):
            await barrier(old)
        with pytest.raises(WrongCluster, match="keeps still"):
            await admit(old, int(other.config.node), ONE)
        await cluster.leader(other_than=number)
        await submit_somewhere(cluster, put("b"), client=b"c")

        await cluster.kill(number)
        assert load_disowned(cluster.storages[number]) == "another folder: synod member replace"
        await cluster.start(number)
        await silent(cluster, number)
        status = cluster.nodes[number].status()
        assert (status.role, status.leader) == ("follower", None)
        assert status.health == "takes no part any more: another folder: synod member replace"
        cluster.nodes[number].stop()
        await cluster.ended[number].wait()


async def silent(cluster: Cluster, number: int) -> None:
    """For longer than any timeout, no envelope leaves the node, while the others go on."""
    heard: set[int] = set()
    post = cluster.network.post

    def listen(envelopes: object) -> None:
        heard.update(int(envelope.sender) for envelope in envelopes)  # type: ignore[attr-defined]
        post(envelopes)  # type: ignore[arg-type]

    cluster.network.post = listen  # type: ignore[method-assign]
    await trio.sleep(5)
    cluster.network.post = post  # type: ignore[method-assign]
    assert heard == set(cluster.nodes) - {number}


async def test_a_refusal_of_another_kind_is_only_told(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        leader = await cluster.leader()
        node = next(node for node in cluster.nodes.values() if node is not leader)
        node.peer_refused(NodeId(9), WrongCluster("node 9 is elsewhere"))
        assert node.status().health == "ok"
        cluster.isolate(node)
        await trio.sleep(5)
        assert node.status().health == "no leader; refused by node 9: node 9 is elsewhere"
        node.peer_refused(NodeId(9), None)
        assert node.status().health == "no leader"


async def test_a_node_that_stops_answers_who_waits_to_be_admitted(autojump_clock: MockClock) -> None:
    async with running(1) as cluster:
        node = await cluster.leader()
        answers: list[NodeId | JournalError] = []
        node.admit_peer(NodeId(1), ONE, answers.append)
        node._identities.fail(Unavailable("the node is stopping"))
        assert isinstance(answers[0], Unavailable)
        await call(node.change_members, AddLearner(NodeId(2), endpoint_of(2)))
