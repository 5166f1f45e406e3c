"""What people read of a service, in ECS's words. PURE."""

from __future__ import annotations

from collections.abc import Sequence

TASKS_NAMED_MAX = 10
"""Tasks that one event names; of more it says how many."""


CHARACTERS_MAX = 1_000
"""Of one event: why a task has no room may have as many reasons as there are instances."""


def shortened(message: str) -> str:
    return message if len(message) <= CHARACTERS_MAX else message[: CHARACTERS_MAX - 1] + "…"


def started(service: str, tasks: Sequence[str]) -> str:
    return f"(service {service}) has started {len(tasks)} tasks: {_named(tasks)}."


def stopped(service: str, tasks: Sequence[str]) -> str:
    return f"(service {service}) has stopped {len(tasks)} running tasks: {_named(tasks)}."


def steady(service: str) -> str:
    return f"(service {service}) has reached a steady state."


def completed(service: str, deployment: str) -> str:
    return f"(service {service}) (deployment {deployment}) deployment completed."


def failed(service: str, deployment: str) -> str:
    return f"(service {service}) (deployment {deployment}) deployment failed: tasks failed to start."


def rolling_back(service: str, deployment: str) -> str:
    return f"(service {service}) rolling back to deployment {deployment}."


def inconsistent(service: str, reason: str) -> str:
    """Say that tasks keep failing; ``reason`` is the last one's."""
    last = f" The last one: {reason}" if reason else ""
    return f"(service {service}) is unable to consistently start tasks successfully.{last}"


def unhealthy(service: str, task: str) -> str:
    return f"(service {service}) (task {task}) failed container health checks."


def lost(service: str, instance: str, tasks: Sequence[str]) -> str:
    return (
        f"(service {service}) has lost {len(tasks)} tasks, because container instance {instance}"
        f" is gone: {_named(tasks)}."
    )


UNABLE = "was unable to place a task"


def unable(service: str, why: str) -> str:
    """``why``: a sentence without its full stop."""
    return f"(service {service}) {UNABLE} because {why}."


STUCK = "was unable to stop or start tasks during a deployment"


def stuck(service: str) -> str:
    return (
        f"(service {service}) {STUCK} because of the service deployment configuration."
        " Update the minimumHealthyPercent or maximumPercent value and try again."
    )


def _named(tasks: Sequence[str]) -> str:
    shown = " ".join(f"(task {task})" for task in tasks[:TASKS_NAMED_MAX])
    more = len(tasks) - TASKS_NAMED_MAX
    return f"{shown} and {more} more" if more > 0 else shown
