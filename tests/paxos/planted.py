"""Bugs to plant, one for each rule that keeps the agreement safe.

Each function takes pytest's ``monkeypatch`` and breaks one rule of the core (or of the
shell). ``test_planted_bugs.py`` shows for each that the tests notice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import journal.storage.log
from journal.errors import VoteLost
from journal.paxos.acceptor import Acceptor
from journal.paxos.core import Paxos
from journal.paxos.election import Phase1
from journal.paxos.leader import Leadership
from journal.paxos.learner import Learner
from journal.paxos.membership import Membership, MembershipHistory
from journal.paxos.messages import (
    Accept,
    AcceptedValue,
    Envelope,
    Learned,
    LostValue,
    Prepare,
    Promise,
    TakeOver,
)
from journal.paxos.outbox import Outbox
from journal.paxos.reads import FollowerReads, LeaderReads
from journal.storage import Write
from journal.storage.log import LogStore, Recovery
from journal.storage.records import number_of
from journal.types import Ballot, NodeId, Slot

Plant = Callable[[pytest.MonkeyPatch], None]
BUGS: dict[str, Plant] = {}


def bug(plant: Plant) -> Plant:
    BUGS[plant.__name__] = plant
    return plant


# -- acceptor ------------------------------------------------------------------------


@bug
def accepts_below_its_promise(patch: pytest.MonkeyPatch) -> None:
    def on_accept(self: Paxos, sender: NodeId, message: Accept) -> None:
        if message.ballot < self._acceptor.promised and message.slot > self.chosen:
            record = AcceptedValue(message.slot, message.ballot, message.value)
            self._acceptor.log[message.slot] = record
            self._outbox.persist_accepted(record)
            self._outbox.ack(message.ballot, message.slot)
        else:
            original(self, sender, message)

    original = Paxos.on_accept
    patch.setattr(Paxos, "on_accept", on_accept)


@bug
def promises_below_its_promise(patch: pytest.MonkeyPatch) -> None:
    def on_prepare(self: Paxos, sender: NodeId, message: Prepare) -> None:
        if message.ballot < self._acceptor.promised:
            self._acceptor.promised = message.ballot
            self._outbox.persist_promise(message.ballot)
            self._send_promise(sender, message.first)
        else:
            original(self, sender, message)

    original = Paxos.on_prepare
    patch.setattr(Paxos, "on_prepare", on_prepare)


@bug
def forgets_its_promise_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outbox, "persist_promise", lambda self, ballot: None)


@bug
def forgets_what_it_accepted_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outbox, "persist_accepted", lambda self, record: None)


@bug
def tells_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    def send_durable(self: Outbox, to: NodeId, message: Any) -> None:
        if to != self._node:
            self.send(to, message)
        else:
            original(self, to, message)

    original = Outbox.send_durable
    patch.setattr(Outbox, "send_durable", send_durable)


@bug
def counts_its_own_acceptance_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    def put(self: Leadership, value: bytes) -> Slot:
        slot = original(self, value)
        self._in_flight[slot].acks.add(self._config.node)
        return slot

    original = Leadership._put
    patch.setattr(Leadership, "_put", put)


@bug
def promise_leaves_out_what_it_accepted(patch: pytest.MonkeyPatch) -> None:
    def promises(self: Acceptor, first: Slot, chosen: Slot, bytes_max: int) -> list[Promise]:
        return [Promise(self.promised, max(first, Slot(chosen + 1)), chosen, ())]

    patch.setattr(Acceptor, "promises", promises)


@bug
def learning_lowers_the_ballot_of_what_it_accepted(patch: pytest.MonkeyPatch) -> None:
    """And takes a learned value at a made-up low ballot, as an answer from a careless log would be."""

    def learn(self: Learner, record: AcceptedValue) -> None:
        record = record._replace(ballot=Ballot(1, NodeId(1)))
        self._acceptor.log[record.slot] = record
        self._outbox.persist_accepted(record)
        self.choose(record)

    patch.setattr(Learner, "learn", learn)


# -- candidate -----------------------------------------------------------------------


@bug
def prepares_before_its_own_promise_is_durable(patch: pytest.MonkeyPatch) -> None:
    def send_durable(self: Outbox, to: NodeId, message: Any) -> None:
        if isinstance(message, Prepare):
            self.send(to, message)
        else:
            original(self, to, message)

    original = Outbox.send_durable
    patch.setattr(Outbox, "send_durable", send_durable)


@bug
def leads_without_a_quorum_of_promises(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Phase1, "is_quorum", lambda self, membership: bool(self.complete))


@bug
def takes_a_promise_with_a_page_missing(patch: pytest.MonkeyPatch) -> None:
    def on_promise(self: Phase1, sender: NodeId, promise: Promise) -> None:
        self.spoken[sender] = max(self.spoken.get(sender, self.first), promise.first)
        original(self, sender, promise)

    original = Phase1.on_promise
    patch.setattr(Phase1, "on_promise", on_promise)


@bug
def takes_any_reported_value_instead_of_the_highest_ballot(patch: pytest.MonkeyPatch) -> None:
    def on_promise(self: Phase1, sender: NodeId, promise: Promise) -> None:
        before = dict(self.best)
        original(self, sender, promise)
        self.best.update(before)

    original = Phase1.on_promise
    patch.setattr(Phase1, "on_promise", on_promise)


@bug
def ignores_that_a_promiser_knows_more_slots_chosen(patch: pytest.MonkeyPatch) -> None:
    def on_promise(self: Phase1, sender: NodeId, promise: Promise) -> None:
        original(self, sender, promise)
        self.chosen_max = Slot(self.first - 1)

    original = Phase1.on_promise
    patch.setattr(Phase1, "on_promise", on_promise)


# -- leader --------------------------------------------------------------------------


@bug
def proposes_new_values_in_open_slots(patch: pytest.MonkeyPatch) -> None:
    def on_promise(self: Phase1, sender: NodeId, promise: Promise) -> None:
        original(self, sender, promise)
        self.best.clear()
        self.open_max = Slot(self.first - 1)

    original = Phase1.on_promise
    patch.setattr(Phase1, "on_promise", on_promise)


@bug
def counts_accepted_of_any_ballot(patch: pytest.MonkeyPatch) -> None:
    def on_accepted(self: Paxos, sender: NodeId, message: Any) -> None:
        if self._lead is not None:
            self._lead.on_accepted(sender, message.slots, self._now)

    patch.setattr(Paxos, "on_accepted", on_accepted)


@bug
def counts_accepted_of_nodes_without_a_vote(patch: pytest.MonkeyPatch) -> None:
    def on_accepted(self: Leadership, sender: NodeId, slots: Any, now: float) -> None:
        for slot in slots:
            if slot in self._in_flight:
                self._in_flight[slot].acks.add(sender)
        original(self, sender, slots, now)

    original = Leadership.on_accepted
    patch.setattr(Leadership, "on_accepted", on_accepted)


@bug
def chooses_below_a_quorum(patch: pytest.MonkeyPatch) -> None:
    def post_init(self: Membership) -> None:
        original(self)
        object.__setattr__(self, "quorum", max(1, self.quorum - 1))

    original = Membership.__post_init__
    patch.setattr(Membership, "__post_init__", post_init)


@bug
def a_new_membership_rules_at_once(patch: pytest.MonkeyPatch) -> None:
    """Each node lets it rule from where *it* stands: slots in flight change their quorum."""

    def at(self: MembershipHistory, slot: int) -> Membership:
        return self._memberships[-1]

    patch.setattr(MembershipHistory, "at", at)


@bug
def proposes_under_a_membership_that_has_not_promised(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leadership, "_is_covered", lambda self, membership: True)


# -- learner -------------------------------------------------------------------------


@bug
def follower_chooses_without_a_ballot_match(patch: pytest.MonkeyPatch) -> None:
    def match(self: Learner) -> None:
        while self.chosen < self.announced:
            record = self._acceptor.log.get(Slot(self.chosen + 1))
            if record is None:
                return
            self.choose(record)

    patch.setattr(Learner, "match", match)


@bug
def shell_answers_learn_before_it_has_persisted(patch: pytest.MonkeyPatch) -> None:
    from tests.paxos.harness import Host

    def drain(self: Host) -> None:
        original(self)
        if self.core is None or not self.unsynced:
            return
        effects, _folded = self.unsynced[-1]
        for to, first, last in effects.send_entries:
            entries = []
            for slot in range(first, last + 1):
                if Slot(slot) not in self.disk.records:
                    break
                entries.append(self.disk.records[Slot(slot)])
            self.cluster.send([Envelope(self.node, to, Learned(self.core.chosen, tuple(entries)))])
        effects.send_entries.clear()

    original = Host.drain
    patch.setattr(Host, "drain", drain)


# -- reads ---------------------------------------------------------------------------


@bug
def answers_reads_without_a_probe(patch: pytest.MonkeyPatch) -> None:
    def confirm(self: LeaderReads, answered: Any) -> None:
        while self._rounds:
            head = self._rounds.popleft()
            for origin, read in head.reads:
                self._answer(origin, read, head.slot)

    patch.setattr(LeaderReads, "confirm", confirm)


@bug
def takes_answers_to_an_earlier_probe(patch: pytest.MonkeyPatch) -> None:
    def start_round(self: LeaderReads, chosen: Slot, voters: Any) -> int:
        self.probe -= 1
        return original(self, chosen, voters)

    original = LeaderReads.start_round
    patch.setattr(LeaderReads, "start_round", start_round)


@bug
def acknowledges_probes_below_its_promise(patch: pytest.MonkeyPatch) -> None:
    from journal.paxos.messages import Heartbeat, HeartbeatReply

    def on_heartbeat(self: Paxos, sender: NodeId, message: Heartbeat) -> None:
        if message.ballot < self._acceptor.promised:
            self._outbox.send(sender, HeartbeatReply(message.ballot, message.probe, self.chosen))
        else:
            original(self, sender, message)

    original = Paxos.on_heartbeat
    patch.setattr(Paxos, "on_heartbeat", on_heartbeat)


@bug
def answers_reads_while_slots_of_phase_1_are_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leadership, "is_recovered", property(lambda self: True))


@bug
def numbers_reads_from_one_after_every_restart(patch: pytest.MonkeyPatch) -> None:
    def init(self: FollowerReads, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._next = 1

    original = FollowerReads.__init__
    patch.setattr(FollowerReads, "__init__", init)


# -- being live ------------------------------------------------------------------------


@bug
def grants_pre_votes_while_a_leader_lives(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Paxos, "_would_promise", lambda self, asker, chosen: True)


@bug
def leads_on_without_hearing_a_quorum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leadership, "hears_quorum", lambda self, now: True)


@bug
def learns_from_the_leader_only(patch: pytest.MonkeyPatch) -> None:
    def ask(self: Learner, now: float, peers: Any, leader: NodeId | None, *, anybody: bool) -> None:
        if leader is not None:
            original(self, now, [leader], leader, anybody=True)

    original = Learner.ask
    patch.setattr(Learner, "ask", ask)


@bug
def sends_accepts_only_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leadership, "_retry_accepts", lambda self: None)


@bug
def sends_prepares_only_once(patch: pytest.MonkeyPatch) -> None:
    def send_prepares(self: Paxos, phase1: Phase1) -> None:
        if not self._outbox._effects.send_durable:
            return
        original(self, phase1)

    original = Paxos._send_prepares
    patch.setattr(Paxos, "_send_prepares", send_prepares)


@bug
def waits_for_ever_for_what_a_dead_promiser_knew(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leadership, "is_stuck", lambda self, now: False)


@bug
def a_refused_leader_leads_on(patch: pytest.MonkeyPatch) -> None:
    """It goes on leading, though a node that it needs will not follow its ballot any more."""
    patch.setattr(Paxos, "on_nack", lambda self, sender, message: None)


@bug
def a_transfer_never_gives_up(patch: pytest.MonkeyPatch) -> None:
    def start_transfer(self: Leadership, to: NodeId, now: float) -> None:
        original(self, to, now)
        assert self.transfer is not None
        self.transfer.fails_at = 1e300

    original = Leadership.start_transfer
    patch.setattr(Leadership, "start_transfer", start_transfer)


@bug
def hands_over_to_a_node_that_lacks_entries(patch: pytest.MonkeyPatch) -> None:
    def hand_over(self: Leadership) -> None:
        assert self.transfer is not None
        if self._now >= self.transfer.retry_at:
            self.transfer.retry_at = self._now + 0.2
            self._outbox.send(self.transfer.to, TakeOver(self.ballot, Slot(0)))

    patch.setattr(Leadership, "_hand_over", hand_over)


# -- damaged records -------------------------------------------------------------------


@bug
def takes_a_damaged_acceptance_for_none(patch: pytest.MonkeyPatch) -> None:
    def recover(self: LogStore, *args: Any) -> Recovery:
        return original(self, *args)._replace(lost=())

    original = LogStore.recover
    patch.setattr(LogStore, "recover", recover)


@bug
def believes_a_record_with_a_bad_checksum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal.storage.log, "unseal", lambda key, sealed: sealed[4:])


@bug
def drops_what_follows_a_damaged_record(patch: pytest.MonkeyPatch) -> None:
    def recover(self: LogStore, *args: Any) -> Recovery:
        found = original(self, *args)
        first = min((slot for slot, _ballot in found.lost), default=1 << 60)
        return found._replace(accepted=tuple(r for r in found.accepted if r.slot < first), lost=())

    original = LogStore.recover
    patch.setattr(LogStore, "recover", recover)


@bug
def does_not_look_at_identifiers(patch: pytest.MonkeyPatch) -> None:
    def joined(left: Any, right: Any) -> Any:
        return ((number_of(key), sealed, None) for key, sealed in left)

    patch.setattr(journal.storage.log, "_joined", joined)


@bug
def says_nothing_of_lost_slots_in_a_promise(patch: pytest.MonkeyPatch) -> None:
    def on_promise(self: Phase1, sender: NodeId, promise: Promise) -> None:
        original(self, sender, replace(promise, lost=()))

    original = Phase1.on_promise
    patch.setattr(Phase1, "on_promise", on_promise)


@bug
def proposes_the_next_best_value_of_a_damaged_slot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Phase1, "is_settled", lambda self, slot, membership: True)


@bug
def counts_everybody_who_promised_as_empty(patch: pytest.MonkeyPatch) -> None:
    def is_settled(self: Phase1, slot: Slot, membership: Membership) -> bool:
        best = self.best.get(slot)
        lost = self.lost.get(slot, {})
        ballot = Ballot.ZERO if best is None else best.ballot
        above = {node for node, bound in lost.items() if bound > ballot}
        return len(above) < membership.quorum  # and those who have not promised are forgotten

    patch.setattr(Phase1, "is_settled", is_settled)


@bug
def bounds_a_slot_of_unknown_ballot_by_nothing(patch: pytest.MonkeyPatch) -> None:
    def init(self: Acceptor, promised: Ballot, accepted: Any, outbox: Outbox, lost: Any = ()) -> None:
        lost = [LostValue(slot, Ballot.ZERO) if bound == promised else (slot, bound) for slot, bound in lost]
        original(self, promised, accepted, outbox, lost)

    original = Acceptor.__init__
    patch.setattr(Acceptor, "__init__", init)


@bug
def reads_the_lower_copy_of_its_promise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journal.storage.log, "max", min, raising=False)


@bug
def votes_on_without_a_promise(patch: pytest.MonkeyPatch) -> None:
    def promised(self: LogStore, mended: list[Write]) -> Ballot:
        try:
            return original(self, mended)
        except VoteLost:
            return Ballot(1, NodeId(1))  # that of what it finds accepted, say

    original = LogStore._promised
    patch.setattr(LogStore, "_promised", promised)


@bug
def waits_at_a_damaged_slot_without_asking_on(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leadership, "waits_for", None)
