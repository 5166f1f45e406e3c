"""The agent as a program: ``run(options)``. Expected faults are one log line and an exit code.

Whatever starts agents must not end their tasks with them: under systemd that is
``KillMode=process``.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import trio

from agent.folder import AgentFolder, FolderError
from agent.loop import Agent
from agent.presence import AgentError
from agent.process import ProcessRuntime
from agent.process_spec import LOG_BYTES_MAX_DEFAULT, LOG_FILES_MAX_DEFAULT, LogLimits
from agent.reconcile import KEEP_STOPPED_S_DEFAULT
from cluster.keys import DEFAULT_CLUSTER, NameInvalid, check_name
from cluster.records import ContainerInstance, VersionInfo, attributes, resources
from journal.client import connect
from journal.errors import JournalError
from journal.logs import configure, get_logger

EXIT_OK = 0
EXIT_FAILED = 1


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
    attributes: Mapping[str, str] = field(default_factory=dict)
    lease_ttl_s: float = 10.0
    """How long after its last word an agent counts as connected."""
    keep_stopped_s: float = KEEP_STOPPED_S_DEFAULT
    """How long stopped tasks and their logs are kept."""
    log_bytes_max: int = LOG_BYTES_MAX_DEFAULT
    log_files_max: int = LOG_FILES_MAX_DEFAULT
    """A process's log is kept in so many files of so many bytes, unless its definition says otherwise."""
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
        for name in self.attributes:
            if not name:
                raise ValueError("an attribute needs a name")


def run(options: AgentOptions) -> int:
    """Run an agent until SIGTERM or SIGINT; return the exit code. Its tasks go on running."""
    configure(level=options.log_level, form=options.log_format)
    log = get_logger()
    try:
        options.validate()
        folder = AgentFolder.open(options.folder.resolve(), options.cluster, uuid.uuid4().hex)
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
    runtime = ProcessRuntime(
        folder.path,
        environment={"SYNOD_CLUSTER": options.cluster, "SYNOD_INSTANCE": folder.identity.instance},
        logs=LogLimits(options.log_bytes_max, options.log_files_max),
    )
    registration = ContainerInstance(
        registered_resources=resources(options.cpu, options.memory),
        attributes=attributes({"os": "linux", "runtime": "process", **options.attributes}),
        version_info=VersionInfo(agent_version=_version()),
        host=socket.gethostname(),
        folder=str(folder.path),
    )
    async with connect(options.endpoints, cluster=folder.identity.journal or None) as journal:
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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, nursery.cancel_scope)
            await agent.run()


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
