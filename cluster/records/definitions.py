"""Task definitions: containers, volumes, and what a task of one claims. PURE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.codec import Record, empty_map
from cluster.keys import NameInvalid, check_name
from cluster.records.common import Claim, ConstraintType, DefinitionStatus, PlacementConstraint, Tag
from cluster.records.containers import (
    ContainerDefinition,
    DependencyCondition,
    NetworkMode,
    Protocol,
    TaskOverride,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostVolume(Record):
    source_path: str = ""
    """"": a folder of the task's own, that goes with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerVolume(Record):
    scope: str = "task"
    autoprovision: bool | None = None
    driver: str = ""
    driver_opts: Mapping[str, str] = empty_map()
    labels: Mapping[str, str] = empty_map()


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Record):
    name: str
    host: HostVolume | None = None
    docker_volume_configuration: DockerVolume | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition(Record):
    """What to run. Never changed once registered, but for ``status``, its times, and ``tags``."""

    family: str
    revision: int
    cpu: int | None = None
    memory: int | None = None
    """Of the whole task; None: what its containers say."""
    container_definitions: tuple[ContainerDefinition, ...]
    volumes: tuple[Volume, ...] = ()
    network_mode: NetworkMode | None = None
    placement_constraints: tuple[PlacementConstraint, ...] = ()
    requires_compatibilities: tuple[str, ...] = ()
    runtime_platform: Mapping[str, Any] = empty_map()
    pid_mode: str = ""
    ipc_mode: str = ""
    task_role_arn: str = ""
    execution_role_arn: str = ""
    tags: tuple[Tag, ...] = ()
    status: DefinitionStatus = DefinitionStatus.ACTIVE
    registered_at: float = 0.0
    registered_by: str = ""
    deregistered_at: float | None = None
    delete_requested_at: float | None = None

    @property
    def name(self) -> str:
        return f"{self.family}:{self.revision}"

    def containers(self, overrides: TaskOverride | None = None) -> tuple[ContainerDefinition, ...]:
        """Return the containers as they run under ``overrides``."""
        by_name = {override.name: override for override in overrides.container_overrides} if overrides else {}
        return tuple(
            by_name[container.name].applied(container) if container.name in by_name else container
            for container in self.container_definitions
        )

    def claim(self, overrides: TaskOverride | None = None) -> Claim:
        """Return what a task of it takes from an instance.

        CPU and memory are the task's where given (its override before its definition), else the
        sum of the containers': ``memoryReservation`` where given, ``memory`` otherwise.
        """
        containers = self.containers(overrides)
        cpu = overrides.cpu if overrides and overrides.cpu is not None else self.cpu
        memory = overrides.memory if overrides and overrides.memory is not None else self.memory
        named: dict[str, int] = {}
        for container in containers:
            for requirement in container.resource_requirements:
                named[requirement.type] = named.get(requirement.type, 0) + int(requirement.value)
        return Claim(
            cpu=sum(c.cpu for c in containers) if cpu is None else cpu,
            memory=sum(c.memory_claim for c in containers) if memory is None else memory,
            ports=tuple(sorted(self._ports(Protocol.TCP))),
            ports_udp=tuple(sorted(self._ports(Protocol.UDP))),
            resources=named,
        )

    def _ports(self, protocol: Protocol) -> Iterator[int]:
        mode = self.network_mode or NetworkMode.BRIDGE
        for container in self.container_definitions:
            for mapping in container.port_mappings:
                if mapping.protocol is protocol:
                    yield from mapping.claimed(mode)

    def problem(self) -> str | None:
        try:
            check_name(self.family, "family")
        except NameInvalid as error:
            return str(error)
        if (self.cpu or 0) < 0 or (self.memory or 0) < 0:
            return f"cpu {self.cpu} and memory {self.memory} must not be negative"
        names = [container.name for container in self.container_definitions]
        if not names or len(set(names)) != len(names):
            return "containerDefinitions must hold at least one container, each with a name of its own"
        if not any(container.essential for container in self.container_definitions):
            return "at least one container must be essential"
        for protocol in Protocol:
            ports = list(self._ports(protocol))
            if len(set(ports)) != len(ports):
                return f"two containers ask for the same hostPort ({protocol})"
        if any(c.type is not ConstraintType.MEMBER_OF for c in self.placement_constraints):
            return "placementConstraints of a task definition are memberOf only"
        return _limits_problem(self) or _volume_problem(self) or _dependency_problem(self)


def _limits_problem(definition: TaskDefinition) -> str | None:
    containers = definition.container_definitions
    if definition.memory is not None:
        for container in containers:
            if max(container.memory or 0, container.memory_claim) > definition.memory:
                return (
                    f"container {container.name} asks for more memory than the task's {definition.memory} MiB"
                )
    if definition.cpu is not None and sum(container.cpu for container in containers) > definition.cpu:
        return f"the containers ask for more cpu than the task's {definition.cpu} units"
    return None


def _volume_problem(definition: TaskDefinition) -> str | None:
    volumes = [volume.name for volume in definition.volumes]
    if len(set(volumes)) != len(volumes):
        return "two volumes have the same name"
    names = {container.name for container in definition.container_definitions}
    for container in definition.container_definitions:
        for mount in container.mount_points:
            if mount.source_volume not in volumes:
                return f"container {container.name}: volume {mount.source_volume!r} is not defined"
        for source in container.volumes_from:
            if source.source_container not in names - {container.name}:
                return f"container {container.name}: volumesFrom {source.source_container!r} is not there"
    return None


def _dependency_problem(definition: TaskDefinition) -> str | None:
    by_name = {container.name: container for container in definition.container_definitions}
    for container in definition.container_definitions:
        for dependency in container.dependencies:
            name, condition = dependency.container_name, dependency.condition
            other = by_name.get(name)
            if other is None or other is container:
                what = "dependsOn" if dependency in container.depends_on else "links"
                return f"container {container.name}: {what} {name!r} is not there"
            if condition is DependencyCondition.HEALTHY and other.health_check is None:
                return f"container {container.name}: dependsOn {name} HEALTHY, which has no healthCheck"
            if other.essential and condition in _ENDS:
                return f"container {container.name}: dependsOn {name} {condition}, which is essential"
    circle = _circle({c.name: {d.container_name for d in c.dependencies} for c in by_name.values()})
    return f"dependsOn goes in a circle: {' -> '.join(circle)}" if circle else None


_ENDS = (DependencyCondition.COMPLETE, DependencyCondition.SUCCESS)
"""An essential container's end is the task's, so nothing can wait for it."""


def _circle(depends: Mapping[str, set[str]]) -> list[str]:
    """Return a circle of names, empty if there is none."""
    left = {name: set(others) for name, others in depends.items()}
    while free := [name for name, others in left.items() if not others]:
        for name in free:
            del left[name]
        for others in left.values():
            others.difference_update(free)
    if not left:
        return []
    path = [min(left)]
    while path[-1] not in path[:-1]:
        path.append(min(left[path[-1]]))
    return path[path.index(path[-1]) :]
