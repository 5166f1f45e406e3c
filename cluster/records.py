"""The records of the cluster, with ECS's words and field names. PURE.

Times are seconds since the epoch as a float, as ECS sends them; cpu is in CPU units
(1024 a core) and memory in MiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cluster.codec import Record
from cluster.keys import NameInvalid, check_name

STOP_TIMEOUT_S_DEFAULT = 30
STOP_TIMEOUT_S_MIN = 1


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster(Record):
    cluster_name: str
    status: ClusterStatus = ClusterStatus.ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Record):
    """One kind of resource of an instance: CPU and MEMORY are integers, PORTS a set of texts."""

    name: str
    type: str = "INTEGER"
    integer_value: int | None = None
    string_set_value: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute(Record):
    name: str
    value: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo(Record):
    agent_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerInstance(Record):
    """The registration of an agent. ``status`` belongs to operators, the rest to the agent."""

    status: InstanceStatus = InstanceStatus.ACTIVE
    registered_resources: tuple[Resource, ...]
    attributes: tuple[Attribute, ...] = ()
    version_info: VersionInfo | None = None
    registered_at: float = 0.0
    host: str = ""
    """The machine's name, for people and for ``synod logs``."""
    folder: str = ""
    """The agent's folder on that machine."""

    def resource(self, name: str) -> int:
        """Return an integer resource, 0 where it is not registered."""
        for resource in self.registered_resources:
            if resource.name == name and resource.integer_value is not None:
                return resource.integer_value
        return 0

    @property
    def cpu(self) -> int:
        return self.resource("CPU")

    @property
    def memory(self) -> int:
        return self.resource("MEMORY")

    def attribute(self, name: str) -> str | None:
        """Return an attribute's value, "" where it has none, None where it does not exist."""
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute.value or ""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity(Record):
    """What is left to claim on an instance, and which host ports are taken."""

    cpu: int
    memory: int
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive(Record):
    """An agent is connected. Bound to its lease, so it goes when the agent does."""

    incarnation: str
    """Drawn anew by each agent process: a second one for the same instance is noticed."""
    connected_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue(Record):
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping(Record):
    container_port: int = 0
    host_port: int = 0
    """0: none is claimed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDefinition(Record):
    name: str
    image: str = ""
    command: tuple[str, ...] = ()
    entry_point: tuple[str, ...] = ()
    environment: tuple[KeyValue, ...] = ()
    working_directory: str = ""
    """"": the container's own folder under the agent's."""
    essential: bool = True
    stop_timeout: int = STOP_TIMEOUT_S_DEFAULT
    port_mappings: tuple[PortMapping, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        return self.entry_point + self.command

    def problem(self) -> str | None:
        try:
            check_name(self.name, "container")
        except NameInvalid as error:
            return str(error)
        if self.stop_timeout < STOP_TIMEOUT_S_MIN:
            return f"stopTimeout {self.stop_timeout} is below {STOP_TIMEOUT_S_MIN} s"
        if any(not variable.name or "=" in variable.name for variable in self.environment):
            return "an environment variable's name is empty or holds '='"
        if any("\0" in text for text in self.argv) or any("\0" in e.name + e.value for e in self.environment):
            return "a command or environment holds a NUL byte"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition(Record):
    """What to run. Never changed once registered, but for ``status``."""

    family: str
    revision: int
    cpu: int
    memory: int
    container_definitions: tuple[ContainerDefinition, ...]
    status: DefinitionStatus = DefinitionStatus.ACTIVE
    registered_at: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.family}:{self.revision}"

    @property
    def ports(self) -> tuple[int, ...]:
        """Return the host ports that a task of it claims, in order."""
        return tuple(
            sorted(m.host_port for c in self.container_definitions for m in c.port_mappings if m.host_port)
        )

    def problem(self) -> str | None:
        if self.cpu < 0 or self.memory < 0:
            return f"cpu {self.cpu} and memory {self.memory} must not be negative"
        names = [container.name for container in self.container_definitions]
        if not names or len(set(names)) != len(names):
            return "containerDefinitions must hold at least one container, each with a name of its own"
        if not any(container.essential for container in self.container_definitions):
            return "at least one container must be essential"
        if len(set(self.ports)) != len(self.ports):
            return "two containers ask for the same hostPort"
        if any(not 0 < port < 65536 for port in self.ports):
            return "a hostPort is outside 1 to 65535"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Record):
    """What is desired of a task, and what it claims. Who places it writes it; who stops it changes it.

    ``cpu``, ``memory`` and ``ports`` are the claim itself, copied from the definition, so
    that what is released is what was claimed whatever becomes of the definition.
    """

    task_definition: str
    """``family:revision``"""
    cpu: int
    memory: int
    ports: tuple[int, ...] = ()
    desired_status: DesiredStatus = DesiredStatus.RUNNING
    started_by: str = ""
    group: str = ""
    created_at: float = 0.0
    stopping_at: float | None = None
    stop_code: StopCode | None = None
    stopped_reason: str | None = None
    """Why it should stop; what became of it is in its status."""

    def problem(self) -> str | None:
        if self.cpu < 0 or self.memory < 0:
            return f"cpu {self.cpu} and memory {self.memory} must not be negative"
        if len(set(self.ports)) != len(self.ports):
            return "ports holds a port twice"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerStatus(Record):
    name: str
    last_status: LastStatus
    exit_code: int | None = None
    reason: str | None = None
    """``Name: message``, such as ``CannotStartContainerError: ...``."""
    runtime_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus(Record):
    """What the agent observed of a task. A task that has none is PENDING."""

    last_status: LastStatus
    containers: tuple[ContainerStatus, ...] = ()
    stop_code: StopCode | None = None
    stopped_reason: str | None = None
    started_at: float | None = None
    stopped_at: float | None = None

    @property
    def exit_code(self) -> int | None:
        """Return the first exit code other than 0, else 0 if there was one, else None."""
        codes = [c.exit_code for c in self.containers if c.exit_code is not None]
        return next((code for code in codes if code != 0), 0) if codes else None


def resources(cpu: int, memory: int) -> tuple[Resource, ...]:
    """Return ``registeredResources`` of an instance."""
    return (
        Resource(name="CPU", integer_value=cpu),
        Resource(name="MEMORY", integer_value=memory),
        Resource(name="PORTS", type="STRINGSET", string_set_value=()),
    )


def attributes(values: Mapping[str, str]) -> tuple[Attribute, ...]:
    """Return ECS's list form of attributes, in the order of their names."""
    return tuple(Attribute(name=name, value=values[name] or None) for name in sorted(values))
