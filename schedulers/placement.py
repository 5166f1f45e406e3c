"""Which instances take a request's tasks. PURE: ``place(state, request, rng) -> Plan``.

``cluster.feasible`` says of each instance how many of the tasks it takes, or why none. Then the
strategies choose, in the order given: an earlier one decides, a later one among what the earlier
ones find equal, and ``rng`` among what is equal after all (so that schedulers that compete do
not all pick the same). What earlier tasks of the same plan claim is counted, so that a plan is
feasible as a whole; whether the world still looks like ``plan.at`` is for the journal to check,
offer by offer.

* ``random``: any. What comes after it has nothing to say.
* ``spread`` by ``instanceId`` (or ``host``) or ``attribute:<name>``: where fewest tasks of the
  group are, on that instance or on all instances with that value.
* ``binpack`` by ``cpu`` or ``memory``: where least is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.feasible import Judge, Need, Refusal, need_of
from cluster.records import PlacementStrategy, StrategyType
from cluster.state import ClusterState, InstanceView
from journal.types import Revision
from schedulers.placement_draw import Draw
from schedulers.placement_order import Candidate, Level, LevelKind, Order

__all__ = [
    "ZONE_SPREAD",
    "Need",
    "Plan",
    "Refusal",
    "Request",
    "StrategyInvalid",
    "levels_of",
    "need_of",
    "place",
    "strategy_of",
]

ZONE_ATTRIBUTE = "ecs.availability-zone"
ATTRIBUTE_FIELD = "attribute:"
INSTANCES_TOLD = 5
"""Instances that ``Plan.why`` names for one reason."""

ZONE_SPREAD = (PlacementStrategy(type=StrategyType.SPREAD, field=ATTRIBUTE_FIELD + ZONE_ATTRIBUTE),)
"""What ECS does with a service that says nothing."""


class StrategyInvalid(ValueError):
    """A placement strategy that there is none of; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``count`` tasks that each need the same. Without a strategy: random."""

    cluster: str
    need: Need
    count: int = 1
    strategy: tuple[PlacementStrategy, ...] = ()
    leaving: Mapping[str, int] = field(default_factory=dict)
    """By instance: tasks of the group that are about to go. Spread does not count them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a scheduler would do. Nothing has been claimed yet."""

    at: Revision
    """The revision of the state that it was made from."""
    placements: tuple[str, ...]
    """An instance for each task that has a place, in the order in which they were chosen."""
    unplaced: int
    """Tasks without a place."""
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    """Where tasks are without a place: why each instance does not take one more."""
    alone: bool = False
    """Whether a constraint looks at the instance's tasks: ``offers.place`` must stand on them."""

    @property
    def why(self) -> str:
        """Return one sentence for a person: why a task is without a place."""
        if not self.refused:
            return "the cluster has no container instances"
        by_reason: dict[str, list[str]] = {}
        for instance, refusal in sorted(self.refused.items()):
            by_reason.setdefault(refusal.reason, []).append(instance)
        return "; ".join(_told(instances, reason) for reason, instances in by_reason.items())


def place(state: ClusterState, request: Request, rng: random.Random) -> Plan:
    """Choose an instance for each task of the request, as far as there is room.

    The same state, request and ``rng`` give the same plan. At random, a task takes a draw or two while
    most instances have room; where a strategy orders them, a plan takes time in proportion to the
    instances once, and to the logarithm of them for each task.

    Raises ``StrategyInvalid``, and ``cluster.query.QueryInvalid`` for a constraint.
    """
    claim = request.need.claim
    problem = claim.problem()
    if request.count < 0 or problem:
        raise ValueError(problem or f"count {request.count} must not be negative")
    levels = levels_of(request.strategy)
    judge = Judge(state, request.need)
    take = _ordered(state, request, levels, judge, rng) if levels else _at_random(state, request, judge, rng)
    placements: list[str] = []
    while len(placements) < request.count:
        chosen = take()
        if chosen is None:
            break
        placements.append(chosen)
    unplaced = request.count - len(placements)
    return Plan(
        at=state.revision,
        placements=tuple(placements),
        unplaced=unplaced,
        refused=_refused(judge, state.instances(request.cluster), placements) if unplaced else {},
        alone=judge.alone,
    )


