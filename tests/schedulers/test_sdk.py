"""The scheduler SDK: on a real journal on virtual time, and its example as a program on real processes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cluster.feed import follow
from cluster.ops import stop_task
from cluster.records import PlacementStrategy, StrategyType, TaskDefinition
from journal.client import connect
from schedulers.run_task import define_command
from schedulers.sdk import DefinitionMissing, Scheduler
from synod.local import LocalCluster
from tests.agent.world import CLUSTER, World, memory_runtime, world

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "everywhere.py"


class Copies:
    """Copies of one scheduler that keeps three slots filled."""

    def __init__(
        self, here: World, definition: TaskDefinition, slots: tuple[str, ...] = ("one", "two", "three")
    ) -> None:
        self.slots = slots
        self.here = here
        self.definition = definition
        self.scopes: dict[int, trio.CancelScope] = {}
        self.refusals: list[str] = []
        self.born = 0

    def start(self, number: int) -> None:
        self.scopes[number] = trio.CancelScope()
        self.here.nursery.start_soon(self._run, self.scopes[number])

    def kill(self, number: int) -> None:
        self.scopes[number].cancel()
        self.start(number)

    async def _run(self, scope: trio.CancelScope) -> None:
        self.born += 1
        rng = random.Random(self.born)
        spread = PlacementStrategy(type=StrategyType.SPREAD, field="instanceId")
        with scope:
            async with self.here.client() as journal, follow(journal) as feed:
                scheduler = Scheduler("mine", journal, feed, rng=rng, wall=trio.current_time)
                async for _state in scheduler.changes():
                    for slot in self.slots:
                        if scheduler.is_free(slot):
                            why = await scheduler.fill(slot, self.definition, strategy=[spread])
                            if why:
                                self.refusals.append(why)


async def test_three_copies_fill_each_slot_once_and_again_when_its_task_has_stopped(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        for number in range(3):
            await here.start_agent(memory_runtime(), f"n{number}")
        await here.until_connected(3)
        copies = Copies(here, await here.define(cpu=10))
        for number in range(3):
            copies.start(number)
        rng = random.Random(1)
        for round_ in range(1, 11):
            state = await here.until(lambda s, n=3 * round_: len(s.tasks(CLUSTER)) >= n)  # type: ignore[misc]
            live = [view for view in state.tasks(CLUSTER) if not view.stopped]
            assert len(live) == 3
            for view in live:
                await stop_task(here.journal, view, now=trio.current_time())
            copies.kill(rng.randrange(3))
        state = await here.until(lambda s: len(s.tasks(CLUSTER)) == 33)
        await trio.sleep(1)
        state = await here.now()
        assert len(state.tasks(CLUSTER)) == 33, "a slot was filled twice"
        assert sum(not view.stopped for view in state.tasks(CLUSTER)) == 3
        assert any("slot" in why for why in copies.refusals), "they never met: the test shows nothing"


async def test_a_slot_whose_tasks_fail_waits_longer_each_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        await here.start_agent(runtime)
        await here.until_connected()
        copies = Copies(here, await here.define(cpu=10), slots=("one",))
        copies.start(0)
        seen: list[float] = []
        for _ in range(6):
            state = await here.until(lambda s: any(not view.stopped for view in s.tasks(CLUSTER)))
            [view] = [view for view in state.tasks(CLUSTER) if not view.stopped]
            await here.until_status(view.id, "RUNNING")
            seen.append(trio.current_time())
            runtime.finish(view.id, "main", exit_code=1)
            await here.until_status(view.id, "STOPPED")
        waits = [later - earlier for earlier, later in pairwise(seen)]
        assert waits[0] < 2 and waits[-1] > 4 * waits[0], waits


async def test_what_cannot_be_done_is_said(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        agent = await here.start_agent(memory_runtime(), cpu=100, attrs={"rack": "r1"})
        await here.until_connected()
        large = await here.define(cpu=101)
        async with follow(here.journal) as feed:
            scheduler = Scheduler("mine", here.journal, feed, wall=trio.current_time)
            assert scheduler.instances("attribute:rack == r1") == ["i-a"]
            assert scheduler.instances("attribute:rack == r2") == []
            assert "needs 101 CPU units, 100 left" in await scheduler.fill("x", large, on="i-a")
            assert "needs 101 CPU units" in await scheduler.fill("x", large)
            assert await scheduler.fill("x", large, on="i-b") == "instance i-b is not registered"
            with pytest.raises(DefinitionMissing, match="there is no ACTIVE task definition nope"):
                scheduler.definition("nope")
            await agent.kill()
            await feed.until(lambda state: not any(view.connected for view in state.instances(CLUSTER)))
            small = await here.define(cpu=1)
            await feed.reached(await here.journal.revision())
            assert "has no agent connected" in await scheduler.fill("x", small, on="i-a")
            assert scheduler.instances() == ["i-a"], "what runs there goes on"


# -- the example ------------------------------------------------------------------------------


def test_the_page_shows_the_example_as_it_is() -> None:
    text = EXAMPLE.read_text()
    assert text in (ROOT / "docs" / "write-a-scheduler.md").read_text()
    assert len(text.splitlines()) <= 40


@pytest.fixture
def racks(tmp_path: Path) -> Iterator[LocalCluster]:
    fast = ("--election-timeout-ms", "300", "--heartbeat-interval-ms", "50")
    cluster = LocalCluster.create(tmp_path / "cluster", nodes=1, node_args=fast)
    cluster.start()
    try:
        for agent in (1, 2, 3):
            cluster.start_agent(agent, cpu=512, memory=512, attributes={"rack": "r1" if agent < 3 else "r2"})
        cluster.wait_ready(30)
        cluster.wait_agents(30)
        yield cluster
    finally:
        cluster.stop()


def test_the_example_runs_twice_at_once_on_a_real_cluster(racks: LocalCluster, tmp_path: Path) -> None:
    """One task on each of the two instances of rack r1; the one that is stopped comes back."""
    copies: list[subprocess.Popen[bytes]] = []

    def start(command: list[str]) -> None:
        with (tmp_path / "said").open("w") as said:
            copies.extend(subprocess.Popen(command, stdout=said) for _ in range(2))

    async def main() -> None:
        async with connect(racks.endpoints) as journal, follow(journal) as feed:
            definition = await define_command(
                journal, feed, ["sleep", "300"], cpu=64, memory=16, wall=lambda: 0.0, family="logs"
            )
            endpoints = ",".join(racks.endpoints)
            command = [sys.executable, "-W", "error", str(EXAMPLE), endpoints, definition.name]
            command.append("attribute:rack == r1")
            start(command)

            def running() -> list[str]:
                views = feed.state.tasks(CLUSTER, started_by="everywhere")
                return [
                    v.id for v in views if v.last_status == "RUNNING" and v.task.desired_status == "RUNNING"
                ]

            with trio.fail_after(60):
                await feed.until(lambda _: len(running()) == 2)
                first = feed.state.task(CLUSTER, running()[0])
                assert first is not None
                await stop_task(journal, first, now=0.0)
                await feed.until(lambda _: len(running()) == 2 and first.id not in running())
            views = feed.state.tasks(CLUSTER, started_by="everywhere")
            instances = {v.instance for v in views}
            assert len(views) == 3 and len(instances) == 2
            for instance in instances:
                found = feed.state.instance(CLUSTER, instance)
                assert found is not None and found.attributes["rack"] == "r1"

    try:
        trio.run(main)
    finally:
        for copy in copies:
            copy.terminate()
            copy.wait(30)
    assert (tmp_path / "said").read_text().count("has a task") == 3
