"""The clients' history in memory: what ``synod.history`` checks, without files between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from synod.history.format import History, Operation, _take
from synod.history.record import Recorder


class MemoryRecorder(Recorder):
    """A ``Recorder`` that builds the history as the events come in."""

    def __init__(self, clock_ns: Callable[[], int], *, keep_events: bool = False) -> None:
        self._clock_ns = clock_ns
        self._lock = threading.Lock()  # never contended here: ``Recorder.number`` wants one
        self._next_op = 0
        self._running: dict[tuple[str, int], Operation] = {}
        self.history = History()
        self.events: list[dict[str, Any]] | None = [] if keep_events else None

    def _write(self, event: dict[str, Any]) -> None:
        _take(self.history, self._running, event)
        if self.events is not None:
            self.events.append(event)

    def finished(self) -> History:
        """Return the history, in order of invocation."""
        self.history.operations.sort(key=lambda operation: operation.invoked)
        return self.history

    def close(self) -> None:
        pass
