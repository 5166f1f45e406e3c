"""What makes a trio program replay. The only module that knows trio's private names.

Trio shuffles the tasks that are ready, on purpose, with a generator of its own; it sorts them
first (by age) only if it is told that a test wants determinism. Everything else that could
differ between two runs is the program's business: it must draw from seeded generators, and not
iterate over sets of strings or of objects.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
import trio._core._run as trio_run
import trio.testing

T = TypeVar("T")


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
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = was  # type: ignore[misc]
        if collects:
            gc.enable()
