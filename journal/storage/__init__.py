"""Durable records: an ordered key-value store below, the journal's records above.

``Storage`` is the port. LevelDB (``leveldb``) and memory (``memory``) implement it
and pass the same contract tests; the simulator wraps the memory one in faults.
Reads are synchronous (a LevelDB read is microseconds); a write may block on the
disk, so it is asynchronous, and so is ``aside``, for reads of unknown length: these two
are the only places where the node meets a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")

Write = tuple[bytes, bytes | None]
"""Put (key, value), or delete (key, None)."""


class Reader(Protocol):
    """What there is to read, in a storage or in a view of one."""

    def get(self, key: bytes) -> bytes | None: ...

    def iterate(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]: ...


class View(Reader, Protocol):
    """All of a storage as it was when the view was taken, whatever is written meanwhile.

    It costs no copy, but keeps what is overwritten from being freed: ``close`` it, or drop it.
    """

    def close(self) -> None:
        """Let go of it. Idempotent; reading from it afterwards raises ``StorageFailed``."""
        ...


class Storage(Protocol):
    """An ordered map of bytes to bytes with atomic batches. Keys are not empty.

    A batch is applied whole or not at all. ``write(sync=True)`` returns when the batch
    and every batch before it are durable. One writer at a time: the caller awaits a
    write before starting the next. A failed write or sync raises ``StorageFailed`` and
    leaves the storage closed to further writes.
    """

    def get(self, key: bytes) -> bytes | None:
        """Return the value of ``key``, or None. Raises ``StorageFailed``."""
        ...

    def iterate(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) for start <= key < stop (None: no end) in order, from one
        consistent view taken now."""
        ...

    def view(self) -> View:
        """Return a view of this moment: of every write that has returned, and of none that has not begun."""
        ...

    async def write(self, writes: Iterable[Write], *, sync: bool) -> None:
        """Apply one atomic batch, later entries over earlier ones."""
        ...

    def write_now(self, writes: Iterable[Write], *, sync: bool) -> None:
        """Like ``write``, for a caller that may wait: in a thread of its own, or outside of trio."""
        ...

    async def aside(self, job: Callable[[], T]) -> T:
        """Run ``job`` where it holds nobody up, and return what it returns.

        For what may take long and only reads: many records, a range from which most was deleted (LevelDB
        passes over each deletion), the file system. It may run in another thread, beside writes: it must read
        from a view of its own. Jobs run one at a time, in their order.
        """
        ...

    def size_bytes(self) -> int:
        """Return the approximate space in use on disk. May block: call it ``aside``."""
        ...

    def free_bytes(self) -> int | None:
        """Return how much more the file system takes before a write fails. None: nobody can say.
        May block: call it ``aside``.

        Callers ask before they write, because a write that finds the disk full cannot be undone or
        tried again: it fails like any other (``StorageFailed``), and ends the node.
        """
        ...

    def close(self) -> None:
        """Release the folder. Idempotent. No write may be under way."""
        ...
