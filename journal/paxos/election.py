"""How a node comes to stand: the silence it bears, the pre-vote, and phase 1. PURE.

``Silence`` measures how long no leader or candidate was heard. ``PreVoteRound`` asks
whether a ballot would be promised, before one is spent: a node that is cut off, or cut
off from the leader only, gets no quorum of yes and so disturbs nobody (Ongaro, "Consensus:
bridging theory and practice", 9.6). ``Phase1`` collects the promises of a ballot.
"""

from __future__ import annotations

import random

from journal.errors import ProtocolViolation
from journal.paxos.membership import Membership
from journal.paxos.messages import AcceptedValue, Promise
from journal.paxos.quorum import is_blocking, is_quorum
from journal.types import Ballot, NodeId, Slot


class Silence:
    """When the leader (or a candidate) was last heard, and how much silence is borne."""

    def __init__(self, timeout_s: float, rng: random.Random, now: float) -> None:
        self._timeout_s = timeout_s
        self._rng = rng
        self.since = now
        self.patience_s = 0.0
        self.draw()

    def draw(self) -> None:
        """Draw a new patience, of one to two timeouts, so that rivals do not stand in step."""
        self.patience_s = self._timeout_s * (1.0 + self._rng.random())

    def restart(self, now: float) -> None:
        """Somebody was heard, or this node did something that must be given time."""
        self.since = now

    def hung_up(self, now: float, grace_s: float) -> None:
        """The leader's connection has ended: bear one to two ``grace_s`` more, unless it is heard again."""
        self.since = min(self.since, now - self._timeout_s)
        grace_ends = now + grace_s * (1.0 + self._rng.random())
        self.patience_s = min(self.patience_s, grace_ends - self.since)

    @property
    def ends_at(self) -> float:
        return self.since + self.patience_s


class PreVoteRound:
    """Who would promise ``ballot``. Binds nobody."""

    def __init__(self, ballot: Ballot, node: NodeId, retry_at: float) -> None:
        self.ballot = ballot
        self.granted: set[NodeId] = {node}
        self.retry_at = retry_at


