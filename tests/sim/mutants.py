"""``python -m tests.sim.mutants``: plant bugs, and print the table of the runs that catch them.

A mutant that is not caught within its number of seeds fails it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys

from tests.sim import planted_core, planted_disks
from tests.sim.hunt import MUTANTS, Catch, hunt

__all__ = ["MUTANTS", "hunt", "planted_core", "planted_disks"]


def _hunt(job: tuple[str, int | None, int]) -> Catch:
    name, seeds, first = job
    return hunt(name, seeds=seeds, first=first)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="which (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seeds", type=int, help="look so far, instead of as far as is stated")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--verbose", action="store_true", help="show what each was caught by")
    o = parser.parse_args(arguments)
    names = o.names or list(MUTANTS)
    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        parser.error(f"no such planted bug: {unknown[0]}")
    width = max(map(len, names))
    print(f"{'planted bug':<{width}}  {'seeds':>5}  {'within':>6}  {'CPU s':>6}  caught by")
    missed = 0
    with multiprocessing.get_context("fork").Pool(o.jobs) as pool:
        for catch in pool.imap_unordered(_hunt, [(name, o.seeds, o.first) for name in names]):
            missed += not catch.seed
            seed = str(catch.seed) if catch.seed else "-"
            rule = catch.rule or "NOT CAUGHT"
            within = o.seeds or MUTANTS[catch.name].seeds
            print(f"{catch.name:<{width}}  {seed:>5}  {within:>6}  {catch.cpu_s:6.1f}  {rule}", flush=True)
            if o.verbose and catch.text:
                print(f"    {catch.text[:300]}")
    print(f"{len(names)} planted bugs, {missed} not caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
