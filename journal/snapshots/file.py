"""Snapshot files on the disk: written beside their name, synced, and only then given it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from journal.errors import SnapshotDamaged
from journal.snapshots.format import KIND_END, KIND_HEADER, KIND_RECORDS, MAGIC, Header, Reader, pack_block


class SnapshotWriter:
    """A context manager: leaving it without an exception, after ``end``, makes the file be there, whole."""

    def __init__(self, path: Path) -> None:
        """``path`` must not exist. Raises ``OSError``."""
        self._path = path
        self.partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        """Where it is written until it is whole."""
        self._is_whole = False
        self.bytes = 0
        if path.exists():
            raise FileExistsError(f"{path} is there already: choose another name, or remove it")
        self._file = self.partial.open("xb")

    def header(self, header: Header) -> None:
        """Write what comes first."""
        self._write(MAGIC + pack_block(KIND_HEADER, header.pack()))

    def records(self, packed: bytes) -> None:
        """Write some packed records."""
        if packed:
            self._write(pack_block(KIND_RECORDS, packed))

    def end(self, packed: bytes) -> None:
        """Write what comes last, and make all of it durable."""
        self._write(pack_block(KIND_END, packed))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._is_whole = True

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.bytes += len(data)

    def __enter__(self) -> SnapshotWriter:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if error is not None or not self._is_whole:
            self.partial.unlink(missing_ok=True)
            return
        self.partial.rename(self._path)
        sync_folder(self._path.parent)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """Open a snapshot file. Raises ``SnapshotDamaged`` or ``OSError``."""
    with path.open("rb") as file:
        try:
            yield Reader(file.read)
        except SnapshotDamaged as error:
            raise SnapshotDamaged(error.position, error.why, str(path)) from None


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
