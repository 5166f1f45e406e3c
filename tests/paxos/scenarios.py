"""Short stories of what may go wrong, one for each planted bug (``planted.py``), by its name.

A scenario must pass with the core as it is, and must fail with its bug planted. In most the
failing is done by the harness's ``Checker``, which compares what every node believes.

"old" is what an earlier leader proposes, "new" what its successor does. The first leader is
node 1 unless said otherwise; ``stand(2, 3)`` means that node 2 is elected with the vote of 3.
"""

from __future__ import annotations

from collections.abc import Callable

from journal.entries import pack_membership
from journal.paxos import Membership, Role
from journal.paxos.messages import (
    Accept,
    Accepted,
    AcceptedValue,
    Envelope,
    Heartbeat,
    Learn,
    Learned,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    ReadIndexReply,
)
from journal.storage.records import ACCEPTED, PROMISED, PROMISED_AGAIN, number_key
from journal.types import NodeId, Slot
from tests.paxos.damage import RecordDisk
from tests.paxos.harness import Cluster, members

SCENARIOS: dict[str, Callable[[], None]] = {}
ELECTION = (PreVote, PreVoteReply, Prepare, Promise)
PHASE_2 = (Accept, Accepted)


def scenario(story: Callable[[], None]) -> Callable[[], None]:
    SCENARIOS[story.__name__] = story
    return story


def nodes(cluster: Cluster) -> range:
    return range(1, len(cluster.hosts) + 1)


def chosen_by_1_and_2(cluster: Cluster, value: bytes = b"old") -> None:
    """Node 1 leads and chooses ``value``; 2 accepted it but does not know that; 3 knows nothing."""
    cluster.stand(1, 2)
    cluster.lose()
    assert cluster.hosts[1].propose(value) is not None
    cluster.talk(1, 2, kinds=PHASE_2)
    cluster.lose()


# -- acceptor ----------------------------------------------------------------------------


@scenario
def accepts_below_its_promise() -> None:
    cluster = Cluster(3)
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"old")
    late = cluster.lose(sender=1, to=3, kind=Accept)
    cluster.lose()
    cluster.stand(2, 3)
    cluster.hosts[2].propose(b"new")
    cluster.talk(2, 3, kinds=PHASE_2)
    for envelope in late:
        cluster.deliver(envelope)
    cluster.talk(1, 3)
    assert cluster.checker.values == {1: b"new"}
    assert cluster[1].role is Role.FOLLOWER  # it was told so


@scenario
def promises_below_its_promise() -> None:
    cluster = Cluster(3)
    cluster.stand(1, 3, kinds=(PreVote, PreVoteReply))
    late = cluster.lose(sender=1, to=3, kind=Prepare)
    assert late
    cluster.stand(2, 3)
    cluster.hosts[2].propose(b"new")
    cluster.talk(2, 3, kinds=PHASE_2)
    for envelope in late:
        cluster.deliver(envelope)
    cluster.talk(1, 3)
    assert cluster[3].ballot.node == 2


@scenario
def forgets_its_promise_in_a_crash() -> None:
    cluster = Cluster(3)
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"old")
    late = cluster.lose(sender=1, to=3, kind=Accept)
    cluster.stand(2, 3, kinds=ELECTION)
    cluster.hosts[3].crash()
    cluster.hosts[3].start()
    for envelope in late:
        cluster.deliver(envelope)
    cluster.talk(1, 3, kinds=PHASE_2)
    cluster.hosts[2].propose(b"new")
    cluster.talk(2, 3)
    assert cluster.checker.values == {1: b"new"}


@scenario
def forgets_what_it_accepted_in_a_crash() -> None:
    cluster = Cluster(3)
    chosen_by_1_and_2(cluster)
    cluster.hosts[2].crash()
    cluster.hosts[2].start()
    cluster.stand(2, 3)
    cluster.hosts[2].propose(b"new")
    cluster.talk(2, 3)
    assert cluster.checker.values == {1: b"old", 2: b"new"}


