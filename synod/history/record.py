"""The recorder: writes what clients saw, one JSON line an event, as it happens.

A line is written (and flushed to the kernel) before an operation is sent and after
it is answered, so a client process that is killed leaves a history in which its
last operations have an unknown outcome, which is the truth. The clock is read
before the invocation is written and after the answer has come: intervals are never
recorded shorter than they were, so the checker never calls a correct journal wrong.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synod.history.format import FORMAT, VERSION


class Recorder:
    """Writes one file. May be shared by the tasks and threads of one process."""

    def __init__(
        self,
        path: Path,
        *,
        foreign_any: bool = False,
        first_op: int = 0,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._next_op = first_op
        self._write(
            {
                "event": "begin",
                "format": FORMAT,
                "version": VERSION,
                "process": os.getpid(),
                "wall_ms": int(time.time() * 1000),
                "t": clock_ns(),
                "foreign_any": foreign_any,
            }
        )

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, separators=(",", ":")) + "\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def number(self) -> int:
        """Return the number of the next operation: offers carry it in their label."""
        with self._lock:
            self._next_op += 1
            return self._next_op

    def invoke(self, client: str, op: int, kind: str, **asked: Any) -> None:
        """Call this before the operation is sent."""
        now = self._clock_ns()
        self._write({"event": "invoke", "client": client, "op": op, "t": now, "kind": kind, **asked})

    def complete(self, client: str, op: int, **answer: Any) -> None:
        """Call this after the answer has come."""
        now = self._clock_ns()
        self._write({"event": "complete", "client": client, "op": op, "t": now, **answer})

    def message(self, client: str, op: int, first: int, last: int, commits: list[Any]) -> None:
        now = self._clock_ns()
        event = {"event": "message", "client": client, "op": op, "t": now, "first": first, "last": last}
        self._write({**event, "commits": commits})

    def note(self, text: str, **facts: Any) -> None:
        """Say what was done to the cluster (a kill, a pause), for the reader of a report."""
        self._write({"event": "note", "t": self._clock_ns(), "text": text, **facts})

    def base(self, revision: int, items: list[Any]) -> None:
        """Say what the space held before anything that is recorded here."""
        self._write({"event": "base", "t": self._clock_ns(), "revision": revision, "items": items})

    def chain(self, node: int, slot: int, chain: str) -> None:
        self._write({"event": "chain", "t": self._clock_ns(), "node": node, "slot": slot, "chain": chain})

    def close(self) -> None:
        self._file.close()
