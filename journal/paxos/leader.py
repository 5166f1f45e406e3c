"""A leadership: phase 2, from the end of phase 1 to the moment it is lost. PURE.

A ``Leadership`` lives exactly as long as its node leads at its ballot, so nothing of one
term can leak into the next. Its proposals are forgotten with it: what was accepted of them
is in the acceptors' logs, and the next phase 1 finds it.

What it may propose for a slot (Paxos Made Simple, 2.2, P2c):

* nothing, before the slot is above every slot that a promiser knew chosen;
* nothing, before a quorum *of the membership that rules the slot* has spoken of it in
  phase 1 (``_may_propose``);
* the value of the highest ballot that phase 1 found there; a no-op where it found none
  below a slot where it found one; a new value above all of those;
* nothing, where disks have damaged records of the slot and phase 1 cannot tell which value
  may have been chosen (``Phase1.is_settled``). It then waits there, and goes on asking the
  voters that have not promised, and anybody who may know the slot chosen;
* one value only at its ballot: ``next_slot`` never goes back.

An Accepted counts only at this ballot (``Paxos.on_accepted`` drops others) and only from
voters of the membership that rules its slot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from journal.entries import NOOP
from journal.paxos.acceptor import Acceptor
from journal.paxos.config import PaxosConfig, PeerProgress
from journal.paxos.election import Phase1
from journal.paxos.learner import Learner
from journal.paxos.membership import Membership, MembershipHistory
from journal.paxos.messages import (
    Accept,
    AcceptedValue,
    Heartbeat,
    HeartbeatReply,
    Prepare,
    Promise,
    TakeOver,
)
from journal.paxos.outbox import Outbox
from journal.paxos.quorum import quorum_reached
from journal.paxos.reads import LeaderReads
from journal.types import Ballot, NodeId, Slot

NOTHING = Slot(0)


@dataclass(slots=True)
class _Proposal:
    """A slot in flight: proposed at this ballot, not yet in the chosen prefix."""

    record: AcceptedValue
    membership: Membership
    sent_at: float
    acks: set[NodeId] = field(default_factory=set)
    """Voters of ``membership`` that accepted it at this ballot."""


@dataclass(slots=True)
class _Peer:
    last_heard: float
    chosen: Slot = NOTHING
    probe: int = 0
    """The highest probe it has answered."""
    full: bool = False


@dataclass(slots=True)
class _Transfer:
    """Leadership is being handed to ``to``; proposals pause until it is done or ``fails_at``."""

    to: NodeId
    fails_at: float
    retry_at: float


class Leadership:
    """What a leader knows and does at its ballot."""

    def __init__(
        self,
        config: PaxosConfig,
        phase1: Phase1,
        acceptor: Acceptor,
        learner: Learner,
        memberships: MembershipHistory,
        outbox: Outbox,
        now: float,
    ) -> None:
        assert acceptor.promised == phase1.ballot
        self.ballot: Ballot = phase1.ballot
        self.reads = LeaderReads(config.node, outbox)
        self.transfer: _Transfer | None = None
        self._config = config
        self._phase1 = phase1
        self._acceptor = acceptor
        self._learner = learner
        self._memberships = memberships
        self._outbox = outbox
        self._now = now
        self.next_slot = Slot(learner.chosen + 1)
        self._in_flight: dict[Slot, _Proposal] = {}
        self._covered: Membership | None = None
        """A membership of which phase 1 holds a quorum (a cache of the last one checked)."""
        self._told_chosen = Slot(0)
        """How far all peers were told, in an Accept or Heartbeat sent to all of them."""
        self._peers = {node: _Peer(now) for node in memberships.nodes_since(self.next_slot)}
        self._peer_nodes: tuple[NodeId, ...] = ()
        self._peer_membership: Membership | None = None
        self._stuck_at = now + config.election_timeout_s
        self._last_chosen = learner.chosen
        self._heartbeat_at = now
        self.tick(now)
        self.advance()

    # -- what it may do ----------------------------------------------------------

    @property
    def open_max(self) -> Slot:
        """The last slot that was open, or known chosen, when phase 1 ended."""
        return max(self._phase1.chosen_max, self._phase1.open_max)

    @property
    def is_recovered(self) -> bool:
        """Whether every slot open at the end of phase 1 is chosen: only then may reads be answered."""
        chosen = self._learner.chosen
        return chosen >= self.open_max and self._is_covered(self._memberships.at(chosen + 1))

    @property
    def can_propose(self) -> bool:
        slot = self.next_slot
        if slot <= self.open_max or self.transfer is not None or not self._may_propose(slot):
            return False
        # A leader that is being removed leaves the slots of its successors to them.
        return self._config.node in self._memberships.at(slot).voter_ids

    def _may_propose(self, slot: Slot) -> bool:
        chosen = self._learner.chosen
        return (
            slot <= chosen + self._config.window_slots_max
            and chosen >= self._phase1.chosen_max
            and self._is_covered(self._memberships.at(slot))
        )

    def _is_covered(self, membership: Membership) -> bool:
        if membership is self._covered:
            return True
        if self._phase1.is_quorum(membership):
            self._covered = membership
            return True
        return False

    @property
    def slots_in_flight(self) -> int:
        return self.next_slot - 1 - self._learner.chosen

    def is_proposed(self, slot: Slot) -> bool:
        """Whether ``slot`` is in flight: then only the count of its Accepted may make it chosen."""
        return slot in self._in_flight

    # -- phase 2 -----------------------------------------------------------------

    def propose(self, value: bytes, now: float) -> Slot | None:
        self._now = now
        return self._put(value) if self.can_propose else None

    def _put(self, value: bytes) -> Slot:
        """Propose ``value`` for the next slot. The only place where phase 2 starts."""
        slot = self.next_slot
        assert self._may_propose(slot)
        assert slot not in self._in_flight
        self.next_slot = Slot(slot + 1)
        record = AcceptedValue(slot, self.ballot, value)
        membership = self._memberships.at(slot)
        self._in_flight[slot] = _Proposal(record, membership, self._now)
        # The leader is one of its own acceptors: its acceptance counts when it is on its disk.
        self._acceptor.accept(record)
        self._outbox.ack(self.ballot, slot)
        chosen = self._learner.chosen
        self._outbox.send_all(self._peers_of(membership), Accept(self.ballot, slot, value, chosen))
        self._told_chosen = chosen
        return slot

    def _peers_of(self, membership: Membership) -> tuple[NodeId, ...]:
        if membership is not self._peer_membership:
            self._peer_membership = membership
            self._peer_nodes = tuple(node for node in membership.nodes if node != self._config.node)
        return self._peer_nodes

    def on_accepted(self, sender: NodeId, slots: Iterable[Slot], now: float) -> None:
        """``sender`` holds ``slots`` durably at this ballot."""
        self._now = now
        peer = self._peers.get(sender)
        if peer is not None:
            peer.last_heard = now
        in_flight = self._in_flight
        for slot in slots:
            proposal = in_flight.get(slot)
            if proposal is not None and sender in proposal.membership.voter_ids:
                proposal.acks.add(sender)
        proposal = in_flight.get(Slot(self._learner.chosen + 1))
        if proposal is not None and len(proposal.acks) >= proposal.membership.quorum:
            self.advance()

    def advance(self) -> None:
        """Choose what a quorum has accepted, in slot order; then propose what phase 1 left open."""
        learner, in_flight = self._learner, self._in_flight
        while True:
            proposal = in_flight.get(Slot(learner.chosen + 1))
            if proposal is None or len(proposal.acks) < proposal.membership.quorum:
                break
            del in_flight[proposal.record.slot]
            learner.choose(proposal.record)
        if learner.chosen != self._last_chosen:
            self._last_chosen = learner.chosen
            self._stuck_at = self._now + self._config.election_timeout_s
            if self._memberships.latest is not self._covered:
                self._prepare_newcomers()
            if self.transfer is not None:
                self._hand_over()
        self._recover()

    def _recover(self) -> None:
        """Propose again the slots that phase 1 found open: their best values, and no-ops in the gaps."""
        self.next_slot = max(self.next_slot, Slot(self._learner.chosen + 1))
        while (
            self.next_slot <= self.open_max
            and self._may_propose(self.next_slot)
            and self._is_settled(self.next_slot)
        ):
            best = self._phase1.best.pop(self.next_slot, None)
            self._put(NOOP if best is None else best.value)
        if self._phase1.best and self.next_slot > self.open_max:
            self._phase1.best.clear()  # all of it is proposed or learned: free the memory

    def _is_settled(self, slot: Slot) -> bool:
        return self._phase1.is_settled(slot, self._memberships.at(slot))

    @property
    def waits_for(self) -> Slot | None:
        """The slot that cannot be proposed because too many of its copies are damaged, if there is one."""
        slot = self.next_slot
        waits = slot <= self.open_max and self._may_propose(slot) and not self._is_settled(slot)
        return slot if waits else None

    # -- phase 1, continued ---------------------------------------------------------

    def on_promise(self, sender: NodeId, promise: Promise, now: float) -> None:
        """A promise that came after phase 1 had its quorum. It is of use only for a membership that
        lacks its own quorum, or a slot with damaged copies; else it could but wake values that nobody
        needs."""
        self._now = now
        if self._uncovered() or self.waits_for is not None:
            if not self.must_learn:
                self._stuck_at = now + self._config.election_timeout_s
            self._phase1.on_promise(sender, promise)
            self._recover()

    def _uncovered(self) -> list[Membership]:
        """The memberships ruling from the next slot on of which no quorum has promised yet."""
        return [m for m in self._memberships.since(self._learner.chosen + 1) if not self._is_covered(m)]

    def _prepare_newcomers(self) -> None:
        """Ask for promises where a membership that now rules ahead has no quorum of them yet, and where
        a slot waits for the copies of others."""
        lacking = self._uncovered()
        if self.waits_for is not None:
            lacking.append(self._memberships.at(self.next_slot))
        if lacking and self._now >= self._phase1.retry_at:
            self._phase1.retry_at = self._now + self._config.retry_interval_s
            for node in sorted({voter for m in lacking for voter in m.voter_ids} - self._phase1.complete):
                # Behind the own promise, like the first Prepare (it may still be on its way to the disk).
                first = self._phase1.first_missing(node)
                self._outbox.send_durable(node, Prepare(self.ballot, first))

    # -- being heard, and hearing ------------------------------------------------------

    def on_heartbeat_reply(self, sender: NodeId, reply: HeartbeatReply, now: float) -> None:
        self._now = now
        peer = self._peers.get(sender)
        if peer is None:
            return  # no member
        peer.last_heard = now
        peer.chosen = reply.chosen
        peer.probe = max(peer.probe, reply.probe)
        peer.full = reply.full
        if self.reads.is_confirming:
            self._confirm_reads()
        if self.transfer is not None:
            self._hand_over()

    def _confirm_reads(self) -> None:
        answered = {node: peer.probe for node, peer in self._peers.items()}
        # An acceptor that leads at b has promised nothing above b.
        answered[self._config.node] = self.reads.probe
        self.reads.confirm(answered)

    def hears_quorum(self, now: float) -> bool:
        """Check-quorum: whether a quorum was heard within an election timeout."""
        membership = self._memberships.at(self._learner.chosen + 1)
        for node in membership.nodes:
            self._peers.setdefault(node, _Peer(now))
        heard: dict[NodeId, float] = {node: peer.last_heard for node, peer in self._peers.items()}
        heard[self._config.node] = now
        return now - quorum_reached(heard, membership.voter_ids, -1e300) < self._config.election_timeout_s

    def is_stuck(self, now: float) -> bool:
        """Whether what the promisers knew chosen cannot be learned: who knew it may be gone.

        A new phase 1 without that promiser treats those slots as open, and goes on.
        """
        return self._learner.chosen < self._phase1.chosen_max and now >= self._stuck_at

    @property
    def must_learn(self) -> bool:
        return self._learner.chosen < self._phase1.chosen_max

    @property
    def is_removed(self) -> bool:
        """Whether this node has no vote in the slots to come and nothing left in flight."""
        chosen = self._learner.chosen
        return not self._in_flight and self._config.node not in self._memberships.at(chosen + 1).voter_ids

    def progress(self) -> dict[NodeId, PeerProgress]:
        me = self._config.node
        return {
            node: PeerProgress(peer.chosen, peer.last_heard, peer.full)
            for node, peer in sorted(self._peers.items())
            if node != me
        }

    # -- time --------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        self._now = now
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + self._config.heartbeat_interval_s
            self._heartbeat(self.reads.probe)
        if self.transfer is not None:
            if now >= self.transfer.fails_at:
                self.transfer = None
            else:
                self._hand_over()
        self._prepare_newcomers()
        self._retry_accepts()

    def _heartbeat(self, probe: int) -> None:
        """Tell all peers that the leader lives and what is chosen. Probe 0 asks for no answer."""
        self._told_chosen = chosen = self._learner.chosen
        self._outbox.send_all(
            self._memberships.nodes_since(chosen + 1), Heartbeat(self.ballot, chosen, probe)
        )

    def _retry_accepts(self) -> None:
        """Send again what lacks its quorum, to those who have not answered; a bounded amount at once."""
        overdue = self._now - self._config.retry_interval_s
        chosen = self._learner.chosen
        budget = self._config.message_bytes_max
        for slot in range(chosen + 1, self.next_slot):
            proposal = self._in_flight[Slot(slot)]
            if proposal.sent_at > overdue or len(proposal.acks) >= proposal.membership.quorum:
                continue
            size = len(proposal.record.value)
            if size > budget and budget < self._config.message_bytes_max:
                break  # a single one always goes, however big
            budget -= size
            proposal.sent_at = self._now
            lacking = [node for node in self._peers_of(proposal.membership) if node not in proposal.acks]
            self._outbox.send_all(lacking, Accept(self.ballot, Slot(slot), proposal.record.value, chosen))

    def flush(self) -> None:
        """Before a drain: one probe for all the reads that came in since the last one; else, if
        slots were chosen and no Accept is under way that would say so soon, say it now."""
        if self.reads.waiting and self.is_recovered:
            chosen = self._learner.chosen
            voters = self._memberships.at(chosen + 1).voter_ids
            self._heartbeat(self.reads.start_round(chosen, voters))
            self._confirm_reads()
        elif self._learner.chosen > self._told_chosen and not self._in_flight:
            self._heartbeat(0)

    def next_deadline(self) -> float:
        """The next heartbeat: what is overdue by then (retries, check-quorum) is done with it."""
        return (
            self._heartbeat_at if self.transfer is None else min(self._heartbeat_at, self.transfer.fails_at)
        )

    # -- transfer ------------------------------------------------------------------------

    def start_transfer(self, to: NodeId, now: float) -> None:
        """Raises ``ValueError`` with the reason where ``to`` cannot take over."""
        membership = self._memberships.at(self._learner.chosen + 1)
        peer = self._peers.get(to)
        if to == self._config.node:
            raise ValueError(f"node {to} leads already")
        if to not in membership.voter_ids:
            raise ValueError(f"node {to} is not a voter")
        if self.transfer is not None and self.transfer.to != to:
            raise ValueError(f"a transfer to node {self.transfer.to} is under way")
        if peer is None or now - peer.last_heard >= self._config.election_timeout_s:
            raise ValueError(f"node {to} was not heard within {self._config.election_timeout_s:g} s")
        lag = self._learner.chosen - peer.chosen
        if lag > self._config.accept_ahead_slots_max:
            raise ValueError(f"node {to} is {lag} slots behind")
        if self.transfer is None:
            self.transfer = _Transfer(to, now + self._config.election_timeout_s, now)
        self._now = now
        self._heartbeat(self.reads.probe)  # its answer says how far the target is now
        self._hand_over()

    def _hand_over(self) -> None:
        """Tell the target to take over, once nothing is in flight and it knows all that is chosen."""
        transfer = self.transfer
        assert transfer is not None
        if self._in_flight or not self.is_recovered:
            return
        chosen = self._learner.chosen
        if self._peers[transfer.to].chosen < chosen:
            if self._told_chosen < chosen:
                self._heartbeat(self.reads.probe)
        elif self._now >= transfer.retry_at:
            transfer.retry_at = self._now + self._config.retry_interval_s
            self._outbox.send(transfer.to, TakeOver(self.ballot, chosen))
