"""Transcripts: stories told as commands and what the cores then say, with golden output.

After etcd-io/raft's data-driven tests. A file in ``testdata`` is made of blocks::

    # comments
    > command argument...
    what came of it, line by line

Run with ``SYNOD_REWRITE=1`` to write the files anew, and read the difference before you
commit it. The commands are the methods of ``Story`` below.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from journal.entries import KIND_MEMBERSHIP, kind_of, pack_membership
from journal.paxos import Effects, Membership, Role
from journal.paxos.messages import (
    Accept,
    Accepted,
    AcceptedValue,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    Learn,
    Learned,
    Message,
    Nack,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    ReadIndex,
    ReadIndexReply,
    TakeOver,
)
from journal.types import NodeId
from tests.paxos.harness import Cluster, members

TESTDATA = Path(__file__).parent / "testdata"


def value(data: bytes) -> str:
    if not data:
        return "no-op"
    if kind_of(data) == KIND_MEMBERSHIP:
        return "membership"
    return data.decode()


def record(held: AcceptedValue) -> str:
    return f"{held.slot}={value(held.value)}@{held.ballot}"


def describe(message: Message) -> str:
    name = type(message).__name__
    match message:
        case PreVote(ballot, chosen):
            return f"{name} {ballot} chosen={chosen}"
        case PreVoteReply(ballot, granted, promised, chosen):
            return f"{name} {ballot} {'yes' if granted else 'no'} promised={promised} chosen={chosen}"
        case Prepare(ballot, first):
            return f"{name} {ballot} from slot {first}"
        case Promise(ballot, first, chosen, accepted):
            held = " ".join(record(one) for one in accepted) or "nothing more"
            return f"{name} {ballot} from slot {first}: {held}; chosen={chosen}"
        case Nack(ballot, promised):
            return f"{name} {ballot} promised={promised}"
        case Accept(ballot, slot, data, chosen):
            return f"{name} {slot}={value(data)}@{ballot} chosen={chosen}"
        case Accepted(ballot, slots):
            return f"{name} {ballot} slots {', '.join(str(slot) for slot in slots)}"
        case Heartbeat(ballot, chosen, probe) | HeartbeatReply(ballot, probe, chosen):
            return f"{name} {ballot} chosen={chosen} probe={probe}"
        case Learn(first, last):
            return f"{name} slots {first} to {last}"
        case Learned(chosen, entries):
            return f"{name} {' '.join(record(one) for one in entries) or 'nothing'}; chosen={chosen}"
        case ReadIndex(_):
            return name
        case ReadIndexReply(_, slot):
            return f"{name} slot={slot}"
        case TakeOver(ballot, chosen):
            return f"{name} {ballot} chosen={chosen}"
        case _:
            return name


def send(envelope: Envelope) -> str:
    return f"{envelope.sender} -> {envelope.to} {describe(envelope.message)}"


class TracingCluster(Cluster):
    """Writes down what the hosts do."""

    lines: list[str]

    def drained(self, node: NodeId, effects: Effects) -> None:
        if effects.promised is not None:
            self.lines.append(f"  {node} persists promise {effects.promised}")
        for held in effects.accepted:
            self.lines.append(f"  {node} persists {record(held)}")
        for envelope in effects.send_now:
            self.lines.append(f"  {send(envelope)}")
        for envelope in effects.send_durable:
            self.lines.append(f"  {send(envelope)}, once durable")
        for held in effects.chosen:
            self.lines.append(f"  {node} chosen {record(held)}")
        for read, slot in effects.reads:
            self.lines.append(
                f"  {node} read {read} " + ("failed" if slot is None else f"ready at slot {slot}")
            )
        for to, first, last in effects.send_entries:
            self.lines.append(f"  {node} answers {to} from its log: slots {first} to {last}")


class Story:
    """One transcript: each method is a command."""

    def __init__(self) -> None:
        self.cluster = TracingCluster(1)
        self.lines: list[str] = []

    def run(self, command: str) -> list[str]:
        name, *arguments = command.split()
        self.lines = self.cluster.lines = []
        getattr(self, name)(*arguments)
        return self.lines

    def cluster_of(self, nodes: str, *options: str) -> None:
        """NODES [slow-disks] [learners=N] [window=N]: a new cluster. Disks sync at once unless slow."""
        settings = dict(option.split("=") for option in options if "=" in option)
        self.cluster = TracingCluster(
            int(nodes),
            learners=int(settings.get("learners", 0)),
            sync_at_once="slow-disks" not in options,
            window_slots_max=int(settings.get("window", 4)),
        )
        self.cluster.lines = self.lines

    def time_out(self, node: str) -> None:
        """NODE: it has not heard a leader for too long. The others have not either."""
        self.cluster.now += 5.0
        self.cluster.time_out(int(node))

    def elect(self, node: str, *voters: str) -> None:
        """NODE VOTER...: NODE times out and these elect it; of all they say, only the outcome is told."""
        self.time_out(node)
        self.talk(node, *voters)
        self.lose()
        core = self.cluster[int(node)]
        self.lines[:] = [
            f"  {node} {core.role.value} at {core.ballot}, leader {core.leader}, chosen {core.chosen}"
        ]

    def tick(self, node: str, seconds: str) -> None:
        """NODE SECONDS: that much time passes, and NODE looks at its clock."""
        self.cluster.now += float(seconds)
        self.cluster.hosts[int(node)].tick()

    def talk(self, *arguments: str) -> None:
        """NODE... [Kind...]: the nodes hear each other until they have no more to say."""
        nodes = {int(argument) for argument in arguments if argument.isdigit()}
        kinds = {argument for argument in arguments if not argument.isdigit()}

        def heard(envelope: Envelope) -> bool:
            named = not kinds or type(envelope.message).__name__ in kinds
            return envelope.sender in nodes and envelope.to in nodes and named

        while True:
            envelope = next(filter(heard, self.cluster.network), None)
            if envelope is None:
                return
            self.cluster.network.remove(envelope)
            self.deliver_one(envelope)

    def deliver_one(self, envelope: Envelope) -> None:
        self.lines.append(send(envelope))
        self.cluster.deliver(envelope)

    def lose(self, *arguments: str) -> None:
        """[FROM TO] [Kind]: these, of what is in the network, never arrive."""
        nodes = [int(argument) for argument in arguments if argument.isdigit()]
        kinds = [argument for argument in arguments if not argument.isdigit()]
        for envelope in list(self.cluster.network):
            if nodes and (envelope.sender, envelope.to) != tuple(nodes):
                continue
            if kinds and type(envelope.message).__name__ not in kinds:
                continue
            self.cluster.network.remove(envelope)

    def cut(self, one: str, other: str) -> None:
        """A B: from now on nothing gets from A to B, nor back."""
        self.cluster.cut_link(int(one), int(other))

    def sync(self, node: str) -> None:
        """NODE: what it has persisted so far is durable now."""
        self.cluster.hosts[int(node)].sync()

    def crash(self, node: str) -> None:
        self.cluster.hosts[int(node)].crash()

    def start(self, node: str) -> None:
        self.cluster.hosts[int(node)].start()

    def propose(self, node: str, data: str) -> None:
        if self.cluster.hosts[int(node)].propose(data.encode()) is None:
            self.lines.append("  refused")

    def propose_voters(self, node: str, *voters: str) -> None:
        """NODE VOTER...: propose a membership of these."""
        membership = Membership(members(*(int(voter) for voter in voters)))
        self.cluster.hosts[int(node)].propose(pack_membership(membership.pack()))

    def read(self, node: str, number: str) -> None:
        self.cluster.hosts[int(node)].read(int(number))

    def transfer(self, node: str, to: str) -> None:
        try:
            self.cluster[int(node)].transfer(NodeId(int(to)), self.cluster.now)
        except ValueError as error:
            self.lines.append(f"  refused: {error}")
        self.cluster.hosts[int(node)].drain()

    def status(self) -> None:
        for node, host in sorted(self.cluster.hosts.items()):
            if host.core is None:
                self.lines.append(f"  {node} down")
                continue
            core = host.core
            leads = f", {core.slots_in_flight} in flight" if core.role is Role.LEADER else ""
            self.lines.append(
                f"  {node} {core.role.value} at {core.ballot}, leader {core.leader},"
                f" chosen {core.chosen}{leads}"
            )


def replay(text: str) -> str:
    """Return ``text`` with the output of each command as it is now."""
    story = Story()
    out: list[str] = []
    for line in text.splitlines():
        if line.startswith("> "):
            out.append(line)
            out.extend(story.run(line[2:]))
        elif not line or line.startswith("#"):
            out.append(line)
    return "\n".join(out).rstrip("\n") + "\n"


@pytest.mark.parametrize("path", sorted(TESTDATA.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    told = path.read_text(encoding="utf-8")
    now = replay(told)
    if os.environ.get("SYNOD_REWRITE") == "1":
        path.write_text(now, encoding="utf-8")
        return
    assert now.splitlines() == told.splitlines(), "SYNOD_REWRITE=1 writes the transcript anew"


def test_there_are_transcripts() -> None:
    assert len(list(TESTDATA.glob("*.txt"))) >= 9