@scenario
def tells_before_it_is_durable() -> None:
    cluster = Cluster(3, sync_at_once=False)
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"old")
    cluster.hosts[1].sync()
    cluster.talk(1, 2, sync=False)
    cluster.hosts[2].crash()
    cluster.hosts[2].start()
    cluster.lose()
    cluster.stand(2, 3)
    cluster.hosts[2].propose(b"new")
    cluster.talk(2, 3)
    assert cluster.checker.values == {1: b"new"}


@scenario
def counts_its_own_acceptance_before_it_is_durable() -> None:
    cluster = Cluster(3, sync_at_once=False)
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"old")
    cluster.deliver_all(lambda e: e.to == 2)
    cluster.hosts[2].sync()
    cluster.deliver_all(lambda e: e.to == 1 and e.sender == 2)
    cluster.hosts[1].crash()
    cluster.hosts[1].start()
    cluster.lose()
    cluster.stand(3, 1)
    cluster.hosts[3].propose(b"new")
    cluster.talk(1, 3)
    assert cluster.checker.values == {1: b"new"}


@scenario
def promise_leaves_out_what_it_accepted() -> None:
    cluster = Cluster(3)
    chosen_by_1_and_2(cluster)
    cluster.stand(3, 2)
    cluster.hosts[3].propose(b"new")
    cluster.talk(2, 3)
    assert cluster.checker.values == {1: b"old", 2: b"new"}


def stray_value_at_3(cluster: Cluster) -> None:
    """Node 3 led at 1.3 and accepted "stray" alone; then 1 led at 2.1 and chose "good" with 2,
    which does not know that it is chosen."""
    cluster.stand(3, 2)
    cluster.hosts[3].propose(b"stray")
    cluster.lose()
    cluster.stand(1, 2)
    cluster.lose()
    cluster.hosts[1].propose(b"good")
    cluster.talk(1, 2, kinds=PHASE_2)
    cluster.lose()
    assert cluster.checker.values == {1: b"good"}


@scenario
def learning_lowers_the_ballot_of_what_it_accepted() -> None:
    cluster = Cluster(3, apply_probability=0.0)
    stray_value_at_3(cluster)
    learned = Learned(Slot(1), (AcceptedValue(Slot(1), cluster[1].ballot, b"good"),))
    cluster.deliver(Envelope(NodeId(1), NodeId(2), learned))
    assert cluster[2].chosen == 1
    cluster.hosts[2].crash()
    cluster.hosts[2].start()
    assert cluster[2].chosen == 0  # what it accepted is all it has
    cluster.stand(3, 2)
    assert cluster.checker.values == {1: b"good"}
    assert cluster[3].chosen == 1


# -- candidate ---------------------------------------------------------------------------


@scenario
def prepares_before_its_own_promise_is_durable() -> None:
    """Pre-vote answers that come twice let the restarted node stand at once, at the same ballot."""
    cluster = Cluster(3, sync_at_once=False)
    cluster.stand(1, kinds=())
    cluster.deliver_all(lambda e: isinstance(e.message, PreVote))
    twice = cluster.lose(to=1, kind=PreVoteReply)
    for envelope in twice:
        cluster.deliver(envelope)
    for _ in range(3):
        cluster.deliver_all(lambda e: e.to != 1)
        cluster.hosts[2].sync()
        cluster.hosts[3].sync()
        cluster.deliver_all(lambda e: e.to == 1)
    cluster.hosts[1].propose(b"old")  # leads already, if its Prepare went out too early
    cluster.lose()
    cluster.hosts[1].crash()
    cluster.hosts[1].start()
    cluster.time_out(1)
    for envelope in twice:
        cluster.deliver(envelope)
    cluster.talk(1, 2, 3)
    cluster.hosts[1].propose(b"new")
    cluster.talk(1, 2, 3)
    assert cluster.checker.values == {1: b"new"}


@scenario
def leads_without_a_quorum_of_promises() -> None:
    promise_leaves_out_what_it_accepted()


