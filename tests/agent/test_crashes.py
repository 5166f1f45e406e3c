"""An agent that dies after any of its actions, or at any time, loses and doubles nothing.

Claims are released exactly once, nothing is started twice, no exit code is lost. What an agent
knows dies with it; its folder, its containers and the journal stay.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from agent.loop import Agent
from agent.model import Phase
from agent.reconcile import Action
from agent.runtime import MemoryRuntime
from cluster.ops import stop_task
from cluster.records import ContainerDefinition
from journal.errors import JournalError
from tests.agent.world import CLUSTER, World, memory_runtime, world


class Crash(Exception):
    pass


class Fragile(Agent):
    """Dies right after its ``life``-th action."""

    life = 0

    def _perform(self, action: Action) -> bool:
        busy = len(self._busy)
        did = super()._perform(action)
        if did or len(self._busy) > busy:  # not what is under way already
            self.life -= 1
        if self.life == 0:
            raise Crash
        return did


async def crashing_story(here: World, lives: list[int]) -> int:
    """Three tasks, one that ends by itself, one that is stopped and one that is stopped at once, under
    agents that die after so many actions, and a last one that does not. Returns how many died."""
    runtime = memory_runtime()
    deaths = 0

    def make(*args: Any, **options: Any) -> Agent:
        agent = Fragile(*args, **options)
        agent.life = lives[deaths] if deaths < len(lives) else 0
        return agent

    async def keep_going() -> None:
        nonlocal deaths
        while True:
            agent = await here.start_agent(runtime, make=make, lease_ttl_s=2.0)
            await agent.ended.wait()
            assert isinstance(agent.error, BaseExceptionGroup)
            assert agent.error.subgroup(Crash) is not None, agent.error
            deaths += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_going)
        containers = (
            ContainerDefinition(name="main", command=("x",), stop_timeout=5),
            ContainerDefinition(name="side", command=("y",), essential=False, stop_timeout=5),
        )
        definition = await here.define(*containers, cpu=200, memory=200)
        await here.until_connected()
        tasks: list[str] = []
        while len(tasks) < 3:
            await here.until(lambda state: state.instances(CLUSTER)[0].connected)
            tasks += [placed.task for placed in (await here.run(definition, len(tasks))).placed]
        ends, stops, never = tasks
        view = here.feed.state.task(CLUSTER, never)
        assert view is not None
        await stop_task(here.journal, view, now=1.0)
        await here.until_status(ends, "RUNNING")
        await here.until_status(stops, "RUNNING")
        runtime.ignores_term.add((stops, "main"))
        runtime.finish(ends, "main", exit_code=9)
        view = here.feed.state.task(CLUSTER, stops)
        assert view is not None
        await stop_task(here.journal, view, now=1.0)
        for task in tasks:
            await here.until_status(task, "STOPPED")
        state = await here.now()
        assert here.left() == (1000, 1000, ()), "every claim is released exactly once"
        assert len(runtime.starts) == len(set(runtime.starts)), "nothing is started twice"
        codes = {view.id: view.status.exit_code for view in state.tasks(CLUSTER) if view.status}
        assert codes[ends] == 9
        assert codes[stops] == 137
        assert all(
            runtime.look(task, name).phase is not Phase.RUNNING for task in tasks for name in ("main", "side")
        )
        nursery.cancel_scope.cancel()
    return deaths


@pytest.mark.parametrize("life", range(1, 36))
async def test_a_crash_after_any_action_loses_and_doubles_nothing(
    tmp_path: Path, autojump_clock: MockClock, life: int
) -> None:
    async with world(tmp_path) as here:
        assert await crashing_story(here, [life]) <= 1


async def test_the_crashes_above_reach_the_end_of_the_story(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """If an agent outlived the story with fewer actions, some would not have been tried."""
    async with world(tmp_path / "1") as here:
        assert await crashing_story(here, [15]) == 1
    async with world(tmp_path / "2") as here:
        assert await crashing_story(here, [36]) == 0


@pytest.mark.parametrize("seed", range(10))
async def test_many_crashes_in_a_row_lose_and_double_nothing(
    tmp_path: Path, autojump_clock: MockClock, seed: int
) -> None:
    rng = random.Random(seed)
    async with world(tmp_path) as here:
        await crashing_story(here, [rng.randint(1, 6) for _ in range(8)])


async def test_a_crash_at_any_time_loses_and_doubles_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The agent is killed at drawn times, within whatever it is doing; so is the journal's node."""
    for seed in range(8):
        rng = random.Random(seed)
        async with world(tmp_path / str(seed)) as here:
            runtime = memory_runtime()

            async def killing(
                here: World = here, rng: random.Random = rng, runtime: MemoryRuntime = runtime
            ) -> None:
                while True:
                    agent = await here.start_agent(runtime, lease_ttl_s=1.0)
                    await trio.sleep(rng.uniform(0.0, 0.4))
                    await agent.kill()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(killing)
                definition = await here.define()
                tasks: list[str] = []
                while len(tasks) < 5:
                    await here.until(lambda state: any(v.connected for v in state.instances(CLUSTER)))
                    try:
                        tasks += [p.task for p in (await here.run(definition, len(tasks) + 10 * seed)).placed]
                    except JournalError:
                        pass
                for task in tasks:
                    await here.until_status(task, "RUNNING")
                    runtime.finish(task, "main", exit_code=1)
                for task in tasks:
                    await here.until_status(task, "STOPPED")
                nursery.cancel_scope.cancel()
            assert here.left() == (1000, 1000, ())
            assert sorted(runtime.starts) == sorted((task, "main") for task in tasks)
