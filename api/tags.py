"""Tags of anything that has an ARN."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from api import present
from api.arns import Named
from api.calls import Call, Handler
from api.errors import ApiError, invalid
from api.find import TAGS_MAX, tags_of, valid_revision
from cluster import offers
from cluster.records import InstanceSettings, InstanceStatus, ServiceStatus, Tag
from cluster.state import ClusterState
from journal.offers import Offer
from journal.types import Revision

Tags = tuple[Tag, ...]
Changed = Callable[[Tags], Tags]


async def tag_resource(call: Call) -> Mapping[str, Any]:
    named = _named(call)
    wanted = tags_of(call.get("tags", []))

    def changed(before: Tags) -> Tags:
        by_key = {tag.key: tag for tag in (*before, *wanted)}
        if len(by_key) > TAGS_MAX:
            raise invalid(f"A resource can have at most {TAGS_MAX} tags.")
        return tuple(by_key.values())

    await call.change(lambda state: (_change(state, named, changed), None))
    return {}


async def untag_resource(call: Call) -> Mapping[str, Any]:
    named = _named(call)
    unwanted = set(call.get("tagKeys", []))

    def changed(before: Tags) -> Tags:
        return tuple(tag for tag in before if tag.key not in unwanted)

    await call.change(lambda state: (_change(state, named, changed), None))
    return {}


async def list_tags_for_resource(call: Call) -> Mapping[str, Any]:
    found: list[Tags] = []

    def look(before: Tags) -> Tags:
        found.append(before)
        return before

    _change(call.state, _named(call), look)
    return {"tags": present.tags(found[0])}


def _named(call: Call) -> Named:
    """Return the resource; of one whose short ARN names no cluster, the cluster too."""
    named = call.arns.read_any(call.get("resourceArn", ""))
    if named.cluster or named.kind in ("cluster", "task-definition"):
        return named
    for cluster in call.state.clusters:
        if _is_there(call.state, Named(named.kind, cluster, named.id)):
            return Named(named.kind, cluster, named.id)
    return named


def _is_there(state: ClusterState, named: Named) -> bool:
    match named.kind:
        case "container-instance":
            return state.instance(named.cluster, named.id) is not None
        case "task":
            return state.task(named.cluster, named.id) is not None
        case "service":
            return state.service(named.cluster, named.id) is not None
    return False


def _change(state: ClusterState, named: Named, changed: Changed) -> Offer | None:
    """Return what changes the tags of a resource; None where nothing changes. Raises ``ApiError``."""
    match named.kind:
        case "cluster":
            return _of_cluster(state, named, changed)
        case "container-instance":
            return _of_instance(state, named, changed)
        case "task":
            return _of_task(state, named, changed)
        case "service":
            return _of_service(state, named, changed)
        case "task-definition":
            return _of_definition(state, named, changed)
    raise invalid(f"Tags of a {named.kind} are not supported here.")


def _of_cluster(state: ClusterState, named: Named, changed: Changed) -> Offer | None:
    at = state.cluster(named.id)
    if at is None:
        raise _not_found(named)
    new = replace(at.record, tags=changed(at.record.tags))
    return None if new == at.record else offers.change_cluster(at.record, new, at.revision)


def _of_instance(state: ClusterState, named: Named, changed: Changed) -> Offer | None:
    view = state.instance(named.cluster, named.id)
    if view is None or view.registration is None or view.status is InstanceStatus.INACTIVE:
        raise _not_found(named)
    before = view.settings.record if view.settings else InstanceSettings()
    new = replace(before, tags=changed(before.tags))
    if new == before:
        return None
    revision = view.settings.revision if view.settings else Revision(0)
    return offers.change_settings(
        named.cluster, named.id, new, revision, registration=view.registration.revision
    )


def _of_task(state: ClusterState, named: Named, changed: Changed) -> Offer | None:
    view = state.task(named.cluster, named.id)
    if view is None or view.desired is None:
        raise _not_found(named)
    new = replace(view.task, tags=changed(view.task.tags))
    if new == view.task:
        return None
    return offers.change_task(named.cluster, view.instance, named.id, view.task, new, view.desired.revision)


def _of_service(state: ClusterState, named: Named, changed: Changed) -> Offer | None:
    view = state.service(named.cluster, named.id)
    if view is None or view.desired is None or view.service.status is ServiceStatus.INACTIVE:
        raise _not_found(named)
    new = replace(view.service, tags=changed(view.service.tags))
    if new == view.service:
        return None
    return offers.change_service(named.cluster, view.service, new, view.desired.revision)


def _of_definition(state: ClusterState, named: Named, changed: Changed) -> Offer | None:
    if ":" not in named.id:
        raise invalid("The ARN of a task definition needs its revision.")
    at = state.definition(named.id) if valid_revision(named.id) else None
    if at is None:
        raise _not_found(named)
    new = replace(at.record, tags=changed(at.record.tags))
    return None if new == at.record else offers.change_task_definition(at.record, new, at.revision)


def _not_found(named: Named) -> ApiError:
    if named.kind == "cluster":
        return ApiError("ClusterNotFoundException", "Cluster not found.")
    return ApiError("ResourceNotFoundException", f"The specified {named.kind} does not exist.")


HANDLERS: Mapping[str, Handler] = {
    "TagResource": tag_resource,
    "UntagResource": untag_resource,
    "ListTagsForResource": list_tags_for_resource,
}
