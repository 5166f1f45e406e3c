"""Where the tasks of a call go: asks ``schedulers.placement``, and says in ECS's terms what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from api.calls import Call
from cluster.records import PlacementConstraint, PlacementStrategy, Task, TaskDefinition, TokenFailure
from cluster.state import ClusterState
from schedulers.placement import Request, _candidate, place, refuse


@dataclass(frozen=True, slots=True)
class Placement:
    """An instance for each task that has a place, and why others have none."""

    instances: tuple[str, ...]
    failures: tuple[TokenFailure, ...] = ()
    alone: bool = False


def choose(
    call: Call,
    state: ClusterState,
    cluster: str,
    definition: TaskDefinition,
    task: Task,
    count: int,
    constraints: Sequence[PlacementConstraint],
    strategy: Sequence[PlacementStrategy],
) -> Placement:
    request = Request(cluster=cluster, cpu=task.cpu, memory=task.memory, ports=task.ports, count=count)
    plan = place(state, request, call.api.rng)
    failures = []
    if plan.unplaced:
        failures = [
            TokenFailure(instance=i, reason=r.code, detail=r.reason) for i, r in sorted(plan.refused.items())
        ]
        failures = failures or [TokenFailure(reason="No Container Instances were found in your cluster.")]
    return Placement(plan.placements, tuple(failures))


def refusal(
    state: ClusterState, cluster: str, instance: str, definition: TaskDefinition, task: Task
) -> TokenFailure | None:
    """Return why one instance does not take a task; None if it does."""
    request = Request(cluster=cluster, cpu=task.cpu, memory=task.memory, ports=task.ports, count=1)
    view = state.instance(cluster, instance)
    assert view is not None
    refused = refuse(_candidate(view), request)
    if refused is None:
        return None
    return TokenFailure(instance=instance, reason=refused.code, detail=refused.reason)
