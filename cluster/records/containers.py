"""Containers of a task definition, and how a task may override them. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from cluster.codec import Record, empty_map
from cluster.keys import NameInvalid, check_name
from cluster.records.common import KeyValue

STOP_TIMEOUT_S_DEFAULT = 30
STOP_TIMEOUT_S_MIN = 1
PORTS_OF_RANGE_MAX = 1000
"""Ports of one ``containerPortRange``."""


class NetworkMode(StrEnum):
    """``bridge`` where none is given."""

    BRIDGE = "bridge"
    HOST = "host"
    AWSVPC = "awsvpc"
    NONE = "none"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


class DependencyCondition(StrEnum):
    """START: running, or stopped already. COMPLETE: stopped. SUCCESS: exit code 0. HEALTHY: it says so."""

    START = "START"
    COMPLETE = "COMPLETE"
    SUCCESS = "SUCCESS"
    HEALTHY = "HEALTHY"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping(Record):
    container_port: int = 0
    host_port: int = 0
    """0: none is claimed; the agent picks one (not in network mode host, where it is the container's)."""
    protocol: Protocol = Protocol.TCP
    name: str = ""
    container_port_range: str = ""
    """``8000-8010``; the host's ports are picked by the agent, or the same ones in network mode host."""

    def claimed(self, mode: NetworkMode) -> tuple[int, ...]:
        """Return the host ports that it claims."""
        if mode in (NetworkMode.AWSVPC, NetworkMode.NONE):
            return ()
        if self.container_port_range:
            first, last = self.container_ports()
            return tuple(range(first, last + 1)) if mode is NetworkMode.HOST else ()
        port = self.host_port or (self.container_port if mode is NetworkMode.HOST else 0)
        return (port,) if port else ()

    def container_ports(self) -> tuple[int, int]:
        """Return the first and the last port of ``containerPortRange``. Only of a checked record."""
        first, _, last = self.container_port_range.partition("-")
        return int(first), int(last)

    def problem(self) -> str | None:
        if self.container_port_range:
            first, dash, last = self.container_port_range.partition("-")
            if not (dash and first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 65536):
                return f"containerPortRange {self.container_port_range!r} is not such as 8000-8010"
            if int(last) - int(first) >= PORTS_OF_RANGE_MAX:
                return f"containerPortRange {self.container_port_range} has over {PORTS_OF_RANGE_MAX} ports"
            if self.container_port or self.host_port:
                return "containerPortRange stands for containerPort and hostPort: give one or the other"
        if not 0 <= self.host_port < 65536:
            return f"hostPort {self.host_port} is outside 1 to 65535"
        if not 0 <= self.container_port < 65536:
            return f"containerPort {self.container_port} is outside 1 to 65535"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentFile(Record):
    value: str
    type: str = "s3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret(Record):
    name: str
    value_from: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPoint(Record):
    source_volume: str = ""
    container_path: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFrom(Record):
    source_container: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDependency(Record):
    container_name: str
    condition: DependencyCondition


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck(Record):
    """``command`` begins with ``CMD``, ``CMD-SHELL`` or ``NONE``. Times are in seconds."""

    command: tuple[str, ...]
    interval: int = 30
    timeout: int = 5
    retries: int = 3
    start_period: int | None = None

    def problem(self) -> str | None:
        if not self.command or self.command[0] not in ("CMD", "CMD-SHELL", "NONE"):
            return "healthCheck.command must begin with CMD, CMD-SHELL or NONE"
        if self.command[0] != "NONE" and len(self.command) < 2:
            return "healthCheck.command has nothing to run"
        for name, value, low, high in (
            ("interval", self.interval, 5, 300),
            ("timeout", self.timeout, 2, 120),
            ("retries", self.retries, 1, 10),
            ("startPeriod", self.start_period or 0, 0, 300),
        ):
            if not low <= value <= high:
                return f"healthCheck.{name} {value} is outside {low} to {high}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy(Record):
    """A container that ends is started again, unless its exit code is ignored or it ran too shortly."""

    enabled: bool
    ignored_exit_codes: tuple[int, ...] = ()
    restart_attempt_period: int = 300
    """Seconds that it must have run."""

    def problem(self) -> str | None:
        if not 60 <= self.restart_attempt_period <= 1800:
            return f"restartAttemptPeriod {self.restart_attempt_period} is outside 60 to 1800"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ulimit(Record):
    name: str
    soft_limit: int
    hard_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfiguration(Record):
    log_driver: str
    options: Mapping[str, str] = empty_map()
    secret_options: tuple[Secret, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCapabilities(Record):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Device(Record):
    host_path: str
    container_path: str = ""
    permissions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs(Record):
    """``size`` is in MiB."""

    container_path: str
    size: int
    mount_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxParameters(Record):
    """Sizes are in MiB."""

    capabilities: KernelCapabilities | None = None
    devices: tuple[Device, ...] = ()
    init_process_enabled: bool | None = None
    shared_memory_size: int | None = None
    tmpfs: tuple[Tmpfs, ...] = ()
    max_swap: int | None = None
    swappiness: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEntry(Record):
    hostname: str
    ip_address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemControl(Record):
    namespace: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceRequirement(Record):
    """So much (a number, as text) of a further resource of the instance, named by ``type``."""

    type: str
    value: str

    def problem(self) -> str | None:
        if not self.type:
            return "a resource requirement needs a type"
        if not (self.value.isascii() and self.value.isdigit() and len(self.value) < 16):
            return f"value {self.value!r} of resource {self.type} is not a number"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDefinition(Record):
    name: str
    image: str = ""
    cpu: int = 0
    memory: int | None = None
    memory_reservation: int | None = None
    command: tuple[str, ...] = ()
    entry_point: tuple[str, ...] = ()
    environment: tuple[KeyValue, ...] = ()
    environment_files: tuple[EnvironmentFile, ...] = ()
    secrets: tuple[Secret, ...] = ()
    working_directory: str = ""
    """"": the container's own folder under the agent's (process), the image's own (docker)."""
    essential: bool = True
    depends_on: tuple[ContainerDependency, ...] = ()
    start_timeout: int | None = None
    stop_timeout: int | None = None
    health_check: HealthCheck | None = None
    restart_policy: RestartPolicy | None = None
    port_mappings: tuple[PortMapping, ...] = ()
    mount_points: tuple[MountPoint, ...] = ()
    volumes_from: tuple[VolumeFrom, ...] = ()
    links: tuple[str, ...] = ()
    hostname: str = ""
    dns_servers: tuple[str, ...] = ()
    dns_search_domains: tuple[str, ...] = ()
    extra_hosts: tuple[HostEntry, ...] = ()
    disable_networking: bool | None = None
    user: str = ""
    privileged: bool | None = None
    readonly_root_filesystem: bool | None = None
    docker_security_options: tuple[str, ...] = ()
    interactive: bool | None = None
    pseudo_terminal: bool | None = None
    ulimits: tuple[Ulimit, ...] = ()
    linux_parameters: LinuxParameters | None = None
    system_controls: tuple[SystemControl, ...] = ()
    log_configuration: LogConfiguration | None = None
    docker_labels: Mapping[str, str] = empty_map()
    resource_requirements: tuple[ResourceRequirement, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        return self.entry_point + self.command

    @property
    def dependencies(self) -> tuple[ContainerDependency, ...]:
        """Return what it waits for: ``dependsOn``, and START of what it links to or has volumes from."""
        given = {dependency.container_name for dependency in self.depends_on}
        linked = [link.partition(":")[0] for link in self.links]
        implied = dict.fromkeys([*linked, *(source.source_container for source in self.volumes_from)])
        return self.depends_on + tuple(
            ContainerDependency(container_name=name, condition=DependencyCondition.START)
            for name in implied
            if name not in given
        )

    @property
    def stop_timeout_s(self) -> int:
        """Return the seconds from SIGTERM to SIGKILL."""
        return STOP_TIMEOUT_S_DEFAULT if self.stop_timeout is None else self.stop_timeout

    @property
    def memory_claim(self) -> int:
        """Return the MiB that it reserves: ``memoryReservation`` where given, ``memory`` otherwise."""
        reserved = self.memory_reservation if self.memory_reservation is not None else self.memory
        return reserved or 0

    def problem(self) -> str | None:
        try:
            check_name(self.name, "container")
        except NameInvalid as error:
            return str(error)
        if self.stop_timeout is not None and self.stop_timeout < STOP_TIMEOUT_S_MIN:
            return f"stopTimeout {self.stop_timeout} is below {STOP_TIMEOUT_S_MIN} s"
        if self.start_timeout is not None and self.start_timeout < 1:
            return f"startTimeout {self.start_timeout} is below 1 s"
        if any(not variable.name or "=" in variable.name for variable in self.environment):
            return "an environment variable's name is empty or holds '='"
        if any("\0" in text for text in self.argv) or any("\0" in e.name + e.value for e in self.environment):
            return "a command or environment holds a NUL byte"
        if self.cpu < 0:
            return f"cpu {self.cpu} must not be negative"
        for name, value in (("memory", self.memory), ("memoryReservation", self.memory_reservation)):
            if value is not None and value < 0:
                return f"{name} {value} must not be negative"
        if self.memory is not None and (self.memory_reservation or 0) > self.memory:
            return f"memoryReservation {self.memory_reservation} is over memory {self.memory}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOverride(Record):
    """What is other than in the definition of the container ``name``. None: as there."""

    name: str
    command: tuple[str, ...] | None = None
    environment: tuple[KeyValue, ...] = ()
    """Added to the definition's; of one name, this one."""
    environment_files: tuple[EnvironmentFile, ...] = ()
    cpu: int | None = None
    memory: int | None = None
    memory_reservation: int | None = None
    resource_requirements: tuple[ResourceRequirement, ...] = ()

    def applied(self, to: ContainerDefinition) -> ContainerDefinition:
        """Return the container as it runs."""
        changes: dict[str, Any] = {
            name: value
            for name in ("command", "cpu", "memory", "memory_reservation")
            if (value := getattr(self, name)) is not None
        }
        if self.environment:
            merged = {variable.name: variable for variable in (*to.environment, *self.environment)}
            changes["environment"] = tuple(merged.values())
        if self.environment_files:
            changes["environment_files"] = to.environment_files + self.environment_files
        if self.resource_requirements:
            changes["resource_requirements"] = self.resource_requirements
        return replace(to, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOverride(Record):
    container_overrides: tuple[ContainerOverride, ...] = ()
    cpu: int | None = None
    memory: int | None = None
    task_role_arn: str = ""
    execution_role_arn: str = ""
