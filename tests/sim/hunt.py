"""Planted bugs, and the number of seeds within which a run notices each: the checkers, proven.

A checker that has never caught anything proves nothing. Each mutant breaks one rule by a patch of the
production code (or of what it stands on); ``hunt`` runs seed after seed until a run fails. The core's own
planted bugs (``tests/paxos/planted.py``) are hunted here too, with whole nodes and clients around them.
They are in ``planted_core`` and ``planted_disks``; ``mutants`` is the command.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.paxos.planted import BUGS
from tests.sim.options import Options, draw
from tests.sim.run import Result, simulate

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    plant: Plant
    seeds: int
    """It is noticed within this many."""
    settings: tuple[str, ...] = ()
    """What the runs are told to have, where a drawn run seldom has it."""
    pressure: bool | None = None
    """Hunt it where much is in flight among leaders that come and go (None: anywhere)."""
    shape: Callable[[Options], Options] = lambda options: options
    """What else is done to the drawn options."""

    def options(self, seed: int) -> Options:
        return self.shape(draw(seed, pressure=self.pressure).with_settings(list(self.settings)))


MUTANTS: dict[str, Mutant] = {}


def mutant(
    seeds: int,
    *settings: str,
    pressure: bool | None = None,
    shape: Callable[[Options], Options] = lambda options: options,
) -> Callable[[Plant], Plant]:
    """Plant a bug, and say within how many seeds it is to be noticed."""

    def add(plant: Plant) -> Plant:
        MUTANTS[plant.__name__] = Mutant(plant.__name__, plant, seeds, settings, pressure, shape)
        return plant

    return add


def core_mutant(name: str, seeds: int, *settings: str, pressure: bool | None = None) -> None:
    """Plant one of ``tests/paxos/planted.py``."""
    MUTANTS[name] = Mutant(name, BUGS[name], seeds, settings, pressure)


@dataclass(frozen=True, slots=True)
class Catch:
    """What came of a hunt. ``seed`` 0: it got away."""

    name: str
    seed: int
    rule: str
    cpu_s: float
    text: str = ""


def hunt(name: str, *, seeds: int | None = None, first: int = 1) -> Catch:
    """Run seeds with the bug planted until one fails, that holds without it."""
    planted = MUTANTS[name]
    began = time.process_time()
    for seed in range(first, first + (seeds or planted.seeds)):
        with pytest.MonkeyPatch.context() as patch:
            planted.plant(patch)
            result: Result = simulate(planted.options(seed))
        if not result.ok:
            cpu_s = time.process_time() - began
            honest = simulate(planted.options(seed))
            if not honest.ok:
                return Catch(name, 0, "FAILS WITHOUT IT, TOO", cpu_s, f"seed {seed}: {honest.violations[0]}")
            return Catch(name, seed - first + 1, result.rule, cpu_s, str(result.violations[0]))
    return Catch(name, 0, "", time.process_time() - began)