@scenario
def takes_a_promise_with_a_page_missing() -> None:
    cluster = Cluster(3, message_bytes_max=1)
    chosen_by_1_and_2(cluster, b"old 1")
    for value in (b"old 2", b"old 3"):
        cluster.hosts[1].propose(value)
    cluster.talk(1, 2, kinds=PHASE_2)
    cluster.lose()
    cluster.hosts[2].crash()
    cluster.hosts[2].disk.applied = Slot(0)
    cluster.hosts[2].start()
    cluster.stand(3, 2, kinds=(PreVote, PreVoteReply, Prepare))
    pages = cluster.lose(sender=2, to=3, kind=Promise)
    assert len(pages) == 4  # three values, and the last page
    for page in pages[1:]:
        cluster.deliver(page)
    cluster.hosts[3].propose(b"too early")
    cluster.talk(2, 3)
    cluster.now += 0.3
    cluster.hosts[3].tick()
    cluster.talk(2, 3)
    cluster.hosts[3].propose(b"new")
    cluster.talk(2, 3)
    assert cluster.checker.values == {1: b"old 1", 2: b"old 2", 3: b"old 3", 4: b"new"}


@scenario
def takes_any_reported_value_instead_of_the_highest_ballot() -> None:
    cluster = Cluster(3)
    stray_value_at_3(cluster)
    cluster.stand(3, 2)
    assert cluster[3].chosen == 1
    assert cluster.checker.values == {1: b"good"}


@scenario
def ignores_that_a_promiser_knows_more_slots_chosen() -> None:
    cluster = Cluster(3)
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"old")
    cluster.talk(1, 2)
    assert cluster[2].chosen == 1
    cluster.lose()
    cluster.stand(3, 2, kinds=ELECTION)
    assert cluster[3].role is Role.LEADER
    cluster.hosts[3].propose(b"too early")
    cluster.talk(2, 3)
    assert cluster.hosts[3].propose(b"new") == 2
    cluster.talk(2, 3)
    assert cluster.checker.values == {1: b"old", 2: b"new"}


# -- leader ------------------------------------------------------------------------------


@scenario
def proposes_new_values_in_open_slots() -> None:
    promise_leaves_out_what_it_accepted()


@scenario
def counts_accepted_of_any_ballot() -> None:
    cluster = Cluster(3, sync_at_once=False)
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"old")
    cluster.deliver_all(lambda e: e.to == 2)
    cluster.hosts[2].sync()
    late = cluster.lose(sender=2, to=1, kind=Accepted)
    assert late
    cluster.hosts[1].crash()  # and forgets "old"
    cluster.hosts[1].start()
    cluster.lose()
    cluster.stand(1, 3)
    cluster.hosts[1].propose(b"new")
    cluster.hosts[1].sync()
    for envelope in late:
        cluster.deliver(envelope)
    cluster.lose()
    cluster.stand(2, 3)
    assert cluster.checker.values == {1: b"old"}  # the only value that any quorum accepted


@scenario
def counts_accepted_of_nodes_without_a_vote() -> None:
    cluster = Cluster(3, learners=1)
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"old")
    cluster.talk(1, 4)
    cluster.lose()
    cluster.stand(2, 3)
    cluster.hosts[2].propose(b"new")
    cluster.talk(2, 3)
    assert cluster.checker.values == {1: b"new"}


@scenario
def chooses_below_a_quorum() -> None:
    cluster = Cluster(3)
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"old")
    cluster.lose()
    cluster.stand(2, 3)
    cluster.hosts[2].propose(b"new")
    cluster.talk(2, 3)
    assert cluster.checker.values == {1: b"new"}


@scenario
def a_new_membership_rules_at_once() -> None:
    """Slot 1 says that 1, 4 and 5 rule from slot 3 on; slot 2 still belongs to 1, 2 and 3."""
    cluster = Cluster(3, learners=2, window_slots_max=2)
    second = pack_membership(Membership(members(1, 4, 5)).pack())
    chosen_by_1_and_2(cluster, second)
    cluster.now += 0.3
    cluster.hosts[1].tick()
    cluster.talk(1, 4)
    cluster.hosts[1].propose(b"old")
    cluster.talk(1, 4)
    cluster.lose()
    cluster.stand(2, 3, kinds=ELECTION)
    cluster.hosts[2].propose(b"new")
    cluster.talk(2, 3)
    assert cluster.checker.values == {1: second, 2: b"new"}


