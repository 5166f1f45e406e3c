"""What the core takes and refuses at its edges: settings, recovery, and messages no node sends."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from journal.entries import KIND_MEMBERSHIP
from journal.errors import ProtocolViolation
from journal.paxos import Membership, Paxos, PaxosConfig, Recovered, Role
from journal.paxos.messages import (
    Accept,
    Accepted,
    AcceptedValue,
    Envelope,
    Heartbeat,
    Learn,
    Learned,
    Message,
    Nack,
    Prepare,
    PreVoteReply,
    Promise,
    ReadIndex,
    ReadIndexReply,
    TakeOver,
)
from journal.types import Ballot, NodeId, Slot
from tests.paxos.harness import Cluster, members

BROKEN_MEMBERSHIP = bytes([KIND_MEMBERSHIP]) + b"nonsense"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node", 0),
        ("node", 2**32),
        ("window_slots_max", 0),
        ("message_bytes_max", 0),
        ("learn_slots_max", 0),
        ("accept_ahead_windows_max", 0),
        ("election_timeout_s", 0.0),
        ("heartbeat_interval_s", -1.0),
        ("heartbeat_interval_s", 0.6),
        ("retry_interval_s", 2.0),
        ("retry_interval_s", float("nan")),
    ],
)
def test_settings_are_checked(field: str, value: float) -> None:
    config = replace(PaxosConfig(node=NodeId(1)), **{field: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=field):
        config.validate()


def core(recovered: Recovered) -> Paxos:
    return Paxos(PaxosConfig(node=NodeId(1)), recovered, rng=random.Random(1), now=0.0)


def test_recovery_takes_what_storage_found() -> None:
    membership = Membership(members(1, 2, 3))
    held = tuple(AcceptedValue(Slot(slot), Ballot(4, NodeId(2)), b"v") for slot in (3, 5, 6))
    paxos = core(Recovered(Ballot(4, NodeId(2)), Slot(4), held, ((Slot(1), membership),)))
    assert paxos.chosen == 4
    assert paxos.ballot == Ballot(4, NodeId(2))
    assert sorted(paxos._acceptor.log) == [5, 6]
    assert paxos.role is Role.FOLLOWER
    assert not paxos.drain()


def test_what_was_accepted_was_promised() -> None:
    membership = Membership(members(1, 2, 3))
    held = (AcceptedValue(Slot(1), Ballot(7, NodeId(3)), b"v"),)
    paxos = core(Recovered(Ballot(4, NodeId(2)), Slot(0), held, ((Slot(1), membership),)))
    assert paxos.ballot == Ballot(7, NodeId(3))


def test_a_broken_membership_is_proposed_by_nobody() -> None:
    cluster = Cluster(1)
    cluster.elect()
    with pytest.raises(ProtocolViolation, match="does not decode"):
        cluster[1].propose(BROKEN_MEMBERSHIP, cluster.now)
    assert cluster[1].slots_in_flight == 0


def led_by_1() -> Cluster:
    """Node 1 leads at 1.1 and chose slot 1; slot 2 is in flight."""
    cluster = Cluster(3)
    cluster.stand(1, 2, 3)
    cluster.hosts[1].propose(b"one")
    cluster.talk(1, 2, 3)
    cluster.hosts[1].propose(b"two")
    cluster.talk(1, 2, kinds=(Accept,))
    cluster.lose()
    return cluster


B11, B12, B22 = Ballot(1, NodeId(1)), Ballot(1, NodeId(2)), Ballot(2, NodeId(2))


@pytest.mark.parametrize(
    ("sender", "to", "message", "why"),
    [
        (3, 2, Accept(B11, Slot(3), b"x", Slot(1)), "not its own"),
        (3, 2, Heartbeat(B11, Slot(1), 1), "not its own"),
        (3, 2, Prepare(B22, Slot(1)), "not its own"),
        (3, 2, TakeOver(B11, Slot(1)), "not its own"),
        (1, 2, Accept(B11, Slot(2), b"not two", Slot(1)), "two values"),
        (1, 2, Accept(B11, Slot(3), BROKEN_MEMBERSHIP, Slot(1)), "does not decode"),
        (1, 2, Learn(Slot(0), Slot(4)), "learn of slots"),
        (1, 2, Learn(Slot(5), Slot(4)), "learn of slots"),
        (1, 2, Learned(Slot(2), (AcceptedValue(Slot(2), B11, b"not two"),)), "not what is held"),
        (3, 2, Learned(Slot(2), (AcceptedValue(Slot(2), B22, BROKEN_MEMBERSHIP),)), "does not decode"),
        (2, 1, Nack(B11, B11), "lower promise"),
    ],
)
def test_what_no_correct_node_sends_is_refused_and_changes_nothing(
    sender: int, to: int, message: Message, why: str
) -> None:
    cluster = led_by_1()
    paxos = cluster[to]
    before = (paxos.ballot, paxos.chosen, dict(paxos._acceptor.log), paxos.role, paxos.leader)
    with pytest.raises(ProtocolViolation, match=why):
        paxos.step(Envelope(NodeId(sender), NodeId(to), message), cluster.now)
    assert (paxos.ballot, paxos.chosen, dict(paxos._acceptor.log), paxos.role, paxos.leader) == before
    assert not paxos.drain()


def test_a_message_for_another_node_is_refused() -> None:
    cluster = led_by_1()
    with pytest.raises(ProtocolViolation, match="for node 3"):
        cluster[2].step(Envelope(NodeId(1), NodeId(3), Heartbeat(B11, Slot(1), 0)), cluster.now)


@pytest.mark.parametrize(
    "accepted",
    [
        (AcceptedValue(Slot(2), Ballot(9, NodeId(3)), b"x"),),  # above the ballot that is promised
        (AcceptedValue(Slot(3), B11, b"x"), AcceptedValue(Slot(2), B11, b"y")),  # out of order
        (AcceptedValue(Slot(1), B11, b"x"),),  # below what it says is chosen
    ],
)
def test_promises_that_no_acceptor_makes(accepted: tuple[AcceptedValue, ...]) -> None:
    cluster = led_by_1()
    cluster.stand(3, 2, kinds=())
    cluster[3]._stand()
    ballot = cluster[3].ballot
    promise = Promise(ballot, Slot(2), Slot(1), accepted)
    with pytest.raises(ProtocolViolation):
        cluster[3].step(Envelope(NodeId(2), NodeId(3), promise), cluster.now)
    assert cluster[3].role is Role.CANDIDATE


@pytest.mark.parametrize(
    ("sender", "to", "message"),
    [
        (2, 1, Accepted(Ballot(0, NodeId(1)), (Slot(2),))),  # of another ballot
        (2, 1, Accepted(B11, (Slot(1), Slot(99)))),  # of slots that are chosen, or were never proposed
        (2, 1, Promise(B11, Slot(1), Slot(0), ())),  # phase 1 is over
        (2, 1, Nack(Ballot(0, NodeId(1)), B11)),  # of an earlier leadership
        (2, 1, PreVoteReply(B22, True, B11, Slot(0))),  # nothing was asked
        (2, 1, ReadIndexReply(5, Slot(1))),
        (1, 2, TakeOver(Ballot(0, NodeId(1)), Slot(1))),
        (3, 2, Learned(Slot(1), (AcceptedValue(Slot(1), B11, b"one"),))),  # known already
        (3, 2, Learned(Slot(9), (AcceptedValue(Slot(9), B11, b"nine"),))),  # with a hole before it
    ],
)
def test_what_is_late_or_was_never_asked_for_changes_nothing(sender: int, to: int, message: Message) -> None:
    cluster = led_by_1()
    paxos = cluster[to]
    before = (paxos.ballot, paxos.chosen, dict(paxos._acceptor.log), paxos.role, paxos.leader)
    paxos.step(Envelope(NodeId(sender), NodeId(to), message), cluster.now)
    assert (paxos.ballot, paxos.chosen, dict(paxos._acceptor.log), paxos.role, paxos.leader) == before
    assert not paxos.drain().must_persist


def test_who_does_not_lead_says_so_to_who_asks() -> None:
    cluster = led_by_1()
    cluster.hosts[2].step(Envelope(NodeId(3), NodeId(2), ReadIndex(5)))
    assert [envelope.message for envelope in cluster.network] == [ReadIndexReply(5, None)]


def test_one_accepted_speaks_for_all_slots_of_a_drain() -> None:
    cluster = Cluster(3)
    cluster.stand(1, 2, 3)
    for number in range(5):
        cluster[1].propose(b"%d" % number, cluster.now)
    effects = cluster[1].drain()
    ballot = cluster[1].ballot
    own = [envelope.message for envelope in effects.send_durable]
    assert own == [Accepted(ballot, tuple(Slot(slot) for slot in range(1, 6)))]
    for envelope in effects.send_now:
        if envelope.to == 2:
            cluster[2].step(envelope, cluster.now)
    answers = cluster[2].drain().send_durable
    assert [envelope.message for envelope in answers] == own


def test_the_window_bounds_what_is_in_flight() -> None:
    cluster = Cluster(3, window_slots_max=4)
    cluster.stand(1, 2, 3)
    slots = [cluster.hosts[1].propose(b"%d" % number) for number in range(6)]
    assert slots == [1, 2, 3, 4, None, None]
    assert not cluster[1].can_propose
    cluster.talk(1, 2)
    assert cluster[1].can_propose


def test_values_are_not_kept_once_chosen() -> None:
    cluster = Cluster(3)
    cluster.elect()
    for number in range(50):
        cluster.propose(b"%d" % number)
    cluster.run(1.0, until=cluster.settled)
    for node in (1, 2, 3):
        assert not cluster[node]._acceptor.log


def test_promise_pages_are_bounded_and_end_with_an_empty_one() -> None:
    cluster = Cluster(3, window_slots_max=8, message_bytes_max=100)
    cluster.stand(1, 2)
    sizes = (40, 40, 40, 500, 10, 10)
    for size in sizes:
        cluster.hosts[1].propose(b"x" * size)
    cluster.talk(1, 2, kinds=(Accept,))
    pages = cluster[2]._acceptor.promises(Slot(1), Slot(0), 100)
    assert [[len(record.value) for record in page.accepted] for page in pages] == [
        [40, 40],
        [40],
        [500],
        [10, 10],
        [],
    ]
    assert [page.first for page in pages] == [1, 3, 4, 5, 7]
