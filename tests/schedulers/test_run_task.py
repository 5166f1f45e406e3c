"""Placing against real nodes: schedulers compete, verdicts get lost, and nothing is placed twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints

from cluster import offers
from cluster.codec import RecordInvalid
from cluster.feed import ClusterFeed, follow, share
from cluster.ops import (
    InstanceNotFound,
    TaskAmbiguous,
    TaskNotFound,
    ensure_definition,
    find_task,
    list_tasks,
    set_instance_status,
)
from cluster.records import InstanceStatus, TaskDefinition
from cluster.state import ClusterState
from journal.client import Journal, OffersUnresolved, OfferUnknown
from journal.client.errors import OfferId
from journal.errors import JournalError, Unavailable
from journal.offers import Offer, Verdict
from schedulers.placement import Request, need_of, place
from schedulers.run_task import (
    RunRequest,
    RunResult,
    definition_of_command,
    family_of_command,
    run_command,
    run_tasks,
    wait_tasks,
)
from tests.agent.world import CLUSTER, World, memory_runtime, world


async def agents(here: World, count: int, **options: Any) -> None:
    for number in range(count):
        await here.start_agent(memory_runtime(), f"n{number}", **options)
    await here.until_connected(count)


async def test_two_schedulers_compete_and_exactly_what_fits_is_placed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """60 tasks on capacity for 40, from two schedulers that know nothing of each other."""
    async with world(tmp_path) as here:
        await agents(here, 4)
        definition = await here.define(cpu=100, memory=50)
        results: list[Any] = []

        async def scheduler(seed: int) -> None:
            async with here.client() as journal, follow(journal) as feed:
                results.append(
                    await run_tasks(
                        journal,
                        feed,
                        RunRequest(definition=definition, count=30, started_by=f"scheduler-{seed}"),
                        rng=random.Random(seed),
                        wall=trio.current_time,
                    )
                )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(scheduler, 1)
            nursery.start_soon(scheduler, 2)
        placed = [placed.task for result in results for placed in result.placed]
        failures = [failure for result in results for failure in result.failures]
        assert (len(placed), len(set(placed)), len(failures)) == (40, 40, 20)
        assert {failure.code for failure in failures} == {"RESOURCE:CPU"}
        assert "needs 100 CPU units, 0 left" in failures[0].reason
        assert set(failures[0].instances) == {"i-n0", "i-n1", "i-n2", "i-n3"}
        assert sum(result.conflicts for result in results) > 0, "they never met: the test shows nothing"
        state = await here.now()
        assert Counter(view.instance for view in state.tasks(CLUSTER)) == {f"i-n{n}": 10 for n in range(4)}
        assert [here.left(f"n{n}") for n in range(4)] == [(0, 500, ())] * 4
        for task in placed:
            await here.until_status(task, "RUNNING")


async def test_a_conflict_is_planned_again_from_a_newer_state(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        await agents(here, 2)
        definition = await here.define(cpu=1000)
        async with follow(here.journal) as stale:
            first = await here.run(definition, 1)
            result = await run_tasks(
                here.journal,
                stale,
                RunRequest(definition=definition),
                rng=chooses(stale.state, definition, first.placed[0].instance),
                wall=trio.current_time,
            )
        assert result.conflicts == 1
        assert {result.placed[0].instance, first.placed[0].instance} == {"i-n0", "i-n1"}


async def test_a_gang_is_placed_as_a_whole_or_not_at_all(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        await agents(here, 2)
        definition = await here.define(cpu=250)
        async with follow(here.journal) as feed:

            async def gang(count: int) -> RunResult:
                request = RunRequest(definition=definition, count=count, gang=True)
                return await run_tasks(
                    here.journal, feed, request, rng=random.Random(count), wall=trio.current_time
                )

            with assert_checkpoints():  # else a loop of those for whom there is no room stops everything
                too_many = await gang(9)
            assert not too_many.placed and len(too_many.failures) == 9
            assert "250 CPU units" in too_many.failures[0].reason
            await here.now()
            assert [here.left(f"n{n}")[0] for n in range(2)] == [1000, 1000]
            placed = await gang(8)
            assert len(placed.placed) == 8 and not placed.failures
            assert len({one.revision for one in placed.placed}) == 1, "all of them by one offer"


async def test_gangs_that_compete_never_end_up_half_placed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Four gangs of 3 on room for 10, from one process and over one shared state: three find a place."""
    async with world(tmp_path) as here:
        await agents(here, 1)
        definition = await here.define(cpu=100)
        results: list[RunResult] = []
        async with share(here.journal) as feed:

            async def gang(seed: int) -> None:
                request = RunRequest(definition=definition, count=3, gang=True)
                results.append(
                    await run_tasks(
                        here.journal, feed, request, rng=random.Random(seed), wall=trio.current_time
                    )
                )

            async with trio.open_nursery() as nursery:
                for seed in range(4):
                    nursery.start_soon(gang, seed)
        assert sorted(len(result.placed) for result in results) == [0, 3, 3, 3]
        assert sum(result.conflicts for result in results) == 1, "the fourth planned as if it were alone"
        await here.now()
        assert here.left("n0")[0] == 100