@scenario
def proposes_under_a_membership_that_has_not_promised() -> None:
    """Slot 1 says that 2, 4 and 5 rule from slot 3 on. Node 4 is elected by them and chooses slot 3.
    Node 2 knows nothing of it: it is elected by 1, 2 and 3, and must ask 4 or 5 before slot 3."""
    cluster = Cluster(3, learners=2, window_slots_max=2)
    second = pack_membership(Membership(members(2, 4, 5)).pack())
    cluster.stand(1, 3)
    cluster.lose()
    for value in (second, b"two"):
        cluster.hosts[1].propose(value)
        cluster.talk(1, 3, kinds=PHASE_2)
    cluster.lose()
    cluster.now += 0.3
    cluster.hosts[4].tick()
    cluster.deliver(Envelope(NodeId(4), NodeId(1), Learn(Slot(1), Slot(9))))
    cluster.talk(1, 4)
    assert cluster[4].chosen == 2
    cluster.stand(4, 5)
    cluster.hosts[4].propose(b"old")
    cluster.talk(4, 5, kinds=PHASE_2)
    assert cluster.checker.values[Slot(3)] == b"old"
    cluster.lose()

    for _ in range(2):  # twice, for a ballot above that of 4
        cluster.stand(2, 3, kinds=ELECTION)
        cluster.lose()
    assert cluster[2].ballot > cluster[4].ballot
    for _ in range(3):
        cluster.now += 0.3
        cluster.hosts[2].tick()
        cluster.talk(2, 3)
    assert cluster[2].chosen == 2
    cluster.hosts[2].propose(b"new")
    for _ in range(3):
        cluster.now += 0.3
        cluster.hosts[2].tick()
        cluster.talk(2, 4)
    assert cluster[2].chosen == 3
    assert cluster.checker.values[Slot(3)] == b"old"


# -- learner -----------------------------------------------------------------------------


@scenario
def follower_chooses_without_a_ballot_match() -> None:
    cluster = Cluster(3)
    stray_value_at_3(cluster)
    cluster.now += 0.2
    cluster.hosts[1].tick()
    cluster.deliver_all(lambda e: e.to == 3 and isinstance(e.message, Heartbeat))
    assert cluster[3].chosen == 0
    cluster.talk(1, 3)  # it asks
    assert cluster[3].chosen == 1
    assert cluster.checker.values == {1: b"good"}


@scenario
def shell_answers_learn_before_it_has_persisted() -> None:
    """Node 2 has "old" of 1.3 on its disk, and "new" of 2.1 on the way there when it learns that
    slot 1 is chosen and is asked for it."""
    cluster = Cluster(3, sync_at_once=False)
    cluster.stand(3, 2)
    cluster.hosts[3].propose(b"old")
    cluster.deliver_all(lambda e: e.to == 2)
    cluster.hosts[2].sync()
    cluster.hosts[3].crash()  # and forgets "old"
    cluster.hosts[3].start()
    cluster.lose()
    cluster.stand(1, 3)
    cluster.lose()
    cluster.hosts[1].propose(b"new")
    to_2 = cluster.lose(to=2, kind=Accept)
    cluster.talk(1, 3, kinds=PHASE_2)
    cluster.lose()
    for envelope in to_2:
        cluster.deliver(envelope)
    cluster.deliver(Envelope(NodeId(1), NodeId(2), Heartbeat(cluster[1].ballot, Slot(1), 0)))
    assert cluster[2].chosen == 1
    cluster.deliver(Envelope(NodeId(3), NodeId(2), Learn(Slot(1), Slot(1))))
    cluster.deliver_all(lambda e: e.to == 3)
    cluster.hosts[2].sync()
    cluster.deliver_all(lambda e: e.to == 3)
    assert cluster[3].chosen == 1
    assert cluster.checker.values == {1: b"new"}


# -- reads -------------------------------------------------------------------------------


def deposed_without_knowing(cluster: Cluster) -> None:
    """Node 1 still believes that it leads; 2 leads with 3, and chose a value since."""
    cluster.stand(1, 2)
    cluster.lose()
    for _ in range(3):
        cluster.hosts[1].read(len(cluster.checker.reads) + 1)
        cluster.talk(1, 2)
    cluster.lose()
    cluster.stand(2, 3)
    cluster.hosts[2].propose(b"new")
    cluster.talk(2, 3)
    assert cluster.checker.told == 1
    assert cluster[1].role is Role.LEADER


