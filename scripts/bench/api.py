"""The row ``api``: what a call of the ECS API takes on a small cluster and on a large one.

Two clusters of three nodes, each with an API process: so one replica is small, and the other one is large.
The same calls in turns to both, one at a time: ListTasks, a page of ten, and DescribeTasks of ten tasks
drawn anew for each call. By boto3, which takes longer than the server, and by a client that sends ready
bytes over one connection. What is listed and described is simulated: tasks of instances without agents,
reported RUNNING. Where moto's server is installed it is asked the same (it knows no pages: it lists all).
"""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from cluster import offers
from cluster.records import (
    ContainerStatus,
    LastStatus,
    NetworkBinding,
    Task,
    TaskDefinition,
    TaskStatus,
    task_of,
)
from journal.client import Journal, connect
from journal.types import Revision
from scripts.bench import moto
from scripts.bench.placement import DEFINITION, LEASE_TTL_S, accepted, instance_ids, simulate
from scripts.bench.results import Result, percentiles
from synod.local import LocalCluster
from synod.local_api import health
from synod.local_state import free_ports

if TYPE_CHECKING:
    from scripts.bench.rows import Bench

CLUSTER = moto.CLUSTER
TARGET = "AmazonEC2ContainerServiceV20141113."
DESCRIBED = 10
LISTED = 10
GOAL = 1.3
READY_S = 60.0
WARM_UP_CALLS = 30
TURN_CALLS = 10
"""Calls to one server before the turn of the next."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of a cluster: shown as instances / tasks."""

    instances: int
    tasks: int

    def __str__(self) -> str:
        return f"{self.instances:,} / {self.tasks:,}"


SMALL, LARGE = Size(1, 10), Size(1_000, 10_000)
MOTO, MOTO_FULL = Size(100, 1_000), LARGE
"""moto is filled call by call, and what it keeps it looks through: the smaller size flatters it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and the tasks that it has."""

    endpoint: str
    tasks: Sequence[str]


Ask = Callable[[str, dict[str, Any]], Any]
"""Makes one call: (operation, parameters) -> answer."""


# -- filling ------------------------------------------------------------------------


def task_id(number: int) -> str:
    return f"{number:032x}"


def status_of(definition: TaskDefinition, number: int) -> TaskStatus:
    """Return what an agent would report of a task that runs."""
    binding = NetworkBinding(bind_ip="0.0.0.0", container_port=80, host_port=32_768 + number % 1_000)
    return TaskStatus(
        last_status=LastStatus.RUNNING,
        containers=tuple(
            ContainerStatus(
                name=container.name,
                last_status=LastStatus.RUNNING,
                runtime_id=f"{number:064x}",
                network_bindings=(binding,),
            )
            for container in definition.container_definitions
        ),
        started_at=float(number),
    )


async def fill(journal: Journal, size: Size, lease: int) -> list[str]:
    """Register a cluster of that size with its tasks, all of which run; return their ids."""
    await accepted(journal, [offers.register_task_definition(DEFINITION)])
    await simulate(journal, CLUSTER, size.instances, lease)
    instances = instance_ids(size.instances)
    task: Task = task_of(DEFINITION, created_at=1.0)
    where = [(instances[number % size.instances], task_id(number)) for number in range(size.tasks)]
    at = await journal.revision()
    placed = await accepted(journal, [offers.place(CLUSTER, on, name, task, at=at) for on, name in where])
    await accepted(
        journal,
        [
            offers.report(
                CLUSTER,
                on,
                name,
                task,
                revision,
                status_of(DEFINITION, number),
                before=None,
                before_revision=Revision(0),
            )
            for number, ((on, name), revision) in enumerate(zip(where, placed, strict=True))
        ],
    )
    return [name for _, name in where]


@asynccontextmanager
async def served(folder: Path, size: Size) -> AsyncIterator[Target]:
    """Run three nodes and an API process over a cluster of that size."""
    [port] = free_ports(1)
    cluster = LocalCluster.create(folder, nodes=3, api_port=port)
    try:
        await trio.to_thread.run_sync(cluster.start)
        await trio.to_thread.run_sync(cluster.wait_ready)
        async with (
            connect(cluster.endpoints, cluster=cluster.cluster_id) as journal,
            journal.lease(LEASE_TTL_S) as lease,
        ):
            tasks = await fill(journal, size, lease.id)
            # Started when all is there: that is what it loads, and what stays.
            endpoint = await trio.to_thread.run_sync(cluster.start_api)
            await trio.to_thread.run_sync(_wait_healthy, endpoint)
            # Who has written knows the leader, and asks it first: so both processes are in one case.
            await trio.to_thread.run_sync(raw(endpoint), "CreateCluster", {"clusterName": "written"})
            yield Target(endpoint, tasks)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(cluster.stop)


def _wait_healthy(endpoint: str) -> None:
    deadline = time.monotonic() + READY_S
    while health(endpoint, 1.0) != "ok":
        if time.monotonic() > deadline:
            raise RuntimeError(f"the API does not serve within {READY_S:g} s")
        time.sleep(0.05)


