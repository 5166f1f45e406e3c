"""What a disk holds, and what of that outlives a loss of power. PURE.

Everything is in memory twice: as programs see it, and as it is on the platter. What is in the first
only is lost with the power:

* the bytes of a file reach the platter by a sync of that file, and by nothing else;
* a name (made, moved, removed) does so by a sync of its folder. Names not synced yet may also come to
  the platter by themselves, but in the order in which they were made, as a file system's journal has it;
* a sync that fails counts the pages as clean all the same, as Linux does: a second sync would succeed
  and prove nothing (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).

This is stricter than ext4, where the sync of a new file makes its name durable too: POSIX promises
less, and so did some file systems that people had (Pillai et al., "All File Systems Are Not Created
Equal", 2014).
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

SECTOR = 512
"""A disk writes whole sectors."""
ROOT = 1
KEEPS = ("nothing", "torn", "some")
"""What of the bytes that were not synced is there after a loss of power: nothing of them; all but the
last write to each file, of which the first sectors are; or each sector by chance, with zeros for holes."""


class DiskError(Exception):
    """What a system call would say; ``number`` is an errno."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.number = number


@dataclass(slots=True)
class File:
    """A file, or a folder: then ``names`` is not None."""

    number: int
    mode: int
    names: dict[bytes, int] | None = None
    kept_names: dict[bytes, int] = field(default_factory=dict)
    """The names on the platter."""
    data: bytearray = field(default_factory=bytearray)
    kept: bytearray = field(default_factory=bytearray)
    """The bytes on the platter."""
    unsynced: list[tuple[int, int]] = field(default_factory=list)
    """(begin, end) of every write since the last sync, in their order."""
    cut_to: int | None = None
    """The smallest size it was cut down to since the last sync."""
    changed_ns: int = 0
    opened: int = 0
    """How many handles there are."""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a name: it stands for file ``number``, or for none."""

    folder: int
    name: bytes
    number: int | None


class Disk:
    """One file system. Times are given by the caller, in nanoseconds since the epoch."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.files: dict[int, File] = {ROOT: File(ROOT, 0o755, {})}
        self.pending: list[tuple[Change, ...]] = []
        """Changes of names that are not on the platter, in their order."""
        self._last = ROOT

    # -- looking ------------------------------------------------------------------------

    def file(self, number: int) -> File:
        """Raises ``DiskError``: ESTALE for a file that the power took."""
        found = self.files.get(number)
        if found is None:
            raise DiskError(errno.ESTALE)
        return found

    def find(self, folder: int, name: bytes) -> File:
        number = self._names(folder).get(name)
        if number is None:
            raise DiskError(errno.ENOENT)
        return self.files[number]

    def _names(self, folder: int) -> dict[bytes, int]:
        names = self.file(folder).names
        if names is None:
            raise DiskError(errno.ENOTDIR)
        return names

    @property
    def used_bytes(self) -> int:
        return sum(len(file.data) for file in self.files.values())

    @property
    def free_bytes(self) -> int:
        return max(0, self.capacity_bytes - self.used_bytes)

    @property
    def unsynced_bytes(self) -> int:
        """How many bytes are seen that a loss of power may take."""
        return sum(end - begin for file in self.files.values() for begin, end in file.unsynced)

    def read(self, number: int, offset: int, size: int) -> bytes:
        return bytes(self.file(number).data[offset : offset + size])

    # -- changing -----------------------------------------------------------------------

    def make(self, folder: int, name: bytes, mode: int, now_ns: int, *, is_folder: bool = False) -> File:
        if name in self._names(folder):
            raise DiskError(errno.EEXIST)
        if self.free_bytes == 0:
            raise DiskError(errno.ENOSPC)
        made = self._fresh(mode, {} if is_folder else None)
        made.changed_ns = now_ns
        self.files[made.number] = made
        self._change(now_ns, Change(folder, name, made.number))
        return made

    def remove(self, folder: int, name: bytes, now_ns: int) -> None:
        gone = self.find(folder, name)
        if gone.names:
            raise DiskError(errno.ENOTEMPTY)
        self._change(now_ns, Change(folder, name, None))
        self.sweep()

    def move(self, folder: int, name: bytes, to: int, new_name: bytes, now_ns: int) -> None:
        moved = self.find(folder, name)
        self._change(now_ns, Change(to, new_name, moved.number), Change(folder, name, None))
        self.sweep()

    def write(self, number: int, offset: int, data: bytes, now_ns: int) -> None:
        file, end = self.file(number), offset + len(data)
        if end - len(file.data) > self.free_bytes:
            raise DiskError(errno.ENOSPC)
        _resize(file.data, max(end, len(file.data)))
        file.data[offset:end] = data
        file.unsynced.append((offset, end))
        file.changed_ns = now_ns

    def resize(self, number: int, size: int, now_ns: int) -> None:
        file, before = self.file(number), len(self.file(number).data)
        if size - before > self.free_bytes:
            raise DiskError(errno.ENOSPC)
        _resize(file.data, size)
        file.changed_ns = now_ns
        if size > before:
            file.unsynced.append((before, size))
        elif size < before:
            file.cut_to = min(size, before if file.cut_to is None else file.cut_to)
            file.unsynced = [(begin, min(end, size)) for begin, end in file.unsynced if begin < size]

    def _change(self, now_ns: int, *changes: Change) -> None:
        self.pending.append(changes)
        for change in changes:
            _set(self._names(change.folder), change)
            self.files[change.folder].changed_ns = now_ns

    def _fresh(self, mode: int, names: dict[bytes, int] | None) -> File:
        self._last += 1
        return File(self._last, mode, names)

    # -- syncing ------------------------------------------------------------------------

    def sync(self, number: int) -> None:
        """Bring a file's bytes to the platter; or a folder's names, and with them what was before."""
        file = self.file(number)
        if file.names is not None:
            self._sync_names(number)
            return
        if file.cut_to is not None:
            del file.kept[file.cut_to :]
        _resize(file.kept, len(file.data))
        for begin, end in file.unsynced:
            file.kept[begin:end] = file.data[begin:end]
        self._clean(file)

    def fail_sync(self, number: int) -> None:
        """A sync that fails: nothing more is on the platter, and nobody will bring it there any more."""
        self._clean(self.file(number))

    def _clean(self, file: File) -> None:
        file.unsynced = []
        file.cut_to = None

    def _sync_names(self, folder: int) -> None:
        still = []
        for changes in self.pending:
            if any(change.folder == folder for change in changes):
                self._keep(changes)
            else:
                still.append(changes)
        self.pending = still
        self.sweep()

    def _keep(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            if change.folder in self.files:
                _set(self.files[change.folder].kept_names, change)

    def sweep(self) -> None:
        """Forget files that have no name, neither seen nor on the platter, and are not open."""
        named = {ROOT}
        for file in self.files.values():
            named.update((file.names or {}).values(), file.kept_names.values())
        named.update(change.number for changes in self.pending for change in changes if change.number)
        for number in [number for number, file in self.files.items() if number not in named]:
            if not self.files[number].opened:
                del self.files[number]

    # -- the power goes -----------------------------------------------------------------------

    def lose_power(self, keep: str, rng: random.Random) -> dict[str, int]:
        """Leave what is on the platter, and of the rest what ``keep`` (one of ``KEEPS``) says. All files
        get new numbers: a handle of before finds nothing. Return how many unsynced bytes there were, and
        how many names are lost."""
        assert keep in KEEPS
        names = 0 if keep == "nothing" else rng.randint(0, len(self.pending))
        for changes in self.pending[:names]:
            self._keep(changes)
        lost = {"unsynced_bytes": self.unsynced_bytes, "names": len(self.pending) - names}
        old, self.files, self.pending = self.files, {}, []
        root = File(ROOT, old[ROOT].mode, {}, changed_ns=old[ROOT].changed_ns)
        self.files[ROOT] = root
        self._revive(old, old[ROOT], root, keep, rng)
        for file in self.files.values():
            file.kept = bytearray(file.data)
        return lost

    def _revive(self, old: dict[int, File], before: File, now: File, keep: str, rng: random.Random) -> None:
        for name, number in before.kept_names.items():
            was = old[number]
            found = self._fresh(was.mode, None if was.names is None else {})
            found.changed_ns = was.changed_ns
            self.files[found.number] = found
            assert now.names is not None
            now.names[name] = now.kept_names[name] = found.number
            if was.names is not None:
                self._revive(old, was, found, keep, rng)
            else:
                found.kept = was.kept
                found.data = _survivors(was, keep, rng)


def _survivors(file: File, keep: str, rng: random.Random) -> bytearray:
    """Return the bytes that a file has after the power came back."""
    there = bytearray(file.kept)
    if keep == "nothing" or not file.unsynced:
        return there
    if keep == "torn":
        *whole, (begin, end) = file.unsynced
        sectors = range(_down(begin) + SECTOR, end, SECTOR)
        pieces = [*whole, (begin, rng.choice([begin, *sectors]))]
    else:
        pieces = [piece for write in file.unsynced for piece in _sectors(*write) if rng.random() < 0.5]
    for begin, end in pieces:
        if end > begin:
            _resize(there, max(len(there), end))
            there[begin:end] = file.data[begin:end]
    return there


def _sectors(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a range where sectors end."""
    while begin < end:
        border = min(end, _down(begin) + SECTOR)
        yield begin, border
        begin = border


def _down(offset: int) -> int:
    return offset - offset % SECTOR


def _resize(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))


def _set(names: dict[bytes, int], change: Change) -> None:
    if change.number is None:
        names.pop(change.name, None)
    else:
        names[change.name] = change.number
