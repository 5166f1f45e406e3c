"""What the queue's scheduler places next: ``reconcile(state, cluster, …) -> Round``. PURE.

The rules are in the package's docstring. A round gives tasks to several runs at once, each by an offer
of its own that stands on the run's record.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

from cluster import offers
from cluster.feasible import Judge, Need, need_of
from cluster.query import QueryInvalid
from cluster.records import QueuedRun, TaskDefinition, task_of
from cluster.state import At, ClusterState
from journal.offers import Offer
from schedulers.placement import Request, StrategyInvalid, place
from schedulers.queue.order import task_id, turns
from schedulers.service.events import shortened

HOLD_S = 60.0
"""A run that could be placed on an empty cluster is passed over for so long, and no longer."""
TURNS_MAX = 64
"""Tasks that one round places at most."""
EXPIRED = "it had no place before notAfter"


@dataclass(frozen=True, slots=True)
class Given:
    """What a run is given: ``tasks`` of it by instance, in the order of their numbers."""

    name: str
    run: At[QueuedRun]
    offer: Offer
    tasks: Mapping[str, str]
    """Task to instance; empty: the run is given up, or only its reason changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    given: tuple[Given, ...] = ()
    reasons: Mapping[str, str]
    """Why each run that was looked at and found no place waits, by name."""
    wake_at: float | None = None
    """When to look again though nothing changed (seconds since the epoch)."""


def reconcile(
    state: ClusterState,
    cluster: str,
    *,
    served: Mapping[str, int],
    now: float,
    rng: random.Random,
    turns_max: int = TURNS_MAX,
) -> Round:
    """Return who is given what now. ``served``: the revision of each owner's last placement."""
    queue = state.queue(cluster)
    given = [_give_up(cluster, name, at) for name, at in queue.items() if _expired(at.record, now)]
    late = {one.name for one in given}
    order = list(turns({name: at for name, at in queue.items() if name not in late}, served))
    reasons: dict[str, str] = {}
    full: dict[tuple[object, ...], str] = {}
    wake = [at.record.not_after for at in queue.values() if at.record.not_after is not None]
    shares = Counter(islice(order, turns_max))
    room = turns_max
    for name in dict.fromkeys(order):
        if room <= 0:
            break
        at = queue[name]
        # Who has no turn in this round may still use what the others leave.
        share = min(shares[name] or room, at.record.count, room, offers.TOGETHER_TASKS_MAX)
        kind = _kind(at.record)
        if kind in full:
            one, why = None, full[kind]
        else:
            one, why = _give(state, cluster, name, at, share, now, rng)
        if one is None:
            full[kind] = why
        if one is not None:
            given.append(one)
            room -= len(one.tasks)
        if why:
            reasons[name] = why
        if one is None and _could_fit(state, cluster, at.record):
            held_from = at.record.submitted_at + HOLD_S
            if now >= held_from:
                break
            wake.append(held_from)
    return Round(given=tuple(given), reasons=reasons, wake_at=min((w for w in wake if w > now), default=None))


def _expired(run: QueuedRun, now: float) -> bool:
    return run.not_after is not None and now >= run.not_after


def _kind(run: QueuedRun) -> tuple[object, ...]:
    """Return what two runs have in common of which one finds no place where the other finds none."""
    return (run.task_definition, run.overrides, run.placement_constraints, run.group)


def _give_up(cluster: str, name: str, at: At[QueuedRun]) -> Given:
    return Given(name, at, offers.dequeue(cluster, name, at.revision), {})


def _give(
    state: ClusterState,
    cluster: str,
    name: str,
    at: At[QueuedRun],
    count: int,
    now: float,
    rng: random.Random,
) -> tuple[Given | None, str]:
    """Return what a run is given of ``count`` tasks, and why the rest has no place."""
    run = at.record
    found = state.definition(run.task_definition)
    if found is None:
        return None, f"task definition {run.task_definition} does not exist"
    try:
        request = Request(
            cluster=cluster, need=_need(run, found.record), count=count, strategy=run.placement_strategy
        )
        plan = place(state, request, rng)
    except (QueryInvalid, StrategyInvalid) as error:
        return None, str(error)
    if not plan.placements:
        return None, plan.why
    first = len(run.placed)
    tasks = {task_id(name, first + n): instance for n, instance in enumerate(plan.placements)}
    left = replace(
        run,
        count=run.count - len(tasks),
        placed=(*run.placed, *tasks),
        reason=shortened(plan.why) if plan.unplaced else "",
    )
    record = task_of(
        found.record,
        created_at=now,
        overrides=run.overrides,
        group=run.group,
        started_by=run.started_by,
        tags=run.tags,
        propagate_tags=run.propagate_tags,
        enable_execute_command=run.enable_execute_command,
        enable_ecs_managed_tags=run.enable_ecs_managed_tags,
        launch_type=run.launch_type,
        reference_id=run.reference_id,
    )
    placed = [
        offers.place(cluster, instance, task, record, at=plan.at, by="queue", alone=plan.alone)
        for task, instance in tasks.items()
    ]
    rest = (
        offers.change_queued(cluster, name, left, at.revision)
        if left.count
        else offers.dequeue(cluster, name, at.revision)
    )
    label = f"queue: place {len(tasks)} of {name}"
    return Given(
        name, at, offers.together(*placed, rest, label=label), tasks
    ), plan.why if plan.unplaced else ""


def note_reason(cluster: str, name: str, at: At[QueuedRun], why: str) -> Offer:
    """Return the offer that says in a run's record why it waits."""
    return offers.change_queued(cluster, name, replace(at.record, reason=why), at.revision)


def _need(run: QueuedRun, definition: TaskDefinition) -> Need:
    return need_of(
        definition, overrides=run.overrides, group=run.group, constraints=run.placement_constraints
    )


def _could_fit(state: ClusterState, cluster: str, run: QueuedRun) -> bool:
    """Say whether some instance would take a task of the run if nothing else were on it."""
    found = state.definition(run.task_definition)
    if found is None:
        return False
    try:
        judge = Judge(state, _need(run, found.record))
    except QueryInvalid:
        return False
    claim = judge.need.claim
    for view in state.instances(cluster):
        if view.registration is None or judge.belongs(view) is not None:
            continue
        whole = view.registration.record.capacity()
        if (
            claim.cpu <= whole.cpu
            and claim.memory <= whole.memory
            and not set(claim.ports) & set(whole.ports)
            and not set(claim.ports_udp) & set(whole.ports_udp)
            and all(number <= whole.resources.get(name, 0) for name, number in claim.resources.items())
        ):
            return True
    return False
