"""Which tasks of a service to start and to stop, within its bounds. PURE.

Knows nothing of records: a service is a list of members, each with a phase. Starting is asked
first (``starts``), then placement says how many of them have a place, then ``stops`` is told how
many have none for want of room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

STOPS_MAX = 50
"""Tasks that one step stops for one reason at most: the rest follows in the next. The journal limits the
operations of an offer."""


class Phase(StrEnum):
    """What a service's task counts as."""

    PENDING = "PENDING"
    """It should run and does not yet, or is not known to be healthy yet."""
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    """It runs, and its health check says that it is of no use."""
    AWAY = "AWAY"
    """Its instance is not connected: it may run or not. Counts as taking up room, not as healthy."""
    STOPPING = "STOPPING"
    """It was asked to stop, and still takes up room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A task of a service that has not ended."""

    id: str
    instance: str
    phase: Phase
    deployment: str
    zone: str = ""
    created_at: float = 0.0
    leaving: bool = False
    """Its instance is draining (or, of a daemon, should not have it)."""
    protected: bool = False
    """It is not stopped while it is healthy: its own application asked for that."""

    @property
    def active(self) -> bool:
        return self.phase is not Phase.STOPPING

    @property
    def healthy(self) -> bool:
        return self.phase is Phase.HEALTHY


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is wanted: so many tasks of deployment ``primary``, within the bounds."""

    primary: str
    desired: int
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Starts:
    """``count`` tasks may be started now; ``short`` more are wanted and must wait for room."""

    count: int
    short: int


def keeps(member: Member, goal: Goal) -> bool:
    """Say whether a member is one of those that are to be: of the primary, and to stay."""
    return (
        member.deployment == goal.primary
        and not member.leaving
        and member.phase not in (Phase.STOPPING, Phase.UNHEALTHY)
    )


def starts(members: Sequence[Member], goal: Goal) -> Starts:
    """Return how many tasks of the primary may be started."""
    kept = sum(keeps(member, goal) for member in members)
    missing = max(0, goal.desired - kept)
    count = min(missing, max(0, goal.maximum - len(members)))
    return Starts(count, missing - count)


def stops(members: Sequence[Member], goal: Goal, short: int, limit: int = STOPS_MAX) -> list[Member]:
    """Return which members to stop, in order, ``limit`` at most.

    ``short``: tasks that are wanted and have no room. Those that are stopping already will make
    some, so only for the others healthy ones are given up, and never below the minimum.
    What is not healthy goes at once, for it serves nobody.
    """
    active = [member for member in members if member.active]
    kept = [member for member in active if keeps(member, goal)]
    leavers = [member for member in active if not keeps(member, goal)]
    healthy = sum(member.healthy for member in active)
    budget = max(0, healthy - goal.minimum)
    short = max(0, short - (len(members) - len(active)))
    # Who is away may well run and serve: it is given up only where the others are enough.
    useless = (
        (Phase.PENDING, Phase.UNHEALTHY, Phase.AWAY)
        if healthy >= goal.minimum
        else (Phase.PENDING, Phase.UNHEALTHY)
    )
    chosen = [member for member in leavers if member.phase in useless]
    left = [member for member in leavers if member.healthy and not member.protected]
    wanted = max(0, min(len(left), budget, max(healthy - goal.desired, short)))
    chosen += _crowded_first(left, active, min(wanted, limit))
    budget -= wanted
    excess = len(kept) - goal.desired
    if excess > 0:
        idle = [member for member in kept if member.phase in useless]
        chosen += _crowded_first(idle, kept, min(excess, len(idle), limit))
        busy = [member for member in kept if member.healthy and not member.protected]
        chosen += _crowded_first(busy, kept, min(excess - min(excess, len(idle)), budget, limit))
    return chosen[:limit]


def _crowded_first(candidates: Iterable[Member], among: Iterable[Member], count: int) -> list[Member]:
    """Choose ``count`` of the candidates: those that are leaving, then from the most crowded zone, then
    from the most crowded instance, then the newest."""
    left = list(candidates)
    zones = Counter(member.zone for member in among)
    instances = Counter(member.instance for member in among)
    chosen: list[Member] = []
    while left and len(chosen) < count:
        best = max(
            left,
            key=lambda m: (m.leaving, zones[m.zone], instances[m.instance], m.created_at, m.id),
        )
        left.remove(best)
        chosen.append(best)
        zones[best.zone] -= 1
        instances[best.instance] -= 1
    return chosen


@dataclass(frozen=True, slots=True)
class DaemonMoves:
    """Where to start a daemon's task, and which members to stop."""

    start: tuple[str, ...]
    stop: tuple[Member, ...]


def daemon(members: Sequence[Member], goal: Goal, eligible: Sequence[str]) -> DaemonMoves:
    """Return the moves of a DAEMON service: one task of the primary on each eligible instance.

    An instance never has two: an older deployment's task is stopped, and must be gone, before
    the new one starts there. ``goal.desired`` is the number of eligible instances.
    """
    taken = {member.instance for member in members}
    keepers: set[str] = set()
    leavers = []
    for member in sorted(members, key=lambda m: (m.created_at, m.id)):
        if not member.active:
            continue
        if keeps(member, goal) and member.instance not in keepers:
            keepers.add(member.instance)
        else:
            leavers.append(member)
    healthy = sum(member.healthy for member in members)
    budget = max(0, healthy - goal.minimum)
    enough = healthy >= goal.minimum
    stop = [m for m in leavers if not m.healthy and (enough or m.phase is not Phase.AWAY)]
    stop += [member for member in leavers if member.healthy and not member.protected][:budget]
    start = [instance for instance in eligible if instance not in taken]
    return DaemonMoves(tuple(start), tuple(stop[:STOPS_MAX]))
