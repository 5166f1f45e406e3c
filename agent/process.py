"""Containers as processes of this machine, each under a supervisor of its own.

What is known of a container is in its folder (``agent.supervisor`` says which file means
what), never in this object alone: ``inspect`` gives the same answer in the agent that
started it and in the one after.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from agent import supervisor
from agent.folder import container_folder
from agent.reconcile import ContainerState, LocalTask, Phase
from agent.supervisor import boot_id, start_time, write_json
from cluster.records import ContainerDefinition

LOG_BYTES_MAX_DEFAULT = 10 * 1024 * 1024
READY_S_MAX = 10.0
POLL_S = 0.05

INHERITED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""What a container gets of the agent's own environment; the definition's comes over it."""


class ProcessRuntime:
    """Runs containers as processes. ``folder`` is the agent's."""

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        log_bytes_max: int = LOG_BYTES_MAX_DEFAULT,
    ) -> None:
        self._folder = folder.resolve()
        self._environment = dict(environment or {})
        self._log_bytes_max = log_bytes_max
        self._children: set[int] = set()
        """Supervisors that this agent process started: it must reap them."""

    def inspect(self, task: str, container: str) -> ContainerState:
        folder = container_folder(self._folder, task, container)
        state = _ended(folder)
        if state is not None:
            return state
        is_supervised = _is_locked(folder)
        process = _read(folder / "process.json")
        if not is_supervised and not (folder / "supervisor.json").exists():
            return ContainerState()
        if is_supervised or _is_alive(process):
            return ContainerState(
                phase=Phase.RUNNING,
                runtime_id=str(process["pid"]) if process else None,
                started_at=process["startedAt"] if process else None,
            )
        return _ended(folder) or ContainerState(  # it may have ended while we looked
            phase=Phase.STOPPED,
            reason=_vanished(process),
            runtime_id=str(process["pid"]) if process else None,
            started_at=process["startedAt"] if process else None,
        )

    async def start(self, local: LocalTask, container: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.inspect(local.id, container).phase is not Phase.CREATED:
            return
        definition = next(c for c in local.definition.container_definitions if c.name == container)
        folder = container_folder(self._folder, local.id, container)
        folder.mkdir(parents=True, exist_ok=True)
        if not definition.argv:
            write_json(
                str(folder / "exit.json"),
                {
                    "reason": "CannotCreateContainerError: the definition has no command",
                    "failedToStart": True,
                },
            )
            return
        write_json(str(folder / "spec.json"), self._spec(local, definition, folder))
        ready = self._spawn(folder)
        try:
            with trio.move_on_after(READY_S_MAX):
                await trio.lowlevel.wait_readable(ready)
        finally:
            os.close(ready)
            self._reap()

    def signal(self, task: str, container: str, *, kill: bool) -> bool:
        folder = container_folder(self._folder, task, container)
        phase = self.inspect(task, container).phase
        if phase is not Phase.RUNNING:
            return phase is Phase.STOPPED
        handle = _pidfd(_read(folder / "supervisor.json"))
        if handle is not None:
            with _Closing(handle):
                signal.pidfd_send_signal(handle, signal.SIGUSR1 if kill else signal.SIGTERM)
            return True
        process = _read(folder / "process.json")
        if process is None or not _is_alive(process):
            return False
        # Its supervisor was killed. The group's first process is alive, so the group is its own.
        try:
            os.killpg(process["pid"], signal.SIGKILL if kill else signal.SIGTERM)
        except ProcessLookupError:
            return False
        return True

    async def wait(self, task: str, container: str) -> None:
        folder = container_folder(self._folder, task, container)
        while self.inspect(task, container).phase is Phase.RUNNING:
            handle = _pidfd(_read(folder / "supervisor.json"))
            if handle is None:
                handle = _pidfd(_read(folder / "process.json"))
            if handle is None:
                await trio.sleep(POLL_S)  # it is between two of its files
                continue
            with _Closing(handle):
                await trio.lowlevel.wait_readable(handle)
            self._reap()
        await trio.lowlevel.checkpoint()

    def remove(self, task: str) -> None:
        """The files are the agent folder's, which removes them."""

    def _spec(self, local: LocalTask, definition: ContainerDefinition, folder: Path) -> dict[str, Any]:
        cwd = definition.working_directory
        if not cwd:
            (folder / "work").mkdir(exist_ok=True)
            cwd = str(folder / "work")
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment.update(self._environment)
        environment.update({"SYNOD_TASK": local.id, "SYNOD_CONTAINER": definition.name})
        environment.update({variable.name: variable.value for variable in definition.environment})
        return {
            "argv": list(definition.argv),
            "cwd": cwd,
            "env": environment,
            "logBytesMax": self._log_bytes_max,
        }

    def _spawn(self, folder: Path) -> int:
        """Start a supervisor in a session of its own; return a pipe that tells when it has got somewhere."""
        ready, theirs = os.pipe()
        # Above what the child gets, so that dup2 to 3 always makes a new, inheritable one.
        high = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 64)
        os.close(theirs)
        errors = os.open(folder / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", supervisor.__file__, str(folder)],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, errors, 1),
                    (os.POSIX_SPAWN_DUP2, errors, 2),
                    (os.POSIX_SPAWN_DUP2, high, 3),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1),
            )
        except OSError:
            os.close(ready)
            raise
        finally:
            os.close(errors)
            os.close(high)
        self._children.add(pid)
        return ready

    def _reap(self) -> None:
        for pid in sorted(self._children):
            try:
                done, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done = pid
            if done:
                self._children.discard(pid)


class _Closing:
    """Closes a file descriptor at the end of a block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _read(file: Path) -> dict[str, Any] | None:
    """Return a file of the supervisor's; None where there is none, or it is not whole."""
    try:
        value = json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _ended(folder: Path) -> ContainerState | None:
    end = _read(folder / "exit.json")
    if end is None:
        return None
    process = _read(folder / "process.json")
    return ContainerState(
        phase=Phase.STOPPED,
        exit_code=end.get("exitCode"),
        reason=end.get("reason"),
        failed_to_start=bool(end.get("failedToStart")),
        runtime_id=str(process["pid"]) if process else None,
        started_at=end.get("startedAt"),
        stopped_at=end.get("stoppedAt"),
    )


def _is_locked(folder: Path) -> bool:
    """Say whether a supervisor lives."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    with _Closing(lock):
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _is_alive(process: dict[str, Any] | None) -> bool:
    """Say whether a process is the one that was written down, and not a later one of the same pid."""
    return (
        process is not None
        and process["bootId"] == boot_id()
        and start_time(process["pid"]) == process["startTime"] is not None
    )


def _pidfd(process: dict[str, Any] | None) -> int | None:
    """Return a handle of the process that was written down; None if it is gone."""
    if process is None or not _is_alive(process):
        return None
    try:
        handle = os.pidfd_open(process["pid"])
    except ProcessLookupError:
        return None
    if not _is_alive(process):  # the pid went to another between the look and the opening
        os.close(handle)
        return None
    return handle


def _vanished(process: dict[str, Any] | None) -> str:
    if process is not None and process["bootId"] != boot_id():
        return "ContainerVanishedError: the machine was restarted; the exit code is unknown"
    return "ContainerVanishedError: its supervisor was killed; the exit code is unknown"
