"""Start a FUSE disk, and tell it what to do. Synchronous: a caller under trio uses a thread."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

CAPACITY_BYTES = 4 << 30
"""Of a new disk: it is in memory, and as large as what is in it."""
PYTHONS = ("/usr/bin/python3", "python3")
"""Where pyfuse3 may be: it comes with the system's Python."""
ANSWER_TIMEOUT_S = 20.0
ROOT = Path(__file__).resolve().parents[3]


class FuseMissing(Exception):
    """This machine has no FUSE; the text says what is needed."""


def python() -> str:
    """Return a Python that has pyfuse3. Raises ``FuseMissing``."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise FuseMissing("the FUSE disk needs /dev/fuse, readable and writable: run as root")
    if shutil.which("fusermount3") is None:
        raise FuseMissing("the FUSE disk needs fusermount3; on Debian, as root: apt-get install fuse3")
    for name in PYTHONS:
        found = shutil.which(name)
        if found and subprocess.run([found, "-c", "import pyfuse3"], capture_output=True).returncode == 0:
            return found
    raise FuseMissing(
        "the FUSE disk needs pyfuse3 for the system's Python;"
        " on Debian, as root: apt-get install python3-pyfuse3"
    )


class FuseDisk:
    """One mounted disk; what is in it lives as long as it does."""

    def __init__(
        self, folder: Path, *, log: Path | None = None, capacity_bytes: int = CAPACITY_BYTES
    ) -> None:
        """Mount it at ``folder``, which is made. Raises ``FuseMissing``."""
        self.folder = folder
        found = python()
        folder.mkdir(parents=True, exist_ok=True)
        with (log or Path(os.devnull)).open("ab") as errors:
            self._server = subprocess.Popen(
                [found, "-m", "synod.chaos.fuse.server", str(folder), str(capacity_bytes)],
                cwd=ROOT,
                env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        try:
            self._answer()
        except BaseException:
            self.unmount()
            raise

    def lose_power(self, keep: str = "nothing", seed: int = 0) -> dict[str, int]:
        """Lose what was not synced, but for what ``keep`` says (``model.KEEPS``). Nobody may use the disk:
        end the node first. Returns how many unsynced bytes there were, and how many names are lost."""
        lost: dict[str, int] = self._tell("lose-power", keep=keep, seed=seed)
        return lost

    def fail(
        self,
        operation: str,
        number: int = errno.EIO,
        *,
        files: str = "*",
        times: int = -1,
        slow_s: float = 0.0,
    ) -> None:
        """From now on, let the next ``times`` (all, if below 0) of an ``operation`` (``read``, ``write``,
        ``sync``, ``make``) on files that match ``files`` take ``slow_s`` longer, and fail with errno
        ``number`` unless it is 0."""
        self._tell("fault", operation=operation, number=number, files=files, times=times, slow_s=slow_s)

    def slow(self, operation: str, seconds: float) -> None:
        """Let every ``operation`` take so much longer."""
        self.fail(operation, 0, slow_s=seconds)

    def heal(self) -> None:
        """End all faults of ``fail`` and ``slow``."""
        self._tell("heal")

    def leave(self, free_bytes: int) -> None:
        """Let so much be free."""
        self._tell("leave", bytes=free_bytes)

    def forget_pages(self) -> None:
        """Have the kernel forget the files' bytes: they are read from the disk again."""
        self._tell("forget-pages")

    def look(self) -> dict[str, Any]:
        """Return ``counts`` of operations, ``after_failed_sync``, ``used_bytes``, ``free_bytes``, and
        ``unsynced_bytes`` and ``unsynced_names``: what a loss of power would take."""
        return self._tell("look")

    def unmount(self) -> None:
        """End it. May be called twice."""
        server = self._server
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.close()
        try:
            server.wait(ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()
        if os.path.ismount(self.folder):  # it was killed, or somebody was still in it
            subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)

    def _tell(self, what: str, **facts: Any) -> dict[str, Any]:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"do": what, **facts}).encode() + b"\n")
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        ready, _, _ = select.select([self._server.stdout], [], [], ANSWER_TIMEOUT_S)
        line = self._server.stdout.readline() if ready else b""
        if not line:
            raise OSError(f"the FUSE disk at {self.folder} does not answer (code {self._server.poll()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer
