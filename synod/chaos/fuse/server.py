"""``python3 -m synod.chaos.fuse.server MOUNTPOINT``: a ``model.Disk`` that the kernel shows as a file system.

For the system's Python with pyfuse3, which runs on trio. It is told what to do by lines of JSON on its
standard input, and answers each with one on its standard output; when the input ends it unmounts and ends,
so it never outlives who started it. See ``disk.FuseDisk`` for what it can be told.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import random
import stat
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyfuse3
import trio

from synod.chaos.fuse.model import ROOT, Disk, DiskError, File

BLOCK_BYTES = 4096
OPERATIONS = ("read", "write", "sync", "make")
LINE_BYTES_MAX = 64 * 1024


@dataclass(slots=True)
class Fault:
    """What is to go wrong with the operations of one kind."""

    number: int
    """The errno that they fail with; 0: they do not fail."""
    files: str
    """A pattern of the names of the files that it is about."""
    times: int
    """How many of them fail; below 0: all."""
    slow_s: float


class Shown(pyfuse3.Operations):  # type: ignore[misc]
    """The kernel's side of a disk. A handle is the file's number."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self.disk = disk
        self.faults: dict[str, Fault] = {}
        self.counts: Counter[str] = Counter()
        self.after_failed_sync: list[str] = []
        """What was written or synced after a sync had failed: must stay empty but for what was under way."""
        self._sync_failed = False
        self._names: dict[int, str] = {}

    # -- faults -----------------------------------------------------------------------

    async def _meet(self, operation: str, number: int) -> None:
        """Count an operation, delay it, fail it: whatever is due."""
        self.counts[operation] += 1
        name = self._names.get(number, "")
        if self._sync_failed and operation in ("write", "sync"):
            self.after_failed_sync.append(f"{operation} {name}")
        fault = self.faults.get(operation)
        if fault is None or fault.times == 0 or not fnmatch.fnmatch(name, fault.files):
            return
        fault.times -= 1
        if fault.slow_s:
            await trio.sleep(fault.slow_s)
        if fault.number:
            self.counts[f"failed {operation}"] += 1
            if operation == "sync":
                self._sync_failed = True
                self.disk.fail_sync(number)
            raise pyfuse3.FUSEError(fault.number)

    def healed(self) -> None:
        self.faults.clear()
        self.after_failed_sync = []
        self._sync_failed = False

    # -- attributes -------------------------------------------------------------------

    def _attributes(self, file: File) -> Any:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = file.number
        entry.st_mode = file.mode | (stat.S_IFREG if file.names is None else stat.S_IFDIR)
        entry.st_nlink = 1 if file.names is None else 2
        entry.st_size = len(file.data)
        entry.st_blksize, entry.st_blocks = BLOCK_BYTES, -(-len(file.data) // 512)
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = file.changed_ns
        # Nothing is remembered by the kernel: after a loss of power it would be wrong.
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    async def getattr(self, inode: int, ctx: Any = None) -> Any:
        with _errors():
            return self._attributes(self.disk.file(inode))

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> Any:
        with _errors():
            file = self.disk.file(inode)
            if fields.update_size:
                await self._meet("write", inode)
                self.disk.resize(inode, attr.st_size, time.time_ns())
            if fields.update_mode:
                file.mode = stat.S_IMODE(attr.st_mode)
            if fields.update_mtime:
                file.changed_ns = attr.st_mtime_ns
            return self._attributes(file)

    async def statfs(self, ctx: Any) -> Any:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_BYTES
        data.f_blocks = self.disk.capacity_bytes // BLOCK_BYTES
        data.f_bfree = data.f_bavail = self.disk.free_bytes // BLOCK_BYTES
        data.f_files = data.f_ffree = data.f_favail = 1 << 20
        data.f_namemax = 255
        return data

    # -- names ------------------------------------------------------------------------

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any = None) -> Any:
        with _errors():
            file = self.disk.find(parent_inode, name)
            self._names[file.number] = os.fsdecode(name)
            return self._attributes(file)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> Any:
        with _errors():
            await self._meet("make", parent_inode)
            made = self.disk.make(parent_inode, name, stat.S_IMODE(mode), time.time_ns(), is_folder=True)
            return self._attributes(made)

    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        with _errors():
            await self._meet("make", parent_inode)
            made = self.disk.make(parent_inode, name, stat.S_IMODE(mode), time.time_ns())
            made.opened += 1
            self._names[made.number] = os.fsdecode(name)
            return pyfuse3.FileInfo(fh=made.number), self._attributes(made)

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        with _errors():
            self.disk.remove(parent_inode, name, time.time_ns())

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        with _errors():
            self.disk.remove(parent_inode, name, time.time_ns())

    async def rename(self, old: int, name: bytes, new: int, new_name: bytes, flags: int, ctx: Any) -> None:
        if flags:
            raise pyfuse3.FUSEError(errno.EINVAL)
        with _errors():
            number = self.disk.find(old, name).number
            self.disk.move(old, name, new, new_name, time.time_ns())
            self._names[number] = os.fsdecode(new_name)

    async def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        with _errors():
            names = sorted((self.disk.file(fh).names or {}).items())
            for place, (name, number) in enumerate(names[start_id:], start_id + 1):
                if not pyfuse3.readdir_reply(token, name, self._attributes(self.disk.files[number]), place):
                    break

    # -- bytes ------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        with _errors():
            file = self.disk.file(inode)
            if flags & os.O_TRUNC:
                self.disk.resize(inode, 0, time.time_ns())
            file.opened += 1
            return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        with _errors():
            await self._meet("read", fh)
            return self.disk.read(fh, off, size)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        with _errors():
            await self._meet("write", fh)
            self.disk.write(fh, off, buf, time.time_ns())
            return len(buf)

    async def fsync(self, fh: int, datasync: bool) -> None:
        with _errors():
            await self._meet("sync", fh)
            self.disk.sync(fh)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.fsync(fh, datasync)

    async def flush(self, fh: int) -> None:
        pass

    async def releasedir(self, fh: int) -> None:
        pass

    async def forget(self, inode_list: Any) -> None:
        pass  # a file that has no name and is not open is forgotten by itself

    async def release(self, fh: int) -> None:
        file = self.disk.files.get(fh)
        if file is not None:
            file.opened -= 1
            self.disk.sweep()


