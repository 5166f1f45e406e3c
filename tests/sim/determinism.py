"""What makes a trio program replay. The only module that knows trio's private names.

Trio shuffles the tasks that are ready, on purpose, with a generator of its own; it sorts them
first (by age) only if it is told that a test wants determinism. It cancels what is in a scope in the order
of a set, so of where objects lie in memory: here the set has an order. Everything else that could
differ between two runs is the program's business: it must draw from seeded generators, and not
iterate over sets of strings or of objects.
"""

from __future__ import annotations

import gc
import math
import signal
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import trio
import trio._core._run as trio_run
import trio.testing

T = TypeVar("T")

CPU_S_MAX = 60
"""A run takes a second."""


def _clock() -> trio.testing.MockClock:
    """A clock that jumps, and does not run between: so it need not ask the machine's clock, and
    lands exactly on the next deadline."""
    clock = trio.testing.MockClock(autojump_threshold=0)

    def autojump() -> None:
        deadline = trio_run.GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline()
        if clock._virtual_base < deadline < math.inf:
            clock._virtual_base = deadline

    clock._autojump = autojump  # type: ignore[method-assign]
    clock.current_time = lambda: clock._virtual_base  # type: ignore[method-assign]
    return clock


class _InOrder(dict[Any, None]):
    """The part of ``set`` that trio's scopes use, in the order in which members came."""

    def add(self, member: Any) -> None:
        self[member] = None

    def remove(self, member: Any) -> None:
        del self[member]


@contextmanager
def _cancelled_in_order() -> Iterator[None]:
    original = trio_run.CancelStatus.__attrs_post_init__

    def in_order(self: Any) -> None:
        self._children, self._tasks = _InOrder(), _InOrder()
        original(self)

    trio_run.CancelStatus.__attrs_post_init__ = in_order  # type: ignore[method-assign]
    try:
        yield
    finally:
        trio_run.CancelStatus.__attrs_post_init__ = original  # type: ignore[method-assign]


class RunsForEver(Exception):
    """Virtual time stands still: somebody loops without waiting for anything."""


@contextmanager
def _watchdog() -> Iterator[None]:
    """Raise ``RunsForEver`` wherever the program is, after so much CPU time. It is no part of the run: one
    that ends before is not touched by it."""

    def bark(_signal: int, frame: FrameType | None) -> None:
        where = "".join(traceback.format_stack(frame, 6))
        raise RunsForEver(f"{CPU_S_MAX} s of CPU in one run, at last in\n{where}")

    was = signal.signal(signal.SIGVTALRM, bark)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, was)


def run(seed: int, main: Callable[[], Awaitable[T]]) -> T:
    """Run ``main`` on virtual time that jumps whenever nobody can go on. Same seed, same run."""
    was = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    # When cycles are collected must not depend on what ran before in this process; a run makes
    # few of them, so none are collected while it lasts.
    collects = gc.isenabled()
    gc.disable()
    try:
        with _watchdog(), _cancelled_in_order():
            return trio.run(main, clock=_clock())
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = was  # type: ignore[misc]
        if collects:
            gc.enable()
