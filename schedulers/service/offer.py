"""A step of a service as one offer. PURE.

It stands on the service's record, its rollout record and its index, all as they were at the
revision that the step was decided from: whoever else did anything for this service since, wins.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster import keys, offers
from cluster.records import ServiceStatus, StopCode
from journal.offers import Offer, prefix_range
from journal.types import Revision
from schedulers.service.reconcile import Step, Stop


def offer_of(step: Step) -> Offer:
    """Return the offer of a step that is not empty."""
    assert not step.empty, f"service {step.before.name}: there is nothing to offer"
    cluster, name = step.cluster, step.before.name
    assert step.before.desired is not None
    parts = [
        offers.place(
            cluster, start.instance, start.task_id, start.task, at=step.at, by=name, alone=start.alone
        )
        for start in step.starts
    ]
    parts += [_end(offers.stop, step, stop) for stop in step.stops]
    parts += [_end(offers.abandon, step, stop) for stop in step.abandoned]
    parts.append(
        Offer(mutations=(), ranges=(prefix_range(keys.service_tasks_of(cluster, name)),), at=step.at)
    )
    parts.append(
        offers.put_rollout(
            cluster,
            name,
            step.rollout,
            before=step.before.progress.record if step.before.progress else None,
            revision=step.before.progress.revision if step.before.progress else Revision(0),
            service_revision=step.before.desired.revision,
        )
    )
    if step.service != step.before.service:
        parts.append(
            offers.change_service(cluster, step.before.service, step.service, step.before.desired.revision)
        )
    return offers.together(*parts, label=_label(step))


def _end(end: Callable[..., Offer], step: Step, stop: Stop) -> Offer:
    """Return ``offers.stop`` or ``offers.abandon`` of a task."""
    view = stop.view
    assert view.desired is not None
    return end(
        view.cluster,
        view.instance,
        view.id,
        view.task,
        view.desired.revision,
        code=StopCode.SERVICE_SCHEDULER_INITIATED,
        reason=stop.reason,
        now=step.now,
    )


def _label(step: Step) -> str:
    """Return what people read in the journal: ``service web: start 2, stop 1``."""
    did = [
        f"{what} {number}"
        for what, number in (
            ("start", len(step.starts)),
            ("stop", len(step.stops)),
            ("abandon", len(step.abandoned)),
        )
        if number
    ]
    if step.service.status is ServiceStatus.INACTIVE:
        did.append("close")
    return f"service {step.before.name}: {', '.join(did) or 'rollout'}"
