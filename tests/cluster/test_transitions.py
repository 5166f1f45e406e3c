"""The tables of legal changes, pair by pair."""

from __future__ import annotations

import pytest

from cluster.records import DesiredStatus, InstanceStatus, LastStatus
from cluster.transitions import (
    INSTANCE,
    TASK_DESIRED,
    TASK_LAST,
    IllegalTransition,
    check,
    later,
    may_become,
)


def test_what_is_observed_only_moves_forward() -> None:
    order = [None, *LastStatus]
    for i, old in enumerate(order):
        for j, new in enumerate(order):
            if new is not None:
                assert may_become(TASK_LAST, old, new) == (j >= i)


def test_a_stop_is_not_taken_back() -> None:
    assert may_become(TASK_DESIRED, DesiredStatus.RUNNING, DesiredStatus.STOPPED)
    assert not may_become(TASK_DESIRED, DesiredStatus.STOPPED, DesiredStatus.RUNNING)
    assert not may_become(TASK_DESIRED, None, DesiredStatus.STOPPED)
    assert later(TASK_DESIRED, DesiredStatus.STOPPED, DesiredStatus.RUNNING) is DesiredStatus.STOPPED
    assert later(TASK_DESIRED, DesiredStatus.RUNNING, DesiredStatus.STOPPED) is DesiredStatus.STOPPED


def test_a_deregistered_instance_stays_so() -> None:
    legal = {
        (old, new)
        for old in InstanceStatus
        for new in InstanceStatus
        if old != new and may_become(INSTANCE, old, new)
    }
    assert legal == {
        (InstanceStatus.ACTIVE, InstanceStatus.DRAINING),
        (InstanceStatus.ACTIVE, InstanceStatus.INACTIVE),
        (InstanceStatus.DRAINING, InstanceStatus.ACTIVE),
        (InstanceStatus.DRAINING, InstanceStatus.INACTIVE),
    }


@pytest.mark.parametrize("table", [TASK_LAST, TASK_DESIRED, INSTANCE])
def test_every_status_has_its_row(table: dict[object, frozenset[object]]) -> None:
    statuses = {status for row in table.values() for status in row}
    assert set(table) == statuses | {None}


def test_an_illegal_change_says_what_it_would_have_been() -> None:
    with pytest.raises(IllegalTransition, match="task t1 is STOPPED, and cannot become RUNNING"):
        check(TASK_LAST, LastStatus.STOPPED, LastStatus.RUNNING, "task t1")