def chooses(state: ClusterState, definition: TaskDefinition, instance: str) -> random.Random:
    """Return a generator that makes placement choose this one of the instances that are equal."""
    wanted = Request(cluster=CLUSTER, need=need_of(definition))
    seeds = (
        seed for seed in range(1000) if place(state, wanted, random.Random(seed)).placements == (instance,)
    )
    return random.Random(next(seeds))


async def test_an_instance_that_left_after_the_plan_gets_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        await agents(here, 1)
        definition = await here.define()
        async with follow(here.journal) as stale:
            await set_instance_status(here.journal, CLUSTER, "i-n0", InstanceStatus.DRAINING)
            result = await run_tasks(
                here.journal,
                stale,
                RunRequest(definition=definition),
                rng=random.Random(0),
                wall=trio.current_time,
            )
        assert (result.conflicts, result.placed) == (1, ())
        assert result.failures[0].reason == "instance i-n0 is DRAINING, not ACTIVE"
        with pytest.raises(InstanceNotFound):
            await set_instance_status(here.journal, CLUSTER, "nobody", InstanceStatus.DRAINING)


class Lossy:
    """A journal whose verdicts get lost: ``lose`` says of each offer what becomes of it."""

    def __init__(self, journal: Journal, lose: Sequence[JournalError | None]) -> None:
        self._journal = journal
        self._lose = lose

    async def offer_many(self, batch: Sequence[Offer]) -> list[Verdict]:
        verdicts: list[Verdict | JournalError] = list(await self._journal.offer_many(batch))
        for index, error in enumerate(self._lose):
            verdicts[index] = error or verdicts[index]
        raise OffersUnresolved(verdicts)


async def test_an_unknown_verdict_is_told_and_never_placed_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        await agents(here, 1)
        definition = await here.define()
        lossy = Lossy(
            here.journal, [None, OfferUnknown(OfferId(b"c", 1), "lost"), Unavailable("nobody is there")]
        )
        result = await run_tasks(
            lossy,
            here.feed,
            RunRequest(definition=definition, count=3),
            rng=random.Random(0),
            wall=trio.current_time,
        )
        assert [failure.code for failure in result.failures] == ["UNKNOWN", "UNAVAILABLE"]
        assert len(result.placed) == 1
        state = await here.now()
        # It had been placed, and is found under the id that was told.
        assert state.task(CLUSTER, result.failures[0].task) is not None


