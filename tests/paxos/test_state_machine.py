"""Hypothesis drives a whole cluster through anything, shrinks what breaks it, and ends in fair weather.

The network loses, repeats, reorders and delays at Hypothesis's will; crashes keep only what
was persisted. ``harness.Checker`` asserts throughout: one value a slot, chosen in order and
never changed, promises that never go back, no two values at one ballot, no stale read. The
storms below do the same from plain seeds: less clever, and much faster.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from journal.entries import pack_membership
from journal.paxos import Membership, Role
from journal.paxos.messages import Accept, Accepted
from journal.types import NodeId
from tests.paxos.harness import Cluster, Host, members
from tests.paxos.storm import Storm

ANY = st.integers(0, 10_000)


class ClusterMachine(RuleBasedStateMachine):
    """Numbers drawn are taken modulo what there is to choose from, so no rule runs dry."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(3, start=False)
        self.numbers = 0

    @initialize(
        nodes=st.sampled_from((3, 3, 3, 5, 2, 1)),
        learners=st.sampled_from((0, 0, 1)),
        seed=ANY,
        window=st.integers(1, 5),
    )
    def start(self, nodes: int, learners: int, seed: int, window: int) -> None:
        self.cluster = Cluster(
            nodes,
            learners=learners,
            seed=seed,
            sync_at_once=False,
            apply_probability=0.5,
            window_slots_max=window,
            message_bytes_max=8,
            learn_slots_max=4,
        )

    def pick(self, choice: int, *, up: bool = True) -> Host | None:
        hosts = [host for _node, host in sorted(self.cluster.hosts.items()) if host.up is up]
        return hosts[choice % len(hosts)] if hosts else None

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    # -- the network -------------------------------------------------------------------

    @precondition(lambda self: self.cluster.network)
    @rule(choice=ANY)
    def deliver_any(self, choice: int) -> None:
        network = self.cluster.network
        self.cluster.deliver(network.pop(choice % len(network)))

    @precondition(lambda self: self.cluster.network)
    @rule(count=st.integers(1, 30))
    def deliver_in_order(self, count: int) -> None:
        for _ in range(count):
            if self.cluster.network:
                self.cluster.deliver(self.cluster.network.pop(0))

    @rule(one=ANY, other=ANY)
    def talk(self, one: int, other: int) -> None:
        nodes = sorted(self.cluster.hosts)
        self.cluster.talk(nodes[one % len(nodes)], nodes[other % len(nodes)])

    @precondition(lambda self: self.cluster.network)
    @rule(choice=ANY)
    def lose(self, choice: int) -> None:
        network = self.cluster.network
        network.pop(choice % len(network))

    @precondition(lambda self: self.cluster.sent)
    @rule(choice=ANY)
    def deliver_what_is_long_past(self, choice: int) -> None:
        sent = self.cluster.sent
        self.cluster.deliver(sent[choice % len(sent)])

    # -- nodes ---------------------------------------------------------------------------

    @rule(choice=ANY)
    def time_out(self, choice: int) -> None:
        host = self.pick(choice)
        if host is not None:
            self.cluster.time_out(host.node)

    @rule(choice=ANY, heard_by=ANY)
    def win(self, choice: int, heard_by: int) -> None:
        """One stands and another hears it: most of what is interesting begins so."""
        host = self.pick(choice)
        if host is not None:
            nodes = sorted(self.cluster.hosts)
            self.cluster.stand(host.node, nodes[heard_by % len(nodes)])

    @rule(seconds=st.sampled_from((0.01, 0.1, 0.25, 1.1)))
    def pass_time(self, seconds: float) -> None:
        self.cluster.now += seconds
        for host in self.cluster.hosts.values():
            host.tick()

    @rule(choice=ANY)
    def sync(self, choice: int) -> None:
        host = self.pick(choice)
        if host is not None:
            host.sync()

    @rule(choice=ANY, keep=ANY)
    def crash(self, choice: int, keep: int) -> None:
        host = self.pick(choice)
        if host is not None:
            host.crash(keep=keep % (len(host.unsynced) + 1))

    @rule(choice=ANY)
    def restart(self, choice: int) -> None:
        host = self.pick(choice, up=False)
        if host is not None:
            host.start()

    # -- what the shells want ------------------------------------------------------------

    @rule(choice=ANY, count=st.integers(1, 3))
    def propose(self, choice: int, count: int) -> None:
        host = self.pick(choice)
        if host is not None:
            for _ in range(count):
                host.propose(b"v%d" % self.number())

    @rule(choice=ANY, other=ANY)
    def agree(self, choice: int, other: int) -> None:
        """One proposes and another accepts; nobody is told that it is chosen."""
        host = self.pick(choice)
        if host is not None:
            nodes = sorted(self.cluster.hosts)
            host.propose(b"v%d" % self.number())
            self.cluster.talk(host.node, nodes[other % len(nodes)], kinds=(Accept, Accepted))

    @rule()
    def lose_all(self) -> None:
        self.cluster.network.clear()

    @rule(choice=ANY)
    def lose_all_to(self, choice: int) -> None:
        nodes = sorted(self.cluster.hosts)
        self.cluster.lose(to=nodes[choice % len(nodes)])

    @rule(choice=ANY)
    def read(self, choice: int) -> None:
        host = self.pick(choice)
        if host is not None:
            host.read(self.number())

    @rule(choice=ANY, to=ANY)
    def transfer(self, choice: int, to: int) -> None:
        host = self.pick(choice)
        if host is not None and host.core is not None:
            nodes = sorted(self.cluster.hosts)
            try:
                host.core.transfer(NodeId(nodes[to % len(nodes)]), self.cluster.now)
            except ValueError:
                return
            host.drain()

    @rule(choice=ANY, node=ANY)
    def change_membership(self, choice: int, node: int) -> None:
        host = self.pick(choice)
        if host is None or host.core is None or not host.core.can_propose or host.core.slots_in_flight:
            return
        if host.core.membership is not host.core._memberships.latest:
            return  # one change at a time
        nodes = sorted(self.cluster.hosts)
        voters = set(host.core.membership.voter_ids) ^ {NodeId(nodes[node % len(nodes)])}
        if voters:
            host.propose(pack_membership(Membership(members(*sorted(voters))).pack()))

    # -- what must hold --------------------------------------------------------------------

    @invariant()
    def one_leader_a_ballot(self) -> None:
        for node, host in self.cluster.hosts.items():
            if host.core is not None and host.core.role is Role.LEADER:
                assert host.core.ballot.node == node
                assert host.core.slots_in_flight <= self.cluster.config.window_slots_max

    def teardown(self) -> None:
        cluster = self.cluster
        if not any(host.up or host.disk.promised for host in cluster.hosts.values()):
            return
        cluster.heal()
        for host in cluster.hosts.values():
            if not host.up:
                host.start()
        slot = cluster.propose(b"fair weather", seconds=60.0)
        assert cluster.run(60.0, until=cluster.settled), "not all hosts learned everything"
        assert cluster.checker.values[slot] == b"fair weather"


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)

STORMS = int(os.environ.get("SYNOD_PAXOS_STORMS", "40"))
"""How many seeds of each weather; set it high to search for long."""

WEATHERS = {
    "three": {},
    "five": {"nodes": 5},
    "one": {"nodes": 1},
    "two": {"nodes": 2},
    "learner": {"learners": 1, "window": 2},
    "memberships": {"nodes": 4, "memberships": True, "window": 3},
    "memberships of five": {"nodes": 5, "memberships": True, "window": 1},
}


@pytest.mark.parametrize("weather", sorted(WEATHERS))
def test_storms(weather: str) -> None:
    for seed in range(STORMS):
        try:
            Storm(seed, **WEATHERS[weather]).run()  # type: ignore[arg-type]
        except AssertionError as error:
            raise AssertionError(f"Storm({seed}, **{WEATHERS[weather]}).run() fails: {error}") from error
