"""The port to whatever runs containers, and a runtime in memory for tests.

A runtime keeps its own durable notes of what it started, so that it can be asked
after an agent's crash. Containers are named by (task, container).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from agent.reconcile import ContainerState, LocalTask, Phase


class Runtime(Protocol):
    """What the agent needs of processes, Docker, or anything else that runs containers."""

    def inspect(self, task: str, container: str) -> ContainerState:
        """Return what there is of a container. Never raises for one that was never started."""
        ...

    async def start(self, local: LocalTask, container: str) -> None:
        """Start a container, once at most, however often this is called by however many agents.

        Returns when it runs or has failed to; ``inspect`` says which. Raises ``OSError`` where the
        machine does not allow to try at present; then it may be called again.
        """
        ...

    def signal(self, task: str, container: str, *, kill: bool) -> bool:
        """Send SIGTERM, or SIGKILL, to everything of a container.

        False: it could not be sent yet (it is being started), try again.
        """
        ...

    async def wait(self, task: str, container: str) -> None:
        """Return when a running container has stopped (at once if it is not running)."""
        ...

    def remove(self, task: str) -> None:
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

    def inspect(self, task: str, container: str) -> ContainerState:
        return self.states.get((task, container), ContainerState())

    async def start(self, local: LocalTask, container: str) -> None:
        await trio.lowlevel.checkpoint()
        self.start_now(local, container)

    def start_now(self, local: LocalTask, container: str) -> None:
        """Start without a checkpoint, for tests that have no loop."""
        where = (local.id, container)
        if where in self.states:
            return
        self.starts.append(where)
        state = self.on_start(local, container) if self.on_start else None
        self.states[where] = state or ContainerState(
            phase=Phase.RUNNING, runtime_id=str(len(self.starts)), started_at=self.clock()
        )

    def signal(self, task: str, container: str, *, kill: bool) -> bool:
        if (task, container) not in self.states:
            return False
        self.signals.append((task, container, kill))
        if kill or (task, container) not in self.ignores_term:
            self.finish(task, container, exit_code=137 if kill else 143)
        return True

    def finish(self, task: str, container: str, *, exit_code: int = 0) -> None:
        where = (task, container)
        state = self.states.get(where)
        if state is None or state.phase is not Phase.RUNNING:
            return
        self.states[where] = replace(state, phase=Phase.STOPPED, exit_code=exit_code, stopped_at=self.clock())
        if where in self._changed:
            self._changed.pop(where).set()

    async def wait(self, task: str, container: str) -> None:
        where = (task, container)
        while self.inspect(task, container).phase is Phase.RUNNING:
            await self._changed.setdefault(where, trio.Event()).wait()

    def remove(self, task: str) -> None:
        for where in [where for where in self.states if where[0] == task]:
            del self.states[where]
