"""Concurrent gets of one key each travel together.

Up to ``CALLS_INFLIGHT_MAX`` calls are on their way; gets that arrive meanwhile gather for the next one
(natural batching: a lone get waits for nobody). A call is sent after every get in it was asked for, so
each is as fresh as if it had gone alone. There is no background task: whoever finishes a call wakes the
first of those who wait, and that one carries the others' keys with its own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from journal.connection import LINEARIZABLE, LOCAL, Consistency, GetReply
from journal.errors import JournalError, Unavailable
from journal.versions import Record

CALLS_INFLIGHT_MAX = 4
"""Calls of one consistency on their way at once."""
CALL_KEYS_MAX = 128

GetMany = Callable[[Sequence[bytes], int | None, Consistency, float | None], Awaitable[GetReply]]


@dataclass(slots=True, eq=False)
class _Asked:
    """One get. It waits until it is answered, or is to carry a call; or, with neither, to go alone."""

    key: bytes
    deadline: float
    woken: trio.Event = field(default_factory=trio.Event)
    record: Record | None = None
    is_answered: bool = False
    carries: bool = False


@dataclass(slots=True)
class _Lane:
    """Gets of one consistency."""

    calls: int = 0
    waiting: deque[_Asked] = field(default_factory=deque)

    def pass_on(self) -> None:
        """A call has ended: let the first who waits carry the next one."""
        if self.waiting:
            first = self.waiting.popleft()
            first.carries = True
            first.woken.set()
        else:
            self.calls -= 1


class Gather:
    """Gets over ``get_many``."""

    def __init__(self, get_many: GetMany) -> None:
        self._get_many = get_many
        self._lanes = {LINEARIZABLE: _Lane(), LOCAL: _Lane()}

    async def get(self, key: bytes, consistency: Consistency, timeout_s: float | None) -> Record | None:
        """Return the record of ``key``. Errors as ``Reads.get_many``."""
        lane = self._lanes.get(consistency)
        if lane is None:
            return await self._alone(key, consistency, timeout_s)
        deadline = math.inf if timeout_s is None else trio.current_time() + timeout_s
        asked = _Asked(key, deadline)
        if lane.calls < CALLS_INFLIGHT_MAX:
            lane.calls += 1
            await self._carry(lane, asked, consistency)
        elif await self._wait(lane, asked):
            await self._carry(lane, asked, consistency)
        if not asked.is_answered:  # its call failed: the error is to be its own
            return await self._alone(key, consistency, _left(deadline))
        return asked.record

    async def _wait(self, lane: _Lane, asked: _Asked) -> bool:
        """Wait to be woken; return whether to carry a call. Raises ``Unavailable`` at the deadline."""
        lane.waiting.append(asked)
        try:
            with trio.move_on_at(asked.deadline):
                await asked.woken.wait()
        except trio.Cancelled:
            if asked.carries:  # it was woken and cancelled in one moment
                lane.pass_on()
            raise
        finally:
            if not asked.woken.is_set():
                lane.waiting.remove(asked)
        if not asked.woken.is_set():
            raise Unavailable("no node answered in time: the reads before this one took all of it")
        return asked.carries

    async def _carry(self, lane: _Lane, own: _Asked, consistency: Consistency) -> None:
        """Make a call for ``own`` and for those who wait, and answer them. Raises what the call does where
        it was for ``own`` alone; else leaves them unanswered."""
        others = [lane.waiting.popleft() for _ in range(min(len(lane.waiting), CALL_KEYS_MAX - 1))]
        batch = [own, *others]
        try:
            keys = [asked.key for asked in batch]
            reply = await self._get_many(keys, None, consistency, _left(own.deadline))
            for asked, record in zip(batch, reply.records, strict=True):
                asked.record, asked.is_answered = record, True
        except JournalError:
            if not others:
                raise
        finally:
            for asked in others:
                asked.woken.set()
            lane.pass_on()

    async def _alone(self, key: bytes, consistency: Consistency, timeout_s: float | None) -> Record | None:
        return (await self._get_many([key], None, consistency, timeout_s)).records[0]


def _left(deadline: float) -> float | None:
    return None if deadline == math.inf else max(0.0, deadline - trio.current_time())
