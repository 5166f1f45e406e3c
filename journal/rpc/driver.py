"""Drives a node from asyncio's loop: the way of an offer meets neither trio's scheduler nor a task.

gRPC's handlers run in the loop that hosts trio. A turn is a callback of that loop, run when the handlers that
are ready have had theirs; a batch goes to one thread of this driver's own and comes back as a callback.
Both used to be trio tasks. A lone offer then woke trio's scheduler eight times on three nodes, and each
batch passed through two threads' queues more (docs/performance.md has what that cost).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence

import trio

from journal.storage import Storage, Write

_Job = tuple[Storage, Sequence[Write], bool]


class HostDriver:
    """Callbacks of ``loop``, which hosts the trio run that calls ``run``. See ``driver.Driver``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turn: Callable[[], None] | None = None
        self._is_due = False
        self._is_timed = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._written: Callable[[], None] | None = None
        """Of the batch that is under way."""
        self._idle = trio.Event()
        self._idle.set()
        self._error: BaseException | None = None
        self._failed = trio.Event()

    def wake(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._take_turn)

    def wake_in(self, delay_s: float) -> None:
        if not self._is_timed:
            self._is_timed = True
            self._loop.call_later(delay_s, self._time)

    def _time(self) -> None:
        self._is_timed = False
        self._take_turn()

    def write(
        self, storage: Storage, writes: Sequence[Write], *, sync: bool, written: Callable[[], None]
    ) -> None:
        assert self._written is None, "one batch at a time"
        self._written = written
        self._idle = trio.Event()
        self._jobs.put((storage, writes, sync))

    async def run(self, turn: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._store, name="synod-disk", daemon=True)
        thread.start()
        self._turn = turn
        self.wake()
        try:
            await self._failed.wait()
        finally:
            self._turn = None
            with trio.CancelScope(shield=True):
                await self._idle.wait()
            self._jobs.put(None)
            thread.join()
        assert self._error is not None
        raise self._error

    def _take_turn(self) -> None:
        self._is_due = False
        if self._turn is None:
            return
        try:
            self._turn()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End ``run`` with the first error; nothing is done after it."""
        if self._error is None:
            self._error = error
            self._failed.set()
        self._turn = None

    # -- the disk's thread ----------------------------------------------------------------

    def _store(self) -> None:
        while (job := self._jobs.get()) is not None:
            storage, writes, sync = job
            error: BaseException | None = None
            try:
                storage.write_now(writes, sync=sync)
            except BaseException as raised:
                error = raised
            self._loop.call_soon_threadsafe(self._stored, error)

    def _stored(self, error: BaseException | None) -> None:
        written, self._written = self._written, None
        assert written is not None
        if error is not None:
            self._fail(error)
        else:
            try:
                written()
            except BaseException as raised:
                self._fail(raised)
            # At once, and not when the handlers that are ready have had theirs: what is durable is to go on.
            self._take_turn()
        if self._written is None:  # else that turn has begun the next batch
            self._idle.set()
