"""A journal, agents and schedulers in one thread on virtual time, with containers in memory."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from agent.folder import AgentFolder
from agent.loop import Agent
from agent.runtime import MemoryRuntime, Runtime
from cluster.feed import ClusterFeed, follow
from cluster.records import ContainerDefinition, ContainerInstance, TaskDefinition, attributes, resources
from cluster.state import ClusterState, InstanceView, TaskView
from journal.client import Journal, connect
from journal.connection_local import LocalConnector
from journal.logs import get_logger
from schedulers.run_task import RunRequest, RunResult, run_tasks
from tests.node.cluster import ByEndpoint, Cluster, running

CLUSTER = "default"
WITHIN_S = 60.0


class RunningAgent:
    """An agent process: what it knows dies with it; its folder and its containers do not."""

    def __init__(self, agent: Agent, folder: AgentFolder) -> None:
        self.agent = agent
        self.folder = folder
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.error: BaseException | None = None

    async def kill(self) -> None:
        self.scope.cancel()
        with trio.CancelScope(shield=True):
            await self.ended.wait()

    async def failure(self) -> str:
        """Wait until it ends by itself; return what it says."""
        with trio.fail_after(WITHIN_S):
            await self.ended.wait()
        error = self.error
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert error is not None, "it ended without an error"
        return f"{type(error).__name__}: {error}"


class World:
    def __init__(self, nursery: trio.Nursery, nodes: Cluster, path: Path) -> None:
        self.nursery = nursery
        self.nodes = nodes
        self.path = path
        self.clients = 0
        self.journal: Journal
        self.feed: ClusterFeed

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Journal]:
        self.clients += 1
        connector = LocalConnector(ByEndpoint(self.nodes), "test")
        rng = random.Random(self.clients)
        async with connect(self.nodes.endpoints, connector=connector, rng=rng) as journal:
            yield journal

    async def start_agent(
        self,
        runtime: Runtime,
        name: str = "a",
        *,
        cpu: int = 1000,
        memory: int = 1000,
        make: Callable[..., Agent] = Agent,
        attrs: Mapping[str, str] | None = None,
        named: Mapping[str, int] | None = None,
        ports: tuple[int, ...] = (),
        **options: Any,
    ) -> RunningAgent:
        """Start an agent on the folder ``name``; its instance id is ``i-name``."""
        folder = AgentFolder.open(self.path / name, CLUSTER, f"i-{name}")
        started = trio.Event()
        result: list[RunningAgent] = []

        async def run() -> None:
            try:
                async with self.client() as journal:
                    agent = make(
                        journal,
                        folder,
                        runtime,
                        ContainerInstance(
                            registered_resources=resources(cpu, memory, ports=ports, named=named),
                            attributes=attributes(attrs or {}),
                        ),
                        incarnation=f"incarnation-{self.clients}",
                        wall=trio.current_time,
                        rng=random.Random(self.clients),
                        log=get_logger(agent=name),
                        **options,
                    )
                    handle = RunningAgent(agent, folder)
                    result.append(handle)
                    started.set()
                    with handle.scope:
                        await agent.run()
            except Exception as error:
                handle.error = error
            finally:
                folder.close()
                handle.ended.set()

        self.nursery.start_soon(run)
        await started.wait()
        return result[0]

    # -- looking ------------------------------------------------------------------

    async def until(
        self, condition: Callable[[ClusterState], Any], within_s: float = WITHIN_S
    ) -> ClusterState:
        with trio.fail_after(within_s):
            return await self.feed.until(condition)

    async def now(self) -> ClusterState:
        with trio.fail_after(WITHIN_S):
            return await self.feed.reached(await self.journal.revision())

    async def until_connected(self, count: int = 1) -> None:
        await self.until(lambda state: sum(v.connected for v in state.instances(CLUSTER)) == count)

    async def until_status(self, task: str, status: str) -> TaskView:
        def there(state: ClusterState) -> bool:
            view = state.task(CLUSTER, task)
            return view is not None and view.last_status == status

        await self.until(there)
        view = self.feed.state.task(CLUSTER, task)
        assert view is not None
        return view

    def instance(self, name: str = "a") -> InstanceView:
        view = self.feed.state.instance(CLUSTER, f"i-{name}")
        assert view is not None
        return view

    def left(self, name: str = "a") -> tuple[int, int, tuple[int, ...]]:
        capacity = self.instance(name).capacity
        assert capacity is not None
        return capacity.record.cpu, capacity.record.memory, capacity.record.ports

    # -- placing --------------------------------------------------------------------

    async def define(
        self, *containers: ContainerDefinition, cpu: int = 100, memory: int = 100, family: str = "f"
    ) -> TaskDefinition:
        from cluster.ops import ensure_definition

        return await ensure_definition(
            self.journal,
            self.feed,
            family,
            cpu=cpu,
            memory=memory,
            containers=containers or (ContainerDefinition(name="main", command=("x",), stop_timeout=30),),
            now=trio.current_time(),
        )

    async def run(self, definition: TaskDefinition, seed: int = 0, **options: Any) -> RunResult:
        return await run_tasks(
            self.journal,
            self.feed,
            RunRequest(definition=definition, **options),
            rng=random.Random(seed),
            wall=trio.current_time,
        )

    async def run_one(self, definition: TaskDefinition, seed: int = 0) -> str:
        result = await self.run(definition, seed)
        assert not result.failures, result.failures
        return result.placed[0].task


@asynccontextmanager
async def world(path: Path, nodes: int = 1) -> AsyncIterator[World]:
    async with running(nodes) as cluster, trio.open_nursery() as nursery:
        made = World(nursery, cluster, path)
        async with made.client() as journal, follow(journal) as feed:
            made.journal, made.feed = journal, feed
            yield made
        nursery.cancel_scope.cancel()


def memory_runtime() -> MemoryRuntime:
    return MemoryRuntime(clock=trio.current_time)
