"""Container instances: register, describe, list by expression, drain, deregister."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from api import present
from api.calls import Call, Handler
from api.errors import ApiError, client, invalid
from api.expressions import instance_filter
from api.find import cluster_of, instance_of, missing, require_instance, tags_of
from api.pages import page
from cluster import keys, offers
from cluster.codec import RecordInvalid
from cluster.records import (
    Alive,
    Attribute,
    Cluster,
    ClusterStatus,
    ContainerInstance,
    DesiredStatus,
    InstanceSettings,
    InstanceStatus,
    LastStatus,
    Resource,
    StopCode,
    TaskStatus,
    VersionInfo,
)
from cluster.state import At, ClusterState, InstanceView
from journal.errors import JournalError, LeaseNotFound
from journal.offers import LeaseRevoke, Offer
from journal.types import Revision

DESCRIBED_MAX = 100
CHANGED_MAX = 10
STATUSES = {"ACTIVE", "DRAINING"}
FORCED = "Container instance deregistration forced by user."
NO_AGENT = "api"
"""The incarnation of an instance that was registered through the API."""


# -- registering ----------------------------------------------------------------------


async def register_container_instance(call: Call) -> Mapping[str, Any]:
    """Register an instance, or bring the one that ``containerInstanceArn`` names up to date.

    It counts as connected for ``heartbeat_s`` from now: each word from it makes it so again.
    """
    name = call.arns.read_cluster(call.get("cluster"))
    await _ensure_cluster(call, name)
    given = call.get("containerInstanceArn")
    instance_id = call.arns.read_instance(given, name) if given else call.new_id()
    if instance_id is None:
        raise invalid("containerInstanceArn is of another cluster.")
    wanted = _registration(call)

    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        view = state.instance(name, instance_id)
        if view is None or view.registration is None:
            if given:
                raise client(f"Container instance {instance_id} is not registered.")
            return _first(call, name, instance_id, wanted), None
        old = view.registration.record
        if old.status is InstanceStatus.INACTIVE:
            raise client(f"Container instance {instance_id} was deregistered: register as a new one.")
        if old.host:
            raise client(f"Container instance {instance_id} is registered by its own agent.")
        new = replace(
            wanted, status=old.status, registered_at=old.registered_at, host=old.host, folder=old.folder
        )
        _require_free(view, old, new)
        return offers.change_instance(name, instance_id, old, new, view.registration.revision), None

    await call.change(decide)
    await heard(call, name, instance_id, connect=True)
    return _shown(call, name, instance_id)


def _require_free(view: InstanceView, old: ContainerInstance, new: ContainerInstance) -> None:
    """Raise ``ApiError`` where an instance would have less than its tasks hold."""
    left = view.capacity.record if view.capacity else old.capacity()
    for name, had, has, free in (
        ("CPU", old.cpu, new.cpu, left.cpu),
        ("MEMORY", old.memory, new.memory, left.memory),
        *(
            (name, had, new.named.get(name, 0), left.resources.get(name, 0))
            for name, had in old.named.items()
        ),
    ):
        if free + has - had < 0:
            raise client(f"totalResources: tasks hold {had - free} of {name}, which is more than {has}.")
    for name, before, after, used in (
        ("PORTS", old.ports, new.ports, left.ports),
        ("PORTS_UDP", old.ports_udp, new.ports_udp, left.ports_udp),
    ):
        taken = sorted((set(after) - set(before)) & set(used))
        if taken:
            raise client(f"totalResources: port {taken[0]} of {name} is held by a task.")


def _first(call: Call, cluster: str, instance_id: str, wanted: ContainerInstance) -> Offer:
    registered = offers.register_instance(cluster, instance_id, wanted)
    if not call.get("tags"):
        return registered
    settings = InstanceSettings(tags=tags_of(call.get("tags")))
    put = offers.change_settings(cluster, instance_id, settings, Revision(0), registration=Revision(0))
    return offers.together(registered, put)


async def _ensure_cluster(call: Call, name: str) -> None:
    """Create the cluster where it is the default one, as ECS does; any other must be there."""

    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        at = state.cluster(name)
        if at is not None and at.record.status is ClusterStatus.ACTIVE:
            return None, None
        if name != keys.DEFAULT_CLUSTER:
            raise ApiError("ClusterNotFoundException", "Cluster not found.")
        record = Cluster(cluster_name=name, created_at=call.now())
        if at is None:
            return offers.create_cluster(name, record), None
        return offers.create_cluster(name, record, before=at.record, revision=at.revision), None

    await call.change(decide)


def _registration(call: Call) -> ContainerInstance:
    resources = []
    for given in call.get("totalResources", []):
        number = given.get("integerValue") or given.get("longValue") or int(given.get("doubleValue") or 0)
        texts = given.get("stringSetValue")
        resources.append(
            Resource(
                name=given.get("name") or "",
                type=given.get("type") or ("INTEGER" if texts is None else "STRINGSET"),
                integer_value=number if texts is None else None,
                string_set_value=None if texts is None else tuple(texts),
            )
        )
    attributes = []
    for given in call.get("attributes", []):
        if not given.get("name"):
            raise invalid("attributes: an attribute needs a name.")
        attributes.append(Attribute(name=given["name"], value=given.get("value") or None))
    version = call.get("versionInfo") or {}
    record = ContainerInstance(
        registered_resources=tuple(resources),
        attributes=tuple(attributes),
        version_info=VersionInfo.from_map(dict(version)) if version else None,
        ec2_instance_id=_machine(call),
        registered_at=call.now(),
    )
    try:
        return ContainerInstance.from_map(record.to_map())
    except RecordInvalid as error:
        raise invalid(str(error)) from None


def _machine(call: Call) -> str:
    """Return the ``instanceId`` of the identity document, where there is one that can be read."""
    try:
        document = json.loads(call.get("instanceIdentityDocument", "") or "{}")
        return str(document.get("instanceId", "")) if isinstance(document, dict) else ""
    except (ValueError, RecursionError):
        return ""


# -- signs of life --------------------------------------------------------------------


def lease_of(cluster: str, instance_id: str) -> int:
    """Return the lease of an instance without an agent of Synod's: always the same, so that any process
    that hears from it can keep it alive."""
    return int.from_bytes(hashlib.sha256(f"{cluster}/{instance_id}".encode()).digest()[:6], "big") + 1


async def heard(call: Call, cluster: str, instance_id: str, *, connect: bool = False) -> None:
    """Take a word from an instance that was registered through the API as its heartbeat.

    ``connect``: make it connected if it is not; an instance of an agent's is left alone.
    """
    view = call.state.instance(cluster, instance_id)
    if view is None or view.registration is None or view.status is InstanceStatus.INACTIVE:
        return
    if view.alive is not None and view.alive.record.incarnation != NO_AGENT:
        return
    lease = lease_of(cluster, instance_id)
    if view.alive is not None:
        try:
            await call.api.journal.keep_alive(lease)
            return
        except LeaseNotFound:
            pass
        except JournalError:
            return  # it will be heard again
    elif not connect and view.registration.record.host:
        return
    await call.change(lambda state: (_connect(call, state, cluster, instance_id, lease), None))


def _connect(call: Call, state: ClusterState, cluster: str, instance_id: str, lease: int) -> Offer | None:
    view = state.instance(cluster, instance_id)
    if view is None or view.registration is None or view.connected or view.status is InstanceStatus.INACTIVE:
        return None
    return offers.connect(
        cluster,
        instance_id,
        Alive(incarnation=NO_AGENT, connected_at=call.now()),
        lease=lease,
        ttl_ms=round(call.api.settings.heartbeat_s * 1000),
        registration=view.registration.revision,
        at=state.revision,
    )


# -- looking --------------------------------------------------------------------------


async def describe_container_instances(call: Call) -> Mapping[str, Any]:
    cluster = cluster_of(call)
    found, failures = [], []
    for given in call.limited("containerInstances", DESCRIBED_MAX):
        view = instance_of(call, cluster, given)
        if view is None:
            failures.append(missing(call.arns.instance(cluster, given.rpartition("/")[2])))
        else:
            found.append(present.instance(call, view, with_tags=call.includes("TAGS")))
    return {"containerInstances": found, "failures": failures}


async def list_container_instances(call: Call) -> Mapping[str, Any]:
    """List the instances that fit ``filter`` and ``status`` (without it: all but INACTIVE ones)."""
    cluster = cluster_of(call)
    wanted = page("ListContainerInstances", call.params)
    status = call.get("status")
    if status not in (None, "ACTIVE", "DRAINING"):
        return {"containerInstanceArns": []}  # nothing is ever in the other states here
    fits = instance_filter(call.state, call.get("filter"))
    found = call.state.list_instances(
        cluster,
        status=InstanceStatus(status) if status else None,
        keep=fits,
        after=wanted.after or None,
        limit=wanted.size,
    )
    return {
        "containerInstanceArns": [call.arns.instance(cluster, view.id) for view in found.items],
        "nextToken": wanted.next(found.more, found.items[-1].id if found.items else ""),
    }


# -- changing -------------------------------------------------------------------------


async def update_container_instances_state(call: Call) -> Mapping[str, Any]:
    """Drain instances, or make them ACTIVE again."""
    cluster = cluster_of(call)
    status = call.get("status")
    if status not in STATUSES:
        raise invalid("status must be ACTIVE or DRAINING.")
    found, failures = [], []
    for given in call.limited("containerInstances", CHANGED_MAX):
        view = instance_of(call, cluster, given)
        if view is None:
            failures.append(missing(call.arns.instance(cluster, given.rpartition("/")[2])))
            continue
        if view.status is InstanceStatus.INACTIVE:
            arn = call.arns.instance(cluster, view.id)
            failures.append({"arn": arn, "reason": "INACTIVE"})
            continue
        await _set_status(call, cluster, view.id, InstanceStatus(status))
        changed = call.state.instance(cluster, view.id)
        if changed is not None:
            found.append(present.instance(call, changed))
    return {"containerInstances": found, "failures": failures}


async def deregister_container_instance(call: Call) -> Mapping[str, Any]:
    """Make an instance INACTIVE for good. It must have no tasks; with ``force`` they are to stop."""
    cluster = cluster_of(call)
    view = require_instance(call, cluster, call.get("containerInstance", ""))
    if view.status is InstanceStatus.INACTIVE:
        return _shown(call, cluster, view.id)
    running = [task for task in call.state.tasks(cluster, instance=view.id) if not task.stopped]
    if running and not call.get("force", False):
        raise invalid("Found running tasks on the instance.")
    await _set_status(call, cluster, view.id, InstanceStatus.INACTIVE)
    without_agent = not view.record.host
    for task in running:
        await call.change(partial(_stop, call, cluster, task.id))
        if without_agent:  # nobody else will ever say so
            await call.change(partial(_stopped, call, cluster, task.id))
    if view.alive is not None and view.alive.record.incarnation == NO_AGENT:
        await _disconnect(call, cluster, view.id)
    return _shown(call, cluster, view.id)


async def _set_status(call: Call, cluster: str, instance_id: str, status: InstanceStatus) -> None:
    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        at = _registered(state, cluster, instance_id)
        if at is None or at.record.status is status:
            return None, None
        return offers.set_instance_status(cluster, instance_id, at.record, at.revision, status), None

    await call.change(decide)


def _stop(call: Call, cluster: str, task_id: str, state: ClusterState) -> tuple[Offer | None, None]:
    view = state.task(cluster, task_id)
    if view is None or view.desired is None or view.task.desired_status is DesiredStatus.STOPPED:
        return None, None
    offer = offers.stop(
        cluster,
        view.instance,
        task_id,
        view.task,
        view.desired.revision,
        code=StopCode.TERMINATION_NOTICE,
        reason=FORCED,
        now=call.now(),
    )
    return offer, None


def _stopped(call: Call, cluster: str, task_id: str, state: ClusterState) -> tuple[Offer | None, None]:
    """Report a task as STOPPED whose instance was given up: it is accounted for no longer."""
    view = state.task(cluster, task_id)
    if view is None or view.desired is None or view.stopped:
        return None, None
    before = view.status or TaskStatus(last_status=LastStatus.PENDING)
    status = replace(
        before,
        last_status=LastStatus.STOPPED,
        stop_code=view.task.stop_code,
        stopped_reason=view.task.stopped_reason,
        stopped_at=call.now(),
        containers=tuple(replace(c, last_status=LastStatus.STOPPED) for c in before.containers),
    )
    offer = offers.report(
        cluster,
        view.instance,
        task_id,
        view.task,
        view.desired.revision,
        status,
        before=view.status,
        before_revision=view.observed.revision if view.observed else Revision(0),
    )
    return offer, None


async def _disconnect(call: Call, cluster: str, instance_id: str) -> None:
    """End the lease that stands for an agent; it would end by itself."""
    try:
        revision = await call.api.journal.offer(Offer((LeaseRevoke(lease_of(cluster, instance_id)),)))
    except JournalError:
        return
    await call.api.live.reached(revision)


async def update_container_agent(call: Call) -> Mapping[str, Any]:
    """There is no other version of the agent to be had from here: that is what ECS says then."""
    cluster = cluster_of(call)
    view = require_instance(call, cluster, call.get("containerInstance", ""))
    if view.registration is None or view.registration.record.version_info is None:
        raise ApiError("MissingVersionException", "The agent's version is not known.")
    raise ApiError(
        "NoUpdateAvailableException", "There is no update available for your container agent; install one."
    )


def _registered(state: ClusterState, cluster: str, instance_id: str) -> At[ContainerInstance] | None:
    view = state.instance(cluster, instance_id)
    return view.registration if view else None


def _shown(call: Call, cluster: str, instance_id: str) -> Mapping[str, Any]:
    view = call.state.instance(cluster, instance_id)
    if view is None:
        raise invalid("Could not find container instance.")
    return {"containerInstance": present.instance(call, view, with_tags=True)}


HANDLERS: Mapping[str, Handler] = {
    "RegisterContainerInstance": register_container_instance,
    "DeregisterContainerInstance": deregister_container_instance,
    "DescribeContainerInstances": describe_container_instances,
    "ListContainerInstances": list_container_instances,
    "UpdateContainerInstancesState": update_container_instances_state,
    "UpdateContainerAgent": update_container_agent,
}
