"""The agent as a program: ``run(options)``. Expected faults are one log line and an exit code.

Whatever starts agents must not end their tasks with them: under systemd that is
``KillMode=process``.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import metadata
from pathlib import Path

import trio
from structlog.typing import FilteringBoundLogger

from agent.cgroups import PARENT_DEFAULT, Cgroups
from agent.docker import DockerRuntime, Pull
from agent.docker_api import SOCKET_DEFAULT, DockerApi, DockerError
from agent.docker_credentials import read_credentials
from agent.folder import AgentFolder, FolderError
from agent.introspection import OFF, Names, serve
from agent.loop import Agent
from agent.presence import AgentError
from agent.process import ProcessRuntime
from agent.process_spec import LOG_BYTES_MAX_DEFAULT, LOG_FILES_MAX_DEFAULT, LogLimits
from agent.reconcile import KEEP_STOPPED_S_DEFAULT
from agent.runtime import Runtime
from cluster.keys import DEFAULT_CLUSTER, NameInvalid, check_name
from cluster.records import ContainerInstance, VersionInfo, attributes, resources
from cluster.records.instances import NOT_NAMED
from journal.client import connect
from journal.errors import JournalError
from journal.logs import configure, get_logger

EXIT_OK = 0
EXIT_FAILED = 1
_CGROUP = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")


class RuntimeKind(StrEnum):
    """What runs containers."""

    PROCESS = "process"
    DOCKER = "docker"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """What an agent is started with. ``validate`` checks it."""

    endpoints: tuple[str, ...]
    """Nodes of the journal, ``host:port``."""
    folder: Path
    cluster: str = DEFAULT_CLUSTER
    cpu: int = 4096
    """CPU units to offer: 1024 a core."""
    memory: int = 8192
    """MiB to offer."""
    resources: Mapping[str, int] = field(default_factory=dict)
    """Further resources to offer, by name."""
    reserved_ports: tuple[int, ...] = ()
    """TCP ports that no task gets."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    lease_ttl_s: float = 10.0
    """How long after its last word an agent counts as connected."""
    keep_stopped_s: float = KEEP_STOPPED_S_DEFAULT
    """How long stopped tasks and their logs are kept."""
    log_bytes_max: int = LOG_BYTES_MAX_DEFAULT
    log_files_max: int = LOG_FILES_MAX_DEFAULT
    """A process's log is kept in so many files of so many bytes, unless its definition says otherwise."""
    runtime: RuntimeKind = RuntimeKind.PROCESS
    docker_socket: Path = SOCKET_DEFAULT
    pull: Pull = Pull.DEFAULT
    cgroup_parent: str = PARENT_DEFAULT
    """Control group above those of this machine's tasks; "": none are made, and nothing is limited."""
    introspection: str = OFF
    """``host:port`` of the introspection endpoint, or ``off``."""
    names: Names = field(default_factory=Names)
    log_level: str = "info"
    log_format: str = "kv"

    def validate(self) -> None:
        """Raise ``ValueError`` that names the option that is wrong."""
        if not self.endpoints:
            raise ValueError("endpoints must name at least one node")
        check_name(self.cluster, "cluster")
        for name in ("cpu", "memory", "lease_ttl_s", "log_bytes_max", "log_files_max"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        if self.keep_stopped_s < 0:
            raise ValueError(f"keep_stopped_s must not be negative, but is {self.keep_stopped_s}")
        if self.cgroup_parent and not _CGROUP.fullmatch(self.cgroup_parent):
            raise ValueError(
                f"cgroup_parent {self.cgroup_parent!r} is not a path of letters, digits, '-', '_', '.'"
            )
        for name in self.resources:
            if name in NOT_NAMED:
                raise ValueError(f"resource {name} is offered by its own option")
        for name in self.attributes:
            if not name:
                raise ValueError("an attribute needs a name")


def run(options: AgentOptions) -> int:
    """Run an agent until SIGTERM or SIGINT; return the exit code. Its tasks go on running."""
    configure(level=options.log_level, form=options.log_format)
    log = get_logger()
    try:
        options.validate()
        folder = AgentFolder.open(
            options.folder.resolve(), options.cluster, uuid.uuid4().hex, str(options.runtime)
        )
    except (ValueError, NameInvalid, FolderError) as error:
        log.error("agent.refused", reason=str(error))
        return EXIT_FAILED
    log = log.bind(instance=folder.identity.instance)
    faults: list[BaseException] = []
    try:
        trio.run(_run, options, folder)
    except* (AgentError, FolderError, JournalError) as group:
        faults = _leaves(group)
    finally:
        folder.close()
    for fault in faults:
        log.error("agent.failed", reason=str(fault))
    if faults:
        return EXIT_FAILED
    log.info("agent.stopped")
    return EXIT_OK


async def _run(options: AgentOptions, folder: AgentFolder) -> None:
    log = get_logger(instance=folder.identity.instance)
    is_docker = options.runtime is RuntimeKind.DOCKER
    folder.update(engine=str(options.docker_socket.resolve()) if is_docker else "")
    registration = registration_of(options)
    async with AsyncExitStack() as stack:
        runtime = await _runtime(options, folder, stack, log)
        journal = await stack.enter_async_context(
            connect(options.endpoints, cluster=folder.identity.journal or None)
        )
        agent = Agent(
            journal,
            folder,
            runtime,
            registration,
            incarnation=uuid.uuid4().hex,
            wall=time.time,
            rng=random.Random(),
            log=log,
            lease_ttl_s=options.lease_ttl_s,
            keep_stopped_s=options.keep_stopped_s,
        )
        log.info("agent.started", pid=os.getpid(), folder=str(folder.path), cluster=options.cluster)
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(_cancel_on_signal, nursery.cancel_scope)
        if options.introspection != OFF:
            nursery.start_soon(serve, agent, options.introspection, options.names, _version(), log)
        await agent.run()


async def _runtime(
    options: AgentOptions, folder: AgentFolder, stack: AsyncExitStack, log: FilteringBoundLogger
) -> Runtime:
    """Return what runs containers. Raises ``AgentError`` where there is no Docker to ask."""
    instance = folder.identity.instance
    environment = {"SYNOD_CLUSTER": options.cluster, "SYNOD_INSTANCE": instance}
    groups: Cgroups | str = "they are turned off"
    if options.cgroup_parent:
        groups = Cgroups.find(instance, options.cgroup_parent)
    if isinstance(groups, str) and options.runtime is RuntimeKind.PROCESS:
        log.warning("cgroups.unavailable", reason=groups, why="memory and cpu of tasks are not limited")
    cgroups = groups if isinstance(groups, Cgroups) else None
    if cgroups is not None:
        stack.callback(cgroups.close)
    if options.runtime is RuntimeKind.PROCESS:
        return ProcessRuntime(
            folder.path,
            environment=environment,
            logs=LogLimits(options.log_bytes_max, options.log_files_max),
            cgroups=cgroups,
        )
    api = DockerApi(options.docker_socket)
    stack.push_async_callback(api.aclose)
    try:
        version, driver = (await api.version())["Version"], (await api.info())["CgroupDriver"]
    except DockerError as error:
        raise AgentError(f"--runtime docker needs a Docker engine: {error}") from error
    log.info("docker.found", version=version, cgroup_driver=driver)
    return DockerRuntime(
        api,
        folder.path,
        instance,
        wall=time.time,
        log=log,
        pull=options.pull,
        environment=environment,
        # systemd's driver wants slices, which are systemd's to make: then limits are each container's.
        cgroups=cgroups if driver == "cgroupfs" else None,
        credentials=read_credentials(),
    )


def registration_of(options: AgentOptions) -> ContainerInstance:
    """Return what an agent says of itself when it registers."""
    return ContainerInstance(
        registered_resources=resources(
            options.cpu, options.memory, ports=options.reserved_ports, named=options.resources
        ),
        attributes=attributes({"os": "linux", "runtime": str(options.runtime), **options.attributes}),
        version_info=VersionInfo(agent_version=_version()),
        host=socket.gethostname(),
        folder=str(options.folder.resolve()),
    )


async def _cancel_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            get_logger().info("agent.stopping", signal=signal.Signals(number).name)
            scope.cancel()


def _version() -> str:
    try:
        return metadata.version("synod")
    except metadata.PackageNotFoundError:
        return "0"


def _leaves(group: BaseExceptionGroup[Exception]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
