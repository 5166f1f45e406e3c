"""What the states of a task's containers mean for the task: who may start, who may stop, what ends it. PURE.

* A container starts when each of its ``dependsOn`` holds (and what it links to, or has volumes from,
  was started): START (running, or stopped already),
  COMPLETE (stopped with an exit code), SUCCESS (exit code 0), HEALTHY. One that can never hold any
  more, or that did not within the other container's ``startTimeout``, ends the task.
* A container stops when none that depends on it is left: the reverse of that order.
* A container with a restart policy that has run for ``restartAttemptPeriod`` and ended with a code
  that is not ignored is started again, and the task does not notice.
* An essential container that ended for good ends the task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.model import LEFT, ContainerState, LocalTask, Phase
from cluster.records import (
    ContainerDefinition,
    ContainerDependency,
    DependencyCondition,
    HealthStatus,
    StopCode,
)

States = Mapping[str, ContainerState]
"""By the container's name; every container of the task is there."""

_TIMED = (DependencyCondition.COMPLETE, DependencyCondition.SUCCESS, DependencyCondition.HEALTHY)
"""The conditions for which the other container's ``startTimeout`` runs."""


@dataclass(frozen=True, slots=True)
class End:
    """Why a task ends by itself."""

    code: StopCode
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """What a container waits for before it starts."""

    until: float | None = None
    """When to look again though nothing changed (seconds since the epoch)."""


def restarts(container: ContainerDefinition, state: ContainerState) -> bool:
    """Say whether a stopped container is to be started again."""
    policy = container.restart_policy
    if policy is None or not policy.enabled or state.phase is not Phase.STOPPED or state.failed_to_start:
        return False
    if state.started_at is None or state.stopped_at is None or state.exit_code in policy.ignored_exit_codes:
        return False
    return state.stopped_at - state.started_at >= policy.restart_attempt_period


def has_ended(container: ContainerDefinition, state: ContainerState) -> bool:
    """Say whether a container has stopped for good."""
    return state.phase is Phase.STOPPED and not restarts(container, state)


def essential_end(containers: Sequence[ContainerDefinition], states: States) -> End | None:
    """Return the end of the essential container that ends the task: the one that stopped first."""
    ended = [states[c.name] for c in containers if c.essential and has_ended(c, states[c.name])]
    if not ended:
        return None
    first = min(ended, key=lambda state: state.stopped_at or 0.0)
    if first.failed_to_start:
        reason = first.reason or "CannotStartContainerError: no reason is known"
        return End(StopCode.TASK_FAILED_TO_START, reason)
    return End(StopCode.ESSENTIAL_CONTAINER_EXITED, first.reason or "Essential container in task exited")


def may_start(
    container: ContainerDefinition, containers: Sequence[ContainerDefinition], states: States, wall: float
) -> Wait | End | None:
    """Return None where a container may start, what it waits for, or why it never can."""
    waits: list[float | None] = []
    for dependency in container.dependencies:
        other = next(c for c in containers if c.name == dependency.container_name)
        verdict = _holds(dependency, other, states[other.name], wall)
        if isinstance(verdict, str):
            on = f"{dependency.container_name} {dependency.condition}"
            why = f"CannotStartContainerError: container {container.name} depends on {on}, {verdict}"
            return End(StopCode.TASK_FAILED_TO_START, why)
        if verdict is not None:
            waits.append(verdict.until)
    if not waits:
        return None
    return Wait(min((until for until in waits if until is not None), default=None))


def may_stop(name: str, containers: Sequence[ContainerDefinition], states: States) -> bool:
    """Say whether nothing that depends on a container is left."""
    return not any(
        states[c.name].phase in LEFT
        for c in containers
        if any(dependency.container_name == name for dependency in c.dependencies)
    )


def _holds(
    dependency: ContainerDependency, other: ContainerDefinition, state: ContainerState, wall: float
) -> Wait | str | None:
    """Return None where a dependency holds, what it waits for, or why it never will."""
    is_over = has_ended(other, state)
    if is_over and state.failed_to_start:
        return "which could not start"
    match dependency.condition:
        case DependencyCondition.START:
            if state.phase in (Phase.RUNNING, Phase.STOPPED) or state.attempt:
                return None
        case DependencyCondition.COMPLETE:
            if is_over:
                return None if state.exit_code is not None else "whose exit code is unknown"
        case DependencyCondition.SUCCESS:
            if is_over:
                known = "whose exit code is unknown" if state.exit_code is None else None
                return known or (
                    None if state.exit_code == 0 else f"which exited with code {state.exit_code}"
                )
        case DependencyCondition.HEALTHY:
            if state.phase is Phase.RUNNING and state.health is HealthStatus.HEALTHY:
                return None
            if is_over:
                return "which has stopped"
    if other.start_timeout is None or state.started_at is None or dependency.condition not in _TIMED:
        return Wait()
    deadline = state.started_at + other.start_timeout
    if wall >= deadline:
        return f"which was not there within its startTimeout of {other.start_timeout} s"
    return Wait(deadline)


def states_of(local: LocalTask, known: Mapping[tuple[str, str], ContainerState]) -> dict[str, ContainerState]:
    """Return the state of each container of a task; of one that nothing is known of, CREATED."""
    return {c.name: known.get((local.id, c.name), ContainerState()) for c in local.containers}