@scenario
def answers_reads_without_a_probe() -> None:
    cluster = Cluster(3)
    deposed_without_knowing(cluster)
    cluster.hosts[1].read(100)
    assert (1, 100) not in cluster.checker.answers
    cluster.talk(1, 2, 3)
    assert cluster.checker.answers[NodeId(1), 100] is None  # and its shell will ask node 2


@scenario
def takes_answers_to_an_earlier_probe() -> None:
    answers_reads_without_a_probe()


@scenario
def acknowledges_probes_below_its_promise() -> None:
    cluster = Cluster(3)
    deposed_without_knowing(cluster)
    cluster.lose()
    cluster.hosts[1].read(100)
    cluster.talk(1, 3)
    assert cluster.checker.answers[NodeId(1), 100] is None


@scenario
def answers_reads_while_slots_of_phase_1_are_open() -> None:
    cluster = Cluster(3)
    chosen_by_1_and_2(cluster)
    cluster.stand(2, 3, kinds=ELECTION)
    assert cluster[2].role is Role.LEADER
    cluster.hosts[2].read(1)
    cluster.deliver_all(lambda e: not isinstance(e.message, PHASE_2))
    assert not cluster.checker.answers
    cluster.talk(2, 3)
    assert cluster.checker.answers == {(NodeId(2), 1): Slot(1)}


@scenario
def numbers_reads_from_one_after_every_restart() -> None:
    cluster = Cluster(3)
    cluster.stand(1, 2)
    cluster.talk(1, 2, 3)
    cluster.hosts[2].read(1)
    cluster.deliver_all(lambda e: not isinstance(e.message, ReadIndexReply))
    late = cluster.lose(kind=ReadIndexReply)
    assert late
    cluster.hosts[2].crash()
    cluster.hosts[2].start()
    cluster.hosts[1].propose(b"new")
    cluster.talk(1, 2, 3)
    cluster.now += 0.2
    cluster.hosts[1].tick()
    cluster.talk(1, 2, 3)
    cluster.hosts[2].read(2)
    for envelope in late:
        cluster.deliver(envelope)
    assert not cluster.checker.answers
    cluster.talk(1, 2, 3)
    assert cluster.checker.answers == {(NodeId(2), 2): Slot(1)}


# -- being live ----------------------------------------------------------------------------


@scenario
def grants_pre_votes_while_a_leader_lives() -> None:
    """Links 1-3 are down both ways; 1 leads with 2. Node 3 must neither depose it nor freeze."""
    cluster = Cluster(3)
    leader = cluster.elect(1)
    ballot = cluster[leader].ballot
    cluster.cut_link(1, 3)
    for number in range(20):
        cluster.propose(b"%d" % number)
        cluster.run(0.3)
    assert cluster[1].role is Role.LEADER
    assert cluster[1].ballot == ballot
    assert cluster.run(1.0, until=cluster.settled)


@scenario
def learns_from_the_leader_only() -> None:
    grants_pre_votes_while_a_leader_lives()


