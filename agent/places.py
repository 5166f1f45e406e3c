"""Where a task runs, for whoever looks into it from the same machine: its logs, a command in it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from agent.docker_spec import container_name
from agent.folder import FolderError, Identity, container_folder, log_files, read_identity
from cluster.ops import ClusterError
from cluster.state import ClusterState
from cluster.views import TaskView


class TaskElsewhere(ClusterError):
    """The task is on another machine, or what it left there is gone."""


@dataclass(frozen=True, slots=True)
class Place:
    """A task on this machine."""

    task: str
    folder: Path
    """Its agent's."""
    identity: Identity
    containers: tuple[str, ...]
    """Those that are meant."""

    @property
    def is_docker(self) -> bool:
        return self.identity.runtime == "docker"

    @property
    def socket(self) -> Path:
        """Docker's."""
        return Path(self.identity.engine)

    def docker_names(self) -> list[str]:
        return [container_name(self.task, name) for name in self.containers]

    def log_files(self) -> list[Path]:
        """Return the log files of its processes, oldest first; what has written nothing has none."""
        return [path for name in self.containers for path in log_files(self.folder, self.task, name)]

    def process_folder(self, container: str) -> Path:
        """Return the folder of the latest start of a process."""
        from agent.process import attempt_folder

        return attempt_folder(container_folder(self.folder, self.task, container))[0]


def find_place(state: ClusterState, view: TaskView, container: str | None = None) -> Place:
    """Return where a task is; of its containers only ``container``, if given.

    Raises ``TaskElsewhere``, or ``ClusterError`` for a container that the task does not have.
    """
    instance = state.instance(view.cluster, view.instance)
    if instance is None or instance.registration is None:
        raise TaskElsewhere(
            f"container instance {view.instance} of task {view.id} is not registered any more"
        )
    registration = instance.registration.record
    folder = Path(registration.folder)
    if registration.host != socket.gethostname() or not registration.folder or not folder.is_dir():
        raise TaskElsewhere(
            f"task {view.id} is on {registration.host or 'another machine'}, in {folder}: ask there"
        )
    definition = state.definition(view.task.task_definition)
    names = tuple(c.name for c in definition.record.container_definitions) if definition else ("main",)
    if container is not None and container not in names:
        raise ClusterError(f"task {view.id} has no container {container}, but {', '.join(names)}")
    try:
        identity = read_identity(folder)
    except FolderError as error:
        raise TaskElsewhere(str(error)) from error
    if identity is None or identity.instance != view.instance:
        raise TaskElsewhere(f"{folder} is not the folder of container instance {view.instance} any more")
    return Place(view.id, folder, identity, names if container is None else (container,))
