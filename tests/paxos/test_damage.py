"""Damaged records: what can be recovered is, what cannot makes the journal wait, nothing is ever wrong.

The exhaustive tests follow Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage"
(FAST 2018), section 5.1: three nodes, four entries, every combination of damaged ones.
"""

from __future__ import annotations

import itertools
import os
import random
from functools import cache

import pytest

from journal.entries import NOOP
from journal.limits import Limits
from journal.paxos import Effects, Membership, Paxos, PaxosConfig, Recovered, Role
from journal.paxos.messages import AcceptedValue, Envelope, Learned, LostValue, Prepare, Promise
from journal.storage.log import LogStore
from journal.storage.memory import MemoryStorage
from journal.types import Ballot, NodeId, Slot
from tests.paxos.damage import DamageStorm, RecordDisk
from tests.paxos.harness import Cluster, members

NODES, SLOTS = (1, 2, 3), (1, 2, 3, 4)
MEMBERSHIP = Membership(members(*NODES))
ENTRIES = tuple(
    AcceptedValue(Slot(slot), Ballot(1, NodeId(1)), b"entry %d of the first leader" % slot) for slot in SLOTS
)
WHOLE, VALUE, IDENTIFIER, BOTH = range(4)


@cache
def recovered(damages: tuple[int, ...], accepted: tuple[AcceptedValue, ...] = ENTRIES) -> Recovered:
    """What a node finds that has accepted ``accepted``, with ``damages`` to the record of each."""
    disk = RecordDisk(MEMBERSHIP)
    disk.persist(Effects(promised=Ballot(1, NodeId(1)), accepted=list(accepted)))
    for record, damage in zip(accepted, damages, strict=True):
        if damage in (VALUE, BOTH):
            disk.damage_value(record.slot)
        if damage in (IDENTIFIER, BOTH):
            disk.damage_identifier(record.slot)
    return disk.recovered(32)


def recover(found: dict[int, Recovered]) -> tuple[dict[int, list[bytes]], dict[int, Paxos]]:
    """Start a core on each of ``found``; the first one stands; let them talk until all is said.

    Returns what each chose, in order. The shell is as small as can be: 4,096 clusters go through it.
    """
    cores = {
        node: Paxos(PaxosConfig(node=NodeId(node)), state, rng=random.Random(node), now=0.0)
        for node, state in found.items()
    }
    logs = {node: {record.slot: record for record in state.accepted} for node, state in found.items()}
    chosen: dict[int, list[bytes]] = {node: [] for node in found}
    candidate = min(found)
    network: list[Envelope] = []
    now = 0.0

    def drain(node: int) -> None:
        effects = cores[node].drain()
        for record in effects.accepted:
            logs[node][record.slot] = record
        chosen[node].extend(record.value for record in effects.chosen)
        network.extend(effects.send_now)
        network.extend(effects.send_durable)
        for to, first, last in effects.send_entries:
            entries = tuple(logs[node][Slot(slot)] for slot in range(first, last + 1))
            network.append(Envelope(NodeId(node), to, Learned(cores[node].chosen, entries)))

    def talk() -> None:
        while network:
            envelope = network.pop(0)
            if envelope.to in cores:
                cores[envelope.to].step(envelope, now)
                drain(envelope.to)

    now = cores[candidate]._silence.ends_at
    for _ in range(3):  # it stands; and what was refused or not answered is asked again
        cores[candidate].tick(now)
        drain(candidate)
        talk()
        now += 0.25
    return chosen, cores


def check(damages: dict[int, tuple[int, ...]], *, is_lost: tuple[bool, ...]) -> None:
    """``is_lost``: which entries cannot be recovered."""
    chosen, cores = recover({node: recovered(damage) for node, damage in damages.items()})
    whole = is_lost.index(True) if True in is_lost else len(ENTRIES)
    expected = [entry.value for entry in ENTRIES[:whole]]
    for node in damages:
        assert chosen[node] == expected, f"node {node} of {damages}"
    assert cores[1].role is Role.LEADER
    assert cores[1].can_propose is (whole == len(ENTRIES)), damages
    assert cores[1].waits_for == (None if whole == len(ENTRIES) else Slot(whole + 1))


def test_every_combination_of_damaged_entries() -> None:
    """Protocol-aware recovery's own test: 4,096 cases, of which 2,401 keep a copy of each entry."""
    patterns = list(itertools.product((WHOLE, VALUE), repeat=4))
    cases = recoverable = 0
    for combination in itertools.product(patterns, repeat=3):
        is_lost = tuple(all(damage) for damage in zip(*combination, strict=True))
        check(dict(zip(NODES, combination, strict=True)), is_lost=is_lost)
        cases += 1
        recoverable += not any(is_lost)
    assert (cases, recoverable) == (4_096, 2_401)


