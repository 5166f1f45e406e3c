"""Which instances can take a task, and why not the others. PURE.

One judgement for placement, for tasks that are started on named instances, for daemons, for the
dry run and for the API. A refusal has ECS's code where ECS has one, and a reason that a person
can read. Nothing is claimed by it: whether the world still looks like the state is for the
journal to check, offer by offer.

To add a filter: write a function (judge, view, taken) that yields refusals, and put it into ``_FILTERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cluster.query import InstanceFacts, Query, compiled, facts_of
from cluster.records import (
    Claim,
    ConstraintType,
    InstanceStatus,
    PlacementConstraint,
    TaskDefinition,
    TaskOverride,
)
from cluster.state import ClusterState, InstanceView
from journal.types import Revision

MEMBER_OF = "MemberOf placement constraint unsatisfied"
DISTINCT_INSTANCE = "DistinctInstance placement constraint unsatisfied"
ROOM_MAX = 1_000_000
"""Tasks that claim nothing: so many of them fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one task needs of an instance."""

    claim: Claim
    group: str = ""
    """``distinctInstance`` is one task of it on an instance."""
    constraints: tuple[PlacementConstraint, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Attributes that an instance must have, with these values."""


def need_of(
    definition: TaskDefinition,
    *,
    overrides: TaskOverride | None = None,
    group: str = "",
    constraints: Iterable[PlacementConstraint] = (),
    attributes: Mapping[str, str] | None = None,
) -> Need:
    """Return what a task of a definition needs: what is asked for, and what its definition asks for."""
    return Need(
        claim=definition.claim(overrides),
        group=group or f"family:{definition.family}",
        constraints=(*constraints, *definition.placement_constraints),
        attributes=attributes or {},
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an instance does not take a task."""

    code: str
    reason: str
    """For a person; goes on from "instance x"."""
    needs: str = field(default="", compare=False)
    """What would have to be there instead: ``512 more MiB``."""
    short: float = field(default=0.0, compare=False)
    """Of an amount: how much is missing, as a part of what a task claims. 0: no matter of amounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feasible:
    """Instances that can take one task more, and the first reason of each other one."""

    at: Revision
    can: tuple[str, ...]
    refused: Mapping[str, Refusal]


class Judge:
    """One need, read once, asked of any number of instances of one state.

    ``taken`` is how many tasks of this need were given to the instance since the state was.
    Raises ``cluster.query.QueryInvalid`` for a constraint that cannot be read.
    """

    def __init__(self, state: ClusterState, need: Need) -> None:
        self.state = state
        self.need = need
        of_type = {kind: [c for c in need.constraints if c.type is kind] for kind in ConstraintType}
        self.queries: tuple[Query, ...] = tuple(
            compiled(constraint.expression) for constraint in of_type[ConstraintType.MEMBER_OF]
        )
        self.distinct = bool(of_type[ConstraintType.DISTINCT_INSTANCE])
        self.looks_at_tasks = any(query.looks_at_tasks for query in self.queries)
        self._wishes: tuple[Filter, ...] = (
            *((_attributes,) if need.attributes else ()),
            *((_member_of,) if self.queries else ()),
            *((_distinct,) if self.distinct else ()),
        )
        """The filters that this need gives something to do, but for those of amounts."""

    @property
    def alone(self) -> bool:
        """Say whether a constraint looks at the instance's other tasks: then a placement stands on them."""
        return self.distinct or self.looks_at_tasks

    def refusal(self, view: InstanceView, taken: int = 0) -> Refusal | None:
        """Return the first reason why an instance does not take one task more; None if it does."""
        return next(self.refusals(view, taken), None)

    def refusals(self, view: InstanceView, taken: int = 0) -> Iterator[Refusal]:
        """Yield every reason why an instance does not take one task more, the gravest first."""
        for check in _FILTERS:
            yield from check(self, view, taken)

    def belongs(self, view: InstanceView) -> Refusal | None:
        """Return why an instance is none that is meant, whatever room it has and whether it is connected."""
        for check in _BELONGING:
            for refusal in check(self, view, 0):
                return refusal
        return None

    def room(self, view: InstanceView) -> int:
        """Return how many tasks of this need an instance takes, one after the other: 0 where it is refused.

        What a plan asks of every instance, so amounts are looked at first, and no reason is made.
        """
        if view.capacity is None or view.alive is None or view.status is not InstanceStatus.ACTIVE:
            return 0
        left, claim = view.capacity.record, self.need.claim
        one_only = self.distinct or claim.ports or claim.ports_udp
        room = 1 if one_only else ROOM_MAX
        if claim.cpu:
            room = min(room, left.cpu // claim.cpu)
        if claim.memory:
            room = min(room, left.memory // claim.memory)
        for name, number in claim.resources.items():
            if number:
                room = min(room, left.resources.get(name, 0) // number)
        if room <= 0:
            return 0
        if not (set(claim.ports).isdisjoint(left.ports) and set(claim.ports_udp).isdisjoint(left.ports_udp)):
            return 0
        for check in self._wishes:
            for _ in check(self, view, 0):
                return 0
        # A group is on an instance or not: if one of this need's does not keep out another, none does.
        return 1 if room > 1 and self.looks_at_tasks and self.refusal(view, 1) is not None else room

    def facts(self, view: InstanceView, taken: int) -> InstanceFacts:
        facts = facts_of(self.state, view)
        if not taken or self.need.group in facts.groups:
            return facts
        return InstanceFacts(
            attributes=facts.attributes,
            connected=facts.connected,
            agent_version=facts.agent_version,
            ec2_instance_id=facts.ec2_instance_id,
            registered_at=facts.registered_at,
            running_tasks=facts.running_tasks,
            groups=(*facts.groups, self.need.group),
        )


def feasible(state: ClusterState, cluster: str, need: Need) -> Feasible:
    """Return which instances of a cluster can take one task more, and why not the others."""
    judge = Judge(state, need)
    can: list[str] = []
    refused: dict[str, Refusal] = {}
    for view in state.instances(cluster):
        refusal = judge.refusal(view)
        if refusal is None:
            can.append(view.id)
        else:
            refused[view.id] = refusal
    return Feasible(at=state.revision, can=tuple(can), refused=refused)


# -- filters ------------------------------------------------------------------------------

Filter = Callable[[Judge, InstanceView, int], Iterator[Refusal]]


def _active(_: Judge, view: InstanceView, __: int) -> Iterator[Refusal]:
    status = view.status
    if status is not InstanceStatus.ACTIVE:
        yield Refusal(str(status), f"is {status}, not ACTIVE", f"status ACTIVE instead of {status}")


def _connected(_: Judge, view: InstanceView, __: int) -> Iterator[Refusal]:
    if not view.connected:
        yield Refusal("AGENT", "has no agent connected", "a connected agent")


def _attributes(judge: Judge, view: InstanceView, _: int) -> Iterator[Refusal]:
    for name, wanted in sorted(judge.need.attributes.items()):
        found = view.attributes.get(name)
        needs = f"attribute {name}={wanted}"
        if found is None:
            yield Refusal("ATTRIBUTE", f"has no attribute {name}", needs)
        elif found != wanted:
            found = found or "no value"
            yield Refusal("ATTRIBUTE", f"needs {needs}, has {found}", f"{needs} instead of {found}")


def _member_of(judge: Judge, view: InstanceView, taken: int) -> Iterator[Refusal]:
    if not judge.queries:
        return
    facts = judge.facts(view, taken)
    for query in judge.queries:
        if not query.matches(facts):
            reason = f"is not meant by {query.text} ({_found(query, facts)})"
            yield Refusal(MEMBER_OF, reason, f"what {query.text} asks for")


def _distinct(judge: Judge, view: InstanceView, taken: int) -> Iterator[Refusal]:
    if judge.distinct:
        group = judge.need.group
        if taken or judge.state.wanted_on(view.cluster, view.id).get(group):
            reason = f"has a task of group {group} already"
            yield Refusal(DISTINCT_INSTANCE, reason, f"no other task of group {group}")


def _resources(judge: Judge, view: InstanceView, taken: int) -> Iterator[Refusal]:
    if view.capacity is None:
        yield Refusal("RESOURCE:CPU", "has no readable capacity record", "a capacity record")
        return
    left, claim = view.capacity.record, judge.need.claim
    yield from _short("RESOURCE:CPU", "CPU units", claim.cpu, left.cpu - taken * claim.cpu)
    yield from _short("RESOURCE:MEMORY", "MiB", claim.memory, left.memory - taken * claim.memory)
    for code, what, wanted, used in (
        ("RESOURCE:PORTS", "host port", claim.ports, left.ports),
        ("RESOURCE:PORTS_UDP", "UDP host port", claim.ports_udp, left.ports_udp),
    ):
        for port in wanted:
            if taken or port in used:
                yield Refusal(code, f"needs {what} {port}, which is taken", f"{what} {port} free")
    for name, number in sorted(claim.resources.items()):
        yield from _short(f"RESOURCE:{name}", name, number, left.resources.get(name, 0) - taken * number)


def _short(code: str, unit: str, wanted: int, left: int) -> Iterator[Refusal]:
    if wanted and wanted > left:
        missing, left = wanted - left, max(left, 0)
        reason = f"needs {wanted} {unit}, {left}{' MiB' if unit == 'MiB' else ''} left"
        yield Refusal(code, reason, f"{missing} more {unit}", missing / wanted)


def _found(query: Query, facts: InstanceFacts) -> str:
    """Return what an instance has of the attributes that a constraint asks about."""
    told = [
        f"{name} is {facts.attributes[name] or 'without a value'}"
        if name in facts.attributes
        else f"no {name}"
        for name in sorted(query.attributes)
    ]
    if query.looks_at_tasks:
        told.append(f"groups {', '.join(sorted(facts.groups)) or 'none'}, {facts.running_tasks} running")
    return "; ".join(told) or f"agent {facts.agent_version or 'unknown'}, {facts.ec2_instance_id or 'no id'}"


_BELONGING: tuple[Filter, ...] = (_active, _attributes, _member_of)
_FILTERS: tuple[Filter, ...] = (_active, _connected, _attributes, _member_of, _distinct, _resources)
"""In the order in which they are asked; the first refusal is the one that is told."""
