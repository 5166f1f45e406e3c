"""The port to whatever runs containers, and a runtime in memory for tests.

A runtime keeps its own durable notes of what it started, so that it can be asked
after an agent's crash. Containers are named by (task, container).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from agent.model import ContainerState, LocalTask, Phase
from cluster.records import HealthStatus


class Runtime(Protocol):
    """What the agent needs of processes, Docker, or anything else that runs containers.

    Every method may raise ``OSError`` where the machine (or its engine) does not allow to try, or to
    look, at present; then it may be called again.
    """

    async def run(self) -> None:
        """Do what it needs to do in the background, until cancelled; return if there is nothing."""
        ...

    async def inspect(self, task: str, container: str) -> ContainerState:
        """Return what there is of a container. Never fails for one that was never started."""
        ...

    async def start(self, local: LocalTask, container: str, attempt: int = 0) -> None:
        """Start a container, each attempt once at most, however often this is called by however many agents.

        Attempt 0 is its first start; a later one is only ever asked for when the one before has
        stopped. Returns when it runs or has failed to; ``inspect`` says which.
        """
        ...

    async def signal(self, task: str, container: str, *, kill: bool) -> bool:
        """Ask everything of a container to end, or kill it.

        False: it could not be asked yet (it is being started), try again.
        """
        ...

    async def changed(self, task: str, container: str, known: ContainerState) -> ContainerState:
        """Wait until a running container is not as ``known`` any more; return what it is then.

        At once if it is not running. Never raises ``OSError``: it waits until it can look again.
        """
        ...

    async def remove(self, local: LocalTask) -> None:
        """Forget a task whose containers have all stopped. Idempotent."""
        ...


@dataclass(slots=True)
class MemoryRuntime:
    """Containers that are entries of a dictionary, and survive the agent that made them.

    ``on_start`` may decide how a start goes. ``finish`` ends a container, as if by itself.
    """

    clock: Callable[[], float] = field(default=lambda: 0.0)
    states: dict[tuple[str, str], ContainerState] = field(default_factory=dict)
    starts: list[tuple[str, str]] = field(default_factory=list)
    signals: list[tuple[str, str, bool]] = field(default_factory=list)
    on_start: Callable[[LocalTask, str], ContainerState | None] | None = None
    ignores_term: set[tuple[str, str]] = field(default_factory=set)
    _changed: dict[tuple[str, str], trio.Event] = field(default_factory=dict)

    def look(self, task: str, container: str) -> ContainerState:
        return self.states.get((task, container), ContainerState())

    def start_now(self, local: LocalTask, container: str, attempt: int = 0) -> None:
        where = (local.id, container)
        if where in self.states and self.states[where].attempt >= attempt:
            return
        self.starts.append(where)
        state = self.on_start(local, container) if self.on_start else None
        self.states[where] = state or ContainerState(
            phase=Phase.RUNNING, attempt=attempt, runtime_id=str(len(self.starts)), started_at=self.clock()
        )

    def signal_now(self, task: str, container: str, *, kill: bool) -> bool:
        if (task, container) not in self.states:
            return False
        self.signals.append((task, container, kill))
        if kill or (task, container) not in self.ignores_term:
            self.finish(task, container, exit_code=137 if kill else 143)
        return True

    def finish(self, task: str, container: str, *, exit_code: int = 0) -> None:
        state = self.look(task, container)
        if state.phase is Phase.RUNNING:
            end = replace(state, phase=Phase.STOPPED, exit_code=exit_code, stopped_at=self.clock())
            self._set(task, container, end)

    def set_health(self, task: str, container: str, health: HealthStatus) -> None:
        self._set(task, container, replace(self.look(task, container), health=health))

    def _set(self, task: str, container: str, state: ContainerState) -> None:
        self.states[task, container] = state
        if (task, container) in self._changed:
            self._changed.pop((task, container)).set()

    # -- as a Runtime ---------------------------------------------------------------------

    async def run(self) -> None:
        await trio.lowlevel.checkpoint()

    async def inspect(self, task: str, container: str) -> ContainerState:
        await trio.lowlevel.checkpoint()
        return self.look(task, container)

    async def start(self, local: LocalTask, container: str, attempt: int = 0) -> None:
        await trio.lowlevel.checkpoint()
        self.start_now(local, container, attempt)

    async def signal(self, task: str, container: str, *, kill: bool) -> bool:
        await trio.lowlevel.checkpoint()
        return self.signal_now(task, container, kill=kill)

    async def changed(self, task: str, container: str, known: ContainerState) -> ContainerState:
        await trio.lowlevel.checkpoint()
        while (state := self.look(task, container)) == known and state.phase is Phase.RUNNING:
            await self._changed.setdefault((task, container), trio.Event()).wait()
        return state

    async def remove(self, local: LocalTask) -> None:
        await trio.lowlevel.checkpoint()
        for where in [where for where in self.states if where[0] == local.id]:
            del self.states[where]
