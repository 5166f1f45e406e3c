"""What a service's records say, in the terms that its decisions are made in. PURE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.records import (
    DesiredStatus,
    HealthStatus,
    InstanceStatus,
    LastStatus,
    Service,
    StopCode,
    TaskDefinition,
)
from cluster.state import ClusterState, InstanceView, TaskView
from schedulers.service.bounds import SHORT_RUN_S, maximum_live, minimum_healthy
from schedulers.service.rolling import Goal, Member, Phase

ZONE = "ecs.availability-zone"
FAILURES = (StopCode.TASK_FAILED_TO_START, StopCode.ESSENTIAL_CONTAINER_EXITED)
"""How a task ends that nobody asked to end."""

Lost = Callable[[str], bool]
"""Says whether an instance is lost (``losses.Losses``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """The tasks of a service that have not stopped, and those that are lost."""

    members: tuple[Member, ...]
    lost: tuple[TaskView, ...]
    views: dict[str, TaskView]
    """Of all of them, by id."""


def tasks_of(state: ClusterState, cluster: str, service: Service, lost: Lost, now: float) -> Tasks:
    """Return the tasks in a service's index. ``now``: seconds since the epoch."""
    members: list[Member] = []
    gone: list[TaskView] = []
    views: dict[str, TaskView] = {}
    for view in state.service_tasks(cluster, service.service_name):
        if view.stopped:
            continue
        views[view.id] = view
        instance = state.instance(cluster, view.instance)
        if (instance is None or not instance.connected) and lost(view.instance):
            gone.append(view)
            continue
        leaving = instance is None or instance.status is not InstanceStatus.ACTIVE
        members.append(
            Member(
                id=view.id,
                instance=view.instance,
                phase=_phase(state, view, instance),
                deployment=view.task.started_by,
                zone=instance.attributes.get(ZONE, "") if instance else "",
                created_at=view.task.created_at,
                leaving=leaving,
                protected=(view.task.protected_until or 0.0) > now,
            )
        )
    return Tasks(members=tuple(members), lost=tuple(gone), views=views)


def _phase(state: ClusterState, view: TaskView, instance: InstanceView | None) -> Phase:
    if view.task.desired_status is DesiredStatus.STOPPED:
        return Phase.STOPPING
    if instance is None or not instance.connected:
        return Phase.AWAY
    if view.last_status is not LastStatus.RUNNING:
        return Phase.PENDING
    health = view.status.health_status if view.status else None
    if health is HealthStatus.UNHEALTHY:
        return Phase.UNHEALTHY
    definition = state.definition(view.task.task_definition)
    checked = definition is not None and has_health_check(definition.record)
    return Phase.PENDING if checked and health is not HealthStatus.HEALTHY else Phase.HEALTHY


def has_health_check(definition: TaskDefinition) -> bool:
    """Say whether an essential container says by itself whether it is healthy."""
    return any(
        c.essential and c.health_check is not None and c.health_check.command[0] != "NONE"
        for c in definition.container_definitions
    )


@dataclass(frozen=True, slots=True)
class End:
    """A task that ended by itself. ``failed``: so soon that it counts as a failure."""

    task: str
    deployment: str
    failed: bool
    reason: str


def ends_of(state: ClusterState, cluster: str, service: Service, after: int) -> tuple[list[End], int]:
    """Return the tasks whose end was reported after revision ``after`` and that nobody asked to end, and
    the revision up to which all ends are known."""
    found: list[End] = []
    newest = after
    for view in state.tasks(cluster, group=service.group, last=LastStatus.STOPPED):
        assert view.observed is not None
        if view.observed.revision <= after:
            continue
        newest = max(newest, view.observed.revision)
        status = view.observed.record
        if view.task.desired_status is DesiredStatus.STOPPED or status.stop_code not in FAILURES:
            continue
        ran_s = (status.stopped_at or 0.0) - status.started_at if status.started_at is not None else 0.0
        found.append(End(view.id, view.task.started_by, ran_s < SHORT_RUN_S, status.stopped_reason or ""))
    return found, newest


def goal_of(service: Service, desired: int) -> Goal:
    """Return the goal of an ACTIVE service that is to have ``desired`` tasks."""
    primary = service.primary
    return Goal(
        primary=primary.id if primary else "",
        desired=desired,
        minimum=minimum_healthy(desired, service.minimum_healthy_percent),
        maximum=maximum_live(desired, service.maximum_percent),
    )
