"""Which instances take a request's tasks. PURE: ``place(state, request, rng) -> Plan``.

Filters first: each looks at one instance and says why it cannot take the task, or None.
Then a strategy picks among those that can. What earlier tasks of the same plan claim is
counted, so that a plan is feasible as a whole; whether the world still looks like
``plan.at`` is for the journal to check, offer by offer.

To add a filter, write a function (candidate, request) -> Refusal | None and put it into
``FILTERS``; to add a strategy, put a key function into ``STRATEGIES``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cluster.records import InstanceStatus
from cluster.state import ClusterState, InstanceView
from journal.types import Revision


class Strategy(StrEnum):
    RANDOM = "random"
    BINPACK_CPU = "binpack:cpu"
    BINPACK_MEMORY = "binpack:memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``count`` tasks that each need the same. ``attributes``: name to value, all must be equal."""

    cluster: str
    cpu: int
    memory: int
    ports: tuple[int, ...] = ()
    count: int = 1
    strategy: Strategy = Strategy.RANDOM
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an instance does not take a task: a code of ECS's, and words for a person."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a scheduler would do. Nothing has been claimed yet."""

    at: Revision
    """The revision of the state that it was made from."""
    placements: tuple[str, ...]
    """An instance for each task that has a place, in the order in which they were chosen."""
    unplaced: int
    """Tasks without a place."""
    refused: Mapping[str, Refusal]
    """Where tasks are without a place: why each instance does not take one more."""

    @property
    def why(self) -> str:
        """Return one sentence for a person: why a task is without a place."""
        if not self.refused:
            return "the cluster has no container instances"
        return "; ".join(f"instance {i[:8]} {r.reason}" for i, r in sorted(self.refused.items()))


@dataclass(slots=True)
class Candidate:
    """An instance with what this plan leaves of it."""

    view: InstanceView
    cpu: int
    memory: int
    ports: set[int]


Filter = Callable[[Candidate, Request], Refusal | None]


def active(candidate: Candidate, _: Request) -> Refusal | None:
    status = candidate.view.status
    return None if status is InstanceStatus.ACTIVE else Refusal("INSTANCE", f"is {status}, not ACTIVE")


def connected(candidate: Candidate, _: Request) -> Refusal | None:
    return None if candidate.view.connected else Refusal("AGENT", "has no agent connected")


def attributes(candidate: Candidate, request: Request) -> Refusal | None:
    assert candidate.view.registration is not None
    record = candidate.view.registration.record
    for name in sorted(request.attributes):
        wanted, found = request.attributes[name], record.attribute(name)
        if found is None:
            return Refusal("ATTRIBUTE", f"has no attribute {name}")
        if found != wanted:
            return Refusal("ATTRIBUTE", f"needs attribute {name}={wanted}, has {found or 'no value'}")
    return None


def capacity_known(candidate: Candidate, _: Request) -> Refusal | None:
    return None if candidate.view.capacity else Refusal("RESOURCE:CPU", "has no readable capacity record")


def cpu(candidate: Candidate, request: Request) -> Refusal | None:
    if request.cpu <= candidate.cpu:
        return None
    return Refusal("RESOURCE:CPU", f"needs {request.cpu} CPU units, {max(candidate.cpu, 0)} left")


def memory(candidate: Candidate, request: Request) -> Refusal | None:
    if request.memory <= candidate.memory:
        return None
    return Refusal("RESOURCE:MEMORY", f"needs {request.memory} MiB, {max(candidate.memory, 0)} MiB left")


def ports(candidate: Candidate, request: Request) -> Refusal | None:
    taken = [port for port in request.ports if port in candidate.ports]
    if not taken:
        return None
    return Refusal("RESOURCE:PORTS", f"needs host port {taken[0]}, which is taken")


FILTERS: tuple[Filter, ...] = (active, connected, attributes, capacity_known, cpu, memory, ports)
"""In the order in which they are asked; the first refusal is the one that is told."""

STRATEGIES: Mapping[Strategy, Callable[[Candidate], int]] = {
    Strategy.RANDOM: lambda _: 0,
    Strategy.BINPACK_CPU: lambda candidate: candidate.cpu,
    Strategy.BINPACK_MEMORY: lambda candidate: candidate.memory,
}
"""Smaller is better; ``rng`` draws among equals, so that schedulers that compete do not all pick the same."""


def refuse(candidate: Candidate, request: Request) -> Refusal | None:
    """Return why an instance does not take one task of the request; None if it does."""
    for check in FILTERS:
        refusal = check(candidate, request)
        if refusal is not None:
            return refusal
    return None


def place(state: ClusterState, request: Request, rng: random.Random) -> Plan:
    """Choose an instance for each task of the request, as far as there is room.

    The same state, request and ``rng`` give the same plan.
    """
    if request.count < 0 or request.cpu < 0 or request.memory < 0:
        raise ValueError("count, cpu and memory of a request must not be negative")
    refused: dict[str, Refusal] = {}
    feasible: list[Candidate] = []
    for view in state.instances(request.cluster):
        candidate = _candidate(view)
        refusal = refuse(candidate, request)
        if refusal is None:
            feasible.append(candidate)
        else:
            refused[view.id] = refusal
    score = STRATEGIES[request.strategy]
    placements: list[str] = []
    while feasible and len(placements) < request.count:
        best = min(score(candidate) for candidate in feasible)
        chosen = rng.choice([candidate for candidate in feasible if score(candidate) == best])
        placements.append(chosen.view.id)
        chosen.cpu -= request.cpu
        chosen.memory -= request.memory
        chosen.ports.update(request.ports)
        refusal = refuse(chosen, request)
        if refusal is not None:
            feasible.remove(chosen)
            refused[chosen.view.id] = refusal
    unplaced = request.count - len(placements)
    return Plan(
        at=state.revision,
        placements=tuple(placements),
        unplaced=unplaced,
        refused=refused if unplaced else {},
    )


def _candidate(view: InstanceView) -> Candidate:
    if view.capacity is None:
        return Candidate(view, 0, 0, set())
    left = view.capacity.record
    return Candidate(view, left.cpu, left.memory, set(left.ports))
