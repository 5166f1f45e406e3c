"""Where the tasks of a service go. PURE: asks ``schedulers.placement`` in a service's terms."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.records import InstanceStatus, Service, TaskDefinition
from cluster.state import ClusterState
from schedulers.placement import Request, place


@dataclass(frozen=True, slots=True)
class Chosen:
    """An instance for each task that has a place; ``why`` the others have none."""

    instances: tuple[str, ...]
    why: str
    alone: bool = False
    """Whether a constraint looks at the instance's other tasks."""


def choose(
    state: ClusterState,
    cluster: str,
    service: Service,
    definition: TaskDefinition,
    count: int,
    rng: random.Random,
) -> Chosen:
    """Choose instances for ``count`` more tasks of a service, as far as there is room."""
    claim = definition.claim()
    request = Request(cluster=cluster, cpu=claim.cpu, memory=claim.memory, ports=claim.ports, count=count)
    plan = place(state, request, rng)
    return Chosen(plan.placements, plan.why if plan.unplaced else "")


def eligible(
    state: ClusterState, cluster: str, service: Service, definition: TaskDefinition
) -> Sequence[str]:
    """Return the instances that a DAEMON service wants a task on, whatever room they have."""
    return [view.id for view in state.instances(cluster) if view.status is InstanceStatus.ACTIVE]


def refusal(
    state: ClusterState, cluster: str, service: Service, definition: TaskDefinition, instance: str
) -> str:
    """Return why an instance does not take one more task of a DAEMON service, "" if it does."""
    claim = definition.claim()
    request = Request(cluster=cluster, cpu=claim.cpu, memory=claim.memory, ports=claim.ports)
    plan = place(state, request, random.Random(0))
    return "" if instance not in plan.refused else plan.refused[instance].reason