Take = Callable[[], str | None]
"""Gives one task to an instance and returns it; None where none has room."""


def _at_random(state: ClusterState, request: Request, judge: Judge, rng: random.Random) -> Take:
    def room(instance: str) -> int:
        view = state.instance(request.cluster, instance)
        return judge.room(view) if view is not None else 0

    return Draw(state.instance_ids(request.cluster), room, rng).take


def _ordered(
    state: ClusterState, request: Request, levels: Sequence[Level], judge: Judge, rng: random.Random
) -> Take:
    order = Order(levels, request.need.claim, rng)
    wanted, group = state.wanted(request.cluster), request.need.group
    for view in state.instances(request.cluster):
        there = wanted.get(view.id)
        tasks = max(0, there.get(group, 0) - request.leaving.get(view.id, 0)) if there else 0
        if tasks:
            order.count(view.attributes, tasks)
        room = judge.room(view) if request.count else 0
        if room:
            order.add(_candidate(view, tasks, room))

    def take() -> str | None:
        chosen = order.take()
        return chosen.id if chosen is not None else None

    return take


def levels_of(strategy: Sequence[PlacementStrategy]) -> tuple[Level, ...]:
    """Return what the strategies order by. Raises ``StrategyInvalid``."""
    levels: list[Level] = []
    for one in strategy:
        wanted = one.field.lower()
        match one.type:
            case StrategyType.RANDOM:
                if one.field:
                    raise StrategyInvalid(f"random takes no field, and was given {one.field!r}")
                levels.append(Level(LevelKind.RANDOM))
            case StrategyType.SPREAD if wanted in ("instanceid", "host"):
                levels.append(Level(LevelKind.INSTANCE))
            case StrategyType.SPREAD if one.field.removeprefix(ATTRIBUTE_FIELD) not in ("", one.field):
                levels.append(Level(LevelKind.ATTRIBUTE, one.field.removeprefix(ATTRIBUTE_FIELD)))
            case StrategyType.BINPACK if wanted in ("cpu", "memory"):
                levels.append(Level(LevelKind(wanted)))
            case StrategyType.SPREAD:
                raise StrategyInvalid(
                    f"spread is by instanceId, host or attribute:<name>, not by {one.field!r}"
                )
            case _:
                raise StrategyInvalid(f"binpack is by cpu or memory, not by {one.field!r}")
    kinds = [level.kind for level in levels]
    if LevelKind.RANDOM in kinds:  # it decides, so nothing is left for what follows
        levels = levels[: kinds.index(LevelKind.RANDOM)]
    return tuple(levels)


def strategy_of(text: str) -> PlacementStrategy:
    """Return the strategy of ``random``, ``spread:<field>`` or ``binpack:<field>``.

    Raises ``StrategyInvalid``.
    """
    kind, _, by = text.partition(":")
    try:
        strategy = PlacementStrategy(type=StrategyType(kind), field=by)
    except ValueError:
        raise StrategyInvalid(f"{kind!r} is none of {', '.join(StrategyType)}") from None
    levels_of([strategy])
    return strategy


def _candidate(view: InstanceView, tasks: int, room: int) -> Candidate:
    assert view.capacity is not None
    left = view.capacity.record
    return Candidate(view.id, view.attributes, tasks=tasks, cpu=left.cpu, memory=left.memory, room=room)


def _refused(judge: Judge, views: Sequence[InstanceView], placements: Sequence[str]) -> dict[str, Refusal]:
    taken: dict[str, int] = {}
    for instance in placements:
        taken[instance] = taken.get(instance, 0) + 1
    refused: dict[str, Refusal] = {}
    for view in views:
        refusal = judge.refusal(view, taken.get(view.id, 0))
        assert refusal is not None, f"instance {view.id} takes one more task, and was given none"
        refused[view.id] = refusal
    return refused


def _told(instances: list[str], reason: str) -> str:
    names = ", ".join(instance[:8] for instance in instances[:INSTANCES_TOLD])
    if len(instances) == 1:
        return f"instance {names} {reason}"
    more = len(instances) - INSTANCES_TOLD
    return f"{len(instances)} instances ({names}{f' and {more} more' if more > 0 else ''}): {reason}"
