"""Holes in LevelDB's log: zeros in the place of records, with more of the log behind them.

LevelDB passes over a record of kind 0 and length 0, and over the rest of its block, and says nothing: such
come from logs that were written through a memory map, which it has not done for long. A block that a disk
has lost reads as zeros, too. Where the lost part begins and ends between records, what was in it would be
gone without a trace, and what follows believed. So the log is looked through before it is opened. Zeros up
to the end are what a crash may leave; whether something synced was there is for ``mark`` to say.
"""

from __future__ import annotations

from pathlib import Path
from struct import Struct
from typing import Final

from journal.errors import FolderDamaged

BLOCK_BYTES: Final = 32 * 1024
HEADER: Final = Struct("<IHB")
"""Checksum, length, kind of a record. Those of a block fill it, but for less than a header."""


def refuse_holes(folder: Path) -> None:
    """Raise ``FolderDamaged`` where a log of the folder has a hole, ``OSError`` where it cannot be read."""
    for log in sorted(folder.glob("*.log")):
        place = hole_in(log.read_bytes())
        if place is not None:
            raise FolderDamaged(f"{log}: a part of the log is lost: there are zeros at byte {place}")


def hole_in(log: bytes) -> int | None:
    """Return where a hole begins; None where there is none, or LevelDB will find what is wrong."""
    place = 0
    while place + HEADER.size <= len(log):
        left = BLOCK_BYTES - place % BLOCK_BYTES
        if left < HEADER.size:
            place += left
            continue
        _checksum, length, kind = HEADER.unpack_from(log, place)
        if kind == 0 and length == 0:
            return place if log.count(0, place) < len(log) - place else None
        if HEADER.size + length > left:
            return None
        place += HEADER.size + length
    return None
