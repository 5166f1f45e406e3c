"""The core: one node of Multi-Paxos, as a function of messages and time. PURE.

``step`` takes what a peer sent, ``tick`` takes the time, ``propose``, ``read`` and
``transfer`` take what the shell wants; ``drain`` returns what must now be done, under the
ordering contract of ``effects.py``. Nothing else comes in or goes out: no clock, no
randomness but the ``rng`` it is given, no I/O.

The parts, and what each is answerable for:

* ``Acceptor``: never below its promise; nothing told before it is durable.
* ``Learner``: what is chosen, and whom to ask for the rest.
* ``PreVoteRound``, ``Phase1``: how a ballot is won.
* ``Leadership``: what may be proposed, and when it is chosen.
* ``LeaderReads``, ``FollowerReads``: linearizable reads.

The core itself decides which part a message goes to, by ballot and by role. A node leads or
stands at the ballot it has promised, always: to promise a higher one *is* to step down
(``_promise``). Messages of another ballot are answered with a Nack or dropped, so late,
repeated and reordered ones change nothing.

**A ballot is never used twice.** A candidate's ballot is above its promise; the promise
is durable before the Prepare leaves (``send_durable``), and every other message of that
ballot is caused by promises that answer a Prepare. After a crash the promise is found on
disk, and the next ballot is above it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from journal.errors import ProtocolViolation
from journal.paxos.acceptor import Acceptor
from journal.paxos.config import PaxosConfig, PeerProgress, Recovered, Role
from journal.paxos.effects import Effects
from journal.paxos.election import Phase1, PreVoteRound, Silence
from journal.paxos.leader import Leadership
from journal.paxos.learner import Learner
from journal.paxos.membership import Membership, MembershipHistory, membership_of
from journal.paxos.messages import (
    Accept,
    Accepted,
    AcceptedValue,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    Learn,
    Learned,
    Nack,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    ReadIndex,
    ReadIndexReply,
    TakeOver,
)
from journal.paxos.outbox import Outbox
from journal.paxos.quorum import is_quorum
from journal.paxos.reads import FollowerReads
from journal.types import Ballot, NodeId, Slot


class Paxos:
    """One node of the agreement. Not thread-safe; times are seconds of one monotonic clock."""

    def __init__(
        self,
        config: PaxosConfig,
        recovered: Recovered,
        *,
        rng: random.Random,
        now: float,
        check_value: Callable[[bytes], object] = membership_of,
    ) -> None:
        """``rng`` draws election timeouts and the numbers of read questions; safety does not depend on it.

        ``check_value`` raises ``ProtocolViolation`` for a value that must not be accepted, however it came
        here; at the least it checks memberships. Raises ``ValueError`` where ``config`` or ``recovered``
        is wrong."""
        config.validate()
        self.config = config
        self._node = config.node
        self._now = now
        self._outbox = Outbox(config.node)
        self._memberships = MembershipHistory(recovered.memberships)
        accepted = [record for record in recovered.accepted if record.slot > recovered.applied]
        lost = [damaged for damaged in recovered.lost if damaged.slot > recovered.applied]
        self._acceptor = Acceptor(recovered.promised, accepted, self._outbox, lost)
        self._learner = Learner(
            config, recovered.applied, self._acceptor, self._memberships, self._outbox, now
        )
        self._acceptor.check_value = check_value
        self._silence = Silence(config.election_timeout_s, rng, now)
        self._reads = FollowerReads(
            self._outbox, rng, now, timeout_s=config.election_timeout_s, retry_s=config.retry_interval_s
        )
        self.leader: NodeId | None = None
        """Who leads at the promised ballot, if heard of lately; this node while it leads."""
        self._seen = Ballot.ZERO
        """The highest ballot heard of: the next one to stand with is above it."""
        self._pre_vote: PreVoteRound | None = None
        self._phase1: Phase1 | None = None
        """While a candidate."""
        self._lead: Leadership | None = None
        """While a leader."""
        self.abstains = False
        """Set by the shell while it could not lead (its space is not there yet): then this node votes, but
        does not stand."""
        self.sated = False
        """Set by the shell while enough that is chosen waits to be folded: then no more is asked for."""
        self.full = False
        """Set by the shell while its disk is full but for the reserve: the leader is told."""
        self._handlers: dict[type, Callable[[NodeId, Any], None]] = {
            PreVote: self.on_pre_vote,
            PreVoteReply: self.on_pre_vote_reply,
            Prepare: self.on_prepare,
            Promise: self.on_promise,
            Nack: self.on_nack,
            Accept: self.on_accept,
            Accepted: self.on_accepted,
            Heartbeat: self.on_heartbeat,
            HeartbeatReply: self.on_heartbeat_reply,
            Learn: self.on_learn,
            Learned: self.on_learned,
            ReadIndex: self.on_read_index,
            ReadIndexReply: self.on_read_index_reply,
            TakeOver: self.on_take_over,
        }
        if self._is_alone:
            self._silence.patience_s = 0.0  # nobody to wait for: the first tick elects it

    # -- what the shell may ask ---------------------------------------------------------

    @property
    def role(self) -> Role:
        if self._lead is not None:
            return Role.LEADER
        return Role.FOLLOWER if self._phase1 is None else Role.CANDIDATE

    @property
    def ballot(self) -> Ballot:
        """The promised ballot: the one this node leads, stands or follows at."""
        return self._acceptor.promised

    @property
    def chosen(self) -> Slot:
        """Every slot up to this one is chosen, and was or will be in ``Effects.chosen``."""
        return self._learner.chosen

    @property
    def known_chosen(self) -> Slot:
        """How far any node, as far as this one has heard, knows that slots are chosen."""
        return max([self.chosen, self._learner.announced, *self._learner.known.values()])

    @property
    def can_propose(self) -> bool:
        return self._lead is not None and self._lead.can_propose

    @property
    def slots_in_flight(self) -> int:
        return 0 if self._lead is None else self._lead.slots_in_flight

    @property
    def waits_for(self) -> Slot | None:
        """The slot at which this leader waits for intact copies of a damaged entry, if it does."""
        return None if self._lead is None else self._lead.waits_for

    def held(self, slot: Slot) -> AcceptedValue | None:
        """What this node holds for a slot above the chosen prefix."""
        return self._acceptor.log.get(slot)

    @property
    def lost(self) -> tuple[Slot, ...]:
        """The slots above the chosen prefix whose accepted value this node's disk has damaged."""
        return tuple(sorted(self._acceptor.lost))

    @property
    def membership(self) -> Membership:
        """The membership that rules the next slot to be chosen."""
        return self._memberships.at(self._learner.chosen + 1)

    @property
    def newest_membership(self) -> tuple[Slot, Membership]:
        """(The first slot it rules, the membership that was chosen last): it may not rule yet."""
        return self._memberships.newest

    @property
    def endpoints(self) -> dict[NodeId, str]:
        """Where each member of the present and of every coming membership is reached."""
        endpoints: dict[NodeId, str] = {}
        for membership in self._memberships.since(self._learner.chosen + 1):
            endpoints.update(membership.endpoints())
        return endpoints

    @property
    def peers_progress(self) -> Mapping[NodeId, PeerProgress]:
        """A leader's view of the other members; empty elsewhere."""
        return {} if self._lead is None else self._lead.progress()

    @property
    def peers_known(self) -> dict[NodeId, Slot]:
        """How far each peer has said that it knows slots to be chosen: a hint, on every node."""
        known = dict(self._learner.known)
        for node, progress in self.peers_progress.items():
            known[node] = max(known.get(node, Slot(0)), progress.chosen)
        return known

    # -- what the shell does ------------------------------------------------------------

    def step(self, envelope: Envelope, now: float) -> None:
        """Take one message. Raises ``ProtocolViolation`` for what no correct node sends; nothing
        of such a message was acted upon. Step what has arrived before you ``tick``."""
        sender, to, message = envelope
        if to != self._node:
            raise ProtocolViolation(f"a message for node {to} came to node {self._node}")
        self._now = now
        handler = self._handlers.get(type(message))
        if handler is None:
            raise ProtocolViolation(f"unknown message {type(message).__name__}")
        handler(sender, message)

    def propose(self, value: bytes, now: float) -> Slot | None:
        """Propose ``value`` for the next slot; return which. None: this node does not lead, has
        not finished phase 1, is handing over, or its window is full.

        Raises ``ProtocolViolation`` if ``value`` is a membership entry that does not decode. A
        proposal of an ex-leader is forgotten by the core: it may yet be chosen, or not.
        """
        self._now = now
        if self._lead is None:
            return None
        membership_of(value)
        return self._lead.propose(value, now)

    def read(self, read: int, now: float) -> None:
        """Ask for the slot that a linearizable read must wait for; see ``Effects.reads``."""
        self._now = now
        if self._lead is not None:
            self._lead.reads.add(self._node, read)
        else:
            self._reads.add(read)

    def transfer(self, to: NodeId, now: float) -> None:
        """Hand the leadership to ``to``: proposals pause until it leads, or for one election
        timeout. Raises ``ValueError`` with the reason where that cannot be."""
        self._now = now
        if self._lead is None:
            raise ValueError(f"node {self._node} does not lead")
        self._lead.start_transfer(to, now)

    def install(
        self, chosen: Slot, ballot: Ballot, memberships: Iterable[tuple[Slot, Membership]], now: float
    ) -> None:
        """Move the chosen prefix on to ``chosen``: the shell has what the slots up to there came to.

        ``ballot`` is at or above every ballot at which one of them was chosen, as their sender knows
        (its own promise); ``memberships`` are those that rule from ``chosen`` + 1 on, oldest first, each
        with the first slot that it rules. Does nothing where that prefix is known already.

        Why it is safe. *The slots are chosen*: the sender has folded them, and only chosen entries are
        folded; so this node says nothing false when it calls them chosen. *What it accepted for them
        may be forgotten*: a Promise reports the answerer's ``chosen``, and no candidate proposes for
        a slot that a promiser knew chosen, but learns it (``Leadership._may_propose``); that is how
        acceptances of the chosen prefix are forgotten always (``Learner.choose``). *An Accept for such a
        slot may be acknowledged unread* (``on_accept``), because its ballot is at or above the promise
        and so at or above the ballot that the value was chosen at: that is why ``ballot`` is promised
        here, as ``on_learned`` promises the ballots of what it learns. The promise and what is accepted
        above ``chosen`` stay untouched. *Nothing of a leadership or candidacy survives*: its phase 1
        spoke of slots from the old prefix on. It may be given up at any time.

        The marker by which the shell finishes an installation after a crash need not be durable before
        this: whatever is said of ``chosen`` until then is true of the slots, not a promise of this node.
        """
        self._now = now
        if chosen <= self.chosen:
            return
        if ballot > self._acceptor.promised:
            self._promise(ballot)
        elif self.role is not Role.FOLLOWER:
            self._step_down()
        self._learner.install(chosen, memberships)
        self._learner.match()
        self._ask()

    def tick(self, now: float) -> None:
        """Act on what is due. Call it at least every half ``heartbeat_interval_s``."""
        self._now = now
        if self._lead is not None:
            self._tick_leader(self._lead, now)
        elif now >= self._silence.ends_at:
            self._end_silence()
        elif self._phase1 is not None:
            self._send_prepares(self._phase1)
        elif self._pre_vote is not None and now >= self._pre_vote.retry_at:
            self._send_pre_votes(self._pre_vote)
        self._ask()
        self._reads.tick(self.leader, now)

    def next_deadline(self) -> float:
        """Return when the next ``tick`` has something to do, if no message comes before."""
        if self._lead is not None:
            return min(self._lead.next_deadline(), self._reads.next_deadline())
        deadlines = [self._silence.ends_at, self._reads.next_deadline()]
        if self._phase1 is not None:
            deadlines.append(self._phase1.retry_at)
        if self._pre_vote is not None:
            deadlines.append(self._pre_vote.retry_at)
        if self.leader is None or self._learner.is_lacking:
            deadlines.append(self._learner.retry_at)
        return min(deadlines)

    def drain(self) -> Effects:
        """Return what must be done since the last drain, under the contract of ``effects.py``."""
        if self._lead is not None:
            self._lead.flush()
        else:
            self._reads.flush(self.leader, self._now)
        return self._outbox.take()

    # -- roles --------------------------------------------------------------------------

    @property
    def _is_voter(self) -> bool:
        return self._node in self.membership.voter_ids

    @property
    def _is_alone(self) -> bool:
        return self.membership.voter_ids == {self._node}

    def _promise(self, ballot: Ballot) -> None:
        """Promise ``ballot``. Whatever this node led or stood for at a lower one ends here."""
        self._acceptor.promise(ballot)
        self._learner.promised_anew()
        self._step_down()

    def _step_down(self) -> None:
        lead, self._lead = self._lead, None
        if lead is not None:
            lead.reads.fail_all()
        self._phase1 = None
        self._pre_vote = None
        self.leader = None
        self._silence.draw()
        self._silence.restart(self._now)

    def _follow(self, leader: NodeId) -> None:
        """``leader`` was heard speaking for the promised ballot, after its phase 1."""
        assert self._lead is None
        if self.leader != leader:
            self.leader = leader
            self._silence.draw()
            self._reads.leader_changed(self._now)
        self._pre_vote = None
        self._silence.since = self._now

    def _tick_leader(self, lead: Leadership, now: float) -> None:
        if lead.is_removed or not lead.hears_quorum(now):
            self._step_down()
        elif lead.is_stuck(now):
            self._step_down()
            self._start_pre_vote()
        else:
            lead.tick(now)

    def hung_up(self, node: NodeId, now: float) -> None:
        """The connection over which ``node`` spoke has ended, as it does when its process dies.

        Only a hint, and only about time: a follower waits less long for a leader that hung up before it
        asks for pre-votes, and grants them. Others that still hear the leader refuse, as always.
        """
        if node == self.leader and self._lead is None:
            self._silence.hung_up(now, self.config.hang_up_grace_s)

    # -- pre-vote -----------------------------------------------------------------------

    def _end_silence(self) -> None:
        """No leader was heard for longer than this node bears, or its own candidacy failed."""
        self._step_down()
        if self._is_voter and not self.abstains:
            self._start_pre_vote()

    def _start_pre_vote(self) -> None:
        assert self._lead is None and self._phase1 is None
        self.leader = None
        ballot = max(self._acceptor.promised, self._seen).next_for(self._node)
        self._pre_vote = PreVoteRound(ballot, self._node, self._now)
        self._send_pre_votes(self._pre_vote)
        self._count_pre_votes()

    def _send_pre_votes(self, pre_vote: PreVoteRound) -> None:
        pre_vote.retry_at = self._now + self.config.retry_interval_s
        voters = sorted(self.membership.voter_ids - pre_vote.granted)
        self._outbox.send_all(voters, PreVote(pre_vote.ballot, self._learner.chosen))

    def _count_pre_votes(self) -> None:
        assert self._pre_vote is not None
        if is_quorum(self._pre_vote.granted, self.membership.voter_ids):
            self._stand()

    def on_pre_vote(self, sender: NodeId, message: PreVote) -> None:
        self._learner.heard(sender, message.chosen)
        granted = self._would_promise(sender, message.chosen)
        reply = PreVoteReply(message.ballot, granted, max(self._acceptor.promised, self._seen), self.chosen)
        self._outbox.send(sender, reply)

    def _would_promise(self, asker: NodeId, chosen: Slot) -> bool:
        """No, while a leader lives: even if the asker cannot hear it, others do. No, to who must
        first learn more than a window. Whoever leads and asks (it was refused as leader) leads no more.

        The asker's ballot does not matter: the answer says above which one to stand."""
        if self._lead is not None:
            return self._lead.transfer is not None and self._lead.transfer.to == asker
        heard_ago = self._now - self._silence.since
        if self.leader not in (None, asker) and heard_ago < self.config.election_timeout_s:
            return False
        return chosen + self.config.window_slots_max >= self.chosen

    def on_pre_vote_reply(self, sender: NodeId, message: PreVoteReply) -> None:
        self._learner.heard(sender, message.chosen)
        self._seen = max(self._seen, message.promised)
        pre_vote = self._pre_vote
        if pre_vote is None or message.ballot != pre_vote.ballot:
            return
        if message.granted:
            pre_vote.granted.add(sender)
            self._count_pre_votes()
        else:
            self._ask()  # it may have refused because this node must learn first

    # -- phase 1 ------------------------------------------------------------------------

    def _stand(self) -> None:
        """Become a candidate at a ballot of one's own, above every ballot heard of."""
        ballot = max(self._acceptor.promised, self._seen).next_for(self._node)
        self._promise(ballot)
        self._phase1 = Phase1(ballot, Slot(self.chosen + 1), self._now)
        # The own promise goes the way of all promises: it counts when it is durable.
        self._send_promise(self._node, self._phase1.first)
        self._send_prepares(self._phase1)
        assert self.role is Role.CANDIDATE

    def _send_prepares(self, phase1: Phase1) -> None:
        """Ask who has not spoken yet. Behind the own promise: else a crash could forget the ballot
        while it is out in the world, and use it again with another value."""
        if self._now < phase1.retry_at:
            return
        phase1.retry_at = self._now + self.config.retry_interval_s
        for node in self._memberships.voters_since(self.chosen + 1):
            if node != self._node and node not in phase1.complete:
                self._outbox.send_durable(node, Prepare(phase1.ballot, phase1.first_missing(node)))

    def on_prepare(self, sender: NodeId, message: Prepare) -> None:
        self._check_ballot(sender, message.ballot)
        if self._is_stale(sender, message.ballot):
            return
        if message.ballot > self._acceptor.promised:
            self._promise(message.ballot)
        if self.leader is None:
            self._silence.restart(self._now)  # the candidate must be given time
        self._send_promise(sender, message.first)

    def _send_promise(self, to: NodeId, first: Slot) -> None:
        for page in self._acceptor.promises(first, self.chosen, self.config.message_bytes_max):
            self._outbox.send_durable(to, page)

    def on_promise(self, sender: NodeId, message: Promise) -> None:
        if message.ballot != self._acceptor.promised:
            return
        if self._lead is not None:
            self._learner.heard(sender, message.chosen)
            self._lead.on_promise(sender, message, self._now)
        elif self._phase1 is not None:
            self._learner.heard(sender, message.chosen)
            self._phase1.on_promise(sender, message)
            if self._phase1.is_quorum(self.membership):
                self._become_leader(self._phase1)

    def _become_leader(self, phase1: Phase1) -> None:
        assert phase1.ballot == self._acceptor.promised
        self._phase1 = None
        self.leader = self._node
        self._lead = Leadership(
            self.config, phase1, self._acceptor, self._learner, self._memberships, self._outbox, self._now
        )
        for read in self._reads.take_all():
            self._lead.reads.add(self._node, read)
        self._ask()

    def on_nack(self, sender: NodeId, message: Nack) -> None:
        self._seen = max(self._seen, message.promised)
        if self.role is Role.FOLLOWER or message.ballot != self._acceptor.promised:
            return
        if message.promised <= message.ballot:
            raise ProtocolViolation(f"nack of {message.ballot} for a lower promise {message.promised}")
        # A leader that is refused may be the old one of a cluster that has moved on, or the good one
        # of which a single node has heard a stray candidate. The pre-vote tells which: in the first
        # case a quorum refuses, in the second it grants, and the node is won back by a higher ballot.
        may_stay = self._lead is not None and self._lead.transfer is None
        self._step_down()
        if may_stay and self._is_voter:
            self._start_pre_vote()

    # -- phase 2 ------------------------------------------------------------------------

    def on_accept(self, sender: NodeId, message: Accept) -> None:
        ballot, slot = message.ballot, message.slot
        self._check_ballot(sender, ballot)
        if self._is_stale(sender, ballot):
            return
        learner, acceptor = self._learner, self._acceptor
        record = AcceptedValue(slot, ballot, message.value)
        held = acceptor.check(record) if slot > learner.chosen else None
        if ballot > acceptor.promised:
            self._promise(ballot)
        self._follow(sender)
        if slot <= learner.chosen:
            # Known chosen, at a ballot of at most this one (``Learner``'s invariant, and what it learns
            # it promises), so with this very value. The quorum that chose it already protects it.
            self._outbox.ack(ballot, slot)
        elif slot <= learner.chosen + self.config.accept_ahead_slots_max:
            if held is None or held.ballot < ballot:
                acceptor.accept(record)
            self._outbox.ack(ballot, slot)
        self._on_announced(sender, message.chosen)

    def on_accepted(self, sender: NodeId, message: Accepted) -> None:
        if self._lead is not None and message.ballot == self._lead.ballot:
            self._lead.on_accepted(sender, message.slots, self._now)

    def on_heartbeat(self, sender: NodeId, message: Heartbeat) -> None:
        ballot = message.ballot
        self._check_ballot(sender, ballot)
        if self._is_stale(sender, ballot):
            return
        if ballot > self._acceptor.promised:
            self._promise(ballot)
        self._follow(sender)
        self._on_announced(sender, message.chosen)
        if message.probe:
            # Says "I have promised nothing above this ballot", which is what a read's probe asks.
            self._outbox.send(sender, HeartbeatReply(ballot, message.probe, self._learner.chosen, self.full))

    def on_heartbeat_reply(self, sender: NodeId, message: HeartbeatReply) -> None:
        if self._lead is not None and message.ballot == self._lead.ballot:
            self._lead.on_heartbeat_reply(sender, message, self._now)
            if self._lead.waits_for is not None:
                # Whoever knows the slot chosen ends the wait, be it a learner: it need not have promised.
                self._learner.heard(sender, message.chosen)
                self._ask()

    def _on_announced(self, leader: NodeId, chosen: Slot) -> None:
        """The leader of the promised ballot says that every slot up to ``chosen`` is chosen."""
        learner = self._learner
        if chosen > learner.announced:
            learner.announced = chosen
        learner.match()
        if learner.announced > learner.chosen:
            learner.heard(leader, learner.announced)
            self._ask()

    def _check_ballot(self, sender: NodeId, ballot: Ballot) -> None:
        if ballot.node != sender:
            raise ProtocolViolation(f"node {sender} speaks for ballot {ballot}, which is not its own")

    def _is_stale(self, sender: NodeId, ballot: Ballot) -> bool:
        """Whether a higher ballot is promised; then ``sender`` is told so."""
        promised = self._acceptor.promised
        if ballot >= promised:
            return False
        self._outbox.send(sender, Nack(ballot, promised))
        return True

    # -- learning -----------------------------------------------------------------------

    def _ask(self) -> None:
        """Ask a peer for what is chosen and missing here, if it is time."""
        if self.sated:
            return
        anybody = self.leader is None or (self._lead is not None and self._lead.must_learn)
        if anybody or self._learner.is_lacking:
            peers = self._memberships.nodes_since(self.chosen + 1)
            self._learner.ask(self._now, peers, self.leader, anybody=anybody)

    def on_learn(self, sender: NodeId, message: Learn) -> None:
        if not 1 <= message.first <= message.last:
            raise ProtocolViolation(f"learn of slots {message.first} to {message.last}")
        if message.first <= self.chosen:
            self._outbox.send_entries(sender, message.first, min(message.last, self.chosen))
        else:
            self._outbox.send(sender, Learned(self.chosen, ()))

    def on_learned(self, sender: NodeId, message: Learned) -> None:
        for record in message.entries:
            self._acceptor.check_value(record.value)
        self._learner.heard(sender, message.chosen)
        before = self.chosen
        for record in message.entries:
            if record.slot <= self.chosen:
                continue
            if record.slot > self.chosen + 1:
                break
            if record.ballot > self._acceptor.promised:
                self._promise(record.ballot)  # accepting implies promising; a leader or candidate ends here
            if self._lead is not None and self._lead.is_proposed(record.slot):
                break  # a leader knows of its own proposals by counting only: see ``Learner``
            self._learner.learn(record)
        self._learner.match()
        progress = self.chosen > before
        if self._lead is not None and progress:
            self._lead.advance()
        self._learner.answered(sender, progress=progress, now=self._now)
        if progress:
            self._ask()

    # -- reads --------------------------------------------------------------------------

    def on_read_index(self, sender: NodeId, message: ReadIndex) -> None:
        if self._lead is not None:
            self._lead.reads.add(sender, message.read)
        else:
            self._outbox.send(sender, ReadIndexReply(message.read, None))

    def on_read_index_reply(self, sender: NodeId, message: ReadIndexReply) -> None:
        self._reads.on_reply(message.read, message.slot)

    # -- transfer -----------------------------------------------------------------------

    def on_take_over(self, sender: NodeId, message: TakeOver) -> None:
        """The leader bids this node to stand, with no pre-vote: the cluster hears a leader, and must obey."""
        self._check_ballot(sender, message.ballot)
        if message.ballot != self._acceptor.promised or self.leader != sender or not self._is_voter:
            return  # of an earlier leadership, or a late one
        if self.chosen < message.chosen:
            self._on_announced(sender, message.chosen)
        if self.chosen >= message.chosen and not self.abstains:
            self._stand()
