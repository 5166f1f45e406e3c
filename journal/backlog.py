"""How much a node has learned that it has not folded and stored yet. PURE.

A node that is far behind is sent entries faster than it can fold them, or than its disk takes them. What is
between waits in memory: so past ``learned_bytes_max`` it asks for no more (``Paxos.sated``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from journal.paxos.messages import AcceptedValue
from journal.types import Slot


class Backlog:
    """The sizes of chosen entries, until the slot is folded and all of it is in storage."""

    __slots__ = ("_slots", "bytes")

    def __init__(self) -> None:
        self.bytes = 0
        self._slots: deque[tuple[Slot, int]] = deque()

    def chosen(self, entries: Iterable[AcceptedValue]) -> None:
        """Count entries in, in slot order."""
        for slot, _ballot, value in entries:
            size = len(value)
            self.bytes += size
            self._slots.append((slot, size))

    def stored(self, slot: Slot) -> None:
        """Count out every slot up to ``slot``."""
        slots = self._slots
        while slots and slots[0][0] <= slot:
            self.bytes -= slots.popleft()[1]
