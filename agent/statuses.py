"""What is reported of a task: the least of its containers' statuses, and why it stopped. PURE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from agent.lifecycle import End, States, has_ended, restarts
from agent.model import ContainerState, LocalTask, Phase
from cluster.records import (
    ContainerDefinition,
    ContainerStatus,
    DesiredStatus,
    HealthStatus,
    LastStatus,
    StopCode,
    TaskStatus,
)

_ORDER = list(LastStatus)


def task_status(
    local: LocalTask,
    states: States,
    *,
    before: TaskStatus | None,
    stopping: bool,
    end: End | None,
    waits_for: str | None,
    wall: float,
) -> TaskStatus:
    """Return what is known of a task. ``waits_for``: why nothing of it was started yet."""
    containers = local.containers
    statuses = tuple(_container_status(c, states[c.name], stopping, waits_for) for c in containers)
    last = min((status.last_status for status in statuses), key=_ORDER.index)
    started = before.started_at if before is not None else None
    status = TaskStatus(
        last_status=last,
        containers=statuses,
        health_status=task_health(containers, states),
        pull_started_at=_some(min, (state.pull_started_at for state in states.values())),
        pull_stopped_at=_some(max, (state.pull_stopped_at for state in states.values())),
        started_at=started or _some(max, (state.started_at for state in states.values())),
    )
    if last is not LastStatus.STOPPED:
        return status
    code, reason = _why_stopped(local, end)
    stopped_at = stopped_last(states) or wall
    ended = (states[c.name].stopped_at for c in containers if c.essential and has_ended(c, states[c.name]))
    return replace(
        status,
        stop_code=code,
        stopped_reason=reason,
        execution_stopped_at=_some(min, ended) or stopped_at,
        stopped_at=stopped_at,
    )


def never_there(code: StopCode, reason: str | None, wall: float) -> TaskStatus:
    """Return the status of a task of which nothing was ever started here, or nothing is left to see."""
    return TaskStatus(
        last_status=LastStatus.STOPPED,
        stop_code=code,
        stopped_reason=reason or "Task stopped",
        stopped_at=wall,
    )


def is_news(before: TaskStatus | None, status: TaskStatus, *, stopping: bool) -> bool:
    """Say whether a status is worth an offer. On a task's way out, only its end is."""
    known = before.last_status if before is not None else None
    if status.last_status is LastStatus.STOPPED or known is LastStatus.STOPPED:
        return known is not LastStatus.STOPPED
    if stopping:
        return False
    if status.last_status is LastStatus.PENDING:
        # That it waits for this machine is told, and that it waits no more with what comes next.
        waits = any(c.reason for c in status.containers)
        return waits and known in (None, LastStatus.PENDING) and (before is None or differs(before, status))
    return before is None or known is not LastStatus.RUNNING or differs(before, status)


def differs(before: TaskStatus, status: TaskStatus) -> bool:
    return before.containers != status.containers or before.health_status is not status.health_status


def task_health(containers: Sequence[ContainerDefinition], states: States) -> HealthStatus | None:
    """Return the health of a task: that of its essential containers with a health check; None without."""
    found = {states[c.name].health or HealthStatus.UNKNOWN for c in containers if c.essential and checks(c)}
    for health in (HealthStatus.UNHEALTHY, HealthStatus.UNKNOWN, HealthStatus.HEALTHY):
        if health in found:
            return health
    return None


def checks(container: ContainerDefinition) -> bool:
    """Say whether a container has a health check."""
    return container.health_check is not None and container.health_check.command[0] != "NONE"


def stopped_last(states: States) -> float | None:
    return _some(max, (state.stopped_at for state in states.values()))


def _container_status(
    container: ContainerDefinition, state: ContainerState, stopping: bool, waits_for: str | None
) -> ContainerStatus:
    last = _last(container, state, stopping)
    is_over = last is LastStatus.STOPPED
    return ContainerStatus(
        name=container.name,
        last_status=last,
        exit_code=state.exit_code if is_over else None,
        reason=(state.reason if is_over else None) or (waits_for if last is LastStatus.PENDING else None),
        runtime_id=state.runtime_id,
        image_digest=state.image_digest,
        health_status=(state.health or HealthStatus.UNKNOWN) if checks(container) else None,
        network_bindings=state.network_bindings,
        restart_count=state.attempt,
    )


def _last(container: ContainerDefinition, state: ContainerState, stopping: bool) -> LastStatus:
    if state.phase is Phase.RUNNING:
        return LastStatus.RUNNING
    if state.phase is Phase.STOPPED:
        return LastStatus.RUNNING if not stopping and restarts(container, state) else LastStatus.STOPPED
    if state.phase is Phase.CREATED and stopping:
        return LastStatus.STOPPED
    return LastStatus.RUNNING if state.attempt else LastStatus.PENDING


def _why_stopped(local: LocalTask, end: End | None) -> tuple[StopCode, str]:
    if local.task.desired_status is DesiredStatus.STOPPED:
        return local.task.stop_code or StopCode.USER_INITIATED, local.task.stopped_reason or "Task stopped"
    assert end is not None, f"task {local.id} is stopped, and nothing stopped it"
    return end.code, end.reason


def _some(pick: Callable[[list[float]], float], times: Iterable[float | None]) -> float | None:
    """Return the least or the greatest of those that are known."""
    known = [time for time in times if time is not None]
    return pick(known) if known else None
