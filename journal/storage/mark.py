"""How far the data was synced, told beside it: what a log that ends too early is noticed by.

LevelDB finds damage in the middle of its log, and tables that are gone. A log that is gone, cut short, or
damaged in the length of one of its last records it takes for the end that a crash left. But what was synced
has been told to others, and a voter that forgets what it told does harm. So each synced batch carries its
number, and when it is synced the number is written to a small file, too. A folder whose data ends below
that number has lost synced batches: it is refused.

The file itself is not synced with each batch, which would double the cost of a commit; it is at each start.
The death of a process takes nothing from it. A loss of power may leave an older number, never one above
what is durable, as it is written behind the sync: so it raises no false alarm, and what it cannot tell is
whether the last batches before a loss of power (as many as the kernel had not written yet, some 30 s at
most) went with the log. A mark that is gone or damaged itself tells nothing; the data is all there then.
"""

from __future__ import annotations

import os
from pathlib import Path
from struct import Struct
from typing import Final

from journal.checksum import crc32
from journal.errors import FolderDamaged

NAME: Final = "SYNCED"
"""No name of LevelDB's own: it leaves the file alone."""

_MARK = Struct(">QI")  # number of synced batches, checksum
_NUMBER = Struct(">Q")


class SyncMark:
    """The mark of one folder. Its calls raise ``OSError``, but where they say something else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)

    def check(self, synced: int) -> None:
        """Compare with the number of the last batch that is in the data, and go on from there.

        Raises ``FolderDamaged`` where batches are missing that were synced.
        """
        marked = self._read()
        if marked is not None and marked > synced:
            raise FolderDamaged(
                f"{self._folder}: the log was cut short: it ends at the synced batch {synced} of {marked}"
            )
        self.note(synced)
        os.fsync(self._file)

    def note(self, synced: int) -> None:
        """So many batches are synced."""
        os.pwrite(self._file, _MARK.pack(synced, crc32(_NUMBER.pack(synced))), 0)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read(self) -> int | None:
        packed = os.pread(self._file, _MARK.size, 0)
        if len(packed) < _MARK.size:
            return None
        number, checksum = _MARK.unpack(packed)
        return int(number) if checksum == crc32(_NUMBER.pack(number)) else None
