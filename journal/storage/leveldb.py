"""Storage in LevelDB, through plyvel: the only module that knows plyvel.

Reads run in the caller's thread: a read from LevelDB's memory or cache takes a few
microseconds. Writes run in a worker thread, one at a time, because a synced write takes the
disk's time and any write may have to wait for LevelDB's own compaction.

An error of LevelDB's is never retried: after a failed write or sync nobody knows what is on the
disk (the kernel may have dropped the dirty pages), so the storage refuses all further writes and
the node stops. Reads verify LevelDB's own block checksums: a block that was read in spite of a flipped
bit could lose records without a trace, and the journal's seals cannot tell a lost record from one
that never was. Found in: "Can Applications Recover from fsync Failures?" (Rebello et al., 2020).

LevelDB syncs its folder only along with its manifest. So a log file that it has just begun, and the
name CURRENT of a new database, would be gone after a loss of power on a file system that promises no
more than POSIX does, whatever was synced into them; ext4 and its like happen to keep them. After each
synced write the folder is synced here where a name in it has changed. Found by ``tests/fuse``; see also
"All File Systems Are Not Created Equal" (Pillai et al., 2014).

LevelDB takes a log that is cut short for one that a crash left so: ``mark`` tells the two apart. It passes
over zeros in its log: ``holes`` does not.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import plyvel
import trio

from journal.errors import DataFolderError, DataLost, FolderDamaged, StorageFailed
from journal.storage import T, Write
from journal.storage.holes import refuse_holes
from journal.storage.mark import NAME, SyncMark

WRITE_BUFFER_BYTES_MIN, WRITE_BUFFER_BYTES_MAX = 20 * 1024 * 1024, 32 * 1024 * 1024
"""Of each node another, drawn when it opens. Nodes write the same: with buffers of one size they would all
write them out at the same moment, and a quorum of them would sync slowly just then (by 60 ms here)."""
BLOCK_CACHE_BYTES = 64 * 1024 * 1024
"""Of compressed blocks, which an earlier version wrote: LevelDB maps its tables into memory, and keeps no
copy of a block that is not compressed. 1 MB and 256 took the same time."""
OPEN_FILES_MAX = 512
BLOOM_FILTER_BITS = 10
"""Most gets of a new key find nothing: ten bits a key keep 99 % of them away from the disk."""
COMPRESSION = None
"""Of new blocks; those that are compressed stay readable. Snappy, as plyvel's wheels carry it, took a fifth
of a node's processor time under load (docs/performance.md), and what a journal holds is bounded anyhow."""
_FILE_CLOCK = getattr(time, "CLOCK_REALTIME_COARSE", time.CLOCK_REALTIME)
"""The clock that file systems stamp changes with."""
_SYNCED = b"\xff\xffsynced"
"""A record of this module's own, behind all others and not shown: how many batches were synced."""


