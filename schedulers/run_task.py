"""Places tasks once: one offer a task, planned again from a newer state where an offer conflicts.

Any number of these may run at once on the same cluster, in one process (over one ``SharedFeed``) or
in many. What one of them wins, the other sees as a conflict, and then as less room.

A gang is one offer for all of its tasks: they are placed together, or none of them is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from cluster import offers
from cluster.feed import ClusterFeed, Feed
from cluster.keys import DEFAULT_CLUSTER
from cluster.ops import ensure_definition
from cluster.records import (
    ContainerDefinition,
    KeyValue,
    PlacementConstraint,
    PlacementStrategy,
    PortMapping,
    TaskDefinition,
    TaskOverride,
    task_of,
)
from cluster.state import TaskView
from journal.client import Journal, OffersUnresolved, OfferUnknown
from journal.errors import JournalError
from journal.offers import Offer, Reason, Rejected, Verdict
from journal.types import Revision
from schedulers.placement import Plan, Refusal, Request, need_of, place

ROUNDS_MAX = 100
TASK_ID_BITS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """``count`` tasks of one definition. ``attributes``: what an instance must have, by name.

    Without a strategy: random.
    """

    definition: TaskDefinition
    cluster: str = DEFAULT_CLUSTER
    count: int = 1
    strategy: tuple[PlacementStrategy, ...] = ()
    constraints: tuple[PlacementConstraint, ...] = ()
    overrides: TaskOverride | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    started_by: str = ""
    group: str = ""
    """"": ``family:<family>``, as in ECS."""
    gang: bool = False
    """All of the tasks or none, by one offer. The journal limits how large one is."""


class TakesOffers(Protocol):
    """What placing needs of a ``Journal``."""

    async def offer_many(self, offers: Sequence[Offer], /) -> Sequence[Verdict]: ...


@dataclass(frozen=True, slots=True)
class Placed:
    """A task that has a place. Its agent starts it."""

    task: str
    instance: str
    revision: Revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A task that has no place, and why."""

    code: str
    """ECS's code where one instance or reason is to blame (``RESOURCE:MEMORY``, ``AGENT``…);
    ``UNKNOWN``: it may have been placed; ``UNAVAILABLE``: the journal did not take it."""
    reason: str
    """For a person."""
    task: str = ""
    """Only for ``UNKNOWN``: the id that the task has if it was placed."""
    instances: Mapping[str, Refusal] = field(default_factory=dict)
    """Why each instance does not take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    placed: tuple[Placed, ...]
    failures: tuple[Failure, ...]
    conflicts: int
    """Offers that were rejected because somebody else was faster."""
    at: Revision
    """The revision at which the last plan was made."""


@dataclass(slots=True)
class _Round:
    """What came of one plan's offers."""

    placed: list[Placed] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    conflicts: int = 0
    newest: Revision = Revision(0)  # noqa: RUF009


async def run_tasks(
    journal: TakesOffers, feed: Feed, request: RunRequest, *, rng: random.Random, wall: Callable[[], float]
) -> RunResult:
    """Place ``request.count`` tasks, as far as there is room; a gang only where there is room for all.

    ``wall`` gives seconds since the epoch. What the journal could not be told is in ``failures``;
    raises what the feed raises, ``StrategyInvalid``, and ``QueryInvalid`` for a constraint.
    """
    placed: list[Placed] = []
    failures: list[Failure] = []
    conflicts = 0
    plan = None
    for _ in range(ROUNDS_MAX):
        left = request.count - len(placed) - len(failures)
        if left == 0:
            break
        plan = place(feed.state, _request(request, left), rng)
        if not plan.placements or (request.gang and plan.unplaced):
            failures += [_no_room(plan)] * left
            # Nothing was waited for: who asks again and again would stop all others.
            await trio.lowlevel.checkpoint()
            break
        done = await _offer(journal, plan, request, rng, wall())
        placed += done.placed
        failures += done.failures
        conflicts += done.conflicts
        await feed.reached(done.newest)
    else:
        left = request.count - len(placed) - len(failures)
        why = f"gave up after {ROUNDS_MAX} plans that met conflicts"
        failures += [Failure(code="CONFLICT", reason=why)] * left
    return RunResult(
        placed=tuple(placed),
        failures=tuple(failures),
        conflicts=conflicts,
        at=plan.at if plan else feed.state.revision,
    )


def definition_of_command(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    working_directory: str = "",
    ports: Sequence[int] = (),
    stop_timeout_s: int = 30,
) -> ContainerDefinition:
    """Return the one container of an ad-hoc definition."""
    return ContainerDefinition(
        name="main",
        command=tuple(command),
        environment=tuple(KeyValue(name=k, value=v) for k, v in sorted((environment or {}).items())),
        working_directory=working_directory,
        stop_timeout=stop_timeout_s,
        port_mappings=tuple(PortMapping(container_port=port, host_port=port) for port in ports),
    )


def family_of_command(command: Sequence[str]) -> str:
    """Return the ad-hoc family of a command, after its program: ``run-sleep``."""
    program = command[0].rstrip("/").rpartition("/")[2] if command else ""
    return "run-" + ("".join(c if c.isascii() and c.isalnum() else "-" for c in program)[:60] or "command")


