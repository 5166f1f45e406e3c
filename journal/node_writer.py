"""The writer of a node: one task that makes durable what has gathered, then does what waited for it.

While a batch is being written everything that arrives gathers for the next one: under load batches
grow by themselves, alone an offer waits for nobody. Log records come before those of the space in a
batch, and batches are stored in the order in which they were taken: so the applied slot on the disk
never runs ahead of what it folds, nor a marker ahead of the promise that belongs to it.

Records of the space alone do not start a write. They ride with the next log records, or go after
``flush_interval_s``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio

from journal.counters import Counters
from journal.node_config import Clock
from journal.paxos.effects import SendEntries
from journal.paxos.messages import Envelope
from journal.storage import Storage, Write
from journal.types import Slot


class Host(Protocol):
    """The node, as its writer needs it."""

    def folded(self) -> Slot:
        """Return the last slot whose records have been queued."""
        ...

    def flushed(self, slot: Slot) -> None:
        """The records of every slot up to ``slot`` are in storage."""
        ...

    def is_durable(self, envelopes: Sequence[Envelope]) -> None:
        """What these messages say is on the disk: send them."""
        ...

    def answer_learners(self, requests: list[SendEntries]) -> None: ...

    def wake(self) -> None: ...


class Writer:
    """What waits for the disk. Only ``run`` writes, but for one ``write_batch`` after it has ended."""

    def __init__(
        self, storage: Storage, clock: Clock, counters: Counters, flush_interval_s: float, host: Host
    ) -> None:
        self.storage = storage
        self.log_writes: list[Write] = []
        """Of the acceptor: synced."""
        self.log_bytes = 0
        """Values in ``log_writes``."""
        self.space_writes: list[Write] = []
        self.learners: list[SendEntries] = []
        """To be answered from the log: only behind the write of what was drained with the request."""
        self.is_writing = False
        self.batches = 0
        """Taken to be written since the start."""
        self.flushed = host.folded()
        self._space_writes_since = 0.0
        self._after_write: list[Envelope] = []
        self._when_written: list[Callable[[], None]] = []
        self._write_since = 0.0
        self._flush_wanted = False
        self._ready = trio.Event()
        self._clock = clock
        self._counters = counters
        self._flush_interval_s = flush_interval_s
        self._host = host

    @property
    def under_way_s(self) -> float:
        """How long the present write to the disk takes already; 0 where there is none."""
        return self._clock.now() - self._write_since if self.is_writing else 0.0

    # -- what is to be written --------------------------------------------------------

    def log(self, writes: Iterable[Write]) -> None:
        """Queue records of the log: they are synced."""
        queued = len(self.log_writes)
        self.log_writes.extend(writes)
        self.log_bytes += sum(len(value) for _key, value in self.log_writes[queued:] if value is not None)
        if self.log_writes:
            self._ready.set()

    def space(self, writes: Iterable[Write], now: float) -> None:
        """Queue records of the space, behind those of all slots folded before."""
        if not self.space_writes:
            self._space_writes_since = now
        self.space_writes.extend(writes)

    def when_durable(self, envelopes: Sequence[Envelope], learners: Sequence[SendEntries]) -> None:
        """Send, and answer, when all that was queued so far is on the disk."""
        self._after_write.extend(envelopes)
        self.learners.extend(learners)
        self._ready.set()

    def batch(self, writes: list[Write], *, sync: bool, written: Callable[[], None]) -> None:
        """Queue records and have them written soon; then call ``written``."""
        (self.log_writes if sync else self.space_writes).extend(writes)
        self._when_written.append(written)
        self.flush()

    def flush(self) -> None:
        """Have all that is queued written soon."""
        self._flush_wanted = True
        self._ready.set()

    def tick(self, now: float) -> None:
        """Flush records of the space that have waited long enough for a log write to ride with."""
        if self.space_writes and now - self._space_writes_since >= self._flush_interval_s:
            self.flush()

    # -- writing ----------------------------------------------------------------------

    async def run(self) -> None:
        """Write until cancelled. Raises ``StorageFailed``."""
        while True:
            await self._ready.wait()
            self._ready = trio.Event()
            await self.write_batch()
            self._host.wake()

    async def write_batch(self) -> None:
        """Make everything gathered so far durable, then do what waited for it."""
        after, self._after_write = self._after_write, []
        learners, self.learners = self.learners, []
        written, self._when_written = self._when_written, []
        sync = bool(self.log_writes)
        if sync or self._flush_wanted:
            writes = self.log_writes + self.space_writes
            flushed = self._host.folded()
            self.log_writes, self.space_writes = [], []
            self.log_bytes = 0
            self._flush_wanted = False
            self.batches += 1
            self.is_writing = True
            self._write_since = self._clock.now()
            # Shielded: a batch that was taken and not written would leave a hole below the next one.
            with trio.CancelScope(shield=True):
                await self.storage.write(writes, sync=sync)
            self.is_writing = False
            if sync:
                self._counters.sync_s.observe(self._clock.now() - self._write_since)
            self.flushed = flushed
            self._host.flushed(flushed)
        for call in written:
            call()
        if after:
            self._host.is_durable(after)
        self._host.answer_learners(learners)
