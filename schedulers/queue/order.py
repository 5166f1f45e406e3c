"""Whose turn it is in the queue. PURE."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping

from cluster.records import QueuedRun
from cluster.state import At


def owner_of(run: QueuedRun) -> str:
    """Return whose turn a run takes: its owner, or who started it, or else its family."""
    return run.owner or run.started_by or run.task_definition.partition(":")[0]


def turns(queue: Mapping[str, At[QueuedRun]], served: Mapping[str, int]) -> Iterator[str]:
    """Yield the run that each next task belongs to, as often as the run wants tasks.

    By priority; within one, the owners take turns, beginning with who was served longest ago
    (``served``: the revision of an owner's last placement; absent: never); an owner's own runs go by age.
    """
    ages = {name: (at.record.submitted_at, name) for name, at in queue.items()}
    for priority in sorted({at.record.priority for at in queue.values()}, reverse=True):
        mine: dict[str, list[str]] = {}
        for name in sorted(queue, key=ages.__getitem__):
            run = queue[name].record
            if run.priority == priority and run.count > 0:
                mine.setdefault(owner_of(run), []).extend([name] * run.count)
        owners = sorted(mine, key=lambda owner: (served.get(owner, 0), ages[mine[owner][0]]))
        lines = deque(deque(mine[owner]) for owner in owners)
        while lines:
            line = lines.popleft()
            yield line.popleft()
            if line:
                lines.append(line)


def task_id(run: str, number: int) -> str:
    """Return the id of the ``number``-th task (from 0) of a queued run, the same whoever places it."""
    return hashlib.sha256(f"{run}/{number}".encode()).hexdigest()[:32]