class LevelDBStorage:
    """An ordered map in a folder, locked by this process while it is open. See ``Storage``."""

    def __init__(self, path: Path | str, *, create: bool = True) -> None:
        """Open ``path``. Raises ``DataFolderError`` if it is locked or (without ``create``) not there,
        ``StorageFailed`` if it cannot be read."""
        self._path = Path(path)
        self._failed: str | None = None
        self._limiter = trio.CapacityLimiter(1)
        self._aside = trio.CapacityLimiter(1)
        self._mark: SyncMark | None = None
        is_new = not (self._path / "CURRENT").exists()
        try:
            refuse_holes(self._path)
            self._db = plyvel.DB(
                str(self._path),
                create_if_missing=create,
                paranoid_checks=True,
                write_buffer_size=_drawn_write_buffer_bytes(),
                lru_cache_size=BLOCK_CACHE_BYTES,
                max_open_files=OPEN_FILES_MAX,
                bloom_filter_bits=BLOOM_FILTER_BITS,
                compression=COMPRESSION,
            )
        except plyvel.Error as error:
            raise _open_error(self._path, error) from error
        except OSError as error:
            raise StorageFailed(f"{self._path} cannot be opened: {error}") from error
        self._folder = -1
        try:
            self._synced = int.from_bytes(self._db.get(_SYNCED, b"", verify_checksums=True), "big")
            if is_new:
                (self._path / NAME).unlink(missing_ok=True)
            self._mark = SyncMark(self._path)
            self._mark.check(self._synced)
        except FolderDamaged:
            self.close()
            raise
        except (plyvel.Error, RuntimeError, OSError) as error:
            self.close()
            raise _failed(self._path, error) from error
        self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        self._names_at_ns = 0
        """The folder's change time up to which its names are on the disk."""

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key, verify_checksums=True)
        except (plyvel.Error, RuntimeError) as error:
            raise _failed(self._path, error) from error
        return value

    def iterate(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        # The iterator is made here, not on the first next(): its view is that of this moment.
        try:
            found = self._db.iterator(
                start=start, stop=stop or _SYNCED, reverse=reverse, verify_checksums=True
            )
        except (plyvel.Error, RuntimeError) as error:
            raise _failed(self._path, error) from error
        return _iterated(self._path, found)

    def view(self) -> LevelDBView:
        try:
            return LevelDBView(self._path, self._db.snapshot())
        except (plyvel.Error, RuntimeError) as error:
            raise _failed(self._path, error) from error

    async def write(self, writes: Iterable[Write], *, sync: bool) -> None:
        await trio.to_thread.run_sync(partial(self.write_now, writes, sync=sync), limiter=self._limiter)

    def write_now(self, writes: Iterable[Write], *, sync: bool) -> None:
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
            if sync:
                self._synced += 1
                put(_SYNCED, self._synced.to_bytes(8, "big"))
            batch.write()
            if sync:
                self._sync_names()
                assert self._mark is not None
                self._mark.note(self._synced)
        except (plyvel.Error, RuntimeError, OSError) as error:
            self._failed = f"a write failed: {error}"
            raise StorageFailed(f"{self._path}: {self._failed}") from error

    def _sync_names(self) -> None:
        """Make durable which files there are, if that has changed. Raises ``OSError``."""
        now_ns = time.clock_gettime_ns(_FILE_CLOCK)
        changed_ns = os.fstat(self._folder).st_mtime_ns
        if changed_ns == self._names_at_ns:
            return
        os.fsync(self._folder)
        if changed_ns < now_ns:  # else a change in the same tick of that clock would go unnoticed
            self._names_at_ns = changed_ns

    async def aside(self, job: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(job, limiter=self._aside)

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
        if self._mark is not None:
            self._mark.close()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1


class LevelDBView:
    """A LevelDB snapshot. See ``journal.storage.View``."""

    def __init__(self, path: Path, snapshot: plyvel.Snapshot) -> None:
        self._path = path
        self._snapshot = snapshot

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._snapshot.get(key, verify_checksums=True)
        except (plyvel.Error, RuntimeError) as error:
            raise _failed(self._path, error) from error
        return value

    def iterate(
        self, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            found = self._snapshot.iterator(
                start=start, stop=stop or _SYNCED, reverse=reverse, verify_checksums=True
            )
        except (plyvel.Error, RuntimeError) as error:
            raise _failed(self._path, error) from error
        return _iterated(self._path, found)

    def close(self) -> None:
        self._snapshot.close()


def _iterated(path: Path, found: plyvel.Iterator) -> Iterator[tuple[bytes, bytes]]:
    try:
        with found:
            yield from found
    except (plyvel.Error, RuntimeError) as error:
        raise _failed(path, error) from error


def _drawn_write_buffer_bytes() -> int:
    return WRITE_BUFFER_BYTES_MIN + secrets.randbelow(WRITE_BUFFER_BYTES_MAX - WRITE_BUFFER_BYTES_MIN)


def _open_error(path: Path, error: plyvel.Error) -> DataFolderError | StorageFailed:
    text = str(error)
    if "lock" in text.lower():
        return DataFolderError(f"{path} is locked: another process, most likely a live node, is using it")
    if "does not exist" in text:
        return DataLost(f"{path} holds no data")
    kind = FolderDamaged if isinstance(error, plyvel.CorruptionError) else StorageFailed
    return kind(f"{path} cannot be opened: {text}")


def _failed(path: Path, error: Exception) -> StorageFailed:
    kind = FolderDamaged if isinstance(error, plyvel.CorruptionError) else StorageFailed
    return kind(f"{path}: read failed: {error}")
