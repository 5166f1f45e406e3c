"""The world of a run: when things happen, what was seen, and what went wrong.

Everything that happens at a time (a message arrives, a disk write ends, a partition heals) is an
entry of one heap, the agenda, which one task works off. Times are rounded up to a grid, so that
what is close happens at once: fewer jumps of the clock, and more coincidences.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from tests.sim.options import LULL_PERIOD_S, Options

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.network import Network
    from tests.sim.recorder import MemoryRecorder
    from tests.sim.watch import Watch

GRID_S = 0.0005
NS = 1_000_000_000


class Violation(NamedTuple):
    """Something that must not be, and was."""

    time: float
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


class Line(NamedTuple):
    """A line of the log. ``column``: a node's number; 0 for the world and the clients."""

    time: float
    column: int
    text: str


class World:
    """One run's shared state. ``network``, ``watch``, ``recorder`` and ``hosts`` are filled in by ``run``."""

    network: Network
    watch: Watch
    recorder: MemoryRecorder

    def __init__(self, options: Options, *, trace: bool = False, digest: bool = False) -> None:
        self.options = options
        self.hosts: dict[int, Host] = {}
        self.lines: list[Line] = []
        self.violations: list[Violation] = []
        self.scope = trio.CancelScope()
        """Everything runs in it; the first violation cancels it."""
        self.is_storm = True
        self.is_traced = trace
        self.nursery: trio.Nursery
        self._digest = sha256() if digest else None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._waiting: trio.CancelScope | None = None
        self._last_ns = 0
        self.edge_rng = self.rng("edge")

    # -- randomness ---------------------------------------------------------------------

    def rng(self, name: str) -> random.Random:
        """Return a generator for one purpose. Draws of one do not move the others."""
        return random.Random(f"synod-sim/{self.options.seed}/{name}")

    # -- time ---------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return trio.current_time()

    @property
    def is_lull(self) -> bool:
        """Whether the storm takes a break."""
        return trio.current_time() % LULL_PERIOD_S < self.options.lull * LULL_PERIOD_S

    def clock_ns(self) -> int:
        """Virtual nanoseconds, never the same twice: what happens in one thread has an order."""
        self._last_ns = max(self._last_ns + 1, int(trio.current_time() * NS))
        return self._last_ns

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Call ``act`` in ``delay_s`` from now."""
        self.at(trio.current_time() + delay_s, act)

    def at(self, due: float, act: Callable[[], None]) -> None:
        due = math.ceil(due / GRID_S) * GRID_S
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, act))
        if self._waiting is not None and due < self._waiting.deadline:
            self._waiting.deadline = due

    async def sleep(self, delay_s: float) -> None:
        """Sleep on the grid: much cheaper than ``trio.sleep``, which has a cancel scope each time."""
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

        def wake() -> None:
            if task is not None:
                trio.lowlevel.reschedule(task)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            nonlocal task
            task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self.after(delay_s, wake)
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def run_agenda(self) -> None:
        heap = self._heap
        while True:
            with trio.CancelScope(deadline=heap[0][0] if heap else math.inf) as self._waiting:
                await trio.sleep_forever()
            self._waiting = None
            now = trio.current_time()
            while heap and heap[0][0] <= now:
                heapq.heappop(heap)[2]()

    # -- what is seen -------------------------------------------------------------------

    def log(self, column: int, text: str) -> None:
        self.lines.append(Line(trio.current_time(), column, text))
        if self._digest is not None:
            self.digest(column, text)

    def trace(self, column: int, what: object) -> None:
        """Log what is too much for every run: messages, writes."""
        if self.is_traced:
            self.log(column, str(what))
        elif self._digest is not None:
            self.digest(column, what)

    @property
    def is_watched_closely(self) -> bool:
        return self.is_traced or self._digest is not None

    def digest(self, *what: object) -> None:
        """Let ``what`` count for the hash of all that happened."""
        if self._digest is not None:
            self._digest.update(f"{self._last_ns} {what!r}\n".encode())

    @property
    def hexdigest(self) -> str:
        return "" if self._digest is None else self._digest.hexdigest()

    def violate(self, rule: str, text: str) -> None:
        """Note a violation, and end the run."""
        self.violations.append(Violation(trio.current_time(), rule, text))
        self.log(0, f"VIOLATION {rule}: {text}")
        self.end()

    def crash_some(self, number: int) -> None:
        """Node ``number`` begins to install a snapshot: it may die while it does."""
        rng = self.rng(f"install/{number}/{trio.current_time()}")
        if self.is_storm and rng.random() < self.options.install_crash:
            host = self.hosts[number]

            def crash(power: bool = rng.random() < 0.7) -> None:
                if host.is_up and self.is_storm:
                    host.kill(power=power)
                    host.restart_later()

            self.after(rng.random() * 3 * self.options.disk_s, crash)

    def end(self) -> None:
        """Stop everything. The nodes' writers are shielded: they have to be let go."""
        for host in self.hosts.values():
            if host.life is not None:
                host.life.is_alive = False
                host.life.disk.abandon()
        self.scope.cancel()


class SimLog:
    """A node's log, as columns. Stands in for structlog's logger."""

    def __init__(self, world: World, column: int) -> None:
        self._world = world
        self._column = column

    def _write(self, event: str, **fields: Any) -> None:
        described = " ".join(f"{name}={value}" for name, value in fields.items())
        self._world.log(self._column, f"{event} {described}".rstrip())
        if event == "snapshot.installing":
            self._world.crash_some(self._column)
        elif event == "peer.violation":
            self._world.violate("a correct node is never taken for a wrong one", described)

    debug = info = warning = error = _write

    def bind(self, **_fields: Any) -> SimLog:
        return self
