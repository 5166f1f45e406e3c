"""The row ``api`` asks what it says it asks, and takes no wrong answer for a fast one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster import offers
from cluster.records import LastStatus, task_of
from cluster.state import ClusterState
from journal.types import Revision
from scripts.bench import moto
from scripts.bench.api import (
    CLUSTER,
    DESCRIBED,
    LARGE,
    LISTED,
    SMALL,
    TURN_CALLS,
    WARM_UP_CALLS,
    check,
    in_turns,
    parameters,
    status_of,
    task_id,
)
from scripts.bench.placement import DEFINITION, registration
from tests.cluster.naive import NaiveJournal

TASKS = [task_id(number) for number in range(SMALL.tasks)]


def answer(operation: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a server answers that does as it should."""
    if operation == "ListTasks":
        return {"taskArns": TASKS[: given["maxResults"]]}
    return {"tasks": [{"taskArn": name} for name in given["tasks"]], "failures": []}


def test_both_sizes_are_asked_for_as_much() -> None:
    large = [task_id(number) for number in range(LARGE.tasks)]
    for tasks in (TASKS, large):
        assert parameters("ListTasks", tasks, random.Random(1)) == {"cluster": CLUSTER, "maxResults": LISTED}
        asked = parameters("DescribeTasks", tasks, random.Random(1))["tasks"]
        assert len(set(asked)) == DESCRIBED and set(asked) <= set(tasks)
    other = parameters("DescribeTasks", large, random.Random(2))["tasks"]
    assert set(other) != set(asked), "others each time"


@pytest.mark.parametrize(
    ("operation", "wrong"),
    [
        ("ListTasks", {"taskArns": TASKS[:-1]}),
        ("DescribeTasks", {"tasks": [{}] * (DESCRIBED - 1), "failures": []}),
        ("DescribeTasks", {"tasks": [{}] * DESCRIBED, "failures": [{"reason": "MISSING"}]}),
    ],
)
def test_an_answer_that_lacks_something_is_refused(operation: str, wrong: dict[str, Any]) -> None:
    check(operation, answer(operation, parameters(operation, TASKS, random.Random(1))))
    with pytest.raises(RuntimeError, match="does not answer what was asked"):
        check(operation, wrong)


def test_servers_are_asked_in_turns() -> None:
    calls: list[str] = []

    def server(name: str) -> tuple[Any, Sequence[str]]:
        def ask(operation: str, given: dict[str, Any]) -> Any:
            calls.append(name)
            return answer(operation, given)

        return ask, TASKS

    one, two = in_turns("DescribeTasks", [server("one"), server("two")], 0.0005)
    measured = calls[2 * WARM_UP_CALLS :]
    assert len(one) == len(two) == len(measured) // 2 > 0
    assert measured[: 2 * TURN_CALLS] == ["one"] * TURN_CALLS + ["two"] * TURN_CALLS


def test_what_is_described_is_a_task_that_runs() -> None:
    """The offers that fill the cluster are accepted, and its books are those of agents that report."""
    journal = NaiveJournal()
    task = task_of(DEFINITION, created_at=1.0)
    journal.offer(offers.register_task_definition(DEFINITION))
    registered = journal.offer(offers.register_instance(CLUSTER, "i", registration(0)))
    assert registered
    placed = journal.offer(offers.place(CLUSTER, "i", TASKS[0], task, at=Revision(registered)))
    status = status_of(DEFINITION, 0)
    report = offers.report(
        CLUSTER, "i", TASKS[0], task, Revision(placed), status, before=None, before_revision=Revision(0)
    )
    journal.offer(report)
    state: ClusterState = journal.state()
    view = state.task(CLUSTER, TASKS[0])
    assert view is not None and view.last_status is LastStatus.RUNNING
    assert state.list_tasks(CLUSTER, last=LastStatus.RUNNING).items == (view,)


def test_moto_is_what_is_given_or_what_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert moto.found(None) is None and moto.found(tmp_path / "moto_server") is None
    program = tmp_path / "moto_server"
    program.touch(mode=0o755)
    assert moto.found(None) == moto.found(program) == program
