"""Directed runs of a whole cluster: what one would tell of Paxos, each as a test."""

from __future__ import annotations

from journal.paxos import Role
from journal.types import NodeId, Slot
from tests.paxos.harness import Cluster


def test_three_nodes_elect_one_leader_and_choose() -> None:
    cluster = Cluster(3)
    leader = cluster.elect()
    assert cluster.propose(b"first") == Slot(1)
    assert cluster.propose(b"second") == Slot(2)
    assert cluster.run(1.0, until=cluster.settled)
    assert cluster.checker.values == {1: b"first", 2: b"second"}
    assert cluster.leaders() == [leader]
    assert all(cluster[node].leader == leader for node in (1, 2, 3))


def test_a_quorum_of_one_works_alone() -> None:
    cluster = Cluster(1)
    assert cluster.run(0.1, until=lambda: cluster.leader() == 1)
    assert cluster.propose(b"alone") == Slot(1)
    cluster.hosts[1].read(1)
    assert cluster.checker.answers == {(NodeId(1), 1): Slot(1)}


def test_a_leader_hands_over() -> None:
    cluster = Cluster(3)
    old = cluster.elect()
    cluster.propose(b"before")
    new = 1 + old % 3
    assert cluster.elect(new) == new
    assert cluster[old].role is Role.FOLLOWER
    cluster.propose(b"after")
    assert cluster.run(1.0, until=cluster.settled)


def test_a_killed_leader_is_succeeded_and_nothing_chosen_is_lost() -> None:
    cluster = Cluster(3)
    first = cluster.elect()
    for number in range(100):
        cluster.propose(b"%d" % number)
    cluster.hosts[first].crash()
    second = cluster.elect()
    assert second != first
    cluster.propose(b"later")
    cluster.hosts[first].start()
    assert cluster.run(5.0, until=cluster.settled)
    assert [cluster.checker.values[Slot(slot)] for slot in range(1, 101)] == [b"%d" % n for n in range(100)]
