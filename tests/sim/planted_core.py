"""Planted bugs in the core, the node, the fold and the client. See ``hunt``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from journal import mutations, offers
from journal.admission import Admission, Proposal, _awaited
from journal.attempt import Attempt
from journal.client.router import Router
from journal.client.submitter import Submitter
from journal.client.tails import Tail
from journal.conditions import Changed, Conditions
from journal.errors import JournalError
from journal.lease_clock import LeaseClock, LeaseTerm
from journal.node import Node
from journal.node_floor import FloorKeeper
from journal.offers import Reason, Rejected
from journal.paxos.acceptor import Acceptor
from journal.paxos.leader import Leadership
from journal.sessions import Session, Sessions
from journal.space import Space
from journal.storage import Write
from journal.storage.records import CURRENT, STATE, family_end
from journal.types import Ballot, Slot
from journal.versions import Versions
from tests.sim.disk import SimDisk
from tests.sim.hunt import core_mutant, mutant

# -- the core (see tests/paxos/planted.py for what each does) ----------------------------------------

for _name, _seeds, _settings in (
    ("accepts_below_its_promise", 100, ()),
    ("promises_below_its_promise", 100, ()),
    ("forgets_its_promise_in_a_crash", 20, ()),
    ("forgets_what_it_accepted_in_a_crash", 20, ()),
    ("tells_before_it_is_durable", 20, ()),
    ("counts_its_own_acceptance_before_it_is_durable", 20, ()),
    ("promise_leaves_out_what_it_accepted", 100, ()),
    ("leads_without_a_quorum_of_promises", 100, ()),
    ("ignores_that_a_promiser_knows_more_slots_chosen", 100, ()),
    ("proposes_new_values_in_open_slots", 100, ()),
    ("chooses_below_a_quorum", 20, ()),
    ("follower_chooses_without_a_ballot_match", 200, ()),
    ("answers_reads_without_a_probe", 200, ()),
    ("answers_reads_while_slots_of_phase_1_are_open", 200, ()),
    ("sends_accepts_only_once", 100, ()),
):
    core_mutant(_name, _seeds, *_settings, pressure=_seeds > 20 or None)


@mutant(200, pressure=True)
def leaves_gaps_unfilled(patch: pytest.MonkeyPatch) -> None:
    """A new leader proposes what phase 1 found, and no no-ops between."""

    def recover(self: Leadership) -> None:
        self.next_slot = max(self.next_slot, Slot(self._learner.chosen + 1))
        while self.next_slot <= self.open_max and self._may_propose(self.next_slot):
            best = self._phase1.best.pop(self.next_slot, None)
            if best is None:
                self.next_slot = Slot(self.next_slot + 1)
            else:
                self._put(best.value)

    patch.setattr(Leadership, "_recover", recover)


@mutant(100)
def accepts_two_values_at_one_ballot(patch: pytest.MonkeyPatch) -> None:
    """A restarted node leads on at the ballot that it led at before."""

    def init(self: Acceptor, promised: Ballot, *rest: Any) -> None:
        original(self, Ballot(max(promised.round - 1, 0), promised.node), *rest)

    original = Acceptor.__init__
    patch.setattr(Acceptor, "__init__", init)


# -- the node ------------------------------------------------------------------------------------------


@mutant(20)
def sync_is_left_out(patch: pytest.MonkeyPatch) -> None:
    async def write(self: SimDisk, writes: Iterable[Write], *, sync: bool) -> None:
        await original(self, writes, sync=False)

    original = SimDisk.write
    patch.setattr(SimDisk, "write", write)


@mutant(100)
def applied_slot_is_ahead_of_its_folds(patch: pytest.MonkeyPatch) -> None:
    """The batch of a fold is torn: its state record is synced, the rest comes after."""

    async def write(self: SimDisk, writes: Iterable[Write], *, sync: bool) -> None:
        batch = list(writes)
        first = [write for write in batch if write[0][:1] in (b"a", b"p", STATE)]
        rest = [write for write in batch if write[0][:1] not in (b"a", b"p", STATE)]
        await original(self, first, sync=sync)
        await original(self, rest, sync=False)

    original = SimDisk.write
    patch.setattr(SimDisk, "write", write)


@mutant(40)
def answers_any_read_as_linearizable(patch: pytest.MonkeyPatch) -> None:
    def read_barrier(self: Node, reply: Any, *, at_least: Any = None, linearizable: bool = True) -> None:
        original(self, reply, at_least=at_least, linearizable=False)

    original = Node.read_barrier
    patch.setattr(Node, "read_barrier", read_barrier)


@mutant(20)
def answers_before_it_is_chosen(patch: pytest.MonkeyPatch) -> None:
    def proposed(self: Admission, slot: Slot, proposal: Proposal, now: float) -> None:
        original(self, slot, proposal, now)
        revision = self._space.revision
        for part in proposal.parts:
            submission = part.submission
            if part.indexes is None:
                count = len(submission.raw.offers)
                submission.reply(list(range(revision + 1, revision + 1 + count)))
                submission.reply = lambda _result: None

    original = Admission.proposed
    patch.setattr(Admission, "proposed", proposed)


@mutant(100)
def rejects_for_what_is_only_in_flight(patch: pytest.MonkeyPatch) -> None:
    """The early check takes a proposal for a fact."""

    def check(self: Admission, part: Any, keys: list[bytes]) -> list[int] | None:
        raw, writers = part.submission.raw, self._writers
        for index, offer in enumerate(raw.offers):
            if part.indexes is None and len(raw.offers) == 1 and _awaited(offer, writers) is not None:
                key = next(key for key in (*offer[3], *(e[0] for e in offer[5])) if key in writers)
                reason = Reason.READ if offer[3] else Reason.EXPECT
                receipt = Rejected(reason, "reads[0]", key, self._space.revision + 1)
                self._settle(part.submission, index, receipt)
                return []
        return original(self, part, keys)

    original = Admission._check
    patch.setattr(Admission, "_check", check)


@mutant(200, pressure=True)
def says_that_what_was_in_flight_will_never_be(patch: pytest.MonkeyPatch) -> None:
    """An ex-leader answers "not the leader" for offers that it has proposed."""

    def fail(self: Admission, queued: JournalError, inflight: JournalError) -> None:
        original(self, queued, queued)

    original = Admission.fail
    patch.setattr(Admission, "fail", fail)


@mutant(40)
def a_new_leader_expires_leases_at_once(patch: pytest.MonkeyPatch) -> None:
    def lead(self: LeaseClock, leases: Any, now: float) -> None:
        original(self, leases, now)
        self._deadlines = dict.fromkeys(self._deadlines, now + 0.05)

    original = LeaseClock.lead
    patch.setattr(LeaseClock, "lead", lead)


@mutant(40)
def a_keep_alive_is_confirmed_and_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeaseClock, "renew", lambda self, lease, ttl_ms, since: None)


@mutant(400, "pause_node_s=1", "down_s=0.1")
def time_that_stood_still_expires_leases(patch: pytest.MonkeyPatch) -> None:
    def tick(self: LeaseClock, leases: dict[int, LeaseTerm], now: float) -> list[int]:
        self._ticked = now if self._ticked is not None else None
        return original(self, leases, now)

    original = LeaseClock.tick
    patch.setattr(LeaseClock, "tick", tick)


@mutant(40)
def leases_never_expire(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LeaseClock, "tick", lambda self, leases, now: [])


# -- the fold ------------------------------------------------------------------------------------------


@mutant(40)
def offer_ids_are_forgotten_on_restart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sessions, "restore", lambda self, records: None)


@mutant(40)
def a_repeated_id_is_applied_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "find", lambda self, sequence: None)


@mutant(300, "sessions=3", "clients=4")
def a_client_that_comes_back_is_believed_its_past(patch: pytest.MonkeyPatch) -> None:
    """What was fixed in af10507, planted again."""

    def init(self: Session, floor: int, opened: int) -> None:
        original(self, floor, 0)

    original = Session.__init__
    patch.setattr(Session, "__init__", init)


@mutant(300, "sessions=3", "clients=4")
def new_clients_wait_for_the_commits_of_others(patch: pytest.MonkeyPatch) -> None:
    """What seeds 767 and 875 found, planted again: no leader moves a journal whose floor is ahead of it."""
    patch.setattr(FloorKeeper, "tend", lambda self: None)


@mutant(40)
def folds_in_an_order_of_its_own(patch: pytest.MonkeyPatch) -> None:
    """What is in a node's cache decides in which order keys are deleted."""

    def delete(self: Attempt, index: int, keys: list[bytes]) -> None:
        original(self, index, keys if len(self._space.versions.young) % 2 else keys[::-1])

    original = Attempt._delete
    patch.setattr(Attempt, "_delete", delete)


