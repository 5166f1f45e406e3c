"""Every change of the cluster as one offer. PURE.

What must never happen is impossible here by construction, not by care:

* **No oversubscription.** ``place`` claims with ``adjust`` and a minimum of 0, and ports
  with a set ``add``, in the offer that puts the task; nothing else ever lowers capacity.
* **No double placement.** The task's key must be absent (``expect`` 0).
* **No placement on an instance that left.** Registration and liveness are ``reads``: they
  must be unchanged since the revision at which the scheduler saw ACTIVE and connected.
* **A claim is released exactly once.** ``report`` of STOPPED carries the release, and
  stands on the revision of the status before it; after STOPPED no report is legal.
* **A report stands on the task it answers**, so nothing is reported of a task that is gone.

Functions raise ``IllegalTransition`` where the tables have no such change.
"""

from __future__ import annotations

from dataclasses import replace

from cluster import keys
from cluster.records import (
    Alive,
    Capacity,
    Cluster,
    ContainerInstance,
    DesiredStatus,
    InstanceStatus,
    LastStatus,
    StopCode,
    Task,
    TaskDefinition,
    TaskStatus,
)
from cluster.transitions import INSTANCE, TASK_DESIRED, TASK_LAST, IllegalTransition, check
from journal.limits import LABEL_BYTES_MAX
from journal.offers import Adjust, Delete, LeaseGrant, Mutation, Offer, Put, SetAdd, SetRemove
from journal.types import Revision


def create_cluster(cluster: str) -> Offer:
    """Create a cluster; rejected if it exists."""
    key = keys.cluster(cluster)
    return Offer(
        mutations=(Put(key, Cluster(cluster_name=cluster).pack()),),
        expect=((key, 0),),
        label=_label(f"create-cluster {cluster}"),
    )


def register_task_definition(definition: TaskDefinition) -> Offer:
    """Register one revision of a family; rejected if that revision exists."""
    key = keys.task_definition(definition.name)
    return Offer(
        mutations=(Put(key, definition.pack()),),
        expect=((key, 0),),
        label=_label(f"register-task-definition {definition.name}"),
    )


def register_instance(cluster: str, instance: str, record: ContainerInstance) -> Offer:
    """Register a container instance for the first time, with all it has to give.

    This is the only offer that ever puts a capacity record.
    """
    instance_key, capacity_key = keys.instance(cluster, instance), keys.capacity(cluster, instance)
    check(INSTANCE, None, record.status, f"container instance {instance}")
    capacity = Capacity(cpu=record.cpu, memory=record.memory)
    return Offer(
        mutations=(Put(instance_key, record.pack()), Put(capacity_key, capacity.pack())),
        expect=((instance_key, 0), (capacity_key, 0)),
        label=_label(f"register {instance}"),
    )


def change_instance(
    cluster: str, instance: str, old: ContainerInstance, new: ContainerInstance, revision: Revision
) -> Offer:
    """Replace a registration that is at ``revision``; capacity moves by what was added or taken away.

    Rejected (BOUNDS) where more is taken away than is free: tasks keep what they have.
    """
    check(INSTANCE, old.status, new.status, f"container instance {instance}")
    instance_key = keys.instance(cluster, instance)
    deltas = {"cpu": new.cpu - old.cpu, "memory": new.memory - old.memory}
    deltas = {name: delta for name, delta in deltas.items() if delta}
    mutations: list[Mutation] = [Put(instance_key, new.pack())]
    if deltas:
        mutations.append(Adjust(keys.capacity(cluster, instance), deltas, minimum=dict.fromkeys(deltas, 0)))
    return Offer(
        mutations=tuple(mutations),
        expect=((instance_key, revision),),
        label=_label(f"change instance {instance}"),
    )


