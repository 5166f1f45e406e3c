"""Storage in LevelDB, through plyvel: the only module that knows plyvel.

Reads run in the caller's thread: a read from LevelDB's memory or cache takes a few
microseconds. Writes run in a worker thread, one at a time, because a synced write takes the
disk's time and any write may have to wait for LevelDB's own compaction.

An error of LevelDB's is never retried: after a failed write or sync nobody knows what is on the
disk (the kernel may have dropped the dirty pages), so the storage refuses all further writes and
the node stops. Reads verify LevelDB's own block checksums: a block that was read in spite of a flipped
bit could lose records without a trace, and the journal's seals cannot tell a lost record from one
that never was. Found in: "Can Applications Recover from fsync Failures?" (Rebello et al., 2020).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import plyvel
import trio

from journal.errors import DataFolderError, StorageFailed
from journal.storage import Write

WRITE_BUFFER_BYTES = 32 * 1024 * 1024
BLOCK_CACHE_BYTES = 64 * 1024 * 1024
OPEN_FILES_MAX = 512
BLOOM_FILTER_BITS = 10
"""Most gets of a new key find nothing: ten bits a key keep 99 % of them away from the disk."""


class LevelDBStorage:
    """An ordered map in a folder, locked by this process while it is open. See ``Storage``."""

    def __init__(self, path: Path | str, *, create: bool = True) -> None:
        """Open ``path``. Raises ``DataFolderError`` if it is locked or (without ``create``) not there,
        ``StorageFailed`` if it cannot be read."""
        self._path = Path(path)
        self._failed: str | None = None
        self._limiter = trio.CapacityLimiter(1)
        try:
            self._db = plyvel.DB(
                str(self._path),
                create_if_missing=create,
                paranoid_checks=True,
                write_buffer_size=WRITE_BUFFER_BYTES,
                lru_cache_size=BLOCK_CACHE_BYTES,
                max_open_files=OPEN_FILES_MAX,
                bloom_filter_bits=BLOOM_FILTER_BITS,
            )
        except plyvel.Error as error:
            raise _open_error(self._path, error) from error

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key, verify_checksums=True)
        except (plyvel.Error, RuntimeError) as error:
            raise StorageFailed(f"{self._path}: read failed: {error}") from error
        return value

    def iterate(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        # The iterator is made here, not on the first next(): its view is that of this moment.
        try:
            found = self._db.iterator(start=start, stop=stop, reverse=reverse, verify_checksums=True)
        except (plyvel.Error, RuntimeError) as error:
            raise StorageFailed(f"{self._path}: read failed: {error}") from error
        return _iterated(self._path, found)

    def view(self) -> LevelDBView:
        try:
            return LevelDBView(self._path, self._db.snapshot())
        except (plyvel.Error, RuntimeError) as error:
            raise StorageFailed(f"{self._path}: read failed: {error}") from error

    async def write(self, writes: Iterable[Write], *, sync: bool) -> None:
        await trio.to_thread.run_sync(self._write, writes, sync, limiter=self._limiter)

    def _write(self, writes: Iterable[Write], sync: bool) -> None:
        if self._failed is not None:
            raise StorageFailed(f"{self._path} is closed to writes: {self._failed}")
        try:
            batch = self._db.write_batch(sync=sync)
            put, delete = batch.put, batch.delete
            for key, value in writes:
                if value is None:
                    delete(key)
                else:
                    put(key, value)
            batch.write()
        except (plyvel.Error, RuntimeError) as error:
            self._failed = f"a write failed: {error}"
            raise StorageFailed(f"{self._path}: {self._failed}") from error

    def size_bytes(self) -> int:
        size = 0
        for file in self._path.iterdir():
            try:
                size += file.stat().st_size
            except FileNotFoundError:
                pass  # LevelDB removed it meanwhile
        return size

    def free_bytes(self) -> int | None:
        try:
            found = os.statvfs(self._path)
        except OSError:
            return None  # reads and writes will say what is wrong
        return found.f_bavail * found.f_frsize

    def close(self) -> None:
        self._db.close()


class LevelDBView:
    """A LevelDB snapshot. See ``journal.storage.View``."""

    def __init__(self, path: Path, snapshot: plyvel.Snapshot) -> None:
        self._path = path
        self._snapshot = snapshot

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._snapshot.get(key, verify_checksums=True)
        except (plyvel.Error, RuntimeError) as error:
            raise StorageFailed(f"{self._path}: read failed: {error}") from error
        return value

    def iterate(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            found = self._snapshot.iterator(start=start, stop=stop, reverse=reverse, verify_checksums=True)
        except (plyvel.Error, RuntimeError) as error:
            raise StorageFailed(f"{self._path}: read failed: {error}") from error
        return _iterated(self._path, found)

    def close(self) -> None:
        self._snapshot.close()


def _iterated(path: Path, found: plyvel.Iterator) -> Iterator[tuple[bytes, bytes]]:
    try:
        with found:
            yield from found
    except (plyvel.Error, RuntimeError) as error:
        raise StorageFailed(f"{path}: read failed: {error}") from error


def _open_error(path: Path, error: plyvel.Error) -> DataFolderError | StorageFailed:
    text = str(error)
    if "lock" in text.lower():
        return DataFolderError(f"{path} is locked: another process, most likely a live node, is using it")
    if "does not exist" in text:
        return DataFolderError(f"{path} holds no data")
    return StorageFailed(f"{path} cannot be opened: {text}")
