"""What people do with the queue: put a command into it and wait for its tasks, look, take a run out."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cluster import keys, offers
from cluster.feed import ClusterFeed
from cluster.records import ConstraintType, PlacementConstraint, PlacementStrategy, QueuedRun, TaskDefinition
from cluster.state import At, ClusterState
from journal.client import Journal, OfferRejected
from journal.offers import Reason
from journal.types import Revision
from schedulers.queue.order import task_id
from schedulers.run_task import Failure, Placed, RunResult, define_command

RUN_TASKS_MAX = 200
"""Tasks of one queued run; more become several runs."""
RUN_ID_BITS = 32


class AttributeInvalid(ValueError):
    """An attribute's value that no expression can hold."""


async def queue_command(
    journal: Journal,
    feed: ClusterFeed,
    command: Sequence[str],
    *,
    rng: random.Random,
    wall: Callable[[], float],
    cluster: str = keys.DEFAULT_CLUSTER,
    count: int = 1,
    priority: int = 0,
    owner: str = "",
    strategy: Sequence[PlacementStrategy] = (),
    constraints: Sequence[PlacementConstraint] = (),
    attributes: Mapping[str, str] | None = None,
    started_by: str = "",
    tell: Callable[[str], None] = lambda _why: None,
    **definition_options: Any,
) -> RunResult:
    """Queue a command as ``count`` tasks, and wait until each has a place, however long that takes.

    ``tell`` is told why it waits. Other options are those of ``define_command``. Raises what that
    raises, ``AttributeInvalid``, and ``NameInvalid`` for a priority out of range.
    """
    also = tuple(_is(name, value) for name, value in sorted((attributes or {}).items()))
    definition = await define_command(journal, feed, command, wall=wall, **definition_options)
    runs = await enqueue(
        journal,
        definition,
        cluster=cluster,
        count=count,
        rng=rng,
        now=wall(),
        run=QueuedRun(
            task_definition=definition.name,
            count=count,
            priority=priority,
            owner=owner,
            placement_strategy=tuple(strategy),
            placement_constraints=(*constraints, *also),
            started_by=started_by,
        ),
    )
    return await wait_placed(feed, cluster, runs, tell)


async def enqueue(
    journal: Journal,
    definition: TaskDefinition,
    *,
    cluster: str,
    count: int,
    run: QueuedRun,
    rng: random.Random,
    now: float,
) -> dict[str, int]:
    """Queue ``count`` tasks as ``run`` says, ``RUN_TASKS_MAX`` a run; return each run's name and tasks."""
    named: dict[str, int] = {}
    while (left := count - sum(named.values())) > 0:
        submitted = now + len(named) * 1e-6  # in the order in which they were queued
        name = keys.run_name(run.priority, submitted, f"{rng.getrandbits(RUN_ID_BITS):08x}")
        named[name] = min(left, RUN_TASKS_MAX)
        fields = {**run.to_map(), "count": named[name], "submittedAt": submitted}
        await journal.offer(offers.enqueue(cluster, name, QueuedRun.from_map(fields)))
    return named


async def wait_placed(
    feed: ClusterFeed, cluster: str, runs: Mapping[str, int], tell: Callable[[str], None]
) -> RunResult:
    """Wait until every task of the runs has a place, or its run was taken out of the queue."""
    wanted = {task_id(name, number): name for name, count in runs.items() for number in range(count)}
    known: set[str] = set()
    told = ""

    def decided(state: ClusterState) -> bool:
        nonlocal told
        queue = state.queue(cluster)
        known.update(name for name in runs if name in queue)
        known.update(wanted[task] for task in wanted if state.task(cluster, task))
        why = "; ".join(
            dict.fromkeys(queue[n].record.reason for n in runs if n in queue and queue[n].record.reason)
        )
        if why and why != told:
            told = why
            tell(why)
        return known >= set(runs) and not any(name in queue for name in runs)

    state = await feed.until(decided)
    placed, failures = [], []
    for task, name in wanted.items():
        view = state.task(cluster, task)
        if view is not None and view.desired is not None:
            placed.append(Placed(task, view.instance, view.desired.revision))
        else:
            failures.append(Failure(code="DEQUEUED", reason=f"run {name} was taken out of the queue"))
    return RunResult(placed=tuple(placed), failures=tuple(failures), conflicts=0, at=state.revision)


async def take_out(journal: Journal, cluster: str, name: str) -> bool:
    """Take a run out of the queue; what it was given stays. False: it is not in it (any more)."""
    while True:
        record = await journal.get(keys.queued(cluster, name))
        if record is None or record.value is None:
            return False
        try:
            await journal.offer(offers.dequeue(cluster, name, Revision(record.mod)))
        except OfferRejected as rejected:
            if rejected.receipt.reason is not Reason.EXPECT:
                raise
        else:
            return True


def find_run(queue: Mapping[str, At[QueuedRun]], text: str) -> list[str]:
    """Return the runs whose name is, or ends in, ``text``."""
    return [name for name in queue if name == text or name.endswith(text)]


def _is(name: str, value: str) -> PlacementConstraint:
    """Return the constraint that an attribute has a value. Raises ``AttributeInvalid``."""
    quote = next((quote for quote in "'\"" if quote not in value), None)
    if quote is None:
        raise AttributeInvalid(f"the value of attribute {name} holds both kinds of quotes")
    return PlacementConstraint(
        type=ConstraintType.MEMBER_OF, expression=f"attribute:{name} == {quote}{value}{quote}"
    )
