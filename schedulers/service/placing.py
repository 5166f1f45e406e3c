"""Where the tasks of a service go. PURE: asks ``schedulers.placement`` in a service's terms."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.feasible import Judge, Need, need_of
from cluster.query import QueryInvalid
from cluster.records import PlacementStrategy, Service, StrategyType, TaskDefinition
from cluster.state import ClusterState
from schedulers.placement import ZONE_SPREAD, Request, StrategyInvalid, place

SPREAD = (*ZONE_SPREAD, PlacementStrategy(type=StrategyType.SPREAD, field="instanceId"))


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
    leaving: Mapping[str, int],
) -> Chosen:
    """Choose instances for ``count`` more tasks of a service, as far as there is room.

    A service that names no strategy is spread over zones, as ECS does, and within a zone over instances.
    ``leaving`` counts its tasks that are about to go, by instance: what stays is to be even.
    """
    request = Request(
        cluster=cluster,
        need=_need(service, definition),
        count=count,
        strategy=service.placement_strategy or SPREAD,
        leaving=leaving,
    )
    try:
        plan = place(state, request, rng)
    except (QueryInvalid, StrategyInvalid) as error:
        return Chosen((), str(error))
    return Chosen(plan.placements, plan.why if plan.unplaced else "", plan.alone)


def eligible(
    state: ClusterState, cluster: str, service: Service, definition: TaskDefinition
) -> Sequence[str]:
    """Return the instances that a DAEMON service wants a task on, whatever room they have."""
    try:
        judge = Judge(state, _need(service, definition))
    except QueryInvalid:
        return []
    return [view.id for view in state.instances(cluster) if judge.belongs(view) is None]


def refusal(
    state: ClusterState, cluster: str, service: Service, definition: TaskDefinition, instance: str
) -> str:
    """Return why an instance does not take one more task of a DAEMON service, "" if it does."""
    view = state.instance(cluster, instance)
    if view is None:
        return "is not registered"
    refused = Judge(state, _need(service, definition)).refusal(view)
    return refused.reason if refused else ""


def _need(service: Service, definition: TaskDefinition) -> Need:
    return need_of(definition, group=service.group, constraints=service.placement_constraints)
