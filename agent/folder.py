"""The agent's folder: who it is, and each task written down before it is acted on.

======================================  ================================================
``lock``                                held by the one agent that uses the folder
``agent.json``                          container instance, cluster, journal, and the
                                        newest revision that was acted on
``tasks/<task>/task.json``              a task as it is desired, and its definition
``tasks/<task>/<container>/``           what ``agent.supervisor`` keeps of a container
======================================  ================================================

Everything is JSON under ECS's names, for people who look. A lost folder means a new
container instance: nothing here is ever guessed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.model import LocalTask
from agent.supervisor import write_json
from cluster.codec import RecordInvalid
from cluster.keys import NameInvalid, check_name
from cluster.records import Task, TaskDefinition
from journal.types import Revision

FORMAT = 1
NOTHING_SEEN = Revision(0)


class FolderError(Exception):
    """The folder cannot be used, and the text says why."""


class FolderLocked(FolderError):
    """Another agent that is alive uses the folder."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who an agent is, across its restarts."""

    instance: str
    cluster: str
    journal: str = ""
    """The journal's cluster id, once it was heard: the agent never follows another one."""
    registered: bool = False
    runtime: str = "process"
    """What runs its containers; tasks of one cannot be taken over by another."""
    engine: str = ""
    """Docker's socket, for ``synod exec`` and ``synod logs``."""
    seen: Revision = NOTHING_SEEN
    """The newest revision whose state was acted on: an older state is refused."""


class AgentFolder:
    """An open, locked folder. Writes are durable when a method returns."""

    def __init__(self, path: Path, identity: Identity, lock: int) -> None:
        self.path = path
        self.identity = identity
        self._lock = lock

    @classmethod
    def open(cls, path: Path, cluster: str, new_instance: str, runtime: str = "process") -> AgentFolder:
        """Open a folder, or make one for ``new_instance`` where there is none.

        Raises ``FolderLocked`` while another agent uses it, ``FolderError`` where it belongs to
        another cluster or runtime, or cannot be read.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "tasks").mkdir(exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise FolderError(f"agent folder {path} cannot be used: {error.strerror}") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise FolderLocked(f"agent folder {path} is in use by another agent (pid {owner})") from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            identity = _read_identity(path)
            if identity is None:
                if any((path / "tasks").iterdir()):
                    raise FolderError(f"agent folder {path} holds tasks and no agent.json: whose are they?")
                identity = Identity(check_name(new_instance, "container instance"), cluster, runtime=runtime)
                _write_identity(path, identity)
            if identity.cluster != cluster:
                raise FolderError(
                    f"agent folder {path} belongs to cluster {identity.cluster}, not to {cluster}"
                )
            if identity.runtime != runtime:
                raise FolderError(
                    f"agent folder {path} is of an agent with --runtime {identity.runtime}, not {runtime}:"
                    " what it runs could not be taken back; start this one on a new folder"
                )
        except BaseException:
            os.close(lock)
            raise
        return cls(path, identity, lock)

    def close(self) -> None:
        """Unlock it. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def update(self, **changes: Any) -> None:
        """Change fields of the identity. Raises ``FolderError`` where the disk does not take it."""
        identity = replace(self.identity, **changes)
        if identity != self.identity:
            try:
                _write_identity(self.path, identity)
            except OSError as error:
                raise FolderError(f"agent folder {self.path} cannot be written: {error.strerror}") from error
            self.identity = identity

    def tasks(self) -> Mapping[str, LocalTask]:
        """Read every task that is written down. Raises ``FolderError`` where one cannot be read."""
        found: dict[str, LocalTask] = {}
        for folder in sorted((self.path / "tasks").iterdir()):
            file = folder / "task.json"
            if file.exists():  # a folder without one is a write that never finished, or a removal
                found[folder.name] = _read_task(file)
        return found

    def write(self, local: LocalTask) -> None:
        """Write a task down."""
        folder = self.task_folder(local.id)
        if not folder.exists():
            folder.mkdir()
            _sync_folder(folder.parent)
        write_json(
            str(folder / "task.json"),
            {
                "task": local.task.to_map(),
                "revision": local.revision,
                "definition": local.definition.to_map(),
            },
        )

    def remove(self, task: str) -> None:
        """Delete a task's folder, its record first: half a removal is no task. Idempotent."""
        folder = self.task_folder(task)
        (folder / "task.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def task_folder(self, task: str) -> Path:
        return self.path / "tasks" / check_name(task, "task")


def read_identity(path: Path) -> Identity | None:
    """Return whose folder it is, without opening it; None where there is none. Raises ``FolderError``."""
    return _read_identity(path)


def container_folder(agent_folder: Path, task: str, container: str) -> Path:
    """Return where a container's files are. Raises ``NameInvalid`` for a name that would lead elsewhere."""
    return agent_folder / "tasks" / check_name(task, "task") / check_name(container, "container")


def log_files(agent_folder: Path, task: str, container: str) -> list[Path]:
    """Return the container's log files that exist, oldest first."""
    folder = container_folder(agent_folder, task, container)
    older = [path for path in folder.glob("log.*") if path.suffix[1:].isdigit()]
    newest = [folder / "log"] if (folder / "log").exists() else []
    return sorted(older, key=lambda path: -int(path.suffix[1:])) + newest


def _read_identity(path: Path) -> Identity | None:
    file = path / "agent.json"
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FolderError(f"{file} cannot be read: {error}") from error
    try:
        if value["format"] != FORMAT:
            raise FolderError(f"{file} has format {value['format']}, this agent knows {FORMAT}")
        return Identity(
            check_name(value["containerInstance"], "container instance"),
            check_name(value["cluster"], "cluster"),
            str(value.get("journal", "")),
            bool(value.get("registered", False)),
            str(value.get("runtime", "process")),
            str(value.get("engine", "")),
            Revision(int(value.get("seen", 0))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FolderError(f"{file} is damaged: {error!r}") from error


def _write_identity(path: Path, identity: Identity) -> None:
    write_json(
        str(path / "agent.json"),
        {
            "format": FORMAT,
            "containerInstance": identity.instance,
            "cluster": identity.cluster,
            "journal": identity.journal,
            "registered": identity.registered,
            "runtime": identity.runtime,
            "engine": identity.engine,
            "seen": identity.seen,
        },
    )


def _read_task(file: Path) -> LocalTask:
    try:
        value = json.loads(file.read_text("utf-8"))
        return LocalTask(
            id=check_name(file.parent.name, "task"),
            task=Task.from_map(value["task"], "task"),
            revision=Revision(int(value["revision"])),
            definition=TaskDefinition.from_map(value["definition"], "definition"),
        )
    except (OSError, KeyError, TypeError, ValueError, RecordInvalid, NameInvalid) as error:
        raise FolderError(f"{file} is damaged: {error!r}") from error


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
