"""Tasks: describe, list, stop, protect. Running them is in ``running``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api import present
from api.calls import Call, Handler
from api.errors import client, invalid
from api.find import cluster_of, instance_of, missing, require_service, require_task, task_of
from api.pages import page
from cluster import offers
from cluster.records import DesiredStatus, StopCode
from cluster.state import ClusterState, TaskView
from journal.offers import Offer

DESCRIBED_MAX = 100
PROTECTED_MAX = 10
REASON_CHARACTERS_MAX = 1_024
PROTECTION_MINUTES_DEFAULT = 120
PROTECTION_MINUTES_MAX = 2_880


async def describe_tasks(call: Call) -> Mapping[str, Any]:
    cluster = cluster_of(call)
    found, failures = [], []
    for given in call.limited("tasks", DESCRIBED_MAX):
        view = task_of(call, cluster, given)
        if view is None:
            failures.append(missing(call.arns.task(cluster, given.rpartition("/")[2])))
        else:
            found.append(present.task(call, view, with_tags=call.includes("TAGS")))
    return {"tasks": found, "failures": failures}


async def list_tasks(call: Call) -> Mapping[str, Any]:
    """List tasks by id. Without ``desiredStatus``: those that should run."""
    cluster = cluster_of(call)
    wanted = page("ListTasks", call.params)
    instance = service = None
    if call.get("containerInstance") is not None:
        view = instance_of(call, cluster, call.get("containerInstance"))
        if view is None:
            raise invalid("The specified container instance could not be found.")
        instance = view.id
    if call.get("serviceName") is not None:
        service = require_service(call, cluster, call.get("serviceName")).name
    desired = call.get("desiredStatus", "RUNNING")
    if desired == "PENDING" or call.get("daemonName") is not None:
        return {"taskArns": []}  # no task is ever desired to be PENDING, in ECS neither
    found = call.state.list_tasks(
        cluster,
        instance=instance,
        family=call.get("family"),
        service=service,
        started_by=call.get("startedBy"),
        desired=DesiredStatus(desired),
        launch_type=call.get("launchType"),
        after=wanted.after or None,
        limit=wanted.size,
    )
    return {
        "taskArns": [call.arns.task(cluster, view.id) for view in found.items],
        "nextToken": wanted.next(found.more, found.items[-1].id if found.items else ""),
    }


async def stop_task(call: Call) -> Mapping[str, Any]:
    """Ask for a task to stop. One that was asked already, or has stopped, is returned as it is."""
    cluster = cluster_of(call)
    view = require_task(call, cluster, call.get("task", ""))
    reason = call.get("reason") or "Task stopped by user"
    if len(reason) > REASON_CHARACTERS_MAX:
        raise invalid(f"reason can have at most {REASON_CHARACTERS_MAX} characters.")

    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        now = state.task(cluster, view.id)
        if now is None or now.desired is None:
            raise invalid("The referenced task was not found.")
        if now.stopped or now.task.desired_status is DesiredStatus.STOPPED:
            return None, None
        offer = offers.stop(
            cluster,
            now.instance,
            now.id,
            now.task,
            now.desired.revision,
            code=StopCode.USER_INITIATED,
            reason=reason,
            now=call.now(),
        )
        return offer, None

    await call.change(decide)
    return {"task": present.task(call, call.state.task(cluster, view.id) or view, with_tags=True)}


# -- protection -----------------------------------------------------------------------


async def get_task_protection(call: Call) -> Mapping[str, Any]:
    cluster = cluster_of(call)
    protected, failures = [], []
    for given in call.limited("tasks", DESCRIBED_MAX, least=0):
        view = task_of(call, cluster, given)
        if view is None:
            failures.append(missing(call.arns.task(cluster, given.rpartition("/")[2])))
        else:
            protected.append(_protection(call, view))
    return {"protectedTasks": protected, "failures": failures}


async def update_task_protection(call: Call) -> Mapping[str, Any]:
    """Say until when a service must not stop a task of its own accord."""
    cluster = cluster_of(call)
    minutes = call.get("expiresInMinutes", PROTECTION_MINUTES_DEFAULT)
    if not 1 <= minutes <= PROTECTION_MINUTES_MAX:
        raise invalid(f"expiresInMinutes must be between 1 and {PROTECTION_MINUTES_MAX}.")
    until = call.now() + minutes * 60 if call.get("protectionEnabled") else None
    protected, failures = [], []
    for given in call.limited("tasks", PROTECTED_MAX):
        view = task_of(call, cluster, given)
        arn = call.arns.task(cluster, given.rpartition("/")[2])
        if view is None:
            failures.append(missing(arn))
        elif not view.task.service:
            failures.append({"arn": arn, "reason": "TASK_NOT_VALID", "detail": "It is no service's task."})
        else:
            await _protect(call, cluster, view.id, until)
            protected.append(_protection(call, call.state.task(cluster, view.id) or view))
    return {"protectedTasks": protected, "failures": failures}


async def _protect(call: Call, cluster: str, task_id: str, until: float | None) -> None:
    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        view = state.task(cluster, task_id)
        if view is None or view.desired is None:
            raise client("The task is gone.")
        new = replace(view.task, protected_until=until)
        if new == view.task:
            return None, None
        return offers.change_task(
            cluster, view.instance, task_id, view.task, new, view.desired.revision
        ), None

    await call.change(decide)


def _protection(call: Call, view: TaskView) -> dict[str, Any]:
    until = view.task.protected_until
    lasts = until is not None and until > call.now()
    return {
        "taskArn": call.arns.task(view.cluster, view.id),
        "protectionEnabled": lasts,
        "expirationDate": until if lasts else None,
    }


HANDLERS: Mapping[str, Handler] = {
    "DescribeTasks": describe_tasks,
    "ListTasks": list_tasks,
    "StopTask": stop_task,
    "GetTaskProtection": get_task_protection,
    "UpdateTaskProtection": update_task_protection,
}
