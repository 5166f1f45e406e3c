"""Finds what a call names: its cluster, instances, tasks, a task definition. Raises ECS's errors.

What is named by id or ARN and is not there is no error of the call where ECS answers with
``failures``: then these return None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.arns import Arns
from api.calls import Call
from api.errors import client, cluster_not_found, invalid, service_not_found
from cluster.records import ClusterStatus, DefinitionStatus, Tag, TaskDefinition
from cluster.state import ClusterState, InstanceView, ServiceView, TaskView

TAGS_MAX = 50


def cluster_of(call: Call) -> str:
    """Return the name of the call's cluster, which is ACTIVE. Raises ``ApiError``."""
    name = call.arns.read_cluster(call.get("cluster"))
    require_cluster(call.state, name)
    return name


def require_cluster(state: ClusterState, name: str) -> None:
    """Raise ``ClusterNotFoundException`` unless there is an ACTIVE cluster of that name."""
    at = state.cluster(name)
    if at is None:
        raise cluster_not_found()
    if at.record.status is not ClusterStatus.ACTIVE:
        raise cluster_not_found("The referenced cluster was inactive.")


def instance_of(call: Call, cluster: str, given: str) -> InstanceView | None:
    """Return the container instance of an id or ARN; None if there is none. INACTIVE ones are there."""
    instance_id = call.arns.read_instance(given, cluster)
    return call.state.instance(cluster, instance_id) if instance_id else None


def require_instance(call: Call, cluster: str, given: str) -> InstanceView:
    found = instance_of(call, cluster, given)
    if found is None:
        raise invalid("Could not find container instance.")
    return found


def task_of(call: Call, cluster: str, given: str) -> TaskView | None:
    task_id = call.arns.read_task(given, cluster)
    return call.state.task(cluster, task_id) if task_id else None


def require_task(call: Call, cluster: str, given: str) -> TaskView:
    found = task_of(call, cluster, given)
    if found is None:
        raise invalid("The referenced task was not found.")
    return found


def service_of(call: Call, cluster: str, given: str) -> ServiceView | None:
    name = call.arns.read_service(given, cluster)
    return call.state.service(cluster, name) if name else None


def require_service(call: Call, cluster: str, given: str) -> ServiceView:
    found = service_of(call, cluster, given)
    if found is None:
        raise service_not_found()
    return found


def definition_of(state: ClusterState, arns: Arns, given: str) -> TaskDefinition:
    """Return the ACTIVE task definition of ``family``, ``family:revision`` or an ARN, to run it."""
    name = arns.read_definition(given)
    at = state.definition(name) if valid_revision(name) else None
    if at is None:
        raise client("TaskDefinition not found.")
    if at.record.status is not DefinitionStatus.ACTIVE:
        raise client("TaskDefinition is inactive")
    return at.record


def valid_revision(name: str) -> bool:
    """Say whether ``family:revision`` has a number that a revision can have."""
    _, colon, revision = name.partition(":")
    return not colon or not revision.startswith("0")


def missing(arn: str) -> dict[str, str]:
    """Return the failure of a resource that is not there."""
    return {"arn": arn, "reason": "MISSING"}


def tags_of(given: list[Mapping[str, Any]], what: str = "tags") -> tuple[Tag, ...]:
    """Return tags as records, in the order given. Raises ``ApiError``."""
    found: dict[str, Tag] = {}
    for tag in given:
        key = tag.get("key") or ""
        if not key:
            raise invalid(f"{what}: a tag needs a key.")
        if key.lower().startswith("aws:"):
            raise invalid(f"{what}: {key} begins with aws:, which is reserved.")
        if key in found:
            raise invalid(f"{what}: Duplicate tag key {key}.")
        found[key] = Tag(key=key, value=tag.get("value") or "")
    if len(found) > TAGS_MAX:
        raise invalid(f"{what}: at most {TAGS_MAX} tags are allowed.")
    return tuple(found.values())
