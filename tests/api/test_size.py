"""An answer takes as long in a cluster of 1,000 instances and 10,000 tasks as in one of 20 tasks.

Calls are made on a state in memory: what is measured is the work that an answer takes, and
ratios only. A listing or a description that looked at everything would take hundreds of times as long.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import trio

from api.arns import Arns
from api.calls import Api, Call
from api.operations import HANDLERS
from api.settings import ApiSettings
from cluster import keys
from cluster.records import (
    Attribute,
    Cluster,
    ContainerDefinition,
    ContainerInstance,
    LastStatus,
    TaskDefinition,
    TaskStatus,
    resources,
    task_of,
)
from cluster.state import ClusterState
from journal.types import Revision

RATIO_MAX = 5.0
REPEATS = 30


class Standing:
    """A state that nobody feeds."""

    def __init__(self, state: ClusterState) -> None:
        self.state = state


def state_of(instances: int, tasks_each: int) -> ClusterState:
    definition = TaskDefinition(
        family="web",
        revision=1,
        container_definitions=(ContainerDefinition(name="main", image="i", cpu=10, memory=10),),
    )

    def items() -> Iterator[tuple[bytes, bytes, Revision]]:
        yield keys.cluster("c"), Cluster(cluster_name="c").pack(), Revision(1)
        yield keys.task_definition("web:1"), definition.pack(), Revision(1)
        for number in range(instances):
            instance = f"i{number:05d}"
            host = ContainerInstance(
                registered_resources=resources(4096, 4096),
                attributes=(Attribute(name="zone", value="abc"[number % 3]),),
            )
            yield keys.instance("c", instance), host.pack(), Revision(2)
            yield keys.capacity("c", instance), host.capacity().pack(), Revision(2)
            for each in range(tasks_each):
                task_id = f"{each:04d}{number:028d}"
                task = task_of(definition, created_at=1.0, started_by=f"{number % 7}")
                yield keys.task("c", instance, task_id), task.pack(), Revision(3)
                status = TaskStatus(last_status=LastStatus.RUNNING)
                yield keys.status("c", instance, task_id), status.pack(), Revision(3)

    state = ClusterState()
    state.load(items(), Revision(3))
    return state


@cache
def small() -> ClusterState:
    return state_of(2, 10)


@cache
def large() -> ClusterState:
    return state_of(1000, 10)


def call(state: ClusterState, operation: str, **params: Any) -> dict[str, Any]:
    api = Api(
        settings=ApiSettings(),
        journal=None,  # type: ignore[arg-type]
        live=Standing(state),  # type: ignore[arg-type]
        wall=lambda: 5.0,
        rng=random.Random(0),
        log=None,  # type: ignore[arg-type]
    )
    arns = Arns("us-east-1", "123456789012")
    asked = Call(api=api, operation=operation, params={"cluster": "c", **params}, arns=arns, here="h")

    async def answered() -> dict[str, Any]:
        return dict(await HANDLERS[operation](asked))

    return trio.run(answered)


def cost(state: ClusterState, operation: str, **params: Any) -> float:
    """Return the seconds of the quickest of many calls."""
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        call(state, operation, **params)
        best = min(best, time.perf_counter() - began)
    return best


@pytest.mark.parametrize(
    ("operation", "params"),
    [
        ("ListTasks", {"maxResults": 10}),
        ("ListTasks", {"maxResults": 10, "containerInstance": "i00001"}),
        ("ListTasks", {"maxResults": 2, "family": "web", "startedBy": "1"}),
        ("ListContainerInstances", {"maxResults": 2}),
        ("ListContainerInstances", {"maxResults": 1, "filter": "attribute:zone == b"}),
        ("ListTaskDefinitions", {}),
        ("DescribeTasks", {"tasks": [f"{each:04d}{1:028d}" for each in range(10)]}),
        ("DescribeContainerInstances", {"containerInstances": ["i00000", "i00001"]}),
        ("DescribeClusters", {"clusters": ["c"]}),
    ],
)
def test_an_answer_does_not_cost_more_in_a_large_cluster(operation: str, params: dict[str, Any]) -> None:
    few, many = cost(small(), operation, **params), cost(large(), operation, **params)
    assert many < few * RATIO_MAX, f"{many * 1e6:.0f} µs against {few * 1e6:.0f} µs"


def test_the_answers_are_of_the_large_cluster() -> None:
    assert call(large(), "DescribeClusters", clusters=["c"])["clusters"][0]["runningTasksCount"] == 10_000
    assert len(call(large(), "ListTasks")["taskArns"]) == 100
    found = call(large(), "DescribeContainerInstances", containerInstances=["i00999"])["containerInstances"]
    assert found[0]["runningTasksCount"] == 10
