"""A node's disk: it is slow, it fails a sync, and at a power loss it drops what was not synced.

Below is ``MemoryStorage``, which keeps what readers see and what a power failure would leave.
What a batch does when the machine dies while it is being written is drawn: it may be whole on
the disk though nobody was told, or not be there at all (a batch is never torn: LevelDB's log has
a checksum per batch, and drops a torn one). A full disk fails the write that does not fit.

``spoil`` damages what is there, at rest, as ``tests.paxos.damage`` does under the core: bits flip, records
get lost or turn up in each other's place. A lost block is more than a lost record: LevelDB has checksums
of its blocks, and fails to read it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import trio

from journal.errors import StorageFailed
from journal.storage import T, View, Write
from journal.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from tests.sim.host import Host


class SimDisk:
    """Implements ``journal.storage.Storage`` for one life of a node."""

    def __init__(self, memory: MemoryStorage, host: Host, rng: random.Random) -> None:
        self.memory = memory
        self._host = host
        self._rng = rng
        self._dead = trio.Event()
        self._done: trio.Event | None = None
        self._writing: tuple[list[Write], bool] | None = None
        self.fails_next_sync = False
        self.has_failed = False
        self.slow_until = 0.0
        self.slow_factor = 1.0
        self.writes = 0
        self.syncs = 0

    def get(self, key: bytes) -> bytes | None:
        if self._host.bad_block is not None:
            self._check(key)
        return self.memory.get(key)

    def iterate(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        found = self.memory.iterate(start, stop, reverse=reverse)
        return found if self._host.bad_block is None else self._checked(found)

    def _checked(self, found: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for key, value in found:
            self._check(key)
            yield key, value

    def _check(self, key: bytes) -> None:
        block = self._host.bad_block
        if block is not None and block[0] <= key <= block[1]:
            self.has_failed = True
            raise StorageFailed("read failed: a block is damaged: an injected fault")

    def view(self) -> View:
        return self.memory.view()

    async def write(self, writes: Iterable[Write], *, sync: bool) -> None:
        if self._dead.is_set():  # or the run is over: nobody would end it
            raise StorageFailed("the machine is gone")
        batch = list(writes)
        assert self._writing is None or self.has_failed, "one writer at a time"
        self._writing = (batch, sync)
        mean = self._host.world.options.disk_s if sync else 0.00001
        delay = self._rng.expovariate(1.0 / mean)
        now = trio.current_time()
        if now < self.slow_until:
            delay = delay * self.slow_factor if sync else delay
        self._done = done = trio.Event()
        self._host.world.after(delay, done.set)
        await done.wait()
        while self._host.is_paused and not self._dead.is_set():
            await self._host.wait_resumed(self._dead)
        if self._dead.is_set():
            raise StorageFailed("the machine is gone")
        if sync and self.fails_next_sync:
            self.fails_next_sync, self.has_failed = False, True
            self._host.world.log(self._host.number, "the disk fails a sync")
            if self._rng.random() < 0.5:
                # What was written before and not synced is gone with it, whatever a later sync says: the
                # kernel takes pages that it could not write for clean (Rebello et al., 2020).
                self.memory._unsynced.clear()
                self._writing = None
            # Else it may be on the disk all the same: that is drawn when the process ends.
            raise StorageFailed("sync failed: an injected fault")
        self._writing = None
        self.writes += 1
        self.syncs += sync
        try:
            self.memory.write_now(batch, sync=sync)
        except StorageFailed as error:
            self.has_failed = True
            self._host.world.log(self._host.number, f"the disk fails: {error}")
            raise

    def write_now(self, writes: Iterable[Write], *, sync: bool) -> None:
        self.memory.write_now(writes, sync=sync)

    async def aside(self, job: Callable[[], T]) -> T:
        return await self.memory.aside(job)

    def size_bytes(self) -> int:
        return self.memory.size_bytes()

    def free_bytes(self) -> int | None:
        return self.memory.free_bytes()

    def close(self) -> None:
        self.memory.close()

    def heal(self) -> None:
        """From now on it works well; what stood still ends soon."""
        self.slow_until, self.fails_next_sync = 0.0, False
        if self._done is not None:
            self._host.world.after(0.01, self._done.set)

    def abandon(self) -> None:
        """The run is over: a write that is under way ends, so that its writer can."""
        self._dead.set()
        if self._done is not None:
            self._done.set()

    def die(self, *, power: bool) -> MemoryStorage:
        """The process is gone, or with ``power`` the machine. Returns what a restart finds."""
        self.abandon()
        unsynced = self.memory.unsynced_batches
        if self._writing is not None:
            batch, _sync = self._writing
            # It was on its way: to the operating system, or farther.
            if self._rng.random() < 0.5 and not self.memory._failed and self._took(batch):
                if not power:
                    unsynced += 1
                elif self._rng.random() < 0.7:
                    unsynced = self.memory.unsynced_batches
        kept = self._rng.randint(0, min(unsynced, self.memory.unsynced_batches)) if power else 10**9
        found = self.memory.crashed(kept)
        self.memory.close()
        return found

    def _took(self, batch: list[Write]) -> bool:
        try:
            self.memory.write_now(batch, sync=False)
        except StorageFailed:  # it is full
            return False
        return True
