"""A container definition in the words of the Docker Engine API, and the engine's answers in ours. PURE."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.model import ContainerState, LocalTask, Phase
from cluster.records import (
    ContainerDefinition,
    HealthCheck,
    HealthStatus,
    LinuxParameters,
    NetworkBinding,
    NetworkMode,
    PortMapping,
    Protocol,
    Volume,
)

LABEL = "io.synod."
INSTANCE, TASK, CONTAINER = LABEL + "instance", LABEL + "task", LABEL + "container"
MIB = 1 << 20
MEMORY_MIB_MIN = 6
"""The engine refuses less; the ECS agent rounds up too."""
SHARES_MIN = 2
CPU_PERIOD_US = 100_000
CPU_UNITS_A_CORE = 1024
SIGNAL_DEFAULT = "SIGTERM"
SECOND_NS = 1_000_000_000
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"

_NO_TIME = "0001-01-01T00:00:00Z"
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")
_HEALTH = {"healthy": HealthStatus.HEALTHY, "unhealthy": HealthStatus.UNHEALTHY}


class Unfit(Exception):
    """A definition that the Docker runtime cannot run, and why."""


@dataclass(frozen=True, slots=True)
class Image:
    """A reference taken apart. ``tag`` may be a digest, ``sha256:…``."""

    name: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Image:
        """Raises ``Unfit``."""
        name, at, digest = text.partition("@")
        if at:
            return cls(name, digest)
        head, colon, tag = text.rpartition(":")
        if not colon or "/" in tag:  # the colon is a registry's port
            head, tag = text, "latest"
        if not head:
            raise Unfit(f"image {text!r} has no name")
        return cls(head, tag)

    @property
    def registry(self) -> str:
        """Return the registry's host, as credentials are filed."""
        host, slash, _ = self.name.partition("/")
        is_host = slash and ("." in host or ":" in host or host == "localhost")
        return host if is_host else "https://index.docker.io/v1/"

    def __str__(self) -> str:
        return f"{self.name}{'@' if self.tag.startswith('sha256:') else ':'}{self.tag}"


def container_name(task: str, container: str) -> str:
    """Return the name of a container at the engine: no two of it can be made."""
    return f"synod-{task}-{container}"


def volume_name(task: str, volume: str) -> str:
    return f"synod-{task}-{volume}"


def labels(instance: str, local: LocalTask, container: str) -> dict[str, str]:
    """Return the labels by which an agent finds its containers again."""
    return {
        INSTANCE: instance,
        TASK: local.id,
        CONTAINER: container,
        LABEL + "family": local.definition.family,
        LABEL + "revision": str(local.definition.revision),
    }


