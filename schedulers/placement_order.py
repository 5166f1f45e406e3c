"""Candidates in the order of chained strategies, kept while tasks are placed. PURE.

A strategy gives every candidate a number, and the smallest list of numbers is the best: first
strategy first. Two kinds of numbers behave differently when a task is placed. How much is left,
and how many tasks are on the instance, change for that one instance. How many tasks are in a
zone changes for every instance of the zone at once: to touch each of them would cost a scan per
task. So candidates are kept in a tree: one step of it for each attribute that is spread by, one
branch for each value, and under it a heap. Counts of values are looked up, not stored.

Counts only grow within a plan, so a number that a heap remembers is never too large, except for
the candidate that was just given a task, whose branches are put right at once. What is on top
of a heap is therefore checked against the present, and put back where it is out of date
(``_Branch.best``).

Ties are broken by a draw: that of an exponential clock, which goes on from where it stood when a
candidate stays in its place, so that ``random`` stays uniform however often one was chosen.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cluster.records import Claim


class LevelKind(StrEnum):
    RANDOM = "random"
    INSTANCE = "instance"
    ATTRIBUTE = "attribute"
    CPU = "cpu"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Level:
    """One strategy of a chain. ``name``: of the attribute."""

    kind: LevelKind
    name: str = ""


@dataclass(slots=True)
class Candidate:
    """An instance with what this plan leaves of it."""

    id: str
    attributes: Mapping[str, str]
    tasks: int
    """Of the group."""
    cpu: int
    memory: int
    room: int
    """How many more tasks of the request it takes."""
    clock: float = 0.0
    own: tuple[int, ...] = field(default=())
    """Its numbers of its own, one for each level; 0 where the level is of an attribute."""
    values: tuple[str | None, ...] = field(default=())
    """Its values of the attributes that are spread by; None where it has none."""


Key = tuple[tuple[int, ...], float, str]
"""Numbers, clock, id: what candidates and branches are ordered by."""


class Order:
    """Candidates, the best first. ``add`` all, then ``take`` one at a time."""

    def __init__(self, levels: Sequence[Level], claim: Claim, rng: random.Random) -> None:
        self.levels = tuple(levels)
        self.claim = claim
        self._rng = rng
        self._spread = [n for n, level in enumerate(levels) if level.kind is LevelKind.ATTRIBUTE]
        """The levels of attributes, in order: each is a step of the tree."""
        self._counts: dict[tuple[int, str | None], int] = {}
        """Tasks of the group by (level, value)."""
        self._root: _Branch | _Leaf = self._new(0)

    def count(self, attributes: Mapping[str, str], tasks: int) -> None:
        """Take note of tasks of the group on an instance, whether it is a candidate or not."""
        for level in self._spread:
            value = (level, attributes.get(self.levels[level].name))
            self._counts[value] = self._counts.get(value, 0) + tasks

    def add(self, candidate: Candidate) -> None:
        candidate.values = tuple(candidate.attributes.get(self.levels[n].name) for n in self._spread)
        candidate.own = self._own(candidate)
        candidate.clock = self._rng.expovariate(1.0)
        self._root.add(candidate)

    def take(self) -> Candidate | None:
        """Give a task to the best candidate and return it; None if none has room."""
        chosen = self._root.best()
        if chosen is None:
            return None
        chosen.room -= 1
        chosen.tasks += 1
        chosen.cpu -= self.claim.cpu
        chosen.memory -= self.claim.memory
        before, chosen.own = chosen.own, self._own(chosen)
        drawn = self._rng.expovariate(1.0)
        chosen.clock = chosen.clock + drawn if chosen.own == before else drawn
        self.count(chosen.attributes, 1)
        self._root.changed(chosen)
        return chosen

    def key(self, candidate: Candidate, step: int) -> Key:
        """Return what it is ordered by at a step of the tree: what is the same for all there is left out."""
        numbers = list(candidate.own)
        for index in range(step, len(self._spread)):
            level = self._spread[index]
            numbers[level] = self._counts.get((level, candidate.values[index]), 0)
        return tuple(numbers), candidate.clock, candidate.id

    def _new(self, step: int) -> _Branch | _Leaf:
        return _Branch(self, step) if step < len(self._spread) else _Leaf(self)

    def _own(self, candidate: Candidate) -> tuple[int, ...]:
        return tuple([_NUMBERS[level.kind](candidate) for level in self.levels])


_NUMBERS: Mapping[LevelKind, Callable[[Candidate], int]] = {
    LevelKind.RANDOM: lambda candidate: 0,
    LevelKind.INSTANCE: lambda candidate: candidate.tasks,
    LevelKind.ATTRIBUTE: lambda candidate: 0,
    LevelKind.CPU: lambda candidate: candidate.cpu,
    LevelKind.MEMORY: lambda candidate: candidate.memory,
}


class _Leaf:
    """Candidates that have the same values of all attributes."""

    def __init__(self, order: Order) -> None:
        self._heap: list[tuple[tuple[int, ...], float, str, Candidate]] = []
        self._built = False

    def add(self, candidate: Candidate) -> None:
        self._heap.append((candidate.own, candidate.clock, candidate.id, candidate))

    def best(self) -> Candidate | None:
        if not self._built:
            self._built = True
            heapq.heapify(self._heap)
        return self._heap[0][3] if self._heap else None

    def changed(self, candidate: Candidate) -> None:
        """The best one was given a task."""
        assert self._heap[0][3] is candidate
        if candidate.room:
            heapq.heapreplace(self._heap, (candidate.own, candidate.clock, candidate.id, candidate))
        else:
            heapq.heappop(self._heap)


class _Branch:
    """Candidates by their value of one attribute."""

    def __init__(self, order: Order, step: int) -> None:
        self._order = order
        self._step = step
        self._children: dict[str | None, _Branch | _Leaf] = {}
        self._heap: list[tuple[Key, str | None, _Branch | _Leaf]] = []
        self._built = False

    def add(self, candidate: Candidate) -> None:
        value = candidate.values[self._step]
        child = self._children.get(value)
        if child is None:
            child = self._children[value] = self._order._new(self._step + 1)
        child.add(candidate)

    def best(self) -> Candidate | None:
        if not self._built:
            self._build()
        while self._heap:
            key, value, child = self._heap[0]
            candidate = child.best()
            if candidate is None:
                heapq.heappop(self._heap)
                continue
            present = self._order.key(candidate, self._step)
            if present == key:
                return candidate
            heapq.heapreplace(self._heap, (present, value, child))
        return None

    def changed(self, candidate: Candidate) -> None:
        """The best one was given a task: its branch, which is on top, goes to its new place."""
        _, value, child = self._heap[0]
        child.changed(candidate)
        best = child.best()
        if best is None:
            heapq.heappop(self._heap)
        else:
            heapq.heapreplace(self._heap, (self._order.key(best, self._step), value, child))

    def _build(self) -> None:
        self._built = True
        for value, child in self._children.items():
            best = child.best()
            assert best is not None
            self._heap.append((self._order.key(best, self._step), value, child))
        heapq.heapify(self._heap)
