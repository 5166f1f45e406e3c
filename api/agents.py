"""What an agent says: where it polls, and what became of its tasks and containers.

For agents of other people's, written against the API: an instance that was registered by an agent
of Synod's is reported on by that agent alone, in the journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.calls import Call, Handler
from api.errors import invalid
from api.find import cluster_of, require_task
from api.instances import NO_AGENT, heard
from cluster import offers
from cluster.codec import RecordInvalid
from cluster.records import (
    ContainerStatus,
    DesiredStatus,
    LastStatus,
    NetworkBinding,
    StopCode,
    TaskStatus,
)
from cluster.state import ClusterState, TaskView
from cluster.transitions import TASK_LAST, may_become
from journal.offers import Offer
from journal.types import Revision

ORDER = list(LastStatus)
CONTAINERS_MAX = 20
ACKNOWLEDGED = {"acknowledgment": "ACK"}


async def discover_poll_endpoint(call: Call) -> Mapping[str, Any]:
    """Say where an agent finds the API: here. It counts as a sign of life of the instance it names."""
    if call.get("containerInstance"):
        cluster = cluster_of(call)
        instance = call.arns.read_instance(call.get("containerInstance"), cluster)
        if instance:
            await heard(call, cluster, instance)
    here = f"http://{call.here}/"
    return {"endpoint": here, "telemetryEndpoint": here}


async def submit_task_state_change(call: Call) -> Mapping[str, Any]:
    """Take note of what became of a task. What is no news, or comes too late, changes nothing."""
    cluster, view = await _reported(call)
    said = _status(call.get("status"))
    containers = call.limited("containers", CONTAINERS_MAX, least=0)

    def changed(now: TaskView, before: TaskStatus | None) -> TaskStatus:
        status = before or TaskStatus(last_status=LastStatus.PENDING)
        for container in containers:
            status = _with_container(status, container.get("containerName"), container)
        if said is not None:
            status = replace(status, last_status=said)
        return replace(
            status,
            pull_started_at=call.get("pullStartedAt", status.pull_started_at),
            pull_stopped_at=call.get("pullStoppedAt", status.pull_stopped_at),
            execution_stopped_at=call.get("executionStoppedAt", status.execution_stopped_at),
        )

    return await _report(call, cluster, view.id, changed)


async def submit_container_state_change(call: Call) -> Mapping[str, Any]:
    """Take note of what became of a container. The task is as far as the container that is least far."""
    cluster, view = await _reported(call)

    def changed(now: TaskView, before: TaskStatus | None) -> TaskStatus:
        status = before or TaskStatus(last_status=LastStatus.PENDING)
        status = _with_container(status, call.get("containerName"), call.params)
        return replace(status, last_status=_least(call, now, status))

    return await _report(call, cluster, view.id, changed)


async def submit_attachment_state_changes(call: Call) -> Mapping[str, Any]:
    """There are no attachments here: there is nothing to take note of."""
    cluster_of(call)
    return ACKNOWLEDGED


async def _reported(call: Call) -> tuple[str, TaskView]:
    """Return the task that is reported on; its instance has been heard."""
    cluster = cluster_of(call)
    view = require_task(call, cluster, call.get("task") or "")
    instance = call.state.instance(cluster, view.instance)
    if instance is not None and instance.record.host:
        raise invalid("The task is reported on by its own agent.")
    if instance is not None and instance.alive and instance.alive.record.incarnation != NO_AGENT:
        raise invalid("The task is reported on by its own agent.")
    await heard(call, cluster, view.instance, connect=True)
    return cluster, view


async def _report(call: Call, cluster: str, task_id: str, changed: Any) -> Mapping[str, Any]:
    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        view = state.task(cluster, task_id)
        if view is None or view.desired is None:
            raise invalid("The referenced task was not found.")
        before = view.status
        old = before.last_status if before else None
        try:
            status = TaskStatus.from_map(_ends(call, view, changed(view, before)).to_map())
        except RecordInvalid as error:
            raise invalid(str(error)) from None
        if old is LastStatus.STOPPED or not may_become(TASK_LAST, old, status.last_status):
            return None, None
        if status == before:
            return None, None
        offer = offers.report(
            cluster,
            view.instance,
            task_id,
            view.task,
            view.desired.revision,
            status,
            before=before,
            before_revision=view.observed.revision if view.observed else Revision(0),
        )
        return offer, None

    await call.change(decide)
    return ACKNOWLEDGED


def _ends(call: Call, view: TaskView, status: TaskStatus) -> TaskStatus:
    """Return the status with the times and reasons that go with it."""
    now = call.now()
    if status.last_status is not LastStatus.PENDING and status.started_at is None:
        ran = any(c.last_status is not LastStatus.PENDING for c in status.containers)
        if status.last_status is LastStatus.RUNNING or ran:
            status = replace(status, started_at=now)
    if status.last_status is not LastStatus.STOPPED:
        return status
    told = view.task.desired_status is DesiredStatus.STOPPED
    code = StopCode.ESSENTIAL_CONTAINER_EXITED if status.started_at else StopCode.TASK_FAILED_TO_START
    reason = call.get("reason") or (
        view.task.stopped_reason if told else "Essential container in task exited"
    )
    return replace(
        status,
        stop_code=(view.task.stop_code if told else None) or code,
        stopped_reason=reason,
        stopped_at=now,
        execution_stopped_at=status.execution_stopped_at or now,
        containers=tuple(replace(c, last_status=LastStatus.STOPPED) for c in status.containers),
    )


def _with_container(status: TaskStatus, name: str | None, said: Mapping[str, Any]) -> TaskStatus:
    """Return the status with what is said of one container."""
    if not name:
        raise invalid("containerName is required.")
    known = next((c for c in status.containers if c.name == name), None)
    before = known or ContainerStatus(name=name, last_status=LastStatus.PENDING)
    new = _status(said.get("status"))
    if new is None or ORDER.index(new) < ORDER.index(before.last_status):
        new = before.last_status
    bindings = said.get("networkBindings")
    after = replace(
        before,
        last_status=new,
        exit_code=before.exit_code if said.get("exitCode") is None else said["exitCode"],
        reason=said.get("reason") or before.reason,
        runtime_id=said.get("runtimeId") or before.runtime_id,
        image_digest=said.get("imageDigest") or before.image_digest,
        network_bindings=before.network_bindings if bindings is None else _bindings(bindings),
    )
    others = tuple(c for c in status.containers if c.name != name)
    return replace(status, containers=(*others, after))


def _bindings(given: list[Mapping[str, Any]]) -> tuple[NetworkBinding, ...]:
    try:
        return tuple(NetworkBinding.from_map(dict(binding)) for binding in given)
    except RecordInvalid as error:
        raise invalid(f"networkBindings: {error}") from None


def _least(call: Call, view: TaskView, status: TaskStatus) -> LastStatus:
    """Return what a task is by its containers; one that nothing was said of is PENDING."""
    at = call.state.definition(view.task.task_definition)
    names = {c.name for c in at.record.container_definitions} if at else set()
    known = {c.name: c.last_status for c in status.containers}
    least = min((known.get(name, LastStatus.PENDING) for name in sorted(names | set(known))), key=ORDER.index)
    return max(least, status.last_status, key=ORDER.index)


def _status(text: str | None) -> LastStatus | None:
    if text is None:
        return None
    try:
        return LastStatus(text)
    except ValueError:
        raise invalid(f"status {text[:40]!r} is none of {', '.join(LastStatus)}.") from None


HANDLERS: Mapping[str, Handler] = {
    "DiscoverPollEndpoint": discover_poll_endpoint,
    "SubmitTaskStateChange": submit_task_state_change,
    "SubmitContainerStateChange": submit_container_state_change,
    "SubmitAttachmentStateChanges": submit_attachment_state_changes,
}
