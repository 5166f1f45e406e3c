"""The agent against real nodes on virtual time: every way in which it, or the journal, may go away."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from agent.folder import AgentFolder, FolderLocked
from agent.model import ContainerState, Phase
from cluster import keys
from cluster.ops import TaskNotFound, set_instance_status, stop_task
from cluster.records import (
    ContainerDefinition,
    InstanceStatus,
    PortMapping,
    ResourceRequirement,
    StopCode,
)
from cluster.state import ClusterState
from journal.offers import LeaseRevoke, Offer
from journal.types import Revision
from tests.agent.world import CLUSTER, World, memory_runtime, world


async def test_a_task_goes_its_whole_way(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        await here.start_agent(runtime)
        await here.until_connected()
        task = await here.run_one(await here.define(cpu=300, memory=200))
        view = await here.until_status(task, "RUNNING")
        assert here.left() == (700, 800, ())
        assert view.status is not None and view.status.containers[0].runtime_id == "1"
        runtime.finish(task, "main", exit_code=7)
        view = await here.until_status(task, "STOPPED")
        assert here.left() == (1000, 1000, ())
        assert view.status is not None and view.status.exit_code == 7
        assert view.status.stop_code is StopCode.ESSENTIAL_CONTAINER_EXITED
        assert runtime.starts == [(task, "main")]


async def test_a_stop_is_sigterm_then_sigkill(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        await here.start_agent(runtime)
        await here.until_connected()
        definition = await here.define()
        tasks = [await here.run_one(definition, seed) for seed in (1, 2)]
        for task in tasks:
            await here.until_status(task, "RUNNING")
        runtime.ignores_term.add((tasks[1], "main"))
        began = trio.current_time()
        for task in tasks:
            view = here.feed.state.task(CLUSTER, task)
            assert view is not None
            assert await stop_task(here.journal, view, now=1.0, reason="enough") is not None
            assert await stop_task(here.journal, view, now=1.0) is None, "a second stop says nothing new"
        view = await here.until_status(tasks[0], "STOPPED")
        assert trio.current_time() - began < 5
        assert view.status is not None
        assert (view.status.stop_code, view.status.stopped_reason) == (StopCode.USER_INITIATED, "enough")
        view = await here.until_status(tasks[1], "STOPPED")
        assert 30 <= trio.current_time() - began < 35
        assert view.status is not None and view.status.exit_code == 137
        assert here.left() == (1000, 1000, ())


async def test_a_task_stopped_before_its_agent_saw_it_never_starts(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        agent = await here.start_agent(runtime, lease_ttl_s=3600.0)
        await here.until_connected()
        agent.agent.presence._journal._revoke = _nothing  # type: ignore[method-assign,assignment]
        await agent.kill()  # as SIGKILL does: its lease lives on
        task = await here.run_one(await here.define())
        view = here.feed.state.task(CLUSTER, task)
        assert view is not None
        await stop_task(here.journal, view, now=1.0)
        assert here.left() == (900, 900, ())
        await here.start_agent(runtime)
        view = await here.until_status(task, "STOPPED")
        assert runtime.starts == []
        assert here.left() == (1000, 1000, ())


async def _nothing(*_: Any) -> None:
    await trio.lowlevel.checkpoint()


async def test_a_task_that_cannot_start_says_why(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        why = "CannotStartContainerError: command not found: x"
        runtime.on_start = lambda *_: ContainerState(
            phase=Phase.STOPPED, exit_code=127, reason=why, failed_to_start=True
        )
        await here.start_agent(runtime)
        await here.until_connected()
        view = await here.until_status(await here.run_one(await here.define()), "STOPPED")
        assert view.status is not None
        assert view.status.stop_code is StopCode.TASK_FAILED_TO_START
        assert view.status.stopped_reason == why
        assert view.status.exit_code == 127
        assert here.left() == (1000, 1000, ())


async def test_tasks_outlive_their_agent(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        agent = await here.start_agent(runtime)
        await here.until_connected()
        definition = await here.define()
        tasks = [await here.run_one(definition, seed) for seed in range(3)]
        for task in tasks:
            await here.until_status(task, "RUNNING")
        await agent.kill()
        await here.until(lambda state: not state.instances(CLUSTER)[0].connected)
        runtime.finish(tasks[0], "main", exit_code=3)
        assert [runtime.look(task, "main").phase for task in tasks[1:]] == [Phase.RUNNING] * 2
        again = await here.start_agent(runtime)
        view = await here.until_status(tasks[0], "STOPPED")
        assert view.status is not None and view.status.exit_code == 3, "what it missed is not lost"
        runtime.finish(tasks[1], "main")
        await here.until_status(tasks[1], "STOPPED")
        assert runtime.signals == []
        assert len(runtime.starts) == 3
        assert here.left() == (900, 900, ())
        assert again.folder.identity == replace(agent.folder.identity, seen=again.folder.identity.seen)


async def test_tasks_outlive_the_journal_being_away(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path, nodes=3) as here:
        runtime = memory_runtime()
        await here.start_agent(runtime)
        await here.until_connected()
        definition = await here.define()
        one, other = [await here.run_one(definition, seed) for seed in range(2)]
        for task in (one, other):
            await here.until_status(task, "RUNNING")
        for number in (1, 2, 3):
            await here.nodes.kill(number)
        await trio.sleep(5)
        runtime.finish(one, "main", exit_code=4)
        await trio.sleep(150)
        assert runtime.look(other, "main").phase is Phase.RUNNING
        await here.nodes.start()
        view = await here.until_status(one, "STOPPED")
        assert view.status is not None and view.status.exit_code == 4
        assert runtime.signals == []
        await here.until_connected()
        third = await here.run_one(definition, 3)
        await here.until_status(third, "RUNNING")


async def test_an_agent_that_starts_while_the_journal_is_away_takes_back_what_runs(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        agent = await here.start_agent(runtime)
        await here.until_connected()
        definition = await here.define()
        tasks = [await here.run_one(definition, seed) for seed in range(2)]
        for task in tasks:
            await here.until_status(task, "RUNNING")
        await agent.kill()
        await here.nodes.kill(1)
        await here.start_agent(runtime)
        await trio.sleep(100)
        assert [runtime.look(task, "main").phase for task in tasks] == [Phase.RUNNING] * 2
        runtime.finish(tasks[0], "main")
        await trio.sleep(10)
        await here.nodes.start(1)
        await here.until_status(tasks[0], "STOPPED")
        assert runtime.signals == []


async def test_a_lost_lease_is_replaced_and_tasks_do_not_notice(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        await here.start_agent(runtime)
        await here.until_connected()
        task = await here.run_one(await here.define())
        await here.until_status(task, "RUNNING")
        record = await here.journal.get(keys.alive(CLUSTER, "i-a"))
        assert record is not None and record.lease
        await here.journal.offer(Offer((LeaseRevoke(record.lease),)))
        await here.until(lambda state: not state.instances(CLUSTER)[0].connected)
        await here.until_connected()
        after = await here.journal.get(keys.alive(CLUSTER, "i-a"))
        assert after is not None and after.lease not in (0, record.lease)
        assert runtime.signals == []
        await here.until_status(task, "RUNNING")


async def test_draining_is_kept_when_the_agent_comes_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        agent = await here.start_agent(runtime, attrs={"zone": "a"})
        await here.until_connected()
        await set_instance_status(here.journal, CLUSTER, "i-a", InstanceStatus.DRAINING)
        await agent.kill()
        await here.start_agent(runtime, attrs={"zone": "b"})

        def is_updated(state: ClusterState) -> bool:
            registration = state.instances(CLUSTER)[0].registration
            return registration is not None and registration.record.attribute("zone") == "b"

        await here.until(is_updated)
        assert here.instance().status is InstanceStatus.DRAINING
        result = await here.run(await here.define())
        assert [failure.reason for failure in result.failures] == ["instance i-a is DRAINING, not ACTIVE"]


# -- what an agent refuses ------------------------------------------------------------


async def test_a_second_agent_on_the_same_folder_is_refused(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        await here.start_agent(memory_runtime())
        with pytest.raises(FolderLocked, match=r"in use by another agent \(pid \d+\)"):
            AgentFolder.open(tmp_path / "a", CLUSTER, "i-other")


async def test_a_copied_folder_is_noticed(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        first = await here.start_agent(memory_runtime())
        await here.until_connected()
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        await here.start_agent(memory_runtime(), "b")
        assert "TakenOver: another agent registered as container instance i-a" in await first.failure()


async def test_a_journal_older_than_what_was_seen_is_refused(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        agent = await here.start_agent(runtime)
        await here.until_connected()
        task = await here.run_one(await here.define())
        await here.until_status(task, "RUNNING")
        await agent.kill()
        folder = AgentFolder.open(tmp_path / "a", CLUSTER, "")
        folder.update(seen=Revision(10_000))
        folder.close()
        agent = await here.start_agent(runtime)
        failure = await agent.failure()
        assert failure.startswith("StaleState: the journal is at revision ")
        assert "has acted on revision 10000" in failure
        assert runtime.look(task, "main").phase is Phase.RUNNING
        assert runtime.signals == []


async def test_a_deregistered_instance_does_not_come_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        agent = await here.start_agent(memory_runtime())
        await here.until_connected()
        await agent.kill()
        await set_instance_status(here.journal, CLUSTER, "i-a", InstanceStatus.INACTIVE)
        agent = await here.start_agent(memory_runtime())
        assert "i-a was deregistered" in await agent.failure()


async def test_further_resources_and_ports_are_claimed_and_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        agent = await here.start_agent(runtime, named={"GPU": 3}, ports=(22,))
        await here.until_connected()
        container = ContainerDefinition(
            name="main",
            port_mappings=(PortMapping(host_port=80),),
            resource_requirements=(ResourceRequirement(type="GPU", value="2"),),
        )
        definition = await here.define(container)
        task = await here.run_one(definition)
        refused = (await here.run(definition)).failures[0].instances["i-a"]
        assert refused.code == "RESOURCE:PORTS"
        await agent.kill()
        for less in ({"named": {"GPU": 1}, "ports": (22,)}, {"named": {"GPU": 3}, "ports": (22, 80)}):
            agent = await here.start_agent(runtime, **less)
            assert "ResourcesTaken" in await agent.failure()
        await here.start_agent(runtime, named={"GPU": 4}, ports=(23,))
        await here.until(lambda _: _further(here) == ({"GPU": 2}, [23, 80]))
        await here.until_status(task, "RUNNING")
        runtime.finish(task, "main")
        await here.until(lambda _: _further(here) == ({"GPU": 4}, [23]))


def _further(here: World) -> tuple[dict[str, int], list[int]]:
    capacity = here.instance().capacity
    assert capacity is not None
    return dict(capacity.record.resources), sorted(capacity.record.ports)


async def test_an_agent_may_not_offer_less_than_its_tasks_hold(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        agent = await here.start_agent(runtime)
        await here.until_connected()
        await here.run_one(await here.define(cpu=600))
        await agent.kill()
        agent = await here.start_agent(runtime, cpu=500)
        assert "ResourcesTaken" in await agent.failure()
        await here.now()
        assert here.left() == (400, 900, ())
        await here.start_agent(runtime, cpu=2000)
        await here.until_connected()
        assert here.left() == (1400, 900, ())


async def test_an_orphan_is_stopped_after_a_consistent_read(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        await here.start_agent(runtime)
        await here.until_connected()
        task = await here.run_one(await here.define())
        await here.until_status(task, "RUNNING")
        await here.journal.delete(keys.task(CLUSTER, "i-a", task))
        with trio.fail_after(60):
            await runtime.changed(task, "main", runtime.look(task, "main"))
        assert runtime.signals == [(task, "main", False)]


async def test_stopped_tasks_are_forgotten_in_the_end(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        agent = await here.start_agent(runtime, keep_stopped_s=60.0)
        await here.until_connected()
        task = await here.run_one(await here.define())
        view = await here.until_status(task, "RUNNING")
        runtime.finish(task, "main")
        await here.until_status(task, "STOPPED")
        began = trio.current_time()
        await here.until(lambda state: state.task(CLUSTER, task) is None, within_s=200)
        assert trio.current_time() - began > 59
        with trio.fail_after(100):
            while agent.folder.tasks():  # noqa: ASYNC110
                await trio.sleep(1)
        assert not agent.folder.task_folder(task).exists()
        assert here.left() == (1000, 1000, ())
        with pytest.raises(TaskNotFound):
            await stop_task(here.journal, view, now=1.0)
