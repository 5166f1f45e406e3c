"""Reads that wait until this node may answer them. PURE.

A linearizable read waits twice: for a read-index round that the core confirms, then until the slot
that it names is folded here. Reads that come while a round is on its way share the next one: it must
begin after they came, and one for each would cost every node two messages a read. A lone read waits
for nobody. A read of "at least revision R" waits for the fold only. Bounded by ``reads_inflight_max``;
none waits longer than its deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from journal.errors import JournalError, Overloaded, RevisionInFuture, Unavailable
from journal.types import Revision, Slot

ReadReply = Callable[[Revision | JournalError], None]

RETRY_AFTER_MS = 50

ROUNDS_INFLIGHT_MAX = 1
"""Rounds on their way at once. The core repeats what is lost of one."""


@dataclass(slots=True, eq=False)
class _Waiting:
    reply: ReadReply
    deadline: float
    at_least: Revision
    slot: Slot | None = None
    """What must be folded first; None: the core has not said it yet."""


class ReadBarriers:
    """The waiting reads of one node. Every ``reply`` is called exactly once."""

    def __init__(self, reads_inflight_max: int, timeout_s: float) -> None:
        self._reads_max = reads_inflight_max
        self._timeout_s = timeout_s
        self._new: list[_Waiting] = []
        self._asked: dict[int, list[_Waiting]] = {}
        self._confirmed: list[_Waiting] = []
        self._rounds = 0
        self.waiting = 0

    def add(self, reply: ReadReply, now: float, *, at_least: Revision, linearizable: bool) -> None:
        """Take in a read. Raises ``Overloaded``."""
        if self.waiting >= self._reads_max:
            raise Overloaded("reads_inflight_max", self._reads_max, RETRY_AFTER_MS)
        self.waiting += 1
        read = _Waiting(reply, now + self._timeout_s, at_least)
        if linearizable:
            self._new.append(read)
        else:
            read.slot = Slot(0)
            self._confirmed.append(read)

    @property
    def is_due(self) -> bool:
        """Whether ``next_round`` has one to give."""
        return bool(self._new) and len(self._asked) < ROUNDS_INFLIGHT_MAX

    def next_round(self) -> int | None:
        """Return the number of a read-index round for what came since the last; None: none is due."""
        if not self.is_due:
            return None
        self._rounds += 1
        self._asked[self._rounds], self._new = self._new, []
        return self._rounds

    def confirmed(self, number: int, slot: Slot | None) -> None:
        """The core's answer to a round. None: no leader could prove itself; it is asked again."""
        reads = self._asked.pop(number, [])
        for read in reads:
            read.slot = slot
        (self._new if slot is None else self._confirmed).extend(reads)

    def answer(self, applied: Slot, revision: Revision) -> None:
        """Answer what can be answered from ``applied`` and ``revision``."""
        if self._confirmed:
            ready = [
                read
                for read in self._confirmed
                if read.slot is not None and read.slot <= applied and read.at_least <= revision
            ]
            self._finish(ready, lambda _read: revision)

    def expire(self, now: float, revision: Revision) -> None:
        """Answer what waited too long with the reason."""
        late = [read for read in self._all() if read.deadline <= now]
        self._finish(late, lambda read: self._why_late(read, revision))

    def fail(self, error: JournalError) -> None:
        """Answer everything with ``error``."""
        self._finish(self._all(), lambda _read: error)

    def _why_late(self, read: _Waiting, revision: Revision) -> JournalError:
        within = f"within {self._timeout_s:g} s"
        if read.slot is None:
            return Unavailable(f"no leader confirmed the read {within}: is a majority of the nodes up?")
        if read.at_least > revision:
            return RevisionInFuture(read.at_least, revision)
        return Unavailable(f"this node did not catch up to slot {read.slot} {within}")

    def _all(self) -> list[_Waiting]:
        return [*self._new, *(read for reads in self._asked.values() for read in reads), *self._confirmed]

    def _finish(self, reads: list[_Waiting], result: Callable[[_Waiting], Revision | JournalError]) -> None:
        """Forget ``reads``, then answer them: a reply may add new ones."""
        if not reads:
            return
        gone = set(map(id, reads))
        self._new = [read for read in self._new if id(read) not in gone]
        self._confirmed = [read for read in self._confirmed if id(read) not in gone]
        for number, asked in list(self._asked.items()):
            self._asked[number] = [read for read in asked if id(read) not in gone]
            if not self._asked[number]:
                del self._asked[number]
        self.waiting -= len(reads)
        for read in reads:
            read.reply(result(read))
