"""A whole cluster of cores in one thread: disks, a network and a clock that the test owns.

Each ``Host`` is the smallest honest shell around a core: it carries out ``Effects`` in the
order that ``journal/paxos/effects.py`` demands, on a disk of which a crash loses all that
was not synced. The ``Cluster`` holds every envelope that was sent until the test (or
``run``, with random delays from a seed) delivers, repeats or drops it. The ``Checker``
watches everything that happens and raises ``AssertionError`` as soon as agreement is broken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from journal.errors import ProtocolViolation, VoteLost
from journal.paxos import Effects, Member, Membership, Paxos, PaxosConfig, Recovered, Role
from journal.paxos.membership import membership_of
from journal.paxos.messages import REPAIR_MESSAGES, AcceptedValue, Envelope, Learned, Message, Show, Shown
from journal.types import Ballot, NodeId, Slot

NOTHING = Slot(0)


def members(*nodes: int) -> tuple[Member, ...]:
    return tuple(Member(NodeId(node), f"node-{node}:7400") for node in nodes)


@dataclass
class Disk:
    """What survives a crash."""

    first_membership: Membership
    promised: Ballot = Ballot.ZERO
    records: dict[Slot, AcceptedValue] = field(default_factory=dict)
    applied: Slot = NOTHING

    def recovered(self, window: int) -> Recovered:
        memberships = [(Slot(1), self.first_membership)]
        for slot in sorted(self.records):
            if slot <= self.applied:
                membership = membership_of(self.records[slot].value)
                if membership is not None:
                    memberships.append((Slot(slot + window), membership))
        accepted = tuple(self.records[slot] for slot in sorted(self.records) if slot > self.applied)
        return Recovered(self.promised, self.applied, accepted, tuple(memberships))

    def persist(self, effects: Effects) -> None:
        if effects.promised is not None:
            self.promised = effects.promised
        for record in effects.accepted:
            self.records[record.slot] = record

    def read(self, first: Slot, last: Slot) -> tuple[AcceptedValue, ...]:
        return tuple(self.records[Slot(slot)] for slot in range(first, last + 1))

    def show(self, first: Slot, last: Slot) -> tuple[AcceptedValue, ...]:
        """Return what is held, chosen or not."""
        return tuple(record for slot, record in sorted(self.records.items()) if first <= slot <= last)

    def repairs(self, message: Message, node: NodeId, peers: Iterable[NodeId], now: float) -> list[Envelope]:
        """For a disk that has something to repair: see what came, and say whom to ask."""
        return []


class Checker:
    """What must hold whatever happens. It sees all hosts at once, as nobody in the cluster can."""

    def __init__(self) -> None:
        self.values: dict[Slot, bytes] = {}
        """The chosen value of each slot, as first seen by anybody."""
        self.told: Slot = Slot(0)
        """The last slot that any host has folded: what clients may have been told of."""
        self.ballots: dict[Ballot, NodeId] = {}
        self.proposed: dict[tuple[Slot, Ballot], bytes] = {}
        self.promised: dict[NodeId, Ballot] = {}
        self.reads: dict[tuple[NodeId, int], Slot] = {}
        self.answers: dict[tuple[NodeId, int], Slot | None] = {}

    def chosen(self, node: NodeId, previous: Slot, record: AcceptedValue) -> None:
        slot, ballot, value = record
        assert slot == previous + 1, f"node {node} was given slot {slot} after {previous}"
        first = self.values.setdefault(slot, value)
        assert first == value, f"slot {slot} is {value!r} on node {node} (at {ballot}) but was {first!r}"
        self.told = max(self.told, slot)

    def accepted(self, record: AcceptedValue) -> None:
        slot, ballot, value = record
        first = self.proposed.setdefault((slot, ballot), value)
        assert first == value, f"slot {slot} has values {first!r} and {value!r} at ballot {ballot}"

    def persisted(self, node: NodeId, disk: Disk) -> None:
        before = self.promised.get(node, Ballot.ZERO)
        assert disk.promised >= before, f"node {node} went back from promise {before} to {disk.promised}"
        self.promised[node] = disk.promised

    def read_asked(self, node: NodeId, read: int) -> None:
        self.reads[node, read] = self.told

    def read_answered(self, node: NodeId, read: int, slot: Slot | None) -> None:
        assert (node, read) not in self.answers, f"read {read} of node {node} was answered twice"
        self.answers[node, read] = slot
        told = self.reads[node, read]
        assert slot is None or slot >= told, (
            f"read {read} of node {node} got slot {slot}, {told} was told before"
        )


class Host:
    """One node: a core, its disk, and what was drained but is not durable yet."""

    def __init__(self, cluster: Cluster, node: NodeId, disk: Disk) -> None:
        self.cluster = cluster
        self.node = node
        self.disk = disk
        self.core: Paxos | None = None
        self.folded = Slot(0)
        self.unsynced: list[tuple[Effects, Slot]] = []
        """(drained effects, the slot folded by then), oldest first."""

    @property
    def up(self) -> bool:
        return self.core is not None

    def start(self) -> None:
        assert self.core is None
        cluster = self.cluster
        config = replace(cluster.config, node=self.node)
        self.folded = self.disk.applied
        try:
            recovered = self.disk.recovered(config.window_slots_max)
        except VoteLost:
            return  # it stays down: it must not vote again
        rng = random.Random(cluster.rng.getrandbits(32))
        self.core = cluster.core_class(config, recovered, rng=rng, now=cluster.now)

    def crash(self, keep: int = 0) -> None:
        """Lose everything not synced, but for the first ``keep`` drains: a crash may come between
        the sync and what is sent after it."""
        for effects, folded in self.unsynced[:keep]:
            self._write(effects, folded)
        self.unsynced.clear()
        self.core = None

    def drain(self) -> None:
        assert self.core is not None
        effects = self.core.drain()
        self.cluster.drained(self.node, effects)
        checker = self.cluster.checker
        for record in effects.accepted:
            checker.accepted(record)
        for record in effects.chosen:
            checker.chosen(self.node, self.folded, record)
            self.folded = record.slot
        for read, slot in effects.reads:
            checker.read_answered(self.node, read, slot)
        self.cluster.send(effects.send_now)
        if effects.must_persist or effects.send_durable or effects.send_entries or effects.chosen:
            self.unsynced.append((effects, self.folded))
            if self.cluster.sync_at_once:
                self.sync()

    def _write(self, effects: Effects, folded: Slot) -> None:
        self.disk.persist(effects)
        if self.cluster.rng.random() < self.cluster.apply_probability:
            self.disk.applied = folded
        self.cluster.checker.persisted(self.node, self.disk)

    def sync(self) -> None:
        """Make all that was drained durable, then do what waited for it."""
        batches, self.unsynced = self.unsynced, []
        for effects, folded in batches:
            self._write(effects, folded)
        for effects, _folded in batches:
            own = [envelope for envelope in effects.send_durable if envelope.to == self.node]
            self.cluster.send(envelope for envelope in effects.send_durable if envelope.to != self.node)
            for envelope in own:
                self.step(envelope)
            for to, first, last in effects.send_entries:
                assert self.core is not None
                entries = self.disk.read(first, Slot(min(last, first + self.cluster.learn_entries_max - 1)))
                self.cluster.send([Envelope(self.node, to, Learned(self.core.chosen, entries))])

    def step(self, envelope: Envelope) -> None:
        assert self.core is not None
        peers = self.core.membership.nodes
        self.cluster.send(self.disk.repairs(envelope.message, self.node, peers, self.cluster.now))
        if isinstance(envelope.message, Show):
            shown = Shown(self.disk.show(envelope.message.first, envelope.message.last))
            self.cluster.send([Envelope(self.node, envelope.sender, shown)])
        if isinstance(envelope.message, REPAIR_MESSAGES):
            return
        try:
            self.core.step(envelope, self.cluster.now)
        except ProtocolViolation as violation:
            raise AssertionError(f"node {self.node} blames {envelope}: {violation}") from violation
        self.drain()

    def tick(self) -> None:
        if self.core is not None:
            self.core.tick(self.cluster.now)
            self.drain()

    def propose(self, value: bytes) -> Slot | None:
        assert self.core is not None
        slot = self.core.propose(value, self.cluster.now)
        self.drain()
        return slot

    def read(self, read: int) -> None:
        assert self.core is not None
        self.cluster.checker.read_asked(self.node, read)
        self.core.read(read, self.cluster.now)
        self.drain()


class Cluster:
    """Hosts, the network between them, and the clock."""

    def __init__(
        self,
        nodes: int = 3,
        *,
        learners: int = 0,
        seed: int = 0,
        core_class: type[Paxos] = Paxos,
        disk_class: type[Disk] = Disk,
        sync_at_once: bool = True,
        apply_probability: float = 1.0,
        start: bool = True,
        **settings: float,
    ) -> None:
        self.rng = random.Random(seed)
        self.core_class = core_class
        self.disk_class = disk_class
        self.sync_at_once = sync_at_once
        self.apply_probability = apply_probability
        """How often the applied slot reaches the disk with a batch."""
        self.learn_entries_max = 1_000
        self.config = PaxosConfig(node=NodeId(1), **settings)  # type: ignore[arg-type]
        self.membership = Membership(
            members(*range(1, nodes + 1)), members(*range(nodes + 1, nodes + learners + 1))
        )
        self.now = 1_000.0
        self.checker = Checker()
        self.network: list[Envelope] = []
        """What was sent and is neither delivered nor lost, oldest first."""
        self.sent: list[Envelope] = []
        """Everything that was ever sent, for a test that delivers what is long past."""
        self.cut: set[tuple[int, int]] = set()
        """Links (from, to) that lose everything."""
        self.delay_s = (0.001, 0.005)
        self.loss = 0.0
        self.repeat = 0.0
        self._due: list[tuple[float, int, Envelope]] = []
        self._sent = 0
        self.hosts: dict[int, Host] = {}
        for node in self.membership.nodes:
            self.add_host(node, start=start)

    def add_host(self, node: int, *, start: bool = True) -> Host:
        host = Host(self, NodeId(node), self.disk_class(self.membership))
        self.hosts[node] = host
        if start:
            host.start()
        return host

    def __getitem__(self, node: int) -> Paxos:
        core = self.hosts[node].core
        assert core is not None, f"node {node} is down"
        return core

    def drained(self, node: NodeId, effects: Effects) -> None:
        """For a subclass that wants to know."""

    # -- the network -----------------------------------------------------------------

    def send(self, envelopes: Iterable[Envelope]) -> None:
        for envelope in envelopes:
            self.sent.append(envelope)
            if (envelope.sender, envelope.to) not in self.cut:
                self.network.append(envelope)

    def cut_link(self, one: int, other: int, *, both: bool = True) -> None:
        self.cut.add((one, other))
        if both:
            self.cut.add((other, one))

    def isolate(self, node: int) -> None:
        for other in self.hosts:
            if other != node:
                self.cut_link(node, other)

    def heal(self) -> None:
        self.cut.clear()

    def deliver(self, envelope: Envelope) -> None:
        """Hand ``envelope`` over, wherever it came from; a node that is down loses it."""
        host = self.hosts.get(envelope.to)
        if host is not None and host.up:
            host.step(envelope)

    def deliver_all(self, only: Callable[[Envelope], bool] = lambda _envelope: True) -> int:
        """Deliver what is in the network in order, and what that causes, until nothing is left."""
        count = 0
        while True:
            envelope = next((envelope for envelope in self.network if only(envelope)), None)
            if envelope is None:
                return count
            self.network.remove(envelope)
            self.deliver(envelope)
            count += 1
            assert count < 100_000, "the cores talk without end"

    def talk(self, *nodes: int, kinds: tuple[type, ...] | None = None, sync: bool = True) -> None:
        """Let ``nodes`` hear each other, and only each other, until they have no more to say.

        ``kinds``: only messages of these classes; the rest stays in the network.
        """
        while True:
            heard = self.deliver_all(
                lambda e: (
                    e.sender in nodes and e.to in nodes and (kinds is None or isinstance(e.message, kinds))
                )
            )
            if sync:
                for node in nodes:
                    if self.hosts[node].up and self.hosts[node].unsynced:
                        self.hosts[node].sync()
                        heard += 1
            if not heard:
                return

    def lose(
        self, *, sender: int | None = None, to: int | None = None, kind: type | None = None
    ) -> list[Envelope]:
        """Take envelopes out of the network (all that match) and return them."""
        lost = [
            envelope
            for envelope in self.network
            if sender in (None, envelope.sender)
            and to in (None, envelope.to)
            and (kind is None or isinstance(envelope.message, kind))
        ]
        self.network = [envelope for envelope in self.network if envelope not in lost]
        return lost

    def stand(self, node: int, *voters: int, kinds: tuple[type, ...] | None = None) -> None:
        """``node`` times out, when all leaders have long been silent, and only ``voters`` hear it."""
        self.now += 5.0
        self.time_out(node)
        self.talk(node, *voters, kinds=kinds)

    # -- time --------------------------------------------------------------------------

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None, step_s: float = 0.01) -> bool:
        """Let time pass; envelopes arrive after random delays. True as soon as ``until`` holds."""
        end = self.now + seconds
        while self.now < end:
            if until is not None and until():
                return True
            self._schedule()
            self.now += step_s
            due = sorted(item for item in self._due if item[0] <= self.now)
            self._due = [item for item in self._due if item[0] > self.now]
            for _at, _order, envelope in due:
                if (envelope.sender, envelope.to) not in self.cut:
                    self.deliver(envelope)
            for node in sorted(self.hosts):
                self.hosts[node].tick()
                if self.hosts[node].unsynced:
                    self.hosts[node].sync()
        return until is not None and until()

    def time_out(self, node: int) -> None:
        """Let so much time pass that ``node`` bears its silence no longer, and tick it alone."""
        core = self[node]
        if core.role is Role.LEADER:  # it must notice first that it hears nobody
            self.now += 2 * self.config.election_timeout_s
            self.hosts[node].tick()
        self.now = max(self.now, core._silence.ends_at)
        self.hosts[node].tick()

    def _schedule(self) -> None:
        rng = self.rng
        for envelope in self.network:
            if rng.random() < self.loss:
                continue
            for _copy in range(2 if rng.random() < self.repeat else 1):
                self._sent += 1
                self._due.append((self.now + rng.uniform(*self.delay_s), self._sent, envelope))
        self.network.clear()

    # -- what tests ask ------------------------------------------------------------------

    def leaders(self) -> list[int]:
        return [n for n, host in sorted(self.hosts.items()) if host.core and host.core.role is Role.LEADER]

    def leader(self) -> int | None:
        """The one node that can propose, if there is exactly one."""
        able = [n for n, host in sorted(self.hosts.items()) if host.core and host.core.can_propose]
        return able[0] if len(able) == 1 else None

    def elect(self, node: int | None = None, seconds: float = 10.0) -> int:
        """Run until there is a leader that can propose (``node``, if given, by a transfer)."""
        assert self.run(seconds, until=lambda: self.leader() is not None), "no leader was elected"
        leader = self.leader()
        assert leader is not None
        if node is not None and leader != node:
            assert self.run(
                1.0, until=lambda: self[leader].peers_progress[NodeId(node)].chosen == self[leader].chosen
            )
            self[leader].transfer(NodeId(node), self.now)
            self.hosts[leader].drain()
            assert self.run(seconds, until=lambda: self.leader() == node), f"node {node} did not take over"
            return node
        return leader

    def propose(self, value: bytes, seconds: float = 10.0) -> Slot:
        """Propose at whoever leads until it is chosen, like a client that offers again when the
        leadership moved; return the slot."""
        end = self.now + seconds
        while self.now < end:
            assert self.run(end - self.now, until=lambda: self.leader() is not None), "no leader"
            slot = self._propose_once(value, end)
            if slot is not None:
                return slot
        raise AssertionError(f"{value!r} was not chosen within {seconds:g} s")

    def _propose_once(self, value: bytes, end: float) -> Slot | None:
        leader = self.leader()
        assert leader is not None
        host, ballot = self.hosts[leader], self[leader].ballot
        slot = host.propose(value)
        assert slot is not None
        self.run(end - self.now, until=lambda: host.folded >= slot or self[leader].ballot != ballot)
        return slot if self.checker.values.get(slot) == value else None

    def settled(self) -> bool:
        """Whether all hosts that are up have folded all that anybody has."""
        return all(host.folded == self.checker.told for host in self.hosts.values() if host.up)
