"""The numbers that rule a deployment, with ECS's rounding. PURE."""

from __future__ import annotations

import math

BREAKER_FAILURES_MIN = 3
BREAKER_FAILURES_MAX = 200

SHORT_RUN_S = 60.0
"""A task that ended by itself and ran no longer has failed; one that ran longer had just ended."""
BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 900.0


def minimum_healthy(desired: int, percent: int) -> int:
    """Return how many tasks must stay healthy: rounded up, as ECS does."""
    return -(-desired * percent // 100)


def maximum_live(desired: int, percent: int) -> int:
    """Return how many tasks may take up room: rounded down, as ECS does."""
    return desired * percent // 100


def breaker_threshold(desired: int) -> int:
    """Return after how many failures the circuit breaker gives a deployment up."""
    return max(BREAKER_FAILURES_MIN, min(BREAKER_FAILURES_MAX, math.ceil(0.5 * desired)))


def backoff_s(failures: int, desired: int) -> float:
    """Return how long to wait after ``failures`` failures in a row.

    They are counted by rounds of ``desired`` tasks, so that six tasks that fail together are
    one failure of the service and not six.
    """
    if failures <= 0:
        return 0.0
    rounds = math.ceil(failures / max(1, desired))
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(rounds - 1, 30))
