"""The cluster goes on whenever a quorum can: through bad links, loss, crashes and lag.

Time is virtual; ``Cluster.run`` delivers with random delays from a seed.
"""

from __future__ import annotations

import pytest

from journal.entries import pack_membership
from journal.paxos import Membership, Role
from journal.paxos.messages import Accept, Learn, TakeOver
from journal.types import NodeId, Slot
from tests.paxos.harness import Cluster, members


def leaderships(cluster: Cluster) -> int:
    """How many ballots were promised to anybody: each is an election that disturbed the cluster."""
    return max(host.disk.promised.round for host in cluster.hosts.values())


def steady(cluster: Cluster, seconds: float) -> None:
    """For that long the leader that is there stays, and offers go on being chosen."""
    leader, ballot = cluster.leader(), leaderships(cluster)
    assert leader is not None
    end = cluster.now + seconds
    while cluster.now < end:
        cluster.propose(b"at %.3f" % cluster.now, seconds=0.2)
        cluster.run(0.2)
    assert cluster.leader() == leader
    assert leaderships(cluster) == ballot


@pytest.mark.parametrize("seed", range(5))
def test_a_cluster_elects_once(seed: int) -> None:
    cluster = Cluster(5, seed=seed)
    start = cluster.now
    cluster.elect()
    assert cluster.now - start < 3.0
    steady(cluster, 5.0)


ONE_WAY = {
    "the leader is not heard by one": [(1, 2)],
    "the leader does not hear one": [(2, 1)],
    "the leader and one have lost each other": [(1, 2), (2, 1)],
    "two followers have lost each other": [(2, 3), (3, 2)],
    "one hears nobody": [(1, 2), (3, 2)],
    "one is heard by nobody": [(2, 1), (2, 3)],
    "one is alone": [(1, 2), (3, 2), (2, 1), (2, 3)],
}


@pytest.mark.parametrize("story", sorted(ONE_WAY))
def test_links_that_are_down_do_not_make_leaders_churn(story: str) -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for one, other in ONE_WAY[story]:
        cluster.cut_link(one, other, both=False)
    steady(cluster, 10.0)
    cluster.heal()
    steady(cluster, 3.0)  # and who was away comes back without disturbing
    assert cluster.run(2.0, until=cluster.settled)


@pytest.mark.parametrize(
    "story", ["the leader and one have lost each other", "the leader is not heard by one"]
)
def test_who_is_cut_off_from_the_leader_learns_from_others(story: str) -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    for one, other in ONE_WAY[story]:
        cluster.cut_link(one, other, both=False)
    cluster.run(3.0)
    for number in range(50):
        cluster.propose(b"%d" % number)
    assert cluster.run(1.0, until=cluster.settled)


LOST_QUORUM = {
    "the leader is heard by nobody": [(1, 2), (1, 3), (1, 4), (1, 5)],
    "the leader hears nobody": [(2, 1), (3, 1), (4, 1), (5, 1)],
    "the leader hears one": [(2, 1), (3, 1), (4, 1)],
    # Only node 5 has a quorum: the others are linked to it and to nobody else.
    "all links but those of node 5 are down": [(a, b) for a in (1, 2, 3, 4) for b in (1, 2, 3, 4) if a != b],
    # A chain: 1 - 2 - 3 - 4 - 5. Only 2, 3 and 4 have a quorum.
    "the links make a chain": [(a, b) for a in range(1, 6) for b in range(1, 6) if abs(a - b) > 1],
}


@pytest.mark.parametrize("story", sorted(LOST_QUORUM))
def test_a_leader_without_a_quorum_makes_room(story: str) -> None:
    """The cases of "Omni-Paxos" (2023), section 2, in which other protocols get no leader at all."""
    cluster = Cluster(5)
    cluster.elect(1)
    for one, other in LOST_QUORUM[story]:
        cluster.cut_link(one, other, both=False)
    assert cluster.run(10.0, until=lambda: cluster.leader() not in (None, 1)), "nobody took over"
    cluster.run(3.0)
    steady(cluster, 10.0)


@pytest.mark.parametrize("seed", range(4))
def test_loss_repetition_and_delay(seed: int) -> None:
    cluster = Cluster(3, seed=seed)
    cluster.loss, cluster.repeat, cluster.delay_s = 0.2, 0.2, (0.001, 0.08)
    for number in range(40):
        cluster.propose(b"%d" % number, seconds=20.0)
    cluster.loss = 0.0
    assert cluster.run(10.0, until=cluster.settled)


def test_one_of_three_down_goes_on_and_two_stop() -> None:
    cluster = Cluster(3)
    leader = cluster.elect()
    down = [node for node in (1, 2, 3) if node != leader]
    cluster.hosts[down[0]].crash()
    steady(cluster, 5.0)
    cluster.hosts[down[1]].crash()
    told = cluster.checker.told
    assert not cluster.run(5.0, until=lambda: cluster.checker.told > told)
    assert cluster.leaders() == []  # check-quorum: who can do nothing does not claim to lead
    cluster.hosts[down[1]].start()
    cluster.propose(b"again", seconds=5.0)


