"""What a supervisor is told of a container: ``spec.json``, out of its definition.

A process lives on the machine itself, so of a definition it takes what a process can have, and what
would be a broken promise is refused: no read-only root, no other user without being root.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.cgroups import Group
from agent.model import LocalTask
from agent.ports import pick_port
from cluster.records import ContainerDefinition, NetworkBinding, NetworkMode, Protocol

LOG_BYTES_MAX_DEFAULT = 10 * 1024 * 1024
LOG_FILES_MAX_DEFAULT = 2
LOG_FILES_MAX = 100
INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""What a container gets of the agent's own environment; the definition's comes over it."""

_SIZE = re.compile(r"([1-9][0-9]{0,11})([kmg]?)b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_LIMITS = {
    name.removeprefix("RLIMIT_").lower(): getattr(resource, name)
    for name in dir(resource)
    if name.startswith("RLIMIT_")
}


class Unfit(Exception):
    """A definition that a process cannot be run by, and why."""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much of a container's output is kept: so many files of so many bytes."""

    bytes_max: int = LOG_BYTES_MAX_DEFAULT
    files_max: int = LOG_FILES_MAX_DEFAULT


def make_spec(
    local: LocalTask,
    container: ContainerDefinition,
    *,
    base: Path,
    environment: Mapping[str, str],
    logs: LogLimits,
    bindings: tuple[NetworkBinding, ...],
    group: Group | None,
) -> dict[str, Any]:
    """Return what a supervisor needs to know. ``base``: the container's folder. Raises ``Unfit``."""
    check_fit(container)
    user = resolve_user(container.user)
    limits = log_limits(container, logs)
    health = container.health_check
    return {
        "argv": list(container.argv),
        "cwd": container.working_directory or str(_own_folder(base / "work", user)),
        "env": _environment(local, container, base, environment, bindings, user),
        "log": str(base / "log"),
        "logBytesMax": limits.bytes_max,
        "logFilesMax": limits.files_max,
        "user": user,
        "limits": rlimits(container),
        "cgroups": list(group.procs) if group else [],
        "memoryEvents": group.events if group else None,
        "networkBindings": [binding.to_map() for binding in bindings],
        "healthCheck": health.to_map() if health else None,
    }


def check_fit(container: ContainerDefinition) -> None:
    """Raise ``Unfit`` where a definition asks for what a plain process cannot keep."""
    if not container.argv:
        raise Unfit("the definition has no command")
    if container.readonly_root_filesystem:
        raise Unfit("a process has no read-only root; run it on an agent with --runtime docker")
    if container.secrets or container.environment_files:
        raise Unfit("secrets and environmentFiles are not supported")


def bind_ports(local: LocalTask, container: ContainerDefinition) -> tuple[NetworkBinding, ...]:
    """Return where each port of a container is on this machine; a dynamic one is picked here.

    Nothing translates ports for a process: it is told of its own by ``SYNOD_PORT_<containerPort>``.
    Raises ``OSError`` where no port is free.
    """
    mode = local.definition.network_mode or NetworkMode.BRIDGE
    bindings: list[NetworkBinding] = []
    for mapping in container.port_mappings:
        if mapping.container_port_range:
            ports = mapping.container_port_range
            bindings.append(
                NetworkBinding(
                    bind_ip="0.0.0.0",
                    protocol=mapping.protocol,
                    container_port_range=ports,
                    host_port_range=ports,
                )
            )
            continue
        host = mapping.host_port or (mapping.container_port if mode is NetworkMode.HOST else 0)
        if not host:
            host = pick_port(mapping.protocol, [b.host_port for b in bindings if b.host_port])
        bindings.append(
            NetworkBinding(
                bind_ip="0.0.0.0",
                container_port=mapping.container_port or host,
                host_port=host,
                protocol=mapping.protocol,
            )
        )
    return tuple(bindings)


