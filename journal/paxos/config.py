"""What the core is told at its start, and the words for what it is. PURE."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from journal.paxos.membership import Membership
from journal.paxos.messages import AcceptedValue, LostValue
from journal.types import Ballot, NodeId, Slot


class Role(enum.Enum):
    """What a node is at its promised ballot. A pre-vote binds nobody, so who asks for one is a follower."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


class PeerProgress(NamedTuple):
    """What a leader knows of a peer: how far it has learned, and when it was last heard (seconds)."""

    chosen: Slot
    last_heard: float
    full: bool = False
    """Whether it says that its disk is full but for the reserve."""


class Recovered(NamedTuple):
    """What storage found at start. A new node has ``Ballot.ZERO``, slot 0 and its first membership."""

    promised: Ballot
    applied: Slot
    """All slots up to here are chosen and folded already."""
    accepted: tuple[AcceptedValue, ...]
    """The records above ``applied``: accepted, and perhaps chosen, which must be learned again."""
    memberships: tuple[tuple[Slot, Membership], ...]
    """(first slot it rules, membership), oldest first; never empty."""
    lost: tuple[LostValue, ...] = ()
    """Slots above ``applied`` whose record is damaged; in none of them is there an accepted one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaxosConfig:
    """The core's settings. ``validate`` checks every field."""

    node: NodeId
    window_slots_max: int = 32
    """Slots in flight, and how far behind its entry a membership starts to rule. All nodes
    of a cluster must have the same (peers check it)."""
    election_timeout_s: float = 1.0
    """A follower stands after a silence of one to two of these, drawn at random; a leader that
    has not heard a quorum for one of these steps down."""
    hang_up_grace_s: float = 0.1
    """A follower whose connection to the leader has ended bears a silence of one to two of these only:
    a process that died is noticed at once, and one that only lost a connection speaks again within that."""
    heartbeat_interval_s: float = 0.1
    retry_interval_s: float = 0.2
    """Prepare, Accept, Learn, ReadIndex and TakeOver are sent again after this long unanswered."""
    message_bytes_max: int = 1024 * 1024
    """Values put into one Promise, and values sent again to one peer at once. A single value
    may be bigger: it then travels alone."""
    learn_slots_max: int = 256
    """Slots asked for with one Learn (the shell bounds the bytes of the answer)."""
    accept_ahead_windows_max: int = 4
    """An acceptor takes no slot further than this many windows above its chosen prefix: it learns
    first. This bounds what a lagging node keeps in memory and has to put into a Promise."""

    @property
    def accept_ahead_slots_max(self) -> int:
        return self.window_slots_max * self.accept_ahead_windows_max

    def validate(self) -> None:
        """Raise ``ValueError`` where a field is out of range or two contradict."""
        if not 1 <= self.node < 2**32:
            raise ValueError(f"node must be 1 to 2**32 - 1, not {self.node}")
        for name in ("window_slots_max", "message_bytes_max", "learn_slots_max", "accept_ahead_windows_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("election_timeout_s", "hang_up_grace_s", "heartbeat_interval_s", "retry_interval_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.heartbeat_interval_s * 2 > self.election_timeout_s:
            raise ValueError("heartbeat_interval_s must be at most half of election_timeout_s")
        if self.retry_interval_s > self.election_timeout_s:
            raise ValueError("retry_interval_s must be at most election_timeout_s")
