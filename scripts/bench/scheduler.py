"""One scheduler process of the row ``placement``: jobs without end, through the schedulers' own code.

Every job is one ``schedulers.run_task.run_tasks``, so what is measured is what ``synod run`` does: a plan
from a replica that a tail feeds, one offer a task (or one for a gang), and a new plan where one conflicts.
Many jobs run at once over one replica. Its parent (``scripts.bench.placement``) tells it on stdin when to
begin, and reads on stdout what came of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

import trio

from cluster import keys
from cluster.feed import Feed, share
from cluster.records import TaskDefinition
from cluster.state import ClusterState
from journal.client import connect
from journal.collector import calm_the_collector
from journal.offers import Adjust, Offer, Verdict
from schedulers.placement import strategy_of
from schedulers.run_task import RunRequest, TakesOffers, run_tasks

WARM_UP_S = 1.0
"""From "go" to the measured time."""


class Mode(StrEnum):
    """What an offer stands on."""

    ADJUST = "adjust"
    """What it takes must be there: the offers of ``cluster.offers.place`` as they are."""
    VERSIONS = "versions"
    """Nothing of the instance's capacity may have changed: what a check of whole records would demand."""


@dataclass(slots=True)
class Tally:
    """What one scheduler did within the measured time."""

    placed: int = 0
    """Tasks whose offer was accepted."""
    offers: int = 0
    conflicts: int = 0
    """Offers that were rejected."""
    seconds: float = 0.0
    cpu_s: float = 0.0
    """Processor time of this process meanwhile."""
    latencies_ms: list[float] = field(default_factory=list)
    """From a job's begin to its last verdict."""


class Counting:
    """A journal that counts into ``tally``, and whose offers demand more in the mode ``versions``."""

    def __init__(self, journal: TakesOffers, feed: Feed, cluster: str, mode: Mode) -> None:
        self.tally = Tally()
        self._journal = journal
        self._feed = feed
        self._cluster = cluster
        self._mode = mode

    async def offer_many(self, offers: Sequence[Offer], /) -> Sequence[Verdict]:
        if self._mode is Mode.VERSIONS:
            offers = [on_versions(self._feed.state, self._cluster, offer) for offer in offers]
        verdicts = await self._journal.offer_many(offers)
        tally = self.tally
        tally.offers += len(offers)
        for offer, verdict in zip(offers, verdicts, strict=True):
            if isinstance(verdict, int):
                tally.placed += sum(isinstance(mutation, Adjust) for mutation in offer.mutations)
            else:
                tally.conflicts += 1
        return verdicts


def on_versions(state: ClusterState, cluster: str, offer: Offer) -> Offer:
    """Return the offer standing on every capacity that it takes from, as it is in ``state``."""
    expect = dict(offer.expect)
    for mutation in offer.mutations:
        if isinstance(mutation, Adjust):
            parsed = keys.parse(mutation.key)
            view = state.instance(cluster, parsed.instance) if parsed else None
            assert view is not None and view.capacity is not None, mutation.key
            expect[mutation.key] = view.capacity.revision
    return replace(offer, expect=tuple(expect.items()))


async def work(
    counting: Counting, feed: Feed, request: RunRequest, rng: random.Random, jobs: int, seconds: float
) -> Tally:
    """Run jobs, ``jobs`` of them at once and one after the other; return what came of them in so long."""

    async def loop() -> None:
        while True:
            began = trio.current_time()
            result = await run_tasks(counting, feed, request, rng=rng, wall=time.time)
            if full := next((failure for failure in result.failures if failure.instances), None):
                raise SystemExit(f"the simulated cluster is full, so nothing is measured: {full.reason}")
            counting.tally.latencies_ms.append((trio.current_time() - began) * 1000)

    async with trio.open_nursery() as nursery:
        for _ in range(jobs):
            nursery.start_soon(loop)
        await trio.sleep(WARM_UP_S)
        tally = counting.tally = Tally()
        began, cpu_s = trio.current_time(), time.process_time()
        await trio.sleep(seconds)
        tally.seconds, tally.cpu_s = trio.current_time() - began, time.process_time() - cpu_s
        counting.tally = Tally()  # what comes while the jobs are given up does not count
        nursery.cancel_scope.cancel()
    return tally


def prefixes_of(cluster: str) -> tuple[bytes, ...]:
    """Return what a scheduler of one cluster follows: the cells before it are none of its business."""
    return (keys.cluster(cluster), keys.TASK_DEFINITIONS)


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def told(word: str) -> None:
    """Wait until the parent says ``word``."""
    line = await trio.to_thread.run_sync(sys.stdin.readline)
    if line.strip() != word:
        raise SystemExit(f"the bench is gone, or says {line!r} in place of {word}")


async def run(options: argparse.Namespace) -> None:
    rng = random.Random(options.seed)
    async with (
        connect(options.endpoints.split(","), cluster=options.journal) as journal,
        share(journal, prefixes_of(options.cluster)) as feed,
    ):
        found = feed.state.definition(options.definition)
        assert found is not None, f"there is no task definition {options.definition}"
        request = request_of(found.record, options)
        counting = Counting(journal, feed, options.cluster, Mode(options.mode))
        calm_the_collector()
        say(ready=os.getpid())
        await told("go")
        tally = await work(counting, feed, request, rng, options.jobs, options.seconds)
        say(**asdict(tally))
        await told("stop")


def request_of(definition: TaskDefinition, options: argparse.Namespace) -> RunRequest:
    return RunRequest(
        definition=definition,
        cluster=options.cluster,
        count=options.tasks,
        gang=options.gang,
        strategy=(strategy_of(options.strategy),) if options.strategy else (),
        started_by="bench",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="One scheduler of the row placement; make bench starts it.")
    parser.add_argument("--endpoints", required=True, help="host:port,…")
    parser.add_argument("--journal", required=True, help="the journal's cluster id")
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--definition", required=True)
    parser.add_argument("--mode", choices=[str(mode) for mode in Mode], default=str(Mode.ADJUST))
    parser.add_argument("--tasks", type=int, default=1, help="of a job")
    parser.add_argument("--strategy", default="", help="such as binpack:cpu")
    parser.add_argument("--gang", action="store_true")
    parser.add_argument("--jobs", type=int, default=8, help="at once")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    trio.run(run, parser.parse_args(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