async def define_command(
    journal: Journal,
    feed: ClusterFeed,
    command: Sequence[str],
    *,
    cpu: int,
    memory: int,
    wall: Callable[[], float],
    environment: Mapping[str, str] | None = None,
    working_directory: str = "",
    ports: Sequence[int] = (),
    stop_timeout_s: int = 30,
    family: str = "",
) -> TaskDefinition:
    """Register a command's ad-hoc definition, or take the one there is.

    Raises ``RecordInvalid`` or ``NameInvalid`` for what cannot be a definition, and what
    ``Journal.offer`` raises while registering it.
    """
    return await ensure_definition(
        journal,
        feed,
        family or family_of_command(command),
        cpu=cpu,
        memory=memory,
        containers=[
            definition_of_command(
                command,
                environment=environment,
                working_directory=working_directory,
                ports=ports,
                stop_timeout_s=stop_timeout_s,
            )
        ],
        now=wall(),
    )


async def run_command(
    journal: Journal,
    feed: ClusterFeed,
    command: Sequence[str],
    *,
    cpu: int,
    memory: int,
    rng: random.Random,
    wall: Callable[[], float],
    cluster: str = DEFAULT_CLUSTER,
    count: int = 1,
    strategy: Sequence[PlacementStrategy] = (),
    constraints: Sequence[PlacementConstraint] = (),
    attributes: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    working_directory: str = "",
    ports: Sequence[int] = (),
    stop_timeout_s: int = 30,
    started_by: str = "",
    family: str = "",
    gang: bool = False,
) -> RunResult:
    """Run a command as ``count`` tasks: define it, and place. Raises what ``define_command`` raises."""
    definition = await define_command(
        journal,
        feed,
        command,
        cpu=cpu,
        memory=memory,
        wall=wall,
        environment=environment,
        working_directory=working_directory,
        ports=ports,
        stop_timeout_s=stop_timeout_s,
        family=family,
    )
    request = RunRequest(
        definition=definition,
        cluster=cluster,
        count=count,
        strategy=tuple(strategy),
        constraints=tuple(constraints),
        attributes=attributes or {},
        started_by=started_by,
        gang=gang,
    )
    return await run_tasks(journal, feed, request, rng=rng, wall=wall)


async def wait_tasks(
    feed: ClusterFeed, cluster: str, tasks: Sequence[str], *, stopped: bool = True
) -> list[TaskView]:
    """Return the tasks, in the order asked for, once all have stopped (or run, ``stopped=False``).

    A task that is forgotten meanwhile is left out. Waits for as long as it takes.
    """

    def views() -> list[TaskView]:
        found = (feed.state.task(cluster, task) for task in tasks)
        return [view for view in found if view is not None]

    await feed.until(
        lambda _: all(view.stopped or (not stopped and view.last_status != "PENDING") for view in views())
    )
    return views()


def _request(request: RunRequest, count: int) -> Request:
    need = need_of(
        request.definition,
        overrides=request.overrides,
        group=request.group,
        constraints=request.constraints,
        attributes=request.attributes,
    )
    return Request(cluster=request.cluster, need=need, count=count, strategy=request.strategy)


async def _offer(
    journal: TakesOffers, plan: Plan, request: RunRequest, rng: random.Random, now: float
) -> _Round:
    """Offer a plan, each task by itself or a gang as a whole, and sort the verdicts."""
    task = task_of(
        request.definition,
        overrides=request.overrides,
        started_by=request.started_by,
        group=request.group,
        created_at=now,
    )
    # A task's id is never offered twice: an offer whose verdict is unknown may still place it.
    tasks = [(f"{rng.getrandbits(TASK_ID_BITS):032x}", instance) for instance in plan.placements]
    batch = [
        offers.place(request.cluster, instance, task_id, task, at=plan.at, alone=plan.alone)
        for task_id, instance in tasks
    ]
    parts = [[one] for one in tasks]
    if request.gang:
        batch = [offers.together(*batch, label=f"run-task: place {len(tasks)} together")]
        parts = [tasks]
    done = _Round()
    for part, verdict in zip(parts, await _verdicts(journal, batch), strict=True):
        if isinstance(verdict, int):
            done.placed += [Placed(task_id, instance, Revision(verdict)) for task_id, instance in part]
            done.newest = max(done.newest, Revision(verdict))
        elif isinstance(verdict, Rejected):
            done.conflicts += 1
            done.newest = max(done.newest, _news(verdict, plan))
        elif isinstance(verdict, OfferUnknown):
            done.failures += [
                Failure(code="UNKNOWN", reason=str(verdict), task=task_id) for task_id, _ in part
            ]
        else:
            done.failures += [Failure(code="UNAVAILABLE", reason=str(verdict))] * len(part)
    return done


def _news(verdict: Rejected, plan: Plan) -> Revision:
    """Return the revision of a state that a conflict can be seen in.

    What a gang has claimed itself hides from its receipt who else has claimed there. But there was room
    for all of it at ``plan.at``, so somebody has, since.
    """
    since = plan.at + 1 if verdict.reason in (Reason.BOUNDS, Reason.SET) else 0
    return Revision(max(verdict.revision, since))


async def _verdicts(journal: TakesOffers, batch: Sequence[Offer]) -> Sequence[Verdict | JournalError]:
    try:
        return await journal.offer_many(batch)
    except OffersUnresolved as unresolved:
        return unresolved.verdicts


def _no_room(plan: Plan) -> Failure:
    codes = {refusal.code for refusal in plan.refused.values()}
    code = codes.pop() if len(codes) == 1 else "RESOURCE" if codes else "NO_INSTANCES"
    return Failure(code=code, reason=plan.why, instances=plan.refused)
