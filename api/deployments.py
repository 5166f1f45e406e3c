"""Service deployments and service revisions: another view of the deployments that a service has.

What is known is what the service's record has: the PRIMARY deployment, and older ones while they have
tasks. A deployment and the revision that it brings share a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from api.calls import Call, Handler
from api.errors import invalid
from api.find import cluster_of, missing, require_service
from api.pages import page
from api.present_services import counts, desired
from cluster.records import Deployment, RolloutState
from cluster.state import ServiceView

DESCRIBED_MAX = 20
LISTED = 20
DEPLOYMENT, REVISION = "service-deployment", "service-revision"


class Found(NamedTuple):
    """A deployment of a service."""

    view: ServiceView
    record: Deployment

    @property
    def number(self) -> str:
        return self.record.id.rpartition("/")[2]


async def list_service_deployments(call: Call) -> Mapping[str, Any]:
    """List a service's deployments, the newest first."""
    cluster = cluster_of(call)
    view = require_service(call, cluster, call.get("service", ""))
    wanted = page("ListServiceDeployments", call.params, usual=LISTED)
    statuses, when = call.get("status", []), call.get("createdAt", {})
    before, after = when.get("before"), when.get("after")

    def fitting() -> Iterator[dict[str, Any]]:
        behind = not wanted.after
        for one in (Found(view, record) for record in view.service.deployments):
            created, shown = one.record.created_at, _deployment(call, one)
            fits = not statuses or shown["status"] in statuses
            fits = fits and (before is None or created < before) and (after is None or created > after)
            if behind and fits:
                target = shown.pop("targetServiceRevision")["arn"]
                yield {**shown, "targetServiceRevisionArn": target}
            behind = behind or shown["serviceDeploymentArn"] == wanted.after

    found, token = wanted.cut(fitting(), lambda shown: str(shown["serviceDeploymentArn"]))
    return {"serviceDeployments": found, "nextToken": token}


async def describe_service_deployments(call: Call) -> Mapping[str, Any]:
    found, failures = [], []
    for arn in call.limited("serviceDeploymentArns", DESCRIBED_MAX):
        one = _find(call, arn, DEPLOYMENT)
        if one is None:
            failures.append(missing(arn))
        else:
            found.append(_deployment(call, one))
    return {"serviceDeployments": found, "failures": failures}


async def describe_service_revisions(call: Call) -> Mapping[str, Any]:
    found, failures = [], []
    for arn in call.limited("serviceRevisionArns", DESCRIBED_MAX):
        one = _find(call, arn, REVISION)
        if one is None:
            failures.append(missing(arn))
        else:
            found.append(_revision(call, one))
    return {"serviceRevisions": found, "failures": failures}


def _find(call: Call, arn: str, kind: str) -> Found | None:
    """Return the deployment behind an ARN; None if there is none. Raises ``ApiError``."""
    parts = call.arns.resource_of(arn).split("/")
    if len(parts) != 4 or parts[0] != kind:
        raise invalid(f"Invalid identifier: the ARN of a {kind} is wanted.")
    view = call.state.service(parts[1], parts[2])
    if view is None:
        return None
    return next(
        (one for record in view.service.deployments if (one := Found(view, record)).number == parts[3]), None
    )


def _arn(call: Call, kind: str, one: Found) -> str:
    return call.arns.of(f"{kind}/{one.view.cluster}/{one.view.name}/{one.number}")


def _deployment(call: Call, one: Found) -> dict[str, Any]:
    """Return a ``ServiceDeployment``."""
    view, record = one
    progress = view.rollout.deployment(record.id)
    state = progress.rollout_state if progress else RolloutState.IN_PROGRESS
    rollback = next((each for each in view.service.deployments if each.rolls_back == record.id), None)
    status = _STATUS[state]
    if state is RolloutState.FAILED and rollback is not None:
        back = view.rollout.deployment(rollback.id)
        is_back = back is not None and back.rollout_state is RolloutState.COMPLETED
        status = "ROLLBACK_SUCCESSFUL" if is_back else "ROLLBACK_IN_PROGRESS"
    running, pending = counts(call, view).get(record.id, (0, 0))
    updated = max(record.updated_at, progress.updated_at if progress else 0.0)
    return {
        "serviceDeploymentArn": _arn(call, DEPLOYMENT, one),
        "serviceArn": call.arns.service(view.cluster, view.name),
        "clusterArn": call.arns.cluster(view.cluster),
        "createdAt": record.created_at,
        "startedAt": record.created_at,
        "finishedAt": updated if state is not RolloutState.IN_PROGRESS else None,
        "updatedAt": updated,
        "targetServiceRevision": {
            "arn": _arn(call, REVISION, one),
            "requestedTaskCount": desired(call, view) if record == view.service.primary else 0,
            "runningTaskCount": running,
            "pendingTaskCount": pending,
        },
        "status": status,
        "statusReason": (progress.rollout_state_reason if progress else "") or None,
        "deploymentConfiguration": view.service.deployment_configuration.to_map(),
    }


def _revision(call: Call, one: Found) -> dict[str, Any]:
    """Return a ``ServiceRevision``."""
    view, record = one
    at = call.state.definition(record.task_definition)
    containers = at.record.container_definitions if at else ()
    service = view.service.to_map()
    return {
        "serviceRevisionArn": _arn(call, REVISION, one),
        "serviceArn": call.arns.service(view.cluster, view.name),
        "clusterArn": call.arns.cluster(view.cluster),
        "taskDefinition": call.arns.definition(record.task_definition),
        "launchType": record.launch_type or view.service.launch_type or "EC2",
        "loadBalancers": service.get("loadBalancers"),
        "networkConfiguration": service.get("networkConfiguration"),
        "containerImages": [{"containerName": c.name, "image": c.image} for c in containers],
        "createdAt": record.created_at,
    }


_STATUS = {
    RolloutState.IN_PROGRESS: "IN_PROGRESS",
    RolloutState.COMPLETED: "SUCCESSFUL",
    RolloutState.FAILED: "STOPPED",
}

HANDLERS: Mapping[str, Handler] = {
    "ListServiceDeployments": list_service_deployments,
    "DescribeServiceDeployments": describe_service_deployments,
    "DescribeServiceRevisions": describe_service_revisions,
}
