"""The chosen prefix moved on by a snapshot: case by case, and in storms with trimmed logs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from journal.paxos import Membership, Paxos, Recovered, Role
from journal.paxos.membership import membership_of
from journal.paxos.messages import (
    Accept,
    Accepted,
    AcceptedValue,
    Envelope,
    Heartbeat,
    Prepare,
    PreVote,
    Promise,
)
from journal.types import Ballot, NodeId, Slot
from tests.paxos.harness import NOTHING, Cluster, Disk, Host, members
from tests.paxos.storm import Storm

TWO = NodeId(2)


def behind() -> Cluster:
    """Node 3 of three was cut off while the others chose ten slots."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.propose(b"first")
    assert cluster.run(5.0, until=cluster.settled)
    cluster.isolate(3)
    for number in range(10):
        cluster.propose(b"value %d" % number)
    return cluster


def install(cluster: Cluster, node: int, source: int, **changes: object) -> Slot:
    host, disk = cluster.hosts[node], cluster.hosts[source].disk
    core = cluster[node]
    host.drain()
    slot = disk.applied
    core.install(slot, disk.promised, disk.recovered(32).memberships, cluster.now)
    host.folded = max(host.folded, slot)
    host.drain()
    return slot


def test_the_prefix_moves_on_and_the_node_learns_what_follows() -> None:
    cluster = behind()
    assert cluster[3].chosen == 1
    slot = install(cluster, 3, 2)
    assert slot >= 10 and cluster[3].chosen == slot
    cluster.heal()
    last = cluster.propose(b"after")
    assert cluster.run(5.0, until=lambda: cluster[3].chosen >= last)
    assert cluster.checker.values[last] == b"after"


def test_what_is_known_already_changes_nothing() -> None:
    cluster = behind()
    leader = cluster.leader()
    assert leader is not None
    before = (cluster[leader].chosen, cluster[leader].ballot, cluster[leader].role)
    cluster[leader].install(Slot(3), Ballot(99, TWO), (), cluster.now)
    assert (cluster[leader].chosen, cluster[leader].ballot, cluster[leader].role) == before


def test_the_senders_promise_is_promised_and_never_a_lower_one() -> None:
    cluster = behind()
    core = cluster[3]
    core.install(Slot(5), Ballot(50, TWO), (), cluster.now)
    assert core.ballot == Ballot(50, TWO)
    assert core.drain().promised == Ballot(50, TWO), "it is persisted"
    core.install(Slot(7), Ballot(2, TWO), (), cluster.now)
    assert core.ballot == Ballot(50, TWO) and core.chosen == 7
    assert core.drain().promised is None


def test_what_is_accepted_above_stays_and_is_reported() -> None:
    cluster = behind()
    core = cluster[3]
    ballot = Ballot(60, TWO)
    for slot in (4, 5, 6, 7):
        core.step(Envelope(TWO, NodeId(3), Accept(ballot, Slot(slot), b"v%d" % slot, Slot(1))), cluster.now)
    core.drain()
    core.install(Slot(5), ballot, (), cluster.now)
    higher = Ballot(61, TWO)
    core.step(Envelope(TWO, NodeId(3), Prepare(higher, Slot(2))), cluster.now)
    promises = [e.message for e in core.drain().send_durable if isinstance(e.message, Promise)]
    reported = [record for promise in promises for record in promise.accepted]
    assert reported == [AcceptedValue(Slot(slot), ballot, b"v%d" % slot) for slot in (6, 7)]
    assert all(promise.chosen == 5 for promise in promises), "and that the rest is chosen"


def test_what_was_announced_above_is_chosen_at_once() -> None:
    cluster = behind()
    core = cluster[3]
    ballot = Ballot(60, TWO)
    for slot in (6, 7):
        core.step(Envelope(TWO, NodeId(3), Accept(ballot, Slot(slot), b"v%d" % slot, Slot(1))), cluster.now)
    core.step(Envelope(TWO, NodeId(3), Heartbeat(ballot, Slot(7), 0)), cluster.now)
    core.drain()
    core.install(Slot(5), ballot, (), cluster.now)
    assert [record.slot for record in core.drain().chosen] == [6, 7]


