"""What nodes say to each other, one frozen class for one message. PURE.

An ``Envelope`` carries one of them from a node to a node. The network may lose,
repeat, delay and reorder envelopes; nothing here relies on it doing otherwise.
A value is opaque bytes to the core, but for membership entries (``entries.py``).

Every message carries the ballot its sender speaks for, except where the text
says that it is a question that binds nobody (PreVote, Learn, ReadIndex).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from journal.types import Ballot, NodeId, Slot


class AcceptedValue(NamedTuple):
    """What an acceptor holds for a slot: the ballot it was accepted at, and the value."""

    slot: Slot
    ballot: Ballot
    value: bytes


class LostValue(NamedTuple):
    """What an acceptor knows of a slot whose record is damaged: it held a value, which it cannot read.

    It has accepted nothing there **above** ``ballot``. Where the record's identifier is intact that
    is the very ballot it accepted at; else the ballot it had promised, which bounds all it did.
    """

    slot: Slot
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class PreVote:
    """Would you promise this ballot? Binds nobody; keeps a cut-off node from disturbing a leader."""

    ballot: Ballot
    chosen: Slot
    """All slots up to this one are known chosen to the asker."""


@dataclass(frozen=True, slots=True)
class PreVoteReply:
    ballot: Ballot
    granted: bool
    promised: Ballot
    """The highest ballot the answerer has promised: the asker's next must be above it."""
    chosen: Slot
    """How far the answerer knows: an asker that lags learns first."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Phase 1a for all slots from ``first`` on (Paxos Made Simple, section 3)."""

    ballot: Ballot
    first: Slot


@dataclass(frozen=True, slots=True)
class Promise:
    """Phase 1b: what was accepted above ``chosen``, which the answerer knows chosen up to.

    It comes in pages: one speaks of the slots from its ``first`` to the last that it carries;
    one that carries none speaks of every slot from ``first`` on, and is the last.
    """

    ballot: Ballot
    first: Slot
    chosen: Slot
    accepted: tuple[AcceptedValue, ...]
    lost: tuple[LostValue, ...] = ()
    """Slots in which the answerer accepted a value that its disk has damaged. Carried like the others."""

    @property
    def last(self) -> Slot | None:
        """The last slot that this page carries. None: it carries none."""
        slots = [records[-1].slot for records in (self.accepted, self.lost) if records]
        return max(slots, default=None)


@dataclass(frozen=True, slots=True)
class Nack:
    """I have promised ``promised``, which is above the ballot you speak for."""

    ballot: Ballot
    promised: Ballot


@dataclass(frozen=True, slots=True)
class Accept:
    """Phase 2a for one slot. ``chosen``: every slot up to it is chosen."""

    ballot: Ballot
    slot: Slot
    value: bytes
    chosen: Slot


@dataclass(frozen=True, slots=True)
class Accepted:
    """Phase 2b: these slots are accepted at ``ballot`` and durable. One for many slots."""

    ballot: Ballot
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The leader lives; every slot up to ``chosen`` is chosen. ``probe`` serves read-index; 0 asks
    for no answer."""

    ballot: Ballot
    chosen: Slot
    probe: int


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    ballot: Ballot
    probe: int
    chosen: Slot
    """How far the answerer knows: shows its lag, and makes a transfer safe to start."""
    full: bool = False
    """The answerer's disk is full but for its reserve: the leader takes nothing that needs more."""


@dataclass(frozen=True, slots=True)
class Learn:
    """Send me the chosen values from ``first`` to ``last``. Binds nobody."""

    first: Slot
    last: Slot


@dataclass(frozen=True, slots=True)
class Learned:
    """Chosen values, contiguous from the first; ``chosen`` is how far the answerer knows."""

    chosen: Slot
    entries: tuple[AcceptedValue, ...]


@dataclass(frozen=True, slots=True)
class ReadIndex:
    """A follower asks for the slot that a linearizable read must wait for. Binds nobody."""

    read: int


@dataclass(frozen=True, slots=True)
class ReadIndexReply:
    """``slot`` is None where the answerer is not a leader that can prove it."""

    read: int
    slot: Slot | None


@dataclass(frozen=True, slots=True)
class TakeOver:
    """The leader hands over: the receiver starts phase 1 at once, with no pre-vote."""

    ballot: Ballot
    chosen: Slot


# -- snapshots: from shell to shell (``journal.snapshots``). The core never sees them ------------


@dataclass(frozen=True, slots=True)
class Trimmed:
    """Answers a Learn of slots that are in the log no more: it begins with ``first``. What is before
    that can be had as a snapshot."""

    first: Slot
    chosen: Slot


@dataclass(frozen=True, slots=True)
class SnapshotAsk:
    """Send me what follows the record ``after`` (empty: what comes first) in the view that I call
    ``view``. Asked again until it is answered: the same question has the same answer."""

    view: int
    after: bytes


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """The records that follow ``after``, packed; ``checksum`` is over all else that is said here."""

    view: int
    after: bytes
    records: bytes
    end: bytes
    """With the last chunk: what the whole of it must come to (``snapshots.End``); else empty."""
    checksum: int


@dataclass(frozen=True, slots=True)
class SnapshotRefused:
    """No such view (any more), or not now."""

    view: int
    is_gone: bool
    """The view is not there: start again with another. Else: ask again later."""
    reason: str


# -- repair: from shell to shell (``journal.repair``) ---------------------------------------------


@dataclass(frozen=True, slots=True)
class Show:
    """Send me what you hold for the slots from ``first`` to ``last``, chosen or not: my own records of
    them are damaged, and I can tell the right ones. Binds nobody."""

    first: Slot
    last: Slot


@dataclass(frozen=True, slots=True)
class Shown:
    """What the answerer holds, which may never have been chosen. The core must not see it."""

    entries: tuple[AcceptedValue, ...]


RepairMessage = Show | Shown
REPAIR_MESSAGES = (Show, Shown)

SnapshotMessage = Trimmed | SnapshotAsk | SnapshotChunk | SnapshotRefused
SNAPSHOT_MESSAGES = (Trimmed, SnapshotAsk, SnapshotChunk, SnapshotRefused)

Message = (
    PreVote
    | PreVoteReply
    | Prepare
    | Promise
    | Nack
    | Accept
    | Accepted
    | Heartbeat
    | HeartbeatReply
    | Learn
    | Learned
    | ReadIndex
    | ReadIndexReply
    | TakeOver
    | SnapshotMessage
    | RepairMessage
)


class Envelope(NamedTuple):
    sender: NodeId
    to: NodeId
    message: Message


def message_bytes(message: Message) -> int:
    """Return about how many bytes a peer message takes in a queue, of messages or of writes."""
    if isinstance(message, Accept):
        return 96 + len(message.value)
    if isinstance(message, Promise):
        return 96 + sum(64 + len(item.value) for item in message.accepted) + 48 * len(message.lost)
    if isinstance(message, (Learned, Shown)):
        return 96 + sum(64 + len(item.value) for item in message.entries)
    if isinstance(message, SnapshotChunk):
        return 96 + len(message.after) + len(message.records) + len(message.end)
    return 96
