"""Storage in memory, for tests and simulation.

It keeps two maps: what readers see, and what a power failure would leave. ``crashed`` returns
the storage that a restarted process finds: everything synced, and of the batches written since
the last sync as many as the caller says, in order (an operating system may or may not have
written them out, but LevelDB's log never keeps a later batch without an earlier one).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from weakref import WeakSet

import trio
from sortedcontainers import SortedDict

from journal.errors import StorageFailed
from journal.storage import T, Write


class _Iterator:
    """An iterator over a map that will not change under it: writers copy a map that is in view."""

    __slots__ = ("__weakref__", "_keys", "_map")

    def __init__(self, shown: SortedDict, start: bytes, stop: bytes | None, reverse: bool) -> None:
        self._map = shown
        self._keys = shown.irange(start, stop, inclusive=(True, False), reverse=reverse)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self

    def __next__(self) -> tuple[bytes, bytes]:
        key: bytes = next(self._keys)
        return key, self._map[key]


class MemoryView:
    """All of a map that will not change under it. See ``journal.storage.View``."""

    __slots__ = ("__weakref__", "_map")

    def __init__(self, shown: SortedDict) -> None:
        self._map: SortedDict | None = shown

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._open().get(key)
        return value

    def iterate(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return _Iterator(self._open(), start, stop, reverse)

    def close(self) -> None:
        self._map = None

    def _open(self) -> SortedDict:
        if self._map is None:
            raise StorageFailed("the view is closed")
        return self._map


class MemoryStorage:
    """An ordered map in memory with LevelDB's durability. See ``Storage``."""

    def __init__(self) -> None:
        self._shown: SortedDict = SortedDict()
        self._durable: SortedDict = SortedDict()
        self._unsynced: list[list[Write]] = []
        self._views: WeakSet[_Iterator | MemoryView] = WeakSet()
        self._bytes = 0
        self._failed: str | None = None
        self._closed = False
        self.capacity_bytes: int | None = None
        """What fits; a write past it fails, as on a full disk."""
        self.on_write: Callable[[list[Write], bool], None] | None = None
        """A fault site: called with (batch, sync) before a batch is applied; may raise ``StorageFailed``."""

    # -- Storage ----------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        self._check_open()
        value: bytes | None = self._shown.get(key)
        return value

    def iterate(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        found = _Iterator(self._shown, start, stop, reverse)
        self._views.add(found)
        return found

    def view(self) -> MemoryView:
        self._check_open()
        view = MemoryView(self._shown)
        self._views.add(view)
        return view

    async def write(self, writes: Iterable[Write], *, sync: bool) -> None:
        batch = list(writes)
        await trio.lowlevel.checkpoint()
        self.write_now(batch, sync=sync)

    async def aside(self, job: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return job()

    def size_bytes(self) -> int:
        return self._bytes

    def free_bytes(self) -> int | None:
        return None if self.capacity_bytes is None else max(0, self.capacity_bytes - self._bytes)

    def close(self) -> None:
        self._closed = True

    def write_now(self, writes: Iterable[Write], *, sync: bool) -> None:
        batch = list(writes)
        self._check_open()
        if self._failed is not None:
            raise StorageFailed(f"the storage is closed to writes: {self._failed}")
        try:
            if self.on_write is not None:
                self.on_write(batch, sync)
            if self.capacity_bytes is not None:
                self._check_fits(batch)
        except StorageFailed as error:
            self._failed = str(error)
            raise
        if self._views:
            self._shown = self._shown.copy()
            self._views = WeakSet()
        self._apply(self._shown, batch, count=True)
        self._unsynced.append(batch)
        if sync:
            for unsynced in self._unsynced:
                self._apply(self._durable, unsynced)
            self._unsynced.clear()

    # -- beyond Storage ---------------------------------------------------------

    @property
    def unsynced_batches(self) -> int:
        """Batches that a power failure may take."""
        return len(self._unsynced)

    def crashed(self, unsynced_kept: int = 0) -> MemoryStorage:
        """Return what a restart finds: the durable batches and the first ``unsynced_kept`` others."""
        found = MemoryStorage()
        found._durable = self._durable.copy()
        for batch in self._unsynced[:unsynced_kept]:
            self._apply(found._durable, batch)
        found._shown = found._durable.copy()
        found.capacity_bytes = self.capacity_bytes
        found._bytes = sum(len(key) + len(value) for key, value in found._shown.items())
        return found

    def _apply(self, target: SortedDict, batch: list[Write], count: bool = False) -> None:
        for key, value in batch:
            old = target.pop(key, None) if value is None else target.get(key)
            if value is not None:
                target[key] = value
            if count:
                self._bytes += (0 if value is None else len(key) + len(value)) - (
                    0 if old is None else len(key) + len(old)
                )

    def _check_fits(self, batch: list[Write]) -> None:
        grows = 0
        for key, value in dict(batch).items():
            old = self._shown.get(key)
            grows += (0 if value is None else len(key) + len(value)) - (
                0 if old is None else len(key) + len(old)
            )
        if grows > 0 and self._bytes + grows > (self.capacity_bytes or 0):
            raise StorageFailed("write failed: no space left on device")

    def _check_open(self) -> None:
        if self._closed:
            raise StorageFailed("the storage is closed")
