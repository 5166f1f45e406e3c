"""Services: what people want of one, its tasks, how far it is. PURE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cluster import keys
from cluster.offers.common import label_of, together
from cluster.offers.tasks import place
from cluster.records import Rollout, Service, ServiceStatus, Task
from cluster.transitions import ROLLOUT, SERVICE, IllegalTransition, check
from journal.offers import Delete, Offer, Put, prefix_range
from journal.types import Revision


class Placing(NamedTuple):
    """A task and the instance that it goes to."""

    instance: str
    task_id: str
    task: Task
    alone: bool = False


def create_service(
    cluster: str,
    service: Service,
    *,
    at: Revision,
    before: Service | None = None,
    revision: Revision = Revision(0),  # noqa: B008
) -> Offer:
    """Create a service in a cluster that was seen ACTIVE at revision ``at``; rejected if it exists.

    ``before`` and ``revision``: the INACTIVE record that it replaces; that one's rollout goes.
    """
    name = service.service_name
    if before is not None and before.status is not ServiceStatus.INACTIVE:
        raise IllegalTransition(f"service {name} is {before.status}: it cannot be created again")
    check(SERVICE, before.status if before else None, service.status, f"service {name}")
    key = keys.service(cluster, name)
    return Offer(
        mutations=(Put(key, service.pack()), Delete(keys.rollout(cluster, name))),
        reads=(keys.cluster(cluster), keys.task_definition(service.task_definition)),
        expect=((key, revision),),
        at=at,
        label=label_of(f"create-service {name}"),
    )


def change_service(cluster: str, old: Service, new: Service, revision: Revision) -> Offer:
    """Replace a service whose record is at ``revision``."""
    name = old.service_name
    check(SERVICE, old.status, new.status, f"service {name}")
    if old.status is ServiceStatus.INACTIVE or new.service_name != name:
        raise IllegalTransition(f"service {name} is {old.status}: only create_service replaces it")
    key = keys.service(cluster, name)
    return Offer(
        mutations=(Put(key, new.pack()),),
        expect=((key, revision),),
        label=label_of(f"service {name}: {new.status}"),
    )


def close_service(cluster: str, old: Service, new: Service, revision: Revision, *, at: Revision) -> Offer:
    """Make a service INACTIVE that was seen without tasks at revision ``at``."""
    closed = change_service(cluster, old, new, revision)
    if new.status is not ServiceStatus.INACTIVE:
        raise IllegalTransition(f"service {old.service_name}: closing makes it INACTIVE")
    return together(closed, Offer(mutations=(), ranges=(_index(cluster, old.service_name),), at=at))


def forget_service(cluster: str, service: Service, revision: Revision, *, at: Revision) -> Offer:
    """Delete the records of an INACTIVE service that was seen without tasks at revision ``at``."""
    name = service.service_name
    if service.status is not ServiceStatus.INACTIVE:
        raise IllegalTransition(f"service {name} is {service.status}: it cannot be forgotten")
    key = keys.service(cluster, name)
    return Offer(
        mutations=(Delete(key), Delete(keys.rollout(cluster, name))),
        expect=((key, revision),),
        ranges=(_index(cluster, name),),
        at=at,
        label=label_of(f"forget service {name}"),
    )


def place_for_service(cluster: str, service: str, placings: Sequence[Placing], *, at: Revision) -> Offer:
    """Place tasks of a service, all or none, where it has exactly the tasks that it had at ``at``.

    So two schedulers that both saw the same tasks missing cannot both add them. At most
    ``TOGETHER_TASKS_MAX`` at once; the next offer then stands on this one's revision.
    """
    for placing in placings:
        if placing.task.service != service:
            raise ValueError(f"task {placing.task_id} is of group {placing.task.group}, not of {service}")
    by = f"service {service}"
    placed = [
        place(cluster, one.instance, one.task_id, one.task, at=at, by=by, alone=one.alone) for one in placings
    ]
    counted = Offer(mutations=(), ranges=(_index(cluster, service),), at=at)
    return together(*placed, counted, label=f"{by}: place {len(placings)}")


def put_rollout(
    cluster: str,
    service: str,
    rollout: Rollout,
    *,
    before: Rollout | None,
    revision: Revision,
    service_revision: Revision,
) -> Offer:
    """Write how far a service is; ``before`` at ``revision`` is what it replaces (None, 0: none).

    Stands on the service's record, so that nothing is said of a deployment that is not wanted any more.
    """
    for one in rollout.deployments:
        known = before.deployment(one.id) if before else None
        # A deployment first seen here may be decided at once: a service of no tasks is complete.
        old = known.rollout_state if known else one.rollout_state
        check(ROLLOUT, old, one.rollout_state, f"deployment {one.id}")
    key = keys.rollout(cluster, service)
    return Offer(
        mutations=(Put(key, rollout.pack()),),
        expect=((key, revision), (keys.service(cluster, service), service_revision)),
        label=label_of(f"service {service}: rollout"),
    )


def _index(cluster: str, service: str) -> tuple[bytes, bytes]:
    return prefix_range(keys.service_tasks_of(cluster, service))
