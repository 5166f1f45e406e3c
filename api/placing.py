"""Where the tasks of a call go: asks ``schedulers.placement``, and says in ECS's terms what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from api.calls import Call
from api.errors import invalid
from cluster.feasible import Judge, Need
from cluster.records import PlacementConstraint, PlacementStrategy, Task, TaskDefinition, TokenFailure
from cluster.state import ClusterState
from schedulers.placement import Request, StrategyInvalid, place

FAILURES_MAX = 100
"""Failures of one answer: of more instances that refuse, the first by id are told."""


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
    need = Need(claim=task.claim, group=task.group, constraints=tuple(constraints))
    request = Request(cluster=cluster, need=need, count=count, strategy=tuple(strategy))
    try:
        plan = place(state, request, call.api.rng)
    except StrategyInvalid as error:
        raise invalid(f"placementStrategy: {error}.") from None
    failures = []
    if plan.unplaced:
        failures = [
            TokenFailure(instance=i, reason=r.code, detail=r.reason)
            for i, r in sorted(plan.refused.items())[:FAILURES_MAX]
        ]
        failures = failures or [TokenFailure(reason="No Container Instances were found in your cluster.")]
    return Placement(plan.placements, tuple(failures), plan.alone)


def refusal(
    state: ClusterState, cluster: str, instance: str, definition: TaskDefinition, task: Task
) -> TokenFailure | None:
    """Return why one instance does not take a task; None if it does."""
    view = state.instance(cluster, instance)
    assert view is not None
    refused = _judge(state, definition, task).refusal(view)
    if refused is None:
        return None
    return TokenFailure(instance=instance, reason=refused.code, detail=refused.reason)


def alone(state: ClusterState, definition: TaskDefinition, task: Task) -> bool:
    """Say whether a task's constraints look at the instance's other tasks."""
    return _judge(state, definition, task).alone


def _judge(state: ClusterState, definition: TaskDefinition, task: Task) -> Judge:
    need = Need(claim=task.claim, group=task.group, constraints=definition.placement_constraints)
    return Judge(state, need)
