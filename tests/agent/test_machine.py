"""The agent's hands on its machine, on virtual time: restarts, room, and a machine that refuses."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import trio
from trio.testing import MockClock

from agent.model import ContainerState, Phase
from agent.runtime import MemoryRuntime
from cluster.ops import stop_task
from cluster.records import ContainerDefinition, HealthCheck, HealthStatus, PortMapping, RestartPolicy
from cluster.state import ClusterState
from tests.agent.world import CLUSTER, World, memory_runtime, world

RESTART = RestartPolicy(enabled=True, restart_attempt_period=60)


async def until_restarts(here: World, task: str, count: int) -> None:
    def there(state: ClusterState) -> bool:
        view = state.task(CLUSTER, task)
        return bool(view and view.status and view.status.containers[0].restart_count == count)

    await here.until(there)


async def test_a_container_with_a_restart_policy_goes_on_and_its_task_does_not_notice(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        agent = await here.start_agent(runtime)
        await here.until_connected()
        main = ContainerDefinition(name="main", command=("x",), restart_policy=RESTART)
        task = await here.run_one(await here.define(main))
        await here.until_status(task, "RUNNING")
        for attempt in (1, 2):
            await trio.sleep(61)
            runtime.finish(task, "main", exit_code=1)
            await until_restarts(here, task, attempt)
            assert (await here.until_status(task, "RUNNING")).last_status == "RUNNING"
            if attempt == 1:  # the next restart is another agent's
                await agent.kill()
                await here.start_agent(runtime)
                await here.until_connected()
        runtime.finish(task, "main", exit_code=1)  # too soon
        view = await here.until_status(task, "STOPPED")
        assert view.status is not None and view.status.containers[0].restart_count == 2
        assert runtime.starts == [(task, "main")] * 3
        assert here.left() == (1000, 1000, ())


async def test_a_change_of_health_is_reported(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        await here.start_agent(runtime)
        await here.until_connected()
        check = HealthCheck(command=("CMD", "x"))
        main = ContainerDefinition(name="main", command=("x",), health_check=check)
        task = await here.run_one(await here.define(main))
        view = await here.until_status(task, "RUNNING")
        assert view.status is not None and view.status.health_status is HealthStatus.UNKNOWN
        for health in (HealthStatus.HEALTHY, HealthStatus.UNHEALTHY):
            runtime.set_health(task, "main", health)

            def there(state: ClusterState, health: HealthStatus = health) -> bool:
                view = state.task(CLUSTER, task)
                return bool(view and view.status and view.status.health_status is health)

            await here.until(there)
        assert runtime.signals == [], "who acts on it is not the agent"


async def test_a_task_waits_for_its_port_and_says_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        runtime = memory_runtime()
        await here.start_agent(runtime)
        await here.until_connected()
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = holder.getsockname()[1]
            ports = (PortMapping(container_port=80, host_port=port),)
            main = ContainerDefinition(name="main", command=("x",), port_mappings=ports)
            task = await here.run_one(await here.define(main))
            view = await here.until_status(task, "PENDING")

            def told(state: ClusterState) -> bool:
                view = state.task(CLUSTER, task)
                return bool(view and view.status and view.status.containers[0].reason)

            state = await here.until(told)
            view_now = state.task(CLUSTER, task)
            assert view_now is not None and view_now.status is not None
            why = view_now.status.containers[0].reason
            assert why == f"waits for port {port}/tcp: another program holds it"
            assert runtime.starts == [] and view.id == task
        began = trio.current_time()
        view = await here.until_status(task, "RUNNING")
        assert trio.current_time() - began < 2
        assert view.status is not None and view.status.containers[0].reason is None


class Away(MemoryRuntime):
    """A runtime whose engine may be away."""

    is_away = False

    def _ask(self) -> None:
        if self.is_away:
            raise OSError(errno.ECONNREFUSED, "the engine cannot be reached")

    async def inspect(self, task: str, container: str) -> ContainerState:
        self._ask()
        return await super().inspect(task, container)

    async def signal(self, task: str, container: str, *, kill: bool) -> bool:
        self._ask()
        return await super().signal(task, container, kill=kill)


async def test_an_engine_that_is_away_at_the_agents_start_is_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Until it answers a container may run: it is neither started again nor reported as stopped."""
    async with world(tmp_path) as here:
        runtime = Away(clock=trio.current_time)
        agent = await here.start_agent(runtime)
        await here.until_connected()
        definition = await here.define()
        runs, stops = [await here.run_one(definition, seed) for seed in (1, 2)]
        for task in (runs, stops):
            await here.until_status(task, "RUNNING")
        await agent.kill()
        runtime.is_away = True
        await here.start_agent(runtime)
        view = here.feed.state.task(CLUSTER, stops)
        assert view is not None
        await stop_task(here.journal, view, now=1.0)
        await trio.sleep(100)
        assert [runtime.look(task, "main").phase for task in (runs, stops)] == [Phase.RUNNING] * 2
        assert runtime.starts == [(runs, "main"), (stops, "main")] and runtime.signals == []
        runtime.is_away = False
        await here.until_status(stops, "STOPPED")
        await here.until_status(runs, "RUNNING")
        assert runtime.signals == [(stops, "main", False)]
        assert len(runtime.starts) == 2
