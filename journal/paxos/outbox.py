"""Where the parts of the core put what they want done, until the shell drains it. PURE.

The outbox knows which list of ``Effects`` a thing belongs in; nothing else here
touches an ``Effects``. Acceptances are held back until the drain, so that one
``Accepted`` speaks for all slots of a drain.
"""

from __future__ import annotations

from collections.abc import Iterable

from journal.paxos.effects import Effects, ReadReady, SendEntries
from journal.paxos.messages import Accepted, AcceptedValue, Envelope, Message
from journal.types import Ballot, NodeId, Slot


class Outbox:
    """Collects the effects of the steps since the last drain."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._effects = Effects()
        self._ack_ballot = Ballot.ZERO
        self._ack_slots: list[Slot] = []
        self._send_entries: dict[NodeId, SendEntries] = {}

    # -- to persist ------------------------------------------------------------

    def persist_promise(self, ballot: Ballot) -> None:
        self._effects.promised = ballot

    def persist_accepted(self, record: AcceptedValue) -> None:
        self._effects.accepted.append(record)

    # -- to send ---------------------------------------------------------------

    def send(self, to: NodeId, message: Message) -> None:
        """Send a message that speaks of nothing that must be durable first."""
        assert to != self._node, f"{message} to myself"
        self._effects.send_now.append(Envelope(self._node, to, message))

    def send_all(self, nodes: Iterable[NodeId], message: Message) -> None:
        """``send`` to every one of ``nodes`` but this one."""
        append, me = self._effects.send_now.append, self._node
        for node in nodes:
            if node != me:
                append(Envelope(me, node, message))

    def send_durable(self, to: NodeId, message: Message) -> None:
        """Send once everything persisted so far is durable; ``to`` may be this node."""
        self._effects.send_durable.append(Envelope(self._node, to, message))

    def ack(self, ballot: Ballot, slot: Slot) -> None:
        """Tell the leader of ``ballot`` (perhaps this node), when it is so, that ``slot`` is durable."""
        if ballot != self._ack_ballot:
            self._flush_acks()
            self._ack_ballot = ballot
        self._ack_slots.append(slot)

    def _flush_acks(self) -> None:
        if self._ack_slots:
            self.send_durable(self._ack_ballot.node, Accepted(self._ack_ballot, tuple(self._ack_slots)))
            self._ack_slots.clear()

    def send_entries(self, to: NodeId, first: Slot, last: Slot) -> None:
        """Answer a Learn from the log. A peer that asked twice since the drain gets its last answer only."""
        self._send_entries[to] = SendEntries(to, first, last)

    # -- to the shell ----------------------------------------------------------

    def chosen(self, record: AcceptedValue) -> None:
        self._effects.chosen.append(record)

    def read_ready(self, read: int, slot: Slot | None) -> None:
        self._effects.reads.append(ReadReady(read, slot))

    def take(self) -> Effects:
        """Return everything since the last call."""
        self._flush_acks()
        effects = self._effects
        if self._send_entries:
            effects.send_entries.extend(self._send_entries.values())
            self._send_entries.clear()
        self._effects = Effects()
        return effects
