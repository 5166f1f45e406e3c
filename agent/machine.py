"""The agent's hands on its machine: the states of its containers, and what is done to them.

Everything here runs in the agent's nursery, in short tasks that ``under_way`` starts once at a time
for each thing, and wakes the agent's decision when it is done. A machine that refuses (disk full, no
Docker) is asked again; until it answers, a container counts as STARTING: something of it may run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol

import trio
from structlog.typing import FilteringBoundLogger

from agent.model import ContainerState, LocalTask, Phase, Signalled
from agent.runtime import Runtime

SIGNAL_RETRY_S = 0.05
MACHINE_RETRY_S = 1.0
"""After the machine refused something (disk full, no more processes, Docker away)."""
ADOPTED_AT_ONCE_MAX = 16
"""Containers that are looked at at once after the agent's start."""


class UnderWay(Protocol):
    def __call__(self, kind: str, what: str, act: Callable[[], Awaitable[None]]) -> None:
        """Run ``act`` in the background, unless that is under way; wake the decision after it."""


class Machine:
    """The containers of one agent."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        under_way: UnderWay,
        wake: Callable[[], None],
        log: FilteringBoundLogger,
    ) -> None:
        self.containers: dict[tuple[str, str], ContainerState] = {}
        self.signalled: dict[tuple[str, str], Signalled] = {}
        self.runtime = runtime
        self._under_way = under_way
        self._wake = wake
        self._log = log
        self._refused: set[str] = set()

    def expect(self, tasks: Mapping[str, LocalTask]) -> None:
        """Take every container that was written down for one that may run, until it was looked at."""
        where = [(local.id, c.name) for local in tasks.values() for c in local.containers]
        self.containers.update(dict.fromkeys(where, ContainerState(phase=Phase.STARTING)))

    async def adopt(self) -> None:
        """Look at every container that is expected; wait for those that run."""
        where = list(self.containers)
        limit = trio.CapacityLimiter(ADOPTED_AT_ONCE_MAX)

        async def look(task: str, container: str) -> None:
            async with limit:
                self._know(task, container, await self._inspect(task, container))

        async with trio.open_nursery() as nursery:
            for task, container in where:
                nursery.start_soon(look, task, container)
        if where:
            running = sum(self.containers[each].phase is Phase.RUNNING for each in where)
            self._log.info("containers.adopted", containers=len(where), running=running)
        self._wake()

    def start(self, local: LocalTask, container: str, attempt: int) -> None:
        """Begin to start a container."""
        # From here on something may be there, so nothing may say that there is not.
        self.containers[local.id, container] = ContainerState(phase=Phase.STARTING, attempt=attempt)
        what = f"{local.id}/{container}"
        self._under_way("start", what, lambda: self._start(local, container, attempt))

    def signal(self, task: str, container: str, *, kill: bool) -> None:
        """Begin to end a container."""
        what = f"{task}/{container}/{'kill' if kill else 'term'}"
        self._under_way("signal", what, lambda: self._signal(task, container, kill=kill))

    def forget(self, local: LocalTask) -> None:
        """Drop what is known of a task that is gone from this machine."""
        for container in local.containers:
            self.containers.pop((local.id, container.name), None)
            self.signalled.pop((local.id, container.name), None)

    async def _inspect(self, task: str, container: str) -> ContainerState:
        """Ask the runtime what there is of a container, until it answers."""
        while True:
            try:
                state = await self.runtime.inspect(task, container)
            except OSError as error:
                await self._refusal("inspect", task, error)
            else:
                self._refused.discard(task)
                return state

    def _know(self, task: str, container: str, state: ContainerState) -> None:
        """Take in what there is of a container; wait for its end if it runs."""
        self.containers[task, container] = state
        if state.phase is Phase.RUNNING:
            self._under_way("watch", f"{task}/{container}", lambda: self._watch(task, container))

    async def _watch(self, task: str, container: str) -> None:
        known = self.containers[task, container]
        while known.phase is Phase.RUNNING:
            state = await self.runtime.changed(task, container, known)
            self.containers[task, container] = state
            self._wake()
            if state.phase is Phase.RUNNING and state.health is not known.health:
                self._log.info("container.health", task=task, container=container, health=str(state.health))
            known = state
        self._log.info(
            "container.stopped",
            task=task,
            container=container,
            exit_code=known.exit_code,
            reason=known.reason,
        )

    async def _start(self, local: LocalTask, container: str, attempt: int) -> None:
        try:
            await self.runtime.start(local, container, attempt)
        except OSError as error:
            await self._refusal("start", local.id, error)
        state = await self._inspect(local.id, container)
        if state.phase is Phase.CREATED or state.attempt < attempt:
            await trio.sleep(MACHINE_RETRY_S)  # before it is asked for again
            state = await self._inspect(local.id, container)
        self._know(local.id, container, state)
        self._log.info(
            "container.started" if state.phase is Phase.RUNNING else "container.not_running",
            task=local.id,
            container=container,
            attempt=state.attempt,
            runtime_id=state.runtime_id,
            reason=state.reason,
        )

    async def _signal(self, task: str, container: str, *, kill: bool) -> None:
        try:
            if not await self.runtime.signal(task, container, kill=kill):
                await trio.sleep(SIGNAL_RETRY_S)
                return
        except OSError as error:
            await self._refusal("signal", task, error)
            return
        now = trio.current_time()
        sent = self.signalled.get((task, container), Signalled(now))
        self.signalled[task, container] = replace(sent, killed_at=now) if kill else sent
        self._log.info(
            "container.signalled", task=task, container=container, signal="SIGKILL" if kill else "SIGTERM"
        )

    async def _refusal(self, what: str, task: str, error: OSError) -> None:
        """Say it once for a task, and wait a little."""
        if task not in self._refused:
            self._refused.add(task)
            self._log.error("machine.refused", action=what, task=task, reason=str(error))
        await trio.sleep(MACHINE_RETRY_S)
