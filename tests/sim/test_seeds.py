"""A few seeds, their replay, and some planted bugs: the rest is `make sim` and `make mutants`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.sim.mutants import hunt
from tests.sim.options import draw
from tests.sim.run import simulate

SEEDS = range(1, 13)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_holds(seed: int) -> None:
    result = simulate(draw(seed))
    assert result.ok, f"make sim SEED={seed}: {result.violations[0]}"


def test_the_same_seed_is_the_same_run_under_another_hash_seed() -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.sim", "--seed", "3", "--digest"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        digests.add(next(line for line in done.stdout.splitlines() if line.startswith("digest ")))
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["answers_any_read_as_linearizable", "answers_before_it_is_chosen"])
def test_a_planted_bug_is_caught(name: str) -> None:
    assert hunt(name).seed, f"{name} got through"
