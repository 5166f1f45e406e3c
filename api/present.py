"""Records as ECS shows them: each function returns the members of one shape of ECS's model.

``api.shapes.answer`` then leaves out what is None, and what the shape does not have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from api.calls import Call
from cluster import records
from cluster.codec import Record
from cluster.records import ContainerStatus, LastStatus, Resource, Tag
from cluster.state import At, InstanceView, TaskView

ZONE = "ecs.availability-zone"
CONTAINER_LISTS = ("portMappings", "environment", "mountPoints", "volumesFrom", "systemControls")
"""Members of a container definition that ECS shows even if they are empty."""


def maps(items: Iterable[Record]) -> list[dict[str, Any]]:
    return [item.to_map() for item in items]


def tags(items: Iterable[Tag]) -> list[dict[str, str]]:
    return [{"key": tag.key, "value": tag.value} for tag in items]


def version(*parts: At[Any] | None) -> int:
    """Return a number that grows with every change of any of these records."""
    return max((part.revision for part in parts if part is not None), default=0)


# -- clusters -----------------------------------------------------------------------


def cluster(call: Call, record: records.Cluster, *, everything: bool = False) -> dict[str, Any]:
    """Return a ``Cluster``; what is optional where ``include`` names it, or ``everything``."""
    name, state = record.cluster_name, call.state
    counts = state.counts(name)
    shown: dict[str, Any] = {
        "clusterArn": call.arns.cluster(name),
        "clusterName": name,
        "status": record.status,
        "registeredContainerInstancesCount": state.instance_count(name),
        "runningTasksCount": counts.running + counts.stopping,
        "pendingTasksCount": counts.pending,
        "activeServicesCount": state.service_count(name),
        "capacityProviders": list(record.capacity_providers),
        "defaultCapacityProviderStrategy": maps(record.default_capacity_provider_strategy),
        "serviceConnectDefaults": dict(record.service_connect_defaults) or None,
        "statistics": [],
        "settings": [],
        "tags": [],
    }
    if everything or call.includes("SETTINGS"):
        shown["settings"] = maps(record.settings) or [{"name": "containerInsights", "value": "disabled"}]
    if everything or call.includes("CONFIGURATIONS"):
        shown["configuration"] = dict(record.configuration) or None
    if everything or call.includes("TAGS"):
        shown["tags"] = tags(record.tags)
    if call.includes("STATISTICS"):
        shown["statistics"] = [
            {"name": "runningEC2TasksCount", "value": str(counts.running + counts.stopping)},
            {"name": "pendingEC2TasksCount", "value": str(counts.pending)},
            {"name": "activeEC2ServiceCount", "value": str(state.service_count(name))},
        ]
    return shown


# -- container instances --------------------------------------------------------------


def instance(call: Call, view: InstanceView, *, with_tags: bool = False) -> dict[str, Any]:
    """Return a ``ContainerInstance``."""
    record = view.record
    tasks = call.state.counts(view.cluster, instance=view.id)
    return {
        "containerInstanceArn": call.arns.instance(view.cluster, view.id),
        "ec2InstanceId": record.ec2_instance_id or None,
        "version": version(view.registration, view.settings, view.capacity, view.alive),
        "versionInfo": record.version_info.to_map() if record.version_info else {},
        "remainingResources": _remaining(view),
        "registeredResources": [_resource(resource) for resource in record.registered_resources],
        "status": record.status,
        "statusReason": record.status_reason or None,
        "agentConnected": view.connected,
        "runningTasksCount": tasks.running + tasks.stopping,
        "pendingTasksCount": tasks.pending,
        "attributes": [
            {"name": name, "value": value or None} for name, value in sorted(view.attributes.items())
        ],
        "registeredAt": record.registered_at,
        "attachments": [],
        "tags": tags(view.settings.record.tags) if with_tags and view.settings else [],
    }


def _remaining(view: InstanceView) -> list[dict[str, Any]]:
    """Return what is left; of ports, those that are taken, as ECS does."""
    if view.capacity is None:
        return []
    left = view.capacity.record
    return [
        _resource(resource)
        for resource in records.resources(
            left.cpu, left.memory, ports=left.ports, ports_udp=left.ports_udp, named=left.resources
        )
    ]


def _resource(resource: Resource) -> dict[str, Any]:
    return {
        "name": resource.name,
        "type": resource.type,
        "doubleValue": 0.0,
        "longValue": 0,
        "integerValue": resource.integer_value or 0,
        "stringSetValue": None if resource.string_set_value is None else list(resource.string_set_value),
    }


# -- task definitions -----------------------------------------------------------------


def definition(call: Call, record: records.TaskDefinition) -> dict[str, Any]:
    """Return a ``TaskDefinition``."""
    shown = record.to_map()
    shown.pop("tags", None)
    shown.update(
        taskDefinitionArn=call.arns.definition(record.name),
        containerDefinitions=[_container_definition(c) for c in record.container_definitions],
        volumes=shown.get("volumes", []),
        placementConstraints=shown.get("placementConstraints", []),
        requiresAttributes=[],
        compatibilities=["EXTERNAL", "EC2"],
        cpu=_text(record.cpu),
        memory=_text(record.memory),
        registeredBy=record.registered_by or call.arns.principal(),
    )
    return shown


def _container_definition(record: records.ContainerDefinition) -> dict[str, Any]:
    shown = record.to_map()
    for name in CONTAINER_LISTS:
        shown.setdefault(name, [])
    for mapping in shown["portMappings"]:
        if mapping.get("containerPortRange"):
            mapping.pop("containerPort", None)
            mapping.pop("hostPort", None)
    return shown


# -- tasks ----------------------------------------------------------------------------


def task(call: Call, view: TaskView, *, with_tags: bool = False) -> dict[str, Any]:
    """Return a ``Task``."""
    wanted, status = view.task, view.status
    on = call.state.instance(view.cluster, view.instance)
    return {
        "attachments": [],
        "attributes": [],
        "availabilityZone": (on.attributes.get(ZONE) or None) if on else None,
        "clusterArn": call.arns.cluster(view.cluster),
        "connectivity": None if on is None else "CONNECTED" if on.connected else "DISCONNECTED",
        "containerInstanceArn": call.arns.instance(view.cluster, view.instance),
        "containers": _containers(call, view),
        "cpu": str(wanted.cpu),
        "memory": str(wanted.memory),
        "createdAt": wanted.created_at,
        "desiredStatus": view.desired_status,
        "enableExecuteCommand": wanted.enable_execute_command,
        "group": wanted.group,
        "healthStatus": (status.health_status if status else None) or "UNKNOWN",
        "lastStatus": view.last_status,
        "launchType": wanted.launch_type or "EC2",
        "overrides": _overrides(view),
        "pullStartedAt": status.pull_started_at if status else None,
        "pullStoppedAt": status.pull_stopped_at if status else None,
        "startedAt": status.started_at if status else None,
        "executionStoppedAt": status.execution_stopped_at if status else None,
        "startedBy": wanted.started_by or None,
        "stopCode": (status.stop_code if status else None) or wanted.stop_code,
        "stoppedAt": status.stopped_at if status else None,
        "stoppedReason": (status.stopped_reason if status else None) or wanted.stopped_reason,
        "stoppingAt": wanted.stopping_at,
        "tags": tags(wanted.tags) if with_tags else [],
        "taskArn": call.arns.task(view.cluster, view.id),
        "taskDefinitionArn": call.arns.definition(wanted.task_definition),
        "version": version(view.desired, view.observed),
    }


def _containers(call: Call, view: TaskView) -> list[dict[str, Any]]:
    at = call.state.definition(view.task.task_definition)
    defined = at.record.containers(view.task.overrides) if at else ()
    observed = {c.name: c for c in view.status.containers} if view.status else {}
    names = [container.name for container in defined]
    shown = [_container(call, view, c.name, c, observed.get(c.name)) for c in defined]
    return shown + [_container(call, view, n, None, c) for n, c in observed.items() if n not in names]


def _container(
    call: Call,
    view: TaskView,
    name: str,
    defined: records.ContainerDefinition | None,
    observed: ContainerStatus | None,
) -> dict[str, Any]:
    last = observed.last_status if observed else LastStatus.STOPPED if view.stopped else LastStatus.PENDING
    return {
        "containerArn": call.arns.container(view.cluster, view.id, _container_id(view.id, name)),
        "taskArn": call.arns.task(view.cluster, view.id),
        "name": name,
        "image": (defined.image if defined else None) or None,
        "imageDigest": (observed.image_digest if observed else None) or None,
        "runtimeId": observed.runtime_id if observed else None,
        "lastStatus": last,
        "exitCode": observed.exit_code if observed else None,
        "reason": observed.reason if observed else None,
        "networkBindings": maps(observed.network_bindings) if observed else [],
        "networkInterfaces": [],
        "healthStatus": (observed.health_status if observed else None) or "UNKNOWN",
        "managedAgents": (maps(observed.managed_agents) or None) if observed else None,
        "cpu": str(defined.cpu if defined else 0),
        "memory": _text(defined.memory) if defined else None,
        "memoryReservation": _text(defined.memory_reservation) if defined else None,
    }


def _container_id(task_id: str, name: str) -> str:
    """Return an id of the form of a UUID that is always the same for a container of a task."""
    digest = hashlib.sha256(f"{task_id}/{name}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def _overrides(view: TaskView) -> dict[str, Any]:
    given = view.task.overrides
    shown = given.to_map() if given else {}
    shown.setdefault("containerOverrides", [])
    for name in ("cpu", "memory"):
        if name in shown:
            shown[name] = str(shown[name])
    return shown


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)