def create_config(
    local: LocalTask,
    container: ContainerDefinition,
    *,
    instance: str,
    cgroup_parent: str = "",
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the body of a create call. Raises ``Unfit``."""
    check_fit(local, container)
    own = {**(environment or {}), "SYNOD_TASK": local.id, "SYNOD_CONTAINER": container.name}
    variables = {**own, **{variable.name: variable.value for variable in container.environment}}
    config: dict[str, Any] = {
        "Image": str(Image.parse(container.image)),
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Labels": {**container.docker_labels, **labels(instance, local, container.name)},
        "OpenStdin": bool(container.interactive),
        "Tty": bool(container.pseudo_terminal),
        "NetworkDisabled": bool(container.disable_networking),
        "ExposedPorts": {f"{port}/{protocol}": {} for port, protocol in _exposed(container)},
        "HostConfig": _host_config(local, container, cgroup_parent),
    }
    given = {
        "Cmd": list(container.command),
        "Entrypoint": list(container.entry_point),
        "WorkingDir": container.working_directory,
        "User": container.user,
        "Hostname": container.hostname,
    }
    config.update({name: value for name, value in given.items() if value})  # else the image's own
    if container.health_check is not None:
        config["Healthcheck"] = health_config(container.health_check)
    return config


def check_fit(local: LocalTask, container: ContainerDefinition) -> None:
    """Raise ``Unfit`` where a definition asks for what this runtime does not have."""
    if not container.image:
        raise Unfit("the definition has no image")
    if container.secrets or container.environment_files:
        raise Unfit("secrets and environmentFiles are not supported")
    if local.definition.network_mode is NetworkMode.AWSVPC:
        raise Unfit("networkMode awsvpc needs AWS's network; use bridge, host or none")


def health_config(check: HealthCheck) -> dict[str, Any]:
    return {
        "Test": list(check.command),
        "Interval": check.interval * SECOND_NS,
        "Timeout": check.timeout * SECOND_NS,
        "Retries": check.retries,
        "StartPeriod": (check.start_period or 0) * SECOND_NS,
    }


def _host_config(local: LocalTask, container: ContainerDefinition, cgroup_parent: str) -> dict[str, Any]:
    mode = local.definition.network_mode or NetworkMode.BRIDGE
    host: dict[str, Any] = {
        "NetworkMode": "none" if container.disable_networking else str(mode),
        "PortBindings": _port_bindings(container) if mode is NetworkMode.BRIDGE else {},
        "Binds": binds(local, container),
        "VolumesFrom": [
            container_name(local.id, source.source_container) + (":ro" if source.read_only else "")
            for source in container.volumes_from
        ],
        "Links": [_link(local, link) for link in container.links],
        "Privileged": bool(container.privileged),
        "ReadonlyRootfs": bool(container.readonly_root_filesystem),
        "Ulimits": [
            {"Name": limit.name, "Soft": limit.soft_limit, "Hard": limit.hard_limit}
            for limit in container.ulimits
        ],
        "SecurityOpt": list(container.docker_security_options),
        "Dns": list(container.dns_servers),
        "DnsSearch": list(container.dns_search_domains),
        "ExtraHosts": [f"{entry.hostname}:{entry.ip_address}" for entry in container.extra_hosts],
        "Sysctls": {each.namespace: each.value for each in container.system_controls},
        "PidMode": local.definition.pid_mode if local.definition.pid_mode == "host" else "",
        "IpcMode": local.definition.ipc_mode if local.definition.ipc_mode in ("host", "none") else "",
        "CgroupParent": cgroup_parent,
        "RestartPolicy": {"Name": "no"},
        **_resources(local, container, has_parent=bool(cgroup_parent)),
        **_linux(container.linux_parameters),
    }
    logs = container.log_configuration
    if logs is not None:
        host["LogConfig"] = {"Type": logs.log_driver, "Config": dict(logs.options)}
    return host


def _resources(local: LocalTask, container: ContainerDefinition, *, has_parent: bool) -> dict[str, Any]:
    """Return limits. A task's own are its group's; where it has none, each container's."""
    overrides = local.task.overrides
    task_memory = overrides.memory if overrides and overrides.memory is not None else local.definition.memory
    task_cpu = overrides.cpu if overrides and overrides.cpu is not None else local.definition.cpu
    found: dict[str, Any] = {"CpuShares": max(container.cpu, SHARES_MIN)}
    hard = container.memory or (0 if has_parent else task_memory)
    if hard:
        found["Memory"] = max(hard, MEMORY_MIB_MIN) * MIB
    if container.memory_reservation:
        found["MemoryReservation"] = max(container.memory_reservation, MEMORY_MIB_MIN) * MIB
    if task_cpu and not has_parent:
        found["CpuPeriod"] = CPU_PERIOD_US
        found["CpuQuota"] = max(task_cpu * CPU_PERIOD_US // CPU_UNITS_A_CORE, 1000)
    return found


def _linux(linux: LinuxParameters | None) -> dict[str, Any]:
    if linux is None:
        return {}
    found: dict[str, Any] = {
        "Devices": [
            {
                "PathOnHost": device.host_path,
                "PathInContainer": device.container_path or device.host_path,
                "CgroupPermissions": "".join(name[0] for name in device.permissions) or "rwm",
            }
            for device in linux.devices
        ],
        "Tmpfs": {
            each.container_path: ",".join((f"size={each.size}m", *each.mount_options)) for each in linux.tmpfs
        },
    }
    if linux.capabilities is not None:
        found["CapAdd"], found["CapDrop"] = list(linux.capabilities.add), list(linux.capabilities.drop)
    if linux.init_process_enabled is not None:
        found["Init"] = linux.init_process_enabled
    if linux.shared_memory_size:
        found["ShmSize"] = linux.shared_memory_size * MIB
    if linux.swappiness is not None:
        found["MemorySwappiness"] = linux.swappiness
    return found


def binds(local: LocalTask, container: ContainerDefinition) -> list[str]:
    """Return the mounts of a container, ``source:path[:ro]``."""
    found: list[str] = []
    for mount in container.mount_points:
        volume = next(v for v in local.definition.volumes if v.name == mount.source_volume)
        found.append(f"{_source(local, volume)}:{mount.container_path}{':ro' if mount.read_only else ''}")
    return found


def volumes(local: LocalTask) -> list[dict[str, Any]]:
    """Return the bodies of the create calls of the volumes that are the task's own, or are to be provided."""
    found: list[dict[str, Any]] = []
    for volume in local.definition.volumes:
        docker = volume.docker_volume_configuration
        if volume.host is not None and volume.host.source_path:
            continue
        if docker is None:
            found.append({"Name": volume_name(local.id, volume.name), "Labels": {TASK: local.id}})
        elif docker.scope == "task" or docker.autoprovision:
            own = {TASK: local.id} if docker.scope == "task" else {}
            found.append(
                {
                    "Name": _source(local, volume),
                    "Driver": docker.driver or "local",
                    "DriverOpts": dict(docker.driver_opts),
                    "Labels": {**docker.labels, **own},
                }
            )
    return found


def own_volumes(local: LocalTask) -> list[str]:
    """Return the names of the volumes that go with the task."""
    return [body["Name"] for body in volumes(local) if TASK in body["Labels"]]


def _source(local: LocalTask, volume: Volume) -> str:
    if volume.host is not None and volume.host.source_path:
        return volume.host.source_path
    docker = volume.docker_volume_configuration
    is_shared = docker is not None and docker.scope == "shared"
    return volume.name if is_shared else volume_name(local.id, volume.name)


def _link(local: LocalTask, link: str) -> str:
    name, _, alias = link.partition(":")
    return f"{container_name(local.id, name)}:{alias or name}"


def _ports(mapping: PortMapping) -> Sequence[int]:
    if mapping.container_port_range:
        first, last = mapping.container_ports()
        return range(first, last + 1)
    return [mapping.container_port or mapping.host_port]


def _exposed(container: ContainerDefinition) -> list[tuple[int, Protocol]]:
    return [(port, mapping.protocol) for mapping in container.port_mappings for port in _ports(mapping)]


def _port_bindings(container: ContainerDefinition) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for mapping in container.port_mappings:
        for port in _ports(mapping):
            host = str(mapping.host_port) if mapping.host_port else ""
            found.setdefault(f"{port}/{mapping.protocol}", []).append({"HostPort": host})
    return found


# -- answers ----------------------------------------------------------------------------------


def state_of(found: Mapping[str, Any]) -> ContainerState:
    """Return what an inspection says of a container that was started by us, or is to be."""
    state = found["State"]
    status = state["Status"]
    phase = Phase.RUNNING
    if status == "created":
        phase = Phase.CREATED
    elif status in ("exited", "dead") or (status == "removing" and not state.get("Running")):
        phase = Phase.STOPPED
    known = ContainerState(
        phase=phase,
        runtime_id=found["Id"],
        image_digest=str(found.get("Image", "")),
        started_at=parse_time(state.get("StartedAt")),
        health=_health(state),
        network_bindings=network_bindings(found),
    )
    if phase is not Phase.STOPPED:
        return known
    reason = OUT_OF_MEMORY if state.get("OOMKilled") else None
    return ContainerState(
        phase=phase,
        runtime_id=known.runtime_id,
        image_digest=known.image_digest,
        started_at=known.started_at,
        stopped_at=parse_time(state.get("FinishedAt")),
        exit_code=int(state["ExitCode"]),
        reason=reason or (f"CannotStartContainerError: {state['Error']}" if state.get("Error") else None),
        failed_to_start=known.started_at is None,
    )


def network_bindings(found: Mapping[str, Any]) -> tuple[NetworkBinding, ...]:
    """Return where a container's ports are on the host, in order; IPv4's where both are there."""
    ports = (found.get("NetworkSettings") or {}).get("Ports") or {}
    bindings: list[NetworkBinding] = []
    for name in sorted(ports, key=lambda text: (int(text.partition("/")[0]), text)):
        port, _, protocol = name.partition("/")
        hosts = ports[name] or []
        bindings.extend(
            NetworkBinding(
                bind_ip=host["HostIp"] or "0.0.0.0",
                container_port=int(port),
                host_port=int(host["HostPort"]),
                protocol=Protocol(protocol),
            )
            for host in [h for h in hosts if ":" not in h["HostIp"]] or hosts
        )
    return tuple(bindings)


def parse_time(text: str | None) -> float | None:
    """Return seconds since the epoch of the engine's time; None where it has none."""
    match = _TIME.fullmatch(text or "")
    if match is None or text == _NO_TIME:
        return None
    whole = datetime.datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    return whole.timestamp() + float(match[2] or 0)


def _health(state: Mapping[str, Any]) -> HealthStatus | None:
    health = state.get("Health")
    if not health or health.get("Status") in (None, "none"):
        return None
    return _HEALTH.get(health["Status"], HealthStatus.UNKNOWN)
