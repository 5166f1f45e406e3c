"""A node's clock: it may run fast or slow, and jump forward (a machine that was suspended)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from tests.sim.world import World


class SimClock:
    """Implements ``journal.node.Clock`` over the world's time."""

    def __init__(self, world: World, rate: float, wall_offset_ms: int) -> None:
        self.rate = rate
        self._world = world
        self._jumped = 0.0
        self._wall_offset_ms = wall_offset_ms
        self._resumed: trio.Event | None = None
        """While the node is paused: it wakes from no sleep."""

    def now(self) -> float:
        return trio.current_time() * self.rate + self._jumped

    def wall_ms(self) -> int:
        return max(0, int(trio.current_time() * 1000) + self._wall_offset_ms)

    async def sleep_until(self, deadline: float) -> None:
        while (left := deadline - self.now()) > 1e-9:  # it may jump meanwhile: then a tick comes late
            await self._world.sleep(left / self.rate)
        while self._resumed is not None:
            await self._resumed.wait()

    def jump(self, forward_s: float, wall_ms: int) -> None:
        self._jumped += forward_s
        self._wall_offset_ms += wall_ms

    def pause(self) -> None:
        if self._resumed is None:
            self._resumed = trio.Event()

    def resume(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None