@pytest.mark.parametrize("seed", range(10))
def test_a_leader_that_died_and_hung_up_is_replaced_at_once(seed: int) -> None:
    """Long before the silence that a follower bears: the connection's end says what happened."""
    cluster = Cluster(5, seed=seed)
    leader = cluster.elect()
    cluster.run(0.5)
    cluster.hosts[leader].crash()
    cluster.run(0.05)  # a connection ends behind the last that came over it
    for node in {1, 2, 3, 4, 5} - {leader}:
        cluster[node].hung_up(NodeId(leader), cluster.now)
    start = cluster.now
    cluster.elect()
    assert cluster.now - start < 0.5 * cluster.config.election_timeout_s


def test_who_is_hung_up_on_again_and_again_does_not_disturb_a_leader_that_lives() -> None:
    """Nor does anybody who hears that some other node hung up."""
    cluster = Cluster(3)
    cluster.elect(1)
    leader, ballot = cluster.leader(), leaderships(cluster)
    for step in range(300):
        cluster[2].hung_up(NodeId(1), cluster.now)
        cluster[3].hung_up(NodeId(2), cluster.now)
        cluster[1].hung_up(NodeId(3), cluster.now)
        cluster.propose(b"%d" % step, seconds=0.2)
        cluster.run(0.03)
    assert cluster.leader() == leader and leaderships(cluster) == ballot


def test_all_crash_at_once_and_know_nothing_of_what_is_chosen() -> None:
    """The applied slot never reached a disk: all is proposed again, window by window."""
    cluster = Cluster(3, apply_probability=0.0, window_slots_max=8, message_bytes_max=100)
    cluster.elect()
    for number in range(300):
        cluster.propose(b"value %d" % number)
    before = dict(cluster.checker.values)
    for host in cluster.hosts.values():
        host.crash()
    for host in cluster.hosts.values():
        host.start()
        assert host.folded == 0
    cluster.elect()
    assert cluster.run(10.0, until=lambda: all(host.folded >= 300 for host in cluster.hosts.values()))
    assert {slot: cluster.checker.values[slot] for slot in before} == before


def test_a_node_that_was_away_catches_up_in_bounded_steps() -> None:
    cluster = Cluster(3, window_slots_max=8, learn_slots_max=20)
    cluster.elect(1)
    cluster.hosts[3].crash()
    for number in range(500):
        cluster.propose(b"%d" % number)
    cluster.hosts[3].start()
    assert cluster.run(3.0, until=cluster.settled)
    asked = [envelope.message for envelope in cluster.sent if isinstance(envelope.message, Learn)]
    assert asked
    assert all(learn.last - learn.first < 20 for learn in asked)


def test_a_lagging_acceptor_does_not_take_what_is_far_ahead() -> None:
    """It would have to keep it in memory, and to report it in a promise."""
    cluster = Cluster(3, window_slots_max=4, accept_ahead_windows_max=2)
    cluster.elect(1)
    host = cluster.hosts[3]
    for _ in range(100):
        cluster.hosts[1].propose(b"value")
        cluster.talk(1, 2)
        # Node 3 gets every Accept but the first, and no answer to its questions.
        for envelope in cluster.lose(to=3):
            if isinstance(envelope.message, Accept) and envelope.message.slot != 1:
                cluster.deliver(envelope)
    assert cluster[1].chosen == 100
    assert cluster[3].chosen == 0
    assert len(cluster[3]._acceptor.log) == 7  # slots 2 to 8
    assert host.disk.records.keys() == set(range(2, 9))
    assert cluster.run(5.0, until=cluster.settled)


def test_accepts_are_sent_again_a_bounded_amount_at_once() -> None:
    cluster = Cluster(3, window_slots_max=32, message_bytes_max=1000)
    cluster.elect(1)
    cluster.isolate(1)
    for _ in range(32):
        cluster.hosts[1].propose(b"x" * 300)
    assert cluster[1].slots_in_flight == 32
    before = len(cluster.sent)
    cluster.now += 0.3
    cluster.hosts[1].tick()
    again = [envelope for envelope in cluster.sent[before:] if isinstance(envelope.message, Accept)]
    assert len([envelope for envelope in again if envelope.to == 2]) == 3
    cluster.heal()
    assert cluster.run(3.0, until=lambda: cluster[1].chosen == 32)


def test_ticking_at_the_deadlines_is_enough() -> None:
    """``next_deadline`` names every moment at which a core has something to do by itself."""
    cluster = Cluster(3)
    for _ in range(200):
        cluster.now = max(cluster.now, min(cluster[node].next_deadline() for node in (1, 2, 3)))
        for node in (1, 2, 3):
            if cluster[node].next_deadline() <= cluster.now:
                cluster.hosts[node].tick()
                assert cluster[node].next_deadline() > cluster.now, f"node {node} would spin"
        cluster.talk(1, 2, 3)
    assert len(cluster.leaders()) == 1
    assert cluster.leader() is not None