def test_a_leader_or_candidate_steps_down() -> None:
    cluster = behind()
    leader = cluster.leader()
    assert leader is not None
    core = cluster[leader]
    core.install(Slot(core.chosen + 5), core.ballot, (), cluster.now)
    assert core.role is Role.FOLLOWER and not core.can_propose
    candidate = cluster[3]
    candidate._stand()
    roles = [candidate.role]
    candidate.install(Slot(5), Ballot.ZERO, (), cluster.now)
    assert [*roles, candidate.role] == [Role.CANDIDATE, Role.FOLLOWER]


def test_the_memberships_that_rule_come_with_it() -> None:
    cluster = behind()
    core = cluster[3]
    later = Membership(members(1, 2, 3, 4), retired=(NodeId(9),))
    core.install(Slot(10), Ballot.ZERO, ((Slot(1), cluster.membership), (Slot(9), later)), cluster.now)
    assert core.membership == later
    assert core.newest_membership == (9, later)


def test_who_abstains_votes_but_does_not_stand() -> None:
    cluster = Cluster(3)
    cluster[3].abstains = True
    for _ in range(3):
        cluster.now += 10
        cluster.hosts[3].tick()
        assert cluster[3].role is Role.FOLLOWER
        assert not [e for e in cluster.network if isinstance(e.message, PreVote)]
    cluster.isolate(2)
    assert cluster.elect() == 1, "with the vote of node 3"
    with pytest.raises(AssertionError, match="did not take over"):
        cluster.elect(3)
    cluster[3].abstains = False
    cluster.elect(3)


def test_an_acknowledged_slot_below_it_does_no_harm() -> None:
    """An old leader's Accept for a slot that the snapshot covers is refused: its ballot is too low."""
    cluster = behind()
    install(cluster, 3, 2)
    core = cluster[3]
    old = Ballot(0, NodeId(1))
    core.step(Envelope(NodeId(1), NodeId(3), Accept(old, Slot(4), b"other", Slot(0))), cluster.now)
    sent = [*(effects := core.drain()).send_now, *effects.send_durable]
    assert not any(isinstance(envelope.message, Accepted) for envelope in sent)


# -- storms ----------------------------------------------------------------------------------------------


@dataclass
class TrimmedDisk(Disk):
    """A disk whose log begins after ``base``, because it was trimmed there or a snapshot was installed."""

    base: Slot = NOTHING
    ruled: list[tuple[Slot, Membership]] = field(default_factory=list)
    """The memberships chosen up to ``base``."""

    def recovered(self, window: int) -> Recovered:
        found = super().recovered(window)
        chosen = [(Slot(slot + window), membership) for slot, membership in self.ruled]
        memberships = (found.memberships[0], *chosen, *found.memberships[1:])
        return found._replace(applied=max(self.applied, self.base), memberships=memberships)

    def read(self, first: Slot, last: Slot) -> tuple[AcceptedValue, ...]:
        return super().read(first, last) if first > self.base else ()

    def trim(self, slot: Slot) -> None:
        assert slot <= self.applied
        for old in [old for old in self.records if old <= slot]:
            membership = membership_of(self.records.pop(old).value)
            if membership is not None:
                self.ruled.append((old, membership))
        self.ruled.sort()
        self.base = max(self.base, slot)


