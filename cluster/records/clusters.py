"""Clusters, and what is kept beside them: tokens, queued runs, account settings. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.codec import Record, empty_map, on_wire
from cluster.records.common import ClusterStatus, PlacementConstraint, PlacementStrategy, Tag
from cluster.records.containers import TaskOverride


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSetting(Record):
    name: str
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityProviderStrategyItem(Record):
    capacity_provider: str
    weight: int = 0
    base: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster(Record):
    cluster_name: str
    status: ClusterStatus = ClusterStatus.ACTIVE
    settings: tuple[ClusterSetting, ...] = ()
    configuration: Mapping[str, Any] = empty_map()
    capacity_providers: tuple[str, ...] = ()
    default_capacity_provider_strategy: tuple[CapacityProviderStrategyItem, ...] = ()
    service_connect_defaults: Mapping[str, Any] = empty_map()
    tags: tuple[Tag, ...] = ()
    created_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFailure(Record):
    """A failure as RunTask answered it; ``instance`` where one is to blame."""

    instance: str = ""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token(Record):
    """What a ``clientToken`` stands for, so that the same request again gets the same answer."""

    request: str
    """Digest of the request: another one under the same token is refused."""
    tasks: tuple[str, ...] = ()
    failures: tuple[TokenFailure, ...] = ()
    created_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRun(Record):
    """Tasks that wait for capacity. Who queues it puts it, the queue scheduler places and deletes it."""

    task_definition: str
    """``family:revision``"""
    count: int
    """Tasks that have no place yet."""
    placed: tuple[str, ...] = ()
    """Tasks that have one."""
    priority: int = 0
    """Higher goes first."""
    owner: str = ""
    """Whose turn it is: runs of one priority take turns by owner."""
    submitted_at: float = 0.0
    not_after: float | None = None
    """Given up after this time."""
    overrides: TaskOverride | None = None
    placement_constraints: tuple[PlacementConstraint, ...] = ()
    placement_strategy: tuple[PlacementStrategy, ...] = ()
    started_by: str = ""
    group: str = ""
    tags: tuple[Tag, ...] = ()
    propagate_tags: str = ""
    enable_execute_command: bool = False
    enable_ecs_managed_tags: bool = on_wire("enableECSManagedTags", default=False)
    launch_type: str = ""
    reference_id: str = ""
    reason: str = ""
    """Why it waits, as of the last attempt."""

    def problem(self) -> str | None:
        return f"count {self.count} must not be negative" if self.count < 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot(Record):
    """A place that a scheduler fills with one task at a time, so that its copies never fill it twice."""

    instance: str
    task: str
    """The newest one that it was given; the slot is free again once that has stopped."""
    failures: int = 0
    """Tasks before it that failed, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSetting(Record):
    name: str
    value: str
    principal_arn: str = ""
    """"": the default of everybody who has none of their own."""
