"""Which changes of status are legal, as tables. PURE.

Each table maps a status to what may follow it. A status may always be followed by
itself. None is "no record yet". The documentation's tables are drawn from these.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from cluster.records import DesiredStatus, InstanceStatus, LastStatus

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
