"""A small disk for one node, that can be filled and emptied. Only inside an enclosure.

As root it is ext4 on a loop device; without (in a user namespace) a tmpfs of the same size. The mount
is the enclosure's own and goes with it, and the loop device with the mount.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

DISK_BYTES = 192 * 1024 * 1024
COMMAND_TIMEOUT_S = 20.0


class SmallDisk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kind = ""
        self._ballast = folder / "ballast"

    def mount(self) -> None:
        self.folder.mkdir(parents=True)
        image = self.folder.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        mkfs = ["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image)]
        loop = ["mount", "-o", "loop", str(image), str(self.folder)]
        if _works(mkfs) and _works(loop):
            self.kind = "ext4 on a loop device"
            return
        image.unlink()
        size = f"size={DISK_BYTES}"
        if not _works(["mount", "-t", "tmpfs", "-o", size, "none", str(self.folder)]):
            raise OSError(f"no small disk could be mounted at {self.folder}")
        self.kind = "tmpfs"

    def fill(self, left_bytes: int = 0) -> int:
        """Take all that is free but for ``left_bytes``; return how many bytes that was."""
        taken = 0
        with self._ballast.open("ab") as file:
            for block in (1 << 20, 1 << 12):
                buffer = b"\0" * block
                while self.free_bytes() > left_bytes or not left_bytes:
                    try:
                        taken += os.write(file.fileno(), buffer)
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        break
        return taken

    def free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)


def _works(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0
