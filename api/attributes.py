"""Custom attributes of container instances. What an agent registers is its own and stays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from api.calls import Call, Handler
from api.errors import ApiError, invalid, target_not_found
from api.find import cluster_of
from api.pages import page
from cluster import offers
from cluster.records import Attribute, InstanceSettings, InstanceStatus
from cluster.state import ClusterState, InstanceView
from journal.offers import Offer
from journal.types import Revision

CHANGED_MAX = 10
INSTANCE_ATTRIBUTES_MAX = 50
"""Custom attributes of one instance. ECS allows 10."""

_NAME = re.compile(r"[A-Za-z0-9_.\-/\\]{1,128}")
_VALUE = re.compile(r"[A-Za-z0-9_.\-/\\:@ ]{0,128}")


class Given(NamedTuple):
    """An attribute that a caller named, and the instance it is of."""

    instance: str
    name: str
    value: str | None


async def put_attributes(call: Call) -> Mapping[str, Any]:
    """Set attributes; all of one instance in one offer."""
    cluster = cluster_of(call)
    given = [_given(call, cluster, item) for item in call.limited("attributes", CHANGED_MAX)]
    for one in given:
        if one.value is not None and (not _VALUE.fullmatch(one.value) or one.value != one.value.strip()):
            raise invalid(f"attributes: the value {one.value[:40]!r} of {one.name} is not allowed.")

    def put(present: tuple[Attribute, ...], wanted: Sequence[Given]) -> tuple[Attribute, ...]:
        by_name = {attribute.name: attribute for attribute in present}
        by_name.update({one.name: Attribute(name=one.name, value=one.value or None) for one in wanted})
        if len(by_name) > INSTANCE_ATTRIBUTES_MAX:
            raise ApiError(
                "AttributeLimitExceededException",
                f"An instance can have at most {INSTANCE_ATTRIBUTES_MAX} custom attributes.",
            )
        return tuple(by_name[name] for name in sorted(by_name))

    await _change(call, cluster, given, put)
    return {"attributes": [_shown(call, cluster, one.instance, one.name, one.value) for one in given]}


async def delete_attributes(call: Call) -> Mapping[str, Any]:
    cluster = cluster_of(call)
    given = [_given(call, cluster, item) for item in call.limited("attributes", CHANGED_MAX)]

    def delete(present: tuple[Attribute, ...], unwanted: Sequence[Given]) -> tuple[Attribute, ...]:
        by_name = {attribute.name: attribute for attribute in present}
        for one in unwanted:
            found = by_name.pop(one.name, None)
            if found is None or (one.value is not None and (found.value or "") != one.value):
                raise target_not_found(f"The attribute {one.name} was not found on {one.instance}.")
        return tuple(by_name.values())

    await _change(call, cluster, given, delete)
    return {"attributes": [_shown(call, cluster, one.instance, one.name, one.value) for one in given]}


async def list_attributes(call: Call) -> Mapping[str, Any]:
    """List attributes of all instances, registered and custom, by instance and name."""
    cluster = cluster_of(call)
    wanted = page("ListAttributes", call.params)
    name, value = call.get("attributeName"), call.get("attributeValue")
    if value is not None and name is None:
        raise invalid("attributeValue needs attributeName.")

    def matching() -> Iterator[Given]:
        for view in call.state.instances(cluster):
            if view.status is InstanceStatus.INACTIVE or view.id < wanted.after.partition(" ")[0]:
                continue
            for one in _attributes(view):
                fits = (name is None or one.name == name) and (value is None or (one.value or "") == value)
                if fits and _key(one) > wanted.after:
                    yield one

    found, token = wanted.cut(matching(), _key)
    shown = [_shown(call, cluster, one.instance, one.name, one.value) for one in found]
    return {"attributes": shown, "nextToken": token}


def _attributes(view: InstanceView) -> list[Given]:
    return [Given(view.id, name, value or None) for name, value in sorted(view.attributes.items())]


def _key(one: Given) -> str:
    return f"{one.instance} {one.name}"


def _given(call: Call, cluster: str, item: Mapping[str, Any]) -> Given:
    name = item.get("name") or ""
    if not _NAME.fullmatch(name):
        raise invalid(f"attributes: {name[:40]!r} is no name of an attribute.")
    if item.get("targetType") not in (None, "container-instance"):
        raise invalid("attributes: targetType must be container-instance.")
    target = item.get("targetId") or ""
    if not target:
        raise invalid("attributes: targetId is required.")
    instance = call.arns.read_instance(target, cluster)
    view = call.state.instance(cluster, instance) if instance else None
    if view is None or view.status is InstanceStatus.INACTIVE:
        raise target_not_found(f"The target {target[:120]} was not found.")
    return Given(view.id, name, item.get("value"))


async def _change(call: Call, cluster: str, given: Sequence[Given], changed: Any) -> None:
    """Change what all the named instances have, in one offer: all of it, or nothing."""

    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        changes = []
        for instance in sorted({one.instance for one in given}):
            view = state.instance(cluster, instance)
            if view is None or view.registration is None:
                raise target_not_found(f"The target {instance} was not found.")
            before = view.settings.record if view.settings else InstanceSettings()
            attributes = changed(before.attributes, [one for one in given if one.instance == instance])
            if attributes != before.attributes:
                changes.append(
                    offers.change_settings(
                        cluster,
                        instance,
                        replace(before, attributes=attributes),
                        view.settings.revision if view.settings else Revision(0),
                        registration=view.registration.revision,
                    )
                )
        return (offers.together(*changes) if changes else None), None

    await call.change(decide)


def _shown(call: Call, cluster: str, instance: str, name: str, value: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "value": value or None,
        "targetType": "container-instance",
        "targetId": call.arns.instance(cluster, instance),
    }


HANDLERS: Mapping[str, Handler] = {
    "PutAttributes": put_attributes,
    "DeleteAttributes": delete_attributes,
    "ListAttributes": list_attributes,
}
