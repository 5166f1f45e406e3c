"""Which changes of status are legal, as tables. PURE.

Each table maps a status to what may follow it. A status may always be followed by
itself. None is "no record yet". The documentation's tables are drawn from these.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from cluster.records import (
    ClusterStatus,
    DefinitionStatus,
    DesiredStatus,
    InstanceStatus,
    LastStatus,
    RolloutState,
    ServiceStatus,
)

S = TypeVar("S", bound=StrEnum)

TASK_LAST: Mapping[LastStatus | None, frozenset[LastStatus]] = {
    None: frozenset({LastStatus.PENDING, LastStatus.RUNNING, LastStatus.STOPPED}),
    LastStatus.PENDING: frozenset({LastStatus.RUNNING, LastStatus.STOPPED}),
    LastStatus.RUNNING: frozenset({LastStatus.STOPPED}),
    LastStatus.STOPPED: frozenset(),
}
"""Observed. A task never comes back: a STOPPED report has released its claim."""

TASK_DESIRED: Mapping[DesiredStatus | None, frozenset[DesiredStatus]] = {
    None: frozenset({DesiredStatus.RUNNING}),
    DesiredStatus.RUNNING: frozenset({DesiredStatus.STOPPED}),
    DesiredStatus.STOPPED: frozenset(),
}
"""Desired. It only moves forward: a stop is not taken back."""

INSTANCE: Mapping[InstanceStatus | None, frozenset[InstanceStatus]] = {
    None: frozenset({InstanceStatus.ACTIVE}),
    InstanceStatus.ACTIVE: frozenset({InstanceStatus.DRAINING, InstanceStatus.INACTIVE}),
    InstanceStatus.DRAINING: frozenset({InstanceStatus.ACTIVE, InstanceStatus.INACTIVE}),
    InstanceStatus.INACTIVE: frozenset(),
}
"""A deregistered instance stays so: its agent must register as a new one."""

CLUSTER: Mapping[ClusterStatus | None, frozenset[ClusterStatus]] = {
    None: frozenset({ClusterStatus.ACTIVE}),
    ClusterStatus.ACTIVE: frozenset({ClusterStatus.INACTIVE}),
    ClusterStatus.INACTIVE: frozenset({ClusterStatus.ACTIVE}),
}
"""A deleted cluster stays describable as INACTIVE, and may be created again."""

DEFINITION: Mapping[DefinitionStatus | None, frozenset[DefinitionStatus]] = {
    None: frozenset({DefinitionStatus.ACTIVE}),
    DefinitionStatus.ACTIVE: frozenset({DefinitionStatus.INACTIVE}),
    DefinitionStatus.INACTIVE: frozenset({DefinitionStatus.DELETE_IN_PROGRESS}),
    DefinitionStatus.DELETE_IN_PROGRESS: frozenset(),
}
"""A revision is deregistered, then deleted; its number is never used again."""

SERVICE: Mapping[ServiceStatus | None, frozenset[ServiceStatus]] = {
    None: frozenset({ServiceStatus.ACTIVE}),
    ServiceStatus.ACTIVE: frozenset({ServiceStatus.DRAINING, ServiceStatus.INACTIVE}),
    ServiceStatus.DRAINING: frozenset({ServiceStatus.INACTIVE}),
    ServiceStatus.INACTIVE: frozenset({ServiceStatus.ACTIVE}),
}
"""A deleted service drains its tasks and stays describable; one of its name may be created again."""

ROLLOUT: Mapping[RolloutState | None, frozenset[RolloutState]] = {
    None: frozenset({RolloutState.IN_PROGRESS}),
    RolloutState.IN_PROGRESS: frozenset({RolloutState.COMPLETED, RolloutState.FAILED}),
    RolloutState.COMPLETED: frozenset({RolloutState.IN_PROGRESS}),
    RolloutState.FAILED: frozenset(),
}
"""A deployment is decided once; a completed one is rolled out again where a later one is rolled back."""


class IllegalTransition(ValueError):
    """A change of status that the tables do not have."""


def may_become(table: Mapping[S | None, frozenset[S]], old: S | None, new: S) -> bool:
    """Say whether ``new`` may stand where ``old`` stood."""
    return old == new or new in table[old]


def check(table: Mapping[S | None, frozenset[S]], old: S | None, new: S, what: str) -> None:
    """Raise ``IllegalTransition`` unless ``new`` may stand where ``old`` stood."""
    if not may_become(table, old, new):
        raise IllegalTransition(f"{what} is {old}, and cannot become {new}")


def later(table: Mapping[S | None, frozenset[S]], one: S, other: S) -> S:
    """Return whichever of two statuses is further along. Raises ``IllegalTransition`` if neither follows."""
    if may_become(table, one, other):
        return other
    check(table, other, one, "the status")
    return one
