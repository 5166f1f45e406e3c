"""Repair of the log: damaged values of chosen slots, fetched again from peers. PURE.

A slot at or below the chosen prefix has one value for ever, and whoever knows it chosen tells it to
anybody who asks (``Learn``). So a damaged record there is no matter of votes: until it is repaired
nobody is served from it, and nothing else waits for it. Slots above the chosen prefix are the core's
business (``paxos.acceptor``).

What a peer sends is believed like any chosen value, but where this node's identifier of the slot
is intact, the value must have the checksum that it gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from journal.paxos.effects import Effects
from journal.paxos.messages import Envelope, Learn, Learned
from journal.storage import Write
from journal.storage.log import LogStore
from journal.types import NodeId, Slot

REPAIR_SLOTS_MAX = 64
"""Asked for at once."""


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
        """The record of ``slot``, which is chosen, is damaged. Whether that is news."""
        if slot in self.damaged:
            return False
        self.damaged.add(slot)
        self._retry_at = 0.0
        return True

    def trimmed(self, first: Slot) -> None:
        """The log begins with ``first`` now: what is before it need not be repaired."""
        self.damaged = {slot for slot in self.damaged if slot >= first}

    def ask(self, now: float, peers: Iterable[NodeId]) -> list[Envelope]:
        """Return the question that is due: the first damaged slots, to the next peer in turn."""
        others = sorted(peer for peer in peers if peer != self._node)
        if not self.damaged or not others or now < self._retry_at:
            return []
        self._retry_at = now + self._retry_s
        to = others[self._attempt % len(others)]
        self._attempt += 1
        first = min(self.damaged)
        last = first
        while last + 1 in self.damaged and last - first + 1 < REPAIR_SLOTS_MAX:
            last = Slot(last + 1)
        return [Envelope(self._node, to, Learn(first, last))]

    def take(self, learned: Learned) -> list[Write]:
        """Return the records that ``learned`` repairs."""
        if not self.damaged:
            return []
        found = []
        for record in learned.entries:
            if record.slot not in self.damaged:
                continue
            identifier = self._log.identifier(record.slot)
            if identifier is not None and identifier.checksum not in (None, crc32(record.value)):
                continue  # not what this node knows chosen: ask another
            self.damaged.discard(record.slot)
            found.append(record)
        if found:
            self.repaired += len(found)
            self._retry_at = 0.0
        return self._log.writes_for(Effects(accepted=found)) if found else []