# -- asking -------------------------------------------------------------------------


def raw(endpoint: str) -> Ask:
    """Return a client that sends ready bytes over one connection, and reads JSON."""
    connection = http.client.HTTPConnection(endpoint, timeout=60)
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "authorization": f"AWS4-HMAC-SHA256 Credential=any/20260101/{moto.REGION}/ecs/aws4_request",
    }

    def ask(operation: str, parameters: dict[str, Any]) -> Any:
        body = json.dumps(parameters).encode()
        connection.request("POST", "/", body, {**headers, "x-amz-target": TARGET + operation})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{operation} answers {answer.status}: {said[:500]!r}")
        return json.loads(said)

    return ask


def boto3(endpoint: str) -> Ask:
    """Return an unmodified boto3 client."""
    client = moto.client("ecs", endpoint)
    methods = {"ListTasks": client.list_tasks, "DescribeTasks": client.describe_tasks}
    return lambda operation, parameters: methods[operation](**parameters)


def parameters(operation: str, tasks: Sequence[str], rng: random.Random) -> dict[str, Any]:
    if operation == "ListTasks":
        return {"cluster": CLUSTER, "maxResults": LISTED}
    return {"cluster": CLUSTER, "tasks": rng.sample(tasks, DESCRIBED)}


def check(operation: str, answer: Any) -> None:
    """Raise ``RuntimeError`` unless the answer holds what was asked for (moto lists more)."""
    if operation == "ListTasks":
        right = len(answer["taskArns"]) >= LISTED
    else:
        right = len(answer["tasks"]) == DESCRIBED and not answer.get("failures")
    if not right:
        raise RuntimeError(f"{operation} does not answer what was asked: {str(answer)[:500]}")


def in_turns(
    operation: str, targets: Sequence[tuple[Ask, Sequence[str]]], seconds: float
) -> list[list[float]]:
    """Call each target a few times in turns, one call after the other, each for ``seconds`` in all; return
    what the calls took, in ms. So whatever else the machine does meanwhile, it does to all of them."""
    rng = random.Random(1)
    for ask, tasks in targets:
        for _ in range(WARM_UP_CALLS):
            check(operation, ask(operation, parameters(operation, tasks, rng)))
    found: list[list[float]] = [[] for _ in targets]
    end = time.monotonic() + seconds * len(targets)
    while time.monotonic() < end:
        for (ask, tasks), latencies in zip(targets, found, strict=True):
            for _ in range(TURN_CALLS):
                given = parameters(operation, tasks, rng)
                began = time.perf_counter()
                ask(operation, given)
                latencies.append((time.perf_counter() - began) * 1000)
    return found


# -- the row ------------------------------------------------------------------------


async def api(bench: Bench) -> list[Result]:
    """p99 at 1,000 instances beside that at one, and beside moto's."""
    program = moto.found(bench.moto)
    if program is None:
        bench.console.print(f"moto is not measured: {moto.INSTALL}")
    size = MOTO_FULL if bench.full else MOTO
    results: list[Result] = []
    async with (
        served(bench.folder / "api-small", SMALL) as small,
        served(bench.folder / "api-large", LARGE) as large,
    ):
        with moto.running(program, bench.folder) if program else nullcontext() as endpoint:
            other = None
            if endpoint is not None:
                tasks = await trio.to_thread.run_sync(moto.fill, endpoint, size.instances, size.tasks)
                other = Target(endpoint, tasks)
            for operation in ("ListTasks", "DescribeTasks"):
                for client in (raw, boto3):
                    results += await _compare(bench, operation, client, small, large, other, size)
    return results


async def _compare(
    bench: Bench,
    operation: str,
    client: Callable[[str], Ask],
    small: Target,
    large: Target,
    other: Target | None,
    size: Size,
) -> list[Result]:
    what = f"{operation} of {DESCRIBED} by {client.__name__}"
    growth = Result(
        "api", f"{what}, p99 at {LARGE}", "ms", GOAL, more_is_better=False, peer_name=f"ms at {SMALL}"
    )
    median = Result(
        "api", f"{what}, p50 at {LARGE}", "ms", None, more_is_better=False, peer_name=f"ms at {SMALL}"
    )
    beside = Result(
        "api", f"{what}, p99 at {LARGE}", "ms", None, more_is_better=False, peer_name=f"ms moto at {size}"
    )
    targets = [(client(target.endpoint), target.tasks) for target in (small, large, other) if target]
    for _ in range(bench.rounds):
        run = partial(in_turns, operation, targets, bench.seconds)
        few, many, *others = map(percentiles, await trio.to_thread.run_sync(run))
        growth.peer.append(few["p99"])
        growth.ours.append(many["p99"])
        median.peer.append(few["p50"])
        median.ours.append(many["p50"])
        growth.details = {"small_ms": few, "large_ms": many}
        for theirs in others:
            beside.ours.append(many["p99"])
            beside.peer.append(theirs["p99"])
            beside.details = {"moto_ms": theirs}
    return [growth, median, beside] if other is not None else [growth, median]
