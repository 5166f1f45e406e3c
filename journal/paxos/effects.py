"""What the core wants done, in the order in which it must be done. PURE.

**The ordering contract.** The shell that drains an ``Effects`` must:

1. send ``send_now`` whenever it likes: none of it speaks of anything in ``persist``
   (a leader's Accept messages are here: its own write runs beside its sends);
2. make all of ``persist`` durable (one synced write serves any number of drained
   ``Effects``, in the order they were drained);
3. only then send ``send_durable``, and step those that are addressed to the node
   itself: the leader is one of its own acceptors, and its own acceptance counts
   when it is on its disk, like everybody's;
4. deliver ``chosen`` to the fold in slot order. It need not wait for ``persist``:
   a chosen value is already durable on a quorum. But what the fold writes (the applied
   slot above all) goes into the batch of this ``persist`` or a later one, never before it:
   a log record at or below the applied slot is believed to be the chosen one;
5. answer ``send_entries`` from the log only after ``persist``, of this drain and of all
   before it, is written: until then the log may hold an older value of a chosen slot, one
   that was accepted at a lower ballot and never chosen.

If ``persist`` cannot be made durable, the node stops; nothing of ``send_durable``
may be sent, ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from journal.paxos.messages import AcceptedValue, Envelope
from journal.types import Ballot, NodeId, Slot


class SendEntries(NamedTuple):
    """Answer a ``Learn``: read chosen slots ``first`` to ``last`` from the log (as many as the
    named limit takes) and send them to ``to`` as ``Learned``."""

    to: NodeId
    first: Slot
    last: Slot


class ReadReady(NamedTuple):
    """The read ``read`` may be answered once slot ``slot`` is folded. None: it failed, try again."""

    read: int
    slot: Slot | None


@dataclass(slots=True)
class Effects:
    promised: Ballot | None = None
    """To persist: the acceptor's promise, if it changed."""
    accepted: list[AcceptedValue] = field(default_factory=list)
    """To persist: accepted (or learned) values, in order; a later one for a slot replaces an earlier."""

    send_now: list[Envelope] = field(default_factory=list)
    send_durable: list[Envelope] = field(default_factory=list)
    chosen: list[AcceptedValue] = field(default_factory=list)
    """Newly chosen, contiguous, in slot order, each exactly once for the life of the core."""
    reads: list[ReadReady] = field(default_factory=list)
    send_entries: list[SendEntries] = field(default_factory=list)

    @property
    def must_persist(self) -> bool:
        return self.promised is not None or bool(self.accepted)

    def __bool__(self) -> bool:
        return bool(
            self.must_persist
            or self.send_now
            or self.send_durable
            or self.chosen
            or self.reads
            or self.send_entries
        )
