"""Whether this machine has room for a task that is to start. PURE.

The scheduler's claim says that there should be. It may not be so yet: of a task that was forgotten
something may still run, and a port may be held by a program that is nobody's task. Such a task
waits PENDING and says for what; whatever ends here wakes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.lifecycle import States, states_of
from agent.model import ContainerState, LocalTask, Phase
from cluster.records import DesiredStatus, Protocol

Port = tuple[Protocol, int]


@dataclass(frozen=True, slots=True)
class Room:
    """What the machine has for tasks. None: not known, so not judged."""

    cpu: int | None = None
    memory: int | None = None
    ports_busy: frozenset[Port] = frozenset()
    """Ports that something holds that is no container of ours (or was one just now)."""


@dataclass(slots=True)
class Host:
    """Counts what the tasks of one round hold, task by task."""

    room: Room
    cpu: int = 0
    memory: int = 0
    ports: dict[Port, str] = field(default_factory=dict)

    def hold(self, local: LocalTask) -> None:
        """Count a task that runs, or starts now."""
        self.cpu += local.task.cpu
        self.memory += local.task.memory
        for port in ports_of(local):
            self.ports[port] = local.id

    def lacks(self, local: LocalTask) -> str | None:
        """Return what a task waits for; None where there is room."""
        room = self.room
        if room.cpu is not None and self.cpu + local.task.cpu > room.cpu:
            return (
                f"waits for cpu: {room.cpu - self.cpu} of {room.cpu} units are free, {local.task.cpu} needed"
            )
        if room.memory is not None and self.memory + local.task.memory > room.memory:
            free = room.memory - self.memory
            return f"waits for memory: {free} of {room.memory} MiB are free, {local.task.memory} needed"
        for port in ports_of(local):
            if port in self.ports:
                return f"waits for port {port[1]}/{port[0]}: task {self.ports[port]} still holds it"
            if port in room.ports_busy:
                return f"waits for port {port[1]}/{port[0]}: another program holds it"
        return None


def ports_of(local: LocalTask) -> Iterable[Port]:
    """Return the host ports that a task claims."""
    tcp = ((Protocol.TCP, port) for port in local.task.ports)
    udp = ((Protocol.UDP, port) for port in local.task.ports_udp)
    return (*tcp, *udp)


def is_untouched(states: States) -> bool:
    """Say whether nothing of a task was ever started."""
    return all(state.phase is Phase.CREATED and not state.attempt for state in states.values())


def waiting_ports(
    tasks: Iterable[LocalTask], known: Mapping[tuple[str, str], ContainerState]
) -> frozenset[Port]:
    """Return the ports of tasks of which nothing was started: those to look at before the next round."""
    return frozenset(
        port
        for local in tasks
        if local.task.ports or local.task.ports_udp
        if local.task.desired_status is DesiredStatus.RUNNING
        if is_untouched(states_of(local, known))
        for port in ports_of(local)
    )
