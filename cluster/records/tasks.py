"""Tasks: what is desired of one, and what is observed. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.codec import Record, empty_map, on_wire
from cluster.records.common import Claim, DesiredStatus, HealthStatus, LastStatus, StopCode, Tag
from cluster.records.containers import Protocol, TaskOverride
from cluster.records.definitions import TaskDefinition

SERVICE_GROUP = "service:"
FAMILY_GROUP = "family:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Record):
    """What is desired of a task, and what it claims. Who places it writes it; who stops it changes it.

    ``cpu``, ``memory``, ``ports``, ``portsUdp`` and ``resources`` are the claim itself, copied from
    the definition, so that what is released is what was claimed whatever becomes of the definition.
    """

    task_definition: str
    """``family:revision``"""
    cpu: int
    memory: int
    ports: tuple[int, ...] = ()
    ports_udp: tuple[int, ...] = ()
    resources: Mapping[str, int] = empty_map()
    desired_status: DesiredStatus = DesiredStatus.RUNNING
    started_by: str = ""
    """The deployment's id, for a task of a service."""
    group: str = ""
    """``service:<name>`` for a task of a service; ``family:<family>`` unless somebody says otherwise."""
    created_at: float = 0.0
    overrides: TaskOverride | None = None
    tags: tuple[Tag, ...] = ()
    propagate_tags: str = ""
    enable_execute_command: bool = False
    enable_ecs_managed_tags: bool = on_wire("enableECSManagedTags", default=False)
    launch_type: str = ""
    reference_id: str = ""
    protected_until: float | None = None
    """Services do not stop it before then."""
    stopping_at: float | None = None
    stop_code: StopCode | None = None
    stopped_reason: str | None = None
    """Why it should stop; what became of it is in its status."""

    @property
    def claim(self) -> Claim:
        return Claim(
            cpu=self.cpu,
            memory=self.memory,
            ports=self.ports,
            ports_udp=self.ports_udp,
            resources=self.resources,
        )

    @property
    def family(self) -> str:
        return self.task_definition.partition(":")[0]

    @property
    def service(self) -> str:
        """Return the service whose task it is, "" if it is none's."""
        return self.group.removeprefix(SERVICE_GROUP) if self.group.startswith(SERVICE_GROUP) else ""

    def problem(self) -> str | None:
        return self.claim.problem()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkBinding(Record):
    """A port of a container as it is reached from outside."""

    bind_ip: str = on_wire("bindIP", default="")
    container_port: int | None = None
    host_port: int | None = None
    protocol: Protocol = Protocol.TCP
    container_port_range: str = ""
    host_port_range: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedAgent(Record):
    """What serves ``exec`` in a container."""

    name: str
    last_status: str = ""
    reason: str = ""
    last_started_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerStatus(Record):
    name: str
    last_status: LastStatus
    exit_code: int | None = None
    reason: str | None = None
    """``Name: message``, such as ``CannotStartContainerError: ...``."""
    runtime_id: str | None = None
    image_digest: str = ""
    health_status: HealthStatus | None = None
    network_bindings: tuple[NetworkBinding, ...] = ()
    managed_agents: tuple[ManagedAgent, ...] = ()
    restart_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus(Record):
    """What the agent observed of a task. A task that has none is PENDING."""

    last_status: LastStatus
    containers: tuple[ContainerStatus, ...] = ()
    health_status: HealthStatus | None = None
    stop_code: StopCode | None = None
    stopped_reason: str | None = None
    pull_started_at: float | None = None
    pull_stopped_at: float | None = None
    started_at: float | None = None
    execution_stopped_at: float | None = None
    stopped_at: float | None = None

    @property
    def exit_code(self) -> int | None:
        """Return the first exit code other than 0, else 0 if there was one, else None."""
        codes = [c.exit_code for c in self.containers if c.exit_code is not None]
        return next((code for code in codes if code != 0), 0) if codes else None


def task_of(
    definition: TaskDefinition,
    *,
    created_at: float,
    overrides: TaskOverride | None = None,
    group: str = "",
    started_by: str = "",
    tags: tuple[Tag, ...] = (),
    propagate_tags: str = "",
    enable_execute_command: bool = False,
    enable_ecs_managed_tags: bool = False,
    launch_type: str = "",
    reference_id: str = "",
) -> Task:
    """Return the record of a new task of a definition, with its claim. ``group`` "": its family's."""
    claim = definition.claim(overrides)
    return Task(
        task_definition=definition.name,
        cpu=claim.cpu,
        memory=claim.memory,
        ports=claim.ports,
        ports_udp=claim.ports_udp,
        resources=claim.resources,
        started_by=started_by,
        group=group or FAMILY_GROUP + definition.family,
        created_at=created_at,
        overrides=overrides,
        tags=tags,
        propagate_tags=propagate_tags,
        enable_execute_command=enable_execute_command,
        enable_ecs_managed_tags=enable_ecs_managed_tags,
        launch_type=launch_type,
        reference_id=reference_id,
    )
