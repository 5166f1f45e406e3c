"""The learner: which values are chosen, and whom to ask for those that are missing. PURE.

There are three ways to know that a value is chosen, and no other (a snapshot tells that slots are
chosen without telling their values: ``Paxos.install``):

1. the leader counts a quorum of Accepted at its own ballot (``Leadership``);
2. ``match``: the leader of ballot b says that slots up to c are chosen, and this node
   holds a value for such a slot accepted **at b**. The ballot must match: a value held
   from an older ballot may be one that was never chosen;
3. ``learn``: a peer that knows sends the chosen value itself.

**Invariant: the ballot of a record that is known chosen is at or above the lowest ballot
at which its value was chosen.** By (1) it is that ballot or, if the value was chosen
before, a later one. By (2) too, because a leader never comes to know of its own proposals
by another way than (1): ``Paxos.on_learned`` skips slots in flight, and an entry of a
higher ballot ends the leadership first. By (3) it is inherited. From it follows: a record
held at or above the ballot of a learned one has the same value, so keeping the higher of
the two ballots is safe, and an acceptor never has to lower one.
"""

from __future__ import annotations

from collections.abc import Iterable

from journal.errors import ProtocolViolation
from journal.paxos.acceptor import Acceptor
from journal.paxos.config import PaxosConfig
from journal.paxos.membership import Membership, MembershipHistory, membership_of
from journal.paxos.messages import AcceptedValue, Learn
from journal.paxos.outbox import Outbox
from journal.types import NodeId, Slot


class Learner:
    """Owns the chosen prefix. Values go to the shell in slot order, each once."""

    def __init__(
        self,
        config: PaxosConfig,
        chosen: Slot,
        acceptor: Acceptor,
        memberships: MembershipHistory,
        outbox: Outbox,
        now: float,
    ) -> None:
        self.chosen = chosen
        """Every slot up to here is chosen, and known to be."""
        self.announced = Slot(0)
        """How far the leader of the promised ballot says that slots are chosen."""
        self.known: dict[NodeId, Slot] = {}
        """How far each peer said that it knows; a hint of whom to ask, no more."""
        self.retry_at = now
        self._config = config
        self._acceptor = acceptor
        self._memberships = memberships
        self._outbox = outbox
        self._source: NodeId | None = None
        self._attempt = 0
        self._blind = False
        """Whether the last question went to a peer that was not known to know more."""

    # -- to know ---------------------------------------------------------------

    def choose(self, record: AcceptedValue) -> None:
        """Append ``record``, which is chosen, to the chosen prefix."""
        slot = record.slot
        assert slot == self.chosen + 1, f"slot {slot} chosen out of order after {self.chosen}"
        self.chosen = slot
        self._acceptor.forget(slot)
        self._outbox.chosen(record)
        membership = membership_of(record.value)
        if membership is not None:
            self._memberships.add(Slot(slot + self._config.window_slots_max), membership)
            self._memberships.forget_below(slot)

    def match(self) -> None:
        """Advance over the announced slots that are held at the ballot of who announced them."""
        log, ballot, announced = self._acceptor.log, self._acceptor.promised, self.announced
        while self.chosen < announced:
            record = log.get(Slot(self.chosen + 1))
            if record is None or record.ballot != ballot:
                return
            self.choose(record)

    def learn(self, record: AcceptedValue) -> None:
        """``record`` is the chosen value of the next slot. Its ballot is promised already.

        Raises ``ProtocolViolation`` if this node holds another value at that ballot or a later one.
        """
        held = self._acceptor.log.get(record.slot)
        if held is None or held.ballot < record.ballot:
            self._acceptor.accept(record)
            self.choose(record)
        elif held.value == record.value:
            self.choose(held)
        else:
            raise ProtocolViolation(
                f"slot {record.slot} learned at ballot {record.ballot} is not what is held at {held.ballot}"
            )

    def install(self, chosen: Slot, memberships: Iterable[tuple[Slot, Membership]]) -> None:
        """Every slot up to ``chosen`` is chosen, and what they came to is known by another way.

        See ``Paxos.install`` for why that is safe. ``memberships``: (the first slot it rules, which).
        """
        assert chosen > self.chosen, f"slot {chosen} is known chosen already"
        for slot in [slot for slot in (*self._acceptor.log, *self._acceptor.lost) if slot <= chosen]:
            self._acceptor.forget(slot)
        self.chosen = chosen
        for first, membership in memberships:
            if first > self._memberships.newest[0]:
                self._memberships.add(first, membership)
        self._memberships.forget_below(chosen)
        self._source, self._attempt, self.retry_at = None, 0, float("-inf")

    def promised_anew(self) -> None:
        """The promise rose: what the leader of the old ballot announced matches no more records."""
        self.announced = Slot(0)

    # -- to ask ----------------------------------------------------------------

    def heard(self, node: NodeId, chosen: Slot) -> None:
        self.known[node] = chosen

    @property
    def is_lacking(self) -> bool:
        """Whether some peer is known to know more."""
        return any(chosen > self.chosen for chosen in self.known.values())

    def answered(self, node: NodeId, *, progress: bool, now: float) -> None:
        """``node`` answered a Learn: if that brought something, ask it again at once for what is next."""
        if progress:
            self._source, self._attempt = node, 0
            self.retry_at = now

    def ask(self, now: float, peers: Iterable[NodeId], leader: NodeId | None, *, anybody: bool) -> None:
        """Send a Learn, unless one was sent within the retry interval.

        The first to be asked is who answered last, else the leader; each retry asks the next of
        those that know more, so no single link that is down keeps this node from learning.
        ``anybody``: then ask the others too: there is no leader to be heard from (or it is this
        node, which lacks what its promisers knew). Such a blind question does not delay one to
        somebody who turns out to know.
        """
        knowing = sorted(node for node, chosen in self.known.items() if chosen > self.chosen)
        if self._blind and knowing:
            self._attempt = 0
        elif now < self.retry_at:
            return
        sources = list(knowing)
        if anybody:
            sources += sorted(node for node in peers if node != self._config.node and node not in knowing)
        if not sources:
            self.retry_at = now + self._config.retry_interval_s
            return
        first_choices = [node for node in (self._source, leader) if node in (knowing or sources)]
        start = sources.index(first_choices[0]) if first_choices else 0
        to = sources[(start + self._attempt) % len(sources)]
        self._attempt += 1
        self._blind = to not in knowing
        first = Slot(self.chosen + 1)
        self._outbox.send(to, Learn(first, Slot(self.chosen + self._config.learn_slots_max)))
        self.retry_at = now + self._config.retry_interval_s
