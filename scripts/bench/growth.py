"""The row ``growth``: whether the bulk stays what it was as keys and history grow.

Two clusters of ours, both of which keep the last 100,000 revisions and compact what is older: one stays at
10,000 live keys, the other grows. Each round measures both, one after the other, with offers that put to keys
of the cluster's own, drawn at random from all of them. In the end the grown one gets its history: it is
filled up to so many revisions, and measured on 10,000 of its keys again. What was filled is let settle first:
LevelDB merges what a fill has left for some seconds.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from scripts.bench import fill
from scripts.bench.loads import Level, measure
from scripts.bench.nodes import check_nodes, settled
from scripts.bench.results import Result
from synod.local import LocalCluster

if TYPE_CHECKING:
    from scripts.bench.rows import Bench

FIRST_KEYS = 10_000
KEYS = (100_000, 1_000_000)
KEYS_SHORT = (100_000,)
REVISIONS = 10_000_000
REVISIONS_SHORT = 500_000
RETAIN_REVISIONS = 100_000
SHARE_MIN = 0.8
FIRST = "10,000 keys"


async def growth(bench: Bench) -> list[Result]:
    """At the sizes that ``bench.full`` says."""
    if bench.full:
        return await grown(bench, KEYS, REVISIONS)
    return await grown(bench, KEYS_SHORT, REVISIONS_SHORT)


async def grown(bench: Bench, sizes: Sequence[int], revisions: int) -> list[Result]:
    """Measure at each of ``sizes`` live keys, and then after ``revisions`` in all."""
    results: list[Result] = []
    async with _cluster(bench, "first") as first, _cluster(bench, "grown") as growing:
        await fill.fill(first, FIRST_KEYS, FIRST_KEYS)
        there = 0
        for keys in sizes:
            with bench.console.status(f"growth: {keys:,} keys are put"):
                await fill.fill(growing, keys, keys)
            there += keys
            result = Result("growth", f"bulk at {keys:,} live keys", "offers/s", SHARE_MIN, peer_name=FIRST)
            there += await _rounds(first, growing, keys, result)
            results.append(result)
        with bench.console.status(f"growth: {revisions:,} revisions are committed"):
            await fill.fill(growing, max(0, revisions - there), sizes[-1])
        what = f"bulk on 10,000 of {sizes[-1]:,} keys after {max(there, revisions):,} revisions, compacted"
        result = Result("growth", what, "offers/s", SHARE_MIN, peer_name=FIRST)
        await _rounds(first, growing, FIRST_KEYS, result)
        results.append(result)
    return results


async def _rounds(first: Bench, growing: Bench, keys: int, result: Result) -> int:
    """Measure both in turns; return how many revisions the growing one got by it."""
    offers = 0
    await settled(growing.cluster)
    for _ in range(first.rounds):
        result.peer.append((await _bulk(first, FIRST_KEYS)).rate)
        level = await _bulk(growing, keys)
        result.ours.append(level.rate)
        result.details["cpu_us_an_offer"] = {name: round(used, 1) for name, used in level.cpu_us().items()}
        offers += level.offers
    return offers


async def _bulk(bench: Bench, keys: int) -> Level:
    """Offers in messages of 100 to keys drawn from the first ``keys``."""
    level = Level("wire", fill.WORKERS * fill.MESSAGE_OFFERS, fill.MESSAGE_OFFERS)
    leader = await trio.to_thread.run_sync(bench.cluster.leader)

    async def use(puts: fill.Puts) -> None:
        await measure(level, fill.WORKERS, puts.round, bench.seconds, bench.processes(leader))

    await fill.with_puts(bench, fill.at_random(keys, random.Random(keys)), use)
    await trio.to_thread.run_sync(check_nodes, bench.cluster)
    return level


@asynccontextmanager
async def _cluster(bench: Bench, name: str) -> AsyncIterator[Bench]:
    """Start a cluster of its own that compacts; give a ``Bench`` of it."""
    arguments = ("--retain-revisions", str(RETAIN_REVISIONS))
    cluster = LocalCluster.create(bench.folder / name, nodes=3, node_args=arguments)
    try:
        await trio.to_thread.run_sync(cluster.start)
        await trio.to_thread.run_sync(cluster.wait_ready)
        yield replace(bench, cluster=cluster)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(cluster.stop)