def test_every_combination_where_identifiers_are_damaged_too() -> None:
    """Two entries, four kinds of damage each: 4,096 cases again. All have promised no more than the
    ballot that a whole copy has, so even without identifiers one whole copy is enough."""
    patterns = list(itertools.product((WHOLE, VALUE, IDENTIFIER, BOTH), repeat=2))
    for combination in itertools.product(patterns, repeat=3):
        padded = [(*damage, WHOLE, WHOLE) for damage in combination]
        is_lost = tuple(
            all(damage in (VALUE, BOTH) for damage in found) for found in zip(*padded, strict=True)
        )
        check(dict(zip(NODES, padded, strict=True)), is_lost=is_lost)


# What two leaders may have left in a slot: (ballot of it on node 1, 2, 3), the value's number is the
# ballot's. Zero: nothing. The last column: whether, and as what, it may have been chosen.
HISTORIES = [
    history
    for history in itertools.product((0, 1, 2), repeat=3)
    # The second leader had a quorum of promises: if it could see the first one's value it repeated it.
    # Here it did not see it, so the first one's value is on one node at most.
    if sum(ballot == 1 for ballot in history) <= 1
]


@pytest.mark.parametrize("promisers", [(1, 2, 3), (1, 2), (1, 3), (2, 3)], ids=str)
def test_every_history_of_a_slot_and_every_damage_to_it(promisers: tuple[int, ...]) -> None:
    """Whatever was chosen, or may have been, is chosen again, or the slot waits: never anything else."""
    waits = 0
    for history in HISTORIES:
        # At 2.2 a quorum may have accepted; then that value is chosen. Nodes that are not heard count.
        may_be_chosen = sum(ballot == 2 for ballot in history) >= 2
        for damages in itertools.product((WHOLE, VALUE, IDENTIFIER, BOTH), repeat=3):
            found = {}
            for node, ballot, damage in zip(NODES, history, damages, strict=True):
                if node in promisers:
                    found[node] = one_slot(ballot, damage)
            chosen, cores = recover(found)
            values = {value for entries in chosen.values() for value in entries}
            assert len(values) <= 1
            if may_be_chosen:
                assert values <= {b"value 2"}, (history, damages)
            else:
                assert values <= {b"value 1", b"value 2", NOOP}, (history, damages)
            leader = cores[min(found)]
            waits += leader.waits_for is not None
            if not any(damages) and any(history):
                assert leader.can_propose
    assert waits > 50, "the damages are too mild to mean anything"


@cache
def one_slot(ballot: int, damage: int) -> Recovered:
    disk = RecordDisk(MEMBERSHIP)
    disk.persist(Effects(promised=Ballot(2, NodeId(2))))
    if ballot:
        entry = AcceptedValue(Slot(1), Ballot(ballot, NodeId(ballot)), b"value %d" % ballot)
        disk.persist(Effects(accepted=[entry]))
        if damage in (VALUE, BOTH):
            disk.damage_value(1)
        if damage in (IDENTIFIER, BOTH):
            disk.damage_identifier(1)
    return disk.recovered(32)


# -- storms --------------------------------------------------------------------------------

STORMS = int(os.environ.get("SYNOD_DAMAGE_STORMS", "40"))

WEATHERS = {
    "three": {"victims": 1},
    "five": {"nodes": 5, "victims": 2},
    "learner": {"learners": 1, "victims": 1, "window": 2},
}


@pytest.mark.parametrize("weather", sorted(WEATHERS))
def test_storms_that_damage_a_minority(weather: str) -> None:
    """Thousands of flipped bits, lost and swapped records: no divergence, and progress afterwards."""
    damages = 0
    for seed in range(STORMS):
        storm = DamageStorm(seed, **WEATHERS[weather])
        try:
            storm.run()
        except AssertionError as error:
            raise AssertionError(
                f"DamageStorm({seed}, **{WEATHERS[weather]}).run() fails: {error}"
            ) from error
        damages += storm.damages
    assert damages > 20 * STORMS, "these storms are too mild"


def test_storms_that_damage_all_nodes_are_never_wrong() -> None:
    """Progress cannot be promised here; agreement must hold all the same."""
    for seed in range(STORMS):
        storm = DamageStorm(seed, victims=3)
        try:
            storm.rage(300)
        except AssertionError as error:
            raise AssertionError(f"DamageStorm({seed}, victims=3).rage(300) fails: {error}") from error


# -- directed ------------------------------------------------------------------------------


def chosen_by_1_and_2() -> Cluster:
    """Node 1 leads and has chosen a value; 2 accepted it, and knows no more; 3 has heard nothing."""
    cluster = Cluster(3, disk_class=RecordDisk, apply_probability=0.0)
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"precious")
    cluster.talk(1, 2)
    cluster.lose()
    return cluster


def disk(cluster: Cluster, node: int) -> RecordDisk:
    found = cluster.hosts[node].disk
    assert isinstance(found, RecordDisk)
    return found


def restart(cluster: Cluster, node: int) -> None:
    cluster.hosts[node].crash()
    cluster.hosts[node].start()


