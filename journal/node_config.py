"""What a node is given: its settings, and the ports to time and network that a simulator swaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from journal.limits import Limits
from journal.paxos import PaxosConfig
from journal.paxos.messages import Envelope
from journal.status import DISK_FREE_BYTES_MIN
from journal.types import NodeId


class Clock(Protocol):
    """The node's only source of time."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since the epoch: stamped on entries for people, never compared."""
        ...

    async def sleep_until(self, deadline: float) -> None: ...


class Transport(Protocol):
    """Envelopes to and from the peers. May lose, repeat, delay and reorder them."""

    def start(self, deliver: Callable[[Envelope], None], hung_up: Callable[[NodeId], None]) -> None:
        """Deliver what arrives to ``deliver``, in the node's own thread, and tell ``hung_up`` which peer's
        connection has ended: that one has probably died. It may be told wrongly, or not at all."""
        ...

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Send without waiting; drops what its queues cannot hold."""
        ...

    def set_peers(self, endpoints: Mapping[NodeId, str]) -> None:
        """Say where the peers are. Called at the start and when the membership changes."""
        ...


class TrioClock:
    """Trio's clock: real in production, virtual under ``trio.testing.MockClock``."""

    def __init__(self, wall_ms: Callable[[], int]) -> None:
        self._wall_ms = wall_ms

    def now(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return self._wall_ms()

    async def sleep_until(self, deadline: float) -> None:
        await trio.sleep_until(deadline)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything that may be set about a node. ``validate`` checks it."""

    node: NodeId
    cluster: str
    """The cluster's id: peers and clients of another cluster are refused."""
    endpoint: str
    """Where clients and peers reach this node, ``host:port``."""
    paxos: PaxosConfig
    limits: Limits = field(default_factory=Limits)

    tick_interval_s: float = 0.025
    read_timeout_s: float = 3.0
    """How long a read waits for a leader to confirm it, or for a revision to arrive."""
    stop_timeout_s: float = 3.0
    """How long a stop waits for the handover and for what is in flight."""
    flush_interval_s: float = 0.1
    """How long folded state may wait for a log write to ride with."""
    retain_revisions: int = 0
    """The leader compacts what is older than the last so many revisions. 0: it does not by number."""
    retain_s: float = 0.0
    """The leader compacts what is older than so many seconds. 0: it does not by time."""
    pipeline_slots_max: int = 2
    """Slots in flight past which a part-full entry waits for more offers."""
    disk_free_bytes_min: int = DISK_FREE_BYTES_MIN
    """With less than this left on the data folder's file system, ``health`` raises an alarm."""

    def validate(self) -> None:
        """Raise ValueError that names the field that is wrong."""
        self.limits.validate()
        self.paxos.validate()
        if not self.cluster or len(self.cluster) > 64:
            raise ValueError(f"cluster must have 1 to 64 characters, not {self.cluster!r}")
        if self.paxos.node != self.node:
            raise ValueError(f"paxos.node is {self.paxos.node}, but node is {self.node}")
        if self.paxos.window_slots_max != self.limits.window_slots_max:
            raise ValueError("paxos.window_slots_max and limits.window_slots_max must be equal")
        for name in ("tick_interval_s", "read_timeout_s", "stop_timeout_s", "flush_interval_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        if self.retain_revisions < 0 or self.retain_s < 0:
            raise ValueError("retain_revisions and retain_s must not be negative")
        if self.disk_free_bytes_min < 0:
            raise ValueError("disk_free_bytes_min must not be negative")
        if not 1 <= self.pipeline_slots_max <= self.limits.window_slots_max:
            raise ValueError("pipeline_slots_max must be between 1 and window_slots_max")
