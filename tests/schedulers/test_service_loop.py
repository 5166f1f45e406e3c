"""The service scheduler's loop against a real journal and real agents, on virtual time: three copies,
killed at random, while services are created, updated and deleted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import trio
from trio.testing import MockClock

from cluster import offers
from cluster.feed import follow
from cluster.ops import stop_task
from cluster.records import (
    Deployment,
    DeploymentConfiguration,
    LastStatus,
    Service,
    ServiceStatus,
    StopCode,
    TaskDefinition,
    deployment_id,
)
from cluster.state import ClusterState, TaskView
from journal.client import Journal, OfferRejected
from journal.logs import get_logger
from schedulers.service.loop import Counters, ServiceScheduler
from tests.agent.world import CLUSTER, World, memory_runtime, world


class Copies:
    """Scheduler processes: what one knows dies with it."""

    def __init__(self, here: World, grace_s: float = 30.0) -> None:
        self.here = here
        self.grace_s = grace_s
        self.scopes: dict[int, trio.CancelScope] = {}
        self.counters: list[Counters] = []
        self.born = 0

    def start(self, number: int) -> None:
        self.scopes[number] = trio.CancelScope()
        self.here.nursery.start_soon(self._run, self.scopes[number])

    async def _run(self, scope: trio.CancelScope) -> None:
        self.born += 1
        rng = random.Random(self.born)
        with scope:
            async with self.here.client() as journal, follow(journal) as feed:
                scheduler = ServiceScheduler(
                    journal, feed, rng=rng, wall=trio.current_time, log=get_logger(), grace_s=self.grace_s
                )
                self.counters.append(scheduler.counters)
                await scheduler.run()

    def kill(self, number: int) -> None:
        self.scopes[number].cancel()
        self.start(number)


async def create(
    here: World,
    definition: TaskDefinition,
    desired: int,
    name: str = "web",
    percents: tuple[int, int] = (100, 200),
) -> str:
    deployment = Deployment(
        id=deployment_id(random.Random(name).getrandbits(63)),
        task_definition=definition.name,
        created_at=trio.current_time(),
    )
    service = Service(
        service_name=name,
        task_definition=definition.name,
        desired_count=desired,
        deployment_configuration=DeploymentConfiguration(
            minimum_healthy_percent=percents[0], maximum_percent=percents[1]
        ),
        deployments=(deployment,),
    )
    state = await here.now()
    await here.journal.offer(offers.create_service(CLUSTER, service, at=state.revision))
    return deployment.id


async def change(here: World, name: str, how: Callable[[Service], Service]) -> Service:
    """Change a service as the API does: again where the scheduler was faster."""
    while True:
        view = (await here.now()).service(CLUSTER, name)
        assert view is not None and view.desired is not None
        new = how(view.service)
        try:
            await here.journal.offer(offers.change_service(CLUSTER, view.service, new, view.desired.revision))
        except OfferRejected:
            continue
        return new


async def update(here: World, definition: TaskDefinition, number: int, name: str = "web") -> str:
    deployment = Deployment(id=deployment_id(number), task_definition=definition.name)

    def how(service: Service) -> Service:
        deployments = (deployment, *service.deployments)
        return replace(service, task_definition=definition.name, deployments=deployments)

    await change(here, name, how)
    return deployment.id


def running(state: ClusterState, name: str = "web") -> list[TaskView]:
    return [
        view
        for view in state.service_tasks(CLUSTER, name)
        if view.last_status is LastStatus.RUNNING and view.task.desired_status == "RUNNING"
    ]


def is_steady(state: ClusterState, name: str = "web", definition: str = "") -> bool:
    view = state.service(CLUSTER, name)
    return (
        view is not None
        and view.rollout.steady
        and len(view.service.deployments) == 1
        and len(running(state, name)) == view.service.desired_count == len(state.service_tasks(CLUSTER, name))
        and (not definition or view.service.task_definition == definition)
    )


async def started_ever(journal: Journal) -> list[str]:
    """Return the labels of all that was ever committed."""
    labels = []
    async with journal.tail(0) as tail:
        end = await journal.revision()
        async for message in tail:
            labels += [commit.label for commit in message.commits]
            if message.last >= end:
                break
    return labels


async def test_three_copies_killed_at_random_place_everything_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        for number in range(4):
            await here.start_agent(memory_runtime(), f"n{number}", cpu=2000, memory=2000)
        await here.until_connected(4)
        definitions = [await here.define(cpu=100, memory=10 + n) for n in range(5)]
        copies = Copies(here)
        for number in range(3):
            copies.start(number)
        rng = random.Random(7)
        await create(here, definitions[0], 8)
        await here.until(is_steady)
        violations: list[str] = []

        async def watch() -> None:
            """Look at every single revision: never over the maximum, never under the minimum."""
            async with here.client() as journal, follow(journal) as feed:

                def look(_commit: object) -> None:
                    live = len(feed.state.service_tasks(CLUSTER, "web"))
                    up = len(running(feed.state))
                    if live > 16 or up < 8:
                        violations.append(f"revision {feed.state.revision}: {live} tasks, {up} running")

                feed.listener = look
                while True:
                    await feed.step()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for number, definition in enumerate(definitions[1:], 1):
                await update(here, definition, number)
                for _ in range(6):
                    await trio.sleep(rng.uniform(0, 0.3))
                    copies.kill(rng.randrange(3))
                name = definition.name
                await here.until(lambda state, name=name: is_steady(state, definition=name))  # type: ignore[misc]
            nursery.cancel_scope.cancel()
        assert violations == []
        assert copies.born >= 3 + 24
        state = await here.now()
        assert {view.task.task_definition for view in running(state)} == {definitions[-1].name}
        # 5 times 8 tasks were started in all, by whichever copies: not one too many.
        assert len(state.tasks(CLUSTER, group="service:web")) == 40
        assert sum(c.started for c in copies.counters) <= 40
        for view in state.tasks(CLUSTER, group="service:web", last=LastStatus.STOPPED):
            assert view.status is not None and view.status.stopped_reason, view
            assert view.status.stop_code is StopCode.SERVICE_SCHEDULER_INITIATED

        await change(here, "web", lambda old: replace(old, status=ServiceStatus.DRAINING, desired_count=0))
        await here.until(
            lambda state: (
                (view := state.service(CLUSTER, "web")) is not None
                and view.service.status is ServiceStatus.INACTIVE
            )
        )
        for name in ("n0", "n1", "n2", "n3"):
            await here.now()
            assert here.left(name) == (2000, 2000, ())


async def test_copies_that_start_together_yield_to_the_one_that_goes_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """They would all do the same: few steps are offered in vain."""
    async with world(tmp_path) as here:
        await here.start_agent(memory_runtime(), "n0", cpu=5000, memory=5000)
        await here.until_connected(1)
        definitions = [await here.define(cpu=100, memory=10 + n) for n in range(6)]
        copies = Copies(here)
        for number in range(3):
            copies.start(number)
        await create(here, definitions[0], 5)
        for number, definition in enumerate(definitions[1:], 1):
            await here.until(is_steady)
            await update(here, definition, number)
            name = definition.name
            await here.until(lambda state, name=name: is_steady(state, definition=name))  # type: ignore[misc]
        steps = sum(c.steps for c in copies.counters)
        conflicts = sum(c.conflicts for c in copies.counters)
        assert steps >= 17
        assert conflicts < steps / 4, f"{conflicts} conflicts on {steps} steps"


async def test_a_lost_agent_is_waited_for_and_then_replaced(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as here:
        handles = [await here.start_agent(memory_runtime(), f"n{n}", cpu=1000, memory=1000) for n in range(3)]
        await here.until_connected(3)
        copies = Copies(here, grace_s=30.0)
        copies.start(0)
        definition = await here.define(cpu=100, memory=10)
        await create(here, definition, 6)
        state = await here.until(is_steady)
        spread = Counter(view.instance for view in running(state))
        victim = max(spread)
        handle = handles[int(victim[-1])]
        before = {view.id for view in running(state) if view.instance == victim}
        await handle.kill()
        gone_at = trio.current_time()
        await here.until(
            lambda state: is_steady(state) and all(v.instance != victim for v in running(state)), 120
        )
        assert trio.current_time() - gone_at >= 30.0
        state = await here.now()
        for task in before:
            view = state.task(CLUSTER, task)
            assert view is not None and view.task.stopped_reason == f"Container instance {victim} is gone"


async def test_a_task_stopped_by_hand_is_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        await here.start_agent(memory_runtime(), "n0")
        await here.until_connected(1)
        copies = Copies(here)
        copies.start(0)
        await create(here, await here.define(), 2)
        state = await here.until(is_steady)
        victim = running(state)[0]
        await stop_task(here.journal, victim, now=trio.current_time())
        await here.until(lambda state: is_steady(state) and victim.id not in {v.id for v in running(state)})