def connect(
    cluster: str,
    instance: str,
    alive: Alive,
    *,
    lease: int,
    ttl_ms: int,
    registration: Revision,
    at: Revision,
    grant: bool = True,
) -> Offer:
    """Say that the agent is connected, for as long as its lease lives.

    Stands on the registration as it is at revision ``registration``, so that an instance
    deregistered in the meantime does not come back to life. ``grant``: the lease is granted by
    the same offer.
    """
    mutations: list[Mutation] = [LeaseGrant(lease, ttl_ms)] if grant else []
    mutations.append(Put(keys.alive(cluster, instance), alive.pack(), lease))
    return Offer(
        mutations=tuple(mutations),
        expect=((keys.instance(cluster, instance), registration),),
        at=at,
        label=_label(f"connect {instance}"),
    )


def place(
    cluster: str, instance: str, task_id: str, task: Task, *, at: Revision, by: str = "run-task"
) -> Offer:
    """Put a task on an instance and claim what it needs there; all or nothing.

    ``at`` is the revision of the state in which the instance was seen ACTIVE and connected,
    and the task definition ACTIVE.
    """
    check(TASK_DESIRED, None, task.desired_status, f"task {task_id}")
    capacity_key, task_key = keys.capacity(cluster, instance), keys.task(cluster, instance, task_id)
    mutations: list[Mutation] = [
        Adjust(
            capacity_key,
            {"cpu": -task.cpu, "memory": -task.memory},
            minimum={"cpu": 0, "memory": 0},
        )
    ]
    if task.ports:
        mutations.append(SetAdd(capacity_key, "ports", task.ports))
    mutations.append(Put(task_key, task.pack()))
    return Offer(
        mutations=tuple(mutations),
        reads=(
            keys.instance(cluster, instance),
            keys.alive(cluster, instance),
            keys.task_definition(task.task_definition),
        ),
        expect=((task_key, 0),),
        at=at,
        label=_label(f"{by}: place {task_id}"),
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
        label=_label(f"stop {task_id}"),
    )


def stopped(task: Task, *, code: StopCode, reason: str, now: float) -> Task:
    """Return the task as it is desired after a stop. Raises ``IllegalTransition`` if it was stopped."""
    if task.desired_status is DesiredStatus.STOPPED:
        raise IllegalTransition("the task's desiredStatus is STOPPED already")
    return replace(
        task, desired_status=DesiredStatus.STOPPED, stopping_at=now, stop_code=code, stopped_reason=reason
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
    """Report what became of a task. A report of STOPPED releases its claim.

    ``before`` and ``before_revision`` are the status record that this one replaces (None, 0: none),
    ``task_revision`` is where the task's own record stands.
    """
    old = before.last_status if before else None
    check(TASK_LAST, old, status.last_status, f"task {task_id}")
    status_key, task_key = keys.status(cluster, instance, task_id), keys.task(cluster, instance, task_id)
    mutations: list[Mutation] = [Put(status_key, status.pack())]
    if status.last_status is LastStatus.STOPPED and old is not LastStatus.STOPPED:
        capacity_key = keys.capacity(cluster, instance)
        mutations.append(Adjust(capacity_key, {"cpu": task.cpu, "memory": task.memory}))
        if task.ports:
            mutations.append(SetRemove(capacity_key, "ports", task.ports))
    return Offer(
        mutations=tuple(mutations),
        expect=((status_key, before_revision), (task_key, task_revision)),
        label=_label(f"agent {instance}: {status.last_status} {task_id}"),
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
        label=_label(f"forget {task_id}"),
    )


def set_instance_status(
    cluster: str, instance: str, record: ContainerInstance, revision: Revision, status: InstanceStatus
) -> Offer:
    """Drain, reactivate or deregister an instance whose record is at ``revision``."""
    check(INSTANCE, record.status, status, f"container instance {instance}")
    key = keys.instance(cluster, instance)
    return Offer(
        mutations=(Put(key, replace(record, status=status).pack()),),
        expect=((key, revision),),
        label=_label(f"instance {instance}: {status}"),
    )


def _label(text: str) -> str:
    """Return a label within the journal's limit; names are ASCII, so characters are bytes."""
    return text[:LABEL_BYTES_MAX]