class Phase1:
    """The promises for ``ballot``, of all slots from ``first`` on.

    A node's promise comes in pages (``Acceptor.promises``). ``spoken`` says below which slot a
    node has spoken of all; a page that would leave a hole is not taken, and asked for again.
    A node is ``complete`` when it has spoken of every slot. It stays so: it has promised, so
    what it accepted at lower ballots cannot grow any more.

    A leader keeps its phase 1: a membership that comes to rule during its term has voters who
    have not promised yet, and none of their slots may be proposed before a quorum of *them* has.

    **Damaged records.** A promiser may have lost the value of a slot to its disk; it then says
    above which ballot it has certainly accepted nothing there (``LostValue``). Let k be the
    highest ballot of a value that arrived intact (zero if none did), v that value, and S the
    promisers that have certainly accepted nothing above k. ``is_settled``: **if every quorum of
    the slot's voters holds a member of S, v may be proposed** (anything, if k is zero). Else the
    slot waits: another promise may bring the value of a higher ballot, or enlarge S. Why:

    * Suppose w is, or will be, chosen at a ballot c below this one, and let c be the lowest such.
      All of a quorum Q accepted w at c, and all that was proposed for the slot from c up to this
      ballot is w (by induction over the ballots, of which this argument is the step).
    * A member of Q that promised this ballot accepted at c before that, and what it holds was
      never put back below c: a later acceptance is above it, and a learned value replaces it
      only at a ballot of c or more (``Learner``'s invariant). So it reports c or more, be it the
      ballot of a value or of a loss.
    * If k >= c, then v was proposed at k, from c on, so v = w.
    * If k < c, no member of Q that promised is in S; and S holds only promisers. So S does not
      meet Q, though it meets every quorum. Impossible.

    Where nothing is damaged, all promisers are in S, and this is the rule of the paper. Only the
    bound matters: a copy that lost its ballot too is bounded by what its node had promised
    before, and counts wherever k has come that far. Found in: Alagappan et al., "Protocol-Aware
    Recovery for Consensus-Based Storage" (FAST 2018), which decides the same for logs with one
    copy of each entry a node; there, too, what cannot be decided waits.
    """

    def __init__(self, ballot: Ballot, first: Slot, retry_at: float) -> None:
        self.ballot = ballot
        self.first = first
        self.retry_at = retry_at
        self.spoken: dict[NodeId, Slot] = {}
        self.complete: set[NodeId] = set()
        self.chosen_max = Slot(first - 1)
        """The furthest that any promiser knows: slots up to here must be learned, not proposed."""
        self.open_max = Slot(first - 1)
        """The last slot that any promiser has accepted a value for."""
        self.best: dict[Slot, AcceptedValue] = {}
        """The value of the highest ballot reported for a slot: the only one that may be proposed there."""
        self.lost: dict[Slot, dict[NodeId, Ballot]] = {}
        """Who has lost the value of a slot, and up to which ballot it may have been."""

    def on_promise(self, sender: NodeId, promise: Promise) -> None:
        """Take one page. Raises ``ProtocolViolation`` if it is not one that an acceptor makes."""
        assert promise.ballot == self.ballot
        self._check(promise)
        self.chosen_max = max(self.chosen_max, promise.chosen)
        # What a promiser knows chosen needs no report: it will be learned.
        spoken = max(self.spoken.get(sender, self.first), Slot(promise.chosen + 1))
        self.spoken[sender] = spoken
        if promise.first > spoken:
            return  # a page before this one was lost
        for record in promise.accepted:
            best = self.best.get(record.slot)
            if best is None or best.ballot < record.ballot:
                self.best[record.slot] = record
        for slot, ballot in promise.lost:
            self.lost.setdefault(slot, {})[sender] = ballot
        last = promise.last
        if last is not None:
            self.spoken[sender] = max(spoken, Slot(last + 1))
            self.open_max = max(self.open_max, last)
        else:
            self.complete.add(sender)

    def _check(self, promise: Promise) -> None:
        previous = promise.first - 1
        for record in promise.accepted:
            if record.slot <= previous or record.slot <= promise.chosen:
                raise ProtocolViolation(f"promise of {promise.ballot} is out of order at slot {record.slot}")
            if record.ballot > promise.ballot:
                raise ProtocolViolation(
                    f"promise of {promise.ballot} reports slot {record.slot} accepted at {record.ballot}"
                )
            best = self.best.get(record.slot)
            if best is not None and best.ballot == record.ballot and best.value != record.value:
                raise ProtocolViolation(f"slot {record.slot} has two values at ballot {record.ballot}")
            previous = record.slot
        previous = promise.first - 1
        for slot, ballot in promise.lost:
            if slot <= previous or slot <= promise.chosen:
                raise ProtocolViolation(f"promise of {promise.ballot} is out of order at slot {slot}")
            if ballot > promise.ballot:
                raise ProtocolViolation(f"promise of {promise.ballot} reports slot {slot} lost at {ballot}")
            previous = slot

    def is_settled(self, slot: Slot, membership: Membership) -> bool:
        """Whether ``best``, or its absence, says what may be proposed for ``slot``, which ``membership``
        rules, whatever was in the records that are damaged."""
        lost = self.lost.get(slot)
        if not lost:
            return True
        best = self.best.get(slot)
        intact = Ballot.ZERO if best is None else best.ballot
        certain = {node for node in self.complete if lost.get(node, Ballot.ZERO) <= intact}
        return is_blocking(certain, membership.voter_ids)

    def first_missing(self, node: NodeId) -> Slot:
        """Return the slot from which on ``node`` has still to speak."""
        return self.spoken.get(node, self.first)

    def is_quorum(self, membership: Membership) -> bool:
        return is_quorum(self.complete, membership.voter_ids)
