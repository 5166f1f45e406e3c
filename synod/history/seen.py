"""Who had seen which revision when: the floor under everything that begins later."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from synod.history.format import Accepted, GetAnswered, Operation, Rejected, ScanAnswered


class Seen:
    """The highest revision seen before a time, and by which operation."""

    def __init__(self, observations: Iterable[tuple[int, int, Operation]]) -> None:
        ordered = sorted(observations, key=lambda observation: observation[0])
        self._times = [time for time, _, _ in ordered]
        self._highest: list[tuple[int, Operation]] = []
        for _, revision, operation in ordered:
            if not self._highest or revision > self._highest[-1][0]:
                self._highest.append((revision, operation))
            else:
                self._highest.append(self._highest[-1])

    def before(self, time: int) -> tuple[int, Operation | None]:
        """Return the highest revision seen strictly before ``time`` (0, None: nothing was)."""
        index = bisect_left(self._times, time)
        return self._highest[index - 1] if index else (0, None)


def observations(operation: Operation) -> Iterable[tuple[int, int, Operation]]:
    """Yield (time, revision, operation) for every revision that ``operation`` shows to exist."""
    for message in operation.messages:
        if message.last >= message.first:
            yield message.time, message.last, operation
    answer, completed = operation.answer, operation.completed
    if completed is None:
        return
    if isinstance(answer, Accepted | GetAnswered | ScanAnswered | Rejected):
        yield completed, answer.revision, operation
