"""Which instances are lost: away for longer than the grace period, or deregistered. PURE.

The journal says that an agent is away, not since when: each copy of the scheduler counts from
when it first saw it. So a copy that starts anew waits the whole period again, which errs on the
side of leaving tasks alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.records import InstanceStatus
from cluster.state import ClusterState

GRACE_S_DEFAULT = 60.0


class Losses:
    """Remembers since when each instance is away. ``now``: monotonic seconds."""

    def __init__(self, grace_s: float = GRACE_S_DEFAULT) -> None:
        if grace_s < 0:
            raise ValueError(f"the grace period must not be negative: {grace_s:g} s")
        self.grace_s = grace_s
        self._away: dict[tuple[str, str], float] = {}
        self._over: set[tuple[str, str]] = set()

    def look(self, state: ClusterState, clusters: Iterable[str], now: float) -> bool:
        """Take note of who is away in ``state``. True: somebody's grace is over since the last look."""
        away: dict[tuple[str, str], float] = {}
        for cluster in clusters:
            for view in state.instances(cluster):
                if not view.connected:
                    where = (cluster, view.id)
                    away[where] = self._away.get(where, now)
        self._away = away
        over = {where for where, since in away.items() if now >= since + self.grace_s}
        news = bool(over - self._over)
        self._over = over
        return news

    def wake_at(self, now: float) -> float:
        """Return when the next instance is lost (inf: none is away)."""
        due = [since + self.grace_s for since in self._away.values()]
        return min((at for at in due if at > now), default=float("inf"))

    def lost(self, state: ClusterState, cluster: str, instance: str, now: float) -> bool:
        """Say whether the tasks of an instance are to be replaced."""
        view = state.instance(cluster, instance)
        if view is None or view.status is InstanceStatus.INACTIVE:
            return True
        since = self._away.get((cluster, instance))
        return not view.connected and since is not None and now >= since + self.grace_s
