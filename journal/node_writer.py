"""The writer of a node: it has what has gathered made durable, then does what waited for it.

While a batch is being written everything that arrives gathers for the next one: under load batches
grow by themselves, alone an offer waits for nobody. Log records come before those of the space in a
batch, and batches are stored in the order in which they were taken: so the applied slot on the disk
never runs ahead of what it folds, nor a marker ahead of the promise that belongs to it.

A few records of the space do not start a write: they ride with the next log records, or go after
``flush_interval_s``. Many go at once where the disk has nothing else to do: else the next log records, which
somebody waits for, would wait until all of those are stored, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from journal.counters import Counters
from journal.driver import Driver
from journal.node_config import Clock
from journal.paxos.effects import SendEntries
from journal.paxos.messages import Envelope
from journal.storage import Storage, Write
from journal.types import Slot

SPACE_RECORDS_ALONE = 64
"""So many records of the space are worth a write of their own."""


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

    def wake(self) -> None:
        """Take a turn soon."""
        ...


class Writer:
    """What waits for the disk. At the end of each turn of the node it is ``kick``ed, and begins a write."""

    def __init__(
        self,
        storage: Storage,
        driver: Driver,
        clock: Clock,
        counters: Counters,
        flush_interval_s: float,
        host: Host,
    ) -> None:
        self.storage = storage
        self.log_writes: list[Write] = []
        """Of the acceptor: synced."""
        self.log_bytes = 0
        """Values in ``log_writes``."""
        self.logged_bytes = 0
        """Values of the log taken to be written since the start."""
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
        self._is_ready = False
        self._driver = driver
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
        """Queue records of the log: they are synced. Within a turn."""
        queued = len(self.log_writes)
        self.log_writes.extend(writes)
        self.log_bytes += sum(len(value) for _key, value in self.log_writes[queued:] if value is not None)
        if self.log_writes:
            self._is_ready = True

    def space(self, writes: Iterable[Write], now: float) -> None:
        """Queue records of the space, behind those of all slots folded before."""
        if not self.space_writes:
            self._space_writes_since = now
        self.space_writes.extend(writes)

    def when_durable(self, envelopes: Sequence[Envelope], learners: Sequence[SendEntries]) -> None:
        """Send, and answer, when all that was queued so far is on the disk. Within a turn."""
        self._after_write.extend(envelopes)
        self.learners.extend(learners)
        self._is_ready = True

    def batch(self, writes: list[Write], *, sync: bool, written: Callable[[], None]) -> None:
        """Queue records and have them written soon; then call ``written``."""
        (self.log_writes if sync else self.space_writes).extend(writes)
        self._when_written.append(written)
        self.flush()

    def flush(self) -> None:
        """Have all that is queued written soon."""
        self._flush_wanted = True
        self._is_ready = True
        self._host.wake()

    def tick(self, now: float) -> None:
        """Flush records of the space that have waited long enough for a log write to ride with."""
        if self.space_writes and now - self._space_writes_since >= self._flush_interval_s:
            self.flush()

    # -- writing ----------------------------------------------------------------------

    def kick(self) -> None:
        """Begin to make durable all that was gathered so far, unless a write is under way."""
        if len(self.space_writes) >= SPACE_RECORDS_ALONE:
            self._flush_wanted = self._is_ready = True
        if not self._is_ready or self.is_writing:
            return
        self._is_ready = False
        batch = self._take()
        if batch.writes is None:
            self._finish(batch)
            self._host.wake()
            return
        self.is_writing = True
        self._write_since = self._clock.now()
        self._driver.write(self.storage, batch.writes, sync=batch.sync, written=lambda: self._written(batch))

    async def write_rest(self) -> None:
        """Make durable what is left, when nobody drives the node any more. Raises ``StorageFailed``."""
        batch = self._take()
        if batch.writes is not None:
            await self.storage.write(batch.writes, sync=batch.sync)
        self._finish(batch)

    def _take(self) -> _Batch:
        batch = _Batch(
            None, bool(self.log_writes), self.flushed, self._after_write, self.learners, self._when_written
        )
        self._after_write, self.learners, self._when_written = [], [], []
        if batch.sync or self._flush_wanted:
            batch.writes = self.log_writes + self.space_writes
            batch.folded = self._host.folded()
            self.log_writes, self.space_writes = [], []
            self.logged_bytes += self.log_bytes
            self.log_bytes = 0
            self._flush_wanted = False
            self.batches += 1
        return batch

    def _written(self, batch: _Batch) -> None:
        self.is_writing = False
        if batch.sync:
            self._counters.sync_s.observe(self._clock.now() - self._write_since)
        self._finish(batch)

    def _finish(self, batch: _Batch) -> None:
        """What was to be stored is stored: do what waited for it."""
        if batch.writes is not None:
            self.flushed = batch.folded
            self._host.flushed(batch.folded)
        for call in batch.written:
            call()
        if batch.after:
            self._host.is_durable(batch.after)
        self._host.answer_learners(batch.learners)


@dataclass(slots=True)
class _Batch:
    """What is written at once, and what waits for it."""

    writes: list[Write] | None
    """None: there is nothing to be written, it need only be behind what was."""
    sync: bool
    folded: Slot
    """The last slot whose records it has."""
    after: list[Envelope]
    learners: list[SendEntries]
    written: list[Callable[[], None]]