@mutant(200)
def range_conditions_miss_the_slot_being_folded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Changed, "within", lambda self, start, end: [])


@mutant(20)
def expectations_are_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Conditions, "check_expect", lambda self, expect: None)
    patch.setattr(Space, "doomed", lambda self, offer: None)


@mutant(20)
def adjust_ignores_its_bounds(patch: pytest.MonkeyPatch) -> None:
    def unbounded(value: bytes, deltas: Any, _minimum: Any, _maximum: Any) -> bytes:
        return original(value, deltas, {}, {})

    original = mutations.adjust
    patch.setattr("journal.attempt.adjust", unbounded)


@mutant(20)
def a_revoked_lease_leaves_its_keys(patch: pytest.MonkeyPatch) -> None:
    def revoke(self: Attempt, index: int, lease: int) -> None:
        found = self._space.leases.get(lease)
        if found is not None:
            found.keys.clear()
        original(self, index, lease)

    original = Attempt._revoke
    patch.setattr(Attempt, "_revoke", revoke)


@mutant(100, "compact_s=0.5")
def compaction_forgets_a_present_version(patch: pytest.MonkeyPatch) -> None:
    def compact_step(self: Versions, compacted: int, max_records: int) -> list[Write]:
        was_compacting = self.is_compacting(compacted)
        writes = original(self, compacted, max_records)
        if was_compacting and not self.is_compacting(compacted):
            for key, _value in self._reader.iterate(CURRENT, family_end(CURRENT)):
                writes.append((key, None))
                break
        return writes

    original = Versions.compact_step
    patch.setattr(Versions, "compact_step", compact_step)


