"""Services: what people want, how far a deployment is, and which tasks a service has. PURE."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster.codec import Record, on_wire
from cluster.keys import NameInvalid, check_name
from cluster.records.common import ConstraintType, PlacementConstraint, PlacementStrategy, Tag

EVENTS_MAX = 100
"""Events that a service keeps, the newest first, as ECS does."""


class ServiceStatus(StrEnum):
    """DRAINING: deleted, and its tasks are being stopped. INACTIVE: gone, and still describable."""

    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"
    INACTIVE = "INACTIVE"


class SchedulingStrategy(StrEnum):
    REPLICA = "REPLICA"
    DAEMON = "DAEMON"


class RolloutState(StrEnum):
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentCircuitBreaker(Record):
    enable: bool
    rollback: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentConfiguration(Record):
    """How many tasks a rolling update may take away and add, in percent of ``desiredCount``."""

    minimum_healthy_percent: int | None = None
    """None: 100, for DAEMON 0."""
    maximum_percent: int | None = None
    """None: 200, for DAEMON 100."""
    deployment_circuit_breaker: DeploymentCircuitBreaker | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancer(Record):
    target_group_arn: str = ""
    load_balancer_name: str = ""
    container_name: str = ""
    container_port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment(Record):
    """One version of a service. The newest is PRIMARY, older ones ACTIVE while they have tasks."""

    id: str
    """``ecs-svc/<19 digits>``: ``startedBy`` of its tasks."""
    task_definition: str
    """``family:revision``"""
    created_at: float = 0.0
    updated_at: float = 0.0
    launch_type: str = ""
    rolls_back: str = ""
    """The deployment whose failure made this one PRIMARY again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Record):
    """What people want of a service. The API writes it; the service scheduler adds a rollback's
    deployment, takes away deployments that are over, and makes a DRAINING one INACTIVE."""

    service_name: str
    status: ServiceStatus = ServiceStatus.ACTIVE
    task_definition: str
    """``family:revision`` of the PRIMARY deployment."""
    desired_count: int = 0
    scheduling_strategy: SchedulingStrategy = SchedulingStrategy.REPLICA
    deployment_configuration: DeploymentConfiguration = DeploymentConfiguration()
    placement_constraints: tuple[PlacementConstraint, ...] = ()
    placement_strategy: tuple[PlacementStrategy, ...] = ()
    deployments: tuple[Deployment, ...] = ()
    """The newest first: that is PRIMARY."""
    launch_type: str = ""
    platform_version: str = ""
    role_arn: str = ""
    load_balancers: tuple[LoadBalancer, ...] = ()
    health_check_grace_period_seconds: int | None = None
    availability_zone_rebalancing: str = ""
    enable_execute_command: bool = False
    enable_ecs_managed_tags: bool = on_wire("enableECSManagedTags", default=False)
    propagate_tags: str = ""
    tags: tuple[Tag, ...] = ()
    created_at: float = 0.0
    created_by: str = ""
    client_token: str = ""

    @property
    def primary(self) -> Deployment | None:
        return self.deployments[0] if self.deployments else None

    @property
    def group(self) -> str:
        return f"service:{self.service_name}"

    @property
    def minimum_healthy_percent(self) -> int:
        given = self.deployment_configuration.minimum_healthy_percent
        return given if given is not None else 100 if self.is_replica else 0

    @property
    def maximum_percent(self) -> int:
        given = self.deployment_configuration.maximum_percent
        return given if given is not None else 200 if self.is_replica else 100

    @property
    def is_replica(self) -> bool:
        return self.scheduling_strategy is SchedulingStrategy.REPLICA

    def problem(self) -> str | None:
        try:
            check_name(self.service_name, "service")
        except NameInvalid as error:
            return str(error)
        if self.desired_count < 0:
            return f"desiredCount {self.desired_count} must not be negative"
        ids = [deployment.id for deployment in self.deployments]
        if len(set(ids)) != len(ids):
            return "two deployments have the same id"
        for constraint in self.placement_constraints:
            if constraint.type is ConstraintType.DISTINCT_INSTANCE and constraint.expression:
                return "distinctInstance takes no expression"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEvent(Record):
    """What people read in the console: ``(service web) has reached a steady state.``"""

    id: str
    created_at: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRollout(Record):
    """How far one deployment is."""

    id: str
    rollout_state: RolloutState = RolloutState.IN_PROGRESS
    rollout_state_reason: str = ""
    failed_tasks: int = 0
    updated_at: float = 0.0
    next_attempt_at: float = 0.0
    """Nothing is started before: tasks that keep failing are retried with growing delay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout(Record):
    """What the service scheduler knows of a service. Only it writes this."""

    deployments: tuple[DeploymentRollout, ...] = ()
    events: tuple[ServiceEvent, ...] = ()
    """The newest first, at most ``EVENTS_MAX``."""
    steady: bool = False
    """Whether the newest state that was announced is the steady one."""
    counted_to: int = 0
    """Tasks whose end was reported up to this revision are counted where they failed: each once,
    whichever copy of the scheduler counts, and however long none ran."""

    def deployment(self, deployment_id: str) -> DeploymentRollout | None:
        return next((rollout for rollout in self.deployments if rollout.id == deployment_id), None)

    def problem(self) -> str | None:
        return f"events holds over {EVENTS_MAX}" if len(self.events) > EVENTS_MAX else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTask(Record):
    """A line of a service's index: a task that it has, and that has not stopped."""

    instance: str
    deployment: str


def service_events(new: tuple[ServiceEvent, ...], old: tuple[ServiceEvent, ...]) -> tuple[ServiceEvent, ...]:
    """Return the events of a service after new ones (the newest first), the oldest dropped."""
    return (*new, *old)[:EVENTS_MAX]


def deployment_id(number: int) -> str:
    """Return ``ecs-svc/`` and 19 digits of a random number of 63 bits."""
    return f"ecs-svc/{number % 10**19:019d}"