def test_a_voter_is_added_and_the_leader_removed() -> None:
    cluster = Cluster(3, learners=1, window_slots_max=4)
    cluster.elect(1)
    cluster.propose(b"before")
    for voters in ((1, 2, 3, 4), (2, 3, 4)):
        cluster.propose(pack_membership(Membership(members(*voters)).pack()))
        for number in range(6):
            cluster.propose(b"%d" % number)
        assert cluster.run(5.0, until=cluster.settled)
        assert cluster[2].membership.voter_ids == set(voters)
    assert cluster.run(5.0, until=lambda: cluster.leader() in (2, 3, 4))
    assert cluster[1].role is Role.FOLLOWER
    cluster.hosts[1].crash()
    steady(cluster, 5.0)
    cluster.hosts[4].crash()  # its vote counts: of three, two are left
    cluster.elect()
    cluster.propose(b"after")


def test_a_removed_node_stands_for_nothing() -> None:
    cluster = Cluster(3, window_slots_max=2)
    leader = cluster.elect(1)
    cluster.propose(pack_membership(Membership(members(1, 2)).pack()))
    cluster.propose(b"two")
    assert cluster.run(5.0, until=cluster.settled)
    ballot = cluster[leader].ballot
    cluster.run(10.0)
    assert cluster[1].ballot == ballot
    assert cluster[3].role is Role.FOLLOWER
    cluster.propose(b"three")
    assert cluster.run(5.0, until=cluster.settled)  # and it may go on reading


def test_a_late_bid_to_take_over_is_ignored() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.run(0.5)
    cluster.elect(2)
    bids = [envelope for envelope in cluster.sent if isinstance(envelope.message, TakeOver)]
    assert bids
    cluster.run(1.0)
    ballot = cluster[2].ballot
    for envelope in bids:
        cluster.deliver(envelope)
    cluster.run(5.0)
    assert cluster[2].ballot == ballot
    assert cluster.leader() == 2


def test_a_transfer_is_quick_and_refuses_nobody_for_long() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.run(0.5)
    start = cluster.now
    cluster.elect(3)
    assert cluster.now - start < 0.2


def test_transfers_that_cannot_be_give_their_reason() -> None:
    cluster = Cluster(3, learners=1)
    cluster.elect(1)
    cluster.run(0.5)
    for to, reason in ((1, "leads already"), (4, "not a voter"), (9, "not a voter")):
        with pytest.raises(ValueError, match=reason):
            cluster[1].transfer(NodeId(to), cluster.now)
    with pytest.raises(ValueError, match="does not lead"):
        cluster[2].transfer(NodeId(3), cluster.now)
    cluster.hosts[3].crash()
    cluster.run(1.5)
    with pytest.raises(ValueError, match="not heard"):
        cluster[1].transfer(NodeId(3), cluster.now)
    assert cluster[1].can_propose
    cluster[1].transfer(NodeId(2), cluster.now)
    with pytest.raises(ValueError, match="under way"):
        cluster[1].transfer(NodeId(3), cluster.now)


def test_reads_anywhere_while_leaders_come_and_go() -> None:
    cluster = Cluster(3)
    cluster.elect()
    number = 0
    for _round in range(6):
        for node in (1, 2, 3):
            if cluster.hosts[node].up:
                number += 1
                cluster.hosts[node].read(number)
        cluster.propose(b"%d" % number, seconds=10.0)
        leader = cluster.leader()
        assert leader is not None
        cluster.hosts[leader].crash()
        cluster.elect()
        cluster.hosts[leader].start()
    cluster.run(2.0)
    asked = {key for key in cluster.checker.reads if cluster.hosts[key[0]].up}
    unanswered = asked - cluster.checker.answers.keys()
    # A node that crashed forgot what it was asked; every other read got an answer or a no.
    assert len(unanswered) <= 6
    assert sum(1 for slot in cluster.checker.answers.values() if slot is not None) >= 6


def test_a_read_without_a_leader_fails_within_an_election_timeout() -> None:
    cluster = Cluster(3)
    cluster.isolate(1)
    cluster.hosts[1].read(7)
    assert cluster.run(1.1, until=lambda: (NodeId(1), 7) in cluster.checker.answers)
    assert cluster.checker.answers[NodeId(1), 7] is None


def test_the_same_seed_tells_the_same_story() -> None:
    def story(seed: int) -> tuple[list[object], dict[Slot, bytes]]:
        cluster = Cluster(5, seed=seed)
        cluster.loss = 0.1
        for number in range(10):
            cluster.propose(b"%d" % number, seconds=20.0)
        return list(cluster.sent), cluster.checker.values

    assert story(3) == story(3)
    assert story(3) != story(4)