def log_limits(container: ContainerDefinition, default: LogLimits) -> LogLimits:
    """Return the limits of a log: of its options ``max-size`` and ``max-file``, else the agent's."""
    options = container.log_configuration.options if container.log_configuration else {}
    size, count = options.get("max-size"), options.get("max-file")
    bytes_max, files_max = default.bytes_max, default.files_max
    if size is not None:
        match = _SIZE.fullmatch(size)
        if not match:
            raise Unfit(f"log option max-size {size!r} is not such as 10m")
        bytes_max = int(match[1]) * _UNITS[match[2].lower()]
    if count is not None:
        if not (count.isascii() and count.isdigit() and 1 <= int(count) <= LOG_FILES_MAX):
            raise Unfit(f"log option max-file {count!r} is not a number from 1 to {LOG_FILES_MAX}")
        files_max = int(count)
    return LogLimits(bytes_max, files_max)


def rlimits(container: ContainerDefinition) -> list[tuple[int, int, int]]:
    """Return (resource, soft, hard) for each ulimit."""
    found: list[tuple[int, int, int]] = []
    for limit in container.ulimits:
        if limit.name not in _LIMITS:
            raise Unfit(f"ulimit {limit.name!r} is unknown")
        found.append((_LIMITS[limit.name], limit.soft_limit, limit.hard_limit))
    return found


def resolve_user(text: str) -> tuple[int, int, list[int]] | None:
    """Return (uid, gid, further groups) of ``user[:group]``, by names or numbers; None: as the agent."""
    if not text:
        return None
    name, _, group = text.partition(":")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
        uid, gid = entry.pw_uid, entry.pw_gid
        groups = os.getgrouplist(entry.pw_name, gid)
    except (KeyError, OverflowError):
        if not name.isdigit():
            raise Unfit(f"unable to find user {name}: no matching entries in passwd file") from None
        uid, gid, groups = int(name), 0, []
    if group:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise Unfit(f"unable to find group {group}: no matching entries in group file") from None
        groups = [gid]
    if os.geteuid() != 0:
        if uid == os.geteuid():
            return None
        raise Unfit(f"user {text}: the agent does not run as root")
    return uid, gid, groups


def volume_path(
    local: LocalTask, name: str, task_folder: Path, user: tuple[int, int, list[int]] | None
) -> Path:
    """Return the folder of a volume: the host's own, or one that lives as long as the task."""
    volume = next(volume for volume in local.definition.volumes if volume.name == name)
    if volume.host and volume.host.source_path:
        return Path(volume.host.source_path)
    docker = volume.docker_volume_configuration
    if docker and docker.scope == "shared":
        raise Unfit(f"volume {name} is Docker's; run the task on an agent with --runtime docker")
    return _own_folder(task_folder / ".volumes" / name, user)


def _environment(
    local: LocalTask,
    container: ContainerDefinition,
    base: Path,
    given: Mapping[str, str],
    bindings: tuple[NetworkBinding, ...],
    user: tuple[int, int, list[int]] | None,
) -> dict[str, str]:
    found = {name: os.environ[name] for name in INHERITED if name in os.environ}
    found.update(given)
    found.update({"SYNOD_TASK": local.id, "SYNOD_CONTAINER": container.name})
    for binding in bindings:
        if binding.host_port:
            suffix = "_UDP" if binding.protocol is Protocol.UDP else ""
            found[f"SYNOD_PORT_{binding.container_port}{suffix}"] = str(binding.host_port)
    for mount in container.mount_points:
        path = volume_path(local, mount.source_volume, base.parent, user)
        found[f"SYNOD_VOLUME_{re.sub('[^A-Z0-9]', '_', mount.source_volume.upper())}"] = str(path)
    found.update({variable.name: variable.value for variable in container.environment})
    return found


def _own_folder(path: Path, user: tuple[int, int, list[int]] | None) -> Path:
    """Make a folder that the container's user may write to."""
    path.mkdir(parents=True, exist_ok=True)
    if user is not None:
        os.chown(path, user[0], user[1])
    return path
