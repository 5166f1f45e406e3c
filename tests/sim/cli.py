"""``python -m tests.sim``: many runs on all cores, or one again."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.sim import report
from tests.sim.options import Options, draw
from tests.sim.run import SEEN, Result, simulate

RUNS = 200


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone, and show it")
    parser.add_argument("--runs", type=int, help=f"how many seeds (default {RUNS}, or as many as --minutes)")
    parser.add_argument("--minutes", type=float, help="go on for so long")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change an option")
    parser.add_argument("--trace", action="store_true", help="log every message, too")
    parser.add_argument("--digest", action="store_true", help="print a hash of all that happened")
    parser.add_argument("--history", type=Path, help="write the clients' history there (JSON lines)")
    parser.add_argument(
        "--lines", type=int, default=report.LINES_SHOWN, help="log lines to show of a failure"
    )
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--quiet", action="store_true", help="no line for each run that goes well")
    o = parser.parse_args(arguments)
    if o.seed is not None:
        return _one(o)
    return _many(o)


def replay_command(options: Options, settings: list[str]) -> str:
    extra = "".join(f" --set {setting}" for setting in settings)
    return f'make sim SEED={options.seed} ARGS="--trace{extra}"'


def _one(o: argparse.Namespace) -> int:
    options = draw(o.seed).with_settings(o.set)
    result = simulate(options, trace=o.trace or o.history is not None, digest=o.digest)
    if o.history is not None and result.events is not None:
        o.history.write_text("".join(json.dumps(event) + "\n" for event in result.events))
    if o.digest:
        print(f"digest {result.digest}")
    if result.ok:
        print(report.summary(result))
        if o.trace:
            print(report.columns(result.lines[-o.lines :], options.nodes))
        return 0
    print(report.failure(result, replay=replay_command(options, o.set), lines=o.lines))
    return 1


def _run(job: tuple[int, list[str]]) -> Result:
    seed, settings = job
    result = simulate(draw(seed).with_settings(settings))
    if result.ok:
        result.lines = []
    return result


def results(
    first: int, runs: int | None, minutes: float | None, jobs: int, settings: list[str]
) -> Iterator[Result]:
    """Run seeds from ``first`` on, ``jobs`` at a time, and yield the results in their order."""
    deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def work() -> Iterator[tuple[int, list[str]]]:
        seed = first
        while runs is None or seed < first + runs:
            if deadline is not None and time.monotonic() >= deadline:
                return
            yield seed, settings
            seed += 1

    if jobs == 1:
        yield from map(_run, work())
        return
    context = multiprocessing.get_context("fork")
    with context.Pool(jobs) as pool:
        pending = []
        for job in work():
            pending.append(pool.apply_async(_run, (job,)))
            while len(pending) >= 2 * jobs:
                yield pending.pop(0).get()
        for waiting in pending:
            yield waiting.get()


def _many(o: argparse.Namespace) -> int:
    runs = o.runs if o.runs is not None or o.minutes is not None else RUNS
    began = time.monotonic()
    done = failed = revisions = 0
    virtual_s = cpu_s = 0.0
    seen: Counter[str] = Counter()
    for result in results(o.first, runs, o.minutes, o.jobs, o.set):
        done += 1
        virtual_s += result.virtual_s
        cpu_s += result.cpu_s
        seen.update({name: result.counts.get(name, 0) for name in SEEN})
        revisions += result.counts.get("revisions", 0)
        if result.ok:
            if not o.quiet:
                print(report.summary(result), flush=True)
            continue
        failed += 1
        print(report.failure(result, replay=replay_command(result.options, o.set), lines=o.lines), flush=True)
        if not o.keep_going:
            break
    took = time.monotonic() - began
    print(
        f"{done} runs, {failed} failed: {virtual_s / 60:.1f} virtual minutes and {revisions} revisions"
        f" in {took:.1f} s ({done / max(took, 1e-9):.1f} runs/s; {cpu_s / max(done, 1):.2f} CPU s a run)"
    )
    print("they saw " + ", ".join(f"{count} {name}" for name, count in seen.items()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
