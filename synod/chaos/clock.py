"""``python -m synod.chaos.clock FILE ...``: the ``synod`` program with a wall clock that can be moved.

FILE holds how many seconds the wall clock is off; it may be rewritten at any time. Only
``time.time`` and ``time.time_ns`` are moved: all that a node takes the wall clock for goes through
them. The monotonic clock stays, as it does on a machine whose wall clock is set.

Why not libfaketime: under it gRPC's native threads wait for a wall clock of one kind with a kernel
that has another. Measured with Debian 12's 0.9.10: an offer takes 150 ms in place of 2, and
``time.sleep`` raises EINVAL. A time namespace moves only the monotonic clock, which must not jump.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def move_clock(file: Path) -> None:
    """From now on, in this process, the wall clock is off by what ``file`` says."""
    now_ns = time.time_ns

    def moved_ns() -> int:
        try:
            return now_ns() + int(float(file.read_text()) * 1e9)
        except (OSError, ValueError):  # it is being rewritten
            return now_ns()

    time.time_ns = moved_ns
    time.time = lambda: moved_ns() / 1e9


def main() -> int:
    move_clock(Path(sys.argv[1]))
    from synod.cli.app import run

    return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