class SnapshotStorm(Storm):
    """A storm in which logs are trimmed, and who lacks what was trimmed gets a snapshot."""

    installed = 0

    def trim(self) -> None:
        host = self.host()
        if host is None:
            return
        assert isinstance(host.disk, TrimmedDisk)
        if host.disk.applied > host.disk.base:
            host.disk.trim(Slot(self.rng.randrange(host.disk.base, host.disk.applied) + 1))

    def install(self) -> None:
        source, target = self.host(), self.host()
        if source is not None and source is not target:
            self.give(source, target)

    def give(self, source: Host, target: Host) -> None:
        disk, core = source.disk, target.core
        assert isinstance(disk, TrimmedDisk) and isinstance(target.disk, TrimmedDisk) and core is not None
        if disk.applied <= core.chosen:
            return
        window = self.cluster.config.window_slots_max
        end, promised = disk.applied, disk.promised
        ruled = disk.ruled + [
            (slot, membership)
            for slot in sorted(disk.records)
            if slot <= end and (membership := membership_of(disk.records[slot].value)) is not None
        ]
        target.drain()
        before = len(target.unsynced)
        memberships = [(Slot(1), disk.first_membership), *((Slot(slot + window), m) for slot, m in ruled)]
        core.install(end, promised, memberships, self.cluster.now)
        target.folded = max(target.folded, end)
        target.drain()
        if self.rng.random() < 0.2:  # before the marker is durable
            target.crash(keep=self.rng.randrange(before + 1))
            return
        # The marker is in one batch with what was drained.
        target.disk.applied = max(target.disk.applied, end)
        target.disk.ruled = ruled
        target.disk.base = max(target.disk.base, end)
        target.sync()
        target.disk.applied = max(target.disk.applied, end)
        for old in [old for old in target.disk.records if old <= end]:
            del target.disk.records[old]
        self.installed += 1

    def calm(self) -> None:
        """In fair weather too the shells bring snapshots to who lacks what is trimmed."""
        cluster = self.cluster
        cluster.heal()
        for host in cluster.hosts.values():
            if not host.up:
                host.start()
        for _ in range(200):
            cluster.run(0.5)
            for host in cluster.hosts.values():
                for other in cluster.hosts.values():
                    assert isinstance(other.disk, TrimmedDisk)
                    if host.core is not None and host.core.chosen < other.disk.base:
                        self.give(other, host)
                    if not host.up:
                        host.start()
            if cluster.settled() and cluster.leader() is not None:
                break
        super().calm()

    ODDS = (*Storm.ODDS, (trim, 8), (install, 25))


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("memberships", [False, True], ids=["fixed", "changing"])
def test_storms_with_snapshots(seed: int, memberships: bool) -> None:
    storm = SnapshotStorm(seed, nodes=3 + seed % 3, memberships=memberships, disk_class=TrimmedDisk)
    storm.run(500)


def test_the_storms_install_snapshots() -> None:
    installed = 0
    for seed in range(8):
        storm = SnapshotStorm(seed, disk_class=TrimmedDisk)
        storm.run(400)
        installed += storm.installed
    assert installed > 10


class ForgetsAbove(Paxos):
    """Planted: what was accepted above the snapshot is forgotten with the rest."""

    def install(
        self, chosen: Slot, ballot: Ballot, memberships: Iterable[tuple[Slot, Membership]], now: float
    ) -> None:
        if chosen > self.chosen:
            self._acceptor.log.clear()
        super().install(chosen, ballot, memberships, now)


class InstallsTooFar(Paxos):
    """Planted: a slot that is not chosen is taken for chosen."""

    def install(
        self, chosen: Slot, ballot: Ballot, memberships: Iterable[tuple[Slot, Membership]], now: float
    ) -> None:
        super().install(Slot(chosen + 1), ballot, memberships, now)


class ForgetsTrimmed(TrimmedDisk):
    """Planted: a node that begins its space anew forgets that what it trimmed is chosen."""

    def recovered(self, window: int) -> Recovered:
        found = super().recovered(window)
        accepted = tuple(self.records[slot] for slot in sorted(self.records))
        self.applied = NOTHING
        return found._replace(applied=NOTHING, accepted=accepted)


@pytest.mark.parametrize(
    ("core_class", "disk_class"),
    [(ForgetsAbove, TrimmedDisk), (InstallsTooFar, TrimmedDisk), (Paxos, ForgetsTrimmed)],
    ids=["forgets above", "installs too far", "forgets what it trimmed"],
)
def test_a_planted_bug_is_caught(core_class: type[Paxos], disk_class: type[TrimmedDisk]) -> None:
    def search() -> None:
        for seed in range(150):
            SnapshotStorm(seed, core_class=core_class, disk_class=disk_class).rage(500)

    with pytest.raises((AssertionError, KeyError)):
        search()
