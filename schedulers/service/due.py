"""Which services to look at again: those that something is new about. PURE.

A change of a service, of its index or of one of its tasks concerns that service; of an instance, all
of its cluster's; of what is left somewhere, those that wait for room.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster import keys
from cluster.keys import Kind
from cluster.state import ClusterState

Name = tuple[str, str]
"""A cluster and a service of it."""

_INSTANCE = (Kind.INSTANCE, Kind.SETTINGS, Kind.ALIVE)
_OWN = (Kind.SERVICE, Kind.ROLLOUT, Kind.SERVICE_TASK)
_NEVER = float("-inf")


class Due:
    """When to look at each service. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._at: dict[Name, float] = {}
        self._waiting: set[Name] = set()
        """Services with a task that has no room."""

    def everything(self, state: ClusterState, clusters: Iterable[str] | None = None) -> None:
        for cluster in state.clusters if clusters is None else clusters:
            for view in state.services(cluster):
                self._at[cluster, view.name] = _NEVER

    def note(self, state: ClusterState, changed: Iterable[bytes]) -> bool:
        """Take in the keys of a commit that ``state`` has folded. True: it is about an instance."""
        instances = False
        for key in changed:
            parsed = keys.parse(key)
            if parsed is None:
                continue
            if parsed.kind in _OWN:
                self._at[parsed.cluster, parsed.service] = _NEVER
            elif parsed.kind in (Kind.TASK, Kind.STATUS):
                view = state.task(parsed.cluster, parsed.task)
                if view is not None and view.task.service:
                    self._at[parsed.cluster, view.task.service] = _NEVER
            elif parsed.kind in _INSTANCE:
                self.everything(state, [parsed.cluster])
                instances = True
            elif parsed.kind in (Kind.CAPACITY, Kind.TASK_DEFINITION):
                for name in self._waiting:
                    self._at[name] = _NEVER
        return instances

    def again(self, name: Name, at: float) -> None:
        """Look at a service at ``at``, if nothing is new about it before."""
        self._at[name] = min(at, self._at.get(name, float("inf")))

    def settled(self, name: Name, *, waiting: bool) -> None:
        """A service was looked at."""
        self._at.pop(name, None)
        if waiting:
            self._waiting.add(name)
        else:
            self._waiting.discard(name)

    def take(self, now: float) -> list[Name]:
        """Return the services to look at now, in order; ``settled`` says that it was done."""
        return sorted(name for name, at in self._at.items() if at <= now)

    def next_at(self) -> float:
        return min(self._at.values(), default=float("inf"))
