"""What people and programs do to a cluster: register a definition, find and stop a task, drain.

Each is a read, an offer, and the same again where somebody else was faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster import keys, offers
from cluster.feed import ClusterFeed
from cluster.records import (
    ContainerDefinition,
    ContainerInstance,
    DefinitionStatus,
    DesiredStatus,
    InstanceStatus,
    StopCode,
    Task,
    TaskDefinition,
)
from cluster.state import ClusterState, TaskView
from journal.client import Journal, OfferRejected
from journal.offers import Reason
from journal.types import Revision


class ClusterError(Exception):
    """Something asked of a cluster cannot be done; the text says why."""


class TaskNotFound(ClusterError):
    """No task has that id, or begins with it."""


class TaskAmbiguous(ClusterError):
    """Several tasks begin with that id."""


class InstanceNotFound(ClusterError):
    """No container instance has that id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One line of a list of tasks."""

    task: str
    instance: str
    definition: str
    group: str
    started_by: str
    cpu: int
    memory: int
    ports: tuple[int, ...]
    desired_status: str
    last_status: str
    exit_code: int | None
    stop_code: str
    reason: str
    """Why it stopped, or should."""
    created_at: float
    started_at: float | None
    stopped_at: float | None


def task_row(view: TaskView) -> TaskRow:
    """Return what a list shows of a task."""
    task, status = view.task, view.status
    return TaskRow(
        task=view.id,
        instance=view.instance,
        definition=task.task_definition,
        group=task.group,
        started_by=task.started_by,
        cpu=task.cpu,
        memory=task.memory,
        ports=task.ports,
        desired_status=str(task.desired_status),
        last_status=str(view.last_status),
        exit_code=status.exit_code if status else None,
        stop_code=str((status and status.stop_code) or task.stop_code or ""),
        reason=(status and status.stopped_reason) or task.stopped_reason or "",
        created_at=task.created_at,
        started_at=status.started_at if status else None,
        stopped_at=status.stopped_at if status else None,
    )


def list_tasks(state: ClusterState, cluster: str, *, include_stopped: bool = True) -> list[TaskRow]:
    """Return the tasks of a cluster, oldest first."""
    return [task_row(view) for view in state.tasks(cluster) if include_stopped or not view.stopped]


def find_task(state: ClusterState, cluster: str, prefix: str) -> TaskView:
    """Return the one task whose id is or begins with ``prefix``.

    Raises ``TaskNotFound`` or ``TaskAmbiguous``.
    """
    found = state.tasks_with_prefix(cluster, prefix) if prefix else []
    if not found:
        raise TaskNotFound(f"cluster {cluster} has no task {prefix}")
    if len(found) > 1:
        some = ", ".join(view.id for view in found[:3])
        raise TaskAmbiguous(f"{len(found)} tasks of cluster {cluster} begin with {prefix}: {some}…")
    return found[0]


async def stop_task(
    journal: Journal,
    view: TaskView,
    *,
    now: float,
    reason: str = "Task stopped by user",
    code: StopCode = StopCode.USER_INITIATED,
) -> Revision | None:
    """Ask for a task to stop; return the revision of that, None if it was asked for already.

    Raises ``TaskNotFound`` where it is gone meanwhile, and what ``Journal.offer`` raises.
    """
    key = keys.task(view.cluster, view.instance, view.id)
    while True:
        record = await journal.get(key)
        if record is None or record.value is None:
            raise TaskNotFound(f"cluster {view.cluster} has no task {view.id} any more")
        task = Task.unpack(record.value)
        if task.desired_status is DesiredStatus.STOPPED:
            return None
        offer = offers.stop(
            view.cluster, view.instance, view.id, task, record.mod, code=code, reason=reason, now=now
        )
        try:
            return await journal.offer(offer)
        except OfferRejected as rejected:
            if rejected.receipt.reason is not Reason.EXPECT:
                raise


async def set_instance_status(
    journal: Journal, cluster: str, instance: str, status: InstanceStatus
) -> Revision | None:
    """Drain, reactivate or deregister a container instance; None if it has that status already.

    Raises ``InstanceNotFound``, ``IllegalTransition``, and what ``Journal.offer`` raises.
    """
    while True:
        record = await journal.get(keys.instance(cluster, instance))
        if record is None or record.value is None:
            raise InstanceNotFound(f"cluster {cluster} has no container instance {instance}")
        registration = ContainerInstance.unpack(record.value)
        if registration.status is status:
            return None
        try:
            return await journal.offer(
                offers.set_instance_status(cluster, instance, registration, record.mod, status)
            )
        except OfferRejected as rejected:
            if rejected.receipt.reason is not Reason.EXPECT:
                raise


async def ensure_definition(
    journal: Journal,
    feed: ClusterFeed,
    family: str,
    *,
    cpu: int,
    memory: int,
    containers: Sequence[ContainerDefinition],
    now: float,
) -> TaskDefinition:
    """Return a revision of a family that says exactly this: an ACTIVE one that exists, or a new one.

    Raises ``RecordInvalid`` for a definition that cannot run.
    """
    while True:
        revisions = [at.record for at in feed.state.family(family)]
        wanted = TaskDefinition(
            family=family,
            revision=revisions[-1].revision + 1 if revisions else 1,
            cpu=cpu,
            memory=memory,
            container_definitions=tuple(containers),
            registered_at=now,
        )
        TaskDefinition.from_map(wanted.to_map())  # what would be refused by its readers is refused here
        for known in reversed(revisions):
            same = replace(wanted, revision=known.revision, registered_at=known.registered_at)
            if known == same and known.status is DefinitionStatus.ACTIVE:
                return known
        try:
            await feed.reached(await journal.offer(offers.register_task_definition(wanted)))
        except OfferRejected as rejected:
            if rejected.receipt.reason is not Reason.EXPECT:
                raise
            await feed.reached(rejected.receipt.revision)  # somebody else took that revision
        else:
            return wanted
