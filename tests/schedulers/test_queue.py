"""Runs that wait for capacity, on a real journal and real agents, on virtual time: three copies of the
scheduler that are killed at random, and nothing is placed twice."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

from cluster import keys, offers
from cluster.feed import follow
from cluster.ops import stop_task
from cluster.records import QueuedRun, TaskDefinition
from journal.client import OfferRejected
from journal.logs import get_logger
from schedulers.queue.loop import QueueScheduler
from schedulers.queue.order import task_id
from schedulers.queue.reconcile import HOLD_S
from tests.agent.world import CLUSTER, World, memory_runtime, world


class Copies:
    def __init__(self, here: World) -> None:
        self.here = here
        self.scopes: dict[int, trio.CancelScope] = {}
        self.all: list[QueueScheduler] = []

    def start(self, number: int) -> None:
        self.scopes[number] = trio.CancelScope()
        self.here.nursery.start_soon(self._run, self.scopes[number])

    async def _run(self, scope: trio.CancelScope) -> None:
        with scope:
            async with self.here.client() as journal, follow(journal) as feed:
                rng = random.Random(len(self.all))
                made = QueueScheduler(journal, feed, rng=rng, wall=trio.current_time, log=get_logger())
                self.all.append(made)
                await made.run()

    def kill(self, number: int) -> None:
        self.scopes[number].cancel()
        self.start(number)


async def queue(here: World, definition: TaskDefinition, count: int = 1, **facts: Any) -> str:
    """Queue a run; return its name. Runs queued later are younger."""
    await trio.sleep(0.001)
    now = trio.current_time()
    name = keys.run_name(facts.get("priority", 0), now, f"{random.Random(now).getrandbits(32):08x}")
    run = QueuedRun(task_definition=definition.name, count=count, submitted_at=now, **facts)
    await here.journal.offer(offers.enqueue(CLUSTER, name, run))
    return name


async def waits(here: World, name: str) -> str:
    """Return why a run waits, once that is written down."""
    state = await here.until(lambda s: name in s.queue(CLUSTER) and s.queue(CLUSTER)[name].record.reason)
    return state.queue(CLUSTER)[name].record.reason


async def placed(here: World, name: str, count: int = 1, within_s: float = 60.0) -> list[str]:
    """Wait until all tasks of a run are placed; return their ids."""
    ids = [task_id(name, number) for number in range(count)]
    await here.until(lambda state: all(state.task(CLUSTER, task) for task in ids), within_s)
    return ids


async def end(here: World, task: str) -> None:
    view = await here.until_status(task, "RUNNING")
    await stop_task(here.journal, view, now=trio.current_time())
    await here.until_status(task, "STOPPED")


async def test_what_has_room_is_placed_at_once_and_what_has_none_waits(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        await here.start_agent(memory_runtime(), cpu=300)
        await here.until_connected()
        Copies(here).start(0)
        definition = await here.define(cpu=100)
        name = await queue(here, definition, 5)
        first = await placed(here, name, 3)
        assert "needs 100 CPU units, 0 left" in await waits(here, name)
        record = (await here.now()).queue(CLUSTER)[name].record
        assert (record.count, list(record.placed)) == (2, first)
        await end(here, first[0])
        await placed(here, name, 4)
        await end(here, first[1])
        await placed(here, name, 5)
        assert name not in (await here.now()).queue(CLUSTER)
        revision = (await here.now()).revision
        await trio.sleep(60)
        assert (await here.journal.revision()) - revision < 5, "an idle queue is quiet"


async def test_priority_then_turns(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        await here.start_agent(memory_runtime(), cpu=100)
        await here.until_connected()
        definition = await here.define(cpu=100)
        runs = {
            "a1": await queue(here, definition, owner="a"),
            "a2": await queue(here, definition, owner="a"),
            "b1": await queue(here, definition, owner="b"),
            "c1": await queue(here, definition, owner="c", priority=7),
            "b2": await queue(here, definition, owner="b"),
        }
        Copies(here).start(0)
        order = []
        left = {task_id(name, 0): label for label, name in runs.items()}
        while left:
            state = await here.until(lambda s: any(s.task(CLUSTER, task) for task in left))
            task = next(task for task in left if state.task(CLUSTER, task))
            order.append(left.pop(task))
            await end(here, task)
        assert order == ["c1", "a1", "b1", "a2", "b2"]


async def test_a_large_run_is_passed_over_for_a_while_and_then_held_room_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        await here.start_agent(memory_runtime(), cpu=300)
        await here.until_connected()
        Copies(here).start(0)
        small, large = await here.define(cpu=100), await here.define(cpu=300, family="large")
        never = await here.define(cpu=9000, family="never")
        first = await placed(here, await queue(here, small))
        await queue(here, never, owner="z")
        waiting = await queue(here, large, owner="l")
        # It is passed over: what is small goes in between.
        second = await placed(here, await queue(here, small, owner="s"))
        await trio.sleep(HOLD_S + 1)
        third = await queue(here, small, owner="s")
        await end(here, second[0])
        await trio.sleep(10)
        assert third in (await here.now()).queue(CLUSTER), "the room is held for the large one"
        await end(here, first[0])
        [task] = await placed(here, waiting)
        await end(here, task)
        await placed(here, third)
        # What fits on no instance, however empty, holds nobody up.
        [left] = (await here.now()).queue(CLUSTER).values()
        assert left.record.task_definition == never.name


async def test_what_had_no_place_in_time_is_given_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        await here.start_agent(memory_runtime(), cpu=100)
        await here.until_connected()
        Copies(here).start(0)
        name = await queue(here, await here.define(cpu=200), not_after=trio.current_time() + 30)
        await trio.sleep(29)
        assert name in (await here.now()).queue(CLUSTER)
        await here.until(lambda state: name not in state.queue(CLUSTER))
        assert trio.current_time() < 60


async def test_three_copies_killed_at_random_place_every_task_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """60 tasks in 12 runs on room for 10 at a time, each of which ends after a while."""
    async with world(tmp_path) as here:
        for number in range(2):
            await here.start_agent(memory_runtime(), f"n{number}", cpu=500, memory=5000)
        await here.until_connected(2)
        copies = Copies(here)
        for number in range(3):
            copies.start(number)
        definition = await here.define(cpu=100, memory=10)
        names = [await queue(here, definition, 5, owner="abc"[n % 3]) for n in range(12)]
        wanted = {task_id(name, number) for name in names for number in range(5)}
        rng = random.Random(3)
        while True:
            state = await here.now()
            if all(state.task(CLUSTER, task) for task in wanted):
                break
            for view in state.tasks(CLUSTER):
                if view.last_status == "RUNNING" and view.task.desired_status == "RUNNING":
                    try:
                        await stop_task(here.journal, view, now=trio.current_time())
                    except OfferRejected:
                        pass
            copies.kill(rng.randrange(3))
            await trio.sleep(rng.uniform(0, 1))
        state = await here.now()
        assert Counter(view.id for view in state.tasks(CLUSTER)) == Counter(wanted)
        assert state.queue(CLUSTER) == {}
        assert sum(copy.placed for copy in copies.all) <= 60
        assert len(copies.all) > 6


async def test_copies_that_place_at_once_collide_and_nothing_is_placed_twice(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: Any
) -> None:
    monkeypatch.setattr("schedulers.queue.loop.YIELD_S", (0.0, 0.0))
    async with world(tmp_path) as here:
        await here.start_agent(memory_runtime(), cpu=5000, memory=5000)
        await here.until_connected()
        copies = Copies(here)
        for number in range(3):
            copies.start(number)
        definition = await here.define(cpu=10, memory=10)
        names = [await queue(here, definition, 3) for _ in range(20)]
        for name in names:
            await placed(here, name, 3)
        assert len((await here.now()).tasks(CLUSTER)) == 60
        assert sum(copy.conflicts for copy in copies.all) > 0, "they never met: the test shows nothing"
