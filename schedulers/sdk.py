"""Write a scheduler of your own: ``open_scheduler``. See ``docs/write-a-scheduler.md``.

A scheduler looks at the cluster's state after every change and fills *slots*: places with names of
its own choosing, each of which holds one task at a time. A slot is a record in the journal, and
filling it is one offer with the placing, so any number of copies of a scheduler may run: of those
that see the same slot free, one fills it. A scheduler keeps nothing, and may be killed at any time.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self

import trio

from cluster import offers
from cluster.feasible import Judge, need_of
from cluster.feed import ClusterFeed, follow
from cluster.keys import DEFAULT_CLUSTER
from cluster.ops import ClusterError, stop_task
from cluster.query import compiled, facts_of
from cluster.records import (
    DesiredStatus,
    InstanceStatus,
    PlacementConstraint,
    PlacementStrategy,
    Slot,
    StopCode,
    TaskDefinition,
    task_of,
)
from cluster.state import At, ClusterState, TaskView
from journal.client import Journal, OfferRejected, connect
from journal.errors import JournalError
from journal.types import Revision
from schedulers.placement import Request, place
from schedulers.service.bounds import SHORT_RUN_S, backoff_s
from schedulers.service.view import FAILURES

TASK_ID_BITS = 128


class DefinitionMissing(ClusterError):
    """There is no ACTIVE task definition of that name."""


class Scheduler:
    """One copy of a scheduler. Make one with ``open_scheduler``. ``name`` owns the slots."""

    def __init__(
        self,
        name: str,
        journal: Journal,
        feed: ClusterFeed,
        *,
        cluster: str = DEFAULT_CLUSTER,
        rng: random.Random | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.cluster = cluster
        self.journal = journal
        self._feed = feed
        self._rng = rng or random.SystemRandom()
        self._wall = wall
        self._wake_at = float("inf")

    @property
    def group(self) -> str:
        """The group of its tasks: what spread counts, and ``distinctInstance`` looks at."""
        return f"scheduler:{self.name}"

    # -- looking ----------------------------------------------------------------------

    @property
    def state(self) -> ClusterState:
        """The state library, at ``state.revision``; it changes only while ``changes`` waits."""
        return self._feed.state

    def changes(self) -> Changes:
        """Iterate over the state: now, after every change of it, and when a slot's wait is over. For ever."""
        return Changes(self)

    async def _changed(self) -> None:
        wake_at, self._wake_at = self._wake_at, float("inf")
        with trio.move_on_after(max(0.0, wake_at - self._wall())):
            await self._feed.step()

    def definition(self, name: str) -> TaskDefinition:
        """Return ``family:revision``, or the newest of a family. Raises ``DefinitionMissing``."""
        found = self.state.definition(name)
        if found is None:
            raise DefinitionMissing(f"there is no ACTIVE task definition {name}")
        return found.record

    def instances(self, expression: str = "") -> list[str]:
        """Return the ACTIVE instances that an expression of the query language means.

        Those whose agent is away are among them: what runs there goes on. ``fill`` passes them over.
        """
        query = compiled(expression) if expression else None
        return [
            view.id
            for view in self.state.instances(self.cluster)
            if view.status is InstanceStatus.ACTIVE
            and (query is None or query.matches(facts_of(self.state, view)))
        ]

    def tasks(self) -> Mapping[str, TaskView]:
        """Return the task of each slot that has one which has not stopped, by slot."""
        slots = self.state.slots(self.cluster, self.name)
        views = {slot: self.state.task(self.cluster, at.record.task) for slot, at in slots.items()}
        return {slot: view for slot, view in views.items() if view is not None and not view.stopped}

    def is_free(self, slot: str) -> bool:
        """Say whether a slot may be filled: it has no task, and does not wait after tasks that failed."""
        at = self.state.slots(self.cluster, self.name).get(slot)
        view = self.state.task(self.cluster, at.record.task) if at else None
        if at is None or view is None:
            return True
        if not view.stopped:
            return False
        ready_at = (view.status.stopped_at or 0.0 if view.status else 0.0) + backoff_s(_failures(at, view), 1)
        if ready_at > self._wall():
            self._wake_at = min(self._wake_at, ready_at)
            return False
        return True

    # -- doing ------------------------------------------------------------------------

    async def fill(
        self,
        slot: str,
        definition: TaskDefinition,
        *,
        on: str = "",
        constraints: Sequence[PlacementConstraint] = (),
        strategy: Sequence[PlacementStrategy] = (),
    ) -> str:
        """Place a task in a slot that is free; return "" or why it was not placed.

        ``on`` names an instance; without it, constraints and strategy choose one. That somebody else was
        faster is a reason like any other: the next change shows what is left to do. Raises
        ``QueryInvalid`` or ``StrategyInvalid`` for what cannot be read.
        """
        need = need_of(definition, group=self.group, constraints=constraints)
        if on:
            view, judge = self.state.instance(self.cluster, on), Judge(self.state, need)
            refusal = judge.refusal(view) if view else None
            if view is None or refusal is not None:
                return f"instance {on} {refusal.reason if refusal else 'is not registered'}"
            return await self._offer(slot, definition, on, judge.alone)
        request = Request(cluster=self.cluster, need=need, strategy=tuple(strategy))
        plan = place(self.state, request, self._rng)
        if not plan.placements:
            return plan.why
        return await self._offer(slot, definition, plan.placements[0], plan.alone)

    async def _offer(self, slot: str, definition: TaskDefinition, instance: str, alone: bool) -> str:
        at = self.state.slots(self.cluster, self.name).get(slot)
        before = self.state.task(self.cluster, at.record.task) if at else None
        record = Slot(
            instance=instance,
            task=f"{self._rng.getrandbits(TASK_ID_BITS):032x}",
            failures=_failures(at, before) if at and before else 0,
        )
        task = task_of(definition, created_at=self._wall(), group=self.group, started_by=self.name)
        offer = offers.fill_slot(
            self.cluster,
            self.name,
            slot,
            record,
            task,
            at.revision if at else Revision(0),
            at=self.state.revision,
            alone=alone,
        )
        try:
            await self._feed.reached(await self.journal.offer(offer))
        except OfferRejected as rejected:
            await self._feed.reached(rejected.receipt.revision)
            return str(rejected)
        except JournalError as error:
            return str(error)
        return ""

    async def stop(self, slot: str, reason: str) -> None:
        """Stop the task of a slot, if it has one."""
        view = self.tasks().get(slot)
        if view is None or view.task.desired_status is DesiredStatus.STOPPED:
            return
        code = StopCode.SERVICE_SCHEDULER_INITIATED
        try:
            revision = await stop_task(self.journal, view, now=self._wall(), reason=reason, code=code)
        except (ClusterError, JournalError):
            return  # it is gone, or the next change tries again
        await self._feed.reached(revision or 0)


class Changes:
    """What ``Scheduler.changes`` iterates over. (No generator: one that is left in the middle would have to
    be closed by whoever loops over it.)"""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._began = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ClusterState:
        if self._began:
            await self._scheduler._changed()
        self._began = True
        return self._scheduler.state


@asynccontextmanager
async def open_scheduler(
    name: str, endpoints: Sequence[str] | str, *, cluster: str = DEFAULT_CLUSTER
) -> AsyncIterator[Scheduler]:
    """Connect to the journal at ``endpoints`` (``host:port``, or a list with commas), and follow it.

    Copies of one scheduler have the same ``name``.
    """
    addresses = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    async with connect(addresses) as journal, follow(journal) as feed:
        yield Scheduler(name, journal, feed, cluster=cluster)


def _failures(at: At[Slot], view: TaskView) -> int:
    """Return how many tasks of a slot failed in a row, the present one included if it has."""
    status = view.status
    if not view.stopped or status is None or status.stop_code not in FAILURES:
        return 0
    ran_s = (status.stopped_at or 0.0) - status.started_at if status.started_at is not None else 0.0
    return at.record.failures + 1 if ran_s < SHORT_RUN_S else 0
