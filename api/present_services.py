"""Services as ECS shows them: with their deployments, counts and events."""

from __future__ import annotations

from typing import Any

from api.calls import Call
from api.present import maps, tags
from cluster.records import Deployment, RolloutState, Service, ServiceStatus
from cluster.state import Phase, ServiceView
from schedulers.service.placing import eligible

__all__ = ["counts", "desired", "maps", "service"]


def service(call: Call, view: ServiceView, *, with_tags: bool = False) -> dict[str, Any]:
    """Return a ``Service``. What has no task any more, or was never anything else, is at 0."""
    record = view.service
    tasks = counts(call, view)
    shown = record.to_map()
    shown.pop("clientToken", None)
    shown.update(
        serviceArn=call.arns.service(view.cluster, view.name),
        clusterArn=call.arns.cluster(view.cluster),
        taskDefinition=call.arns.definition(record.task_definition),
        runningCount=sum(running for running, _ in tasks.values()),
        pendingCount=sum(pending for _, pending in tasks.values()),
        desiredCount=desired(call, view),
        deploymentConfiguration=_configuration(record),
        deploymentController={"type": "ECS"},
        deployments=_deployments(call, view, tasks),
        events=[
            {"id": event.id, "createdAt": event.created_at, "message": event.message}
            for event in view.rollout.events
        ],
        loadBalancers=shown.get("loadBalancers", []),
        serviceRegistries=shown.get("serviceRegistries", []),
        placementConstraints=shown.get("placementConstraints", []),
        placementStrategy=shown.get("placementStrategy", []),
        propagateTags=record.propagate_tags or "NONE",
        tags=tags(record.tags) if with_tags else [],
    )
    return shown


def desired(call: Call, view: ServiceView) -> int:
    """Return how many tasks a service should have; a DAEMON one has one on each instance that is meant."""
    record = view.service
    if record.is_replica or record.status is not ServiceStatus.ACTIVE:
        return record.desired_count
    at = call.state.definition(record.task_definition)
    return len(eligible(call.state, view.cluster, record, at.record)) if at else 0


def counts(call: Call, view: ServiceView) -> dict[str, tuple[int, int]]:
    """Return (running, pending) by deployment, of the tasks that should run."""
    found: dict[str, tuple[int, int]] = {}
    for task in call.state.service_tasks(view.cluster, view.name):
        running, pending = found.get(task.task.started_by, (0, 0))
        if task.phase is Phase.RUNNING:
            running += 1
        elif task.phase is Phase.PENDING:
            pending += 1
        found[task.task.started_by] = running, pending
    return found


def _deployments(call: Call, view: ServiceView, tasks: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    if view.service.status is ServiceStatus.INACTIVE:
        return []
    return [
        _deployment(call, view, deployment, *tasks.get(deployment.id, (0, 0)))
        for deployment in view.service.deployments
    ]


def _deployment(
    call: Call, view: ServiceView, record: Deployment, running: int, pending: int
) -> dict[str, Any]:
    primary = record == view.service.primary
    progress = view.rollout.deployment(record.id)
    state = progress.rollout_state if progress else RolloutState.IN_PROGRESS
    reason = progress.rollout_state_reason if progress else ""
    return {
        "id": record.id,
        "status": "PRIMARY" if primary else "ACTIVE",
        "taskDefinition": call.arns.definition(record.task_definition),
        "desiredCount": desired(call, view) if primary else 0,
        "pendingCount": pending,
        "runningCount": running,
        "failedTasks": progress.failed_tasks if progress else 0,
        "createdAt": record.created_at,
        "updatedAt": max(record.updated_at, progress.updated_at if progress else 0.0),
        "launchType": record.launch_type or view.service.launch_type or "EC2",
        "rolloutState": state,
        "rolloutStateReason": reason or f"ECS deployment {record.id} {_WORDS[state]}.",
    }


_WORDS = {
    RolloutState.IN_PROGRESS: "in progress",
    RolloutState.COMPLETED: "completed",
    RolloutState.FAILED: "failed",
}


def _configuration(record: Service) -> dict[str, Any]:
    return {
        **record.deployment_configuration.to_map(),
        "strategy": "ROLLING",
        "maximumPercent": record.maximum_percent,
        "minimumHealthyPercent": record.minimum_healthy_percent,
    }
