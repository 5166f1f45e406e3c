"""What an agent knows of a task and of its containers. PURE."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster.records import ContainerDefinition, HealthStatus, NetworkBinding, Task, TaskDefinition
from journal.types import Revision


class Phase(StrEnum):
    """What the runtime has of a container."""

    CREATED = "CREATED"
    """It was never started (or, after an end, not started again yet)."""
    STARTING = "STARTING"
    """It is being started, or cannot be looked at: something of it may run."""
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    """Nothing of it is left, and only a restart policy makes it start again."""


LEFT = (Phase.STARTING, Phase.RUNNING)
"""Something may be there that needs the task's claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """One container as the runtime sees it."""

    phase: Phase = Phase.CREATED
    attempt: int = 0
    """How often it was started again: the phase is that of this attempt."""
    exit_code: int | None = None
    """128 + the signal's number where a signal ended it. None: unknown, or never started."""
    reason: str | None = None
    """``Name: message`` where something other than its own end stopped it."""
    failed_to_start: bool = False
    runtime_id: str | None = None
    health: HealthStatus | None = None
    """None: it has no health check."""
    network_bindings: tuple[NetworkBinding, ...] = ()
    image_digest: str = ""
    started_at: float | None = None
    stopped_at: float | None = None
    pull_started_at: float | None = None
    pull_stopped_at: float | None = None
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTask:
    """A task as it was written down in the agent's folder."""

    id: str
    task: Task
    revision: Revision
    """Where the task's record stood in the journal."""
    definition: TaskDefinition

    @property
    def containers(self) -> tuple[ContainerDefinition, ...]:
        """Return its containers as they run: overrides applied."""
        return self.definition.containers(self.task.overrides)

    def container(self, name: str) -> ContainerDefinition:
        return next(container for container in self.containers if container.name == name)


@dataclass(frozen=True, slots=True)
class Signalled:
    """When this agent process sent which signal to a container (monotonic)."""

    terminated_at: float
    killed_at: float | None = None
