"""A cell of the row ``placement`` on real nodes, with real scheduler processes, as small as can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from rich.console import Console

from cluster import keys, offers
from journal.client import Journal, connect
from journal.offers import Adjust, Offer
from scripts.bench import placement
from scripts.bench.placement import DEFINITION, SCHEDULERS, Work, accepted, check, measure
from scripts.bench.rows import Bench
from scripts.bench.scheduler import Mode
from synod.local import LocalCluster


@asynccontextmanager
async def one_node(folder: Path, seconds: float) -> AsyncIterator[tuple[Bench, Journal]]:
    """Start a journal of one node that knows the bench's task definition."""
    cluster = LocalCluster.create(folder / "synod", nodes=1)
    try:
        await trio.to_thread.run_sync(cluster.start)
        await trio.to_thread.run_sync(cluster.wait_ready)
        async with connect(cluster.endpoints, cluster=cluster.cluster_id) as journal:
            await accepted(journal, [offers.register_task_definition(DEFINITION)])
            yield Bench(cluster, None, folder, seconds, 1, b"", Console(quiet=True)), journal
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(cluster.stop)


async def test_schedulers_place_what_they_say_and_the_books_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "INSTANCES", 3)
    for resource in ("CPU", "MEMORY"):  # the three hold whatever a fast machine places meanwhile
        monkeypatch.setattr(placement, resource, 10**9)
    async with one_node(tmp_path, 0.5) as (bench, journal):
        gangs = Work(name="gangs of 3", tasks=3, jobs=2, gang=True)
        cell = await measure(bench, journal, gangs, Mode.VERSIONS, 0)
        assert len(cell.tallies) == SCHEDULERS
        placed = sum(tally.placed for tally in cell.tallies)
        assert placed > 0 and placed % 3 == 0, "whole gangs only"
        # On three instances they are in each other's way: an offer on versions must lose sometimes.
        assert sum(tally.conflicts for tally in cell.tallies) > 0
        assert set(cell.details()["cpu_us_a_task"]) == {"schedulers", "leader"}

        # Whoever takes a task's claim away behind the books' back is found out.
        name = "gangs-3-versions-0"
        await check(journal, name)
        instance = placement.instance_ids(1)[0]
        await journal.offer(Offer((Adjust(keys.capacity(name, instance), {"cpu": 1}),)))
        with pytest.raises(RuntimeError, match=f"the books of {name} are wrong: {instance}"):
            await check(journal, name)


async def test_a_cluster_that_is_full_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "INSTANCES", 1)
    monkeypatch.setattr(placement, "CPU", 1_000)  # ten tasks
    async with one_node(tmp_path, 0.1) as (bench, journal):
        with pytest.raises(RuntimeError, match="the simulated cluster is full"):
            await measure(bench, journal, Work(name="jobs of 1", tasks=1, jobs=2), Mode.ADJUST, 0)
