"""A storm: from a seed, everything that may go wrong, in any order. Then fair weather.

During the storm envelopes are delivered out of order, late (even those of long ago), twice
or never; nodes crash with unsynced writes and start again; links are cut one way or both;
writes stay unsynced for long; leaders are elected, deposed and told to hand over; reads
and membership changes are asked for. The harness's ``Checker`` watches all of it. Then all
is healed, and the cluster must make progress and agree.
"""

from __future__ import annotations

from collections.abc import Callable

from journal.entries import pack_membership
from journal.paxos import Membership, Paxos
from journal.paxos.messages import Accept, Accepted
from journal.types import NodeId
from tests.paxos.harness import Cluster, Disk, members


class Storm:
    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 3,
        learners: int = 0,
        memberships: bool = False,
        core_class: type[Paxos] = Paxos,
        disk_class: type[Disk] = Disk,
        window: int = 4,
        message_bytes_max: int = 12,
    ) -> None:
        self.cluster = Cluster(
            nodes,
            learners=learners,
            seed=seed,
            core_class=core_class,
            disk_class=disk_class,
            sync_at_once=False,
            apply_probability=0.5,
            window_slots_max=window,
            message_bytes_max=message_bytes_max,
            learn_slots_max=5,
        )
        self.cluster.learn_entries_max = 3
        self.rng = self.cluster.rng
        self.memberships = memberships
        self.numbers = 0

    def host(self, *, up: bool = True):  # type: ignore[no-untyped-def]
        hosts = [host for _node, host in sorted(self.cluster.hosts.items()) if host.up is up]
        return self.rng.choice(hosts) if hosts else None

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    # -- what may happen -------------------------------------------------------------

    def deliver(self) -> None:
        for _ in range(self.rng.randrange(1, 8)):
            if self.cluster.network:
                # Mostly in order, as on a stream; sometimes not.
                index = 0 if self.rng.random() < 0.7 else self.rng.randrange(len(self.cluster.network))
                self.cluster.deliver(self.cluster.network.pop(index))

    def deliver_in_group(self) -> None:
        """A few nodes hear only each other for a while, as a leader and half of its followers may."""
        nodes = sorted(self.cluster.hosts)
        group = set(self.rng.sample(nodes, min(len(nodes), self.rng.randrange(2, len(nodes) + 2))))
        for _ in range(self.rng.randrange(1, 6)):
            for envelope in list(self.cluster.network):
                if envelope.to in group and envelope.sender in group and self.rng.random() < 0.95:
                    self.cluster.network.remove(envelope)
                    self.cluster.deliver(envelope)
            for node in sorted(group):
                if self.cluster.hosts[node].up and self.rng.random() < 0.8:
                    self.cluster.hosts[node].sync()

    def agree(self) -> None:
        """One proposes, another accepts, and the rest of what is under way is lost."""
        host, other = self.host(), self.host()
        if host is not None:
            host.propose(b"value %d" % self.number())
            self.cluster.talk(host.node, other.node, kinds=(Accept, Accepted), sync=self.rng.random() < 0.7)
            if self.rng.random() < 0.3:
                self.cluster.lose(to=self.host().node)

    def stand_in_group(self) -> None:
        """One times out, and the group elects it or not."""
        self.time_out()
        self.deliver_in_group()

    def deliver_in_order(self) -> None:
        for _ in range(self.rng.randrange(10, 40)):
            if self.cluster.network:
                self.cluster.deliver(self.cluster.network.pop(0))
            if self.rng.random() < 0.3:
                self.sync()

    def lose(self) -> None:
        if self.cluster.network:
            self.cluster.network.pop(self.rng.randrange(len(self.cluster.network)))

    def repeat_old(self) -> None:
        if self.cluster.sent:
            self.cluster.deliver(self.rng.choice(self.cluster.sent))

    def pass_time(self) -> None:
        self.cluster.now += self.rng.choice((0.01, 0.05, 0.1, 0.3))
        for node in sorted(self.cluster.hosts):
            if self.rng.random() < 0.8:
                self.cluster.hosts[node].tick()

    def time_out(self) -> None:
        host = self.host()
        if host is not None:
            self.cluster.time_out(host.node)

    def sync(self) -> None:
        host = self.host()
        if host is not None:
            host.sync()

    def sync_all(self) -> None:
        for node in sorted(self.cluster.hosts):
            if self.cluster.hosts[node].up:
                self.cluster.hosts[node].sync()

    def propose(self) -> None:
        host = self.host()
        if host is not None:
            for _ in range(self.rng.randrange(1, 4)):
                host.propose(b"value %d" % self.number())

    def read(self) -> None:
        host = self.host()
        if host is not None:
            host.read(self.number())

    def transfer(self) -> None:
        host = self.host()
        if host is not None:
            try:
                host.core.transfer(self.rng.choice(sorted(self.cluster.hosts)), self.cluster.now)
            except ValueError:
                return
            host.drain()

    def crash(self) -> None:
        host = self.host()
        if host is not None:
            host.crash(keep=self.rng.randrange(len(host.unsynced) + 1))

    def restart(self) -> None:
        host = self.host(up=False)
        if host is not None:
            host.start()

    def cut(self) -> None:
        if len(self.cluster.hosts) == 1:
            return
        one, other = self.rng.sample(sorted(self.cluster.hosts), 2)
        self.cluster.cut_link(one, other, both=self.rng.random() < 0.5)

    def heal(self) -> None:
        self.cluster.heal()

    def change_membership(self) -> None:
        host = self.host()
        if not self.memberships or host is None or not host.core.can_propose:
            return
        # One change of a voter at a time; the way a node joins is another matter (issue 3).
        core = host.core
        if len(core._memberships.since(core.chosen + 1)) > 1 or core.slots_in_flight:
            return
        voters = set(core.membership.voter_ids)
        voters ^= {self.rng.choice(sorted(self.cluster.hosts))}
        if len(voters) >= 2:
            host.propose(pack_membership(Membership(members(*sorted(voters))).pack()))

    ODDS: tuple[tuple[Callable[..., None], float], ...] = (
        (deliver, 10),
        (deliver_in_order, 4),
        (deliver_in_group, 25),
        (stand_in_group, 8),
        (agree, 8),
        (sync, 6),
        (sync_all, 3),
        (propose, 14),
        (pass_time, 4),
        (time_out, 2),
        (lose, 4),
        (repeat_old, 6),
        (read, 8),
        (crash, 2),
        (restart, 6),
        (cut, 0.5),
        (heal, 1),
        (transfer, 1),
        (change_membership, 4),
    )

    # -- the course of it ------------------------------------------------------------

    def rage(self, steps: int) -> None:
        acts = [act for act, _odds in self.ODDS]
        odds = [odds for _act, odds in self.ODDS]
        for act in self.rng.choices(acts, odds, k=steps):
            act(self)
            self.check()

    def check(self) -> None:
        for node, host in sorted(self.cluster.hosts.items()):
            if host.core is not None and node in self.cluster.leaders():
                leads = self.cluster.checker.ballots.setdefault(host.core.ballot, NodeId(node))
                assert leads == node, f"ballot {host.core.ballot} is led by nodes {leads} and {node}"

    def calm(self) -> None:
        """Fair weather: progress, and agreement of all."""
        cluster = self.cluster
        cluster.heal()
        for host in cluster.hosts.values():
            if not host.up:
                host.start()
        before = cluster.checker.told
        slot = cluster.propose(b"fair weather", seconds=60.0)
        assert slot > before
        assert cluster.run(60.0, until=cluster.settled), "not all hosts learned everything"
        assert cluster.checker.values[slot] == b"fair weather"
        number = self.number()
        up = [node for node, host in cluster.hosts.items() if host.up]
        for node in up:
            cluster.hosts[node].read(number)
        assert cluster.run(10.0, until=lambda: all((n, number) in cluster.checker.answers for n in up))

    def run(self, steps: int = 400) -> None:
        self.rage(steps)
        self.calm()
