"""Processes that outlive the command which started them, found again without mistakes.

A pid alone names nobody: the kernel gives it to the next process. So a ``ProcessRef`` also
holds when the process started (in the kernel's own ticks, and of which boot), and a signal goes
through a pidfd that was opened before that was compared: it cannot reach anybody else, however
late it comes. Where the kernel has no pidfd the check and the kill are two steps.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def started(pid: int) -> str | None:
    """Return what tells this process from every other that had or will have its pid.

    None where there is no such process, or it is a zombie: it has ended, but its parent did not
    collect it yet.
    """
    stat = Path(f"/proc/{pid}/stat")
    if _BOOT_ID.exists():
        try:
            # The command's name stands in parentheses and may hold anything; fields count after it.
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, threads, ticks = fields[0], int(fields[17]), fields[19]
        # A killed process may be a zombie by its first thread while others still hold its port.
        has_ended = state in "ZXx" and threads <= 1
        return None if has_ended else f"{_BOOT_ID.read_text().strip()}:{ticks}"
    return _started_elsewhere(pid)


def _started_elsewhere(pid: int) -> str | None:
    """As ``started``, on systems without /proc."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.3f}"
    except psutil.NoSuchProcess:
        return None


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One certain process, alive or not."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessRef | None:
        """Return a reference to the process that has this pid now, or None."""
        mark = started(pid)
        return None if mark is None else cls(pid, mark)

    @property
    def alive(self) -> bool:
        return started(self.pid) == self.started

    @property
    def paused(self) -> bool:
        """Whether it is stopped by SIGSTOP (only known where /proc is)."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(errors="replace")
        except OSError:
            return False
        return self.alive and stat.rpartition(")")[2].split()[0] == "T"

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to this process and to no other; return False if it is gone."""
        try:
            if not hasattr(os, "pidfd_open"):
                if not self.alive:
                    return False
                os.kill(self.pid, number)
                return True
            descriptor = os.pidfd_open(self.pid)
            try:
                if not self.alive:
                    return False
                signal.pidfd_send_signal(descriptor, number)
                return True
            finally:
                os.close(descriptor)
        except ProcessLookupError:
            return False


class _Child(subprocess.Popen[bytes]):
    """A process that may well outlive this object: that is no resource leaked."""

    def __del__(self) -> None:
        if self.poll() is None:
            self.returncode = 0


class Children:
    """The processes that this process started itself: it must collect them when they end."""

    def __init__(self) -> None:
        self._popen: dict[int, _Child] = {}

    def spawn(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> ProcessRef:
        """Start a command in a session of its own, with both outputs appended to ``log``.

        In its own session it does not get the terminal's Ctrl-C: who started it stops it in order.
        """
        with log.open("ab") as output:
            process = _Child(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
            )
        self._popen[process.pid] = process
        # It cannot be collected before poll(), so the pid is still its own, even if it has ended.
        return ProcessRef.of(process.pid) or ProcessRef(process.pid, "ended")

    def exit_code(self, pid: int) -> int | None:
        """Collect a child if it has ended: return its exit code (negative: by that signal)."""
        process = self._popen.get(pid)
        return process.poll() if process else None


def wait_paused(process: ProcessRef, timeout_s: float) -> bool:
    """Wait until a process that was sent SIGSTOP stands still; return whether it does."""
    deadline = time.monotonic() + timeout_s
    while not process.paused:
        if not process.alive or time.monotonic() >= deadline:
            return False
        time.sleep(0.002)
    return True


def wait_ended(processes: Sequence[ProcessRef], children: Children, timeout_s: float) -> list[ProcessRef]:
    """Wait until all have ended; return those that have not when the time is over."""
    deadline = time.monotonic() + timeout_s
    left = list(processes)
    pause_s = 0.005
    while True:
        for process in left:
            children.exit_code(process.pid)
        left = [process for process in left if process.alive]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.05)


def stop_all(
    processes: Sequence[ProcessRef], children: Children, *, patience_s: float, force: bool = False
) -> list[ProcessRef]:
    """End processes: SIGTERM, and SIGKILL for those that have not ended after ``patience_s``.

    Returns those that had to be killed. ``force`` kills at once. A paused process is woken so
    that it can end in order.
    """
    if force:
        for process in processes:
            process.signal(signal.SIGKILL)
    else:
        for process in processes:
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGCONT)
    stubborn = wait_ended(processes, children, 10.0 if force else patience_s)
    for process in stubborn:
        process.signal(signal.SIGKILL)
    wait_ended(stubborn, children, 10.0)
    return stubborn


def last_lines(path: Path, count: int = 3, bytes_max: int = 4096) -> list[str]:
    """Return the last lines of a log file, for an error message."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - bytes_max))
        lines = file.read().decode(errors="replace").splitlines()
        return [line for line in lines if line.strip()][-count:]
    return []