def test_a_damaged_acceptance_is_not_taken_for_an_empty_slot() -> None:
    cluster = chosen_by_1_and_2()
    disk(cluster, 2).damage_value(1)
    restart(cluster, 2)
    assert list(cluster[2].lost) == [1]
    cluster.stand(3, 2)
    assert cluster[3].role is Role.LEADER
    assert cluster[3].waits_for == 1 and not cluster[3].can_propose
    # Node 1 comes back to it: its copy settles the matter.
    assert cluster.run(10.0, until=lambda: cluster.settled() and cluster.leader() is not None)
    assert cluster.checker.values == {1: b"precious"}
    assert not cluster[2].lost
    restart(cluster, 2)
    assert not cluster[2].lost, "what was learned repaired the record"


def test_a_lone_damaged_acceptance_gives_way_to_those_who_hold_nothing() -> None:
    """Node 1 accepted its own proposal, and nobody else did: a quorum of empty slots shows that."""
    cluster = Cluster(3, disk_class=RecordDisk)
    cluster.stand(1, 2)
    cluster.hosts[1].propose(b"never chosen")
    cluster.lose()
    disk(cluster, 1).damage_value(1)
    restart(cluster, 1)
    cluster.stand(2, 1)
    assert cluster[2].waits_for == 1, "with node 3 unheard it may have been chosen"
    assert cluster.run(10.0, until=lambda: cluster.leader() is not None)
    cluster.propose(b"next")
    assert cluster.checker.values[Slot(1)] in (NOOP, b"next")


def test_the_leaders_next_accept_repairs_a_record() -> None:
    cluster = Cluster(3, disk_class=RecordDisk)
    cluster.stand(1, 2, 3)
    cluster.hosts[1].propose(b"value")
    accepts = [envelope for envelope in cluster.network if envelope.to == 2]
    cluster.talk(1, 2)
    disk(cluster, 2).applied = Slot(0)
    disk(cluster, 2).damage_value(1)
    restart(cluster, 2)
    assert list(cluster[2].lost) == [1]
    for envelope in accepts:  # at the very ballot that it was accepted at
        cluster.deliver(envelope)
    assert not cluster[2].lost
    restart(cluster, 2)
    assert not cluster[2].lost


def test_a_learner_that_knows_ends_the_wait() -> None:
    """Both voters that are left have damaged copies, and a learner has folded the entry."""
    cluster = Cluster(3, learners=1, disk_class=RecordDisk, apply_probability=0.0)
    cluster.stand(1, 2, 4)
    cluster.hosts[1].propose(b"precious")
    cluster.talk(1, 2, 4)
    cluster.now += 0.1
    cluster.hosts[1].tick()
    cluster.talk(1, 2, 4)
    assert cluster[4].chosen == 1
    cluster.lose()
    for node in (1, 2):
        disk(cluster, node).damage_value(1)
    cluster.hosts[1].crash()
    restart(cluster, 2)
    assert cluster.run(20.0, until=lambda: cluster.leader() is not None and cluster.settled())
    assert cluster.checker.values[Slot(1)] == b"precious"
    assert cluster.hosts[2].folded >= 1 and cluster.hosts[3].folded >= 1


def test_a_node_that_lost_both_copies_of_its_promise_stays_down() -> None:
    cluster = chosen_by_1_and_2()
    for key in disk(cluster, 2).keys((b"p", b"q")):
        disk(cluster, 2).flip(key, 50)
    restart(cluster, 2)
    assert not cluster.hosts[2].up
    assert cluster.run(20.0, until=lambda: cluster.leader() is not None and cluster.settled())
    assert cluster.checker.values[Slot(1)] == b"precious"


def test_lost_slots_travel_in_pages() -> None:
    values = [AcceptedValue(Slot(slot), Ballot(1, NodeId(1)), b"x" * 10) for slot in range(1, 9)]
    disk = RecordDisk(MEMBERSHIP)
    disk.persist(Effects(promised=Ballot(1, NodeId(1)), accepted=values))
    for slot in (2, 3, 5, 8):
        disk.damage_value(slot)
    core = Paxos(
        PaxosConfig(node=NodeId(2), message_bytes_max=20), disk.recovered(32), rng=random.Random(1), now=0.0
    )
    core.step(Envelope(NodeId(3), NodeId(2), Prepare(Ballot(2, NodeId(3)), Slot(1))), 0.0)
    sent = [envelope.message for envelope in core.drain().send_durable]
    pages = [message for message in sent if isinstance(message, Promise)]
    assert len(pages) == len(sent)
    assert [slot for page in pages for slot, _b, _v in page.accepted] == [1, 4, 6, 7]
    assert [lost for page in pages for lost in page.lost] == [
        LostValue(Slot(slot), Ballot(1, NodeId(1))) for slot in (2, 3, 5, 8)
    ]
    reach = 0
    for page in pages[:-1]:
        assert page.first == reach + 1
        assert page.last is not None
        reach = page.last
    assert pages[-1].last is None and pages[-1].first == 9


def test_log_store_and_core_agree_on_an_empty_disk() -> None:
    found = LogStore(MemoryStorage(), Limits()).recover(Slot(0), MEMBERSHIP, 32)
    assert found.lost == () and found.accepted == ()
