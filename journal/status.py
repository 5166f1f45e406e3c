"""What a node says of itself, and what is to be alarmed about. PURE.

``NodeStatus`` is what an operator, a client or a probe is told; ``alarms_of`` and ``not_ready``
are the rules behind its ``health`` and behind ``/readyz``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from journal.counters import Histogram
from journal.types import NodeId, Revision, Slot

READY_LAG_SLOTS_MAX = 100
"""Under load every follower is a little behind, and is ready all the same."""

DISK_FREE_BYTES_MIN = 512 * 1024 * 1024

WRITE_SLOW_S = 1.0
"""A write to the disk that takes longer than this is worth an alarm: elections are near."""

WRITE_STUCK_S = 30.0
"""A disk that has not answered for so long will not: the process had better be restarted elsewhere."""


class NodeMember(NamedTuple):
    """A member as the membership that rules now has it."""

    node: NodeId
    endpoint: str
    voter: bool


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """The streams between this node and one peer, as the transport sees them."""

    connected: bool
    """The stream to it stands."""
    heard_ago_s: float | None
    """When it last said anything. None: never."""
    round_trip_s: float | None
    """Of the last ping that it answered. None: it answered none since the stream stands."""
    why: str = ""
    """Why the stream does not stand, where that is known."""
    queue_bytes: int = 0
    """What waits to be sent to it."""
    dropped: int = 0
    """Messages that did not fit the queue, since the start."""
    round_trips: Histogram | None = None
    """Of all pings that it answered."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What a node knows of another member."""

    node: NodeId
    connected: bool
    """This node's stream to it stands."""
    heard_ago_s: float | None
    """Seconds since it last said anything to this node. None: never."""
    round_trip_s: float | None
    """There and back, of the last ping that it answered. None: none was answered."""
    chosen: Slot
    """How far it is known to have learned. 0: it never said."""
    lag: int
    """Slots that it is behind this node, as far as ``chosen`` tells; 0 where it never said."""
    why: str
    """Why there is no stream to it; empty where there is one, or where nobody knows."""


class Alarm(NamedTuple):
    """Something that a person should look at."""

    name: str
    text: str


ALARMS = (
    "stopping",
    "disowned",
    "removed",
    "no_leader",
    "catching_up",
    "disk_full",
    "damaged",
    "disk_nearly_full",
    "disk_slow",
)
"""Every alarm there is, the gravest first."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself."""

    node: NodeId
    cluster: str
    endpoint: str
    role: str
    leader: NodeId | None
    ballot: str
    revision: Revision
    applied: Slot
    chosen: Slot
    lag: int
    """Slots that a node known to this one is ahead of it."""
    chain: str
    """Hash of everything folded up to ``applied``, in hex."""
    compacted: Revision
    disk_bytes: int
    offers_inflight: int
    tails: int
    leases: int
    uptime_s: float
    members: tuple[NodeMember, ...]
    health: str
    """``ok``, or what is wrong: the texts of all alarms."""
    pid: int = 0
    """The process, where there is one of its own."""
    peers: tuple[PeerStatus, ...] = ()
    """What it knows of each other member."""
    disk_free_bytes: int | None = None
    """Where its data is. None: nobody can say (memory, a simulation)."""


def alarms_of(
    *,
    stopping: bool,
    disowned: str,
    removed: bool,
    leaderless: str,
    lag: int,
    lag_max: int,
    disk_free_bytes: int | None,
    disk_free_bytes_min: int,
    write_s: float,
    snapshot: str = "",
    disk_full: str = "",
    damaged: str = "",
) -> tuple[Alarm, ...]:
    """Return what is wrong, the gravest first. A node that is out of the cluster (``stopping``, ``disowned``
    and why, ``removed``) has no other alarms but its disk's. ``leaderless``: why there is no leader,
    empty where there is one. ``write_s``: how long a write to the disk has been under way by now.
    ``snapshot``: what it is about with one, where it needs one to catch up.
    ``disk_full``: whose disk stops offers; ``damaged``: which records are; empty where that is not so."""
    found = []
    if stopping:
        found.append(Alarm("stopping", "stopping"))
    elif disowned:
        found.append(Alarm("disowned", f"takes no part any more: {disowned}"))
    elif removed:
        found.append(Alarm("removed", "was removed from the cluster: stop it"))
    elif leaderless:
        found.append(Alarm("no_leader", leaderless))
    elif lag > lag_max or snapshot:
        found.append(Alarm("catching_up", f"catching up: {snapshot or f'{lag} slots behind'}"))
    if disk_full:
        found.append(Alarm("disk_full", disk_full))
    if damaged:
        found.append(Alarm("damaged", damaged))
    if disk_free_bytes is not None and disk_free_bytes < disk_free_bytes_min:
        free, least = disk_free_bytes >> 20, disk_free_bytes_min >> 20
        found.append(Alarm("disk_nearly_full", f"disk nearly full: {free} MiB free, alarm below {least} MiB"))
    if write_s > WRITE_SLOW_S:
        found.append(Alarm("disk_slow", f"slow disk: a write has been under way for {write_s:.0f} s"))
    return tuple(found)


def health_of(alarms: tuple[Alarm, ...]) -> str:
    """Return ``ok``, or the alarms in words."""
    return "; ".join(alarm.text for alarm in alarms) or "ok"


_UNFIT = ("stopping", "disowned", "removed", "no_leader")


def not_ready(alarms: tuple[Alarm, ...], lag: int) -> str:
    """Return why a node should be sent no clients at present; empty where it is ready."""
    for alarm in alarms:
        if alarm.name in _UNFIT:
            return alarm.text
    if lag > READY_LAG_SLOTS_MAX:
        return f"{lag} slots behind, ready from {READY_LAG_SLOTS_MAX}"
    return ""
