"""What several records share: statuses, tags, attributes, resources, what a task claims. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cluster.codec import Record

RESOURCE_FIELD = "resource:"
"""Before the name of a further resource, in a capacity record: no resource hides ``cpu``."""


class ClusterStatus(StrEnum):
    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"


class InstanceStatus(StrEnum):
    """ACTIVE takes tasks; DRAINING keeps what it has; INACTIVE is deregistered for good."""

    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"
    INACTIVE = "INACTIVE"


class DesiredStatus(StrEnum):
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"


class LastStatus(StrEnum):
    """What is known of a task or a container, in the order in which it is gone through."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"


class StopCode(StrEnum):
    TASK_FAILED_TO_START = "TaskFailedToStart"
    ESSENTIAL_CONTAINER_EXITED = "EssentialContainerExited"
    USER_INITIATED = "UserInitiated"
    SERVICE_SCHEDULER_INITIATED = "ServiceSchedulerInitiated"
    TERMINATION_NOTICE = "TerminationNotice"


class DefinitionStatus(StrEnum):
    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    DELETE_IN_PROGRESS = "DELETE_IN_PROGRESS"
    """Asked to be deleted: nothing new is made of it, what runs goes on, its number is never used again."""


class HealthStatus(StrEnum):
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    UNKNOWN = "UNKNOWN"


class ConstraintType(StrEnum):
    MEMBER_OF = "memberOf"
    DISTINCT_INSTANCE = "distinctInstance"


class StrategyType(StrEnum):
    RANDOM = "random"
    SPREAD = "spread"
    BINPACK = "binpack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag(Record):
    key: str
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue(Record):
    name: str
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute(Record):
    name: str
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Record):
    """One kind of resource of an instance: CPU and MEMORY are integers, PORTS a set of texts."""

    name: str
    type: str = "INTEGER"
    integer_value: int | None = None
    string_set_value: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementConstraint(Record):
    """``memberOf`` has an expression of the cluster query language, ``distinctInstance`` has none."""

    type: ConstraintType
    expression: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementStrategy(Record):
    """``field``: ``instanceId``, ``host`` or ``attribute:…`` of spread; ``cpu`` or ``memory`` of binpack."""

    type: StrategyType
    field: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one task takes from an instance, and gives back exactly once."""

    cpu: int = 0
    memory: int = 0
    ports: tuple[int, ...] = ()
    ports_udp: tuple[int, ...] = ()
    resources: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Further resources by name."""

    def numbers(self) -> dict[str, int]:
        """Return the amounts under their names in a capacity record; 0 of a further resource is none."""
        named = {RESOURCE_FIELD + name: self.resources[name] for name in sorted(self.resources)}
        return {"cpu": self.cpu, "memory": self.memory, **{n: v for n, v in named.items() if v}}

    def problem(self) -> str | None:
        """Return what is wrong with it, None if nothing is."""
        if self.cpu < 0 or self.memory < 0:
            return f"cpu {self.cpu} and memory {self.memory} must not be negative"
        for name, number in self.resources.items():
            if not name or number < 0:
                return f"resource {name!r} {number} must have a name and not be negative"
        for what, ports in (("ports", self.ports), ("portsUdp", self.ports_udp)):
            if len(set(ports)) != len(ports):
                return f"{what} holds a port twice"
            if any(not 0 < port < 65536 for port in ports):
                return f"{what} holds a port outside 1 to 65535"
        return None


def resources(
    cpu: int,
    memory: int,
    *,
    ports: tuple[int, ...] = (),
    ports_udp: tuple[int, ...] = (),
    named: Mapping[str, int] | None = None,
) -> tuple[Resource, ...]:
    """Return ``registeredResources`` of an instance; ``ports`` are reserved, and no task's."""
    further = tuple(Resource(name=name, integer_value=value) for name, value in sorted((named or {}).items()))
    return (
        Resource(name="CPU", integer_value=cpu),
        Resource(name="MEMORY", integer_value=memory),
        Resource(name="PORTS", type="STRINGSET", string_set_value=tuple(map(str, ports))),
        Resource(name="PORTS_UDP", type="STRINGSET", string_set_value=tuple(map(str, ports_udp))),
        *further,
    )


def attributes(values: Mapping[str, str]) -> tuple[Attribute, ...]:
    """Return ECS's list form of attributes, in the order of their names."""
    return tuple(Attribute(name=name, value=values[name] or None) for name in sorted(values))


def tags(values: Mapping[str, str]) -> tuple[Tag, ...]:
    """Return ECS's list form of tags, in the order of their keys."""
    return tuple(Tag(key=key, value=values[key]) for key in sorted(values))
