"""Where a task's output is, on the machine that ran it."""

from __future__ import annotations

import socket
from pathlib import Path

from agent.folder import log_files
from cluster.ops import ClusterError
from cluster.state import ClusterState, TaskView


class LogsElsewhere(ClusterError):
    """The task's output is on another machine, or is gone."""


def find_logs(state: ClusterState, view: TaskView, container: str | None = None) -> list[Path]:
    """Return the log files of a task (or of one of its containers), oldest first.

    A task that has written nothing yet has none. Raises ``LogsElsewhere``, or ``ClusterError`` for
    a container that the task does not have.
    """
    instance = state.instance(view.cluster, view.instance)
    if instance is None or instance.registration is None:
        raise LogsElsewhere(
            f"container instance {view.instance} of task {view.id} is not registered any more"
        )
    registration = instance.registration.record
    folder = Path(registration.folder)
    if registration.host != socket.gethostname() or not folder.is_dir():
        raise LogsElsewhere(
            f"the logs of task {view.id} are on {registration.host or 'another machine'}, in {folder}"
        )
    definition = state.definition(view.task.task_definition)
    names = [c.name for c in definition.record.container_definitions] if definition else ["main"]
    if container is not None and container not in names:
        raise ClusterError(f"task {view.id} has no container {container}, but {', '.join(names)}")
    return [
        path
        for name in ([container] if container is not None else names)
        for path in log_files(folder, view.id, name)
    ]
