"""Health checks as Docker counts them, for runtimes that have none of their own. PURE."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster.records import HealthCheck, HealthStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Where the checks of one container stand."""

    status: HealthStatus = HealthStatus.UNKNOWN
    failures: int = 0
    """In a row."""
    next_at: float
    """When to check next."""


def first(check: HealthCheck, now: float) -> Health:
    """Return where a container stands whose checks begin now."""
    return Health(next_at=now + check.interval)


def checked(check: HealthCheck, health: Health, *, passed: bool, started_at: float, now: float) -> Health:
    """Return where it stands after a check that ended now.

    Until it was healthy once, failures within ``startPeriod`` of the start do not count.
    """
    after = replace(health, next_at=now + check.interval)
    if passed:
        return replace(after, status=HealthStatus.HEALTHY, failures=0)
    is_starting = health.status is HealthStatus.UNKNOWN and now < started_at + (check.start_period or 0)
    if is_starting:
        return after
    failures = health.failures + 1
    status = HealthStatus.UNHEALTHY if failures >= check.retries else health.status
    return replace(after, status=status, failures=failures)


def command(check: HealthCheck) -> tuple[str, ...] | None:
    """Return what a check runs; None where it is turned off."""
    match check.command[0]:
        case "CMD-SHELL":
            return ("/bin/sh", "-c", check.command[1])
        case "CMD":
            return check.command[1:]
    return None
