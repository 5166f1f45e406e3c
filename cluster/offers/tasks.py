"""Tasks: placing, stopping, reporting, forgetting. PURE."""

from __future__ import annotations

from dataclasses import replace

from cluster import keys
from cluster.offers.common import give_back, label_of, take
from cluster.records import DesiredStatus, LastStatus, ServiceTask, StopCode, Task, TaskStatus
from cluster.transitions import TASK_DESIRED, TASK_LAST, IllegalTransition, check
from journal.offers import Delete, Mutation, Offer, Put, prefix_range
from journal.types import Revision


def place(
    cluster: str,
    instance: str,
    task_id: str,
    task: Task,
    *,
    at: Revision,
    by: str = "run-task",
    alone: bool = False,
) -> Offer:
    """Put a task on an instance and claim what it needs there; all or nothing.

    ``at`` is the revision of the state in which the instance was seen ACTIVE and connected, and
    the task definition ACTIVE (and its service as it is). ``alone``: the instance's tasks must
    be those of that state too, for a constraint that looks at them. A task of a service comes
    with its line of the service's index.
    """
    check(TASK_DESIRED, None, task.desired_status, f"task {task_id}")
    task_key = keys.task(cluster, instance, task_id)
    mutations: list[Mutation] = take(keys.capacity(cluster, instance), task.claim)
    mutations.append(Put(task_key, task.pack()))
    reads = [
        keys.instance(cluster, instance),
        keys.settings(cluster, instance),
        keys.alive(cluster, instance),
        keys.task_definition(task.task_definition),
    ]
    if task.service:
        reads.append(keys.service(cluster, task.service))
        line = ServiceTask(instance=instance, deployment=task.started_by)
        mutations.append(Put(keys.service_task(cluster, task.service, task_id), line.pack()))
    return Offer(
        mutations=tuple(mutations),
        reads=tuple(reads),
        ranges=(prefix_range(keys.tasks_of(cluster, instance)),) if alone else (),
        expect=((task_key, 0),),
        at=at,
        label=label_of(f"{by}: place {task_id}"),
    )


def stop(
    cluster: str,
    instance: str,
    task_id: str,
    task: Task,
    revision: Revision,
    *,
    code: StopCode,
    reason: str,
    now: float,
) -> Offer:
    """Ask for a task to stop; ``revision`` is where its record stands. Claims stay until it has stopped."""
    key = keys.task(cluster, instance, task_id)
    return Offer(
        mutations=(Put(key, stopped(task, code=code, reason=reason, now=now).pack()),),
        expect=((key, revision),),
        label=label_of(f"stop {task_id}"),
    )


def stopped(task: Task, *, code: StopCode, reason: str, now: float) -> Task:
    """Return the task as it is desired after a stop. Raises ``IllegalTransition`` if it was stopped."""
    if task.desired_status is DesiredStatus.STOPPED:
        raise IllegalTransition("the task's desiredStatus is STOPPED already")
    return replace(
        task, desired_status=DesiredStatus.STOPPED, stopping_at=now, stop_code=code, stopped_reason=reason
    )


def abandon(
    cluster: str,
    instance: str,
    task_id: str,
    task: Task,
    revision: Revision,
    *,
    code: StopCode,
    reason: str,
    now: float,
) -> Offer:
    """Give up a service's task on an instance whose agent is gone, so that it can be replaced elsewhere.

    It is to stop, should its agent come back, and its service counts it no more; its claim stays
    until it is known to have stopped. Rejected where the agent is connected again.
    """
    key = keys.task(cluster, instance, task_id)
    mutations: list[Mutation] = []
    if task.desired_status is not DesiredStatus.STOPPED:
        mutations.append(Put(key, stopped(task, code=code, reason=reason, now=now).pack()))
    if task.service:
        mutations.append(Delete(keys.service_task(cluster, task.service, task_id)))
    return Offer(
        mutations=tuple(mutations),
        expect=((key, revision), (keys.alive(cluster, instance), 0)),
        label=label_of(f"abandon {task_id}"),
    )


def change_task(cluster: str, instance: str, task_id: str, old: Task, new: Task, revision: Revision) -> Offer:
    """Change what does not touch the claim (tags, protection) of a task whose record is at ``revision``."""
    check(TASK_DESIRED, old.desired_status, new.desired_status, f"task {task_id}")
    if replace(new, tags=old.tags, protected_until=old.protected_until) != old:
        raise IllegalTransition(f"task {task_id}: only tags and protection may be changed")
    key = keys.task(cluster, instance, task_id)
    return Offer(
        mutations=(Put(key, new.pack()),),
        expect=((key, revision),),
        label=label_of(f"change task {task_id}"),
    )


def report(
    cluster: str,
    instance: str,
    task_id: str,
    task: Task,
    task_revision: Revision,
    status: TaskStatus,
    *,
    before: TaskStatus | None,
    before_revision: Revision,
) -> Offer:
    """Report what became of a task. A report of STOPPED releases its claim, and its line in a service.

    ``before`` and ``before_revision`` are the status record that this one replaces (None, 0: none),
    ``task_revision`` is where the task's own record stands.
    """
    old = before.last_status if before else None
    check(TASK_LAST, old, status.last_status, f"task {task_id}")
    status_key, task_key = keys.status(cluster, instance, task_id), keys.task(cluster, instance, task_id)
    mutations: list[Mutation] = [Put(status_key, status.pack())]
    if status.last_status is LastStatus.STOPPED and old is not LastStatus.STOPPED:
        mutations += give_back(keys.capacity(cluster, instance), task.claim)
        if task.service:
            mutations.append(Delete(keys.service_task(cluster, task.service, task_id)))
    return Offer(
        mutations=tuple(mutations),
        expect=((status_key, before_revision), (task_key, task_revision)),
        label=label_of(f"agent {instance}: {status.last_status} {task_id}"),
    )


def forget(
    cluster: str,
    instance: str,
    task_id: str,
    task_revision: Revision,
    status: TaskStatus,
    status_revision: Revision,
) -> Offer:
    """Delete the records of a task that has STOPPED (so its claim is released already)."""
    if status.last_status is not LastStatus.STOPPED:
        raise IllegalTransition(f"task {task_id} is {status.last_status}: it cannot be forgotten yet")
    task_key, status_key = keys.task(cluster, instance, task_id), keys.status(cluster, instance, task_id)
    return Offer(
        mutations=(Delete(task_key), Delete(status_key)),
        expect=((task_key, task_revision), (status_key, status_revision)),
        label=label_of(f"forget {task_id}"),
    )