class _errors:
    """What the disk refuses is what the system call says."""

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, DiskError):
            raise pyfuse3.FUSEError(error.number) from None


def _obey(shown: Shown, told: dict[str, Any]) -> dict[str, Any]:
    """Do what one line of the input says; return the answer."""
    disk = shown.disk
    match told.pop("do"):
        case "lose-power":
            return disk.lose_power(told["keep"], random.Random(told["seed"]))
        case "fault":
            operation = told.pop("operation")
            if operation not in OPERATIONS:
                raise ValueError(f"no operation {operation!r}: {', '.join(OPERATIONS)}")
            shown.faults[operation] = Fault(**told)
        case "heal":
            shown.healed()
        case "leave":
            disk.capacity_bytes = disk.used_bytes + told["bytes"]
        case "look":
            return {
                "counts": dict(shown.counts),
                "after_failed_sync": shown.after_failed_sync,
                "used_bytes": disk.used_bytes,
                "free_bytes": disk.free_bytes,
                "unsynced_bytes": disk.unsynced_bytes,
                "unsynced_names": len(disk.pending),
            }
        case other:
            raise ValueError(f"no command {other!r}")
    return {}


async def _listen(shown: Shown) -> None:
    """Obey line after line, until the input ends."""
    stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    left = b""
    async for piece in stdin:
        left += piece
        while b"\n" in left:
            line, _, left = left.partition(b"\n")
            try:
                told = json.loads(line)
                if told.get("do") == "forget-pages":
                    await _forget_pages(shown.disk)
                    answer: dict[str, Any] = {}
                else:
                    answer = _obey(shown, told)
            except (ValueError, KeyError, TypeError, DiskError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)
        assert len(left) < LINE_BYTES_MAX


async def _forget_pages(disk: Disk) -> None:
    """Have the kernel drop what it remembers of the files' bytes: the next read comes here."""
    for number in list(disk.files):
        try:
            await trio.to_thread.run_sync(pyfuse3.invalidate_inode, number)
        except OSError:
            pass  # the kernel does not know it


async def _serve(shown: Shown) -> None:
    async with trio.open_nursery() as nursery:

        async def talk() -> None:
            await _listen(shown)
            nursery.cancel_scope.cancel()

        nursery.start_soon(talk)
        nursery.start_soon(pyfuse3.main)
        print(json.dumps({"mounted": True}), flush=True)


def main() -> int:
    mountpoint, capacity_bytes = sys.argv[1], int(sys.argv[2])
    shown = Shown(Disk(capacity_bytes))
    options = set(pyfuse3.default_options) | {"fsname=synod-fuse"}
    options.discard("default_permissions")
    pyfuse3.init(shown, mountpoint, options)
    try:
        trio.run(_serve, shown)
    finally:
        pyfuse3.close(unmount=True)
    return 0


assert ROOT == pyfuse3.ROOT_INODE

if __name__ == "__main__":
    sys.exit(main())
