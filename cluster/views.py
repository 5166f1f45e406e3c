"""What ``ClusterState`` hands out: records with the revision that wrote them, put together. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from cluster.codec import Record
from cluster.records import (
    Alive,
    Capacity,
    ContainerInstance,
    DesiredStatus,
    InstanceSettings,
    InstanceStatus,
    LastStatus,
    Rollout,
    Service,
    Task,
    TaskStatus,
)
from journal.types import Revision

R = TypeVar("R", bound=Record)


class Phase(StrEnum):
    """Where a task is in its life: what is observed of it and what is desired, in one word."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    """It is to stop, and was not reported STOPPED yet."""
    STOPPED = "STOPPED"


@dataclass(frozen=True, slots=True)
class At(Generic[R]):
    """A record, and the revision that wrote it."""

    record: R
    revision: Revision


@dataclass(slots=True)
class Counts:
    """How many tasks are in each phase; STOPPED ones are not counted. Only ``ClusterState`` changes it."""

    running: int = 0
    pending: int = 0
    stopping: int = 0

    @property
    def live(self) -> int:
        return self.running + self.pending + self.stopping

    def count(self, phase: Phase, by: int) -> None:
        match phase:
            case Phase.RUNNING:
                self.running += by
            case Phase.PENDING:
                self.pending += by
            case Phase.STOPPING:
                self.stopping += by


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """All that the journal has of one container instance."""

    cluster: str
    id: str
    registration: At[ContainerInstance] | None = None
    settings: At[InstanceSettings] | None = None
    capacity: At[Capacity] | None = None
    alive: At[Alive] | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    """By name, the operators' over the agent's; "" where one has no value."""

    @property
    def status(self) -> InstanceStatus | None:
        return self.registration.record.status if self.registration else None

    @property
    def record(self) -> ContainerInstance:
        """Return the registration. Only for views that ``ClusterState`` hands out: they have one."""
        assert self.registration is not None, f"container instance {self.id} has no registration"
        return self.registration.record

    @property
    def connected(self) -> bool:
        return self.alive is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """All that the journal has of one task."""

    cluster: str
    instance: str
    id: str
    desired: At[Task] | None = None
    observed: At[TaskStatus] | None = None

    @property
    def task(self) -> Task:
        """Return the desired record. Only for views that ``ClusterState`` hands out: they have one."""
        assert self.desired is not None, f"task {self.id} has a status and no record"
        return self.desired.record

    @property
    def status(self) -> TaskStatus | None:
        return self.observed.record if self.observed else None

    @property
    def last_status(self) -> LastStatus:
        return self.observed.record.last_status if self.observed else LastStatus.PENDING

    @property
    def stopped(self) -> bool:
        return self.last_status is LastStatus.STOPPED

    @property
    def desired_status(self) -> DesiredStatus:
        """Return what ECS shows: of a task that has stopped, whoever wanted that, STOPPED."""
        return DesiredStatus.STOPPED if self.stopped else self.task.desired_status

    @property
    def phase(self) -> Phase:
        last = self.last_status
        if last is LastStatus.STOPPED:
            return Phase.STOPPED
        if self.task.desired_status is DesiredStatus.STOPPED:
            return Phase.STOPPING
        return Phase.RUNNING if last is LastStatus.RUNNING else Phase.PENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """All that the journal has of one service, but for its tasks."""

    cluster: str
    name: str
    desired: At[Service] | None = None
    progress: At[Rollout] | None = None

    @property
    def service(self) -> Service:
        """Return the service's record. Only for views that ``ClusterState`` hands out: they have one."""
        assert self.desired is not None, f"service {self.name} has no record"
        return self.desired.record

    @property
    def rollout(self) -> Rollout:
        """Return how far it is; an empty one where nothing was written yet."""
        return self.progress.record if self.progress else Rollout()
