"""Repair of the log: damaged values of folded slots, fetched again from peers. PURE.

A slot that is folded has one value for ever, and the chain of hashes says which: whoever has
another cannot pass it off. So peers are asked what they hold for the slot (``Show``), chosen or
not. To ask for chosen values only (``Learn``) would not do: this node may be the only one that knows the
slot chosen, while the rest of the quorum that accepted it waits to learn from this very node.

Until it is repaired nobody is served from a damaged record, and nothing else waits for it. Slots
above the folded prefix are the core's business (``paxos.acceptor``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from journal.checksum import crc32
from journal.paxos.effects import Effects
from journal.paxos.messages import AcceptedValue, Envelope, Show, Shown
from journal.storage import Write
from journal.storage.log import LogStore
from journal.types import Ballot, NodeId, Slot

REPAIR_SLOTS_MAX = 64
"""Asked for at once."""

Vouch = Callable[[Slot, bytes], bool | None]
"""Whether an entry is what was folded in a slot; None: that is not known (``Slots.vouches``)."""


class LogRepair:
    """Which slots of the log are damaged, and who has been asked for them."""

    def __init__(self, node: NodeId, log: LogStore, retry_s: float) -> None:
        self.damaged: set[Slot] = set()
        self.repaired = 0
        """Slots repaired since the start."""
        self._node = node
        self._log = log
        self._retry_s = retry_s
        self._retry_at = 0.0
        self._attempt = 0

    def noticed(self, slot: Slot) -> bool:
        """The record of ``slot``, which is folded, is damaged. Whether that is news."""
        if slot in self.damaged:
            return False
        self.damaged.add(slot)
        self._retry_at = 0.0
        return True

    def trimmed(self, first: Slot) -> None:
        """The log begins with ``first`` now: what is before it need not be repaired."""
        if self.damaged:
            self.damaged = {slot for slot in self.damaged if slot >= first}

    def ask(self, now: float, peers: Iterable[NodeId]) -> list[Envelope]:
        """Return the question that is due: the first damaged slots, to the next peer in turn."""
        if not self.damaged or now < self._retry_at:
            return []
        others = sorted(peer for peer in peers if peer != self._node)
        if not others:
            return []
        self._retry_at = now + self._retry_s
        to = others[self._attempt % len(others)]
        self._attempt += 1
        first = min(self.damaged)
        last = first
        while last + 1 in self.damaged and last - first + 1 < REPAIR_SLOTS_MAX:
            last = Slot(last + 1)
        return [Envelope(self._node, to, Show(first, last))]

    def take(self, shown: Shown, vouch: Vouch) -> list[Write]:
        """Return the records that ``shown`` repairs."""
        found = []
        for slot, ballot, value in shown.entries:
            if slot not in self.damaged:
                continue
            identifier = self._log.identifier(slot)
            vouched = vouch(slot, value)
            if vouched is None:  # the outcome before the first one of the log is trimmed
                vouched = identifier is not None and identifier.checksum == crc32(value)
            if not vouched:
                continue  # accepted by somebody, but never chosen: ask another
            # As high as what was here: the acceptor does not go back.
            least = Ballot.ZERO if identifier is None else identifier.ballot
            self.damaged.discard(slot)
            found.append(AcceptedValue(slot, max(ballot, least), value))
        if found:
            self.repaired += len(found)
            self._retry_at = 0.0
        return self._log.writes_for(Effects(accepted=found)) if found else []
