"""Container instances: registration, settings, liveness. PURE."""

from __future__ import annotations

from dataclasses import replace

from cluster import keys
from cluster.offers.common import label_of, move
from cluster.records import Alive, ContainerInstance, InstanceSettings, InstanceStatus
from cluster.transitions import INSTANCE, IllegalTransition, check
from journal.offers import Delete, LeaseGrant, Mutation, Offer, Put, prefix_range
from journal.types import Revision


def register_instance(cluster: str, instance: str, record: ContainerInstance) -> Offer:
    """Register a container instance for the first time, with all it has to give.

    This is the only offer that ever puts a capacity record.
    """
    instance_key, capacity_key = keys.instance(cluster, instance), keys.capacity(cluster, instance)
    check(INSTANCE, None, record.status, f"container instance {instance}")
    return Offer(
        mutations=(Put(instance_key, record.pack()), Put(capacity_key, record.capacity().pack())),
        expect=((instance_key, 0), (capacity_key, 0)),
        label=label_of(f"register {instance}"),
    )


def change_instance(
    cluster: str, instance: str, old: ContainerInstance, new: ContainerInstance, revision: Revision
) -> Offer:
    """Replace a registration that is at ``revision``; capacity moves by what was added or taken away.

    Rejected (BOUNDS, SET) where more is taken away than is free: tasks keep what they have.
    """
    check(INSTANCE, old.status, new.status, f"container instance {instance}")
    instance_key = keys.instance(cluster, instance)
    moved = move(keys.capacity(cluster, instance), old.capacity(), new.capacity())
    return Offer(
        mutations=(Put(instance_key, new.pack()), *moved),
        expect=((instance_key, revision),),
        label=label_of(f"change instance {instance}"),
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
        label=label_of(f"connect {instance}"),
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
        label=label_of(f"instance {instance}: {status}"),
    )


def change_settings(
    cluster: str, instance: str, settings: InstanceSettings, revision: Revision, *, registration: Revision
) -> Offer:
    """Replace the settings of an instance; they are at ``revision`` (0: none yet)."""
    key = keys.settings(cluster, instance)
    return Offer(
        mutations=(Put(key, settings.pack()),),
        expect=((key, revision), (keys.instance(cluster, instance), registration)),
        label=label_of(f"settings of {instance}"),
    )


def forget_instance(
    cluster: str, instance: str, record: ContainerInstance, revision: Revision, *, at: Revision
) -> Offer:
    """Delete all records of an INACTIVE instance that was seen without tasks at revision ``at``."""
    if record.status is not InstanceStatus.INACTIVE:
        raise IllegalTransition(f"container instance {instance} is {record.status}: it cannot be forgotten")
    key = keys.instance(cluster, instance)
    others = (keys.settings(cluster, instance), keys.capacity(cluster, instance))
    return Offer(
        mutations=(Delete(key), *(Delete(other) for other in others), Delete(keys.alive(cluster, instance))),
        expect=((key, revision),),
        ranges=(prefix_range(keys.tasks_of(cluster, instance)),),
        at=at,
        label=label_of(f"forget instance {instance}"),
    )