@scenario
def leads_on_without_hearing_a_quorum() -> None:
    """Everybody hears the leader, and it hears nobody: it must make room."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut_link(2, 1, both=False)
    cluster.cut_link(3, 1, both=False)
    assert cluster.run(5.0, until=lambda: cluster.leader() in (2, 3))
    cluster.propose(b"new")
    assert cluster.leader() in (2, 3)


@scenario
def sends_accepts_only_once() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    host = cluster.hosts[1]
    host.propose(b"lost at first")
    cluster.lose(kind=Accept)
    assert cluster.run(1.0, until=lambda: host.folded == 1)


@scenario
def sends_prepares_only_once() -> None:
    cluster = Cluster(3)
    cluster.stand(1, 2, kinds=(PreVote, PreVoteReply))
    assert cluster.lose(kind=Prepare)
    ballot = cluster[1].ballot
    cluster.now += 0.3
    cluster.hosts[1].tick()
    cluster.talk(1, 2)
    assert cluster[1].role is Role.LEADER
    assert cluster[1].ballot == ballot


@scenario
def waits_for_ever_for_what_a_dead_promiser_knew() -> None:
    """Node 1 chose slot 1 with 2, said so to 2 and died. 3 is elected by 2 and must learn slot 1;
    then 2 comes back having forgotten that it is chosen, as a node may."""
    cluster = Cluster(3, apply_probability=0.0)
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"old")
    cluster.talk(1, 2)
    assert cluster[2].chosen == 1
    cluster.lose()
    cluster.hosts[1].crash()
    cluster.stand(3, 2, kinds=ELECTION)
    assert cluster[3].role is Role.LEADER
    cluster.hosts[2].crash()
    cluster.hosts[2].start()
    cluster.lose()
    assert cluster.propose(b"new", seconds=20.0) == 2
    assert cluster.checker.values[Slot(1)] == b"old"


@scenario
def a_refused_leader_leads_on() -> None:
    """Node 3 promised a candidacy of its own that went no further, and 2 is down: 1 needs 3. The
    leader wins it back at once, with a higher ballot."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.run(1.0)
    cluster.hosts[2].crash()
    cluster[3]._stand()  # as after a TakeOver, or a pre-vote of long ago
    cluster.hosts[3].drain()
    cluster.lose(sender=3)
    cluster.hosts[3].crash()
    cluster.hosts[3].start()
    cluster.propose(b"new", seconds=0.8)
    assert cluster.leaders() == [1]


@scenario
def a_transfer_never_gives_up() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(b"before")
    cluster.run(0.5)
    cluster.cut_link(1, 2, both=False)  # 2 cannot hear that it shall take over
    cluster[1].transfer(NodeId(2), cluster.now)
    assert not cluster[1].can_propose
    assert cluster.hosts[1].propose(b"meanwhile") is None
    assert cluster.run(1.1, until=lambda: cluster[1].can_propose)
    cluster.propose(b"after")
    assert cluster.leaders() == [1]


@scenario
def hands_over_to_a_node_that_lacks_entries() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.run(0.5)
    cluster.cut_link(1, 2, both=False)
    cluster.propose(b"unknown to 2")
    cluster.heal()
    cluster[1].transfer(NodeId(2), cluster.now)
    cluster.hosts[1].drain()
    assert cluster.run(1.0, until=lambda: cluster[2].role is not Role.FOLLOWER)
    assert cluster[2].chosen == 1  # before it stood


# -- damaged records ---------------------------------------------------------------------


def with_records(nodes: int = 3) -> Cluster:
    """A cluster on disks of real records, whose applied slot never reaches them."""
    return Cluster(nodes, disk_class=RecordDisk, apply_probability=0.0)


def disk_of(cluster: Cluster, node: int) -> RecordDisk:
    disk = cluster.hosts[node].disk
    assert isinstance(disk, RecordDisk)
    return disk


def restart(cluster: Cluster, node: int) -> None:
    cluster.hosts[node].crash()
    cluster.hosts[node].start()


def damaged_on_2(*slots: int, identifiers: bool = False) -> Cluster:
    """Nodes 1 and 2 have chosen slots 1 to 3, then the disk of 2 damaged some of them."""
    cluster = with_records()
    cluster.stand(1, 2)
    for value in (b"one", b"two", b"three"):
        cluster.hosts[1].propose(value)
    cluster.talk(1, 2, kinds=PHASE_2)
    cluster.lose()
    for slot in slots:
        disk_of(cluster, 2).damage_value(slot)
        if identifiers:
            disk_of(cluster, 2).damage_identifier(slot)
    restart(cluster, 2)
    return cluster


def chosen_anew(cluster: Cluster) -> None:
    """Node 3, which knows nothing, leads with the promise of 2, then hears 1 as well."""
    cluster.stand(3, 2)
    cluster.hosts[3].propose(b"new")
    cluster.talk(2, 3)
    assert cluster.run(20.0, until=lambda: cluster.leader() is not None and cluster.settled())
    assert [cluster.checker.values[Slot(slot)] for slot in (1, 2, 3)] == [b"one", b"two", b"three"]