async def test_a_command_is_run_under_one_definition_as_often_as_it_is_run(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        await agents(here, 1)

        async def run(*command: str, **options: Any) -> str:
            result = await run_command(
                here.journal,
                here.feed,
                command,
                **{"cpu": 10, "memory": 10, **options},
                rng=random.Random(here.feed.state.revision),
                wall=trio.current_time,
            )
            view = here.feed.state.task(CLUSTER, result.placed[0].task)
            assert view is not None
            return view.task.task_definition

        assert await run("/bin/sleep", "1") == "run-sleep:1"
        assert await run("/bin/sleep", "1") == "run-sleep:1"
        assert await run("/bin/sleep", "2") == "run-sleep:2"
        assert await run("/bin/sleep", "1", environment={"A": "1"}) == "run-sleep:3"
        assert await run("/bin/sleep", "1") == "run-sleep:1"
        assert await run("/bin/sleep", "1", cpu=11) == "run-sleep:4"
        view = here.feed.state.tasks(CLUSTER)[0]
        assert view.task.group == "family:run-sleep"


async def test_two_that_register_the_same_definition_at_once_share_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        names: list[str] = []

        async def register(feed: ClusterFeed) -> None:
            definition = await ensure_definition(
                here.journal,
                feed,
                "f",
                cpu=1,
                memory=1,
                containers=[definition_of_command(["x"])],
                now=trio.current_time(),
            )
            names.append(definition.name)

        async with follow(here.journal) as one, follow(here.journal) as other, trio.open_nursery() as nursery:
            nursery.start_soon(register, one)
            nursery.start_soon(register, other)
        assert names == ["f:1", "f:1"]


async def test_a_definition_that_cannot_run_is_not_registered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        with pytest.raises(RecordInvalid, match="stopTimeout"):
            await ensure_definition(
                here.journal,
                here.feed,
                "f",
                cpu=1,
                memory=1,
                containers=[definition_of_command(["x"], stop_timeout_s=0)],
                now=0.0,
            )
        assert (await here.now()).family("f") == []


async def test_tasks_are_waited_for_listed_and_found(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        await here.start_agent(runtime)
        await here.until_connected()
        definition = await here.define()
        result = await here.run(definition, count=2, started_by="me")
        ids = [placed.task for placed in result.placed]
        views = await wait_tasks(here.feed, CLUSTER, ids, stopped=False)
        assert [view.last_status for view in views] == ["RUNNING", "RUNNING"]
        runtime.finish(ids[1], "main", exit_code=5)
        await here.until_status(ids[1], "STOPPED")
        rows = {row.task: row for row in list_tasks(here.feed.state, CLUSTER)}
        assert rows[ids[1]].exit_code == 5
        assert rows[ids[1]].reason == "Essential container in task exited"
        assert rows[ids[0]].started_by == "me"
        assert [row.task for row in list_tasks(here.feed.state, CLUSTER, include_stopped=False)] == [ids[0]]
        runtime.finish(ids[0], "main")
        views = await wait_tasks(here.feed, CLUSTER, ids)
        assert [view.status.exit_code for view in views if view.status] == [0, 5]
        assert find_task(here.feed.state, CLUSTER, ids[0][:8]).id == ids[0]
        for unknown in ("", "nothing"):
            with pytest.raises(TaskNotFound):
                find_task(here.feed.state, CLUSTER, unknown)


async def test_an_abbreviation_that_fits_several_tasks_is_refused(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        await agents(here, 1)
        definition = await here.define()
        state = await here.now()
        from cluster.records import Task

        task = Task(task_definition=definition.name, cpu=1, memory=1)
        for name in ("abc1", "abc2"):
            await here.journal.offer(offers.place(CLUSTER, "i-n0", name, task, at=state.revision))
        await here.now()
        with pytest.raises(TaskAmbiguous, match="2 tasks of cluster default begin with ab: abc1, abc2"):
            find_task(here.feed.state, CLUSTER, "ab")


@pytest.mark.parametrize(
    ("command", "family"),
    [
        (["/usr/bin/python3.11", "-c", "x"], "run-python3-11"),
        (["./a b/"], "run-a-b"),
        (["é"], "run--"),
        ([], "run-command"),
        (["/"], "run-command"),
    ],
)
def test_an_ad_hoc_family_is_named_after_its_program(command: list[str], family: str) -> None:
    assert family_of_command(command) == family
