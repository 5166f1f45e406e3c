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
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from agent import health, supervisor
from agent.cgroups import Cgroups
from agent.folder import container_folder
from agent.model import ContainerState, LocalTask, Phase
from agent.process_spec import LogLimits, Unfit, bind_ports, make_spec
from agent.supervisor import boot_id, start_time, write_json
from cluster.records import HealthCheck, HealthStatus, NetworkBinding

READY_S_MAX = 10.0
POLL_S = 0.05
RESTART = "restart."
"""Folder of a later attempt, below the container's: ``restart.1`` and so on."""


class ProcessRuntime:
    """Runs containers as processes. ``folder`` is the agent's."""

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        logs: LogLimits | None = None,
        cgroups: Cgroups | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder.resolve()
        self._environment = dict(environment or {})
        self._logs = logs or LogLimits()
        self._cgroups = cgroups
        self._wall = wall
        self._children: set[int] = set()
        """Supervisors that this agent process started: it must reap them."""
        self._health: dict[Path, health.Health] = {}
        """By the folder of the attempt. Begins anew with each agent process: until then it is UNKNOWN."""

    async def run(self) -> None:
        await trio.lowlevel.checkpoint()

    async def inspect(self, task: str, container: str) -> ContainerState:
        await trio.lowlevel.checkpoint()
        return self._look(task, container)

    async def start(self, local: LocalTask, container: str, attempt: int = 0) -> None:
        await trio.lowlevel.checkpoint()
        known = self._look(local.id, container)
        if known.attempt > attempt or (known.attempt == attempt and known.phase is not Phase.CREATED):
            return
        base = container_folder(self._folder, local.id, container)
        folder = base / f"{RESTART}{attempt}" if attempt else base
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_json(str(folder / "spec.json"), self._spec(local, container, base, known))
        except Unfit as unfit:
            reason = f"CannotCreateContainerError: {unfit}"
            write_json(
                str(folder / "exit.json"),
                {"reason": reason, "failedToStart": True, "stoppedAt": self._wall()},
            )
            return
        ready = self._spawn(folder)
        try:
            with trio.move_on_after(READY_S_MAX):
                await trio.lowlevel.wait_readable(ready)
        finally:
            os.close(ready)
            self._reap()

    async def signal(self, task: str, container: str, *, kill: bool) -> bool:
        await trio.lowlevel.checkpoint()
        phase = self._look(task, container).phase
        if phase is not Phase.RUNNING:
            return phase is Phase.STOPPED
        folder = self._attempt_folder(task, container)[0]
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

    async def changed(self, task: str, container: str, known: ContainerState) -> ContainerState:
        await trio.lowlevel.checkpoint()
        while (state := self._look(task, container)) == known and state.phase is Phase.RUNNING:
            folder, _ = self._attempt_folder(task, container)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_first, nursery.cancel_scope, self._until_ended, folder)
                if (check := _health_check(folder)) is not None and known.started_at is not None:
                    nursery.start_soon(
                        _first, nursery.cancel_scope, self._check, folder, check, known.started_at
                    )
        if state.phase is not Phase.RUNNING:
            self._health.pop(self._attempt_folder(task, container)[0], None)
        return state

    async def remove(self, local: LocalTask) -> None:
        """Remove its control groups. The files are the agent folder's, which removes them."""
        await trio.lowlevel.checkpoint()
        if self._cgroups is not None:
            names = [container.name for container in local.containers]
            await trio.to_thread.run_sync(self._cgroups.remove, local.id, names)

    def _attempt_folder(self, task: str, container: str) -> tuple[Path, int]:
        return attempt_folder(container_folder(self._folder, task, container))

    def _look(self, task: str, container: str) -> ContainerState:
        folder, attempt = self._attempt_folder(task, container)
        state = _state(folder)
        bindings: tuple[NetworkBinding, ...] = ()
        status = None
        if state.phase is Phase.RUNNING:
            spec = _read(folder / "spec.json") or {}
            bindings = tuple(NetworkBinding.from_map(each) for each in spec.get("networkBindings", ()))
            if _health_check(folder) is not None:
                known = self._health.get(folder)
                status = known.status if known else HealthStatus.UNKNOWN
        return replace(state, attempt=attempt, network_bindings=bindings, health=status)

    async def _until_ended(self, folder: Path) -> None:
        while _state(folder).phase is Phase.RUNNING:
            handle = _pidfd(_read(folder / "supervisor.json"))
            if handle is None:
                handle = _pidfd(_read(folder / "process.json"))
            if handle is None:
                await trio.sleep(POLL_S)  # it is between two of its files
                continue
            with _Closing(handle):
                await trio.lowlevel.wait_readable(handle)
            self._reap()

    async def _check(self, folder: Path, check: HealthCheck, started_at: float) -> None:
        """Check a container's health, in its time, until its status changes."""
        known = self._health.setdefault(folder, health.first(check, self._wall()))
        status = known.status
        while known.status is status:
            await trio.sleep(min(max(known.next_at - self._wall(), 0.0), check.interval))
            command = health.command(check)
            assert command is not None
            passed = await run_beside(folder, command, check.timeout)
            known = health.checked(check, known, passed=passed, started_at=started_at, now=self._wall())
            self._health[folder] = known

    def _spec(self, local: LocalTask, name: str, base: Path, known: ContainerState) -> dict[str, Any]:
        container = local.container(name)
        first = _read(base / "spec.json") or {}
        told = tuple(NetworkBinding.from_map(each) for each in first.get("networkBindings", ()))
        group = self._cgroups.make(local, container) if self._cgroups is not None else None
        return make_spec(
            local,
            container,
            base=base,
            environment=self._environment,
            logs=self._logs,
            # A later attempt has the ports of the first: others were told of them.
            bindings=told or bind_ports(local, container),
            group=group,
        )

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


def attempt_folder(base: Path) -> tuple[Path, int]:
    """Return the folder of the latest attempt that was written down, and its number."""
    attempts = [int(path.parent.name.removeprefix(RESTART)) for path in base.glob(f"{RESTART}*/spec.json")]
    latest = max(attempts, default=0)
    return (base / f"{RESTART}{latest}" if latest else base), latest


def beside_command(folder: Path, command: Sequence[str]) -> list[str]:
    """Return the command line that runs ``command`` as if in the container of ``folder``."""
    return [sys.executable, "-I", "-S", supervisor.__file__, "--beside", str(folder), *command]


async def run_beside(folder: Path, command: Sequence[str], timeout_s: float) -> bool:
    """Run a command beside a container's process; say whether it ended with 0 in time."""

    async def kill(process: trio.Process) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        await trio.lowlevel.checkpoint()

    with trio.move_on_after(timeout_s):
        done = await trio.run_process(
            beside_command(folder, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            deliver_cancel=kill,
            start_new_session=True,
        )
        return done.returncode == 0
    return False


async def _first(scope: trio.CancelScope, act: Callable[..., Any], *arguments: Any) -> None:
    """Run ``act``, and cancel the others when it is done."""
    await act(*arguments)
    scope.cancel()


def _health_check(folder: Path) -> HealthCheck | None:
    """Return the health check of a container, None where it has none that is turned on."""
    told = (_read(folder / "spec.json") or {}).get("healthCheck")
    check = HealthCheck.from_map(told) if told else None
    return check if check is not None and health.command(check) is not None else None


def _state(folder: Path) -> ContainerState:
    """Return what the files of one attempt say."""
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