@mutant(100, "compact_s=0.5")
def history_is_read_below_its_compaction(patch: pytest.MonkeyPatch) -> None:
    def readable(self: Space, at: int | None) -> int:
        return original(self, at) if at is None or at > self.compacted else at

    original = Space._readable
    patch.setattr(Space, "_readable", readable)


# -- the client ----------------------------------------------------------------------------------------


@mutant(100)
def a_tail_resumes_one_too_far(patch: pytest.MonkeyPatch) -> None:
    async def one_node(self: Tail[Any]) -> None:
        await original(self)
        if self._position < self._router.seen:
            self._position = type(self._position)(self._position + 1)

    original = Tail._one_node
    patch.setattr(Tail, "_one_node", one_node)


@mutant(40)
def offers_are_sent_again_without_an_id(patch: pytest.MonkeyPatch) -> None:
    def pack_batch(_client: bytes, _acked: int, base: int, packed: Sequence[bytes]) -> bytes:
        return original(b"", 0, base, packed)

    original = offers.pack_batch
    patch.setattr("journal.client.submitter.pack_batch", pack_batch)


@mutant(40)
def a_client_forgets_what_it_has_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Router, "saw", lambda self, revision: None)


@mutant(200)
def a_deadline_means_that_nothing_happened(patch: pytest.MonkeyPatch) -> None:
    """An offer that is given up on is called refused, though it may be on its way."""

    def abandon(self: Submitter, pending: Any) -> bool:
        original(self, pending)
        return False

    original = Submitter._abandon
    patch.setattr(Submitter, "_abandon", abandon)
