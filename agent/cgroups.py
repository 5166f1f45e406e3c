"""Memory and cpu limits of tasks through the kernel's control groups, version 1 or 2.

``<parent>/<instance>/<task>/<container>``: the task's own limits are its group's, each container's
are its group's below. cpu of a task is a hard limit (a quota), cpu of a container its share within
the task, as in ECS. ``memory`` kills, ``memoryReservation`` is what the kernel tries to leave.

Whoever may not make groups runs tasks all the same: ``find`` says why, and the agent says so once.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.model import LocalTask
from cluster.records import ContainerDefinition

PARENT_DEFAULT = "synod"
MEMORY_MIB_MIN = 6
"""Less starts no process; Docker and the ECS agent round up to it too."""
PERIOD_US = 100_000
QUOTA_US_MIN = 1_000
SHARES_MIN = 2
CPU_UNITS_A_CORE = 1024
EMPTY_S_MAX = 2.0
"""How long killed processes may take to leave a group."""
_RETRY_S = 0.01


@dataclass(frozen=True, slots=True)
class Group:
    """The group of one container, for its supervisor."""

    procs: tuple[str, ...]
    """Files that a process writes itself into."""
    events: str | None
    """The file that counts what was killed for memory (a line ``oom_kill N``)."""


class Cgroups:
    """The groups of one agent's tasks."""

    def __init__(self, version: int, roots: dict[str, Path], others: tuple[Path, ...], base: str) -> None:
        self.version = version
        self.base = base
        """Path below each hierarchy's mount."""
        self._roots = roots
        """Mount points by controller; version 2 has one, under both names."""
        self._others = others
        """Further mount points, where Docker makes groups of the same path."""

    @classmethod
    def find(
        cls, instance: str, parent: str = PARENT_DEFAULT, mounts: Path = Path("/proc/self/mountinfo")
    ) -> Cgroups | str:
        """Return the groups of an agent, or why there are none."""
        try:
            one, two = _mounts(mounts.read_text())
        except OSError as error:
            return f"{mounts}: {error.strerror}"
        roots = {name: path for name, path in one.items() if name in ("memory", "cpu")}
        version = 1
        if not roots and two is not None:
            have = _read(two / "cgroup.controllers").split()
            roots = {name: two for name in ("memory", "cpu") if name in have}
            version = 2
        if len(roots) < 2:
            return "the kernel offers no memory and cpu controllers here"
        others = tuple(sorted({*one.values(), *([two] if two else [])} - set(roots.values())))
        made = cls(version, roots, others, f"{parent}/{instance}")
        try:
            made._make(made.base)
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        return made

    def path(self, task: str) -> str:
        """Return a task's group as Docker wants to hear of it."""
        return f"/{self.base}/{task}"

    def make_task(self, local: LocalTask) -> None:
        """Make a task's group, and set its limits."""
        group = f"{self.base}/{local.id}"
        self._make(group)
        overrides = local.task.overrides
        cpu = overrides.cpu if overrides and overrides.cpu is not None else local.definition.cpu
        memory = overrides.memory if overrides and overrides.memory is not None else local.definition.memory
        self._set_memory(group, memory)
        self._set_shares(group, cpu or sum(container.cpu for container in local.containers))
        if cpu:
            quota = max(QUOTA_US_MIN, cpu * PERIOD_US // CPU_UNITS_A_CORE)
            if self.version == 1:
                _write(self._roots["cpu"] / group / "cpu.cfs_period_us", PERIOD_US)
                _write(self._roots["cpu"] / group / "cpu.cfs_quota_us", quota)
            else:
                _write(self._roots["cpu"] / group / "cpu.max", f"{quota} {PERIOD_US}")

    def make(self, local: LocalTask, container: ContainerDefinition) -> Group:
        """Make a container's group in its task's, and set its limits."""
        self.make_task(local)
        group = f"{self.base}/{local.id}/{container.name}"
        self._make(group, is_leaf=True)
        self._set_memory(group, container.memory, container.memory_reservation)
        self._set_shares(group, container.cpu)
        folders = sorted({root / group for root in self._roots.values()})
        events = "memory.oom_control" if self.version == 1 else "memory.events"
        return Group(
            procs=tuple(str(folder / "cgroup.procs") for folder in folders),
            events=str(self._roots["memory"] / group / events),
        )

    def remove(self, task: str, containers: Iterable[str] = ()) -> None:
        """Kill what is left in a task's groups, and remove them."""
        for root in (*sorted(set(self._roots.values())), *self._others):
            for group in (*(f"{self.base}/{task}/{name}" for name in containers), f"{self.base}/{task}"):
                remove_group(root / group)

    def close(self) -> None:
        """Remove the agent's own group, if no task has one."""
        for root in (*sorted(set(self._roots.values())), *self._others):
            try:
                (root / self.base).rmdir()
            except OSError:
                pass  # tasks go on, or it is not there

    def _make(self, group: str, *, is_leaf: bool = False) -> None:
        for root in sorted(set(self._roots.values())):
            folder = root
            if self.version == 2:
                _enable(folder)
            for part in group.split("/"):
                folder = folder / part
                folder.mkdir(exist_ok=True)
                if self.version == 2 and not (is_leaf and folder == root / group):
                    _enable(folder)

    def _set_memory(self, group: str, hard_mib: int | None, soft_mib: int | None = None) -> None:
        folder = self._roots["memory"] / group
        hard = max(hard_mib, MEMORY_MIB_MIN) << 20 if hard_mib else None
        names = ("memory.limit_in_bytes", "memory.soft_limit_in_bytes")
        if self.version == 2:
            names = ("memory.max", "memory.low")
        if hard is not None:
            _write(folder / names[0], hard)
        if soft_mib:
            _write(folder / names[1], soft_mib << 20)

    def _set_shares(self, group: str, cpu: int) -> None:
        shares = max(cpu, SHARES_MIN)
        folder = self._roots["cpu"] / group
        if self.version == 1:
            _write(folder / "cpu.shares", shares)
        else:  # the formula by which runc and systemd turn shares into weights
            _write(folder / "cpu.weight", 1 + (min(shares, 262_144) - 2) * 9_999 // 262_142)


def remove_group(folder: Path) -> None:
    """Kill every process of a group and remove it; one that is not there is fine."""
    deadline = time.monotonic() + EMPTY_S_MAX
    while True:
        for pid in _read(folder / "cgroup.procs").split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline or _has_groups(folder):
                return
            time.sleep(_RETRY_S)
        else:
            return


def _has_groups(folder: Path) -> bool:
    return any(entry.is_dir() for entry in folder.iterdir())


def _enable(folder: Path) -> None:
    """Let groups below ``folder`` have the controllers (version 2)."""
    have = _read(folder / "cgroup.subtree_control").split()
    missing = [name for name in ("cpu", "memory") if name not in have]
    if missing:
        _write(folder / "cgroup.subtree_control", " ".join(f"+{name}" for name in missing))


def _mounts(text: str) -> tuple[dict[str, Path], Path | None]:
    """Return where each controller of version 1 is mounted, and where version 2 is."""
    one: dict[str, Path] = {}
    two: Path | None = None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        path = Path(before.split()[4].replace("\\040", " "))
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            two = two or path
        elif kind == "cgroup":
            for option in options.split(","):
                one.setdefault(option, path)
    return {name: path for name, path in one.items() if name not in ("rw", "ro", "xattr")}, two


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _write(file: Path, value: object) -> None:
    file.write_text(f"{value}")
