"""The acceptor: promises and accepted values. PURE.

What it must never do, or a chosen value could change (Paxos Made Simple, 2.2):

* accept, or promise, below its promise (P1a);
* forget a promise or an acceptance that it has told anybody of. So Promise and
  Accepted go through ``Outbox.send_durable``, behind the record they speak of;
* lower the ballot of an acceptance. A learned value therefore replaces an accepted
  one only at a higher ballot (``Learner.learn`` holds the argument).

Accepting at a ballot promises it: ``promised`` is at or above every record's ballot.

**A damaged record is not an absent one.** The disk may damage the value of a slot. The acceptor
then still knows that it accepted something there, and no higher than at which ballot
(``LostValue``); a Promise says so, and ``Phase1`` works with that. It may not act as if the slot
were empty, or one that it helped to choose would be chosen anew (``election.py`` has the argument).
Accepting a value at a higher ballot, at the same ballot again (the leader sends what it has sent
before), or learning the chosen one gives the slot a record again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from journal.errors import ProtocolViolation
from journal.paxos.membership import membership_of
from journal.paxos.messages import AcceptedValue, LostValue, Promise
from journal.paxos.outbox import Outbox
from journal.types import Ballot, Slot


class Acceptor:
    """One for all slots. ``log`` holds the records above the chosen prefix only."""

    def __init__(
        self,
        promised: Ballot,
        accepted: Iterable[AcceptedValue],
        outbox: Outbox,
        lost: Iterable[LostValue] = (),
    ) -> None:
        self.promised = promised
        self.log: dict[Slot, AcceptedValue] = {}
        self.lost: dict[Slot, LostValue] = {}
        """Slots that have no entry in ``log`` because the disk has damaged it."""
        self.check_value: Callable[[bytes], object] = membership_of
        """Raises ``ProtocolViolation`` for what must not be accepted."""
        self._outbox = outbox
        for damaged in lost:
            self.lost[damaged.slot] = damaged
            self.promised = max(self.promised, damaged.ballot)
        for record in accepted:
            assert record.slot not in self.lost
            self.log[record.slot] = record
            if record.ballot > self.promised:  # storage lost nothing: accepting implies promising
                self.promised = record.ballot

    def promise(self, ballot: Ballot) -> None:
        """Never again act for a ballot below ``ballot``."""
        assert ballot > self.promised, f"promise {ballot} is not above {self.promised}"
        self.promised = ballot
        self._outbox.persist_promise(ballot)

    def check(self, record: AcceptedValue) -> AcceptedValue | None:
        """Return what is held for the slot of ``record``.

        Raises ``ProtocolViolation`` for what may never be accepted: a second value at one
        ballot, or a value that ``check_value`` refuses (chosen, it would stop every node).
        """
        held = self.log.get(record.slot)
        if held is not None and held.ballot == record.ballot:
            if held.value != record.value:
                raise ProtocolViolation(f"slot {record.slot} has two values at ballot {record.ballot}")
        else:
            self.check_value(record.value)
        return held

    def accept(self, record: AcceptedValue) -> None:
        """Hold ``record``, over an older one of its slot, and persist it."""
        assert record.ballot <= self.promised, f"accept at {record.ballot} without having promised it"
        held = self.log.get(record.slot)
        assert held is None or held.ballot < record.ballot, f"slot {record.slot} would go back"
        # A lost value does not matter here. A leader's ballot is at or above all that this node accepted;
        # and a learned value that is chosen at c comes at c or above, which is all that ``Phase1`` needs.
        self.lost.pop(record.slot, None)
        self.log[record.slot] = record
        self._outbox.persist_accepted(record)

    def forget(self, slot: Slot) -> None:
        """``slot`` joined the chosen prefix: its record on disk is final, memory need not hold it."""
        self.log.pop(slot, None)
        self.lost.pop(slot, None)

    def promises(self, first: Slot, chosen: Slot, bytes_max: int) -> list[Promise]:
        """Return the answer to a Prepare, in pages of about ``bytes_max``.

        A Promise speaks of the slots from its ``first`` to the last that it carries; one that
        carries none speaks of every slot from ``first`` on. So the last page is always an
        empty one, a page can be lost and asked for again, and a candidate knows what it lacks.
        Slots up to ``chosen`` are not reported: they are to be learned.
        """
        first = max(first, Slot(chosen + 1))
        pages: list[Promise] = []
        page: list[AcceptedValue] = []
        lost: list[LostValue] = []
        page_bytes = 0

        def turn() -> None:
            nonlocal first, page, lost, page_bytes
            if page or lost:
                promise = Promise(self.promised, first, chosen, tuple(page), tuple(lost))
                pages.append(promise)
                first = Slot((promise.last or 0) + 1)
                page, lost, page_bytes = [], [], 0

        for slot in sorted(slot for slot in (*self.log, *self.lost) if slot >= first):
            record = self.log.get(slot)
            if record is None:
                lost.append(self.lost[slot])
                continue
            if (page or lost) and page_bytes + len(record.value) > bytes_max:
                turn()
            page.append(record)
            page_bytes += len(record.value)
        turn()
        pages.append(Promise(self.promised, first, chosen, ()))
        return pages