@scenario
def takes_a_damaged_acceptance_for_none() -> None:
    chosen_anew(damaged_on_2(2))


@scenario
def believes_a_record_with_a_bad_checksum() -> None:
    cluster = damaged_on_2()
    disk_of(cluster, 1).damage_value(2)
    cluster.hosts[2].crash()
    cluster.run(3.0)  # node 3 asks 1 for what is chosen
    cluster.hosts[2].start()
    assert cluster.run(20.0, until=lambda: cluster.leader() is not None and cluster.settled())
    assert cluster.hosts[3].folded >= 3


@scenario
def drops_what_follows_a_damaged_record() -> None:
    chosen_anew(damaged_on_2(2))


@scenario
def does_not_look_at_identifiers() -> None:
    cluster = damaged_on_2()
    disk = disk_of(cluster, 2)
    assert disk.lose(number_key(ACCEPTED, 2))
    restart(cluster, 2)
    chosen_anew(cluster)


@scenario
def says_nothing_of_lost_slots_in_a_promise() -> None:
    chosen_anew(damaged_on_2(1, 2, 3))


def two_values() -> Cluster:
    """Node 3 accepted "old" of its own ballot; later "new" was chosen there by 1 and 2."""
    cluster = with_records()
    cluster.stand(3, 2)
    cluster.hosts[3].propose(b"old")
    cluster.lose()
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"new")
    cluster.talk(1, 2, kinds=PHASE_2)
    cluster.lose()
    assert cluster.checker.values == {1: b"new"}
    return cluster


def new_stays(cluster: Cluster) -> None:
    cluster.stand(3, 2)
    cluster.talk(2, 3)
    assert cluster.run(20.0, until=lambda: cluster.leader() is not None and cluster.settled())
    assert cluster.checker.values[Slot(1)] == b"new"


@scenario
def proposes_the_next_best_value_of_a_damaged_slot() -> None:
    cluster = two_values()
    disk_of(cluster, 2).damage_value(1)
    restart(cluster, 2)
    new_stays(cluster)


@scenario
def counts_everybody_who_promised_as_empty() -> None:
    chosen_anew(damaged_on_2(2))


@scenario
def bounds_a_slot_of_unknown_ballot_by_nothing() -> None:
    cluster = two_values()
    disk_of(cluster, 2).damage_value(1)
    disk_of(cluster, 2).damage_identifier(1)
    restart(cluster, 2)
    new_stays(cluster)


@scenario
def reads_the_lower_copy_of_its_promise() -> None:
    cluster = with_records()
    cluster.stand(1, 3)
    cluster.hosts[1].propose(b"old")
    late = cluster.lose(sender=1, to=3, kind=Accept)
    older = disk_of(cluster, 3).storage.get(PROMISED)
    cluster.stand(2, 3, kinds=ELECTION)
    disk_of(cluster, 3).storage.write_now([(PROMISED, older)], sync=True)  # as a lost write leaves it
    restart(cluster, 3)
    for envelope in late:
        cluster.deliver(envelope)
    cluster.talk(1, 3, kinds=PHASE_2)
    assert cluster.hosts[1].folded == 0, "what node 1 proposed is refused"


@scenario
def votes_on_without_a_promise() -> None:
    cluster = with_records()
    cluster.stand(1, 3)
    cluster.hosts[1].propose(b"old")
    late = cluster.lose(sender=1, to=3, kind=Accept)
    cluster.stand(2, 3, kinds=ELECTION)
    for key in (PROMISED, PROMISED_AGAIN):
        disk_of(cluster, 3).flip(key, 60)
    restart(cluster, 3)
    for envelope in late:
        cluster.deliver(envelope)
    cluster.talk(1, 3, kinds=PHASE_2)
    assert cluster.hosts[1].folded == 0
    assert not cluster.hosts[3].up


@scenario
def waits_at_a_damaged_slot_without_asking_on() -> None:
    cluster = damaged_on_2(2)
    cluster.stand(3, 2)
    assert not cluster[3].can_propose
    cluster.lose()
    ballot = cluster[3].ballot
    assert cluster.run(2.0, until=lambda: cluster[3].can_propose)
    assert cluster[3].ballot == ballot
