"""What drives a node: who gives it its turns, and who carries its batches to the disk.

A node decides in *turns* (``node.Node``), plain functions that never wait. Whoever has something for it asks
for a turn, and many who ask before it comes share it. While a batch is on its way to the disk the node
goes on; when it is there the node is told, and has another turn.

``TrioDriver`` does both as tasks of trio, on whatever storage and clock: in the simulator and in tests. Where
asyncio hosts trio, ``rpc.driver.HostDriver`` does the same without trio's scheduler between a message
and the turn that it asks for, and without a task between the turn and the disk's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from journal.storage import Storage, Write


class Driver(Protocol):
    """Drives one node, in one OS thread. Nothing here calls the node from within a call of the node."""

    def wake(self) -> None:
        """Give the node a turn soon. Of those who ask before it comes, one is as good as many."""
        ...

    def wake_in(self, delay_s: float) -> None:
        """Give a turn after about so many seconds. Before that has come about, it is not asked for again."""
        ...

    def write(
        self, storage: Storage, writes: Sequence[Write], *, sync: bool, written: Callable[[], None]
    ) -> None:
        """Store one batch; when that has come about, call ``written`` and give a turn.

        One at a time: not before the last one's ``written`` was called. A batch that fails ends ``run``.
        """
        ...

    async def run(self, turn: Callable[[], None]) -> None:
        """Drive until cancelled. A batch that is under way then is stored, and ``written`` called, anyhow.

        Raises what a turn raises, and ``StorageFailed``.
        """
        ...


class TrioDriver:
    """A driver of trio tasks. See ``Driver``."""

    def __init__(self) -> None:
        self._due = trio.Event()
        self._is_timed = False
        self._nursery: trio.Nursery | None = None
        self._taken = trio.Event()
        self._batch: tuple[Storage, Sequence[Write], bool, Callable[[], None]] | None = None

    def wake(self) -> None:
        self._due.set()

    def wake_in(self, delay_s: float) -> None:
        if self._nursery is not None and not self._is_timed:
            self._is_timed = True
            self._nursery.start_soon(self._wake_after, delay_s)

    async def _wake_after(self, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self._is_timed = False
        self.wake()

    def write(
        self, storage: Storage, writes: Sequence[Write], *, sync: bool, written: Callable[[], None]
    ) -> None:
        assert self._batch is None, "one batch at a time"
        self._batch = storage, writes, sync, written
        self._taken.set()

    async def run(self, turn: Callable[[], None]) -> None:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._store)
            while True:
                await self._due.wait()
                self._due = trio.Event()
                turn()

    async def _store(self) -> None:
        while True:
            try:
                await self._taken.wait()
            finally:  # also where it is cancelled: what was handed over is stored all the same
                self._taken = trio.Event()
                await self._carry()

    async def _carry(self) -> None:
        if self._batch is None:
            return
        storage, writes, sync, written = self._batch
        # Shielded: a batch that was taken and not written would leave a hole below the next one.
        with trio.CancelScope(shield=True):
            await storage.write(writes, sync=sync)
        self._batch = None
        written()
        self.wake()
